"""`sanitize`: a denoised copy of a data set, made block by block."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certidote.verbs.choices import check_apart, check_device, command_line, denoiser_named, input_paths
from certidote.verbs.options import Data, DenoiserName, Device, Dtype, Force, Seed, Sigma, Size, SkipCorrupt

if TYPE_CHECKING:
    from certidote.types import Progress

NO_CERTIFICATE = (
    "A sanitized set carries no certificate by itself: what one model learns from it is measured, not proved. "
    "'certidote certify' on the original images makes a certificate."
)

TRAINING_ONLY = "Only training images are sanitized and written; test images stay in the source, as they are."

FORMAT, VERSION = "certidote sanitized", 1
BESIDE = ("manifest.json", "movement.csv", "suspicious.csv", "gallery.html")


@dataclass(frozen=True)
class Sanitized:
    """What `sanitize` made: the manifest (manifest.json as a dict) and where it lies."""

    manifest: dict[str, Any]
    out: Path


def sanitize(
    data: Data,
    *,
    out: Annotated[Path, typer.Option(help="folder of the sanitized set; it appears when it is complete")],
    sigma: Sigma = 0.1,
    denoiser: DenoiserName = "auto",
    rank_suspicious: Annotated[bool, typer.Option(help="write suspicious.csv, images that moved unusually far first")] = False,
    gallery: Annotated[
        bool, typer.Option(help="write gallery.html, some images before and after; leave out for private data")
    ] = True,
    workers: Annotated[int, typer.Option(help="processes; 0: this process, on one core; -1: one for each core")] = 0,
    seed: Seed = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    size: Size = "",
    skip_corrupt: SkipCorrupt = False,
    force: Force = False,
    progress: "Progress | None" = None,
) -> Sanitized:
    """Noise and denoise every training image of DATA once and write the result: for everyday use, without a certificate.

    A folder, or an archive of one, gives the same folders with PNG files, block by block; arrays give sanitized.npz. Beside them: manifest.json
    and movement.csv. An interrupted run goes on with the same command.
    """
    from certidote.data.stream import stream
    from certidote.defenses.blockwise import WORK, Block, Cleaning, clean_block, finished, output_names
    from certidote.defenses.sanitize import check_sigma
    from certidote.engine.local import Pool
    from certidote.streams import Key, row_blocks
    from certidote.types import Silent

    target = _checked_target(data, denoiser, out, force)
    check_device(device)
    processes = _processes(workers)
    progress = progress or Silent()
    threads = max(1, processes)
    source = stream(data, "train", _survey_progress(progress), size=size, skip_corrupt=skip_corrupt, threads=threads)
    unfinished = _unfinished(target)
    number_format = _dtype(unfinished / WORK / "config.json", dtype, device)
    chosen = denoiser_named(denoiser, source, number_format, size, skip_corrupt, threads)  # type: ignore[arg-type]
    check_sigma(sigma, chosen)
    names = output_names(source)
    for name in {name.partition("/")[0] for name in names} & set(BESIDE):
        raise ValueError(f"a class is called {name!r}, as is a file that is written beside the class folders; rename the class")
    asked = {
        "data_digest": source.digest,
        "sigma": sigma,
        "denoiser": chosen.card.digest,
        "dtype": chosen.card.details.get("dtype", "float32"),
        "device": device,
    }
    with _locked(unfinished, force, asked, seed) as config:
        key = Key(int(config["root"], 16)) / "sanitize"
        cleaning = Cleaning(chosen, sigma, key / "noise", unfinished, device)
        for folder in sorted({(unfinished / name).parent for name in names}):
            folder.mkdir(parents=True, exist_ok=True)
        blocks = list(row_blocks(len(source)))
        left = [rows for rows in blocks if finished(unfinished, rows) is None]
        done = len(source) - sum(map(len, left))
        jobs = (Block(rows, source.part(rows), tuple(names[rows.start : rows.stop])) for rows in left)
        progress.start("sanitizing", len(source), done, "images")
        try:
            with Pool(processes) as pool:
                for counts in pool.each(clean_block, cleaning, jobs):
                    done += sum(counts)
                    progress.advance(sum(counts))
            progress.finish()
            manifest = _summed_up(data, source, names, cleaning, config, blocks, rank_suspicious, gallery, key, threads)
        except OSError as error:
            message = (
                f"{error.strerror or error}: {done:,} of {len(source):,} images are sanitized and kept in {str(unfinished)!r}, none of "
                "them half-written; see to the disk (free some space?) and run the same command again to go on"
            )
            raise OSError(error.errno, message, str(target)) from error
    _check_replaceable(target, out, force)  # again: somebody may have made it since
    _publish(unfinished, target)
    return Sanitized(manifest, out)


def _summed_up(
    data: str, source: Any, names: list[str], cleaning: Any, config: dict[str, Any], blocks: list[range], rank: bool, gallery: bool,
    key: Any, threads: int,
) -> dict[str, Any]:  # fmt: skip
    """Check what was written, and write what goes beside it: the manifest last."""
    import numpy as np

    from certidote.data.names import escaped
    from certidote.defenses.blockwise import finished
    from certidote.results.files import write_json
    from certidote.results.movement import CAUTION, summary, write_movement, write_suspicious
    from certidote.results.record import versions
    from certidote.types import Movement

    out, card = cleaning.out, cleaning.denoiser.card
    moved = Movement(np.empty(len(source)), np.empty(len(source)))
    digests, overlaps = [], []
    for rows in blocks:
        entry = finished(out, rows)
        assert entry is not None, "every block is finished"
        moved.l2[rows.start : rows.stop], moved.linf[rows.start : rows.stop] = entry["l2"], entry["linf"]
        digests.append(entry["digest"])
        overlaps.append(entry["overlap"])
    result_digest = _verified(source, names, out, digests, threads)
    classes = source.labels.numpy()

    def name(row: int) -> str:
        return names[row] if names else source.name(row)

    def label(row: int) -> str:
        return source.class_names[classes[row]]

    prefix = "" if source.folder is None else escaped(source.prefix)  # names in an archive are whole

    def origin(row: int) -> str:
        return "/".join(part for part in (prefix, source.name(row)) if part)

    write_movement(out / "movement.csv", name, origin, label, moved)
    if rank:
        write_suspicious(out / "suspicious.csv", name, origin, label, moved, classes)
    if gallery:
        _write_gallery(out / "gallery.html", escaped(data), source, name, cleaning, moved, key)
    shared = {"images": len(source), "image_shape": list(source.image_shape), "classes": list(source.class_names)}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "caution": f"{TRAINING_ONLY} {NO_CERTIFICATE}",
        "sigma": cleaning.sigma,
        "sigma_symmetric": 2 * cleaning.sigma,
        "t": _step(cleaning.denoiser, cleaning.sigma),
        "conditioning": cleaning.denoiser.conditioning(cleaning.sigma),
        "denoiser": {"name": card.name, "kind": card.kind, "digest": card.digest},
        "denoiser_overlap": None if None in overlaps else sum(overlaps),
        "root": config["root"],
        "root_source": config["root_source"],
        "noise_stream": list(cleaning.key.path),
        "data": {"name": escaped(data), **shared, "digest": source.digest, "notes": list(source.notes)},
        "skipped": [{"name": file, "reason": reason} for file, reason in source.skipped],
        "result": {"name": "." if names else "sanitized.npz", **shared, "digest": result_digest},
        "movement": {**_file(out / "movement.csv"), **summary(moved)},
        "suspicion": {**_file(out / "suspicious.csv"), "caution": CAUTION} if rank else None,
        "dtype": config["dtype"],
        "device": config["device"],
        "command": escaped(config["command"]),
        "versions": versions(),
    }
    write_json(out / "manifest.json", manifest)
    return manifest


def _file(path: Path) -> dict[str, str]:
    """A file beside the images: its name and the SHA-256 of its content, as lower-case hex digits."""
    import hashlib

    with open(path, "rb") as file:
        return {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _step(denoiser: Any, sigma: float) -> int | None:
    """The step t of the diffusion schedule that the denoiser's network is asked for; None if it knows no steps."""
    import numpy as np

    from certidote.diffusion.diffusers_ddpm import DDPMDenoiser

    if not isinstance(denoiser, DDPMDenoiser):
        return None
    return int(denoiser.schedule.nearest_step(np.array([sigma]))[0])


def _verified(source: Any, names: list[str], out: Path, digests: list[str], threads: int) -> str:
    """Read everything back: the digest of the sanitized set, as `certify` will print it.

    Raises: ValueError if a block is not what the journal says, which the next run makes again; or if there are files among those
        written here that were not.
    """
    import numpy as np
    import torch

    from certidote.data.write import write_npz
    from certidote.defenses.blockwise import entry_path, read_array
    from certidote.types import ImageDataset

    if not names:
        images = np.concatenate([read_array(out, block) for block in range(len(digests))])
        (out / "sanitized.npz").unlink(missing_ok=True)
        made = ImageDataset(torch.from_numpy(images), source.labels, source.class_names)
        write_npz(made, out / "sanitized.npz")
        return made.digest()
    digest, damaged = _read_back(names, out, digests, threads)
    if damaged:
        for block in damaged:
            entry_path(out, block).unlink()
        raise ValueError(f"some images in {str(out)!r} are not what was written there; run the same command again to repair them")
    return digest


def _read_back(names: list[str], out: Path, digests: list[str], threads: int) -> tuple[str, set[int]]:
    """The digest of the images written, and the blocks that have a file which is gone, damaged or another one.

    Raises: ValueError, naming it, if there is a file that was not written here.
    """
    from certidote.data.decode import Reading
    from certidote.data.folder import listing
    from certidote.data.stream import survey
    from certidote.streams import ROW_BLOCK

    folder = (out / names[0]).parent.parent
    rows = {name: row for row, name in enumerate(names)}
    present = {Path(str(file)).relative_to(out).as_posix() for each in listing(folder) if each.is_dir() for file in listing(each)}
    foreign = next((name for name in sorted(present) if name not in rows), None)
    if foreign is not None:
        raise ValueError(f"{str(out / foreign)!r} was not written by this run; remove it and run the same command again to go on")
    gone = {row // ROW_BLOCK for name, row in rows.items() if name not in present}
    if gone:
        return "", gone
    back = survey(folder, reading=Reading(skip_corrupt=True, threads=threads))
    if back.skipped:
        return "", {rows[(folder / file).relative_to(out).as_posix()] // ROW_BLOCK for file, _ in back.skipped}
    pairs = zip(back.block_digests, digests, strict=True)
    return back.digest, {block for block, (found, wanted) in enumerate(pairs) if found != wanted}


def _write_gallery(path: Path, data: str, source: Any, name: Any, cleaning: Any, moved: Any, key: Any) -> None:
    import numpy as np

    from certidote.reporting.gallery import gallery_page
    from certidote.results.files import write_text
    from certidote.results.pictures import SHOWN, strip
    from certidote.types import Untrusted

    def read(rows: range) -> Untrusted:
        return Untrusted(source.part(rows).read(), first_row=rows.start)

    count = min(SHOWN, len(source))
    handful = np.sort((key / "gallery").numpy().choice(len(source), size=count, replace=False))
    farthest = np.argsort(-moved.l2, kind="stable")[:count]
    pictures = []
    for title, rows in (("A random handful", handful.tolist()), ("Those that moved most", farthest.tolist())):
        captions = [
            f"{'row ' if name(row).isdecimal() else ''}{name(row)}: moved {moved.l2[row]:.3f} in l2, {moved.linf[row]:.3f} in linf"
            for row in rows
        ]
        pictures.append(
            strip(title, rows, captions, read, len(source), cleaning.denoiser, cleaning.sigma, cleaning.key, cleaning.device)
        )
    how = (
        f"Noise of std {cleaning.sigma:g} ([0, 1] pixel units), taken away by denoiser {cleaning.denoiser.card.name}. The difference is "
        "denoised minus original, halved, around gray."
    )
    write_text(path, gallery_page(f"Sanitized: {data}", [how, NO_CERTIFICATE], pictures))


# ------------------------------------------------------------------------------------------------------------------- places


def _checked_target(data: str, denoiser: str, out: Path, force: bool) -> Path:
    """The real path of the output folder, if it can become one.

    Raises: ValueError as `_check_replaceable`, or if it lies inside an input folder or holds an input, or its unfinished work would.
    """
    import os

    from certidote.data.load import locate

    target = Path(os.path.realpath(out))
    if not target.parent.is_dir():
        raise ValueError(f"cannot write {str(out)!r}: folder {str(target.parent)!r} does not exist; create it first")
    locate(data, "train")
    check_apart(out, data, denoiser=denoiser)
    for path in input_paths(data, denoiser=denoiser):
        if path.is_relative_to(target):
            raise ValueError(f"input {str(path)!r} lies inside the output {str(out)!r}; write to a folder that does not hold it")
        if path.is_relative_to(Path(os.path.realpath(_unfinished(target)))):
            raise ValueError(
                f"input {str(path)!r} lies where the unfinished work for {str(out)!r} is kept; choose another --out, or move the input"
            )
    _check_replaceable(target, out, force)
    return target


def _unfinished(target: Path) -> Path:
    """Where the work lies until it is complete."""
    return target.with_name(f"{target.name}.unfinished")


def _check_replaceable(target: Path, out: Path, force: bool) -> None:
    """Raises: ValueError if `target` exists and is not empty, unless it is a sanitized set and `force` is given."""
    import json

    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not force:
        raise ValueError(f"{str(out)!r} exists already; choose another folder, or replace an earlier result with --force")
    try:
        found = json.loads((target / "manifest.json").read_text(encoding="utf-8")).get("format")
    except (OSError, ValueError, AttributeError):
        found = None
    if found != FORMAT:
        raise ValueError(f"{str(out)!r} holds no sanitized set, which is all that --force replaces; choose another folder")


def _processes(workers: int) -> int:
    """How many processes --workers asks for.

    Raises: ValueError if it is below -1.
    """
    from certidote.engine.local import available_cores

    if workers < -1:
        raise ValueError(
            f"workers={workers}; give a number of processes, 0 (this process, on one core) or -1 (one process for each core)"
        )
    return available_cores() if workers == -1 else workers


def _publish(unfinished: Path, target: Path) -> None:
    """The finished folder takes its place, and that of an earlier result, in one step each."""
    import os
    import shutil

    from certidote.data.atomic import replace_folder
    from certidote.defenses.blockwise import WORK

    if hasattr(os, "sync"):
        os.sync()  # a power cut must not leave empty files in a folder that looks finished
    replace_folder(unfinished, target)
    shutil.rmtree(target / WORK, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------------------ journal


@contextmanager
def _locked(unfinished: Path, force: bool, asked: dict[str, Any], seed: int | None) -> Iterator[dict[str, Any]]:
    """The configuration of the run in this folder, recorded before anything is sanitized; no other process may join.

    The root of the noise is drawn after the data digest is recorded, unless a seed is given.

    Raises: ValueError if another process is at work there, or an unfinished run has another configuration (unless `force` is given,
        which starts over).
    """
    import json
    import shutil

    from certidote.data.atomic import replacing
    from certidote.defenses.blockwise import WORK
    from certidote.streams import fresh_root

    work = unfinished / WORK
    if unfinished.exists() and not work.is_dir() and any(unfinished.iterdir()):
        raise ValueError(f"{str(unfinished)!r} is in the way and is no unfinished run; move it away, or choose another --out")
    work.mkdir(parents=True, exist_ok=True)
    with _lock(work / "lock"):
        path = work / "config.json"
        recorded = json.loads(path.read_bytes()) if path.is_file() else None
        given = asked if seed is None else {**asked, "root": hex(seed)}
        if recorded is not None:
            wrong = next((name for name in given if recorded.get(name) != given[name]), None)
            if wrong is None:
                yield recorded
                return
            if not force:
                raise ValueError(
                    f"{str(unfinished)!r} holds an unfinished run with {wrong}={recorded.get(wrong)}, but this command asks for "
                    f"{wrong}={given[wrong]}; repeat the earlier command to finish it, or start over with --force"
                )
            for entry in unfinished.iterdir():
                if entry != work:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            for entry in work.iterdir():
                if entry.name != "lock":
                    entry.unlink()
        root, how = (fresh_root(), "operating system") if seed is None else (seed, "given")
        config = {**asked, "root": hex(root), "root_source": how, "command": command_line()}
        with replacing(path) as file:
            file.write(json.dumps(config).encode())
        yield config


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time, where the system can lock files; the system lets go when the process dies."""
    with open(path, "ab") as file:
        try:
            import fcntl
        except ImportError:
            fcntl = None  # type: ignore[assignment]
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"another process is writing to {str(path.parent.parent)!r}; wait for it") from None
        yield


def _dtype(config: Path, dtype: str, device: str) -> str:
    """What an unfinished run was started with, if nothing is asked for: the probe may differ from one day to the next."""
    import json

    from certidote.numerics import resolve_dtype

    if dtype == "auto":
        with suppress(OSError, ValueError, KeyError):
            return str(json.loads(config.read_bytes())["dtype"])
    return resolve_dtype(dtype, device)


def _survey_progress(progress: "Progress") -> Any:
    seen = 0

    def advance(done: int, total: int) -> None:
        nonlocal seen
        if not seen:
            progress.start("checking", total, 0, "images")
        progress.advance(done - seen)
        seen = done
        if done == total:
            progress.finish()
            seen = 0  # where corrupt files are left out, those that are left are checked once more

    return advance
