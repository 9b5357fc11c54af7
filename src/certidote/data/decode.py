"""Image files to arrays of 8-bit levels, on all cores, with a count of what had to be done to them.

Decoding comes before the noise, so it belongs to the data: a perturbation budget or certified radius speaks of the 8-bit arrays
made here, not of the bytes in the files (two JPEG files may differ little in bytes and much in pixels).
"""

import io
import math
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

from certidote.data.checks import MAX_SIZE, Refused, Shown, Unfit, check_image_size, check_memory, quoted, readable
from certidote.data.fingerprints import fingerprint
from certidote.data.resize import Size, resized, resized_note

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
"""The only decoders that may touch a file, whatever its name pretends. Pillow knows dozens more, some of them rarely tested."""

MAX_PIXELS = 100_000_000
"""Of an image that is to be resized; unpacked it takes four bytes each."""

ORIENTATION = 0x0112
GREY_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
BATCH, BATCH_BYTES = 64, 16 * 2**20
"""Images that one thread takes at a time, and bytes of their encoded contents after which no further one is added."""

IN_FLIGHT = 256 * 2**20
"""Bytes, encoded or decoded, of all images that wait for a thread or to be taken, however many cores there are."""

KINDS = {
    "grey": "gray, copied to three channels because others have color",
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
        threads: that decode at a time; None: one for each core.
        survey: keep each image's `fingerprint` in place of its pixels, whatever size it has, and let classes lose all their images:
            for looking at what is no data set yet. `size` means nothing then.
    """

    size: Size | None = None
    skip_corrupt: bool = False
    threads: int | None = None
    survey: bool = False


@dataclass(eq=False)
class Treatment:
    """What was done to images while they were read.

    Attributes:
        kinds: how many images of each kind of `KINDS`, and "resized".
        sizes: how many images had each size, upright and before they were resized.
        skipped: rows that were left out, and why.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    sizes: Counter[Size] = field(default_factory=Counter)
    skipped: list[tuple[int, str]] = field(default_factory=list)

    def add(self, found: "Levels") -> None:
        """Count one image."""
        self.kinds.update(found.kinds)
        self.sizes[found.size] += 1

    def notes(self, reading: Reading) -> tuple[str, ...]:
        """One sentence for each thing that was done."""
        found = [f"{self.kinds[kind]} image{'s' * (self.kinds[kind] != 1)} {KINDS[kind]}" for kind in KINDS if self.kinds[kind]]
        if reading.size is not None and self.kinds["resized"]:
            found.append(resized_note(self.kinds["resized"], reading.size))
        if self.skipped:
            found.append(corrupt_note(len(self.skipped)))
        return tuple(found)


def corrupt_note(count: int) -> str:
    """What notes say of so many corrupt files."""
    return f"{count} corrupt file{'s' * (count != 1)} left out (--skip-corrupt): every statement speaks of the images that are left"


@dataclass(frozen=True, eq=False)
class Pictures:
    """Decoded images and what was done to them.

    Attributes:
        images: (kept, c, h, w), in the order of their rows.
        kept: (n,) which rows could be decoded.
        treatment: of all of them.
    """

    images: UInt8[np.ndarray, "kept c h w"]
    kept: Bool[np.ndarray, "n"]
    treatment: Treatment


def decoded(sources: Iterable[tuple[int, bytes | Path]], shown: Callable[[int], str], count: int, reading: Reading) -> Pictures:
    """All images as one array, decoded as `batches_decoded` does.

    Images are grey (1 channel) if every file is stored as grey, else RGB.

    Args:
        sources: (row, file or its content) in any order, each row below `count` once.
        shown: what messages call the image in a row.
    Raises: ValueError, naming the image, for one that cannot be decoded (unless they are skipped), cannot be read, has a size out of
        range, or another size than the first.
    """
    pictures = _Collected(shown, count, reading)
    with quiet_pillow():
        for batch in batches_decoded(sources, shown, reading):
            pictures.add(batch)
    return pictures.finished()


def batches_decoded(
    sources: Iterable[tuple[int, bytes | Path]], shown: Callable[[int], str], reading: Reading
) -> Iterator[list["tuple[int, Levels | Corrupt]"]]:
    """Images a few at a time, in the order of `sources`, decoded by as many threads as `reading` says (Pillow decodes outside
    the interpreter's lock). To be used inside `quiet_pillow`. Encoded contents and decoded images that wait take no more than
    `IN_FLIGHT` bytes and one batch.

    Args:
        sources: (row, file or its content).
        shown: what messages call the image in a row.
    Raises: ValueError, naming the image, for one that cannot be decoded (unless corrupt ones are skipped: they come as `Corrupt`),
        cannot be read, or has a size out of range.
    """
    threads = reading.threads or _cores()
    image = 3 * math.prod(reading.size or (MAX_SIZE, MAX_SIZE))  # bytes of one; the first batch says what it really is
    with ThreadPoolExecutor(threads) as pool:
        running: deque[tuple[int, int, Future[list[tuple[int, Levels | Corrupt]]]]] = deque()
        try:
            for batch in _batches(sources):
                encoded = sum(_bytes_held(source) for _, source in batch)
                running.append((encoded, len(batch), pool.submit(_decode_batch, batch, shown, reading)))
                del batch  # its contents are the pool's from here on
                while len(running) > 2 * threads or sum(held + count * image for held, count, _ in running) > IN_FLIGHT:
                    done = _checked(running.popleft()[2].result(), reading)
                    image = max((found.levels.size for _, found in done if isinstance(found, Levels)), default=image)
                    yield done
            while running:
                yield _checked(running.popleft()[2].result(), reading)
        finally:
            for _, _, future in running:
                future.cancel()


def _checked(batch: list["tuple[int, Levels | Corrupt]"], reading: Reading) -> list["tuple[int, Levels | Corrupt]"]:
    for _, found in batch:
        if isinstance(found, Corrupt) and not reading.skip_corrupt:
            raise found
    return batch


def image_levels(file: Path, reading: Reading) -> UInt8[np.ndarray, "c h w"]:
    """One image file as `decoded` sees it: 1 channel if it is stored as grey, else 3. Raises: as `decoded` does."""
    with quiet_pillow():
        found = _decode(file, quoted(str(file)), reading)
    if isinstance(found, Corrupt):
        raise found
    return found.levels


@dataclass(frozen=True, eq=False)
class Levels:
    """One decoded image (or its fingerprint), which of `KINDS` it was, and its own (height, width), upright and not resized."""

    levels: UInt8[np.ndarray, "c h w"]
    kinds: tuple[str, ...]
    size: Size


class _Collected:
    def __init__(self, shown: Callable[[int], str], count: int, reading: Reading) -> None:
        self.shown, self.count, self.reading = shown, count, reading
        self.images: UInt8[np.ndarray, "n c h w"] | None = None
        self.first = 0
        self.kept = np.zeros(count, dtype=np.bool_)
        self.treatment = Treatment()

    def add(self, batch: list[tuple[int, Levels | Corrupt]]) -> None:
        for row, found in batch:
            if isinstance(found, Corrupt):
                self.treatment.skipped.append((row, str(found)))
                continue
            levels = found.levels
            if self.images is None:
                check_memory(self.count * levels.size, f"the set of {self.count} images")
                self.images = np.empty((self.count, *levels.shape), dtype=np.uint8)
                self.first = row
            if levels.shape[1:] != self.images.shape[2:]:
                raise different_sizes(self.shown(self.first), self.images.shape[2:], self.shown(row), levels.shape[1:])
            if len(levels) > self.images.shape[1]:  # the first color image after grey ones
                check_memory(self.images.nbytes * len(levels), f"the set of {self.count} images")
                self.images = np.repeat(self.images, len(levels), axis=1)
            self.images[row] = levels
            self.kept[row] = True
            self.treatment.add(found)

    def finished(self) -> Pictures:
        if self.images is None:
            raise none_decoded(self.treatment)
        if self.images.shape[1] == 1:
            del self.treatment.kinds["grey"]
        everything = bool(self.kept.all())
        images = self.images if everything else self.images[self.kept]
        self.treatment.skipped.sort()
        return Pictures(images, self.kept, self.treatment)


def different_sizes(first: str, sides: tuple[int, ...], other: str, other_sides: tuple[int, ...]) -> Unfit:
    """The error for two images of one set, by their names and (height, width)."""
    (h, w), (height, width) = sides, other_sides
    return Unfit(
        f"{quoted(first)} has {h}x{w} pixels but {quoted(other)} has {height}x{width} (height x width); all images need one size, "
        "give --size to resize them"
    )


def none_decoded(treatment: Treatment) -> Refused:
    """The error for a set whose images were all left out."""
    return Refused(f"none of the {len(treatment.skipped)} images can be decoded: {min(treatment.skipped)[1]}")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _batches(sources: Iterable[tuple[int, bytes | Path]]) -> Iterator[list[tuple[int, bytes | Path]]]:
    batch: list[tuple[int, bytes | Path]] = []
    held = 0
    for row, source in sources:
        batch.append((row, source))
        held += _bytes_held(source)
        if len(batch) == BATCH or held >= BATCH_BYTES:
            full, batch, held = batch, [], 0
            yield full
            del full
    if batch:
        yield batch


def _bytes_held(source: bytes | Path) -> int:
    """Of an image's encoded content; none is held of a file, which the decoding thread opens itself."""
    return len(source) if isinstance(source, bytes) else 0


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """No warnings of Pillow about what is looked after here."""
    # Filters belong to the whole process, so they are set outside the threads.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # damaged EXIF: common in photos, and then there is no orientation to apply
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # sizes are checked here
        yield


def _decode_batch(
    batch: list[tuple[int, bytes | Path]], shown: Callable[[int], str], reading: Reading
) -> list[tuple[int, Levels | Corrupt]]:
    return [(row, _decode(source, quoted(shown(row)), reading)) for row, source in batch]


def _decode(source: bytes | Path, where: str, reading: Reading) -> Levels | Corrupt:
    try:
        with readable(Shown(where), "PNG, JPEG, BMP or WebP image"), _open(source) as image:
            return _levels(image, where, reading)
    except Refused:
        raise
    except ValueError as error:
        fault = error.__cause__
        if isinstance(fault, OSError) and fault.errno is not None:  # of the system; Pillow's own have no number
            raise Refused(f"{where} cannot be read ({fault.strerror}); check its permissions and the disk") from fault
        return Corrupt(f"{error}, or leave such files out with --skip-corrupt")


def _open(source: bytes | Path) -> Image.Image:
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError("its content is none of these") from None


def _levels(image: Image.Image, where: str, reading: Reading) -> Levels:
    # Sizes first, before a pixel of a decompression bomb is unpacked.
    if reading.size is None and not reading.survey:
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
    size = image.height, image.width
    if reading.survey:
        return Levels(fingerprint(_planes(image)), tuple(kinds), size)
    if reading.size is not None and (image.height, image.width) != reading.size:
        kinds.append("resized")
        if image.height < reading.size[0] or image.width < reading.size[1]:
            kinds.append("enlarged")
        image = resized(image, reading.size)
    return Levels(_planes(image), tuple(kinds), size)


def _planes(image: Image.Image) -> UInt8[np.ndarray, "c h w"]:
    levels = np.asarray(image)
    return levels[None] if levels.ndim == 2 else levels.transpose(2, 0, 1)


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
