"""Craft Bullseye Polytope poisons for four trials on the digits 5 to 9, and look at what the pack holds. Seconds."""

import sys
from pathlib import Path

import certidote

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
folder.mkdir(parents=True, exist_ok=True)
certidote.poison(
    "bullseye-polytope",
    "digits-5-9",  # class 0 is the digit 5; extractors are fitted to the digits 0 to 4
    out=folder / "pack",
    targets=4,
    num_poisons=10,
    epsilon="0.4347",  # has the l2 norm of 16/255 on photographs of 32x32 pixels
    option=["steps=100", "step_size=0.03"],
    seed=1,
    force=True,
)
info = certidote.pack_info(folder / "pack")
for trial in info["trials"]:
    print(f"{trial['poisons']} poisons: {trial['goal']}")
