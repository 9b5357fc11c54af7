"""The record of a certification run: everything that is printed about it, as one JSON value with a format version.

Reports and tables read these records and never recompute them.
"""

import math
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from jaxtyping import Int64

from certidote.certification.threats import image_norm, k_max
from certidote.results.partition import altered_counts, partition_results
from certidote.results.summary import average_radius, curve, median_radius
from certidote.types import Ballots, Certificate, DenoiserCard, ImageDataset, Json, Norm, Prediction, Unproved, digest_of

THREATS: tuple[tuple[Norm, float], ...] = (
    ("linf", 1 / 255),
    ("linf", 4 / 255),
    ("linf", 16 / 255),
    ("l2", 0.1),
    ("l2", 0.5),
)
"""What an attacker may do to one image, in every report."""

COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)

UNIT = "l2 norm over all pixels of all training images (Frobenius), [0, 1] pixel units"


def subject_of(
    data: tuple[str, ImageDataset],
    test: tuple[str, ImageDataset],
    card: DenoiserCard,
    overlap: int | None,
    trusted: Sequence[int] = (),
) -> Json:
    """What a run is about, recorded in its ledger before the first member trains, so that its record follows from the ledger alone.

    Args:
        data, test: name and data set.
        card: of the denoiser.
        overlap: images of `data` that the denoiser was trained on; None if unknown.
        trusted: rows of `data` that the attacker cannot have touched.
    """
    return {
        "data": _data_facts(*data),
        "test": _data_facts(*test),
        "test_labels": test[1].labels.tolist(),
        "denoiser": {
            "name": card.name,
            "kind": card.kind,
            "digest": card.digest,
            "trained_on": card.trained_on,
            "details": card.details,
        },
        "denoiser_overlap": overlap,
        "trusted_rows": list(trusted),
    }


def certificate_record(
    outcome: Certificate | Unproved, prediction: Prediction, ballots: Ballots, described: Json, subject: Json, run: Json
) -> Json:
    """Everything worth knowing about one run, as one JSON value that `docs/certificate.schema.json` describes.

    Args:
        outcome: what was proved, or why nothing was ("empirical only").
        prediction: of all members, for accuracies.
        described: the scheme's description of itself.
        subject: from `subject_of`.
        run: how the run came about: the entries of `audit.run_facts`.
    """
    labels = np.array(subject["test_labels"], dtype=np.int64)
    votes = ballots.votes[~ballots.failed]
    results: Json = {
        "vote_accuracy": float((prediction.labels == labels).mean()),
        "member_accuracy": float((votes == labels).mean()) if len(votes) else 0.0,
    }
    record: Json = {"format": "certidote certificate", "version": 1, "label": run["label"]}
    if isinstance(outcome, Certificate):
        record |= {"proved": True, "reasons": [], "claim": outcome.claim, "statement": outcome.statement}
        record |= {"alpha": outcome.alpha, "alpha_each": outcome.alpha_each, "failed": outcome.failed}
        record["assumptions"] = [asdict(item) for item in outcome.assumptions]
        record |= {"trusted": outcome.trusted}
        results |= _proved_results(outcome, labels, subject["data"])
        record["per_image"] = {
            "true": labels.tolist(),
            "label": outcome.labels.tolist(),
            "radius": outcome.radii.tolist(),
            "lower_bound": outcome.lower_bounds.tolist(),
            "top_count": outcome.top_counts.tolist(),
        }
        record["per_image"] |= k_max_table(outcome, subject["data"])
        if outcome.parts is not None:
            record["per_image"]["lower_bound"] = []  # a plurality of parts has no single probability
            results |= partition_results(outcome, labels, subject["data"]["images"])
    else:
        record |= {"proved": False, "reasons": list(outcome.reasons), "statement": None}
        record["claim"] = "Empirical only: no certificate follows from this run."
        record |= {"alpha": None, "alpha_each": None, "failed": int(ballots.failed.sum())}
        record["assumptions"] = []
        record["trusted"] = len(subject.get("trusted_rows", ()))
        results |= {"abstained": 0, "certified_accuracy": [], "average_radius": None, "median_radius": None, "cap": None}
        results |= {"threats": [], "sentences": []}
        record["per_image"] = {"true": labels.tolist(), "label": prediction.labels.tolist()}
        record["per_image"] |= {name: [] for name in ("radius", "lower_bound", "top_count")}
    record |= {"sigma": described["sigma"], "sigma_symmetric": 2 * described["sigma"], "conditioning": described["conditioning"]}
    record |= {name: described.get(name) for name in ("bound", "test_input", "sigma_x")}
    if record["trusted"]:
        record["trusted_rows_digest"] = rows_digest(subject.get("trusted_rows", ()))
    counted = outcome.n if isinstance(outcome, Certificate) else _counted(described, len(ballots))
    record |= {"n0": described["n0"], "n": counted, "unit": UNIT}
    record |= {name: subject[name] for name in ("data", "test", "denoiser")}
    return record | {name: value for name, value in run.items() if name != "label"} | {"results": results}


def rows_digest(rows: Sequence[int]) -> str:
    """SHA-256 of row numbers in ascending order, as a run's configuration names its trusted images."""
    return digest_of({"rows": sorted(rows)})


def _counted(described: Json, voted: int) -> int:
    """Members whose votes were counted, of each part where there are parts, though nothing is proved."""
    return int(described["n"]) if "parts" in described else min(described["n"], max(0, voted - described["n0"]))


def k_max_table(certificate: Certificate, data: Json) -> dict[str, list[int]]:
    """For each of `THREATS`, how many training images may move so far for each test image; -1 where nothing is certified."""
    return {
        f"k_max_{norm}_{_short(norm, epsilon)}": altered_images(certificate, norm, epsilon, data).tolist()
        for norm, epsilon in THREATS
    }


def _short(norm: Norm, epsilon: float) -> str:
    return f"{epsilon * 255:g}/255" if norm == "linf" else f"{epsilon:g}"


def _proved_results(certificate: Certificate, labels: Int64[np.ndarray, "n_test"], data: Json) -> Json:
    steps = curve(certificate, labels)
    return {
        "abstained": int((certificate.labels < 0).sum()),
        "certified_accuracy": [list(point) for point in zip(steps["radius"], steps["certified_accuracy"], strict=True)],
        "average_radius": average_radius(certificate, labels),
        "median_radius": median_radius(certificate, labels),
        "cap": certificate.cap,
        "threats": [_threat(certificate, labels, norm, epsilon, data) for norm, epsilon in THREATS],
        "sentences": [],
    }


def altered_images(certificate: Certificate, norm: Norm, epsilon: float, data: Json) -> Int64[np.ndarray, "n_test"]:
    """How many untrusted images may each move by epsilon without changing an answer; -1 where nothing is certified."""
    pixels, altered = math.prod(data["image_shape"]), data["images"] - certificate.trusted
    if certificate.parts is not None:
        return altered_counts(certificate.parts, image_norm(epsilon, norm, pixels), altered)
    return k_max(certificate.radii, epsilon, norm, pixels, altered)


def _threat(certificate: Certificate, labels: Int64[np.ndarray, "n_test"], norm: Norm, epsilon: float, data: Json) -> Json:
    """How many images of this change the answers survive; images that are wrong or abstain survive none."""
    pixels, altered = math.prod(data["image_shape"]), data["images"] - certificate.trusted
    counts = altered_images(certificate, norm, epsilon, data)
    survived = np.where(certificate.labels == labels, np.maximum(counts, 0), 0)
    return {
        "norm": norm,
        "epsilon": epsilon,
        "epsilon_255": round(epsilon * 255) if norm == "linf" else None,
        "per_image_norm": image_norm(epsilon, norm, pixels),
        "median_k": int(np.median(survived)),
        "max_k": int(survived.max()),
        "certified_accuracy_at_k": [[k, float((survived >= k).mean())] for k in COUNTS if k <= altered],
    }


def _data_facts(name: str, data: ImageDataset) -> Json:
    return {
        "name": name,
        "images": len(data),
        "image_shape": list(data.image_shape),
        "classes": list(data.class_names),
        "digest": data.digest(),
        "notes": list(data.notes),
    }


def versions() -> dict[str, str]:
    """Versions of what a result may depend on."""
    found = {"python": platform.python_version()}
    for name in ("certidote", "torch", "numpy", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found
