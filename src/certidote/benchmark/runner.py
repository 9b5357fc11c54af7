"""Runs cells: crafts each set of poisons once, replays it under every defense, and keeps the records. Whatever is there is not done again.

Everything that was begun goes on after a kill: finished trials of a pack are kept beside it, votes of victims are in ledgers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from certidote import verbs
from certidote.attacks.pack_files import read_pack
from certidote.benchmark import materials, records
from certidote.benchmark.cells import Cell, Poisoning
from certidote.benchmark.joined import check_poisons, joined
from certidote.benchmark.scales import Scale, Setup
from certidote.defenses.catalogue import PURIFYING_STEPS
from certidote.diffusion.multistep import MARK
from certidote.engine.local import Pool
from certidote.engine.workers import JobFailed, Workers
from certidote.types import Progress, digest_of


@dataclass(frozen=True)
class Campaign:
    """What all cells of a command have in common.

    Attributes:
        table: its name, for the command that a record tells.
        wanted: trials of each cell, the first ones of the scale's goals; None: as many as the scale says.
        seed: of poisons and victims.
        device: where victims are trained and poisons crafted.
        data: folder with the data sets that are files.
        runs: folder for packs and ledgers, which may be thrown away afterwards.
        kept: folder for the records.
    """

    table: str
    scale: Scale
    wanted: int | None
    seed: int
    device: str
    data: Path | None
    runs: Path
    kept: Path

    @property
    def made(self) -> Path:
        """Folder of data sets that were made."""
        return self.runs / "data"

    def trials(self, poisoning: Poisoning) -> int:
        """How many trials the cells with these poisons have."""
        return self.scale.more_trials.get(poisoning.attack, self.scale.trials) if self.wanted is None else self.wanted

    def pack(self, cell: Cell, first: int = 0) -> Path:
        """Folder of a cell's poisons, of the trials from `first` on."""
        crafted = cell.poisoning.crafted
        name = digest_of(records.crafting_of(self.scale, crafted, self.seed))[:8]
        return self.runs / self.scale.name / "packs" / f"{crafted.name}-{self._part(cell, first)}-{name}"

    def first_trial(self, cell: Cell) -> int:
        """How many trials a cell's record has already, to which the others are added; 0 where all are to do."""
        return records.first_missing(records.read(self.record_of(cell)), self.trials(cell.poisoning))

    def _part(self, cell: Cell, first: int) -> str:
        """ "20" for all trials, "10-20" for those from the eleventh on."""
        trials = self.trials(cell.poisoning)
        return f"{first}-{trials}" if first else str(trials)

    def run_of(self, cell: Cell, first: int = 0) -> Path:
        name = records.identity_of(self.scale, cell, self.seed)[:8]
        poisons = f"{cell.poisoning.name}-{self._part(cell, first)}"
        return self.runs / self.scale.name / "replays" / poisons / f"{cell.name}-{name}"

    def record_of(self, cell: Cell) -> Path:
        return records.folder_of(self.kept, self.scale, cell)

    def is_done(self, cell: Cell) -> bool:
        """Whether a record has as many trials. Raises: ValueError if one is damaged, or was made with other settings."""
        identity = records.identity_of(self.scale, cell, self.seed)
        return records.is_done(records.read(self.record_of(cell)), identity, self.trials(cell.poisoning))

    def command(self, cell: Cell) -> str:
        """What makes this record again."""
        trials = self.trials(cell.poisoning)
        return f"certidote bench {self.table} --scale {self.scale.name} --cell {cell.id} --trials {trials} --seed {self.seed}"


class Within:
    """Progress of a cell, which says in each stage which cell that is."""

    def __init__(self, progress: Progress, cell: str) -> None:
        self._progress, self._cell = progress, cell

    def start(self, stage: str, total: int, done: int = 0, unit: str = "models") -> None:
        self._progress.start(f"{self._cell}: {stage}", total, done, unit)

    def advance(self, by: int = 1, note: str = "") -> None:
        self._progress.advance(by, note)

    def finish(self, note: str = "") -> None:
        self._progress.finish(note)


def check(campaign: Campaign, cells: Sequence[Cell]) -> list[Cell]:
    """The cells that are still to do.

    Raises: ValueError for what can be known before the work: files that are missing, records of other settings.
    """
    materials.check(needed(campaign, cells), campaign.data, campaign.made)
    return [cell for cell in cells if not campaign.is_done(cell)]


def needed(campaign: Campaign, cells: Sequence[Cell]) -> set[str]:
    """Names of all data sets that these cells need."""
    names = set()
    for cell in cells:
        setup = campaign.scale.setups[cell.poisoning.scenario]
        names |= {setup.data, setup.outside if cell.poisoning.outside else setup.pretrain}
        names |= {setup.outside} if cell.start in ("out-of-domain", "both") else set()
    return names - {""}


def run(campaign: Campaign, cells: Sequence[Cell], pool: Workers, progress: Progress) -> None:
    """Do the cells that are still to do, in order.

    Args:
        pool: entered already; trains the victims, and crafts the poisons if it is a pool of this machine.
    """
    left = check(campaign, cells)
    if left:
        materials.prepare(needed(campaign, left), campaign.data, campaign.made)
    for number, cell in enumerate(left, len(cells) - len(left) + 1):
        within = Within(progress, f"{number} of {len(cells)}, {cell.id}")
        first = campaign.first_trial(cell)
        craft(campaign, cell, first, pool, within)
        replay(campaign, cell, first, pool, within)


def packaged(folder: str, name: str) -> Path:
    """A file that comes with this package."""
    return Path(str(files("certidote.benchmark") / folder / name))


def recipe_of(setup: Setup) -> str:
    """As --recipe takes it."""
    return str(packaged("recipes", setup.recipe)) if setup.recipe.endswith(".toml") else setup.recipe


def craft(campaign: Campaign, cell: Cell, first: int, pool: Workers, progress: Progress) -> None:
    """The pack of a cell's poisons, of the trials from `first` on, unless it is there."""
    out, crafted, scale = campaign.pack(cell, first), cell.poisoning.crafted, campaign.scale
    if (out / "pack.json").is_file():
        return
    setup, trigger = scale.setups[crafted.scenario], scale.triggers.get(crafted.attack)
    out.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {}
    if trigger is not None:
        options |= {"trigger": trigger.name, "trigger_side": trigger.side}
    if crafted.scenario == "transfer":
        trusted = setup.outside if crafted.outside else setup.pretrain
        options["pretrain"] = materials.place_of(trusted, campaign.data, campaign.made)
        options["victim_recipe"] = setup.other_recipe if crafted.knowledge == "black-box" else ""
    if crafted.through is not None:
        seen = {"denoise": "auto", "purification-deterministic": f"auto{MARK}{PURIFYING_STEPS}"}[crafted.through_defense]
        options |= {"through": seen, "sigma": crafted.through, "draws": scale.through_draws, "through_dtype": scale.through_dtype}
    verbs.poison(
        crafted.attack, materials.place_of(setup.data, campaign.data, campaign.made), out=out, targets=campaign.trials(crafted),
        skip=first,
        goals=packaged("goals", setup.goals), num_poisons=setup.num_poisons, epsilon=scale.epsilon,
        scenario=crafted.scenario, recipe=recipe_of(setup), surrogates=crafted.ensemble,
        option=list(scale.options_of(crafted.attack, through=crafted.through is not None)),
        seed=campaign.seed, device=campaign.device, gallery=False, progress=progress, pool=pool if isinstance(pool, Pool) else None,
        **options,
    )  # fmt: skip


def replay(campaign: Campaign, cell: Cell, first: int, pool: Workers, progress: Progress) -> None:
    """The record of a cell whose pack is there: of the trials from `first` on, with those of the record that has the others."""
    scale, poisoning = campaign.scale, cell.poisoning
    setup, out = scale.setups[poisoning.scenario], campaign.run_of(cell, first)
    out.parent.mkdir(parents=True, exist_ok=True)
    others = setup.other_recipe if poisoning.scenario == "scratch" and poisoning.knowledge == "black-box" else ""
    about = {
        "cell": cell.id,
        "scale": scale.name,
        "identity": records.identity_of(scale, cell, campaign.seed),
        "seed": campaign.seed,
    }
    command, folder = campaign.command(cell), campaign.record_of(cell)
    if campaign.is_done(cell):  # by another command, meanwhile
        return
    pack, dtype = campaign.pack(cell, first), scale.dtype
    if (earlier := _earlier(campaign, cell, first)) is not None:
        check_poisons(earlier, read_pack(pack))
        dtype = str(earlier.record["victims"].get("dtype", dtype))  # "auto" may be another one here
    try:
        found = _replayed(campaign, cell, pack, dtype, others, out, pool, progress)
    except JobFailed as error:
        if not (reason := refusal_in(error)):
            raise
        records.keep_refusal(folder, reason, {**about, "command": command})
        return
    record = dict(found.record)
    crafted = f"certidote bench, {campaign.trials(poisoning)} trials of {poisoning.crafted.name}, seed {campaign.seed}"
    record["recipe"] = {**record["recipe"], "command": crafted}
    record |= {"command": command, "pack": poisoning.crafted.name}
    places = {f"{folder}/": "" for folder in (campaign.made, campaign.data) if folder is not None}
    if campaign.is_done(cell):
        return
    if (earlier := _earlier(campaign, cell, first)) is not None:
        record = joined(earlier, record)
    records.keep(folder, record, about, places)


def _earlier(campaign: Campaign, cell: Cell, first: int) -> records.Kept | None:
    """The record that trials from `first` on are added to; None if these are all.

    Raises: ValueError if there are other trials than when this began: another command is at work on the same records.
    """
    kept, missing = records.read(campaign.record_of(cell)), campaign.first_trial(cell)
    if missing != first:
        raise ValueError(
            f"the record in {str(campaign.record_of(cell))!r} was changed by another command while this one ran; repeat the command to do what "
            "is still missing"
        )
    return kept if first else None


def _replayed(
    campaign: Campaign, cell: Cell, pack: Path, dtype: str, recipe: str, out: Path, pool: Workers, progress: Progress
) -> verbs.Replayed:
    setup = campaign.scale.setups[cell.poisoning.scenario]
    outside = setup.outside if cell.start in ("out-of-domain", "both") else ""
    return verbs.replay(
        pack, materials.place_of(setup.data, campaign.data, campaign.made), out=out, defense=cell.defense,
        sigma=cell.sigma, recipe=recipe, seed=campaign.seed, dtype=dtype, device=campaign.device, progress=progress,
        pool=pool, start_from=outside and materials.place_of(outside, campaign.data, campaign.made),
        raw_epochs=setup.raw_epochs if cell.start in ("in-domain", "both") else 0,
        draws=campaign.scale.draws if cell.shares_draws else None,
    )  # fmt: skip


def refusal_in(error: JobFailed) -> str:
    """What a filter said that would have removed a whole class; "" for any other failure."""
    last = error.traceback.strip().splitlines()[-1]
    return last.removeprefix("ValueError: ") if last.startswith("ValueError: the filter ") else ""
