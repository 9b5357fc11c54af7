"""Made-up but consistent records, in the shape a certification run and the demo write: what the report is tested on."""

import base64
import io
import math
from statistics import NormalDist
from typing import Any

import numpy as np
from PIL import Image

Json = dict[str, Any]

CLASSES = [str(digit) for digit in range(10)]
N, N0, ALPHA, PIXELS, TRAIN = 1_000, 100, 1e-3, 64, 500
KS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


def certificate(sigma: float = 0.5, denoised: bool = True, **changes: Any) -> Json:
    """A certificate of 400 test images whose votes are a Beta draw: stronger with a denoiser, weaker with more noise."""
    rng = np.random.default_rng(7)
    hard = 1.0 + 2 * sigma + (0 if denoised else 1.5)
    counts = np.minimum(N, np.round(N * rng.beta(9, 0.9 * hard, size=400))).astype(int)
    lower = np.array([_lower_bound(int(k)) for k in counts])
    radii = np.where(lower > 0.5, [sigma * NormalDist().inv_cdf(min(max(p, 0.5), 0.9999)) for p in lower], 0.0)
    true = rng.integers(0, 10, size=400)
    label = np.where(lower > 0.5, np.where(rng.random(400) < 0.97, true, (true + 1) % 10), -1)
    proved = np.where(label == true, radii, 0.0)
    cap = sigma * NormalDist().inv_cdf(ALPHA ** (1 / N))
    name, denoiser = ("denoised", "digits") if denoised else ("noise only", "none")
    value: Json = {
        "format": "certidote certificate",
        "version": 1,
        "label": f"{name}, sigma {sigma}",
        "proved": True,
        "reasons": [],
        "claim": (
            f"If every assumption below holds, changing the pixels of the training images by a total l2 norm below a test image's "
            f"radius (at most {math.floor(1000 * cap) / 1000}, [0, 1] pixel units) cannot change the answer for that image."
        ),
        "statement": "per test image",
        "alpha": ALPHA,
        "alpha_each": ALPHA,
        "sigma": sigma,
        "sigma_symmetric": 2 * sigma,
        "bound": "fixed number of models; one-sided Clopper-Pearson bound; the answer is selected by separate models",
        "conditioning": f"log sigma = {math.log(sigma):.3f}",
        "n0": N0,
        "n": N,
        "failed": 0,
        "unit": "l2 norm over all pixels of all training images (Frobenius), [0, 1] pixel units",
        "assumptions": assumptions(denoised),
        "data": data("digits:train", TRAIN, "1f"),
        "test": data("digits:test", 400, "2e"),
        "denoiser": {
            "name": denoiser,
            "kind": "network" if denoised else "none",
            "digest": "ab" * 32 if denoised else "",
            "trained_on": "",
            "details": {"parameters": 190_000, "trained on": "digits:trusted"} if denoised else {},
        },
        "recipe": {"architecture": "mlp", "hidden": 128, "epochs": 20, "optimizer": {"name": "adamw", "rate": 0.003}},
        "code": {"certidote": "b2" * 32, "torch": "2.13.0", "numpy": "2.3.1"},
        "votes_digest": "f6" * 32,
        "config_digest": ("c3" if denoised else "c4") * 32,
        "root": "d4" * 16,
        "root_source": "operating system",
        "command": f"certidote certify digits:train --test digits:test --sigma {sigma} --denoiser {denoiser}",
        "versions": {"certidote": "0.1.0", "torch": "2.13.0", "numpy": "2.3.1", "python": "3.12.4"},
        "device": "cpu",
        "dtype": "bfloat16",
        "seconds": 12.34,
        "seconds_denoising": 7.5,
        "workers": 2,
        "results": {
            "vote_accuracy": float((label == true).mean()),
            "member_accuracy": 0.921 if denoised else 0.774,
            "abstained": int((label == -1).sum()),
            "certified_accuracy": _curve(proved),
            "average_radius": float(proved.mean()),
            "median_radius": float(np.median(proved)),
            "cap": cap,
            "threats": [_threat(norm, epsilon, proved) for norm, epsilon in THREATS],
            "sentences": [],
        },
        "per_image": {
            "true": true.tolist(),
            "label": label.tolist(),
            "radius": radii.tolist(),
            "lower_bound": lower.tolist(),
            "top_count": counts.tolist(),
        },
        "examples": examples(),
        "gallery": gallery(),
    }
    return value | changes


THREATS = (("linf", 1 / 255), ("linf", 4 / 255), ("linf", 16 / 255), ("l2", 0.25))


def four() -> list[Json]:
    """The demo's certificates: two sigmas, each denoised and noise only."""
    return [certificate(sigma, denoised) for sigma in (0.5, 1.0) for denoised in (True, False)]


def examples() -> list[Json]:
    """Test images with their votes, one of each kind."""
    rng = np.random.default_rng(5)
    rows = (
        (17, "certified", "3", "3", 1.21, [["3", 1_000]]),
        (4, "certified", "8", "8", 0.04, [["8", 561], ["3", 402], ["9", 37]]),
        (230, "abstained", "5", None, 0.0, [["5", 498], ["9", 497], ["3", 5]]),
        (101, "wrong", "1", "7", 0.2, [["7", 700], ["1", 300]]),
    )
    names = ("test_image", "kind", "true", "label", "radius", "top")
    return [dict(zip(names, row, strict=True)) | {"png": _png(rng.integers(0, 256, (8, 8)))} for row in rows]


def gallery() -> list[Json]:
    """Three training images on their way."""
    rng = np.random.default_rng(6)
    labels = ("original", "noised", "denoised", "difference")
    rows = [{"label": label, "pngs": [_png(rng.integers(0, 256, (8, 8))) for _ in range(3)]} for label in labels]
    return [{"title": "Training images as the first model saw them", "rows": rows, "captions": ["training image 1, 4", "b", "c"]}]


def _png(levels: np.ndarray) -> str:
    content = io.BytesIO()
    Image.fromarray(levels.astype(np.uint8)).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def unproved(**changes: Any) -> Json:
    """A run whose denoiser had seen the untrusted data: votes, but no certificate."""
    value = certificate(proved=False, reasons=["the denoiser was trained on the untrusted images"], **changes)
    value["examples"] = [each | {"kind": "right", "radius": None} for each in examples()[:2]]
    value |= {"statement": None, "alpha": None, "alpha_each": None}
    value["claim"] = "Empirical only: no certificate follows from this run."
    value["assumptions"] = []
    value["results"] |= {"certified_accuracy": [], "threats": [], "sentences": []}
    value["results"] |= {"average_radius": None, "median_radius": None, "cap": None}
    return value


def attack(**changes: Any) -> Json:
    """A demonstrated attack with its control, far outside every radius."""
    rows = [
        ("plain training, unpoisoned (control)", 0, 25, 0.0, 0.1372, 0, 0.972, None),
        ("plain training, poisoned", 23, 25, 0.7396, 0.9902, 1, 0.968, None),
        ("sanitized, one denoised copy", 2, 25, 0.0098, 0.2604, 2, 0.941, 0.5),
        ("certified vote of 1,000 models", 0, 25, 0.0, 0.1372, 2, 0.955, 0.5),
    ]
    names = ("label", "successes", "trials", "low", "high", "other_errors", "clean_accuracy", "sigma")
    value: Json = {
        "attack": "Bullseye Polytope",
        "scenario": "transfer, frozen extractor, white box",
        "norm": "linf",
        "epsilon": 0.43,
        "num_poisons": 10,
        "training_images": 253,
        "joint_norm_median": 10.237,
        "joint_norm_min": 9.118,
        "rows": [dict(zip(names, row, strict=True)) for row in rows],
        "root": "0xa1b2",
        "command": "certidote demo",
        "denoiser": "ab" * 32,
        "statement": (
            "The poisons of every trial changed the training set by at least 9.1, outside every certified radius: the certificate "
            "says nothing about this attack, and what defeats it here is measured, not proved."
        ),
        "pictures": [{"title": "One trial", "rows": _pictures()}],
    }
    return value | changes


def assumptions(denoised: bool) -> list[Json]:
    """What the proof needs; the denoiser's line differs between the two kinds of run."""
    items = [
        ("Votes see the training images only through added Gaussian noise, one draw per image and model", "enforced", "lineage"),
        ("No two counted models share a noise stream", "enforced", "1,100 distinct stream identities"),
        ("The attacker changed pixels only: no label, number or order of images", "assumed", "clean-label threat model"),
        ("The root seed is unknown to the attacker", "assumed", "drawn from the operating system after the data digest"),
    ]
    if denoised:
        items.append(("The denoiser never saw the untrusted images", "reported", "0 of 500 images among its 897 training images"))
    return [dict(zip(("text", "verdict", "evidence"), item, strict=True)) for item in items]


def data(name: str, images: int, digest: str) -> Json:
    return {"name": name, "images": images, "image_shape": [1, 8, 8], "classes": CLASSES, "digest": digest * 32}


def _lower_bound(k: int) -> float:
    """Clopper-Pearson where it is closed-form, a Wilson bound elsewhere: close enough for made-up numbers."""
    if k == N:
        return ALPHA ** (1 / N)
    z, share = NormalDist().inv_cdf(1 - ALPHA), k / N
    center = share + z * z / (2 * N)
    return (center - z * math.sqrt(share * (1 - share) / N + z * z / (4 * N * N))) / (1 + z * z / N)


def _curve(proved: np.ndarray) -> list[list[float]]:
    radii = [0.0, *sorted({float(r) for r in proved if r > 0})]
    return [[r, float((proved > r).mean())] for r in radii]


def _threat(norm: str, epsilon: float, proved: np.ndarray) -> Json:
    each = epsilon * math.sqrt(PIXELS) if norm == "linf" else epsilon
    survived = np.clip(np.ceil(proved**2 / each**2) - 1, 0, TRAIN)
    return {
        "norm": norm,
        "epsilon": epsilon,
        "epsilon_255": round(255 * epsilon) if norm == "linf" else None,
        "per_image_norm": each,
        "median_k": int(np.median(survived)),
        "max_k": int(survived.max()),
        "certified_accuracy_at_k": [[k, float((survived >= k).mean())] for k in KS],
    }


def _pictures() -> list[Json]:
    rng = np.random.default_rng(3)
    base = rng.integers(0, 256, size=(4, 8, 8))
    poison = np.clip(base + rng.integers(-110, 111, size=base.shape), 0, 255)
    shown = (("base", base), ("poison", poison), ("difference", (poison - base) // 2 + 128), ("sanitized", (base + poison) // 2))
    return [{"label": label, "images": images.tolist()} for label, images in shown]
