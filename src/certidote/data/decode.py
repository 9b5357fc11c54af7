"""Image files to arrays of 8-bit levels, on all cores, with a count of what had to be done to them.

Decoding comes before the noise, so it belongs to the data: a perturbation budget or certified radius speaks of the 8-bit arrays
made here, not of the bytes in the files (two JPEG files may differ little in bytes and much in pixels).
"""

import io
import itertools
import os
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from certidote.data.checks import Refused, Shown, check_image_size, check_memory, quoted, readable
from certidote.data.resize import Size, resized, resized_note

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
"""The only decoders that may touch a file, whatever its name pretends. Pillow knows dozens more, some of them rarely tested."""

MAX_PIXELS = 100_000_000
"""Of an image that is to be resized; unpacked it takes four bytes each."""

ORIENTATION = 0x0112
GREY_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
BATCH = 64

KINDS = {
    "grey": "grey, copied to three channels because others have color",
    "rotated": "turned upright, as their EXIF orientation says",
    "transparent": "laid over white where transparent",
    "palette": "with a palette, replaced by its colors",
    "16-bit": "of 16 bits, reduced to 8",
    "cmyk": "CMYK, converted to RGB without a color profile",
    "animated": "animated, first frame taken",
    "enlarged": "enlarged, for they are smaller than asked for",
}
"""What is done to images, and how notes say it. An image counts once for each that applies."""


class Corrupt(Refused):
    """An image file that cannot be decoded. `skip_corrupt` leaves it out; no other fault of the data is skipped."""


@dataclass(frozen=True)
class Reading:
    """How image files are to be read.

    Attributes:
        size: (height, width) that every image is resized to; None: all must have one size.
        skip_corrupt: leave out files that cannot be decoded, and list them.
    """

    size: Size | None = None
    skip_corrupt: bool = False


@dataclass(frozen=True, eq=False)
class Pictures:
    """Decoded images and what was done to them.

    Attributes:
        images: (kept, c, h, w), in the order of their rows.
        kept: (n,) which rows could be decoded.
        kinds: how many images of each kind of `KINDS`, and "resized".
        skipped: rows that were left out, and why.
    """

    images: UInt8[np.ndarray, "kept c h w"]
    kept: Bool[np.ndarray, "n"]
    kinds: Counter[str] = field(default_factory=Counter)
    skipped: tuple[tuple[int, str], ...] = ()

    def notes(self, reading: Reading) -> tuple[str, ...]:
        """One sentence for each thing that was done."""
        found = [f"{self.kinds[kind]} image{'s' * (self.kinds[kind] != 1)} {KINDS[kind]}" for kind in KINDS if self.kinds[kind]]
        if reading.size is not None and self.kinds["resized"]:
            found.append(resized_note(self.kinds["resized"], reading.size))
        if self.skipped:
            found.append(
                f"{len(self.skipped)} corrupt file{'s' * (len(self.skipped) != 1)} left out (--skip-corrupt): "
                "every statement speaks of the images that are left"
            )
        return tuple(found)


def decoded(sources: Iterable[tuple[int, bytes | Path]], shown: Callable[[int], str], count: int, reading: Reading) -> Pictures:
    """All images, decoded by one thread for each core (Pillow decodes outside the interpreter's lock).

    Images are grey (1 channel) if every file is stored as grey, else RGB.

    Args:
        sources: (row, file or its content) in any order, each row below `count` once.
        shown: what messages call the image in a row.
    Raises: ValueError, naming the image, for one that cannot be decoded (unless they are skipped), cannot be read, has a size out of
        range, or another size than the first.
    """
    pictures = _Collected(shown, count, reading)
    with _quiet_pillow(), ThreadPoolExecutor(_cores()) as pool:
        running: deque[Future[list[tuple[int, _Levels | Corrupt]]]] = deque()
        try:
            for batch in _batches(sources):
                running.append(pool.submit(_decode_batch, batch, shown, reading))
                if len(running) > 2 * _cores():
                    pictures.add(running.popleft().result())
            while running:
                pictures.add(running.popleft().result())
        finally:
            for future in running:
                future.cancel()
    return pictures.finished()


def image_levels(file: Path, reading: Reading) -> UInt8[np.ndarray, "c h w"]:
    """One image file as `decoded` sees it: 1 channel if it is stored as grey, else 3. Raises: as `decoded` does."""
    with _quiet_pillow():
        found = _decode(file, quoted(str(file)), reading)
    if isinstance(found, Corrupt):
        raise found
    return found.levels


@dataclass(frozen=True, eq=False)
class _Levels:
    levels: UInt8[np.ndarray, "c h w"]
    kinds: tuple[str, ...]


class _Collected:
    def __init__(self, shown: Callable[[int], str], count: int, reading: Reading) -> None:
        self.shown, self.count, self.reading = shown, count, reading
        self.images: UInt8[np.ndarray, "n c h w"] | None = None
        self.first = 0
        self.kept = np.zeros(count, dtype=np.bool_)
        self.kinds: Counter[str] = Counter()
        self.skipped: list[tuple[int, str]] = []

    def add(self, batch: list[tuple[int, _Levels | Corrupt]]) -> None:
        for row, found in batch:
            if isinstance(found, Corrupt):
                if not self.reading.skip_corrupt:
                    raise found
                self.skipped.append((row, str(found)))
                continue
            levels = found.levels
            if self.images is None:
                check_memory(self.count * levels.size, f"the set of {self.count} images")
                self.images = np.empty((self.count, *levels.shape), dtype=np.uint8)
                self.first = row
            self._check_size(row, levels.shape[1:])
            if len(levels) > self.images.shape[1]:  # the first color image after grey ones
                check_memory(self.images.nbytes * len(levels), f"the set of {self.count} images")
                self.images = np.repeat(self.images, len(levels), axis=1)
            self.images[row] = levels
            self.kept[row] = True
            self.kinds.update(found.kinds)

    def _check_size(self, row: int, sides: tuple[int, ...]) -> None:
        assert self.images is not None
        if sides != self.images.shape[2:]:
            (h, w), (height, width) = self.images.shape[2:], sides
            raise Refused(
                f"{quoted(self.shown(self.first))} has {h}x{w} pixels but {quoted(self.shown(row))} has {height}x{width} (height x width); "
                "all images need one size, give --size to resize them"
            )

    def finished(self) -> Pictures:
        if self.images is None:
            raise Refused(f"none of the {self.count} images can be decoded: {self.skipped[0][1]}")
        if self.images.shape[1] == 1:
            del self.kinds["grey"]
        everything = bool(self.kept.all())
        images = self.images if everything else self.images[self.kept]
        return Pictures(images, self.kept, self.kinds, tuple(sorted(self.skipped)))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _batches(sources: Iterable[tuple[int, bytes | Path]]) -> Iterator[list[tuple[int, bytes | Path]]]:
    rest = iter(sources)
    while batch := list(itertools.islice(rest, BATCH)):
        yield batch


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    # Filters belong to the whole process, so they are set outside the threads.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # damaged EXIF: common in photos, and then there is no orientation to apply
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # sizes are checked here
        yield


def _decode_batch(
    batch: list[tuple[int, bytes | Path]], shown: Callable[[int], str], reading: Reading
) -> list[tuple[int, _Levels | Corrupt]]:
    return [(row, _decode(source, quoted(shown(row)), reading)) for row, source in batch]


def _decode(source: bytes | Path, where: str, reading: Reading) -> _Levels | Corrupt:
    try:
        with readable(Shown(where), "PNG, JPEG, BMP or WebP image"), _open(source, where) as image:
            return _levels(image, where, reading)
    except Refused:
        raise
    except ValueError as error:
        return Corrupt(f"{error}, or leave such files out with --skip-corrupt")


def _open(source: bytes | Path, where: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError("its content is none of these") from None
    except PermissionError as error:
        raise Refused(f"{where} cannot be read ({error.strerror}); check its permissions") from error


def _levels(image: Image.Image, where: str, reading: Reading) -> _Levels:
    # Sizes first, before a pixel of a decompression bomb is unpacked.
    if reading.size is None:
        check_image_size(image.height, image.width, where)
    elif image.height * image.width > MAX_PIXELS:
        raise Refused(
            f"{where} has {image.height}x{image.width} pixels; images of at most {MAX_PIXELS // 10**6} million are resized"
        )
    kinds: list[str] = []
    if getattr(image, "is_animated", False) and image.format in ("PNG", "WEBP"):
        kinds.append("animated")
    deep_color = _is_deep_color(image)
    if 2 <= (image.getexif().get(ORIENTATION) or 1) <= 8:
        kinds.append("rotated")
        image = ImageOps.exif_transpose(image)
    image = _eight_bits(image, kinds)
    if deep_color:
        kinds.append("16-bit")
    if image.mode == "L":
        kinds.append("grey")
    if reading.size is not None and (image.height, image.width) != reading.size:
        kinds.append("resized")
        if image.height < reading.size[0] or image.width < reading.size[1]:
            kinds.append("enlarged")
        image = resized(image, reading.size)
    levels = np.asarray(image)
    return _Levels(levels[None] if levels.ndim == 2 else levels.transpose(2, 0, 1), tuple(kinds))


def _is_deep_color(image: Image.Image) -> bool:
    """Pillow reads only the high bytes of 16-bit color; what it was is in the PNG decoder's arguments."""
    return (
        image.format == "PNG"
        and image.mode in ("RGB", "RGBA", "LA")
        and any(";16" in str(tile) for tile in getattr(image, "tile", ()))
    )


def _eight_bits(image: Image.Image, kinds: list[str]) -> Image.Image:
    """A grey (L) or color (RGB) image: 16-bit grey rounded to 255 levels, transparency laid over white."""
    if image.mode in GREY_16_BIT:
        kinds.append("16-bit")
        levels = np.rint(np.asarray(image).astype(np.float64) * (255 / 65_535)).clip(0, 255).astype(np.uint8)
        return Image.fromarray(levels)
    grey = image.mode in ("1", "L", "LA")
    if image.mode in ("P", "PA"):
        kinds.append("palette")
    if image.mode == "CMYK":
        kinds.append("cmyk")
    if "A" in image.mode or "transparency" in image.info:
        kinds.append("transparent")
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        return image.getchannel(0) if grey else image
    mode = "L" if grey else "RGB"
    return image if image.mode == mode else image.convert(mode)
