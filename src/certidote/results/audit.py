"""From a ledger, and nothing else, to the certificate it proves: how every certificate is made, and how anybody checks one.

`record_of` is the only way to a `certificate.json`. `audit` works it out again and compares every field.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from certidote.certification.lineage import first_difference
from certidote.defenses.smoothing import DenoisedSmoothing
from certidote.engine import recorded_check
from certidote.engine.code import package_digest
from certidote.engine.ledger import Ledger
from certidote.results.record import certificate_record, versions
from certidote.streams import Key
from certidote.types import Ballots, DenoiserCard, Images, Json, Provenance


@dataclass(frozen=True)
class RecordedDenoiser:
    """A denoiser as a ledger remembers it: what it was, not what it does."""

    card: DenoiserCard
    told: str
    sigma_min: float = 0.0
    sigma_max: float = math.inf

    def __call__(self, noisy: Images, sigma: Any) -> Images:
        raise RuntimeError("a recorded denoiser cannot denoise; load the real one")

    def conditioning(self, sigma: float) -> str:
        return self.told


def complete(ledger: Ledger, label: str, command: str, workers: int) -> None:
    """Record how a run came about, once all members have voted. The first completion stands: the same command writes the same record."""
    if ledger.get("completed") is None:
        ledger.put("completed", {"label": label, "command": command, "workers": workers, "versions": versions()})


def run_facts(ledger: Ledger, ballots: Ballots) -> Json:
    """What a ledger tells about its run besides votes."""
    config = ledger.get("config")
    seconds, seconds_viewing = ledger.seconds()
    return {
        **ledger.get("completed"),
        "recipe": config["recipe"],
        "code": config["code"],
        "config_digest": ledger.config_digest(),
        "votes_digest": votes_digest(ballots),
        "root": ledger.get("root"),
        "root_source": ledger.get("root_source"),
        "device": config["device"],
        "dtype": config["dtype"],
        "seconds": seconds,
        "seconds_denoising": seconds_viewing,
    }


def votes_digest(ballots: Ballots) -> str:
    """SHA-256 over every vote, which members failed, and the identities of their noise, in order of member numbers."""
    h = hashlib.sha256(repr(ballots.votes.shape).encode())
    for array in (ballots.votes, ballots.failed, ballots.noise_ids):
        h.update(np.ascontiguousarray(array).astype("<i8").tobytes())
    return h.hexdigest()


def recorded_scheme(ledger: Ledger) -> DenoisedSmoothing:
    """The scheme that a ledger's configuration describes.

    Raises: ValueError if the ledger is of another format, or describes what this release does not know.
    """
    config, subject = ledger.get("config"), ledger.get("subject")
    if config is None or subject is None or ledger.get("root") is None:
        raise ValueError(f"{ledger.path} records no certification run of this release; give the directory of one")
    told, known = config["scheme"], subject["denoiser"]
    try:
        card = DenoiserCard(known["name"], known["kind"], known["digest"], None, known["trained_on"], details=known["details"])
        denoiser = RecordedDenoiser(card, told["conditioning"])
        scheme = DenoisedSmoothing(
            denoiser, told["sigma"], told["n0"], told["n"], told["alpha"], told["simultaneous"], len(subject["test_labels"])
        )
    except KeyError as error:
        raise ValueError(f"{ledger.path} does not record {error}; it was written by another release: use that one") from None
    if scheme.describe() != told:
        name, old, new = first_difference(told, scheme.describe())
        raise ValueError(f"{ledger.path} records {name}={old}, which this release reads as {new}; use the release that wrote it")
    return scheme


def ballots_of(ledger: Ledger) -> Ballots:
    """The gap-free prefix of a ledger's votes, with the provenance recorded beside them."""
    config, subject = ledger.get("config"), ledger.get("subject")
    provenance = Provenance(
        config["data"], ledger.get("root_source"), subject["denoiser_overlap"], config["scheme"], recorded_check(ledger)
    )
    return ledger.ballots(len(subject["test_labels"]), len(subject["test"]["classes"]), provenance)


def record_of(ledger: Ledger) -> Json:
    """The certificate that a ledger proves, or its record as "empirical only" with the reasons.

    Raises: ValueError if the run is not finished, or the ledger is of another format.
    """
    scheme = recorded_scheme(ledger)
    if ledger.get("completed") is None:
        raise ValueError(f"the run of {ledger.path} is not finished; the command that started it goes on with it")
    ballots = ballots_of(ledger)
    return certificate_record(
        scheme.certify(ballots), scheme.aggregate(ballots), ballots, scheme.describe(), ledger.get("subject"), run_facts(ledger, ballots)
    )
