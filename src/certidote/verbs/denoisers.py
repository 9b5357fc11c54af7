"""`denoiser train`, `denoiser list`, `denoiser info`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certidote.verbs.choices import check_apart, check_device
from certidote.verbs.options import Device, Dtype, Force, Seed, Size, SkipCorrupt

if TYPE_CHECKING:
    from certidote.types import Denoiser, Progress


def denoiser_train(
    data: Annotated[str, typer.Argument(help="images you TRUST, in the forms of DATA; never the images to be purified")],
    *,
    out: Annotated[Path, typer.Option(help="denoiser directory: config.json, card.md and model.safetensors")],
    recipe: Annotated[str, typer.Option(help="auto, or a .toml file with fields of the denoiser recipe")] = "auto",
    minutes: Annotated[
        float | None, typer.Option(help="as many training steps as fit into this time, at most the recipe's")
    ] = None,
    seed: Seed = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    size: Size = "",
    skip_corrupt: SkipCorrupt = False,
    force: Force = False,
    progress: "Progress | None" = None,
) -> "Denoiser":
    """Train a denoising network on images you TRUST. Whoever makes it asserts that no attacker could alter them.

    The same command goes on with an interrupted training: its state is kept once a minute beside OUT, in OUT.unfinished.
    """
    from certidote.data import load
    from certidote.diffusion.denoiser import check_target, save
    from certidote.diffusion.fit import load_recipe, train_network, training_of, within_minutes
    from certidote.diffusion.unfinished import kept_training, place_beside, remove
    from certidote.engine.lock import alone
    from certidote.numerics import resolve_dtype
    from certidote.streams import Key, fresh_root

    check_target(out, force)
    check_apart(out, data)
    unfinished = place_beside(out)
    if minutes is not None and not minutes > 0:
        raise ValueError(f"minutes={minutes:g}; give a time above 0 to train for, or leave it out for all steps of the recipe")
    check_device(device)
    used_recipe = load_recipe(recipe)
    images = load(data, "train", size=size, skip_corrupt=skip_corrupt)
    with alone(unfinished, "training a denoiser"):
        kept = None if force else kept_training(unfinished)
        # what "auto" finds may differ from one day to the next
        number_format = kept["dtype"] if kept is not None and dtype == "auto" else resolve_dtype(dtype, device)
        if kept is not None and minutes is not None:  # how many steps fit was measured when it began
            steps, batch = kept["recipe"]["steps"], kept["recipe"]["batch"]
            used_recipe = replace(used_recipe, steps=steps, batch=batch)
        elif minutes is not None:
            used_recipe = within_minutes(images, used_recipe, minutes, number_format, device)
        if kept is not None and seed is None:
            seed = int(kept["key"][0])
        key = Key(fresh_root() if seed is None else seed) / "denoiser"
        if force and kept_training(unfinished) not in (None, training_of(images, used_recipe, key, number_format)):
            remove(unfinished)
        trained = train_network(
            images, None, used_recipe, key, progress, name=out.name, dtype=number_format, device=device, unfinished=unfinished
        )
        if images.notes:
            trained.card.details["data_notes"] = list(images.notes)
        save(trained, out, force)
        remove(unfinished)
    return trained


def denoiser_list() -> list[dict[str, str]]:
    """The packaged denoisers: name, kind, image shape, range of sigma."""
    from certidote.diffusion.denoiser import CATALOGUE, load

    rows = []
    for name in CATALOGUE:
        loaded = load(name)
        shape = loaded.card.image_shape
        rows.append(
            {
                "name": name,
                "kind": loaded.card.kind,
                "images": "any" if shape is None else "x".join(map(str, shape)),
                "sigma": f"{loaded.sigma_min:g} to {loaded.sigma_max:g}",
                "digest": loaded.card.digest[:12],
            }
        )
    return rows


def denoiser_info(
    name: Annotated[str, typer.Argument(help="a packaged name, or a denoiser directory; with @5 behind it: in five steps")],
) -> dict[str, Any]:
    """The model card of one denoiser: what it is, what it was made from, how well it does."""
    from certidote.diffusion.denoiser import load

    loaded = load(name)
    card = loaded.card
    known = card.training_images
    return {
        "name": card.name,
        "kind": card.kind,
        "digest": card.digest,
        "image_shape": card.image_shape,
        "sigma": [loaded.sigma_min, None if loaded.sigma_max == float("inf") else loaded.sigma_max],
        "trained_on": card.trained_on or None,
        "training_images": None if known is None else len(known),
        **card.details,
    }
