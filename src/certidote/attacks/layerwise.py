"""Gradients by the weights of a model, and what moves them by the images, layer by layer and for several problems at once.

Nearly all parameters enter a model by a product with a layer's inputs: in convolutions, in linear layers, as scales of normalizations.
The gradient of a loss by such weights is a product too, of the layer's inputs and the slopes of the loss by its outputs. Its inner
product with a direction v in the space of weights is <outputs of the layer for the same inputs, with weights v; slopes by its outputs>.
So one pass through the model with constant weights, all problems in one batch, has everything:

- slopes by the outputs of layers, with a graph; from these and the inputs, without one, each problem's gradient by the weights;
- the gradient by the images of <v, gradient>, for a v of each problem: one pass back through that graph.

Neither weights nor gradients by weights are in a graph, whose second derivatives cost most, and no problem needs a graph of its own.
In a batch, the first images of all problems stand before the second ones: as they are, feature maps are those of `m` images with the
channels of all problems, which is what one grouped convolution takes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional
from torch.overrides import TorchFunctionMode

FEW = 32
"""Numbers in a patch of its inputs, up to which a convolution of several problems is faster as a product of patches: the first layer's of
gray or color images."""

Problems = Float[Tensor, "p m c h w"]
"""The images of p independent problems, m each."""
Sizes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Stride, padding and dilation of a convolution, down and across."""

# ------------------------------------------------------------------------------------------------------------------ products


@dataclass(frozen=True, eq=False)
class _Product(ABC):
    """One use of parameters: a layer's inputs times weights, plus biases.

    Attributes:
        weight, bias: their names; None for biases that are no parameter.
        inputs: (m * p, channels, ...), with a graph.
        version: of the inputs, when they were used.
        outputs: where the slopes by the outputs come by.
    """

    weight: str
    bias: str | None
    inputs: Tensor
    version: int
    outputs: GradientEdge

    @abstractmethod
    def by_weights(self, slopes: Tensor, problems: int) -> Float[Tensor, "p d"]:
        """Each problem's gradient by the weights, from the slopes by the outputs."""

    @abstractmethod
    def of_weights(
        self, slopes: Tensor, weights: Float[Tensor, "p d"], biases: Float[Tensor, "p c"] | None
    ) -> tuple[Tensor, Tensor]:
        """The outputs, if each problem had these weights and biases, and the slopes by the inputs that these slopes would give then."""


@dataclass(frozen=True, eq=False)
class _Linear(_Product):
    """Of (m * p, d) inputs."""

    def by_weights(self, slopes: Tensor, problems: int) -> Float[Tensor, "p d"]:
        return torch.bmm(_apart(slopes, problems).transpose(1, 2), _apart(self.inputs, problems)).flatten(1)

    def of_weights(
        self, slopes: Tensor, weights: Float[Tensor, "p d"], biases: Float[Tensor, "p c"] | None
    ) -> tuple[Tensor, Tensor]:
        problems = len(weights)
        matrices = weights.view(problems, slopes.shape[1], -1)
        outputs = torch.bmm(_apart(self.inputs, problems), matrices.transpose(1, 2))
        if biases is not None:
            outputs += biases[:, None]
        inputs = torch.bmm(_apart(slopes, problems), matrices)
        return outputs.transpose(0, 1).flatten(0, 1), inputs.transpose(0, 1).flatten(0, 1)


def _apart(vectors: Float[Tensor, "n d"], problems: int) -> Float[Tensor, "p m d"]:
    return vectors.reshape(-1, problems, vectors.shape[1]).transpose(0, 1)


@dataclass(frozen=True, eq=False)
class _Patches(_Product):
    """A convolution as a product of its weights and (m * p, numbers in a patch, patches) inputs."""

    def by_weights(self, slopes: Tensor, problems: int) -> Float[Tensor, "p d"]:
        of_images = torch.bmm(slopes, self.inputs.transpose(1, 2))
        return of_images.flatten(1).view(-1, problems, of_images[0].numel()).sum(0)

    def of_weights(
        self, slopes: Tensor, weights: Float[Tensor, "p d"], biases: Float[Tensor, "p c"] | None
    ) -> tuple[Tensor, Tensor]:
        count, channels = slopes.shape[:2]
        each = count // len(weights)
        matrices = weights.repeat(each, 1).view(count, channels, -1)
        outputs = torch.bmm(matrices, self.inputs)
        if biases is not None:
            outputs += biases.repeat(each, 1)[:, :, None]
        return outputs, torch.bmm(matrices.transpose(1, 2), slopes)


@dataclass(frozen=True, eq=False)
class _Convolution(_Product):
    """Of (m * p, channels, height, width) inputs.

    Attributes:
        shape: of the weights.
        sizes: stride, padding and dilation.
        groups: of the layer; all problems together have so many times more.
    """

    shape: torch.Size
    sizes: Sizes
    groups: int

    def by_weights(self, slopes: Tensor, problems: int) -> Float[Tensor, "p d"]:
        shaped = slopes.new_empty(1).expand(problems * self.shape[0], *self.shape[1:])
        maps = _together(slopes, problems), _together(self.inputs, problems)
        return _back(*maps, shaped, self.sizes, self.groups * problems, by_weight=True).reshape(problems, -1)

    def of_weights(
        self, slopes: Tensor, weights: Float[Tensor, "p d"], biases: Float[Tensor, "p c"] | None
    ) -> tuple[Tensor, Tensor]:
        problems = len(weights)
        filters, groups = weights.reshape(problems * self.shape[0], *self.shape[1:]), self.groups * problems
        maps, offsets = _together(self.inputs, problems), None if biases is None else biases.flatten()
        outputs = functional.conv2d(maps, filters, offsets, *self.sizes, groups)
        inputs = _back(_together(slopes, problems), maps, filters, self.sizes, groups)
        return outputs.reshape(slopes.shape), inputs.reshape(self.inputs.shape)


def _together(maps: Float[Tensor, "n c h w"], problems: int) -> Float[Tensor, "m pc h w"]:
    return maps.reshape(-1, problems * maps.shape[1], *maps.shape[2:])


def _back(slopes: Tensor, inputs: Tensor, weight: Tensor, sizes: Sizes, groups: int, *, by_weight: bool = False) -> Tensor:
    """Slopes by the inputs of a convolution, or by its weights; of what is differentiated by, only the shape matters."""
    wanted = [not by_weight, by_weight, False]
    return torch.ops.aten.convolution_backward(slopes, inputs, weight, None, *sizes, False, [0, 0], groups, wanted)[by_weight]


@dataclass(frozen=True, eq=False)
class _Scale(_Product):
    """One factor for each channel of (m * p, channels, ...) inputs."""

    def by_weights(self, slopes: Tensor, problems: int) -> Float[Tensor, "p d"]:
        return _sums(self.inputs * slopes, problems)

    def of_weights(
        self, slopes: Tensor, weights: Float[Tensor, "p d"], biases: Float[Tensor, "p c"] | None
    ) -> tuple[Tensor, Tensor]:
        factors = weights[:, :, None]
        maps, by_outputs = (_by_channel(tensor, len(weights)) for tensor in (self.inputs, slopes))
        outputs = maps * factors if biases is None else torch.addcmul(biases[:, :, None], maps, factors)
        return outputs.view(slopes.shape), (by_outputs * factors).view(slopes.shape)


def _by_channel(maps: Tensor, problems: int) -> Float[Tensor, "m p c k"]:
    return maps.reshape(maps.shape[0] // problems, problems, maps.shape[1], -1)


def _sums(slopes: Tensor, problems: int) -> Float[Tensor, "p c"]:
    """Of each channel, over the images of each problem: the gradient by biases."""
    return _by_channel(slopes, problems).sum((0, 3))


# ------------------------------------------------------------------------------------------------------------------ recording


class _Recorder(TorchFunctionMode):
    """Runs a model with constant parameters and records how each is used.

    Attributes:
        names: of all parameters, by identity.
        images: in the batch, of all problems.
        problems: how many.
        products: recorded.
        foreign: whether something is not known here: a parameter used otherwise than in these products, or images that are mixed.
    """

    def __init__(self, names: Mapping[int, str], images: int, problems: int) -> None:
        super().__init__()
        self.names, self.images, self.problems = names, images, problems
        self.products: list[_Product] = []
        self.foreign = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        known = self.KNOWN.get(func)
        found = NotImplemented if known is None else known(self, *args, **named)
        if found is NotImplemented:
            found = func(*args, **named)
            if self._uses(args) or (named and self._uses(named.values())):
                self.foreign |= _has_tensors(found)  # else it asked for a shape, say
        return found

    def _uses(self, given: Iterable[Any]) -> bool:
        """Whether a parameter is among these, or in sequences among these."""
        return any(id(one) in self.names or (isinstance(one, list | tuple) and self._uses(one)) for one in given)

    def _multiplies(self, inputs: Tensor, weight: Tensor | None, bias: Tensor | None) -> bool:
        """Whether feature maps of all images meet a parameter, or a constant."""
        given = [one for one in (weight, bias) if one is not None]
        others = [one for one in given if id(one) not in self.names]
        self.foreign |= any(one.requires_grad for one in others)  # weights made from images, say
        fits = inputs.shape[0] == self.images and inputs.requires_grad and torch.is_grad_enabled()
        return fits and (id(weight) in self.names or len(others) == len(given))

    def _recorded(
        self, kind: Callable[..., _Product], inputs: Tensor, weight: Tensor | None, bias: Tensor | None, outputs: Tensor, *rest: Any
    ) -> Tensor:
        if id(weight) in self.names:
            names = self.names[id(weight)], self.names.get(id(bias))
            self.products.append(kind(*names, inputs, inputs._version, get_gradient_edge(outputs), *rest))
        return outputs

    # What follows has the arguments of the functions in `KNOWN`, and returns NotImplemented for what it does not take.

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
        if input.ndim != 2 or not self._multiplies(input, weight, bias):
            return NotImplemented
        return self._recorded(_Linear, input, weight, bias, functional.linear(input, weight.detach(), _constant(bias)))

    def _conv2d(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        if input.ndim != 4 or isinstance(padding, str) or not self._multiplies(input, weight, bias):
            return NotImplemented
        sizes = _pair(stride), _pair(padding), _pair(dilation)
        if self.problems > 1 and groups == 1 and weight.shape[1:].numel() <= FEW:
            return self._patches(input, weight, bias, sizes)
        outputs = _FixedConvolution.apply(input, weight.detach(), _constant(bias), sizes, groups)  # type: ignore[no-untyped-call]
        return self._recorded(_Convolution, input, weight, bias, outputs, weight.shape, sizes, groups)

    def _patches(self, input: Tensor, weight: Tensor, bias: Tensor | None, sizes: Sizes) -> Tensor:
        window, (stride, padding, dilation) = _pair(weight.shape[2:]), sizes
        patches = functional.unfold(input, window, dilation, padding, stride)
        each = weight.detach().flatten(1).expand(input.shape[0], -1, -1)
        outputs = torch.bmm(each, patches) if bias is None else torch.baddbmm(bias.detach()[:, None], each, patches)
        along = zip(input.shape[2:], window, stride, padding, dilation, strict=True)
        shape = [(side + 2 * around - apart * (size - 1) - 1) // step + 1 for side, size, step, around, apart in along]
        return self._recorded(_Patches, patches, weight, bias, outputs).view(*outputs.shape[:2], *shape)

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Any:
        if training or running_mean is None or running_var is None:
            self.foreign = True
            return NotImplemented
        if not self._multiplies(input, weight, bias):
            return NotImplemented
        scale = (running_var + eps).rsqrt()
        return self._scaled(torch.addcmul(_wide(-running_mean * scale, input), input, _wide(scale, input)), weight, bias)

    def _group_norm(
        self, input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Any:
        if not self._multiplies(input, weight, bias):
            return NotImplemented
        return self._scaled(functional.group_norm(input, num_groups, None, None, eps), weight, bias)

    def _scaled(self, inputs: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        outputs = inputs
        if weight is not None:
            outputs = outputs * _wide(weight.detach(), inputs)
        if bias is not None:
            outputs = outputs + _wide(bias.detach(), inputs)
        return self._recorded(_Scale, inputs, weight, bias, outputs)

    def _max_pool2d(
        self,
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        if input.ndim != 4 or return_indices or input.device.type != "cpu":
            return NotImplemented
        sizes = _pair(kernel_size), () if stride is None else _pair(stride), _pair(padding), _pair(dilation)
        return _Maxima.apply(input, *sizes, ceil_mode)  # type: ignore[no-untyped-call]

    KNOWN: ClassVar[dict[Callable[..., Any], Callable[..., Any]]] = {
        functional.linear: _linear,
        functional.conv2d: _conv2d,
        functional.batch_norm: _batch_norm,
        functional.group_norm: _group_norm,
        functional.max_pool2d: _max_pool2d,
    }


def _constant(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.detach()


def _wide(numbers: Float[Tensor, "c"], maps: Tensor) -> Tensor:
    """Numbers of channels, to be multiplied with maps."""
    return numbers.view(-1, *[1] * (maps.ndim - 2))


def _pair(size: Any) -> tuple[int, int]:
    down, across = (size, size) if isinstance(size, int) else size
    return down, across


def _has_tensors(found: Any) -> bool:
    return isinstance(found, Tensor) or (isinstance(found, list | tuple) and any(map(_has_tensors, found)))


class _FixedConvolution(torch.autograd.Function):
    """A convolution with constant weights. torch's own computes a gradient by the weights in each second derivative, wanted or not."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, sizes: Sizes, groups: int) -> Tensor:
        ctx.constants = inputs.detach(), weight, sizes, groups
        return functional.conv2d(inputs, weight, bias, *sizes, groups)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
        return _BackConvolution.apply(slopes, *ctx.constants), None, None, None, None  # type: ignore[no-untyped-call]


class _BackConvolution(torch.autograd.Function):
    """Slopes by the inputs of a convolution with constant weights."""

    @staticmethod
    def forward(ctx: Any, slopes: Tensor, inputs: Tensor, weight: Tensor, sizes: Sizes, groups: int) -> Tensor:
        ctx.constants = weight, None, *sizes, groups
        return _back(slopes, inputs, weight, sizes, groups)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
        return functional.conv2d(slopes, *ctx.constants), None, None, None, None


class _Maxima(torch.autograd.Function):
    """`max_pool2d`, which on a processor is many times as fast where the channels of a pixel are neighbors in memory."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, *options: Any) -> Tensor:
        neighbors = inputs.contiguous(memory_format=torch.channels_last)
        maxima, places = torch.ops.aten.max_pool2d_with_indices(neighbors, *options)
        ctx.constants = inputs.detach().contiguous(), *options, places.contiguous()
        return maxima.contiguous()

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
        return torch.ops.aten.max_pool2d_with_indices_backward(slopes.contiguous(), *ctx.constants), None, None, None, None, None


# ------------------------------------------------------------------------------------------------------------------ one pass


@dataclass(frozen=True, eq=False)
class LayerwisePass:
    """One pass of several problems' images through a model.

    Attributes:
        gradients: (p, d) of each problem's mean loss by the weights, flat over all parameters; without a graph.
    """

    gradients: Float[Tensor, "p d"]
    _parameters: Mapping[str, Tensor]
    _images: Tensor
    _found: list[tuple[_Product, Tensor]]

    @torch.no_grad()
    def slopes(self, directions: Float[Tensor, "p d"]) -> Problems:
        """The gradient of <a problem's direction, its gradient by the weights> by its images. Once only: it uses the graph up."""
        parts = torch.split(directions, [weight.numel() for weight in self._parameters.values()], 1)
        towards = dict(zip(self._parameters, parts, strict=True))
        ends: list[Tensor] = []
        moved: list[Tensor] = []
        for product, slopes in self._found:
            biases = None if product.bias is None else towards[product.bias]
            outputs, inputs = product.of_weights(slopes, towards[product.weight], biases)
            ends += [product.inputs, slopes]
            moved += [inputs, outputs]
        (found,) = torch.autograd.grad(ends, [self._images], moved)
        return found.view(-1, len(directions), *found.shape[1:]).transpose(0, 1).contiguous()


@torch.enable_grad()
def layerwise(
    model: nn.Module, parameters: Mapping[str, Tensor], images: Problems, labels: Int64[Tensor, "p m"], *, differentiable: bool
) -> LayerwisePass | None:
    """One pass under the mean cross-entropy of each problem; None if the model uses a parameter otherwise than is known here, or not at all.

    Args:
        model: in eval mode; its answer for one image depends on that image alone.
        parameters: all of the model's, by name.
        differentiable: whether `slopes` will be asked for.
    """
    problems, each = labels.shape
    leaf = images.detach().transpose(0, 1).flatten(0, 1).requires_grad_()
    with _Recorder({id(weight): name for name, weight in model.named_parameters()}, len(leaf), problems) as recorder:
        logits = model(leaf)
    products = recorder.products
    used = {name for product in products for name in (product.weight, product.bias)}
    if recorder.foreign or not used.issuperset(parameters) or any(p.inputs._version != p.version for p in products):
        return None
    loss = functional.cross_entropy(logits, labels.T.flatten(), reduction="sum") / each
    slopes = torch.autograd.grad(loss, [p.outputs for p in products], create_graph=differentiable, allow_unused=True)
    found = [(product, slope) for product, slope in zip(products, slopes, strict=True) if slope is not None]
    sums: dict[str, Tensor] = {}
    with torch.no_grad():
        for product, slope in found:
            _add(sums, product.weight, product.by_weights(slope, problems))
            if product.bias is not None:
                _add(sums, product.bias, _sums(slope, problems))
        flat = [sums[name] if name in sums else weight.new_zeros(problems, weight.numel()) for name, weight in parameters.items()]
    return LayerwisePass(torch.cat(flat, 1), parameters, leaf, found)


def _add(sums: dict[str, Tensor], name: str, more: Tensor) -> None:
    sums[name] = sums[name] + more if name in sums else more
