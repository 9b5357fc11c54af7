"""Fingerprints are equal exactly where images are."""

import numpy as np
import torch

from certidote.data.fingerprints import fingerprint, fingerprinted
from certidote.types import ImageDataset


def test_equal_images_and_no_others() -> None:
    one = np.random.default_rng(0).integers(0, 256, (1, 6, 8), dtype=np.uint8)
    color = np.repeat(one, 3, axis=0)
    assert fingerprint(one).shape == (1, 1, 32)
    assert np.array_equal(np.repeat(fingerprint(one), 3, axis=0), fingerprint(color)), "grey and its copy in RGB"
    assert np.array_equal(fingerprint(color[:, :, ::-1]), fingerprint(np.ascontiguousarray(color[:, :, ::-1]))), "views too"
    changed = color.copy()
    changed[2, 5, 7] ^= 1
    others = [changed, color.reshape(3, 8, 6), color[:, ::-1], color[:, :5]]
    seen = {fingerprint(each)[0].tobytes() for each in (color, *others)}
    assert len(seen) == 1 + len(others)


def test_a_set_keeps_everything_but_its_pixels() -> None:
    data = ImageDataset(torch.zeros(3, 3, 9, 9, dtype=torch.uint8), torch.tensor([0, 1, 1]), ("a", "b"), ("x", "y", "z"), ("note",))
    found = fingerprinted(data)
    assert found.image_shape == (3, 1, 32)
    assert (found.names, found.notes, found.class_names) == (data.names, data.notes, data.class_names)
    assert torch.equal(found.images[0], found.images[2])
