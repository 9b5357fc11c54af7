"""`predict`: what a finished run answers about new images, and what is proved about each answer."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certidote.verbs.choices import check_apart, check_file
from certidote.verbs.options import OwnModel, OwnTransform, SkipCorrupt
from certidote.verbs.reports import read_certificate

if TYPE_CHECKING:
    from certidote.types import Progress


@dataclass(frozen=True)
class Predicted:
    """What `predict` found.

    Attributes:
        rows: one for each image: image, answer (a class name, or None where it abstains), radius, votes (of the counted members
            for the candidate), of, lower_bound, vote (the plurality's class name), counts (class name -> votes of the counted
            members), test_image (row of the run's test set whose committed votes these are, or None).
        claim: what the radii say; "" if nothing is proved.
        reasons: why nothing is proved; empty if something is.
        assumptions: what the claim rests on, as [verdict] text.
        out: the file written, if any.
        skipped: name of each corrupt file that was left out, and why.
    """

    rows: tuple[dict[str, Any], ...]
    claim: str
    reasons: tuple[str, ...]
    assumptions: tuple[str, ...]
    out: Path | None
    skipped: tuple[tuple[str, str], ...] = ()


def predict(
    run: Annotated[Path, typer.Argument(help="run directory of a finished 'certidote certify --keep-weights'")],
    images: Annotated[str, typer.Argument(help="an image file, a folder of images, or any form of DATA")],
    *,
    out: Annotated[Path | None, typer.Option(help="write a .csv or .json file instead of printing the answers")] = None,
    alpha: Annotated[
        float | None, typer.Option(help="failure probability for each image; default: the one the run fixed beforehand")
    ] = None,
    model: OwnModel = "",
    test_transform: OwnTransform = "",
    size: Annotated[
        str,
        typer.Option(
            help="resize images to N or HxW pixels (shorter side fitted, center crop); default: as the run resized its own"
        ),
    ] = "",
    skip_corrupt: SkipCorrupt = False,
    progress: "Progress | None" = None,
) -> Predicted:
    """Classify IMAGES by the vote of RUN's models, with the radius proved for each answer.

    n0 models select the answer, n others are counted. Images of the run's own test set get their committed votes.
    """
    import numpy as np

    from certidote.certification.binomial import check_alpha
    from certidote.certification.lineage import draws_divisor
    from certidote.certification.smoothing import certify_votes
    from certidote.types import ABSTAIN

    if out is not None:
        if out.suffix.lower() not in (".csv", ".json"):
            raise ValueError(f"--out {out}: give a file that ends in .csv or .json")
        check_file(out)
        check_apart(out, images)
    if alpha is not None:
        check_alpha(alpha)
    asked = _asked(run, images, model, test_transform, (size, skip_corrupt), progress)
    record, ballots = asked.record, asked.ballots
    n0, n, names = record["n0"], record["n"], record["data"]["classes"]
    level = record["alpha_each"] if alpha is None else alpha
    counted = ballots.counts(n0, n0 + n)
    plurality = ballots.counts(0, n0 + n).argmax(axis=1)
    if record["proved"]:
        sigma = record["sigma"] / draws_divisor(ballots)
        labels, radii, bounds, hits = certify_votes(ballots, range(n0 + n), n0, sigma, level, record["bound"])
    else:
        labels, hits = plurality, counted[np.arange(len(counted)), plurality]
        radii = bounds = np.zeros(len(labels))
    rows = tuple(
        {
            "image": name,
            "answer": None if label == ABSTAIN else names[label],
            "radius": float(radius) if record["proved"] else None,
            "votes": int(hit),
            "of": n,
            "lower_bound": float(bound) if record["proved"] else None,
            "vote": names[most],
            "counts": {names[c]: int(count) for c, count in enumerate(counts)},
            "test_image": test_row,
        }
        for name, label, radius, hit, bound, most, counts, test_row in zip(
            asked.names, labels, radii, hits, bounds, plurality, counted, asked.test_rows, strict=True
        )
    )
    result = Predicted(
        rows,
        _claim(record, level) if record["proved"] else "",
        tuple(record["reasons"]),
        _rests_on(record, alpha),
        out,
        asked.skipped,
    )
    if out is not None:
        _write(out, result, record, level if record["proved"] else None)
    return result


@dataclass(frozen=True, eq=False)
class _Asked:
    record: dict[str, Any]
    ballots: Any
    names: tuple[str, ...]
    test_rows: tuple[int | None, ...]
    skipped: tuple[tuple[str, str], ...]


def finished_run(run: Path) -> dict[str, Any]:
    """RUN's certificate.json.

    Raises: ValueError if it is no finished run, or the file holds no certificate.
    """
    path = run / "certificate.json"
    if not path.is_file() or not (run / "ledger.sqlite").is_file():
        raise ValueError(f"{run} is no finished run; give the run directory of a finished 'certidote certify --keep-weights'")
    return read_certificate(path)


def config_of(ledger: Any, record: dict[str, Any], run: Path) -> dict[str, Any]:
    """RUN's configuration. Raises: ValueError if its certificate.json is of another one."""
    config: dict[str, Any] | None = ledger.get("config")
    if config is None or ledger.config_digest() != record["config_digest"]:
        raise ValueError(f"{run}: certificate.json is not of the run in ledger.sqlite; run the same 'certidote certify' again")
    return config


def check_kind(scheme: dict[str, Any], run: Path) -> None:
    """Raises: ValueError for runs whose members are asked in another way than about images as they are, all of them at once."""
    if scheme.get("parts", 1) > 1:
        raise ValueError(f"{run} was run with --parts; predict and export take runs in one part: certify again without --parts")
    if scheme.get("test_input", "clean") != "clean":
        raise ValueError(
            f"{run} was run with --test-input {scheme['test_input']}; predict and export take clean test inputs: certify again without it"
        )


def member_slot(run: Path, record: dict[str, Any], config: dict[str, Any], model: str) -> Any:
    """Where RUN's members can be loaded into, one at a time; code of the user's own must be named, and unchanged."""
    from certidote.streams import Key
    from certidote.training.kept import MemberSlot
    from certidote.training.model_dir import check_sources
    from certidote.training.models import build
    from certidote.training.own import confirmed

    architecture = config["trainer"]["recipe"]["architecture"]
    shape, classes = tuple(record["data"]["image_shape"]), len(record["data"]["classes"])
    confirmed(architecture, model, "model", str(run))
    if model:
        check_sources(config["trainer"]["architecture_sources"], build(model, shape, classes, Key(0)), model, str(run))
    return MemberSlot(architecture, shape, classes)


def _asked(
    run: Path, images: str, model: str, test_transform: str, reading: tuple[str, bool], progress: "Progress | None"
) -> _Asked:
    """The votes about these images: the committed ones for images of the run's test set, the kept members' for all others.

    Args:
        reading: size and skip_corrupt, as given; what is not given is as the run had it.
    """
    import numpy as np
    import torch

    from certidote.data.decode import Reading
    from certidote.data.pictures import read_pictures
    from certidote.data.resize import as_size
    from certidote.engine.ledger import Ledger
    from certidote.engine.weights import WeightStore, check_all_kept, poll
    from certidote.results.audit import record_of
    from certidote.training.own import confirmed, transformed
    from certidote.types import Ballots, Provenance, content_hashes

    record = finished_run(run)
    shape = tuple(record["data"]["image_shape"])
    with Ledger(run / "ledger.sqlite", read_only=True) as ledger:
        config, kept, known = config_of(ledger, record, run), ledger.kept(), ledger.get("test_images") or []
        record = record_of(ledger)  # the file may have been edited; the ledger is what was counted
        check_kind(config["scheme"], run)
        check_all_kept(kept, record["n0"] + record["n"], run)
        provenance = Provenance(record["data"]["digest"], record["root_source"], None)
        whole = ledger.ballots(record["test"]["images"], len(record["data"]["classes"]), provenance)
        members = record["n0"] + record["n"]
        kept = [each for each in kept if each.job.last <= members]
        committed = replace(
            whole, votes=whole.votes[:members], failed=whole.failed[:members], noise_ids=whole.noise_ids[:members], ranks=None
        )
    slot = member_slot(run, record, config, model)
    recorded = config.get("test_transform", {"name": "", "sources": ""})
    confirmed(recorded["name"], test_transform, "test transform", str(run))
    size, skip_corrupt = reading[0] or config.get("size"), reading[1] or config.get("skip_corrupt", False)
    pictures = read_pictures(images, None if test_transform else shape[0], Reading(as_size(size), skip_corrupt))
    pixels = pictures.images
    if test_transform:
        pixels, sources = transformed(test_transform, pixels, shape)
        if sources != recorded["sources"]:
            raise ValueError(f"the code of test transform {test_transform!r} is not what {run} was made with; restore it")
    if tuple(pixels.shape[1:]) != shape:
        given, wanted = ("x".join(map(str, each)) for each in (pixels.shape[1:], shape))
        advice = "convert them first" if pixels.shape[2:] == shape[1:] else f"give --size {shape[1]}x{shape[2]} to resize them"
        raise ValueError(f"images of shape {given}, but the models of {run} take {wanted} (channels x height x width); {advice}")
    place = {value: row for row, value in reversed(list(enumerate(known)))}
    rows = [place.get(value) for value in content_hashes(pixels)]
    new = [i for i, row in enumerate(rows) if row is None]
    votes = np.zeros((len(committed), len(pixels)), dtype=np.int64)
    failed = np.repeat(committed.failed[:, None], len(pixels), axis=1)
    for i, row in enumerate(rows):
        if row is not None:
            votes[:, i] = committed.votes[:, row]
    if new:
        votes[:, new], broken = poll(WeightStore(run), kept, slot, pixels[torch.tensor(new)], progress)
        failed[:, new] |= broken
    # A member that fails on one image votes for nobody there; ballots mark members, so its vote is set beside all classes.
    votes[failed] = len(record["data"]["classes"])
    ballots = Ballots(
        votes, np.zeros(len(votes), dtype=bool), committed.num_classes, committed.lineages, committed.noise_ids, provenance
    )
    return _Asked(record, ballots, pictures.names, tuple(rows), pictures.skipped)


def _claim(record: dict[str, Any], level: float) -> str:
    from certidote.defenses import statement

    trusted = record["trusted"]
    return f"Claimed {statement.chance(level, False, 1)}, {statement.changes(trusted, 0.0)} {statement.noise(record['sigma'], trusted, 0.0)}."


def _rests_on(record: dict[str, Any], alpha: float | None) -> tuple[str, ...]:
    if not record["proved"]:
        return ()
    found = ["[assumed] Whoever chose these images had not seen the models, their noise or their votes."]
    if alpha is not None and alpha != record["alpha_each"]:
        found.append(
            f"[assumed] alpha {alpha:g} was chosen without knowledge of any votes; the run itself fixed "
            f"{record['alpha_each']:g} before its first model trained."
        )
    return (*found, *(f"[{item['verdict']}] {item['text']}" for item in record["assumptions"]))


def _write(out: Path, result: Predicted, record: dict[str, Any], level: float | None) -> None:
    from certidote.data.names import as_cell
    from certidote.results.files import write_csv, write_json

    if out.suffix.lower() == ".csv":
        columns = [name for name in result.rows[0] if name != "counts"]
        classes = record["data"]["classes"]
        header = (*columns, *(f"count of {as_cell(name)}" for name in classes))
        rows = [(*(_cell(row[name]) for name in columns), *(row["counts"][c] for c in classes)) for row in result.rows]
        write_csv(out, header, rows)
        return
    fields = {name: record[name] for name in ("sigma", "n0", "n", "proved", "reasons", "config_digest", "unit")}
    about = {"format": "certidote predictions", "version": 1, "claim": result.claim, "alpha": level, **fields}
    skipped = [{"name": name, "reason": reason} for name, reason in result.skipped]
    write_json(out, {**about, "assumptions": list(result.assumptions), "skipped": skipped, "images": list(result.rows)})


def _cell(value: Any) -> Any:
    """A value in a table: names are never formulas, nothing is an empty cell."""
    from certidote.data.names import as_cell

    if value is None:
        return ""
    return as_cell(value) if isinstance(value, str) else value
