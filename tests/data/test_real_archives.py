"""CIFAR-10 as 60,000 JPEG files in one .tar.xz, where it is at hand."""

import os
from pathlib import Path

import pytest

from certidote.data import load, splits_of

DATA = Path(os.environ.get("CERTIDOTE_DATA", Path(__file__).parents[3] / "shared" / "data"))
ARCHIVE = DATA / "cifar10-jpeg.tar.xz"


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVE.is_file(), reason=f"no image data: {ARCHIVE} is absent (CERTIDOTE_DATA names its folder)")
def test_cifar10_as_jpeg() -> None:
    assert splits_of(ARCHIVE) == ("train", "test")
    for split, count in (("train", 5_000), ("test", 1_000)):
        data = load(ARCHIVE, split)
        assert data.image_shape == (3, 32, 32)
        assert data.class_names == tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
        assert data.labels.bincount().tolist() == [count] * 10
        assert data.names is not None
        assert all(
            name.startswith(f"{split}/{data.class_names[label]}/") for name, label in zip(data.names, data.labels, strict=True)
        )
        means = data.pixels().mean((0, 2, 3)).tolist()  # published means of the training images: 0.4914, 0.4822, 0.4465
        assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.005)
