"""The few immutable values, and the protocols, that everything passes around.

Pixels are stored as uint8 and computed with as float32 in [0, 1]; sigma, radii and epsilon are in the same units.
"""

from certidote.types.ballots import Ballots, Prediction, Provenance, Retrained
from certidote.types.certificates import Assumption, Certificate, CountCertificate, PartVotes, Unit, Unproved, Verdict
from certidote.types.contracts import Filter, KeepsRankings, PreparesInputs, Scheme, Stack, Trainer, TrainsInGroups
from certidote.types.datasets import SHORT_BITS, ImageDataset, as_pixels, content_hashes, short_hashes, shortened
from certidote.types.denoisers import Denoiser, DenoiserCard
from certidote.types.lineage import InputReads, Lineage, Movement, Reads, Start, Traced, View, joined, rows_digest
from certidote.types.poisons import (
    Attack,
    AttackTogether,
    Budget,
    BudgetExceeded,
    DefendsTogether,
    DifferentiableDefense,
    FeatureExtractor,
    Goal,
    Knowledge,
    Norm,
    Parts,
    Poison,
    Retrain,
    Surrogate,
    Target,
    Task,
    Trigger,
)
from certidote.types.progress import Progress, Silent
from certidote.types.untrusted import BUCKETS, MAX_PICTURES, SealedInputs, Untrusted
from certidote.types.values import ABSTAIN, Images, Json, digest_of

__all__ = [
    "ABSTAIN",
    "BUCKETS",
    "MAX_PICTURES",
    "SHORT_BITS",
    "Assumption",
    "Attack",
    "AttackTogether",
    "Ballots",
    "Budget",
    "BudgetExceeded",
    "Certificate",
    "CountCertificate",
    "DefendsTogether",
    "Denoiser",
    "DenoiserCard",
    "DifferentiableDefense",
    "FeatureExtractor",
    "Filter",
    "Goal",
    "ImageDataset",
    "Images",
    "InputReads",
    "Json",
    "KeepsRankings",
    "Knowledge",
    "Lineage",
    "Movement",
    "Norm",
    "PartVotes",
    "Parts",
    "Poison",
    "Prediction",
    "PreparesInputs",
    "Progress",
    "Provenance",
    "Reads",
    "Retrain",
    "Retrained",
    "Scheme",
    "SealedInputs",
    "Silent",
    "Stack",
    "Start",
    "Surrogate",
    "Target",
    "Task",
    "Traced",
    "Trainer",
    "TrainsInGroups",
    "Trigger",
    "Unit",
    "Unproved",
    "Untrusted",
    "Verdict",
    "View",
    "as_pixels",
    "content_hashes",
    "digest_of",
    "joined",
    "rows_digest",
    "short_hashes",
    "shortened",
]
