"""Certify digits, keeping the models. 25 models take seconds; use 1,000 for radii worth having."""

import sys
from pathlib import Path

import certidote

out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
certified = certidote.certify("digits", out=out, sigma=0.5, models=20, n0=5, keep_weights=True, workers=0)
print(certified.record["claim"])
print(f"largest possible radius: {certified.record['results']['cap']:.4f}")
