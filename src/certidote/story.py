"""The demo: one story on bundled handwritten digits, from a working attack to certificates, in a few minutes.

Two parts share one set of splits. The attack part poisons a transfer-learning set, shows that plain training falls for it, and
trains again after sanitizing. The certificate part trains thousands of models on noised and denoised copies of the training set
and certifies their vote, with noise only beside it.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from certidote import verbs
from certidote.defenses.sanitize import sanitized
from certidote.diffusion.denoiser import load as load_denoiser
from certidote.engine.local import Pool
from certidote.reporting.figures import attack_figure, certified_accuracy_figure, threat_figure
from certidote.reporting.html import render
from certidote.reporting.words import length, percent, radius_in_words
from certidote.results.files import csv_text, json_text, write_texts
from certidote.results.record import versions
from certidote.results.summary import wilson
from certidote.scenarios.transfer import TransferScenario, craft, evaluate, make_scenario
from certidote.scenarios.victims import Outcome
from certidote.streams import Key
from certidote.types import Denoiser, ImageDataset, Json, Poison, Progress, Silent, Untrusted

SIGMAS = (0.5, 1.0)
"""Noise of the certificates, and with which the poisoned sets are sanitized: at 0.5 digits survive the noise even without a
denoiser, at 1.0 they do not."""

DENOISERS = {"denoised": "digits", "noise only": "none"}
"""How the story calls them, and their names in the catalogue. Noise only is the baseline that must always be shown."""

ATTACK_ROOT = 1
"""The attack part is a fixed, repeatable experiment; certificates draw their roots from the operating system."""


@dataclass(frozen=True)
class Demo:
    """What the demo made: its record, its ending in plain words, and where it lies."""

    certificates: tuple[Json, ...]
    attack: Json
    lines: tuple[str, ...]
    out: Path


def run_demo(
    out: Path, *, models: int, targets: int, workers: int | None, dtype: str, progress: Progress | None, pictures: bool = True
) -> Demo:
    """Run both parts, write everything under `out`, and tell the story. Finished certificates are taken from their ledgers."""
    progress = progress or Silent()
    for denoiser in DENOISERS.values():  # what the last part would refuse is refused before the first one runs
        verbs.certify("digits", out=out, sigma=SIGMAS[0], models=models, denoiser=denoiser, dtype=dtype, dry_run=True)
    with Pool(workers) as pool:
        attack = attack_part(targets, progress, command=f"certidote demo --targets {targets}")
        certificates: list[Json] = []
        shown: list[Json] = []
        for sigma in SIGMAS:
            for name, denoiser in DENOISERS.items():
                run = verbs.certify(
                    "digits", out=out / f"{name.replace(' ', '-')}-{sigma:g}", sigma=sigma, models=models, denoiser=denoiser,
                    dtype=dtype, progress=progress, pool=pool, label=f"{name}, sigma {sigma:g}",
                )  # fmt: skip
                assert isinstance(run, verbs.Certified)
                certificates.append(run.record)
                shown.append({**run.record, **run.pictures})
    attack["statement"] = _where_it_lies(attack, certificates)
    rows = [(c["label"], *point) for c in certificates for point in c["results"]["certified_accuracy"]]
    columns = ("label", "successes", "trials", "low", "high", "other_errors", "clean_accuracy")
    texts = {
        "certified_accuracy.csv": csv_text(("ensemble", "radius", "certified_accuracy"), rows),
        "attack.csv": csv_text(columns, [[row[name] for name in columns] for row in attack["rows"]]),
        "certified_accuracy.svg": certified_accuracy_figure(certificates, attack),
        "threats.svg": threat_figure(certificates),
        "attack.svg": attack_figure(attack),
        "report.html": render("Certidote demo: handwritten digits", shown, attack),
        "demo.json": json_text({"certificates": [_without_images(c) for c in certificates], "attack": attack}),
    }
    write_texts({out / name: text for name, text in texts.items()})
    return Demo(tuple(certificates), attack, tuple(_story(certificates, attack, out)), out)


# ---------------------------------------------------------------------------------------------------------------- attack


def attack_part(targets: int, progress: Progress, *, command: str) -> Json:
    """Bullseye Polytope against transfer learning: undefended, its control, and after sanitizing, as one record."""
    key = Key(ATTACK_ROOT) / "demo"
    noise = {f"{name}, sigma {sigma:g}": (denoiser, sigma) for sigma in SIGMAS for name, denoiser in DENOISERS.items()}
    sanitizers = {label: partial(_sanitize, load_denoiser(denoiser), sigma) for label, (denoiser, sigma) in noise.items()}
    progress.start("attack: poison and sanitize", 3 + len(sanitizers), unit="steps")
    scenario = make_scenario(key / "scenario", num_targets=targets)
    progress.advance()
    poisons = craft(scenario, key)
    progress.advance()
    result = evaluate(scenario, poisons, key, sanitizers=sanitizers, finished=progress.advance)
    progress.finish()
    rows = []
    for name, arms in {"plain training": result.plain, **result.sanitized}.items():
        sigma = noise[name][1] if name in noise else None
        rows += [_row(f"{name}, unpoisoned (control)", arms.control, sigma), _row(f"{name}, poisoned", arms.poisoned, sigma)]
    denoiser = load_denoiser("digits")
    norms = [_joint_norm(poison, scenario.train) for poison in poisons]
    return {
        "attack": "Bullseye Polytope",
        "scenario": "transfer learning, frozen extractor, white box",
        "norm": scenario.budget.norm,
        "epsilon": scenario.budget.epsilon,
        "num_poisons": scenario.budget.num_poisons,
        "training_images": len(scenario.train),
        "joint_norm_median": float(np.median(norms)),
        "joint_norm_min": float(min(norms)),
        "rows": rows,
        "root": hex(ATTACK_ROOT),
        "command": command,
        "versions": versions(),
        "denoiser": denoiser.card.digest,
        "statement": "",
        "pictures": [_picture(scenario, poisons[0], denoiser, key)],
    }


def _sanitize(denoiser: Denoiser, sigma: float, data: Untrusted, key: Key) -> Any:
    return sanitized(data, denoiser, sigma, key)


def _row(label: str, outcome: Outcome, sigma: float | None) -> Json:
    successes, trials = int(outcome.success.sum()), len(outcome)
    low, high = wilson(successes, trials)
    return {
        "label": label,
        "successes": successes,
        "trials": trials,
        "low": low,
        "high": high,
        "other_errors": int(outcome.otherwise_wrong.sum()),
        "clean_accuracy": float(outcome.clean_accuracy.mean()),
        "sigma": sigma,
    }


def _joint_norm(poison: Poison, train: ImageDataset) -> float:
    """Frobenius norm of what the attacker changed, [0, 1] pixel units."""
    moved = poison.images.double() - train.images[poison.indices].double()
    return float(moved.norm()) / 255


def _picture(scenario: TransferScenario, poison: Poison, denoiser: Denoiser, key: Key, shown: int = 6) -> Json:
    sigma = SIGMAS[0]
    clean = sanitized(Untrusted(poison.apply(scenario.train)), denoiser, sigma, key / "picture").images[poison.indices[:shown]]
    base = scenario.train.images[poison.indices[:shown]]
    difference = (poison.images[:shown].int() - base.int()) // 2 + 128
    rows = (
        ("base image", base),
        ("poison", poison.images[:shown]),
        ("difference (halved, around gray)", difference),
        (f"sanitized at sigma {sigma:g}", (clean.clamp(0, 1) * 255).round()),
    )
    return {
        "title": "Poisons of one trial",
        "rows": [{"label": label, "images": images.squeeze(1).int().tolist()} for label, images in rows],
    }


# ----------------------------------------------------------------------------------------------------------------- words


def _where_it_lies(attack: Json, certificates: list[Json]) -> str:
    caps = [c["results"]["cap"] for c in certificates if c["proved"]]
    norm = attack["joint_norm_min"]
    if caps and norm >= max(caps):
        return (
            f"The poisons of every trial move the training set by at least {length(norm)}, far outside the largest radius that these "
            f"certificates can prove ({length(max(caps))}): no certificate covers this attack. What sanitizing does to it is measured, "
            "not proved."
        )
    return f"The poisons move the training set by {length(norm)} or more; part of that lies inside certified radii."


def _story(certificates: list[Json], attack: Json, out: Path) -> list[str]:
    control, poisoned = attack["rows"][:2]
    lines = ["", "What happened", "-------------"]
    lines.append(
        f"Attack: {attack['num_poisons']} of {attack['training_images']} training images changed by up to {attack['epsilon']:.2f} per "
        f"pixel ({attack['attack']}, {attack['scenario']}). It makes plain training give the attacker's answer for "
        f"{_rate(poisoned)}; without poisons {_rate(control)}."
    )
    for before, row in zip(attack["rows"][2::2], attack["rows"][3::2], strict=True):
        lines.append(
            f"Sanitized first ({row['label'].removesuffix(', poisoned')}), the same poisons reach {_rate(row)}; without poisons "
            f"{before['successes']}. Clean accuracy {percent(row['clean_accuracy'])}, undefended {percent(poisoned['clean_accuracy'])}."
        )
    lines.append("")
    for c in certificates:
        results = c["results"]
        if not c["proved"]:
            lines.append(f"{c['label']}: nothing is proved: {'; '.join(c['reasons'])}.")
            continue
        lines.append(
            f"{c['label']}: {c['n']} models (+{c['n0']} that select); the vote is right on {percent(results['vote_accuracy'])}, one model "
            f"on {percent(results['member_accuracy'])}; certified accuracy {percent(results['certified_accuracy'][0][1])} at radius 0, "
            f"median radius {length(results['median_radius'])} of at most {length(results['cap'])}."
        )
    lines += ["", f"In words ({certificates[0]['label']}):", *(f"  - {text}" for text in radius_in_words(certificates[0]))]
    lines += ["", attack["statement"], "", "What the certificates rest on:"]
    lines += [f"  [{item['verdict']}] {item['text']}" for item in certificates[0]["assumptions"]]
    return [*lines, "", f"Report: {out / 'report.html'}"]


def _rate(row: Json) -> str:
    return f"{row['successes']} of {row['trials']} targets (95 % interval {row['low']:.0%} to {row['high']:.0%})"


def _without_images(certificate: Json) -> Json:
    return {name: value for name, value in certificate.items() if name != "per_image"}
