"""Images to be classified come in every form that training images come in, and are the same pixels then."""

import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from certidote.data import load
from certidote.data.decode import Reading
from certidote.data.pictures import read_pictures
from certidote.data.tiny import tiny
from certidote.data.write import write_folder
from certidote.streams import Key


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """train/ and test/ with two classes each."""
    (tmp_path / "photos").mkdir()
    for row, split in enumerate(("train", "test")):
        write_folder(tiny(6, 2, (3, 12, 10), Key(row)), tmp_path / "photos" / split)
    return tmp_path / "photos"


def zipped(photos: Path) -> Path:
    return Path(shutil.make_archive(str(photos.parent / "set"), "zip", photos))


def tarred(photos: Path) -> Path:
    """With one folder around everything, as archives often have."""
    with tarfile.open(photos.parent / "set.tar.xz", "w:xz") as tar:
        tar.add(photos, "all")
    return photos.parent / "set.tar.xz"


def wrapped(photos: Path) -> Path:
    shutil.copytree(photos, photos.parent / "around" / "all")
    return photos.parent / "around"


@pytest.mark.parametrize("suffix", ["", ":test", ":train", "#5", ":train#4"])
@pytest.mark.parametrize("form", [Path, zipped, tarred, wrapped])
@pytest.mark.parametrize("size", [None, (8, 8)])
def test_what_certify_reads_as_data_is_read_as_images(
    form: object, suffix: str, size: tuple[int, int] | None, photos: Path
) -> None:
    path = f"{form(photos)}{suffix}"  # type: ignore[operator]
    expected = load(path, "test", size=size)
    found = read_pictures(path, 3, Reading(size))
    assert torch.equal(found.images, expected.images)
    assert found.names == expected.names


def test_a_part_of_bare_images_and_of_a_named_set(tmp_path: Path) -> None:
    for row in range(4):
        Image.fromarray(np.full((8, 8), row, dtype=np.uint8)).save(tmp_path / f"{row}.png")
    found = read_pictures(f"{tmp_path}#3")
    assert found.names == tuple(f"{level}.png" for level in found.images[:, 0, 0, 0].tolist())
    assert len(read_pictures(f"{tmp_path}#1")) == 1
    assert torch.equal(read_pictures("digits:test#20").images, load("digits:test#20").images)
    for count in (0, 5):
        with pytest.raises(ValueError, match=rf"#{count} of 4 images; give a number from 1 to 4"):
            read_pictures(f"{tmp_path}#{count}")


def test_archives_of_bare_images(tmp_path: Path) -> None:
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "bare.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "b.png")
        archive.write(tmp_path / "a.png", "a.png")
    found = read_pictures(str(tmp_path / "bare.zip"), 3)
    assert found.names == ("a.png", "b.png")
    assert found.images.shape == (2, 3, 8, 8)
    assert np.array_equal(found.images[1, 2].numpy(), picture)


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import io

    import pyarrow.parquet as pq

    def encoded(level: int) -> dict[str, bytes]:
        file = io.BytesIO()
        Image.fromarray(np.full((8, 8), level, np.uint8)).save(file, "PNG")
        return {"bytes": file.getvalue()}

    for split in ("train", "test"):
        pq.write_table(
            pa.table({"image": [encoded(level + len(split)) for level in (0, 100)], "label": [0, 1]}),
            tmp_path / f"{split}-00000-of-00001.parquet",
        )
    found = read_pictures(str(tmp_path))
    assert found.images[:, 0, 0, 0].tolist() == [4, 104]
    assert torch.equal(read_pictures(f"{tmp_path}:train").images, load(tmp_path, "train").images)


@pytest.mark.parametrize("labels", [True, False])
def test_arrays_are_resized_as_the_training_images_were(labels: bool, tmp_path: Path) -> None:
    arrays = {"images": np.random.default_rng(0).integers(0, 256, (4, 300, 280, 3), dtype=np.uint8)}
    np.savez(tmp_path / "labelled.npz", labels=np.array([0, 1, 0, 1]), **arrays)
    np.savez(tmp_path / "bare.npz", **arrays)
    found = read_pictures(str(tmp_path / ("labelled.npz" if labels else "bare.npz")), 3, Reading((16, 16)))
    assert torch.equal(found.images, load(tmp_path / "labelled.npz", size=16).images)


def test_corrupt_files_are_left_out_and_listed_if_so_asked(photos: Path) -> None:
    broken = next((photos / "test" / "pattern-1").iterdir())
    broken.write_bytes(b"nothing")
    name = broken.relative_to(photos).as_posix()
    with pytest.raises(ValueError, match=f"{broken.name}.* leave such files out with --skip-corrupt"):
        read_pictures(str(photos))
    found = read_pictures(str(photos), 3, Reading(skip_corrupt=True))
    assert found.names == tuple(each for each in load(photos, "test", skip_corrupt=True).names or ())
    ((left_out, reason),) = found.skipped
    assert left_out == name
    assert broken.name in reason
    assert len(found) == 11


def test_the_image_in_color_is_named(tmp_path: Path) -> None:
    for name, channels in (("a.png", ()), ("b.png", (3,)), ("c.png", (3,))):
        Image.fromarray(np.zeros((8, 8, *channels), np.uint8)).save(tmp_path / name)
    (tmp_path / "0.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"b\.png' is in color, but the classifier takes gray images"):
        read_pictures(str(tmp_path), 1, Reading(skip_corrupt=True))


def test_a_split_that_is_not_there(photos: Path) -> None:
    with pytest.raises(ValueError, match="has no split 'val'; leave it out, or give the folder of the images"):
        read_pictures(f"{photos}:val")
