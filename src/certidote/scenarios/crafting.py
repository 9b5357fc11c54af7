"""Crafting the trials of a pack one by one: a pure function of what is handed over and the trial's number, so that workers may do it."""

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
from certidote.types import Attack, Budget, Goal, ImageDataset, Knowledge, Poison, Task


@dataclass(frozen=True, eq=False)
class Crafting:
    """Everything about a pack's trials but their numbers; trial i has the stream `key / "trials" / i / "attack"`.

    `bases` are rows of the training set that become poisons, for each trial; None leaves the choice to the attack.
    """

    attack: Attack
    options: Mapping[str, Any]
    train: ImageDataset
    goals: Sequence[Goal]
    budget: Budget
    knowledge: Knowledge
    key: Key
    bases: Sequence[Int64[Tensor, "m"]] | None = None


def craft_trial(crafting: Crafting, trial: int) -> tuple[int, Poison]:
    """The poison of one trial, its budget verified, and the trial's number."""
    bases = None if crafting.bases is None else crafting.bases[trial]
    task = Task(crafting.train, crafting.goals[trial], crafting.budget, bases)
    poison = crafting.attack(task, crafting.knowledge, crafting.key / "trials" / trial / "attack", **crafting.options)
    poison.verify(crafting.train)
    return trial, poison


def options_of(attack: Attack) -> dict[str, Any]:
    """The options of an attack, which are its keyword-only parameters, and their defaults."""
    parameters = inspect.signature(attack).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}


def checked_options(name: str, attack: Attack, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options for an attack, each of the type that its parameter says.

    Args:
        name: of the attack, for messages.
        given: names and values, as TOML has them; the text "none" stands for None.
    Raises: ValueError for an option that the attack does not have, naming the nearest, a value of another type, or an option that no
        text can give (views of a target, say).
    """
    known, types, found = options_of(attack), get_type_hints(attack), {}
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
        said = error.errors()[0]["msg"]
        raise ValueError(f"option {option}={value!r}: {said[0].lower()}{said[1:]}; its default is {default!r}") from None


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON: tuples are lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
