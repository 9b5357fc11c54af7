"""Run a scheme: every member's votes into a ledger, then out as ballots."""

from certidote.engine.jobs import Payload, plan
from certidote.engine.ledger import Ledger
from certidote.engine.local import Pool
from certidote.engine.weights import WeightStore
from certidote.types import (
    Ballots,
    ImageDataset,
    Json,
    Progress,
    Provenance,
    Scheme,
    Silent,
    Trainer,
    Untrusted,
    content_hashes,
)


def configuration(scheme: Scheme, trainer: Trainer, data: Untrusted, test: ImageDataset, facts: Json) -> Json:
    """Everything that decides a run's votes and what they may prove; recorded before its first member trains."""
    return {
        "scheme": scheme.describe(),
        "trainer": trainer.describe(),
        "block": trainer.stack_size,
        "data": data.digest,
        "test": test.digest(),
        **facts,
    }


def run(
    scheme: Scheme,
    trainer: Trainer,
    data: Untrusted,
    test: ImageDataset,
    *,
    ledger: Ledger,
    pool: Pool,
    config: Json,
    seed: int | None = None,
    overlap: int | None = None,
    progress: Progress | None = None,
    stage: str = "training models",
    weights: WeightStore | None = None,
) -> Ballots:
    """Train and poll every member that is not in the ledger yet, and return all ballots.

    Args:
        config: from `configuration`; the ledger refuses to go on under another.
        seed: root of the random streams, for a reproduction; by default drawn from the operating system after the
            configuration, with the data digest in it, is recorded.
        overlap: images of `data` that the denoiser was trained on, None if unknown; goes into the provenance.
        weights: where to keep every member's weights; committed members that have none there are trained again from their keys.
    Raises: ValueError from the ledger; WorkerLost if a worker process dies.
    """
    progress = progress or Silent()
    ledger.configure(config)
    key = ledger.key(seed)
    committed = ledger.jobs()
    if weights is not None:
        _catch_up(weights, ledger, pool, Payload(scheme, trainer, data, test.images, key, True), test, progress)
    done = sum(job.last - job.first for job in committed)
    progress.start(stage, scheme.members, done)
    payload = Payload(scheme, trainer, data, test.images, key, weights is not None)
    for record in pool.map(payload, plan(scheme.members, trainer.stack_size, committed)):
        ledger.commit(record, test.num_classes, None if weights is None else weights.write(record.job, record.weights))
        progress.advance(record.job.last - record.job.first)
    progress.finish()
    provenance = Provenance(data.digest, ledger.get("root_source") or "given", overlap)
    return ledger.ballots(len(test), test.num_classes, provenance)


def _catch_up(weights: WeightStore, ledger: Ledger, pool: Pool, payload: Payload, test: ImageDataset, progress: Progress) -> None:
    """Weights for all committed members, and for no others; and which test images the committed votes are about."""
    if ledger.get("test_images") is None:
        ledger.put("test_images", content_hashes(test.images))
    weights.tidy(ledger.kept())
    have = {kept.job for kept in ledger.kept() if weights.present(kept)}
    missing = [job for job in ledger.jobs() if job not in have]
    if not missing:
        return
    progress.start("training members again that were committed without weights", sum(job.last - job.first for job in missing))
    for record in pool.map(payload, missing):
        ledger.check_repeated(record, test.num_classes)
        ledger.keep(weights.write(record.job, record.weights))
        progress.advance(record.job.last - record.job.first)
    progress.finish()
