"""Several defenses of the digits against the same attackers, in one picture. Leave the numbers out for radii worth having."""

import sys
from pathlib import Path

import certidote

out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example") / "threat_map"
drawn = certidote.threat_map(out=out, models=20, n0=5, smoothed_parts=1, parts=10, workers=0)
for curve in drawn.record["curves"]:
    print(curve["method"], "against", curve["axis"])
print(drawn.out / "threat_map.svg")
