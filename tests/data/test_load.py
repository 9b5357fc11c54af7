import numpy as np
import pytest
import torch

import certidote
from certidote.data import load, load_test, splits_of
from certidote.data.digits import SPLITS, load_digits
from certidote.data.load import CATALOGUE, Named
from certidote.data.tiny import tiny
from certidote.data.write import write_folder, write_npz
from certidote.streams import Key
from certidote.verbs import choices


def same(left, right):
    return left.digest() == right.digest()


@pytest.mark.parametrize("split", SPLITS)
def test_digits_by_split_and_by_suffix(split):
    assert same(load("digits", split), load_digits(split))
    other = "test" if split != "test" else "train"
    assert same(load(f"digits:{split}", other), load_digits(split))  # the suffix wins
    assert load("digits", split).image_shape == (1, 8, 8)


def test_digits_parts_are_a_partition():
    parts = [load("digits", split) for split in SPLITS]
    assert [len(part) for part in parts] == [897, 500, 400]
    from sklearn.datasets import load_digits as bundled

    together = np.concatenate([part.images.numpy().reshape(-1, 64) for part in parts])
    original = np.rint(bundled().images.reshape(-1, 64) * 255 / 16).astype(np.uint8)
    assert np.array_equal(np.sort(together.view("V64").ravel()), np.sort(original.view("V64").ravel()))


def test_the_digits_of_transfer_learning_are_renumbered_parts_of_the_digits():
    for split in SPLITS:
        whole, low, high = (load(name, split) for name in ("digits", "digits-0-4", "digits-5-9"))
        assert len(low) + len(high) == len(whole)
        assert high.class_names == ("5", "6", "7", "8", "9")
        for part, first in ((low, 0), (high, 5)):
            rows = torch.cat([(whole.labels == label).nonzero().squeeze(1) for label in range(first, first + 5)]).sort().values
            assert torch.equal(part.images, whole.images[rows])
            assert torch.equal(part.labels + first, whole.labels[rows])


def test_every_name_of_the_catalogue_loads():
    assert CATALOGUE
    for name in CATALOGUE:
        data = load(name)
        assert len(data) > 0
        assert data.image_shape[0] in (1, 3)


@pytest.mark.parametrize("name", ["digits:validation", "digits:"])
def test_unknown_split_of_a_name_lists_the_splits(name):
    with pytest.raises(ValueError, match="choose one of: trusted, train, test"):
        load(name)


def test_names_of_the_catalogue_have_their_own_splits(monkeypatch):
    asked = []

    def patterns(split):
        asked.append(split)
        return tiny(3, 2, (1, 8, 8), Key(0) / split)

    monkeypatch.setitem(CATALOGUE, "patterns", Named(patterns, ("train", "val")))
    monkeypatch.setitem(CATALOGUE, "held-out", Named(patterns, ("train", "test")))
    assert splits_of("patterns") == ("train", "val")
    assert splits_of("patterns:val") == ("val",)
    assert splits_of("digits") == ("trusted", "train", "test")
    assert [part["split"] for part in certidote.data_info("patterns")["splits"]] == ["train", "val"]
    with pytest.raises(ValueError, match="patterns has no split 'test'; choose one of: train, val"):
        load("patterns:test")
    assert set(asked) == {"train", "val"}, "no loader is asked for a split it does not have"
    assert [choices.test_split_of(name) for name in ("held-out", "held-out:train", "digits:trusted")] == [
        "held-out:test", "held-out:test", "digits:test",
    ]  # fmt: skip
    assert not choices.has_test_split("patterns")
    with pytest.raises(ValueError, match="patterns has no test split of its own; give test images with --test"):
        choices.test_split_of("patterns")


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(
        ValueError,
        match=r"no data set is called 'digts'.*did you mean 'digits'\?.*give a name \(digits, digits-0-4, digits-5-9\), or a folder with one",
    ):
        load("digts")
    with pytest.raises(ValueError, match=r"did you mean 'digits:test'\?"):
        load("digit:test")


def test_unknown_path_suggests_its_neighbor(tmp_path):
    (tmp_path / "flowers.npz").touch()
    with pytest.raises(ValueError, match=r"did you mean '.*flowers\.npz'\?"):
        load(tmp_path / "flowrs.npz")


@pytest.mark.parametrize("name", ["", ":", ":test", "no/such/folder/x", "x" * 5_000, "a\0b"])
def test_nonsense_is_refused_in_one_line(name):
    with pytest.raises(ValueError, match="no data set is called") as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"weights\.pt' is no data set; give a folder with one sub-folder of images"):
        load(tmp_path / "weights.pt")


def test_paths_take_a_split_suffix(tmp_path):
    train, test = tiny(3, 2, (1, 8, 8), Key(1)), tiny(2, 2, (1, 8, 8), Key(2))
    (tmp_path / "both").mkdir()
    write_folder(train, tmp_path / "both" / "train")
    write_folder(test, tmp_path / "both" / "test")
    for source in (str(tmp_path / "both"), tmp_path / "both"):
        assert len(load(source)) == len(load(source, "train")) == 6
        assert len(load(source, "test")) == len(load(f"{source}:test")) == 4
    np.savez(tmp_path / "both.npz", x_train=train.images, y_train=train.labels, x_test=test.images, y_test=test.labels)
    assert torch.equal(load(f"{tmp_path / 'both.npz'}:test").images, test.images)


def test_an_existing_path_with_a_colon_is_that_path(tmp_path):
    write_npz(tiny(3, 2, (1, 8, 8), Key(1)), tmp_path / "a.npz")
    write_folder(tiny(2, 2, (1, 8, 8), Key(2)), tmp_path / "a.npz:train")
    assert len(load(f"{tmp_path / 'a.npz'}:train")) == 4


def test_a_name_wins_over_a_path_and_a_dot_reaches_the_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tiny(2, 2, (1, 8, 8), Key(2)), tmp_path / "digits")
    assert len(load("digits")) == 500
    assert len(load("./digits")) == 4


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_npz(tiny(3, 2, (1, 8, 8), Key(1)), tmp_path / "a.NPZ")
    assert len(load("~/a.NPZ")) == 6


# -------------------------------------------------------------------------------------------------------------- test images


def test_one_set_given_as_test_images_is_all_of_it(tmp_path):
    data = tiny(3, 2, (1, 8, 8), Key(1))
    write_npz(data, tmp_path / "set.npz")
    write_folder(data, tmp_path / "set")
    for path in (tmp_path / "set.npz", tmp_path / "set"):
        assert same(load_test(path, data.class_names), load(path))
        assert len(load_test(path, data.class_names)) == len(data)
        assert splits_of(path) == ("train",)


def test_named_splits_given_as_test_images_are_the_test_split_or_none(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "both.npz", x_train=pixels[:4], y_train=[0, 1, 0, 1], x_test=pixels[4:], y_test=[1, 0])
    np.savez(tmp_path / "train.npz", x_train=pixels, y_train=[0, 1] * 3)
    (tmp_path / "folder").mkdir()
    write_folder(tiny(3, 2, (1, 8, 8), Key(1)), tmp_path / "folder" / "train")
    assert load_test(tmp_path / "both.npz", ("0", "1")).labels.tolist() == [1, 0]
    assert load_test(f"{tmp_path / 'both.npz'}:train", ("0", "1")).labels.tolist() == [0, 1, 0, 1]
    assert same(load_test("digits", load("digits").class_names), load_digits("test"))
    for path in (tmp_path / "train.npz", tmp_path / "folder"):
        with pytest.raises(ValueError, match="no split 'test'; choose one of: train"):
            load_test(path, ("0", "1"))


def test_test_images_may_lack_the_last_numbers_but_no_names(tmp_path):
    pixels = np.zeros((4, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=pixels, labels=[0, 1, 0, 1])
    assert load_test(tmp_path / "set.npz", ("0", "1", "2")).class_names == ("0", "1", "2")
    for others in (("cat", "dog"), ("1", "0"), ("0",)):
        assert load_test(tmp_path / "set.npz", others).class_names == ("0", "1")
