"""The CIFAR-10 releases in miniature, written as their authors' tools wrote them, and pickles that would rather do something else."""

import codecs
import hashlib
import os
import pickle
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from certidote.data import cifar, load, pickled, splits_of
from certidote.data.pickled import read_pickled
from certidote.streams import Key

NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()
N = 6


def batch(number: int) -> tuple[np.ndarray, list[int]]:
    draw = (Key(3) / number).numpy()
    return draw.integers(0, 256, (N, 3072), dtype=np.uint8), draw.integers(0, 10, N).tolist()


def text(value: str) -> bytes:
    return b"U" + bytes([len(value)]) + value.encode()


def python2_pickle(data: np.ndarray, labels: list[int]) -> bytes:
    """Protocol 2 as Python 2 writes it, opcode by opcode: text as SHORT_BINSTRING, an array through `_reconstruct`."""
    content = data.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09(K\x01"
        + b"".join(b"M" + struct.pack("<H", side) for side in data.shape)
        + b"\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + b"T" + struct.pack("<i", len(content)) + content + b"tb"
    )  # fmt: skip
    return (
        b"\x80\x02}q\x01("
        + text("batch_label") + text("training batch 1 of 5")
        + text("labels") + b"]q\x04(" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
        + text("data") + array
        + text("filenames") + b"](" + b"".join(text(f"s_{n:06d}.png") for n in range(len(labels))) + b"e"
        + b"u."
    )  # fmt: skip


def python_files() -> dict[str, bytes]:
    files = {name: python2_pickle(*batch(number)) for number, name in enumerate((*cifar.PYTHON.train, "test_batch"))}
    return {**files, "batches.meta": pickle.dumps({"label_names": NAMES, "num_cases_per_batch": N}, 0), "readme.html": b"<html>"}


def binary_files() -> dict[str, bytes]:
    def records(number: int) -> bytes:
        data, labels = batch(number)
        return b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, data, strict=True))

    files = {name: records(number) for number, name in enumerate((*cifar.BINARY.train, "test_batch.bin"))}
    return {**files, "batches.meta.txt": "\n".join([*NAMES, ""]).encode()}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(params=["python", "binary"])
def release(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[cifar.Version, Path]:
    if request.param == "python":
        return cifar.PYTHON, write(tmp_path / "cifar-10-batches-py", python_files())
    return cifar.BINARY, write(tmp_path / "cifar-10-batches-bin", binary_files())


def test_both_releases_hold_the_same_images(release: tuple[cifar.Version, Path]) -> None:
    version, folder = release
    for data, numbers, first in ((load(folder), range(5), version.train[0]), (load(folder, "test"), [5], version.test[0])):
        assert data.class_names == tuple(NAMES)
        assert np.array_equal(data.images.numpy().reshape(-1, 3072), np.concatenate([batch(number)[0] for number in numbers]))
        assert data.labels.tolist() == [label for number in numbers for label in batch(number)[1]]
        assert data.names is not None
        assert data.names[:2] == (f"{first}/00000", f"{first}/00001")
    assert splits_of(folder) == splits_of(folder.parent) == ("train", "test")
    assert load(folder.parent).digest() == load(folder).digest()
    with pytest.raises(ValueError, match="has no split 'val'; choose one of: train, test"):
        load(folder, "val")


def test_a_folder_is_read_and_its_note_says_what_was_checked(
    release: tuple[cifar.Version, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    version, folder = release
    (note,) = load(folder).notes
    if version is cifar.BINARY:
        assert "not checked" in note
        return
    assert note.startswith("layout of CIFAR-10, other contents: data_batch_1, ")
    sums = {name: hashlib.md5(content).hexdigest() for name, content in python_files().items()}
    monkeypatch.setattr(cifar, "FILE_MD5", sums)
    (note,) = load(folder).notes
    assert "every file has the MD5 sum" in note


def test_an_archive_needs_the_published_digest(release: tuple[cifar.Version, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    version, folder = release
    packed = folder.parent / "packed" / "mine.tar.gz"
    packed.parent.mkdir()
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(folder, folder.name)
    with pytest.raises(
        ValueError, match=f"has MD5 sum [0-9a-f]+, but the CIFAR-10 release has {version.md5}; get it anew.*unpack it"
    ):
        load(packed)
    right = replace(version, md5=hashlib.md5(packed.read_bytes()).hexdigest())
    monkeypatch.setattr(cifar, "PYTHON" if version is cifar.PYTHON else "BINARY", right)
    data = load(packed, "test")
    assert data.digest() == load(folder, "test").digest()
    assert data.notes == (f"CIFAR-10, {version.archive}: MD5 sum {right.md5} as published",)


def test_missing_and_cut_files(release: tuple[cifar.Version, Path]) -> None:
    version, folder = release
    name = version.train[2]
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"lacks the file '{name}'"):
        load(folder)
    assert len(load(folder, "test")) == N
    (folder / name).write_bytes(content[:-1_000])
    with pytest.raises(ValueError, match=rf"{name}' (is damaged|has \d+ bytes)"):
        load(folder)


def test_labels_out_of_range(tmp_path: Path) -> None:
    data, _ = batch(0)
    for labels, message in (([99] * N, "label 99, but only 10 class names"), ([1] * 2, "6 images but 2 labels")):
        folder = write(tmp_path / str(labels[0]), {**python_files(), "data_batch_1": python2_pickle(data, labels)})
        with pytest.raises(ValueError, match=message):
            load(folder)


@pytest.mark.parametrize("protocol", range(5))
def test_pickles_of_any_protocol(protocol: int) -> None:
    data, labels = batch(0)
    found = read_pickled(pickle.dumps({b"data": data, "labels": labels, "none": None, "yes": (True, 1.5)}, protocol), "here")
    assert np.array_equal(found["data"], data)
    assert found["labels"] == labels
    assert found["yes"] == (True, 1.5)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(5))
def test_a_pickle_that_names_a_function_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    folder = write(tmp_path / "set", {**python_files(), "data_batch_1": pickle.dumps({"data": Evil(tmp_path / "ran")}, protocol)})
    with pytest.raises(ValueError, match=r"data_batch_1' names '(posix|nt)\.system', which could run code; it is not read"):
        load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02cbuiltins\neval\nU\x011\x85R.", "names 'builtins.eval'"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.", "names 'os.system'"),
        (b"(S'x'\nios\nsystem\n.", "pickle opcode INST"),
        (b"\x80\x02]U\x01xQ.", "pickle opcode BINPERSID"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "pickle opcode NEWOBJ"),
        (b"\x80\x02cnumpy\ndtype\nU\x01O\x85R.", "it holds no dictionary"),
        (
            b"\x80\x02}(U\x01a" + python2_pickle(np.zeros((1, 3072), np.uint8), [1])[2:-1].replace(b"u1", b"O8") + b"u.",
            "not of unsigned bytes",
        ),
        (b"\x80\x02" + b"}\x85" * 9 + b".", "is damaged"),
        (b"", "is damaged"),
        (b"\x80\x02}", "is damaged"),
        (b"\x80\x02}((\x85" * 5_000 + b".", "is damaged"),
        (b"\x80\x02}" + b"\x85" * 20_000 + b"K\x01s.", "is damaged"),
    ],
)
def test_strange_pickles(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_pickled(content, "here")
    assert "\n" not in str(caught.value)


DOUBLED = b"U\x01x" + b"q\x00h\x00\x86" * 40 + b"q\x00"
"""A pair of one value twice, that pair twice, ... 40 deep: a terabyte if it were printed."""

ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01%scnumpy\ndtype\n%sK\x00K\x01\x87R\x89U\x01atb."
"""With room for a shape and for the name of a type."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (DOUBLED + b"U\x01x\x93.", "something else than text"),
        (DOUBLED + ARRAY % (b"K\x01\x85", b"h\x00"), "something else than text"),
        (DOUBLED + ARRAY % (b"h\x00", b"U\x02u1"), "a shape that is none"),
        (DOUBLED + ARRAY % (b"h\x00\x85", b"U\x02u1"), "a shape that is none"),
        (ARRAY % (b"(" + b"K\x01" * 9_000 + b"t", b"U\x02u1"), "a shape that is none"),
        (b"c" + b"a" * 9_000 + b"\nb\n.", "names 'a{80}', which could run code"),
        (b"(" * 90_000 + b"t" * 90_000 + b".", "it holds no dictionary"),
        (b"(K\x01.", "it ends with other than one value"),
        (b"}(U\x01aK\x01s.", "its stack runs empty"),
        (b"N" * 200_001 + b".", "more than 200,000 opcodes"),
    ],
)
def test_pickles_made_to_take_for_ever(content: bytes, message: str) -> None:
    """Each is refused in a moment, in a line that a terminal shows whole."""
    with pytest.raises(ValueError, match=message) as caught:
        read_pickled(b"\x80\x04" + content, "here")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_text_that_is_encoded_again_and_again_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "MAX_MADE", 10_000)
    content = pickle.dumps("a" * 1_000, 2)[:-1] + b"]("
    again = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    with pytest.raises(ValueError, match="it ends with other than one value"):
        read_pickled(content + again * 10 + b"e.", "here")
    with pytest.raises(ValueError, match="makes more than 10,000 bytes of text"):
        read_pickled(content + again * 11 + b"e.", "here")


@pytest.mark.parametrize("name", [DOUBLED, b"T" + struct.pack("<i", 10**6) + b"a" * 10**6])
def test_class_names_that_no_release_has_are_refused_in_a_short_line(tmp_path: Path, name: bytes) -> None:
    folder = write(tmp_path / "set", {**python_files(), "batches.meta": b"\x80\x02}U\x0blabel_names](" + name + b"U\x01aes."})
    with pytest.raises(ValueError, match=r"batches\.meta'") as caught:
        load(folder)
    assert len(str(caught.value)) < 400


def test_flipped_bytes_are_read_or_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*_: object) -> None:
        raise AssertionError("something was unpickled")

    for name in ("loads", "load", "Unpickler"):
        monkeypatch.setattr(pickle, name, called)
    monkeypatch.setattr(codecs, "encode", called)
    data, labels = batch(1)
    whole = python2_pickle(data[:2, :], labels[:2])
    program = [place for place in range(len(whole)) if not 400 < place < len(whole) - 120]
    draw = Key(9).numpy()
    messages = []
    for _ in range(600):
        copy = bytearray(whole)
        for place in draw.choice(program, int(draw.integers(1, 4))):
            copy[place] = int(draw.integers(0, 256))
        try:
            assert isinstance(read_pickled(bytes(copy), "here"), dict)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 120
    assert not any("\n" in message for message in messages)
