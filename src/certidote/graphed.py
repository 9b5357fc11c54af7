"""Calls of one shape recorded once on a GPU and replayed: one launch in place of hundreds.

A small network's kernels take less time than their launches do. A CUDA graph holds the launches of one call on fixed memory; a
replay computes the same numbers with the same kernels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

WARM_UP = 3
"""Calls before the recording, in which libraries choose kernels and allocate what they need."""


@dataclass(frozen=True, eq=False)
class _Recording:
    graph: "torch.cuda.CUDAGraph"
    inputs: list[Tensor]
    output: Tensor


class Graphed:
    """A pure function of CUDA tensors, without gradients; one recording for each combination of shapes and formats it meets.

    Calls from several streams wait for each other, as a recording has one place for its inputs.

    Args:
        function: must not read values back to the host.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._recordings: dict[tuple[object, ...], _Recording] = {}
        self._replayed: torch.cuda.Event | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        kind = tuple((each.shape, each.dtype, each.device, each.stride()) for each in inputs)
        stream = torch.cuda.current_stream(inputs[0].device)
        if self._replayed is not None:
            stream.wait_event(self._replayed)
        if kind not in self._recordings:
            self._recordings[kind] = self._record(inputs)
        recording = self._recordings[kind]
        for place, given in zip(recording.inputs, inputs, strict=True):
            place.copy_(given)
        recording.graph.replay()
        output = recording.output.clone()
        self._replayed = stream.record_event()
        return output

    def _record(self, inputs: tuple[Tensor, ...]) -> _Recording:
        places = [each.clone() for each in inputs]
        output: list[Tensor] = []

        def call() -> None:
            output[:] = [self._function(*places)]

        expected = self._function(*inputs).clone()
        recording = _Recording(recorded(call, inputs[0].device), places, output[0])
        _check(recording, inputs, expected)
        return recording


def recorded(call: Callable[[], None], device: torch.device, stream: "torch.cuda.Stream | None" = None) -> "torch.cuda.CUDAGraph":
    """The launches of a call on fixed memory, which is made a few times before.

    Args:
        stream: recorded on; libraries give each stream a workspace, so recordings that run at the same time need streams of their own.
    """
    before, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    aside.wait_stream(before)
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            call()
    before.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph, stream=stream or torch.cuda.Stream(device)):  # type: ignore[no-untyped-call]
        call()
    return graph


def _check(recording: _Recording, inputs: tuple[Tensor, ...], expected: Tensor) -> None:
    """A recording that misses a launch would hand out old numbers: it must turn blank places into what a launched call computed.

    Raises: RuntimeError if it does not.
    """
    for place in recording.inputs:
        place.zero_()
    recording.graph.replay()
    blank = recording.output.clone()
    for place, given in zip(recording.inputs, inputs, strict=True):
        place.copy_(given)
    recording.graph.replay()
    again = recording.output.clone()
    if torch.equal(blank, again) or not torch.allclose(again, expected, rtol=1e-2, atol=1e-3):
        raise RuntimeError(
            "a recorded call does not compute what the call computes; report this with your versions of torch and CUDA"
        )
