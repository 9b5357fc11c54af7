"""What accuracy does the defense cost on photographs, and what wins it back? `python benchmarks/utility.py`, resumable.

CIFAR-10 as JPEG, the compact network on a fixed 10,000 training images; all 10,000 test images. Every variant is trained for each seed
with other noise and other initial weights. A row is one trained model (or one vote) and is kept as soon as it is known; the table
and the figures of docs/results.md are made from these rows.

Variants whose certificate would hold (the denoiser and all initial weights come from other images) are marked "certifiable"; the others are
heuristics, or know the images under attack.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import torch
from machine import facts

from certidote.data import load
from certidote.defenses.sanitize import sanitized
from certidote.diffusion.closed_form import Identity, LinearMMSE
from certidote.diffusion.denoiser import CATALOGUE
from certidote.diffusion.denoiser import load as load_denoiser
from certidote.diffusion.multistep import MultistepDenoiser
from certidote.numerics import fast_dtype, keep_freed_memory
from certidote.results.files import write_json
from certidote.streams import Key
from certidote.training.pooled import PooledTrainer
from certidote.training.recipe import RECIPES, Recipe, load_recipe
from certidote.training.warm import WarmStart
from certidote.types import Denoiser, ImageDataset, Images, Json, Lineage, Untrusted, View

TRAIN_IMAGES, VOTERS, DRAWS, STEPS, TRUSTED = 10_000, 8, 4, 5, 1_000
LARGER, KNOWS_THE_IMAGES = "tiny-imagenet-32-large", "cifar10-32"
SIGMAS = (0.1, 0.25, 0.5, 1.0)
RECIPE = RECIPES["compact"]
LONG = RECIPE.model_copy(update={"epochs": 3 * RECIPE.epochs})
PLAIN = RECIPE.model_copy(update={"crop": 0, "flip": False})
PRETRAINING = RECIPE.model_copy(update={"epochs": 4, "batch_size": 250})


@dataclass(frozen=True)
class Shelf:
    """Where the images are, and what is computed from them once."""

    folder: Path
    dtype: str
    device: str = "cpu"
    recipes: list[Recipe] = field(default_factory=list, hash=False, compare=False)
    """Of the models trained so far, for the records."""

    @cache  # noqa: B019 (lives as long as the program)
    def train(self) -> ImageDataset:
        return load(self.folder / f"cifar10-jpeg.tar.xz#{TRAIN_IMAGES}")

    @cache  # noqa: B019
    def whole(self) -> ImageDataset:
        return load(self.folder / "cifar10-jpeg.tar.xz")

    @cache  # noqa: B019
    def test(self) -> ImageDataset:
        return load(self.folder / "cifar10-jpeg.tar.xz", "test")

    @cache  # noqa: B019
    def others(self) -> ImageDataset:
        """Images of no class of CIFAR-10's set."""
        return load(self.folder / "tinyimagenet32-jpeg.tar.xz")

    @cache  # noqa: B019
    def denoiser(self, name: str) -> Denoiser:
        if name == "none":
            return Identity()
        return LinearMMSE(self.others()) if name == "linear-mmse" else load_denoiser(name, dtype=self.dtype)

    @cache  # noqa: B019
    def pretrained(self, sigma: float) -> WarmStart:
        """The network after the other images, noised and denoised as the training images will be (not at all for 0)."""
        view = _view(self, self.others(), sigma, "tiny-imagenet-32", Key(0) / "pretraining")
        model = PooledTrainer(PRETRAINING, self.dtype).fit([view], [Key(0) / "pretraining"], Key(0) / "common").member(0)
        return WarmStart(model.state_dict(), "trusted")

    @cache  # noqa: B019
    def pretrained_inside(self) -> WarmStart:
        """The network after the clean training images themselves."""
        view = _view(self, self.train(), 0, "none", Key(0) / "inside")
        model = PooledTrainer(RECIPE, self.dtype).fit([view], [Key(0) / "inside"], Key(0) / "common").member(0)
        return WarmStart(model.state_dict(), "untrusted")


def _view(shelf: Shelf, data: ImageDataset, sigma: float, denoiser: str | Denoiser, key: Key, trusted: Iterable[int] = ()) -> View:
    if sigma:
        chosen = shelf.denoiser(denoiser) if isinstance(denoiser, str) else denoiser
        images = sanitized(Untrusted(data, tuple(trusted)), chosen, sigma, key / "noise", shelf.device).images
    else:
        images = data.pixels().to(shelf.device)  # only now: a hundred thousand images are 1.2 GB
    return View(images, data.labels.to(shelf.device), data.num_classes, Lineage(unsealed=("benchmark",)))


def _logits(
    shelf: Shelf, view: View, key: Key, recipe: Recipe, images: Iterable[Images], warm: WarmStart | None = None
) -> list[torch.Tensor]:
    shelf.recipes.append(recipe)
    model = PooledTrainer(recipe, shelf.dtype, warm=warm).fit([view], [key / "member"], key / "common").member(0)
    with torch.no_grad():
        return [torch.cat([model(part.to(shelf.device)).cpu() for part in torch.split(each, 500)]) for each in images]


def _share(shelf: Shelf, answers: torch.Tensor) -> float:
    return float((answers == shelf.test().labels).double().mean())


def one(
    shelf: Shelf,
    sigma: float,
    key: Key,
    *,
    denoiser: str = "tiny-imagenet-32",
    recipe: Recipe = RECIPE,
    warm: str = "",
    trusted: Iterable[int] = (),
) -> float:
    """Accuracy of one model on clean test images."""
    starts = {
        "outside": lambda: shelf.pretrained(0),
        "outside, denoised": lambda: shelf.pretrained(sigma),
        "inside": shelf.pretrained_inside,
    }
    start = starts[warm]() if warm else None
    view = _view(shelf, shelf.train(), sigma, denoiser, key, trusted)
    (logits,) = _logits(shelf, view, key, recipe, [shelf.test().pixels()], start)
    return _share(shelf, logits.argmax(1))


def same_pipeline(shelf: Shelf, sigma: float, key: Key) -> float:
    """Accuracy of one model on test images that were noised and denoised too."""
    view = _view(shelf, shelf.train(), sigma, "tiny-imagenet-32", key)
    inputs = _view(shelf, shelf.test(), sigma, "tiny-imagenet-32", key / "test").images
    return _share(shelf, _logits(shelf, view, key, RECIPE, [inputs])[0].argmax(1))


def vote(shelf: Shelf, sigma: float, key: Key, *, warm: str = "") -> float:
    """Accuracy of the plurality of several models, each on its own draw."""
    counts = torch.zeros(len(shelf.test()), 10)
    start = shelf.pretrained(sigma) if warm else None
    for member in range(VOTERS):
        own = key / "voter" / member
        view = _view(shelf, shelf.train(), sigma, "tiny-imagenet-32", own)
        (logits,) = _logits(shelf, view, own, RECIPE, [shelf.test().pixels()], start)
        counts += torch.nn.functional.one_hot(logits.argmax(1), 10)
    return _share(shelf, counts.argmax(1))


def several_draws(shelf: Shelf, sigma: float, key: Key) -> float:
    """Accuracy of one model trained on several draws of each image, with as many steps as on one."""
    views = [_view(shelf, shelf.train(), sigma, "tiny-imagenet-32", key / "draw" / draw) for draw in range(DRAWS)]
    images, labels = torch.cat([view.images for view in views]), torch.cat([view.labels for view in views])
    view = View(images, labels, 10, Lineage(unsealed=("benchmark",)))
    recipe = RECIPE.model_copy(update={"epochs": RECIPE.epochs // DRAWS})
    return _share(shelf, _logits(shelf, view, key, recipe, [shelf.test().pixels()])[0].argmax(1))


def multistep(
    shelf: Shelf, sigma: float, key: Key, *, denoiser: str = "tiny-imagenet-32", ancestral: bool = False, recipe: Recipe = RECIPE
) -> float:
    stepwise = MultistepDenoiser(shelf.denoiser(denoiser), STEPS, key / "coins" if ancestral else None)
    view = _view(shelf, shelf.train(), sigma, stepwise, key)
    return _share(shelf, _logits(shelf, view, key, recipe, [shelf.test().pixels()])[0].argmax(1))


ANY_ROWS = tuple(int(row) for row in (Key(0) / "trusted").numpy().permutation(TRAIN_IMAGES)[:TRUSTED])
"""Of all classes alike; the first rows are of one class, as the archive is sorted."""

Variant = Callable[[Shelf, float, Key], float]

WHOLE = "all 50,000 images, the recipe of the certificate on them"
WHOLE_RECIPE = Path(__file__).with_name("member-50000.toml")


def whole_set(shelf: Shelf, sigma: float, key: Key) -> float:
    """Accuracy of one model of the recipe that the thousand models on all training images have."""
    view = _view(shelf, shelf.whole(), sigma, "tiny-imagenet-32", key)
    return _share(shelf, _logits(shelf, view, key, load_recipe(str(WHOLE_RECIPE)), [shelf.test().pixels()])[0].argmax(1))


def _of_one(**options: object) -> Variant:
    return lambda shelf, sigma, key: one(shelf, sigma, key, **options)  # type: ignore[arg-type]


VARIANTS: dict[str, tuple[bool, Variant]] = {
    "one model, one draw": (True, _of_one()),
    "noise only": (True, _of_one(denoiser="none")),
    "linear MMSE of other images": (True, _of_one(denoiser="linear-mmse")),
    f"vote of {VOTERS}": (True, vote),
    f"{LONG.epochs} epochs": (True, _of_one(recipe=LONG)),
    "no augmentation": (True, _of_one(recipe=PLAIN)),
    "test images noised and denoised too": (True, same_pipeline),
    f"{TRUSTED:,} trusted images of all classes": (True, _of_one(trusted=ANY_ROWS)),
    f"{TRUSTED:,} trusted images, nearly all of one class": (True, _of_one(trusted=range(TRUSTED))),
    "pretrained on other images": (True, _of_one(warm="outside")),
    "pretrained on other images, denoised": (True, _of_one(warm="outside, denoised")),
    f"pretrained on other images, denoised; vote of {VOTERS}": (
        True,
        lambda shelf, sigma, key: vote(shelf, sigma, key, warm="yes"),
    ),
    f"{STEPS} deterministic steps": (True, multistep),
    f"{STEPS} deterministic steps, {LONG.epochs} epochs": (
        True,
        lambda shelf, sigma, key: multistep(shelf, sigma, key, recipe=LONG),
    ),
    f"{STEPS} ancestral steps": (True, lambda shelf, sigma, key: multistep(shelf, sigma, key, ancestral=True)),
    "larger denoiser": (True, _of_one(denoiser=LARGER)),
    f"larger denoiser, {STEPS} deterministic steps, {LONG.epochs} epochs": (
        True,
        lambda shelf, sigma, key: multistep(shelf, sigma, key, denoiser=LARGER, recipe=LONG),
    ),
    "denoiser trained on all training images": (False, _of_one(denoiser=KNOWS_THE_IMAGES)),
    f"{DRAWS} draws": (False, several_draws),
    "pretrained on the clean training images": (False, _of_one(warm="inside")),
}
"""Whether a certificate would hold, and the accuracy."""

if KNOWS_THE_IMAGES not in CATALOGUE:
    del VARIANTS["denoiser trained on all training images"]

UNDEFENDED: dict[str, Variant] = {
    "one model": lambda shelf, sigma, key: one(shelf, 0, key),
    f"{LONG.epochs} epochs": lambda shelf, sigma, key: one(shelf, 0, key, recipe=LONG),
    "pretrained on other images": lambda shelf, sigma, key: one(shelf, 0, key, warm="outside"),
    WHOLE: whole_set,
}
"""At sigma 0: what the others are measured against."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CERTIDOTE_DATA", "../shared/data")))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", default="", help="variants whose name contains this")
    parser.add_argument("--out", type=Path, default=Path("results/utility/rows"))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    shelf, failed = Shelf(options.data, fast_dtype(options.device), options.device), []
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seeds):
        cells = [(0.0, name, False, variant) for name, variant in UNDEFENDED.items()]
        cells += [(sigma, name, holds, variant) for sigma in SIGMAS for name, (holds, variant) in VARIANTS.items()]
        for sigma, name, holds, variant in cells:
            file = options.out / f"{sigma:g} {name} {seed}.json".replace(" ", "-").replace(",", "").replace(";", "")
            if file.exists() or options.only not in name:
                continue
            begin, processor = time.perf_counter(), time.process_time()
            try:
                accuracy = variant(shelf, sigma, Key(seed) / "utility")
            except (RuntimeError, ValueError) as error:  # the other rows do not depend on this one
                failed.append(f"{file.stem}: {error}")
                print(failed[-1], flush=True)
                continue
            row: Json = {"sigma": sigma, "variant": name, "certifiable": holds, "seed": seed, "accuracy": accuracy}
            seconds = {"seconds": time.perf_counter() - begin, "processor_seconds": time.process_time() - processor}
            recipe = shelf.recipes[-1].to_json()  # of all models of a variant
            used = {"device": options.device, "recipe": recipe, "peak_mib": getrusage(RUSAGE_SELF).ru_maxrss // 1024}
            write_json(file, {**row, **seconds, **used, **facts()})
            print(json.dumps(row), flush=True)
    if failed:
        sys.exit(f"{len(failed)} rows failed, the first: {failed[0]}")


if __name__ == "__main__":
    main()
