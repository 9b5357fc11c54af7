"""`replay`: victims of each trial of a poison pack, with and without the poisons, under a defense."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certidote.verbs.choices import (
    check_apart,
    check_device,
    check_directory,
    command_line,
    denoiser_named,
    dtype_of_run,
    make_directory,
    recipe_named,
    trainer_named,
    training_and_test,
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
    Seed,
    Size,
    SkipCorrupt,
    Timeout,
)

if TYPE_CHECKING:
    from certidote.attacks.pack import PoisonPack
    from certidote.engine.workers import Workers
    from certidote.types import ImageDataset, Progress, Trainer


DEFENSE_HELP = (
    "none, denoise (noise and denoise once), noise (noise only), several-draws (4 denoised copies at once), purification, purification-deterministic (in several steps); plain "
    "preprocessing: jpeg, blur, bit-depth, total-variation; a filter of images: deep-knn, deep-knn-majority, spectral, "
    "activation-clustering, epic; a way to train from scratch: adversarial-training, poison-adversarial-training, gradient-shaping, "
    "friends, mixup, cutmix, dp-instahide, dp-sgd, dp-sgd-private; or one with a certificate of its own: dpa, finite-aggregation, "
    "run-off-dpa, run-off-fa, dpa-star-run-off, bagging, bagflip, rab ('certidote defenses' explains them)"
)


@dataclass(frozen=True)
class Replayed:
    """What `replay` found: replay.json as a dict, the same in plain words, and where it lies."""

    record: dict[str, Any]
    lines: tuple[str, ...]
    out: Path


def replay(
    pack: Annotated[Path, typer.Argument(help="a folder that 'certidote poison' made, or an import of other poisons")],
    data: Data,
    *,
    out: Annotated[Path, typer.Option(help="run directory; the same command goes on with an interrupted run")],
    defense: Annotated[str, typer.Option(help=DEFENSE_HELP)] = "none",
    sigma: Annotated[float | None, typer.Option(help="noise std of the defense, [0, 1] pixel units; default: 0.25")] = None,
    denoiser: DenoiserName = "auto",
    models: Annotated[
        int | None,
        typer.Option(help="models that vote in each defended classifier; default: 1, or 20 for bagging, bagflip and rab"),
    ] = None,
    parts: Annotated[
        int | None, typer.Option(help="parts of the training set, for votes over parts; default: of about 50 images, at most 50")
    ] = None,
    copies: Annotated[
        int | None,
        typer.Option(help="models that one image reaches, for finite-aggregation, run-off-fa and dpa-star-run-off; default: 4"),
    ] = None,
    bag_size: Annotated[
        int | None, typer.Option(help="images drawn for each model of bagging and bagflip; default: a fiftieth, 50 to 1,000")
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(
            help="noise draws that trials take in turns, of denoise, noise and purification: clean images are denoised once for each; "
            "default: each trial has draws of its own"
        ),
    ] = None,
    trials: Annotated[int | None, typer.Option(help="only so many trials, the first ones; default: all of the pack")] = None,
    test: Annotated[str, typer.Option(help="test images that the pack was made with; default: the test split of DATA")] = "",
    recipe: Annotated[
        str, typer.Option(help="train victims from scratch by this recipe; default: as the pack says (heads on its extractor, say)")
    ] = "",
    head: Annotated[
        str,
        typer.Option(help="how victims fit heads on the pack's extractor: adam, or benchmark (that of the poisoning benchmark)"),
    ] = "adam",
    end_to_end: Annotated[
        bool, typer.Option(help="with --recipe: victims start from the pack's extractor, and all their weights learn")
    ] = False,
    raw_epochs: Annotated[
        int,
        typer.Option(
            help="victims learn from the images as they are for so many epochs first (in-domain warm start: never certified)"
        ),
    ] = 0,
    start_from: Annotated[
        str,
        typer.Option(
            help="trusted images of another kind, in any form of DATA, that victims from scratch learn from before anything else"
        ),
    ] = "",
    seed: Seed = None,
    workers: Annotated[int | None, typer.Option(help="processes; default: one for each core; 0: this process")] = None,
    timeout: Timeout = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    engine: Engine = "local",
    address: Address = "auto",
    gpus_per_task: GpusPerTask = 1.0,
    size: Size = "",
    skip_corrupt: SkipCorrupt = False,
    progress: "Progress | None" = None,
    pool: "Workers | None" = None,
) -> Replayed:
    """Train victims on clean and poisoned DATA, trial by trial, and see whether the poisons of PACK reach their goals.

    Leaves in OUT: ledger.sqlite (every vote), replay.json and trials.csv. The victims of one trial start alike, so clean and poisoned
    are paired.
    """
    from contextlib import nullcontext

    from certidote.attacks import find
    from certidote.attacks.pack_files import read_pack
    from certidote.defenses.catalogue import DEFENSES, Setting, check_options
    from certidote.scenarios.trials import PairedTrainer, Trials, questions
    from certidote.scenarios.warm_start import raw_first
    from certidote.streams import Key

    check_directory(out)
    check_apart(out, data, test, str(pack), start_from, denoiser=denoiser)
    check_device(device, here=engine == "local")
    back_end = nullcontext(pool) if pool is not None else workers_named(engine, address, workers, device, gpus_per_task, timeout)
    if models is not None and models < 1:
        raise ValueError(f"--models {models}; a classifier needs at least 1 model")
    make_defense = find(DEFENSES, defense, "defense")
    given = read_pack(pack)
    chosen = _first(given, trials)
    train_set, (test_name, test_set) = training_and_test(data, test, size, skip_corrupt)
    chosen.check(train_set)
    number_format = dtype_of_run(out, dtype, device)
    trainer = _victims(given, pack, recipe, head, end_to_end, train_set, number_format, device)

    def named(name: str) -> Any:
        return denoiser_named(name if name != "auto" else denoiser, train_set, number_format, size, skip_corrupt)

    share = chosen.budget.num_poisons / len(train_set)
    setting = Setting(
        named, sigma, models or 1, device, share, len(train_set), models, parts, copies, bag_size, train_set.image_shape
    )
    check_options(defense, setting, denoiser)
    if start_from:
        trainer = _started(trainer, start_from, train_set, (chosen, test_set), seed or 0, device, size, skip_corrupt)
    scheme, trainer = make_defense(trainer, setting)
    if raw_epochs:
        scheme, trainer = raw_first(scheme, trainer, raw_epochs)
    played = Trials(chosen, scheme, draws)
    asked = questions(chosen, test_set, Key(0) / "replay" / "questions")
    facts = {"dtype": number_format, "pack": given.recipe}
    with back_end as used, _classes_left(defense, given, train_set):
        record = _run(
            out, played, PairedTrainer(trainer, scheme.members, chosen.first_trial), train_set, asked, used, seed, facts, progress
        )
    return _recorded(out, record, (data, train_set), (test_name, test_set), pack, defense, recipe_chosen=bool(recipe))


@contextmanager
def _classes_left(defense: str, pack: "PoisonPack", train_set: "ImageDataset") -> Iterator[None]:
    """Raises: Refused, in the words of the command, if the defense's filter would remove a whole class."""
    from certidote.defenses.filtered import class_refused
    from certidote.engine.workers import JobFailed, Refused

    try:
        yield
    except JobFailed as error:
        if gone := class_refused(error.traceback, train_set.class_names):
            raise Refused(
                error,
                f"--defense {defense} would remove {gone}, and nothing could be learned about what is gone; give another --defense, or a "
                f"pack with fewer poisons (this one has {pack.budget.num_poisons} among {len(train_set)} images), and another --out",
            ) from error
        raise


def _run(
    out: Path, played: Any, trainer: Any, train_set: Any, asked: Any, pool: Any, seed: int | None, facts: dict[str, Any], progress: Any,
) -> dict[str, Any]:  # fmt: skip
    """Train the victims that are not in the ledger yet; the record without what the user called things."""
    from certidote import engine
    from certidote.engine.ledger import Ledger
    from certidote.results.record import versions
    from certidote.results.replay import replay_record
    from certidote.scenarios.privacy import certified_poisons
    from certidote.scenarios.trials import outcomes
    from certidote.types import Untrusted

    untrusted = Untrusted(train_set)
    config = engine.configuration(played, trainer, untrusted, asked.asked, facts)
    make_directory(out)
    with Ledger(out / "ledger.sqlite") as ledger:
        ballots = engine.run(
            played, trainer, untrusted, asked.asked, ledger=ledger, pool=pool, config=config, seed=seed, device=played.device,
            progress=progress, stage="victims",
        )  # fmt: skip
        check, seconds = engine.recorded_check(ledger), ledger.seconds()[0]
        proved = certified_poisons(played, asked, ballots)
        about = {
            "attack": played.pack.recipe["attack"],
            "recipe": played.pack.recipe,
            "budget": asdict(played.pack.budget),
            "defense": played.defense.describe(),
            "models": played.defense.members,
            **({} if played.draws is None else {"draws": played.draws}),
            "victims": trainer.trainer.describe(),
            "failed": int(ballots.failed.sum()),
            "retrained_alone": None if check is None else {"victim": check.member, "differing_votes": check.differing},
            "config_digest": ledger.config_digest(),
            "root": ledger.get("root"),
            "root_source": ledger.get("root_source"),
            "seconds_of_workers": seconds,
            "workers": pool.workers,
            "numerics": [part.numerics for part in ledger.parts()],
            "command": command_line(),
            "versions": versions(),
            **({} if proved is None else {"certified_poisons": proved}),
            **_removed(played, trainer, untrusted, ledger, ledger.key(seed), pool, progress),
        }
    return replay_record(played.pack, asked, outcomes(played, asked, ballots), about)


def _removed(played: Any, trainer: Any, data: Any, ledger: Any, key: Any, pool: Any, progress: Any) -> dict[str, Any]:
    """What the defense's filter removed of each trial's poisoned set, if it has one; kept in the ledger trial by trial.

    On a machine without the victims' device (the driver of a cluster, say) the filter is asked on the CPU.
    """
    from dataclasses import replace

    from certidote.defenses.removals import Removal, filters
    from certidote.engine.local import Pool
    from certidote.results.replay import removals_record
    from certidote.scenarios.removed import Asked, removed_of_trial
    from certidote.scenarios.warm_start import RawThenSanitized
    from certidote.types import Silent
    from certidote.verbs.choices import computes_here

    if not filters(trainer.trainer) or isinstance(played.defense, RawThenSanitized):  # which drops each half for the other
        return {}
    if not computes_here(played.device):
        played = replace(played, defense=replace(played.defense, device="cpu"))
    progress, number = progress or Silent(), len(played.pack)
    kept: dict[str, Any] = ledger.get(REMOVED) or {}
    missing = [trial for trial in range(number) if str(trial) not in kept]
    back_end = pool if isinstance(pool, Pool) else Pool(0, device=played.device)
    some: list[tuple[int, Removal | None]]
    if missing:
        progress.start("what the filter removed", number, number - len(missing), unit="trials")
        for some in back_end.each(removed_of_trial, Asked(played, trainer, data, key), missing):
            kept |= {str(trial): None if found is None else asdict(found) for trial, found in some}
            ledger.replace(REMOVED, kept)
            progress.advance(len(some))
        progress.finish()
    counts = (kept[str(trial)] for trial in range(number))
    return {"filter": removals_record([None if found is None else Removal(**found) for found in counts])}


REMOVED = "removed"
"""The fact of a replay's ledger that holds what its filter removed, by trial, so that no finished trial is asked again."""


def _recorded(
    out: Path, record: dict[str, Any], data: Any, test: Any, pack: Path, defense: str, *, recipe_chosen: bool
) -> Replayed:
    from certidote.data.names import escaped
    from certidote.results.files import csv_text, json_text, write_texts
    from certidote.results.replay import data_facts, replay_lines, replay_table

    record["data"], record["test"] = (data_facts(escaped(name), held) for name, held in (data, test))
    record |= {"pack": escaped(str(pack)), "defense_name": defense, "command": escaped(record["command"])}
    write_texts({out / "replay.json": json_text(record), out / "trials.csv": csv_text(*replay_table(record))})
    return Replayed(record, tuple(replay_lines(record, recipe_chosen=recipe_chosen)), out)


def _first(pack: "PoisonPack", trials: int | None) -> "PoisonPack":
    from dataclasses import replace

    if trials is None:
        return pack
    if not 1 <= trials <= len(pack):
        raise ValueError(f"--trials {trials}; the pack has {len(pack)}: give 1 to {len(pack)}, or leave it out for all")
    return replace(pack, poisons=pack.poisons[:trials], bases=pack.bases[:trials])


def _started(
    trainer: "Trainer", name: str, train_set: "ImageDataset", asked: "tuple[PoisonPack, ImageDataset]", seed: int, device: str,
    size: str, skip_corrupt: bool,
) -> "Trainer":  # fmt: skip
    """Victims that start from weights learned on other images, none of which the trials (with the test images) are about."""
    from certidote.data import load
    from certidote.scenarios.leaks import check_leaks
    from certidote.scenarios.warm_start import started_from
    from certidote.streams import Key

    images = load(name, "train", size=size, skip_corrupt=skip_corrupt)
    if images.image_shape != train_set.image_shape:
        raise ValueError(
            f"--start-from {name}: its images have shape {images.image_shape}, the data {train_set.image_shape} (channels, height, width); "
            "give images of one shape, with --size say"
        )
    pack, test_set = asked
    goals = [poison.goal for poison in pack.poisons]
    check_leaks(goals, test_set, name, images, pack.first_trial, learner="victims start from", option="--start-from")
    return started_from(trainer, images, Key(seed) / "start", device)


def _victims(
    pack: "PoisonPack", path: Path, recipe: str, head: str, end_to_end: bool, train_set: "ImageDataset", dtype: str, device: str
) -> "Trainer":
    """How victims learn: as the pack says, with heads of the recipe named, or by a recipe that the user names, from scratch or from the
    pack's extractor."""
    from certidote.attacks import find
    from certidote.attacks.pack_files import read_beside
    from certidote.numerics import resolve_dtype
    from certidote.scenarios import frozen
    from certidote.scenarios.knowledge import EXTRACTOR, victim_extractor
    from certidote.training.head import HeadTrainer
    from certidote.training.head_recipe import HEAD_RECIPES
    from certidote.training.recipe import Recipe

    found = pack.recipe.get("scenario")
    scenario: dict[str, Any] = found if isinstance(found, dict) else {}
    kind = scenario.get("kind")
    fitted = find(HEAD_RECIPES, head, "head recipe")
    if end_to_end and (kind != "transfer" or not recipe):
        raise ValueError(
            "--end-to-end is for packs of transfer learning, whose extractor victims start from, and needs --recipe: how they go on"
        )
    heads = kind == "transfer" and not recipe
    if not heads and head != "adam":
        raise ValueError(f"--head {head} says how heads are fitted, but these victims are trained with all weights; leave it out")
    if heads or end_to_end:
        extractor = victim_extractor(scenario, read_beside(pack, path, EXTRACTOR), f"pack {str(path)!r}")
        if heads:
            return HeadTrainer(extractor, **fitted.model_dump())
        return frozen.end_to_end(extractor, recipe_named(recipe, train_set), resolve_dtype(dtype))
    if not recipe and kind == "scratch":
        try:
            used = Recipe.from_json(scenario["recipe"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"pack {str(path)!r} is damaged: its recipe of victims: {error}") from None
    else:
        used = recipe_named(recipe or "auto", train_set)
    return trainer_named(used, train_set, dtype, False, device)
