"""`certidote sanitize`: what it writes equals sanitizing in memory, and no interruption can make a difference."""

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from certidote import cli, sanitize
from certidote.data import decode, load
from certidote.data.tiny import tiny
from certidote.data.write import write_folder
from certidote.defenses import blockwise
from certidote.defenses.sanitize import as_levels, sanitized
from certidote.diffusion.closed_form import Identity, LinearMMSE
from certidote.diffusion.denoiser import load as load_denoiser
from certidote.diffusion.diffusers_ddpm import DDPMDenoiser
from certidote.diffusion.schedule import linear
from certidote.streams import ROW_BLOCK, Key
from certidote.types import DenoiserCard, Untrusted
from certidote.verbs import sanitizing

ROOT = 11
NOISE = Key(ROOT) / "sanitize" / "noise"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 8x8 grey images, one block and a bit."""
    path = tmp_path_factory.mktemp("in") / "photos"
    write_folder(tiny((ROW_BLOCK + 60) // 2, 2, (1, 8, 8), Key(2)), path)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    sanitize(str(photos), out=out, sigma=0.3, denoiser="digits-linear-mmse", seed=ROOT, rank_suspicious=True, dtype="float32")
    assert not out.with_name("out.unfinished").exists()
    return contents(out)


def again(photos: Path, out: Path, **changes: object) -> dict[str, bytes]:
    options = {"sigma": 0.3, "denoiser": "digits-linear-mmse", "seed": ROOT, "rank_suspicious": True, "dtype": "float32", **changes}
    sanitize(str(photos), out=out, **options)  # type: ignore[arg-type]
    return contents(out)


def without_command(files: dict[str, bytes]) -> dict[str, object]:
    """All files; of the manifest, everything but the command that a test process was started with."""
    manifest = json.loads(files["manifest.json"])
    del manifest["command"]
    return {**files, "manifest.json": manifest}


# --------------------------------------------------------------------------------------------------------- what is written


def test_the_folder_equals_sanitizing_in_memory(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = sanitize(str(photos), out=out, sigma=0.3, denoiser="digits", seed=ROOT, dtype="float32").manifest
    original, result = load(photos), load(out)
    wanted = sanitized(Untrusted(original), load_denoiser("digits"), 0.3, NOISE).images
    assert torch.equal(result.images, (wanted.clamp(0, 1) * 255).round().to(torch.uint8))
    assert torch.equal(result.labels, original.labels)
    assert manifest["data"]["digest"] == original.digest()
    assert manifest["result"]["digest"] == result.digest()
    assert manifest["denoiser"]["digest"] == load_denoiser("digits").card.digest
    assert manifest["root"] == hex(ROOT)
    assert "carries no certificate by itself" in manifest["caution"]
    rows = list(csv.DictReader((out / "movement.csv").read_text().splitlines()))
    steps = (result.images.double() - original.images.double()).flatten(1) / 255
    assert [float(row["movement_l2"]) for row in rows] == pytest.approx(steps.norm(dim=1).tolist(), rel=1e-12)
    assert [float(row["movement_linf"]) for row in rows] == pytest.approx(steps.abs().amax(1).tolist(), rel=1e-12)
    assert [row["file"] for row in rows[:1]] == ["pattern-0/0000.png"]
    assert [row["source"] for row in rows] == list(original.names or ())
    assert (out / rows[-1]["file"]).is_file()


def test_arrays_give_an_archive_with_the_same_images(tmp_path: Path) -> None:
    made = sanitize("digits", out=tmp_path / "out", sigma=0.3, denoiser="digits-linear-mmse", seed=ROOT)
    original, result = load("digits"), load(tmp_path / "out" / "sanitized.npz")
    wanted = sanitized(Untrusted(original), LinearMMSE(load("digits:trusted")), 0.3, NOISE).images
    assert torch.equal(result.images, as_levels(wanted))
    assert torch.equal(result.labels, original.labels)
    assert made.manifest["result"]["digest"] == result.digest()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "sanitized.npz",
        "movement.csv",
        "manifest.json",
        "gallery.html",
    }


@pytest.mark.parametrize("form", ["zip", "gztar"])
@pytest.mark.parametrize("around", ["", "photos"])
def test_an_archive_of_pictures_is_sanitized_as_the_folder_in_it(tmp_path: Path, form: str, around: str) -> None:
    """The same files byte for byte, however the pictures are packed; what cannot be decoded is left out."""
    root = tmp_path / "set" / around
    for split, key in (("train", Key(2)), ("test", Key(3))):
        root.mkdir(parents=True, exist_ok=True)
        write_folder(tiny(4, 2, (1, 8, 8), key), root / split)
    (root / "train" / "pattern-0" / "broken.png").write_bytes(b"junk")
    packed = shutil.make_archive(str(tmp_path / "packed"), form, tmp_path / "set")
    options = {"denoiser": "none", "seed": 1, "gallery": False, "skip_corrupt": True, "rank_suspicious": True}
    made = sanitize(packed, out=tmp_path / "of-archive", **options).manifest  # type: ignore[arg-type]
    sanitize(str(tmp_path / "set"), out=tmp_path / "of-folder", **options)  # type: ignore[arg-type]
    ours, wanted = contents(tmp_path / "of-archive"), contents(tmp_path / "of-folder")
    assert "/".join(part for part in (around, "train/pattern-1/7.png") if part) in ours
    del ours["manifest.json"], wanted["manifest.json"]
    assert ours == wanted
    assert load(tmp_path / "of-archive").digest() == made["result"]["digest"]
    assert made["result"]["name"] == "."


def test_color_splits_and_other_formats_keep_their_layout(tmp_path: Path) -> None:
    generator = Key(3).numpy()
    for split, name, file in (
        ("train", "ant", "x.jpg"),
        ("train", "ant", "y.bmp"),
        ("train", "bee", "z.webp"),
        ("test", "ant", "t.png"),
    ):
        path = tmp_path / "set" / split / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    sanitize(str(tmp_path / "set"), out=tmp_path / "out", denoiser="none", gallery=False, seed=1)
    found = set(contents(tmp_path / "out"))
    assert found == {"train/ant/x.png", "train/ant/y.png", "train/bee/z.png", "movement.csv", "manifest.json"}
    assert load(tmp_path / "out").image_shape == (3, 8, 8)
    rows = csv.DictReader((tmp_path / "out" / "movement.csv").read_text().splitlines())
    assert [row["source"] for row in rows] == ["train/ant/x.jpg", "train/ant/y.bmp", "train/bee/z.webp"]


def test_corrupt_and_unequal_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Named and refused, or left out and listed, or resized and said so; what is written is what loading gives."""
    root, out = tmp_path / "set", tmp_path / "out"
    write_folder(tiny(3, 2, (1, 8, 8), Key(2)), root)
    (root / "pattern-0" / "broken.png").write_bytes(b"junk")
    Image.fromarray(np.full((20, 30), 99, np.uint8)).save(root / "pattern-1" / "wide.png")
    command = ["certidote", "sanitize", str(root), "--denoiser", "none", "--sigma", "0.1", "--out", str(out), "--progress", "quiet"]

    def run(*options: str) -> int:
        monkeypatch.setattr(sys, "argv", [*command, *options])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0)

    for options, message in (
        ([], "pattern-0/broken.png' is not a readable PNG"),
        (["--skip-corrupt"], "wide.png' has 20x30 (height x width); all images need one size, give --size"),
        (["--size", "8"], "pattern-0/broken.png' is not a readable PNG"),
    ):
        assert run(*options) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
        assert {path.name for path in tmp_path.iterdir()} == {"set"}
    assert run("--skip-corrupt", "--size", "8") == 0
    said, manifest = capsys.readouterr().out, json.loads((out / "manifest.json").read_text())
    original = load(root, size=8, skip_corrupt=True)
    assert manifest["data"]["digest"] == original.digest()
    assert manifest["data"]["notes"] == list(original.notes)
    assert [file["name"] for file in manifest["skipped"]] == ["pattern-0/broken.png"]
    assert "every budget and radius speaks of the resized pixels" in said
    assert "left out: '" in said
    assert "broken.png' is not a readable" in said
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.png")} == set(original.names or ())


def test_strange_file_names_are_escaped_in_tables_and_written_plainly(tmp_path: Path) -> None:
    """A name that is no UTF-8 used to stop the run when all the work was done, again and again."""
    root, out = tmp_path / "s\udcffet", tmp_path / "out"
    root.mkdir()
    write_folder(tiny(3, 2, (1, 8, 8), Key(2)), root / "in\udcfener")
    for old, new in (("pattern-0/0.png", "pattern-0/a\x1b[31mX.png"), ("pattern-1/3.png", "pattern-1/b\udcff.png")):
        (root / "in\udcfener" / old).rename(root / "in\udcfener" / new)
    manifest = sanitize(str(root), out=out, sigma=0.1, denoiser="none", seed=1, rank_suspicious=True).manifest
    assert manifest["data"]["name"].endswith("s\\udcffet")
    rows = list(csv.DictReader((out / "movement.csv").read_text().splitlines()))
    files, sources = [row["file"] for row in rows], [row["source"] for row in rows]
    assert files[:2] == ["in_ner/pattern-0/2.png", "in_ner/pattern-0/4.png"]
    assert files[2] == "in_ner/pattern-0/a_[31mX.png"
    assert sources[2] == "in\\udcfener/pattern-0/a\\x1b[31mX.png"
    assert sources[5] == "in\\udcfener/pattern-1/b\\udcff.png"
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.png")} == set(files)
    assert load(out).digest() == manifest["result"]["digest"]


class NoNoise(torch.nn.Module):
    """A diffusion network that finds no noise."""

    def forward(self, images: torch.Tensor, steps: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        return (torch.zeros_like(images),)


def test_the_manifest_has_the_step_and_the_digests_of_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule, card = linear(), DenoiserCard("made up", "diffusers", "0" * 64, (1, 8, 8))
    write_folder(tiny(3, 2, (1, 8, 8), Key(2)), tmp_path / "set")
    denoisers = {"ddpm": DDPMDenoiser(NoNoise(), schedule, "epsilon", card), "none": Identity()}
    monkeypatch.setattr(sanitizing, "denoiser_named", lambda name, *_: denoisers[name])
    for name, step in (("ddpm", 73), ("none", None)):
        out, sigma = tmp_path / name, float(schedule.sigma(np.array([73.2]))[0])
        made = sanitize(str(tmp_path / "set"), out=out, sigma=sigma, denoiser=name, seed=1, rank_suspicious=True)
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest == made.manifest
        assert manifest["t"] == step
        for part, file in (("movement", "movement.csv"), ("suspicion", "suspicious.csv")):
            assert manifest[part]["file"] == file
            assert manifest[part]["sha256"] == hashlib.sha256((out / file).read_bytes()).hexdigest()


def test_it_is_said_that_test_images_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        (tmp_path / "set").mkdir(exist_ok=True)
        write_folder(tiny(3, 2, (1, 8, 8), Key(2)), tmp_path / "set" / split)
    command = ["certidote", "sanitize", str(tmp_path / "set"), "--denoiser", "none", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [*command, "--progress", "quiet"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    assert "Only training images are sanitized and written; test images stay in the source" in capsys.readouterr().out
    assert not (tmp_path / "out" / "test").exists()


def test_without_a_seed_every_run_draws_its_own_noise(photos: Path, tmp_path: Path) -> None:
    roots = {sanitize("digits", out=tmp_path / name, denoiser="none", gallery=False).manifest["root"] for name in "ab"}
    assert len(roots) == 2


# ----------------------------------------------------------------------------------------------------------- interruptions

SCRIPT = """
import os, signal, sys
from pathlib import Path
from certidote import cli, sanitize
from certidote.defenses import blockwise

left, kind = int(sys.argv[3]), getattr(signal, sys.argv[4])
write = blockwise.write_bytes

def interrupted(path, content):
    global left
    left -= 1
    if left == 0:
        write(path, content[: len(content) // 2])
        os.kill(os.getpid(), kind)
    write(path, content)

blockwise.write_bytes = interrupted
sanitize(sys.argv[1], out=Path(sys.argv[2]), sigma=0.3, denoiser="digits-linear-mmse", seed=11, rank_suspicious=True, dtype="float32")
"""


def interrupt(photos: Path, out: Path, at: int, kind: str) -> int:
    """Run in another process, which a real signal hits in the middle of writing its `at`-th image."""
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(photos), str(out), str(at), kind]
    return subprocess.run(command, capture_output=True, check=False).returncode


@pytest.mark.parametrize(
    ("kind", "at"),
    [
        pytest.param("SIGKILL", 700, marks=[pytest.mark.slow, pytest.mark.alone]),
        ("SIGKILL", ROW_BLOCK + 30),
        pytest.param("SIGINT", ROW_BLOCK + 30, marks=[pytest.mark.slow, pytest.mark.alone]),
    ],
)
def test_killed_and_resumed_it_ends_with_the_same_bytes(
    photos: Path, undisturbed: dict[str, bytes], tmp_path: Path, kind: str, at: int
) -> None:
    out = tmp_path / "out"
    code = interrupt(photos, out, at, kind)
    assert code == (-signal.SIGKILL if kind == "SIGKILL" else -signal.SIGINT)
    unfinished = tmp_path / "out.unfinished"
    assert not out.exists()
    assert len(list((unfinished / blockwise.WORK).glob("0*.json"))) == at // ROW_BLOCK
    if kind == "SIGINT":
        for path in unfinished.rglob("*.png"):
            Image.open(path).load()  # no half-written file
    assert without_command(again(photos, out)) == without_command(undisturbed)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


@pytest.mark.slow
@pytest.mark.alone
def test_workers_make_the_same_bytes(photos: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    assert without_command(again(photos, tmp_path / "out", workers=2)) == without_command(undisturbed)


def test_a_full_disk_leaves_whole_files_and_the_way_on(
    photos: Path, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0

    def full(path: Path, content: bytes) -> None:
        nonlocal written
        written += 1
        if written > ROW_BLOCK + 7:
            path.write_bytes(content[:20])
            raise OSError(28, "No space left on device", str(path))
        path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr(blockwise, "write_bytes", full)
        with pytest.raises(
            OSError, match=r"No space left on device: 1,024 of 1,084 images are sanitized and kept .*same command again"
        ):
            again(photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    pictures = list((tmp_path / "out.unfinished").rglob("*.png"))
    assert len(pictures) == ROW_BLOCK + 7
    for path in pictures:
        Image.open(path).load()
    assert without_command(again(photos, tmp_path / "out")) == without_command(undisturbed)


@pytest.mark.slow
@pytest.mark.alone
def test_what_was_damaged_after_it_was_written_is_made_again(photos: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """Another image, half an image (a power cut), none at all: each is found at the end and repaired by the same command."""
    out, unfinished = tmp_path / "out", tmp_path / "out.unfinished"
    interrupt(photos, out, ROW_BLOCK + 30, "SIGKILL")
    pictures = sorted(name for name in undisturbed if name.endswith(".png"))
    first, last = (unfinished / name for name in (pictures[0], pictures[-1]))
    for damage in (
        lambda: Image.fromarray(np.zeros((8, 8), np.uint8)).save(first),
        lambda: last.write_bytes(undisturbed[str(last.relative_to(unfinished))][:40]),
        first.unlink,
    ):
        damage()  # always in a block that is finished by now
        with pytest.raises(ValueError, match="not what was written there; run the same command again"):
            again(photos, out)
    stranger = unfinished / "pattern-0" / "mine.png"
    stranger.write_bytes(undisturbed[pictures[0]])
    with pytest.raises(ValueError, match=r"mine\.png' was not written by this run; remove it and run the same command again"):
        again(photos, out)
    stranger.unlink()
    assert without_command(again(photos, out)) == without_command(undisturbed)


def test_an_unfinished_run_is_not_continued_under_another_configuration(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupt(photos, out, 700, "SIGKILL")
    with pytest.raises(ValueError, match=r"unfinished run with sigma=0.3, but this command asks for sigma=0.5"):
        again(photos, out, sigma=0.5)
    with pytest.raises(ValueError, match=r"unfinished run with root=0xb, but this command asks for root=0xc"):
        again(photos, out, seed=12)
    manifest = json.loads(again(photos, out, sigma=0.5, force=True)["manifest.json"])
    assert manifest["sigma"] == 0.5


# ------------------------------------------------------------------------------------------------------------------ places


def test_nothing_is_overwritten_without_force(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = again("digits", out, sigma=0.3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="exists already.*--force"):
        again(photos, out)
    assert contents(out) == before
    assert "sanitized.npz" not in again(photos, out, force=True)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep")
    with pytest.raises(ValueError, match="holds no sanitized set"):
        again(photos, tmp_path / "mine", force=True)
    assert contents(tmp_path / "mine") == {"letter.txt": b"keep"}


def test_input_and_output_must_lie_apart(photos: Path, tmp_path: Path) -> None:
    for out in (photos / "clean", photos / "pattern-0" / "clean"):
        with pytest.raises(ValueError, match="lies inside the input"):
            again(photos, out, force=True)
    (tmp_path / "same").symlink_to(photos)
    for out in (photos, photos / ".." / "photos", tmp_path / "same"):
        with pytest.raises(ValueError, match="is the input itself, which is never written to; give --out another folder"):
            again(photos, out, force=True)
    (tmp_path / "link").symlink_to(photos.parent)
    for out in (photos.parent, tmp_path / "link"):
        with pytest.raises(ValueError, match="lies inside the output"):
            again(photos, out, force=True)


def test_only_what_a_run_wrote_is_ever_removed(photos: Path, tmp_path: Path) -> None:
    """Folders with names like those of its own beside the output, be they somebody's work or the input itself."""
    for name in ("out.replaced", "out.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("keep")
    again(photos, tmp_path / "out")
    again(photos, tmp_path / "out", force=True)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.replaced", "out.old"}
    assert contents(tmp_path / "out.replaced") == {"mine.txt": b"keep"}
    shutil.copytree(photos, tmp_path / "set.replaced")
    again(tmp_path / "set.replaced", tmp_path / "set")
    assert contents(tmp_path / "set.replaced") == contents(photos)


def test_an_input_where_unfinished_work_would_lie_is_refused(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "out.unfinished")
    (tmp_path / "link").symlink_to(tmp_path / "out.unfinished")
    for given in ("out.unfinished", "link"):
        with pytest.raises(ValueError, match=r"input .*out\.unfinished' lies where the unfinished work .* choose another --out"):
            again(tmp_path / given, tmp_path / "out", force=True)
    assert contents(tmp_path / "out.unfinished") == contents(photos)


def test_a_folder_that_came_into_being_meanwhile_is_kept(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, clean = tmp_path / "out", blockwise.clean_block

    def meanwhile(*arguments: object) -> int:
        out.mkdir(exist_ok=True)
        (out / "mine.txt").write_text("keep")
        return clean(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(blockwise, "clean_block", meanwhile)
        with pytest.raises(ValueError, match="holds no sanitized set"):
            again(photos, out, force=True)
    assert contents(out) == {"mine.txt": b"keep"}
    (out / "mine.txt").unlink()
    assert "manifest.json" in again(photos, out)


def test_an_earlier_result_comes_back_if_the_new_one_cannot_take_its_place(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename = again(photos, tmp_path / "out"), os.rename

    def failing(source: Path, target: Path) -> None:
        if str(source).endswith("out.unfinished"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing)
        with pytest.raises(OSError, match="Input/output error"):
            again(photos, tmp_path / "out", force=True, sigma=0.5)
    assert contents(tmp_path / "out") == before
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.unfinished"}


def test_wrong_numbers_of_processes_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"workers=-2; give a number of processes, 0 \(this process, on one core\) or -1 \(one process for each core\)",
    ):
        again(photos, tmp_path / "out", workers=-2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("workers", "threads"), [(0, 1), (2, 2)])
def test_no_more_cores_check_the_images_than_sanitize_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, threads: int
) -> None:
    asked = []

    class Counted(ThreadPoolExecutor):
        def __init__(self, count: int) -> None:
            asked.append(count)
            super().__init__(count)

    write_folder(tiny(3, 2, (1, 8, 8), Key(2)), tmp_path / "set")
    monkeypatch.setattr(decode, "ThreadPoolExecutor", Counted)
    monkeypatch.setattr(decode, "_cores", lambda: 7)
    denoiser = f"linear-mmse:{tmp_path / 'set'}"  # trusted images are read on as many
    sanitize(str(tmp_path / "set"), out=tmp_path / "out", denoiser=denoiser, seed=1, gallery=False, workers=workers)
    assert len(asked) == 3, "checked, trusted, read back"
    assert set(asked) == {threads}


def test_noise_outside_the_denoiser_s_range_writes_nothing(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exceeds this denoiser's sigma_max"):
        again(photos, tmp_path / "out", sigma=99.0, denoiser="digits")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------------ memory

PEAK = """
import resource, sys
from pathlib import Path
from certidote import cli, sanitize
sanitize(sys.argv[1], out=Path(sys.argv[2]), denoiser="none", seed=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def bitmaps(root: Path, count: int, side: int = 24) -> Path:
    """Two classes of RGB bitmap files, written by hand for speed."""
    header = (
        b"BM" + (54 + 3 * side * side).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
    )
    header += side.to_bytes(4, "little") * 2 + (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24)
    pixels = Key(4).numpy().bytes(3 * side * side + count)
    for name in "ab":
        (root / name).mkdir(parents=True)
    for i in range(count):
        (root / "ab"[i % 2] / f"{i:06d}.bmp").write_bytes(header + pixels[i : i + 3 * side * side])
    return root


@pytest.mark.slow
@pytest.mark.alone
def test_ten_times_as_many_images_take_no_more_memory(tmp_path: Path) -> None:
    """Loading the 45,000 further images would take 74 MiB as bytes and four times that as floats; 10 % is some 38 MiB."""
    peaks = {}
    for count in (5_000, 50_000):
        root = bitmaps(tmp_path / str(count), count)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PEAK, str(root), str(tmp_path / f"out{count}")],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks[count] = int(done.stdout)
    print(peaks)
    assert peaks[50_000] < 1.1 * peaks[5_000], peaks
