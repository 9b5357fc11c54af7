"""`bench`: the paper's tables, measured again, cell by cell."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certidote.verbs.choices import check_device, check_directory, workers_named
from certidote.verbs.options import Address, Device, Engine, GpusPerTask, Timeout

if TYPE_CHECKING:
    from certidote.benchmark.figure2 import Curves
    from certidote.benchmark.runner import Campaign
    from certidote.types import Progress

MOST_TRIALS = 100
FIGURE, RENDER = "figure2", "render"
RENDERED_BY = ("table", "records", "docs", "progress")
"""Parameters that mean something to `render`."""


@dataclass(frozen=True)
class Benched:
    """What `bench` did, or would do: lines in plain words."""

    lines: tuple[str, ...]


def bench(
    table: Annotated[
        str,
        typer.Argument(
            help="table1, table2, table3, table4, table5 (the paper's), defenses (all of ours), adaptive (attacks through our defense), between (white-box attacks on settings of ours that the paper does not have), figure2 (certified accuracy); or render: "
            "make the pages of docs from the records"
        ),
    ],
    *,
    scale: Annotated[
        str, typer.Option(help="digits (minutes), cifar10-compact (days on a processor) or cifar10-resnet18 (a GPU)")
    ] = "digits",
    trials: Annotated[
        int | None,
        typer.Option(help=f"of each cell, 1 to {MOST_TRIALS}; default: 100; 20 (Bullseye Polytope 50) for cifar10-compact"),
    ] = None,
    cell: Annotated[str, typer.Option(help="only this cell, as --dry-run names it, or all cells of one set of poisons")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say which cells there are and about what they take, run nothing")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="folder with the data sets that are files; default: the environment's CERTIDOTE_DATA")
    ] = None,
    out: Annotated[Path, typer.Option(help="packs and ledgers; the same command goes on with what is there")] = Path("runs/bench"),
    records: Annotated[Path, typer.Option(help="records of finished cells, which tables share")] = Path("results/bench"),
    docs: Annotated[Path | None, typer.Option(help="for render: folder of the pages; default: docs")] = None,
    seed: Annotated[int, typer.Option(help="root of all random streams")] = 0,
    workers: Annotated[int | None, typer.Option(help="processes; default: one for each core; 0: this process")] = None,
    timeout: Timeout = None,
    engine: Engine = "local",
    address: Address = "auto",
    gpus_per_task: GpusPerTask = 1.0,
    device: Device = "cpu",
    progress: "Progress | None" = None,
) -> Benched:
    """Measure a table of the paper again: craft poisons once, replay them under every defense, keep a record of each cell.

    Leaves replay.json and trials.csv in RECORDS/SCALE/POISONS/DEFENSE. Cells that have their record are not done again, whichever
    table they were made for; a record of fewer trials gets those that it lacks (all are done again where a defense says something about all of
    them, as filters do); an interrupted command goes on where it was.
    """
    options = dict(locals())
    import os

    from certidote.attacks import find
    from certidote.benchmark import costs, figure2, pages, runner
    from certidote.benchmark.scales import SCALES
    from certidote.benchmark.tables import TABLES, cells_of
    from certidote.reporting.words import counted
    from certidote.types import Silent

    if table == RENDER:
        defaults = {name: option.default for name, option in inspect.signature(bench).parameters.items() if name not in RENDERED_BY}
        if unused := [name for name, default in defaults.items() if options[name] != default]:
            named = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
            raise ValueError(
                f"render makes the pages of all scales from all records and takes --records and --docs only; leave {named} out"
            )
        changed = pages.render(records, docs or Path("docs"))
        return Benched(tuple(f"Made again: {page}" for page in changed) or ("All pages are what the records say.",))
    if docs is not None:
        raise ValueError(f"--docs {docs}: only render makes pages; leave it out, or give 'render' for {table!r}")
    chosen = find(SCALES, scale, "scale")
    if table == FIGURE and trials is not None:
        raise ValueError(f"--trials {trials}: {FIGURE} has no trials, its models are counted; leave it out")
    if table == FIGURE and cell:
        find(dict.fromkeys(figure2.names(chosen)), cell, f"cell of {table}")
    if table != FIGURE:
        find(dict.fromkeys([*TABLES, FIGURE, RENDER]), table, "table")
    cells = [] if table == FIGURE else cells_of(table, chosen, cell)
    if trials is not None and not 1 <= trials <= MOST_TRIALS:
        raise ValueError(f"--trials {trials}; give 1 to {MOST_TRIALS}, as many as goals are listed")
    if seed < 0:
        raise ValueError(f"--seed {seed}; give a whole number of at least 0")
    folder = data or (Path(os.environ["CERTIDOTE_DATA"]) if os.environ.get("CERTIDOTE_DATA") else None)
    campaign = runner.Campaign(table, chosen, trials, seed, device, folder, out, records)
    pool = workers_named(engine, address, workers, device, gpus_per_task, timeout)
    if table == FIGURE:
        return _figure(figure2.Curves(records, chosen), campaign, cell, pool, dry_run, progress or Silent())
    if dry_run:
        return Benched(tuple(costs.plan_lines(costs.estimates(campaign, cells), campaign, workers or os.cpu_count() or 1)))
    check_device(device)
    for place in (out, records):
        check_directory(place)
    if not runner.check(campaign, cells):
        return Benched(
            (
                f"Nothing was to do: {counted(len(cells), 'cell')} of {table} {'has its record' if len(cells) == 1 else 'have their records'} in "
                f"{records / scale}. Another folder for --records measures them anew.",
            )
        )
    with pool as used:
        runner.run(campaign, cells, used, progress or Silent())
    return Benched(
        (
            f"{counted(len(cells), 'cell')} of {table} {'has its record' if len(cells) == 1 else 'have their records'} in {records / scale}.",
        )
    )


def _figure(curves: "Curves", campaign: "Campaign", cell: str, pool: Any, dry_run: bool, progress: "Progress") -> Benched:
    """Certified accuracy instead of attacks."""
    from certidote.benchmark import figure2, materials

    if dry_run:
        return Benched(tuple(figure2.plan_lines(curves, cell, campaign.seed)))
    check_device(campaign.device)
    for place in (campaign.runs, campaign.kept):
        check_directory(place)
    materials.check({campaign.scale.setups["scratch"].data}, campaign.data, campaign.made)
    with pool as used:
        figure2.run(curves, campaign.data, campaign.runs, used, progress, cell=cell, seed=campaign.seed, device=campaign.device)
    return Benched((f"The curves of {FIGURE} have their records; 'certidote bench render' draws them.",))
