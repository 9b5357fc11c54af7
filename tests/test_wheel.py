"""What people install: the wheel, in an environment that holds nothing else, away from the source tree."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FIRST_STEP = """
import json
import certidote
from certidote.story import attack_part
from certidote.types import Silent
print(json.dumps({"file": certidote.__file__, "attack": attack_part(3, Silent(), command="a test")}))
"""


@pytest.mark.slow
def test_the_wheel_runs_the_first_step_of_the_demo_in_an_empty_environment(tmp_path: Path) -> None:
    def run(*command: str | Path) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run([str(part) for part in command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    for name in ("src", "pyproject.toml", "README.md", "LICENSE"):  # a copy: building leaves folders behind
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / "source" / name)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path / "dist", tmp_path / "source")
    (wheel,) = (tmp_path / "dist").glob("certidote-*.whl")
    venv.create(tmp_path / "empty", with_pip=True)
    binaries = tmp_path / "empty" / ("Scripts" if os.name == "nt" else "bin")
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    run(binaries / "python", "-m", "pip", "install", "--quiet", torch)
    run(binaries / "python", "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel)
    assert "digits" in run(binaries / "certidote", "denoiser", "list")
    told = json.loads(run(binaries / "python", "-W", "error", "-c", FIRST_STEP).splitlines()[-1])
    assert Path(told["file"]).is_relative_to(tmp_path / "empty")
    rows = {row["label"]: row["successes"] for row in told["attack"]["rows"]}
    assert rows["plain training, unpoisoned (control)"] == 0
    assert rows["plain training, poisoned"] >= 1
