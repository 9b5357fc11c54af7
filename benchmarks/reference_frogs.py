"""The command line with the poisoning benchmark's loop for feature collision as one more attack, to compare ours with.

`python benchmarks/reference_frogs.py poison poison-frogs-reference ...` takes what `certidote poison poison-frogs` takes. The rule is read from the
benchmark's description, not taken from its code. `benchmarks/attack_ladder.py` measures both.
"""

import torch
from jaxtyping import Int64
from torch import Tensor

from certidote import cli
from certidote.attacks import ATTACKS
from certidote.attacks.crafting import Objective, Trials, check_trials, craft_in_groups
from certidote.attacks.poison_frogs import collision_objective
from certidote.streams import Key
from certidote.types import Images, Knowledge, Poison, Task

SHRINK = 0.2
NAME = "poison-frogs-reference"


def reference_frogs(
    task: Task, knowledge: Knowledge, key: Key, *, steps: int = 120, step_size: float = 0.001, watermark: float = 0.3
) -> Poison:
    """Feature collision by `frozen_loop`; parameters as `attacks.poison_frogs`."""
    check_trials([task], knowledge, [key], steps, step_size)

    def craft(trials: Trials, _: slice) -> tuple[Images, Objective]:
        return frozen_loop(trials, steps, step_size, watermark)[0], collision_objective(trials.target_features())

    return craft_in_groups([task], knowledge, [key], craft)[0]


def frozen_loop(trials: Trials, steps: int, step_size: float, watermark: float) -> tuple[Images, Int64[Tensor, "n"]]:
    """Poisons that stand still after the first step that raised their objective, and how many steps of each were taken.

    Each starts at the watermarked image, outside the budget. A step is refused, and the next one is a fifth as long, if the objective of the
    image *held* is above the lowest that was recorded; a held image does not change by being refused a step, so it is refused every other one.
    As a rule the projection of the first step raises the objective, and the poison is the watermarked image cut down to the budget.
    """
    objective = collision_objective(trials.target_features())
    targets = trials.targets.repeat_interleave(trials.budget.num_poisons, 0)
    pixels = watermark * targets + (1 - watermark) * trials.bases
    recorded, rates = pixels.new_full((len(pixels),), torch.inf), pixels.new_full((len(pixels), 1, 1, 1), step_size)
    taken = torch.zeros(len(pixels), dtype=torch.int64, device=pixels.device)
    for step in range(steps):
        value, gradient = trials.look(pixels, step, objective)
        lower = value <= recorded
        chosen = lower.view(-1, 1, 1, 1)
        pixels = torch.where(chosen, trials.projected(pixels - rates * gradient), pixels)
        recorded, rates = torch.where(lower, value, recorded), torch.where(chosen, rates, SHRINK * rates)
        taken += lower
    return pixels, taken


def main() -> None:
    ATTACKS[NAME] = reference_frogs
    cli.main()


if __name__ == "__main__":
    main()
