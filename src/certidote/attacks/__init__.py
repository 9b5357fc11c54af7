"""Clean-label poisoning attacks: (task, knowledge, key) -> Poison. One file for each; this is their catalogue.

Options of an attack are keyword-only parameters with the original's defaults; `functools.partial` makes a variant. A user adds
an attack by adding a name to `ATTACKS` (and to `GOALS`, if it makes backdoors). What is listed here is tested by being listed.
"""

import difflib
from collections.abc import Mapping
from typing import Literal, TypeVar

from certidote.attacks.bullseye_polytope import bullseye_polytope, bullseye_polytope_batch
from certidote.attacks.convex_polytope import convex_polytope, convex_polytope_batch
from certidote.attacks.hidden_trigger import hidden_trigger
from certidote.attacks.label_consistent import label_consistent
from certidote.attacks.poison_frogs import poison_frogs, poison_frogs_batch
from certidote.attacks.sleeper_agent import sleeper_agent
from certidote.attacks.witches_brew import witches_brew, witches_brew_batch
from certidote.types import Attack, AttackTogether

T = TypeVar("T")

ATTACKS: dict[str, Attack] = {
    "poison-frogs": poison_frogs,
    "convex-polytope": convex_polytope,
    "bullseye-polytope": bullseye_polytope,
    "witches-brew": witches_brew,
    "label-consistent": label_consistent,
    "hidden-trigger": hidden_trigger,
    "sleeper-agent": sleeper_agent,
}

TOGETHER: dict[Attack, AttackTogether] = {
    poison_frogs: poison_frogs_batch,
    convex_polytope: convex_polytope_batch,
    bullseye_polytope: bullseye_polytope_batch,
    witches_brew: witches_brew_batch,
}
"""By attack, the same one for several trials at once, which is faster on small images; each takes its attack's options."""

Aim = Literal["target", "hidden trigger", "visible trigger"]
GOALS: dict[str, Aim] = {
    "poison-frogs": "target",
    "convex-polytope": "target",
    "bullseye-polytope": "target",
    "witches-brew": "target",
    "label-consistent": "visible trigger",
    "hidden-trigger": "hidden trigger",
    "sleeper-agent": "hidden trigger",
}
"""What each attack is for: one test image, or images with a trigger, which poisons never show or which they show in plain sight (the
budget must allow a visible trigger)."""


FROM_SCRATCH = frozenset({"witches-brew", "sleeper-agent"})
"""Attacks that work where victims learn all weights, whose gradients they match, and hardly where these only fit a head."""


def goal_of(name: str) -> Aim:
    """What this attack is for; one test image, if `GOALS` does not say."""
    return GOALS.get(name, "target")


def find(catalogue: Mapping[str, T], name: str, kind: str) -> T:
    """The entry of that name.

    Args:
        catalogue: names and entries, `ATTACKS` say.
        name: as the user gave it.
        kind: what the entries are, for the message: "attack".
    Raises: ValueError naming the nearest entry and all that exist.
    """
    if name in catalogue:
        return catalogue[name]
    near = difflib.get_close_matches(name, catalogue, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"unknown {kind} {name!r}; {hint}choose one of: {', '.join(sorted(catalogue))}")
