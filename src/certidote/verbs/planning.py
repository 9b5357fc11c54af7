"""`plan`: what a certificate could prove and what it would cost, before anything runs."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certidote.verbs.certification import models_in_words, plan_lines
from certidote.verbs.choices import (
    check_device,
    denoiser_named,
    recipe_named,
    test_split_of,
    trainer_named,
    transformed_test,
)
from certidote.verbs.options import (
    Alpha,
    BoundName,
    Data,
    DenoiserName,
    Device,
    Dtype,
    OwnModel,
    OwnTransform,
    Parts,
    PretrainedTrusted,
    RecipeName,
    Selecting,
    Sigma,
    SigmaX,
    Simultaneous,
    Size,
    SkipCorrupt,
    TestInputName,
    Trusted,
)

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Int64

    from certidote.certification.bounds import Bound
    from certidote.defenses.partition import PartitionedSmoothing
    from certidote.defenses.smoothing import DenoisedSmoothing
    from certidote.engine.jobs import BlockRecord
    from certidote.types import ImageDataset, Progress, Untrusted

SHARES = (1.0, 0.999, 0.99, 0.95, 0.9)
"""Shares of the vote for which a wanted radius is priced."""


@dataclass(frozen=True)
class Planned:
    """What `plan` worked out.

    Attributes:
        models, n0: counted and selecting models, of each part.
        radius: the largest that a unanimous vote of `models` proves, [0, 1] pixel units; of all parts for the first class.
        needed: vote share -> counted models (of each part, all parts agreeing) from which on that share proves the wanted radius at
            every number; None where no number up to `MOST_MODELS` is known to. Empty if no radius was asked for.
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
    sigma: Sigma = 0.25,
    models: Annotated[int | None, typer.Option(help="n, the models whose votes are counted; default 1000")] = None,
    radius: Annotated[float | None, typer.Option(help="instead of --models: a radius that shall be provable")] = None,
    n0: Selecting = 100,
    alpha: Alpha = 0.001,
    simultaneous: Simultaneous = False,
    bound: BoundName = "clopper-pearson",
    trusted: Trusted = None,
    parts: Parts = 1,
    test_input: TestInputName = "clean",
    sigma_x: SigmaX = None,
    test: Annotated[str, typer.Option(help="test images; default: the test split of DATA")] = "",
    denoiser: DenoiserName = "auto",
    recipe: RecipeName = "auto",
    model: OwnModel = "",
    pretrained_trusted: PretrainedTrusted = False,
    test_transform: OwnTransform = "",
    workers: Annotated[int | None, typer.Option(help="processes; default: one for each core")] = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    size: Size = "",
    skip_corrupt: SkipCorrupt = False,
    progress: "Progress | None" = None,
) -> Planned:
    """Say what a certificate for DATA could prove, and what it costs in models, time, memory and disk.

    Options are those of certify. Trains a model, or as many as are trained at a time, to measure the time; their votes are thrown away and nothing is written.
    """
    from certidote.certification.bounds import check_bound
    from certidote.data import load, load_test
    from certidote.data.checks import check_same_classes
    from certidote.data.trusted import trusted_rows
    from certidote.defenses.inputs import test_input_named
    from certidote.defenses.partition import PartitionedSmoothing, rows_of_parts
    from certidote.defenses.smoothing import DenoisedSmoothing
    from certidote.engine.local import available_cores
    from certidote.numerics import resolve_dtype
    from certidote.types import Silent, Untrusted

    if models is not None and radius is not None:
        raise ValueError(f"models={models} and radius={radius:g} were given; give one of them, the other follows from it")
    check_device(device)
    known_bound, input_kind = check_bound(bound), test_input_named(test_input)
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers}; give the number of processes to plan for, at least 1")
    train_set = load(data, "train", size=size, skip_corrupt=skip_corrupt)
    test_set = load_test(test or test_split_of(data), train_set.class_names, size=size, skip_corrupt=skip_corrupt)
    test_set, _ = transformed_test(test_set, test_transform, train_set.image_shape)
    check_same_classes(train_set, test_set)
    untrusted = Untrusted(train_set, () if trusted is None else trusted_rows(trusted, train_set, data))
    rows_of_parts(len(train_set), untrusted.trusted, parts)  # refuses a number of parts that is none
    number_format = resolve_dtype(dtype, device)
    chosen = denoiser_named(denoiser, train_set, number_format, size, skip_corrupt)
    classes, alpha_each = train_set.num_classes, alpha / (len(test_set) if simultaneous else 1) / parts
    needed = _needed(radius, sigma, known_bound, alpha_each, classes, n0 > 0, parts)
    if models is None:
        models = needed.get(1.0) or 1000
    noise_x = (sigma if input_kind == "noised-denoised" else 0.0) if sigma_x is None else sigma_x
    smoothing = DenoisedSmoothing(
        chosen, sigma, n0, models, alpha, simultaneous, len(test_set), device, known_bound, classes, input_kind, noise_x
    )
    scheme = smoothing if parts == 1 else PartitionedSmoothing(smoothing, parts)
    trainer = trainer_named(recipe_named(recipe, train_set, model), train_set, number_format, pretrained_trusted, device)
    record, tried = _calibrate(scheme, trainer, untrusted, test_set, progress or Silent())
    processes = workers or available_cores()
    each, blocks = record.seconds / tried, -(-scheme.members // min(trainer.stack_size, scheme.members))
    seconds = each * scheme.members / min(processes, blocks)
    memory, disk = _peak_memory(), scheme.members * len(test_set) * (1 if test_set.num_classes <= 256 else 2)
    lines = (
        *_proof_lines(smoothing, scheme, untrusted, test_set),
        *_wanted_lines(smoothing, scheme, radius, needed),
        *_cost_lines(smoothing, scheme, seconds, each, processes, memory, disk),
    )
    return Planned(models, n0, scheme.cap(), needed, seconds, processes, memory, disk, lines)


# ---------------------------------------------------------------------------------------------------- models that are needed


MOST_MODELS = 10**7


def _needed(
    radius: float | None, sigma: float, bound: "Bound", alpha_each: float, classes: int, separate: bool, parts: int
) -> dict[float, int | None]:
    """`Planned.needed`. Raises: ValueError if not even a unanimous vote can prove the radius, or for numbers out of range."""
    from certidote.certification.bounds import level
    from certidote.certification.smoothing import ROUND_DOWN

    each = level(bound, alpha_each, classes, separate)
    if radius is None:
        return {}
    _check_radius(radius, sigma)
    of_a_part = radius if parts == 1 else radius / (math.sqrt(_flips(parts)) * ROUND_DOWN)
    needed = {share: models_needed(of_a_part, sigma, each, share, anytime=bound == "anytime") for share in SHARES}
    if needed[1.0] is None:
        raise ValueError(
            f"radius={radius:g} needs more than {MOST_MODELS:,} models at sigma={sigma:g} even if all agree; raise sigma or lower "
            "the radius"
        )
    return needed


def _flips(parts: int) -> int:
    """The fewest votes of parts that unseat a class which has all of them, whichever class it is."""
    return (parts + 1) // 2


def models_needed(radius: float, sigma: float, each: float, share: float, *, anytime: bool = False) -> int | None:
    """The least n from which on, at every number of counted models, floor(share * n) votes prove `radius`, wherever the others go.

    Whole votes make this no question of one threshold: n models may do, and n + 1, with one vote more against the class, may not.
    Between two n with the same number of other votes the bound only rises, so what fails last is found from the first n with f other
    votes, for every f, below an n that is proved to be enough with all larger ones (`_surely_enough`).

    Args:
        radius: > 0, [0, 1] pixel units.
        each: level of one bound, from `certification.bounds.level`. Multi-class bounds are Clopper-Pearson's at this level if one rival
            has all other votes, and better otherwise.
        share: in (1/2, 1], of at most six decimals.
        anytime: the anytime bound instead of Clopper-Pearson's.
    Returns: n. None if no number is enough (the class's probability would have to exceed `share`), or none up to `MOST_MODELS` is known
        to be.
    Raises: ValueError for a share out of range.
    """
    import numpy as np
    from scipy import stats

    from certidote.certification.smoothing import ROUND_DOWN

    exact = Fraction(str(share))
    if not Fraction(1, 2) < exact <= 1 or exact.denominator > 10**6:
        raise ValueError(f"share={share}; give a number above 0.5, at most 1, with at most six decimals")
    wanted = float(stats.norm.cdf(radius / (sigma * ROUND_DOWN)))  # the lower bound that proves the radius

    def proves(n: 'Int64[np.ndarray, "m"]') -> 'Bool[np.ndarray, "m"]':
        return _bound_reaches(wanted, n * exact.numerator // exact.denominator, n, each, anytime)

    if exact == 1:
        return _first(lambda n: bool(proves(np.array([n]))[0]))
    enough = _first(lambda n: _surely_enough(wanted, float(exact), n, each, anytime))
    if enough is None:
        return None
    others = enough - enough * exact.numerator // exact.denominator
    fewest = (np.arange(others + 1) * exact.denominator) // (
        exact.denominator - exact.numerator
    ) + 1  # n with 1, 2, ... other votes
    last = int(np.flatnonzero(~proves(fewest[:-1]))[-1])  # with n = 1 there is no vote for the class, so something fails
    block = np.arange(fewest[last], fewest[last + 1])
    return int(block[~proves(block)][-1]) + 1


def _bound_reaches(
    wanted: float, votes: 'Int64[np.ndarray, "m"]', n: 'Int64[np.ndarray, "m"]', each: float, anytime: bool
) -> 'Bool[np.ndarray, "m"]':
    """Whether the lower bound from so many of n votes is at least `wanted`: that is, whether every smaller probability is excluded."""
    from scipy import stats

    from certidote.certification.anytime import log_martingale

    above = votes > wanted * n
    if anytime:
        return above & (log_martingale(votes, n, wanted, one_sided=True) >= -math.log(each))
    return above & (stats.binom.sf(votes - 1, n, wanted) <= each)


def _surely_enough(wanted: float, share: float, n: int, each: float, anytime: bool) -> bool:
    """A sufficient condition for n, which then holds for every larger one: the proof that the search may end.

    floor(share * n) / n exceeds x = share - 1/n. With P[Binomial(n, p) >= k] <= exp(-n KL(k/n, p)), Clopper-Pearson's bound reaches p
    where n KL(x, p) >= log(1/each), and the left side grows with n. The anytime martingale is at least exp(n KL(k/n, p)) / (2 sqrt n)
    (Krichevsky and Trofimov 1981); cutting it to (p, 1) costs nothing where p is at most the mean of Beta(k + 1/2, n - k + 1/2), which
    is then below its median: (2 * 1/2). That is so where share - 1.5/n >= p > 1/2. With n KL above log 2 this grows with n, too.
    """
    x = share - 1 / n
    if share - 1.5 / n < wanted or not x > wanted:
        return False
    divergence = x * math.log(x / wanted) + (1 - x) * math.log((1 - x) / (1 - wanted))
    return n * divergence - (math.log(2 * math.sqrt(n)) if anytime else 0.0) >= -math.log(each)


def _first(holds: Any) -> int | None:
    """The least n with `holds(n)`, which holds for all larger ones; None if it is above `MOST_MODELS`."""
    if not holds(MOST_MODELS):
        return None
    low, high = 0, MOST_MODELS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _check_radius(radius: float, sigma: float) -> None:
    if not radius > 0:
        raise ValueError(f"radius={radius}; give a radius > 0, [0, 1] pixel units over the whole training set")
    if not sigma > 0:
        raise ValueError(f"sigma={sigma} adds no noise and certifies nothing; give sigma > 0 ([0, 1] pixel units)")


# ------------------------------------------------------------------------------------------------------------ time and memory


def _calibrate(
    scheme: Any, trainer: Any, untrusted: "Untrusted", test: "ImageDataset", progress: "Progress"
) -> "tuple[BlockRecord, int]":
    """As many members as are trained at a time, under a throw-away root, in this process on one thread, as a worker does it; and how many."""
    from certidote.engine.jobs import Job, Payload
    from certidote.engine.local import Pool
    from certidote.streams import Key, fresh_root
    from certidote.types import TrainsInGroups

    together = min(trainer.together if isinstance(trainer, TrainsInGroups) else trainer.stack_size, scheme.members)
    payload = Payload(scheme, trainer, untrusted, test.images, Key(fresh_root()))
    progress.start("calibration", together)
    with Pool(0) as pool:
        record = next(pool.map(payload, [Job(0, together)]))[0]
    progress.advance(together)
    progress.finish()
    return record, together


def _peak_memory() -> int | None:
    """Bytes of this process at its peak."""
    import sys

    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ------------------------------------------------------------------------------------------------------------------ in words


def _proof_lines(
    smoothing: "DenoisedSmoothing", scheme: "DenoisedSmoothing | PartitionedSmoothing", untrusted: "Untrusted", test: "ImageDataset"
) -> list[str]:
    """What is planned, and the largest radius that it can prove."""
    from certidote.reporting.words import length, plain

    about = "each test image" if not smoothing.simultaneous else f"all {len(test)} test images together"
    parts = getattr(scheme, "parts", 1)
    cap, of_parts = scheme.cap(), f" of each of {parts} parts" if parts > 1 else ""
    return [
        f"sigma {plain(smoothing.sigma)}, alpha {plain(smoothing.alpha)} for {about}, {len(untrusted)} training images, {len(test)} test "
        f"images, denoiser {smoothing.denoiser.card.name}, {smoothing.bound} bound",
        f"Largest radius that {smoothing.n:,} models{of_parts} can prove, all agreeing: {length(cap)} "
        f"({length(cap / smoothing.sigma)} sigma).",
        *(line[0].upper() + line[1:] + "." for line in plan_lines(smoothing, untrusted)),
    ]


def _wanted_lines(
    smoothing: "DenoisedSmoothing",
    scheme: "DenoisedSmoothing | PartitionedSmoothing",
    radius: float | None,
    needed: dict[float, int | None],
) -> list[str]:
    """What a wanted radius needs; without one, how the largest radius grows with the number of models."""
    from scipy import stats

    from certidote.defenses.partition import PartitionedSmoothing
    from certidote.reporting.words import length, percent, plain

    parts = getattr(scheme, "parts", 1)
    if radius is None:
        wider = [replace(smoothing, n=n) for n in (smoothing.n * 2, smoothing.n * 10)]
        caps = [(each if parts == 1 else PartitionedSmoothing(each, parts)).cap() for each in wider]
        more = [f"{length(cap)} with {each.n:,}" for cap, each in zip(caps, wider, strict=True)]
        return [f"It grows slowly: {', '.join(more)} models."]
    where = f" of each part, all {parts} parts agreeing" if parts > 1 else ""
    rival = " even if one rival has all other votes," if smoothing.bound == "multi-class" else ""
    lines = [f"For a radius of {plain(radius)} the most voted class needs,{rival} of n counted models{where}:"]
    for share, n in needed.items():
        reachable = smoothing.sigma * stats.norm.ppf(share) * math.sqrt(_flips(parts)) > radius
        unknown = f"none up to {MOST_MODELS:,} is known to be enough" if reachable else "no number of models is enough"
        told = unknown if n is None else f"n = {n:,}, or any larger number"
        lines.append(f"  {'>=' if share < 1 else ''}{percent(share)} of the vote: {told}")
    return lines


def _cost_lines(
    smoothing: "DenoisedSmoothing", scheme: "DenoisedSmoothing | PartitionedSmoothing", seconds: float, each: float, workers: int,
    memory: int | None, disk: int,
) -> list[str]:  # fmt: skip
    hours = (
        f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.1f} minutes" if seconds >= 90 else f"{seconds:.0f} s"
    )
    return [
        f"Cost: {scheme.members:,} models ({models_in_words(smoothing, getattr(scheme, 'parts', 1))}), {each * 1000:.0f} ms each here; "
        f"about {hours} with {workers} workers.",
        ("" if memory is None else f"Memory: about {memory / 2**20:.0f} MiB for each worker. ")
        + f"Disk: {disk / 1e6:.1f} MB of votes in {Path('OUT') / 'ledger.sqlite'}.",
    ]
