"""Which cells there are: every figure of the paper has its place, goals are the ones that the seed draws, names are unique."""

import json
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest

from certidote.attacks import ATTACKS
from certidote.benchmark.cells import SHARING, Cell, Poisoning
from certidote.benchmark.costs import estimates, plan_lines
from certidote.benchmark.materials import photograph_patches
from certidote.benchmark.pages import PAPER_NAMES, PAPER_STARTS, STARTS
from certidote.benchmark.paper import paper_cell, paper_cells
from certidote.benchmark.records import crafting_of, identity_of
from certidote.benchmark.runner import Campaign, recipe_of
from certidote.benchmark.scales import SCALES, ThroughName
from certidote.benchmark.tables import TABLES, WITH_SIGMA, cells_of, started, strongest, unmeasured
from certidote.data import load
from certidote.defenses.catalogue import DEFENSES, Setting
from certidote.defenses.one_shot import OneShot
from certidote.diffusion.denoiser import load as denoiser_loaded
from certidote.scenarios.goals import goals_text, listed_goals, spread_goals, targets_of
from certidote.streams import Key
from certidote.training.head_recipe import HEAD_RECIPES
from certidote.training.pooled import trainer_for
from certidote.training.recipe import RECIPES, load_recipe

GOALS = Path(str(files("certidote.benchmark") / "goals"))


def test_every_figure_of_the_paper_has_its_cell() -> None:
    """Under one reading of sigma at least; but for defenses that cannot be had on heads. Table 3 has a test of its own."""
    digits = SCALES["digits"]
    shown = set()
    for table, cells in ((name, TABLES[name](digits)) for name in ("table1", "table2", "table4", "table5")):
        for cell in cells:
            p = cell.poisoning
            for sigma in (cell.sigma, None if cell.sigma is None else 2 * cell.sigma, 0.0):
                name = PAPER_NAMES.get(cell.defense, cell.defense)
                key = (table[-1], p.attack, p.scenario, p.knowledge, p.ensemble, name, STARTS[p.scenario], sigma)
                shown.add(key)
    missing = [key for key in paper_cells() if key not in shown and key[0] != "3"]
    assert {(key[0], key[1], key[5]) for key in missing} == {
        ("5", "bullseye-polytope", name) for name in ("dp-sgd", "adversarial-training", "friends")
    }
    assert all(unmeasured(Poisoning("bullseye-polytope", "transfer"), key[5]) for key in missing)


def test_table_3_is_about_every_start_of_the_paper() -> None:
    digits = SCALES["digits"]
    cells = TABLES["table3"](digits)
    for poisoning in strongest(digits):
        for start, its in (("in-domain", PAPER_STARTS["in-domain"]), ("out-of-domain", PAPER_STARTS["out-of-domain"])):
            crafted, own = started(poisoning, start)  # type: ignore[arg-type]
            measured = {cell.sigma for cell in cells if (cell.poisoning, cell.start) == (crafted, own)}
            assert measured >= set(digits.readings())
            figures = [
                key
                for key in paper_cells()
                if key[0] == "3" and key[1] == poisoning.attack and key[6] == its and key[5] == "denoise"
            ]
            assert len(figures) == 4
            assert {key[7] for key in figures} <= measured
    assert max(Counter(cell.id for cell in cells).values()) == 1


def test_images_of_another_kind() -> None:
    patches = photograph_patches()
    assert (patches.image_shape, len(patches), patches.num_classes) == ((1, 8, 8), 2_000, 4)
    assert patches.labels.bincount().tolist() == [500] * 4
    assert patches.digest() == photograph_patches().digest()
    assert float(patches.pixels().std(0).mean()) > 0.1


def test_figures_of_the_paper_are_read_as_printed() -> None:
    assert len(paper_cells()) == 129
    assert str(paper_cell("2", "bullseye-polytope", "transfer", "white-box", 1, "none", "pretrained", 0.0)) == "(93.5) 100.0"
    assert str(paper_cell("1", "witches-brew", "scratch", "black-box", 1, "denoise", "random", 1.0)) == "cell lost in extraction"
    assert paper_cell("2", "witches-brew", "transfer", "white-box", 1, "none", "pretrained", 0.0) is None


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("table", TABLES)
def test_cells_have_names_of_their_own_and_parts_that_exist(table: str, scale: str) -> None:
    if table == "between" and not SCALES[scale].between:
        with pytest.raises(ValueError, match=f"table 'between' has no cells at scale '{scale}'; choose another scale"):
            cells_of(table, SCALES[scale])
        return
    cells = cells_of(table, SCALES[scale])
    assert cells
    assert max(Counter(cell.id for cell in cells).values()) == 1
    for cell in cells:
        assert cell.poisoning.attack in ATTACKS
        assert cell.defense in DEFENSES
        assert cell.poisoning.attack in SCALES[scale].seconds
        assert cells_of(table, SCALES[scale], cell.id) == [cell]


def test_further_settings_are_of_no_other_table() -> None:
    scale = SCALES["cifar10-compact"]
    cells = cells_of("between", scale)
    assert {(cell.defense, cell.sigma) for cell in cells} == {("none", None), *scale.between}
    assert not set(scale.between) & {("denoise", sigma) for sigma in scale.readings()}
    assert len(cells) == (5 + 2) * (1 + len(scale.between))
    knowing = {(cell.defense, cell.sigma) for cell in cells_of("adaptive", scale)}
    assert knowing == {*(("denoise", sigma) for sigma in scale.readings()), *scale.between}
    for cell in cells_of("adaptive", scale):
        assert (cell.poisoning.through_defense, cell.poisoning.through) == (cell.defense, cell.sigma), (
            "who knows, knows what victims have"
        )


def test_table_2_is_as_large_as_it_should_be() -> None:
    assert len(TABLES["table2"](SCALES["digits"])) == 5 * 2 * (1 + 6)
    assert len(cells_of("table2", SCALES["digits"], "poison-frogs-transfer-black-box")) == 7
    assert SCALES["digits"].readings() == (0.05, 0.1, 0.125, 0.25, 0.5, 1.0)


def test_defenses_with_noise_are_the_ones_that_take_sigma() -> None:
    denoiser = denoiser_loaded("digits")

    def takes_sigma(name: str) -> bool:
        setting = Setting(lambda _: denoiser, 0.25, 1, "cpu", images=500)
        try:
            DEFENSES[name](trainer_for(RECIPES["mlp"], "float32"), setting)
        except ValueError as error:
            return "sigma=0.25 was given" not in str(error)
        return True

    assert {name for name in DEFENSES if takes_sigma(name)} == set(WITH_SIGMA)


def test_recipes_and_data_of_all_scales_are_there() -> None:
    """Victims of photographs from scratch learn as those of the attack ladder do."""
    for scale in SCALES.values():
        for setup in scale.setups.values():
            for name in (recipe_of(setup), setup.other_recipe):
                assert name == "auto" or load_recipe(name)
            whole = HEAD_RECIPES["adam"].epochs if setup.pretrain else load_recipe(recipe_of(setup)).epochs
            assert 1 <= setup.raw_epochs <= whole // 4
    ladder = Path(__file__).parents[2] / "benchmarks" / "ladder-victims.toml"
    assert load_recipe(str(ladder)) == load_recipe(recipe_of(SCALES["cifar10-compact"].setups["scratch"]))


def test_black_box_victims_from_scratch_get_the_poisons_of_the_white_box() -> None:
    black, white = (Poisoning("witches-brew", "scratch", box, 4) for box in ("black-box", "white-box"))
    assert black.crafted == white.crafted == white
    transfer = Poisoning("poison-frogs", "transfer", "black-box")
    assert transfer.crafted == transfer  # its victims' extractor travels with the poisons


@pytest.mark.parametrize(("data", "file", "per_class"), [("digits", "digits.json", 10), ("digits-5-9", "digits-5-9.json", 20)])
def test_packaged_goals_are_what_the_seed_draws(data: str, file: str, per_class: int) -> None:
    train, test = load(data), load(data, "test")
    goals = listed_goals(GOALS / file)
    assert goals_text(goals) == (GOALS / file).read_text(encoding="utf-8")
    assert goals == spread_goals(test, per_class, Key(0) / "benchmark" / "goals", train)
    assert len(targets_of(goals, test)) == 100


@pytest.mark.parametrize("file", ["digits.json", "digits-5-9.json", "cifar10.json"])
def test_goals_are_spread_over_classes_from_the_first_on(file: str) -> None:
    goals = listed_goals(GOALS / file)
    classes = len({goal.true_class for goal in goals})
    for first in (classes, 2 * classes, 100):
        assert set(Counter(goal.true_class for goal in goals[:first]).values()) == {first // classes}
    assert len({goal.test_image for goal in goals}) == 100
    assert all(goal.true_class != goal.adversarial_class for goal in goals)
    assert len({goal.adversarial_class for goal in goals}) == classes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "0 trials are wanted"),
        ("{}", "at the top: input should be a valid array"),
        ("[", "at the top: invalid JSON"),
        ('[{"test_image": "x", "true_class": "0", "adversarial_class": "1"}]', "at 0.test_image: input should be a valid integer"),
        ('[{"test_image": 1, "true_class": "0"}]', "at 0.adversarial_class: field required"),
    ],
)
def test_files_of_goals_are_checked(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "goals.json").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        listed_goals(tmp_path / "goals.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (
            {"test_image": 4000, "true_class": "0", "adversarial_class": "1"},
            "test image 4000 of class '0', which these test images do not have",
        ),
        ({"test_image": -1, "true_class": "0", "adversarial_class": "1"}, "test image -1"),
        ({"test_image": 0, "true_class": "zero", "adversarial_class": "1"}, "class 'zero', which the data does not have"),
        ({"test_image": 0, "true_class": "1", "adversarial_class": "1"}, "give two classes"),
    ],
)
def test_goals_must_fit_the_test_images(goal: dict[str, object], message: str, tmp_path: Path) -> None:
    (tmp_path / "goals.json").write_text(json.dumps([goal]))
    with pytest.raises(ValueError, match=message):
        targets_of(listed_goals(tmp_path / "goals.json"), load("digits", "test"))


def test_noise_is_shared_where_the_scale_says_so() -> None:
    """It is part of what decides a cell's outcomes, and of nothing else: records without noise stay valid."""
    compact, poisoning = SCALES["cifar10-compact"], Poisoning("bullseye-polytope", "transfer")
    alone = replace(compact, draws=None)
    assert (SCALES["digits"].draws, compact.draws) == (None, 4)
    shared = (Cell(poisoning, "denoise", 0.1), Cell(poisoning, "noise", 0.1), Cell(poisoning, "denoise", 0.1, "out-of-domain"))
    for cell in shared:
        assert identity_of(compact, cell, 0) != identity_of(alone, cell, 0)
    for cell in (Cell(poisoning), Cell(poisoning, "rab", 0.25), Cell(poisoning, "denoise", 0.1, "in-domain")):
        assert identity_of(compact, cell, 0) == identity_of(alone, cell, 0)


def test_defenses_that_share_noise_are_those_that_add_it_once() -> None:
    denoiser = denoiser_loaded("digits")
    for name in DEFENSES:
        setting = Setting(lambda _: denoiser, 0.25 if name in WITH_SIGMA else None, 1, "cpu", images=500)
        try:
            scheme, _ = DEFENSES[name](trainer_for(RECIPES["mlp"], "float32"), setting)
        except ImportError:  # of an optional library
            continue
        assert isinstance(scheme, OneShot) == (name in SHARING)


@pytest.mark.parametrize(
    ("scale", "wanted", "attack", "trials"),
    [
        ("digits", None, "bullseye-polytope", 100),
        ("cifar10-compact", None, "bullseye-polytope", 50),
        ("cifar10-compact", None, "poison-frogs", 20),
        ("cifar10-compact", 7, "bullseye-polytope", 7),
    ],
)
def test_each_scale_has_its_number_of_trials(scale: str, wanted: int | None, attack: str, trials: int, tmp_path: Path) -> None:
    campaign = Campaign("table2", SCALES[scale], wanted, 0, "cpu", None, tmp_path, tmp_path)
    cell = Cell(Poisoning(attack, "transfer"), "denoise", 0.1)
    assert campaign.trials(cell.poisoning) == trials
    assert campaign.command(cell).endswith(f"--trials {trials} --seed 0")
    assert f"-{trials}-" in campaign.pack(cell).name


def test_who_crafts_through_our_defense_may_take_fewer_steps(tmp_path: Path) -> None:
    """Where the scale says so, and then that is part of what its records are of; on the digits nothing is said, as when they were made."""
    compact, digits = SCALES["cifar10-compact"], SCALES["digits"]
    unaware, aware = Poisoning("bullseye-polytope", "transfer"), Poisoning("bullseye-polytope", "transfer", through=0.2)
    assert crafting_of(compact, unaware, 0)["options"] == []
    said = crafting_of(compact, aware, 0)
    assert (said["options"], said["through_draws"], said["through_dtype"]) == (["steps=300"], 1, "bfloat16")
    assert crafting_of(digits, aware, 0).keys() == crafting_of(digits, unaware, 0).keys()
    cell = Cell(aware, "denoise", 0.2)
    more = replace(compact, through_draws=2)
    exact = replace(compact, through_dtype="float32")
    assert len({identity_of(scale, cell, 0) for scale in (compact, more, exact, replace(compact, through_options={}))}) == 4


def test_who_crafts_through_several_calls_is_another_attacker(tmp_path: Path) -> None:
    """Of one call nothing is said, as when records of it were made."""
    compact = SCALES["cifar10-compact"]
    one, several = (
        Poisoning("bullseye-polytope", "transfer", through=0.25, through_defense=defense) for defense in get_args(ThroughName)
    )
    assert one.name == "bullseye-polytope-transfer-white-box-through-0.25"
    assert several.name == "bullseye-polytope-transfer-white-box-through-purification-deterministic-0.25"
    assert "through_defense" not in crafting_of(compact, one, 0)["poisoning"]
    assert crafting_of(compact, several, 0)["poisoning"]["through_defense"] == "purification-deterministic"


def test_costs_count_what_is_shared_once(tmp_path: Path) -> None:
    """Denoising once for each draw, extractors once for all attacks."""
    compact = replace(
        SCALES["cifar10-compact"], setups={**SCALES["cifar10-compact"].setups, "transfer": SCALES["digits"].setups["transfer"]}
    )
    rows = [
        Poisoning(attack, "transfer", box) for attack in ("poison-frogs", "convex-polytope") for box in ("white-box", "black-box")
    ]
    cells = [Cell(row, name, sigma) for row in rows for name, sigma in (("none", None), ("denoise", 0.1))]
    campaign = Campaign("table2", compact, 10, 0, "cpu", None, tmp_path, tmp_path)
    found, seconds = estimates(campaign, cells), compact.seconds
    assert [each.training for each in found[:2]] == [
        20 * seconds["transfer"],
        20 * seconds["transfer"] + 4 * seconds["denoise transfer"],
    ]
    alone = estimates(Campaign("table2", replace(compact, draws=None), 10, 0, "cpu", None, tmp_path, tmp_path), cells)
    assert alone[1].training == 20 * (seconds["transfer"] + seconds["denoise transfer"])
    crafting = [each.crafting for each in found if each.cell.defense == "none"]
    before = [each - 10 * seconds[row.attack] for each, row in zip(crafting, rows, strict=True)]
    assert before == [seconds["extractor"], seconds["extractor"], 0, 0]
    assert plan_lines(found, campaign, 2)[0].startswith("table2 at scale cifar10-compact, 10 trials a cell, 2 arms")
    usual = Campaign("table2", compact, None, 0, "cpu", None, tmp_path, tmp_path)
    assert "20 trials a cell (bullseye-polytope: 50), 2 arms" in plan_lines(found, usual, 2)[0]
