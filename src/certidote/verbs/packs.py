"""`pack`: what is in a poison pack; poisons of the poisoning benchmark and its relatives become packs, and packs become theirs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from certidote.verbs.choices import check_apart, training_and_test
from certidote.verbs.options import Data, Force, Size, SkipCorrupt

TestImages = Annotated[str, typer.Option(help="test images, which targets are among; default: the test split of DATA")]
PackFolder = Annotated[Path, typer.Argument(help="a poison pack, as 'certidote poison' leaves it")]


@dataclass(frozen=True)
class PackExported:
    """What `pack_export` wrote: folders that the benchmark reads, and in notes what it could not write as it was asked to."""

    folders: tuple[Path, ...]
    out: Path
    notes: tuple[str, ...] = ()


def pack_info(pack: PackFolder) -> dict[str, Any]:
    """What a poison pack holds: its data, recipe, budget, and the goal of each trial."""
    from dataclasses import asdict

    from certidote.attacks.pack_files import read_pack
    from certidote.data.names import escaped
    from certidote.results.pictures import goal_in_words

    held = read_pack(pack)
    setups = _setups(held.recipe.get("setups"))
    return {
        "attack": held.recipe["attack"],
        "recipe": held.recipe,
        "budget": asdict(held.budget),
        "data": {"name": escaped(held.data.name), "images": held.data.images, "digest": held.data.digest},
        "notes": list(held.notes),
        "trials": [
            {
                "trial": trial,
                **({"setup": setups[trial]} if trial < len(setups) else {}),
                "poisons": len(poison.indices),
                "goal": goal_in_words(poison.goal, held.data.classes),
            }
            for trial, poison in enumerate(held.poisons, held.first_trial)
        ],
        "files": held.files,
    }


def _setups(said: Any) -> list[int]:
    """Which setup of a setup file each trial is, from trial 0; none where a recipe does not say so in whole numbers."""
    return said if isinstance(said, list) and all(type(each) is int for each in said) else []


def pack_import(
    source: Annotated[
        Path,
        typer.Argument(
            help="poisons of the poisoning benchmark or a relative, a folder or file; or a folder of folders, a trial each"
        ),
    ],
    data: Data,
    *,
    out: Annotated[Path, typer.Option(help="folder of the poison pack; it appears when it is complete")],
    test: TestImages = "",
    epsilon: Annotated[
        str, typer.Option(help="linf bound that the poisons must keep, as in 8/255; default: what they need, up to 26/255")
    ] = "",
    visible_trigger: Annotated[
        bool | None,
        typer.Option(
            help="the trigger may be pasted on poisons in plain sight, and epsilon bounds what is changed beside it; default: as our own export "
            "says, and for label-consistent arrays"
        ),
    ] = None,
    target: Annotated[int | None, typer.Option(help="row of the test image they are about, for files that do not say")] = None,
    attack: Annotated[str, typer.Option(help="what to call the attack")] = "",
    scenario_of: Annotated[
        Path | None,
        typer.Option(
            help="another pack of the same data: 'certidote replay' trains victims as it says (heads on its extractor, say)"
        ),
    ] = None,
    size: Size = "",
    skip_corrupt: SkipCorrupt = False,
    force: Force = False,
) -> dict[str, Any]:
    """Make a poison pack of files in the poisoning benchmark's form, or a dialect of it, after checking them against DATA.

    Nothing in these files is run: pickles are read without unpickling.
    """
    from certidote.attacks.benchmark_format import trial_folders
    from certidote.attacks.benchmark_import import import_poisons, import_trials
    from certidote.attacks.pack_files import check_target, write_pack
    from certidote.verbs.attacking import epsilon_named

    check_target(out, force)
    check_apart(out, data, test, str(source), *([] if scenario_of is None else [str(scenario_of)]))
    scenario, beside, digest = (None, {}, "") if scenario_of is None else _scenario(scenario_of)
    bound = epsilon_named(epsilon, "linf") if epsilon else None
    train_set, (_, test_set) = training_and_test(data, test, size, skip_corrupt)
    if digest and train_set.digest() != digest:
        raise ValueError(
            f"--scenario-of {str(scenario_of)!r}: this pack is of another training set than {data!r}; give one of the same"
        )
    if trial_folders(source):
        if target is not None:
            raise ValueError(
                f"--target {target}, but {str(source)!r} holds several trials; import one of its folders, or leave it out"
            )
        pack = import_trials(source, train_set, test_set, data, epsilon=bound, visible_trigger=visible_trigger, attack=attack)
    else:
        pack = import_poisons(
            source, train_set, test_set, data, epsilon=bound, visible_trigger=visible_trigger, target_index=target, attack=attack
        )
    if scenario is not None:
        pack = replace(pack, recipe={**pack.recipe, "scenario": scenario})
    write_pack(pack, out, beside, force=force)
    return pack_info(out)


def _scenario(path: Path) -> tuple[dict[str, Any], dict[str, bytes], str]:
    """What victims are in another pack, the files that belong to it, and the digest of its data. Raises: ValueError if that pack does not say."""
    from certidote.attacks.pack_files import read_beside, read_pack
    from certidote.scenarios.knowledge import EXTRACTOR

    other = read_pack(path)
    scenario = other.recipe.get("scenario")
    if not isinstance(scenario, dict) or scenario.get("kind") not in ("transfer", "scratch"):
        raise ValueError(f"--scenario-of {str(path)!r}: this pack does not say what victims are; give one of 'certidote poison'")
    files = {EXTRACTOR: read_beside(other, path, EXTRACTOR)} if EXTRACTOR in other.files else {}
    return scenario, files, other.data.digest


def pack_export(
    pack: PackFolder,
    data: Data,
    *,
    out: Annotated[Path, typer.Option(help="folder; it appears when it is complete")],
    test: TestImages = "",
    sources: Annotated[
        int, typer.Option(help="for triggers: how many test images get a folder of their own, if there are so many")
    ] = 1,
    size: Size = "",
    skip_corrupt: SkipCorrupt = False,
) -> PackExported:
    """Write the trials of a poison pack as the poisoning benchmark reads them, one folder of pickles for each."""
    from certidote.attacks.benchmark_export import export_pack, fewer_sources
    from certidote.attacks.pack_files import read_pack

    check_apart(out, data, test, str(pack))
    held = read_pack(pack)
    train_set, (_, test_set) = training_and_test(data, test, size, skip_corrupt)
    folders = export_pack(held, train_set, test_set, out, sources=sources)
    return PackExported(tuple(folders), out, tuple(fewer_sources(held, test_set, sources)))
