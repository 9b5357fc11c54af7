"""The public functions, one for each command; `cli.py` reads their signatures. Heavy imports happen inside.

Each returns what it made, says nothing, and reports through `progress`. Wrong input raises ValueError with one line that says what
to do; nothing half-written stays behind.
"""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from certidote.engine.local import Pool
    from certidote.types import Denoiser, ImageDataset, Progress

Data = Annotated[str, typer.Argument(help="digits, digits:SPLIT, an .npz file, or a folder with one sub-folder per class")]
Sigma = Annotated[float, typer.Option(help="noise std, [0, 1] pixel units")]
DenoiserName = Annotated[
    str,
    typer.Option(
        help="a name from 'certidote denoiser list', a directory, none (noise only), linear-mmse:TRUSTED or kernel:TRUSTED "
        "(closed forms over images you trust), or auto (by image shape)"
    ),
]
RecipeName = Annotated[str, typer.Option(help="mlp, cnn, a .toml file, or auto (mlp for tiny images, cnn otherwise)")]
Seed = Annotated[int | None, typer.Option(help="root of all random streams, for a reproduction; default: the operating system's")]
Dtype = Annotated[str, typer.Option(help="auto (the faster one here), float32 or bfloat16")]
Device = Annotated[str, typer.Option(help="cpu or cuda")]
Force = Annotated[bool, typer.Option(help="replace an earlier result in the output directory")]


@dataclass(frozen=True)
class Certified:
    """What `certify` made: the record (certificate.json as a dict), where it lies, and whether it is a proof."""

    record: dict[str, Any]
    out: Path
    proved: bool


@dataclass(frozen=True)
class Plan:
    """What a command would do."""

    lines: tuple[str, ...]


def certify(
    data: Data,
    *,
    out: Annotated[Path, typer.Option(help="run directory; the same command goes on with an interrupted run")],
    test: Annotated[str, typer.Option(help="test images; default: the test split of DATA")] = "",
    sigma: Sigma = 0.25,
    models: Annotated[int, typer.Option(help="n, the models whose votes are counted")] = 1000,
    n0: Annotated[int, typer.Option(help="models that select the answers, on top of n")] = 100,
    alpha: Annotated[float, typer.Option(help="failure probability of the statement")] = 0.001,
    simultaneous: Annotated[bool, typer.Option(help="one statement about the whole test set (Bonferroni)")] = False,
    denoiser: DenoiserName = "auto",
    recipe: RecipeName = "auto",
    seed: Seed = None,
    workers: Annotated[int | None, typer.Option(help="processes; default: one for each core; 0: this process")] = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    dry_run: Annotated[bool, typer.Option(help="print the plan and stop")] = False,
    progress: "Progress | None" = None,
    pool: "Pool | None" = None,
    label: str = "",
) -> Certified | Plan:
    """Certify a classifier trained on untrusted DATA: noise, denoise, train n0 + n models, count their votes.

    Leaves in OUT: ledger.sqlite (every vote), certificate.json, certified_accuracy.csv, images.csv, figures as SVG, report.html.
    """
    from certidote.data import load
    from certidote.data.checks import check_same_classes
    from certidote.defenses.smoothing import DenoisedSmoothing
    from certidote.training.pooled import trainer_for
    from certidote.types import Untrusted

    _check_device(device)
    train_set = load(data, "train")
    test_name = test or _test_split_of(data)
    test_set = load(test_name, "test")
    check_same_classes(train_set, test_set)
    number_format = _dtype_of_run(out, dtype, device)
    chosen = _denoiser(denoiser, train_set, number_format)
    scheme = DenoisedSmoothing(chosen, sigma, n0, models, alpha, simultaneous, len(test_set), device)
    used_recipe = _recipe(recipe, train_set)
    trainer = trainer_for(used_recipe, number_format)  # type: ignore[arg-type]
    if dry_run:
        return Plan(
            (
                f"{scheme.members} models ({n0} select, {models} are counted) on {len(train_set)} images, {len(test_set)} test images",
                f"sigma {sigma:g}, denoiser {chosen.card.name} ({chosen.conditioning(sigma)}), recipe {used_recipe.to_json()}",
                f"largest radius that {models} models can certify at alpha {scheme.alpha_each:g}: {_cap(sigma, models, scheme.alpha_each):.4f}",
                f"votes: {scheme.members * len(test_set) / 1e6:.1f} MB in {out / 'ledger.sqlite'}",
            )
        )
    untrusted = Untrusted(train_set)
    hashes = chosen.card.training_images
    overlap = None if hashes is None else untrusted.overlap(hashes)
    facts = {"dtype": number_format, "device": device, "recipe": used_recipe.to_json()}
    return _run_and_record(
        out,
        scheme,
        trainer,
        untrusted,
        (data, train_set),
        (test_name, test_set),
        facts,
        seed,
        overlap,
        workers,
        progress,
        pool,
        label,
    )


def _run_and_record(
    out: Path, scheme: Any, trainer: Any, untrusted: Any, train: Any, test: Any, facts: Any, seed: int | None, overlap: int | None,
    workers: int | None, progress: Any, pool: Any, label: str,
) -> Certified:  # fmt: skip
    from contextlib import nullcontext

    from certidote import engine
    from certidote.engine.ledger import Ledger
    from certidote.engine.local import Pool
    from certidote.reporting.words import plain
    from certidote.results.record import RunFacts, certificate_record

    out.mkdir(parents=True, exist_ok=True)
    config = engine.configuration(scheme, trainer, untrusted, test[1], facts)
    with Ledger(out / "ledger.sqlite") as ledger:
        ledger.configure(config)
        with Pool(workers) if pool is None else nullcontext(pool) as used:
            ballots = engine.run(
                scheme, trainer, untrusted, test[1],
                ledger=ledger, pool=used, config=config, seed=seed, overlap=overlap, progress=progress, stage=label or "models",
            )  # fmt: skip
            number_of_workers = used.workers
        seconds, seconds_viewing = ledger.seconds()
        run_facts = RunFacts(
            label=label or f"{'noise only' if scheme.denoiser.card.kind == 'none' else 'denoised'}, sigma {plain(scheme.sigma)}",
            command=_command(),
            recipe=facts["recipe"],
            config_digest=ledger.config_digest(),
            root=ledger.get("root"),
            root_source=ledger.get("root_source"),
            device=facts["device"],
            dtype=facts["dtype"],
            seconds=seconds,
            seconds_denoising=seconds_viewing,
            workers=number_of_workers,
        )
    outcome = scheme.certify(ballots)
    record = certificate_record(
        outcome, scheme.aggregate(ballots), ballots, scheme.describe(), scheme.denoiser.card, train, test, run_facts
    )
    _write_results(out, record)
    return Certified(record, out, record["proved"])


def _write_results(out: Path, record: dict[str, Any]) -> None:
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
    write_report(out / "report.html", f"Certificate for {record['data']['name']}", [record])


def report(
    run: Annotated[Path, typer.Argument(help="a run directory with a certificate.json, or a demo directory")],
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
    _write_results(run, record)
    return run / "report.html"


@dataclass(frozen=True)
class Trained:
    """What `train` made."""

    out: Path
    accuracy: float | None
    sanitized: bool


def train(
    data: Data,
    *,
    out: Annotated[Path, typer.Option(help="model directory: config.json and model.safetensors")],
    test: Annotated[str, typer.Option(help="test images for the accuracy; default: the test split of DATA, if it has one")] = "",
    sigma: Annotated[
        float, typer.Option(help="sanitize first with noise of this std, [0, 1] pixel units; 0: train on DATA as it is")
    ] = 0.0,
    denoiser: DenoiserName = "auto",
    recipe: RecipeName = "auto",
    seed: Seed = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    force: Force = False,
) -> Trained:
    """Train one model on DATA and save it. One model carries no certificate, sanitized or not: that takes `certify`."""
    import torch

    from certidote.data import load
    from certidote.data.checks import check_same_classes
    from certidote.defenses.smoothing import DenoisedSmoothing
    from certidote.numerics import resolve_dtype
    from certidote.results.record import versions
    from certidote.streams import Key, fresh_root
    from certidote.training.model_dir import check_vacant, save_model
    from certidote.training.pooled import trainer_for
    from certidote.types import Untrusted, View

    check_vacant(out, force)
    _check_device(device)
    train_set = load(data, "train")
    number_format = resolve_dtype(dtype, device)
    used_recipe = _recipe(recipe, train_set)
    untrusted = Untrusted(train_set)
    key = Key(fresh_root() if seed is None else seed)
    if sigma:
        scheme = DenoisedSmoothing(_denoiser(denoiser, train_set, number_format), sigma, 1, 10, device=device)
        view = scheme.view(untrusted, 0, key / "members" / 0)
    else:
        traced = untrusted.unsealed("plain training").to(device)
        view = View(traced.images, untrusted.labels.to(device), len(untrusted.class_names), traced.lineage)
    stack = trainer_for(used_recipe, number_format).fit([view], [key / "members" / 0], key / "common")
    if bool(stack.failed[0]):
        raise ValueError("training diverged (weights are not finite); lower the learning rate in a recipe file and try again")
    model = stack.member(0)  # type: ignore[attr-defined]
    accuracy = None
    if test or _has_test_split(data):
        test_set = load(test or _test_split_of(data), "test")
        check_same_classes(train_set, test_set)
        with torch.inference_mode():
            accuracy = float((model(test_set.pixels()).argmax(1) == test_set.labels).float().mean())
    save_model(
        out, model, recipe=used_recipe, class_names=train_set.class_names, image_shape=train_set.image_shape,
        lineage=view.lineage, data_digest=untrusted.digest, versions=versions(), force=force,
    )  # fmt: skip
    return Trained(out, accuracy, bool(sigma))


def _check_device(device: str) -> None:
    if device == "cpu":
        return
    import torch

    if not device.startswith("cuda"):
        raise ValueError(f"unknown device {device!r}; choose cpu or cuda")
    if not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but torch finds no CUDA device here; use --device cpu")


def _has_test_split(data: str) -> bool:
    return data.split(":")[0] == "digits" or (Path(data) / "test").is_dir()


def _test_split_of(data: str) -> str:
    """Where DATA's own test images are; errors about a missing split come from the loader."""
    if data.split(":")[0] == "digits":
        return "digits:test"
    if (Path(data) / "test").is_dir() or Path(data).suffix == ".npz":
        return data
    raise ValueError(f"{data} has no test split of its own; give test images with --test (a folder or .npz with the same classes)")


def _recipe(name: str, data: "ImageDataset") -> Any:
    from certidote.training.recipe import load_recipe

    if name == "auto":
        channels, height, width = data.image_shape
        name = "mlp" if channels * height * width <= 256 else "cnn"
    return load_recipe(name)


def _denoiser(name: str, data: "ImageDataset", dtype: str) -> "Denoiser":
    from certidote.diffusion.denoiser import load

    if name == "auto":
        if data.image_shape != (1, 8, 8):
            shape = "x".join(map(str, data.image_shape))
            raise ValueError(
                f"no packaged denoiser fits {shape} images; give --denoiser DIR (make one from images you trust with 'certidote "
                "denoiser train TRUSTED --out DIR'), or --denoiser none for noise only"
            )
        name = "digits"
    kind, _, trusted = name.partition(":")
    if kind in CLOSED_FORMS and trusted:
        loaded = _closed_form(kind, trusted, name)
    else:
        loaded = load(name, dtype=dtype)  # type: ignore[arg-type]
    if loaded.card.image_shape is not None and loaded.card.image_shape != data.image_shape:
        expected, given = ("x".join(map(str, shape)) for shape in (loaded.card.image_shape, data.image_shape))
        raise ValueError(f"denoiser {name!r} is for {expected} images, but the data has {given}; train one on images of that shape")
    return loaded


CLOSED_FORMS = ("linear-mmse", "kernel")


def _closed_form(kind: str, trusted: str, name: str) -> "Denoiser":
    from certidote.data import load
    from certidote.diffusion.closed_form import KernelPosteriorMean, LinearMMSE

    images = load(trusted, "train")
    return LinearMMSE(images, name) if kind == "linear-mmse" else KernelPosteriorMean(images, name=name)


def _dtype_of_run(out: Path, dtype: str, device: str) -> str:
    """What a run was started with, if it was and nothing is asked for: the probe may differ from one day to the next."""
    from certidote.engine.ledger import Ledger
    from certidote.numerics import resolve_dtype

    path = out / "ledger.sqlite"
    if dtype == "auto" and path.is_file():
        with Ledger(path) as ledger:
            config = ledger.get("config")
        if config is not None:
            return str(config["dtype"])
    return resolve_dtype(dtype, device)


def _cap(sigma: float, n: int, alpha_each: float) -> float:
    from certidote.certification.smoothing import radius_cap

    return radius_cap(sigma, n, alpha_each)


def _command() -> str:
    """The command line, where there is one."""
    name = Path(sys.argv[0]).name
    return shlex.join(["certidote", *sys.argv[1:]]) if name in ("certidote", "certidote.exe") else f"called from {name or 'Python'}"


def denoiser_train(
    data: Annotated[str, typer.Argument(help="images you TRUST, in the forms of DATA; never the images to be purified")],
    *,
    out: Annotated[Path, typer.Option(help="denoiser directory: config.json and model.safetensors")],
    recipe: Annotated[str, typer.Option(help="auto, or a .toml file with fields of the denoiser recipe")] = "auto",
    seed: Seed = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    force: Force = False,
    progress: "Progress | None" = None,
) -> "Denoiser":
    """Train a denoising network on images you TRUST. Whoever makes it asserts that no attacker could alter them."""
    from certidote.data import load
    from certidote.diffusion.denoiser import check_target, save
    from certidote.diffusion.fit import load_recipe, train_network
    from certidote.numerics import resolve_dtype
    from certidote.streams import Key, fresh_root

    check_target(out, force)
    _check_device(device)
    used_recipe = load_recipe(recipe)
    key = Key(fresh_root() if seed is None else seed) / "denoiser"
    trained = train_network(
        load(data, "train"), None, used_recipe, key, progress, name=out.name, dtype=resolve_dtype(dtype, device), device=device
    )
    save(trained, out, force)
    return trained


def denoiser_list() -> list[dict[str, str]]:
    """The packaged denoisers: name, kind, image shape, range of sigma."""
    from certidote.diffusion.denoiser import CATALOGUE, load

    rows = []
    for name in CATALOGUE:
        loaded = load(name)
        shape = loaded.card.image_shape
        rows.append(
            {
                "name": name,
                "kind": loaded.card.kind,
                "images": "any" if shape is None else "x".join(map(str, shape)),
                "sigma": f"{loaded.sigma_min:g} to {loaded.sigma_max:g}",
                "digest": loaded.card.digest[:12],
            }
        )
    return rows


def denoiser_info(name: Annotated[str, typer.Argument(help="a packaged name, or a denoiser directory")]) -> dict[str, Any]:
    """The model card of one denoiser: what it is, what it was made from, how well it does."""
    from certidote.diffusion.denoiser import load

    loaded = load(name)
    card = loaded.card
    known = card.training_images
    return {
        "name": card.name,
        "kind": card.kind,
        "digest": card.digest,
        "image_shape": card.image_shape,
        "sigma": [loaded.sigma_min, None if loaded.sigma_max == float("inf") else loaded.sigma_max],
        "trained_on": card.trained_on or None,
        "training_images": None if known is None else len(known),
        **card.details,
    }


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
