"""The paper's claims, each judged by a stated rule from records, or by an argument that needs none: the tables of docs/claims.md."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from certidote.benchmark.cells import Cell, Poisoning, StartName
from certidote.benchmark.knowing import SIGNIFICANT, asked, gaining, in_words, known, sigmas_of
from certidote.benchmark.outcomes import accuracy_gain, clean_accuracy, difference, is_void, rate, removals
from certidote.benchmark.records import Kept
from certidote.benchmark.source import Source
from certidote.benchmark.tables import RIVALS, scratch_rows, started, strongest, transfer_rows, unmeasured
from certidote.benchmark.wording import p_in_words, poisoning_in_words, rate_in_words, table

Status = Literal["confirmed", "not confirmed", "contradicted", "not testable here", "not measured yet"]


@dataclass(frozen=True)
class Verdict:
    """What became of a claim, and why.

    Attributes:
        why: in a line.
        details: what that line rests on, an item each.
    """

    status: Status
    why: str = ""
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"**{self.status}**{f': {self.why}' if self.why else ''}"


@dataclass(frozen=True)
class Claim:
    """One claim that is measured.

    Attributes:
        where: in the paper.
        text: what it says, in our words.
        rule: when it counts as confirmed, and when as contradicted; it is not confirmed otherwise.
        judge: records of one scale -> verdict.
    """

    where: str
    text: str
    rule: str
    judge: Callable[[Source], Verdict]


@dataclass(frozen=True)
class Argued:
    """A claim that no run is needed for, or that none can be had for here; `page` is one of docs."""

    where: str
    text: str
    verdict: Verdict
    page: str


TRANSFER_BACKDOORS = ("label-consistent", "hidden-trigger")
MARGIN = 0.01
"""Of clean accuracy: a rival that has less than ours by more than that is behind, whatever it does to attacks."""

UNMEASURED = Verdict("not measured yet")
NOTHING_WORKS = Verdict("not testable here", "no attack works undefended")


@dataclass(frozen=True)
class Row:
    """One attack that works undefended, with its victims of our defense at the paper's smallest sigma.

    Attributes:
        plain: undefended.
        halved, printed: at sigma / 2 and at sigma, the two readings of the paper's.
    """

    poisoning: Poisoning
    plain: Kept
    halved: Kept
    printed: Kept


def working(source: Source, poisonings: Sequence[Poisoning]) -> tuple[list[Row], int]:
    """The attacks that work undefended, and how many others may, of which a record is missing."""
    rows, missing, sigma = [], 0, source.scale.sigmas[0]
    for poisoning in poisonings:
        plain = source.read(Cell(poisoning))
        if plain is not None and is_void(plain):
            continue
        halved, printed = (source.read(Cell(poisoning, "denoise", each)) for each in (sigma / 2, sigma))
        if plain is None or halved is None or printed is None:
            missing += 1
        else:
            rows.append(Row(poisoning, plain, halved, printed))
    return rows, missing


def so_far(missing: int, attacks: int, why: str, details: Sequence[str] = ()) -> Verdict:
    """On a claim about attacks of which some are not measured, where those that are do not decide."""
    return Verdict(
        "not measured yet",
        f"records of {missing} of {attacks} attacks are missing" + (f"; so far {why}" if why else ""),
        tuple(details),
    )


def _exceeds(bound: float, kept: Kept) -> bool:
    """Whether success is above a share, and above what victims of the clean set do by themselves."""
    return rate(kept).low > max(bound, rate(kept, "control").high)


def at_most(bound: float, poisonings: Callable[[Source], list[Poisoning]]) -> Callable[[Source], Verdict]:
    """Judges that our defense at the paper's smallest sigma holds success to a share."""

    def judge(source: Source) -> Verdict:
        these = poisonings(source)
        rows, missing = working(source, these)
        if not rows:
            return so_far(missing, len(these), "") if missing else NOTHING_WORKS
        sigma = source.scale.sigmas[0]
        said = {row.poisoning: _both_readings(source, row, sigma) for row in rows}
        worst = max(rows, key=lambda row: rate(row.printed).successes / rate(row.printed).trials)
        why = f"highest at sigma {sigma:g} for {said[worst.poisoning]}"
        details = tuple(text for poisoning, text in said.items() if poisoning != worst.poisoning)
        every = [rate(kept) for row in rows for kept in (row.halved, row.printed)]
        if any(all(_exceeds(bound, kept) for kept in (row.halved, row.printed)) for row in rows):
            return Verdict("contradicted", why, details)
        if missing:
            return so_far(missing, len(these), why, details)
        return Verdict(
            "confirmed" if all(each.successes <= bound * each.trials for each in every) else "not confirmed", why, details
        )

    return judge


def _both_readings(source: Source, row: Row, sigma: float) -> str:
    """What an attack reaches undefended, at sigma and at sigma / 2."""
    plain, printed, halved = (rate_in_words(rate(kept), source.link(kept)) for kept in (row.plain, row.printed, row.halved))
    return f"{poisoning_in_words(row.poisoning)}: {printed} at sigma {sigma:g}, {halved} at sigma {sigma / 2:g}, {plain} undefended"


def in_black_box(source: Source) -> list[Poisoning]:
    """Rows of table 2 with a target, in the black box."""
    return [each for each in transfer_rows(["black-box"]) if each.attack not in TRANSFER_BACKDOORS]


def sleepers(source: Source) -> list[Poisoning]:
    """White-box rows of Sleeper Agent."""
    return [each for each in from_scratch(source) if each.attack == "sleeper-agent"]


def in_transfer(source: Source) -> list[Poisoning]:
    """White-box rows of table 2."""
    return transfer_rows(["white-box"])


def from_scratch(source: Source) -> list[Poisoning]:
    """White-box rows of table 1."""
    return scratch_rows(source.scale, ["white-box"])


def every_row(source: Source) -> list[Poisoning]:
    """White-box rows of both."""
    return in_transfer(source) + from_scratch(source)


def small_drop(source: Source) -> Verdict:
    """Clean accuracy in transfer learning."""
    these = in_transfer(source)
    rows, missing = working(source, these)
    if not rows:
        return so_far(missing, len(these), "") if missing else NOTHING_WORKS
    drops = [clean_accuracy(row.plain) - clean_accuracy(kept) for row in rows for kept in (row.halved, row.printed)]
    least, most = round(min(drops), 9), round(max(drops), 9)
    why = f"clean accuracy changes by {0.0 - 100 * most:+.1f} to {0.0 - 100 * least:+.1f} points"
    if missing:
        return so_far(missing, len(these), why)
    return Verdict("confirmed" if most <= 0.005 else "contradicted" if least > 0.01 else "not confirmed", why)


def weak_backdoors(source: Source) -> Verdict:
    """Whether the two backdoors of transfer learning work undefended."""
    rows = [row for row in transfer_rows() if row.attack in TRANSFER_BACKDOORS]
    found = [source.read(Cell(row)) for row in rows]
    kept = [each for each in found if each is not None]
    said = tuple(
        f"{poisoning_in_words(row)}: {rate_in_words(rate(each), source.link(each))}"
        for row, each in zip(rows, found, strict=True)
        if each is not None
    )
    shares = [rate(each).successes / rate(each).trials for each in kept]
    why = f"undefended they reach {min(shares):.0%} to {max(shares):.0%}" if kept else ""
    if any(rate(each).low > 0.06 for each in kept):
        return Verdict("contradicted", why, said)
    if len(kept) < len(found):
        return so_far(len(found) - len(kept), len(found), why, said)
    return Verdict("confirmed" if max(shares) <= 0.06 else "not confirmed", why, said)


def weak_sleeper(source: Source) -> Verdict:
    """Whether Sleeper Agent is weak undefended."""
    kept = source.read(Cell(Poisoning("sleeper-agent", "scratch", "white-box", source.scale.ensembles[-1])))
    if kept is None:
        return UNMEASURED
    found = rate(kept)
    status: Status = "contradicted" if found.low > 0.5 else "confirmed" if found.high < 0.5 else "not confirmed"
    return Verdict(status, rate_in_words(found, source.link(kept)))


def blind_neighbors(source: Source) -> Verdict:
    """Whether Deep k-NN leaves most poisons and takes clean images instead."""
    found = [
        source.read(Cell(poisoning, name))
        for poisoning in strongest(source.scale)[:2]
        for name in ("deep-knn", "deep-knn-majority")
    ]
    kept = [each for each in found if each is not None]
    if len(kept) < len(found):
        return UNMEASURED
    totals = [removals(each) for each in kept if not each.refused]
    shares = [gone["removed_poisons"] / (gone["removed_poisons"] + gone["kept_poisons"]) for gone in totals if gone is not None]
    clean = [gone["removed_clean"] / (gone["removed_clean"] + gone["kept_clean"]) for gone in totals if gone is not None]
    if not shares:
        return Verdict("not testable here", "its filters refused all sets")
    why = f"it removes {min(shares):.0%} to {max(shares):.0%} of poisons and {min(clean):.1%} to {max(clean):.1%} of clean images"
    return Verdict("confirmed" if max(shares) < 0.5 else "contradicted" if min(shares) > 0.5 else "not confirmed", why)


def ahead_of_rivals(source: Source) -> Verdict:
    """Whether every defense of tables 4 and 5 is worse than ours: in success, or in accuracy."""
    ahead, level, missing, compared = [], [], False, 0
    for poisoning in strongest(source.scale):
        rows, without = working(source, [poisoning])
        missing |= without > 0
        for row, name in ((row, name) for row in rows for name in _rivals(source, poisoning)):
            rival = source.read(Cell(poisoning, name))
            missing |= rival is None
            if rival is None or rival.refused:
                continue
            compared += 1
            ours = [clean_accuracy(row.halved), clean_accuracy(row.printed)]
            if clean_accuracy(rival) < min(ours) - MARGIN:
                continue
            said = f"{name} against {poisoning_in_words(poisoning)} ({rate_in_words(rate(rival), source.link(rival))}"
            if clean_accuracy(rival) >= max(ours) - MARGIN and _significantly_fewer([rival], [row.halved, row.printed]):
                p = max(difference(rival, kept) for kept in (row.halved, row.printed))
                ahead.append(f"{said}, p {p_in_words(p)})")
            elif not _significantly_fewer([row.halved, row.printed], [rival]):
                level.append(f"{said})")
    if ahead:
        return Verdict(
            "contradicted",
            "rivals with significantly less success, at most 1 point less accurate, under both readings of sigma:",
            tuple(ahead),
        )
    if missing:
        return UNMEASURED
    if not compared:
        return NOTHING_WORKS
    if level:
        return Verdict(
            "not confirmed",
            "rivals that have no significantly larger success, and are at most 1 point less accurate in one reading at least:",
            tuple(level),
        )
    return Verdict(
        "confirmed", f"in all {compared} pairs of rival and attack the rival has significantly more success, or less accuracy"
    )


def _rivals(source: Source, poisoning: Poisoning) -> list[str]:
    """Of table 5, and those of table 4 against its attacks."""
    neighbors = ["deep-knn", "deep-knn-majority"] if poisoning in strongest(source.scale)[:2] else []
    return [name for name in (*neighbors, *RIVALS) if not unmeasured(poisoning, name)]


def _significantly_fewer(ones: Sequence[Kept], others: Sequence[Kept]) -> bool:
    """Whether each of the ones has significantly fewer successes than each of the others, on the trials that both have."""
    for one, other in ((one, other) for one in ones for other in others):
        pairs = list(zip(one.successes(), other.successes(), strict=False))
        fewer = sum(first for first, _ in pairs) < sum(second for _, second in pairs)
        if not fewer or difference(one, other) >= SIGNIFICANT:
            return False
    return True


def noise_costs(source: Source) -> Verdict:
    """Whether accuracy falls with sigma."""
    smallest, largest = source.scale.readings()[0], source.scale.readings()[-1]
    pairs = [[source.read(Cell(poisoning, "denoise", sigma)) for sigma in (smallest, largest)] for poisoning in every_row(source)]
    if any(one is None or other is None for one, other in pairs):
        return UNMEASURED
    drops = [clean_accuracy(one) - clean_accuracy(other) for one, other in pairs if one is not None and other is not None]
    why = f"{100 * min(drops):.1f} to {100 * max(drops):.1f} points from sigma {smallest:g} to {largest:g}"
    return Verdict("confirmed" if min(drops) > 0 else "contradicted" if max(drops) <= 0 else "not confirmed", why)


def warm_start_helps(source: Source) -> Verdict:
    """Whether first epochs on the poisoned set win accuracy and let no attack back in, above the smallest sigma."""
    return _start_helps(source, "in-domain", defeated=True)


def both_starts_help(source: Source) -> Verdict:
    """Whether models win accuracy that start from images of another kind, and then learn from the poisoned set first."""
    return _start_helps(source, "both", defeated=False)


def _start_helps(source: Source, start: StartName, *, defeated: bool) -> Verdict:
    """
    Args:
        defeated: whether the claim says that attacks stay defeated.
    """
    gains, back, missing, sigmas = [], [], set(), source.scale.sigmas[1:]
    for poisoning in strongest(source.scale):
        crafted, own = started(poisoning, start)
        plain = source.read(Cell(crafted, start="out-of-domain" if own == "both" else ""))
        for sigma in sigmas:
            fresh, warm = source.read(Cell(poisoning, "denoise", sigma)), source.read(Cell(crafted, "denoise", sigma, own))
            if plain is None or fresh is None or warm is None:
                missing.add(poisoning)
                continue
            gains.append(clean_accuracy(warm) - clean_accuracy(fresh))
            same = source.read(Cell(*_without_first_epochs(poisoning, sigma, start)))
            if same is not None and not is_void(plain) and _significantly_fewer([same], [warm]):
                back.append(
                    f"{poisoning_in_words(poisoning)}, at sigma {sigma:g}: {rate_in_words(rate(warm), source.link(warm))} instead of "
                    f"{rate_in_words(rate(same), source.link(same))}"
                )
    why = ""
    if gains:
        why = f"at sigma {', '.join(f'{sigma:g}' for sigma in sigmas)} accuracy changes by {100 * min(gains):+.1f} to {100 * max(gains):+.1f} points"
    if back and defeated:
        return Verdict("contradicted", f"{why}, but attacks come back:", tuple(back))
    why += "; attacks that come back:" if back else ""
    if missing:
        return so_far(len(missing), len(strongest(source.scale)), why, back)
    status: Status = "confirmed" if min(gains) > 0 else "contradicted" if max(gains) <= 0 else "not confirmed"
    return Verdict(status, why, tuple(back))


def _without_first_epochs(poisoning: Poisoning, sigma: float, start: StartName) -> tuple[Poisoning, str, float, StartName]:
    """The cell that differs by the first epochs on the poisoned set alone."""
    crafted, own = started(poisoning, "out-of-domain" if start == "both" else "")
    return crafted, "denoise", sigma, own


def more_accurate_than(rival: str) -> Callable[[Source], Verdict]:
    """Judges that our defense at the paper's smallest sigma costs less accuracy than a rival."""

    def judge(source: Source) -> Verdict:
        these = [poisoning for poisoning in strongest(source.scale) if not unmeasured(poisoning, rival)]
        gains, smallest = {}, source.scale.sigmas[0]
        for poisoning in these:
            theirs = source.read(Cell(poisoning, rival))
            ours = [source.read(Cell(poisoning, "denoise", sigma)) for sigma in (smallest / 2, smallest)]
            if theirs is not None and not theirs.refused and None not in ours:
                gains[poisoning] = [accuracy_gain(each, theirs) for each in ours if each is not None]
        said = tuple(
            f"{poisoning_in_words(poisoning)}: "
            f"{', '.join(f'{100 * gain:+.1f} ± {100 * width:.1f}' for gain, width in found)} points at sigma {smallest / 2:g}, {smallest:g}"
            for poisoning, found in gains.items()
        )
        every = [gain for found in gains.values() for gain in found]
        why = f"ours has {100 * min(every)[0]:+.1f} to {100 * max(every)[0]:+.1f} points" if every else ""
        if len(gains) < len(these):
            return so_far(len(these) - len(gains), len(these), why, said)
        ahead, behind = (all(sign * gain > width for gain, width in every) for sign in (1, -1))
        return Verdict("confirmed" if ahead else "contradicted" if behind else "not confirmed", why, said)

    return judge


def unaware_only(source: Source) -> Verdict:
    """Whether attackers who know of the defense do better than those who do not, at the paper's smallest sigma; its others are told beside."""
    smallest = source.scale.sigmas[0]
    attacks, tried, better = len(asked(source)), known(source, smallest), _gains_of_knowing(source, smallest)
    elsewhere = [gain for sigma in sigmas_of(source.scale) if sigma != smallest for gain in _gains_of_knowing(source, sigma)]
    if better:
        beside = " (and at other sigmas)" if elsewhere else ""
        return Verdict(
            "contradicted",
            f"crafted through the defense, {len(better)} of {len(tried)} do significantly better{beside}:",
            (*better, *elsewhere),
        )
    why = (
        f"none of {len(tried)} attacks gains significantly by being crafted through the defense at sigma {smallest:g}"
        if tried
        else ""
    )
    why += ("; " if why else "") + "elsewhere:" if elsewhere else ""
    if len(tried) < attacks:
        return so_far(attacks - len(tried), attacks, why, elsewhere)
    return Verdict("not confirmed", why, tuple(elsewhere))


def _gains_of_knowing(source: Source, sigma: float) -> list[str]:
    """The attacks that do significantly better if they are crafted through the defense at this sigma, and better than victims of the clean set."""
    return [f"sigma {sigma:g}, {in_words(source, each)}" for each in gaining(known(source, sigma)) if _exceeds(0.0, each.adaptive)]


CLAIMS = (
    Claim(
        "abstract", "the defense reduces the success of seven attacks to 0-16 %",
        "at sigma 0.1, in both readings, no attack that works undefended succeeds in more than 16 % of trials; contradicted if one "
        "has a lower end above 16 %, and above the upper end of its control, in both",
        at_most(0.16, every_row),
    ),
    Claim(
        "section 1, table 2", "in transfer learning success falls to 0 %",
        "that of claim 1 with 0 %, for the attacks of transfer learning", at_most(0.0, in_transfer),
    ),
    Claim(
        "section 1, table 2", "in transfer learning accuracy drops by 0.5 points only",
        "drops of at most 0.5 points at sigma 0.1 in both readings; contradicted if all are above 1 point", small_drop,
    ),
    Claim(
        "section 1, table 1", "from scratch success falls to 2-16 %",
        "that of claim 1, for the attacks from scratch", at_most(0.16, from_scratch),
    ),
    Claim(
        "section 4.1, table 1", "from scratch Sleeper Agent falls from 32 to 13 % at most",
        "that of claim 1 with 13 %, for Sleeper Agent", at_most(0.13, sleepers),
    ),
    Claim(
        "section 4.1, table 2", "in transfer learning black-box attacks on targets, which reach 3-12 % undefended, fall to 0 %",
        "that of claim 1 with 0 %, for the attacks with a target in the black box", at_most(0.0, in_black_box),
    ),
    Claim(
        "section 4.1", "more noise costs accuracy",
        "accuracy is lower at the largest sigma than at the smallest in every row; contradicted if in none", noise_costs,
    ),
    Claim(
        "section 4.1", "the two backdoors of transfer learning succeed in 1-6 %, whatever the attacker knows (so that they say nothing about a defense)",
        "neither has more than 6 % undefended, white-box or black-box; contradicted if one has a lower end above 6 %", weak_backdoors,
    ),
    Claim(
        "footnote 1", "Sleeper Agent is a very weak attack",
        "the interval of its undefended success is below 50 %; contradicted if above", weak_sleeper,
    ),
    Claim(
        "section 4.2", "first epochs on the tampered set win 0.5-2.2 points above sigma 0.1 while attacks stay defeated (table 3 itself has 3 and 7 "
        "points less from scratch at sigma 1)",
        "accuracy rises at every sigma above 0.1 in every row, by how much is not judged; contradicted if it rises in none, or an attack gains significantly",
        warm_start_helps,
    ),
    Claim(
        "section 4.2", "a start from images of another kind and first epochs on the tampered set win 6.5-13.2 points above sigma 0.1 (figures of "
        "the row that table 3 has twice)",
        "accuracy rises at every sigma above 0.1 in every row, by how much is not judged; contradicted if it rises in none. Attacks that gain are told beside it", both_starts_help,
    ),
    Claim(
        "section 4.3", "Deep k-NN fails to remove most poisons",
        "both rules remove less than half of the poisons of both attacks; contradicted if always more than half", blind_neighbors,
    ),
    Claim(
        "sections 4.3, 5", "it is by far the most effective of the existing defenses",
        "every rival of tables 4 and 5 has significantly more success than ours at sigma 0.1 in both readings, or is more than 1 point less accurate in both; "
        "contradicted if one has significantly less success, and is at most 1 point less accurate, in both. Deep k-NN is told how many poisons there are",
        ahead_of_rivals,
    ),
    Claim(
        "section 4.3, table 5", "it is more accurate than training with differential privacy (DP-SGD), by up to 10 points",
        "accuracy at sigma 0.1 is higher in both readings, on the sets of every attack, by the 95 % interval of the mean difference on the same trials; contradicted if it is "
        "lower everywhere; by how much is not judged", more_accurate_than("dp-sgd"),
    ),
    Claim(
        "section 4.3, table 5", "it is more accurate than adversarial training",
        "that of claim 14", more_accurate_than("adversarial-training"),
    ),
    Claim(
        "section 5", "attacks fail even where nothing can be certified (all of the paper's attackers do not know of the defense)",
        "contradicted if attacks crafted through the defense do significantly better at sigma 0.1 (as printed), and better than their control; never confirmed, as other attacks may exist",
        unaware_only,
    ),
)  # fmt: skip

ARGUED = (
    Argued(
        "section 3", "with probability 1 - alpha, every poisoned set in the ball gives the same class as the clean one",
        Verdict(
            "confirmed", "with the probability over the draws of the certification, for all sets in the ball at once, and for the smoothed "
            "classifier; not, as it is written, over poisoned sets",
        ), "proof.md",
    ),
    Argued(
        "sections 1, 3", "the guarantee covers any l_p-bounded perturbation of the training data",
        Verdict(
            "not confirmed", "what is proved is a joint l2 norm over the whole training set; other norms follow by conversion, and shrink with the "
            "number of altered images",
        ), "the-claim.md",
    ),
    Argued(
        "section 3", "the radius is a sum of the l2 norms of all images' changes",
        Verdict("confirmed", "a joint l2 norm is at most that sum, so that a ball of the former contains that of the latter; the former says more"), "proof.md",
    ),
    Argued(
        "section 4.1", "in theory, sigma 0.25 is what these attacks require",
        Verdict(
            "contradicted", "500 images of 3,072 pixels that move by 16/255 move the set by up to 78 in l2; the largest radius that 1,000 models prove is "
            "2.46 sigma, 0.6 at sigma 0.25",
        ), "threat-map.md",
    ),
    Argued(
        "section 5", "there is a small provable guarantee at 2 levels of 255 in the largest norm",
        Verdict(
            "not confirmed", "for few images only: an image of 3,072 pixels that moves by 2/255 moves by 0.43 in l2, so that 1,000 models that agree prove it "
            "for no image at sigma 0.1, for 32 at sigma 1, and not for the 500 of the tables",
        ), "the-claim.md",
    ),
    Argued(
        "section 1, figure 1", "the guarantee covers a changed test image too (a backdoor's trigger)",
        Verdict(
            "confirmed", "for the algorithm of figure 1, which noises the test image as well: its radius is about training set and test image together. "
            "Section 4 says that only targeted attacks are covered",
        ), "test-input.md",
    ),
    Argued(
        "section 1", "success falls to 0 % in the certified radius of 0.1",
        Verdict(
            "not confirmed", "0.1 is sigma there, which is no radius, and the tables are of single models, of which no radius follows; what the attacks do is "
            "measured above",
        ), "the-claim.md",
    ),
    Argued(
        "section 1", "certified accuracy is higher than that of prior certified defenses",
        Verdict(
            "not confirmed", "measured on digits: higher against a small joint norm, lower or nothing against images altered in any way, where DPA counts "
            "images; no method is best against every attacker",
        ), "threat-map.md",
    ),
    Argued(
        "section 4.2", "the certificate does not depend on how models start, in-domain warm starts included",
        Verdict(
            "contradicted", "a model that learned from the tampered set as it is is no function of the noised set, and the proof does not apply; for weights "
            "from trusted images the claim holds",
        ), "refusals.md",
    ),
    Argued(
        "section 3.2", "10,000 CIFAR-10 models at 15 s each certify non-trivial radii, with clean accuracy from 92 % to 58 %",
        Verdict(
            "not testable here", "10,000 models take 1.7 days of an A100; what 250 models prove on 10,000 photographs, and how far 1,000 on 50,000 got, is told there",
        ), "results.md#certificates",
    ),
    Argued(
        "section 4.3", "adversarial training cannot defeat Bullseye Polytope",
        Verdict("not testable here", "victims of transfer learning are heads on frozen features here, which adversarial training does not change"), "results.md",
    ),
    Argued(
        "section 4.3", "the defense costs one pass of a diffusion model over the training set",
        Verdict(
            "confirmed", "for one model without a certificate; a certificate takes a pass for each of its models",
        ), "performance.md",
    ),
)  # fmt: skip


def measured_table(sources: Sequence[Source]) -> str:
    """Claims that are measured: one column of verdicts for each scale, and below it what each verdict rests on."""
    judged = [(claim, [claim.judge(source) for source in sources]) for claim in CLAIMS]
    scales = [source.scale.name for source in sources]
    rows = [
        [f"[{number}](#claim-{number})", claim.where, claim.text, *(f"**{verdict.status}**" for verdict in verdicts)]
        for number, (claim, verdicts) in enumerate(judged, 1)
    ]
    sections = []
    for number, (claim, verdicts) in enumerate(judged, 1):
        lines = [f"### Claim {number}", "", f"{claim.where.capitalize()}: {claim.text}.", "", f"Rule: {claim.rule}.", ""]
        for scale, verdict in zip(scales, verdicts, strict=True):
            lines += [f"- `{scale}`: {verdict}", *(f"  - {detail}" for detail in verdict.details)]
        sections.append("\n".join(lines) + "\n")
    return table(["", "where", "claim", *scales], rows) + "\n" + "\n".join(sections)


def argued_table() -> str:
    """Claims that are argued."""
    rows = [[each.where, each.text, str(each.verdict), f"[{each.page}]({each.page})"] for each in ARGUED]
    return table(["where", "claim", "verdict", "why in full"], rows)
