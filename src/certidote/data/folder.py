"""A folder of image files, one sub-folder per class, as an `ImageDataset`.

Decoding comes before the noise, so it belongs to the data: a perturbation budget or certified radius speaks of the 8-bit arrays
made here, not of the bytes in the files (two JPEG files may differ little in bytes and much in pixels).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps

from certidote.data.checks import check_class_names, check_image_size, quoted, readable
from certidote.types import ImageDataset

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
"""The only decoders that may touch a file, whatever its name pretends. Pillow knows dozens more, some of them rarely tested."""

SPLIT_NAMES = ("train", "test", "val", "valid", "validation", "trusted")
SYSTEM_FILES = ("Thumbs.db", "desktop.ini", "__MACOSX")
GREY_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def read_folder(root: Path, split: str) -> ImageDataset:
    """All images below `root`: classes in sorted order of their folder names, files in sorted order of their names.

    Images are grey (1 channel) if every file is stored as grey, else RGB. Transparency is laid over white, EXIF orientation
    applied, 16-bit grey rounded to 255 levels (16-bit color keeps its high bytes); an animation counts as its first frame. Names
    that begin with a dot, and the litter of Windows and macOS, are ignored; so are files beside the class folders that are not
    images.

    Args:
        root: holds one sub-folder per class; or folders named as in `SPLIT_NAMES`, "train" or "test" among them, that do.
        split: which of these to read; "train" if the classes lie directly in `root`.
    Raises: ValueError, naming the path, for a missing split, an unreadable, empty or single class folder, a file that is no image
        or is damaged, images of different sizes, sizes or numbers of classes out of range.
    """
    root, names, files = list_images(root, split)
    images = _decoded([root / name / file for name, of_class in zip(names, files, strict=True) for file in of_class])
    labels = np.repeat(np.arange(len(names)), [len(of_class) for of_class in files]).astype(np.int64)
    return ImageDataset(torch.from_numpy(images), torch.from_numpy(labels), names)


def list_images(root: Path, split: str) -> tuple[Path, tuple[str, ...], list[tuple[str, ...]]]:
    """What `read_folder` would read: the folder that holds the classes, their names, and the names of the files of each.

    Raises: ValueError as `read_folder` does, as far as names tell.
    """
    root = _split_folder(root, split)
    classes = _class_folders(root)
    names = tuple(folder.name for folder in classes)
    check_class_names(names, f"folder {quoted(root)}")
    return root, names, [tuple(file.name for file in _image_files(folder)) for folder in classes]


def read_image(file: Path) -> UInt8[np.ndarray, "c h w"]:
    """One image file as `read_folder` reads it, grey with 1 channel or RGB. Raises ValueError naming the file."""
    return _levels(file)


def check_same_size(first: Path, levels: UInt8[np.ndarray, "..."], file: Path, others: UInt8[np.ndarray, "..."]) -> None:
    """Raises: ValueError, naming both files, if two images differ in height or width."""
    if others.shape[1:] != levels.shape[1:]:
        height, width = others.shape[1:]
        raise ValueError(
            f"{quoted(first)} has {levels.shape[1]}x{levels.shape[2]} pixels but {quoted(file)} has {height}x{width} "
            "(height x width); all images need one size, resize them first"
        )


def is_hidden(name: str) -> bool:
    """Whether `read_folder` overlooks a file or folder of this name."""
    return name.startswith(".") or name in SYSTEM_FILES


def _listing(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"folder {quoted(folder)} cannot be read ({error.strerror}); check its permissions") from error
    return [entry for entry in entries if not is_hidden(entry.name)]


def _split_folder(root: Path, split: str) -> Path:
    # A class may be called "train" (vehicles, say): only one that holds folders itself is a split.
    candidates = [root / name for name in SPLIT_NAMES if (root / name).is_dir()]
    splits = [folder.name for folder in candidates if any(entry.is_dir() for entry in _listing(folder))]
    if "train" in splits or "test" in splits:
        if split not in splits:
            raise ValueError(f"folder {quoted(root)} has no split {split!r}; choose one of: {', '.join(splits)}")
        return root / split
    if split != "train":
        raise ValueError(
            f"folder {quoted(root)} has no split {split!r}, it is one set; give the folder of the {split} images, "
            f"or put train/ and {split}/ folders into it"
        )
    return root


def _class_folders(root: Path) -> list[Path]:
    entries = _listing(root)
    for entry in entries:
        if entry.suffix.lower() in EXTENSIONS and not entry.is_dir():
            raise ValueError(f"image {quoted(entry)} lies outside every class folder; move it into the folder of its class")
    folders = [entry for entry in entries if entry.is_dir()]
    if not folders:
        raise ValueError(f"folder {quoted(root)} holds no class folders; put the images of each class into a sub-folder")
    return folders


def _image_files(folder: Path) -> list[Path]:
    files = _listing(folder)
    if not files:
        raise ValueError(f"class folder {quoted(folder)} holds no images; add some, or remove the folder")
    for file in files:
        if file.is_dir():
            raise ValueError(f"class folder {quoted(folder)} holds a folder, {file.name!r}; it may hold image files only")
        if file.suffix.lower() not in EXTENSIONS:
            allowed = ", ".join(EXTENSIONS)
            raise ValueError(f"{quoted(file)} is not an image file; class folders may hold only {allowed}")
        if not file.is_file():  # opening a named pipe would wait forever
            raise ValueError(f"{quoted(file)} is a broken link or not a regular file; remove it")
    return files


def _decoded(files: list[Path]) -> UInt8[np.ndarray, "n c h w"]:
    first = _levels(files[0])
    images = np.empty((len(files), *first.shape), dtype=np.uint8)
    for row, file in enumerate(files):
        levels = _levels(file)
        check_same_size(files[0], first, file, levels)
        if len(levels) > images.shape[1]:  # the first color image after grey ones
            images = np.repeat(images, len(levels), axis=1)
        images[row] = levels
    return images


def _levels(file: Path) -> UInt8[np.ndarray, "c h w"]:
    with _pillow(file):
        image = Image.open(file, formats=FORMATS)
    with image:
        check_image_size(image.height, image.width, quoted(file))  # before a pixel of a decompression bomb is unpacked
        with _pillow(file):
            return _upright_levels(ImageOps.exif_transpose(image))


@contextmanager
def _pillow(file: Path) -> Iterator[None]:
    with readable(file, "PNG, JPEG, BMP or WebP image"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # damaged EXIF: common in photos, and then there is no orientation to apply
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _upright_levels(image: Image.Image) -> UInt8[np.ndarray, "c h w"]:
    if image.mode in GREY_16_BIT:
        return np.rint(np.asarray(image).astype(np.float64) * (255 / 65_535)).clip(0, 255).astype(np.uint8)[None]
    grey = image.mode in ("1", "L", "LA")
    if "A" in image.mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    levels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    return levels[:1] if grey else levels
