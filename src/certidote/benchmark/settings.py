"""How close one setting of our defense comes to stopping every attack at little cost: a line for each setting, made from records."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from certidote.benchmark.cells import Cell, Poisoning
from certidote.benchmark.outcomes import clean_accuracy, is_void, rate
from certidote.benchmark.records import Kept
from certidote.benchmark.scales import Scale, ThroughName
from certidote.benchmark.source import Source
from certidote.benchmark.tables import adaptive, scratch_rows, strongest, through, transfer_rows, tried_poisonings
from certidote.benchmark.wording import rate_in_words, table
from certidote.defenses.catalogue import PURIFYING_STEPS
from certidote.reporting.words import counted

MOST_SUCCESS, LEAST_ACCURACY = 0.05, 0.97
"""The aim: at most this share of trials for every attack, at at least this share of the undefended accuracy."""
NOTHING = "-"


@dataclass(frozen=True)
class Tried:
    """Attacks that work undefended, behind one setting.

    Attributes:
        kept: each with its record behind the setting.
        missing: attacks without a record, behind it or undefended, and those whose poisons the defense refused to train on.
    """

    kept: tuple[tuple[Poisoning, Kept], ...]
    missing: int

    def worst(self) -> tuple[Poisoning, Kept] | None:
        """The most successful one."""
        return max(self.kept, key=lambda pair: _share(pair[1]), default=None)


@dataclass(frozen=True)
class Setting:
    """Our defense at one sigma: denoising in one call, or in several steps, which proves as much."""

    defense: ThroughName
    sigma: float

    @property
    def name(self) -> str:
        steps = {"denoise": "", "purification-deterministic": f", in {PURIFYING_STEPS} steps"}
        return f"{self.sigma:g}{steps[self.defense]}"


def settings_of(scale: Scale) -> list[Setting]:
    """All that anything may have been measured at, by sigma."""
    given: set[tuple[ThroughName, float]] = {*(("denoise", sigma) for sigma in scale.readings()), *scale.between}
    return [Setting(defense, sigma) for defense, sigma in sorted(given, key=lambda pair: (pair[1], pair[0]))]


def tried(source: Source, poisonings: Sequence[Poisoning], setting: Setting, *, aware: bool) -> Tried:
    """What is on record of these attackers at a setting; of aware ones, who craft through it."""
    found, missing = [], 0
    for poisoning in poisonings:
        plain = source.read(Cell(poisoning))
        if plain is not None and is_void(plain):
            continue
        attacker = through(poisoning, setting.sigma, setting.defense) if aware else poisoning
        kept = source.read(Cell(attacker, setting.defense, setting.sigma))
        if plain is None or kept is None or kept.refused:
            missing += 1
        else:
            found.append((poisoning, kept))
    return Tried(tuple(found), missing)


def attackers(scale: Scale) -> list[Poisoning]:
    """Everyone of tables 1 to 3 and of the table of all defenses who does not know of ours."""
    elsewhere = replace(strongest(scale)[0], outside=True)
    return list(dict.fromkeys([*transfer_rows(), *scratch_rows(scale), *tried_poisonings(), elsewhere]))


def settings_table(source: Source) -> str:
    """A line for each setting that anything was measured at; "" if there is none."""
    scale = source.scale
    everyone = attackers(scale)
    knowing = list(dict.fromkeys(replace(cell.poisoning, through=None, through_defense="denoise") for cell in adaptive(scale)))
    lines = []
    for setting in settings_of(scale):
        unaware, aware = (tried(source, each, setting, aware=knows) for each, knows in ((everyone, False), (knowing, True)))
        if unaware.kept or aware.kept:
            shares = {name: _least_accuracy(source, unaware, name) for name in ("transfer", "scratch")}
            accuracies = [NOTHING if share is None else f"{share:.3f}" for share in shares.values()]
            lines.append(
                [setting.name, _said(source, unaware), _said(source, aware), *accuracies, _verdict(unaware, aware, shares)]
            )
    header = [
        "sigma, steps",
        "most successful attack",
        "adaptive",
        "accuracy kept, transfer",
        "accuracy kept, from scratch",
        "within the aim",
    ]
    return table(header, lines) if lines else ""


def _share(kept: Kept) -> float:
    return rate(kept).successes / rate(kept).trials


def _said(source: Source, found: Tried) -> str:
    worst = found.worst()
    if worst is None:
        return f"none of {found.missing} tried"
    poisoning, kept = worst
    among = f"{len(found.kept)} tried" + (f", {found.missing} not" if found.missing else "")
    control = rate(kept, "control")
    return (
        f"{poisoning.attack}, {poisoning.knowledge} {rate_in_words(rate(kept), source.link(kept))}, control "
        f"{control.successes}/{control.trials}; {among}"
    )


def _least_accuracy(source: Source, found: Tried, scenario: str) -> float | None:
    """Of the unpoisoned victims, relative to undefended ones; None if there is nothing of this scenario."""
    shares = []
    for poisoning, kept in found.kept:
        plain = source.read(Cell(poisoning))
        if poisoning.scenario == scenario and plain is not None:
            shares.append(clean_accuracy(kept, "control") / clean_accuracy(plain, "control"))
    return min(shares, default=None)


def _verdict(unaware: Tried, aware: Tried, shares: dict[str, float | None]) -> str:
    every = [kept for _, kept in (*unaware.kept, *aware.kept)]
    above = [kept for kept in every if _share(kept) > MOST_SUCCESS]
    reasons = []
    if above:
        clearly = sum(rate(kept).low > rate(kept, "control").high for kept in above)
        reasons.append(f"{counted(len(above), 'attack')} above {MOST_SUCCESS:.0%} ({clearly} clearly above the control)")
    scenarios = {"transfer": "in transfer", "scratch": "from scratch"}
    low = [scenarios[name] for name, share in shares.items() if share is not None and share < LEAST_ACCURACY]
    reasons += [f"accuracy below {LEAST_ACCURACY} {' and '.join(low)}"] if low else []
    if reasons:
        return f"no: {'; '.join(reasons)}"
    missing = [f"{counted(count, 'attack')} not tried" for count in (unaware.missing + aware.missing,) if count]
    missing += [f"accuracy {scenarios[name]} not measured" for name, share in shares.items() if share is None]
    upper = max(rate(kept).high for kept in every)
    verdict = f"not refuted so far: {', '.join(missing)}" if missing else "**yes**"
    return f"{verdict} (intervals reach up to {upper:.0%})"
