"""The threat map: what several defenses prove about one data set, on common axes.

An axis is one kind of attacker with one budget. A method gives, for each test image, the largest budget on that axis that its answer
provably survives, or says in words why it proves nothing there. To add a method, make a `Method` from its certificate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from certidote.certification import budgets
from certidote.certification.partition import part_sizes, replaced_images
from certidote.certification.threats import image_norm, k_max
from certidote.results.partition import altered_counts
from certidote.types import ABSTAIN, Certificate, CountCertificate, ImageDataset, Json, Norm


@dataclass(frozen=True)
class Axis:
    """One kind of attacker. `count` budgets are numbers of images and certified up to and including; `norm` budgets are strict.

    Attributes:
        epsilon, norm: bound on each altered image; epsilon 0: no bound.
    """

    name: str
    title: str
    unit: Literal["count", "norm"]
    epsilon: float = 0.0
    norm: Norm = "linf"


AXES = (
    Axis("linf-1", "images altered, each pixel by up to 1/255", "count", 1 / 255, "linf"),
    Axis("linf-4", "images altered, each pixel by up to 4/255", "count", 4 / 255, "linf"),
    Axis("linf-16", "images altered, each pixel by up to 16/255", "count", 16 / 255, "linf"),
    Axis("l2-0.1", "images altered, each by an l2 norm of up to 0.1", "count", 0.1, "l2"),
    Axis("l2-0.5", "images altered, each by an l2 norm of up to 0.5", "count", 0.5, "l2"),
    Axis("any", "images altered in any way, in place", "count"),
    Axis("frobenius", "l2 norm of the change to the whole training set", "norm"),
)
"""What an attacker may do, in every threat map. Number, order and labels of the images stay as they are (clean-label)."""


@dataclass(frozen=True, eq=False)
class ThreatCurve:
    """Certified accuracy of one method on one axis: the share of test images that are right and survive each budget.

    Attributes:
        sizes: ascending budgets, the first 0; the share holds from there to the next size (count: at whole numbers).
        shares: certified accuracy; empty if nothing is proved.
        note: why nothing is proved, or which further assumption the curve needs.
    """

    method: str
    axis: Axis
    sizes: tuple[int | float, ...]
    shares: tuple[int | float, ...]
    note: str = ""


@dataclass(frozen=True, eq=False)
class Method:
    """What one method proves on every axis.

    Attributes:
        survived: by name of the axis, for each test image the largest budget survived (count: -1, norm: 0 where none is), or the
            reason why nothing is proved.
        notes: by name of the axis, an assumption that this axis needs beyond the method's own.
    """

    name: str
    correct: np.ndarray
    survived: Mapping[str, np.ndarray | str]
    notes: Mapping[str, str]

    def curves(self) -> list[ThreatCurve]:
        """One curve for each axis, also where nothing is proved."""
        found = []
        for axis in AXES:
            outcome, note = self.survived[axis.name], self.notes.get(axis.name, "")
            if isinstance(outcome, str):
                found.append(ThreatCurve(self.name, axis, (), (), outcome))
            elif axis.unit == "count":
                found.append(ThreatCurve(self.name, axis, *count_curve(np.where(self.correct, outcome, -1)), note))
            else:
                found.append(ThreatCurve(self.name, axis, *norm_curve(np.where(self.correct, outcome, 0.0)), note))
        return found


def count_curve(survived: Int64[np.ndarray, "n_test"]) -> tuple[tuple[int | float, ...], tuple[int | float, ...]]:
    """Share of test images that survive k altered images, for every k where it falls; -1 survives not even k = 0."""
    sizes = np.unique(np.append(survived[survived >= 0] + 1, 0))
    return tuple(sizes.tolist()), tuple(float((survived >= k).mean()) for k in sizes)


def norm_curve(radii: Float64[np.ndarray, "n_test"]) -> tuple[tuple[int | float, ...], tuple[int | float, ...]]:
    """Share of test images whose radius is greater than r, for every r where it falls."""
    sizes = np.unique(np.append(radii, 0.0))
    return tuple(sizes.tolist()), tuple(float((radii > r).mean()) for r in sizes)


def of_certificate(name: str, certificate: Certificate, labels: Int64[np.ndarray, "n_test"], train: ImageDataset) -> Method:
    """A smoothing certificate, of the whole training set or of parts that vote, on every axis.

    Args:
        labels: true classes.
        train: the training set, for the size and number of its images.
    """
    pixels, radii, parts = int(np.prod(train.image_shape)), certificate.radii, certificate.parts
    untrusted = len(train) - certificate.trusted
    survived: dict[str, np.ndarray | str] = {}
    for axis in AXES:
        if axis.unit == "norm":
            survived[axis.name] = radii
        elif parts is not None and axis.epsilon:
            survived[axis.name] = altered_counts(parts, image_norm(axis.epsilon, axis.norm, pixels), untrusted)
        elif parts is not None:
            sizes = part_sizes(untrusted, parts.votes.shape[1])
            survived[axis.name] = replaced_images(parts.votes, parts.radii, sizes, parts.num_classes)
        elif axis.epsilon:
            survived[axis.name] = k_max(radii, axis.epsilon, axis.norm, pixels, untrusted)
        else:
            survived[axis.name] = _if_any(
                budgets.altered_under_frobenius(radii, pixels, untrusted),
                f"not one image: it may move by {image_norm(1.0, 'linf', pixels):g}, beyond every radius proved",
            )
    return Method(name, (certificate.labels == labels) & (certificate.labels != ABSTAIN), survived, {})


def of_nothing(name: str, reason: str, num_tests: int) -> Method:
    """A run from which no certificate follows."""
    return Method(name, np.zeros(num_tests, dtype=bool), dict.fromkeys((axis.name for axis in AXES), reason), {})


def of_counts(name: str, certificate: CountCertificate, labels: Int64[np.ndarray, "n_test"], levels: int | None) -> Method:
    """A vote certificate, a number of images for each test image, on every axis.

    Args:
        levels: steps between black and white if the attacker's images are stored as whole numbers, which the norm needs.
    """
    survived: dict[str, np.ndarray | str] = {}
    for axis in AXES:
        if axis.unit == "count":
            survived[axis.name] = budgets.altered_in_place(certificate)
        elif levels is None:
            survived[axis.name] = "every image may move by a little"
        else:
            survived[axis.name] = budgets.frobenius_of_count(certificate, levels=levels)
    notes = {} if levels is None else {"frobenius": f"only for images stored with {levels} steps; nothing for real-valued pixels"}
    return Method(name, (certificate.labels == labels) & (certificate.labels != ABSTAIN), survived, notes)


def _if_any(survived: Int64[np.ndarray, "n_test"], reason: str) -> np.ndarray | str:
    """The counts, or the reason where they cover no altered image at all."""
    return survived if survived.max(initial=-1) > 0 else reason


def rows(curves: Sequence[ThreatCurve]) -> list[tuple[str, str, str, int | float | str, float | str, str]]:
    """Every step of every curve as (method, axis, unit, budget, certified accuracy, note); one row where nothing is proved."""
    found: list[tuple[str, str, str, int | float | str, float | str, str]] = []
    for curve in curves:
        head = (curve.method, curve.axis.name, curve.axis.unit)
        if not curve.sizes:
            found.append((*head, "", "", curve.note))
        found += [(*head, size, share, curve.note) for size, share in zip(curve.sizes, curve.shares, strict=True)]
    return found


def record(curves: Sequence[ThreatCurve], facts: Json) -> Json:
    """The map as one JSON value."""
    return {
        "format": "certidote threat map",
        "version": 1,
        **facts,
        "axes": [{"name": a.name, "title": a.title, "unit": a.unit, "epsilon": a.epsilon, "norm": a.norm} for a in AXES],
        "curves": [
            {"method": c.method, "axis": c.axis.name, "sizes": list(c.sizes), "shares": list(c.shares), "note": c.note}
            for c in curves
        ],
    }
