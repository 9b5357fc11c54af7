"""Architectures and test transforms that users bring, named "package.module:function" and imported by that name.

Their code runs with the rights of this process, so it is imported only where the person at the keyboard named it: a run directory,
a model folder or a recipe file that names code of its own accord is refused. What can be checked about such code is checked before
the first model trains; what cannot is printed as an assumption.
"""

import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from certidote.streams import Key, torch_seeded
from certidote.types import Assumption

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_own(architecture: str) -> bool:
    """Whether a name is of the form "package.module:function"; nothing is imported."""
    return _NAME.fullmatch(architecture) is not None


def imported(reference: str, what: str) -> Callable[..., Any]:
    """The function that "package.module:function" names. The current folder is searched too, in worker processes as well.

    Args:
        reference: named by the user, not by a file.
        what: what it is for, in error messages ("model", say).
    Raises: ValueError, in one line, if the name has another form, or the module or the function is not there or does not load.
    """
    if not is_own(reference):
        raise ValueError(f"{what} {reference!r} is no name of code; write package.module:function, as in mymodels:small_resnet")
    module_name, _, name = reference.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs code of the user's, which may raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"cannot import {what} {reference!r} ({reason}); its module must lie in this folder or be installed"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        raise ValueError(f"module {module_name!r} has no function {name!r} (asked for as {what} {reference!r}); correct the name")
    return found


def confirmed(recorded: str, given: str, what: str, where: str) -> None:
    """Whether the user named the code that a file asks for.

    Raises: ValueError if `recorded` names code and `given` is not the same name, or code is given where none is recorded.
    """
    own = recorded if is_own(recorded) else ""
    if own == given:
        return
    option = f"--{what.replace(' ', '-')}"
    if not own:
        raise ValueError(f"{option} {given} was given, but {where} has no {what} of your own; leave it out")
    raise ValueError(f"{where} has the {what} {own!r}, which is code; if you know and trust it, add {option} {own}")


def sources_digest(reference: str, model: nn.Module | None = None) -> str:
    """SHA-256 over the source files behind "package.module:function" and the layers of a model it made, 64 hex digits.

    Layers of torch are left out: its version is on record anyway.
    """
    names = {reference.partition(":")[0], imported(reference, "code").__module__}
    if model is not None:
        names |= {type(layer).__module__ for layer in model.modules()}
    h = hashlib.sha256()
    for name in sorted(names):
        if name.split(".")[0] in ("torch", "builtins"):
            continue
        path = getattr(sys.modules[name], "__file__", None)
        h.update(f"{name}\n".encode())
        h.update(Path(path).read_bytes() if path else b"")
    return h.hexdigest()


# ----------------------------------------------------------------------------------------------------------------- models


def own_model(reference: str, image_shape: tuple[int, int, int], num_classes: int, key: Key) -> nn.Module:
    """A fresh module from the user's factory; all its random draws come from torch's generator, seeded from `key / "init"`.

    Raises: ValueError if the factory raises, or returns something else than a module.
    """
    factory = imported(reference, "model")
    with torch_seeded(key / "init"):
        try:
            model = factory(image_shape, num_classes)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ValueError(
                f"model {reference!r} fails for images of shape {image_shape} and {num_classes} classes ({reason})"
            ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model {reference!r} returns {type(model).__name__}, but a torch.nn.Module is needed; "
            "write a function (image_shape, num_classes) -> Module"
        )
    return model


def check_model(reference: str, image_shape: tuple[int, int, int], num_classes: int, pretrained_trusted: bool = False) -> str:
    """Everything about a user's architecture that can be seen before it trains.

    Weights must be a function of the key alone; in eval mode an answer must be a function of one image alone; weights that do not
    depend on the key were loaded from somewhere, and are refused unless the user vouches for them. BatchNorm is allowed: its
    statistics in training are those of the member's own noised copy, and at the vote it is in eval mode.

    Args:
        reference: "package.module:function", (image_shape, num_classes) -> module that takes [0, 1] pixels and gives logits.
        image_shape: (c, h, w).
        pretrained_trusted: the user states that weights it loads come from data the attacker cannot have touched.
    Returns: digest of the sources that define it.
    Raises: ValueError, in one line, for the first thing that is wrong.
    """
    keys = [Key(1) / "check", Key(2) / "check"]
    first, again, other = (own_model(reference, image_shape, num_classes, key) for key in (keys[0], keys[0], keys[1]))
    named = dict(first.named_parameters())
    if not any(weight.requires_grad for weight in named.values()):
        raise ValueError(f"model {reference!r} has no weights that can learn; a member must be trained on its own noised copy")
    for name, weight in named.items():
        if weight.dtype != torch.float32:
            raise ValueError(f"model {reference!r}: weight {name!r} is {weight.dtype}; members are float32, build it so")
        if not torch.equal(weight, again.get_parameter(name)):
            raise ValueError(
                f"model {reference!r} gives weight {name!r} other values each time; draw initial weights from torch's generator only"
            )
        same = torch.equal(weight, other.get_parameter(name))
        if same and bool((weight != weight.flatten()[0]).any()) and not pretrained_trusted:
            raise ValueError(
                f"model {reference!r} starts weight {name!r} from fixed values, so it loads weights from somewhere; if the attacker "
                "cannot have touched what they were made from, say so with --pretrained-trusted (a constant that is no weight "
                "belongs into a buffer)"
            )
    _check_answers(reference, first, image_shape, num_classes)
    _check_gradients(reference, other, image_shape)
    return sources_digest(reference, first)


def _check_answers(reference: str, model: nn.Module, image_shape: tuple[int, int, int], num_classes: int) -> None:
    images = torch.linspace(0, 1, 3 * image_shape[0] * image_shape[1] * image_shape[2]).view(3, *image_shape)
    model.eval()
    with torch.no_grad():
        answers = _answer(reference, model, images)
        if tuple(answers.shape) != (3, num_classes) or not answers.is_floating_point():
            raise ValueError(
                f"model {reference!r} answers 3 images with {tuple(answers.shape)} numbers of {answers.dtype}; "
                f"it must give logits, (3, {num_classes}) of floating point"
            )
        alone = torch.cat([_answer(reference, model, images[i : i + 1]) for i in (2, 1, 0)]).flip(0)
        repeated = _answer(reference, model, images)
    if not torch.equal(answers, repeated):
        raise ValueError(
            f"model {reference!r} answers one image differently each time in eval mode; a vote must be a fixed function"
        )
    if not torch.allclose(answers, alone, rtol=1e-3, atol=1e-4, equal_nan=True):
        raise ValueError(
            f"model {reference!r} answers an image differently when others are in its batch, in eval mode; "
            "a vote must depend on one image alone"
        )


def _check_gradients(reference: str, model: nn.Module, image_shape: tuple[int, int, int]) -> None:
    generator = (Key(1) / "check" / "images").numpy()
    images = torch.from_numpy(generator.random((4, *image_shape), dtype="float32"))
    learning = {name: weight for name, weight in model.train().named_parameters() if weight.requires_grad}
    total = _answer(reference, model, images).float().logsumexp(1).sum()
    for name, gradient in zip(learning, torch.autograd.grad(total, list(learning.values()), allow_unused=True), strict=True):
        if gradient is None:
            raise ValueError(f"model {reference!r} never uses its weight {name!r}; remove it, or freeze it (requires_grad=False)")


def _answer(reference: str, model: nn.Module, images: Tensor) -> Tensor:
    try:
        answers = model(images)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"model {reference!r} fails on images of shape {tuple(images.shape)} ({reason})") from error
    if not isinstance(answers, Tensor):
        raise ValueError(f"model {reference!r} returns {type(answers).__name__}; it must return one tensor of logits")
    return answers


# ------------------------------------------------------------------------------------------------------------- transforms


def transformed(
    reference: str, images: UInt8[Tensor, "n c h w"], image_shape: tuple[int, int, int]
) -> tuple[UInt8[Tensor, "n c2 h2 w2"], str]:
    """Test images through the user's transform, one at a time, and the digest of its sources.

    Training images never pass through it. It is called twice on every image, the second time in the opposite order, so that one
    that remembers, draws at random or writes into its input is found out.

    Args:
        reference: "package.module:function", one uint8 image (c, h, w) -> one uint8 image of `image_shape`.
        image_shape: of the training images.
    Raises: ValueError if it takes anything else than one image, is not a function of that image, or returns something else.
    """
    function = imported(reference, "test transform")
    _check_one_parameter(reference, function)
    there = [_one(reference, function, image, image_shape) for image in images]
    back = [_one(reference, function, image, image_shape) for image in images.flip(0)]
    for row, (first, second) in enumerate(zip(there, reversed(back), strict=True)):
        if not torch.equal(first, second):
            raise ValueError(
                f"test transform {reference!r} gives image {row} other pixels in another order; it must be a function of one "
                "image alone, or the certificate does not hold"
            )
    return torch.stack(there), sources_digest(reference)


def _check_one_parameter(reference: str, function: Callable[..., Any]) -> None:
    parameters = list(inspect.signature(function).parameters.values())
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) != 1 or parameters[0].kind not in plain:
        names = ", ".join(str(parameter) for parameter in parameters) or "nothing"
        raise ValueError(
            f"test transform {reference!r} takes ({names}); it may take one image and nothing else: "
            "what also depends on training data, labels or votes would void the certificate"
        )


def _one(reference: str, function: Callable[..., Any], image: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    given = image.clone()
    try:
        result = function(given)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"test transform {reference!r} fails on an image of shape {tuple(image.shape)} ({reason})") from error
    if not isinstance(result, Tensor) or result.dtype != torch.uint8 or tuple(result.shape) != image_shape:
        what = f"{result.dtype} of shape {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(
            f"test transform {reference!r} returns {what}; it must return a torch.uint8 tensor of shape {image_shape}, "
            "as the training images have"
        )
    return result.clone()


# -------------------------------------------------------------------------------------------------------------- assumptions


def own_code_assumptions(architecture: str, transform: str) -> tuple[Assumption, ...]:
    """What a certificate with code of the user's rests on besides everything else."""
    found = []
    if is_own(architecture):
        found.append(
            Assumption(
                "The code of the architecture, and any weights it loads, were made without the untrusted data.",
                "assumed",
                f"{architecture}: initial weights follow from the key and answers from one image alone (checked); its sources are in "
                "the configuration digest",
            )
        )
    if transform:
        found.append(
            Assumption(
                "The test transform was made without the untrusted data, and depends on one test image alone.",
                "assumed",
                f"{transform}: takes one image, and gave the same pixels twice in opposite orders (checked)",
            )
        )
    return tuple(found)
