import errno

import numpy as np
import pytest
import torch
from PIL import Image

from certidote.data import load
from certidote.data.tiny import tiny
from certidote.data.write import write_folder, write_npz
from certidote.streams import Key
from certidote.types import ImageDataset

SHAPES = [(1, 8, 8), (3, 9, 11), (1, 224, 8)]


@pytest.mark.parametrize("shape", SHAPES)
def test_archives_come_back_bit_for_bit(tmp_path, shape):
    data = tiny(3, 4, shape, Key(1))
    write_npz(data, tmp_path / "set.npz")
    assert load(tmp_path / "set.npz").digest() == data.digest()
    write_npz(data, tmp_path / "again.npz")
    assert (tmp_path / "set.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()


@pytest.mark.parametrize("shape", SHAPES)
def test_folders_come_back_sorted(tmp_path, shape):
    data = tiny(12, 3, shape, Key(1))
    data = ImageDataset(data.images, data.labels, ("cat", "ant", "bee"))
    write_folder(data, tmp_path / "set")
    again = load(tmp_path / "set")
    rows = [row for label in (1, 2, 0) for row in np.flatnonzero(data.labels.numpy() == label)]
    assert again.class_names == ("ant", "bee", "cat")
    assert torch.equal(again.images, data.images[rows])
    assert [again.class_names[i] for i in again.labels] == [data.class_names[i] for i in data.labels[rows]]


@pytest.mark.parametrize("write", [write_npz, write_folder])
def test_nothing_is_overwritten(tmp_path, write):
    (tmp_path / "set.npz").write_text("precious")
    with pytest.raises(ValueError, match="exists already"):
        write(tiny(1, 2, (1, 8, 8), Key(1)), tmp_path / "set.npz")
    assert (tmp_path / "set.npz").read_text() == "precious"
    with pytest.raises(ValueError, match="its folder does not exist"):
        write(tiny(1, 2, (1, 8, 8), Key(1)), tmp_path / "no" / "set.npz")


def test_what_cannot_be_written(tmp_path):
    data = tiny(1, 2, (1, 8, 8), Key(1))
    with pytest.raises(ValueError, match=r"does not end in \.npz"):
        write_npz(data, tmp_path / "set")
    with pytest.raises(ValueError, match="2 channels"):
        write_npz(tiny(1, 2, (2, 8, 8), Key(1)), tmp_path / "set.npz")
    for name in ("../up", ".hidden", "a/b", "", "Thumbs.db"):
        with pytest.raises(ValueError, match="cannot name a folder"):
            write_folder(ImageDataset(data.images, data.labels, ("a", name)), tmp_path / "set")
    with pytest.raises(ValueError, match="'c' has no images"):
        write_folder(ImageDataset(data.images, data.labels, ("a", "b", "c")), tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [write_npz, write_folder])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, write):
    calls = []

    def full(*args, **kwargs):
        calls.append(args)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args, **kwargs)

    target, name = (Image.Image, "save") if write is write_folder else (np.lib.format, "write_array")
    original = getattr(target, name)
    monkeypatch.setattr(target, name, full)
    with pytest.raises(OSError, match="No space left"):
        write(tiny(3, 2, (1, 8, 8), Key(1)), tmp_path / "set.npz")
    assert len(calls) == 3
    assert list(tmp_path.iterdir()) == []
