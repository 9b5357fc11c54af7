"""Data sets in blocks: the same images, labels and digests as when they are loaded whole."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from certidote.data import load, load_with_findings
from certidote.data.pictures import read_pictures
from certidote.data.stream import png_names, stream
from certidote.streams import ROW_BLOCK, Key, row_blocks


def fill(root: Path, sizes: dict[str, int], color: tuple[str, ...] = (), shape: tuple[int, int] = (8, 9)) -> Path:
    """Classes of random grey BMP files; the last file of each class in `color` is RGB."""
    generator = Key(5).numpy()
    for name, count in sizes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            rgb = name in color and number == count - 1
            levels = generator.integers(0, 256, (*shape, 3) if rgb else shape, dtype=np.uint8)
            Image.fromarray(levels).save(root / name / f"{number:05d}.bmp")
    return root


@pytest.mark.parametrize("color", [(), ("bee",)])
def test_blocks_are_the_loaded_set_and_so_are_the_digests(tmp_path: Path, color: tuple[str, ...]) -> None:
    root = fill(tmp_path / "set", {"ant": ROW_BLOCK - 3, "bee": 10}, color)
    seen: list[tuple[int, int]] = []
    streamed, whole = stream(root, advance=lambda done, total: seen.append((done, total))), load(root)
    assert streamed.digest == whole.digest()
    assert streamed.image_shape == whole.image_shape == (3 if color else 1, 8, 9)
    assert streamed.class_names == whole.class_names
    blocks = [streamed.part(rows).read() for rows in row_blocks(len(streamed))]
    assert torch.equal(torch.cat([block.images for block in blocks]), whole.images)
    assert torch.equal(torch.cat([block.labels for block in blocks]), whole.labels)
    assert streamed.name(ROW_BLOCK - 3) == "bee/00000.bmp"
    assert seen == [(ROW_BLOCK, ROW_BLOCK + 7), (ROW_BLOCK + 7, ROW_BLOCK + 7)]


def test_arrays_are_cut_into_the_same_blocks() -> None:
    streamed, whole = stream("digits:trusted"), load("digits:trusted")
    assert streamed.digest == whole.digest()
    assert torch.equal(streamed.part(range(897)).read().images, whole.images)
    assert streamed.folder is None


def test_an_image_that_changes_after_the_survey_is_noticed(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", {"ant": 3, "bee": 3})
    streamed = stream(root)
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(root / "bee" / "00001.bmp")
    with pytest.raises(ValueError, match="changed while they were read .*run the same command again"):
        streamed.part(range(6)).read()


def test_what_loading_refuses_the_survey_refuses_with_the_same_words(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", {"ant": 2, "bee": 2})
    Image.fromarray(np.zeros((8, 10), np.uint8)).save(root / "bee" / "other.png")
    messages = []
    for read in (load, stream):
        with pytest.raises(ValueError, match="images need one size") as caught:
            read(root)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_corrupt_files_are_left_out_as_in_loading(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", {"ant": ROW_BLOCK + 2, "bee": 3})
    (root / "metadata.csv").write_text("file_name,label\n")
    lost = [("ant", "00000.bmp"), ("ant", f"{ROW_BLOCK - 1:05d}.bmp"), ("bee", "00002.bmp")]
    for place in lost:
        root.joinpath(*place).write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"ant/00000\.bmp' is not a readable .* or leave such files out with --skip-corrupt"):
        stream(root)
    streamed, whole = stream(root, skip_corrupt=True), load_with_findings(root, skip_corrupt=True)
    assert streamed.digest == whole.data.digest()
    assert (streamed.notes, streamed.skipped) == (whole.data.notes, whole.skipped)
    assert [name for name, _ in streamed.skipped] == ["/".join(place) for place in lost]
    assert [streamed.name(row) for row in range(len(streamed))] == list(whole.data.names or ())
    blocks = [streamed.part(rows).read() for rows in row_blocks(len(streamed))]
    assert torch.equal(torch.cat([block.images for block in blocks]), whole.data.images)
    for file in (root / "bee").iterdir():
        file.write_bytes(b"junk")
    with pytest.raises(ValueError, match="every image of class 'bee' in '.*' is corrupt"):
        stream(root, skip_corrupt=True)
    for file in (root / "ant").iterdir():
        file.write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"none of the 1029 images can be decoded: '.*ant/00000\.bmp' is not"):
        stream(root, skip_corrupt=True)


def test_images_of_an_archive_keep_their_names(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", {"ant": 2, "bee": 2})
    shutil.make_archive(str(tmp_path / "packed"), "zip", root)
    made = stream(tmp_path / "packed.zip")
    assert [made.name(row) for row in range(4)] == ["ant/00000.bmp", "ant/00001.bmp", "bee/00000.bmp", "bee/00001.bmp"]
    assert made.files == stream(root).files
    assert (made.prefix, stream("digits").files, stream("digits").name(7)) == ("", None, "7")


def test_names_that_no_screen_or_table_can_hold_are_escaped_in_every_form(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", {"ant": 2, "bee": 2})
    for strange, place in (("a\x1b[31mX\n.bmp", 0), ("b\udcff\u202e.bmp", 1)):
        (root / "ant" / f"{place:05d}.bmp").rename(root / "ant" / strange)
    expected = ["ant/a\\x1b[31mX\\n.bmp", "ant/b\\udcff\\u202e.bmp", "bee/00000.bmp", "bee/00001.bmp"]
    made = stream(root)
    assert [made.name(row) for row in range(4)] == expected == list(load(root).names or ())
    assert torch.equal(made.part(range(4)).read().images, load(root).images)
    assert list(read_pictures(str(root)).names) == expected
    assert read_pictures(str(root / "ant" / "b\udcff\u202e.bmp")).names == ("b\\udcff\\u202e.bmp",)
    (root / "ant" / "b\udcff\u202e.bmp").write_bytes(b"junk")
    assert [name for name, _ in stream(root, skip_corrupt=True).skipped] == expected[1:2]


def test_png_names_keep_files_apart_and_in_order() -> None:
    assert png_names(("a.jpg", "b.PNG", "c.d.bmp")) == ("a.png", "b.png", "c.d.png")
    assert png_names(("a.jpg", "a.png")) == ("a.jpg.png", "a.png.png")
    assert png_names(("a.jpg", "a.k.jpg")) == ("a.jpg.png", "a.k.jpg.png")  # "a.k.png" would come before "a.png"
    assert png_names(("a\x1b[31m.png", "b\udcff.png", "c\\d.png")) == ("a_[31m.png", "b_.png", "c_d.png")
    assert png_names(("a\x01.png", "a\x02.png")) == ("0.png", "1.png"), "made one by that, they are numbered"
    long = ("b" * 300 + ".jpg", "c.jpg")
    assert png_names(long) == ("0.png", "1.png"), "members of archives may have names that no file can have"
    hostile = ("a.bmp", "a.bmp-c.png", "a.jpg")  # neither way keeps them apart and in order
    assert png_names(hostile) == ("0.png", "1.png", "2.png")


def test_resized_files_are_those_of_loading(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", {"ant": 2, "bee": 2})
    Image.fromarray(np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)).save(root / "bee" / "other.png")
    made, whole = stream(root, size="8"), load(root, size=8)
    assert made.digest == whole.digest()
    assert torch.equal(made.part(range(5)).read().images, whole.images)
