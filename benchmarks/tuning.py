"""What was tried for each defense of the catalogue on a clean validation split of the digits, and what was chosen.

`python benchmarks/tuning.py` goes on with an interrupted run: every row of results/tuning/digits.json (a defense, what is changed about
it, a seed) is written as soon as it is measured. Models learn from the 500 training images of the digits, nothing of them is poisoned, and
are asked about the 897 images of the split "trusted"; test images are never looked at. `--summary` prints the choices again.

How a defense learns (rates, epochs, batches, rules) may be chosen by this accuracy. How strong it is (a budget, a level of noise, a number of
parts) may not, since no strength at all would win: these settings are the source's, and their rows only say what they cost. The catalogue's setting may be
worse than the best way to learn by `TOLERANCE` at most; a way that is passed over all the same is in `tuning_grid.REJECTED`, with the reason.

Times are seconds of the process on one core, divided by those of one plain training measured just before. Those of the defenses as
they are in the catalogue go into the package too (src/certidote/defenses/costs.json), and `certidote defenses` shows them.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import facts
from pages import fill_table
from rich.progress import track
from tuning_grid import (
    GRID,
    OTHER_RECIPE,
    OWN,
    PASSES,
    RECIPE,
    REJECTED,
    SHARE,
    VARIANTS,
    Made,
    Tried,
    denoiser,
    kind_of,
    recipe_of,
    spelled,
)

from certidote.data.digits import load_digits
from certidote.defenses import catalogue
from certidote.engine.jobs import Payload, plan, work
from certidote.results.files import write_json
from certidote.streams import Key
from certidote.training.pooled import trainer_for
from certidote.types import Ballots, Json, Provenance, Untrusted

RECORD = Path("results/tuning/digits.json")
COSTS = Path("src/certidote/defenses/costs.json")
PAGE = Path("docs/tuning.md")
SEEDS = 3
CATALOGUE_PASSES = {
    **dict.fromkeys(
        (
            "total-variation", "deep-knn", "deep-knn-majority", "spectral", "epic", "adversarial-training", "friends", "mixup", "cutmix", "dp-instahide",
        ), catalogue.PASSES,
    ),
    **dict.fromkeys(("blur", "activation-clustering"), catalogue.MORE_PASSES),
}  # fmt: skip
"""How many times the recipe's epochs the catalogue takes, of those of which it is not 1."""
TOLERANCE = 2 * (2 * 0.03 / 3 / 897 / SEEDS) ** 0.5
"""How much worse than the best way to learn a setting may be: 0.0054, two standard errors of the difference between two settings that err on 3 % of
the validation images, on two thirds of these alike. It does not grow with the spread between seeds, so that noise excuses nothing."""
WORDS = {
    "learning": "how it learns: chosen by accuracy",
    "strength": "another strength: not chosen by accuracy",
    "recipe": "with another network: not chosen by accuracy, says whether a way to learn holds there",
    "catalogue": "as in the catalogue",
}


@dataclass(frozen=True, eq=False)
class Bench:
    """What everything is measured on: training and validation images, and the seeds' common root."""

    train: Any
    validation: Any

    def made(self, name: str, tried: Tried | None) -> Made:
        """Scheme and trainer of the catalogue's own setting (None) or of one that was tried."""
        trainer = trainer_for(recipe_of(tried or Tried()), "float32")
        if name in VARIANTS:
            return VARIANTS[name](), trainer
        setting = catalogue.Setting(denoiser, None, 1, "cpu", SHARE, len(self.train), image_shape=self.train.image_shape)
        if tried is None:
            return catalogue.DEFENSES[name](trainer, setting)
        setting = replace(setting, **tried.setting)
        if name in OWN and (tried.own or tried.learning):
            return OWN[name](trainer, setting, **tried.own)
        return catalogue.DEFENSES[name](trainer, setting)

    def run(self, made: Made, seed: int, trusted: Sequence[int] = ()) -> tuple[float, float]:
        """Accuracy on validation images, and seconds of this process."""
        scheme, trainer = made
        payload = Payload(scheme, trainer, Untrusted(self.train, trusted), self.validation.images, Key(seed) / "tuning")
        begin = time.process_time()
        records = [work(payload, job) for job in plan(scheme.members, trainer.stack_size)]
        seconds = time.process_time() - begin
        votes, failed = (np.concatenate([getattr(record, part) for record in records]) for part in ("votes", "failed"))
        ranks = None if records[0].ranks is None else np.concatenate([record.ranks for record in records])
        ids = np.zeros(len(votes), dtype=np.int64)
        ballots = Ballots(votes, failed, self.train.num_classes, (), ids, Provenance("", "given", None), ranks)
        return float((scheme.aggregate(ballots).labels == self.validation.labels.numpy()).mean()), seconds


def rows_wanted() -> Iterator[tuple[str, Tried | None, int]]:
    """Seed by seed, so that an interrupted run has tried everything a few times."""
    for seed in range(SEEDS):
        for name in (*catalogue.DEFENSES, *VARIANTS):
            for tried in (None, *GRID.get(name, [])):
                yield name, tried, seed


def measure(bench: Bench) -> None:
    """Measure what is not in the record yet, a row at a time."""
    kept = json.loads(RECORD.read_text()) if RECORD.is_file() else {"rows": []}
    done = {(row["defense"], row["setting"], row["seed"]) for row in kept["rows"]}
    wanted = [each for each in rows_wanted() if (each[0], spelled(each[1]), each[2]) not in done]
    bench.run(bench.made("none", None), 0)  # the first training also warms up the process
    for name, tried, seed in track(wanted, description="settings"):
        _, plain = bench.run(bench.made("none", None), seed)
        made = bench.made(name, tried)
        accuracy, seconds = bench.run(made, seed, range(50) if "--trusted" in name else ())
        privacy = made[1].describe().get("privacy")
        row: Json = {
            "defense": name, "setting": spelled(tried), "kind": kind_of(tried, name), "seed": seed, "accuracy": accuracy,
            "seconds": seconds, "seconds_plain": plain, "members": made[0].members,
        }  # fmt: skip
        kept["rows"].append(row | ({} if privacy is None else {"epsilon": privacy["epsilon"]}))
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        write_json(RECORD, {"rows": kept["rows"]})
    finish(kept["rows"], facts())


def finish(rows: list[Json], about_the_run: Json) -> None:
    """Write choices and sanity figures into the record, costs into the package, and the table into its page."""
    chosen = choices(rows)
    plain = chosen["none"]["accuracy"]
    floors = {"adversarial-training": 0.90, "friends": 0.97}
    sanity = [
        {"defense": name, "kept": chosen[name]["accuracy"] / plain, "at_least": floor, "reached": chosen[name]["accuracy"] >= floor * plain}
        for name, floor in floors.items()
    ]  # fmt: skip
    about = {
        "about": {
            "training": "500 images of the digits, split train", "validation": "897 clean images, split trusted", "recipe": RECIPE,
            "share_of_poisons_told_to_filters": SHARE, "kinds": WORDS, "rejected": {f"{name} {setting}": why for (name, setting), why in REJECTED.items()},
        },
        "chosen": chosen, "sanity": sanity,
    }  # fmt: skip
    write_json(RECORD, {**about, "run": about_the_run, "rows": rows})
    costs = {
        name: {
            "times": float(f"{found['times'] / (found['members'] if name in VARIANTS else 1):.3g}"),
            "models": 1 if name in VARIANTS else found["members"],
        }
        for name, found in chosen.items()
    }
    note = {
        "format": "certidote costs",
        "measured_on": "digits, one core",
        "training_images": 500,
        "recipe": RECIPE,
        "costs": costs,
    }
    write_json(COSTS, {**note, "run": about_the_run})
    fill_table(PAGE, "tuning", table(json.loads(RECORD.read_text())))
    fill_table(PAGE, "tuning by epochs", table_by_epochs(rows))
    print(f"records: {RECORD}, {COSTS}; table: {PAGE}")


def choices(rows: list[Json]) -> dict[str, Json]:
    """For each defense the catalogue's setting, and the best of the ways to learn that were tried at the same strength and are not rejected."""
    by = defaultdict(lambda: defaultdict(dict))  # type: ignore[var-annotated]
    for row in rows:
        by[row["defense"]][row["setting"]][row["seed"]] = row
    found = {}
    for name, settings in by.items():
        own = settings[""]
        accuracy = {setting: np.mean([row["accuracy"] for row in seeds.values()]) for setting, seeds in settings.items()}
        kinds = {setting: next(iter(seeds.values()))["kind"] for setting, seeds in settings.items()}
        ways = [setting for setting, kind in kinds.items() if kind in ("catalogue", "learning") and (name, setting) not in REJECTED]
        best = max(ways, key=lambda setting: accuracy[setting])
        gaps = np.array([settings[best][seed]["accuracy"] - own[seed]["accuracy"] for seed in own if seed in settings[best]])
        error = float(gaps.std(ddof=1) / len(gaps) ** 0.5) if len(gaps) > 1 else float("inf")
        seconds, plain = (sum(row[part] for row in own.values()) for part in ("seconds", "seconds_plain"))
        found[name] = {
            "accuracy": float(accuracy[""]), "best_setting": best, "best_accuracy": float(accuracy[best]), "gap": float(gaps.mean()),
            "standard_error": error, "as_good_as_the_best": bool(gaps.mean() <= TOLERANCE),
            "times": seconds / plain, "members": own[next(iter(own))]["members"],
        }  # fmt: skip
    return found


def table(record: Json) -> str:
    """The record as a table: the catalogue's settings beside the best that was tried."""
    lines = [
        "| defense | accuracy | the best way to learn that was tried | other strengths, with their accuracy | time |",
        "|---|---|---|---|---|",
    ]
    for name, found in record["chosen"].items():
        best = f"{found['best_accuracy']:.1%}"
        if found["best_setting"]:
            best += f" at `{rounded(found['best_setting'])}`"
        own = {row["setting"]: [] for row in record["rows"] if row["defense"] == name and row["kind"] == "strength"}
        for row in record["rows"]:
            if row["defense"] == name and row["setting"] in own:
                own[row["setting"]].append(row["accuracy"])
        others = ", ".join(f"`{rounded(setting)}` {np.mean(shares):.1%}" for setting, shares in own.items())
        each = name in VARIANTS
        time_ = f"{found['times'] / (found['members'] if each else 1):.2g}{' for each model' if each else ''}"
        lines.append(f"| `{name}` | {found['accuracy']:.1%} | {best} | {others} | {time_} |")
    return "\n".join(lines) + "\n"


def table_by_epochs(rows: list[Json]) -> str:
    """Accuracy of the network that the tables of docs/results.md have from scratch, after so many times its recipe's epochs."""
    shares: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        setting = json.loads(row["setting"] or "{}")
        if setting.get("recipe") == OTHER_RECIPE and "epochs" in setting:
            shares[row["defense"]][setting["epochs"]].append(row["accuracy"])
    heads = " | ".join(str(passes["epochs"]) for passes in PASSES)
    lines = [f"| defense | {heads} | in the catalogue |", "|---|---|---|---|---|"]
    for name, by in shares.items():
        cells = " | ".join(f"{np.mean(by[passes['epochs']]):.1%}" for passes in PASSES)
        lines.append(f"| `{name}` | {cells} | {CATALOGUE_PASSES.get(name, 1)} |")
    return "\n".join(lines) + "\n"


def rounded(setting: str) -> str:
    """Numbers of a setting with three digits."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in json.loads(setting).items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--summary", action="store_true", help="work out choices, costs and table again from the rows that are kept"
    )
    if parser.parse_args().summary:
        record = json.loads(RECORD.read_text())
        finish(record["rows"], record["run"])
    else:
        torch.set_num_threads(1)
        measure(Bench(load_digits("train"), load_digits("trusted")))
    record = json.loads(RECORD.read_text())
    for name, found in record["chosen"].items():
        if not found["as_good_as_the_best"]:
            print(f"{name} is better with {found['best_setting']}: {found['best_accuracy']:.3f} instead of {found['accuracy']:.3f}")
    for row in record["sanity"]:
        print(f"{row['defense']} keeps {row['kept']:.3f} of the undefended accuracy; at least {row['at_least']} is expected")


if __name__ == "__main__":
    main()
