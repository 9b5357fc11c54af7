"""The command line: one command for each verb, its flags read from the verb's signature.

Says what a verb returned, in plain words; turns expected errors into one line and exit status 2.
"""

import difflib
import errno
import inspect
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, get_args

from certidote.entry import BEFORE

if TYPE_CHECKING:
    import typer

PROGRESS = "auto (a bar on a terminal, lines elsewhere), bar, lines, json (one object a line) or quiet; on stderr"
HIDDEN = ("pool", "label")
GO_ON = ("certify", "sanitize", "demo", "data_fetch", "poison", "replay", "bench")
"""Verbs that keep what was finished before an interrupt."""


def _command(group: "typer.Typer", verb: Callable[..., Any], say: Callable[[Any], None], name: str | None = None) -> None:
    """Register `verb` under its own name and flags, minus the parameters that only Python callers have.

    A verb's `progress` is an object; on the command line it is the name of one.
    """
    import typer

    signature = inspect.signature(verb, eval_str=False)
    progress_name = Annotated[str, typer.Option(help=PROGRESS)]
    parameters = [
        p.replace(annotation=progress_name, default="auto") if p.name == "progress" else p
        for p in signature.parameters.values()
        if p.name not in HIDDEN
    ]

    def call(**given: Any) -> None:
        try:
            if "progress" in given:
                from certidote.progress import progress_named

                given["progress"] = progress_named(given["progress"])
            say(verb(**given))
        except (KeyboardInterrupt, Exception) as error:
            if not isinstance(error, KeyboardInterrupt) and not _interrupted:
                raise
            print(_on_interrupt(verb, given), file=sys.stderr)  # Typer would leave without a word
            raise typer.Exit(130) from None

    call.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    call.__doc__ = verb.__doc__
    group.command(name or verb.__name__.replace("_", "-"))(call)


_interrupted = False
"""Whether Ctrl-C was pressed: compiled code that is called back at that moment may report an error of its own instead."""


def _note_interrupt(number: int, frame: FrameType | None) -> None:
    global _interrupted
    _interrupted = True
    signal.default_int_handler(number, frame)


def _on_interrupt(verb: Callable[..., Any], given: dict[str, Any]) -> str:
    if verb.__name__ in GO_ON:
        return "interrupted; what is finished is kept, and the same command goes on from there"
    if verb.__name__ == "denoiser_train" and not given["force"]:
        from certidote.diffusion.unfinished import place_beside

        if place_beside(given["out"]).exists():
            return "interrupted; the training is kept as it was within the last minute, and the same command goes on from there"
    return "interrupted; nothing is half-written, and the same command starts anew"


def _say_certified(result: Any) -> None:
    from certidote import verbs

    if isinstance(result, verbs.Plan):
        print("\n".join(result.lines))
        return
    if isinstance(result, verbs.Stopped):
        _say_stopped(result)
        return
    from certidote.reporting.threats import threat_lines
    from certidote.reporting.words import certified_share, percent, radius_in_words, verdict

    record, results = result.record, result.record["results"]
    print(record["claim"])
    if result.proved:
        share, right = percent(certified_share(record)), percent(results["vote_accuracy"])
        print(f"{verdict(record)}: certified accuracy at radius 0 is {share}; the vote is right on {right} of test images.")
        print("\n".join([*radius_in_words(record), *threat_lines(record)]))
    else:
        print(f"The vote is right on {percent(results['vote_accuracy'])} of test images, but nothing is proved:")
        print("\n".join(f"  - {reason}" for reason in record["reasons"]))
    print(f"Results: {result.out / 'report.html'}")


def _say_stopped(result: Any) -> None:
    print(
        f"No certificate yet: {result.voted} of {result.members} models have voted{f'; {result.interim}' if result.interim else ''}."
    )
    print(
        f"The run is in {result.out}: the same command goes on from there ('certidote status {result.out}' shows where it stands)."
    )


def _say_status(result: Any) -> None:
    proved = {None: "nothing yet", True: "yes, see certificate.json", False: "no, certificate.json says why"}[result.proved]
    share = f" ({result.assigned} assigned to this ledger)" if 0 < result.assigned < result.members else ""
    print(f"stage       {result.stage}{', a run is at work on it now' if result.in_use else ''}")
    print(f"models      {result.voted} of {result.members} have voted{share}")
    if result.rate is not None:
        print(f"rate        {result.rate:.2f} models/s over the latest commits; the last one {result.idle:.0f} s ago")
    print(f"proved      {proved}")
    for part in result.parts:
        print(f"computed    members {part.first} to {part.last - 1} on {_machine(part.numerics)}")
    for name, value in _flat(result.configuration):
        print(f"configured  {name} = {value}")
    for failure in result.failures:
        print(f"failed      members {failure.first} to {failure.last - 1}:\n{failure.traceback.rstrip()}")


def _machine(numerics: dict[str, str]) -> str:
    """What a machine is, and its versions, as in "cpu, x86_64 AVX2, torch 2.13.0"."""
    return ", ".join(value if name in ("device", "processor") else f"{name} {value}" for name, value in numerics.items())


def _flat(value: dict[str, Any], path: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, item in value.items():
        rows += _flat(item, f"{path}{name}.") if isinstance(item, dict) else [(f"{path}{name}", item)]
    return rows


def _say_merged(result: Any) -> None:
    print(f"Merged: {result.voted} of {result.members} models have voted.")
    print(f"Run the same 'certidote certify' command with --out {result.out}, without --members, for the certificate.")


def _say_trained(result: Any) -> None:
    accuracy = "" if result.accuracy is None else f" Accuracy on the test images: {result.accuracy:.1%}."
    how = "one sanitized copy of the data (empirical only)" if result.sanitized else "the data as it is (no defense)"
    print(f"Trained on {how}.{accuracy} One model carries no certificate; 'certidote certify' makes one.")
    print(f"Model: {result.out}")


def _say_predicted(result: Any) -> None:
    if result.out is None:
        from certidote.reporting.words import length

        for row in result.rows:
            answer = "abstains" if row["answer"] is None else row["answer"]
            radius = "" if row["answer"] is None or row["radius"] is None else f", radius {length(row['radius'])}"
            print(f"{_printable(row['image'])}: {answer} ({row['votes']} of {row['of']} votes{radius})")
    print("".join(f"left out: {reason}\n" for _, reason in result.skipped), end="")
    abstained = sum(row["answer"] is None for row in result.rows)
    print(f"{len(result.rows)} images, {abstained} abstentions." + (f" {result.claim}" if result.claim else ""))
    if result.reasons:
        print("Nothing is proved:\n" + "\n".join(f"  - {reason}" for reason in result.reasons))
    if result.assumptions:
        print("Valid if:\n" + "\n".join(f"  {item}" for item in result.assumptions))
    if result.out is not None:
        print(f"Answers: {result.out}")


def _say_exported(result: Any) -> None:
    what = "the model" if result.members == 1 else f"the vote of {result.members} models"
    print(f"Exported {what}: {result.out}. It carries no certificate; 'certidote predict' gives radii.")


def _say_sanitized(result: Any) -> None:
    manifest = result.manifest
    middle = manifest["movement"]["quartiles"]["l2"][2]
    print(
        f"{manifest['data']['images']:,} images sanitized at sigma {manifest['sigma']:g}; half of them moved by more than {middle:.3f} in l2."
    )
    print("".join(f"{note}\n" for note in manifest["data"]["notes"]), end="")
    print("".join(f"  left out: {file['reason']}\n" for file in manifest["skipped"]), end="")
    print(manifest["caution"])
    if manifest["suspicion"]:
        print(f"Suspicion list: {result.out / 'suspicious.csv'}. {manifest['suspicion']['caution']}")
    print(f"Sanitized set: {result.out}")


def _say_poisoned(result: Any) -> None:
    from certidote.reporting.words import counted
    from certidote.results.pictures import goal_in_words

    pack = result.pack
    print(f"{counted(len(pack), 'trial')} of {pack.recipe['attack']}, {counted(pack.budget.num_poisons, 'poison')} each:")
    for trial, poison in enumerate(pack.poisons[:10], pack.first_trial):
        print(f"  {trial}: {goal_in_words(poison.goal, pack.data.classes)}")
    if len(pack) > 10:
        print(f"  ... and {len(pack) - 10} more")
    for note in pack.notes:
        print(f"Note: {note}.")
    print(f"Poison pack: {result.out}. Try it: certidote replay {result.out} {pack.data.name} --out RUN")


def _say_pack_exported(result: Any) -> None:
    print("\n".join([*map(str, result.folders), *(f"Note: {note}." for note in result.notes)]))
    print(f"{len(result.folders)} {'folder' if len(result.folders) == 1 else 'folders'} for the benchmark: {result.out}")


def _say_replayed(result: Any) -> None:
    print("\n".join(result.lines))
    print(f"Results: {result.out / 'replay.json'}")


def _say_demo(result: Any) -> None:
    print("\n".join(result.lines))


def _say_denoiser(result: Any) -> None:
    print(
        f"Denoiser {result.card.name} ({result.card.kind}), sigma {result.sigma_min:g} to {result.sigma_max:g} ([0, 1] pixel units)"
    )
    validation = result.card.details["validation"]
    for name, values in validation["psnr"].items():
        figures = ", ".join(f"{psnr:.1f} dB at {sigma:g}" for sigma, psnr in zip(validation["sigmas"], values, strict=True))
        print(f"  {name}: PSNR on {validation['images']:,} held-out images {figures}")
    print("".join(f"  {name} was not measured: {reason}\n" for name, reason in validation["omitted"].items()), end="")
    baseline = next(name for name in ("linear-mmse", "wiener") if name in validation["psnr"])
    pairs = zip(validation["sigmas"], validation["psnr"]["network"], validation["psnr"][baseline], strict=True)
    worse = [f"{sigma:g}" for sigma, network, other in pairs if network < other]
    if worse:
        instead = ", or give --denoiser linear-mmse:IMAGES, which needs no training" if baseline == "linear-mmse" else ""
        print(f"At sigma {', '.join(worse)} this network does worse than {baseline}: train longer{instead}.")


def _say_list(result: Any) -> None:
    widths = {name: max(len(name), *(len(row[name]) for row in result)) for name in result[0]}
    for row in [{name: name for name in widths}, *result]:
        print("  ".join(row[name].ljust(width) for name, width in widths.items()).rstrip())


def _say_defenses(result: Any) -> None:
    for row in result:
        unit = "" if row["unit"] == "-" else f"; unit: {row['unit']}"
        print(row["name"])
        print(f"  against      {row['threat_model']}")
        print(f"  certificate  {row['certificate']}{unit}")
        print(f"  cost         {row['cost']} (relative to one plain training; {_measured(row['measured_cost'])})")
        print(f"  source       {row['source']}")


def _measured(cost: str) -> str:
    return cost if cost.startswith("not") else f"measured: {cost}"


def _say_info(result: Any) -> None:
    import json

    print(json.dumps(result, indent=2))


def _say_verified(result: Any) -> None:
    signs = {"right": "  ok     ", "wrong": "  WRONG  ", "note": "  note   "}
    print("Checked:")
    print("\n".join(signs[each.verdict] + each.text for each in result.findings))
    print("No check can see:")
    print("\n".join(f"  - {text}" for text in result.unseen))
    if not result.ok:
        import typer

        print("NOT VERIFIED: the certificate does not follow from this run.")
        raise typer.Exit(1)
    nothing = "" if result.proved else " It proves nothing: the run is empirical only."
    print(f"Verified: the certificate is what this run's votes prove.{nothing}")


def _printable(name: str) -> str:
    """File names may hold line breaks and terminal commands."""
    return name if name.isprintable() else ascii(name)


def _say_data(result: Any) -> None:
    from certidote.reporting.findings import data_lines

    print("\n".join(data_lines(result)))
    corrupt = sum(len(part["skipped"]) for part in result["splits"])
    if corrupt and not result["skip_corrupt"]:
        import typer

        files = "1 corrupt file; repair or remove it" if corrupt == 1 else f"{corrupt:,} corrupt files; repair or remove them"
        print(f"error: {files}, or leave such files out with --skip-corrupt", file=sys.stderr)
        raise typer.Exit(2)


def _say_fetched(result: Path) -> None:
    print(f"Data: {result}")


def _say_reported(result: Any) -> None:
    print("".join(f"{_printable(note)}\n" for note in result.notes), end="")
    print(f"Report: {result.out}")


def _say_map(result: Any) -> None:
    from certidote.reporting.words import percent

    for curve in result.record["curves"]:
        if curve["axis"] in ("any", "frobenius"):
            against = "images altered in any way" if curve["axis"] == "any" else "the joint l2 norm"
            start = f"{percent(curve['shares'][0])} before any change" if curve["sizes"] else "nothing proved"
            note = f" ({curve['note']})" if curve["note"] else ""
            print(f"{curve['method']}, against {against}: {start}{note}")
    print(f"Picture: {result.out / 'threat_map.svg'}")


def groups() -> "dict[str, typer.Typer]":
    """The commands: those of `certidote` itself (""), of `certidote denoiser`, `certidote data` and `certidote pack`."""
    import typer

    from certidote import verbs

    app = typer.Typer(
        help="Train image classifiers on data you do not trust, and prove what a poisoner cannot change.",
        no_args_is_help=True,
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    denoisers = typer.Typer(
        help="Denoisers: train one on images you trust, list the packaged ones, show a model card.", no_args_is_help=True
    )
    datasets = typer.Typer(
        help="Data: what is in a folder, archive or file; download a known data set.", no_args_is_help=True, rich_markup_mode=None
    )
    packs = typer.Typer(
        help="Poison packs: what one holds; import and export of the poisoning benchmark's files.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    _command(app, verbs.demo, _say_demo)
    _command(app, verbs.certify, _say_certified)
    _command(app, verbs.status, _say_status)
    _command(app, verbs.merge, _say_merged)
    _command(app, verbs.plan, _say_demo)
    _command(app, verbs.verify, _say_verified)
    _command(app, verbs.train, _say_trained)
    _command(app, verbs.predict, _say_predicted)
    _command(app, verbs.export, _say_exported)
    _command(app, verbs.sanitize, _say_sanitized)
    _command(app, verbs.poison, _say_poisoned)
    _command(app, verbs.replay, _say_replayed)
    _command(app, verbs.bench, _say_demo)
    _command(app, verbs.defense_list, _say_defenses, "defenses")
    _command(app, verbs.report, _say_reported)
    _command(app, verbs.threat_map, _say_map)
    _command(denoisers, verbs.denoiser_train, _say_denoiser, "train")
    _command(denoisers, verbs.denoiser_list, _say_list, "list")
    _command(denoisers, verbs.denoiser_info, _say_info, "info")
    _command(packs, verbs.pack_info, _say_info, "info")
    _command(packs, verbs.pack_import, _say_info, "import")
    _command(packs, verbs.pack_export, _say_pack_exported, "export")
    _command(datasets, verbs.data_info, _say_data, "info")
    _command(datasets, verbs.data_fetch, _say_fetched, "fetch")
    app.add_typer(datasets, name="data")
    app.add_typer(packs, name="pack")
    app.add_typer(denoisers, name="denoiser")
    return {"": app, "denoiser": denoisers, "data": datasets, "pack": packs}


def main() -> None:
    """Entry point. Expected errors are one line on stderr and status 2; CERTIDOTE_TRACEBACK=1 shows where they come from. Warnings of this process are one line."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        _main()


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: object = None, line: str | None = None
) -> None:
    ours = category is UserWarning and Path(filename).is_relative_to(Path(__file__).parent)
    where = "" if ours else f"{category.__name__} of {filename}, line {lineno}: "
    print(f"note: {where}{' '.join(str(message).split())}", file=sys.stderr)


def _main() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _note_interrupt)
    try:  # imports included: Ctrl-C may come at any moment
        sys.exit(groups()[""](prog_name="certidote", standalone_mode=False) or 0)
    except KeyboardInterrupt:
        print(BEFORE, file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("CERTIDOTE_TRACEBACK") or not _expected(error):
            raise
        print(f"error: {_of_the_disk(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if type(error).__name__ == "Abort":  # the parser's word for Ctrl-C
            print(BEFORE, file=sys.stderr)
            sys.exit(130)
        if not hasattr(error, "format_message"):  # the parser's own; which module they come from depends on Typer's version
            raise
        print(_of_usage(error), file=sys.stderr)
        sys.exit(2)


def _expected(error: Exception) -> bool:
    """RuntimeErrors are bugs of ours, except a lost worker and a job that failed, whose traceback is in the ledger."""
    return not isinstance(error, RuntimeError) or type(error).__name__ in ("WorkerLost", "JobFailed", "Refused")


def _of_usage(error: Any) -> str:
    """A wrong command line, in one line; the help text, for a group of commands without any."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    said = error.format_message().strip().rstrip(".")
    if "\n" in said:
        return str(said)
    help_on = f"'{context.command_path if context else 'certidote'} --help'"
    if parameter is not None:
        option = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.name.upper()
        if said.startswith("Missing"):
            return f"error: {option} is missing; {help_on} says what to give"
        return f"error: {option}{_given(parameter.opts)}: give {_kind(context, parameter.name)}; {help_on} explains it"
    known = [option for each in context.command.params for option in each.opts] if context else []
    wrong = str(getattr(error, "option_name", ""))
    if said.startswith("No such option") and (nearest := difflib.get_close_matches(wrong, known, n=1)):
        return f"error: no such option: {wrong}; did you mean {nearest[0]}?"
    return f"error: {said[0].lower()}{said[1:]}; {help_on} says what there is"


def _given(names: list[str]) -> str:
    """What the command line has after (or, with =, in) an option, with a space before it; nothing if it cannot be told."""
    for word, following in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in names:
            return f" {_printable(value if equals else following)}"
    return ""


def _kind(context: Any, name: str) -> str:
    """What a verb's parameter takes, from its annotation."""
    kind = get_args(context.command.callback.__annotations__[name])[0]  # of Annotated[kind, ...]
    accepted = get_args(kind) or (kind,)
    return "a whole number" if int in accepted else "a number" if float in accepted else "another value"


ADVICE: dict[int | None, str] = {
    None: "free space",
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space, your quota is used up",
    errno.EROFS: "this disk can only be read: give a place on another one",
    errno.EACCES: "give a place where you may do this, or see to the permissions",
    errno.EPERM: "give a place where you may do this, or see to the permissions",
    errno.ENOENT: "give a place that is there",
}


def _of_the_disk(error: OSError) -> str:
    """What the system said, about which file, and what to do; messages that we made ourselves say it all."""
    if error.strerror is None:
        return str(error)
    where = "" if error.filename is None else f"{_printable(str(error.filename))}: "
    said = f"{where}{error.strerror}"
    if "same command again" in said:
        return said
    return f"{said}; {ADVICE.get(error.errno, 'see to it')} and run the same command again"


if __name__ == "__main__":
    main()
