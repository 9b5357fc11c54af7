"""`plan`: what a certificate could prove and what it would cost, before anything runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certidote.verbs.choices import check_device, denoiser_named, recipe_named, test_split_of, trainer_named
from certidote.verbs.options import Data, DenoiserName, Device, Dtype, RecipeName

if TYPE_CHECKING:
    from certidote.engine.jobs import BlockRecord
    from certidote.types import ImageDataset, Progress

SHARES = (1.0, 0.999, 0.99, 0.95, 0.9)
"""Shares of the vote for which a wanted radius is priced."""


@dataclass(frozen=True)
class Planned:
    """What `plan` worked out.

    Attributes:
        models, n0: counted and selecting models.
        radius: the largest that a unanimous vote of `models` proves, [0, 1] pixel units.
        needed: vote share -> counted models at which that share proves the wanted radius; None where no number does. Empty if no
            radius was asked for.
        seconds: of wall time with `workers` processes, from a calibration on this machine.
        workers: processes assumed.
        memory: bytes of one worker at its peak; None where the system does not tell.
        disk: bytes of the votes.
        lines: all of it in words.
    """

    models: int
    n0: int
    radius: float
    needed: dict[float, int | None]
    seconds: float
    workers: int
    memory: int | None
    disk: int
    lines: tuple[str, ...]


def plan(
    data: Data,
    *,
    sigma: Annotated[float, typer.Option(help="noise std, [0, 1] pixel units")] = 0.25,
    models: Annotated[int | None, typer.Option(help="n, the models whose votes are counted; default 1000")] = None,
    radius: Annotated[float | None, typer.Option(help="instead of --models: a radius that shall be provable")] = None,
    n0: Annotated[int, typer.Option(help="models that select the answers, on top of n")] = 100,
    alpha: Annotated[float, typer.Option(help="failure probability of the statement")] = 0.001,
    simultaneous: Annotated[bool, typer.Option(help="one statement about the whole test set (Bonferroni)")] = False,
    test: Annotated[str, typer.Option(help="test images; default: the test split of DATA")] = "",
    denoiser: DenoiserName = "auto",
    recipe: RecipeName = "auto",
    workers: Annotated[int | None, typer.Option(help="processes; default: one for each core")] = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    progress: "Progress | None" = None,
) -> Planned:
    """Say what a certificate for DATA could prove, and what it costs in models, time, memory and disk.

    Trains one block of models to measure the time; their votes are thrown away and nothing is written.
    """
    from certidote.certification.bounds import level
    from certidote.data import load, load_test
    from certidote.data.checks import check_same_classes
    from certidote.defenses.smoothing import DenoisedSmoothing
    from certidote.engine.local import available_cores
    from certidote.numerics import resolve_dtype
    from certidote.types import Silent

    if models is not None and radius is not None:
        raise ValueError(f"models={models} and radius={radius:g} were given; give one of them, the other follows from it")
    check_device(device)
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers}; give the number of processes to plan for, at least 1")
    train_set = load(data, "train")
    test_set = load_test(test or test_split_of(data), train_set.class_names)
    check_same_classes(train_set, test_set)
    number_format = resolve_dtype(dtype, device)
    chosen = denoiser_named(denoiser, train_set, number_format)
    alpha_each = alpha / len(test_set) if simultaneous else alpha
    spent = level("clopper-pearson", alpha_each, train_set.num_classes, n0 > 0)  # a stricter one if the counted votes select
    needed: dict[float, int | None] = {}
    if radius is not None:
        _check_radius(radius, sigma)
        needed = {share: models_needed(radius, sigma, spent, share) for share in SHARES}
        if needed[1.0] is None:
            raise ValueError(
                f"radius={radius:g} needs more than {MOST_MODELS:,} models at sigma={sigma:g} even if all agree; raise sigma or lower "
                "the radius"
            )
        models = needed[1.0]
    models = 1000 if models is None else models
    scheme = DenoisedSmoothing(chosen, sigma, n0, models, alpha, simultaneous, len(test_set), device)
    trainer = trainer_named(recipe_named(recipe, train_set), train_set, number_format, pretrained_trusted=False)
    record, block = _calibrate(scheme, trainer, train_set, test_set, progress or Silent())
    processes = workers or available_cores()
    blocks = -(-scheme.members // block)
    seconds = record.seconds / block * scheme.members / min(processes, blocks)
    memory, disk = _peak_memory(), scheme.members * len(test_set) * (1 if test_set.num_classes <= 256 else 2)
    cap = scheme.cap()
    lines = _lines(scheme, cap, radius, needed, seconds, record.seconds / block, processes, memory, disk, train_set, test_set)
    return Planned(models, n0, cap, needed, seconds, processes, memory, disk, lines)


MOST_MODELS = 10**7


def models_needed(radius: float, sigma: float, alpha_each: float, share: float) -> int | None:
    """The least number of counted models, up to `MOST_MODELS`, from which on a vote share of at least `share` proves `radius`.

    Args:
        radius: > 0, [0, 1] pixel units.
        share: in (1/2, 1]; k = ceil(share * n) of n models agree.
    Returns: n, found by bisection: exact for a share of 1, otherwise up to the rounding of k. None where no n does.
    """
    import math

    import numpy as np

    from certidote.certification.binomial import lower_confidence_bound
    from certidote.certification.smoothing import radius as radius_of

    def proves(n: int) -> bool:
        bound = lower_confidence_bound(np.array([min(n, math.ceil(share * n))]), n, alpha_each)
        return bool(radius_of(bound, sigma)[0] >= radius)

    high = 1
    while not proves(high):
        high *= 2
        if high > MOST_MODELS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if proves(middle) else (middle, high)
    return high


def _check_radius(radius: float, sigma: float) -> None:
    if not radius > 0:
        raise ValueError(f"radius={radius}; give a radius > 0, [0, 1] pixel units over the whole training set")
    if not sigma > 0:
        raise ValueError(f"sigma={sigma} adds no noise and certifies nothing; give sigma > 0 ([0, 1] pixel units)")


def _calibrate(
    scheme: Any, trainer: Any, train: "ImageDataset", test: "ImageDataset", progress: "Progress"
) -> "tuple[BlockRecord, int]":
    """One block of members under a throw-away root, in this process on one thread, as a worker does it."""
    from certidote.engine.jobs import Job, Payload
    from certidote.engine.local import Pool
    from certidote.streams import Key, fresh_root
    from certidote.types import Untrusted

    block = min(trainer.stack_size, scheme.members)
    payload = Payload(scheme, trainer, Untrusted(train), test.images, Key(fresh_root()))
    progress.start("calibration", block)
    with Pool(0) as pool:
        record = next(pool.map(payload, [Job(0, block)]))[0]
    progress.advance(block)
    progress.finish()
    return record, block


def _peak_memory() -> int | None:
    """Bytes of this process at its peak."""
    import sys

    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _lines(
    scheme: Any, cap: float, radius: float | None, needed: dict[float, int | None], seconds: float, each: float, workers: int,
    memory: int | None, disk: int, train: "ImageDataset", test: "ImageDataset",
) -> tuple[str, ...]:  # fmt: skip
    from certidote.certification.smoothing import radius_cap
    from certidote.reporting.words import length, percent, plain

    about = "each test image" if not scheme.simultaneous else f"all {len(test)} test images together"
    lines = [
        f"sigma {plain(scheme.sigma)}, alpha {plain(scheme.alpha)} for {about}, {len(train)} training images, {len(test)} test images, "
        f"denoiser {scheme.denoiser.card.name}",
        f"Largest radius that {scheme.n:,} models can prove, all agreeing: {length(cap)} ({length(cap / scheme.sigma)} sigma).",
    ]
    if radius is None:
        more = [
            f"{length(radius_cap(scheme.sigma, n, scheme.alpha_each, separate=scheme.n0 > 0))} with {n:,}"
            for n in (scheme.n * 2, scheme.n * 10)
        ]
        lines.append(f"It grows slowly: {', '.join(more)} models.")
    else:
        lines.append(f"For a radius of {plain(radius)} the most voted class needs, of n counted models:")
        for share, n in needed.items():
            lines.append(f"  {percent(share):>6} of the vote: " + ("no number of models is enough" if n is None else f"n = {n:,}"))
    hours = (
        f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.1f} minutes" if seconds >= 90 else f"{seconds:.0f} s"
    )
    lines.append(
        f"Cost: {scheme.members:,} models (n0 = {scheme.n0:,} select, n = {scheme.n:,} are counted), {each * 1000:.0f} ms each here; about "
        f"{hours} with {workers} workers."
    )
    lines.append(
        ("" if memory is None else f"Memory: about {memory / 2**20:.0f} MiB for each worker. ")
        + f"Disk: {disk / 1e6:.1f} MB of votes in {Path('OUT') / 'ledger.sqlite'}."
    )
    return tuple(lines)
