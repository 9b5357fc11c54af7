"""DP-SGD: every image's gradient is clipped, noise is added to their sum, and batches are drawn at random."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from certidote.certification.privacy import LARGEST_USEFUL, privacy_statement, spent_epsilon
from certidote.defenses.gradient_shaping import TINY
from certidote.streams import Key, normal_block, torch_seeded
from certidote.training.augment import Augmentation
from certidote.training.models import ARCHITECTURES, ModelStack, build
from certidote.training.optimizer import Optimizer
from certidote.training.own import is_own
from certidote.training.recipe import Recipe
from certidote.training.schedule import check_views, rates
from certidote.types import Images, Json, Start, View

GRADIENT_NUMBERS = 2**25
"""Numbers of single images' gradients that are in memory at once."""


class PrivateTrainer:
    """A `Trainer` whose members are (epsilon, delta)-private functions of their views.

    In each step every image is taken with the same chance, independently; each one's gradient is shortened to norm `clip`; Gaussian noise
    of std noise x clip is added to their sum in every coordinate; the sum is divided by the expected size of a batch.

    Threat model: few altered images of any kind. Certificate: group privacy (`certification.privacy`), for the plurality of many trainings;
    epsilon is part of the description, and said to be no guarantee where it is too large for one. Cost: 1.5 to 4 plain trainings.

    Source: Abadi et al. (2016), as in opacus, whose accountant it uses; clip 1 and noise 0.05 is the paper's setting against poisons.
    Differs from opacus: gradients of single images by torch.func instead of hooks; always in float32.
    """

    def __init__(
        self,
        recipe: Recipe,
        sampling_rate: float,
        *,
        noise: float = 1.1,
        clip: float = 1.0,
        delta: float = 1e-5,
        stack_size: int = 4,
        start: Start = "fresh",
        sources: str = "",
    ) -> None:
        """
        Args:
            recipe: of an architecture without BatchNorm; its batch size does not count, the rest does.
            sampling_rate: chance of an image to be in a step, in (0, 1]. An epoch is 1 / sampling_rate steps, rounded.
            noise: std of the noise as a share of `clip`, at least 0.
            clip: largest l2 norm of one image's gradient, over all parameters, above 0.
            delta: for which epsilon is worked out.
            stack_size: members of one job; decides what is committed together, not results.
            start, sources: of an architecture of the user's own, as in `PooledTrainer`.
        Raises: ValueError for numbers out of range, an architecture with BatchNorm, or without opacus.
        """
        if not clip > 0 or stack_size < 1:
            raise ValueError(f"clip={clip:g}, stack_size={stack_size}; give a clip above 0 and at least 1 member")
        check_no_batch_norm(recipe.architecture)
        self.recipe, self.sampling_rate, self.noise, self.clip, self.delta = recipe, sampling_rate, noise, clip, delta
        self.stack_size, self.together = stack_size, 1
        self.start, self.sources = start, sources
        self.steps_per_epoch = max(1, round(1 / sampling_rate)) if sampling_rate > 0 else 1
        self.epsilon = spent_epsilon(noise, sampling_rate, recipe.epochs * self.steps_per_epoch, delta)

    def describe(self) -> Json:
        own: Json = {"start": self.start, "architecture_sources": self.sources} if is_own(self.recipe.architecture) else {}
        return own | {
            "trainer": "private",
            "recipe": self.recipe.to_json(),
            "privacy": {
                "sampling_rate": self.sampling_rate,
                "noise": self.noise,
                "clip": self.clip,
                "delta": self.delta,
                "epsilon": self.epsilon if math.isfinite(self.epsilon) else None,
                "guarantee": self.epsilon <= LARGEST_USEFUL,
                "statement": privacy_statement(self.epsilon, self.delta),
            },
        }

    def fit(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> ModelStack:
        """One model for each view.

        Args:
            views: of one image shape and number of classes.
            keys: one per view; decide initial weights, batches, noise and augmentation.
            common: not used: secret coins are what privacy is made of.
        Raises: ValueError for no views, empty views, views that do not match, not one key each, or an own architecture with BatchNorm.
        """
        image_shape = check_views(views, keys)
        models = []
        for view, key in zip(views, keys, strict=True):
            model = build(self.recipe.architecture, image_shape, view.num_classes, key)
            check_layers(model, self.recipe.architecture)
            with torch_seeded(key / "coins"):
                models.append(self._train(model.to(view.images.device).train(), view, key))
        return ModelStack(models)

    def _train(self, model: nn.Module, view: View, key: Key) -> nn.Module:
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        parameters = [model.get_parameter(name) for name in names]
        optimizer, device = Optimizer(parameters, self.recipe), view.images.device
        rate = rates(self.recipe, self.recipe.epochs * self.steps_per_epoch)
        augmentation = Augmentation.drawn(self.recipe, len(view.labels), key, device)
        for step, size in enumerate(rate):
            rows = self.sample(len(view.labels), key / "sampled" / step).to(device)
            images = view.images[rows]
            if augmentation is not None and len(rows):
                images = augmentation(images, step // self.steps_per_epoch, rows)
            total = self.clipped_sum(model, names, images, view.labels[rows])
            mean = self.released(total, len(view.labels), key / "noise of gradients" / step)
            parts = torch.split(mean, [parameter.numel() for parameter in parameters])
            optimizer.step([part.view(like.shape) for part, like in zip(parts, parameters, strict=True)], size)
        return model

    def sample(self, images: int, key: Key) -> Int64[Tensor, "taken"]:
        """The rows of one step, each taken with chance `sampling_rate`; maybe none."""
        return torch.from_numpy((key.numpy().random(images) < self.sampling_rate).nonzero()[0])

    def released(self, total: Float[Tensor, "numbers"], images: int, key: Key) -> Float[Tensor, "numbers"]:
        """A sum of clipped gradients with noise, divided by how many of so many images a step takes on average."""
        noise = normal_block(key, range(1), (total.numel(),), str(total.device))[0]
        return (total + self.noise * self.clip * noise) / (self.sampling_rate * images)

    def clipped_sum(
        self, model: nn.Module, names: Sequence[str], images: Images, labels: Int64[Tensor, "b"]
    ) -> Float[Tensor, "numbers"]:
        """The sum over images of their gradients by the parameters of these names, each of norm at most `clip`.

        A gradient that is not finite counts as zero, or one image could end the training, whatever the others are.
        """
        count = sum(model.get_parameter(name).numel() for name in names)
        total = torch.zeros(count, device=images.device)
        for gradients in self._gradients(model, names, images, labels, max(1, GRADIENT_NUMBERS // count)):
            norms = torch.linalg.vector_norm(gradients, dim=1, dtype=torch.float64)  # of millions of numbers
            finite = norms.isfinite()
            if not bool(finite.all()):
                gradients, norms = gradients[finite], norms[finite]
            total += (self.clip / (norms + TINY)).clamp(max=1).float() @ gradients
        return total

    def _gradients(
        self, model: nn.Module, names: Sequence[str], images: Images, labels: Int64[Tensor, "b"], most: int
    ) -> Iterator[Float[Tensor, "some numbers"]]:
        """Of single images, at most so many at a time."""
        learned = {name: model.get_parameter(name).detach() for name in names}
        fixed = {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers()) if name not in learned}

        def loss(weights: Mapping[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
            logits = functional_call(model, {**fixed, **weights}, (image.unsqueeze(0),)).float()
            return cross_entropy(logits, label.unsqueeze(0), label_smoothing=self.recipe.label_smoothing)

        each = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")
        for some, wanted in zip(torch.split(images, most), torch.split(labels, most), strict=True):
            if len(some):
                found = each(learned, some, wanted)
                yield torch.cat([found[name].flatten(1) for name in names], dim=1)


def check_no_batch_norm(architecture: str) -> None:
    """Whether each image's gradient is its own; an architecture of the user's own is looked at when it is built.

    Raises: ValueError otherwise, naming the architecture to use instead.
    """
    if is_own(architecture):
        return
    with torch.device("meta"):
        check_layers(ARCHITECTURES[architecture]((3, 32, 32), 10), architecture)


def check_layers(model: nn.Module, architecture: str) -> None:
    """Raises: ValueError for a model with BatchNorm."""
    if not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return
    twin = f"{architecture}-gn"
    instead = f"use {twin!r}" if twin in ARCHITECTURES else "use group normalization"
    raise ValueError(
        f"architecture {architecture!r} has BatchNorm, in which one image changes the gradients of all others, so nothing is private; {instead}"
    )
