"""Shared by tests: the digits transfer fixture (features of 0-4, heads for 5-9) and a closed-form denoiser to stand in for one."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from certidote.attacks.bullseye_polytope import bullseye_polytope_batch
from certidote.attacks.convex_polytope import convex_polytope_batch
from certidote.attacks.poison_frogs import poison_frogs_batch
from certidote.data.digits import SPLITS, load_digits
from certidote.streams import Key
from certidote.training.extractor import ConvExtractor, pretrain
from certidote.types import Budget, DenoiserCard, ImageDataset, Images, Knowledge, Poison, Target, Task

STEPS, STEP_SIZE, EPSILON, NUM_POISONS, NUM_TARGETS = 150, 0.02, 0.5, 10, 10


@dataclass(frozen=True, eq=False)
class Fixture:
    extractor: ConvExtractor
    train: ImageDataset
    test: ImageDataset
    goals: tuple[Target, ...]


def only(data: ImageDataset, digits: range) -> ImageDataset:
    kept = ((data.labels >= digits.start) & (data.labels < digits.stop)).nonzero().squeeze(1)
    return ImageDataset(data.images[kept], data.labels[kept] - digits.start, tuple(str(digit) for digit in digits))


def every(digits: range) -> ImageDataset:
    """All images of these digits."""
    parts = [load_digits(split) for split in SPLITS]
    images, labels = torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
    return only(ImageDataset(images, labels, parts[0].class_names), digits)


@cache
def transfer_fixture() -> Fixture:
    """Extractor from every digit 0-4; 60 images of each of 5-9 to fine-tune on, the rest to test and to be targets."""
    key = Key(0) / "transfer fixture"
    extractor = pretrain(every(range(5)), key / "extractor")
    rest = every(range(5, 10))
    rows = [(rest.labels == c).nonzero().squeeze(1) for c in range(5)]
    train = rest.subset(torch.cat([r[:60] for r in rows]))
    test = rest.subset(torch.cat([r[60:] for r in rows]))
    generator = (key / "targets").numpy()
    goals = []
    for row in generator.choice(len(test), size=NUM_TARGETS, replace=False).tolist():
        true = int(test.labels[row])
        goals.append(Target(test.images[row], true, (true + int(generator.integers(1, 5))) % 5, row))
    return Fixture(extractor, train, test, tuple(goals))


def trial_keys() -> list[Key]:
    return [Key(0) / "transfer fixture" / "trial" / i for i in range(NUM_TARGETS)]


BATCHES: dict[str, Callable[..., list[Poison]]] = {
    "poison-frogs": poison_frogs_batch,
    "convex-polytope": convex_polytope_batch,
    "bullseye-polytope": bullseye_polytope_batch,
}
"""The attacks on features, many trials at once."""

OPTIONS: dict[str, dict[str, float]] = {
    "poison-frogs": {"steps": 120},
    "convex-polytope": {"steps": STEPS, "step_size": STEP_SIZE},
    "bullseye-polytope": {"steps": STEPS, "step_size": STEP_SIZE},
}
"""What they need on the fixture."""


def fixture_tasks(num_poisons: int = NUM_POISONS, epsilon: float = EPSILON) -> list[Task]:
    """One task for each of the fixture's goals."""
    fixture = transfer_fixture()
    return [Task(fixture.train, goal, Budget(num_poisons, "linf", epsilon)) for goal in fixture.goals]


@cache
def crafted(name: str, num_poisons: int = NUM_POISONS, epsilon: float = EPSILON) -> list[Poison]:
    """The fixture's ten trials, crafted with its numbers or others."""
    knowledge = Knowledge((transfer_fixture().extractor,))
    return BATCHES[name](fixture_tasks(num_poisons, epsilon), knowledge, trial_keys(), **OPTIONS[name])


def bullseye_poisons() -> list[Poison]:
    return crafted("bullseye-polytope")


class KernelDenoiser:
    """Posterior mean when the clean image is one of the given ones, all equally likely: exact, and quick to make."""

    sigma_min, sigma_max = 0.05, 2.0

    def __init__(self, data: ImageDataset) -> None:
        self.known = data.pixels()
        digest = hashlib.sha256(b"kernel" + data.digest().encode()).hexdigest()
        self.card = DenoiserCard("kernel stand-in", "kernel", digest, data.image_shape, data.digest())

    def __call__(self, noisy: Images, sigma: Float[Tensor, "n"]) -> Images:
        known = self.known.flatten(1)
        distance = torch.cdist(noisy.flatten(1), known).square()
        weight = (-distance / (2 * sigma.unsqueeze(1) ** 2)).softmax(1)
        return (weight @ known).view_as(noisy)

    def conditioning(self, sigma: float) -> str:
        return f"sigma {sigma}"
