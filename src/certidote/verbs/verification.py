"""`verify`: a certificate, worked out again by somebody who does not trust whoever made it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certidote.verbs.choices import check_device, check_workers, denoiser_named
from certidote.verbs.reports import read_certificate, tables

if TYPE_CHECKING:
    from certidote.engine.ledger import Ledger
    from certidote.results.audit import Finding
    from certidote.types import Json, Progress


@dataclass(frozen=True)
class Verified:
    """What `verify` found: each check, and what no check can see."""

    findings: "tuple[Finding, ...]"
    unseen: tuple[str, ...]
    proved: bool

    @property
    def ok(self) -> bool:
        """Whether nothing was wrong."""
        return all(each.verdict != "wrong" for each in self.findings)


def verify(
    certificate: Annotated[Path, typer.Argument(help="the certificate.json to check")],
    run: Annotated[Path, typer.Argument(help="the run directory with ledger.sqlite or ledger.sqlite.xz")],
    *,
    rerun: Annotated[int, typer.Option(help="members to train again from the disclosed root, picked by the operating system")] = 0,
    data: Annotated[str, typer.Option(help="where the training images are now, if not where they were")] = "",
    test: Annotated[str, typer.Option(help="where the test images are now, if not where they were")] = "",
    denoiser: Annotated[
        str, typer.Option(help="where the denoiser is now, if not where it was; its steps, if any, are the run's")
    ] = "",
    workers: Annotated[int, typer.Option(help="processes; 0: this process")] = 0,
    progress: "Progress | None" = None,
) -> Verified:
    """Check CERTIFICATE: work out every number again from the votes in RUN, and train some members again if asked.

    Ends with status 0 if everything agrees, 1 if anything does not, 2 if the files cannot be read.
    """
    from certidote.engine.evidence import Evidence
    from certidote.results.audit import UNSEEN, audit, record_of

    if rerun < 0:
        raise ValueError(f"rerun={rerun}; give the number of members to train again, 0 for none")
    check_workers(workers, "this process")
    given = read_certificate(certificate)
    with Evidence(run) as ledger:
        findings = audit(given, ledger)
        findings += _tables_beside(certificate, record_of(ledger))
        if rerun:
            findings += _retrained(ledger, rerun, data, test, denoiser, workers, progress)
    return Verified(tuple(findings), UNSEEN, bool(given.get("proved")))


def _tables_beside(certificate: Path, record: dict[str, Any]) -> "list[Finding]":
    """The CSV files beside the certificate, where there are any, hold what the ledger proves."""
    from certidote.results.audit import Finding
    from certidote.results.files import csv_text

    found = []
    for name, table in tables(record).items():
        path = certificate.parent / name
        if path.is_file():
            same = path.read_bytes() == csv_text(*table).encode()
            text = f"{name} holds what the ledger proves" if same else f"{name} does not hold what the ledger proves"
            found.append(Finding("right" if same else "wrong", text))
    return found


def _retrained(
    ledger: "Ledger", wanted: int, data: str, test: str, denoiser: str, workers: int, progress: "Progress | None"
) -> "list[Finding]":
    from certidote.data import load, load_test
    from certidote.diffusion.multistep import called, calls_named
    from certidote.engine import devices
    from certidote.engine.code import code_identity
    from certidote.engine.jobs import Payload
    from certidote.engine.local import Pool
    from certidote.engine.self_check import pick, retrain
    from certidote.results.audit import Finding, ballots_of, recorded_scheme
    from certidote.streams import Key
    from certidote.training.own import is_own
    from certidote.training.pooled import trainer_for
    from certidote.training.recipe import Recipe
    from certidote.types import Silent, Untrusted

    config, subject, ballots = ledger.get("config"), ledger.get("subject"), ballots_of(ledger)
    device = "cpu" if "cpu" in devices(ledger) else "cuda"
    check_device(device)
    if is_own(config["recipe"]["architecture"]) or "test_transform" in config:
        raise ValueError(
            "this run used its owner's own architecture or test transform; --rerun imports no code that a ledger names, so leave it out"
        )
    size, skip = config.get("size", ""), config.get("skip_corrupt", False)
    train_set = load(data or subject["data"]["name"], "train", size=size, skip_corrupt=skip)
    test_set = load_test(test or subject["test"]["name"], train_set.class_names, size=size, skip_corrupt=skip)
    real = denoiser_named(denoiser or subject["denoiser"]["name"], train_set, config["dtype"], size, skip)
    if subject["denoiser"]["kind"] == "multistep" != real.card.kind:
        real = called(real, calls_named(subject["denoiser"]["name"])[1])
    untrusted = Untrusted(train_set, subject.get("trusted_rows", ()))
    hashes = real.card.training_images
    stated = {
        "training images": (config["data"], untrusted.digest),
        "test images": (config["test"], test_set.digest()),
        "denoiser": (config["scheme"]["denoiser"]["digest"], real.card.digest),
        "test labels": (subject["test_labels"], test_set.labels.tolist()),
        "denoiser's training set": (subject["denoiser"]["trained_on"], real.card.trained_on),
        "overlap of denoiser and data": (subject["denoiser_overlap"], None if hashes is None else untrusted.overlap(hashes)),
    }
    other = [Finding("wrong", _other(what, was, now)) for what, (was, now) in stated.items() if was != now]
    if other:
        return [*other, Finding("wrong", "no member could be trained again, for want of what the run used")]
    scheme = recorded_scheme(ledger, real, device)
    trainer = trainer_for(Recipe.from_json(config["recipe"]), config["dtype"], device=device)
    found = [Finding("right", "training images, test images with labels, and denoiser are here, with the digests of the run")]
    code = code_identity(scheme, trainer)
    recorded = {name: value.partition("+")[0] for name, value in config["code"].items()}  # earlier releases named torch's build too
    changed = [name for name in {**recorded, **code} if recorded.get(name) != code.get(name)]
    if changed:
        found.append(
            Finding("note", f"members are trained again with other versions of: {', '.join(changed)}; votes may differ for that")
        )
    progress = progress or Silent()
    payload = Payload(scheme, trainer, untrusted, test_set.images, Key(int(ledger.get("root"), 16)))
    with Pool(workers, device=device) as pool:
        here = pool.numerics(device)
        picked = pick(range(len(ballots)), wanted)
        progress.start("training members again", len(picked))
        for member in picked:
            numerics = _numerics_of(ledger, member)
            if numerics is not None and numerics.get("noise") != here.get("noise"):
                found.append(Finding("wrong", _untested(member, numerics)))
            else:
                exact = device == "cpu" and not changed and numerics == here
                found.append(_again(retrain(pool, payload, ballots, [member], exact)[0]))
            progress.advance()
    progress.finish()
    missed = 0.9 ** len(picked)
    return [
        *found,
        Finding(
            "note",
            f"if a tenth of all members were made up, {len(picked)} picked ones would show none with probability {missed:.2g}",
        ),
    ]


def _numerics_of(ledger: "Ledger", member: int) -> "Json | None":
    """What the member is said to be computed with; None in ledgers that record it for nobody."""
    return next((part.numerics for part in ledger.parts() if part.first <= member < part.last), None)


def _untested(member: int, numerics: "Json") -> str:
    return (
        f"member {member}, picked among all, is said to be computed on {numerics.get('device')}, whose noise this device cannot draw; it was "
        "not tested: run this on a machine of that kind"
    )


def _again(each: Any) -> "Finding":
    from certidote.certification.lineage import ROUNDING_SHARE
    from certidote.results.audit import Finding

    if not each.same_noise:
        return Finding("wrong", f"member {each.member}, trained again, drew other noise than is on record for it")
    if not each.differing:
        return Finding("right", f"member {each.member}, trained again, cast all {each.votes} votes as recorded")
    text = f"member {each.member}, trained again, cast {each.differing} of {each.votes} votes otherwise"
    if not each.exact and each.differing <= ROUNDING_SHARE * each.votes:
        return Finding("note", f"{text}; other software, another machine or another stack may round otherwise")
    return Finding("wrong", f"{text}; it was not trained as the certificate says, or on a processor that rounds otherwise")


def _other(what: str, was: Any, now: Any) -> str:
    if isinstance(was, str) and isinstance(now, str):
        return f"the {what} found here are not the run's: digest {now[:12] or 'none'}, recorded {was[:12] or 'none'}"
    return f"the {what} found here are not the recorded ones"
