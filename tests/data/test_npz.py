import io
import pickle
import zipfile

import numpy as np
import pytest

from certidote.data import checks, load, npz
from certidote.streams import Key


def levels(*shape):
    return (Key(9) / "levels" / str(shape)).numpy().integers(0, 256, shape, dtype=np.uint8)


LABELS = np.array([0, 1, 2, 1])


@pytest.fixture
def saved(tmp_path):
    def save(**arrays):
        np.savez(tmp_path / "set.npz", **arrays)
        return tmp_path / "set.npz"

    return save


def refused(path, message, split="train"):
    with pytest.raises(ValueError, match=message) as caught:
        load(path, split)
    assert "\n" not in str(caught.value)
    assert "set.npz" in str(caught.value)


# ------------------------------------------------------------------------------------------------------------ what is read


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 8, 9), lambda a: a[:, None]),
        ((4, 8, 9, 1), lambda a: a.transpose(0, 3, 1, 2)),
        ((4, 8, 9, 3), lambda a: a.transpose(0, 3, 1, 2)),
        ((4, 1, 8, 9), lambda a: a),
        ((4, 3, 8, 9), lambda a: a),
    ],
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_layouts(saved, shape, expected, order):
    images = levels(*shape)
    data = load(saved(images=np.asarray(images, order=order), labels=LABELS))
    assert np.array_equal(data.images.numpy(), expected(images))
    assert data.labels.tolist() == LABELS.tolist()
    assert data.class_names == ("0", "1", "2")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_levels_survive_as_floats(saved, dtype):
    images = np.resize(np.arange(256, dtype=np.uint8), (4, 8, 9))
    assert np.array_equal(load(saved(images=(images / 255).astype(dtype), labels=LABELS)).images[:, 0].numpy(), images)


def test_floats_are_rounded_to_the_nearest_level_in_every_chunk(saved, monkeypatch):
    monkeypatch.setattr(npz, "CHUNK", 3)
    images = (Key(2) / "floats").numpy().random((4, 8, 9))
    assert np.array_equal(load(saved(images=images, labels=LABELS)).images[:, 0].numpy(), np.floor(images * 255 + 0.5))


@pytest.mark.parametrize("labels", [LABELS.astype(t) for t in ("uint8", "int64", "uint64", "float32", ">i4")] + [LABELS[:, None]])
def test_label_types(saved, labels):
    assert load(saved(images=levels(4, 8, 8), labels=labels)).labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("dtype", ["U", "S"])
def test_class_names(saved, dtype):
    data = load(saved(images=levels(4, 8, 8), labels=LABELS, class_names=np.array(["ant", "bee", "cat", "dog"], dtype=dtype)))
    assert data.class_names == ("ant", "bee", "cat", "dog")


@pytest.mark.parametrize("keys", [("images", "labels"), ("x", "y")])
def test_names_of_one_set(saved, keys):
    assert len(load(saved(**{keys[0]: levels(4, 8, 8), keys[1]: LABELS, "ids": np.arange(4)}))) == 4


@pytest.mark.parametrize("pattern", [("x_{}", "y_{}"), ("{}_images", "{}_labels")])
def test_names_of_two_sets_which_share_their_classes(saved, pattern):
    x, y = pattern
    arrays = {x.format("train"): levels(4, 8, 8), y.format("train"): LABELS}
    arrays |= {x.format("test"): levels(2, 8, 8), y.format("test"): np.array([0, 5])}
    train, test = (load(saved(**arrays), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (4, 2)
    assert train.class_names == test.class_names == tuple("012345")
    refused(saved(**arrays), "no split 'trusted'; choose one of: train, test", "trusted")


def test_several_chunks_of_compressed_data(tmp_path):
    images = levels(3_000, 8, 8)
    np.savez_compressed(tmp_path / "set.npz", images=images / np.float32(255), labels=np.arange(3_000) % 7)
    assert np.array_equal(load(tmp_path / "set.npz").images[:, 0].numpy(), images)


# --------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("value", "shown", "hint"),
    [(np.nan, "nan", "repair"), (np.inf, "inf", "divide by 255"), (-0.1, "-0.1", "repair"), (1.0001, "1.0001", "divide by 255")],
)
def test_first_bad_pixel_is_named(saved, monkeypatch, value, shown, hint):
    monkeypatch.setattr(npz, "CHUNK", 2)
    images = np.zeros((4, 8, 9, 3))
    images[2, 1, 5, 0] = images[2, 1, 5, 2] = images[3, 0, 0, 0] = value
    refused(saved(images=images, labels=LABELS), rf"'images': the pixel at \(2, 1, 5, 0\) is {shown}; .*\[0, 1\], {hint}")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:3], "4 images in 'images' but 3 labels in 'labels'"),
        (np.array([0, 1, -1, 2]), "label -1 of image 2 is out of range"),
        (np.array([0, 1, 2, 1_000]), "label 1000 of image 3 is out of range; 1000 classes allow 0 to 999"),
        (np.array([0, 1, 2, 2**63], dtype=np.uint64), "of image 3 is out of range"),
        (np.array([0, 0.5, 1, 2]), "label 0.5 of image 1 is not an integer"),
        (np.array([0, np.nan, 1, 2]), "label nan of image 1 is not an integer"),
        (np.array([0, 0, 0, np.inf]), "label inf of image 3 is not an integer"),
        (np.array(list("abca")), "dtype <U1; labels are integers"),
        (np.eye(4), r"shape \(4, 4\); labels are one integer per image"),
        (np.array(3), r"shape \(\); labels are one integer"),
        (np.zeros(4, int), "1 class; a classifier needs 2"),
    ],
)
def test_bad_labels(saved, labels, message):
    refused(saved(images=levels(4, 8, 8), labels=labels), message)


def test_labels_beyond_the_class_names(saved):
    path = saved(images=levels(4, 8, 8), labels=LABELS, class_names=np.array(["a", "b"]))
    refused(path, "label 2 of image 2 .* 2 classes allow 0 to 1")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (levels(4, 64), r"shape \(4, 64\); images are \(n, h, w\)"),
        (levels(4, 8, 8, 4), r"shape \(4, 8, 8, 4\)"),
        (levels(4, 7, 8), "images of 7x8 pixels"),
        (levels(4, 3, 225, 8), "images of 225x8 pixels"),
        (levels(4, 3, 8, 3), "images of 3x8 pixels"),  # the last axis decides: channels-last
        (levels(4, 8, 8).astype(int), "dtype int64; images are uint8, or floats"),
        (levels(4, 8, 8) > 9, "dtype bool"),
        (levels(4, 8, 8).astype(complex), "dtype complex128"),
        (levels(4, 8, 8).astype("U3"), "dtype <U3"),
    ],
)
def test_bad_images(saved, images, message):
    refused(saved(images=images, labels=LABELS), message)


def test_empty_arrays(saved):
    path = saved(images=levels(0, 8, 8), labels=np.array([], int), class_names=np.array(["a", "b"]))
    refused(path, "is empty; .* at least one image")


@pytest.mark.parametrize("names", [np.array([1, 2, 3]), np.array("abc"), np.array(["a", "b", "b"]), np.array(["a", "b", "c\n"])])
def test_bad_class_names(saved, names):
    refused(saved(images=levels(4, 8, 8), labels=LABELS, class_names=names), "class")


@pytest.mark.parametrize("key", ["images", "labels", "class_names"])
def test_object_arrays_are_refused_and_never_unpickled(saved, monkeypatch, key):
    arrays = {"images": levels(4, 8, 8), "labels": LABELS, "class_names": np.array(["a", "b", "c"])}
    arrays[key] = np.array([{}, {}, {}, {}], dtype=object)
    monkeypatch.setattr(pickle, "load", lambda *a, **k: pytest.fail("unpickled"))
    refused(saved(**arrays), rf"array '{key}' holds Python objects, which can run code")


def test_missing_arrays_are_listed(saved):
    refused(saved(data=levels(4, 8, 8), labels=LABELS), "holds 'data', 'labels'; it needs 'images' and 'labels', or 'x_train'")
    refused(saved(), "holds no arrays")


def test_ambiguous_archives(saved):
    both = {"images": levels(4, 8, 8), "labels": LABELS}
    refused(saved(**both, x=levels(4, 8, 8), y=LABELS), "holds several sets, 'images' with 'labels' and 'x' with 'y'")
    refused(saved(**both, x_train=levels(4, 8, 8), y_train=LABELS), "holds several sets, 'x_train' with 'y_train' and 'images'")


def test_one_set_is_never_taken_for_a_test_set(saved):
    path = saved(images=levels(4, 8, 8), labels=LABELS)
    refused(path, "no split 'test', it is one set; give the archive of the test images", "test")
    path = saved(x_train=levels(4, 8, 8), y_train=LABELS)
    refused(path, "no split 'test'; choose one of: train", "test")


def test_archives_larger_than_memory_are_refused_unopened(tmp_path):
    """An archive of a few hundred bytes may claim to unpack to anything."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**50, 8, 8)})
    labels = io.BytesIO()
    np.save(labels, LABELS)
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(64))
        archive.writestr("labels.npy", labels.getvalue())
    refused(tmp_path / "set.npz", r"array 'images' unpacks to 67108864\.0 GiB, but this machine has")


def test_archives_that_unpack_like_bombs_are_refused_unopened(tmp_path, monkeypatch):
    """Zeros that fit into memory, in a file that no honest images make."""
    monkeypatch.setattr(checks, "FREE", 2**20)
    path = tmp_path / "set.npz"
    np.savez_compressed(path, images=np.zeros((40_000, 8, 8), np.uint8), labels=np.arange(40_000) % 2)
    monkeypatch.setattr(np, "load", None)
    refused(path, r"set\.npz' of [\d,]+ bytes unpacks to 2,880,000 bytes or more, [\d,]+ times its size; at most 200 times")


@pytest.mark.parametrize(
    ("files", "shown"),
    [
        ({"memory.max": "max\n", "a/memory.max": "1000000", "a/b/memory.max": "max"}, "0.0"),
        ({"memory.max": "1000000\n"}, "0.0"),
        ({"memory/memory.limit_in_bytes": "1000000\n"}, "0.0"),
        ({"memory.max": "max\n", "a/b/memory.max": str(2**62)}, None),
        ({}, None),
    ],
)
def test_the_memory_of_a_container_counts(saved, tmp_path, monkeypatch, files, shown):
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    (tmp_path / "self").write_text("0::/a/b\n")
    monkeypatch.setattr(
        checks, "LIMITS", tuple(tmp_path / "groups" / name for name in ("memory.max", "memory/memory.limit_in_bytes"))
    )
    monkeypatch.setattr(checks, "GROUP", tmp_path / "self")
    path = saved(images=levels(20_000, 8, 8), labels=np.arange(20_000) % 2)
    if shown is None:
        assert len(load(path)) == 20_000
    else:
        refused(path, rf"array 'images' unpacks to 0\.0 GiB, but this container may take {shown}; store less")


def test_damaged_archives_are_read_or_refused_by_name(saved):
    """Cut or overwritten anywhere: a data set, or one ValueError line that names the file."""
    path = saved(images=levels(4, 8, 8), labels=LABELS, class_names=np.array(["a", "b", "c"]))
    whole = path.read_bytes()
    draw = (Key(12) / "damage").numpy()
    damaged = [b"", b"PK", whole[:-1], *(whole[: int(draw.integers(0, len(whole)))] for _ in range(20))]
    for _ in range(100):
        copy = bytearray(whole)
        for place in draw.integers(0, len(whole), 3):
            copy[place] = int(draw.integers(0, 256))
        damaged.append(bytes(copy))
    refusals = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            count, message = len(load(path)), ""
        except ValueError as error:
            count, message = 0, str(error)
        assert count == 4 or "set.npz" in message
        assert "\n" not in message
        refusals += count == 0
    assert refusals >= 50
