"""What cells will take, for --dry-run: from records where there are some, else from rough figures. Nobody should plan to the minute by it."""

from collections.abc import Sequence
from dataclasses import dataclass

from certidote.benchmark import records
from certidote.benchmark.cells import Cell, Poisoning
from certidote.benchmark.runner import Campaign
from certidote.defenses.catalogue import PURIFYING_STEPS
from certidote.reporting.words import counted
from certidote.results.costs import packaged_costs

CALLS = {"denoise": 1, "several-draws": 4, "purification": PURIFYING_STEPS, "purification-deterministic": PURIFYING_STEPS}
"""Of the denoiser, for each image of a copy of the training set."""

COPIES = {"several-draws": 4.0}
"""Victims' training relative to one plain model, of those that call a denoiser, where it is not about one."""

THROUGH = 14
"""Crafting through our defense, relative to crafting."""


@dataclass(frozen=True)
class Estimate:
    """Seconds of one core or GPU, as the scale's, for one cell; 0 for what is done."""

    cell: Cell
    done: bool
    crafting: float
    training: float


def estimates(campaign: Campaign, cells: Sequence[Cell]) -> list[Estimate]:
    """For each cell, in order. Poisons are counted with the first cell that needs them. Raises: ValueError if a record is damaged, or was
    made with other settings."""
    left, crafted, found = {cell for cell in cells if not campaign.is_done(cell)}, set(), []
    models: set[str] = set()
    for cell in cells:
        crafting = 0.0
        first = campaign.first_trial(cell)
        pack, to_do = campaign.pack(cell, first), campaign.trials(cell.poisoning) - first
        if cell in left and pack not in crafted and not (pack / "pack.json").is_file():
            crafted.add(pack)
            needed = _extractors(cell.poisoning)
            crafting = (
                _seconds_to_craft(campaign, cell.poisoning, to_do) + len(needed - models) * campaign.scale.seconds["extractor"]
            )
            models |= needed
        training = _seconds_to_train(campaign, cell, to_do) if cell in left else 0.0
        found.append(Estimate(cell, cell not in left, crafting, training))
    return found


def plan_lines(found: Sequence[Estimate], campaign: Campaign, workers: int) -> list[str]:
    """The plan in plain words."""
    lines = [f"{campaign.table} at scale {campaign.scale.name}, {_trials_in_words(campaign)}, 2 arms (poisoned and control):"]
    for each in found:
        crafting = f", poisons {in_words(each.crafting)}" if each.crafting else ""
        lines.append(f"  {each.cell.id}: " + ("has its record" if each.done else f"victims {in_words(each.training)}{crafting}"))
    total = sum(each.crafting + each.training for each in found)
    left = sum(not each.done for each in found)
    several = f", {in_words(total / workers)} on {workers}" if workers > 1 and campaign.scale.unit == "core" else ""
    lines.append(f"{left} of {len(found)} cells are to do: about {in_words(total)} on one {campaign.scale.unit}{several}")
    return lines


def in_words(seconds: float) -> str:
    """ "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"


def _trials_in_words(campaign: Campaign) -> str:
    """ "100 trials a cell", "20 trials a cell (bullseye-polytope: 50)"."""
    if campaign.wanted is not None:
        return f"{counted(campaign.wanted, 'trial')} a cell"
    more = ", ".join(f"{attack}: {trials}" for attack, trials in campaign.scale.more_trials.items())
    return f"{campaign.scale.trials} trials a cell{f' ({more})' if more else ''}"


def _extractors(poisoning: Poisoning) -> set[str]:
    """What has to be learned before these poisons of transfer learning are crafted, once for all that are crafted by one command."""
    if poisoning.scenario != "transfer":
        return set()
    images = "outside" if poisoning.outside else "trusted"
    return {images, f"{images}, victims"} if poisoning.knowledge == "black-box" else {images}


def _seconds_to_craft(campaign: Campaign, poisoning: Poisoning, trials: int) -> float:
    """Of so many trials, surrogates from scratch included."""
    seconds = campaign.scale.seconds
    each = seconds[poisoning.attack]
    if poisoning.through is not None:
        each = seconds.get(f"{poisoning.attack} through", THROUGH * each) * CALLS[poisoning.through_defense]
    each *= poisoning.ensemble
    surrogates = seconds["scratch"] * poisoning.ensemble if poisoning.scenario == "scratch" else 0.0
    return trials * each + surrogates


def _seconds_to_train(campaign: Campaign, cell: Cell, trials: int) -> float:
    """Of both arms of so many trials."""
    seconds, scenario = campaign.scale.seconds, cell.poisoning.scenario
    kept = records.read(campaign.record_of(cell))
    if kept is not None and not kept.refused:
        return trials * float(kept.record["seconds_of_workers"]) / float(kept.record["finished"])
    other = scenario == "scratch" and cell.poisoning.knowledge == "black-box"
    plain = seconds["other" if other else scenario]
    draws = campaign.scale.draws if cell.shares_draws else None
    copies = 2 * trials if draws is None else min(trials, draws)
    return 2 * trials * plain * times_plain(cell.defense) + copies * CALLS.get(cell.defense, 0) * seconds[f"denoise {scenario}"]


def times_plain(defense: str) -> float:
    """Victims' training relative to one plain model, as measured on the digits; without the calls of a denoiser."""
    if defense == "none":
        return 1.0
    if defense in CALLS:
        return COPIES.get(defense, 1.0)
    known = packaged_costs().get(defense)
    return 1.0 if known is None else max(1.0, known.times)
