"""The tutorial's two folders, from an archive (.tar.xz) of small images laid out as train/CLASS/* and test/CLASS/*.

OUT/trusted holds some classes, for the denoiser; OUT/untrusted/train and /test hold other classes, for the classifier. PNG files,
one sub-folder per class. Which classes and images are taken is fixed by sorted names, so everyone gets the same folders.
"""

import argparse
import tarfile
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import IO

from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archive", type=Path, required=True, help="a tar archive of train/CLASS/* and test/CLASS/*")
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--classes", type=int, default=8, help="classes of the untrusted images")
    parser.add_argument("--images", type=int, default=2000, help="untrusted training images, equally many of each class")
    parser.add_argument("--trusted-classes", type=int, default=40)
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"{arguments.out} exists already; give another folder")
    print(*build(arguments.archive, arguments.out, arguments.classes, arguments.images, arguments.trusted_classes), sep="\n")


def build(archive: Path, out: Path, classes: int, images: int, trusted_classes: int) -> list[str]:
    """Write the folders and say how many images went where."""
    with tarfile.open(archive) as tar:
        members: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name in tar.getnames():
            parts = PurePosixPath(name).parts
            if len(parts) >= 3 and parts[-3] in ("train", "test"):
                members[parts[-3], parts[-2]].append(name)
    names = sorted({name for split, name in members if split == "train"})
    if len(names) < classes + trusted_classes:
        raise SystemExit(f"error: {archive} has {len(names)} classes; {classes} + {trusted_classes} are needed")
    untrusted, trusted = names[:classes], names[classes : classes + trusted_classes]
    wanted: dict[str, Path] = {}
    for name in untrusted:
        wanted |= _targets(sorted(members["train", name])[: images // classes], out / "untrusted" / "train" / name)
        wanted |= _targets(sorted(members["test", name]), out / "untrusted" / "test" / name)
    for name in trusted:
        wanted |= _targets(sorted(members["train", name]), out / "trusted" / name)
    with tarfile.open(archive) as tar:
        for entry in tar:
            if entry.name in wanted and entry.isfile() and (file := tar.extractfile(entry)) is not None:
                _save(file, wanted[entry.name])
    return [f"{len(list(folder.rglob('*.png')))} images in {folder}" for folder in (out / "trusted", out / "untrusted")]


def _targets(names: list[str], folder: Path) -> dict[str, Path]:
    return {name: folder / f"{PurePosixPath(name).stem}.png" for name in names}


def _save(file: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.open(file, formats=("JPEG", "PNG")).convert("RGB").save(target)


if __name__ == "__main__":
    main()
