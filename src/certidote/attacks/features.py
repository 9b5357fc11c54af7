"""Features that attacks aim at: a model's penultimate ones, or the output of any of its layers, by name.

Attacks on end-to-end fine-tuning aim at several layers of a model: `knowledge.surrogates` then holds one `AtLayer` for each, made by
`at_layers`. Layers of one model share a forward pass.
"""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from certidote.streams import Key, torch_seeded
from certidote.types import FeatureExtractor, Images

PENULTIMATE = "penultimate"
"""The layer name of what a model's last linear layer sees."""

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class AtLayer(nn.Module):
    """A model cut off at one of its layers: a `FeatureExtractor` whose features are that layer's output.

    A layer that is used several times counts with its last output. The model itself is held, not copied.
    """

    def __init__(self, model: nn.Module, layer: str) -> None:
        """
        Args:
            model: with a method `penultimate`, which runs all of it but the last linear layer.
            layer: "penultimate"; or the name of a module, as `model.named_modules()` has it.
        Raises: ValueError, naming the nearest, if the model has no such layer; TypeError if it has no method `penultimate`.
        """
        super().__init__()
        if not isinstance(model, FeatureExtractor):
            raise TypeError(f"a {type(model).__name__} has no method `penultimate`, of images; give the model one")
        names = [PENULTIMATE, *(name for name, _ in model.named_modules() if name)]
        if layer not in names:
            near = difflib.get_close_matches(layer, names, n=1, cutoff=0)
            raise ValueError(f"no layer {layer!r} in a {type(model).__name__}; did you mean {near[0]!r}? it has {', '.join(names)}")
        self.model = model
        self.layer = layer
        self.training = model.training  # this module's own flag only: `.train` would change the model

    def penultimate(self, images: Images) -> Float[Tensor, "n d"]:
        """The layer's output, flattened."""
        return maps_of([self], images)[0].flatten(1)


def at_layers(model: nn.Module, layers: Sequence[str]) -> tuple[AtLayer, ...]:
    """A model at several of its layers, for `Knowledge.surrogates`. Raises as `AtLayer`; ValueError for one name instead of a list."""
    if isinstance(layers, str):
        raise ValueError(f"layers={layers!r} is one name; give a list of names, [{layers!r}]")
    return tuple(AtLayer(model, layer) for layer in layers)


def maps_of(surrogates: Sequence[FeatureExtractor], images: Images) -> list[Float[Tensor, "n ..."]]:
    """Features of images, in the surrogates' order: penultimate ones (n, d), or of an `AtLayer` its layer's output, (n, c, h, w) say.

    Raises: ValueError if a layer comes after the penultimate features, or gives no tensor of floating-point numbers.
    """
    made: dict[int, dict[str, Tensor]] = {}
    found = []
    for surrogate in surrogates:
        if not isinstance(surrogate, AtLayer):
            found.append(surrogate.penultimate(images))
            continue
        model = surrogate.model
        if id(model) not in made:
            names = [each.layer for each in surrogates if isinstance(each, AtLayer) and each.model is model]
            made[id(model)] = _outputs(model, names, images)
        if surrogate.layer not in made[id(model)]:
            raise ValueError(
                f"layer {surrogate.layer!r} of a {type(model).__name__} gives no features: it comes after the penultimate ones, or its "
                "output is not a tensor; choose another layer"
            )
        found.append(made[id(model)][surrogate.layer])
    return found


def averaged_maps(
    surrogates: Sequence[FeatureExtractor], images: Images, dropout_draws: int, key: Key
) -> list[Float[Tensor, "n ..."]]:
    """`maps_of` with dropout off; or, with `dropout_draws` of at least 1, their mean over so many draws of active dropout.

    Args:
        dropout_draws: how often dropout masks are drawn, anew for each image; 0 leaves the surrogates as they are.
        key: decides the masks. Layers of one model share them.
    """
    if not dropout_draws:
        return maps_of(surrogates, images)
    with torch_seeded(key), _active_dropout(surrogates):
        draws = [maps_of(surrogates, images) for _ in range(dropout_draws)]
    return [torch.stack(each).mean(0) for each in zip(*draws, strict=True)]


def has_dropout(surrogate: FeatureExtractor) -> bool:
    """Whether there is anything in it that dropout draws could draw."""
    return isinstance(surrogate, nn.Module) and any(isinstance(module, DROPOUT) for module in surrogate.modules())


def _outputs(model: nn.Module, names: Sequence[str], images: Images) -> dict[str, Tensor]:
    """Output of each of these layers, in one forward pass."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            outputs[name] = output.clone()  # a ReLU in place, right behind the layer, would overwrite it

    with ExitStack() as hooks:
        for name in set(names) - {PENULTIMATE}:
            handle = model.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: keep(name, output))
            hooks.callback(handle.remove)
        outputs[PENULTIMATE] = model.penultimate(images)  # type: ignore[operator]  # AtLayer checked that it is a method
    return outputs


@contextmanager
def _active_dropout(surrogates: Sequence[FeatureExtractor]) -> Iterator[None]:
    """Dropout layers in train mode inside the block, and as they were after it; everything else stays in eval mode."""
    layers = [
        module
        for surrogate in surrogates
        if isinstance(surrogate, nn.Module)
        for module in surrogate.modules()
        if isinstance(module, DROPOUT)
    ]
    before = [layer.training for layer in layers]
    try:
        for layer in layers:
            layer.training = True
        yield
    finally:
        for layer, training in zip(layers, before, strict=True):
            layer.training = training
