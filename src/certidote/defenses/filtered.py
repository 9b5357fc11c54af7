"""Training on what a filter keeps: a trainer around a trainer, for any scheme.

From scratch, every member's images are first trained on as they are; that model, in eval mode, gives the features of its own images,
un-augmented, and a fresh model learns from those that the filter keeps. Heads on a frozen extractor are filtered by its features.

A filter only removes images of a member's view, so it comes after whatever the scheme did: on noised and denoised views it is
post-processing. On views of untrusted pixels as they are, nothing is proved with it or without it.

Source: the protocol of Geiping et al. (2021), Witches' Brew, and of the filters' own authors. Never the attacker's clean model.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from certidote.attacks.features import PENULTIMATE, AtLayer
from certidote.streams import Key, row_blocks
from certidote.training.head import HeadTrainer
from certidote.types import Filter, Images, Json, Stack, Trainer, TrainsInGroups, View

FeaturesOf = Callable[[Images], Float[Tensor, "n d"]]
"""[0, 1] pixels -> features, one row for each image."""


class FilteredTrainer:
    """A `Trainer` whose members learn from the images that a filter keeps.

    Source: as the module says. Certificate: none from the filter; it does not take one away either. Cost: twice plain training, and
    the filter's own; plain training and the filter's own for heads.
    """

    def __init__(self, trainer: Trainer, keep: Filter, features: str | FeaturesOf = PENULTIMATE) -> None:
        """
        Args:
            trainer: of the models that give features, and of the members themselves.
            keep: the filter.
            features: the name of a layer, as `attacks.features.AtLayer` takes it; or a function of images, and then no model is
                trained for the filter.
        """
        self.trainer, self.keep, self.features = trainer, keep, features
        self.stack_size, self.start = trainer.stack_size, trainer.start
        self.together = trainer.together if isinstance(trainer, TrainsInGroups) else trainer.stack_size

    def describe(self) -> Json:
        named = self.features if isinstance(self.features, str) else _name(self.features)
        return {"trainer": "filtered", "filter": self.keep.describe(), "features": named, "of": self.trainer.describe()}

    def fit(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> Stack:
        """One model for each view, on what is kept of it: the same initial weights and coins as without the filter.

        A member whose features are not finite, because the model trained for the filter diverged, counts as diverged itself.

        Raises: ValueError as the trainer and the filter do, if a whole class would be removed, or a given function's features are
            not finite.
        """
        kept = self.kept(views, keys, common)
        stack = self.trainer.fit([_part(view, rows) for view, rows in zip(views, kept, strict=True)], keys, common)
        for place, rows in enumerate(kept):
            if rows is None:
                _fail(stack, place)
        return stack

    def kept(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> list[Int64[Tensor, "kept"] | None]:
        """For each view the row numbers that its member learns from, ascending; None where the model for the filter diverged.

        Args and errors as `fit`.
        """
        kept: list[Tensor | None] = []
        for view, key, features in zip(views, keys, self._features(views, keys, common), strict=True):
            seen = in_blocks(features, view.images)
            if not seen.isfinite().all():
                if self._trains_first():
                    kept.append(None)
                    continue
                raise ValueError("features of some images are not finite; give the filter another layer, or another extractor")
            rows = self.keep(seen, view.labels, key / "filter")
            check_classes_left(view.labels, rows, str(self.keep.describe().get("filter", type(self.keep).__name__)))
            kept.append(rows)
        return kept

    def _trains_first(self) -> bool:
        return isinstance(self.features, str) and not isinstance(self.trainer, HeadTrainer)

    def _features(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> list[FeaturesOf]:
        if not isinstance(self.features, str):
            return [self.features] * len(views)
        if isinstance(self.trainer, HeadTrainer):
            extractor = self.trainer.extractor
            if self.features == PENULTIMATE:
                return [extractor.penultimate] * len(views)
            return [_at_layer(extractor, self.features)] * len(views)
        stack = self.trainer.fit(views, [key / "for the filter" for key in keys], common / "for the filter")
        return [_at_layer(stack.member(place), self.features) for place in range(len(views))]


def in_blocks(features: FeaturesOf, images: Images) -> Float[Tensor, "n d"]:
    """Features of many images, a block in memory at a time, without gradients."""
    with torch.no_grad():
        return torch.cat([features(images[rows.start : rows.stop]).flatten(1).float() for rows in row_blocks(len(images))])


def check_classes_left(labels: Int64[Tensor, "n"], kept: Int64[Tensor, "kept"], name: str) -> None:
    """Raises: ValueError, with the counts, if a class would lose all of its images."""
    before = torch.bincount(labels)
    left = torch.bincount(labels[kept], minlength=len(before))
    gone = ((before > 0) & (left == 0)).nonzero().flatten().tolist()
    if gone:
        removed = int(len(labels) - len(kept))
        raise ValueError(
            f"the filter {name!r} would remove all {int(before[gone[0]])} images of class number {gone[0]}"
            f"{f' and all of {len(gone) - 1} other classes' if len(gone) > 1 else ''} ({removed} of {len(labels)} images in all), and "
            "nothing could be learned about it; filter less strictly, or give more images"
        )


def class_refused(traceback: str, names: Sequence[str]) -> str:
    """What a filter would have removed, from the traceback of `check_classes_left`, with the class by name; "" for another failure."""
    found = _REFUSAL.match(traceback.strip().splitlines()[-1]) if traceback.strip() else None
    return "" if found is None else f"all {found[1]} images of class {names[int(found[2])]!r}{found[3]}"


_REFUSAL = re.compile(
    r"ValueError: the filter '.*' would remove all (\d+) images of class number (\d+)(.* images in all\)), and nothing"
)


def as_array(features: Float[Tensor, "n d"]) -> Float[np.ndarray, "n d"]:
    """For NumPy and scikit-learn, in float64."""
    return features.detach().cpu().double().numpy()


def _at_layer(model: object, layer: str) -> FeaturesOf:
    return AtLayer(model, layer).penultimate  # type: ignore[arg-type]  # it checks what it is given


def _part(view: View, rows: Int64[Tensor, "kept"] | None) -> View:
    if rows is None:
        return view
    rows = rows.to(view.images.device)
    return View(view.images[rows], view.labels[rows], view.num_classes, view.lineage)


def _fail(stack: Stack, place: int) -> None:
    """Mark a member as diverged, and its weights, wherever they are kept."""
    stack.failed[place] = True
    member = stack.member(place)
    if isinstance(member, nn.Module):
        for weight in member.parameters():
            weight.fill_(torch.nan)


def _name(function: FeaturesOf) -> Json:
    """What can be said about a function in a configuration: where it is defined, and the digest of the weights behind it."""
    named: Json = {"function": f"{function.__module__}:{getattr(function, '__qualname__', type(function).__qualname__)}"}
    digest = getattr(getattr(function, "__self__", None), "digest", None)
    return named | ({"digest": digest()} if callable(digest) else {})
