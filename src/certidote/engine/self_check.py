"""Members trained again alone, from the recorded root: their votes must be the committed ones."""

import secrets
from collections.abc import Sequence

import numpy as np

from certidote.engine.jobs import Job, Payload
from certidote.engine.workers import Workers
from certidote.types import Ballots, Retrained


def pick(members: Sequence[int], wanted: int) -> list[int]:
    """`wanted` of these member numbers, or all of them, drawn from the operating system: nobody could prepare for them."""
    return sorted(secrets.SystemRandom().sample(members, min(wanted, len(members))))


def retrain(pool: Workers, payload: Payload, ballots: Ballots, members: Sequence[int], exact: bool) -> list[Retrained]:
    """Each of these members noised, denoised, trained and polled again, without the others of its stack.

    Args:
        payload: as the run had it.
        ballots: the committed votes.
        exact: whether this device's arithmetic does not depend on the stack.
    """
    found = []
    jobs = (Job(member, member + 1) for member in members)
    for record in (record for records in pool.map(payload, jobs) for record in records):
        member = record.job.first
        votes = ballots.votes.shape[1]
        if record.failed[0] or ballots.failed[member]:
            differing = 0 if record.failed[0] == ballots.failed[member] else votes
        else:
            differing = int((record.votes[0] != ballots.votes[member]).sum())
        same_noise = bool(np.all(record.noise_ids == ballots.noise_ids[member : member + 1]))
        found.append(Retrained(member, votes, differing if same_noise else votes, exact, same_noise))
    return sorted(found, key=lambda each: each.member)
