"""`report` and `demo`: what a run left, shown again; and the whole story."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certidote.verbs.choices import check_directory, check_workers
from certidote.verbs.options import Dtype

if TYPE_CHECKING:
    from certidote.types import Progress


PICTURES = "pictures.json"


@dataclass(frozen=True)
class Reported:
    """What `report` wrote: the page, and sentences about pictures.json where there is something to say."""

    out: Path
    notes: tuple[str, ...] = ()


def write_results(out: Path, record: dict[str, Any], pictures: dict[str, Any], gallery: bool = True) -> None:
    """Everything that a finished run leaves beside its ledger: all of it new, or all as it was.

    Args:
        record: certificate.json.
        pictures: "examples" and "gallery" of the report. Kept in a file of their own: they do not follow from the ledger.
        gallery: show pictures in the report.
    Raises: OSError if the disk fails, saying which file and what is safe.
    """
    from certidote.results.files import csv_text, json_text, write_texts

    texts = {name: csv_text(header, rows) for name, (header, rows) in tables(record).items()}
    texts |= {PICTURES: json_text(pictures), **shown(record, pictures, gallery)}
    texts["certificate.json"] = json_text(record)  # last: where it is, the others are
    try:
        write_texts({out / name: text for name, text in texts.items()})
    except OSError as error:
        message = f"{error.strerror}; all votes are safe in {out / 'ledger.sqlite'}"
        raise OSError(error.errno, message, error.filename) from error


def shown(
    record: dict[str, Any], pictures: dict[str, Any], gallery: bool, threat_map: dict[str, Any] | None = None
) -> dict[str, str]:
    """The report and the figures of a record, by file name; arguments as for `write_results`."""
    from certidote.reporting.figures import certified_accuracy_figure, threat_figure
    from certidote.reporting.html import render

    figures = {}
    if record["proved"]:
        figures = {"certified_accuracy.svg": certified_accuracy_figure([record]), "threats.svg": threat_figure([record])}
    title = f"Certificate for {record['data']['name']}"
    return {**figures, "report.html": render(title, [{**record, **pictures}], threat_map=threat_map, pictures=gallery)}


def _pictures_of(run: Path) -> tuple[dict[str, Any], bool]:
    """What was kept for the report's pictures, and whether it is whole.

    Nothing if the file is gone, or damaged in any part: the report does without.
    """
    import json

    from certidote.reporting.kept import kept_pictures

    none: dict[str, Any] = {"examples": [], "gallery": []}
    if not (run / PICTURES).is_file():
        return none, True
    try:
        kept = kept_pictures(json.loads((run / PICTURES).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        kept = None
    return (none, False) if kept is None else (kept, True)


def tables(record: dict[str, Any]) -> dict[str, tuple[tuple[str, ...], list[Any]]]:
    """The tables of a record: file name -> header and rows."""
    columns = {name: values for name, values in record["per_image"].items() if values}
    rows = [(i, *row) for i, row in enumerate(zip(*columns.values(), strict=True))]
    return {
        "certified_accuracy.csv": (("radius", "certified_accuracy"), record["results"]["certified_accuracy"]),
        "images.csv": (("test_image", *columns), rows),
    }


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises: ValueError if a name is given twice, of which one reader takes the first and another the last."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"it gives {name!r} twice")
    return dict(pairs)


def read_certificate(path: Path) -> dict[str, Any]:
    """Raises: ValueError, in one line, if the file holds no certificate."""
    import json

    from certidote.results.schema import check_form

    try:
        record = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror}); give the certificate.json of a run") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); run the same 'certidote certify' again, its votes are in the ledger"
        ) from None
    if not isinstance(record, dict) or record.get("format") != "certidote certificate" or record.get("version") != 1:
        raise ValueError(f"{path} is not a certidote certificate of version 1")
    problem = check_form(record)
    if problem is not None:
        raise ValueError(f"{path} is no certificate of version 1: {problem}")
    return record


def report(
    run: Annotated[Path, typer.Argument(help="a run directory with a certificate.json")],
    *,
    gallery: Annotated[
        bool, typer.Option(help="show pictures and file names; leave them out before handing on a report about private data")
    ] = True,
    threat_map: Annotated[
        Path | None, typer.Option(help="directory of a threat map of the same data, to be shown in the report")
    ] = None,
) -> Reported:
    """Write RUN's report.html and figures again from its certificate.json, which stays as it is, like the tables beside it."""
    from certidote.reporting.kept import holds_images
    from certidote.results.files import write_texts

    path = run / "certificate.json"
    if not path.is_file():
        raise ValueError(f"{run} holds no certificate.json; give the run directory of a finished 'certidote certify'")
    record = read_certificate(path)
    pictures, whole = _pictures_of(run)
    texts = shown(record, pictures, gallery, None if threat_map is None else _threat_map_of(threat_map, record))
    write_texts({run / name: text for name, text in texts.items()})
    notes = []
    if not whole:
        notes.append(f"{run / PICTURES} is damaged, so the report shows no pictures of this run")
    if not gallery and (not whole or holds_images(pictures)):
        notes.append(f"{PICTURES} still holds images or their names; remove it before handing on {run}")
    return Reported(run / "report.html", tuple(notes))


def _threat_map_of(directory: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Raises: ValueError, in one line, if the directory holds no threat map, or one of other data."""
    import json

    path = directory / "threat_map.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        kind, data = found["format"], found["data_digest"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{directory} holds no threat map; give a directory that 'certidote threat-map' wrote") from None
    if kind != "certidote threat map" or data != record["data"]["digest"]:
        raise ValueError(
            f"the threat map in {directory} is of other training images than this run; make one of {record['data']['name']}"
        )
    return found


def demo(
    *,
    out: Annotated[Path, typer.Option(help="where the ledgers, JSON, CSV, figures and report go")] = Path("runs/demo"),
    models: Annotated[int, typer.Option(help="counted models of each certificate")] = 1000,
    targets: Annotated[int, typer.Option(help="trials of the attack")] = 25,
    workers: Annotated[int | None, typer.Option(help="processes; default: one for each core; 0: this process")] = None,
    dtype: Dtype = "auto",
    progress: "Progress | None" = None,
) -> Any:
    """The whole story on bundled handwritten digits: poison, sanitize, train thousands of models, certify."""
    from certidote.story import run_demo

    check_directory(out)
    check_workers(workers)
    return run_demo(out, models=models, targets=targets, workers=workers, dtype=dtype, progress=progress)
