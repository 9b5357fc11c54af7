"""Scripts that need minutes or a GPU: that their commands are commands, and what becomes of those that fail."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import reference_frogs
import torch
import typer

from certidote.attacks import ATTACKS
from certidote.attacks.triggers import TRIGGERS
from certidote.certification.bounds import minimum_models
from certidote.cli import groups
from certidote.data.tiny import tiny
from certidote.diffusion.denoiser import CATALOGUE
from certidote.diffusion.denoiser import load as load_denoiser
from certidote.diffusion.denoiser import save as save_denoiser
from certidote.diffusion.fit import DenoiserRecipe, train_network
from certidote.diffusion.fit import load_recipe as load_denoiser_recipe
from certidote.diffusion.network import Architecture, ResidualUNet
from certidote.scenarios.crafting import checked_options, parsed_option
from certidote.streams import Key
from certidote.training.recipe import RECIPES, load_recipe
from certidote.types import Budget, ImageDataset, Poison, Target, as_pixels
from scripts import ROOT, benchmark


def parsed(arguments: tuple[str, ...]) -> tuple[str, dict[str, object]]:
    """A command line of ours as the command's name and its parameters; nothing is run."""
    group = typer.main.get_command(groups()[""])
    name, command, rest = "", group, list(arguments)
    while hasattr(command, "commands"):
        name, command = f"{name} {rest[0]}".strip(), command.commands[rest.pop(0)]
    return name, command.make_context(name, rest).params


@pytest.mark.parametrize("small", [False, True])
def test_every_step_of_the_campaign_is_a_command_that_names_what_there_is(
    small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = benchmark("gpu_campaign", monkeypatch)
    packs, files, runs = set(), set(), {}
    for step in campaign.steps_of(tmp_path, tmp_path, "cpu", small):
        assert step.stage in campaign.STAGES
        if step.script:
            assert Path(step.arguments[0]).is_file()
            continue
        name, given = parsed(step.arguments)
        if name == "certify":
            assert given["denoiser"] in CATALOGUE
            load_recipe(given["recipe"])
            assert given["models"] >= minimum_models("clopper-pearson", given["alpha"], 10, True)
            assert runs.setdefault(given["out"], given["members"]) == given["members"], (
                "a run keeps the members it was assigned first"
            )
        if name == "poison":
            packs.add(given["out"])
            assert given["recipe"] in RECIPES
            assert given["trigger"] in ("", *TRIGGERS)
            attack = reference_frogs.reference_frogs if step.reference else ATTACKS[given["attack"]]
            checked_options(given["attack"], attack, dict(map(parsed_option, given["option"] or ())))
        if name == "pack export":
            assert step.needs == given["pack"] in packs
            files.add(given["out"])
        if name == "pack import":
            assert step.needs == given["source"] in files
            assert given["scenario_of"] in packs
            packs.add(given["out"])
        if name == "replay":
            assert step.needs == given["pack"] in packs


def test_recipes_that_the_scripts_bring_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = load_denoiser_recipe("benchmarks/denoiser-32.toml")
    read = {}
    for name, text in benchmark("gpu_campaign", monkeypatch).recipes(small=False).items():
        (tmp_path / name).write_text(text)
        read[name] = load_denoiser_recipe(str(tmp_path / name))
    assert read["denoiser.toml"] == packaged
    assert read["denoiser-large.toml"].architecture.widths == (64, 96, 128, 128)
    assert read["denoiser-large.toml"].augmentation == packaged.augmentation
    lean = ResidualUNet(load_denoiser_recipe("benchmarks/denoiser-32-lean.toml").architecture)
    assert sum(weights.numel() for weights in lean.parameters()) == 746_499  # the 0.75 million of docs/results.md


def test_the_campaign_goes_on_after_a_failure_says_so_and_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    campaign = benchmark("gpu_campaign", monkeypatch)
    tried: list[str] = []
    fails = {"poison"}

    def run(step: "campaign.Step", seconds: float, log: Path) -> tuple[int | None, float]:
        arguments = step.arguments
        tried.append("script" if step.script else arguments[0])
        if arguments[0] in ("poison", "pack") and arguments[0] not in fails:
            Path(arguments[arguments.index("--out") + 1]).mkdir()
        return (2 if arguments[0] in fails else 0), 1.0

    monkeypatch.setattr(campaign, "run", run)
    monkeypatch.setattr(campaign, "speed", lambda *given: {"seconds": 1.0, "fraction_of_peak": 0.5})
    monkeypatch.setattr(sys, "argv", ["gpu_campaign.py", "--small", "--device", "cpu", "--out", str(tmp_path / "runs")])
    with pytest.raises(SystemExit, match=r"^failed: attacks .*attacks-[0-9a-f]{8}\.log\), attacks .*, attacks "):
        campaign.main()
    assert (tried.count("certify"), tried.count("script")) == (6, 1)
    assert "replay" not in tried  # without poisons
    tried.clear()
    fails.clear()
    campaign.main()
    assert tried == [*["poison", "replay"] * 3, "pack", "pack", "replay", *["poison", "replay"] * 2]
    assert capsys.readouterr().out.splitlines()[-1].count("attacks") == 13
    (changed,) = (tmp_path / "runs").glob("speed-????????.json")
    changed.write_text(json.dumps({**json.loads(changed.read_text()), "arguments": ["certify", "other"]}))
    tried.clear()
    campaign.main()
    assert tried == ["certify"]


def test_the_work_of_a_member_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = benchmark("gpu_campaign", monkeypatch)

    class Ledger:
        """Two members that took 4 seconds, and what the test says of commits."""

        commits_made: ClassVar[list[tuple[float, int]]] = [(9.0, 2)]

        def __init__(self, path: Path, read_only: bool) -> None: ...
        def __enter__(self) -> "Ledger":
            return self

        def __exit__(self, *error: object) -> None: ...
        def gap_free(self) -> int:
            return 2

        def seconds(self) -> tuple[float, float]:
            return 4.0, 1.0

        def commits(self, most: int) -> list[tuple[float, int]]:
            return self.commits_made

    monkeypatch.setattr(campaign, "Ledger", Ledger)
    recipe, longer = (RECIPES["compact"].model_copy(update={"epochs": epochs}) for epochs in (2, 3))
    few, many, answers = (
        campaign.speed(tmp_path, recipe, images, tests, 10.0, "float32")
        for images, tests in ((1_000, 0), (2_000, 0), (1_000, 10_000))
    )
    assert few["seconds"] == 2.0, "one job only"
    assert many["tflop"] == pytest.approx(2 * few["tflop"])
    assert few["fraction_of_peak"] == pytest.approx(few["tflop"] / 2 / 10)
    forward = (answers["tflop"] - few["tflop"]) / 10_000
    assert forward * 1e6 == pytest.approx(26.7, rel=0.05)  # MFLOP of the compact network
    Ledger.commits_made = [(10.0, 4), (11.0, 4), (13.0, 4)]
    assert campaign.speed(tmp_path, recipe, 1_000, 0, 10.0, "float32")["seconds"] == 3 / 8, "the first job records"
    epoch = campaign.speed(tmp_path, longer, 1_000, 0, 10.0, "float32")["tflop"] - few["tflop"]
    assert 2.5 * forward < epoch / 1_000 < 4 * forward  # forward and backward, but none for the stem, and Muon
    assert few["tflop"] / 1_000 - 2 * epoch / 1_000 == pytest.approx(0.2e-3, rel=0.5)  # the denoiser's GFLOP


def test_tables_without_their_first_row_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = benchmark("results_page", monkeypatch)
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    rows = tmp_path / "utility" / "rows"
    rows.mkdir(parents=True)
    row = {"sigma": 0.25, "variant": "noise only", "certifiable": True, "seed": 0, "accuracy": 0.4}
    (rows / "a.json").write_text(json.dumps(row))
    assert page.utility() == page.MISSING
    (rows / "b.json").write_text(json.dumps({**row, "sigma": 0.0, "variant": "one model", "accuracy": 0.8}))
    assert "| noise only | yes |  | 0.500 |  |  |" in page.utility()
    (rows / "c.json").write_text(json.dumps({**row, "seed": 1, "accuracy": 0.3}))
    assert "| noise only | yes |  | 0.500 |  |  |" in page.utility(), "a seed without the undefended model says nothing yet"
    (rows / "d.json").write_text(json.dumps({**row, "seed": 1, "sigma": 0.0, "variant": "one model", "accuracy": 0.4}))
    assert "| noise only | yes |  | 0.625 |  |  |" in page.utility(), "the mean of 0.4 / 0.8 and 0.3 / 0.4"


def test_the_pages_have_the_tables_and_the_figure_of_the_kept_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = benchmark("results_page", monkeypatch)
    pages = ("results.md", "attacks.md", page.CURVES)
    (tmp_path / "docs").mkdir()
    for name in pages[:2]:
        shutil.copy(ROOT / "docs" / name, tmp_path / "docs")
    monkeypatch.setattr(page, "RESULTS", ROOT / "results")
    monkeypatch.chdir(tmp_path)
    page.main()
    for name in pages:
        assert (tmp_path / "docs" / name).read_text() == (ROOT / "docs" / name).read_text(), (
            "make it again: benchmarks/results_page.py"
        )


def test_targets_that_were_lost_before_the_attack_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that victims of clean data give any wrong class; also of records made before budgets said whether triggers may be seen."""
    page = benchmark("results_page", monkeypatch)
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    arm = {"successes": 1, "trials": 10, "low": 0.0, "high": 0.4, "reached": 0.1, "lost": 0.3, "clean_accuracy": 0.9}
    made: dict[str, Any] = {
        "goal": "target", "recipe": {"scenario": {"kind": "scratch"}}, "budget": {"num_poisons": 5, "norm": "linf", "epsilon": 0.1},
        "data": {"images": 50}, "results": {"poisoned": {**arm, "lost": 0.0}, "control": arm}, "root": "0x1",
    }  # fmt: skip
    for name, goal in (("aimed", "target"), ("backdoor", "trigger")):
        (tmp_path / "attacks" / name).mkdir(parents=True)
        (tmp_path / "attacks" / name / "replay.json").write_text(json.dumps({**made, "goal": goal}))
    header, _, aimed, backdoor = page.attacks().splitlines()
    place = header.split(" | ").index("lost before")
    assert (aimed.split(" | ")[place], backdoor.split(" | ")[place]) == ("4 of 10", "40% of images")


def test_a_denoiser_has_no_figure_outside_its_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = benchmark("results_page", monkeypatch)
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    (tmp_path / "benchmarks").mkdir()
    measured = {"sigmas": [0.5, 1.0], "psnr": {"noisy": [9.12, 6.93], "lean": [20.8, None]}}
    (tmp_path / "benchmarks" / "photograph-denoisers.json").write_text(json.dumps(measured))
    assert page.denoisers().splitlines()[2:] == ["| noisy | 9.12 | 6.93 |", "| lean | 20.80 | - |"]


def test_times_of_a_machine_that_did_other_work_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = benchmark("results_page", monkeypatch)
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    (tmp_path / "benchmarks").mkdir()
    row = {
        "name": "airbench", "recipe": {"epochs": 5}, "parameters": 1_000, "accuracy": 0.9, "seconds": 60.0, "images_per_second": 500.0,
        "fraction_of_peak": 0.8,
    }  # fmt: skip
    where = {"gpu": None, "threads": 2}
    quiet, busy = ({"trainings": [row], "denoisers": {}, "busy_elsewhere": cores, **where} for cores in (0.1, 0.9))
    (tmp_path / "benchmarks" / "photographs.json").write_text(json.dumps(quiet))
    assert "| airbench | 5 | 1,000 | 2 cores | 90.00% | - | 60 | 500 | 80% |" in page.speed()
    mirrored = {**busy, "gpu": "H200", "trainings": [{**row, "accuracy_with_mirror_images": 0.91}]}
    (tmp_path / "benchmarks" / "photographs-long.json").write_text(json.dumps(mirrored))
    assert page.speed().splitlines()[2:4] == [
        "| airbench | 5 | 1,000 | 2 cores | 90.00% | - | 60 | 500 | 80% |",
        "| airbench | 5 | 1,000 | H200 | 90.00% | 91.00% | - | - | - |",
    ]


def test_only_packaged_denoisers_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(benchmark("photographs", monkeypatch).DENOISERS) <= set(CATALOGUE)
    variants = benchmark("utility", monkeypatch).VARIANTS
    assert ("denoiser trained on all training images" in variants) == ("cifar10-32" in CATALOGUE)


def test_the_undefended_model_of_the_thousand_is_trained_on_all_images_by_their_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    utility = benchmark("utility", monkeypatch)
    sets = {name: tiny(count, 10, (3, 32, 32), Key(0) / name) for name, count in (("whole", 300), ("test", 30))}

    class Shelf(utility.Shelf):  # type: ignore[name-defined,misc]
        def whole(self) -> ImageDataset:
            return sets["whole"]

        def train(self) -> ImageDataset:  # the 10,000, not to be used: every label is wrong
            return dataclasses.replace(sets["whole"], labels=(sets["whole"].labels + 1) % 10)

        def test(self) -> ImageDataset:
            return sets["test"]

    shelf = Shelf(tmp_path, "float32")
    assert utility.whole_set(shelf, 0.0, Key(0)) > 0.9
    assert shelf.recipes == [load_recipe(str(ROOT / "benchmarks" / "member-50000.toml"))]


def test_a_denoiser_is_packaged_with_its_own_figures_and_never_over_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = benchmark("photograph_denoisers", monkeypatch)
    images = tiny(3, 10, (3, 8, 8), Key(0))
    recipe = DenoiserRecipe(steps=2, batch=4, architecture=Architecture(3, 4, (8,), (1,)), storage="float16")
    for name, seed, most in (("tiny-imagenet-32-large", 0, 1.25), ("cifar10-32", 1, 0.5)):
        trained = train_network(images, images, dataclasses.replace(recipe, sigma_max=most), Key(seed), name="unnamed")
        save_denoiser(trained, tmp_path / name)
    (tmp_path / "package").mkdir()
    monkeypatch.setattr(script, "PACKAGED", tmp_path / "package")
    monkeypatch.setattr(script, "load", lambda address: images)
    monkeypatch.setattr(script, "wavelet", lambda noisy, sigma: noisy)  # scikit-image's
    given = [str(tmp_path / "tiny-imagenet-32-large"), str(tmp_path / "cifar10-32")]
    monkeypatch.setattr(sys, "argv", ["photograph_denoisers.py", *given, "--package", "--out", str(tmp_path / "record.json")])
    script.main()
    record = json.loads((tmp_path / "record.json").read_text())
    for name, other in (("tiny-imagenet-32-large", "cifar10-32"), ("cifar10-32", "tiny-imagenet-32-large")):
        card = load_denoiser(tmp_path / "package" / name).card
        assert card.digest == load_denoiser(tmp_path / name).card.digest == record["digests"][name]
        assert card.details["data"] == script.DATA_USED[name]
        assert card.details["compared"]["psnr"] == {k: v for k, v in record["psnr"].items() if k != other}
        assert {name, "noisy", "linear MMSE"} <= card.details["compared"]["psnr"].keys()
    outside = [value is None for value in record["psnr"]["cifar10-32"]]
    assert dict(zip(record["sigmas"], outside, strict=True)) == {0.05: False, 0.1: False, 0.25: False, 0.5: False, 1.0: True}
    assert (tmp_path / "package" / "cifar10-32" / "card.md").read_text().rstrip().splitlines()[-3].endswith(" - |")
    packaged = contents(tmp_path / "package")
    capsys.readouterr()
    script.main()
    assert capsys.readouterr().out.count("is there already and stays as it is") == 2
    assert contents(tmp_path / "package") == packaged
    monkeypatch.setattr(sys, "argv", ["photograph_denoisers.py", str(tmp_path / "other"), "--package"])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert "nothing says what other learned from" in capsys.readouterr().err


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Linear(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(64, 3)

    def penultimate(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.penultimate(images))


def test_margins_and_cosines_are_those_of_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a linear model, whose gradient for one image is known: poisons that are the target itself have cosine 1."""
    script = benchmark("paired_margins", monkeypatch)
    train = tiny(4, 3, (1, 8, 8), Key(0))
    model = Linear().eval()
    target = train.images[5]
    true = int(train.labels[5])
    goal = Target(target, true, (true + 1) % 3, 0)
    rows = torch.arange(3)
    poison = Poison(rows, target.expand(3, -1, -1, -1), goal, Budget(3, "linf", 1.0))
    found = script.cosines(model, poison, goal, train)
    assert found["poisons"] == pytest.approx(1, abs=1e-5)
    assert found["bases"] < 0.999
    logits = model(as_pixels(target.unsqueeze(0)))[0]
    assert script.margin(model, goal) == pytest.approx(float((logits[(true + 1) % 3] - logits[true]).detach()))
