"""`poison`: craft the poisons of one or several trials, and keep them as a pack."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certidote.verbs.choices import (
    check_apart,
    check_device,
    check_workers,
    command_line,
    denoiser_named,
    recipe_named,
    trainer_named,
    training_and_test,
)
from certidote.verbs.options import Data, Device, Force, Seed, Size, SkipCorrupt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from certidote.attacks.pack import PoisonPack
    from certidote.engine.local import Pool
    from certidote.scenarios.crafting import Crafting
    from certidote.scenarios.goals import ListedGoal
    from certidote.scenarios.knowledge import Setting
    from certidote.scenarios.unfinished import Unfinished
    from certidote.streams import Key
    from certidote.types import Budget, Goal, ImageDataset, Poison, Progress

SCENARIOS = ("transfer", "scratch")
DEFAULT_EPSILON = "16/255"
"""In linf; the literature's."""

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
    grey_box: Annotated[bool, typer.Option(help="transfer: victims use an extractor that the attacker does not have")] = False,
    victim_recipe: Annotated[
        str, typer.Option(help="black box: victims (or their extractor) have this recipe instead of --recipe")
    ] = "",
    through: Annotated[
        str, typer.Option(help="adaptive: craft through noise and this denoiser (a name as for --denoiser, or none for noise only)")
    ] = "",
    sigma: Annotated[float | None, typer.Option(help="with --through: noise std, [0, 1] pixel units")] = None,
    draws: Annotated[int, typer.Option(help="with --through: draws of the defense that each step averages over")] = 1,
    option: Annotated[
        list[str] | None, typer.Option(help="an option of the attack, name=value, as often as needed: --option steps=150")
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

    from certidote.attacks import ATTACKS, find
    from certidote.attacks.pack import make_pack
    from certidote.attacks.pack_files import check_target, write_pack
    from certidote.data.names import escaped
    from certidote.engine.local import Pool
    from certidote.numerics import resolve_dtype
    from certidote.results.record import versions
    from certidote.scenarios.crafting import Crafting, checked_options, options_of, plain
    from certidote.scenarios.fixed import fixed_trials
    from certidote.scenarios.goals import listed_goals
    from certidote.scenarios.unfinished import Unfinished
    from certidote.streams import Key
    from certidote.types import Silent

    target_folder = check_target(out, force)
    check_apart(out, data, test, pretrain, through)
    check_device(device)
    check_workers(workers, "this process")
    number_format = resolve_dtype(dtype, device)
    function = find(ATTACKS, attack, "attack")
    chosen_options = checked_options(attack, function, _options(option or [], options))
    if setups is not None:
        if goals is not None:
            raise ValueError("--setups and --goals both list the trials; give one of them")
        _check_setups(target, true_class, adversarial_class, num_poisons, poison_fraction)
    _check_goal_options(targets, target, trigger, trigger_side, true_class, adversarial_class, goals)
    kinds = _kinds(surrogate or [], surrogates)
    _check_knowledge_options(scenario, pretrain, grey_box, victim_recipe, through, sigma, draws)
    visible = _checked_aim(attack, trigger, visible_trigger, chosen_options)
    listed = None if goals is None else listed_goals(goals, targets)
    size_of_epsilon = _epsilon(epsilon, norm)
    train_set, (test_name, test_set) = training_and_test(data, test, size, skip_corrupt)
    trusted = None if scenario == "scratch" else _trusted(pretrain or _trusted_of(data), size, skip_corrupt)
    seen = _through(through, sigma, draws, train_set, size, skip_corrupt)
    fixed = None if setups is None else fixed_trials(setups, train_set, test_set, targets)
    if fixed is not None:
        num_poisons, made_of = fixed.num_poisons, [bases.tolist() for bases in fixed.bases]
    budget = _budget(train_set, num_poisons, poison_fraction, norm, size_of_epsilon, visible)
    made: dict[str, Any] = {
        "attack": attack,
        "options": plain({**options_of(function), **chosen_options}),
        "seen_through": _seen_through(through, seen),
        "trigger": trigger or None,
        "trigger_side": trigger_side,
        "test": {"name": escaped(test_name), "digest": test_set.digest()},
        "versions": versions(),
    }
    asked = {
        **made, "data": train_set.digest(), "budget": asdict(budget), "device": device, "dtype": number_format,
        "goals": [targets, target, adversarial_class, true_class],
        **({} if fixed is None else {"setups": made_of}),
        "scenario": [trusted and trusted[1].digest(), recipe, surrogates, grey_box, victim_recipe, *kinds],
    }  # fmt: skip
    if listed is not None:
        asked["listed"] = [goal.model_dump() for goal in listed]
    kept = Unfinished(target_folder.with_name(f"{target_folder.name}.unfinished"), asked, seed, force)
    key = Key(kept.root) / "poison"
    if fixed is None:
        wanted = _goals(train_set, test_set, targets, target, trigger, trigger_side, true_class, adversarial_class, key, listed)
    elif trigger:
        pairs = [(goal.true_label, goal.adversarial_label) for goal in fixed.goals]
        wanted = _triggers(trigger, trigger_side, pairs, train_set, key)
    else:
        wanted = fixed.goals
    _check_goals(train_set, wanted, budget)
    progress = progress or Silent()
    with kept.working():
        number = len(kinds) or surrogates
        progress.start("surrogates", number, unit="models")
        attacker = {"surrogates": surrogates, "through": seen, "dtype": number_format, "device": device}
        setting = _setting(train_set, trusted, recipe, victim_recipe, kinds, grey_box, attacker, key)
        progress.advance(number)
        progress.finish()
        crafting = Crafting(
            function, chosen_options, train_set, wanted, budget, setting.knowledge, key, None if fixed is None else fixed.bases
        )
        back_end = Pool(workers, device=device) if pool is None else nullcontext(pool)
        poisons = _crafted(crafting, kept, back_end, progress)
        made |= {
            "scenario": setting.described,
            "root": hex(kept.root),
            "root_source": kept.root_source,
            "command": escaped(command_line()),
        }
        pack = make_pack(poisons, train_set, data, made, () if fixed is None else fixed.notes)
        beside = dict(setting.files)
        if gallery:
            beside["gallery.html"] = _gallery(pack, train_set, attack).encode()
        write_pack(pack, out, beside, force=force)
    return Poisoned(pack, out)


def epsilon_named(text: str, norm: str) -> float:
    """ "16/255" or "0.06" as a number in [0, 1] pixel units.

    Raises: ValueError if it is no number, or (linf) above 1 or the whole number 1, where 255ths may be meant.
    """
    from certidote.scenarios.crafting import parsed_value

    value = parsed_value(text)
    if norm not in ("linf", "l2"):
        raise ValueError(f"unknown norm {norm!r}; choose linf or l2")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"--epsilon {text}: give a number of [0, 1] pixel units, such as 16/255 or 0.06")
    if norm == "linf" and value > 1:
        hint = f"for {value:g} of 255 levels give {value:g}/255" if value <= 255 else "give a number such as 16/255"
        raise ValueError(f"--epsilon {text} is above 1, the whole range of a pixel; {hint}")
    if norm == "linf" and isinstance(value, int) and value == 1:
        raise ValueError(f"--epsilon {text} may mean one of 255 levels or the whole range; write 1/255, or 1.0 for no constraint")
    return float(value)


def _epsilon(text: str, norm: str) -> float:
    """The one given, or the default. Raises: as `epsilon_named`; ValueError if the norm has no default."""
    if not text and norm == "l2":
        raise ValueError(
            "--norm l2 has no default epsilon; give --epsilon too: the longest movement of a whole image, [0, 1] pixel units"
        )
    return epsilon_named(text or DEFAULT_EPSILON, norm)


def _options(given: list[str], file: Path | None) -> dict[str, Any]:
    import tomllib

    from certidote.scenarios.crafting import parsed_option

    found: dict[str, Any] = {}
    if file is not None:
        try:
            found = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"cannot read options {str(file)!r}: {error.strerror or error}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"options {str(file)!r} are not valid TOML: {error}") from None
    return found | dict(parsed_option(text) for text in given)


def _check_goal_options(
    targets: int | None, target: int | None, trigger: str, trigger_side: int | None, true_class: str, adversarial_class: str,
    goals: Path | None,
) -> None:  # fmt: skip
    """Raises: ValueError for options of goals that make no sense together; better known before anything is read."""
    if goals is not None and (target is not None or true_class or adversarial_class):
        raise ValueError("--goals lists test images and classes; leave out --target, --true-class and --adversarial-class")
    if trigger_side is not None and not trigger:
        raise ValueError("--trigger-side goes with --trigger; leave it out")
    if target is not None and targets is not None:
        raise ValueError("--target names one test image, --targets a number of trials; give one of them")
    if target is not None and trigger:
        raise ValueError("--target and --trigger are two kinds of goals; give one of them")
    if true_class and not trigger:
        raise ValueError("--true-class goes with --trigger; the true class of a target is its label")
    if adversarial_class and target is None and not trigger:
        raise ValueError("--adversarial-class goes with --target or --trigger; classes of several targets are drawn")


def _check_knowledge_options(
    scenario: str, pretrain: str, grey_box: bool, victim_recipe: str, through: str, sigma: float | None, draws: int
) -> None:
    """Raises: ValueError for options of what the attacker knows that make no sense together."""
    if scenario not in SCENARIOS:
        raise ValueError(f"unknown scenario {scenario!r}; choose {' or '.join(SCENARIOS)}")
    if scenario != "transfer" and (pretrain or grey_box):
        raise ValueError(
            "--pretrain and --grey-box are for --scenario transfer; from scratch the attacker never has the victims' weights"
        )
    if victim_recipe and grey_box:
        raise ValueError("--grey-box gives victims an extractor of the same recipe, --victim-recipe another; give one of them")
    if through and sigma is None:
        raise ValueError("--through needs the defense's noise: give --sigma too, in [0, 1] pixel units")
    if not through and (sigma is not None or draws != 1):
        raise ValueError("--sigma and --draws are of the defense that --through names; give that, or leave them out")


def _check_setups(
    target: int | None, true_class: str, adversarial_class: str, num_poisons: int | None, fraction: float | None
) -> None:
    """Raises: ValueError for what a setup file says itself."""
    given = {
        "--target": target is not None, "--true-class": true_class, "--adversarial-class": adversarial_class,
        "--num-poisons": num_poisons is not None, "--poison-fraction": fraction is not None,
    }  # fmt: skip
    if any(given.values()):
        option = next(name for name, value in given.items() if value)
        raise ValueError(
            f"--setups names targets, classes and base images, so {option} has no place beside it; leave one of them out"
        )


def _kinds(given: list[str], surrogates: int) -> tuple[str, ...]:
    """The recipes that --surrogate names. Raises: ValueError if --surrogates says another number."""
    if given and surrogates not in (1, len(given)):
        raise ValueError(
            f"--surrogates {surrogates}, but --surrogate names {len(given)} recipes, one for each model; leave --surrogates out"
        )
    return tuple(given)


def _checked_aim(attack: str, trigger: str, visible: bool | None, options: dict[str, Any]) -> bool:
    """Whether the budget allows a visible trigger.

    Raises: ValueError for a trigger that the attack does not use, or one that it lacks.
    """
    from certidote.attacks import goal_of
    from certidote.attacks.triggers import TRIGGERS

    aim = goal_of(attack)
    if aim == "target" and (trigger or visible):
        raise ValueError(f"attack {attack!r} aims at one test image; leave out --trigger, or choose an attack that makes backdoors")
    if aim != "target" and not trigger:
        raise ValueError(f"attack {attack!r} makes a backdoor and needs a trigger: give --trigger, one of {', '.join(TRIGGERS)}")
    if visible is not None:
        return visible
    return aim == "visible trigger" and options.get("constraint") != "linf_all"


def _budget(
    train_set: "ImageDataset", num_poisons: int | None, fraction: float | None, norm: str, epsilon: float, visible: bool
) -> "Budget":
    from certidote.types import Budget

    if num_poisons is not None and fraction is not None:
        raise ValueError("--num-poisons and --poison-fraction say the same; give one of them")
    if fraction is not None and not 0 < fraction <= 1:
        raise ValueError(f"--poison-fraction {fraction:g}; give a share of the training set above 0, at most 1 (0.01 for 1 %)")
    if num_poisons is None:
        share = 0.01 if fraction is None else fraction
        num_poisons = max(1, round(share * len(train_set)))
    longest = train_set.images[0].numel() ** 0.5
    if norm == "l2" and epsilon >= longest:
        raise ValueError(
            f"--epsilon {epsilon:g} with --norm l2 is no constraint: no image of shape {train_set.image_shape} can move by more than "
            f"{longest:.4g}; give less"
        )
    return Budget(num_poisons, norm, epsilon, visible)  # type: ignore[arg-type]


def _goals(
    train_set: "ImageDataset", test_set: "ImageDataset", targets: int | None, target: int | None, trigger: str, side: int | None,
    true_class: str, adversarial_class: str, key: "Key", listed: "list[ListedGoal] | None",
) -> "tuple[Goal, ...]":  # fmt: skip
    from certidote.scenarios.goals import choose_pairs, choose_targets, labels_of, target_at, targets_of

    names = train_set.class_names
    wanted = _label(adversarial_class, names, "--adversarial-class") if adversarial_class else None
    if target is not None:
        return (target_at(test_set, target, wanted, key / "targets"),)
    if not trigger and listed is not None:
        return targets_of(listed, test_set)
    if not trigger:
        return choose_targets(test_set, 10 if targets is None else targets, key / "targets", train_set)
    pairs: list[tuple[int | None, int]]
    if listed is not None:
        pairs = [labels_of(goal, names) for goal in listed]
    else:
        true = None if true_class in ("", "all") else _label(true_class, names, "--true-class")
        pairs = choose_pairs(len(names), 10 if targets is None else targets, true, wanted, true_class == "all", key / "targets")
    return _triggers(trigger, side, pairs, train_set, key)


def _triggers(
    name: str, side: int | None, pairs: "Sequence[tuple[int | None, int]]", train_set: "ImageDataset", key: "Key"
) -> "tuple[Goal, ...]":
    """A trigger of this name for each pair of true and adversarial label.

    Raises: ValueError if there is none of that name, or of that size, or it covers more of an image than triggers may.
    """
    from functools import partial
    from inspect import signature

    from certidote.attacks import find
    from certidote.attacks.triggers import LARGEST_PATCH, TRIGGERS

    make: Any = find(TRIGGERS, name, "trigger")
    sized = "side" in signature(make).parameters
    if side is not None:
        if not sized:
            raise ValueError(
                f"--trigger-side {side}: the trigger {name!r} has one size only; leave it out, or choose another trigger"
            )
        make = partial(make, side=side)
    made = tuple(make(train_set.image_shape, *pair, key / "trigger" / trial) for trial, pair in enumerate(pairs))
    area = train_set.image_shape[1] * train_set.image_shape[2]
    for covered in (int(trigger.mask.sum()) for trigger in made):
        if covered > LARGEST_PATCH * area:
            less = f"give --trigger-side of at most {int((LARGEST_PATCH * area) ** 0.5)}" if sized else "choose another --trigger"
            raise ValueError(
                f"--trigger {name} covers {covered} of {area} pixels, and a trigger may cover {LARGEST_PATCH:.0%} of an image; {less}"
            )
    return made


def _label(name: str, names: tuple[str, ...], option: str) -> int:
    if name not in names:
        raise ValueError(f"{option} {name!r} is no class of the data; choose one of: {', '.join(names)}")
    return names.index(name)


def _check_goals(train_set: "ImageDataset", goals: "tuple[Goal, ...]", budget: "Budget") -> None:
    """Whatever every attack refuses is refused before surrogates are trained."""
    from certidote.attacks.selection import base_candidates, check_task
    from certidote.types import Task

    for goal in goals:
        task = Task(train_set, goal, budget)
        check_task(task)
        base_candidates(task)


def _through(name: str, sigma: float | None, draws: int, train_set: "ImageDataset", size: str, skip_corrupt: bool) -> Any:
    if not name:
        return None
    from certidote.diffusion.through import ThroughDenoiser

    assert sigma is not None, "checked"
    return ThroughDenoiser(denoiser_named(name, train_set, "float32", size, skip_corrupt), sigma, draws)


def _seen_through(name: str, seen: Any) -> dict[str, Any] | None:
    """What a pack says about the defense that its attacker saw through."""
    from certidote.data.names import escaped

    if seen is None:
        return None
    return {"denoiser": escaped(name), "digest": seen.denoiser.card.digest, "sigma": seen.sigma, "draws": seen.draws}


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
    from certidote.scenarios.crafting import craft_trial

    number = len(crafting.goals)
    read = ((trial, kept.read(trial, goal, crafting.budget, crafting.train)) for trial, goal in enumerate(crafting.goals))
    found = {trial: poison for trial, poison in read if poison is not None}
    progress.start("poisons", number, len(found), unit="trials")
    with back_end as pool:
        for crafted in pool.each(craft_trial, crafting, [trial for trial in range(number) if trial not in found]):
            finished: dict[int, Poison] = dict(crafted)
            for trial, made in finished.items():
                kept.keep(trial, made)
            found |= finished
            progress.advance(len(finished))
    progress.finish()
    return [found[trial] for trial in range(number)]


def _gallery(pack: "PoisonPack", train_set: "ImageDataset", attack: str) -> str:
    from certidote.reporting.gallery import gallery_page
    from certidote.results.pictures import poison_strip

    trials = range(min(SHOWN, len(pack)))
    pictures = [poison_strip(pack.poisons[trial], train_set, f"Trial {trial}", SHOWN) for trial in trials]
    budget = pack.budget
    beside = " beside a visible trigger" if budget.visible_trigger else ""
    how = (
        f"{attack}: {len(pack)} trials with up to {budget.num_poisons} poisons each, {budget.norm} epsilon {budget.epsilon:.4g}{beside} ([0, 1] "
        "pixel units). Labels are unchanged. The difference is poison minus base, enlarged around gray so that the farthest pixel is black or white."
    )
    return gallery_page(f"Poisons of {pack.data.name}", [how], pictures)
