"""Pages of docs, made from records: every table stands between two comments, and the text around them is left alone.

The same records give the same text. A cell without a record is "-", a table without any is "Not measured yet."
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from certidote.benchmark import claims, figure2, story
from certidote.benchmark.cells import Cell, Poisoning, StartName
from certidote.benchmark.knowing import knowing_table
from certidote.benchmark.outcomes import clean_accuracy, difference, is_void, rate, removals
from certidote.benchmark.paper import PaperCell, paper_cell
from certidote.benchmark.records import Kept
from certidote.benchmark.scales import SCALES
from certidote.benchmark.settings import settings_table
from certidote.benchmark.source import Source
from certidote.benchmark.tables import (
    Defended,
    against_neighbors,
    against_rivals,
    every_defense,
    scratch_rows,
    started,
    strongest,
    through,
    transfer_rows,
    tried_poisonings,
    unmeasured,
)
from certidote.benchmark.wording import MISSING, p_in_words, poisoning_in_words, rate_in_words, table
from certidote.results.costs import packaged_costs
from certidote.results.files import write_text

NOTHING = "-"
STARTS = {"transfer": "pretrained", "scratch": "random"}
PAPER_NAMES = {"run-off-dpa": "roe", "run-off-fa": "roe", "dpa-star-run-off": "roe", "deep-knn-majority": "deep-knn"}
"""What the paper calls a defense, where it is another name."""


def denoised_table(source: Source, poisonings: Sequence[Poisoning], number: str) -> str:
    """Tables 1 and 2: for each set of poisons five lines, our sigmas as columns, the paper's figures under both readings of its sigma."""
    sigmas = source.scale.readings()
    rows: list[list[str]] = []
    for poisoning in poisonings:
        found = [source.read(Cell(poisoning)), *(source.read(Cell(poisoning, "denoise", sigma)) for sigma in sigmas)]
        if any(found):
            rows += _lines(source, poisoning, found, poisoning_in_words(poisoning))
            rows += _adaptive_lines(source, poisoning)
            rows += _paper_lines(source, poisoning, number, STARTS[poisoning.scenario])
    return table(_header(source), rows) if rows else MISSING


def started_table(source: Source) -> str:
    """Table 3: the same lines for each way that victims may start."""
    sigmas = source.scale.readings()
    rows: list[list[str]] = []
    for poisoning in strongest(source.scale):
        for start, called in START_WORDS.items():
            crafted, own = started(poisoning, start)
            undefended = source.read(Cell(crafted, start="out-of-domain" if own in ("out-of-domain", "both") else ""))
            found = [undefended, *(source.read(Cell(crafted, "denoise", sigma, own)) for sigma in sigmas)]
            if any(found[1:]):
                rows += _lines(source, poisoning, found, f"{poisoning_in_words(poisoning)}: {called}")
                rows += _paper_lines(source, poisoning, "3", PAPER_STARTS[start]) if start in PAPER_STARTS else []
    return table(_header(source), rows) if rows else MISSING


START_WORDS: dict[StartName, str] = {
    "": "as in tables 1 and 2",
    "in-domain": "first epochs on the poisoned set as it is (empirical only: the certificate does not apply, as models saw images without noise)",
    "out-of-domain": "from images of another kind",
    "both": "both (empirical only: the certificate does not apply)",
}
PAPER_STARTS: dict[StartName, str] = {"in-domain": "in-domain-warm-start", "out-of-domain": "out-of-domain"}


def _header(source: Source) -> list[str]:
    return ["poisons", "", "undefended", *(f"sigma {sigma:g}" for sigma in source.scale.readings())]


def _lines(source: Source, poisoning: Poisoning, found: Sequence[Kept | None], called: str) -> list[list[str]]:
    plain = found[0]
    void = " **void**" if plain is not None and is_void(plain) else ""
    return [
        [f"{called}{void}", "success", *(_success(source, kept) for kept in found)],
        ["", "control", *(_each(kept, lambda known: _counts(known, "control")) for kept in found)],
        ["", "clean accuracy", *(_each(kept, lambda known: f"{clean_accuracy(known):.1%}") for kept in found)],
        ["", "p against undefended", NOTHING, *(_p(plain, kept) for kept in found[1:])],
    ]


def _adaptive_lines(source: Source, poisoning: Poisoning) -> list[list[str]]:
    sigmas = source.scale.readings()
    adaptive = [source.read(Cell(through(poisoning, sigma), "denoise", sigma)) for sigma in sigmas]
    return [["", "success, adaptive", NOTHING, *(_success(source, kept) for kept in adaptive)]] if any(adaptive) else []


def _paper_lines(source: Source, poisoning: Poisoning, number: str, start: str) -> list[list[str]]:
    lines = []
    for reading, factor in (("as printed", 1.0), ("halved", 2.0)):
        figures = [_paper(number, poisoning, "denoise", sigma * factor, start) for sigma in source.scale.readings()]
        if any(figures):
            every = [_paper(number, poisoning, "none", 0.0, start), *figures]
            doubt = next((f" ({cell.doubt})" for cell in every if cell is not None and cell.doubt and cell.success is not None), "")
            lines.append(["", f"paper, sigma {reading}{doubt}", *(NOTHING if cell is None else str(cell) for cell in every)])
    return lines


def defended_table(source: Source, poisonings: Sequence[Poisoning], defenses: Sequence[Defended], number: str) -> str:
    """Tables 4 and 5, and the one of all defenses: a line for each defense against each set of poisons."""
    rows: list[list[str]] = []
    for poisoning in poisonings:
        plain = source.read(Cell(poisoning))
        for name, sigma in (("none", None), *defenses):
            if reason := unmeasured(poisoning, name):
                rows.append(
                    [
                        poisoning_in_words(poisoning),
                        name,
                        f"no: it {reason}",
                        *[NOTHING] * 5,
                        _paper_of(number, poisoning, name, sigma),
                    ]
                )
            elif (kept := source.read(Cell(poisoning, name, sigma))) is not None:
                rows.append(_defended_line(source, poisoning, kept, plain, name, sigma, number))
    measured = [row for row in rows if not row[2].startswith("no: ")]
    header = ["poisons", "defense", "success", "control", "p against none", "clean accuracy", "cost", "removed", "paper"]
    if not number:
        header, rows = header[:-1], [row[:-1] for row in rows]
    return table(header, rows) if measured else MISSING


def _defended_line(
    source: Source, poisoning: Poisoning, kept: Kept, plain: Kept | None, name: str, sigma: float | None, number: str
) -> list[str]:
    called = name if sigma is None else f"{name}, sigma {sigma:g}"
    if (models := int(kept.record.get("models", 1))) > 1:
        called += f", {models} models"
    void = " **void**" if plain is not None and is_void(plain) else ""
    paper = _paper_of(number, poisoning, name, sigma)
    if kept.refused:
        return [
            f"{poisoning_in_words(poisoning)}{void}",
            called,
            f"[refused]({source.link(kept)}): {kept.refused}",
            *[NOTHING] * 5,
            paper,
        ]
    known = packaged_costs().get(name) if poisoning.scenario == "scratch" else None
    cost = NOTHING if known is None else f"{known.times:.2g}"
    gone = removals(kept)
    removed = NOTHING
    if gone is not None:
        poisons, clean = gone["removed_poisons"] + gone["kept_poisons"], gone["removed_clean"] + gone["kept_clean"]
        removed = f"{gone['removed_poisons'] / poisons:.0%} of poisons, {gone['removed_clean'] / clean:.1%} of clean"
    return [
        f"{poisoning_in_words(poisoning)}{void}", called, _success(source, kept), _counts(kept, "control"),
        NOTHING if name == "none" else _p(plain, kept), f"{clean_accuracy(kept):.1%}", cost, removed, paper,
    ]  # fmt: skip


def _success(source: Source, kept: Kept | None) -> str:
    if kept is None:
        return NOTHING
    if kept.refused:
        return f"[refused]({source.link(kept)})"
    share = kept.record["results"]["poisoned"]["reached"]
    images = f", {share:.0%} of images" if kept.record["goal"] == "trigger" else ""
    return rate_in_words(rate(kept), source.link(kept)) + images


def _each(kept: Kept | None, say: Callable[[Kept], str]) -> str:
    return NOTHING if kept is None or kept.refused else say(kept)


def _counts(kept: Kept, arm: str) -> str:
    found = rate(kept, arm)
    return f"{found.successes}/{found.trials}"


def _p(plain: Kept | None, kept: Kept | None) -> str:
    return NOTHING if plain is None or kept is None or kept.refused else p_in_words(difference(plain, kept))


def _paper(number: str, poisoning: Poisoning, defense: str, sigma: float | None, start: str = "") -> PaperCell | None:
    return paper_cell(
        number, poisoning.attack, poisoning.scenario, poisoning.knowledge, poisoning.ensemble, defense,
        start or STARTS[poisoning.scenario], sigma,
    )  # fmt: skip


def _paper_of(number: str, poisoning: Poisoning, defense: str, sigma: float | None) -> str:
    """The paper's figure for a line of tables 4 and 5; its sigma is the one that is printed, or twice ours."""
    if not number:
        return NOTHING
    name = PAPER_NAMES.get(defense, defense)
    for factor, reading in ((1.0, ""), (2.0, ", sigma halved")):
        found = _paper(number, poisoning, name, None if sigma is None else sigma * factor)
        if found is not None:
            return f"{found}{reading}"
    undefended = _paper("2" if poisoning.scenario == "transfer" else "1", poisoning, "none", 0.0) if defense == "none" else None
    return NOTHING if undefended is None else f"{undefended} (table {2 if poisoning.scenario == 'transfer' else 1})"


# ------------------------------------------------------------------------------------------------------------------ pages


def _table1(source: Source) -> str:
    return denoised_table(source, scratch_rows(source.scale), "1")


def _table2(source: Source) -> str:
    return denoised_table(source, transfer_rows(), "2")


def _table4(source: Source) -> str:
    return defended_table(source, strongest(source.scale)[:2], against_neighbors(source.scale), "4")


def _table5(source: Source) -> str:
    return defended_table(source, strongest(source.scale), against_rivals(source.scale), "5")


def _defenses(source: Source) -> str:
    return defended_table(source, tried_poisonings(), every_defense(), "")


def _settings(source: Source) -> str:
    return settings_table(source) or MISSING


SHOWN: dict[str, Callable[[Source], str]] = {
    "table1": _table1,
    "table2": _table2,
    "table3": started_table,
    "table4": _table4,
    "table5": _table5,
    "defenses": _defenses,
    "settings": _settings,
    "knowing": knowing_table,
}
"""Tables by name; those of attacks through our defense are lines of tables 1 and 2."""


def filled(text: str, name: str, content: str, where: str) -> str:
    """The text with `content` between `<!-- NAME table -->` and `<!-- end of NAME table -->`.

    Raises: ValueError if these comments are not there once each.
    """
    begin, end = f"<!-- {name} table -->\n", f"<!-- end of {name} table -->\n"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{where} lacks the lines {begin.strip()!r} and {end.strip()!r}; put them where the table belongs")
    before, rest = text.split(begin)
    return before + begin + content + end + rest.split(end)[1]


def results_page(text: str, kept: Path, docs: Path) -> str:
    """docs/results.md with the tables of all scales that it has a place for.

    Args:
        text: of the page as it is.
        kept: folder of all records.
        docs: folder of the page, which links are relative to.
    Raises: ValueError if the page has no place for any table, or a record is damaged.
    """
    places = [(scale, name) for scale in SCALES for name in SHOWN if f"<!-- {scale} {name} table -->" in text]
    if not places:
        raise ValueError(f"{docs / 'results.md'} has no place for any table, such as the line '<!-- digits table2 table -->'")
    for scale in [scale for scale in SCALES if f"<!-- {scale} figure2 table -->" in text]:
        content = figure2.block(figure2.Curves(kept, SCALES[scale]), docs) or MISSING
        text = filled(text, f"{scale} figure2", content, str(docs / "results.md"))
    for scale, name in places:
        text = filled(text, f"{scale} {name}", SHOWN[name](Source(kept, docs, SCALES[scale])), str(docs / "results.md"))
    return text


def claims_page(text: str, kept: Path, docs: Path) -> str:
    """docs/claims.md with the verdicts that follow from the records. Arguments and errors as `results_page`."""
    sources = [Source(kept, docs, SCALES[name]) for name in ("digits", "cifar10-compact")]
    text = filled(text, "measured claims", claims.measured_table(sources), str(docs / "claims.md"))
    return filled(text, "argued claims", claims.argued_table(), str(docs / "claims.md"))


def render(kept: Path, docs: Path) -> list[Path]:
    """Make the pages again. Returns those that changed.

    Raises: ValueError as `results_page`, or if there is no such page.
    """
    page = docs / "results.md"
    if not page.is_file():
        raise ValueError(
            f"there is no page {str(page)!r}; run this in a checkout of the repository, or give its folder with --docs"
        )
    if next(kept.glob("*/*/*/replay.json"), None) is None:
        raise ValueError(
            f"there is no record of a cell in {str(kept)!r}, so that every table would be empty; give the folder of records with --records"
        )
    texts = {page: results_page(page.read_text(encoding="utf-8"), kept, docs)}
    if (judged := docs / "claims.md").is_file():
        texts[judged] = claims_page(judged.read_text(encoding="utf-8"), kept, docs)
    if (front := docs.resolve().parent / "README.md").is_file():
        texts[front] = story.front_page(front.read_text(encoding="utf-8"), kept, docs.resolve())
    for scale in SCALES.values():
        if drawing := figure2.draw(figure2.Curves(kept, scale)):
            texts[docs / figure2.picture(scale)] = drawing
        if drawing := story.draw(Source(kept, docs, scale)):
            texts[docs / story.picture(scale.name)] = drawing
    changed = [path for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in changed:
        write_text(path, texts[path])
    return changed
