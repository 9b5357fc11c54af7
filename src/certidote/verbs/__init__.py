"""The public functions, one for each command; `cli.py` reads their signatures. Heavy imports happen inside.

Each returns what it made, says nothing, and reports through `progress`. Wrong input raises ValueError with one line that says what
to do; nothing half-written stays behind.
"""

from certidote.verbs.benching import Benched, bench
from certidote.verbs.certification import Certified, Plan, Stopped, certify
from certidote.verbs.datasets import data_fetch, data_info
from certidote.verbs.defending import defense_list
from certidote.verbs.denoisers import denoiser_info, denoiser_list, denoiser_train
from certidote.verbs.exporting import Exported, export
from certidote.verbs.models import Trained, train
from certidote.verbs.packs import pack_export, pack_import, pack_info
from certidote.verbs.planning import Planned, plan
from certidote.verbs.poisoning import Poisoned, poison
from certidote.verbs.prediction import Predicted, predict
from certidote.verbs.replaying import Replayed, replay
from certidote.verbs.reports import Reported, demo, report
from certidote.verbs.runs import Merged, Status, merge, status
from certidote.verbs.sanitizing import Sanitized, sanitize
from certidote.verbs.threats import ThreatMap, threat_map
from certidote.verbs.verification import Verified, verify

__all__ = [
    "Benched",
    "Certified",
    "Exported",
    "Merged",
    "Plan",
    "Planned",
    "Poisoned",
    "Predicted",
    "Replayed",
    "Reported",
    "Sanitized",
    "Status",
    "Stopped",
    "ThreatMap",
    "Trained",
    "Verified",
    "bench",
    "certify",
    "data_fetch",
    "data_info",
    "defense_list",
    "demo",
    "denoiser_info",
    "denoiser_list",
    "denoiser_train",
    "export",
    "merge",
    "pack_export",
    "pack_import",
    "pack_info",
    "plan",
    "poison",
    "predict",
    "replay",
    "report",
    "sanitize",
    "status",
    "threat_map",
    "train",
    "verify",
]
