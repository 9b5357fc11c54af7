"""Write the pack of poison_digits.py as the poisoning benchmark reads it, and make a pack of one of its folders again."""

import sys
from pathlib import Path
from shutil import rmtree

import certidote

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
rmtree(folder / "benchmark", ignore_errors=True)  # of an earlier run of this script
made = certidote.pack_export(folder / "pack", "digits-5-9", out=folder / "benchmark")
info = certidote.pack_import(made.folders[0], "digits-5-9", out=folder / "imported", epsilon="0.4347", force=True)
print(f"{len(made.folders)} folders; the first one again: {info['trials'][0]['goal']}")
