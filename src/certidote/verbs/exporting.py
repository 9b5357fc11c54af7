"""`export`: one model, or the vote of all, as an ONNX file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from certidote.verbs.choices import check_file
from certidote.verbs.options import OwnModel
from certidote.verbs.prediction import check_kind, config_of, finished_run, member_slot


@dataclass(frozen=True)
class Exported:
    """What `export` wrote: the file, and the number of models in it."""

    out: Path
    members: int


def export(
    source: Annotated[Path, typer.Argument(help="run directory of 'certidote certify --keep-weights', or a model directory")],
    *,
    out: Annotated[Path, typer.Option(help="the .onnx file")],
    member: Annotated[int | None, typer.Option(help="export this one model of the run, counted from 0")] = None,
    stack: Annotated[bool, typer.Option("--stack", help="export the vote of all models of the run")] = False,
    model: OwnModel = "",
) -> Exported:
    """Write a model as ONNX: images, float32 (n, c, h, w) in [0, 1], to logits and label; with --stack to the counts of all models'
    votes and the label with most. An exported vote neither abstains nor carries a radius; 'certidote predict' does.

    Needs the extra: pip install 'certidote[onnx]'.
    """
    from certidote.training.model_dir import load_model, read_config
    from certidote.training.onnx_export import member_proto, require_onnx, write_onnx

    of_run = (source / "ledger.sqlite").is_file()
    if (stack and member is not None) or (of_run and not stack and member is None):
        raise ValueError("give either --member NUMBER or --stack")
    if out.suffix.lower() != ".onnx":
        raise ValueError(f"--out {out}: give a file that ends in .onnx")
    check_file(out)
    require_onnx()
    if of_run:
        return _of_run(source, out, member, model)
    config = read_config(source)
    if stack or member:
        raise ValueError(f"{source} holds one model; leave out --stack and --member, or give a run directory")
    write_onnx(member_proto(load_model(source, model), config.image_shape, config.class_names), out)
    return Exported(out, 1)


def _of_run(run: Path, out: Path, member: int | None, model: str) -> Exported:
    from certidote.engine.ledger import Ledger
    from certidote.engine.weights import WeightStore, check_all_kept
    from certidote.training.model_dir import filled
    from certidote.training.onnx_export import member_proto, vote_proto, write_onnx
    from certidote.types import Provenance

    record = finished_run(run)
    members, names, shape = record["n0"] + record["n"], record["data"]["classes"], tuple(record["data"]["image_shape"])
    if member is not None and not 0 <= member < members:
        raise ValueError(f"--member {member}: {run} has members 0 to {members - 1}")
    with Ledger(run / "ledger.sqlite", read_only=True) as ledger:
        config = config_of(ledger, record, run)
        check_kind(config["scheme"], run)
        check_all_kept(ledger.kept(), members, run)
        kept = [each for each in ledger.kept() if each.job.last <= members]
        provenance = Provenance(record["data"]["digest"], record["root_source"], None)
        failed = ledger.ballots(record["test"]["images"], len(names), provenance).failed[:members]
    slot, store = member_slot(run, record, config, model), WeightStore(run)

    def fill(state: Any) -> Any:
        return filled(slot.architecture, shape, len(names), state)

    if member is not None:
        block = next(each for each in kept if each.job.first <= member < each.job.last)
        (state,) = (state for number, state in _states(store, [block]) if number == member)
        write_onnx(member_proto(fill(state), shape, names), out)
        return Exported(out, 1)
    _, first = next(_states(store, kept))
    voting = (state for number, state in _states(store, kept) if not failed[number])
    write_onnx(vote_proto(fill(first), voting, shape, names), out)
    return Exported(out, int((~failed).sum()))


def _states(store: Any, kept: Any) -> Iterator[tuple[int, Any]]:
    from certidote.training.kept import states

    for each in kept:
        content = store.read(each)
        yield from enumerate(states(content, each.job.last - each.job.first, str(store.path(each.job))), each.job.first)
