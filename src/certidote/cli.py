"""The command line: one command for each verb, its flags read from the verb's signature.

Says what a verb returned, in plain words; turns expected errors into one line and exit status 2.
"""

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from certidote import verbs

app = typer.Typer(
    help="Train image classifiers on data you do not trust, and prove what a poisoner cannot change.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
denoisers = typer.Typer(
    help="Denoisers: train one on images you trust, list the packaged ones, show a model card.", no_args_is_help=True
)
HIDDEN = ("progress", "pool", "label")


def _command(group: typer.Typer, verb: Callable[..., Any], say: Callable[[Any], None], name: str | None = None) -> None:
    """Register `verb` under its own name and flags, minus the parameters that only Python callers have."""
    signature = inspect.signature(verb, eval_str=False)
    wants_progress = "progress" in signature.parameters

    def call(**given: Any) -> None:
        if wants_progress:
            from certidote.progress import for_stream

            given["progress"] = for_stream()
        say(verb(**given))

    call.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[p for p in signature.parameters.values() if p.name not in HIDDEN], return_annotation=None
    )
    call.__annotations__ = {p.name: p.annotation for p in signature.parameters.values() if p.name not in HIDDEN}
    call.__doc__ = verb.__doc__
    group.command(name or verb.__name__.replace("_", "-"))(call)


def _say_certified(result: Any) -> None:
    if isinstance(result, verbs.Plan):
        print("\n".join(result.lines))
        return
    from certidote.reporting.words import percent, radius_in_words

    record, results = result.record, result.record["results"]
    print(record["claim"])
    if result.proved:
        ca = results["certified_accuracy"][0][1]
        print(
            f"Certified accuracy at radius 0: {percent(ca)}; the vote is right on {percent(results['vote_accuracy'])} of test images."
        )
        print("\n".join(radius_in_words(record)))
    else:
        print(f"The vote is right on {percent(results['vote_accuracy'])} of test images, but nothing is proved:")
        print("\n".join(f"  - {reason}" for reason in record["reasons"]))
    print(f"Results: {result.out / 'report.html'}")


def _say_trained(result: Any) -> None:
    accuracy = "" if result.accuracy is None else f" Accuracy on the test images: {result.accuracy:.1%}."
    how = "one sanitized copy of the data (empirical only)" if result.sanitized else "the data as it is (no defense)"
    print(f"Trained on {how}.{accuracy} One model carries no certificate; 'certidote certify' makes one.")
    print(f"Model: {result.out}")


def _say_sanitized(result: Any) -> None:
    manifest = result.manifest
    middle = manifest["movement"]["quartiles"]["l2"][2]
    print(
        f"{manifest['data']['images']:,} images sanitized at sigma {manifest['sigma']:g}; half of them moved by more than {middle:.3f} in l2."
    )
    print(manifest["caution"])
    if manifest["suspicion"]:
        print(f"Suspicion list: {result.out / 'suspicious.csv'}. {manifest['suspicion']['caution']}")
    print(f"Sanitized set: {result.out}")


def _say_demo(result: Any) -> None:
    print("\n".join(result.lines))


def _say_denoiser(result: Any) -> None:
    print(
        f"Denoiser {result.card.name} ({result.card.kind}), sigma {result.sigma_min:g} to {result.sigma_max:g} ([0, 1] pixel units)"
    )


def _say_list(result: Any) -> None:
    widths = {name: max(len(name), *(len(row[name]) for row in result)) for name in result[0]}
    for row in [{name: name for name in widths}, *result]:
        print("  ".join(row[name].ljust(width) for name, width in widths.items()).rstrip())


def _say_info(result: Any) -> None:
    import json

    print(json.dumps(result, indent=2))


def _say_path(result: Path) -> None:
    print(f"Report: {result}")


_command(app, verbs.demo, _say_demo)
_command(app, verbs.certify, _say_certified)
_command(app, verbs.train, _say_trained)
_command(app, verbs.sanitize, _say_sanitized)
_command(app, verbs.report, _say_path)
_command(denoisers, verbs.denoiser_train, _say_denoiser, "train")
_command(denoisers, verbs.denoiser_list, _say_list, "list")
_command(denoisers, verbs.denoiser_info, _say_info, "info")
app.add_typer(denoisers, name="denoiser")


def main() -> None:
    """Entry point. Expected errors are one line on stderr and status 2; CERTIDOTE_TRACEBACK=1 shows where they come from."""
    try:
        app()
    except KeyboardInterrupt:
        print("interrupted; what was committed is kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("CERTIDOTE_TRACEBACK") or not _expected(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _expected(error: Exception) -> bool:
    """RuntimeErrors are bugs of ours, except a lost worker."""
    return not isinstance(error, RuntimeError) or type(error).__name__ == "WorkerLost"


if __name__ == "__main__":
    main()
