"""One self-contained HTML file about one run or comparison: no script, no network, nothing computed anew.

`render` arranges what the certificates and the attack record into tables of text and hands them to `report.html`, which escapes
everything that it prints: class names, paths and commands are anybody's.
"""

import json
from collections.abc import Callable, Sequence

from markupsafe import Markup

from certidote.reporting import figures, words
from certidote.reporting.frameworks import FRAMEWORKS, evidence_of
from certidote.reporting.pages import both_widths, page
from certidote.reporting.threat_map import threat_map_content
from certidote.reporting.threats import threat_table
from certidote.types import Json

Cells = list[str]
NOT_PROVED = "not proved"
FORMAT, VERSION = "certidote certificate", 1
BADGES = {"failed": "fail", "enforced": "pass", "reported": "reported", "assumed": "assumed"}
ATTACK_ORIGIN = (("command", "command"), ("root seed", "root"), ("denoiser digest", "denoiser"))


def render(
    title: str,
    certificates: Sequence[Json],
    attack: Json | None = None,
    *,
    threat_map: Json | None = None,
    pictures: bool = True,
) -> str:
    """The report as HTML text.

    Args:
        title: heading of the report.
        certificates: "certidote certificate" values, proved or not; the first one is the headline.
        attack: what a demonstrated attack did beside its controls, or None.
        threat_map: a "certidote threat map" of the same data, or None.
        pictures: show the images that the records hold, and the names of their files.
    Returns: a complete HTML document; the same bytes for the same input.
    Raises: ValueError if there is no certificate, or one has another format or version.
    """
    _check(certificates)
    proved = [each for each in certificates if each["proved"]]
    pixels = any(threat["norm"] == "linf" for each in proved for threat in each["results"]["threats"])
    return page(
        "report.html",
        title,
        threat_map=None if threat_map is None else threat_map_content(threat_map),
        lead=certificates[0],
        claim=words.claim_in_one_sentence(certificates[0]),
        verdict=words.verdict(certificates[0]),
        several=len(certificates) > 1,
        certificates=certificates,
        unproved=[each for each in certificates if not each["proved"]],
        any_proved=bool(proved),
        figures_of_merit=_figures_of_merit(certificates[0]),
        sentences=_sentences(certificates[0]),
        curve_figure=_both(figures.certified_accuracy_figure, certificates, attack) if proved else "",
        comparison=_comparison(certificates),
        threat_figure=_both(figures.threat_figure, certificates) if pixels else "",
        threats=threat_table(proved),
        attack=attack,
        attack_facts=_attack_facts(attack) if attack else [],
        attack_rows=_attack_rows(attack) if attack else [],
        attack_figure=_both(figures.attack_figure, attack) if attack else "",
        attack_gallery=Markup(figures.gallery(attack.get("pictures", []))) if attack and pictures else "",
        gallery=Markup(figures.gallery(certificates[0].get("gallery", []))) if pictures else "",
        examples=_examples(certificates[0], pictures),
        process=_process(certificates[0]),
        frameworks=[
            (heading, [(entry, text) for entry in entries if (text := evidence_of(entry, certificates[0]))])
            for heading, entries in FRAMEWORKS
        ],
        assumptions=_assumptions(certificates),
        facts=_facts(certificates),
        failure_probabilities=list(dict.fromkeys(words.failure_probability(each) for each in proved)),
    )


def _check(certificates: Sequence[Json]) -> None:
    if not certificates:
        raise ValueError("a report needs at least one certificate; none was given")
    for each in certificates:
        found = (each.get("format"), each.get("version"))
        if found != (FORMAT, VERSION):
            raise ValueError(f"format {found[0]!r} version {found[1]!r} cannot be reported; give {FORMAT!r} version {VERSION}")


def _both(figure: Callable[..., str], *content: object) -> Markup:
    return both_widths(*(figure(*content, width=width) for width in (figures.WIDE, figures.NARROW)))


# ---------------------------------------------------------------------------------------------------------------- headline


def _figures_of_merit(certificate: Json) -> list[tuple[str, str]]:
    """The three or four numbers to remember: value and what it is."""
    results = certificate["results"]
    numbers = [(words.percent(results["vote_accuracy"]), f"of {certificate['test']['images']:,} test images answered correctly")]
    if not certificate["proved"]:
        return [*numbers, (words.percent(results["member_accuracy"]), "mean accuracy of one model")]
    if words.certified_share(certificate) < 0.5:  # the median radius is 0 then, which says less
        numbers.append((words.percent(words.certified_share(certificate)), "certified with their correct answer"))
    else:
        numbers.append((words.length(results["median_radius"]), "median certified radius"))
    numbers.append((words.length(results["cap"]), f"largest radius that {certificate['n']:,} models can prove"))
    return [*numbers, (words.plain(certificate["alpha"]), f"failure probability, {_scope(certificate)}")]


def _scope(certificate: Json) -> str:
    return "all test images together" if certificate["statement"] == "simultaneous" else "each test image"


def _sentences(certificate: Json) -> Cells:
    """The recorded sentences, then those on radii that are not among them."""
    return list(dict.fromkeys([*certificate["results"]["sentences"], *words.radius_in_words(certificate)]))


# ------------------------------------------------------------------------------------------------------------------ tables


def _comparison(certificates: Sequence[Json]) -> list[tuple[str, Cells]]:
    """Rows of the results table: a name and one cell per certificate."""
    columns = [each["results"] for each in certificates]
    tests = [each["test"]["images"] for each in certificates]
    rows = [
        ("accuracy of the vote", [words.percent(each["vote_accuracy"]) for each in columns]),
        ("mean accuracy of one model", [words.percent(each["member_accuracy"]) for each in columns]),
        ("abstained", [f"{each['abstained']:,} of {total:,}" for each, total in zip(columns, tests, strict=True)]),
    ]
    for radius in _radii(certificates):
        name = f"certified accuracy at radius {words.plain(radius)}"
        rows.append((name, [_if_proved(each, words.percent(_accuracy_at(each, radius))) for each in certificates]))
    for name, field in (("average radius", "average_radius"), ("median radius", "median_radius"), ("cap", "cap")):
        rows.append((name, [_if_proved(each, words.length(each["results"][field] or 0)) for each in certificates]))
    return rows


def _if_proved(certificate: Json, cell: str) -> str:
    return cell if certificate["proved"] else NOT_PROVED


def _radii(certificates: Sequence[Json]) -> list[float]:
    """A few round radii below the largest cap."""
    top = max((each["results"]["cap"] for each in certificates if each["proved"]), default=0.0)
    step = next((step for step in (5.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01) if 3 * step < top), top / 3)
    return [i * step for i in range(6) if i * step < top]


def _accuracy_at(certificate: Json, radius: float) -> float:
    """The recorded step curve at one radius: it is right-continuous, and 0 from the cap on."""
    curve = certificate["results"]["certified_accuracy"]
    if not certificate["proved"] or radius >= certificate["results"]["cap"]:
        return 0.0
    return [share for start, share in curve if start <= radius][-1]


def _attack_facts(attack: Json) -> list[tuple[str, str]]:
    share = attack["num_poisons"] / attack["training_images"]
    smallest, median = words.length(attack["joint_norm_min"]), words.length(attack["joint_norm_median"])
    return [
        ("scenario", attack["scenario"]),
        ("poisons", f"{attack['num_poisons']:,} of {attack['training_images']:,} training images ({words.percent(share)})"),
        ("change of each", words.change({"epsilon_255": None, **attack})),
        ("joint l2 norm", f"median {median}, smallest {smallest}"),
        *((name, attack[field]) for name, field in ATTACK_ORIGIN if field in attack),
    ]


def _attack_rows(attack: Json) -> list[Cells]:
    return [
        [
            row["label"],
            "" if row["sigma"] is None else words.plain(row["sigma"]),
            f"{row['successes']:,} of {row['trials']:,}",
            words.percent(row["successes"] / row["trials"]),
            words.interval(row["low"], row["high"]),
            f"{row['other_errors']:,}",
            words.percent(row["clean_accuracy"]),
        ]
        for row in attack["rows"]
    ]


def _examples(certificate: Json, pictures: bool) -> list[Json]:
    """Test images with their votes, in words."""
    return [
        {
            "kind": each["kind"],
            "image": Markup(figures.thumbnail(each["png"], f"test image {each['test_image']}")) if pictures and each["png"] else "",
            "name": f"Test image {each['test_image']}" + (f", {each['name']}" if pictures and each.get("name") else ""),
            "answer": f"true class {each['true']}, " + ("no answer" if each["label"] is None else f"answer {each['label']}"),
            "radius": "" if each["radius"] is None or each["label"] is None else f"radius {words.length(each['radius'])}",
            "votes": [(name, f"{count:,}", words.percent(count / certificate["n"])) for name, count in each["top"]],
        }
        for each in certificate.get("examples", [])
    ]


def _process(certificate: Json) -> str:
    """What became of the training images, as the pictures show it."""
    noise = f"Noise of std {words.plain(certificate['sigma'])} hides what an attacker may have added"
    if figures.is_denoised(certificate):
        made, text = "denoised", f"{noise}, and the denoiser makes an image of it again; every model gets another draw."
    else:
        made, text = "noised", f"{noise}, and no denoiser takes it away again; every model gets another draw."
    trusted = " Trusted images are used as they are." if certificate.get("trusted") else ""
    return f"{text}{trusted} The difference is {made} minus original, halved, around gray."


def _assumptions(certificates: Sequence[Json]) -> list[Json]:
    """Each assumption once per evidence, with the certificates it belongs to where that is not all of them."""
    labels: dict[tuple[str, str, str], Cells] = {}
    for each in certificates:
        for item in each["assumptions"]:
            labels.setdefault((item["text"], item["verdict"], item["evidence"]), []).append(each["label"])
        for reason in each["reasons"] if not each["proved"] else []:
            labels.setdefault((reason, "failed", "found before certifying; no certificate was made"), []).append(each["label"])
    merged = []
    for (text, verdict, evidence), owners in labels.items():
        only = owners if len(owners) < len(certificates) else []
        merged.append({"text": text, "verdict": verdict, "badge": BADGES[verdict], "evidence": evidence, "only": only})
    return sorted(merged, key=lambda item: ["failed", "enforced", "reported", "assumed"].index(item["verdict"]))


# ------------------------------------------------------------------------------------------------------------------- facts


def _facts(certificates: Sequence[Json]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything needed to repeat the run, as (heading, facts): what all certificates share first, then the rest of each."""
    tables = [dict(_facts_of(each)) for each in certificates]
    shared = [name for name in tables[0] if all(table.get(name) == tables[0][name] for table in tables)]
    groups = [("" if len(tables) == 1 else "All runs", [(name, tables[0][name]) for name in shared])]
    for certificate, table in zip(certificates, tables, strict=True):
        groups.append((certificate["label"], [(name, value) for name, value in table.items() if name not in shared]))
    return [(heading, facts) for heading, facts in groups if facts]


def _facts_of(certificate: Json) -> list[tuple[str, str]]:
    denoiser = certificate["denoiser"]
    sigma, symmetric = words.plain(certificate["sigma"]), words.plain(certificate["sigma_symmetric"])
    return [
        ("command", certificate["command"]),
        ("noise", f"sigma {sigma} in [0, 1] pixel units ({symmetric} in [-1, 1])"),
        ("denoiser", f"{denoiser['name']} ({denoiser['kind']})" if figures.is_denoised(certificate) else "none"),
        ("denoiser digest", denoiser["digest"] or "none"),
        *((f"denoiser: {name}", _compact(value)) for name, value in denoiser["details"].items()),
        ("told about the noise", certificate["conditioning"] or "nothing"),
        ("models", _models(certificate)),
        *_optional_facts(certificate),
        ("failed models", f"{certificate['failed']:,} of those counted, voting for no class"),
        *_proof_facts(certificate),
        *_data_facts("training set", certificate["data"]),
        *_data_facts("test set", certificate["test"]),
        ("recipe", _compact(certificate["recipe"])),
        ("configuration digest", certificate["config_digest"]),
        ("root seed", certificate["root"]),
        ("source of the seed", certificate["root_source"]),
        ("versions", _versions(certificate["versions"])),
        *(
            (f"begun by, until {each['members']:,} models had voted", f"{each['command']} ({_versions(each['versions'])})")
            for each in certificate.get("earlier", [])
        ),
        ("computed on", f"{certificate['device']}, {certificate['dtype']}, {words.counted(certificate['workers'], 'worker')}"),
        (
            "working time",
            f"{certificate['seconds']:,.1f} s over all workers, {certificate['seconds_denoising']:,.1f} s of it denoising",
        ),
    ]


def _proof_facts(certificate: Json) -> list[tuple[str, str]]:
    """Failure probability and unit: of what is proved, so none where nothing is."""
    if not certificate["proved"]:
        return []
    alpha, each = words.plain(certificate["alpha"]), words.plain(certificate["alpha_each"])
    return [("alpha", f"{alpha} for {_scope(certificate)}; {each} used for each"), ("unit of radii", certificate["unit"])]


def _versions(versions: Json) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _models(certificate: Json) -> str:
    if not certificate["n0"]:
        return f"{certificate['n']:,}, counted and selecting the answer"
    return f"{certificate['n0']:,} select the answer, {certificate['n']:,} others are counted"


def _optional_facts(certificate: Json) -> list[tuple[str, str]]:
    """Facts that records of plain runs, or older ones, do not have."""
    facts = []
    if partition := certificate["results"].get("partition"):
        replaced, summed = partition["replaced_images"], partition["sum_of_norms"]
        facts.append(
            (
                "parts",
                f"{partition['parts']:,} disjoint ones with models of their own, of at least {partition['images_in_a_part']:,} images",
            )
        )
        facts.append(
            ("images replaced altogether", f"answers survive {replaced['median_k']:,} (median) to {replaced['max_k']:,} (best)")
        )
        facts.append(
            (
                "sum of the images' l2 norms",
                f"radius {words.length(summed['median'])} (median) to {words.length(summed['max'])} (best)",
            )
        )
    if certificate.get("bound"):
        facts.append(("bound", certificate["bound"]))
    if certificate.get("trusted"):
        facts.append(("trusted images", f"{certificate['trusted']:,}, without noise and outside the threat model"))
        if certificate.get("trusted_rows_digest"):
            facts.append(("trusted row numbers, digest", certificate["trusted_rows_digest"]))
    if certificate.get("test_input") not in (None, "clean"):
        also = (
            f", noise of std {words.plain(certificate['sigma_x'])}, one draw for each model" if certificate.get("sigma_x") else ""
        )
        facts.append(("test images as seen", certificate["test_input"] + also))
    return facts


def _data_facts(kind: str, data: Json) -> list[tuple[str, str]]:
    shape, classes = " x ".join(map(str, data["image_shape"])), data["classes"]
    named = ", ".join(classes[:20]) + (f" and {len(classes) - 20} more" if len(classes) > 20 else "")
    return [
        (kind, f"{data['name']}: {data['images']:,} images, {shape} (channels x height x width)"),
        (f"{kind} classes", f"{len(classes)}: {named}"),
        (f"{kind} digest", data["digest"]),
        *((f"{kind}, as read", note) for note in data.get("notes", [])),
    ]


def _compact(value: object) -> str:
    """A JSON value on one line without quotes and brackets where it is simple."""
    if isinstance(value, dict):
        parts = {name: f"({_compact(item)})" if isinstance(item, dict) else _compact(item) for name, item in value.items()}
        return ", ".join(f"{name} {part}" for name, part in parts.items())
    if isinstance(value, list):
        return f"[{', '.join(_compact(item) for item in value)}]"
    if isinstance(value, float):
        return words.plain(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
