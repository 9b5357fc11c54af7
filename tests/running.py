"""Runs a scheme through the real engine and ledger in this process."""

from collections.abc import Sequence
from pathlib import Path

from certidote import engine
from certidote.engine.ledger import Ledger
from certidote.engine.local import Pool
from certidote.types import Ballots, ImageDataset, Scheme, Trainer, Untrusted


def ballots_of(
    scheme: Scheme,
    trainer: Trainer,
    train: ImageDataset,
    test: ImageDataset,
    path: Path,
    seed: int | None = 0,
    workers: int = 0,
    trusted: Sequence[int] = (),
) -> Ballots:
    data = Untrusted(train, trusted)
    overlap = None
    with Ledger(path) as ledger, Pool(workers) as pool:
        config = engine.configuration(scheme, trainer, data, test, {})
        return engine.run(scheme, trainer, data, test, ledger=ledger, pool=pool, config=config, seed=seed, overlap=overlap)
