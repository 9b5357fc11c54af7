"""What the options of `poison` say about goals, budget and knowledge, and which of them make no sense together."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from certidote.verbs.choices import denoiser_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from certidote.numerics import DType
    from certidote.scenarios.fixed import Fixed
    from certidote.scenarios.goals import ListedGoal
    from certidote.streams import Key
    from certidote.types import Budget, Goal, ImageDataset

SCENARIOS = ("transfer", "scratch")
DEFAULT_EPSILON = "16/255"
"""In linf; the literature's."""


def epsilon_named(text: str, norm: str, option: str = "--epsilon") -> float:
    """ "16/255" or "0.06" as a number in [0, 1] pixel units; `option` is whose value it is.

    Raises: ValueError if it is no number, or (linf) above 1 or the whole number 1, where 255ths may be meant.
    """
    from certidote.scenarios.crafting import parsed_value

    value = parsed_value(text)
    if norm not in ("linf", "l2"):
        raise ValueError(f"unknown norm {norm!r}; choose linf or l2")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{option} {text}: give a number of [0, 1] pixel units, such as 16/255 or 0.06")
    if norm == "linf" and value > 1:
        levels = "/" not in text and value == int(value) and value <= 255
        hint = f"for {value:g} of 255 levels give {value:g}/255" if levels else "it is at most 1.0 (255/255)"
        raise ValueError(f"{option} {text} is above 1, the whole range of a pixel; {hint}")
    if norm == "linf" and isinstance(value, int) and value == 1:
        raise ValueError(f"{option} {text} may mean one of 255 levels or the whole range; write 1/255, or 1.0 for no constraint")
    return float(value)


def check_retrains(attack: str, options: dict[str, Any], scenario: str) -> None:
    """Raises: ValueError for an attack that would retrain its surrogates, with these options and its defaults, where they are frozen
    extractors, or more often than its steps leave room for."""
    from certidote.attacks.sleeper_agent import check_room

    retrains = options.get("retrains")
    if scenario == "transfer" and retrains:
        raise ValueError(
            f"attack {attack!r} trains its models again while it crafts, and those of --scenario transfer are frozen: give --scenario scratch, "
            "or --option retrains=0"
        )
    if retrains:
        check_room(options["steps"], retrains)


def robust_epsilon(text: str, scenario: str) -> float:
    """What surrogates shall withstand; 0 for plain ones. Raises: as `epsilon_named`; ValueError for transfer learning, or an epsilon of 0."""
    if not text:
        return 0.0
    if scenario != "scratch":
        raise ValueError("--robust-surrogates goes with --scenario scratch, where the attacker trains whole models; leave it out")
    found = epsilon_named(text, "linf", "--robust-surrogates")
    if not found:
        raise ValueError(f"--robust-surrogates {text}: give a number above 0, such as 8/255, or leave it out for plain models")
    return found


def chosen_epsilon(text: str, norm: str) -> float:
    """The one given, or the default. Raises: as `epsilon_named`; ValueError if the norm has no default."""
    if not text and norm == "l2":
        raise ValueError(
            "--norm l2 has no default epsilon; give --epsilon too: the longest movement of a whole image, [0, 1] pixel units"
        )
    return epsilon_named(text or DEFAULT_EPSILON, norm)


def attack_options(given: list[str], file: Path | None) -> dict[str, Any]:
    from certidote.data.toml import read_toml
    from certidote.scenarios.crafting import parsed_option, parsed_value

    read = {} if file is None else read_toml(file, "options")
    found = {name: parsed_value(value) if isinstance(value, str) else value for name, value in read.items()}
    return found | dict(parsed_option(text) for text in given)


def check_options_fit(options: dict[str, Any], train_set: "ImageDataset", *, bases_named: bool) -> None:
    """Options that the attack would refuse only once surrogates are trained.

    Args:
        options: as the attack gets them, each in its range.
        bases_named: whether the trials name their base images.
    Raises: ValueError for step sizes of other than one or all channels, dropout that no surrogate has, or more base images than are named.
    """
    steps, channels = options.get("step_size"), train_set.image_shape[0]
    if isinstance(steps, tuple) and len(steps) not in (1, channels):
        raise ValueError(
            f"option step_size has {len(steps)} numbers, and images of the training set have {channels} channels; give one number, "
            "or one for each channel"
        )
    if options.get("dropout_draws"):
        raise ValueError(
            f"option dropout_draws={options['dropout_draws']}: no network that a recipe names has dropout, so there is none to draw; "
            "leave it out, or craft from Python with surrogates of your own"
        )
    if bases_named and options.get("crafted_per_kept", 1) != 1:
        raise ValueError(
            f"option crafted_per_kept={options['crafted_per_kept']} asks for more base images than are kept, but --setups names them; "
            "leave one of them out"
        )


def check_goal_options(
    targets: int | None, target: int | None, trigger: str, trigger_side: int | None, trigger_amplitude: float | None, true_class: str,
    adversarial_class: str, goals: Path | None,
) -> None:  # fmt: skip
    """Raises: ValueError for options of goals that make no sense together; better known before anything is read."""
    if goals is not None and (target is not None or true_class or adversarial_class):
        raise ValueError("--goals lists test images and classes; leave out --target, --true-class and --adversarial-class")
    if targets is not None and targets < 1:
        raise ValueError(f"--targets {targets}; give at least 1, the number of trials")
    if trigger_side is not None and not trigger:
        raise ValueError("--trigger-side goes with --trigger; leave it out")
    if trigger_amplitude is not None and not trigger:
        raise ValueError("--trigger-amplitude goes with --trigger; leave it out")
    if trigger_amplitude is not None and not 0 < trigger_amplitude <= 1:
        raise ValueError(f"--trigger-amplitude {trigger_amplitude:g}; give a number above 0, at most 1, which pastes it in full")
    if target is not None and targets is not None:
        raise ValueError("--target names one test image, --targets a number of trials; give one of them")
    if target is not None and trigger:
        raise ValueError("--target and --trigger are two kinds of goals; give one of them")
    if true_class and not trigger:
        raise ValueError("--true-class goes with --trigger; the true class of a target is its label")
    if true_class and true_class == adversarial_class:
        raise ValueError(f"--true-class and --adversarial-class are both {true_class!r}; give two classes")
    if adversarial_class and target is None and not trigger:
        raise ValueError("--adversarial-class goes with --target or --trigger; classes of several targets are drawn")


def check_knowledge_options(
    scenario: str,
    pretrain: str,
    grey_box: bool,
    victim_recipe: str,
    through: str,
    sigma: float | None,
    draws: int,
    through_dtype: str,
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
    if not through and (sigma is not None or draws != 1 or through_dtype != "float32"):
        raise ValueError(
            "--sigma, --draws and --through-dtype are of the defense that --through names; give that, or leave them out"
        )


def check_setups(
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


def kinds_of(given: list[str], surrogates: int) -> tuple[str, ...]:
    """The recipes that --surrogate names. Raises: ValueError if --surrogates says another number."""
    if surrogates < 1:
        raise ValueError(f"--surrogates {surrogates}; an attacker needs at least 1 model to aim at")
    if given and surrogates not in (1, len(given)):
        raise ValueError(
            f"--surrogates {surrogates}, but --surrogate names {len(given)} recipes, one for each model; leave --surrogates out"
        )
    return tuple(given)


def checked_aim(attack: str, trigger: str, amplitude: float, visible: bool | None, options: dict[str, Any]) -> bool:
    """Whether the budget allows a visible trigger.

    Args:
        amplitude: of the trigger at test time.
        options: those given.
    Raises: ValueError for a trigger that the attack does not use, or one that it lacks, or that cannot be as weak or as invisible as asked.
    """
    from certidote.attacks import goal_of
    from certidote.attacks.triggers import TRIGGERS

    aim = goal_of(attack)
    if aim == "target" and (trigger or visible):
        raise ValueError(f"attack {attack!r} aims at one test image; leave out --trigger, or choose an attack that makes backdoors")
    if aim != "target" and not trigger:
        raise ValueError(f"attack {attack!r} makes a backdoor and needs a trigger: give --trigger, one of {', '.join(TRIGGERS)}")
    for given, strength in (("--trigger-amplitude", amplitude), ("option amplitude_train", options.get("amplitude_train", 1))):
        if trigger in TRIGGERS and trigger not in (weaker := triggers_with("amplitude")) and strength < 1:
            raise ValueError(
                f"{given} of {strength:g}: the trigger {trigger!r} is not black and white, so that it is pasted in full or not at all; leave it "
                f"out, or choose one of {', '.join(weaker)}"
            )
    pasted = aim == "visible trigger" and options.get("constraint") != "linf_all"
    if pasted and visible is False:
        raise ValueError(
            f"attack {attack!r} pastes its trigger in plain sight, and --no-visible-trigger forbids that: leave it out, or cut the trigger down "
            "to epsilon with --option constraint=linf_all"
        )
    return pasted if visible is None else visible


def triggers_with(argument: str) -> list[str]:
    """Names of triggers that can be made with this argument: "side", "amplitude"."""
    from inspect import signature

    from certidote.attacks.triggers import TRIGGERS

    return [name for name, make in TRIGGERS.items() if argument in signature(make).parameters]


def budget_of(
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


def wanted_goals(
    fixed: "Fixed | None", train_set: "ImageDataset", test_set: "ImageDataset", trusted: "ImageDataset | None", targets: int | None,
    target: int | None, trigger: str, side: int | None, amplitude: float, true_class: str, adversarial_class: str, key: "Key",
    listed: "list[ListedGoal] | None",
) -> "tuple[Goal, ...]":  # fmt: skip
    """The goal of each trial: those of a setup file, with --trigger its pairs of classes; or listed, or drawn, none among `trusted`."""
    if trigger:
        if fixed is None:
            pairs = pairs_of(train_set, targets, true_class, adversarial_class, key, listed)
        else:
            pairs = [(goal.true_label, goal.adversarial_label) for goal in fixed.goals]
        return triggers_of(trigger, side, amplitude, pairs, train_set, key)
    if fixed is not None:
        return fixed.goals
    return targets_named(train_set, test_set, trusted, targets, target, adversarial_class, key, listed)


def targets_named(
    train_set: "ImageDataset", test_set: "ImageDataset", trusted: "ImageDataset | None", targets: int | None, target: int | None,
    adversarial_class: str, key: "Key", listed: "list[ListedGoal] | None",
) -> "tuple[Goal, ...]":  # fmt: skip
    from certidote.scenarios.goals import choose_targets, target_at, targets_of

    if target is not None:
        names = train_set.class_names
        wanted = _label(adversarial_class, names, "--adversarial-class") if adversarial_class else None
        return (target_at(test_set, target, wanted, key / "targets"),)
    if listed is not None:
        return targets_of(listed, test_set)
    return choose_targets(test_set, 10 if targets is None else targets, key / "targets", train_set, trusted)


def pairs_of(
    train_set: "ImageDataset", targets: int | None, true_class: str, adversarial_class: str, key: "Key",
    listed: "list[ListedGoal] | None",
) -> "Sequence[tuple[int | None, int]]":  # fmt: skip
    """True and adversarial label of each trial of a backdoor."""
    from certidote.scenarios.goals import choose_pairs, labels_of

    names = train_set.class_names
    wanted = _label(adversarial_class, names, "--adversarial-class") if adversarial_class else None
    if listed is not None:
        return [labels_of(goal, names) for goal in listed]
    true = None if true_class in ("", "all") else _label(true_class, names, "--true-class")
    return choose_pairs(len(names), 10 if targets is None else targets, true, wanted, true_class == "all", key / "targets")


def triggers_of(
    name: str, side: int | None, amplitude: float, pairs: "Sequence[tuple[int | None, int]]", train_set: "ImageDataset", key: "Key"
) -> "tuple[Goal, ...]":
    """A trigger of this name for each pair of true and adversarial label.

    Args:
        amplitude: 1, or less for a trigger that `checked_aim` accepts.
    Raises: ValueError if there is none of that name, or of that size, or it covers more of an image than triggers may.
    """
    from functools import partial

    from certidote.attacks import find
    from certidote.attacks.triggers import LARGEST_PATCH, TRIGGERS

    make: Any = find(TRIGGERS, name, "trigger")
    sized = name in triggers_with("side")
    if side is not None:
        if not sized:
            raise ValueError(
                f"--trigger-side {side}: the trigger {name!r} has one size only; leave it out, or choose another trigger"
            )
        make = partial(make, side=side)
    if amplitude < 1:
        make = partial(make, amplitude=amplitude)
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


def check_skip(skip: int, trials: int, seed: int | None) -> None:
    """--skip leaves a part of trials that other packs have the rest of, so it needs their seed."""
    if not 0 <= skip < trials:
        most = f"of {trials} in all it can leave out 0 to {trials - 1} trials"
        if trials == 1:
            most = "there is 1 trial in all, so leave it out"
        raise ValueError(f"--skip {skip}; {most} (--targets says how many there are)")
    if skip and seed is None:
        raise ValueError(f"--skip {skip} leaves trials to another pack, and all of them are of one seed; give its --seed")


def check_goals(train_set: "ImageDataset", goals: "tuple[Goal, ...]", budget: "Budget") -> None:
    """Whatever every attack refuses is refused before surrogates are trained."""
    from certidote.attacks.selection import base_candidates, check_task
    from certidote.types import Task

    for goal in goals:
        task = Task(train_set, goal, budget)
        check_task(task)
        base_candidates(task)


def checked_pretraining(
    attack: str, goals: "tuple[Goal, ...]", train_set: "ImageDataset", test_set: "ImageDataset", trusted: "tuple[str, ImageDataset]",
    first: int,
) -> tuple[str, ...]:  # fmt: skip
    """What a pack of transfer learning notes about it.

    Args:
        trusted: name and images that extractors are fitted to.
        first: number of the first of these goals.
    Raises: ValueError if the extractor would learn what trials are about.
    """
    from certidote.attacks import FROM_SCRATCH
    from certidote.scenarios.leaks import check_leaks, shared_with

    name, images = trusted
    check_leaks(goals, test_set, name, images, first)
    notes = [shared_with(train_set, images)]
    if attack in FROM_SCRATCH:
        notes.append(
            f"{attack} is made for victims that learn all weights (--scenario scratch); heads on a frozen extractor, as here, hardly follow it"
        )
    return tuple(note for note in notes if note is not None)


def seen_through(
    name: str, sigma: float | None, draws: int, dtype: "DType", train_set: "ImageDataset", size: str, skip_corrupt: bool
) -> Any:
    """The defense that an attacker knows; None for one who knows of none."""
    if not name:
        return None
    from certidote.diffusion.through import ThroughDenoiser

    assert sigma is not None, "checked"
    return ThroughDenoiser(denoiser_named(name, train_set, dtype, size, skip_corrupt), sigma, draws)


def format_named(name: str) -> "DType":
    """What --through-dtype names, the same on every machine. Raises: ValueError for anything else, "auto" included."""
    if name in ("float32", "bfloat16"):
        return cast("DType", name)
    raise ValueError(f"--through-dtype {name}; choose float32 or bfloat16")


def described_defense(name: str, seen: Any) -> dict[str, Any] | None:
    """What a pack says about the defense that its attacker saw through; of float32 nothing, and closed forms know nothing else."""
    from certidote.data.names import escaped

    if seen is None:
        return None
    described = {"denoiser": escaped(name), "digest": seen.denoiser.card.digest, "sigma": seen.sigma, "draws": seen.draws}
    dtype = seen.denoiser.card.details.get("dtype", "float32")
    return described if dtype == "float32" else {**described, "dtype": dtype}
