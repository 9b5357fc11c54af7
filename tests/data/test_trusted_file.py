from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from certidote.data.tiny import tiny
from certidote.data.trusted import crowded, trusted_rows
from certidote.streams import Key
from certidote.types import ImageDataset

DATA = tiny(3, 2, (1, 8, 8), Key(0))
NAMED = replace(DATA, names=("train/a/1.png", "train/a/2.png", "train/a/12", "train/b/1.png", "train/b/2 3.png", "7"))


def rows(text: str | bytes, folder: Path, data: ImageDataset = DATA) -> tuple[int, ...]:
    file = folder / "trusted.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return trusted_rows(file, data, "photos")


def test_rows_and_paths_are_found(tmp_path: Path) -> None:
    assert rows("4\n0\n\n 2\r\n", tmp_path) == (0, 2, 4)
    assert rows("train/b/2 3.png\ntrain/a/1.png\n2", tmp_path, NAMED) == (0, 2, 4)
    assert rows("7\n", tmp_path, NAMED) == (5,), "a path that looks like a number is a path"
    assert rows(b"\xef\xbb\xbf3\n", tmp_path) == (3,), "the mark that Windows editors write is no part of the first line"


@pytest.mark.parametrize(
    ("text", "data", "expected"),
    [
        ("0\n6\n", DATA, "trusted.txt', line 2: row 6 does not exist; photos has rows 0 to 5"),
        ("9" * 30, DATA, "does not exist"),
        ("-1\n", DATA, "'-1' is no row number; the images of photos have no paths, give rows 0 to 5"),
        ("a/1.png", DATA, "have no paths"),
        ("train/a/3.png", NAMED, "photos has no image 'train/a/3.png'; give paths relative to that folder (such as train/a/1.png)"),
        ("../train/a/1.png", NAMED, "has no image"),
        ("1\ntrain/a/2.png", NAMED, "line 2: 'train/a/2.png' is the image of line 1; name each image once"),
        ("\n \n", DATA, "names no image"),
        (b"\xff\xfe1", DATA, "is not UTF-8 text"),
    ],
)
def test_lines_that_cannot_be_are_refused(text: str | bytes, data: ImageDataset, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=".") as refusal:
        rows(text, tmp_path, data)
    assert expected in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.txt", tmp_path):
        with pytest.raises(ValueError, match="cannot be read"):
            trusted_rows(path, DATA, "photos")


SETS = {
    "ten classes": np.arange(1_000) % 10,
    "one of them rare": np.concatenate([np.arange(990) % 9, np.full(10, 9)]),
    "a thousand classes": np.arange(5_000) % 1_000,
    "a long tail": np.repeat(np.arange(100), np.maximum(1, (1_000 / (1 + np.arange(100))).astype(int))),
    "two classes": np.arange(1_000) % 2,
}


@pytest.mark.parametrize("name", SETS)
def test_trusted_images_drawn_from_all_are_never_called_crowded(name: str) -> None:
    """1,000 draws of 2 to 200 rows; were the chance not exact where classes are rare, dozens would be."""
    labels, generator = torch.from_numpy(SETS[name]), np.random.default_rng(0)
    names = [f"class {label}" for label in range(int(labels.max()) + 1)]
    for _ in range(1_000):
        rows = generator.choice(len(labels), size=int(generator.integers(2, 201)), replace=False)
        assert crowded(rows.tolist(), labels, names) == []


def test_crowded_trusted_images_are_told() -> None:
    labels, generator = torch.arange(1_000) % 10, np.random.default_rng(0)
    names = [f"class {label}" for label in range(10)]
    for _ in range(100):
        pair = generator.choice(10, size=2, replace=False)
        among = np.flatnonzero(np.isin(labels.numpy(), pair))
        (said,) = crowded(generator.choice(among, size=40, replace=False).tolist(), labels, names)
        assert "of the 40 trusted images are of class" in said
    (of_two,) = crowded(list(range(0, 200, 2)), torch.arange(1_000) % 2, ["cat", "dog"])
    assert of_two.startswith("100 of the 100 trusted images are of class 'cat', where about 50 would be")
    assert crowded((), labels, names) == []
    assert crowded([0, 10, 20], labels, names) == []  # three of one class: one of 100 such draws
