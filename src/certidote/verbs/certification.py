"""`certify`: from untrusted images to a certificate."""

import warnings
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certidote.verbs.choices import (
    check_apart,
    check_device,
    check_directory,
    command_line,
    computes_here,
    denoiser_named,
    disk_lines,
    dtype_of_run,
    make_directory,
    recipe_named,
    test_split_of,
    trainer_named,
    transformed_test,
    workers_named,
)
from certidote.verbs.options import (
    Address,
    Alpha,
    BoundName,
    Data,
    DenoiserName,
    Device,
    Dtype,
    Engine,
    GpusPerTask,
    Members,
    OwnModel,
    OwnTransform,
    Parts,
    Prepare,
    PretrainedTrusted,
    RecipeName,
    Seed,
    Selecting,
    Sigma,
    SigmaX,
    Simultaneous,
    Size,
    SkipCorrupt,
    TestInputName,
    Timeout,
    Trusted,
    UntilOption,
)
from certidote.verbs.reports import write_results

if TYPE_CHECKING:
    from certidote.engine.until import Until
    from certidote.engine.workers import Workers
    from certidote.types import Certificate, Progress, Unproved


@dataclass(frozen=True)
class Certified:
    """What `certify` made.

    Attributes:
        record: certificate.json as a dict.
        pictures: pictures.json as a dict, which the report shows beside it.
        out: where it lies.
        proved: whether it is a proof.
        outcome: the proof itself.
    """

    record: dict[str, Any]
    pictures: dict[str, Any]
    out: Path
    proved: bool
    outcome: "Certificate | Unproved"


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
    n0: Selecting = 100,
    alpha: Alpha = 0.001,
    simultaneous: Simultaneous = False,
    bound: BoundName = "clopper-pearson",
    trusted: Trusted = None,
    parts: Parts = 1,
    test_input: TestInputName = "clean",
    sigma_x: SigmaX = None,
    denoiser: DenoiserName = "auto",
    recipe: RecipeName = "auto",
    model: OwnModel = "",
    pretrained_trusted: PretrainedTrusted = False,
    test_transform: OwnTransform = "",
    keep_weights: Annotated[
        bool, typer.Option(help="keep every model's weights in OUT, for 'certidote predict' and 'export'")
    ] = False,
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
    size: Size = "",
    skip_corrupt: SkipCorrupt = False,
    gallery: Annotated[
        bool, typer.Option(help="put pictures and file names into the record and report; leave them out for private data")
    ] = True,
    dry_run: Annotated[bool, typer.Option(help="print the plan and stop")] = False,
    progress: "Progress | None" = None,
    pool: "Workers | None" = None,
    label: str = "",
) -> Certified | Plan | Stopped:
    """Certify a classifier trained on untrusted DATA: noise, denoise, train n0 + n models, count their votes.

    Leaves in OUT: ledger.sqlite (every vote), certificate.json, certified_accuracy.csv, images.csv, figures as SVG, report.html;
    with --keep-weights also weights/, one file for each block of models.
    """
    from certidote.certification.bounds import check_bound
    from certidote.data import load, load_test
    from certidote.data.checks import check_same_classes
    from certidote.data.trusted import crowded, trusted_rows
    from certidote.defenses.inputs import test_input_named
    from certidote.defenses.partition import PartitionedSmoothing, rows_of_parts
    from certidote.defenses.smoothing import DenoisedSmoothing
    from certidote.engine.assignment import check_members, parse_members
    from certidote.engine.until import parse_until
    from certidote.types import Untrusted

    check_directory(out)
    check_apart(out, data, test, denoiser=denoiser)
    check_device(device, here=engine == "local")
    limits = Limits(parse_members(members), parse_until(until), prepare)
    back_end = nullcontext(pool) if pool is not None else workers_named(engine, address, workers, device, gpus_per_task, timeout)
    train_set = load(data, "train", size=size, skip_corrupt=skip_corrupt)
    test_name = test or test_split_of(data)
    test_set = load_test(test_name, train_set.class_names, size=size, skip_corrupt=skip_corrupt)
    test_set, transform_facts = transformed_test(test_set, test_transform, train_set.image_shape)
    check_same_classes(train_set, test_set)
    untrusted = Untrusted(train_set, () if trusted is None else trusted_rows(trusted, train_set, data))
    for said in crowded(untrusted.trusted, train_set.labels, train_set.class_names):
        train_set = replace(train_set, notes=(*train_set.notes, said))
        if not dry_run:  # whose lines say it
            warnings.warn(said, stacklevel=1)
    if parts > 1:
        rows_of_parts(len(train_set), untrusted.trusted, parts)  # refuses more parts than images, before their models are counted
    number_format = dtype_of_run(out, dtype, device)
    chosen = denoiser_named(denoiser, train_set, number_format, size, skip_corrupt)
    input_kind = test_input_named(test_input)
    noise_x = (sigma if input_kind == "noised-denoised" else 0.0) if sigma_x is None else sigma_x
    if test_transform and noise_x > 0:
        raise ValueError(
            f"--test-transform {test_transform} with noise on test images: the certificate would speak of changes of transformed images, not "
            "of the images themselves; transform the files first, or leave out the noise (--test-input clean or denoised)"
        )
    smoothing = DenoisedSmoothing(
        chosen, sigma, n0, models, alpha, simultaneous, len(test_set), device,
        check_bound(bound), train_set.num_classes, input_kind, noise_x,
    )  # fmt: skip
    scheme = smoothing if parts == 1 else PartitionedSmoothing(smoothing, parts)
    check_members(limits.members, scheme.members)
    used_recipe = recipe_named(recipe, train_set, model)
    trainer = trainer_named(used_recipe, train_set, number_format, pretrained_trusted, device)
    disk = (disk_lines(out, used_recipe, train_set, scheme.members),) if keep_weights else ()
    if dry_run:
        return Plan(
            (
                f"{scheme.members} models ({models_in_words(smoothing, parts)}) on {len(train_set)} images, {len(test_set)} test images",
                *plan_lines(smoothing, untrusted),
                f"sigma {sigma:g}, denoiser {chosen.card.name} ({chosen.conditioning(sigma)}), recipe {used_recipe.to_json()}",
                f"largest radius that {models} models {'of each part ' if parts > 1 else ''}can certify at alpha {scheme.alpha_each:g}: "
                f"{scheme.cap():.4f} ({bound} bound)",
                f"votes: {scheme.members * len(test_set) / 1e6:.1f} MB in {out / 'ledger.sqlite'}",
                *disk,
            )
        )
    hashes = chosen.card.training_images
    overlap = None if hashes is None else untrusted.overlap(hashes)
    facts = {"dtype": number_format, "recipe": used_recipe.to_json(), **transform_facts}
    facts |= ({"size": size} if size else {}) | ({"skip_corrupt": True} if skip_corrupt else {})
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
        keep_weights,
        gallery,
    )


@dataclass(frozen=True)
class Limits:
    """What keeps a run from doing all members now: a range of them, an early stop, or nothing but preparing."""

    members: range | None
    until: "Until"
    prepare: bool


def models_in_words(smoothing: Any, parts: int) -> str:
    """How many models select and how many are counted."""
    each = f", for each of {parts} parts" if parts > 1 else ""
    if not smoothing.n0:
        return f"all {smoothing.n} select and are counted{each}"
    return f"{smoothing.n0} select, {smoothing.n} are counted{each}"


def plan_lines(scheme: Any, untrusted: Any) -> list[str]:
    """What is out of the ordinary about test images and trusted images."""
    from certidote.data.trusted import crowded

    lines = []
    if untrusted.trusted:
        lines.append(
            f"{len(untrusted.trusted)} of these images are trusted: no noise on them, and the certificate is about the others"
        )
        lines += crowded(untrusted.trusted, untrusted.labels, untrusted.class_names)
    if scheme.test_input == "denoised":
        lines.append("test images are denoised without noise")
    if scheme.sigma_x:
        lines.append(f"test images: noise of std {scheme.sigma_x:g}, one draw for each model, then denoised")
    return lines


def _run_and_record(
    out: Path, scheme: Any, trainer: Any, untrusted: Any, train: Any, test: Any, facts: Any, seed: int | None, overlap: int | None,
    limits: Limits, progress: Any, back_end: Any, label: str, keep_weights: bool, gallery: bool,
) -> Certified | Stopped:  # fmt: skip
    from certidote import engine
    from certidote.defenses.partition import rows_of_parts
    from certidote.engine.ledger import Ledger
    from certidote.engine.weights import WeightStore
    from certidote.reporting.words import plain
    from certidote.results.audit import ballots_of, complete, outcome_of, record_of
    from certidote.results.pictures import examples, training_gallery
    from certidote.results.record import subject_of

    if limits.until.decided and bound_of(scheme) != "anytime":
        raise ValueError(
            f"--until decided looks at counts while they come in, which voids the {bound_of(scheme)} bound; add --bound anytime, or "
            "give a time or a number of models"
        )
    make_directory(out)
    config = engine.configuration(scheme, trainer, untrusted, test[1], facts)
    with Ledger(out / "ledger.sqlite") as ledger:
        ledger.configure(config)
        if ledger.get("subject") is None:
            ledger.put("subject", subject_of(train, test, scheme.denoiser.card, overlap, untrusted.trusted))
        if limits.prepare:
            ledger.key(seed)
            return Stopped(out, ledger.voted(), scheme.members, "")
        observer = _interim(scheme, test[1], ledger)
        with back_end as used:
            missing = engine.fill(
                scheme, trainer, untrusted, test[1], ledger=ledger, pool=used, config=config, seed=seed, members=limits.members,
                until=limits.until, device=scheme.device, observer=observer, progress=progress, stage=label or "models",
                weights=WeightStore(out) if keep_weights else None,
            )  # fmt: skip
            short = missing or ledger.voted() < scheme.members
            if short and (bound_of(scheme) != "anytime" or ledger.gap_free() <= scheme.n0):
                return Stopped(out, ledger.voted(), scheme.members, observer.note() if observer else "")
            mixture = engine.provenance(ledger, overlap).mixture
            if mixture and bound_of(scheme) == "anytime":
                raise ValueError(
                    f"{out} mixes numerics ({'; '.join(mixture)}), for which the anytime bound is not proved; use machines of one kind, or "
                    "another bound"
                )
            engine.self_check(scheme, trainer, untrusted, test[1], ledger=ledger, pool=used, device=scheme.device)
            number_of_workers = used.workers
        parts = getattr(scheme, "parts", 1)
        named = f"{'noise only' if scheme.denoiser.card.kind == 'none' else 'denoised'}, sigma {plain(scheme.sigma)}"
        named += f", {parts} parts" if parts > 1 else ""
        complete(ledger, label or named, command_line(), number_of_workers)
        outcome, record = outcome_of(ledger), record_of(ledger)
        ballots, key = ballots_of(ledger), ledger.key(None)
    pictures: dict[str, Any] = {"examples": [], "gallery": []}
    if parts == 1:
        pictures["examples"] = examples(outcome, scheme.aggregate(ballots), ballots, scheme.n0, test[1], pictures=gallery)
    if gallery and computes_here(scheme.device):  # another kind of device would draw other noise than the first model's
        part = rows_of_parts(len(untrusted), untrusted.trusted, parts)[0] if parts > 1 else ()
        pictures["gallery"] = training_gallery(untrusted, scheme.denoiser, scheme.sigma, key, scheme.device, part)
    write_results(out, record, pictures, gallery)
    return Certified(record, pictures, out, record["proved"], outcome)


def _interim(scheme: Any, test: Any, ledger: Any) -> Any:
    """What is shown while models train: the votes of earlier runs counted already."""
    from certidote import engine
    from certidote.certification.anytime import anytime_lower_bound
    from certidote.certification.binomial import lower_confidence_bound
    from certidote.certification.bounds import level
    from certidote.results.interim import Interim

    if getattr(scheme, "parts", 1) > 1:
        return None  # parts train one after the other: before the last one has begun, there is no vote to look at
    bound = bound_of(scheme)
    alpha = level(bound, scheme.alpha_each, test.num_classes, scheme.n0 > 0)
    function = anytime_lower_bound if bound == "anytime" else lower_confidence_bound
    interim = Interim(test.labels.numpy(), test.num_classes, scheme.n0, alpha, function)
    jobs = ledger.jobs()
    if jobs and jobs[0].first == 0:
        interim.resume(engine.ballots(ledger, test))
    return interim


def bound_of(scheme: Any) -> Any:
    """How the scheme bounds vote shares, from `certification.bounds.BOUNDS`."""
    return getattr(scheme, "bound", "clopper-pearson")
