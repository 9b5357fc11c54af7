"""Many small MLPs trained as one stack: batched matrix products with a hand-written backward pass.

Training one small model is limited by the cost of calling operations, not by arithmetic. Here one call serves several members:
their parameters lie side by side in one flat float32 tensor that is updated in place, and every product is a `torch.bmm`, in which
no number of one member meets a number of another. On one CPU thread a member's weights do not depend, bit for bit, on how many
others are in its stack or on its place among them.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from certidote.numerics import DType, sent, torch_dtype
from certidote.streams import Key
from certidote.training.classifier import standardized
from certidote.training.models import MLPS, Mlp, ModelStack, build
from certidote.training.momentum import Momentum
from certidote.training.recipe import Recipe
from certidote.training.schedule import batches, check_views, rates
from certidote.types import Json, Start, View

CACHE_BYTES = 4 << 20
"""What a group of members trained together may touch in one step, on a CPU: more falls out of a core's caches."""
DEVICE_BYTES = 4 << 30
"""The same on other devices, where memory is the limit."""
ALIGN = 64
"""Flat tensors hold whole vectors only: the last numbers of a tensor may be rounded by other instructions than the rest."""


class StackedTrainer:
    """A `Trainer` for MLPs: members start fresh, each from its own key, and all see the same order of rows."""

    start: Start = "fresh"

    def __init__(self, recipe: Recipe, dtype: DType = "float32", stack_size: int = 32) -> None:
        """
        Args:
            recipe: its architecture must be one of `models.MLPS`.
            dtype: of the matrix products; parameters, their updates and the loss are float32 in any case.
            stack_size: views handed over at a time; decides memory, not results.
        Raises: ValueError if the architecture is none of these, the recipe augments images, or stack_size is below 1.
        """
        if recipe.architecture not in MLPS:
            names = ", ".join(sorted(MLPS))
            raise ValueError(f"architecture {recipe.architecture!r} cannot be stacked; choose one of: {names}, or call trainer_for")
        if recipe.augments:
            raise ValueError("a stack of MLPs trains on images as they are; leave out crop and flip, or call trainer_for")
        if stack_size < 1:
            raise ValueError(f"stack_size={stack_size}; give at least 1")
        self.recipe = recipe
        self.dtype = dtype
        self.stack_size = stack_size

    def describe(self) -> Json:
        return {"trainer": "stacked", "dtype": self.dtype, "recipe": self.recipe.to_json()}

    def fit(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> ModelStack:
        """One MLP for each view.

        Args:
            views: of one image shape and number of classes; may differ in the number of images.
            keys: one per view; decide its initial weights.
            common: decides the order of rows, for all members of a run alike.
        Raises: ValueError for no views, empty views, views that do not match, or not one key each.
        """
        image_shape = check_views(views, keys)
        device = views[0].images.device
        models = [_mlp(self.recipe, image_shape, views[0].num_classes, key).to(device) for key in keys]
        for rows in sorted({len(view.labels) for view in views}):
            equal = [member for member, view in enumerate(views) if len(view.labels) == rows]
            steps = list(sent(torch.stack(batches(self.recipe, rows, common)), device))
            most = _most_members(models[0], len(steps[0]), torch_dtype(self.dtype), device)
            groups = -(-len(equal) // most)
            for group in (equal[start::groups] for start in range(groups)):
                _train([models[i] for i in group], [views[i] for i in group], steps, self.recipe, torch_dtype(self.dtype))
        return ModelStack(models)


def _mlp(recipe: Recipe, image_shape: tuple[int, int, int], num_classes: int, key: Key) -> Mlp:
    model = build(recipe.architecture, image_shape, num_classes, key)
    assert isinstance(model, Mlp)
    return model


def _most_members(model: Mlp, batch: int, dtype: torch.dtype, device: torch.device) -> int:
    """Members whose parameters, gradients, velocities and activations fit into the cache; at least 2."""
    inputs, width = model.hidden.in_features + 1, model.hidden.out_features
    parameters = sum(weight.numel() for weight in model.parameters())
    each = parameters * (12 + (4 if dtype != torch.float32 else 0)) + batch * (inputs + 2 * width) * dtype.itemsize
    return max(2, (CACHE_BYTES if device.type == "cpu" else DEVICE_BYTES) // each)


@dataclass(frozen=True, eq=False)
class _Parameters:
    """The parameters of all members, or their gradients: three stacked tensors that are windows into one flat one.

    Attributes:
        flat: all of them, padded to a multiple of `ALIGN`.
        hidden: (members, d + 1, width) weights, and in the last row the biases, which meet a constant input of 1.
        head: (members, classes, width) weights.
        bias: (members, classes, 1) biases of the head.
    """

    flat: Float[Tensor, "numbers"]
    hidden: Float[Tensor, "members inputs width"]
    head: Float[Tensor, "members classes width"]
    bias: Float[Tensor, "members classes 1"]

    @staticmethod
    def zeros(models: Sequence[Mlp], dtype: torch.dtype) -> "_Parameters":
        members, width, classes = len(models), models[0].hidden.out_features, models[0].head.out_features
        shapes = [(members, models[0].hidden.in_features + 1, width), (members, classes, width), (members, classes, 1)]
        sizes = [torch.Size(shape).numel() for shape in shapes]
        flat = torch.zeros(-(-sum(sizes) // ALIGN) * ALIGN, dtype=dtype, device=models[0].head.weight.device)
        parts = torch.split(flat[: sum(sizes)], sizes)
        hidden, head, bias = (part.view(shape) for part, shape in zip(parts, shapes, strict=True))
        return _Parameters(flat, hidden, head, bias)

    def read(self, models: Sequence[Mlp]) -> None:
        """Take over the weights of the models."""
        for i, model in enumerate(models):
            self.hidden[i, :-1].copy_(model.hidden.weight.T)
            self.hidden[i, -1].copy_(model.hidden.bias)
            self.head[i].copy_(model.head.weight)
            self.bias[i, :, 0].copy_(model.head.bias)

    def write(self, models: Sequence[Mlp]) -> None:
        """Give the weights back to the models."""
        for i, model in enumerate(models):
            model.hidden.weight.copy_(self.hidden[i, :-1].T)
            model.hidden.bias.copy_(self.hidden[i, -1])
            model.head.weight.copy_(self.head[i])
            model.head.bias.copy_(self.bias[i, :, 0])


@torch.no_grad()
def _train(
    models: Sequence[Mlp], views: Sequence[View], steps: Sequence[Int64[Tensor, "batch"]], recipe: Recipe, dtype: torch.dtype
) -> None:
    """Train these models in place on views of equal size.

    The gradient of the cross-entropy, written out: with inputs x (a last column of ones), h = relu(x W), scores s = V h^T + b and
    error e = (softmax(s) - wanted) / batch, it is dV = e h, db = sum e, dW = x^T ((e^T V) * [h > 0]).
    """
    if len(models) == 1:
        # A product of one matrix may take another kernel than a batch of them: train a companion and forget it.
        models, views = [models[0], copy.deepcopy(models[0])], [views[0], views[0]]
    members, batch, classes = len(models), len(steps[0]), models[0].head.out_features
    masters, gradients = _Parameters.zeros(models, torch.float32), _Parameters.zeros(models, torch.float32)
    masters.read(models)
    operands, products = masters, gradients
    if dtype != torch.float32:
        operands, products = _Parameters.zeros(models, dtype), _Parameters.zeros(models, dtype)
    inputs, labels = _inputs(views, dtype), torch.stack([view.labels for view in views]).unsqueeze(1)
    x = inputs.new_empty(members, batch, inputs.shape[2])
    y = labels.new_empty(members, 1, batch)
    h = inputs.new_empty(members, batch, models[0].hidden.out_features)
    back = torch.empty_like(h)
    scores = inputs.new_empty(members, classes, batch)
    wanted = torch.full((members, 1, batch), (recipe.label_smoothing - 1) / batch, device=inputs.device)
    optimizer = Momentum([masters.flat], momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov)
    for rows, rate in zip(steps, rates(recipe, len(steps)), strict=True):
        if operands is not masters:
            operands.flat.copy_(masters.flat)
        torch.index_select(inputs, 1, rows, out=x)
        torch.index_select(labels, 2, rows, out=y)
        torch.bmm(x, operands.hidden, out=h).relu_()
        torch.bmm(operands.head, h.transpose(1, 2), out=scores)
        error = torch.softmax(scores + masters.bias, dim=1).div_(batch)
        error.scatter_add_(1, y, wanted)
        if recipe.label_smoothing:
            error.sub_(recipe.label_smoothing / (classes * batch))
        e = error.to(dtype)
        torch.bmm(e, h, out=products.head)
        torch.bmm(e.transpose(1, 2), operands.head, out=back)
        torch.ops.aten.threshold_backward.grad_input(back, h, 0, grad_input=back)
        torch.bmm(x.transpose(1, 2), back, out=products.hidden)
        if products is not gradients:
            gradients.flat.copy_(products.flat)
        torch.sum(error, 2, keepdim=True, out=gradients.bias)
        optimizer.step([gradients.flat], rate)
    masters.write(models)


def _inputs(views: Sequence[View], dtype: torch.dtype) -> Float[Tensor, "members n inputs"]:
    """What the first layer sees of each member's images, with a last column of ones that carries the biases."""
    size = views[0].images[0].numel()
    inputs = torch.ones(len(views), len(views[0].labels), size + 1, dtype=dtype, device=views[0].images.device)
    for window, view in zip(inputs, views, strict=True):
        window[:, :size] = standardized(view.images).flatten(1)
    return inputs
