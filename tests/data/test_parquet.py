"""Parquet files as Hugging Face `datasets` writes them: a struct of bytes and path, class names in the schema's metadata."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from certidote.data import checks, load, load_test, splits_of
from certidote.streams import Key

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet as pq  # noqa: E402

NAMES = ["cat", "dog", "eel"]


def levels(seed: object) -> np.ndarray:
    return (Key(2) / str(seed)).numpy().integers(0, 256, (9, 8, 3), dtype=np.uint8)


def encoded(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, labels: list[int], column: str = "image", names: list[str] | None = NAMES, **extra: list[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [{"bytes": encoded(levels((path.name, row))), "path": f"{path.stem}-{row}.png"} for row in range(len(labels))]
    table = pyarrow.table({column: pictures, "label": pyarrow.array(labels, pyarrow.int64()), **extra})
    if names is not None:
        features = {column: {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=2)
    return path


def refused(path: Path, message: str, split: str = "train") -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load(path, split)
    assert "\n" not in str(caught.value)


def test_a_hub_folder(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train-00000-of-00002.parquet", [2, 0, 1], split_id=[1, 2, 3])
    write(tmp_path / "data" / "train-00001-of-00002.parquet", [1], split_id=[1])
    write(tmp_path / "data" / "test-00000-of-00001.parquet", [0, 1, 0, 1, 2], split_id=[0] * 5)
    (tmp_path / "README.md").write_text("card")
    assert splits_of(tmp_path) == ("train", "test")
    train = load(tmp_path)
    assert train.class_names == ("cat", "dog", "eel")
    assert train.labels.tolist() == [2, 0, 1, 1]
    expected = [levels(("train-00000-of-00002.parquet", row)) for row in range(3)] + [levels(("train-00001-of-00002.parquet", 0))]
    assert np.array_equal(train.images.numpy().transpose(0, 2, 3, 1), np.stack(expected))
    assert train.names is not None
    assert train.names[-1] == "train-00001-of-00002-0.png"
    assert load(f"{tmp_path}:test").labels.tolist() == [0, 1, 0, 1, 2]
    refused(tmp_path, "no split 'val'; choose one of: train, test", "val")


def test_splits_as_folders_another_column_name_and_one_file(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("test", 3)):
        write(tmp_path / "set" / split / "0000.parquet", [0, 1, 2, 0][:count], "img")
    assert [len(load(tmp_path / "set", split)) for split in ("train", "test")] == [4, 3]
    single = write(tmp_path / "flowers.parquet", [0, 1])
    assert splits_of(single) == ("train",)
    assert len(load(single)) == 2
    assert len(load_test(single, ("cat", "dog", "eel"))) == 2
    assert len(load_test(tmp_path / "set", ("cat", "dog", "eel"))) == 3
    assert len(load_test(tmp_path / "set" / "test" / "0000.parquet", ("cat", "dog", "eel"))) == 3
    refused(write(tmp_path / "train-0.parquet", [0, 1]), "no split 'test'; choose one of: train", "test")


def test_without_metadata_the_labels_name_the_classes_of_every_split(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [0, 1], names=None)
    write(tmp_path / "test.parquet", [0, 4], names=None)
    assert load(tmp_path).class_names == load(tmp_path, "test").class_names == tuple("01234")


def test_resizing_and_corrupt_images(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", [0, 1, 2])
    assert load(file, size="16x8").image_shape == (3, 16, 8)
    table = pq.read_table(file)
    pictures = table.column("image").to_pylist()
    pictures[1]["bytes"] = b"junk"
    pq.write_table(table.set_column(0, "image", pyarrow.array(pictures)), file)
    refused(file, r"image 1 of train' is not a readable PNG")
    data = load(file, skip_corrupt=True)
    assert data.labels.tolist() == [0, 2]
    assert data.names == ("a-0.png", "a-2.png")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3], "label 3, but only 3 class names"),
        ([0, -1], r"label -1 of row 1 is out of range.*-1 marks a test set whose labels"),
    ],
)
def test_labels_out_of_range(tmp_path: Path, labels: list[int], message: str) -> None:
    refused(write(tmp_path / "a.parquet", labels), message)


def test_other_tables(tmp_path: Path) -> None:
    for name, columns, message in (
        ("text", {"text": ["a"], "label": [1]}, r"has no image column, a struct with 'bytes'.*\(columns: 'text', 'label'\)"),
        ("bare", {"image": [{"bytes": b"x", "path": "y"}]}, "no column 'label' of integers"),
        ("path", {"image": [{"bytes": None, "path": "y"}] * 2, "label": [0, 1]}, "image 0 is not in the file, only its path"),
        ("null", {"image": [{"bytes": b"x", "path": "y"}] * 2, "label": [0, None]}, "1 images without a label"),
    ):
        table = pyarrow.table(columns)
        if name == "path":
            table = table.set_column(
                0, "image", pyarrow.array(columns["image"], pyarrow.struct({"bytes": "binary", "path": "string"}))
            )
        pq.write_table(table, tmp_path / f"{name}.parquet")
        refused(tmp_path / f"{name}.parquet", message)


def test_files_of_two_data_sets(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", [0, 1])
    write(tmp_path / "train-1.parquet", [0, 1], names=["x", "y"])
    refused(tmp_path, "has other columns or classes than")
    write(tmp_path / "more" / "train-1.parquet", [0, 1])
    refused(tmp_path, "parquet files of split 'train' in several folders")


def test_bombs_and_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.parquet", [0, 1, 2, 0, 1])
    whole, draw, messages = file.read_bytes(), Key(4).numpy(), []
    for _ in range(60):
        copy = bytearray(whole)
        for place in draw.integers(0, len(whole), 3):
            copy[place] = int(draw.integers(0, 256))
        file.write_bytes(copy)
        try:
            load(file)
        except ValueError as error:
            messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)
    for length in (0, 4, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        refused(file, r"a\.parquet' is not a readable parquet file")
    file.write_bytes(whole)
    monkeypatch.setattr(checks, "FREE", 100)
    monkeypatch.setattr(checks, "MAX_RATIO", 0)
    refused(file, r"of [\d,]+ bytes unpacks to [\d,]+ bytes or more, .* at most 0 times")


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.parquet", [0, 1])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(file, r"pip install 'certidote\[hf\]'")
