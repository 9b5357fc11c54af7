"""How large must epsilon be before an attacker who knows the defense breaks it? `python benchmarks/breakthrough.py`, an hour of a core; goes on after a kill.

Every attack of the catalogue, white box, on the digits. For each epsilon the same targets are attacked by somebody who does not know of the defense and by
somebody who crafts through it (noise of their own, surrogates behind it too); victims learn from images that were noised and denoised once.
Cells and records are those of `certidote bench adaptive`, at other budgets: results/breakthrough/epsilon-E/POISONS/DEFENSE. `python benchmarks/results_page.py`
makes the table of docs/attacks.md. An attack that has broken through is not tried at larger epsilons.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from certidote.benchmark import outcomes, records, runner
from certidote.benchmark.cells import Cell, Poisoning
from certidote.benchmark.scales import SCALES, Scale
from certidote.benchmark.tables import SCRATCH_ATTACKS, through, transfer_rows
from certidote.engine.local import Pool
from certidote.progress import progress_named

EPSILONS = (0.1, 0.2, 0.3, 0.4347, 0.6, 0.8, 0.95)
SIGMA, TRIALS = 0.5, 30
BREAKS = 0.5
"""Share of successes from which on we say that an attack breaks through."""
DIGITS = SCALES["digits"]


def attacks() -> list[Poisoning]:
    """One row for each attack, where it is meant for: label-consistent images are made for victims trained from scratch."""
    frozen = [row for row in transfer_rows(["white-box"]) if row.attack != "label-consistent"]
    return [*frozen, *(Poisoning(attack, "scratch") for attack in ("label-consistent", *SCRATCH_ATTACKS))]


def scale_at(epsilon: float) -> Scale:
    """The digits with this budget, and step sizes in proportion to it."""
    share = epsilon / float(DIGITS.epsilon)

    def scaled(option: str) -> str:
        name, value = option.split("=")
        return f"{name}={float(value) * share:.6g}" if name == "step_size" else option

    options = {attack: tuple(map(scaled, given)) for attack, given in DIGITS.options.items()}
    return replace(DIGITS, name=f"epsilon-{epsilon:g}", epsilon=f"{epsilon:.6g}", options=options)


@dataclass(frozen=True)
class Attackers:
    """Cells of one attack: of the unaware attacker without a defense and behind it, and of the adaptive one behind it."""

    plain: Cell
    unaware: Cell
    adaptive: Cell

    @staticmethod
    def of(row: Poisoning) -> "Attackers":
        return Attackers(Cell(row), Cell(row, "denoise", SIGMA), Cell(through(row, SIGMA), "denoise", SIGMA))

    @property
    def cells(self) -> tuple[Cell, Cell, Cell]:
        return self.plain, self.unaware, self.adaptive


@dataclass(frozen=True)
class Breakthrough(runner.Campaign):
    """A campaign whose records name this script."""

    def command(self, cell: Cell) -> str:
        asked = f"--attacks {cell.poisoning.attack} --epsilons {self.scale.epsilon} --trials {self.trials(cell.poisoning)} --seed {self.seed}"
        return f"python benchmarks/breakthrough.py {asked}"


def breaks_through(row: Poisoning, kept: Path, epsilons: tuple[float, ...] = EPSILONS) -> float | None:
    """The smallest epsilon at which half of the adaptive attacks succeed; None if there is none here."""
    for epsilon in sorted(epsilons):
        found = records.read(records.folder_of(kept, scale_at(epsilon), Attackers.of(row).adaptive))
        if found is not None and outcomes.rate(found).successes >= BREAKS * outcomes.rate(found).trials:
            return epsilon
    return None


def main() -> None:
    names = [row.attack for row in attacks()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attacks", nargs="*", default=names, choices=names)
    parser.add_argument("--epsilons", type=float, nargs="*", default=list(EPSILONS))
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/breakthrough"))
    parser.add_argument("--out", type=Path, default=Path("results/breakthrough"))
    options = parser.parse_args()
    chosen = [row for row in attacks() if row.attack in options.attacks]
    with Pool(options.workers) as pool:
        for row in chosen:
            for epsilon in options.epsilons:
                campaign = Breakthrough(
                    "breakthrough", scale_at(epsilon), options.trials, options.seed, "cpu", None, options.runs, options.out
                )
                runner.run(campaign, Attackers.of(row).cells, pool, progress_named("auto"))
                if breaks_through(row, options.out, (epsilon,)) is not None:
                    break
            found = breaks_through(row, options.out, tuple(options.epsilons))
            said = "not here" if found is None else f"from epsilon {found:g} on"
            print(f"{row.attack}: half of the adaptive attacks succeed {said}", flush=True)


if __name__ == "__main__":
    main()
