"""Models trained one after the other: for architectures in which one model's arithmetic already fills a core.

Convolutions of two layers are limited by arithmetic, not by calls, so stacking them gains nothing; channels-last memory and
bfloat16 do. Parallel workers, one thread each, are the engine's business.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from certidote.numerics import DType, sent
from certidote.streams import Key, row_blocks, torch_seeded
from certidote.training.augment import Augmentation
from certidote.training.dropping import Dropping, output_errors, regrouped
from certidote.training.learner import Learner
from certidote.training.models import MLPS, ModelStack, build, single_image_refusal
from certidote.training.optimizer import Optimizer
from certidote.training.own import is_own
from certidote.training.recipe import Recipe
from certidote.training.recorded import RecordedTraining, train_side_by_side
from certidote.training.schedule import batches, check_views, rates
from certidote.training.stacked import StackedTrainer
from certidote.training.warm import WarmStart
from certidote.types import Images, Json, Start, Trainer, View

SIDE_BY_SIDE = 4
"""Members of one job, and as many train at the same time on a GPU, where one small network uses a part of the card."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step of a training sees.

    Attributes:
        images: (b, c, h, w), augmented already.
        labels: (b,).
        rows: (b,) their numbers in the member's view.
        key: the member's own coins for this step.
    """

    images: Images
    labels: Int64[Tensor, "b"]
    rows: Int64[Tensor, "b"]
    key: Key


@runtime_checkable
class BatchLoss(Protocol):
    """What a step of training decreases. It may use the model in any way, but leaves it in train mode."""

    def __call__(self, learner: Learner, batch: Batch) -> Float[Tensor, ""]: ...

    def describe(self) -> Json:
        """What the trainer's own description has to say about it."""
        ...


class CrossEntropy:
    """Plain training."""

    def __call__(self, learner: Learner, batch: Batch) -> Float[Tensor, ""]:
        return learner.loss(batch.images, batch.labels)

    def describe(self) -> Json:
        return {}


@runtime_checkable
class Shaping(Protocol):
    """What happens to the gradient of a batch before the optimizer takes its step."""

    def __call__(self, gradients: Sequence[Tensor], key: Key) -> list[Tensor]:
        """
        Args:
            gradients: in the order of the parameters; may be overwritten.
            key: the member's own coins for this step.
        """
        ...

    def describe(self) -> Json:
        """What the trainer's own description has to say about it."""
        ...


@runtime_checkable
class Disturbing(Protocol):
    """Changes of images that depend on the model as it learns, and fresh noise: both before augmentation."""

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether the images are moved before this epoch, counted from 0, of so many."""
        ...

    def moved(self, learner: Learner, images: Images, key: Key) -> Images:
        """What the training goes on with instead of all its images; leaves the model in train mode, and `images` alone."""
        ...

    def with_fresh_noise(self, images: Images, key: Key) -> Images:
        """Some images with fresh noise, for one step."""
        ...

    def describe(self) -> Json:
        """What the trainer's own description has to say about it."""
        ...


class PooledTrainer:
    """A `Trainer` for any architecture: each member starts from its own key, and all see the same order of rows."""

    def __init__(
        self,
        recipe: Recipe,
        dtype: DType = "float32",
        stack_size: int = SIDE_BY_SIDE,
        start: Start = "fresh",
        sources: str = "",
        loss: BatchLoss | None = None,
        warm: WarmStart | None = None,
        dropping: Dropping | None = None,
        shaping: Shaping | None = None,
        disturbing: Disturbing | None = None,
        together: int = 1,
    ) -> None:
        """
        Args:
            recipe: any.
            dtype: of convolutions and matrix products; parameters, their updates and the loss are float32 in any case.
            stack_size: members of one job; decides what is committed together, not results.
            start: "trusted" if the recipe's architecture is the user's own and loads weights that the user vouches for.
            sources: digest of the sources of an architecture of the user's own, from `own.check_model`.
            loss: what each step decreases; None is the plain cross-entropy.
            warm: weights that every member starts from; then `start` is what these are.
            dropping: which images are left behind as a member learns; None is none.
            shaping: what happens to gradients; None is nothing.
            disturbing: what happens to images as a member learns; None is nothing.
            together: members viewed and trained at a time, at least 1; more than 1 pays on a GPU alone, and does not change results.
        Raises: ValueError if stack_size or together is below 1.
        """
        if min(stack_size, together) < 1:
            raise ValueError(f"stack_size={stack_size}, together={together}; give at least 1")
        self.recipe = recipe
        self.dtype = dtype
        self.stack_size = stack_size
        self.together = together
        self.start: Start = start if warm is None else warm.start
        self.warm = warm
        self.sources = sources
        self.loss = loss or CrossEntropy()
        self.dropping = dropping
        self.shaping = shaping
        self.disturbing = disturbing
        self._recorded: list[RecordedTraining] = []

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_recorded": []}  # recordings stay on their GPU

    def describe(self) -> Json:
        described: Json = {"trainer": "pooled", "dtype": self.dtype, "recipe": self.recipe.to_json()}
        if is_own(self.recipe.architecture):
            described |= {"start": self.start, "architecture_sources": self.sources}
        if self.warm is not None:
            described |= {"start": self.start, "initial_weights": self.warm.digest()}
        for hook in (self.loss, self.dropping, self.shaping, self.disturbing):
            described |= {} if hook is None else hook.describe()
        return described

    def fit(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> ModelStack:
        """One model for each view.

        Args:
            views: of one image shape and number of classes; may differ in the number of images.
            keys: one per view; decide its initial weights and what augmentation does to its images.
            common: decides the order of rows, for all members of a run alike.
        Raises: ValueError for no views, empty views, views that do not match, not one key each, images too small for the crop, or a
            view of one image for a model with BatchNorm.
        """
        image_shape = check_views(views, keys)
        if self.recipe.crop >= min(image_shape[1:]):
            raise ValueError(
                f"crop={self.recipe.crop} pixels on images of {image_shape[1]}x{image_shape[2]}; give a recipe whose crop is below the "
                "image's side"
            )
        models = [self._fresh(view, key, image_shape) for view, key in zip(views, keys, strict=True)]
        alike = len({view.images.shape for view in views}) == 1
        if alike and self._is_recordable(views[0].images.device):
            for first in range(0, len(models), self.together):
                some = slice(first, first + self.together)
                self._replay(models[some], views[some], keys[some], common)
            return ModelStack(models)
        for model, view, key in zip(models, views, keys, strict=True):
            with torch_seeded(key / "coins"):  # for own architectures that draw as they learn: dropout, say
                self._train(model, view, key, common)
        return ModelStack(models)

    def _fresh(self, view: View, key: Key, image_shape: tuple[int, int, int]) -> nn.Module:
        model = build(self.recipe.architecture, image_shape, view.num_classes, key)
        if len(view.labels) == 1 and any(isinstance(module, _BatchNorm) for module in model.modules()):
            raise ValueError(single_image_refusal(self.recipe.architecture))
        if self.warm is not None:
            self.warm.into(model)
        return model

    def _train(self, model: nn.Module, view: View, key: Key, common: Key) -> None:
        device = view.images.device
        model, images = model.to(device).train(), view.images
        if not is_own(self.recipe.architecture):  # own code may call view(), which this memory layout does not allow
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            images = images.contiguous(memory_format=torch.channels_last)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        learner, optimizer = Learner(model, self.dtype, self.recipe), Optimizer(parameters, self.recipe)
        steps = sent(torch.stack(batches(self.recipe, len(view.labels), common)), device)
        rate, per_epoch = rates(self.recipe, len(steps)), len(steps) // self.recipe.epochs
        augmentation = Augmentation.drawn(self.recipe, len(view.labels), key, device)
        kept = torch.ones(len(view.labels), dtype=torch.bool, device=device)
        for epoch, epoch_steps in enumerate(torch.split(steps, per_epoch)):
            if self.dropping is not None and self.dropping.due(epoch, self.recipe.epochs):
                kept = self.dropping.kept(_errors(learner, images, view.labels), view.labels, kept)
            if self.disturbing is not None and self.disturbing.due(epoch, self.recipe.epochs):
                images = self.disturbing.moved(learner, images, key / "moved")
            groups = epoch_steps if self.dropping is None else regrouped(epoch_steps, kept)  # which waits for the device
            for step, rows in enumerate(groups, epoch * per_epoch):
                batch = images[rows]
                if self.disturbing is not None:
                    batch = self.disturbing.with_fresh_noise(batch, key / "disturbed" / step)
                if augmentation is not None:
                    batch = augmentation(batch, epoch, rows)
                loss = self.loss(learner, Batch(batch, view.labels[rows], rows, key / "loss" / step))
                gradients: Sequence[Tensor] = torch.autograd.grad(loss, parameters)
                if self.shaping is not None:
                    gradients = self.shaping(gradients, key / "shaping" / step)
                optimizer.step(gradients, rate[step])

    def _is_recordable(self, device: torch.device) -> bool:
        """Whether launches can be recorded there, and all steps do the same to what they are given, so that one recording serves for all."""
        hooked = not isinstance(self.loss, CrossEntropy) or any((self.dropping, self.shaping, self.disturbing))
        return device.type == "cuda" and not hooked and not is_own(self.recipe.architecture)

    def _replay(self, models: Sequence[nn.Module], views: Sequence[View], keys: Sequence[Key], common: Key) -> None:
        """As `_train` for some models, by recordings that all members with as many images share."""
        for model in models:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._recorded = [place for place in self._recorded if all(place.fits(view) for view in views)]
        for model, view in zip(models[len(self._recorded) :], views[len(self._recorded) :], strict=True):
            placed = deepcopy(model).to(view.images.device).train()
            self._recorded.append(RecordedTraining(Learner(placed, self.dtype, self.recipe), view))
        train_side_by_side(self._recorded[: len(models)], models, views, keys, common)


@torch.no_grad()
def _errors(learner: Learner, images: Images, labels: Int64[Tensor, "n"]) -> Float[Tensor, "n classes"]:
    """`output_errors` of a model that is being trained, as it answers in eval mode."""
    learner.model.eval()
    logits = torch.cat([learner.logits(images[rows.start : rows.stop]) for rows in row_blocks(len(images))])
    learner.model.train()
    return output_errors(logits, labels)


def trainer_for(
    recipe: Recipe, dtype: DType = "float32", *, start: Start = "fresh", sources: str = "", device: str = "cpu"
) -> Trainer:
    """The faster trainer for this recipe's architecture on this device; `start` and `sources` as in `PooledTrainer`."""
    if recipe.architecture in MLPS and not recipe.augments:
        return StackedTrainer(recipe, dtype)
    together = 1 if device == "cpu" else SIDE_BY_SIDE
    return PooledTrainer(recipe, dtype, stack_size=SIDE_BY_SIDE, start=start, sources=sources, together=together)
