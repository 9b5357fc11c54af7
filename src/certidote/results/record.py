"""The record of a certification run: everything that is printed about it, as one JSON value with a format version.

Reports and tables read these records and never recompute them.
"""

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from jaxtyping import Float64, Int64

from certidote.certification.smoothing import radius_cap
from certidote.certification.threats import image_norm, k_max
from certidote.results.summary import average_radius, curve, median_radius
from certidote.types import Ballots, Certificate, DenoiserCard, ImageDataset, Json, Norm, Prediction, Unproved

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


@dataclass(frozen=True)
class RunFacts:
    """How a run came about. `seconds` is the time workers spent on members, summed over workers."""

    label: str
    command: str
    recipe: Json
    config_digest: str
    root: str
    root_source: str
    device: str
    dtype: str
    seconds: float
    seconds_denoising: float
    workers: int


def certificate_record(
    outcome: Certificate | Unproved,
    prediction: Prediction,
    ballots: Ballots,
    described: Json,
    card: DenoiserCard,
    train: tuple[str, ImageDataset],
    test: tuple[str, ImageDataset],
    facts: RunFacts,
) -> Json:
    """Everything worth knowing about one run.

    Args:
        outcome: what was proved, or why nothing was ("empirical only").
        prediction: of all members, for accuracies.
        described: the scheme's description of itself.
        card: of the denoiser.
        train, test: name and data set.
    """
    labels = test[1].labels.numpy()
    votes = ballots.votes[~ballots.failed]
    results: Json = {
        "vote_accuracy": float((prediction.labels == labels).mean()),
        "member_accuracy": float((votes == labels).mean()) if len(votes) else 0.0,
    }
    record: Json = {"format": "certidote certificate", "version": 1, "label": facts.label}
    if isinstance(outcome, Certificate):
        record |= {"proved": True, "reasons": [], "claim": outcome.claim, "statement": outcome.statement}
        record |= {"alpha": outcome.alpha, "alpha_each": outcome.alpha_each, "failed": outcome.failed}
        record["assumptions"] = [asdict(item) for item in outcome.assumptions]
        results |= _proved_results(outcome, labels, train[1])
        record["per_image"] = {
            "true": labels.tolist(),
            "label": outcome.labels.tolist(),
            "radius": outcome.radii.tolist(),
            "lower_bound": outcome.lower_bounds.tolist(),
            "top_count": outcome.top_counts.tolist(),
        }
    else:
        record |= {"proved": False, "reasons": list(outcome.reasons), "statement": "per test image"}
        record["claim"] = "Empirical only: no certificate follows from this run."
        record |= {"alpha": described["alpha"], "alpha_each": described["alpha"], "failed": int(ballots.failed.sum())}
        record["assumptions"] = []
        results |= {"abstained": 0, "certified_accuracy": [], "average_radius": None, "median_radius": None, "cap": None}
        results |= {"threats": [], "sentences": []}
        record["per_image"] = {"true": labels.tolist(), "label": prediction.labels.tolist()}
        record["per_image"] |= {name: [] for name in ("radius", "lower_bound", "top_count")}
    record |= {"sigma": described["sigma"], "sigma_symmetric": 2 * described["sigma"], "conditioning": described["conditioning"]}
    record |= {"n0": described["n0"], "n": described["n"], "unit": UNIT}
    record |= {"data": _data_facts(*train), "test": _data_facts(*test)}
    record["denoiser"] = {"name": card.name, "kind": card.kind, "digest": card.digest, "details": card.details}
    run = asdict(facts)
    del run["label"]
    return record | run | {"versions": versions(), "results": results}


def _proved_results(certificate: Certificate, labels: Int64[np.ndarray, "n_test"], train: ImageDataset) -> Json:
    steps = curve(certificate, labels)
    correct = np.where(certificate.labels == labels, certificate.radii, 0.0)
    cap = radius_cap(certificate.sigma, certificate.n, certificate.alpha_each)
    return {
        "abstained": int((certificate.labels < 0).sum()),
        "certified_accuracy": [list(point) for point in zip(steps["radius"], steps["certified_accuracy"], strict=True)],
        "average_radius": average_radius(certificate, labels),
        "median_radius": median_radius(certificate, labels),
        "cap": cap,
        "threats": [_threat(norm, epsilon, correct, train) for norm, epsilon in THREATS],
        "sentences": [],
    }


def _threat(norm: Norm, epsilon: float, correct_radii: Float64[np.ndarray, "n_test"], train: ImageDataset) -> Json:
    """How many images of this change the answers survive; images that are wrong or abstain survive none."""
    pixels = int(np.prod(train.image_shape))
    survived = np.maximum(k_max(correct_radii, epsilon, norm, pixels, len(train)), 0)
    return {
        "norm": norm,
        "epsilon": epsilon,
        "epsilon_255": round(epsilon * 255) if norm == "linf" else None,
        "per_image_norm": image_norm(epsilon, norm, pixels),
        "median_k": int(np.median(survived)),
        "max_k": int(survived.max()),
        "certified_accuracy_at_k": [[k, float((survived >= k).mean())] for k in COUNTS if k <= len(train)],
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
