"""A .zip or .tar archive as a tree of folders and files, read in place: nothing is ever extracted to the disk.

Archives come from strangers. Opening one reads names and sizes only, and refuses what no honest archive of images holds: names that
lead outside, links, devices, encrypted or sparse members, one name twice, and more members or bytes than images can have (archive
bombs). Contents are then read one member at a time, in the order in which they lie in the archive.
"""

import gzip
import io
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from certidote.data import xz
from certidote.data.checks import Refused, check_ratio, quoted, readable

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz")
MAX_MEMBERS = 2_000_000
"""More than ImageNet has files."""

MAX_MEMBER = 64 * 2**20
"""Bytes of one unpacked member; a batch of CIFAR-10 has 30 million, a photograph of 24 megapixels about 10."""

MAX_TOTAL = 512 * 2**30
"""Bytes of all unpacked members together."""

MAX_NAME, MAX_DEPTH = 1_024, 16
"""Characters of a member's name, and parts of it."""

BLOCK = 512
UNIX = 3
"""What a zip names as the system that made a member, if it was a Unix."""


@dataclass(frozen=True, eq=False)
class Member:
    """A file or folder of an archive, with the few methods of `pathlib.Path` that reading a tree takes.

    Attributes:
        archive: the archive's own path.
        path: inside the archive, "/" between the parts, "" for its root.
        children: what a folder holds; None for a file.
        place, size: of a file: where it starts (offset in the unpacked tar, index in a zip), and its unpacked bytes.
    """

    archive: Path
    path: str
    children: "dict[str, Member] | None" = None
    place: int = 0
    size: int = 0

    def __str__(self) -> str:
        return f"{self.archive}/{self.path}" if self.path else str(self.archive)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix

    def is_dir(self) -> bool:
        return self.children is not None

    def is_file(self) -> bool:
        return self.children is None

    def iterdir(self) -> "Iterator[Member]":
        yield from (self.children or {}).values()


def is_archive(path: Path) -> bool:
    """Whether this file's name promises an archive that `opened` reads."""
    return path.name.lower().endswith(SUFFIXES)


def opened(path: Path) -> Member:
    """The root folder of an archive, with everything in it; no content is kept.

    Raises: ValueError, naming the archive and the member, for anything that the module's text refuses, and for damage.
    """
    with readable(path, "archive"):
        facts = path.stat()
    return _opened(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=1)  # a training and a test set usually lie in one archive
def _opened(path: Path, packed: int, _modified: int) -> Member:
    root = Member(path, "", {})
    listing = _zip_listing(path) if path.suffix.lower() == ".zip" else _tar_listing(path)
    total = 0
    with readable(path, "archive"):
        for count, entry in enumerate(listing, 1):
            if count > MAX_MEMBERS:
                raise Refused(f"archive {quoted(path)} has more than {MAX_MEMBERS:,} members; split it")
            total += entry.size
            _check_entry(entry, path)
            _check_total(total, packed, path)
            _add(root, entry, path)
    return root


def contents(files: Sequence[Member]) -> Iterator[tuple[int, bytes]]:
    """(row in `files`, content) of these files of one archive, in the order of the archive.

    Raises: ValueError if the archive is damaged, or was changed since it was opened.
    """
    if not files:
        return
    path = files[0].archive
    order = sorted(range(len(files)), key=lambda row: files[row].place)
    if path.suffix.lower() == ".zip":
        with readable(path, "archive"), zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
        with zipfile.ZipFile(path) as archive:
            for row in order:
                with readable(files[row], "member of an archive"), archive.open(infos[files[row].place]) as member:
                    content = member.read(files[row].size + 1)
                yield row, _whole(content, files[row])
    else:
        with _unpacked(path) as stream:
            for row in order:
                with readable(path, "archive"):
                    stream.seek(files[row].place)
                    content = stream.read(files[row].size)
                yield row, _whole(content, files[row])


@dataclass(frozen=True)
class _Entry:
    name: str
    size: int
    place: int
    folder: bool
    fault: str = ""


def _whole(content: bytes, file: Member) -> bytes:
    if len(content) != file.size:
        raise Refused(f"{quoted(file)} has other than the {file.size} bytes it promised; the archive is damaged or was changed")
    return content


def _check_entry(entry: _Entry, path: Path) -> None:
    name = entry.name
    if len(name) > MAX_NAME or name.count("/") > MAX_DEPTH:
        raise Refused(
            f"archive {quoted(path)} has a member whose name has {len(name):,} characters and {name.count('/'):,} folders; at most "
            f"{MAX_NAME:,} and {MAX_DEPTH} are read"
        )
    member = f"member {entry.name!a} of archive {quoted(path)}"
    if entry.fault:
        raise Refused(f"{member} is {entry.fault}; an archive of images may hold plain files and folders only, pack it anew")
    if name.startswith(("/", "\\")) or "\0" in name or re.match(r"[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
        raise Refused(f"{member} has a name that leads outside the archive; names must be relative and without '..', pack it anew")
    if "\\" in name:
        raise Refused(
            f"{member} has a backslash in its name, which means another folder on other systems; rename the file, pack it anew"
        )
    if entry.size > MAX_MEMBER:
        raise Refused(f"{member} unpacks to {entry.size / 2**20:,.0f} MiB; a member may have at most {MAX_MEMBER / 2**20:.0f} MiB")


def _packed(path: Path) -> int:
    with readable(path, "archive"):
        return path.stat().st_size


def _check_total(total: int, packed: int, path: Path) -> None:
    check_ratio(total, packed, f"archive {quoted(path)}")
    if total > MAX_TOTAL:
        raise Refused(f"archive {quoted(path)} unpacks to {total:,} bytes or more; at most {MAX_TOTAL:,} are read, split it")


def _add(root: Member, entry: _Entry, path: Path) -> None:
    parts = [part for part in entry.name.split("/") if part not in ("", ".")]
    folder, below = root, ""
    for part in parts if entry.folder else parts[:-1]:
        below = f"{below}/{part}" if below else part
        children = cast("dict[str, Member]", folder.children)
        folder = children.setdefault(part, Member(path, below, {}))
        if folder.children is None:
            raise Refused(f"archive {quoted(path)} holds {below!a} both as a file and as a folder; pack it anew")
    if entry.folder:
        return
    if not parts:
        raise Refused(f"archive {quoted(path)} holds a file without a name; pack it anew")
    name = "/".join(parts)
    children = cast("dict[str, Member]", folder.children)
    if parts[-1] in children:
        raise Refused(f"archive {quoted(path)} holds {name!a} twice; pack it anew")
    children[parts[-1]] = Member(path, name, None, entry.place, entry.size)


# -------------------------------------------------------------------------------------------------------------------- zip


def _zip_listing(path: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(path) as archive:
        for index, info in enumerate(archive.infolist()):
            kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == UNIX else 0
            fault = ""
            if info.flag_bits & 1:
                fault = "encrypted"
            elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                fault = "a link" if kind == stat.S_IFLNK else "a device or pipe"
            # Some tools on Windows write backslashes between folders, against the specification (APPNOTE 4.4.17).
            name = info.orig_filename if info.create_system == UNIX else info.orig_filename.replace("\\", "/")
            yield _Entry(name, info.file_size, index, name.endswith("/"), fault)


# -------------------------------------------------------------------------------------------------------------------- tar


def _tar_listing(path: Path) -> Iterator[_Entry]:
    with _unpacked(path) as stream, tarfile.open(fileobj=cast(BinaryIO, stream), mode="r:") as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # or every header stays in memory
            fault = ""
            if info.issym() or info.islnk():
                fault = "a link"
            elif info.issparse():
                fault = "a sparse file"
            elif not (info.isreg() or info.isdir()):
                fault = "a device or pipe"
            elif info.size < 0:
                fault = "less than empty"
            size = 0 if info.isdir() else info.size
            yield _Entry(info.name, size, info.offset_data, info.isdir(), fault)
        # tarfile takes a damaged header for the end; the true end is a block of zeros.
        if stream.last != bytes(BLOCK):
            raise Refused(f"archive {quoted(path)} is damaged or cut off in the middle; get it anew")
        stream.drain()


@dataclass(eq=False)
class _Unpacked:
    """The unpacked bytes of a tar archive, read forward only, and no more of them than an honest archive has."""

    path: Path
    packed: int
    stream: io.BufferedReader
    position: int = 0
    last: bytes = field(default=b"", repr=False)

    def tell(self) -> int:
        return self.position

    def read(self, size: int) -> bytes:
        if size > MAX_MEMBER:
            raise Refused(
                f"archive {quoted(self.path)} holds a header of {size / 2**20:,.0f} MiB; at most {MAX_MEMBER / 2**20:.0f} MiB are read"
            )
        self.last = self.stream.read(size)
        self.position += len(self.last)
        _check_total(self.position, self.packed, self.path)
        return self.last

    def seek(self, position: int) -> int:
        if position < self.position:
            raise ValueError("its headers lead backwards")
        while self.position < position and self.read(min(position - self.position, 2**20)):
            pass
        return self.position

    def drain(self) -> None:
        """To the end, where the checksum of the compressed file is."""
        while self.read(2**20):
            pass


@contextmanager
def _unpacked(path: Path) -> Iterator[_Unpacked]:
    name = path.name.lower()
    with ExitStack() as stack:
        plain: Any = stack.enter_context(open(path, "rb"))
        if name.endswith((".gz", ".tgz")):
            plain = stack.enter_context(gzip.GzipFile(fileobj=plain, mode="rb"))
        elif name.endswith((".xz", ".txz")):
            plain = stack.enter_context(xz.Unpacked(plain))
        yield _Unpacked(path, _packed(path), io.BufferedReader(plain, 2**20))
