"""Decoded sets that are kept."""

import importlib
import os
import stat
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from certidote.data import cache, load
from certidote.data.load import load_with_findings, locate

COUNT = 12


@pytest.fixture
def kept_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CERTIDOTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "LEAST_IMAGES", COUNT)
    return tmp_path / "cache" / "decoded"


def folder_of(path: Path, count: int = COUNT) -> Path:
    levels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    for row, image in enumerate(levels):
        place = path / "train" / "ab"[row % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert("L" if row == 3 else "RGB").save(place / f"{row:03}.png")
    return path


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each time that files were decoded."""
    module = importlib.import_module("certidote.data.load")  # the package has a function of that name
    seen: list[str] = []
    original = module._read_tree

    def counted(source, split, reading):
        seen.append(split)
        return original(source, split, reading)

    monkeypatch.setattr(module, "_read_tree", counted)
    return seen


def test_what_was_kept_is_what_was_read(tmp_path: Path, kept_in: Path, decodings: list[str]) -> None:
    folder = folder_of(tmp_path / "photos")
    first, again = load_with_findings(folder), load_with_findings(folder)
    assert decodings == ["train"]
    assert torch.equal(again.data.images, first.data.images)
    assert torch.equal(again.data.labels, first.data.labels)
    assert again.data.digest() == first.data.digest()
    assert (again.data.names, again.data.notes, again.data.class_names) == (first.data.names, first.data.notes, ("a", "b"))
    assert (again.kinds, again.sizes, again.skipped) == (first.kinds, first.sizes, first.skipped)
    assert first.kinds == {"grey": 1}
    (entry,) = kept_in.iterdir()
    assert stat.S_IMODE(entry.stat().st_mode) == 0o700
    again.data.images[0] = 0  # private pages: what is kept does not change
    assert torch.equal(load(folder).images, first.data.images)


def test_other_options_and_changed_files_are_read_anew(tmp_path: Path, kept_in: Path, decodings: list[str]) -> None:
    folder = folder_of(tmp_path / "photos")
    load(folder)
    load(folder, size=16)
    load(folder, skip_corrupt=True)
    assert len(decodings) == 3
    load(folder, size=16)
    assert len(decodings) == 3
    changed = folder / "train" / "a" / "000.png"
    Image.new("RGB", (8, 8), "red").save(changed)
    os.utime(changed, ns=(1, 1))
    assert int(load(folder).images[0, 0, 0, 0]) == 255
    (folder / "train" / "b" / "extra.png").write_bytes(changed.read_bytes())
    assert len(load(folder)) == COUNT + 1
    assert len(decodings) == 5


def test_files_whose_times_were_set_back_are_read_anew(tmp_path: Path, kept_in: Path, decodings: list[str]) -> None:
    """A copy into place keeps the file itself, and may keep its size and its time of modification."""
    folder = folder_of(tmp_path / "photos")
    changed = folder / "train" / "a" / "extra.bmp"
    Image.new("RGB", (8, 8), "red").save(changed)
    before = changed.stat()
    load(folder)
    Image.new("RGB", (8, 8), "blue").save(changed)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = changed.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    found = load(folder)
    assert found.names is not None
    assert found.images[found.names.index("train/a/extra.bmp"), :, 0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("damage", ["pixel", "label", "cut", "empty", "names", "skipped"])
def test_damage_is_noticed_and_the_files_are_read(tmp_path: Path, kept_in: Path, decodings: list[str], damage: str) -> None:
    folder = folder_of(tmp_path / "photos")
    whole = load(folder).digest()
    (entry,) = kept_in.iterdir()
    images, about = entry / "images.npy", entry / "about.json"
    if damage == "pixel":
        images.write_bytes(images.read_bytes()[:-1] + b"\x07")
    elif damage == "cut":
        images.write_bytes(images.read_bytes()[:-1])
    elif damage == "empty":  # as after a power cut
        images.write_bytes(b"")
    elif damage == "names":
        about.write_text(about.read_text().replace("a/000.png", "a/777.png"))
    elif damage == "skipped":
        about.write_text(about.read_text().replace('"skipped"', '"dropped"'))
    else:
        about.write_text(about.read_text().replace('"labels": [0, 0', '"labels": [1, 0'))
    found = load(folder)
    assert found.digest() == whole
    assert found.names is not None
    assert found.names[0] == "train/a/000.png"
    assert load(folder).digest() == whole
    assert len(decodings) == 2


def test_archives_are_kept_and_small_sets_and_switched_off_caches_are_not(
    tmp_path: Path, kept_in: Path, decodings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(tmp_path / "photos.tar.xz", "w:xz") as archive:
        archive.add(folder_of(tmp_path / "photos"), "photos")
    load(tmp_path / "photos.tar.xz")
    load(tmp_path / "photos.tar.xz")
    assert len(decodings) == 1
    small = folder_of(tmp_path / "few", COUNT - 1)
    load(small)
    load(small)
    assert len(decodings) == 3
    monkeypatch.setenv("CERTIDOTE_CACHE", "off")
    load(tmp_path / "photos.tar.xz")
    assert len(decodings) == 4


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CERTIDOTE_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(cache, "LEAST_IMAGES", COUNT)
    (tmp_path / "file").write_text("")
    assert len(load(folder_of(tmp_path / "photos"))) == COUNT
    monkeypatch.setenv("CERTIDOTE_CACHE", "~nobody-of-this-name/cache")
    assert len(load(tmp_path / "photos")) == COUNT


def test_what_another_user_kept_is_not_believed(
    tmp_path: Path, kept_in: Path, decodings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest that lies beside the images is theirs too."""
    folder = folder_of(tmp_path / "photos")
    load(folder)
    somebody = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: somebody)
    load(folder)
    assert len(decodings) == 2


def test_a_set_above_the_limit_is_not_kept_and_drives_nothing_out(
    tmp_path: Path, kept_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(folder_of(tmp_path / "one"))
    (first,) = kept_in.iterdir()
    monkeypatch.setattr(cache, "MOST_BYTES", COUNT * 3 * 64 + 10)
    load(folder_of(tmp_path / "more", COUNT + 1))
    assert list(kept_in.iterdir()) == [first]


def test_the_longest_unused_goes_first(tmp_path: Path, kept_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = (folder_of(tmp_path / name) for name in ("one", "two", "three"))
    load(one)
    (first,) = kept_in.iterdir()
    load(two)
    (second,) = set(kept_in.iterdir()) - {first}
    os.utime(second, (1, 1))
    monkeypatch.setattr(cache, "MOST_BYTES", sum(file.stat().st_size for file in first.iterdir()) + COUNT * 3 * 64)
    load(three)
    assert first.exists()
    assert not second.exists()
    assert len(list(kept_in.iterdir())) == 2


def test_parts_of_a_set_are_fixed_and_nested(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "photos", 40)
    whole = load(folder)
    five, ten = load(f"{folder}#5"), load(f"{folder}:train#10")
    assert (len(five), len(ten)) == (5, 10)
    assert five.names
    assert ten.names
    assert whole.names
    assert set(five.names) < set(ten.names)
    assert [whole.names.index(name) for name in ten.names] == sorted(whole.names.index(name) for name in ten.names)
    assert set(ten.labels.tolist()) == {0, 1}
    assert ten.notes[-1] == "10 of 40 images: the first of a fixed random order"
    assert load(f"{folder}#10").digest() == ten.digest()
    assert load("digits#100").digest() == load("digits:train#100").digest() != load("digits#101").digest()


def test_a_path_with_its_own_mark_is_whole(tmp_path: Path) -> None:
    for folder in (tmp_path / "C#" / "photos", tmp_path / "photos#9"):
        folder_of(folder)
        assert len(load(f"{folder}:train")) == COUNT
        assert len(load(f"{folder}#5")) == 5
    with pytest.raises(ValueError, match=r"there is no such file or folder \(did you mean '.*C#/photos'\?\)"):
        load(tmp_path / "C#" / "photoz")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits#0", r"#0 of 500 images in 10 classes; give a number from 10 to 500"),
        ("digits#501", r"#501 of 500 images"),
        ("digits#ten", r"'digits#ten' ends in #ten; give a whole number of images after the #"),
        ("digits#-5", r"ends in #-5; give a whole number"),
        ("digits#10", r"#10 leaves no image of class '\d'; give a larger number, or leave it out"),
    ],
)
def test_impossible_parts_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(name)


def test_what_reads_whole_sets_says_so() -> None:
    with pytest.raises(ValueError, match=r"'digits#100' is a part of a set, but whole sets are read here; leave out #100"):
        locate("digits#100")
