"""Denoisers by name or folder: the catalogue, our folder format, and loading of either.

A folder of ours holds config.json (what it is, how it was made, how well it does), card.md (the same for people) and
model.safetensors (the weights, and the hashes of the images it learned from). It is complete or not there: written beside its place and renamed.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from certidote.data.atomic import sync_folder, unfinished_beside
from certidote.data.digits import load_digits
from certidote.diffusion.card import card_text
from certidote.diffusion.closed_form import Identity, KernelPosteriorMean, LinearMMSE
from certidote.diffusion.contract import image_hashes
from certidote.diffusion.diffusers_ddpm import is_diffusers_folder, load_diffusers
from certidote.diffusion.multistep import MARK, called, calls_named
from certidote.diffusion.network import Architecture, NetworkDenoiser, ResidualUNet, Scaling, weights_digest
from certidote.numerics import DType
from certidote.types import SHORT_BITS, Denoiser, DenoiserCard, Json, shortened

__all__ = ["CATALOGUE", "image_hashes", "load", "save"]

FORMAT = "certidote-denoiser"
VERSION = 2
READ = (1, 2)
"""Version 1 held whole hashes of training images, eight bytes each, where 2 holds the gaps between short ones, and a digest of these."""

WIDEST = (SHORT_BITS + 7) // 8
"""Bytes of a gap."""

PACKAGED = Path(__file__).parent / "weights"
"""Denoisers that come with the library."""

DIGITS_BANDWIDTH = 0.15
"""Blur around each digit, chosen among 0, 0.1, 0.15, 0.2 and 0.25 with 750 trusted digits fitted and the other 147 denoised."""

CATALOGUE: dict[str, Callable[[DType], Denoiser]] = {
    "digits": lambda dtype: _load_ours(PACKAGED / "digits", "digits", dtype),
    "cifar10-32": lambda dtype: _load_ours(PACKAGED / "cifar10-32", "cifar10-32", dtype),
    "tiny-imagenet-32": lambda dtype: _load_ours(PACKAGED / "tiny-imagenet-32", "tiny-imagenet-32", dtype),
    "tiny-imagenet-32-large": lambda dtype: _load_ours(PACKAGED / "tiny-imagenet-32-large", "tiny-imagenet-32-large", dtype),
    "digits-linear-mmse": lambda dtype: LinearMMSE(load_digits("trusted"), "digits-linear-mmse"),
    "digits-kernel": lambda dtype: KernelPosteriorMean(load_digits("trusted"), DIGITS_BANDWIDTH, "digits-kernel"),
    "none": lambda dtype: Identity(),
}
"""Denoisers by name, made for a number format (which only networks have)."""


def load(name: str | Path, dtype: DType = "float32") -> Denoiser:
    """The denoiser of a catalogue name, of a folder that `save` wrote, or of a diffusers folder.

    Args:
        name: a name in `CATALOGUE`; any other is taken for a folder. With @STEPS behind it: so many deterministic steps of it, from
            the noise level down (`diffusion.multistep`), unless a denoiser's folder has that very name.
        dtype: number format of the network's arithmetic; closed forms ignore it.
    Raises: ValueError for an unknown name, a folder without a denoiser, and missing, damaged or altered files.
    """
    base, steps = calls_named(str(name), is_folder)
    if steps is not None:
        return called(load(base, dtype), steps)
    if str(name) in CATALOGUE:
        return CATALOGUE[str(name)](dtype)
    directory = Path(name)
    if not directory.is_dir():
        raise ValueError(
            f"unknown denoiser {str(name)!r}; choose one of: {', '.join(sorted(CATALOGUE))}, or give a folder. "
            "To train one on images you trust: certidote denoiser train DATA --out DIR"
        )
    if is_diffusers_folder(directory):
        return load_diffusers(directory, str(name), dtype)
    return _load_ours(directory, str(name), dtype)


def is_folder(name: str) -> bool:
    """Whether a denoiser lies in a folder of this name, and none of the catalogue has the name but for its number of steps."""
    if name.rpartition(MARK)[0] in CATALOGUE:
        return False
    return os.path.isfile(os.path.join(name, "config.json")) or (os.path.isdir(name) and is_diffusers_folder(Path(name)))


def save(denoiser: NetworkDenoiser, directory: str | Path, force: bool = False) -> None:
    """Write a trained denoiser to a folder; it appears complete or not at all.

    Args:
        denoiser: from `train_network`, or loaded.
        directory: where; its parent must exist.
        force: replace what is there, if it is a denoiser's folder or empty.
    Raises: ValueError if the folder is not empty and `force` is not given, or holds anything but a denoiser.
    """
    target = Path(os.path.realpath(directory))
    check_target(target, force)
    card = denoiser.card
    config: Json = {
        "format": FORMAT,
        "version": VERSION,
        "kind": card.kind,
        "digest": card.digest,
        "image_shape": list(card.image_shape or ()),
        "sigma_min": denoiser.sigma_min,
        "sigma_max": denoiser.sigma_max,
        "architecture": denoiser.network.architecture.to_json(),
        "scaling": {"mean": denoiser.scaling.mean, "std": denoiser.scaling.std},
        "trained_on": card.trained_on,
        "training_images": None if card.training_images is None else len(card.training_images),
        "details": {name: value for name, value in card.details.items() if name != "dtype"},  # that is chosen when loading
        "torch": str(torch.__version__),
    }
    stored = torch.float16 if card.details.get("recipe", {}).get("storage") == "float16" else torch.float32
    tensors = {f"weights.{name}": value.to(stored).contiguous() for name, value in denoiser.weights.items()}
    if card.training_images is not None:
        tensors["training_images"] = _gaps(card.training_images)
        config["training_images_digest"] = _digest(tensors["training_images"])
    unfinished, replaced = unfinished_beside(target), unfinished_beside(target)
    unfinished.mkdir()
    try:
        _write(unfinished / "model.safetensors", save_tensors(tensors))
        _write(unfinished / "config.json", (json.dumps(config, indent=1, sort_keys=True) + "\n").encode())
        _write(unfinished / "card.md", card_text(denoiser).encode())
        if target.exists():
            os.rename(target, replaced)  # two renames: at no time is a half-deleted denoiser in its place
        os.rename(unfinished, target)
        sync_folder(target.parent)
    finally:
        if replaced.exists() and not target.exists():
            os.rename(replaced, target)  # interrupted between the two
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def check_target(directory: str | Path, force: bool) -> None:
    """Raises: ValueError if a denoiser cannot be written there; better known before training than after it."""
    target = Path(os.path.realpath(directory))
    if not target.parent.is_dir():
        raise ValueError(f"cannot write {str(target)!r}: folder {str(target.parent)!r} does not exist; create it first")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ValueError(
            f"cannot write {str(target)!r}: nothing can be written into {str(target.parent)!r} (a read-only disk, or permissions); "
            "give another place"
        )
    if not target.exists():
        return
    if not target.is_dir():
        raise ValueError(f"cannot write {str(target)!r}: it is a file; choose another folder")
    present = {file.name for file in target.iterdir()}
    if present and not force:
        raise ValueError(f"cannot write {str(target)!r}: it is not empty; choose another folder or force the replacement")
    foreign = sorted(present - {"config.json", "model.safetensors", "card.md"})
    if foreign:
        raise ValueError(f"cannot replace {str(target)!r}: it holds {foreign[0]!r}, which no denoiser has; choose another folder")


def _write(path: Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _gaps(hashes: frozenset[int]) -> UInt8[Tensor, "n bytes"]:
    """From each hash to the next in order, the first from 0, little-endian: as many bytes as the widest gap takes, five where there are many hashes."""
    ordered = np.array(sorted(hashes), dtype="<i8")
    gaps = np.diff(ordered, prepend=np.zeros(1, dtype="<i8"))
    width = max(1, (int(gaps.max(initial=0)).bit_length() + 7) // 8)
    return torch.from_numpy(gaps.view(np.uint8).reshape(len(gaps), 8)[:, :width].copy())


def _digest(stored: Tensor) -> str:
    return hashlib.sha256(stored.numpy().tobytes()).hexdigest()


# ------------------------------------------------------------------------------------------------------------------ reading


def _from_gaps(stored: UInt8[Tensor, "n bytes"]) -> frozenset[int]:
    """The hashes that `_gaps` was given."""
    whole = np.zeros((len(stored), 8), dtype=np.uint8)
    whole[:, : stored.shape[1]] = stored.numpy()
    return frozenset(np.cumsum(whole.view("<i8").ravel()).tolist())


def _known_images(stored: Tensor | None, config: Json) -> frozenset[int] | None:
    """Short hashes of the training images, from either version of the format.

    Raises: ValueError if the list is not the one that config.json was written with (of version 1, if it is of another length): a list that lost an image
        would hide an overlap.
    """
    count = config["training_images"]
    if stored is None and count is None:
        return None
    if stored is None or stored.ndim < 1 or len(stored) != count:
        raise ValueError("the list of its training images is not of the length that config.json says")
    if config["version"] == 1:
        return frozenset(map(shortened, stored.tolist()))
    if stored.dtype != torch.uint8 or stored.ndim != 2 or not 1 <= stored.shape[1] <= WIDEST:
        raise ValueError("the list of its training images is not one of bytes")
    if _digest(stored) != config["training_images_digest"]:
        raise ValueError("the list of its training images was altered")
    return _from_gaps(stored)


def _load_ours(directory: Path, name: str, dtype: DType) -> NetworkDenoiser:
    """Read a folder of ours; every way in which it can be wrong is one ValueError naming the file."""
    path = directory / "config.json"
    config = _read_config(path)
    tensors = _read_tensors(directory / "model.safetensors")
    try:
        shape = tuple(int(side) for side in config["image_shape"])
        scaling = Scaling(float(config["scaling"]["mean"]), float(config["scaling"]["std"]))
        sigma_min, sigma_max = float(config["sigma_min"]), float(config["sigma_max"])
        with torch.device("meta"):  # initial weights would be drawn from the global generator
            network = ResidualUNet(Architecture.from_json(config["architecture"]))
        c, h, w = shape
        stored = tensors.pop("training_images", None)
        hashes = _known_images(stored, config)
        weights = {key.removeprefix("weights."): value.to(torch.float32) for key, value in tensors.items()}
        network.load_state_dict(weights, assign=True)
        details = {**config["details"], "dtype": dtype}
        wanted, trained_on = str(config["digest"]), str(config["trained_on"])
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{directory} is no complete denoiser ({problem}); train or copy it again") from error
    digest = weights_digest(network, scaling, sigma_min, sigma_max, (c, h, w))
    if digest != wanted:
        message = f"{directory} was altered: its digest is {digest[:12]}, config.json says {wanted[:12]}"
        raise ValueError(f"{message}; train or copy it again")
    card = DenoiserCard(name, "network", digest, (c, h, w), trained_on, hashes, details)
    return NetworkDenoiser(network, scaling, sigma_min, sigma_max, card, dtype)


def _read_config(path: Path) -> Json:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; {str(path.parent)!r} is no denoiser's folder") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); train or copy the denoiser again") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ValueError(f"{path} does not describe a denoiser of ours or of diffusers; give the folder of one")
    if config.get("version") not in READ:
        given, known = config.get("version"), " and ".join(map(str, READ))
        raise ValueError(f"{path} has format version {given}, this release reads {known}; install the matching release")
    return config


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_tensors(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; train or copy the denoiser again") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); train or copy the denoiser again") from error
