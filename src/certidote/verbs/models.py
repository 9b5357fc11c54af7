"""`train`: one model, without a certificate."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from certidote.verbs.choices import (
    check_apart,
    check_device,
    check_directory,
    denoiser_named,
    has_test_split,
    recipe_named,
    test_split_of,
    trainer_named,
)
from certidote.verbs.options import (
    Data,
    DenoiserName,
    Device,
    Dtype,
    Force,
    OwnModel,
    PretrainedTrusted,
    RecipeName,
    Seed,
    Size,
    SkipCorrupt,
)


@dataclass(frozen=True)
class Trained:
    """What `train` made."""

    out: Path
    accuracy: float | None
    sanitized: bool


def train(
    data: Data,
    *,
    out: Annotated[Path, typer.Option(help="model directory: config.json and model.safetensors")],
    test: Annotated[str, typer.Option(help="test images for the accuracy; default: the test split of DATA, if it has one")] = "",
    sigma: Annotated[
        float, typer.Option(help="sanitize first with noise of this std, [0, 1] pixel units; 0: train on DATA as it is")
    ] = 0.0,
    denoiser: DenoiserName = "auto",
    recipe: RecipeName = "auto",
    model: OwnModel = "",
    pretrained_trusted: PretrainedTrusted = False,
    seed: Seed = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    size: Size = "",
    skip_corrupt: SkipCorrupt = False,
    force: Force = False,
) -> Trained:
    """Train one model on DATA and save it. One model carries no certificate, sanitized or not: that takes `certify`."""
    import torch

    from certidote.data import load, load_test
    from certidote.data.checks import check_same_classes
    from certidote.defenses.plain import PlainTraining
    from certidote.defenses.smoothing import DenoisedSmoothing
    from certidote.numerics import resolve_dtype
    from certidote.results.record import versions
    from certidote.streams import Key, fresh_root
    from certidote.training.model_dir import check_vacant, save_model
    from certidote.types import Scheme, Untrusted

    check_directory(out)
    check_apart(out, data, test, denoiser=denoiser)
    check_vacant(out, force)
    check_device(device)
    train_set = load(data, "train", size=size, skip_corrupt=skip_corrupt)
    test_set = None
    if test or has_test_split(data):
        test_set = load_test(test or test_split_of(data), train_set.class_names, size=size, skip_corrupt=skip_corrupt)
        check_same_classes(train_set, test_set)
    number_format = resolve_dtype(dtype, device)
    used_recipe = recipe_named(recipe, train_set, model)
    trainer = trainer_named(used_recipe, train_set, number_format, pretrained_trusted, device)
    untrusted = Untrusted(train_set)
    key = Key(fresh_root() if seed is None else seed)
    if sigma:
        scheme: Scheme = DenoisedSmoothing(
            denoiser_named(denoiser, train_set, number_format, size, skip_corrupt), sigma, 1, 10, device=device
        )
    else:
        scheme = PlainTraining(device=device)
    view = scheme.view(untrusted, 0, key / "members" / 0)
    stack = trainer.fit([view], [key / "members" / 0], key / "common")
    if bool(stack.failed[0]):
        raise ValueError("training diverged (weights are not finite); lower the learning rate in a recipe file and try again")
    trained = stack.member(0)
    accuracy = None
    if test_set is not None:
        with torch.inference_mode():
            accuracy = float((trained(test_set.pixels()).argmax(1) == test_set.labels).float().mean())
    save_model(
        out, trained, recipe=used_recipe, class_names=train_set.class_names, image_shape=train_set.image_shape,
        lineage=replace(view.lineage, start=trainer.start), data_digest=untrusted.digest, data_notes=train_set.notes,
        versions=versions(), force=force,
    )  # fmt: skip
    return Trained(out, accuracy, bool(sigma))
