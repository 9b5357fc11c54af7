"""Where a run stands, and whether its certificate follows from its votes. Run certify_digits.py first."""

import sys
from pathlib import Path

import certidote

run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
standing = certidote.status(run)
print(f"{standing.stage}: {standing.voted} of {standing.members} models have voted")
verified = certidote.verify(run / "certificate.json", run)
for finding in verified.findings:
    print(finding.verdict, finding.text)
print("verified" if verified.ok else "NOT VERIFIED")
