"""The whole story on digits: poison, sanitize, train thousands of models, certify. It takes minutes."""

import sys
from pathlib import Path

import certidote

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
print(*certidote.demo(out=folder / "demo", models=1000, targets=25).lines, sep="\n")
