"""Certidote: train image classifiers on data you do not trust, and prove what a poisoner cannot change.

Each command of `certidote` is a function here, with the same name and parameters.
"""

from typing import Any

_VERBS = (
    "certify",
    "status",
    "merge",
    "train",
    "report",
    "demo",
    "defense_list",
    "denoiser_train",
    "denoiser_list",
    "denoiser_info",
    "predict",
    "export",
    "threat_map",
    "verify",
    "plan",
    "data_info",
    "data_fetch",
    "sanitize",
    "poison",
    "replay",
    "bench",
    "pack_info",
    "pack_import",
    "pack_export",
)
__all__ = [
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
    "load",
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


def __getattr__(name: str) -> Any:
    """Verbs are imported when they are first used: importing the package costs nothing."""
    if name in _VERBS:
        from certidote import verbs

        return getattr(verbs, name)
    if name == "load":
        from certidote.data import load

        return load
    raise AttributeError(f"module 'certidote' has no attribute {name!r}")
