"""Which poisons a filter removed, trial by trial: votes do not tell, so one victim of each trial is asked again with its own coins."""

from dataclasses import dataclass

from certidote.defenses.removals import Removal, kept_by, removal
from certidote.scenarios.trials import PairedTrainer, Trials, paired
from certidote.streams import Key
from certidote.types import Untrusted


@dataclass(frozen=True, eq=False)
class Asked:
    """Everything about a replay that decides what its filter removed.

    Attributes:
        trainer: of the victims; one for which `removals.filters` holds.
        data: the clean training set.
        key: the root of the run.
    """

    trials: Trials
    trainer: PairedTrainer
    data: Untrusted
    key: Key


def removed_of_trial(asked: Asked, trial: int) -> tuple[int, Removal | None]:
    """The trial's number, and what was removed for its first victim of the poisoned arm; None where that diverged.

    A pure function, so that workers may do it.
    """
    models = asked.trials.defense.members
    member = (2 * trial + 1) * models
    key = asked.key / "members" / member
    view = asked.trials.view(asked.data.watched(key), member, key)
    kept = kept_by(asked.trainer.trainer, [view], [paired(key, models, asked.trials.pack.first_trial)], asked.key / "common")[0]
    poisons = asked.trials.pack.poisons[trial].indices
    return trial, None if kept is None else removal(kept, len(view.labels), poisons)
