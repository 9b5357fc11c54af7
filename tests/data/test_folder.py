import os
import signal
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from certidote.data import load
from certidote.data.pictures import read_pictures
from certidote.streams import Key


def levels(seed, *shape):
    return (Key(7) / seed).numpy().integers(0, 256, shape, dtype=np.uint8)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return array


@pytest.fixture
def root(tmp_path):
    """Two classes of two grey 8x9 images."""
    for name in ("ant", "bee"):
        for number in range(2):
            save(tmp_path / "set" / name / f"{number}.png", levels(number, 8, 9))
    return tmp_path / "set"


def refused(root, message, split="train"):
    with pytest.raises(ValueError, match=message) as caught:
        load(root, split)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------------ what is read


def test_pixels_labels_and_order(tmp_path):
    expected = []
    for name in ("Zebra", "ant", "bee"):  # as sorted by code point
        for file in ("10.png", "2.PNG", "a.bmp"):
            expected.append((name, save(tmp_path / name / file, levels(f"{name}{file}", 9, 8, 3))))
    data = load(tmp_path)
    assert data.class_names == ("Zebra", "ant", "bee")
    assert [data.class_names[label] for label in data.labels] == [name for name, _ in expected]
    assert np.array_equal(data.images.numpy(), np.stack([a.transpose(2, 0, 1) for _, a in expected]))


def test_all_grey_stays_grey_and_one_color_image_makes_all_color(root):
    grey = load(root)
    assert grey.image_shape == (1, 8, 9)
    assert np.array_equal(grey.images[1, 0].numpy(), levels(1, 8, 9))
    color = save(root / "bee" / "2.png", levels("color", 8, 9, 3))
    mixed = load(root)
    assert np.array_equal(mixed.images[:4].numpy(), grey.images.numpy().repeat(3, axis=1))
    assert np.array_equal(mixed.images[4].numpy(), color.transpose(2, 0, 1))


def test_every_format_is_read_by_content_and_close_to_the_original(root):
    smooth = np.linspace(0, 255, 72).astype(np.uint8).reshape(8, 9)
    for name, options in {"a.jpg": {"quality": 100}, "b.JPEG": {"quality": 100}, "c.WebP": {"lossless": True}, "d.BMP": {}}.items():
        save(root / "cat" / name, smooth, **options)
    (root / "cat" / "e.jpg").write_bytes((root / "cat" / "d.BMP").read_bytes())
    images = load(root).images[4:].numpy().astype(int)
    assert len(images) == 5
    assert np.abs(images - smooth).max() <= 3  # JPEG at its best quality
    assert (images[2:] == smooth).all()


def test_transparency_is_laid_over_white(root):
    rgba = levels("rgba", 8, 9, 4)
    rgba[0, 0, 3], rgba[0, 1, 3] = 0, 255
    save(root / "cat" / "a.png", rgba)
    share = rgba[..., 3:] / 255
    expected = rgba[..., :3] * share + 255 * (1 - share)
    found = load(root).images[-1].numpy().transpose(1, 2, 0)
    assert np.abs(found - expected).max() <= 1
    assert (found[0, 0] == 255).all()
    assert (found[0, 1] == rgba[0, 1, :3]).all()


def test_grey_with_transparency_stays_grey(root):
    grey = levels("la", 8, 9)
    (root / "cat").mkdir()
    Image.fromarray(np.stack([grey, np.where(grey > 99, 255, 0).astype(np.uint8)], 2), "LA").save(root / "cat" / "a.png")
    Image.fromarray(grey).save(root / "cat" / "b.png", transparency=int(grey[0, 0]))
    data = load(root)
    assert data.image_shape == (1, 8, 9)
    assert np.array_equal(data.images[-2, 0].numpy(), np.where(grey > 99, grey, 255))
    assert np.array_equal(data.images[-1, 0].numpy(), np.where(grey == grey[0, 0], 255, grey))


def test_sixteen_bit_grey_is_scaled(root):
    deep = (Key(3) / "deep").numpy().integers(0, 65_536, (8, 9), dtype=np.uint16)
    deep[0, :4] = [0, 65_535, 128, 129]  # 128.5 is half of the first of 255 levels
    save(root / "cat" / "a.png", deep)
    data = load(root)
    assert data.image_shape[0] == 1
    assert np.array_equal(data.images[-1, 0].numpy(), np.floor(deep / 65_535 * 255 + 0.5).astype(np.uint8))
    assert data.images[-1, 0, 0, :4].tolist() == [0, 255, 0, 1]


def test_black_and_white_and_palette_images(root):
    bits = levels("bits", 8, 9) > 127
    save(root / "cat" / "a.png", bits)
    assert np.array_equal(load(root).images[-1, 0].numpy(), np.where(bits, 255, 0))
    palette = Image.fromarray(levels("p", 8, 9, 3)).quantize(16)
    palette.save(root / "cat" / "b.png")
    assert np.array_equal(load(root).images[-1].numpy(), np.asarray(palette.convert("RGB")).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (6, lambda a: np.rot90(a, -1)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_exif_orientation_is_applied(tmp_path, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("ant", "bee"):
        stored = save(tmp_path / name / "a.png", levels("exif", 8, 11), exif=exif)
    assert np.array_equal(load(tmp_path).images[0, 0].numpy(), upright(stored))


def test_damaged_exif_is_no_obstacle(root):
    for number in range(3):
        save(root / "cat" / f"{number}.jpg", levels(number, 8, 9), exif=b"Exif\0\0II*\0\xff\xff\xff\xff\0" + bytes(number))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load(root)) == 7


def test_hidden_files_and_system_litter_are_ignored(root):
    expected = load(root).digest()
    for name in (".DS_Store", "ant/.hidden.png", "ant/Thumbs.db", "bee/desktop.ini", "README.md", "labels.csv"):
        (root / name).write_bytes(b"litter")
    for name in (".git", "__MACOSX"):
        (root / name).mkdir()
    assert load(root).digest() == expected


# ----------------------------------------------------------------------------------------------------------------- splits


def test_split_folders(tmp_path):
    for split, count in (("train", 3), ("test", 2), ("val", 1)):
        for name in ("ant", "bee"):
            for number in range(count):
                save(tmp_path / split / name / f"{number}.png", levels(number, 8, 8))
    (tmp_path / "annotations").mkdir()
    assert [len(load(tmp_path, split)) for split in ("train", "test", "val")] == [6, 4, 2]
    refused(tmp_path, "no split 'trusted'; choose one of: train, test, val", "trusted")
    refused(tmp_path, r"no split '\.\.'", "..")


def test_a_class_may_be_called_train(tmp_path):
    for name in ("train", "bus"):
        save(tmp_path / name / "a.png", levels(name, 8, 8))
    assert load(tmp_path).class_names == ("bus", "train")


def test_one_set_is_never_taken_for_a_test_set(root):
    refused(root, r"no split 'test', it is one set; give the folder of the test images, or put train/ and test/", "test")


# --------------------------------------------------------------------------------------------------------------- refusals


def test_no_classes(tmp_path):
    refused(tmp_path, "holds no class folders")
    save(tmp_path / "a.png", levels(0, 8, 8))
    refused(tmp_path, r"a\.png' lies outside every class folder")


def test_one_class(tmp_path):
    save(tmp_path / "ant" / "a.png", levels(0, 8, 8))
    refused(tmp_path, r"1 class; a classifier needs 2")


def test_too_many_classes_are_refused_before_any_image_is_read(tmp_path):
    for number in range(1_001):
        (tmp_path / str(number)).mkdir()
    refused(tmp_path, "1001 classes; a classifier needs 2 to 1000")


def test_empty_class(root):
    (root / "cat").mkdir()
    (root / "cat" / ".keep").touch()
    refused(root, r"class folder '.*cat' holds no images")


def test_not_an_image(root):
    (root / "ant" / "notes.txt").write_text("hello")
    refused(root, r"notes\.txt' is not an image file; class folders may hold only \.png")


def test_folder_inside_a_class(root):
    (root / "ant" / "more.png").mkdir()
    refused(root, r"ant' holds a folder, 'more\.png'; it may hold image files only")


def test_different_sizes_name_both_files(root):
    save(root / "bee" / "z.png", levels(0, 9, 8))
    refused(root, r"ant/0\.png' has 8x9 pixels but '.*bee/z\.png' has 9x8 \(height x width\)")


def test_size_is_compared_after_orientation(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(root / "bee" / "z.png", levels(0, 9, 8), exif=exif)
    assert len(load(root)) == 5


@pytest.mark.parametrize("shape", [(7, 8), (225, 8)])
def test_sizes_out_of_range_name_the_file(root, shape):
    save(root / "bee" / "z.png", levels(0, *shape))
    refused(root, rf"bee/z\.png': images of {shape[0]}x{shape[1]} pixels.*8 to 224")


def test_other_formats_are_refused_whatever_their_name(root):
    Image.fromarray(levels(0, 8, 9)).save(root / "bee" / "z.png", format="TIFF")
    refused(root, r"bee/z\.png' is not a readable PNG, JPEG, BMP or WebP image")


def test_line_breaks_in_file_names_are_escaped(root):
    (root / "ant" / "a\nb.png").write_bytes(b"junk")
    refused(root, r"a\\nb\.png")
    (root / "c\nd").mkdir()
    refused(root, "cannot be printed")


def test_unreadable_folder(root, monkeypatch):
    from pathlib import Path

    listed = Path.iterdir

    def denied(folder):
        if folder.name == "bee":
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", denied)
    refused(root, r"bee' cannot be read \(Permission denied\); check its permissions")


def png_claiming(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1_000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [5_000, 10_000, 60_000])  # silent, a warning and an error of Pillow
def test_decompression_bombs_are_refused_unopened(root, monkeypatch, side):
    (root / "bee" / "z.png").write_bytes(png_claiming(side, side))
    opened = []
    unpack = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: (opened.append(image.size), unpack(image))[1])
    refused(root, rf"bee/z\.png'(: images of {side}x{side} pixels| is not a readable .*decompression bomb)")
    assert set(opened) == {(9, 8)}


@pytest.mark.parametrize("extension", ["png", "jpg", "bmp", "webp"])
def test_damaged_images_are_read_or_refused_by_name(root, extension):
    """Cut or overwritten anywhere: an image of the right shape, or one ValueError line that names the file."""
    file = root / "bee" / f"z.{extension}"
    save(file, levels("damage", 8, 9, 3))
    whole = file.read_bytes()
    draw = (Key(11) / extension).numpy()
    damaged = [whole[: int(draw.integers(0, len(whole)))] for _ in range(12)]
    for _ in range(36):
        copy = bytearray(whole)
        for place in draw.integers(0, len(whole), 4):
            copy[place] = int(draw.integers(0, 256))
        damaged.append(bytes(copy))
    refusals = 0
    for content in damaged:
        file.write_bytes(content)
        try:
            count, message = len(load(root)), ""
        except ValueError as error:
            count, message = 0, str(error)
        assert count == 5 or f"bee/z.{extension}'" in message
        assert "\n" not in message
        refusals += count == 0
    assert refusals >= 8


def test_truncated_image(root):
    whole = (root / "bee" / "1.png").read_bytes()
    (root / "bee" / "1.png").write_bytes(whole[:60])
    refused(root, r"bee/1\.png' is not a readable PNG, JPEG, BMP or WebP image \(.+\); repair or remove it")


# ------------------------------------------------------------------------------------------------- links, pipes, no hanging


@pytest.fixture
def no_hanging():
    def stop(*_):
        raise TimeoutError("hung")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 20)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)


@pytest.mark.usefixtures("no_hanging")
def test_link_loops_are_refused(root):
    (root / "cat").symlink_to(root)
    refused(root, r"cat' is a link to the folder that holds it, or to one above; remove it")
    (root / "cat").unlink()
    (root / "ant" / "x.png").symlink_to(root / "ant" / "x.png")
    refused(root, r"x\.png' is a broken link")
    (root / "ant" / "x.png").unlink()
    for target in ("cat", "nowhere"):
        (root / "cat").symlink_to(root / target)
        refused(root, r"cat' is a link that leads nowhere, or back to itself; remove it")
        (root / "cat").unlink()


@pytest.mark.usefixtures("no_hanging")
def test_links_to_a_folder_above_are_refused(root, tmp_path):
    """Otherwise the images of the folder above would be read, which nobody gave."""
    message = "is a link to the folder that holds it, or to one above; remove it"
    for target in (".", "..", root, tmp_path):
        (root / "loop").symlink_to(target)
        refused(root, rf"loop' {message}")
        (root / "loop").unlink()
    alone = root / "alone"
    alone.mkdir()
    (alone / "only").symlink_to("..")
    refused(alone, rf"only' {message}")
    for split in ("train", "test"):
        (tmp_path / "split").mkdir(exist_ok=True)
        (tmp_path / "split" / split).symlink_to(root if split == "train" else ".")
    refused(tmp_path / "split", rf"test' {message}")
    with pytest.raises(ValueError, match=message):
        read_pictures(str(tmp_path / "split"))


def test_linked_images_and_classes_are_followed(root, tmp_path):
    expected = load(root).digest()
    (root / "bee").rename(tmp_path / "elsewhere")
    (root / "bee").symlink_to(tmp_path / "elsewhere")
    assert load(root).digest() == expected


@pytest.mark.usefixtures("no_hanging")
def test_a_named_pipe_is_not_waited_for(root):
    os.mkfifo(root / "ant" / "x.png")
    refused(root, r"x\.png' is a broken link or not a regular file")
