"""`data info` and `data fetch`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certidote.verbs.choices import check_directory
from certidote.verbs.options import Data, Size, SkipCorrupt

if TYPE_CHECKING:
    from certidote.types import Progress


def data_info(
    data: Data,
    *,
    split: Annotated[str, typer.Option(help="only this part, such as train; default: every part")] = "",
    size: Size = "",
    skip_corrupt: SkipCorrupt = False,
) -> dict[str, Any]:
    """What is in DATA: sizes, classes, counts, converted and corrupt images, exact duplicates, digest."""
    from certidote.data import load_with_findings, splits_of
    from certidote.data.duplicates import duplicates, shared

    parts = []
    sets = []
    for name in (split,) if split else splits_of(data):
        loaded = load_with_findings(data, name, size=size, skip_corrupt=skip_corrupt)
        found = loaded.data
        sets.append((name, found))
        counts = found.labels.bincount(minlength=found.num_classes).tolist()
        parts.append(
            {
                "split": name,
                "images": len(found),
                "image_shape": list(found.image_shape),
                "classes": dict(zip(found.class_names, counts, strict=True)),
                "converted": loaded.kinds,
                "skipped": [{"name": file, "reason": reason} for file, reason in loaded.skipped],
                "notes": list(found.notes),
                "duplicates": duplicates(found),
                "digest": found.digest(),
            }
        )
    return {"data": str(data), "splits": parts, "shared": shared(sets)}


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
