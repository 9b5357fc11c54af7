"""What a cell of a table is: poisons, and the defense that victims have against them."""

from dataclasses import dataclass, replace
from typing import Literal

from certidote.benchmark.scales import ScenarioName, ThroughName

KnowledgeName = Literal["white-box", "black-box"]
StartName = Literal["", "in-domain", "out-of-domain", "both"]
"""How victims start: as their scenario says; on the poisoned set as it is; on images of another kind; on those, then on the poisoned set."""


@dataclass(frozen=True)
class Poisoning:
    """The poisons of a row, and what their attacker knows.

    Attributes:
        attack: a name of the catalogue.
        scenario: "transfer" or "scratch".
        knowledge: from scratch, white-box attackers know the victims' recipe, and victims have other seeds; black-box attackers know neither.
        ensemble: surrogates.
        through: the sigma of our defense that the attacker crafts through; None for one who does not know of it.
        outside: transfer: the extractor was fitted to images of another kind.
        through_defense: what `through` is the sigma of.
    Raises: ValueError for an attacker who knows the defense but not its sigma.
    """

    attack: str
    scenario: ScenarioName
    knowledge: KnowledgeName = "white-box"
    ensemble: int = 1
    through: float | None = None
    outside: bool = False
    through_defense: ThroughName = "denoise"

    def __post_init__(self) -> None:
        if self.through is None and self.through_defense != "denoise":
            raise ValueError(f"an attacker who does not know of our defense does not craft through {self.through_defense!r}")

    @property
    def name(self) -> str:
        ensemble = f"-k{self.ensemble}" if self.scenario == "scratch" else ""
        outside = "-outside" if self.outside else ""
        defense = "" if self.through_defense == "denoise" else f"{self.through_defense}-"
        adaptive = "" if self.through is None else f"-through-{defense}{self.through:g}"
        return f"{self.attack}-{self.scenario}-{self.knowledge}{ensemble}{outside}{adaptive}"

    @property
    def crafted(self) -> "Poisoning":
        """Whose poisons these are: from scratch, black-box victims get those of the white box, as attackers do the same in both."""
        if self.scenario == "transfer":
            return self
        return replace(self, knowledge="white-box")


SHARING = ("denoise", "noise", "purification", "purification-deterministic")
"""Defenses that add noise once: their trials can share draws of it."""


@dataclass(frozen=True)
class Cell:
    """One replay: poisons and a defense.

    Attributes:
        defense: a name of the catalogue of defenses.
        sigma: of defenses with noise, [0, 1] pixel units.
        start: of victims (table 3).
    """

    poisoning: Poisoning
    defense: str = "none"
    sigma: float | None = None
    start: StartName = ""

    @property
    def name(self) -> str:
        defended = self.defense if self.sigma is None else f"{self.defense}-{self.sigma:g}"
        return f"{defended}-start-{self.start}" if self.start else defended

    @property
    def shares_draws(self) -> bool:
        """Whether its trials can share noise; victims that see the images as they came first cannot."""
        return self.defense in SHARING and self.start in ("", "out-of-domain")

    @property
    def id(self) -> str:
        """As --cell takes it, and where its record is kept: poisons/defense."""
        return f"{self.poisoning.name}/{self.name}"
