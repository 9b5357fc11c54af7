"""A plain training whose steps a GPU replays: one launch in place of some hundreds.

A small network's kernels take microseconds, less than the host needs to launch them. A CUDA graph holds all launches of one step on fixed memory: a member's
weights, images, order and coins are copied there, every step is replayed, and the weights are copied out. The rate of a step, its rows and its epoch are
looked up on the device, by a counter that each step advances. Several members learn at the same time, each in memory and on a stream of its own: one
does not fill a large card.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from certidote.graphed import recorded
from certidote.numerics import sent
from certidote.streams import Key
from certidote.training.augment import Augmentation
from certidote.training.learner import Learner
from certidote.training.optimizer import Optimizer
from certidote.training.schedule import batches, rates
from certidote.types import View

Record = Callable[[Callable[[], None], torch.device, "torch.cuda.Stream | None"], Callable[[], None]]
"""Turns a call into one that does the same on the same memory."""

DEVIATION = 0.1
"""By how much of its length a replayed first step may differ from a launched one: libraries may pick other kernels, that round differently."""


class RecordedTraining:
    """Trainings by one recipe on views of one shape, one after the other in the same memory.

    Args:
        learner: its model is on the device, in the memory format to train in; it is trained, and then holds the last member's weights.
        view: of the shape that all have; its content does not matter.
        record: None replays a CUDA graph.
    """

    def __init__(self, learner: Learner, view: View, record: Record | None = None) -> None:
        recipe, device = learner.recipe, view.images.device
        self.learner = learner
        self._parameters = [parameter for parameter in learner.model.parameters() if parameter.requires_grad]
        self._optimizer = Optimizer(self._parameters, recipe)
        self._images = torch.empty_like(view.images, memory_format=torch.channels_last)
        self._labels, self._num_classes = torch.zeros_like(view.labels), view.num_classes
        self._rows = torch.stack(batches(recipe, len(view.labels), Key(0))).to(device)
        self._rates = torch.tensor(rates(recipe, len(self._rows)), dtype=torch.float32, device=device)
        self._per_epoch = len(self._rows) // recipe.epochs
        self._augmentation = Augmentation.drawn(recipe, len(view.labels), Key(0), device)
        self._step = torch.zeros(1, dtype=torch.int64, device=device)
        self._record = record or _replaying
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._replay: Callable[[], None] | None = None

    @property
    def steps(self) -> int:
        return len(self._rows)

    def fits(self, view: View) -> bool:
        """Whether this view is of the shape that all have."""
        same = view.images.shape == self._images.shape and view.labels.shape == self._labels.shape
        return same and view.images.device == self._images.device and view.num_classes == self._num_classes

    def prepare(self, model: nn.Module, view: View, key: Key, common: Key) -> None:
        """Record the step, unless that was done, with some member's model and view, and compare its effect.

        Raises: RuntimeError if a replayed step does not do what a launched one does.
        """
        if self._replay is None:
            self.begin(model, view, key, common)
            self._replay = self._record(self._one_step, self._images.device, self.stream)
            self._check(self._replay, lambda: self.begin(model, view, key, common))

    def step(self) -> None:
        """The next one."""
        assert self._replay is not None, "prepared before"
        self._replay()

    def take(self, model: nn.Module) -> None:
        """Put what was learned into a model of the learner's architecture, which is on the device afterwards."""
        model.to(self._images.device)
        _copy(self.learner.model, model)

    @torch.no_grad()
    def begin(self, model: nn.Module, view: View, key: Key, common: Key) -> None:
        """All of one member into its place."""
        recipe, device = self.learner.recipe, self._images.device
        _copy(model, self.learner.model)
        self._optimizer.begin()
        self._images.copy_(view.images)
        self._labels.copy_(view.labels)
        self._rows.copy_(sent(torch.stack(batches(recipe, len(view.labels), common)), device))
        if self._augmentation is not None:
            drawn = Augmentation.drawn(recipe, len(view.labels), key, device)
            assert drawn is not None, "the recipe is the same"
            self._augmentation.take(drawn)
        self._step.zero_()

    def _one_step(self) -> None:
        rows = self._rows.index_select(0, self._step).squeeze(0)
        images = self._images[rows]
        if self._augmentation is not None:
            images = self._augmentation(images, self._step // self._per_epoch, rows)
        loss = self.learner.loss(images, self._labels[rows])
        gradients = torch.autograd.grad(loss, self._parameters)
        self._optimizer.step(gradients, self._rates.index_select(0, self._step))
        self._step.add_(1).remainder_(self.steps)  # before a recording come more calls than a short training has steps

    @torch.no_grad()
    def _check(self, replay: Callable[[], None], begin: Callable[[], None]) -> None:
        """A recording that misses a launch would train something else: the first step is compared."""
        moved = []
        for step in (self._one_step, replay):
            begin()
            before = [parameter.clone() for parameter in self._parameters]
            with torch.enable_grad():
                step()
            moved.append(torch.cat([(p - b).flatten() for p, b in zip(self._parameters, before, strict=True)]))
        launched, found = moved
        if not bool((found - launched).norm() <= DEVIATION * launched.norm()) or not bool(launched.any()):
            raise RuntimeError(
                "a recorded training step does not do what the step does; report this with your versions of torch and CUDA, and train "
                "on the CPU with --device cpu"
            )


def train_side_by_side(
    places: Sequence[RecordedTraining], models: Sequence[nn.Module], views: Sequence[View], keys: Sequence[Key], common: Key
) -> None:
    """Train as many models as there are places, step by step in turn; a GPU works on all of them at the same time.

    Args:
        models: of the learners' architecture; trained in place, and on the device afterwards.
        keys, common: as of a trainer's `fit`.
    """
    members = list(zip(places, models, views, keys, strict=True))
    for place, model, view, key in members:
        place.prepare(model, view, key, common)
    for place, model, view, key in members:
        with _on(place.stream):
            place.begin(model, view, key, common)
    for _ in range(places[0].steps):
        for place in places:
            with _on(place.stream, waits=False):
                place.step()
    for place, model, _, _ in members:
        if place.stream is not None:
            torch.cuda.current_stream(place.stream.device).wait_stream(place.stream)
        place.take(model)


@contextmanager
def _on(stream: "torch.cuda.Stream | None", waits: bool = True) -> Iterator[None]:
    """Launch there, after what was launched before; where there are no streams, at once."""
    if stream is None:
        yield
        return
    if waits:
        stream.wait_stream(torch.cuda.current_stream(stream.device))
    with torch.cuda.stream(stream):
        yield


def _replaying(call: Callable[[], None], device: torch.device, stream: "torch.cuda.Stream | None") -> Callable[[], None]:
    return recorded(call, device, stream).replay


@torch.no_grad()
def _copy(source: nn.Module, target: nn.Module) -> None:
    """Parameters and buffers of one model into those of another of its architecture, wherever they are."""
    tensors: list[tuple[Tensor, Tensor]] = list(zip(source.state_dict().values(), target.state_dict().values(), strict=True))
    for given, place in tensors:
        place.copy_(given, non_blocking=True)
