"""Crafting the trials of a pack in groups: a pure function of what is handed over and the trials' numbers, so that workers may do it."""

import inspect
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_type_hints

from jaxtyping import Int64
from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError
from torch import Tensor

from certidote.streams import Key
from certidote.training.recipe import Recipe
from certidote.types import Attack, AttackTogether, Budget, Goal, ImageDataset, Knowledge, Poison, Task

GROUPS = 4
"""At least so many groups if there are as many trials, so that processes have something to share."""
PIXELS_TOGETHER = 1 << 13
"""Pixel positions of the poisons of a group: 128 images of 8x8. Where a single trial has more, as on images of 32x32, crafting several at
once saves nothing on a CPU."""


@dataclass(frozen=True, eq=False)
class Crafting:
    """Everything about a pack's trials but their numbers; trial i has the stream `key / "trials" / i / "attack"`.

    `bases` are rows of the training set that become poisons, for each trial; None leaves the choice to the attack. `together` is the
    attack for several trials at once, if it has that form; it takes the same options. Trials before `first` are made elsewhere.
    """

    attack: Attack
    options: Mapping[str, Any]
    train: ImageDataset
    goals: Sequence[Goal]
    budget: Budget
    knowledge: Knowledge
    key: Key
    bases: Sequence[Int64[Tensor, "m"]] | None = None
    together: AttackTogether | None = None
    first: int = 0

    def groups(self) -> list[range]:
        """Trials that are crafted in one call: neighbors, so many as pay off.

        That hangs on the number of trials, but on nothing about the machine: with the same seed the poisons are the same, however
        many processes craft them.
        """
        number, (_, height, width) = len(self.goals), self.train.image_shape
        size = 1
        if self.together is not None:
            fit = max(1, PIXELS_TOGETHER // (self.budget.num_poisons * height * width))
            size = min(fit, -(-number // GROUPS))
        return [range(first, min(first + size, number)) for first in range(self.first, number, size)]


def craft_group(crafting: Crafting, trials: range) -> list[tuple[int, Poison]]:
    """The poisons of some trials, their budget verified, and each trial's number."""
    bases = [None] * len(crafting.goals) if crafting.bases is None else crafting.bases
    tasks = [Task(crafting.train, crafting.goals[trial], crafting.budget, bases[trial]) for trial in trials]
    keys = [crafting.key / "trials" / trial / "attack" for trial in trials]
    if crafting.together is not None and len(trials) > 1:
        poisons = crafting.together(tasks, crafting.knowledge, keys, **crafting.options)
    else:
        pairs = zip(tasks, keys, strict=True)
        poisons = [crafting.attack(task, crafting.knowledge, key, **crafting.options) for task, key in pairs]
    for poison in poisons:
        poison.verify(crafting.train)
    return list(zip(trials, poisons, strict=True))


def options_of(attack: Attack) -> dict[str, Any]:
    """The options of an attack, which are its keyword-only parameters, and their defaults."""
    parameters = inspect.signature(attack).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}


def augmentation_for(attack: Attack, recipe: Recipe | None, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Options with which an attack sees poisons as learners by this recipe will; {} for attacks that have no such options.

    Differs from that recipe if it shifts by whole pixels: attacks shift by any fraction of a pixel, over the same range.

    Args:
        recipe: None for heads on frozen features, which learn from images as they are.
    """
    if not {"shift", "flip", "border"} <= options_of(attack).keys():
        return {}
    crop, flip = (0, False) if recipe is None else (recipe.crop, recipe.flip)
    return {"shift": crop / min(image_shape[1:]), "flip": flip, "border": "reflection"}


def checked_options(name: str, attack: Attack, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options for an attack, each of the type that its parameter says.

    Args:
        name: of the attack, for messages.
        given: names and values, as TOML has them; the text "none" stands for None.
    Raises: ValueError for an option that the attack does not have, naming the nearest, a value of another type, or an option that no
        text can give (views of a target, say).
    """
    known, types, found = options_of(attack), get_type_hints(attack, include_extras=True), {}
    for option, value in given.items():
        if option not in known:
            near = get_close_matches(option, known, n=1, cutoff=0.3)
            hint = f"did you mean {near[0]!r}? " if near else ""
            has = f"its options are: {', '.join(known)}" if known else "it has no options"
            raise ValueError(f"attack {name!r} has no option {option!r}; {hint}{has}")
        found[option] = _of_type(option, value, types[option], known[option])
    return found


def parsed_option(text: str) -> tuple[str, Any]:
    """ "steps=150" as name and value: a TOML value, or else text; "16/255" is a number. Raises: ValueError if there is no "="."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise ValueError(f"option {text!r} is no name=value; write it as in --option steps=150")
    return name.strip(), parsed_value(value.strip())


def parsed_value(value: str) -> Any:
    numerator, slash, denominator = value.partition("/")
    if slash and _is_number(numerator) and _is_number(denominator) and float(denominator) != 0:
        return float(numerator) / float(denominator)
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _of_type(option: str, value: Any, kind: Any, default: Any) -> Any:
    """The value as the parameter's type; lists are tuples."""
    value = tuple(value) if isinstance(value, list) else value
    try:
        return TypeAdapter(kind).validate_python(None if value == "none" else value, strict=True)
    except PydanticSchemaGenerationError:
        raise ValueError(
            f"option {option}={value!r}: {option} is for Python only, as no text can give its value; leave it out"
        ) from None
    except ValidationError as error:
        said = max(error.errors(), key=lambda each: len(each["loc"]))["msg"]  # of several types, the one that fits farthest
        raise ValueError(f"option {option}={value!r}: {said[0].lower()}{said[1:]}; its default is {default!r}") from None


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON: tuples are lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
