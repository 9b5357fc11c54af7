"""What `data info` found, in lines for a terminal."""

from certidote.data.names import escaped
from certidote.reporting.words import counted
from certidote.types import Json

SIZES_SHOWN, CORRUPT_SHOWN = 12, 20
"""Sizes of images, and corrupt files, that are listed for each part; the rest is counted."""


def data_lines(found: Json) -> list[str]:
    """What `verbs.data_info` returned, a few lines for each part."""
    lines = []
    for part in found["splits"]:
        lines += _part_lines(part, found["skip_corrupt"])
    for pair in found["shared"]:
        shown = ", ".join(map(escaped, pair["first"]))
        lines.append(
            f"{counted(pair['images'], 'image')} of {pair['of']} {'is' if pair['images'] == 1 else 'are'} also in {pair['in']}: {shown}, ..."
        )
    if found["needs_size"]:
        lines.append("certify and sanitize need images of one size: give --size N or HxW, here too, to see what they would work on")
    return [*lines, *(f"certify would refuse this: {refusal}" for refusal in found["refusals"])]


def _part_lines(part: Json, skip_corrupt: bool) -> list[str]:
    color = "gray" if part["channels"] == 1 else "RGB"
    shape, sizes = part["image_shape"], part["sizes"]
    each = f"of {'x'.join(map(str, shape[1:]))} pixels" if shape else f"of {counted(len(sizes), 'size')}"
    lines = [
        f"{part['split']}: {part['images']:,} {color} images {each}, {len(part['classes'])} classes",
        "  " + ", ".join(f"{name} {count:,}" for name, count in part["classes"].items()),
    ]
    if len(sizes) > 1:
        lines += _size_lines(sizes)
    lines += [f"  {note}" for note in part["notes"]]
    lines += _corrupt_lines(part["skipped"], skip_corrupt)
    lines += _duplicate_lines(part["duplicates"])
    if part["surveyed_digest"]:
        return [
            *lines,
            f"  digest {part['surveyed_digest']} of the images as they are (certify prints another, of what it works on)",
        ]
    return [*lines, f"  digest {part['digest']}"]


def _size_lines(sizes: dict[str, int]) -> list[str]:
    """A histogram, the most frequent size first."""
    shown = list(sizes.items())[:SIZES_SHOWN]
    width = max(len(f"{count:,}") for _, count in shown)
    lines = ["  sizes, height x width:", *(f"    {count:>{width},} of {size}" for size, count in shown)]
    if rest := list(sizes.values())[SIZES_SHOWN:]:
        lines.append(f"    {sum(rest):>{width},} of {counted(len(rest), 'other size')}")
    return lines


def _corrupt_lines(skipped: list[dict[str, str]], skip_corrupt: bool) -> list[str]:
    what = "left out" if skip_corrupt else "corrupt"
    lines = [f"  {what}: {file['reason'].partition('; repair')[0]}" for file in skipped[:CORRUPT_SHOWN]]
    if len(skipped) > CORRUPT_SHOWN:
        lines.append(f"  {what}: {counted(len(skipped) - CORRUPT_SHOWN, 'more file')}, {len(skipped):,} in all")
    return lines


def _duplicate_lines(copies: Json) -> list[str]:
    if not copies["groups"]:
        return ["  no image repeats another one exactly"]
    across = f"{counted(copies['groups'], 'group')}, {copies['across_classes']:,} of them with several labels"
    repeat = "1 image repeats" if copies["extra"] == 1 else f"{copies['extra']:,} images repeat"
    return [
        f"  {repeat} another one exactly ({across}):",
        *(f"    {' = '.join(map(escaped, group))}" for group in copies["first"]),
    ]
