"""Write a run's report and figures again from its certificate. Run certify_digits.py first."""

import sys
from pathlib import Path

import certidote

run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
print(certidote.report(run).out)
