"""`threat-map`: what several defenses prove about the digits, on common axes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certidote.verbs.choices import check_directory, command_line, dtype_of_run, make_directory, recipe_named
from certidote.verbs.options import Dtype, Sigma

if TYPE_CHECKING:
    from certidote.defenses.deep_partition import DeepPartition
    from certidote.engine.local import Pool
    from certidote.results.threat_map import Method
    from certidote.types import ImageDataset, Progress

LEVELS = 255
"""Steps between black and white of stored images."""


@dataclass(frozen=True)
class ThreatMap:
    """What `threat_map` made: threat_map.json as a dict, and where it lies."""

    record: dict[str, Any]
    out: Path


def threat_map(
    *,
    out: Annotated[Path, typer.Option(help="where ledgers, figures, JSON and CSV go; the same command goes on")],
    models: Annotated[int, typer.Option(help="counted models of each smoothing method")] = 500,
    n0: Annotated[int, typer.Option(help="models that select the answers, on top")] = 100,
    sigma: Sigma = 0.5,
    smoothed_parts: Annotated[int, typer.Option(help="parts of partitioned smoothing, n0 + n models each; 1: leave it out")] = 5,
    parts: Annotated[int, typer.Option(help="parts of deep partition aggregation, one model each")] = 50,
    workers: Annotated[int | None, typer.Option(help="processes; default: one for each core; 0: this process")] = None,
    dtype: Dtype = "auto",
    progress: "Progress | None" = None,
) -> ThreatMap:
    """Certified accuracy of several defenses on the digits against the same attackers, in one picture.

    Leaves in OUT: threat_map.html (the page to hand on), threat_map.svg (and a narrow one), threat_map.json, threat_map.csv, and one
    run directory for each method.
    """
    if smoothed_parts < 1:
        raise ValueError(f"smoothed_parts={smoothed_parts}; give at least 2 parts, or 1 to leave partitioned smoothing out")
    from certidote.data import load
    from certidote.engine.local import Pool
    from certidote.reporting.threat_map import threat_map_figure, threat_map_page
    from certidote.results.files import csv_text, json_text, write_texts
    from certidote.results.record import versions
    from certidote.results.threat_map import record as record_of
    from certidote.results.threat_map import rows
    from certidote.verbs.certification import certify

    check_directory(out)
    train, test = load("digits", "train"), load("digits:test", "test")
    scheme = _partition_scheme(train, parts)
    given = {"sigma": sigma, "models": models, "n0": n0, "dtype": dtype}
    whole = [_run("denoised smoothing", "digits", 1, out, given), _run("noise-only smoothing", "none", 1, out, given)]
    cut = [_run(f"denoised smoothing, {smoothed_parts} parts", "digits", smoothed_parts, out, given)] if smoothed_parts > 1 else []
    for options in (*whole, *cut):
        certify("digits", **options, dry_run=True)  # whatever one of the runs would refuse, before the first one trains
    with Pool(workers) as pool:
        methods = [
            *_smoothed(whole, train, test, progress, pool),
            *_partitioned(out, train, test, scheme, dtype, progress, pool),
            *_smoothed(cut, train, test, progress, pool),
        ]
    curves = [curve for method in methods for curve in method.curves()]
    facts = {
        "data": "digits",
        "data_digest": train.digest(),
        "training_images": len(train),
        "test_images": len(test),
        "command": command_line(),
        "versions": versions(),
    }
    facts |= {
        "sigma": sigma,
        "models": models,
        "n0": n0,
        "smoothed_parts": smoothed_parts,
        "parts": parts,
        "alpha": 0.001,
        "statement": "per test image",
    }
    record = record_of(curves, facts)
    texts = {
        "threat_map.csv": csv_text(("method", "axis", "unit", "budget", "certified_accuracy", "note"), rows(curves)),
        "threat_map.svg": threat_map_figure(record),
        "threat_map-narrow.svg": threat_map_figure(record, width=360),
        "threat_map.html": threat_map_page(record),
        "threat_map.json": json_text(record),
    }
    write_texts({out / name: text for name, text in texts.items()})
    return ThreatMap(record, out)


def _run(name: str, denoiser: str, parts: int, out: Path, given: "dict[str, Any]") -> "dict[str, Any]":
    """What `certify` is called with for one smoothing method."""
    directory = out / name.replace(",", "").replace(" ", "-")
    return {**given, "out": directory, "denoiser": denoiser, "parts": parts, "label": name}


def _smoothed(
    runs: "Sequence[dict[str, Any]]", train: "ImageDataset", test: "ImageDataset", progress: "Progress | None", pool: "Pool"
) -> "Iterator[Method]":
    """One smoothing certificate for each of `runs`."""
    from certidote.results.threat_map import of_certificate, of_nothing
    from certidote.types import Certificate
    from certidote.verbs.certification import Certified, certify

    for options in runs:
        run = certify("digits", **options, progress=progress, pool=pool)
        assert isinstance(run, Certified)
        if isinstance(run.outcome, Certificate):
            yield of_certificate(options["label"], run.outcome, test.labels.numpy(), train)
        else:
            yield of_nothing(options["label"], run.record["reasons"][0], len(test))


def _partition_scheme(train: "ImageDataset", parts: int) -> "DeepPartition":
    """Raises ValueError for parts that cannot be made, before anything runs."""
    from certidote.defenses.deep_partition import DeepPartition
    from certidote.defenses.parts import part_rows

    scheme = DeepPartition(parts, by_label=True)
    part_rows(train.labels, parts, 0, scheme.by_label)
    return scheme


def _partitioned(
    out: Path, train: "ImageDataset", test: "ImageDataset", scheme: "DeepPartition", dtype: str, progress: "Progress | None",
    pool: "Pool",
) -> "Iterator[Method]":  # fmt: skip
    """Deep partition aggregation by plurality and by run-off, from one ledger of members without noise."""
    from certidote import engine
    from certidote.defenses.parts import PUBLIC_ROOT
    from certidote.engine.ledger import Ledger
    from certidote.results.threat_map import of_counts, of_nothing
    from certidote.training.pooled import trainer_for
    from certidote.types import CountCertificate, Untrusted

    directory = out / "deep-partition"
    make_directory(directory)
    number_format = dtype_of_run(directory, dtype, "cpu")
    recipe = recipe_named("auto", train).model_copy(update=PART_RECIPE)
    trainer, untrusted = trainer_for(recipe, number_format), Untrusted(train)  # type: ignore[arg-type]
    config = engine.configuration(scheme, trainer, untrusted, test, {"dtype": number_format, "recipe": recipe.to_json()})
    with Ledger(directory / "ledger.sqlite") as ledger:
        ballots = engine.run(
            scheme, trainer, untrusted, test,
            ledger=ledger, pool=pool, config=config, seed=PUBLIC_ROOT, progress=progress, stage="deep partition",
        )  # fmt: skip
    for each, name in (
        (scheme, f"DPA, {scheme.parts} parts"),
        (replace(scheme, run_off=True), f"DPA + run-off, {scheme.parts} parts"),
    ):
        outcome = each.certify(ballots)
        if isinstance(outcome, CountCertificate):
            yield of_counts(name, outcome, test.labels.numpy(), LEVELS)
        else:
            yield of_nothing(name, outcome.reasons[0], len(test))


PART_RECIPE = {"epochs": 40, "learning_rate": 0.1}
"""Parts of ten images are one batch each: more epochs, smaller steps. Chosen on the digits, like the catalogue of recipes."""
