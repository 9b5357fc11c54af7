"""`certify`: from untrusted images to a certificate."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certidote.verbs.choices import (
    check_device,
    command_line,
    denoiser_named,
    dtype_of_run,
    recipe_named,
    test_split_of,
    workers_named,
)
from certidote.verbs.options import (
    Address,
    Data,
    DenoiserName,
    Device,
    Dtype,
    Engine,
    GpusPerTask,
    Members,
    Prepare,
    RecipeName,
    Seed,
    Sigma,
    Timeout,
    UntilOption,
)
from certidote.verbs.reports import write_results

if TYPE_CHECKING:
    from certidote.engine.until import Until
    from certidote.engine.workers import Workers
    from certidote.types import Progress


@dataclass(frozen=True)
class Certified:
    """What `certify` made: the record (certificate.json as a dict), where it lies, and whether it is a proof."""

    record: dict[str, Any]
    out: Path
    proved: bool


@dataclass(frozen=True)
class Plan:
    """What a command would do."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Stopped:
    """A run that was told to stop before its last member: what it has, and where it goes on. No certificate was made."""

    out: Path
    voted: int
    members: int
    interim: str


def certify(
    data: Data,
    *,
    out: Annotated[Path, typer.Option(help="run directory; the same command goes on with an interrupted run")],
    test: Annotated[str, typer.Option(help="test images; default: the test split of DATA")] = "",
    sigma: Sigma = 0.25,
    models: Annotated[int, typer.Option(help="n, the models whose votes are counted")] = 1000,
    n0: Annotated[int, typer.Option(help="models that select the answers, on top of n")] = 100,
    alpha: Annotated[float, typer.Option(help="failure probability of the statement")] = 0.001,
    simultaneous: Annotated[bool, typer.Option(help="one statement about the whole test set (Bonferroni)")] = False,
    denoiser: DenoiserName = "auto",
    recipe: RecipeName = "auto",
    seed: Seed = None,
    workers: Annotated[int | None, typer.Option(help="processes; default: one for each core; 0: this process")] = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    engine: Engine = "local",
    address: Address = "auto",
    gpus_per_task: GpusPerTask = 1.0,
    timeout: Timeout = None,
    members: Members = "",
    prepare: Prepare = False,
    until: UntilOption = "",
    dry_run: Annotated[bool, typer.Option(help="print the plan and stop")] = False,
    progress: "Progress | None" = None,
    pool: "Workers | None" = None,
    label: str = "",
) -> Certified | Plan | Stopped:
    """Certify a classifier trained on untrusted DATA: noise, denoise, train n0 + n models, count their votes.

    Leaves in OUT: ledger.sqlite (every vote), certificate.json, certified_accuracy.csv, images.csv, figures as SVG, report.html.
    """
    from certidote.certification.smoothing import radius_cap
    from certidote.data import load
    from certidote.data.checks import check_same_classes
    from certidote.defenses.smoothing import DenoisedSmoothing
    from certidote.engine.assignment import check_members, parse_members
    from certidote.engine.until import parse_until
    from certidote.training.pooled import trainer_for
    from certidote.types import Untrusted

    limits = Limits(parse_members(members), parse_until(until), prepare)
    back_end = nullcontext(pool) if pool is not None else workers_named(engine, address, workers, device, gpus_per_task, timeout)
    if engine == "local":
        check_device(device)
    train_set = load(data, "train")
    test_name = test or test_split_of(data)
    test_set = load(test_name, "test")
    check_same_classes(train_set, test_set)
    number_format = dtype_of_run(out, dtype, device)
    chosen = denoiser_named(denoiser, train_set, number_format)
    scheme = DenoisedSmoothing(chosen, sigma, n0, models, alpha, simultaneous, len(test_set), device)
    check_members(limits.members, scheme.members)
    used_recipe = recipe_named(recipe, train_set)
    trainer = trainer_for(used_recipe, number_format)  # type: ignore[arg-type]
    if dry_run:
        return Plan(
            (
                f"{scheme.members} models ({n0} select, {models} are counted) on {len(train_set)} images, {len(test_set)} test images",
                f"sigma {sigma:g}, denoiser {chosen.card.name} ({chosen.conditioning(sigma)}), recipe {used_recipe.to_json()}",
                f"largest radius that {models} models can certify at alpha {scheme.alpha_each:g}: {radius_cap(sigma, models, scheme.alpha_each):.4f}",
                f"votes: {scheme.members * len(test_set) / 1e6:.1f} MB in {out / 'ledger.sqlite'}",
            )
        )
    untrusted = Untrusted(train_set)
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
        limits,
        progress,
        back_end,
        label,
    )


@dataclass(frozen=True)
class Limits:
    """What keeps a run from doing all members now: a range of them, an early stop, or nothing but preparing."""

    members: range | None
    until: "Until"
    prepare: bool


def _run_and_record(
    out: Path, scheme: Any, trainer: Any, untrusted: Any, train: Any, test: Any, facts: Any, seed: int | None, overlap: int | None,
    limits: Limits, progress: Any, back_end: Any, label: str,
) -> Certified | Stopped:  # fmt: skip
    from certidote import engine
    from certidote.engine.ledger import Ledger
    from certidote.reporting.words import plain
    from certidote.results.record import RunFacts, certificate_record

    if limits.until.decided and bound_of(scheme) != "anytime":
        raise ValueError(
            f"--until decided looks at counts while they come in, which voids the {bound_of(scheme)} bound; add --bound anytime, or "
            "give a time or a number of models"
        )
    out.mkdir(parents=True, exist_ok=True)
    config = engine.configuration(scheme, trainer, untrusted, test[1], facts)
    with Ledger(out / "ledger.sqlite") as ledger:
        ledger.configure(config)
        if limits.prepare:
            ledger.key(seed)
            return Stopped(out, ledger.voted(), scheme.members, "")
        observer = _interim(scheme, test[1], ledger, untrusted)
        with back_end as used:
            missing = engine.fill(
                scheme, trainer, untrusted, test[1], ledger=ledger, pool=used, config=config, seed=seed, members=limits.members,
                until=limits.until, device=facts["device"], observer=observer, progress=progress, stage=label or "models",
            )  # fmt: skip
            number_of_workers = used.workers
        if (missing or ledger.voted() < scheme.members) and bound_of(scheme) != "anytime":
            return Stopped(out, ledger.voted(), scheme.members, observer.note())
        ballots = engine.ballots(ledger, untrusted, test[1], overlap)
        if ballots.provenance.mixture and bound_of(scheme) == "anytime":
            raise ValueError(
                f"{out} mixes numerics ({'; '.join(ballots.provenance.mixture)}), for which the anytime bound is not proved; use machines "
                "of one kind, or another bound"
            )
        seconds, seconds_viewing = ledger.seconds()
        run_facts = RunFacts(
            label=label or f"{'noise only' if scheme.denoiser.card.kind == 'none' else 'denoised'}, sigma {plain(scheme.sigma)}",
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
    return Certified(record, out, record["proved"])


def _interim(scheme: Any, test: Any, ledger: Any, untrusted: Any) -> Any:
    """What is shown while models train: the votes of earlier runs counted already."""
    from certidote import engine
    from certidote.certification.anytime import anytime_lower_bound
    from certidote.certification.binomial import lower_confidence_bound
    from certidote.certification.bounds import level
    from certidote.results.interim import Interim

    bound = bound_of(scheme)
    alpha = level(bound, scheme.alpha_each, test.num_classes, scheme.n0 > 0)
    function = anytime_lower_bound if bound == "anytime" else lower_confidence_bound
    interim = Interim(test.labels.numpy(), test.num_classes, scheme.n0, alpha, function)
    jobs = ledger.jobs()
    if jobs and jobs[0].first == 0:
        interim.resume(engine.ballots(ledger, untrusted, test))
    return interim


def bound_of(scheme: Any) -> Any:
    """How the scheme bounds vote shares, from `certification.bounds.BOUNDS`."""
    return getattr(scheme, "bound", "clopper-pearson")
