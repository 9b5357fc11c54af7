"""Images without classes: what a deployed classifier is asked about."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from certidote.data.checks import quoted
from certidote.data.decode import Reading, image_levels
from certidote.data.folder import EXTENSIONS, SPLIT_NAMES, Node, image_files, listing
from certidote.data.load import CATALOGUE, load
from certidote.data.npz import read_npz_images
from certidote.data.resize import Size


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images of one shape and what to call each: a file's path below the folder given, or a row number.

    Attributes:
        names: (n,), one for each image.
        images: (n, c, h, w) uint8.
    """

    names: tuple[str, ...]
    images: UInt8[Tensor, "n c h w"]

    def __len__(self) -> int:
        return len(self.names)


def read_pictures(path: str, channels: int | None = None, size: Size | None = None) -> Pictures:
    """Images of one file, a folder of image files, a folder of class folders (its test split if it has splits), an .npz archive
    (labels are not needed), or a data set of the catalogue ("digits:test"). Pixels come out as the loaders of data sets give them.

    Args:
        path: file, folder, or name of a data set.
        size: (height, width) that image files are resized to, as the classifier's training images were; None: as they are.
        channels: of the classifier: 3 repeats the grey of grey images, 1 refuses color; None takes what is there.
    Raises: ValueError, in one line, naming the path, if there are no images, one is damaged, or sizes or colors do not fit.
    """
    if path.split(":")[0] in CATALOGUE:
        images = load(path, "test", size=size).images
        return Pictures(tuple(f"{path}[{row}]" for row in range(len(images))), _colored(images, channels, path))
    place = Path(path).expanduser()
    if not place.exists():
        raise ValueError(f"there is no file or folder {path!r}; give an image file, a folder of images, or an .npz file")
    if place.is_dir():
        files = _files(place)
        return _read(files, [str(file.relative_to(place)) for file in files], channels, Reading(size))
    if place.suffix.lower() == ".npz":
        images = torch.from_numpy(read_npz_images(place, "test"))
        return Pictures(tuple(f"{place.name}[{row}]" for row in range(len(images))), _colored(images, channels, quoted(place)))
    if place.suffix.lower() not in EXTENSIONS:
        raise ValueError(
            f"{quoted(place)} is no image file; give one of {', '.join(EXTENSIONS)}, a folder of them, or an .npz file"
        )
    return _read([place], [place.name], channels, Reading(size))


def _files(folder: Path) -> list[Path]:
    """All image files of a folder, or of its class folders, or of those of its test split."""
    return [file for file in _nodes(folder) if isinstance(file, Path)]


def _nodes(folder: Node) -> list[Node]:
    entries = listing(folder)
    if not entries:
        raise ValueError(f"folder {quoted(folder)} is empty; give an image file, a folder of images, or an .npz file")
    folders = [entry for entry in entries if entry.is_dir()]
    if not folders:
        return image_files(folder)
    loose = next((entry for entry in entries if entry.suffix.lower() in EXTENSIONS and not entry.is_dir()), None)
    if loose is not None:
        raise ValueError(
            f"folder {quoted(folder)} holds both images ({loose.name!r}) and folders ({folders[0].name!r}); give one kind"
        )
    if "test" in [each.name for each in folders] and any(each.name in SPLIT_NAMES for each in folders if each.name != "test"):
        return _nodes(next(each for each in folders if each.name == "test"))
    return [file for each in folders for file in image_files(each)]


def _read(files: Sequence[Path], names: Sequence[str], channels: int | None, reading: Reading) -> Pictures:
    if not files:
        raise ValueError("there are no images to classify")
    images: list[Tensor] = []
    for file in files:
        image = _colored(torch.from_numpy(image_levels(file, reading).copy())[None], channels, quoted(file))[0]
        if images and image.shape != images[0].shape:
            given, first = ("x".join(map(str, each.shape[1:])) for each in (image, images[0]))
            raise ValueError(
                f"{quoted(file)} has {given} pixels but {quoted(files[0])} has {first} (height x width); resize one of them"
            )
        images.append(image)
    return Pictures(tuple(names), torch.stack(images))


def _colored(images: UInt8[Tensor, "n c h w"], channels: int | None, where: str) -> UInt8[Tensor, "n c2 h w"]:
    if channels in (None, images.shape[1]):
        return images
    if images.shape[1] == 1:
        return images.repeat(1, 3, 1, 1)
    raise ValueError(f"{where} is in color, but the classifier takes grey images; convert it to grey first")
