"""One certificate from two machines: prepare, copy, train a part on each, merge, certify. Both "machines" are folders here."""

import shutil
import sys
from pathlib import Path

import certidote

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example") / "shared"
shutil.rmtree(folder, ignore_errors=True)
folder.mkdir(parents=True)
asked = {"sigma": 0.5, "models": 20, "n0": 5, "workers": 0}
certidote.certify("digits", out=folder / "prepared", prepare=True, **asked)
parts = [folder / "first", folder / "second"]
for part, members in zip(parts, ("0:13", "13:25"), strict=True):
    shutil.copytree(folder / "prepared", part)
    certidote.certify("digits", out=part, members=members, **asked)
merged = certidote.merge(parts, out=folder / "merged")
print(f"merged: {merged.voted} of {merged.members} models have voted")
print(certidote.certify("digits", out=folder / "merged", **asked).record["claim"])
