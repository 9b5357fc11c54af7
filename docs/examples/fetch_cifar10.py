"""Download CIFAR-10 (170 MB): resumed if it breaks off, checked against its published MD5 sum."""

import sys
from pathlib import Path

import certidote

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
print(certidote.data_fetch("cifar10", out=folder / "cifar10"))
