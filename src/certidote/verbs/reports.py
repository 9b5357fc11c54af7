"""`report` and `demo`: what a run left, shown again; and the whole story."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certidote.verbs.options import Dtype

if TYPE_CHECKING:
    from certidote.types import Progress


def write_results(out: Path, record: dict[str, Any], gallery: bool = True) -> None:
    from certidote.reporting.figures import certified_accuracy_figure, threat_figure
    from certidote.reporting.html import write_report
    from certidote.results.files import write_csv, write_json, write_text

    write_json(out / "certificate.json", record)
    write_csv(out / "certified_accuracy.csv", ("radius", "certified_accuracy"), record["results"]["certified_accuracy"])
    columns = {name: values for name, values in record["per_image"].items() if values}
    rows = list(zip(*columns.values(), strict=True))
    write_csv(out / "images.csv", ("test_image", *columns), [(i, *row) for i, row in enumerate(rows)])
    if record["proved"]:
        write_text(out / "certified_accuracy.svg", certified_accuracy_figure([record]))
        write_text(out / "threats.svg", threat_figure([record]))
    write_report(out / "report.html", f"Certificate for {record['data']['name']}", [record], pictures=gallery)


def report(
    run: Annotated[Path, typer.Argument(help="a run directory with a certificate.json, or a demo directory")],
    *,
    gallery: Annotated[
        bool, typer.Option(help="show pictures; leave them out before handing on a report about private data")
    ] = True,
) -> Path:
    """Write RUN's report.html and figures again from its certificate.json."""
    import json

    path = run / "certificate.json"
    if not path.is_file():
        raise ValueError(f"{run} holds no certificate.json; give the run directory of a finished 'certidote certify'")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); run the same 'certidote certify' again, its votes are in the ledger"
        ) from None
    if not isinstance(record, dict) or record.get("format") != "certidote certificate" or record.get("version") != 1:
        raise ValueError(f"{path} is not a certidote certificate of version 1")
    write_results(run, record, gallery)
    return run / "report.html"


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

    return run_demo(out, models=models, targets=targets, workers=workers, dtype=dtype, progress=progress)
