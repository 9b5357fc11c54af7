"""What a GPU is asked to measure first, in an order of worth, cut into pieces that each fit into minutes.

`python benchmarks/gpu_campaign.py --minutes 9` works through the stages below from where the last call stopped, and stops in time; call it again to go
on, in the same folder or in a copy of it. Stages are plain commands of the library, which resume by themselves: nothing is lost but what
a command had not yet committed. With `--together` they run side by side, since one small network does not fill a large card. Ledgers of several
machines are joined with `certidote merge`.

Stages: speed (seconds a member of the stage "whole", as a share of the card's measured peak), larger (a denoiser of as many bytes as the package has room for),
whole (sigma 0.25 on all 50,000 images, a thousand models), tables (cells of the paper's tables on photographs that `results/bench` does not have yet; their records, with those, in `OUT/records`), sigmas (0.1, 0.5 and 1 on the fixed 10,000 images), attacks (the ladder for ResNet-18: Witches' Brew first), certificate (sigma 0.25
on the fixed 10,000 images), utility (benchmarks/utility.py), denoiser (those of the package once more).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import reference_frogs
import torch
from machine import facts
from photographs import BATCH, counted

from certidote.benchmark import records
from certidote.diffusion.denoiser import load as load_denoiser
from certidote.engine.ledger import Ledger
from certidote.numerics import DType, fast_dtype
from certidote.results.files import write_json
from certidote.streams import Key
from certidote.training.pooled import PooledTrainer
from certidote.training.recipe import RECIPES, Recipe, load_recipe
from certidote.types import Json, Lineage, View, digest_of

STAGES = ("speed", "larger", "whole", "tables", "sigmas", "attacks", "certificate", "utility", "denoiser")
SPEED = "speed-0.25"
"""Folder of the few members whose seconds are looked at."""

MANY = 1_000_000
"""Commits, more than any ledger here has."""

STOP_SECONDS = 20
"""Given to a command to commit what it has, before it is killed."""

WHOLE_RECIPE = Path(os.path.relpath(Path(__file__).with_name("member-50000.toml")))
DENOISER_RECIPE, LARGE_RECIPE = (Path(__file__).with_name(f"{name}.toml") for name in ("denoiser-32", "denoiser-32-large"))
TABLES = ("table2", "adaptive", "table1", "between", "table5", "table3", "table4")
"""On photographs, in the order in which they are filled."""
REHEARSED_CELLS = {"table2": "poison-frogs-transfer-white-box/none", "adaptive": "poison-frogs-transfer-white-box-through-0.1"}
KEPT = Path(__file__).parents[1] / "results" / "bench" / "cifar10-compact"
"""Records that tables start from."""

REHEARSED = {"steps": 20, "batch": 32, "architecture": {"channels": 3, "patch": 2, "widths": [32, 32], "blocks": [1, 1]}}


def recipes(small: bool) -> dict[str, str]:
    """The denoisers' recipes, TOML by file name."""
    read = {
        name: tomllib.loads(path.read_text(encoding="utf-8"))
        for name, path in (("denoiser.toml", DENOISER_RECIPE), ("denoiser-large.toml", LARGE_RECIPE))
    }
    return {name: _toml({**recipe, **(REHEARSED if small else {})}) for name, recipe in read.items()}


def _toml(recipe: Json) -> str:
    """Numbers first, then the tables."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in recipe.items() if not isinstance(value, dict)]
    for name, table in recipe.items():
        if isinstance(table, dict):
            lines += [f"\n[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Step:
    """One command, and the folder that an earlier one must have made for it, if any.

    Attributes:
        arguments: of `certidote`, or of python if `script`.
        reference: `certidote` as `reference_frogs` starts it, with one more attack.
    """

    stage: str
    arguments: tuple[str, ...]
    needs: Path | None = None
    script: bool = False
    reference: bool = False

    @property
    def command(self) -> list[str]:
        """To run it."""
        if self.script:
            return [sys.executable, *self.arguments]
        if self.reference:
            return [sys.executable, reference_frogs.__file__, *self.arguments]
        return [sys.executable, "-m", "certidote.cli", *self.arguments]


def steps_of(data: Path, out: Path, device: str, small: bool, denoiser: str = "tiny-imagenet-32") -> list[Step]:
    """All commands, in order.

    Args:
        data: folder with the two archives.
        small: a rehearsal: parts of the data sets, few models, the compact network.
        denoiser: of the certificates.
    """
    archive, others = str(data / "cifar10-jpeg.tar.xz"), f"{data / 'tinyimagenet32-jpeg.tar.xz'}{'#2000' if small else ''}"
    few, many = (f"{archive}#600", f"{archive}#700") if small else (f"{archive}#10000", archive)
    heads = f"{archive}#600" if small else f"{archive}#2500"  # what frozen features are fitted to, as in the poisoning benchmark
    wide, victims = ("compact", "compact") if small else (str(WHOLE_RECIPE), "conservative")
    common = ("--device", device)
    tests = ("--test", f"{archive}:test#500") if small else ()

    def certify(stage: str, name: str, images: str, sigma: str, recipe: str, n0: str, n: str, *extra: str) -> Step:
        models = ("--models", "12", "--n0", "2") if small else ("--models", n, "--n0", n0)
        run = ("--out", str(out / name), "--sigma", sigma, "--denoiser", denoiser, "--recipe", recipe, "--seed", "25")
        return Step(stage, ("certify", images, *run, *models, *tests, *common, *extra))

    def train(name: str, images: str, recipe: str, stage: str = "denoiser") -> Step:
        made = ("--recipe", str(out / recipe), "--seed", "32", "--out", str(out / name))
        return Step(stage, ("denoiser", "train", images, *made, *common))

    def attack(name: str, attacked: str, targets: int, *options: str, reference: bool = False) -> list[Step]:
        pack, number = out / f"pack-{name}", "2" if small else str(targets)
        crafted = (
            "poison",
            name,
            attacked,
            "--out",
            str(pack),
            "--targets",
            number,
            "--seed",
            "8",
            "--dtype",
            "auto",
            *options,
            *common,
        )
        return [Step("attacks", crafted, reference=reference), replayed(name, attacked)]

    def replayed(name: str, attacked: str) -> Step:
        pack, run = out / f"pack-{name}", out / f"replay-{name}"
        return Step("attacks", ("replay", str(pack), attacked, "--out", str(run), "--seed", "8", *common), pack)

    def exported(name: str, attacked: str) -> list[Step]:
        """A pack that left in the poisoning benchmark's form and came back must be as successful as it was."""
        pack, files, again = out / f"pack-{name}", out / f"files-{name}", f"{name}-exported"
        back = ("pack", "import", str(files), attacked, "--out", str(out / f"pack-{again}"), "--scenario-of", str(pack))
        left = Step("attacks", ("pack", "export", str(pack), attacked, "--out", str(files)), pack)
        return [left, Step("attacks", back, files), replayed(again, attacked)]

    def table(name: str) -> Step:
        cells = ("--scale", "digits", "--trials", "1", "--cell", REHEARSED_CELLS[name]) if small else ("--scale", "cifar10-compact")
        places = ("--data", str(data), "--out", str(out / "bench"), "--records", str(out / "records"))
        return Step("tables", ("bench", name, *cells, *places, *common))

    quick = ("--option", "steps=5") if small else ()
    frozen = ("--scenario", "transfer", "--pretrain", others, "--recipe", victims)
    transfer = (*frozen, "--num-poisons", "25")
    frogs = (*frozen, "--num-poisons", "5", "--epsilon", "8/255")
    # 1 % of the fixed 10,000 images, as on a processor: with all 50,000 the victims of one rung would take an hour.
    scratch = ("--scenario", "scratch", "--recipe", victims, "--poison-fraction", "0.01")
    augmented = ("--option", "border=reflection")  # as victims are
    utility = (
        "--data",
        str(data),
        "--out",
        str(out / "utility"),
        *common,
        *(("--only", "noise only", "--seeds", "1") if small else ()),
    )
    return [
        certify("speed", SPEED, many, "0.25", wide, "100", "900", "--members", f"0:{2 if small else 24}"),
        train("tiny-imagenet-32-large", others, "denoiser-large.toml", "larger"),
        certify("whole", "whole-0.25", many, "0.25", wide, "100", "900"),
        *(table(name) for name in (REHEARSED_CELLS if small else TABLES)),
        *(certify("sigmas", f"sigma-{sigma}", few, sigma, "compact", "50", "200") for sigma in ("0.1", "0.5", "1")),
        *attack("witches-brew", few, 10, *scratch, "--option", "restarts=1", *augmented, *quick),
        *attack("sleeper-agent", few, 5, *scratch, "--trigger", "bernoulli", *augmented, *quick),
        *attack("bullseye-polytope", heads, 10, *transfer, *quick),
        *exported("bullseye-polytope", heads),
        *attack("poison-frogs", heads, 10, *frogs, *quick),
        *attack(reference_frogs.NAME, heads, 10, *frogs, *quick, reference=True),
        certify("certificate", "sigma-0.25", few, "0.25", "compact", "50", "200"),
        Step("utility", (str(Path(__file__).with_name("utility.py")), *utility), script=True),
        train("tiny-imagenet-32", others, "denoiser.toml"),
        train("cifar10-32", few if small else many, "denoiser.toml"),
    ]


def name_of(step: Step) -> str:
    """Of its files: the same in every version of this list of steps."""
    asked = digest_of({"arguments": list(step.arguments)})
    return f"{step.stage}-{asked[:8]}"


def start_records(out: Path, kept: Path = KEPT) -> None:
    """Lay the records that are there already where tables add to them; what an earlier call left there stays, unless it has fewer trials.

    Raises: ValueError if there is no folder of records, as all cells would be done again.
    """
    if not kept.is_dir():
        raise ValueError(f"no records in {str(kept)!r}; bring that folder here, or make it for tables that start from nothing")
    for record in kept.glob("*/*/replay.json"):
        here = out / "records" / kept.name / record.parent.relative_to(kept)
        if _trials(here) < _trials(record.parent):
            shutil.rmtree(here, ignore_errors=True)
            half = here.with_name(f"{here.name}.half")
            shutil.rmtree(half, ignore_errors=True)
            shutil.copytree(record.parent, half)
            half.rename(here)


def _trials(folder: Path) -> int:
    """Of a record; a refusal counts as one that nothing can be added to."""
    kept = records.read(folder)
    return -1 if kept is None else 1_000_000 if kept.refused else int(kept.record["finished"])


def run(step: Step, seconds: float, log: Path) -> tuple[int | None, float]:
    """The command's status (None if time ran out) and the seconds it took."""
    begin = time.perf_counter()
    with open(log, "ab") as file:
        process = subprocess.Popen(step.command, stdout=file, stderr=subprocess.STDOUT)
        try:
            status: int | None = process.wait(max(1.0, seconds - STOP_SECONDS))
        except subprocess.TimeoutExpired:
            process.terminate()
            status = None
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    return status, time.perf_counter() - begin


def peak_tflops(device: str) -> float:
    """The fastest of some matrix products in bfloat16, TFLOP/s."""
    best = 0.0
    for side in (2048, 4096, 8192) if device == "cuda" else (512, 1024):
        left, right = (torch.ones(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
        for _ in range(5):
            begin = time.perf_counter()
            left @ right
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, 2 * side**3 / (time.perf_counter() - begin) / 1e12)
    return best


def speed(ledger: Path, recipe: Recipe, images: int, tests: int, peak: float, dtype: DType) -> Json:
    """Seconds of one member in this ledger, its TFLOP (noised images denoised, trained on, and test images answered), and the share of the peak.

    Seconds pass between the commits of jobs; the first job, in which steps are recorded, counts only if it is the only one. Operations are counted on
    the CPU.
    """
    with Ledger(ledger, read_only=True) as opened:
        (first, _), *later = opened.commits(MANY)
        members, in_jobs = opened.gap_free(), opened.seconds()[0]
    seconds = (later[-1][0] - first) / sum(number for _, number in later) if later else in_jobs / members
    size = recipe.batch_size
    denoiser = load_denoiser("tiny-imagenet-32", dtype=dtype)
    pixels = torch.rand(size, 3, 32, 32)
    noisy = pixels[:BATCH]
    view = View(pixels, torch.zeros(size, dtype=torch.int64), 10, Lineage())
    trainer = PooledTrainer(recipe.model_copy(update={"epochs": 1, "drops": ()}), dtype)
    stack = trainer.fit([view], [Key(0)], Key(0))
    work = counted(lambda: denoiser(noisy, torch.full((len(noisy),), 0.25))) / len(noisy) * images
    work += counted(lambda: trainer.fit([view], [Key(0)], Key(0))) / size * images * recipe.epochs
    work += counted(lambda: stack(pixels)) / size * tests
    found = {"members": members, "seconds": seconds, "tflop": work / 1e12, "peak_tflops": peak, "recipe": recipe.to_json()}
    return {**found, "fraction_of_peak": work / 1e12 / seconds / peak}


@dataclass
class Campaign:
    """The folder of a campaign, and what this call of it has done."""

    out: Path
    device: str
    small: bool
    deadline: float
    peak: float
    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def work(self, steps: Sequence[Step]) -> None:
        """One step after the other, as long as there is time."""
        for step in steps:
            marker = self.out / f"{name_of(step)}.json"
            if marker.exists() and json.loads(marker.read_text())["arguments"] == list(step.arguments):
                self.done.append(step.stage)
                continue
            left = self.deadline - time.perf_counter()
            if left >= 2 * STOP_SECONDS and (step.needs is None or step.needs.exists()):
                self._one(step, left, marker)

    def _one(self, step: Step, left: float, marker: Path) -> None:
        print(f"{step.stage}: {' '.join(step.command)}", flush=True)
        log = self.out / f"{name_of(step)}.log"
        status, seconds = run(step, left, log)
        print(f"  {step.stage} {'stopped' if status is None else f'status {status}'} after {seconds:.0f} s", flush=True)
        if status == 0:
            write_json(marker, {"stage": step.stage, "arguments": list(step.arguments), "seconds": seconds})
            self.done.append(step.stage)
            if step.stage == "speed":
                self._tell_speed()
        elif status is not None:
            self.failed.append(f"{step.stage} ({log})")

    def _tell_speed(self) -> None:
        recipe, images, tests = (RECIPES["compact"], 700, 500) if self.small else (load_recipe(str(WHOLE_RECIPE)), 50_000, 10_000)
        found = speed(self.out / SPEED / "ledger.sqlite", recipe, images, tests, self.peak, fast_dtype(self.device))
        write_json(self.out / f"{SPEED}.json", {**found, **facts()})
        print(f"  {found['seconds']:.2f} s a member, {found['fraction_of_peak']:.1%} of the peak", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", choices=[*STAGES, []], help="default: all, in order")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CERTIDOTE_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-campaign"))
    parser.add_argument("--minutes", type=float, default=9.0, help="after which this call stops")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--denoiser", default="tiny-imagenet-32", help="of the certificates: a name or a folder")
    parser.add_argument("--small", action="store_true", help="a rehearsal on parts of the data, in minutes on a CPU")
    parser.add_argument("--together", action="store_true", help="stages side by side, not in order")
    options = parser.parse_args()
    deadline = time.perf_counter() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    for name, recipe in recipes(options.small).items():
        (options.out / name).write_text(recipe, encoding="utf-8")
    if "tables" in (options.stages or STAGES) and not options.small:
        start_records(options.out)
    record: Json = {"peak_tflops": peak_tflops(options.device), **facts()}
    write_json(options.out / f"card-{int(time.time())}.json", record)
    print(f"peak: {record['peak_tflops']:.1f} TFLOP/s in bfloat16", flush=True)
    campaign = Campaign(options.out, options.device, options.small, deadline, record["peak_tflops"])
    steps = steps_of(options.data, options.out, options.device, options.small, options.denoiser)
    stages = [stage for stage in STAGES if not options.stages or stage in options.stages]
    lanes = [[step for step in steps if step.stage == stage] for stage in stages]
    with ThreadPoolExecutor(len(lanes) if options.together else 1) as pool:
        list(pool.map(campaign.work, lanes))
    print(f"finished: {', '.join(campaign.done) or 'nothing yet'}")
    if campaign.failed:
        sys.exit(f"failed: {', '.join(campaign.failed)}")


if __name__ == "__main__":
    main()
