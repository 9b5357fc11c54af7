"""`certify`: from untrusted images to a certificate."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certidote.verbs.choices import check_device, command_line, denoiser_named, dtype_of_run, recipe_named, test_split_of
from certidote.verbs.options import Data, DenoiserName, Device, Dtype, RecipeName, Seed, Sigma
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
    seed: Seed = None,
    workers: Annotated[int | None, typer.Option(help="processes; default: one for each core; 0: this process")] = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    gallery: Annotated[bool, typer.Option(help="put pictures into the record and report; leave them out for private data")] = True,
    dry_run: Annotated[bool, typer.Option(help="print the plan and stop")] = False,
    progress: "Progress | None" = None,
    pool: "Pool | None" = None,
    label: str = "",
) -> Certified | Plan:
    """Certify a classifier trained on untrusted DATA: noise, denoise, train n0 + n models, count their votes.

    Leaves in OUT: ledger.sqlite (every vote), certificate.json, certified_accuracy.csv, images.csv, figures as SVG, report.html.
    """
    from certidote.certification.smoothing import radius_cap
    from certidote.data import load
    from certidote.data.checks import check_same_classes
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
    scheme = DenoisedSmoothing(chosen, sigma, n0, models, alpha, simultaneous, len(test_set), device)
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
        workers,
        progress,
        pool,
        label,
        gallery,
    )


def _run_and_record(
    out: Path, scheme: Any, trainer: Any, untrusted: Any, train: Any, test: Any, facts: Any, seed: int | None, overlap: int | None,
    workers: int | None, progress: Any, pool: Any, label: str, gallery: bool,
) -> Certified:  # fmt: skip
    from contextlib import nullcontext

    from certidote import engine
    from certidote.engine.ledger import Ledger
    from certidote.engine.local import Pool
    from certidote.reporting.words import plain
    from certidote.results.pictures import examples, training_gallery
    from certidote.results.record import RunFacts, certificate_record
    from certidote.streams import Key

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
    outcome, prediction = scheme.certify(ballots), scheme.aggregate(ballots)
    record = certificate_record(outcome, prediction, ballots, scheme.describe(), scheme.denoiser.card, train, test, run_facts)
    record["examples"] = examples(outcome, prediction, ballots, scheme.n0, test[1], pictures=gallery)
    record["gallery"] = []
    if gallery:  # the votes are cast: what is shown from here on, no model has seen
        key = Key(int(run_facts.root, 16))
        record["gallery"] = training_gallery(untrusted, scheme.denoiser, scheme.sigma, key, facts["device"])
    write_results(out, record)
    return Certified(record, out, record["proved"])
