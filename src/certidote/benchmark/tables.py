"""The cells of each table, at each scale."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches

from certidote.attacks import find
from certidote.benchmark.cells import Cell, KnowledgeName, Poisoning, StartName
from certidote.benchmark.scales import Scale, ThroughName
from certidote.defenses.catalogue import DEFENSES, FACTS

KNOWLEDGE: tuple[KnowledgeName, ...] = ("white-box", "black-box")
TRANSFER_ATTACKS = ("poison-frogs", "convex-polytope", "bullseye-polytope", "label-consistent", "hidden-trigger")
SCRATCH_ATTACKS = ("witches-brew", "sleeper-agent")

WITH_SIGMA = ("denoise", "noise", "several-draws", "purification", "purification-deterministic", "rab")
"""Defenses that add noise."""

COMPARED_SIGMA = 0.25
"""Of defenses with noise, where all defenses are compared."""

RIVALS = ("dp-sgd", "adversarial-training", "friends", "run-off-dpa", "run-off-fa", "dpa-star-run-off")
"""Table 5's; the paper does not say which of the three run-off elections its "ROE" is."""


Defended = tuple[str, float | None]
"""A defense by name and its sigma."""


def transfer_rows(knowledge: Sequence[KnowledgeName] = KNOWLEDGE) -> list[Poisoning]:
    """Poisons of table 2, in its order."""
    return [Poisoning(attack, "transfer", box) for box in knowledge for attack in TRANSFER_ATTACKS]


def scratch_rows(scale: Scale, knowledge: Sequence[KnowledgeName] = KNOWLEDGE) -> list[Poisoning]:
    """Poisons of table 1, in its order."""
    return [Poisoning(attack, "scratch", box, k) for box in knowledge for attack in SCRATCH_ATTACKS for k in scale.ensembles]


def against_neighbors(scale: Scale) -> list[Defended]:
    """Defenses of table 4: ours, and Deep k-NN by both of its rules."""
    return [*_least(scale), ("deep-knn", None), ("deep-knn-majority", None)]


def against_rivals(scale: Scale) -> list[Defended]:
    """Defenses of table 5: ours, and the rivals."""
    return [*_least(scale), *((name, None) for name in RIVALS)]


def every_defense() -> list[Defended]:
    """All of the catalogue but "none", those with noise at one sigma."""
    return [(name, COMPARED_SIGMA if name in WITH_SIGMA else None) for name in DEFENSES if name != "none"]


def table1(scale: Scale) -> list[Cell]:
    """Training from scratch."""
    return [cell for poisoning in scratch_rows(scale) for cell in _denoised(poisoning, scale)]


def table2(scale: Scale) -> list[Cell]:
    """Transfer learning: heads on frozen features."""
    return [cell for poisoning in transfer_rows() for cell in _denoised(poisoning, scale)]


def table3(scale: Scale) -> list[Cell]:
    """Starts: victims learn from the poisoned set as it is first, or start from what was learned on images of another kind, or both.

    In transfer learning the extractor is what was learned before, so that a start out of the domain is another extractor, poisons included.
    """
    cells = []
    for poisoning in strongest(scale):
        cells += _denoised(poisoning, scale)[1:]
        cells += _denoised(poisoning, scale, "in-domain")[1:]
        if poisoning.scenario == "transfer":
            other = replace(poisoning, outside=True)
            cells += [*_denoised(other, scale), *_denoised(other, scale, "in-domain")[1:]]
        else:
            cells += [*_denoised(poisoning, scale, "out-of-domain"), *_denoised(poisoning, scale, "both")[1:]]
        cells.append(Cell(poisoning))
    return cells


def table4(scale: Scale) -> list[Cell]:
    """Deep k-NN."""
    return _defended(strongest(scale)[:2], against_neighbors(scale))


def table5(scale: Scale) -> list[Cell]:
    """Other defenses that the paper compares with."""
    return _defended(strongest(scale), against_rivals(scale))


def defenses(scale: Scale) -> list[Cell]:
    """Every defense of the catalogue against `tried_poisonings`."""
    return _defended(tried_poisonings(), every_defense())


def adaptive(scale: Scale) -> list[Cell]:
    """White-box attacks crafted through our defense, as its victims have it; the undefended victims are the other tables'."""
    rows = transfer_rows(["white-box"]) + [
        Poisoning(attack, "scratch", "white-box", scale.ensembles[0]) for attack in SCRATCH_ATTACKS
    ]
    settings = sorted({*(("denoise", sigma) for sigma in scale.readings()), *scale.between})
    return [Cell(through(row, sigma, defense), defense, sigma) for row in rows for defense, sigma in settings]


def between(scale: Scale) -> list[Cell]:
    """White-box attacks on our defense at the scale's further settings."""
    rows = transfer_rows(["white-box"]) + scratch_rows(scale, ["white-box"])
    return _defended(rows, scale.between) if scale.between else []


TABLES: dict[str, Callable[[Scale], list[Cell]]] = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "table4": table4,
    "table5": table5,
    "defenses": defenses,
    "adaptive": adaptive,
    "between": between,
}
"""By name: scale -> cells, in the order in which they are run."""


def cells_of(table: str, scale: Scale, cell: str = "") -> list[Cell]:
    """The cells of a table, or the one that is named, or all of one set of poisons.

    Raises: ValueError if there is no such table or cell, naming the nearest.
    """
    every = find(TABLES, table, "table")(scale)
    if not every:
        raise ValueError(f"table {table!r} has no cells at scale {scale.name!r}; choose another scale")
    if not cell:
        return every
    if chosen := [each for each in every if cell in (each.poisoning.name, each.id)]:
        return chosen
    near = get_close_matches(cell, [each.id for each in every], n=2, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ValueError(f"unknown cell of {table} {cell!r}; {hint}--dry-run lists all {len(every)}")


def strongest(scale: Scale) -> list[Poisoning]:
    """The rows of tables 3 to 5: Bullseye Polytope, Witches' Brew and Sleeper Agent with the largest ensemble."""
    most = scale.ensembles[-1]
    return [
        Poisoning("bullseye-polytope", "transfer"),
        *(Poisoning(attack, "scratch", "white-box", most) for attack in SCRATCH_ATTACKS),
    ]


def compared_poisonings() -> list[Poisoning]:
    """The front page's three attacks."""
    return [Poisoning("bullseye-polytope", "transfer"), *(Poisoning(attack, "scratch") for attack in SCRATCH_ATTACKS)]


def tried_poisonings() -> list[Poisoning]:
    """What all defenses are tried on: with the last one, those that need whole networks have three attacks too."""
    return [*compared_poisonings(), Poisoning("label-consistent", "scratch")]


def through(poisoning: Poisoning, sigma: float, defense: ThroughName = "denoise") -> Poisoning:
    """The same attacker, who knows of our defense."""
    return replace(poisoning, through=sigma, through_defense=defense)


def started(poisoning: Poisoning, start: StartName) -> tuple[Poisoning, StartName]:
    """Poisons and start of the cells of table 3: in transfer learning another kind of images is another extractor, which white boxes know."""
    if poisoning.scenario == "transfer" and start in ("out-of-domain", "both"):
        return replace(poisoning, outside=True), "in-domain" if start == "both" else ""
    return poisoning, start


def unmeasured(poisoning: Poisoning, defense: str) -> str:
    """Why this pair is no cell; "" if it is one."""
    if poisoning.scenario == "transfer" and "from scratch only" in FACTS[defense].threat_model:
        return "changes how a whole network learns, and victims of transfer learning here are heads on frozen features"
    return ""


def _denoised(poisoning: Poisoning, scale: Scale, start: StartName = "") -> list[Cell]:
    """Without a defense, and denoised at every sigma."""
    return [Cell(poisoning, start=start), *(Cell(poisoning, "denoise", sigma, start) for sigma in scale.readings())]


def _defended(poisonings: Sequence[Poisoning], others: Sequence[Defended]) -> list[Cell]:
    """Undefended and with these defenses, but for pairs that are no cells."""
    every: list[Defended] = [("none", None), *others]
    return [Cell(poisoning, name, sigma) for poisoning in poisonings for name, sigma in every if not unmeasured(poisoning, name)]


def _least(scale: Scale) -> list[Defended]:
    """Our defense at the paper's smallest sigma, in both readings."""
    return [("denoise", scale.sigmas[0] / 2), ("denoise", scale.sigmas[0])]
