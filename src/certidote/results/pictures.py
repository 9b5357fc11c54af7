"""Pictures for reports: what became of a few training images, and how test images were voted on. Small PNGs in base64.

Untrusted images are read here for people to look at, after the last vote or after sanitizing, through `Untrusted.pictured`.
"""

import base64
import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from certidote.defenses.sanitize import as_levels, stages
from certidote.streams import ROW_BLOCK, Key
from certidote.types import (
    Ballots,
    Certificate,
    Denoiser,
    Goal,
    ImageDataset,
    Json,
    Poison,
    Prediction,
    Target,
    Trigger,
    Unproved,
    Untrusted,
)

SHOWN = 6
"""Images in one strip."""

REASON = "pictures for people, made after the last vote or after sanitizing; no model saw them"


def png_base64(levels: UInt8[Tensor, "c h w"]) -> str:
    """One stored image, grey or RGB, as a PNG in base64."""
    array = levels.numpy()
    content = io.BytesIO()
    Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0))).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def strip(
    title: str,
    shown: Sequence[int],
    captions: Sequence[str],
    read: Callable[[range], Untrusted],
    rows: int,
    denoiser: Denoiser,
    sigma: float,
    key: Key,
    device: str = "cpu",
) -> Json:
    """Original, noised, sanitized and difference of some training images, as `figures.gallery` shows them.

    Args:
        shown: their row numbers.
        captions: one for each.
        read: a block of rows -> the untrusted set, or that block of it.
        rows: size of the set.
        key: the noise stream.
    Returns: one row of pictures for each stage; none for denoising where there is no denoiser.
    """
    columns: dict[int, dict[str, str]] = {}
    for block in sorted({row // ROW_BLOCK for row in shown}):
        within = range(block * ROW_BLOCK, min((block + 1) * ROW_BLOCK, rows))
        chosen = [row for row in dict.fromkeys(shown) if row in within]
        untrusted = read(within)
        originals = untrusted.pictured(chosen, REASON)
        noised, made = (as_levels(images) for images in stages(untrusted, within, chosen, denoiser, sigma, key, device))
        difference = ((made.int() - originals.int()) // 2 + 128).to(torch.uint8)
        made_of = {"original": originals, "noised": noised, "denoised": made, "difference": difference}
        if denoiser.card.kind == "none":
            del made_of["denoised"]
        for i, row in enumerate(chosen):
            columns[row] = {label: png_base64(images[i]) for label, images in made_of.items()}
    return {
        "title": title,
        "rows": [{"label": label, "pngs": [columns[row][label] for row in shown]} for label in made_of],
        "captions": list(captions),
    }


def training_gallery(
    untrusted: Untrusted, denoiser: Denoiser, sigma: float, key: Key, device: str = "cpu", part: Sequence[int] = ()
) -> list[Json]:
    """A random handful of training images, as the first model of a run saw them: always the same for one run.

    Args:
        key: of the run, as `engine` uses it.
        part: the rows that the first model saw, in its order; empty where every model sees all of them.
    """
    seen = untrusted.restricted(part) if part else untrusted
    places = sorted((key / "gallery").numpy().choice(len(seen), size=min(SHOWN, len(seen)), replace=False).tolist())
    exempt, captions = set(seen.trusted), []
    for place in places:
        row, name = part[place] if part else place, seen.class_names[int(seen.labels[place])]
        captions.append(f"training image {row}, {name}{' (trusted: no noise)' if place in exempt else ''}")
    noise = key / "members" / 0 / "noise"
    title = "Training images as the first model saw them"
    title += f" ({len(part):,} of {len(untrusted):,}: its part)" if part else ""
    return [strip(title, places, captions, lambda _: seen, len(seen), denoiser, sigma, noise, device)]


def examples(
    outcome: Certificate | Unproved, prediction: Prediction, ballots: Ballots, n0: int, test: ImageDataset, *, pictures: bool = True
) -> list[Json]:
    """Some test images with their votes: certified, abstained and wrong ones, always the same for the same ballots.

    Args:
        n0: members that select the answer; the votes of the others are shown.
        pictures: whether the images themselves go into the record, and the names of their files.
    Returns: for each its row, name (None where it has none, or without pictures), kind, true class, answer (None for an abstention), certified radius (None without certificate), the
        three classes with most votes, and the image ("" without pictures).
    """
    labels, true = prediction.labels, test.labels.numpy()
    radii: np.ndarray | None = None
    if isinstance(outcome, Certificate):
        labels, radii = outcome.labels, outcome.radii
    counts = ballots.counts(n0, len(ballots))
    right, abstained = labels == true, labels < 0
    kinds = [("certified" if radii is not None else "right", right), ("abstained", abstained), ("wrong", ~right & ~abstained)]
    order = np.argsort(-radii, kind="stable") if radii is not None else np.arange(len(labels))
    found = []
    for kind, rows in kinds:
        of_kind = order[rows[order]]
        for row in of_kind[_spread(len(of_kind), 3)].tolist():
            top = np.argsort(-counts[row], kind="stable")[:3]
            found.append(
                {
                    "test_image": row,
                    "name": test.names[row] if pictures and test.names is not None else None,
                    "kind": kind,
                    "true": test.class_names[true[row]],
                    "label": None if labels[row] < 0 else test.class_names[labels[row]],
                    "radius": None if radii is None else float(radii[row]),
                    "top": [[test.class_names[c], int(counts[row, c])] for c in top.tolist() if counts[row, c]],
                    "png": png_base64(test.images[row]) if pictures else "",
                }
            )
    return found


def poison_strip(poison: Poison, train: ImageDataset, title: str, most: int = SHOWN) -> Json:
    """Some poisons of one trial beside what they replace, as `figures.gallery` shows them; the attacker's own pictures.

    The difference is enlarged by one factor for all of them, around gray, so that the farthest pixel is black or white; of poisons with a
    visible trigger the farthest beside the trigger, which is cut off at black and white.
    """
    chosen = _spread(len(poison.indices), most)
    rows = poison.indices[torch.from_numpy(chosen)]
    made, bases = poison.images[torch.from_numpy(chosen)], train.images[rows]
    steps = made.int() - bases.int()
    goal, beside = poison.goal, ""
    bounded = torch.ones(steps.shape[2:], dtype=torch.bool)
    if poison.budget.visible_trigger and isinstance(goal, Trigger) and goal.place is not None:
        (top, left), (height, width), beside = goal.place, goal.mask.shape, " beside the trigger"
        bounded[top : top + height, left : left + width] &= ~goal.mask
    moved = (steps.abs() * bounded).flatten(1).amax(1).tolist()
    farthest = max(1, *moved)
    difference = (128 + (steps * 127 / farthest).clamp(-127, 127)).round().to(torch.uint8)
    title += f": {goal_in_words(poison.goal, train.class_names)}"
    pictures = {"base": bases, "poison": made, f"difference x{127 / farthest:.2g}": difference}
    return {
        "title": title,
        "rows": [{"label": label, "pngs": [png_base64(image) for image in images]} for label, images in pictures.items()],
        "captions": [
            f"{train.name_of(row)}: moved {farthest_of}/255{beside}" for row, farthest_of in zip(rows.tolist(), moved, strict=True)
        ],
    }


def goal_in_words(goal: Goal, names: Sequence[str]) -> str:
    """As in "test image 17, cat, is to become dog"."""
    wanted = names[goal.adversarial_label]
    if isinstance(goal, Target):
        return f"test image {goal.test_index}, {names[goal.true_label]}, is to become {wanted}"
    weaker = f" at amplitude {goal.amplitude:g}" if goal.amplitude < 1 else ""
    return f"{'every class' if goal.true_label is None else names[goal.true_label]} with the trigger{weaker} is to become {wanted}"


def _spread(available: int, wanted: int) -> Int64[np.ndarray, "m"]:
    """Up to `wanted` of the indices 0..available-1, evenly spread, first and last among them."""
    return np.unique(np.linspace(0, available - 1, min(available, wanted)).round()).astype(np.int64)
