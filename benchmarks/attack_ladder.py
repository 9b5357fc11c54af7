"""Do the attacks work at all? Poisons and victims on CIFAR-10 as JPEG with the compact network: `python benchmarks/attack_ladder.py`, resumable.

Each rung is two commands of the library, `poison` and `replay`, and leaves replay.json and trials.csv in results/attacks: successes with a Wilson
interval, the control on clean data, and clean accuracy. Three disjoint parts of the training images serve as what a frozen extractor has learned from (40,000), what a
head is fitted to (2,500), and what victims train on from scratch (10,000, the fixed subset).
"""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import reference_frogs

from certidote.benchmark.materials import prepare
from certidote.benchmark.scales import EXTRACTOR, HEADS
from certidote.results.files import write_text

SCRATCH_IMAGES = 10_000


@dataclass(frozen=True)
class Rung:
    """One attack.

    Attributes:
        poison: options of `poison`.
        epsilon: in linf.
        exported: the name of another rung, whose pack is written in the poisoning benchmark's form and read again; nothing is crafted.
    """

    name: str
    attack: str
    data: str
    poison: tuple[str, ...] = ()
    epsilon: str = "16/255"
    exported: str = ""


VICTIMS = str(Path(__file__).with_name("ladder-victims.toml").relative_to(Path(__file__).parents[1]))
"""Recipe of those that train from scratch, as named from the top of the repository."""

UNAUGMENTED = VICTIMS.replace(".toml", "-unaugmented.toml")

AUGMENTED = ("--option", "border=reflection")
"""Attackers augment as victims do: shifts of up to 4 pixels, mirrored at the border, and flips."""

FROZEN = ("--scenario", "transfer", "--pretrain", "extractor.npz", "--recipe", "compact", "--targets", "10")
TRANSFER = (*FROZEN, "--num-poisons", "25")
FEW = (*FROZEN, "--num-poisons", "5")
"""So few that it takes more than a projected watermark to succeed, and loops can be told apart."""

RUNGS = (
    Rung("bullseye-polytope", "bullseye-polytope", "heads.npz", TRANSFER),
    Rung("bullseye-polytope-exported", "bullseye-polytope", "heads.npz", exported="bullseye-polytope"),
    Rung("poison-frogs", "poison-frogs", "heads.npz", FEW, epsilon="8/255"),
    Rung("poison-frogs-reference", reference_frogs.NAME, "heads.npz", FEW, epsilon="8/255"),
    Rung(
        "witches-brew", "witches-brew", f"cifar10-jpeg.tar.xz#{SCRATCH_IMAGES}",
        ("--scenario", "scratch", "--recipe", VICTIMS, "--targets", "10", "--poison-fraction", "0.01", "--option", "restarts=1", *AUGMENTED),
    ),
    Rung(
        "witches-brew-unaugmented", "witches-brew", f"cifar10-jpeg.tar.xz#{SCRATCH_IMAGES}",
        ("--scenario", "scratch", "--recipe", UNAUGMENTED, "--targets", "10", "--poison-fraction", "0.01", "--option", "restarts=1",
         "--option", "shift=0", "--option", "flip=false"),
    ),
    Rung(
        "witches-brew-500-poisons", "witches-brew", f"cifar10-jpeg.tar.xz#{SCRATCH_IMAGES}",
        ("--scenario", "scratch", "--recipe", VICTIMS, "--targets", "10", "--poison-fraction", "0.05", "--option", "restarts=1", *AUGMENTED),
    ),
    Rung(
        "sleeper-agent", "sleeper-agent", f"cifar10-jpeg.tar.xz#{SCRATCH_IMAGES}",
        ("--scenario", "scratch", "--recipe", VICTIMS, "--targets", "5", "--poison-fraction", "0.01", "--trigger", "bernoulli", *AUGMENTED),
    ),
    Rung(
        "witches-brew-muon", "witches-brew", f"cifar10-jpeg.tar.xz#{SCRATCH_IMAGES}",
        ("--scenario", "scratch", "--recipe", "compact", "--targets", "10", "--poison-fraction", "0.01", "--option", "restarts=1", *AUGMENTED,
         "--option", "shift=0.0625"),
    ),
)  # fmt: skip


def certidote(*arguments: str) -> None:
    """Our command line, with the benchmark's loop among the attacks; in this process, so that rungs on one extractor train it once."""
    print("certidote", " ".join(arguments), flush=True)
    sys.argv = ["certidote", *arguments]
    try:
        reference_frogs.main()
    except SystemExit as end:
        if end.code:
            raise


def through_files(pack: Path, data: str, folder: Path, out: Path, attack: str) -> None:
    """A pack's poisons written as the poisoning benchmark reads them, and read again."""
    if not folder.exists():
        certidote("pack", "export", str(pack), data, "--out", str(folder))
    certidote("pack", "import", str(folder), data, "--out", str(out), "--scenario-of", str(pack), "--attack", attack)


def place(name: str, data: Path, runs: Path) -> str:
    """Of a data set that this script makes, or is given."""
    return str(runs / name) if name.endswith(".npz") else str(data / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rungs", nargs="*", help=f"default: all of {', '.join(rung.name for rung in RUNGS)}")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CERTIDOTE_DATA", "../shared/data")))
    parser.add_argument("--runs", type=Path, default=Path("runs/attack-ladder"))
    parser.add_argument("--out", type=Path, default=Path("results/attacks"))
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--workers", default="0")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    prepare({EXTRACTOR, HEADS}, options.data, options.runs)

    def where(name: str) -> str:
        return place(name, options.data, options.runs)

    for rung in RUNGS:
        if options.rungs and rung.name not in options.rungs:
            continue
        pack, replayed = options.runs / f"{rung.name}-pack", options.runs / f"{rung.name}-replay"
        given = tuple(where(part) if part.endswith(".npz") else part for part in rung.poison)
        shared = ("--seed", str(options.seed), "--workers", options.workers)
        if not pack.exists() and rung.exported:
            exported = options.runs / f"{rung.exported}-pack"
            through_files(exported, where(rung.data), options.runs / f"{rung.exported}-files", pack, rung.attack)
        elif not pack.exists():
            certidote("poison", rung.attack, where(rung.data), "--epsilon", rung.epsilon, "--out", str(pack), *given, *shared)
        certidote("replay", str(pack), where(rung.data), "--out", str(replayed), *shared)
        kept = options.out / rung.name
        kept.mkdir(parents=True, exist_ok=True)
        for file in ("replay.json", "trials.csv"):  # where they lay on this machine is nobody's business
            text = (replayed / file).read_text(encoding="utf-8")
            write_text(kept / file, text.replace(str(options.runs), "runs/attack-ladder").replace(str(options.data), "data"))


if __name__ == "__main__":
    main()
