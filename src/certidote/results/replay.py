"""The record of a replay: how often poisons reached their goal, with and without a defense, as one JSON value and a table."""

from collections.abc import Sequence

import numpy as np

from certidote.results.summary import wilson
from certidote.types import Json

FORMAT, VERSION = "certidote replay", 1
COLUMNS = (
    "trial",
    "true_class",
    "adversarial_class",
    "images",
    "control_reached",
    "poisoned_reached",
    "control_lost",
    "poisoned_lost",
    "control_clean_accuracy",
    "poisoned_clean_accuracy",
)


def arm_record(reached: Sequence[float], lost: Sequence[float], accuracy: Sequence[float], single: Sequence[bool]) -> Json:
    """One arm over all trials.

    Args:
        reached, lost: for each trial the share of its images with the adversarial label, and with neither that nor the true one.
        accuracy: on clean test images.
        single: for each trial whether the one image by which it counts got the adversarial label.
    Returns: successes of so many trials with a 95 % Wilson interval, shares and accuracies as means over trials.
    """
    low, high = wilson(sum(single), len(single))
    return {
        "successes": int(sum(single)),
        "trials": len(single),
        "low": low,
        "high": high,
        "reached": float(np.mean(reached)),
        "lost": float(np.mean(lost)),
        "clean_accuracy": float(np.mean(accuracy)),
    }


def lines(record: Json) -> list[str]:
    """The record in plain words."""
    results = record["results"]
    words = []
    for arm, called in (("poisoned", "trained on poisoned data"), ("control", "trained on clean data (control)")):
        row = results[arm]
        words.append(
            f"{called}: {row['successes']} of {row['trials']} trials reach their goal (95 % Wilson interval {row['low']:.1%} to "
            f"{row['high']:.1%}); clean accuracy {row['clean_accuracy']:.1%}"
        )
        if record["goal"] == "trigger":
            words[-1] += f"; {row['reached']:.1%} of all images with the trigger get the adversarial class"
    if results["control"]["successes"]:
        words.append("The control reaches some goals without any poison: these targets were lost before the attack.")
    return words
