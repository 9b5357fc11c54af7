"""Train a tiny denoiser on trusted digits and print its model card. For real use leave the recipe out."""

import sys
from pathlib import Path

import certidote

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
folder.mkdir(parents=True, exist_ok=True)
recipe = folder / "tiny.toml"
recipe.write_text("steps = 60\nbatch = 32\n[architecture]\nchannels = 1\npatch = 2\nwidths = [16]\nblocks = [1]\n")
certidote.denoiser_train("digits:trusted", out=folder / "denoiser", recipe=str(recipe), force=True)
print((folder / "denoiser" / "card.md").read_text())
