"""Write a denoised copy of the digits with a list of images that moved unusually far: everyday use, without a certificate."""

import csv
import sys
from pathlib import Path

import certidote

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
folder.mkdir(parents=True, exist_ok=True)
made = certidote.sanitize("digits", out=folder / "clean", sigma=0.1, rank_suspicious=True, force=True)
print(made.manifest["caution"])
with open(made.out / "suspicious.csv", newline="", encoding="utf-8") as file:
    for row in list(csv.DictReader(file))[:3]:
        print(f"image {row['file']} of class {row['class']} moved by {float(row['movement_l2']):.3f} in l2")
