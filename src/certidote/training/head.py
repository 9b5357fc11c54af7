"""Linear heads on frozen features, many at once: the victims of transfer learning.

The extractor never learns and stays in eval mode. Each member's features are computed once; then all heads of a stack take their
steps together as one batched matrix product, though each sees only its own images, order and initial weights.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from certidote.adam import Adam
from certidote.streams import Key, row_blocks
from certidote.training.dropping import Dropping, output_errors
from certidote.training.extractor import FrozenExtractor
from certidote.training.head_recipe import HeadRecipe
from certidote.training.momentum import Momentum
from certidote.types import Images, Json, Start, View


@dataclass(frozen=True, eq=False)
class Heads:
    """Trained heads over one extractor.

    Attributes:
        extractor: frozen, in eval mode.
        weights: (members, classes, d).
        biases: (members, classes).
        failed: (members,) heads that diverged.
    """

    extractor: FrozenExtractor
    weights: Float[Tensor, "members classes d"]
    biases: Float[Tensor, "members classes"]
    failed: Bool[Tensor, "members"]

    @torch.no_grad()
    def __call__(self, images: Images) -> Float[Tensor, "members n classes"]:
        """Logits of all members; the features are shared."""
        shared = features(self.extractor, images)
        return torch.stack(
            [nn.functional.linear(shared, weight, bias) for weight, bias in zip(self.weights, self.biases, strict=True)]
        )

    def member(self, index: int) -> Callable[[Images], Float[Tensor, "n classes"]]:
        """One member alone, bit for bit what calling all of them gives."""
        one = Heads(self.extractor, self.weights[index : index + 1], self.biases[index : index + 1], self.failed[index : index + 1])
        return lambda images: one(images)[0]


class HeadTrainer:
    """Fits one linear head per member: a `Trainer` whose members start from trusted weights.

    Cross-entropy, no augmentation, fresh heads; `HeadTrainer(extractor, **recipe.model_dump())` has the numbers of a `HeadRecipe`.
    """

    start: Start = "trusted"
    """Goes into the members' lineage: their extractor was fitted to data that no attacker could alter."""

    def __init__(
        self,
        extractor: FrozenExtractor,
        *,
        epochs: int = 60,
        batch_size: int = 64,
        learning_rate: float = 0.01,
        decay_epochs: tuple[int, ...] = (30, 45),
        momentum: float | None = None,
        weight_decay: float = 0.0,
        stack_size: int = 32,
        dropping: Dropping | None = None,
    ) -> None:
        """
        Args:
            extractor: in eval mode; shared by all members and never changed.
            epochs, batch_size, learning_rate, decay_epochs, momentum, weight_decay: as in `HeadRecipe`.
            stack_size: members trained together; decides speed and memory, not results.
            dropping: which images are left behind as a head learns; its batches become smaller by them. None is none.
        Raises: ValueError if the extractor is in train mode or a number is not positive.
        """
        if isinstance(extractor, nn.Module) and any(module.training for module in extractor.modules()):
            raise ValueError("the extractor is in train mode, where its BatchNorm follows the data; call .eval() on it")
        if stack_size < 1:
            raise ValueError(f"stack_size={stack_size}; give at least 1")
        self.extractor = extractor
        self.recipe = HeadRecipe.from_json(
            {
                "epochs": epochs,
                "batch_size": batch_size,
                "learning_rate": learning_rate,
                "decay_epochs": decay_epochs,
                "momentum": momentum,
                "weight_decay": weight_decay,
            }
        )
        self.stack_size = stack_size
        self.dropping = dropping

    def describe(self) -> Json:
        described: Json = {"trainer": "head", "extractor": self.extractor.digest(), **self.recipe.to_json()}
        return described | (self.dropping.describe() if self.dropping is not None else {})

    def fit(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> Heads:
        """One head for each view.

        Args:
            views: may differ in size; those of one size are trained together.
            keys: one per view; decide its initial weights and its order of images.
            common: not used, heads have no coins in common.
        Raises: ValueError if there are no views, not one key each, or the numbers of classes differ.
        """
        if not views or len(views) != len(keys):
            raise ValueError(f"{len(views)} views and {len(keys)} keys; give at least one view, and one key for each")
        classes = sorted({view.num_classes for view in views})
        if len(classes) > 1:
            raise ValueError(f"views of {classes} classes; members of one stack must have equally many")
        inputs = [features(self.extractor, view.images) for view in views]
        fitted: dict[int, Tensor] = {}
        for size in {len(view.labels) for view in views}:
            members = [i for i, view in enumerate(views) if len(view.labels) == size]
            stacked = torch.stack([inputs[i] for i in members]), torch.stack([views[i].labels for i in members])
            fitted |= zip(members, self._fit_equal(*stacked, classes[0], [keys[i] for i in members]), strict=True)
        heads = torch.stack([fitted[i] for i in range(len(views))])
        return Heads(self.extractor, heads[..., :-1], heads[..., -1], ~heads.isfinite().flatten(1).all(1))

    @torch.no_grad()
    def _fit_equal(
        self, inputs: Float[Tensor, "m n d"], labels: Int64[Tensor, "m n"], num_classes: int, keys: Sequence[Key]
    ) -> Float[Tensor, "m c parameters"]:
        """Weights and, last column, biases on features of equal shape, by the gradient (softmax - one-hot)^T x / batch."""
        members, rows, width = inputs.shape
        inputs = torch.cat([inputs, inputs.new_ones(members, rows, 1)], dim=2).flatten(0, 1)  # the last column carries the bias
        wanted = nn.functional.one_hot(labels, num_classes).to(inputs.dtype).flatten(0, 1)
        parameters = torch.stack([_initial(key / "init", width, num_classes) for key in keys]).to(inputs)
        recipe, optimizer = self.recipe, _optimizer(parameters, self.recipe)
        first_row = torch.arange(members).unsqueeze(1) * rows
        kept = torch.ones(members, rows, dtype=torch.bool, device=inputs.device)
        for epoch in range(recipe.epochs):
            if self.dropping is not None and self.dropping.due(epoch, recipe.epochs):
                kept = self._still_kept(inputs.view(members, rows, -1), labels, parameters, kept)
            rate = recipe.learning_rate * 0.1 ** sum(epoch >= decay for decay in recipe.decay_epochs)
            order = torch.stack([torch.from_numpy((key / "order" / epoch).numpy().permutation(rows)) for key in keys])
            for batch in torch.split((order + first_row).to(inputs.device), recipe.batch_size, dim=1):
                seen = inputs.index_select(0, batch.flatten()).view(*batch.shape, -1)
                error = torch.bmm(seen, parameters.transpose(1, 2)).softmax(2)
                error -= wanted.index_select(0, batch.flatten()).view(*batch.shape, -1)
                if self.dropping is not None:
                    stay = kept.flatten()[batch]
                    error *= stay.unsqueeze(2) * batch.shape[1] / stay.sum(1).clamp(min=1).view(-1, 1, 1)
                optimizer.step([torch.bmm(error.transpose(1, 2), seen) / batch.shape[1]], rate)
        return parameters

    def _still_kept(
        self,
        inputs: Float[Tensor, "m n d"],
        labels: Int64[Tensor, "m n"],
        parameters: Float[Tensor, "m c d"],
        kept: Bool[Tensor, "m n"],
    ) -> Bool[Tensor, "m n"]:
        """What `dropping` leaves to each head as it is."""
        assert self.dropping is not None
        found = []
        for seen, wanted, weights, so_far in zip(inputs, labels, parameters, kept, strict=True):
            found.append(self.dropping.kept(output_errors(seen @ weights.T, wanted), wanted, so_far))
        return torch.stack(found)


@torch.no_grad()
def features(extractor: FrozenExtractor, images: Images) -> Float[Tensor, "n d"]:
    """Penultimate features, in blocks of rows, so that memory is bounded and no member depends on its neighbors in a stack.

    The extractor is moved to the device of the images, if it is not there.
    """
    if isinstance(extractor, nn.Module):
        extractor.to(images.device)
    return torch.cat([extractor.penultimate(images[rows.start : rows.stop]) for rows in row_blocks(len(images))])


def _optimizer(parameters: Tensor, recipe: HeadRecipe) -> Adam | Momentum:
    if recipe.momentum is None:
        return Adam([parameters])
    return Momentum([parameters], momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=False)


def _initial(key: Key, width: int, num_classes: int) -> Float[Tensor, "c parameters"]:
    """Weights and, last column, biases: uniform in +-1/sqrt(width), as torch's Linear starts."""
    bound = 1 / math.sqrt(width)
    return torch.from_numpy(key.numpy().uniform(-bound, bound, size=(num_classes, width + 1)).astype("float32"))
