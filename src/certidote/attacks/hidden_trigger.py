"""Hidden-trigger backdoors (Saha et al., 2020): poisons with the features of images that carry the trigger, which no poison shows.

A head that fits the poisons gives triggered images of the attacked class the poisons' label. The attack belongs to transfer learning:
it moves features of surrogates, so the victim's extractor must resemble one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import inf
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Lt
from jaxtyping import Float, Int64, UInt8
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from certidote.adam import Adam
from certidote.attacks.adaptive import average, seen
from certidote.attacks.budget import project, quantize
from certidote.attacks.crafting import IMAGES_TOGETHER
from certidote.attacks.ranges import Count, Factor, Length, numbers_checked
from certidote.attacks.selection import (
    base_candidates,
    check_choice,
    check_surrogates,
    check_task,
    choose_bases,
    device_of,
    source_rows,
    trigger_of,
)
from certidote.streams import Key
from certidote.types import Budget, FeatureExtractor, Images, Knowledge, Poison, Task, as_pixels

PATIENCE, PROGRESS = 100, 0.999
"""The descent ends when the sum of distances has not fallen below this share of its lowest value for this many steps."""

Pairing = Literal["assignment", "reference"]
Optimizer = Literal["descent", "adam"]
Features = list[Float[Tensor, "n _"]]
"""Of n images, one entry for each surrogate."""


@dataclass(frozen=True)
class _Options:
    """Those of `hidden_trigger`, checked."""

    steps: int
    step_size: float
    decay: float
    decay_every: int
    optimizer: Optimizer
    pairing: Pairing
    pair_every: int
    stop_ratio: float
    crafted_per_kept: int

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("steps", "decay_every", "pair_every", "crafted_per_kept")}
        if min(counts.values()) < 1:
            raise ValueError(f"{', '.join(f'{name}={value}' for name, value in counts.items())}; give whole numbers of at least 1")
        if not 0 < self.step_size < inf or not 0 < self.decay <= 1 or not 0 <= self.stop_ratio < 1:
            given = f"step_size={self.step_size}, decay={self.decay}, stop_ratio={self.stop_ratio}"
            raise ValueError(f"{given}; step_size must be positive and finite, decay in (0, 1] and stop_ratio in [0, 1)")
        check_choice("pairing", self.pairing, Pairing)
        check_choice("optimizer", self.optimizer, Optimizer)


@numbers_checked
def hidden_trigger(
    task: Task,
    knowledge: Knowledge,
    key: Key,
    *,
    steps: Count = 5_000,
    step_size: Length = 0.001,
    decay: Factor = 0.95,
    decay_every: Count = 2_000,
    optimizer: Optimizer = "descent",
    pairing: Pairing = "assignment",
    pair_every: Count = 20,
    stop_ratio: Annotated[float, Ge(0), Lt(1)] = 0.01,
    crafted_per_kept: Count = 1,
) -> Poison:
    """Poisons near patched source images in feature space: min over p of sum_i sum_m ||phi_m(p_i) - phi_m(s_a(i))||^2.

    Plain gradient descent from the base images on pixels, with projection onto the budget after every step; the last iterate, in 8 bits.
    The sources s are training images of the true label, as many as there are poisons (each again if the class has fewer), with the
    trigger pasted on them; a pairs every poison with another one.

    Args:
        task: its goal is a trigger; bases are drawn from the adversarial class if the task names none.
        knowledge: surrogates m in eval mode; neither their parameters nor their buffers change.
        key: decides base images, source images, places of the trigger if they are not fixed, and noise of a defense.
        steps: of the descent; 5,000 as in both references.
        step_size: what the gradient is multiplied by, pixels being in [0, 1]; 0.001 as in the benchmark (the original: 0.01).
        decay, decay_every: the step size is multiplied by `decay` after so many steps; as in the benchmark (the original: 0.5 after 1,000).
        optimizer: "descent", as in both references; or "adam", for which `step_size` is in [0, 1] pixel units, whatever the scale of the
            features: about epsilon / 20 in 150 steps.
        pairing: "assignment", the bijection of least total distance; "reference", what both references do: poisons take over the source
            that is nearest to any of them one after the other, but a source or poison that had its turn is not taken out, so some
            poisons keep what they had and sources that nobody holds are lost.
        pair_every: steps after which poisons are paired anew; the references' is 1.
        stop_ratio: the descent ends when the sum of distances is this share of what it was; and, whatever this is, when that sum has not
            fallen by a thousandth (`PROGRESS`) in 100 steps (`PATIENCE`).
        crafted_per_kept: as many times num_poisons base images become poisons (or as many as there are) and those nearest to their
            sources are kept; the original's is 2 for 400 images and fewer poisons.
    Returns: `budget.num_poisons` poisons, their indices ascending.
    Raises: ValueError if a surrogate is missing or in train mode, the goal is no trigger or does not fit the training set, there are
        no source images, the adversarial class is too small, or a number is out of range.
    Source: Saha, Subramanya and Pirsiavash (2020); numbers of the benchmark of Schwarzschild et al. (2021).
    Differs from both: poisons are paired by an assignment, every 20 steps, and not by their rule in every step (`pairing`, `pair_every`
        bring that back); the descent ends at a share of the first sum of distances, or when it stands still, and not at a distance of
        10, a number that belongs to their features (the original's is of the worst poison, the benchmark's the sum), so that it may
        take fewer steps than `steps`; all poisons are crafted together, where the original has batches of 100.
    """
    options = _Options(steps, step_size, decay, decay_every, optimizer, pairing, pair_every, stop_ratio, crafted_per_kept)
    check_surrogates(knowledge.surrogates, task.train)
    check_task(task)
    goal, budget, device = trigger_of(task), task.budget, device_of(knowledge.surrogates)
    rows = _crafted_rows(task, key / "bases", crafted_per_kept)
    stored = task.train.images[rows].to(device)
    sources = _features(knowledge.surrogates, drawn_sources(task, len(rows), key).to(device))
    crafting = _Crafting(knowledge, sources, key)
    pixels, held = _descended(as_pixels(stored), budget, crafting, options)
    images = quantize(pixels, stored, budget)
    final = crafting.look(as_pixels(images), held, steps)[0].cpu()
    if len(rows) > budget.num_poisons:
        kept = final.argsort(stable=True)[: budget.num_poisons].sort().values
        rows, images, final = rows[kept], images.cpu()[kept], final[kept]
    poison = Poison(rows, images.cpu(), goal, budget, float(final.mean()))
    poison.verify(task.train)
    return poison


def drawn_sources(task: Task, count: int, key: Key) -> UInt8[Tensor, "count c h w"]:
    """Training images that the trigger is for, with the trigger on them; drawn without replacement until none are left, then again.

    Raises: ValueError if there are none.
    """
    goal = trigger_of(task)
    rows = np.resize((key / "sources").numpy().permutation(source_rows(task.train, goal, "training").numpy()), count)
    return goal.stamped(task.train.images[torch.from_numpy(rows)], key / "places")


def least_total(distances: Float[Tensor, "p s"]) -> Int64[Tensor, "p"]:
    """For each poison a source of its own, so that the sum of distances is least."""
    return torch.from_numpy(linear_sum_assignment(distances.cpu().numpy())[1])


def taken_over(distances: Float[Tensor, "p s"], held: Int64[Tensor, "p"]) -> Int64[Tensor, "p"]:
    """The references' pairing: as often as there are poisons, whoever is nearest to a source held by anyone holds it now, too.

    Only the pair itself is ruled out for the next turn, so that one poison may have several turns and a source several holders.

    Args:
        distances: to all sources.
        held: the source that each poison holds.
    """
    left, found = distances[:, held].cpu().numpy().copy(), held.clone()
    for _ in range(len(held)):
        poison, place = np.unravel_index(left.argmin(), left.shape)
        found[poison] = held[place]
        left[poison, place] = np.inf
    return found


@dataclass(frozen=True, eq=False)
class _Crafting:
    """What poisons are compared with, and through what.

    Attributes:
        knowledge: surrogates, and the defense that poisons are seen through. Sources are test images, which pass no defense.
        sources: features of patched source images.
        key: decides noise of the defense.
    """

    knowledge: Knowledge
    sources: Features
    key: Key

    def look(self, pixels: Images, held: Int64[Tensor, "p"], step: int) -> tuple[Float[Tensor, "p"], Images]:
        """Each poison's squared distance to the source it holds, summed over surrogates, and the gradient by its pixels."""
        values, gradients = [], []
        parts = zip(torch.split(pixels, IMAGES_TOGETHER), torch.split(held, IMAGES_TOGETHER), strict=True)
        for number, (part, theirs) in enumerate(parts):
            wanted = [features[theirs] for features in self.sources]

            def distances(images: Images, _: int, wanted: Features = wanted) -> Float[Tensor, "n"]:
                pairs = zip(self.knowledge.surrogates, wanted, strict=True)
                return torch.stack([(each.penultimate(images) - aim).square().sum(1) for each, aim in pairs]).sum(0)

            value, gradient = average([part], self.knowledge.defense, [self.key / "seen" / step / number], distances)
            values.append(value)
            gradients.append(gradient)
        return torch.cat(values), torch.cat(gradients)

    @torch.no_grad()
    def all_distances(self, pixels: Images, step: int) -> Float[Tensor, "p s"]:
        """What `look` would give for every source, on the same draws."""
        rows = []
        for number, part in enumerate(torch.split(pixels, IMAGES_TOGETHER)):
            found = []
            for images in chain.from_iterable(seen([part], self.knowledge.defense, [self.key / "seen" / step / number])):
                pairs = zip(self.knowledge.surrogates, self.sources, strict=True)
                found.append(torch.stack([torch.cdist(each.penultimate(images), aim).square() for each, aim in pairs]).sum(0))
            rows.append(torch.stack(found).mean(0))
        return torch.cat(rows)


def _descended(start: Images, budget: Budget, crafting: _Crafting, options: _Options) -> tuple[Images, Int64[Tensor, "p"]]:
    """Pixels of the poisons, and the source that each holds in the end."""
    pixels, held = start.clone(), torch.arange(len(start))
    adam = Adam([pixels])
    first = lowest = float("inf")
    fell = 0
    for step in range(options.steps):
        if step % options.pair_every == 0:
            distances = crafting.all_distances(pixels, step)
            held = least_total(distances) if options.pairing == "assignment" else taken_over(distances, held)
        values, gradient = crafting.look(pixels, held, step)
        total = float(values.sum())
        first = total if step == 0 else first
        if total < PROGRESS * lowest:
            lowest, fell = total, step
        if total <= options.stop_ratio * first or step - fell >= PATIENCE:
            break
        rate = options.step_size * options.decay ** (step // options.decay_every)
        if options.optimizer == "adam":
            adam.step([gradient], rate)
        else:
            pixels.sub_(gradient, alpha=rate)
        pixels.copy_(project(pixels, start, budget))
    return pixels, held


def _crafted_rows(task: Task, key: Key, times: int) -> Int64[Tensor, "p"]:
    """Base images that become poisons, `times` as many as are kept or all there are. Ascending."""
    if times == 1:
        return choose_bases(task, key)
    if task.bases is not None:
        raise ValueError(f"crafted_per_kept={times} asks for more base images than are kept, but the task names them; give 1")
    candidates = base_candidates(task).numpy()
    wanted = min(times * task.budget.num_poisons, len(candidates))
    return torch.from_numpy(np.sort(key.numpy().choice(candidates, size=wanted, replace=False)))


@torch.no_grad()
def _features(surrogates: Sequence[FeatureExtractor], images: UInt8[Tensor, "n c h w"]) -> Features:
    parts = torch.split(as_pixels(images), IMAGES_TOGETHER)
    return [torch.cat([surrogate.penultimate(part) for part in parts]) for surrogate in surrogates]
