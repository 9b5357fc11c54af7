"""`defenses`: what the catalogue holds."""

from pathlib import Path
from typing import Annotated

import typer


def defense_list(
    records: Annotated[
        Path | None,
        typer.Option(
            help="folder with records of replays, or of 'certidote bench', at any depth; measured costs come from them; default: those "
            "that come with this release"
        ),
    ] = None,
) -> list[dict[str, str]]:
    """The defenses of 'certidote replay', and what else denoising can do: threat model, certificate and its unit, cost, source.

    The measured cost is relative to one plain model on the same poisons, if RECORDS has it; else what this release was measured to cost
    on the digits (for each model, where there is no fixed number of them), or "not measured".

    Raises: ValueError if RECORDS is no folder.
    """
    if records is not None and not records.is_dir():
        raise ValueError(f"--records {str(records)!r} is no folder; name the one where replays were kept, or leave it out")
    from dataclasses import asdict

    from certidote.defenses.catalogue import FACTS, VARIANTS
    from certidote.results.costs import measured_costs, packaged_costs

    costs = {
        name: f"{times:.2g} times one plain model (kept replays)"
        for name, times in ({} if records is None else measured_costs(records)).items()
    }
    described = {**FACTS, **VARIANTS}
    packaged = packaged_costs()
    each = {name for name, facts in described.items() if "n0 + n" in facts.cost or "for each model" in facts.cost}
    known = {name: packaged[name].told(name in each) for name in described if name in packaged} | costs
    return [{"name": name, **asdict(facts), "measured_cost": known.get(name, "not measured")} for name, facts in described.items()]
