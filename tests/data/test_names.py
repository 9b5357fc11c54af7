"""Names of images: they follow their rows and change nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from certidote.data import load
from certidote.data.tiny import tiny
from certidote.data.write import write_folder
from certidote.streams import Key
from certidote.types import Budget, ImageDataset, Poison, Target, Untrusted

NAMED = replace(tiny(3, 2, (1, 8, 8), Key(1)), names=("a/1", "b/1", "a/2", "b/2", "a/3", "b/3"), notes=("resized to 8x8 pixels",))


def test_names_and_notes_are_not_in_the_digest() -> None:
    assert NAMED.digest() == replace(NAMED, names=None, notes=()).digest()
    assert NAMED.digest() != replace(NAMED, images=255 - NAMED.images).digest()


def test_names_follow_their_rows() -> None:
    part = NAMED.subset([4, 1, 1])
    assert part.names == ("a/3", "b/1", "b/1")
    assert torch.equal(part.images, NAMED.images[[4, 1, 1]])
    assert part.notes == NAMED.notes
    assert NAMED.subset(torch.tensor([5])).names == ("b/3",)
    assert replace(NAMED, names=None).subset([0]).names is None


def test_poisoning_keeps_names_and_notes() -> None:
    goal = Target(NAMED.images[0], 1, 0, 0)
    poisoned = Poison(torch.tensor([2]), NAMED.images[2:3], goal, Budget(1, "linf", 0.1)).apply(NAMED)
    assert (poisoned.names, poisoned.notes) == (NAMED.names, NAMED.notes)


def test_names_of_untrusted_data_are_open() -> None:
    assert not hasattr(Untrusted(NAMED), "names"), "what a member may train on does not depend on what files are called"


def test_one_name_for_each_image() -> None:
    with pytest.raises(ValueError, match="6 images but 1 names; give each image its name, or give none"):
        replace(NAMED, names=("a",))


def test_name_of() -> None:
    assert NAMED.name_of(2) == "a/2"
    assert replace(NAMED, names=None).name_of(2) == "image 2"


def test_files_name_their_images_as_below_the_given_folder(tmp_path) -> None:
    data = ImageDataset(NAMED.images, NAMED.labels, ("ant", "bee"))
    write_folder(data, tmp_path / "set")
    assert load(tmp_path / "set").names == ("ant/0.png", "ant/2.png", "ant/4.png", "bee/1.png", "bee/3.png", "bee/5.png")
    (tmp_path / "both").mkdir()
    (tmp_path / "set").rename(tmp_path / "both" / "test")
    split = load(tmp_path / "both", "test")
    assert split.names is not None
    assert split.names[3] == "test/bee/1.png"
    row = split.names.index("test/ant/4.png")
    assert np.array_equal(split.images[row], data.images[4])
