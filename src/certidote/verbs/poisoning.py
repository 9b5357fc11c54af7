"""`poison`: craft the poisons of one or several trials, and keep them as a pack."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certidote.verbs.attacking import (
    attack_options,
    budget_of,
    check_goal_options,
    check_goals,
    check_knowledge_options,
    check_options_fit,
    check_retrains,
    check_setups,
    check_skip,
    checked_aim,
    checked_pretraining,
    chosen_epsilon,
    described_defense,
    format_named,
    kinds_of,
    robust_epsilon,
    seen_through,
    wanted_goals,
)
from certidote.verbs.choices import (
    check_apart,
    check_device,
    check_workers,
    command_line,
    recipe_named,
    trainer_named,
    training_and_test,
)
from certidote.verbs.options import Data, Device, Force, Seed, Size, SkipCorrupt

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from certidote.attacks.pack import PoisonPack
    from certidote.engine.local import Pool
    from certidote.scenarios.crafting import Crafting
    from certidote.scenarios.knowledge import Setting
    from certidote.scenarios.unfinished import Unfinished
    from certidote.streams import Key
    from certidote.types import ImageDataset, Poison, Progress

SHOWN = 6
"""Poisons in one strip of the gallery."""


@dataclass(frozen=True)
class Poisoned:
    """What `poison` made: the pack, and where it lies."""

    pack: "PoisonPack"
    out: Path


def poison(
    attack: Annotated[str, typer.Argument(help="bullseye-polytope, or another name of the catalogue of attacks")],
    data: Data,
    *,
    out: Annotated[Path, typer.Option(help="folder of the poison pack; it appears when it is complete")],
    test: Annotated[str, typer.Option(help="test images, which targets are among; default: the test split of DATA")] = "",
    targets: Annotated[
        int | None,
        typer.Option(help="trials: so many targets spread over the classes, or with --trigger pairs of classes; default: 10"),
    ] = None,
    skip: Annotated[
        int,
        typer.Option(
            help="leave out the first so many trials, which another pack has or will have: the others are what they are without, where --seed "
            "and --targets (or the list that trials are taken from) are the same"
        ),
    ] = 0,
    target: Annotated[int | None, typer.Option(help="one trial about this test image, a row number from 0")] = None,
    setups: Annotated[
        Path | None,
        typer.Option(
            help="setup file of the poisoning benchmark: its targets (with --trigger its pairs of classes) and base images; --targets takes "
            "so many, the first"
        ),
    ] = None,
    adversarial_class: Annotated[
        str, typer.Option(help="name of the class wanted, with --target or --trigger; default: drawn")
    ] = "",
    trigger: Annotated[str, typer.Option(help="the goal is a backdoor with this trigger, a name of the catalogue")] = "",
    true_class: Annotated[
        str, typer.Option(help="with --trigger: name of the class whose images shall be misclassified; all: every other one")
    ] = "",
    trigger_side: Annotated[
        int | None, typer.Option(help="with --trigger: pixels a side, for triggers of any size; default: the original's")
    ] = None,
    trigger_amplitude: Annotated[
        float | None,
        typer.Option(
            help="with --trigger: its strength on test images (and in what hidden triggers aim at), above 0 and at most 1: below 1 a black and "
            "white trigger is added and taken away instead of pasted; default: 1. On label-consistent poisons: --option amplitude_train=..."
        ),
    ] = None,
    goals: Annotated[
        Path | None,
        typer.Option(
            help="JSON file that lists the trials (test_image, true_class, adversarial_class); --targets takes so many, the first"
        ),
    ] = None,
    num_poisons: Annotated[int | None, typer.Option(help="training images replaced in each trial; default: 1 % of DATA")] = None,
    poison_fraction: Annotated[float | None, typer.Option(help="the same as a share of DATA, in (0, 1]")] = None,
    epsilon: Annotated[
        str,
        typer.Option(
            help="bound on a poison's change (beside a visible trigger), [0, 1] pixel units, as in 16/255 or 0.06; default: 16/255 in linf"
        ),
    ] = "",
    norm: Annotated[str, typer.Option(help="linf or l2, in which epsilon is measured; l2 has no default epsilon")] = "linf",
    visible_trigger: Annotated[
        bool | None,
        typer.Option(
            help="the trigger may be pasted on poisons in plain sight, and epsilon bounds what is changed beside it; default: for attacks "
            "that paste it (label-consistent)"
        ),
    ] = None,
    scenario: Annotated[
        str, typer.Option(help="transfer (victims fit a head on a frozen extractor) or scratch (all weights)")
    ] = "transfer",
    pretrain: Annotated[
        str,
        typer.Option(help="transfer: trusted images that the extractor is fitted to, in any form of DATA; default: for the digits"),
    ] = "",
    recipe: Annotated[
        str,
        typer.Option(help="of surrogates and victims, or of the extractor: mlp, cnn, ..., a .toml file, or auto (by image size)"),
    ] = "auto",
    surrogates: Annotated[int, typer.Option(help="models that the attacker aims at")] = 1,
    surrogate: Annotated[
        list[str] | None,
        typer.Option(help="recipe of one model that the attacker aims at, as often as needed, instead of --surrogates of --recipe"),
    ] = None,
    robust_surrogates: Annotated[
        str,
        typer.Option(
            help="scratch: the attacker's models are trained adversarially, to withstand changes of at most this in linf, such as 8/255: what "
            "label-consistent images are best made hard for"
        ),
    ] = "",
    grey_box: Annotated[bool, typer.Option(help="transfer: victims use an extractor that the attacker does not have")] = False,
    victim_recipe: Annotated[
        str, typer.Option(help="black box: victims (or their extractor) have this recipe instead of --recipe")
    ] = "",
    through: Annotated[
        str, typer.Option(help="adaptive: craft through noise and this denoiser (a name as for --denoiser, or none for noise only)")
    ] = "",
    sigma: Annotated[float | None, typer.Option(help="with --through: noise std, [0, 1] pixel units")] = None,
    draws: Annotated[int, typer.Option(help="with --through: draws of the defense that each step averages over")] = 1,
    through_dtype: Annotated[
        str,
        typer.Option(
            help="with --through: number format of the network that is looked through: float32, or bfloat16, which is faster where "
            "hardware multiplies it; poisons hang on it"
        ),
    ] = "float32",
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="an option of the attack, name=value, as often as needed: --option steps=150; by default shift, flip and border are as "
            "surrogates learn"
        ),
    ] = None,
    options: Annotated[Path | None, typer.Option(help="TOML file with options of the attack; --option wins")] = None,
    seed: Seed = None,
    dtype: Annotated[
        str, typer.Option(help="of surrogates' training: float32, bfloat16, or auto (the faster one here, so poisons hang on it)")
    ] = "float32",
    workers: Annotated[int, typer.Option(help="processes that craft trials; 0: this process")] = 0,
    device: Device = "cpu",
    size: Size = "",
    skip_corrupt: SkipCorrupt = False,
    gallery: Annotated[bool, typer.Option(help="write gallery.html with some poisons; leave out for private data")] = True,
    force: Force = False,
    progress: "Progress | None" = None,
    pool: "Pool | None" = None,
) -> Poisoned:
    """Craft clean-label poisons for DATA with ATTACK, and keep them as a pack for 'certidote replay'.

    Every poison replaces an image of the class wanted, keeps its label, and differs from it by at most epsilon (label-consistent: by at
    most epsilon beside a visible trigger, which is pasted in plain sight). For studying defenses, on data that is yours.
    """
    from contextlib import nullcontext
    from dataclasses import asdict

    from certidote.attacks import ATTACKS, TOGETHER, find
    from certidote.attacks.pack import make_pack
    from certidote.attacks.pack_files import check_target, write_pack
    from certidote.data.names import escaped
    from certidote.engine.local import Pool
    from certidote.numerics import resolve_dtype
    from certidote.results.record import versions
    from certidote.scenarios.crafting import Crafting, augmentation_for, checked_options, options_of, plain
    from certidote.scenarios.fixed import fixed_trials
    from certidote.scenarios.goals import listed_goals
    from certidote.scenarios.unfinished import Unfinished, format_begun
    from certidote.streams import Key
    from certidote.types import Silent

    target_folder = check_target(out, force)
    check_apart(out, data, test, pretrain, denoiser=through)
    check_device(device)
    check_workers(workers, "this process")
    half_done = target_folder.with_name(f"{target_folder.name}.unfinished")
    begun = format_begun(half_done) if dtype == "auto" else None
    number_format, seen_format = resolve_dtype(begun or dtype, device), format_named(through_dtype)
    function = find(ATTACKS, attack, "attack")
    chosen_options = checked_options(attack, function, attack_options(option or [], options))
    if setups is not None:
        if goals is not None:
            raise ValueError("--setups and --goals both list the trials; give one of them")
        check_setups(target, true_class, adversarial_class, num_poisons, poison_fraction)
    check_goal_options(targets, target, trigger, trigger_side, trigger_amplitude, true_class, adversarial_class, goals)
    amplitude = 1.0 if trigger_amplitude is None else trigger_amplitude
    kinds = kinds_of(surrogate or [], surrogates)
    check_knowledge_options(scenario, pretrain, grey_box, victim_recipe, through, sigma, draws, through_dtype)
    robust = robust_epsilon(robust_surrogates, scenario)
    visible = checked_aim(attack, trigger, amplitude, visible_trigger, chosen_options)
    check_retrains(attack, {**options_of(function), **chosen_options}, scenario)
    listed = None if goals is None else listed_goals(goals, targets)
    size_of_epsilon = chosen_epsilon(epsilon, norm)
    train_set, (test_name, test_set) = training_and_test(data, test, size, skip_corrupt)
    trusted = None if scenario == "scratch" else _trusted(pretrain or _trusted_of(data), size, skip_corrupt)
    seen = seen_through(through, sigma, draws, seen_format, train_set, size, skip_corrupt)
    fixed = None if setups is None else fixed_trials(setups, train_set, test_set, targets, skip)
    learners = None if scenario == "transfer" else recipe_named(kinds[0] if kinds else recipe, train_set)
    chosen_options = {**augmentation_for(function, learners, train_set.image_shape), **chosen_options}
    check_options_fit(chosen_options, train_set, bases_named=fixed is not None)
    if fixed is not None:
        num_poisons = fixed.num_poisons
    budget = budget_of(train_set, num_poisons, poison_fraction, norm, size_of_epsilon, visible)
    made: dict[str, Any] = {
        "attack": attack,
        "options": plain({**options_of(function), **chosen_options}),
        "seen_through": described_defense(through, seen),
        "trigger": trigger or None,
        "trigger_side": trigger_side,
        "test": {"name": escaped(test_name), "digest": test_set.digest()},
        "versions": versions(),
    }
    if amplitude < 1:
        made["trigger_amplitude"] = amplitude
    asked = {
        **made, "data": train_set.digest(), "budget": asdict(budget), "device": device, "dtype": number_format,
        "goals": [targets, target, adversarial_class, true_class],
        **({} if fixed is None else {"setups": fixed.to_json()}),
        "scenario": [trusted and trusted[1].digest(), surrogates, grey_box, *(_read(name) for name in (recipe, victim_recipe, *kinds))],
    }  # fmt: skip
    if robust:
        asked["robust"] = robust
    if listed is not None:
        asked["listed"] = [goal.model_dump() for goal in listed]
    if skip:
        made["first_trial"] = asked["first_trial"] = skip
    kept = Unfinished(half_done, asked, seed, force, number_format)
    key = Key(kept.root) / "poison"
    wanted = wanted_goals(
        fixed, train_set, test_set, trusted and trusted[1], targets, target, trigger, trigger_side, amplitude, true_class,
        adversarial_class, key, listed,
    )  # fmt: skip
    check_skip(skip, len(wanted), seed)
    check_goals(train_set, wanted[skip:], budget)
    notes = () if fixed is None else fixed.notes
    if trusted is not None:
        notes += checked_pretraining(attack, wanted[skip:], train_set, test_set, trusted, skip)
    progress = progress or Silent()
    with kept.working():
        number = len(kinds) or surrogates
        progress.start("surrogates", number, unit="models")
        attacker = {"surrogates": surrogates, "through": seen, "dtype": number_format, "device": device, "shelf": kept.model}
        if robust:
            attacker["robust"] = robust
        setting = _setting(train_set, trusted, recipe, victim_recipe, kinds, grey_box, attacker, key)
        progress.advance(number)
        progress.finish()
        crafting = Crafting(
            function,
            chosen_options,
            train_set,
            wanted,
            budget,
            setting.knowledge,
            key,
            None if fixed is None else fixed.bases,
            TOGETHER.get(function),
            skip,
        )
        back_end = Pool(workers, device=device) if pool is None else nullcontext(pool)
        poisons = _crafted(crafting, kept, back_end, progress)
        made |= {
            **({} if fixed is None else {"setups": list(fixed.numbers)}),
            "scenario": setting.described,
            "root": hex(kept.root),
            "root_source": kept.root_source,
            "command": escaped(command_line()),
        }
        pack = make_pack(poisons, train_set, data, made, notes)
        beside = dict(setting.files)
        if gallery:
            beside["gallery.html"] = _gallery(pack, train_set, attack).encode()
        write_pack(pack, out, beside, force=force)
    return Poisoned(pack, out)


def _read(recipe: str) -> Any:
    """What a recipe's name stands for, so that an edited file is another recipe."""
    from certidote.training.recipe import load_recipe

    return recipe if recipe in ("", "auto") else load_recipe(recipe).to_json()


def _trusted(name: str, size: str, skip_corrupt: bool) -> "tuple[str, ImageDataset]":
    """Name and images that extractors are fitted to."""
    from certidote.data import load

    return name, load(name, "train", size=size, skip_corrupt=skip_corrupt)


def _setting(
    train_set: "ImageDataset", trusted: "tuple[str, ImageDataset] | None", recipe: str, victim_recipe: str, kinds: tuple[str, ...],
    grey_box: bool,
    attacker: dict[str, Any], key: "Key",
) -> "Setting":  # fmt: skip
    """Train what the attacker knows.

    Args:
        trusted: name and images that extractors are fitted to; None from scratch.
        kinds: names of the recipes of the attacker's models, if they differ.
        attacker: what both scenarios take alike.
    """
    from certidote.scenarios.knowledge import scratch_setting, transfer_setting

    def named(name: str, images: "ImageDataset") -> Any:
        used = recipe_named(name, images)
        trainer_named(used, images, "float32", False, "cpu")  # refuses what does not fit the images
        return used

    images = train_set if trusted is None else trusted[1]
    others = named(victim_recipe, images) if victim_recipe else None
    attacker = attacker | {"kinds": tuple(named(name, images) for name in kinds)}
    if trusted is None:
        return scratch_setting(train_set, named(recipe, images), key, victim_recipe=others, **attacker)
    small = recipe == "auto" and images.images[0].numel() <= 256
    used = None if small else named(recipe, images)
    return transfer_setting(train_set, trusted, key, recipe=used, grey_box=grey_box, victim_recipe=others, **attacker)


def _trusted_of(data: str) -> str:
    """The trusted images that belong to a data set of the catalogue."""
    known = {"digits-5-9": "digits-0-4:trusted", "digits": "digits:trusted"}
    name = data.split(":")[0]
    if name not in known:
        raise ValueError(
            f"--scenario transfer needs trusted images to fit the extractor to, and {data!r} has none of its own: give --pretrain (a "
            "folder, an archive, or a name), or --scenario scratch"
        )
    return known[name]


def _crafted(
    crafting: "Crafting", kept: "Unfinished", back_end: "AbstractContextManager[Pool]", progress: "Progress"
) -> "list[Poison]":
    """The poisons of all trials; those that an interrupted run finished are read."""
    from certidote.scenarios.crafting import craft_group

    wanted = range(crafting.first, len(crafting.goals))
    read = ((trial, kept.read(trial, crafting.goals[trial], crafting.budget, crafting.train)) for trial in wanted)
    found = {trial: poison for trial, poison in read if poison is not None}
    progress.start("poisons", len(wanted), len(found), unit="trials")
    left = [group for group in crafting.groups() if not found.keys() >= set(group)]
    answers: list[list[tuple[int, Poison]]]
    with back_end as pool:
        for answers in pool.each(craft_group, crafting, left):
            for trial, made in (each for answer in answers for each in answer):
                if trial not in found:
                    kept.keep(trial, made)
                    progress.advance()
                    found[trial] = made
    progress.finish()
    return [found[trial] for trial in wanted]


def _gallery(pack: "PoisonPack", train_set: "ImageDataset", attack: str) -> str:
    from certidote.reporting.gallery import gallery_page
    from certidote.reporting.words import counted
    from certidote.results.pictures import poison_strip

    trials = range(min(SHOWN, len(pack)))
    pictures = [poison_strip(pack.poisons[trial], train_set, f"Trial {pack.first_trial + trial}", SHOWN) for trial in trials]
    budget = pack.budget
    beside, farthest = "", "the farthest pixel is black or white"
    if budget.visible_trigger:
        beside = " beside a visible trigger"
        farthest = "the farthest pixel beside the trigger is black or white; the trigger, which may be farther, is cut off there"
    how = (
        f"{attack}: {counted(len(pack), 'trial')} with up to {counted(budget.num_poisons, 'poison')} each, {budget.norm} epsilon "
        f"{budget.epsilon:.4g}{beside} ([0, 1] pixel units). Labels are unchanged. The difference is poison minus base, enlarged around gray so "
        f"that {farthest}."
    )
    return gallery_page(f"Poisons of {pack.data.name}", [how], pictures)
