"""`certify`: from untrusted images to a certificate."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certidote.verbs.choices import check_device, command_line, denoiser_named, dtype_of_run, recipe_named, test_split_of
from certidote.verbs.options import (
    BoundName,
    Data,
    DenoiserName,
    Device,
    Dtype,
    RecipeName,
    Seed,
    Sigma,
    SigmaX,
    TestInputName,
    Trusted,
)
from certidote.verbs.reports import write_results

if TYPE_CHECKING:
    from certidote.engine.local import Pool
    from certidote.types import Certificate, CountCertificate, Progress, Unproved


@dataclass(frozen=True)
class Certified:
    """What `certify` made: the record (certificate.json as a dict), where it lies, whether it is a proof, and the proof itself."""

    record: dict[str, Any]
    out: Path
    proved: bool
    outcome: "Certificate | CountCertificate | Unproved"


@dataclass(frozen=True)
class Plan:
    """What a command would do."""

    lines: tuple[str, ...]


def certify(
    data: Data,
    *,
    out: Annotated[Path, typer.Option(help="run directory; the same command goes on with an interrupted run")],
    test: Annotated[str, typer.Option(help="test images; default: the test split of DATA")] = "",
    sigma: Sigma = 0.25,
    models: Annotated[int, typer.Option(help="n, the models whose votes are counted")] = 1000,
    n0: Annotated[
        int, typer.Option(help="models that select the answers, on top of n; 0: the counted ones do, at a stricter level")
    ] = 100,
    alpha: Annotated[float, typer.Option(help="failure probability of the statement")] = 0.001,
    simultaneous: Annotated[bool, typer.Option(help="one statement about the whole test set (Bonferroni)")] = False,
    bound: BoundName = "clopper-pearson",
    trusted: Trusted = None,
    parts: Annotated[
        int,
        typer.Option(help="cut the training set into this many parts, each with n0 + n models of its own, and let the parts vote"),
    ] = 1,
    test_input: TestInputName = "clean",
    sigma_x: SigmaX = None,
    denoiser: DenoiserName = "auto",
    recipe: RecipeName = "auto",
    seed: Seed = None,
    workers: Annotated[int | None, typer.Option(help="processes; default: one for each core; 0: this process")] = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    dry_run: Annotated[bool, typer.Option(help="print the plan and stop")] = False,
    progress: "Progress | None" = None,
    pool: "Pool | None" = None,
    label: str = "",
) -> Certified | Plan:
    """Certify a classifier trained on untrusted DATA: noise, denoise, train n0 + n models, count their votes.

    Leaves in OUT: ledger.sqlite (every vote), certificate.json, certified_accuracy.csv, images.csv, figures as SVG, report.html.
    """
    from certidote.certification.bounds import check_bound
    from certidote.data import load
    from certidote.data.checks import check_same_classes
    from certidote.data.trusted import trusted_rows
    from certidote.defenses.inputs import test_input_named
    from certidote.defenses.partition import PartitionedSmoothing, rows_of_parts
    from certidote.defenses.smoothing import DenoisedSmoothing
    from certidote.training.pooled import trainer_for
    from certidote.types import Untrusted

    check_device(device)
    train_set = load(data, "train")
    test_name = test or test_split_of(data)
    test_set = load(test_name, "test")
    check_same_classes(train_set, test_set)
    number_format = dtype_of_run(out, dtype, device)
    chosen = denoiser_named(denoiser, train_set, number_format)
    input_kind = test_input_named(test_input)
    noise_x = (sigma if input_kind == "noised-denoised" else 0.0) if sigma_x is None else sigma_x
    smoothing = DenoisedSmoothing(
        chosen, sigma, n0, models, alpha, simultaneous, len(test_set), device,
        check_bound(bound), train_set.num_classes, input_kind, noise_x,
    )  # fmt: skip
    scheme = smoothing if parts == 1 else PartitionedSmoothing(smoothing, parts)
    untrusted = Untrusted(train_set, () if trusted is None else trusted_rows(trusted, train_set, data))
    rows_of_parts(len(train_set), untrusted.trusted, parts)  # refuses more parts than images
    used_recipe = recipe_named(recipe, train_set)
    trainer = trainer_for(used_recipe, number_format)  # type: ignore[arg-type]
    if dry_run:
        return Plan(
            (
                f"{scheme.members} models ({models_in_words(smoothing, parts)}) on {len(train_set)} images, {len(test_set)} test images",
                *plan_lines(smoothing, untrusted),
                f"sigma {sigma:g}, denoiser {chosen.card.name} ({chosen.conditioning(sigma)}), recipe {used_recipe.to_json()}",
                f"largest radius that {models} models {'of each part ' if parts > 1 else ''}can certify at alpha {scheme.alpha_each:g}: "
                f"{scheme.cap():.4f} ({bound} bound)",
                f"votes: {scheme.members * len(test_set) / 1e6:.1f} MB in {out / 'ledger.sqlite'}",
            )
        )
    hashes = chosen.card.training_images
    overlap = None if hashes is None else untrusted.overlap(hashes)
    facts = {"dtype": number_format, "device": device, "recipe": used_recipe.to_json()}
    return _run_and_record(
        out,
        scheme,
        trainer,
        untrusted,
        (data, train_set),
        (test_name, test_set),
        facts,
        seed,
        overlap,
        workers,
        progress,
        pool,
        label,
    )


def models_in_words(smoothing: Any, parts: int) -> str:
    """How many models select and how many are counted."""
    each = f", for each of {parts} parts" if parts > 1 else ""
    if not smoothing.n0:
        return f"all {smoothing.n} select and are counted{each}"
    return f"{smoothing.n0} select, {smoothing.n} are counted{each}"


def plan_lines(scheme: Any, untrusted: Any) -> list[str]:
    """What is out of the ordinary about test images and trusted images."""
    lines = []
    if untrusted.trusted:
        lines.append(
            f"{len(untrusted.trusted)} of these images are trusted: no noise on them, and the certificate is about the others"
        )
    if scheme.test_input == "denoised":
        lines.append("test images are denoised without noise")
    if scheme.sigma_x:
        lines.append(f"test images: noise of std {scheme.sigma_x:g}, one draw for each model, then denoised")
    return lines


def _run_and_record(
    out: Path, scheme: Any, trainer: Any, untrusted: Any, train: Any, test: Any, facts: Any, seed: int | None, overlap: int | None,
    workers: int | None, progress: Any, pool: Any, label: str,
) -> Certified:  # fmt: skip
    from contextlib import nullcontext

    from certidote import engine
    from certidote.engine.ledger import Ledger
    from certidote.engine.local import Pool
    from certidote.reporting.words import plain
    from certidote.results.record import RunFacts, certificate_record

    out.mkdir(parents=True, exist_ok=True)
    config = engine.configuration(scheme, trainer, untrusted, test[1], facts)
    with Ledger(out / "ledger.sqlite") as ledger:
        ledger.configure(config)
        with Pool(workers) if pool is None else nullcontext(pool) as used:
            ballots = engine.run(
                scheme, trainer, untrusted, test[1],
                ledger=ledger, pool=used, config=config, seed=seed, overlap=overlap, progress=progress, stage=label or "models",
            )  # fmt: skip
            number_of_workers = used.workers
        seconds, seconds_viewing = ledger.seconds()
        run_facts = RunFacts(
            label=label
            or f"{'noise only' if scheme.denoiser.card.kind == 'none' else 'denoised'}, sigma {plain(scheme.sigma)}"
            + (f", {parts} parts" if (parts := getattr(scheme, "parts", 1)) > 1 else ""),
            command=command_line(),
            recipe=facts["recipe"],
            config_digest=ledger.config_digest(),
            root=ledger.get("root"),
            root_source=ledger.get("root_source"),
            device=facts["device"],
            dtype=facts["dtype"],
            seconds=seconds,
            seconds_denoising=seconds_viewing,
            workers=number_of_workers,
        )
    outcome = scheme.certify(ballots)
    record = certificate_record(
        outcome, scheme.aggregate(ballots), ballots, scheme.describe(), scheme.denoiser.card, train, test, run_facts
    )
    write_results(out, record)
    return Certified(record, out, record["proved"], outcome)
