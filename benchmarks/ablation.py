"""What does the denoiser buy? Five denoisers at four noise levels on the digits, each a run of 100 + 1,000 models.

`python benchmarks/ablation.py` goes on with an interrupted run, keeps every finished ledger in results/ablation as a compressed file
written once, and draws docs/ablation.svg and the table from what is kept. `--figure` draws only.
"""

import argparse
import json
from pathlib import Path

from certidote import verbs
from certidote.engine.evidence import COMPRESSED, pack
from certidote.engine.local import Pool
from certidote.progress import for_stream
from certidote.results.files import write_json

SIGMAS = (0.1, 0.25, 0.5, 1.0)
DDPM = Path("runs/tiny-ddpm")
DENOISERS = {
    "none": ("noise only", "none"),
    "linear": ("linear MMSE", "linear-mmse:digits:trusted"),
    "kernel": ("kernel posterior mean", "kernel:digits:trusted"),
    "network": ("our network", "digits"),
    "ddpm": ("DDPM", str(DDPM)),
}
"""Name of the run -> what figures call it, and what `certidote certify --denoiser` takes."""

KEPT = Path("results/ablation")


def certify_all(runs: Path, workers: int, only: list[str], sigmas: list[float]) -> None:
    with Pool(workers) as pool:
        for name in only:
            label, denoiser = DENOISERS[name]
            if name == "ddpm":
                from tiny_ddpm import train

                train(DDPM)
            for sigma in sigmas:
                kept = KEPT / f"{name}-{sigma:g}"
                if (kept / COMPRESSED).is_file():
                    continue
                out = runs / kept.name
                made = verbs.certify(
                    "digits", out=out, sigma=sigma, models=1000, n0=100, denoiser=denoiser, dtype="float32", pool=pool,
                    progress=for_stream(), label=f"{label}, sigma {sigma:g}",
                )  # fmt: skip
                assert isinstance(made, verbs.Certified)
                kept.mkdir(parents=True, exist_ok=True)
                write_json(kept / "certificate.json", made.record)
                pack(out / "ledger.sqlite", kept / COMPRESSED)


def kept_records() -> dict[str, dict[float, dict]]:
    """Denoiser -> sigma -> certificate, of the runs that are kept."""
    found: dict[str, dict[float, dict]] = {}
    for name in DENOISERS:
        for sigma in SIGMAS:
            path = KEPT / f"{name}-{sigma:g}" / "certificate.json"
            if path.is_file():
                found.setdefault(name, {})[sigma] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(DENOISERS), choices=list(DENOISERS))
    parser.add_argument("--sigmas", nargs="*", type=float, default=list(SIGMAS))
    parser.add_argument("--figure", action="store_true", help="draw from the kept records, train nothing")
    options = parser.parse_args()
    if not options.figure:
        options.runs.mkdir(parents=True, exist_ok=True)
        certify_all(options.runs, options.workers, options.only, options.sigmas)


if __name__ == "__main__":
    main()
