"""From a ledger, and nothing else, to the certificate it proves: how every certificate is made, and how anybody checks one.

`record_of` is the only way to a `certificate.json`. `audit` works it out again and compares every field.
"""

import hashlib
import json
import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from certidote.certification.bounds import check_bound
from certidote.certification.lineage import first_difference
from certidote.defenses.inputs import test_input_named
from certidote.defenses.partition import PartitionedSmoothing
from certidote.defenses.smoothing import DenoisedSmoothing
from certidote.engine import devices, provenance
from certidote.engine.code import package_digest
from certidote.engine.ledger import Ledger
from certidote.results.record import certificate_record, rows_digest, versions
from certidote.results.schema import check_form
from certidote.streams import Key, committed_root
from certidote.training.own import own_code_assumptions
from certidote.types import Ballots, Certificate, Denoiser, DenoiserCard, Images, Json, Unproved


@dataclass
class RecordedDenoiser:
    """A denoiser as a ledger remembers it: what it was, not what it does."""

    card: DenoiserCard
    told: str
    sigma_min: float = 0.0
    sigma_max: float = math.inf

    def __call__(self, noisy: Images, sigma: Float[Tensor, "n"]) -> Images:
        raise RuntimeError("a recorded denoiser cannot denoise; load the real one")

    def conditioning(self, sigma: float) -> str:
        return self.told


def complete(ledger: Ledger, label: str, command: str, workers: int) -> None:
    """Record how a run came about, once the members of its certificate have voted.

    A completion stands as long as no more members vote: the same command writes the same record. A run with an anytime bound that
    was stopped and goes on gets a new one, which keeps the earlier ones.
    """
    before, members = ledger.get("completed"), ledger.gap_free()
    if before is not None and before.get("members", members) == members:
        return
    now = {"label": label, "command": command, "workers": workers, "versions": versions(), "members": members}
    if before is not None:
        now["earlier"] = [*before.pop("earlier", []), before]
    ledger.replace("completed", now)


def run_facts(ledger: Ledger, ballots: Ballots) -> Json:
    """What a ledger tells about its run besides votes."""
    config, completed = ledger.get("config"), ledger.get("completed")
    seconds, seconds_viewing = ledger.seconds()
    earlier = completed.pop("earlier", [])
    return {
        **{name: value for name, value in completed.items() if name != "members"},
        **({"earlier": [{name: each[name] for name in EARLIER} for each in earlier]} if earlier else {}),
        "recipe": config["recipe"],
        "code": config["code"],
        "config_digest": ledger.config_digest(),
        "votes_digest": votes_digest(ballots),
        "root": ledger.get("root"),
        "root_source": ledger.get("root_source"),
        "device": config.get("device") or ", ".join(devices(ledger)),
        "dtype": config["dtype"],
        "seconds": seconds,
        "seconds_denoising": seconds_viewing,
    }


EARLIER = ("command", "versions", "workers", "members")
"""What a record keeps of the commands that stopped before: how many members had voted by then, and with which versions."""


def votes_digest(ballots: Ballots) -> str:
    """SHA-256 over every vote, which members failed, and the identities of their noise, in order of member numbers."""
    h = hashlib.sha256(repr(ballots.votes.shape).encode())
    for array in (ballots.votes, ballots.failed, ballots.noise_ids):
        for first in range(0, len(array), 64):  # eight bytes a vote, so a few members at a time
            h.update(np.ascontiguousarray(array[first : first + 64]).astype("<i8").tobytes())
    return h.hexdigest()


def recorded_scheme(
    ledger: Ledger, denoiser: Denoiser | None = None, device: str = "cpu"
) -> DenoisedSmoothing | PartitionedSmoothing:
    """The scheme that a ledger's configuration describes.

    Args:
        denoiser: the real one, for a scheme that can train members again; by default a record of it.
        device: where such a scheme computes.
    Raises: ValueError if the ledger is of another format, or describes what this release does not know.
    """
    config, subject = ledger.get("config"), ledger.get("subject")
    if config is None or subject is None or ledger.get("root") is None:
        raise ValueError(f"{ledger.path} records no certification run of this release; give the directory of one")
    try:
        told, known = config["scheme"], subject["denoiser"]
        for name in ("data", "test", "code", "recipe", "dtype"):
            config[name]
        card = DenoiserCard(known["name"], known["kind"], known["digest"], None, known["trained_on"], details=known["details"])
        recorded = RecordedDenoiser(card, told["conditioning"])
        base = DenoisedSmoothing(
            denoiser or recorded, told["sigma"], told["n0"], told["n"], told["alpha"], told["simultaneous"],
            len(subject["test_labels"]), device, check_bound(told.get("bound", "clopper-pearson")), len(subject["test"]["classes"]),
            test_input_named(told.get("test_input", "clean")), told.get("sigma_x", 0.0),
        )  # fmt: skip
        scheme = PartitionedSmoothing(base, told["parts"]) if "parts" in told else base
        once = replace(card, name=told["denoiser"]["name"]).identity  # early releases told where a denoiser's folder lay
        told = {**told, "denoiser": {**told["denoiser"], "name": once["name"]}}
    except KeyError as error:
        raise ValueError(f"{ledger.path} does not record {error}; it was written by another release: use that one") from None
    described = {name: value for name, value in scheme.describe().items() if name in told}
    if denoiser is not None:  # its folder may have been renamed: the digest is what counts
        described["denoiser"] = {**described["denoiser"], "name": told["denoiser"]["name"]}
    if described != told:  # entries that later releases add have their defaults, which is what earlier ones did
        name, old, new = first_difference(told, described)
        raise ValueError(f"{ledger.path} records {name}={old}, which this release reads as {new}; use the release that wrote it")
    return scheme


def ballots_of(ledger: Ledger) -> Ballots:
    """The gap-free prefix of a ledger's votes, with the provenance recorded beside them."""
    subject = ledger.get("subject")
    described = recorded_scheme(ledger).describe()  # with the defaults of entries that its release did not know
    evidence = replace(provenance(ledger, subject["denoiser_overlap"]), scheme=described)
    return ledger.ballots(len(subject["test_labels"]), len(subject["test"]["classes"]), evidence)


def outcome_of(ledger: Ledger) -> Certificate | Unproved:
    """What the votes of a ledger prove, or why they prove nothing. Raises: as `recorded_scheme`."""
    scheme, config = recorded_scheme(ledger), ledger.get("config")
    outcome = scheme.certify(ballots_of(ledger))
    own = own_code_assumptions(config["recipe"]["architecture"], config.get("test_transform", {}).get("name", ""))
    return replace(outcome, assumptions=(*outcome.assumptions, *own)) if isinstance(outcome, Certificate) else outcome


def record_of(ledger: Ledger) -> Json:
    """The certificate that a ledger proves, or its record as "empirical only" with the reasons.

    Raises: ValueError if the run is not finished, or the ledger is of another format.
    """
    scheme = recorded_scheme(ledger)
    if ledger.get("completed") is None:
        raise ValueError(f"the run of {ledger.path} is not finished; the command that started it goes on with it")
    ballots = ballots_of(ledger)
    return certificate_record(
        outcome_of(ledger),
        scheme.aggregate(ballots),
        ballots,
        scheme.describe(),
        ledger.get("subject"),
        run_facts(ledger, ballots),
    )


# ---------------------------------------------------------------------------------------------------------------- checking


@dataclass(frozen=True)
class Finding:
    """One thing that was checked, and how it came out; a "note" decides nothing."""

    verdict: Literal["right", "wrong", "note"]
    text: str


SHOWN = 12
"""Differing fields that are listed one by one."""

UNSEEN = (
    "whether the votes were really cast: a ledger can be made up. Retraining members (--rerun) tests some of them",
    "whether the data and the test labels are what they are said to be, and nobody touched labels, number or order",
    "whether the denoiser's training images were out of the attacker's reach",
    "whether the root came from the operating system, and other runs on these data were looked at before this one was chosen",
    "times, command and versions: they are as the ledger tells",
    "report.html and figures: 'certidote report RUN' draws them again from certificate.json, pictures.json (some images and their votes) "
    "and a threat map if one is given, which are not checked",
)
"""What no check of a ledger can see."""


def audit(certificate: Json, ledger: Ledger) -> list[Finding]:
    """Work the certificate out again from the ledger alone and compare every field.

    Args:
        certificate: what certificate.json holds.
        ledger: of the run it is said to come from.
    Raises: ValueError as `recorded_scheme` and `Ledger.ballots`.
    """
    scheme, ballots = recorded_scheme(ledger), ballots_of(ledger)
    findings = [_form(certificate), _members(ledger, ballots, scheme), _noise(ledger, ballots), _subject(ledger)]
    findings.append(_root(ledger))
    findings += [_digest("configuration", certificate.get("config_digest"), ledger.config_digest())]
    findings += [_digest("record of votes", certificate.get("votes_digest"), votes_digest(ballots))]
    recomputed = json.loads(json.dumps(record_of(ledger)))
    same_software = certificate.get("versions") == versions()
    compared, differing = differences(certificate, recomputed, exact=same_software)
    if not differing:
        digits = "" if same_software else " (numbers to 12 digits: this is other software than the certificate's)"
        findings.append(
            Finding("right", f"all {compared:,} fields follow from the ledger: claim, assumptions, counts, radii, curves{digits}")
        )
    findings += [Finding("wrong", text) for text in differing[:SHOWN]]
    if len(differing) > SHOWN:
        findings.append(Finding("wrong", f"and {len(differing) - SHOWN:,} more fields differ"))
    here, there = package_digest(), recomputed["code"]["certidote"]
    if here != there:
        findings.append(
            Finding(
                "note", f"the run was made with other code ({there[:12]}) than this installation ({here[:12]}), which checked it"
            )
        )
    return findings


def _digest(what: str, told: Any, ours: str) -> Finding:
    if told == ours:
        return Finding("right", f"the ledger's {what} is the one the certificate names")
    return Finding("wrong", f"this is not the certificate's ledger: its {what} has the digest {ours[:12]}, not {str(told)[:12]}")


def _form(certificate: Json) -> Finding:
    problem = check_form(certificate)
    if problem:
        return Finding("wrong", f"the file is no certificate of version 1: {problem}")
    return Finding("right", "the file has the form of a certificate of version 1")


def _members(ledger: Ledger, ballots: Ballots, scheme: DenoisedSmoothing | PartitionedSmoothing) -> Finding:
    voted, wanted = len(ballots), scheme.members
    diverged = f"{int(ballots.failed.sum())} of them diverged and count"
    if voted == wanted:
        return Finding("right", f"members 0 to {wanted - 1} have voted, each once; {diverged}")
    if isinstance(scheme, DenoisedSmoothing) and scheme.bound == "anytime" and voted > scheme.n0:
        text = f"members 0 to {voted - 1} of {wanted} have voted, without a gap; the bound holds at every number; {diverged}"
        return Finding("right", text)
    later = [job.first for job in ledger.jobs() if job.first > voted]
    gap = f"; members from {later[0]} on are there" if later else ""
    return Finding("wrong", f"member {voted} is missing of {wanted} that were fixed beforehand{gap}")


def _noise(ledger: Ledger, ballots: Ballots) -> Finding:
    """The noise identities are a function of the root and the member numbers."""
    members = Key(int(ledger.get("root"), 16)) / "members"
    expected = np.array([(members / i / "noise").identity() for i in range(len(ballots))], dtype=np.int64)
    wrong = np.flatnonzero(expected != ballots.noise_ids)
    if len(wrong):
        return Finding(
            "wrong", f"the noise of member {wrong[0]} does not come from the disclosed root; {len(wrong)} members are so"
        )
    return Finding("right", "the noise of every member comes from the disclosed root, under its own number")


def _root(ledger: Ledger) -> Finding:
    """A root from the operating system is bound to the configuration, in which alpha, bound and numbers of models stand."""
    if ledger.get("root_source") != "operating system":
        return Finding(
            "note", "the seed was given by hand: alpha, bound and number of models may have been chosen after looking at votes"
        )
    secret = ledger.get("root_secret")
    if secret is None:
        return Finding(
            "note",
            "an earlier release drew the root, and nothing binds it to the configuration: alpha, bound and number of models may have been "
            "chosen after looking at votes",
        )
    if hex(committed_root(int(secret, 16), ledger.config_digest())) != ledger.get("root"):
        return Finding(
            "wrong",
            "the root of the noise was drawn for another configuration: alpha, bound, numbers of models or data were changed since",
        )
    return Finding("right", "the root of the noise was drawn for this configuration: alpha, bound and numbers of models included")


def _subject(ledger: Ledger) -> Finding:
    config, subject = ledger.get("config"), ledger.get("subject")
    for what, told in (("data", subject["data"]["digest"]), ("test", subject["test"]["digest"])):
        if config[what] != told:
            return Finding(
                "wrong", f"the ledger contradicts itself: {what} is {config[what][:12]} in its configuration, {told[:12]} beside it"
            )
    rows = subject.get("trusted_rows", [])
    told = config.get("trusted", {"images": 0, "digest": rows_digest([])})
    if told != {"images": len(rows), "digest": rows_digest(rows)}:
        return Finding(
            "wrong",
            f"the ledger contradicts itself: its configuration names {told['images']} trusted images, digest {told['digest'][:12]}, but "
            f"beside it stand {len(rows)}, digest {rows_digest(rows)[:12]}",
        )
    return Finding("right", "data, test images, trusted images and denoiser are those fixed before the first member trained")


def differences(given: Any, ours: Any, *, exact: bool = True) -> tuple[int, list[str]]:
    """Number of fields compared, and a sentence for each that differs, entries of lists last.

    Args:
        exact: numbers must agree to the last bit: JSON gives back the float that was written. Otherwise to 12 digits, as other releases
            of a library may round a quantile otherwise.
    """
    compared, texts = _compare(given, ours, "", exact)
    return compared, sorted(texts, key=lambda text: "[" in text.split(" is ")[0])


def _compare(given: Any, ours: Any, place: str, exact: bool) -> tuple[int, list[str]]:
    if isinstance(given, dict) and isinstance(ours, dict):
        pairs = [
            (f"{place}.{name}" if place else name, given.get(name, _Nothing), ours.get(name, _Nothing))
            for name in {**ours, **given}
        ]
    elif isinstance(given, list) and isinstance(ours, list) and len(given) == len(ours):
        pairs = [(f"{place}[{i}]", *pair) for i, pair in enumerate(zip(given, ours, strict=True))]
    elif type(given) is type(ours) and (given == ours or (not exact and isinstance(ours, float) and _to_12_digits(given, ours))):
        return 1, []
    else:
        return 1, [f"{place} is {_shown(given)} in the certificate, but {_shown(ours)} by the ledger"]
    parts = [_compare(left, right, name, exact) for name, left, right in pairs]
    return sum(count for count, _ in parts), [text for _, texts in parts for text in texts]


def _to_12_digits(given: float, ours: float) -> bool:
    return math.isclose(given, ours, rel_tol=1e-12, abs_tol=0.0)


class _Nothing:
    """Stands for a field that is not there."""


def _shown(value: Any) -> str:
    if value is _Nothing:
        return "absent"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:76]} ..."
