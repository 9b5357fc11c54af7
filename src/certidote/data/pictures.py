"""Images without classes: what a deployed classifier is asked about. Every form of a data set that `load` reads is read alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from certidote.data.archive import is_archive, opened
from certidote.data.checks import Refused, quoted
from certidote.data.cifar import is_cifar
from certidote.data.decode import Reading, decoded
from certidote.data.folder import EXTENSIONS, SPLIT_NAMES, Node, folders_in, image_files, inner, listing, path_inside, sources
from certidote.data.load import counted, first_rows, load_with_findings, locate, splits_of
from certidote.data.names import escaped
from certidote.data.npz import read_npz_images
from certidote.data.parquet import parquet_files
from certidote.data.resize import resized_images

FORMS = (
    "an image file, a folder of images, an .npz file, or any other form of a data set (a .zip or .tar of images, parquet, CIFAR-10)"
)


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images of one shape and what to call each: a file's path below the folder given, or a row number.

    Attributes:
        names: (n,), one for each image.
        images: (n, c, h, w) uint8.
        skipped: name of each corrupt file that was left out, and why.
    """

    names: tuple[str, ...]
    images: UInt8[Tensor, "n c h w"]
    skipped: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.names)


def read_pictures(path: str, channels: int | None = None, reading: Reading | None = None) -> Pictures:
    """Images of one file, of a folder or archive of image files or of class folders, of an .npz archive (labels are not needed), or
    of any other data set that `load` reads; the test split of what has splits. Pixels come out as `load` gives them.

    Args:
        path: file, folder, or name of a data set; a suffix as in "photos:train" chooses another split, and "#50" at the very end takes
            50 of the images, those that `load` takes.
        channels: of the classifier: 3 repeats the grey of grey images, 1 refuses color; None takes what is there.
        reading: as the classifier's training images were read: the size that images are resized to, and whether corrupt files are
            left out; None: as they are, all of them.
    Raises: ValueError, in one line, naming the path, if there are no images, one is damaged, or sizes or colors do not fit.
    """
    reading = reading or Reading()
    whole, count = counted(path)
    found = _read(whole, channels, reading)
    if count is None:
        return found
    if not 1 <= count <= len(found):
        raise ValueError(f"{quoted(path)}: #{count} of {len(found)} images; give a number from 1 to {len(found)}")
    rows = first_rows(len(found), count)
    return Pictures(tuple(found.names[row] for row in rows.tolist()), found.images[rows], found.skipped)


def _read(path: str, channels: int | None, reading: Reading) -> Pictures:
    try:
        place, split = locate(path, "")
    except ValueError:
        raise ValueError(f"there is no file or folder {path!r}; give {FORMS}") from None
    if isinstance(place, str) or parquet_files(place):
        return _of_data_set(path, split, channels, reading)
    if place.suffix.lower() == ".npz" and not place.is_dir():
        return _of_arrays(place, split or "test", channels, reading)
    if place.suffix.lower() in EXTENSIONS and not place.is_dir():
        return _decoded([place], (escaped(place.name),), channels, reading)
    if not place.is_dir() and not is_archive(place):
        raise ValueError(f"{quoted(place)} is no image file (those end in {', '.join(EXTENSIONS)}); give {FORMS}")
    root = place if place.is_dir() else opened(place)
    if is_cifar(root):
        return _of_data_set(path, split, channels, reading)
    files = _files(inner(root), split)
    return _decoded(files, tuple(path_inside(file, root) for file in files), channels, reading)


def _of_data_set(path: str, split: str, channels: int | None, reading: Reading) -> Pictures:
    named = splits_of(path)
    split = split or (named[0] if len(named) == 1 else "test")
    loaded = load_with_findings(path, split, size=reading.size, skip_corrupt=reading.skip_corrupt)
    data = loaded.data
    names = data.names or tuple(f"{escaped(path)}[{row}]" for row in range(len(data)))
    return Pictures(names, _colored(data.images, channels, quoted(path)), loaded.skipped)


def _of_arrays(place: Path, split: str, channels: int | None, reading: Reading) -> Pictures:
    levels = read_npz_images(place, split, any_size=reading.size is not None)
    if reading.size is not None:
        levels = resized_images(levels, reading.size)
    names = tuple(f"{escaped(place.name)}[{row}]" for row in range(len(levels)))
    return Pictures(names, _colored(torch.from_numpy(levels), channels, quoted(place)))


def _files(folder: Node, split: str) -> list[Node]:
    """All image files of a folder, or of its class folders, or of those of one of its splits ("": the test split, if there are any).

    Raises: ValueError if there are none, or it is not clear which are meant.
    """
    entries = listing(folder)
    if not entries:
        raise ValueError(f"folder {quoted(folder)} is empty; give {FORMS}")
    folders = {entry.name: entry for entry in folders_in(folder, entries)}
    loose = next((entry for entry in entries if entry.suffix.lower() in EXTENSIONS and not entry.is_dir()), None)
    if loose is not None and folders:
        raise ValueError(
            f"folder {quoted(folder)} holds both images ({loose.name!r}) and folders ({next(iter(folders))!r}); give one kind"
        )
    if split:
        if split not in folders:
            raise ValueError(f"folder {quoted(folder)} has no split {split!r}; leave it out, or give the folder of the images")
        return _files(folders[split], "")
    if "test" in folders and any(name in SPLIT_NAMES for name in folders if name != "test"):
        return _files(folders["test"], "")
    return [file for each in folders.values() for file in image_files(each)] if folders else image_files(folder)


def _decoded(files: Sequence[Node], names: tuple[str, ...], channels: int | None, reading: Reading) -> Pictures:
    found = decoded(sources(files), lambda row: str(files[row]), len(files), reading)
    images = torch.from_numpy(found.images)
    where = quoted(_first_in_color(files, reading) if channels == 1 and images.shape[1] == 3 else files[0])
    kept = tuple(name for name, there in zip(names, found.kept, strict=True) if there)
    return Pictures(kept, _colored(images, channels, where), tuple((names[row], reason) for row, reason in found.treatment.skipped))


def _first_in_color(files: Sequence[Node], reading: Reading) -> Node:
    for row, source in sources(files):
        try:
            alone = decoded([(0, source)], lambda _, row=row: str(files[row]), 1, reading)  # type: ignore[misc]
        except Refused:  # a corrupt one, which is left out
            continue
        if alone.images.shape[1] == 3:
            return files[row]
    return files[0]


def _colored(images: UInt8[Tensor, "n c h w"], channels: int | None, where: str) -> UInt8[Tensor, "n c2 h w"]:
    if channels in (None, images.shape[1]):
        return images
    if images.shape[1] == 1:
        return images.repeat(1, 3, 1, 1)
    raise ValueError(f"{where} is in color, but the classifier takes gray images; convert it to gray first")
