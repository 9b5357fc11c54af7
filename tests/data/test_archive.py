"""Archives of class folders: the same data as from a folder, and nothing that leads outside or explodes."""

import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from certidote.data import archive as archives
from certidote.data import checks, load, splits_of, xz
from certidote.streams import Key


def png(seed: object, *shape: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((Key(7) / str(seed)).numpy().integers(0, 256, shape or (8, 9), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = {
    f"{split}/{name}/{n}.png": png((split, name, n)) for split in ("train", "test") for name in ("ant", "bee") for n in range(3)
}
FORMS = ("set.zip", "set.tar", "set.tar.gz", "set.TGZ", "set.tar.xz", "set.txz")


def pack(path: Path, files: dict[str, bytes], *extra: tarfile.TarInfo | zipfile.ZipInfo) -> Path:
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
            for name, content in files.items():
                made.writestr(name, content)
            for info in extra:
                assert isinstance(info, zipfile.ZipInfo)
                made.writestr(info, b"x")
    else:
        mode = "w:gz" if path.suffix.lower() in (".gz", ".tgz") else "w:xz" if path.suffix.lower() in (".xz", ".txz") else "w"
        with tarfile.open(path, mode) as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            for info in extra:
                assert isinstance(info, tarfile.TarInfo)
                tar.addfile(info)
    return path


def unpack(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def refused(path: Path, message: str) -> None:
    before = sorted(path.parent.parent.rglob("*"))
    with pytest.raises(ValueError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert sorted(path.parent.parent.rglob("*")) == before, "nothing may be written"


@pytest.mark.parametrize("form", FORMS)
def test_an_archive_is_read_as_its_folder(tmp_path: Path, form: str) -> None:
    folder = unpack(tmp_path / "set", IMAGES)
    packed = pack(tmp_path / form, IMAGES)
    assert splits_of(packed) == splits_of(folder) == ("train", "test")
    for split in ("train", "test"):
        one, other = load(folder, split), load(f"{packed}:{split}")
        assert one.digest() == other.digest()
        assert one.names == other.names
        assert one.names is not None
        assert one.names[0] == f"{split}/ant/0.png"


@pytest.mark.parametrize("form", FORMS[:3])
def test_members_in_any_order_and_a_folder_around_them(tmp_path: Path, form: str) -> None:
    expected = load(pack(tmp_path / ("a" + form), IMAGES))
    shuffled = {f"./photos/{name}": IMAGES[name] for name in sorted(IMAGES, key=lambda name: name[::-1])}
    data = load(pack(tmp_path / form, {"./photos/README": b"litter", **shuffled}))
    assert data.digest() == expected.digest()
    assert data.names is not None
    assert data.names[0] == "photos/train/ant/0.png"
    assert load(unpack(tmp_path / "set", shuffled)).names == data.names


def test_damage_inside_names_the_member(tmp_path: Path) -> None:
    for form in FORMS[:3]:
        refused(pack(tmp_path / form, {**IMAGES, "train/bee/z.png": b"junk"}), r"bee/z\.png' is not a readable PNG.*--skip-corrupt")


@pytest.mark.parametrize("form", ["set.zip", "set.tar.gz"])
@pytest.mark.parametrize(
    "name", ["../evil.png", "train/ant/../../../evil.png", "/etc/evil.png", "C:\\evil.png", "train\\..\\evil.png", "D:/evil.png"]
)
def test_names_that_lead_outside(tmp_path: Path, form: str, name: str) -> None:
    refused(pack(tmp_path / form, {**IMAGES, name: b"x"}), r"evil\.png' of archive .* has a name that leads outside")


def test_backslashes_of_windows_tools_are_separators(tmp_path: Path) -> None:
    """Only in a zip that says it was made there; elsewhere a backslash is part of a name, and nobody can tell what was meant."""
    expected = load(pack(tmp_path / "slashes.zip", IMAGES))
    for system, name in ((0, "set.zip"), (3, "unix.zip")):
        with zipfile.ZipFile(tmp_path / name, "w") as made:
            for file, content in {"train/": b"", **IMAGES}.items():
                info = zipfile.ZipInfo(file.replace("/", "\\"))
                info.create_system = system
                made.writestr(info, content)
    data = load(tmp_path / "set.zip")
    assert data.digest() == expected.digest()
    assert data.names == expected.names
    message = r"has a backslash in its name, which means another folder on other systems; rename the file"
    refused(tmp_path / "unix.zip", message)
    refused(pack(tmp_path / "set.tar", {"train\\ant\\a.png": b"x"}), message)
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as made:
        info = zipfile.ZipInfo("train\\..\\..\\evil.png")
        info.create_system = 0
        made.writestr(info, b"x")
    refused(tmp_path / "evil.zip", r"evil\.png' of archive .* has a name that leads outside")


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.FIFOTYPE, "a device or pipe"),
    ],
)
def test_links_and_devices_in_tar(tmp_path: Path, kind: bytes, word: str) -> None:
    info = tarfile.TarInfo("train/ant/z.png")
    info.type, info.linkname = kind, "/etc/passwd"
    refused(pack(tmp_path / "set.tar", IMAGES, info), f"member 'train/ant/z.png' of archive .* is {word}")


def test_links_devices_and_encryption_in_zip(tmp_path: Path) -> None:
    for kind, word in ((stat.S_IFLNK, "a link"), (stat.S_IFIFO, "a device or pipe")):
        info = zipfile.ZipInfo("train/ant/z.png")
        info.create_system, info.external_attr = 3, (kind | 0o777) << 16
        refused(pack(tmp_path / f"{kind}.zip", IMAGES, info), f"z.png' of archive .* is {word}")
    packed = pack(tmp_path / "set.zip", {"train/ant/a.png": b"x"})
    content = bytearray(packed.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    packed.write_bytes(content)
    refused(packed, "a.png' of archive .* is encrypted")


def test_one_name_twice(tmp_path: Path) -> None:
    twice = zipfile.ZipInfo("train//ant/./0.png")
    refused(pack(tmp_path / "set.zip", IMAGES, twice), "holds 'train/ant/0.png' twice")
    inside = {**IMAGES, "train/ant/0.png/x.png": b"x"}
    refused(pack(tmp_path / "set.tar", inside), "holds 'train/ant/0.png' both as a file and as a folder")


@pytest.mark.parametrize("form", ["bomb.zip", "bomb.tar.gz", "bomb.tar.xz"])
def test_bombs_are_refused_with_the_figure(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros in a few kilobytes, in members that are small enough one by one."""
    monkeypatch.setattr(checks, "FREE", 2**20)
    packed = pack(tmp_path / form, {f"train/ant/{n}.png": bytes(300_000) for n in range(10)})
    assert packed.stat().st_size < 15_000
    refused(packed, r"of [\d,]+ bytes unpacks to [\d,]+ bytes or more, [\d,]+ times its size; at most 200 times")


def test_an_xz_header_that_asks_for_gigabytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dictionary of 1 GiB for a file of some kilobytes; unpacking would take as much."""
    plain = pack(tmp_path / "set.tar", IMAGES).read_bytes()
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 64 * 2**20}]
    (tmp_path / "set.tar.xz").write_bytes(lzma.compress(plain, filters=filters))
    assert len(load(tmp_path / "set.tar.xz")) == 6
    monkeypatch.setattr(xz, "MEMORY", 32 * 2**20)
    os.utime(tmp_path / "set.tar.xz", ns=(1, 1))
    refused(tmp_path / "set.tar.xz", r"set\.tar\.xz' is not a readable archive \(Memory usage limit exceeded\)")


def test_xz_is_unpacked_as_xz_does() -> None:
    """Several packed files after one another, with zeros between, are one; what is cut off or followed by junk is refused."""
    content = Key(3).numpy().integers(0, 9, 300_000, dtype=np.uint8).tobytes()
    packed = lzma.compress(content[:200_000]) + bytes(8) + lzma.compress(content[200_000:]) + bytes(4)
    assert io.BufferedReader(xz.Unpacked(io.BytesIO(packed))).read() == content
    for damaged in (packed[:-40], packed + b"junk", packed[:99], b""):
        with pytest.raises(lzma.LZMAError):
            io.BufferedReader(xz.Unpacked(io.BytesIO(damaged))).read()


@pytest.mark.parametrize("form", ["big.zip", "big.tar.xz"])
def test_one_huge_member(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBER", 2 * 2**20)
    packed = pack(tmp_path / form, {"train/ant/a.png": bytes(3 * 2**20)})
    refused(packed, "member 'train/ant/a.png' of archive .* unpacks to 3 MiB; a member may have at most 2 MiB")


def test_a_huge_header_is_not_read(tmp_path: Path) -> None:
    """A GNU long name of 1 TiB: tarfile would ask for it in one piece."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**40
    (tmp_path / "set.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    refused(tmp_path / "set.tar", "holds a header of 1,048,576 MiB; at most 64 MiB")


def test_sizes_below_zero_and_endless_names(tmp_path: Path) -> None:
    """A size of -1 would let the others exceed every total."""
    header = bytearray(tarfile.TarInfo("train/ant/z.png").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 12
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    (tmp_path / "set.tar").write_bytes(bytes(header) + bytes(10_240))
    refused(tmp_path / "set.tar", "member 'train/ant/z.png' of archive .* is less than empty")
    refused(pack(tmp_path / "deep.zip", {"a/" * 20 + "x.png": b"x"}), "has 45 characters and 20 folders; at most 1,024 and 16")
    refused(pack(tmp_path / "long.tar.gz", {"a" * 5_000: b"x"}), "has 5,000 characters and 0 folders")


def test_names_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    """They go into tables written as UTF-8."""
    files = {f"{name}/\udc80.png": png(name) for name in ("ant", "bee")}
    data = load(pack(tmp_path / "set.tar", files))
    assert data.names == ("ant/\\udc80.png", "bee/\\udc80.png")


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 5)
    refused(pack(tmp_path / "set.zip", IMAGES), "has more than 5 members; split it")


@pytest.mark.parametrize("form", ["set.zip", "set.tar", "set.tar.gz", "set.tar.xz"])
def test_a_cut_off_archive_is_never_taken_for_a_smaller_one(tmp_path: Path, form: str) -> None:
    whole = pack(tmp_path / form, IMAGES).read_bytes()
    length = len(whole) - (tarfile.RECORDSIZE if form == "set.tar" else 0)  # a tar is filled up with zeros
    for share in np.linspace(0, 0.99, 12):
        (tmp_path / form).write_bytes(whole[: int(length * share)])
        refused(tmp_path / form, r"set\.(zip|tar)")


@pytest.mark.parametrize("form", ["set.zip", "set.tar", "set.tar.gz", "set.tar.xz"])
def test_damaged_archives_are_read_or_refused_in_one_line(tmp_path: Path, form: str) -> None:
    packed = pack(tmp_path / form, {name: content for name, content in IMAGES.items() if name.startswith("train")})
    whole, draw, messages = packed.read_bytes(), (Key(5) / form).numpy(), []
    for number in range(25):
        copy = bytearray(whole)
        for place in draw.integers(0, len(whole), 3):
            copy[place] = int(draw.integers(0, 256))
        packed.write_bytes(copy)
        os.utime(packed, ns=(number, number))  # two copies in one tick of the clock are two archives
        try:
            assert len(load(packed)) == 6
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) >= 5
    assert not any("\n" in message for message in messages)


def test_an_archive_that_changed_since_it_was_opened(tmp_path: Path) -> None:
    packed = pack(tmp_path / "set.tar", IMAGES)
    root = archives.opened(packed)
    (first,) = [file for file in archives.opened(packed).children["train"].children["bee"].iterdir() if file.name == "2.png"]  # type: ignore[index, union-attr]
    packed.write_bytes(packed.read_bytes()[:600])
    with pytest.raises(ValueError, match="damaged or was changed"):
        list(archives.contents([first]))
    assert root.is_dir()


def test_gzip_checksum_is_looked_at(tmp_path: Path) -> None:
    packed = pack(tmp_path / "set.tar.gz", IMAGES)
    content = bytearray(packed.read_bytes())
    content[-6] ^= 1
    packed.write_bytes(content)
    with pytest.raises(gzip.BadGzipFile):
        gzip.decompress(bytes(content))
    refused(packed, "is not a readable archive")
