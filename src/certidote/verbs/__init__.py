"""The public functions, one for each command; `cli.py` reads their signatures. Heavy imports happen inside.

Each returns what it made, says nothing, and reports through `progress`. Wrong input raises ValueError with one line that says what
to do; nothing half-written stays behind.
"""

from certidote.verbs.certification import Certified, Plan, certify
from certidote.verbs.denoisers import denoiser_info, denoiser_list, denoiser_train
from certidote.verbs.models import Trained, train
from certidote.verbs.reports import demo, report
from certidote.verbs.sanitizing import Sanitized, sanitize

__all__ = [
    "Certified",
    "Plan",
    "Sanitized",
    "Trained",
    "certify",
    "demo",
    "denoiser_info",
    "denoiser_list",
    "denoiser_train",
    "report",
    "sanitize",
    "train",
]
