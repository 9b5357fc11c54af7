"""What private victims would prove about the clean set of a replay: how many of its images may be altered."""

import numpy as np

from certidote.defenses.private_vote import PrivateVote
from certidote.scenarios.trials import Questions, Trials
from certidote.types import Ballots, Json


def certified_poisons(trials: Trials, asked: Questions, ballots: Ballots) -> Json | None:
    """Numbers of altered images that votes of the control certify, over all trials; None if the defense is no private vote.

    Returns: "guarantee" is false where epsilon is too large for any; "largest" is what a unanimous vote of so many models certifies, and
        "models_needed" how many agree where one altered image is certified, None for more than can be counted. "certified" holds for 0, 1,
        ... altered images the share of plain test images that are answered rightly and certified, averaged over trials.
    """
    vote = trials.defense
    if not isinstance(vote, PrivateVote):
        return None
    told: Json = {"unit": "images altered in place", "alpha": vote.alpha, "models": vote.n, "guarantee": vote.guarantees}
    if not vote.guarantees:
        return told | {"largest": -1, "models_needed": None, "certified": []}
    labels, shares = asked.asked.labels.numpy()[: asked.num_tests], []
    for trial in range(len(ballots) // (2 * vote.n)):
        first = 2 * trial * vote.n
        found = vote.certificate(ballots.counts(first, first + vote.n)[: asked.num_tests])
        shares.append(np.bincount(found.radii[found.labels == labels], minlength=1))
    longest = max(len(each) for each in shares)
    total = np.sum([np.pad(each, (0, longest - len(each))) for each in shares], axis=0)
    certified = np.cumsum(total[::-1])[::-1] / (asked.num_tests * len(shares))
    return told | {
        "largest": vote.certifiable(ballots.num_classes),
        "models_needed": vote.models_needed(ballots.num_classes),
        "certified": certified.tolist(),
    }
