"""One member, or the vote of many, as an ONNX model that needs nothing of ours to run.

torch's exporter traces one member with its weights as inputs. One member then is that graph with its weights filled in; a vote is
the same graph as the body of an ONNX Scan over all members' weights, laid out side by side: its size grows with the weights, not
with copies of the graph, and any architecture that torch can export works.
"""

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from certidote.data.atomic import replacing

INPUT, LABEL, COUNTS, LOGITS = "images", "label", "counts", "logits"
LARGEST = 2_000_000_000
"""Bytes that one ONNX file can hold."""


def require_onnx() -> None:
    """Raises: ValueError that names the extra if onnx or onnxscript is not installed."""
    from importlib.util import find_spec

    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ValueError(f"exporting needs {' and '.join(missing)}; install the extra: pip install 'certidote[onnx]'")


def member_proto(model: nn.Module, image_shape: tuple[int, int, int], class_names: Sequence[str]) -> Any:
    """One member: images (n, c, h, w) float32 in [0, 1] -> logits (n, classes) and label (n,) int64.

    Raises: ValueError if torch cannot export the architecture.
    """
    from onnx import numpy_helper

    proto, names = _traced(model, image_shape)
    weights = _weights(model)
    for name in names:
        proto.graph.initializer.append(numpy_helper.from_array(weights[name].numpy(), _input_name(name)))
    _keep_inputs(proto, [INPUT])
    _argmax(proto.graph, LOGITS, LABEL, axis=1)
    _outputs(proto, [(LOGITS, "FLOAT", len(class_names)), (LABEL, "INT64", None)])
    return _finished(proto, class_names)


def vote_proto(
    model: nn.Module, members: Iterable[Mapping[str, Tensor]], image_shape: tuple[int, int, int], class_names: Sequence[str]
) -> Any:
    """The vote of many: images -> counts (n, classes) int64, one vote for each member; label (n,), ties to the smaller class.

    Args:
        model: of the members' architecture, any weights.
        members: their state dicts. Leave out members that failed: they vote for nobody.
    Raises: ValueError if torch cannot export the architecture, there are no members, or they do not fit into one file.
    """
    from onnx import TensorProto, helper, numpy_helper

    proto, names = _traced(model, image_shape)
    body, graph = proto.graph, helper.make_graph([], "vote", [], [])
    collected: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in names}
    size, count = 0, 0
    for count, state in enumerate(members, 1):
        for name in names:
            collected[name].append(state[name].numpy().copy())
            size += collected[name][-1].nbytes
        if size > LARGEST:
            raise ValueError(
                f"{count} members take {size / 1e9:.1f} GB already, an ONNX file holds at most 2; export single members"
            )
    if not count:
        raise ValueError("there is no member that can vote; all have failed")
    graph.input.extend(value for value in body.input if value.name == INPUT)
    _keep_inputs(proto, [_input_name(name) for name in names])
    _argmax(body, LOGITS, "vote", axis=1)
    del body.output[:]
    body.output.append(helper.make_tensor_value_info("vote", TensorProto.INT64, [None]))
    for name in names:
        graph.initializer.append(numpy_helper.from_array(np.stack(collected.pop(name)), f"all.{name}"))
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(len(class_names), dtype=np.int64), "classes"),
            numpy_helper.from_array(np.array([0, 1], dtype=np.int64), "off_on"),
            numpy_helper.from_array(np.array([0], dtype=np.int64), "member_axis"),
        ]
    )
    stacked = [f"all.{name}" for name in names]
    graph.node.extend(
        [
            helper.make_node("Scan", stacked, ["votes"], body=body, num_scan_inputs=len(names)),
            helper.make_node("OneHot", ["votes", "classes", "off_on"], ["one_hot"], axis=-1),
            helper.make_node("ReduceSum", ["one_hot", "member_axis"], [COUNTS], keepdims=0),
        ]
    )
    _argmax(graph, COUNTS, LABEL, axis=1)
    proto.graph.CopyFrom(graph)
    _outputs(proto, [(COUNTS, "INT64", len(class_names)), (LABEL, "INT64", None)])
    return _finished(proto, class_names)


def write_onnx(proto: Any, out: Path) -> None:
    """Write the model, whole or not at all."""
    content = proto.SerializeToString()
    with replacing(out) as file:
        file.write(content)


# ---------------------------------------------------------------------------------------------------------------- the pieces


class _Weightless(nn.Module):
    """A model whose weights are arguments."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, list(names)

    def forward(self, images: Tensor, *weights: Tensor) -> Tensor:
        return torch.func.functional_call(self.model, dict(zip(self.names, weights, strict=True)), (images,))


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """What distinguishes members: parameters and buffers of floating point."""
    return {name: value.detach().cpu() for name, value in model.state_dict().items() if value.is_floating_point()}


def _input_name(weight: str) -> str:
    return f"weight.{weight}"


def _traced(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[Any, list[str]]:
    """The graph of one member from images and weights to logits, and the names of the weights it uses."""
    require_onnx()
    weights = _weights(model)
    images = torch.zeros(2, *image_shape)
    wrapped = _Weightless(model, list(weights)).eval()
    logger, level = logging.getLogger("torch.onnx"), logging.getLogger("torch.onnx").level
    logger.setLevel(logging.ERROR)  # it reports that torchvision, which nothing here needs, is missing
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's exporter about torch and its own helpers
            warnings.simplefilter("ignore", DeprecationWarning)
            program = torch.onnx.export(
                wrapped, (images, *weights.values()), dynamo=True, verbose=False,
                input_names=[INPUT, *map(_input_name, weights)], output_names=[LOGITS],
                dynamic_shapes={"images": {0: torch.export.Dim("n", min=1)}, "weights": tuple({} for _ in weights)},
            )  # fmt: skip
    except Exception as error:  # whatever an architecture does that the exporter cannot follow
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"torch cannot export this architecture to ONNX ({reason})") from error
    finally:
        logger.setLevel(level)
    assert program is not None
    proto = program.model_proto
    used = {name for node in proto.graph.node for name in node.input}
    return proto, [name for name in weights if _input_name(name) in used]


def _keep_inputs(proto: Any, names: Sequence[str]) -> None:
    """These inputs in this order, and no others."""
    present = {value.name: value for value in proto.graph.input}
    kept = [present[name] for name in names]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)


def _argmax(graph: Any, source: str, name: str, axis: int) -> None:
    from onnx import helper

    graph.node.append(helper.make_node("ArgMax", [source], [name], axis=axis, keepdims=0))  # the first of equals


def _outputs(proto: Any, outputs: Sequence[tuple[str, str, int | None]]) -> None:
    from onnx import TensorProto, helper

    del proto.graph.output[:]
    for name, kind, classes in outputs:
        shape: list[str | int | None] = ["n"] if classes is None else ["n", classes]
        proto.graph.output.append(helper.make_tensor_value_info(name, getattr(TensorProto, kind), shape))


def _finished(proto: Any, class_names: Sequence[str]) -> Any:
    import json

    import onnx
    from onnx import helper

    proto.graph.name = "certidote"
    helper.set_model_props(proto, {"class_names": json.dumps(list(class_names)), "input": "float32 pixels in [0, 1], (n, c, h, w)"})
    if proto.ByteSize() > LARGEST:
        raise ValueError(f"the model takes {proto.ByteSize() / 1e9:.1f} GB, an ONNX file holds at most 2; export single members")
    onnx.checker.check_model(proto)
    return proto
