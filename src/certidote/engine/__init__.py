"""Run a scheme: every member's votes into a ledger, then out as ballots.

One loop for every back end: jobs in order of member numbers go out, records come back in any order, and what came back together is
committed together. Only this process writes the ledger.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace
from time import monotonic
from typing import Literal, Protocol, runtime_checkable

from certidote.engine.assignment import assign
from certidote.engine.code import code_identity
from certidote.engine.jobs import BlockRecord, Job, Payload, plan
from certidote.engine.ledger import Ledger
from certidote.engine.self_check import pick, retrain
from certidote.engine.until import Until
from certidote.engine.weights import WeightStore
from certidote.engine.workers import JobFailed, Workers
from certidote.types import (
    Ballots,
    ImageDataset,
    Json,
    Progress,
    Provenance,
    Retrained,
    Scheme,
    Silent,
    Trainer,
    Untrusted,
    content_hashes,
    digest_of,
)


@runtime_checkable
class Observer(Protocol):
    """Sees votes as they are committed. What it says is shown as an interim figure; only `--until decided` asks it to stop a run."""

    def see(self, records: list[BlockRecord]) -> None: ...

    def note(self) -> str: ...

    def decided(self) -> bool: ...


class _Blind:
    def see(self, records: list[BlockRecord]) -> None:
        pass

    def note(self) -> str:
        return ""

    def decided(self) -> bool:
        return False


def configuration(scheme: Scheme, trainer: Trainer, data: Untrusted, test: ImageDataset, facts: Json) -> Json:
    """Everything that decides a run's votes and what they may prove; recorded before its first member trains."""
    trusted = {"trusted": {"images": len(data.trusted), "digest": digest_of({"rows": data.trusted})}} if data.trusted else {}
    return {
        "scheme": scheme.describe(),
        "trainer": trainer.describe(),
        "block": trainer.stack_size,
        "data": data.digest,
        **trusted,
        "test": test.digest(),
        "code": code_identity(scheme, trainer),
        **facts,
    }


def run(
    scheme: Scheme,
    trainer: Trainer,
    data: Untrusted,
    test: ImageDataset,
    *,
    ledger: Ledger,
    pool: Workers,
    config: Json,
    seed: int | None = None,
    overlap: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    stage: str = "training models",
    weights: WeightStore | None = None,
) -> Ballots:
    """Train and poll every member that is not in the ledger yet, and return all ballots; see `fill` and `ballots`."""
    fill(
        scheme, trainer, data, test,
        ledger=ledger, pool=pool, config=config, seed=seed, device=device, progress=progress, stage=stage, weights=weights,
    )  # fmt: skip
    if ledger.voted() == scheme.members:
        self_check(scheme, trainer, data, test, ledger=ledger, pool=pool, device=device)
    return ballots(ledger, test, overlap)


def fill(
    scheme: Scheme,
    trainer: Trainer,
    data: Untrusted,
    test: ImageDataset,
    *,
    ledger: Ledger,
    pool: Workers,
    config: Json,
    seed: int | None = None,
    members: range | None = None,
    until: Until | None = None,
    device: str = "cpu",
    observer: Observer | None = None,
    progress: Progress | None = None,
    stage: str = "training models",
    weights: WeightStore | None = None,
) -> int:
    """Train and poll the members that are not in the ledger yet, and commit their votes.

    Args:
        pool: where jobs run: `local.Pool` or `cluster.RayWorkers`. Cannot change a vote.
        config: from `configuration`; the ledger refuses to go on under another.
        seed: root of the random streams, for a reproduction; by default drawn from the operating system after the
            configuration, with the data digest in it, is recorded.
        members: work on these only, and record that before any of them trains; by default on all.
        until: when to stop earlier. Jobs that were started are finished and committed.
        device: where the workers compute, "cpu" or "cuda".
        weights: where to keep every member's weights; committed members that have none there are trained again from their keys.
    Returns: how many of the members assigned to this ledger are still missing; 0 for a run that is complete.
    Raises: ValueError from the ledger, or if a worker's numerics are not the recorded ones; JobFailed, with the traceback kept in the
        ledger, or WorkerLost, from the back end. What was committed before is kept.
    """
    progress, observer, until = progress or Silent(), observer or _Blind(), until or Until()
    ledger.configure(config)
    key = ledger.key(seed)
    numerics = pool.numerics(device)
    ranges = assign(ledger, members, scheme.members, numerics)
    committed = ledger.jobs()
    payload = Payload(scheme, trainer, data, test.images, key, weights is not None)
    if weights is not None:
        _catch_up(weights, ledger, pool, payload, test, progress)
    total = sum(len(part) for part in ranges)
    progress.start(stage, total, ledger.voted())
    began = monotonic()

    def jobs() -> Iterator[Job]:
        allowance = total if until.models is None else until.models - ledger.voted()
        for part in ranges:
            for job in plan(part, trainer.stack_size, committed):
                late = until.seconds is not None and monotonic() - began >= until.seconds
                if late or allowance <= 0 or (until.decided and observer.decided()):
                    return
                job = Job(job.first, min(job.last, job.first + allowance))
                allowance -= job.last - job.first
                yield job

    try:
        for records in pool.map(payload, jobs()):
            for record in records:
                _check_numerics(record, numerics)
            kept = [] if weights is None else [weights.write(record.job, record.weights) for record in records]
            ledger.commit_all(records, test.num_classes, kept)
            observer.see(records)
            progress.advance(sum(record.job.last - record.job.first for record in records), observer.note())
    except JobFailed as failure:
        ledger.fail(failure.job, failure.traceback)
        raise
    progress.finish(observer.note())
    return total - ledger.voted()


def ballots(ledger: Ledger, test: ImageDataset, overlap: int | None = None) -> Ballots:
    """The votes of members 0, 1, ... up to the first one missing.

    Args:
        overlap: images of the training set that the denoiser was trained on, None if unknown; goes into the provenance.
    Raises: ValueError if member 0 has not voted yet, or the ledger is damaged.
    """
    return ledger.ballots(len(test), test.num_classes, provenance(ledger, overlap))


def provenance(ledger: Ledger, overlap: int | None) -> Provenance:
    """What the ledger tells about its ballots; `overlap` as in `ballots`."""
    config, parts = ledger.get("config"), ledger.parts()
    mixture = tuple(map(str, parts)) if len({str(part.numerics) for part in parts}) > 1 else ()
    source: Literal["operating system", "given"] = ledger.get("root_source") or "given"
    noise = " and ".join(dict.fromkeys(part.numerics.get("noise", "SFC64") for part in parts)) or "SFC64"
    return Provenance(
        config["data"], source, overlap, mixture, config["scheme"], recorded_check(ledger), noise, config.get("trainer")
    )


def self_check(
    scheme: Scheme,
    trainer: Trainer,
    data: Untrusted,
    test: ImageDataset,
    *,
    ledger: Ledger,
    pool: Workers,
    device: str = "cpu",
) -> None:
    """Train one member again alone, unless that is on record: votes that differ show that something crosses a stack.

    To be called once members have voted; the member is drawn from the operating system then, among those that machines like this one
    computed. In a ledger that has none of these, none is trained again. Where a run went on since, another one is.
    """
    earlier = recorded_check(ledger)
    if earlier is not None and (earlier.differing or earlier.among >= ledger.gap_free()):
        return
    cast = ledger.ballots(len(test), test.num_classes, provenance(ledger, None))
    here = pool.numerics(device)
    ours = [member for part in ledger.parts() if part.numerics == here for member in range(part.first, part.last)]
    ours = [member for member in ours if member < len(cast)]
    if ours:
        payload = Payload(scheme, trainer, data, test.images, ledger.key(None))
        found = retrain(pool, payload, cast, pick(ours, 1), device == "cpu")[0]
        ledger.replace("retrained", asdict(replace(found, among=len(cast))))


def devices(ledger: Ledger) -> list[str]:
    """Kinds of device that a ledger's members were assigned to: "cpu", "cuda"."""
    kinds = [str(part.numerics.get("device", "cpu")).partition(" ")[0] for part in ledger.parts()]
    return list(dict.fromkeys(kinds or [ledger.get("config").get("device", "cpu")]))


def recorded_check(ledger: Ledger) -> Retrained | None:
    """The member that was trained again alone at the end of a run, if that is on record."""
    recorded = ledger.get("retrained")
    return None if recorded is None else Retrained(**recorded)


def _check_numerics(record: BlockRecord, numerics: Json) -> None:
    """Two kinds of machine in one run: which one takes a member depends on speed, so not even a mixture can be claimed."""
    if record.numerics and record.numerics != numerics:
        raise ValueError(
            f"a worker computes with {', '.join(map(str, record.numerics.values()))}, but this run with "
            f"{', '.join(map(str, numerics.values()))}; votes must not depend on which machine is free first: use machines of one kind, or "
            "assign members to each kind beforehand (--prepare, --members)"
        )


def _catch_up(
    weights: WeightStore, ledger: Ledger, pool: Workers, payload: Payload, test: ImageDataset, progress: Progress
) -> None:
    """Weights for all committed members, and for no others; and which test images the committed votes are about."""
    if ledger.get("test_images") is None:
        ledger.put("test_images", content_hashes(test.images))
    weights.tidy(ledger.kept())
    have = {kept.job for kept in ledger.kept() if weights.present(kept)}
    missing = [job for job in ledger.jobs() if job not in have]
    if not missing:
        return
    progress.start("training members again that were committed without weights", sum(job.last - job.first for job in missing))
    for records in pool.map(payload, missing):
        for record in records:
            ledger.check_repeated(record, test.num_classes)
            ledger.keep(weights.write(record.job, record.weights))
            progress.advance(record.job.last - record.job.first)
    progress.finish()
