"""A trained model as a folder: `config.json`, which says what the model is and what it was made from, and `model.safetensors`.

A folder is written beside its destination and renamed, so it is either complete or not there. Nothing in it is executable.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from certidote.data.atomic import replace_folder, replacing, unfinished_beside
from certidote.streams import Key
from certidote.training.models import ARCHITECTURES, build
from certidote.training.own import confirmed, is_own, sources_digest
from certidote.training.recipe import Recipe
from certidote.types import Json, Lineage

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MAX_SIDE = 4096


class ModelConfig(BaseModel):
    """What `config.json` holds.

    Attributes:
        format: version of this layout.
        recipe: what it was trained by; names the architecture.
        class_names: in the order of the logits.
        image_shape: (c, h, w) of its input, [0, 1] pixels.
        lineage: what its training images were made from, as `Lineage.to_json`.
        data_digest: of the data set behind them.
        data_notes: how those images came to be (resized, say).
        versions: of the software that trained it.
        weights_sha256: of `model.safetensors`.
        sources: digest of the sources of an architecture of the user's own; "" for one of ours.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    recipe: Recipe
    class_names: Annotated[tuple[str, ...], Field(min_length=2)]
    image_shape: tuple[
        Annotated[int, Field(ge=1, le=MAX_SIDE)], Annotated[int, Field(ge=1, le=MAX_SIDE)], Annotated[int, Field(ge=1, le=MAX_SIDE)]
    ]
    lineage: Json
    data_digest: str
    data_notes: tuple[str, ...] = ()
    versions: dict[str, str]
    weights_sha256: str
    sources: str = ""

    @field_validator("lineage")
    @classmethod
    def _is_lineage(cls, value: Json) -> Json:
        try:
            return Lineage.from_json(value).to_json()
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a lineage: {error}") from None


def check_vacant(directory: str | Path, force: bool = False) -> None:
    """Whether a model may be saved there; to be asked before long work begins.

    Raises: ValueError if something else than a folder is there, a folder that is not empty (without `force`), or one with other
        files than a model's (even with `force`).
    """
    path = Path(directory)
    if not path.exists():
        return
    if not path.is_dir():
        raise ValueError(f"cannot save a model to {str(directory)!r}: it exists and is no folder; choose another path")
    names = {entry.name for entry in path.iterdir()}
    if names and not force:
        raise ValueError(f"folder {str(directory)!r} is not empty; choose another, or force (--force) replacing the model in it")
    if others := sorted(names - {CONFIG, WEIGHTS}):
        raise ValueError(f"folder {str(directory)!r} holds other files than a model's ({others[0]!r}); choose another")


def save_model(
    directory: str | Path,
    model: nn.Module,
    *,
    recipe: Recipe,
    class_names: Sequence[str],
    image_shape: tuple[int, int, int],
    lineage: Lineage,
    data_digest: str,
    data_notes: Sequence[str] = (),
    versions: Mapping[str, str],
    force: bool = False,
) -> None:
    """Save one trained model.

    Args:
        directory: made, with its parents; must not exist, or be empty, or hold a model if `force` is set.
        model: of the architecture that `recipe` names, trained on (c, h, w) = `image_shape`.
        recipe, class_names, image_shape, lineage, data_digest, data_notes, versions: as in `ModelConfig`.
        force: replace the model that is there.
    Raises: ValueError as `check_vacant`, or if `model` is not what `recipe`, `class_names` and `image_shape` describe.
    """
    check_vacant(directory, force)
    state = state_of(model)
    weights = save(state)
    config = ModelConfig(
        recipe=recipe,
        class_names=tuple(class_names),
        image_shape=image_shape,
        lineage=lineage.to_json(),
        data_digest=data_digest,
        data_notes=tuple(data_notes),
        versions=dict(versions),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        sources=sources_digest(recipe.architecture, model) if is_own(recipe.architecture) else "",
    )
    filled(recipe.architecture, image_shape, len(class_names), state)
    text = json.dumps(config.model_dump(mode="json"), indent=2) + "\n"
    with _replacing_folder(Path(os.path.realpath(directory))) as folder:
        for name, content in ((WEIGHTS, weights), (CONFIG, text.encode())):
            with replacing(folder / name) as file:
                file.write(content)


def read_config(directory: str | Path) -> ModelConfig:
    """Raises: ValueError, in one line, if there is no model in `directory` or its configuration is damaged."""
    content = _read(directory, CONFIG)
    try:
        return ModelConfig.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{CONFIG} in {str(directory)!r} is damaged: {f'{where}: ' if where else ''}{first['msg']}") from None


def load_model(directory: str | Path, model: str = "") -> nn.Module:
    """The model saved in `directory`, frozen, in eval mode, on the CPU.

    Args:
        model: "package.module:factory" if the model's architecture is code of the user's own, which must be named to be imported.
    Raises: ValueError, in one line, if there is none, a file of it is damaged, or its own code is not named or has changed.
    """
    config = read_config(directory)
    confirmed(config.recipe.architecture, model, "model", repr(str(directory)))
    content = _read(directory, WEIGHTS)
    if hashlib.sha256(content).hexdigest() != config.weights_sha256:
        raise ValueError(f"{WEIGHTS} in {str(directory)!r} is damaged: its SHA-256 is not the one in {CONFIG}; save it again")
    try:
        state = load(content)
    except SafetensorError as error:
        raise ValueError(f"{WEIGHTS} in {str(directory)!r} is damaged: {error}") from None
    try:
        loaded = filled(config.recipe.architecture, config.image_shape, len(config.class_names), state)
    except ValueError as error:
        raise ValueError(f"{str(directory)!r} is damaged: {error}") from None
    check_sources(config.sources, loaded, model, repr(str(directory)))
    return loaded


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """A model's parameters and buffers on the CPU, each in memory of its own (safetensors stores no shared ones)."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}


def check_sources(recorded: str, model: nn.Module, architecture: str, where: str) -> None:
    """Raises: ValueError if an architecture of the user's own is not made of the sources it was trained with."""
    if is_own(architecture) and sources_digest(architecture, model) != recorded:
        raise ValueError(
            f"the code of model {architecture!r} is not what {where} was trained with: its sources have changed; restore them"
        )


def filled(architecture: str, image_shape: tuple[int, int, int], num_classes: int, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """A model of this architecture with these weights, frozen, in eval mode; ValueError if they are not its weights."""
    own = is_own(architecture)
    if own:
        model = build(architecture, image_shape, num_classes, Key(0))
    else:
        with torch.device("meta"):  # shapes only: nothing is drawn or allocated before the weights are seen to fit
            model = ARCHITECTURES[architecture](image_shape, num_classes)
    expected = {name: (tuple(value.shape), value.dtype) for name, value in model.state_dict().items()}
    given = {name: (tuple(value.shape), value.dtype) for name, value in state.items()}
    if given != expected:
        name = next(name for name in (*expected, *given) if given.get(name) != expected.get(name))
        raise ValueError(
            f"weight {name!r} is {given.get(name, 'missing')}; {architecture!r} for images of shape "
            f"{image_shape} and {num_classes} classes has {expected.get(name, 'no such weight')}"
        )
    model.load_state_dict(state, assign=not own)  # copied into own models, whose weights may be tied
    return model.eval().requires_grad_(False)


def _read(directory: str | Path, name: str) -> bytes:
    try:
        return (Path(directory) / name).read_bytes()
    except OSError as error:
        raise ValueError(f"no model in {str(directory)!r}: cannot read {name}: {error.strerror or error}") from error


@contextmanager
def _replacing_folder(target: Path) -> Iterator[Path]:
    """An empty folder to fill; it becomes `target` when the block ends well, and is removed if it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_beside(target)
    unfinished.mkdir()
    try:
        yield unfinished
        replace_folder(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
