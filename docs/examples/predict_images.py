"""Ask the models of a certified run about images, and print what is proved. Run certify_digits.py first."""

import sys
from pathlib import Path

import certidote

run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
result = certidote.predict(run, "digits:test")
for row in result.rows[:5]:
    print(row["image"], row["answer"] or "abstains", f"{row['votes']} of {row['of']} votes, radius {row['radius']:.4f}")
print("Valid if:", *result.assumptions, sep="\n  ")
