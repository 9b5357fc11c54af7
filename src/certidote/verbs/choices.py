"""What the names that users give stand for: a device, a recipe, a denoiser, a test split."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from certidote.types import Denoiser, ImageDataset


def check_device(device: str) -> None:
    if device == "cpu":
        return
    import torch

    if not device.startswith("cuda"):
        raise ValueError(f"unknown device {device!r}; choose cpu or cuda")
    if not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but torch finds no CUDA device here; use --device cpu")


def has_test_split(data: str) -> bool:
    from certidote.data import splits_of

    return data.split(":")[0] == "digits" or "test" in splits_of(data)


def test_split_of(data: str) -> str:
    """Where DATA's own test images are; errors about a missing split come from the loader."""
    if data.split(":")[0] == "digits":
        return "digits:test"
    if has_test_split(data):
        return data
    raise ValueError(
        f"{data} has no test split of its own; give test images with --test (in any form of DATA, with the same classes)"
    )


def recipe_named(name: str, data: "ImageDataset") -> Any:
    from certidote.training.recipe import load_recipe

    if name == "auto":
        channels, height, width = data.image_shape
        name = "mlp" if channels * height * width <= 256 else "cnn"
    return load_recipe(name)


def denoiser_named(name: str, data: "ImageDataset", dtype: str, size: str = "", skip_corrupt: bool = False) -> "Denoiser":
    """The denoiser that `name` stands for; `size` and `skip_corrupt` are for the trusted images of a closed form."""
    from certidote.diffusion.denoiser import load

    if name == "auto":
        if data.image_shape != (1, 8, 8):
            shape = "x".join(map(str, data.image_shape))
            raise ValueError(
                f"no packaged denoiser fits {shape} images; give --denoiser DIR (make one from images you trust with 'certidote "
                "denoiser train TRUSTED --out DIR'), or --denoiser none for noise only"
            )
        name = "digits"
    kind, _, trusted = name.partition(":")
    if kind in CLOSED_FORMS and trusted:
        loaded = _closed_form(kind, trusted, name, size, skip_corrupt)
    else:
        loaded = load(name, dtype=dtype)  # type: ignore[arg-type]
    if loaded.card.image_shape is not None and loaded.card.image_shape != data.image_shape:
        expected, given = ("x".join(map(str, shape)) for shape in (loaded.card.image_shape, data.image_shape))
        raise ValueError(f"denoiser {name!r} is for {expected} images, but the data has {given}; train one on images of that shape")
    return loaded


CLOSED_FORMS = ("linear-mmse", "kernel")


def _closed_form(kind: str, trusted: str, name: str, size: str, skip_corrupt: bool) -> "Denoiser":
    from certidote.data import load
    from certidote.diffusion.closed_form import KernelPosteriorMean, LinearMMSE

    images = load(trusted, "train", size=size, skip_corrupt=skip_corrupt)
    return LinearMMSE(images, name) if kind == "linear-mmse" else KernelPosteriorMean(images, name=name)


def dtype_of_run(out: Path, dtype: str, device: str) -> str:
    """What a run was started with, if it was and nothing is asked for: the probe may differ from one day to the next."""
    from certidote.engine.ledger import Ledger
    from certidote.numerics import resolve_dtype

    path = out / "ledger.sqlite"
    if dtype == "auto" and path.is_file():
        with Ledger(path) as ledger:
            config = ledger.get("config")
        if config is not None:
            return str(config["dtype"])
    return resolve_dtype(dtype, device)


def command_line() -> str:
    """The command line, where there is one."""
    name = Path(sys.argv[0]).name
    return shlex.join(["certidote", *sys.argv[1:]]) if name in ("certidote", "certidote.exe") else f"called from {name or 'Python'}"
