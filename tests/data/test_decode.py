"""What happens to images of every kind, and that it is told."""

import io
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from certidote.data import decode, load, load_with_findings
from certidote.data.decode import Reading
from certidote.data.resize import as_size, resized
from certidote.data.stream import stream
from certidote.streams import Key


def levels(seed: object, *shape: int) -> np.ndarray:
    return (Key(8) / str(seed)).numpy().integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of two RGB images of 12x16 pixels."""
    for name in ("ant", "bee"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(levels((name, number), 12, 16, 3)).save(tmp_path / "set" / name / f"{number}.png")
    return tmp_path / "set"


def refused(root: Path, message: str, **options: object) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load(root, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def deep_color_png(array: np.ndarray) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, _ = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def saved(kind: str, root: Path) -> np.ndarray | None:
    """An image of this kind in class "cat", and the levels it should become where these are exact."""
    (root / "cat").mkdir()
    rgb, file = levels(kind, 12, 16, 3), root / "cat" / "x.png"
    image = Image.fromarray(rgb)
    if kind == "grey":
        image.getchannel(0).save(file)
        return rgb[..., :1].repeat(3, axis=2)
    if kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 3
        image.save(file, exif=exif)
        return rgb[::-1, ::-1]
    if kind == "transparent":
        image.putalpha(Image.fromarray(np.where(rgb[..., 0] > 99, 255, 0).astype(np.uint8)))
        image.save(file)
        return np.where(rgb[..., :1] > 99, rgb, 255)
    if kind == "palette":
        image.quantize(8).save(file)
        return np.asarray(image.quantize(8).convert("RGB"))
    if kind == "16-bit":
        file.write_bytes(deep_color_png(rgb.astype(np.uint16) * 256 + 17))
        return rgb
    if kind == "cmyk":
        Image.new("CMYK", (16, 12), (0, 255, 255, 0)).save(root / "cat" / "x.jpg", quality=100)
        return np.broadcast_to(np.array([255, 0, 0], np.uint8), (12, 16, 3))
    assert kind == "animated"
    frames = [image, Image.fromarray(255 - rgb)]
    frames[0].save(file, save_all=True, append_images=frames[1:])
    return rgb


@pytest.mark.parametrize("kind", ["grey", "rotated", "transparent", "palette", "16-bit", "cmyk", "animated"])
def test_every_kind_is_converted_and_counted(root: Path, kind: str) -> None:
    assert load_with_findings(root).kinds == {}
    assert load(root).notes == ()
    expected = saved(kind, root)
    loaded = load_with_findings(root)
    assert loaded.kinds == {kind: 1}
    assert len(loaded.data.notes) == 1
    assert loaded.data.notes[0].startswith("1 image ")
    found = loaded.data.images[-1].numpy().transpose(1, 2, 0).astype(int)
    assert np.abs(found - expected).max() <= (3 if kind == "cmyk" else 0)


def test_grey_is_no_conversion_where_all_are_grey(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        Image.fromarray(levels(name, 8, 8)).save(tmp_path / name / "x.png")
    assert load(tmp_path).notes == ()


# ---------------------------------------------------------------------------------------------------------------- resizing


@pytest.mark.parametrize(
    ("given", "size"), [("32", (32, 32)), (32, (32, 32)), ("32x48", (32, 48)), ((9, 8), (9, 8)), ("", None), (None, None)]
)
def test_sizes_as_users_write_them(given: object, size: object) -> None:
    assert as_size(given) == size  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["7", "225", "8x225", "x", "32x", "32x32x3", "-9", "1e2", 0, (8, 4), "99999999999"])
def test_other_sizes_are_refused(root: Path, given: object) -> None:
    refused(root, "give N or HxW .* with sides of 8 to 224 pixels", size=given)


def test_mixed_sizes_say_size_and_size_helps(root: Path) -> None:
    Image.fromarray(levels("wide", 300, 500, 3)).save(root / "bee" / "wide.jpg")
    Image.fromarray(levels("flat", 4, 9, 3)).save(root / "bee" / "flat.png")
    refused(root, r"bee/flat\.png': images of 4x9 pixels .*give --size to resize")
    (root / "bee" / "wide.jpg").unlink()
    (root / "bee" / "flat.png").unlink()
    Image.fromarray(levels("other", 13, 16, 3)).save(root / "bee" / "other.png")
    refused(root, r"ant/0\.png' has 12x16 pixels but .*other\.png' has 13x16 .*give --size")
    Image.fromarray(levels("wide", 300, 500, 3)).save(root / "bee" / "wide.jpg")
    Image.fromarray(levels("flat", 4, 9, 3)).save(root / "bee" / "flat.png")
    loaded = load_with_findings(root, size="12x16")
    assert loaded.data.image_shape == (3, 12, 16)
    assert loaded.kinds == {"resized": 3, "enlarged": 1}
    assert "1 image enlarged, for they are smaller than asked for" in loaded.data.notes
    assert loaded.data.notes[-1].startswith("3 images resized to 12x16 pixels")
    assert "every budget and radius speaks of the resized pixels" in loaded.data.notes[-1]
    assert np.array_equal(loaded.data.images[0].numpy().transpose(1, 2, 0), levels(("ant", 0), 12, 16, 3)), "untouched"


def test_resizing_keeps_the_center_and_does_not_alias() -> None:
    """As resizing the whole and then cutting the sides off evenly; a fine checkerboard becomes its mean and no pattern."""
    wide = Image.fromarray(levels("wide", 40, 80, 3))
    expected = wide.resize((20, 10), Image.Resampling.LANCZOS).crop((5, 0, 15, 10))
    assert np.array_equal(np.asarray(resized(wide, (10, 10))), np.asarray(expected))
    tall = wide.transpose(Image.Transpose.TRANSPOSE)
    assert np.array_equal(np.asarray(resized(tall, (10, 10))), np.asarray(expected.transpose(Image.Transpose.TRANSPOSE)))
    checkerboard = (np.indices((96, 96)).sum(0) % 2 * 255).astype(np.uint8)
    small = np.asarray(resized(Image.fromarray(checkerboard), (13, 13))).astype(int)
    assert np.abs(small - 127).max() <= 3


def test_resized_arrays_equal_resized_files(root: Path, tmp_path: Path) -> None:
    data = load(root)
    np.savez(tmp_path / "x.npz", images=data.images.permute(0, 2, 3, 1), labels=data.labels, class_names=np.array(data.class_names))
    small = load(tmp_path / "x.npz", size=8)
    assert small.digest() == load(root, size=8).digest()
    assert small.notes == load(root, size=8).notes
    large = np.zeros((4, 300, 300), np.uint8)
    np.savez(tmp_path / "large.npz", images=large, labels=np.array([0, 1, 0, 1]))
    refused(tmp_path / "large.npz", "300x300 pixels.*give --size")
    assert load(tmp_path / "large.npz", size=32).image_shape == (1, 32, 32)
    assert load("digits", size=16).image_shape == (1, 16, 16)


# ------------------------------------------------------------------------------------------------- corrupt and unreadable


def test_corrupt_images_are_named_or_skipped_and_listed(root: Path) -> None:
    clean = load(root)
    (root / "ant" / "x.png").write_bytes(b"junk")
    (root / "bee" / "1.png").write_bytes((root / "bee" / "1.png").read_bytes()[:60])
    refused(root, r"ant/x\.png' is not a readable PNG.*repair or remove it, or leave such files out with --skip-corrupt")
    loaded = load_with_findings(root, skip_corrupt=True)
    assert [name for name, _ in loaded.skipped] == ["ant/x.png", "bee/1.png"]
    assert loaded.data.names == ("ant/0.png", "ant/1.png", "bee/0.png")
    assert loaded.data.digest() == clean.subset([0, 1, 2]).digest()
    assert loaded.data.notes == ("2 corrupt files left out (--skip-corrupt): every statement speaks of the images that are left",)


def test_only_damage_is_skipped(root: Path) -> None:
    Image.fromarray(levels("other", 13, 16, 3)).save(root / "bee" / "z.png")
    refused(root, "z.png' has 13x16", skip_corrupt=True)
    Image.fromarray(levels("other", 7, 16, 3)).save(root / "bee" / "z.png")
    refused(root, "z.png': images of 7x16 pixels", skip_corrupt=True)
    (root / "bee" / "z.png").unlink()
    for number in range(2):
        (root / "bee" / f"{number}.png").write_bytes(b"junk")
    refused(root, "every image of class 'bee' in '.*' is corrupt", skip_corrupt=True)
    for number in range(2):
        (root / "ant" / f"{number}.png").write_bytes(b"junk")
    refused(root, r"none of the 4 images can be decoded: '.*ant/0\.png' is not a readable", skip_corrupt=True)


def test_an_unreadable_file_is_no_corrupt_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Image.open

    def denied(file: object, **options: object) -> Image.Image:
        if str(file).endswith("bee/1.png"):
            raise PermissionError(13, "Permission denied")
        return opened(file, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image, "open", denied)
    refused(root, r"bee/1\.png' cannot be read \(Permission denied\); check its permissions", skip_corrupt=True)


def test_a_failing_disk_makes_no_corrupt_image(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left out would be images that are whole; the set would be another one after a second try."""
    load_pixels = ImageFile.ImageFile.load

    def failing(image: ImageFile.ImageFile) -> object:
        if str(image.filename).endswith("bee/1.png"):
            raise OSError(5, "Input/output error")
        return load_pixels(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", failing)
    refused(root, r"bee/1\.png' cannot be read \(Input/output error\); check its permissions and the disk", skip_corrupt=True)


def test_the_first_fault_is_reported_whatever_the_threads_do(root: Path) -> None:
    for number in range(300):
        (root / "bee" / f"z{number:03d}.png").write_bytes(b"junk")
    refused(root, r"bee/z000\.png' is not a readable")


def test_large_photographs_have_a_limit(root: Path) -> None:
    buffer = io.BytesIO()
    Image.new("1", (11_000, 10_000)).save(buffer, "PNG")
    (root / "bee" / "z.png").write_bytes(buffer.getvalue())
    refused(root, r"z\.png' has 10000x11000 pixels; images of at most 100 million are resized", size=8)


# -------------------------------------------------------------------------------------------------------------- memory, cores


def held_at_most(monkeypatch: pytest.MonkeyPatch, sources: Iterator[tuple[int, bytes]], reading: Reading) -> int:
    """Bytes of encoded contents that were asked for and not yet given back as images, at their peak; on 64 cores."""
    monkeypatch.setattr(decode, "_cores", lambda: 64)
    asked = given = peak = 0
    sizes: dict[int, int] = {}

    def counted() -> Iterator[tuple[int, bytes]]:
        nonlocal asked, peak
        for row, content in sources:
            sizes[row] = len(content)
            asked += len(content)
            peak = max(peak, asked - given)
            yield row, content

    with decode.quiet_pillow():
        for batch in decode.batches_decoded(counted(), str, reading):
            given += sum(sizes.pop(row) for row, _ in batch)
    assert not sizes
    return peak


def test_memory_for_large_photographs_does_not_grow_with_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """600 MB of bitmaps; a core used to hold 128 of them."""
    buffer = io.BytesIO()
    Image.new("RGB", (1_000, 1_000)).save(buffer, "BMP")
    content, limit = buffer.getvalue(), decode.IN_FLIGHT + 2 * decode.BATCH_BYTES
    peak = held_at_most(monkeypatch, ((row, content[:]) for row in range(200)), Reading((8, 8)))
    assert 3 * decode.BATCH_BYTES < peak < limit
    monkeypatch.setattr(decode, "IN_FLIGHT", 2 * decode.BATCH_BYTES)
    assert held_at_most(monkeypatch, ((row, content[:]) for row in range(200)), Reading((8, 8))) <= 4 * decode.BATCH_BYTES


def test_small_images_keep_all_cores_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many batches as before: decoded images are counted by what they are, not by the largest there can be."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "BMP")
    content = buffer.getvalue()
    peak = held_at_most(monkeypatch, ((row, content) for row in range(200 * decode.BATCH)), Reading())
    assert peak == (2 * 64 + 1) * decode.BATCH * len(content)


def test_as_many_threads_decode_as_asked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Counted(ThreadPoolExecutor):
        def __init__(self, count: int) -> None:
            asked.append(count)
            super().__init__(count)

    monkeypatch.setattr(decode, "ThreadPoolExecutor", Counted)
    monkeypatch.setattr(decode, "_cores", lambda: 7)
    for threads in (None, 1, 3):
        stream(root, threads=threads)
        load_with_findings(root, threads=threads)
    assert asked == [7, 7, 1, 1, 3, 3]


# -------------------------------------------------------------------------------------------------------------- name clashes


@pytest.mark.parametrize(("one", "other"), [("Cat", "cat"), ("caf\u00e9", "cafe\u0301"), ("STRASSE", "stra\u00dfe")])
def test_class_folders_that_are_one_elsewhere(root: Path, one: str, other: str) -> None:
    for name in (one, other):
        (root / name).mkdir(exist_ok=True)
        Image.fromarray(levels(0, 12, 16, 3)).save(root / name / "a.png")
    refused(root, "class folders .* differ only in case or Unicode form; rename or merge them")


def test_files_that_are_one_elsewhere(root: Path) -> None:
    for name in ("IMG.png", "img.png", "img.PNG"):
        Image.fromarray(levels(name, 12, 16, 3)).save(root / "bee" / name)
    refused(root, r"bee': files 'IMG\.png' and 'img\.PNG' differ only in case or Unicode form \(1 more such pairs\)")


def test_metadata_beside_class_folders_is_ignored_and_said_so(root: Path) -> None:
    (root / "metadata.csv").write_text("file_name,label\nant/0.png,3\n")
    assert load(root).notes == ("metadata.csv was not read: classes come from folder names",)
