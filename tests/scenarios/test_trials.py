"""Trials as members of one run: who trains on what, with which coins, and how outcomes are read off votes."""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from certidote.attacks import ATTACKS
from certidote.attacks.pack import PoisonPack, make_pack
from certidote.data.tiny import tiny
from certidote.defenses import certified
from certidote.defenses.catalogue import DEFENSES, DENOISING, FACTS, OPTIONS, Setting, check_options
from certidote.defenses.deep_partition import DeepPartition
from certidote.defenses.dp_sgd import PrivateTrainer
from certidote.defenses.filtered import FilteredTrainer
from certidote.defenses.from_scratch import hooked
from certidote.defenses.mixing import Mixup
from certidote.defenses.plain import PlainTraining
from certidote.defenses.private_vote import PrivateVote
from certidote.defenses.removals import removal
from certidote.diffusion.closed_form import Identity
from certidote.engine.jobs import Job, Payload, work
from certidote.results.replay import certified_line
from certidote.scenarios.assembled import assembled
from certidote.scenarios.crafting import checked_options, options_of, parsed_option
from certidote.scenarios.goals import choose_pairs, choose_targets, target_at
from certidote.scenarios.privacy import certified_poisons
from certidote.scenarios.removed import Asked, removed_of_trial
from certidote.scenarios.trials import PairedTrainer, Trials, outcomes, paired, questions
from certidote.streams import Key, torch_seeded
from certidote.training.extractor import ConvExtractor
from certidote.training.head import HeadTrainer
from certidote.training.pooled import trainer_for
from certidote.training.recipe import Recipe
from certidote.types import (
    Ballots,
    Budget,
    Goal,
    ImageDataset,
    Lineage,
    Poison,
    PreparesInputs,
    Provenance,
    Scheme,
    Target,
    Trainer,
    Trigger,
    Untrusted,
)
from fixtures_filters import KeepAllBut

TRAIN, TEST = (tiny(10, 3, (1, 8, 8), Key(0) / split) for split in ("train", "test"))
TRAINER = trainer_for(Recipe(architecture="mlp-128", epochs=1, learning_rate=0.1))


def poison(goal: Goal) -> Poison:
    rows = (TRAIN.labels == goal.adversarial_label).nonzero().squeeze(1)[:3]
    images = TRAIN.images[rows] // 2 + 60
    return Poison(rows, images, goal, Budget(3, "linf", 1.0))


def pack(*goals: Goal) -> PoisonPack:
    return make_pack([poison(goal) for goal in goals], TRAIN, "tiny", {"attack": "test"})


def targets() -> PoisonPack:
    return pack(*(Target(TEST.images[row], int(TEST.labels[row]), (int(TEST.labels[row]) + 1) % 3, row) for row in (0, 4)))


def trigger(true: int | None = 0, place: tuple[int, int] | None = None) -> Trigger:
    return Trigger(torch.full((1, 2, 2), 255, dtype=torch.uint8), torch.ones(2, 2, dtype=torch.bool), place, true, 1)


def test_members_go_trial_by_trial_and_each_sees_its_own_set() -> None:
    trials = Trials(targets(), PlainTraining(2))
    assert trials.members == 8
    data = Untrusted(TRAIN)
    for member in range(8):
        place = trials.place(member)
        assert (place.trial, place.poisoned, place.model) == (member // 4, member % 4 >= 2, member % 2)
        view = trials.view(data, member, Key(0) / "members" / member)
        expected = trials.pack.poisons[place.trial].apply(TRAIN) if place.poisoned else TRAIN
        assert torch.equal(view.images, expected.pixels())
        assert torch.equal(view.labels, TRAIN.labels)


def test_victims_of_one_trial_share_their_coins_and_no_others() -> None:
    keys = [paired(Key(0) / "members" / member, 2) for member in range(8)]
    for member in (0, 1, 4, 5):
        assert keys[member] == keys[member + 2]
    assert len(set(keys)) == 4
    trials, trainer = Trials(pack(targets().poisons[0].goal), PlainTraining(2)), PairedTrainer(TRAINER, 2)
    unchanged = replace(trials.pack.poisons[0], images=TRAIN.images[trials.pack.poisons[0].indices])
    trials = replace(trials, pack=make_pack([unchanged], TRAIN, "tiny", {"attack": "nothing"}))
    asked = questions(trials.pack, TEST, Key(1))
    data, keys = Untrusted(TRAIN), [Key(3) / "members" / member for member in range(4)]
    stack = trainer.fit([trials.view(data, member, key) for member, key in enumerate(keys)], keys, Key(3) / "common")
    logits = stack(TEST.pixels())
    assert torch.equal(logits[:2], logits[2:])  # poisons that change nothing change no answer
    assert not torch.equal(logits[0], logits[1])
    record = work(Payload(trials, trainer, data, asked.asked.images, Key(3)), Job(0, 4))
    alone = work(Payload(trials, trainer, data, asked.asked.images, Key(3)), Job(3, 4))
    assert np.array_equal(alone.votes[0], record.votes[3])


def ballots(votes: np.ndarray, failed: list[int] = []) -> Ballots:  # noqa: B006
    lost = np.zeros(len(votes), dtype=bool)
    lost[failed] = True
    provenance = Provenance("", "given", None)
    return Ballots(votes, lost, 3, (Lineage(),), np.arange(len(votes)), provenance)


def test_outcomes_of_targets() -> None:
    trials = Trials(targets(), PlainTraining(1))
    asked = questions(trials.pack, TEST, Key(1))
    assert asked.num_tests == 30
    assert [list(rows) for rows in asked.rows] == [[30], [31]]
    assert torch.equal(asked.asked.images[30:], TEST.images[[0, 4]])
    right = asked.asked.labels.numpy()
    votes = np.tile(right, (4, 1)).astype(np.uint8)
    votes[1, 30] = (right[30] + 1) % 3  # trial 0 reaches its goal
    votes[3, 31] = (right[31] + 2) % 3  # trial 1 is lost, and the target is not what its attacker wanted
    votes[3, 7] = (right[7] + 1) % 3
    votes[3, 0] = (right[0] + 1) % 3  # a target: not counted among clean test images
    (first, second) = outcomes(trials, asked, ballots(votes))
    assert [arm.reached.tolist() for arm in (*first, *second)] == [[False], [True], [False], [False]]
    assert [arm.lost.tolist() for arm in (*first, *second)] == [[False], [False], [False], [True]]
    assert [arm.clean_accuracy for arm in (*first, *second)] == [1.0, 1.0, 1.0, 27 / 28]
    assert len(outcomes(trials, asked, ballots(votes[:3]))) == 1  # trial 1 has not finished
    diverged = outcomes(trials, asked, ballots(votes, [1]))[0][1]
    assert diverged.predicted.tolist() == [-1]
    assert not diverged.reached.any()


def test_outcomes_are_what_the_defense_answers_not_the_plurality() -> None:
    """Two votes for class 0, two for class 1: plurality answers 0, the run-off asks the fifth member."""
    trials = Trials(targets(), DeepPartition(5, run_off=True))
    assert trials.keeps_rankings
    assert not Trials(targets(), PlainTraining(5)).keeps_rankings
    asked = questions(trials.pack, TEST, Key(1))
    ranks = np.tile(np.array([[0, 1, 2], [0, 1, 2], [1, 0, 2], [1, 0, 2], [2, 1, 0]], dtype=np.uint8)[:, None], (4, 32, 1))
    found = outcomes(trials, asked, replace(ballots(ranks.argmin(2)), ranks=ranks))
    assert {int(arm.predicted[0]) for pair in found for arm in pair} == {1}, "the fifth member prefers 1 to 0"


def test_outcomes_of_triggers() -> None:
    held = pack(trigger(), trigger(None, (0, 0)))
    trials = Trials(held, PlainTraining(3))
    asked = questions(held, TEST, Key(1))
    assert [len(rows) for rows in asked.rows] == [10, 20]
    assert asked.sources[0].tolist() == (TEST.labels == 0).nonzero().squeeze(1).tolist()
    stamped = asked.asked.images[30:]
    assert bool((stamped[10:, :, :2, :2] == 255).all())
    assert bool(((stamped == 255).flatten(1).sum(1) >= 4).all())
    again = questions(held, TEST, Key(1))
    assert torch.equal(again.asked.images, asked.asked.images)
    assert again.single == asked.single
    votes = np.tile(asked.asked.labels.numpy(), (12, 1)).astype(np.uint8)
    votes[3:5, 30:35] = 1  # two of three models
    votes[3:5, asked.sources[0][5]] = 2  # wrong without the trigger already
    control, poisoned = outcomes(trials, asked, ballots(votes))[0]
    assert poisoned.reached.tolist() == [True] * 5 + [False] * 5
    assert (poisoned.before == 0).tolist() == [True] * 5 + [False] + [True] * 4
    assert not control.reached.any()


def test_questions_refuse_other_test_images() -> None:
    with pytest.raises(ValueError, match="which these test images do not have"):
        questions(targets(), TEST.subset(range(2, 30)), Key(0))
    with pytest.raises(ValueError, match="no test image is of the class"):
        questions(pack(trigger()), TEST.subset((TEST.labels != 0).nonzero().squeeze(1)), Key(0))


# ---------------------------------------------------------------------------------------------------------------- defenses


NOISY = ("denoise", "noise", "several-draws", "purification", "purification-deterministic", "rab")
PRIVATE = [name for name in DEFENSES if name.startswith("dp-sgd") and find_spec("opacus") is None]  # cannot be tried here
CHANGED = ("jpeg", "blur", "bit-depth", "total-variation")
FROM_SCRATCH = (
    "adversarial-training",
    "poison-adversarial-training",
    "gradient-shaping",
    "friends",
    "mixup",
    "cutmix",
    "dp-instahide",
    "dp-sgd",
    "dp-sgd-private",
)


@pytest.mark.parametrize("name", DEFENSES)
def test_every_defense_of_the_catalogue(name: str) -> None:
    if name in PRIVATE:
        pytest.skip("needs opacus")
    noisy, own_rows = name in NOISY, name in certified.DEFENSES and name not in NOISY
    sigma = 0.2 if noisy else None
    setting = Setting(lambda _: Identity(), sigma, 2, "cpu", images=30)
    scheme, trainer = DEFENSES[name](TRAINER, setting)
    assert isinstance(scheme, Scheme)
    assert isinstance(trainer, Trainer)
    assert scheme.members == {"rab": 20, "bagging": 20, "bagflip": 20, "finite-aggregation": 8, "run-off-fa": 8}.get(name, 2)
    digest = TRAIN.digest()
    data = Untrusted(TRAIN)
    views = [scheme.view(data, member, Key(0) / "members" / member) for member in (0, 1, 0)]
    assert TRAIN.digest() == digest
    assert torch.equal(views[0].images, views[2].images)
    assert torch.equal(views[0].images, views[1].images) != (noisy or own_rows)
    copies = 4 if name == "several-draws" else 1
    assert own_rows or torch.equal(views[0].labels, TRAIN.labels.repeat(copies))
    assert isinstance(scheme.describe(), dict)
    assert not hasattr(scheme.certify(ballots(np.zeros((2, 3), dtype=np.uint8))), "radii")
    if sigma:
        with pytest.raises(ValueError, match="sigma"):
            DEFENSES[name](TRAINER, replace(setting, sigma=0.0))
    else:
        with pytest.raises(ValueError, match="(adds no noise|has no use for it); leave it out"):
            DEFENSES[name](TRAINER, replace(setting, sigma=0.1))
    assert all(vars(FACTS[name]).values())


@pytest.mark.parametrize("name", DEFENSES)
def test_every_option_is_used_or_refused(name: str) -> None:
    if name in PRIVATE:
        pytest.skip("needs opacus")
    asked: list[str] = []

    def named(denoiser: str) -> Identity:
        asked.append(denoiser)
        return Identity()

    setting = Setting(named, None, 1, "cpu", images=60)
    scheme, trainer = DEFENSES[name](TRAINER, setting)
    plain = scheme.describe(), trainer.describe()
    assert ("auto" in asked) == (name in DENOISING)
    if name in DENOISING:
        check_options(name, setting, "digits")
    else:
        with pytest.raises(ValueError, match=f"--denoiser digits, but the defense '{name}' has no use for one; leave it out"):
            check_options(name, setting, "digits")
    for option in ("models", "parts", "copies", "bag_size"):
        given = replace(setting, **{option: 13}, members=13 if option == "models" else 1)
        if option in OPTIONS.get(name, ("models",)):
            check_options(name, given)
            if option in ("parts", "copies"):
                given = replace(given, images=1000)
            scheme, trainer = DEFENSES[name](TRAINER, given)
            assert (scheme.describe(), trainer.describe()) != plain
            with pytest.raises(ValueError, match="give at least 1"):
                check_options(name, replace(given, **{option: 0}))
        else:
            with pytest.raises(ValueError, match=f"the defense '{name}' has no --"):
                check_options(name, given)


class LowestGo(KeepAllBut):
    """Removes the fifth of the images with the smallest features, and remembers what it kept."""

    def __init__(self) -> None:
        super().__init__([])
        self.kept: list[list[int]] = []

    def __call__(self, features: torch.Tensor, labels: torch.Tensor, key: Key) -> torch.Tensor:
        sizes = features.sum(1)
        rows = (sizes > sizes.quantile(0.2)).nonzero().flatten()
        self.kept.append(rows.tolist())
        return rows


def test_what_a_filter_removed_is_asked_with_the_coins_of_the_victims() -> None:
    """Two models in each arm: members 2 and 6 are the first poisoned ones of their trials."""
    keep, data, key = LowestGo(), Untrusted(TRAIN), Key(3)
    trials, trainer = Trials(targets(), PlainTraining(2)), PairedTrainer(FilteredTrainer(TRAINER, keep), 2)
    work(Payload(trials, trainer, data, TEST.images, key), Job(0, 8))
    for trial, member in ((1, 6), (0, 2)):
        number, found = removed_of_trial(Asked(trials, trainer, data, key), trial)
        assert number == trial
        assert keep.kept[-1] == keep.kept[member]
        poisons = trials.pack.poisons[trial].indices
        assert found == removal(torch.tensor(keep.kept[member]), 30, poisons)
        assert keep.kept.count(keep.kept[member]) == 2  # no other member's


def test_every_defense_trains_from_scratch_and_heads() -> None:
    """Two models each, on what a scheme shows them; a description tells one defense from another, and the images stay as they were."""
    data = tiny(20, 3, (1, 8, 8), Key(0) / "more")
    with torch_seeded(Key(0) / "extractor"):
        extractor = ConvExtractor((1, 8, 8), 3, 0.5, 0.3).eval().requires_grad_(False)
    scratch = trainer_for(Recipe(architecture="mlp-128", epochs=6, batch_size=20, learning_rate=0.2))
    for victims in (scratch, HeadTrainer(extractor, epochs=6, batch_size=20)):
        told = []
        for name, make in DEFENSES.items():
            setting = Setting(lambda _: Identity(), 0.05 if name in NOISY else None, 2, "cpu", 2 / 60, 60)
            if name in PRIVATE:
                continue
            if name in FROM_SCRATCH and isinstance(victims, HeadTrainer):
                with pytest.raises(
                    ValueError, match=rf"^the defense '{name}' changes how a whole network learns, but these victims are heads"
                ):
                    make(victims, setting)
                continue
            scheme, trainer = make(victims, setting)
            keys = [Key(0) / "members" / member for member in range(2)]
            views = [scheme.view(Untrusted(data), member, key) for member, key in enumerate(keys)]
            before = [view.images.clone() for view in views]
            stack = trainer.fit(views, keys, Key(0) / "common")
            shown = scheme.inputs(data.pixels(), range(60), keys[0]) if isinstance(scheme, PreparesInputs) else data.pixels()
            assert isinstance(shown, torch.Tensor)
            right = (stack(shown).argmax(2) == data.labels).double().mean(1)
            assert not stack.failed.any(), name
            least = {"bagflip": 0.6, "dp-sgd-private": 0.0}.get(
                name, 0.9
            )  # a fifth of its pixels are flipped; loud noise, few images
            assert float(right.min()) > least, name
            assert all(torch.equal(view.images, images) for view, images in zip(views, before, strict=True))
            told.append(repr(trainer.describe()))
        parts, bags = {"dpa", "run-off-dpa", "finite-aggregation", "run-off-fa"}, {"bagging", "bagflip"}
        groups = [{"none", *NOISY, "jpeg", "bit-depth"}, parts, bags]  # by epochs and the size of batches
        alike = groups if victims is scratch else [set.union(*groups, CHANGED)]  # heads learn alike whatever they see
        assert len(set(told)) == len(told) - sum(len(group) - 1 for group in alike)
    assert list(FACTS) == list(DEFENSES)


def test_replaced_rows_are_what_an_attacker_leaves() -> None:
    data = Untrusted(TRAIN, trusted=(5,))
    rows, images = torch.tensor([2, 7]), 255 - TRAIN.images[[2, 7]]
    twin = data.replaced(rows, images)
    expected = TRAIN.images.clone()
    expected[rows] = images
    assert torch.equal(twin.unsealed("test").images, ImageDataset(expected, TRAIN.labels, TRAIN.class_names).pixels())
    assert torch.equal(data.unsealed("test").images, TRAIN.pixels())
    assert twin.digest == ImageDataset(expected, TRAIN.labels, TRAIN.class_names).digest() != data.digest
    assert data.reads is twin.reads
    assert data.reads.unsealed == ["test", "test"]
    with pytest.raises(ValueError, match="row 5 is trusted"):
        data.replaced(torch.tensor([5]), images[:1])
    with pytest.raises(ValueError, match="must lie in 0 to 29"):
        data.replaced(torch.tensor([30]), images[:1])
    with pytest.raises(ValueError, match="give one for each row"):
        data.replaced(torch.tensor([1]), images)


# ------------------------------------------------------------------------------------------------------------------- goals


def test_targets_are_spread_and_never_training_images() -> None:
    chosen = choose_targets(TEST, 7, Key(0), TRAIN)
    assert sorted(np.bincount([goal.true_label for goal in chosen]).tolist()) == [2, 2, 3]
    assert all(torch.equal(goal.image, TEST.images[goal.test_index]) for goal in chosen)
    assert all(goal.true_label != goal.adversarial_label for goal in chosen)
    leaked = replace(TRAIN, images=TEST.images.clone())
    kept = chosen[0].test_index
    leaked.images[kept] = 0
    with pytest.raises(ValueError, match="which has"):
        choose_targets(TEST, 7, Key(0), leaked)
    assert target_at(TEST, 4, None, Key(0)).adversarial_label != int(TEST.labels[4])


def test_pairs_keep_what_is_given() -> None:
    for true, wanted, every in (
        (None, None, False),
        (1, None, False),
        (None, 2, False),
        (0, 2, False),
        (None, None, True),
        (None, 1, True),
    ):
        pairs = choose_pairs(3, 40, true, wanted, every, Key(0))
        assert len(pairs) == 40
        for before, after in pairs:
            assert before != after
            assert (before is None) == every
            assert true is None or before == true
            assert wanted is None or after == wanted
    assert len(set(choose_pairs(3, 40, None, None, False, Key(0)))) == 6


def test_options_have_their_parameters_types() -> None:
    def attack(task: object, knowledge: object, key: object, *, steps: int = 3, rate: float | tuple[float, ...] = 0.1) -> Poison:
        raise AssertionError

    def options(*given: str) -> dict[str, object]:
        return checked_options("a", attack, dict(map(parsed_option, given)))

    assert options("steps=5", "rate=16/255") == {"steps": 5, "rate": 16 / 255}
    assert options("rate=[0.1, 0.2, 0.3]") == {"rate": (0.1, 0.2, 0.3)}
    assert options("rate=1") == {"rate": 1.0}
    for given in ("steps=5.5", "steps=true", "steps=none", "rate=high", "rate=[1, 'a']"):
        with pytest.raises(ValueError, match=r"^option (steps|rate)="):
            options(given)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        *((name, "steps=0") for name in ATTACKS),
        *((name, "step_size=-0.1") for name in ATTACKS),
        ("witches-brew", "step_size=[0.1, 0, 0.1]"),
        ("witches-brew", "step_size=[]"),
        ("witches-brew", "restarts=0"),
        ("sleeper-agent", "retrains=-1"),
        ("sleeper-agent", "batch_size=0"),
        ("witches-brew", "shift=2"),
        ("poison-frogs", "watermark=1.5"),
        ("poison-frogs", "l2_penalty=inf"),
        ("bullseye-polytope", "dropout_draws=-1"),
        ("label-consistent", "amplitude_train=0"),
        ("hidden-trigger", "decay=0"),
        ("hidden-trigger", "stop_ratio=1"),
    ],
)
def test_numbers_that_no_attack_can_use_are_refused_with_the_option_s_name_and_default(name: str, option: str) -> None:
    with pytest.raises(ValueError, match=rf"^option {option.partition('=')[0]}=.*; its default is ") as refused:
        checked_options(name, ATTACKS[name], dict([parsed_option(option)]))
    assert len(str(refused.value).splitlines()) == 1
    if option == "step_size=[0.1, 0, 0.1]":  # and not that a list is no number
        assert "input should be greater than 0" in str(refused.value)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_defaults_of_attacks_are_within_their_ranges(name: str) -> None:
    given = {option: value for option, value in options_of(ATTACKS[name]).items() if option != "views" and value is not None}
    assert checked_options(name, ATTACKS[name], given) == given


# --------------------------------------------------------------------------------------------------------------- assembled


def test_the_benchmarks_sets_have_one_size_and_no_clean_base() -> None:
    made = poison(trigger())
    clean, poisoned = assembled(TRAIN, made, 15)
    bases = {image.numpy().tobytes() for image in TRAIN.images[made.indices]}
    for data in (clean, poisoned):
        assert len(data) == 15
        assert data.labels.bincount(minlength=3).tolist() == [5, 5, 5]
        assert len(bases & {image.numpy().tobytes() for image in data.images}) == 0
    assert torch.equal(poisoned.images[-3:], made.images)
    assert poisoned.labels[-3:].tolist() == [1, 1, 1]
    for label, count in ((0, 5), (1, 2), (2, 5)):  # the first ones of each class, in the order of the data
        rows = [row for row in (TRAIN.labels == label).nonzero().squeeze(1).tolist() if row not in made.indices.tolist()]
        assert torch.equal(poisoned.images[:-3][poisoned.labels[:-3] == label], TRAIN.images[rows[:count]])
        assert torch.equal(clean.images[clean.labels == label], TRAIN.images[rows[:5]])


def test_sets_that_cannot_be_assembled() -> None:
    made = poison(trigger())
    for size, message in (
        (16, "no multiple of 3 classes"),
        (6, "3 poisons, but each class has 2"),
        (24, "has 7 images that are no bases"),
    ):
        with pytest.raises(ValueError, match=message):
            assembled(TRAIN, made, size)
    aimed = poison(Target(TRAIN.images[0], 0, 1, 0))
    with pytest.raises(ValueError, match="the target, test image 0, is among the training images"):
        assembled(TRAIN, aimed, 15)


@pytest.mark.parametrize(("shape", "factor"), [((1, 8, 8), 48**0.5), ((3, 32, 32), 1.0), ((3, 64, 64), 1.0)])
def test_budgets_of_defenses_follow_small_images(shape: tuple[int, int, int], factor: float) -> None:
    """A whole image may move as far as 3x32x32 pixels by the published budget, which is what attackers on small images get too."""
    scratch = trainer_for(Recipe(architecture="mlp-128", epochs=6, batch_size=20, learning_rate=0.2))
    setting = Setting(lambda _: Identity(), None, 1, "cpu", images=60, image_shape=shape)
    hardened, poisoned, friendly = (
        DEFENSES[name](scratch, setting)[1].describe()
        for name in ("adversarial-training", "poison-adversarial-training", "friends")
    )
    assert hardened["adversarial"]["epsilon"] == pytest.approx(factor * 4 / 255)
    assert hardened["adversarial"]["step_size"] == pytest.approx(factor / 255)
    assert poisoned["poison_adversarial"]["epsilon"] == pytest.approx(factor * 16 / 255)
    assert poisoned["poison_adversarial"]["step_size"] == pytest.approx(factor * 0.025)
    assert friendly["friends"]["zeta"] == friendly["friends"]["amplitude"] == pytest.approx(factor * 16 / 255)
    assert [each["recipe"]["epochs"] for each in (hardened, poisoned, friendly)] == [12, 12, 12]


def test_a_longer_training_drops_its_rate_later() -> None:
    recipe = Recipe(architecture="mlp-128", epochs=6, learning_rate=0.2, drops=(2, 5))
    longer = hooked(trainer_for(recipe), "mixup", loss=Mixup(), passes=3)
    assert longer.recipe == recipe.model_copy(update={"epochs": 18, "drops": (6, 15)})


def test_private_victims_certify_the_clean_set() -> None:
    """By the control's votes alone: 29 of 30 images unanimously right, one divided; in the second trial all of them wrong."""
    pytest.importorskip("opacus")
    recipe = Recipe(architecture="mlp-128", epochs=1, learning_rate=0.1)
    vote = PrivateVote(PrivateTrainer(recipe, 0.2, noise=30.0), 30, 60)
    trials = Trials(targets(), vote)
    asked = questions(trials.pack, TEST, Key(1))
    right = asked.asked.labels.numpy().astype(np.uint8)
    votes = np.tile(right, (240, 1))
    votes[:30, 7] = (right[7] + 1) % 3
    votes[60:] = (right + 1) % 3  # poisoned, and all of the second trial
    found = certified_poisons(trials, asked, ballots(votes))
    assert found is not None
    most = vote.certifiable(3)
    assert found["largest"] == most >= 1
    assert found["certified"] == pytest.approx([29 / 60] * (most + 1))
    assert found["models_needed"] <= 60
    assert certified_poisons(replace(trials, defense=PlainTraining(60)), asked, ballots(votes)) is None
    told = certified_line(found)
    assert told.startswith(f"at most {most} (a unanimous vote)")
    assert f"48.3% against {most}" in told
    few = certified_poisons(replace(trials, defense=replace(vote, n=2)), asked, ballots(votes[:8]))
    assert few is not None
    assert few["certified"] == [0.0]
    assert certified_line(few).startswith(
        f"0; to certify 1 altered image, --models {found['models_needed']} or more would have to agree"
    )
    large = certified_poisons(
        replace(trials, defense=replace(vote, trainer=PrivateTrainer(recipe, 0.2, noise=0.05))), asked, ballots(votes)
    )
    assert large is not None
    assert certified_line(large) == "no guarantee, however many models vote"
