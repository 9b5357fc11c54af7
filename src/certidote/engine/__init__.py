"""Run a scheme: every member's votes into a ledger, then out as ballots."""

from certidote.engine.jobs import Payload, plan
from certidote.engine.ledger import Ledger
from certidote.engine.local import Pool
from certidote.types import Ballots, ImageDataset, Json, Progress, Provenance, Scheme, Silent, Trainer, Untrusted, digest_of


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
) -> Ballots:
    """Train and poll every member that is not in the ledger yet, and return all ballots.

    Args:
        config: from `configuration`; the ledger refuses to go on under another.
        seed: root of the random streams, for a reproduction; by default drawn from the operating system after the
            configuration, with the data digest in it, is recorded.
        overlap: images of `data` that the denoiser was trained on, None if unknown; goes into the provenance.
    Raises: ValueError from the ledger; WorkerLost if a worker process dies.
    """
    progress = progress or Silent()
    ledger.configure(config)
    key = ledger.key(seed)
    committed = ledger.jobs()
    done = sum(job.last - job.first for job in committed)
    progress.start(stage, scheme.members, done)
    payload = Payload(scheme, trainer, data, test.images, key)
    for record in pool.map(payload, plan(scheme.members, trainer.stack_size, committed)):
        ledger.commit(record, test.num_classes)
        progress.advance(record.job.last - record.job.first)
    progress.finish()
    provenance = Provenance(data.digest, ledger.get("root_source") or "given", overlap)
    return ledger.ballots(len(test), test.num_classes, provenance)
