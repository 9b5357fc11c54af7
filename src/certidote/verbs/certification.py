"""`certify`: from untrusted images to a certificate."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certidote.verbs.choices import (
    check_device,
    command_line,
    denoiser_named,
    disk_lines,
    dtype_of_run,
    recipe_named,
    test_split_of,
    trainer_named,
    transformed_test,
)
from certidote.verbs.options import (
    Data,
    DenoiserName,
    Device,
    Dtype,
    OwnModel,
    OwnTransform,
    PretrainedTrusted,
    RecipeName,
    Seed,
    Sigma,
)
from certidote.verbs.reports import write_results

if TYPE_CHECKING:
    from certidote.engine.local import Pool
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
    dry_run: Annotated[bool, typer.Option(help="print the plan and stop")] = False,
    progress: "Progress | None" = None,
    pool: "Pool | None" = None,
    label: str = "",
) -> Certified | Plan:
    """Certify a classifier trained on untrusted DATA: noise, denoise, train n0 + n models, count their votes.

    Leaves in OUT: ledger.sqlite (every vote), certificate.json, certified_accuracy.csv, images.csv, figures as SVG, report.html;
    with --keep-weights also weights/, one file for each block of models.
    """
    from certidote.certification.smoothing import radius_cap
    from certidote.data import load
    from certidote.data.checks import check_same_classes
    from certidote.defenses.smoothing import DenoisedSmoothing
    from certidote.types import Untrusted

    check_device(device)
    train_set = load(data, "train")
    test_name = test or test_split_of(data)
    test_set, transform_facts = transformed_test(load(test_name, "test"), test_transform, train_set.image_shape)
    check_same_classes(train_set, test_set)
    number_format = dtype_of_run(out, dtype, device)
    chosen = denoiser_named(denoiser, train_set, number_format)
    scheme = DenoisedSmoothing(chosen, sigma, n0, models, alpha, simultaneous, len(test_set), device)
    used_recipe = recipe_named(recipe, train_set, model)
    trainer = trainer_named(used_recipe, train_set, number_format, pretrained_trusted)
    disk = (disk_lines(out, used_recipe, train_set, scheme.members),) if keep_weights else ()
    if dry_run:
        return Plan(
            (
                f"{scheme.members} models ({n0} select, {models} are counted) on {len(train_set)} images, {len(test_set)} test images",
                f"sigma {sigma:g}, denoiser {chosen.card.name} ({chosen.conditioning(sigma)}), recipe {used_recipe.to_json()}",
                f"largest radius that {models} models can certify at alpha {scheme.alpha_each:g}: {radius_cap(sigma, models, scheme.alpha_each):.4f}",
                f"votes: {scheme.members * len(test_set) / 1e6:.1f} MB in {out / 'ledger.sqlite'}",
                *disk,
            )
        )
    untrusted = Untrusted(train_set)
    hashes = chosen.card.training_images
    overlap = None if hashes is None else untrusted.overlap(hashes)
    facts = {"dtype": number_format, "device": device, "recipe": used_recipe.to_json(), **transform_facts}
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
        keep_weights,
    )


def _run_and_record(
    out: Path, scheme: Any, trainer: Any, untrusted: Any, train: Any, test: Any, facts: Any, seed: int | None, overlap: int | None,
    workers: int | None, progress: Any, pool: Any, label: str, keep_weights: bool,
) -> Certified:  # fmt: skip
    from contextlib import nullcontext
    from dataclasses import replace

    from certidote import engine
    from certidote.engine.ledger import Ledger
    from certidote.engine.local import Pool
    from certidote.engine.weights import WeightStore
    from certidote.reporting.words import plain
    from certidote.results.record import RunFacts, certificate_record
    from certidote.training.own import own_code_assumptions
    from certidote.types import Certificate

    out.mkdir(parents=True, exist_ok=True)
    config = engine.configuration(scheme, trainer, untrusted, test[1], facts)
    with Ledger(out / "ledger.sqlite") as ledger:
        ledger.configure(config)
        with Pool(workers) if pool is None else nullcontext(pool) as used:
            ballots = engine.run(
                scheme, trainer, untrusted, test[1],
                ledger=ledger, pool=used, config=config, seed=seed, overlap=overlap, progress=progress, stage=label or "models",
                weights=WeightStore(out) if keep_weights else None,
            )  # fmt: skip
            number_of_workers = used.workers
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
    own = own_code_assumptions(facts["recipe"]["architecture"], facts.get("test_transform", {}).get("name", ""))
    if own and isinstance(outcome, Certificate):
        outcome = replace(outcome, assumptions=(*outcome.assumptions, *own))
    record = certificate_record(
        outcome, scheme.aggregate(ballots), ballots, scheme.describe(), scheme.denoiser.card, train, test, run_facts
    )
    write_results(out, record)
    return Certified(record, out, record["proved"])
