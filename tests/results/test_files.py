import csv
import errno
import json
import math
import os
import resource
import stat
from pathlib import Path

import numpy as np
import pytest

from certidote.data import atomic
from certidote.results.files import write_csv, write_json, write_text, write_texts

BIG = "x" * 200_000


@pytest.fixture(params=["new", "old"])
def target(request, tmp_path):
    """A path that does not exist, or that holds an older result."""
    if request.param == "old":
        (tmp_path / "result.json").write_text("older")
    return tmp_path / "result.json"


def unharmed(target, existed):
    """Nothing beside the file that was there, and that one whole."""
    left = sorted(entry.name for entry in target.parent.iterdir())
    assert left == (["result.json"] if existed else [])
    assert not existed or target.read_text() == "older"


# ----------------------------------------------------------------------------------------------------------- what is written


def test_text_is_utf8_and_replaces(target):
    write_text(target, "σ = ¼\n\r\n")
    assert target.read_bytes() == "σ = ¼\n\r\n".encode()
    assert [entry.name for entry in target.parent.iterdir()] == ["result.json"]


def test_json_round_trip(target):
    value = {"z": [0.1, 1e-300, -0.0, 3], "a": {"σ": None, "b": [True, "x\n"]}, "numpy": np.float64(0.1)}
    write_json(target, value)
    text = target.read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert list(json.loads(text)) == ["z", "a", "numpy"]
    assert "σ" in text
    assert text.endswith("}\n")


def test_csv_round_trip(target):
    rows = [[0.1, "a,b", None], [1 / 3, 'quote " and\nline', 7]]
    write_csv(target, ["x", "text", "n"], rows)
    with target.open(newline="", encoding="utf-8") as file:
        read = list(csv.reader(file))
    assert read[0] == ["x", "text", "n"]
    assert [float(row[0]) for row in read[1:]] == [0.1, 1 / 3]
    assert [row[1:] for row in read[1:]] == [["a,b", ""], ['quote " and\nline', "7"]]
    assert b"\r" not in target.read_bytes()


def test_permissions_follow_the_umask(tmp_path):
    previous = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "result")
    write_text(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "result").read_text() == "x"


def test_the_longest_allowed_name(tmp_path):
    for name in ("x" * 255, "ä" * 127):
        write_text(tmp_path / name, "x")
    assert len(list(tmp_path.iterdir())) == 2


def test_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    order = []
    calls = {name: getattr(os, name) for name in ("fsync", "replace")}
    for name in calls:
        monkeypatch.setattr(atomic.os, name, lambda *a, name=name: (order.append(name), calls[name](*a))[1])
    write_text(tmp_path / "a", "x")
    assert order == ["fsync", "replace", "fsync"]  # the file, its name, the folder


# ------------------------------------------------------------------------------------------------------------- bad values


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"tables": [{"radius": 1.0}, {"radius": math.nan}]}, r"tables\[1\]\.radius is nan"),
        ([[0.0], (1.0, -math.inf)], r"\[1\]\[1\] is -inf"),
        (np.float64("inf"), "the top is inf"),
    ],
)
def test_json_refuses_what_is_no_number(target, value, place):
    existed = target.exists()
    with pytest.raises(ValueError, match=f"the value at {place}, which JSON cannot express"):
        write_json(target, value)
    unharmed(target, existed)


def test_json_refuses_a_nan_key(target):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(target, {math.nan: 1})


def test_json_refuses_arrays(target):
    existed = target.exists()
    with pytest.raises(TypeError, match="ndarray is not JSON serializable"):
        write_json(target, {"a": np.zeros(3)})
    unharmed(target, existed)


def test_csv_refuses_ragged_rows(target):
    existed = target.exists()
    with pytest.raises(ValueError, match="row 1 has 1 cells, but the header has 2"):
        write_csv(target, ["a", "b"], [[1, 2], [3]])
    unharmed(target, existed)


def test_text_that_cannot_be_encoded(target):
    existed = target.exists()
    with pytest.raises(ValueError, match="surrogates not allowed"):
        write_text(target, "\udc80")
    unharmed(target, existed)


def test_destinations_that_are_no_files(tmp_path):
    with pytest.raises(ValueError, match=r"folder '.*no' does not exist; create it first"):
        write_text(tmp_path / "no" / "a", "x")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "folder", tmp_path / "pipe"):  # no real device: as root, a broken check would replace it
        with pytest.raises(ValueError, match="is no regular file; choose another path"):
            write_text(path, "x")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "pipe"]


# ---------------------------------------------------------------------------------------------------------- failing disks


@pytest.fixture
def small_disk():
    """The system cuts every file off at 64 KiB, part of it written: a real failure in the middle of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


WRITERS = [
    lambda path: write_text(path, BIG),
    lambda path: write_json(path, {"big": BIG}),
    lambda path: write_csv(path, ["a"], [[BIG]]),
]


@pytest.mark.usefixtures("small_disk")
@pytest.mark.parametrize("write", WRITERS)
def test_a_file_cut_off_by_the_system(target, write):
    existed = target.exists()
    with pytest.raises(OSError, match="it was not written, and what was there is unchanged") as caught:
        write(target)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(target)
    unharmed(target, existed)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk(target, monkeypatch, write):
    """/dev/full behaves as a disk without a byte left."""
    existed = target.exists()

    def on_full_disk(path, mode):
        Path(path).touch(exist_ok=False)
        return open("/dev/full", mode.replace("x", "w"))

    monkeypatch.setattr(atomic, "open", on_full_disk, raising=False)
    with pytest.raises(OSError, match="No space left on device; it was not written") as caught:
        write(target)
    assert caught.value.errno == errno.ENOSPC
    unharmed(target, existed)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_failures_at_the_last_moment(target, monkeypatch, call, error):
    existed = target.exists()

    def fail(*_):
        raise error

    monkeypatch.setattr(atomic.os, call, fail)
    with pytest.raises(type(error)):
        write_text(target, "new")
    monkeypatch.undo()
    unharmed(target, existed)


@pytest.mark.usefixtures("small_disk")
def test_files_that_belong_together_are_replaced_together_or_not_at_all(tmp_path):
    (tmp_path / "b").write_text("older")
    (tmp_path / "real").mkdir()
    (tmp_path / "c").symlink_to(tmp_path / "real" / "c")
    with pytest.raises(OSError, match="none of 3 files was written, and what was there is unchanged") as caught:
        write_texts({tmp_path / "a": "new", tmp_path / "c": "new", tmp_path / "b": BIG})
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(tmp_path / "b")
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["b", "c", "real"]
    assert (tmp_path / "b").read_text() == "older"
    write_texts({tmp_path / "a": "new", tmp_path / "c": "new", tmp_path / "b": "newer"})
    assert [(tmp_path / name).read_text() for name in ("a", "b", "real/c")] == ["new", "newer", "new"]
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["a", "b", "c", "c", "real"]


def test_all_content_is_on_the_disk_before_the_first_file_is_replaced(tmp_path, monkeypatch):
    order = []
    calls = {name: getattr(os, name) for name in ("fsync", "replace")}
    for name in calls:
        monkeypatch.setattr(atomic.os, name, lambda *given, name=name: (order.append(name), calls[name](*given))[1])
    write_texts({tmp_path / "a": "1", tmp_path / "b": "2"})
    assert order[:4] == ["fsync", "fsync", "replace", "replace"]


def test_a_folder_that_cannot_be_flushed_is_no_failure(tmp_path, monkeypatch):
    """Some network file systems refuse to; the content is complete all the same."""
    flushed = os.fsync

    def only_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        flushed(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", only_files)
    write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"
