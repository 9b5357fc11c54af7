"""Image files in one folder per class, in a folder or in an archive of one, as an `ImageDataset`."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from certidote.data.archive import Member, contents
from certidote.data.checks import Refused, Unfit, check_class_names, check_distinct, quoted
from certidote.data.decode import Reading, decoded
from certidote.data.names import escaped
from certidote.data.resize import Size
from certidote.types import ImageDataset

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
SPLIT_NAMES = ("train", "test", "val", "valid", "validation", "trusted")
SYSTEM_FILES = ("Thumbs.db", "desktop.ini", "__MACOSX")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""What the imagefolder layout of Hugging Face puts beside images. Classes come from folders, so it is not read, and a note says so."""

Node = Path | Member
"""A folder or file, on the disk or in an archive."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A data set and how it came to be.

    Attributes:
        data: with its notes.
        kinds: how many images were of each kind that had to be converted (see `decode.KINDS`), and how many were resized.
        sizes: how many images had each (height, width) before they were resized.
        skipped: name of each corrupt file that was left out, and why.
    """

    data: ImageDataset
    kinds: dict[str, int]
    sizes: dict[Size, int]
    skipped: tuple[tuple[str, str], ...] = ()


def read_folder(root: Node, split: str, reading: Reading) -> Loaded:
    """All images below `root`: classes in sorted order of their folder names, files in sorted order of their names.

    Images are grey (1 channel) if every file is stored as grey, else RGB. Transparency is laid over white, EXIF orientation
    applied, 16-bit grey rounded to 255 levels (16-bit color keeps its high bytes), CMYK converted without a color profile; an
    animation counts as its first frame. Notes say what of this happened. Names that begin with a dot, and the litter of Windows and
    macOS, are ignored; so are files beside the class folders that are not images. A single folder around everything, as archives
    often have, is looked into.

    Args:
        root: holds one sub-folder per class; or folders named as in `SPLIT_NAMES`, "train" or "test" among them, that do.
        split: which of these to read; "train" if the classes lie directly in `root`.
    Raises: ValueError, naming the path, for a missing split, an unreadable, empty or single class folder, names that differ only in
        case, a file that is no image or is damaged, images of different sizes, sizes or numbers of classes out of range.
    """
    found = list_images(root, split)
    names, of_class = found.class_names, found.files
    files = [file for each in of_class for file in each]
    pictures = decoded(sources(files), lambda row: str(files[row]), len(files), reading)
    labels = np.repeat(np.arange(len(names)), [len(each) for each in of_class]).astype(np.int64)[pictures.kept]
    if not reading.survey:
        check_classes_left(labels, names, found.folder)
    paths = tuple(path_inside(file, root) for file in files)
    data = ImageDataset(
        torch.from_numpy(pictures.images),
        torch.from_numpy(labels),
        names,
        tuple(path for path, kept in zip(paths, pictures.kept, strict=True) if kept),
        pictures.treatment.notes(reading) + ignored_notes(found.ignored),
    )
    skipped = tuple((paths[row], reason) for row, reason in pictures.treatment.skipped)
    return Loaded(data, dict(pictures.treatment.kinds), dict(pictures.treatment.sizes), skipped)


@dataclass(frozen=True)
class Listing:
    """What `read_folder` would read.

    Attributes:
        folder: that holds the class folders.
        class_names: of these.
        files: of each class, in order.
        ignored: names of metadata files beside the class folders.
    """

    folder: Node
    class_names: tuple[str, ...]
    files: tuple[tuple[Node, ...], ...]
    ignored: tuple[str, ...]


def list_images(root: Node, split: str) -> Listing:
    """The class folders and their files. Raises: ValueError as `read_folder` does, as far as names tell."""
    folder = _split_folder(inner(root), split)
    classes, ignored = _class_folders(folder)
    names = tuple(each.name for each in classes)
    check_class_names(names, f"folder {quoted(folder)}")
    check_distinct(names, "class folders", f"folder {quoted(folder)}")
    return Listing(folder, names, tuple(tuple(image_files(each)) for each in classes), ignored)


def ignored_notes(ignored: Sequence[str]) -> tuple[str, ...]:
    """What notes say of metadata files beside the class folders."""
    return tuple(f"{name} was not read: classes come from folder names" for name in ignored)


def check_classes_left(labels: Int64[np.ndarray, "kept"], class_names: Sequence[str], folder: Node) -> None:
    """Raises: ValueError if a class has lost all its images to `skip_corrupt`."""
    for label, name in enumerate(class_names):
        if not (labels == label).any():
            raise Unfit(f"every image of class {name!r} in {quoted(folder)} is corrupt; repair some, or remove the folder")


def folder_splits(root: Node) -> tuple[str, ...]:
    """The splits that `read_folder` finds below `root`; none if it is one set, whose name for `read_folder` is "train"."""
    return tuple(_splits(inner(root)))


def is_hidden(name: str) -> bool:
    """Whether `read_folder` overlooks a file or folder of this name."""
    return name.startswith(".") or name in SYSTEM_FILES


def listing(folder: Node) -> list[Node]:
    """What a folder holds, sorted by name, without what is hidden.

    Raises: ValueError if it cannot be read.
    """
    try:
        entries: list[Node] = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        raise Refused(f"folder {quoted(folder)} cannot be read ({error.strerror}); check its permissions") from error
    return [entry for entry in entries if not is_hidden(entry.name)]


def folders_in(folder: Node, entries: Sequence[Node]) -> list[Node]:
    """Which of a folder's entries are folders.

    Raises: ValueError if one is a link to the folder itself or to one above it, whose images nobody gave.
    """
    found = [entry for entry in entries if entry.is_dir()]
    for entry in found:
        if isinstance(entry, Path) and entry.is_symlink() and Path(os.path.realpath(str(folder))).is_relative_to(entry.resolve()):
            raise Refused(f"{quoted(entry)} is a link to the folder that holds it, or to one above; remove it")
    return found


def sources(files: Sequence[Node]) -> Iterator[tuple[int, bytes | Path]]:
    """(row, path or content) of files, all on the disk or all in one archive, as `decode.decoded` takes them."""
    members = [file for file in files if isinstance(file, Member)]
    if members:
        yield from contents(members)
    else:
        yield from ((row, file) for row, file in enumerate(files) if isinstance(file, Path))


def path_inside(file: Node, root: Node) -> str:
    """A file's path as below the folder or archive that was given, escaped, for names get written."""
    return escaped(file.path if isinstance(file, Member) else file.relative_to(str(root)).as_posix())


def inner(root: Node) -> Node:
    """The single folder around everything, as archives often have one; else `root` itself."""
    entries = listing(root)
    folders = folders_in(root, entries)
    alone = len(folders) == 1 and not any(_is_image(entry) for entry in entries) and folders[0].name not in SPLIT_NAMES
    return folders[0] if alone and any(entry.is_dir() for entry in listing(folders[0])) else root


def _splits(root: Node) -> dict[str, Node]:
    # A class may be called "train" (vehicles, say): only one that holds folders itself is a split.
    folders = {entry.name: entry for entry in folders_in(root, listing(root)) if entry.name in SPLIT_NAMES}
    splits = {
        name: folders[name] for name in SPLIT_NAMES if name in folders and any(entry.is_dir() for entry in listing(folders[name]))
    }
    return splits if "train" in splits or "test" in splits else {}


def _split_folder(root: Node, split: str) -> Node:
    splits = _splits(root)
    if splits:
        if split not in splits:
            raise Refused(f"folder {quoted(root)} has no split {split!r}; choose one of: {', '.join(splits)}")
        return splits[split]
    if split != "train":
        raise Refused(
            f"folder {quoted(root)} has no split {split!r}, it is one set; give the folder of the {split} images, "
            f"or put train/ and {split}/ folders into it"
        )
    return root


def _is_image(entry: Node) -> bool:
    return entry.suffix.lower() in EXTENSIONS and not entry.is_dir()


def _class_folders(root: Node) -> tuple[list[Node], tuple[str, ...]]:
    """The class folders, and the names of metadata files beside them."""
    entries = listing(root)
    for entry in entries:
        if _is_image(entry):
            raise Refused(f"image {quoted(entry)} lies outside every class folder; move it into the folder of its class")
        if isinstance(entry, Path) and entry.is_symlink() and not os.path.exists(entry):  # a class may have been meant
            raise Refused(f"{quoted(entry)} is a link that leads nowhere, or back to itself; remove it")
    folders = folders_in(root, entries)
    if not folders:
        raise Refused(f"folder {quoted(root)} holds no class folders; put the images of each class into a sub-folder")
    return folders, tuple(entry.name for entry in entries if entry.name in METADATA)


def image_files(folder: Node) -> list[Node]:
    """The image files of a folder that holds nothing else, sorted by name. Raises: ValueError, naming what does not belong there."""
    files = listing(folder)
    if not files:
        raise Refused(f"class folder {quoted(folder)} holds no images; add some, or remove the folder")
    for file in files:
        if file.is_dir():
            raise Refused(f"class folder {quoted(folder)} holds a folder, {file.name!r}; it may hold image files only")
        if file.suffix.lower() not in EXTENSIONS:
            allowed = ", ".join(EXTENSIONS)
            raise Refused(f"{quoted(file)} is not an image file; class folders may hold only {allowed}")
        if not file.is_file():  # opening a named pipe would wait forever
            raise Refused(f"{quoted(file)} is a broken link or not a regular file; remove it")
    check_distinct([file.name for file in files], "files", f"class folder {quoted(folder)}")
    return files
