"""`data info` and `data fetch`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certidote.verbs.choices import check_directory
from certidote.verbs.options import Data, Size, SkipCorrupt

if TYPE_CHECKING:
    from certidote.data.folder import Loaded
    from certidote.types import Progress


def data_info(
    data: Data,
    *,
    split: Annotated[str, typer.Option(help="only this part, such as train; default: every part")] = "",
    size: Size = "",
    skip_corrupt: SkipCorrupt = False,
) -> dict[str, Any]:
    """What is in DATA: sizes, classes, counts, converted and corrupt images, exact duplicates, digest; and why certify would refuse it.

    Images of several sizes, corrupt ones and classes without images are listed, all of them. Corrupt files are a failure (status 2)
    unless they are to be left out.
    """
    from certidote.data import splits_of
    from certidote.data.checks import in_range
    from certidote.data.duplicates import shared

    names = (split,) if split else splits_of(data)
    sets, unfit = _read(data, names, size)
    sizes = [set(loaded.sizes) for _, loaded in sets]
    return {
        "data": str(data),
        "splits": [_part(name, loaded, surveyed=bool(unfit), skip_corrupt=skip_corrupt) for name, loaded in sets],
        "shared": shared([(name, loaded.data) for name, loaded in sets]),
        "refusals": [*unfit, *_refusals(sets, surveyed=bool(unfit))],
        "needs_size": bool(unfit) and not size and any(len(each) > 1 or not all(map(in_range, each)) for each in sizes),
        "skip_corrupt": skip_corrupt,
    }


def _read(data: str, names: tuple[str, ...], size: str) -> tuple[list[tuple[str, "Loaded"]], list[str]]:
    """Every part as `certify` would take it, without the corrupt files; if one is no data set as it is, all parts surveyed, and why."""
    from certidote.data import load_with_findings, surveyed
    from certidote.data.checks import Unfit

    try:
        return [(name, load_with_findings(data, name, size=size, skip_corrupt=True)) for name in names], []
    except Unfit as error:
        return [(name, surveyed(data, name)) for name in names], [str(error)]


def _part(name: str, loaded: "Loaded", *, surveyed: bool, skip_corrupt: bool) -> dict[str, Any]:
    from certidote.data.decode import corrupt_note
    from certidote.data.duplicates import duplicates

    found = loaded.data
    counts = found.labels.bincount(minlength=found.num_classes).tolist()
    left_out = corrupt_note(len(loaded.skipped))
    channels, *sides = found.image_shape
    if surveyed:
        sides = list(next(iter(loaded.sizes))) if len(loaded.sizes) == 1 else []
    sizes = sorted(loaded.sizes.items(), key=lambda each: (-each[1], each[0]))
    return {
        "split": name,
        "images": len(found),
        "channels": channels,
        "image_shape": [channels, *sides] if sides else None,
        "sizes": {f"{height}x{width}": count for (height, width), count in sizes},
        "classes": dict(zip(found.class_names, counts, strict=True)),
        "converted": loaded.kinds,
        "skipped": [{"name": file, "reason": reason} for file, reason in loaded.skipped],
        "notes": [note for note in found.notes if skip_corrupt or note != left_out],
        "duplicates": duplicates(found),
        "digest": None if surveyed else found.digest(),
        "surveyed_digest": found.digest() if surveyed else None,
    }


def _refusals(sets: list[tuple[str, "Loaded"]], *, surveyed: bool) -> list[str]:
    """What `certify` would say of the training set, and of each other part taken for test images."""
    from certidote.data import check_same_classes, named_as
    from certidote.data.checks import check_learned

    train = next((loaded.data for name, loaded in sets if name == "train"), None)
    if train is None:
        return []
    others = [(name, named_as(loaded.data, train.class_names)) for name, loaded in sets if name not in ("train", "trusted")]
    found = []
    try:
        if not others:
            check_learned(train)
    except ValueError as error:
        found.append(str(error))
    for name, other in others:
        try:
            check_same_classes(train, other, shapes=not surveyed)
        except ValueError as error:
            found.append(f"with {name} as test images, {error}")
    return found


def data_fetch(
    name: Annotated[str, typer.Argument(help="cifar10, or cifar10-binary")],
    *,
    out: Annotated[Path, typer.Option(help="folder to put the file into")],
    mirror: Annotated[str, typer.Option(help="address of the file on a server of yours, in place of the known ones")] = "",
    progress: "Progress | None" = None,
) -> Path:
    """Download a known data set, checked against its published digest; the same command goes on with a broken download."""
    from certidote.data.fetch import SOURCES, fetch

    if name not in SOURCES:
        raise ValueError(f"nothing to fetch is called {name!r}; choose one of: {', '.join(SOURCES)}")
    check_directory(out)
    return fetch(SOURCES[name], out, (mirror,) if mirror else (), progress)
