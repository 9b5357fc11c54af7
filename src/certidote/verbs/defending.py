"""`defenses`: what the catalogue holds."""

from pathlib import Path
from typing import Annotated

import typer


def defense_list(
    records: Annotated[
        Path, typer.Option(help="folder with replay.json files kept under any names; measured costs come from them")
    ] = Path("results/defenses"),
) -> list[dict[str, str]]:
    """The defenses of 'certidote replay', and what else denoising can do: threat model, certificate and its unit, cost, source.

    The measured cost is relative to one plain model on the same poisons, "not measured" without such records.
    """
    from dataclasses import asdict

    from certidote.defenses.catalogue import FACTS, VARIANTS
    from certidote.results.costs import measured_costs

    costs = measured_costs(records)
    return [
        {
            "name": name,
            **asdict(facts),
            "measured_cost": f"{costs[name]:.2g} times one plain model" if name in costs else "not measured",
        }
        for name, facts in {**FACTS, **VARIANTS}.items()
    ]
