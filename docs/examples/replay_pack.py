"""Try the pack of poison_digits.py on victims, without a defense and after sanitizing once: the control beside it. Seconds."""

import sys
from pathlib import Path

import certidote

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
for defense, sigma in (("none", None), ("denoise", 0.5)):
    found = certidote.replay(
        folder / "pack", "digits-5-9", out=folder / f"replay-{defense}", defense=defense, sigma=sigma, seed=1, workers=0
    )
    print(f"{defense}:", *found.lines, sep="\n  ")
