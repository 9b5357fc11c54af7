"""Export the vote of a certified run as ONNX. Needs certidote[onnx]; run certify_digits.py first."""

import sys
from pathlib import Path

import certidote

run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
exported = certidote.export(run, stack=True, out=run / "vote.onnx")
print(f"{exported.members} models in {exported.out}")
