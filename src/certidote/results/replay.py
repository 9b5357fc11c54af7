"""The record of a replay: how often poisons reached their goal, with the control beside it, as one JSON value and a table."""

from collections.abc import Sequence

import numpy as np

from certidote.attacks.pack import PoisonPack
from certidote.defenses.removals import Removal
from certidote.results.summary import wilson
from certidote.scenarios.trials import Questions, TrialOutcome
from certidote.types import ImageDataset, Json, Target, Trigger

FORMAT, VERSION = "certidote replay", 1
ARMS = ("control", "poisoned")

Outcomes = Sequence[tuple[TrialOutcome, TrialOutcome]]


def replay_record(pack: PoisonPack, asked: Questions, found: Outcomes, about: Json) -> Json:
    """Everything that is printed about a replay.

    Args:
        found: from `trials.outcomes`; at least one trial.
        about: what else is worth knowing: data, defense, versions.
    """
    goal = "target" if isinstance(pack.poisons[0].goal, Target) else "trigger"
    rows = [_trial(pack, asked, trial, pair) for trial, pair in enumerate(found)]
    objectives = [poison.objective for poison in pack.poisons[: len(found)] if poison.objective is not None]
    head: Json = {"format": FORMAT, "version": VERSION, "goal": goal, "finished": len(found), "trials_of_pack": len(pack)}
    head["classes"] = len(pack.data.classes)
    if len(objectives) == len(found):
        head["objective"] = {"median": float(np.median(objectives)), "largest": max(objectives)}
    return head | about | {"results": results_of(rows), "trials": rows}


def results_of(rows: Sequence[Json]) -> Json:
    """What `replay_record` says about each arm, from its trials."""
    return {arm: _arm([row[arm] for row in rows]) for arm in ARMS}


def _trial(pack: PoisonPack, asked: Questions, trial: int, pair: tuple[TrialOutcome, TrialOutcome]) -> Json:
    goal, names = pack.poisons[trial].goal, pack.data.classes
    row: Json = {
        "trial": pack.first_trial + trial,
        "true_class": None if goal.true_label is None else names[goal.true_label],
        "adversarial_class": names[goal.adversarial_label],
        "test_image": int(asked.sources[trial][asked.single[trial]]),
        "images": len(asked.rows[trial]),
    }
    return row | {arm: _outcome(pack, asked, trial, outcome) for arm, outcome in zip(ARMS, pair, strict=True)}


def _outcome(pack: PoisonPack, asked: Questions, trial: int, outcome: TrialOutcome) -> Json:
    """One arm of one trial; `reached_where_right` is about images that the same model gets right without the trigger, None for targets."""
    single, names = asked.single[trial], pack.data.classes
    predicted = int(outcome.predicted[single])
    true = asked.asked.labels.numpy()[asked.rows[trial].start : asked.rows[trial].stop]
    right = (outcome.before == true) & isinstance(pack.poisons[trial].goal, Trigger)
    return {
        "success": bool(outcome.reached[single]),
        "predicted": None if predicted < 0 else names[predicted],
        "reached": float(outcome.reached.mean()),
        "reached_where_right": float(outcome.reached[right].mean()) if right.any() else None,
        "lost": float(outcome.lost.mean()),
        "clean_accuracy": outcome.clean_accuracy,
    }


def _arm(rows: Sequence[Json]) -> Json:
    """Means over trials; successes count each trial by one image, so that trials are independent, as the interval assumes."""
    successes = sum(row["success"] for row in rows)
    low, high = wilson(successes, len(rows))
    return {
        "successes": successes,
        "trials": len(rows),
        "low": low,
        "high": high,
        "reached": float(np.mean([row["reached"] for row in rows])),
        "lost": float(np.mean([row["lost"] for row in rows])),
        "clean_accuracy": float(np.mean([row["clean_accuracy"] for row in rows])),
    }


def removals_record(removals: Sequence[Removal | None]) -> Json:
    """What a filter removed, over all trials and for each; None where a trial's first victim diverged."""
    known = [found for found in removals if found is not None]
    names = ("removed_poisons", "removed_clean", "kept_poisons", "kept_clean")
    total = Removal(*(sum(getattr(found, name) for found in known) for name in names))
    return total.to_json() | {"trials": [None if found is None else found.to_json() for found in removals]}


def _removals_line(total: Json) -> str:
    poisons = total["removed_poisons"] + total["kept_poisons"]
    clean = total["removed_clean"] + total["kept_clean"]
    shares = ", ".join(f"{name} {total[name]:.1%}" for name in ("precision", "recall") if total[name] is not None)
    return (
        f"the filter removed {total['removed_poisons']} of {poisons} poisons and {total['removed_clean']} of {clean} clean images from "
        f"the poisoned sets{f' ({shares})' if shares else ''}"
    )


def certified_line(proved: Json) -> str:
    """What the control's votes prove about poisons, from `scenarios.privacy.certified_poisons`."""
    if not proved["guarantee"]:
        return "no guarantee, however many models vote"
    if proved["largest"] < 1:
        needed = proved["models_needed"]
        more = "more than a million models" if needed is None else f"--models {needed} or more"
        return f"0; to certify 1 altered image, {more} would have to agree (each with epsilon as above)"
    rows = [f"{share:.1%} against {count}" for count, share in enumerate(proved["certified"]) if count]
    return (
        f"at most {proved['largest']} (a unanimous vote); of the clean set's test images, right and certified against images altered in "
        f"any way: {', '.join(rows) or 'none'} (each with probability 1 - {proved['alpha']!r})"
    )


def replay_lines(record: Json, *, recipe_chosen: bool = False) -> list[str]:
    """The record in plain words.

    Args:
        recipe_chosen: the user named the victims' recipe.
    """
    words = []
    for arm, called in (("poisoned", "poisoned data"), ("control", "clean data (control)")):
        row = record["results"][arm]
        words.append(
            f"{called}: {row['successes']} of {row['trials']} trials reach their goal (95 % Wilson interval {row['low']:.1%} to "
            f"{row['high']:.1%}); clean accuracy {row['clean_accuracy']:.1%}"
        )
        if record["goal"] == "trigger":
            words[-1] += f"; {row['reached']:.1%} of images with the trigger get the adversarial class"
    if record.get("recipe", {}).get("scenario", {}).get("kind") == "unknown":
        how, more = (" by the --recipe given", "") if recipe_chosen else ("", ", or choose --recipe")
        words.append(
            f"The pack does not say which victims its poisons are made for: these learned all weights from scratch{how}, so that few goals "
            f"reached say nothing about attack or defense. Import it with --scenario-of PACK, of a pack in the same setting{more}."
        )
    if "objective" in record:
        words.append(f"the attack's own objective, which it lowers: {record['objective']['median']:.2f} (median over trials)")
    if "filter" in record:
        words.append(_removals_line(record["filter"]))
    if privacy := record.get("victims", {}).get("privacy"):
        words.append(f"privacy of one training: {privacy['statement']}")
    if "certified_poisons" in record:
        words.append(f"certified number of poisons: {certified_line(record['certified_poisons'])}")
    for arm, called in (("poisoned", "poisoned"), ("control", "clean")):
        accuracy = record["results"][arm]["clean_accuracy"]
        if "classes" in record and near_chance(accuracy, record["test"]["images"], record["classes"]):
            words.append(
                f"Clean accuracy on {called} data ({accuracy:.1%}) is near chance ({1 / record['classes']:.1%}): these models learned next to "
                "nothing, so that few goals reached say nothing about the defense."
            )
    if record["results"]["control"]["successes"]:
        words.append("The control reaches a goal without any poison: that target was lost before the attack.")
    return words


SKILL = 0.1
"""How far from guessing (0) to perfect (1) a classifier has to be to have learned anything worth attacking."""


def near_chance(accuracy: float, images: int, classes: int) -> bool:
    """Whether a clean accuracy is hardly better than that of guessing, 1 / classes, or worse.

    It is if its 95 % Wilson interval over so many test images begins at or below that, or if it is at most a tenth of the way from there
    to 1: 19 % of ten classes, 55 % of two. (Twice chance would be the same for ten classes, but everything for two.)
    """
    chance = 1 / classes
    low, _ = wilson(round(accuracy * images), images)
    return low <= chance or accuracy <= chance + SKILL * (1 - chance)


def replay_table(record: Json) -> tuple[list[str], list[list[object]]]:
    """Header and rows, one for each trial, for `write_csv`."""
    facts, each = ("trial", "true_class", "adversarial_class", "test_image", "images"), tuple(record["trials"][0]["control"])
    header = [*facts, *(f"{arm}_{name}" for arm in ARMS for name in each)]
    return header, [
        [*(row[name] for name in facts), *(row[arm][name] for arm in ARMS for name in each)] for row in record["trials"]
    ]


def data_facts(name: str, data: ImageDataset) -> Json:
    """What a record says about a data set."""
    return {"name": name, "images": len(data), "image_shape": list(data.image_shape), "digest": data.digest()}
