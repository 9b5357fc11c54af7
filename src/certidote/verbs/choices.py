"""What the names that users give stand for: a device, a recipe, a denoiser, a test split."""

import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from certidote.engine.cluster import RayWorkers
    from certidote.engine.local import Pool
    from certidote.types import Denoiser, ImageDataset


def check_device(device: str, here: bool = True) -> None:
    """Raises: ValueError unless `device` is "cpu", or "cuda" and there is a GPU; without `here`, other machines compute."""
    if device == "cpu":
        return
    if device != "cuda":
        raise ValueError(f"unknown device {device!r}; choose cpu or cuda (which GPUs: set CUDA_VISIBLE_DEVICES)")
    if here and not computes_here(device):
        raise ValueError(f"device {device!r} was asked for, but torch finds no CUDA device here; use --device cpu")


def computes_here(device: str) -> bool:
    """Whether this machine has a device of this kind."""
    if device == "cpu":
        return True
    import torch

    return torch.cuda.is_available()


def check_directory(out: Path) -> None:
    """Raises: ValueError unless `out` is a directory to write into or can become one; better known before the work than after."""
    place = next(path for path in (out, *out.absolute().parents) if os.path.lexists(path))
    if not place.is_dir():
        raise ValueError(f"--out {out}: {place} is there and is no directory; give another one")
    _check_writable(place, out)


def _check_writable(folder: Path, out: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(
            f"--out {out}: nothing can be written into {folder} (a read-only disk, or permissions); give another place"
        )


def make_directory(out: Path) -> None:
    """Make a directory, with its parents, unless it is there. Raises: ValueError if the system refuses."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {out}: this directory cannot be made ({error.strerror}); give another place") from None


def check_apart(out: Path, *inputs: str, denoiser: str = "") -> None:
    """Raises: ValueError if `out` is one of the inputs or lies inside one: the next command would take results for images."""
    target = Path(os.path.realpath(out))
    for path in input_paths(*inputs, denoiser=denoiser):
        if target == path:
            raise ValueError(f"output {str(out)!r} is the input itself, which is never written to; give --out another folder")
        if target.is_relative_to(path):
            raise ValueError(f"output {str(out)!r} lies inside the input {str(path)!r}; write to a folder outside it")


def input_paths(*inputs: str, denoiser: str = "") -> list[Path]:
    """Real paths of inputs that are files or folders, also as in FOLDER:test#500; names win over paths.

    Args:
        denoiser: as for --denoiser, also linear-mmse:FOLDER and FOLDER@5.
    """
    from certidote.data.load import CATALOGUE
    from certidote.diffusion.denoiser import CATALOGUE as DENOISERS
    from certidote.diffusion.multistep import calls_named

    denoiser = calls_named(denoiser, _means_itself)[0]
    found = []
    for name in (part for given in (*inputs, denoiser) for part in (given, given.partition(":")[2])):
        if re.split("[:#]", name)[0] in (*CATALOGUE, *DENOISERS):
            continue
        whole = name.rpartition("#")[0]
        spellings = (name, name.rpartition(":")[0], whole, whole.rpartition(":")[0])
        found += [place for place in map(os.path.expanduser, filter(None, spellings)) if os.path.exists(place)][:1]
    return [Path(os.path.realpath(place)) for place in found]


def check_file(out: Path) -> None:
    """Raises: ValueError unless a file can be written there: the folder must exist and take files, and `out` be no directory."""
    if not out.absolute().parent.is_dir():
        raise ValueError(f"cannot write {str(out)!r}: its folder does not exist; create it first")
    if out.is_dir():
        raise ValueError(f"cannot write {str(out)!r}: it is a directory; give the name of a file")
    _check_writable(out.absolute().parent, out)


def check_workers(workers: int | None, otherwise: str = "one for each core") -> None:
    """Raises: ValueError for a negative number of processes; `otherwise` says what leaving it out means."""
    if workers is not None and workers < 0:
        raise ValueError(f"workers={workers}; give a number of processes, 0 for this process, or leave it out for {otherwise}")


def workers_named(
    engine: str, address: str, workers: int | None, device: str, gpus_per_task: float, timeout: float | None
) -> "Pool | RayWorkers":
    """The back end that runs jobs, not started yet. Raises ValueError for an option of the other one."""
    if engine == "local":
        from certidote.engine.local import Pool

        if address != "auto" or gpus_per_task != 1.0:
            raise ValueError("--address and --gpus-per-task are for a Ray cluster; add --engine ray, or leave them out")
        check_workers(workers)
        return Pool(workers, timeout, device)
    if engine == "ray":
        from certidote.engine.cluster import RayWorkers

        if workers is not None:
            raise ValueError(f"--workers {workers} is for --engine local; a Ray cluster runs as many tasks as it has room for")
        return RayWorkers(address, device, gpus_per_task, timeout)
    raise ValueError(f"unknown engine {engine!r}; choose local or ray")


def has_test_split(data: str) -> bool:
    """Whether DATA has test images of its own; a name of the catalogue may name its training split, as in digits:train."""
    from certidote.data import splits_of
    from certidote.data.load import locate, without_count

    whole = without_count(data)
    source, _ = locate(whole)
    return "test" in splits_of(source if isinstance(source, str) else whole)


def test_split_of(data: str) -> str:
    """Where DATA's own test images are; errors about a missing split come from the loader."""
    from certidote.data.load import locate, without_count

    if has_test_split(data):
        whole = without_count(data)
        source, _ = locate(whole)
        return f"{source}:test" if isinstance(source, str) else whole
    raise ValueError(
        f"{data} has no test split of its own; give test images with --test (in any form of DATA, with the same classes)"
    )


def training_and_test(data: str, test: str, size: str, skip_corrupt: bool) -> tuple["ImageDataset", tuple[str, "ImageDataset"]]:
    """The training images of DATA, and name and images of the test set: the one that is given, or DATA's own.

    Raises: ValueError, in one line, as the loader, or if the two do not go together.
    """
    from certidote.data import load, load_test
    from certidote.data.checks import check_same_classes

    train_set = load(data, "train", size=size, skip_corrupt=skip_corrupt)
    test_name = test or test_split_of(data)
    test_set = load_test(test_name, train_set.class_names, size=size, skip_corrupt=skip_corrupt)
    check_same_classes(train_set, test_set)
    return train_set, (test_name, test_set)


def recipe_named(name: str, data: "ImageDataset", model: str = "") -> Any:
    """The recipe, with the user's own architecture in it if one is named; a recipe file cannot name code by itself."""
    from certidote.training.own import confirmed, imported, is_own
    from certidote.training.recipe import load_recipe

    if name == "auto":
        name = _recipe_for(data.image_shape, model)
    recipe = load_recipe(name)
    if not model:
        confirmed(recipe.architecture, model, "model", f"recipe {name!r}")
        return recipe
    if is_own(recipe.architecture):
        confirmed(recipe.architecture, model, "model", f"recipe {name!r}")
    imported(model, "model")
    return recipe.model_copy(update={"architecture": model})


def _recipe_for(image_shape: tuple[int, int, int], model: str) -> str:
    """What "auto" takes: "compact", the network for photographs, where images have colors and are large enough for its shifts. It mirrors
    images: gray ones may be letters."""
    channels, height, width = image_shape
    if channels == 3 and min(height, width) >= 16 and not model:
        return "compact"
    return "cnn" if model or channels * height * width > 256 else "mlp"


def trainer_named(recipe: Any, data: "ImageDataset", dtype: str, pretrained_trusted: bool, device: str) -> Any:
    """The trainer for a recipe that fits the images; an architecture of the user's own is checked too, as far as that goes."""
    from certidote.training.own import check_model, is_own
    from certidote.training.pooled import trainer_for
    from certidote.training.recipe import check_fits

    check_fits(recipe, data.image_shape, data.num_classes)
    if not is_own(recipe.architecture):
        if pretrained_trusted:
            raise ValueError("--pretrained-trusted speaks of weights that --model loads; give --model, or leave it out")
        return trainer_for(recipe, dtype, device=device)  # type: ignore[arg-type]
    sources = check_model(recipe.architecture, data.image_shape, data.num_classes, pretrained_trusted)
    start = "trusted" if pretrained_trusted else "fresh"
    return trainer_for(recipe, dtype, start=start, sources=sources, device=device)  # type: ignore[arg-type]


def transformed_test(
    test: "ImageDataset", transform: str, image_shape: tuple[int, int, int]
) -> tuple["ImageDataset", dict[str, Any]]:
    """Test images through the user's own transform, and what the configuration says about it; untouched and {} without one.

    Their names and notes stay, and one more note names the function.
    """
    from dataclasses import replace

    from certidote.training.own import transformed

    if not transform:
        return test, {}
    images, sources = transformed(transform, test.images, image_shape)
    notes = (*test.notes, f"test images passed through the function {transform}")
    return replace(test, images=images, notes=notes), {"test_transform": {"name": transform, "sources": sources}}


def disk_lines(out: Path, recipe: Any, data: "ImageDataset", members: int) -> str:
    """What the members' weights will take, for plans.

    Raises: ValueError if the disk has less left than that.
    """
    import shutil

    from certidote.training.kept import bytes_of_member

    size = members * bytes_of_member(recipe.architecture, data.image_shape, data.num_classes)
    have = sum(file.stat().st_size for file in (out / "weights").glob("*.safetensors"))
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if size - have > free:
        raise ValueError(
            f"the weights of {members} members take {in_bytes(size)}, but {place} has {in_bytes(free)} left; free space, give another "
            "run directory, or leave out --keep-weights"
        )
    return f"weights: {in_bytes(size)} in {out / 'weights'}, {in_bytes(free)} free"


def in_bytes(size: int) -> str:
    """A size on the disk in words: "512 bytes", "41.9 MB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"


def denoiser_named(
    name: str, data: "ImageDataset", dtype: str, size: str = "", skip_corrupt: bool = False, threads: int | None = None
) -> "Denoiser":
    """The denoiser that `name` stands for; `size`, `skip_corrupt` and `threads` are for reading the trusted images of a closed form."""
    from certidote.diffusion.denoiser import load
    from certidote.diffusion.multistep import called, calls_named

    asked = name
    name, steps = calls_named(name, _means_itself)
    if name == "auto":
        if data.image_shape not in FITTING:
            shape, known = (", ".join("x".join(map(str, each)) for each in shapes) for shapes in ([data.image_shape], FITTING))
            raise ValueError(
                f"no packaged denoiser fits {shape} images (there are some for {known}); give --denoiser DIR (make one from images you "
                "trust with 'certidote denoiser train TRUSTED --out DIR'), or --denoiser none for noise only"
            )
        name = FITTING[data.image_shape]
    kind, _, trusted = name.partition(":")
    if kind in CLOSED_FORMS and trusted:
        loaded = _closed_form(kind, trusted, name, size, skip_corrupt, threads)
    else:
        loaded = load(name, dtype=dtype)  # type: ignore[arg-type]
    if loaded.card.image_shape is not None and loaded.card.image_shape != data.image_shape:
        expected, given = ("x".join(map(str, shape)) for shape in (loaded.card.image_shape, data.image_shape))
        raise ValueError(
            f"denoiser {asked!r} is for {expected} images, but the data has {given}; train one on images of that shape"
        )
    return called(loaded, steps)


FITTING = {(1, 8, 8): "digits", (3, 32, 32): "tiny-imagenet-32"}
"""What "auto" takes, by image shape: denoisers of data that an untrusted set is unlikely to share."""

CLOSED_FORMS = ("linear-mmse", "kernel")


def _means_itself(name: str) -> bool:
    """Whether a denoiser's name that ends as one in several steps does is a whole name: of trusted images that are there, or a folder."""
    from certidote.diffusion.denoiser import is_folder

    kind, _, trusted = name.partition(":")
    if kind in CLOSED_FORMS and trusted:
        return os.path.exists(os.path.expanduser(trusted))
    return name.rpartition("@")[0] != "auto" and is_folder(name)


def _closed_form(kind: str, trusted: str, name: str, size: str, skip_corrupt: bool, threads: int | None) -> "Denoiser":
    from certidote.data import load_with_findings
    from certidote.diffusion.closed_form import KernelPosteriorMean, LinearMMSE

    images = load_with_findings(trusted, "train", size=size, skip_corrupt=skip_corrupt, threads=threads).data
    return LinearMMSE(images, name) if kind == "linear-mmse" else KernelPosteriorMean(images, name=name)


def dtype_of_run(out: Path, dtype: str, device: str) -> str:
    """What a run was started with, if it was and nothing is asked for: the probe may differ from one day to the next."""
    from certidote.engine.ledger import Ledger
    from certidote.numerics import resolve_dtype

    path = out / "ledger.sqlite"
    if dtype == "auto" and path.is_file():
        with Ledger(path, read_only=True) as ledger:
            config = ledger.get("config")
        if config is not None:
            return str(config["dtype"])
    if dtype == "auto" and not computes_here(device):
        raise ValueError(f"no {device} device here to find the faster number format on; give --dtype bfloat16 or float32")
    return resolve_dtype(dtype, device)


def command_line() -> str:
    """The command line, where there is one: of the installed command, or of `python -m certidote.cli`."""
    program = Path(sys.argv[0])
    name = "certidote" if program.parts[-2:] == ("certidote", "cli.py") else program.name
    return shlex.join(["certidote", *sys.argv[1:]]) if name in ("certidote", "certidote.exe") else f"called from {name or 'Python'}"
