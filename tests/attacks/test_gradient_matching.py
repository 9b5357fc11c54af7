"""The core that Witches' Brew and Sleeper Agent share, against slow and obvious computations."""

import copy
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from jaxtyping import config
from torch import nn

from certidote.attacks import ATTACKS, gradient_matching
from certidote.attacks.features import at_layers
from certidote.attacks.gradient_matching import (
    CIFAR10_STEPS,
    Aim,
    Descent,
    Differentiated,
    Loss,
    Matching,
    defended_objective,
    differentiated,
    objective,
    objective_and_gradient,
    problems_together,
)
from certidote.attacks.shifts import Shifts
from certidote.attacks.triggers import label_consistent_corner
from certidote.streams import Key
from certidote.training.convnets import ResNet18
from certidote.training.extractor import pretrain
from certidote.training.models import build
from certidote.types import Budget, Goal, Images, Knowledge, Target, Task, as_pixels
from fixtures_scratch import digits

SHAPE = (1, 8, 8)
LOSSES: tuple[Loss, ...] = ("similarity", "layers", "squared")


def networks() -> list[nn.Module]:
    """An MLP and a CNN, fresh, in float64."""
    return [build(name, SHAPE, 4, Key(0) / name).double().eval() for name in ("mlp-128", "cnn-32-64")]


def normalized_network() -> nn.Module:
    """Convolutions with BatchNorm whose statistics are those of digits."""
    train = digits()[0]
    return pretrain(train.subset(range(600)), Key(0) / "BatchNorm", epochs=4)


def some(problems: int, images: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((problems, images, *SHAPE)))


def flat_gradient(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """By `backward` on a copy of the model."""
    model = copy.deepcopy(model).requires_grad_()
    nn.CrossEntropyLoss()(model(images), labels).backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


def aims_at(models: list[nn.Module], problems: int) -> list[Aim]:
    """Each problem has a target and a label of its own."""
    targets = some(1, problems)[0].to(next(models[0].parameters()).dtype)
    labels = torch.arange(problems) % 4
    found = []
    for function in differentiated(models):
        each = [function.mean_gradient(targets[i : i + 1], labels[i : i + 1]) for i in range(problems)]
        found.append(Aim(function, torch.stack(each)))
    return found


# ------------------------------------------------------------------------------------------------------- gradients by the weights


def test_gradients_by_the_weights_are_those_of_backward() -> None:
    images, labels = some(3, 5), torch.tensor([2, 0, 3])
    for model in networks():
        (function,) = differentiated([model])
        for problems in (1, 3):
            found = function.gradients(images[:problems], labels[:problems])
            expected = [flat_gradient(model, images[i], labels[i].expand(5)) for i in range(problems)]
            torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-12)


def test_mean_gradient_over_batches_is_that_of_all_images() -> None:
    images, labels = some(1, 11)[0], torch.arange(11) % 4
    for model in networks():
        (function,) = differentiated([model])
        expected = flat_gradient(model, images, labels)
        for batch_size in (3, 4, 100):
            torch.testing.assert_close(function.mean_gradient(images, labels, batch_size), expected, rtol=1e-9, atol=1e-12)


def test_norms_of_single_gradients_are_those_of_batches_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = some(1, 7)[0], torch.arange(7) % 4
    normalized = normalized_network().double()
    for model in [*networks(), normalized]:
        (function,) = differentiated([model])
        expected = torch.stack([flat_gradient(model, images[i : i + 1], labels[i : i + 1]).norm() for i in range(7)])
        assert float(expected.max() / expected.min()) > 1.01
        for together in (1, 1 << 26):  # one image in memory at a time; all of them
            monkeypatch.setattr(gradient_matching, "NUMBERS_TOGETHER", together)
            torch.testing.assert_close(function.gradient_norms(images, labels), expected, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------------------------------------------------------ the objective


def slow_gap(model: nn.Module, images: torch.Tensor, label: int, wanted: torch.Tensor, loss: Loss) -> float:
    """One problem on one surrogate, by the formulas, in numpy."""
    made = flat_gradient(model, images, torch.full((len(images),), label)).numpy()
    aim = wanted.numpy()
    if loss == "squared":
        return float(((made - aim) ** 2).sum() / (aim**2).sum())
    ends = np.cumsum([weight.numel() for weight in model.parameters()])[:-1] if loss == "layers" else []
    pairs = zip(np.split(made, ends), np.split(aim, ends), strict=True)
    return 1 - float(np.mean([(m * a).sum() / np.sqrt((m**2).sum() * (a**2).sum()) for m, a in pairs]))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_objective_is_the_gap_averaged_over_surrogates(loss: Loss) -> None:
    models, images, labels = networks(), some(2, 6), torch.tensor([1, 3])
    aims = aims_at(models, 2)
    found = objective(aims, images, labels, Matching(loss=loss))
    for problem in range(2):
        gaps = [
            slow_gap(m, images[problem], int(labels[problem]), a.wanted[problem], loss) for m, a in zip(models, aims, strict=True)
        ]
        assert float(found[problem]) == pytest.approx(np.mean(gaps), rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_poisons_with_the_wanted_gradient_leave_no_gap(loss: Loss) -> None:
    (function,) = differentiated(networks()[:1])
    images, labels = some(1, 5), torch.tensor([2])
    aim = Aim(function, function.gradients(images, labels))
    assert abs(float(objective([aim], images, labels, Matching(loss=loss)))) < 1e-9
    opposite = Aim(function, -aim.wanted)
    assert float(objective([opposite], images, labels, Matching(loss=loss))) == pytest.approx(4.0 if loss == "squared" else 2.0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("batch_size", [512, 4])
def test_its_gradient_is_that_of_finite_differences(loss: Loss, batch_size: int) -> None:
    """float64, 2 surrogates, 2 problems of 6 images, jointly and in pieces of 4 and 2. A detached term would show."""
    images, labels = some(2, 6), torch.tensor([1, 3])
    aims = aims_at(networks(), 2)
    for match in ("full", "batch"):
        matching = Matching(loss=loss, match=match, batch_size=batch_size)
        values, slopes = objective_and_gradient(aims, images, labels, matching)
        torch.testing.assert_close(values, objective(aims, images, labels, matching))
        generator = np.random.default_rng(1)
        for _ in range(5):
            place = tuple(int(generator.integers(size)) for size in images.shape)
            moved = []
            for step in (1e-5, -1e-5):
                shifted = images.clone()
                shifted[place] += step
                moved.append(float(objective(aims, shifted, labels, matching)[place[0]]))
            assert (moved[0] - moved[1]) / 2e-5 == pytest.approx(float(slopes[place]), rel=1e-4, abs=1e-9)


def test_pieces_add_up_to_the_whole_and_batches_stand_alone() -> None:
    images, labels = some(2, 10), torch.tensor([1, 3])
    aims = aims_at(networks(), 2)
    whole = objective_and_gradient(aims, images, labels, Matching())
    pieces = objective_and_gradient(aims, images, labels, Matching(batch_size=4))
    for found, expected in zip(pieces, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    batches = objective_and_gradient(aims, images, labels, Matching(batch_size=4, match="batch"))
    alone = [objective(aims, images[:, first : first + 4], labels, Matching()) for first in (0, 4, 8)]
    torch.testing.assert_close(batches[0], torch.stack(alone).mean(0))
    assert not torch.allclose(batches[0], whole[0], rtol=1e-3)


def test_problems_do_not_influence_each_other() -> None:
    images, labels = some(3, 4), torch.tensor([1, 3, 0])
    aims = aims_at(networks(), 3)
    values, slopes = objective_and_gradient(aims, images, labels, Matching())
    for i in range(3):
        one = [Aim(aim.surrogate, aim.wanted[i : i + 1]) for aim in aims]
        value, slope = objective_and_gradient(one, images[i : i + 1], labels[i : i + 1], Matching())
        torch.testing.assert_close(value[0], values[i], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(slope[0], slopes[i], rtol=1e-9, atol=1e-12)


@torch.no_grad()
def test_the_caller_s_grad_mode_does_not_matter() -> None:
    aims = aims_at(networks(), 2)
    images, labels = some(2, 3), torch.tensor([1, 3])
    for problems in (1, 2):
        some_aims = [Aim(aim.surrogate, aim.wanted[:problems]) for aim in aims]
        values, slopes = objective_and_gradient(some_aims, images[:problems], labels[:problems], Matching())
        torch.testing.assert_close(objective(some_aims, images[:problems], labels[:problems], Matching()), values)
        assert bool((slopes != 0).any())


def test_memory_is_bounded_by_the_batch() -> None:
    """No pass has more images than `batch_size`, however many poisons there are."""
    counts: list[int] = []
    model = networks()[0]
    model.register_forward_pre_hook(lambda module, args: counts.append(len(args[0])))
    aims = aims_at([model], 1)
    counts.clear()
    objective_and_gradient(aims, some(1, 10), torch.tensor([1]), Matching(batch_size=4))
    assert max(counts) == 4
    assert sum(counts) == 20  # twice each: more than one piece costs a second pass
    counts.clear()
    objective_and_gradient(aims, some(1, 10), torch.tensor([1]), Matching(batch_size=10))
    assert counts == [10]


def test_problems_of_small_images_are_moved_together() -> None:
    assert problems_together(60, (1, 8, 8)) == 8
    assert problems_together(50, (3, 32, 32)) == 1


# -------------------------------------------------------------------------------------------------------------------- the descent


class Halved:
    """A defense that can be followed by hand: half the image and its own noise."""

    draws = 2

    def __call__(self, images: Images, key: Key) -> Images:
        return images / 2 + 0.1 * torch.from_numpy(key.numpy().random(tuple(images.shape))).to(images)


def textbook(
    start: torch.Tensor, bases: torch.Tensor, aims: list[Aim], label: int, key: Key, matching: Matching, epsilon: float
) -> torch.Tensor:
    """One problem: `torch.optim.Adam` on signs, one step size for all channels, autograd through everything at once."""
    pixels = start.double().clone().requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=1.0)
    labels = torch.full((len(start),), label)
    for step in range(matching.steps):
        coins = matching.augmentation.drawn(len(start), key / "step" / step / "augmentation")
        total = 0
        for draw in range(2):
            seen = matching.augmentation.moved(Halved()(pixels, key / "step" / step / "defense" / draw), *coins)
            for aim in aims:
                model = copy.deepcopy(aim.surrogate.model).requires_grad_()
                loss = nn.CrossEntropyLoss()(model(seen), labels)
                made = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
                flat = torch.cat([one.flatten() for one in made])
                total = total + 1 - nn.functional.cosine_similarity(flat, aim.wanted[0], dim=0)
        (gradient,) = torch.autograd.grad(total, [pixels])
        pixels.grad = gradient.sign()
        passed = sum(step >= drop for drop in (math.floor(matching.steps / d) for d in (2.667, 1.6, 1.142)))
        optimizer.param_groups[0]["lr"] = float(np.atleast_1d(matching.step_size)[0]) * 0.1**passed / len(aims)
        optimizer.step()
        with torch.no_grad():
            pixels.copy_((bases + (pixels - bases).clamp(-epsilon, epsilon)).clamp(0, 1))
    return pixels.detach()


def descent_on_digits(matching: Matching, problems: int = 1, defense: Halved | None = None, images: int = 5) -> Descent:
    stored = digits()[0].images[: problems * images].view(problems, images, *SHAPE)
    keys = [Key(3) / problem for problem in range(problems)]
    return Descent(stored, torch.arange(problems) % 4, Budget(images, "linf", 0.3), keys, matching, defense)


def in_float64(descent: Descent) -> Descent:
    """The same, with pixels in float64, where rounding decides no sign."""
    descent.pixels, descent.bases, descent.reach = (x.double() for x in (descent.pixels, descent.bases, descent.reach))
    descent._move = torch.zeros_like(descent.pixels)
    descent._adam = gradient_matching.Adam([descent._move])
    return descent


def test_descent_is_adam_on_signs_through_defense_and_augmentation() -> None:
    """Eight steps with all three drops, 2 surrogates, 2 draws; two problems side by side."""
    matching = Matching(steps=8, step_size=0.07, augmentation=Shifts(fill=(0.5,)))
    descent = in_float64(descent_on_digits(matching, problems=2, defense=Halved()))
    aims = aims_at(networks(), 2)
    starts = descent.pixels.clone()
    for _ in range(8):
        descent.step(aims)
    assert not torch.allclose(descent.pixels, starts, atol=0.01)
    for problem in range(2):
        bases = descent.stored[problem].double() / 255
        one = [Aim(aim.surrogate, aim.wanted[problem : problem + 1]) for aim in aims]
        expected = textbook(starts[problem], bases, one, problem, Key(3) / problem, matching, 0.3)
        torch.testing.assert_close(descent.pixels[problem], expected, rtol=0, atol=1e-6)


def test_descent_starts_at_clipped_gaussian_noise() -> None:
    """About 32 % of pixels begin at the budget's edge, where the box leaves room."""
    descent = descent_on_digits(Matching(), problems=4, images=100)
    moved = (descent.pixels - descent.bases.view_as(descent.pixels)).abs()
    assert float(moved.max()) <= 0.3 + 1e-6
    free = ((descent.bases > 0.3) & (descent.bases < 0.7)).view_as(moved)
    assert 0.29 < float((moved[free] > 0.3 - 1e-6).float().mean()) < 0.35
    assert not torch.equal(descent.pixels[0], descent.pixels[1])


def test_each_channel_has_its_step() -> None:
    """The first Adam step moves a pixel by the whole step of its channel."""
    images = torch.full((1, 4, 3, 4, 4), 128, dtype=torch.uint8)
    matching = Matching(step_size=(0.01, 0.02, 0.04))
    descent = Descent(images, torch.tensor([1]), Budget(4, "linf", 1.0), [Key(0)], matching)
    descent.pixels = torch.full_like(descent.pixels, 0.5)
    model = build("cnn-32-64", (3, 4, 4), 3, Key(0)).eval()
    (function,) = differentiated([model])
    start = descent.pixels.clone()
    descent.step([Aim(function, function.mean_gradient(torch.rand(1, 3, 4, 4), torch.tensor([2])).unsqueeze(0))])
    moved = (descent.pixels - start).abs().amax((0, 1, 3, 4))
    torch.testing.assert_close(moved, torch.tensor([0.01, 0.02, 0.04]), rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="2 step sizes for images of 3 channels; give one, or one for each channel"):
        Descent(images, torch.tensor([1]), Budget(4, "linf", 1.0), [Key(0)], Matching(step_size=(0.01, 0.02)))


def test_steps_drop_where_the_original_s_do() -> None:
    factors = [Matching(steps=250).decay(step) for step in range(250)]
    drops = [step for step in range(1, 250) if factors[step] < factors[step - 1]]
    assert drops == [93, 156, 218]
    assert factors[0] == 1
    assert factors[-1] == pytest.approx(1e-3)
    assert [round(255 * step, 1) for step in CIFAR10_STEPS] == [6.3, 6.2, 6.7]  # of 255 levels, from normalized pixels
    assert 255 * Matching().step_size == pytest.approx(6.375)


def test_what_is_seen_through_a_defense_is_averaged_over_draws() -> None:
    descent = descent_on_digits(Matching(), problems=2, defense=Halved())
    aims, images = aims_at([network.float() for network in networks()], 2), descent.quantized()
    keys = [Key(8), Key(9)]
    found = defended_objective(aims, images, descent.labels, Matching(), Halved(), keys)
    pixels = as_pixels(images.flatten(0, 1)).view(images.shape)
    each = []
    for draw in range(2):
        views = torch.stack([Halved()(pixels[i], key / "defense" / draw) for i, key in enumerate(keys)])
        each.append(objective(aims, views, descent.labels, Matching()))
    torch.testing.assert_close(found, torch.stack(each).mean(0))
    assert not torch.allclose(each[0], each[1])


def test_crafting_in_eval_mode_leaves_batchnorm_alone_and_works() -> None:
    """Cosine up by at least 0.2 (0.5 here); parameters, buffers and flags of the surrogate are what they were, to the last bit."""
    model = normalized_network()
    before = copy.deepcopy(model.state_dict())
    (function,) = differentiated([model])
    train, test = digits()
    rows = (train.labels == 3).nonzero().squeeze(1)[:30]
    aim = Aim(function, function.mean_gradient(as_pixels(test.images[:1]), torch.tensor([3])).unsqueeze(0))
    assert int(test.labels[0]) != 3
    matching = Matching(steps=40, step_size=0.1)
    descent = Descent(train.images[rows].unsqueeze(0), torch.tensor([3]), Budget(30, "linf", 0.4), [Key(0)], matching)
    start = float(defended_objective([aim], descent.stored, descent.labels, matching, None, [Key(0)]))
    for _ in range(40):
        descent.step([aim])
    end = float(defended_objective([aim], descent.quantized(), descent.labels, matching, None, [Key(0)]))
    assert start - end >= 0.2
    after = model.state_dict()
    assert len([name for name in after if "running" in name]) == 6
    assert all(torch.equal(before[name], after[name]) for name in after)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())


# ------------------------------------------------------------------------------------------------------------------- what is refused


class NoModule:
    def penultimate(self, images: Images) -> torch.Tensor:
        return images.flatten(1)

    def __call__(self, images: Images) -> torch.Tensor:
        return images.flatten(1)

    def parameters(self) -> Iterator[nn.Parameter]:
        return iter(())


def test_surrogates_that_cannot_be_differentiated_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no surrogates given"):
        differentiated([])
    with pytest.raises(ValueError, match=r"surrogate 0, a NoModule, is no torch.nn.Module; .*: give a module"):
        differentiated([NoModule()])
    trains = ResNet18(SHAPE, 3).eval()
    next(layer for layer in trains.modules() if isinstance(layer, nn.BatchNorm2d)).train()
    with pytest.raises(ValueError, match=r"surrogate 1 is in train mode, where crafting would change its BatchNorm"):
        differentiated([networks()[0], trains])
    with pytest.raises(
        ValueError, match=r"surrogate 0 gives outputs of shape \(4,\) for the 10 classes of the training set; train it on"
    ):
        differentiated([networks()[0].float()], digits()[0])
    with pytest.raises(
        ValueError, match=r"^surrogate 0 cannot take images of \(1, 8, 8\), as the training set has: .*; give one trained on"
    ):
        differentiated([build("cnn-32-64", (3, 8, 8), 10, Key(0)).eval()], digits()[0])
    with torch.device("meta"):
        elsewhere = ResNet18(SHAPE, 3).eval()
    with pytest.raises(ValueError, match=r"surrogates are on cpu and meta; move them to one device"):
        differentiated([networks()[0], elsewhere])


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"steps=0, step_size=0.025; both must be positive"):
        Matching(steps=0)
    with pytest.raises(ValueError, match=r"step_size=\(0.1, 0.0\); both must be positive"):
        Matching(step_size=(0.1, 0.0))
    with pytest.raises(ValueError, match=r"step_size=\(0.1, inf\); both must be positive"):
        Matching(step_size=(0.1, float("inf")))
    with pytest.raises(ValueError, match=r"step_size=16.0; .* at most 1 \(16/255 for 16 levels\)$"):
        Matching(step_size=16.0)
    with pytest.raises(ValueError, match=r"batch_size=0; give at least 1"):
        Matching(batch_size=0)
    (function,) = differentiated(networks()[:1])
    wanted = torch.zeros(1, sum(weight.numel() for weight in function.parameters.values()))
    with pytest.raises(ValueError, match=r"gradient at a target is zero or not finite, so there is nothing to match"):
        Aim(function, wanted)
    with pytest.raises(ValueError, match=r"gradient at a target is zero or not finite"):
        Aim(function, wanted + math.nan)


def test_unknown_losses_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # whoever uses the library has no checks of types
    with pytest.raises(ValueError, match=r"^unknown loss 'cosine'; choose one of: similarity, layers, squared$"):
        Matching(loss="cosine")
    with pytest.raises(ValueError, match=r"^unknown match 'all'; choose one of: full, batch$"):
        Matching(match="all")


def test_a_function_of_the_parameters_is_what_the_model_is() -> None:
    model = networks()[1]
    (function,) = differentiated([model])
    assert isinstance(function, Differentiated)
    images, labels = some(1, 3)[0], torch.tensor([0, 1, 2])
    expected = nn.CrossEntropyLoss()(model(images), labels).detach()
    assert torch.equal(function.loss(function.parameters, images, labels), expected)
    assert all(a.data_ptr() == b.data_ptr() for a, b in zip(function.parameters.values(), model.parameters(), strict=True))


@pytest.mark.gpu
def test_crafting_follows_surrogates_to_their_device() -> None:
    """Poisons come back to the CPU; the gap closes there as it does here."""
    model = normalized_network().to("cuda")
    (function,) = differentiated([model])
    train, test = digits()
    rows = (train.labels == 3).nonzero().squeeze(1)[:30]
    aim = Aim(function, function.mean_gradient(as_pixels(test.images[:1]), torch.tensor([3])).unsqueeze(0))
    matching = Matching(steps=40, step_size=0.1, augmentation=Shifts())
    bases, label = train.images[rows].unsqueeze(0), torch.tensor([3])
    descent = Descent(bases, label, Budget(30, "linf", 0.4), [Key(0)], matching, Halved(), function.device)
    start = float(defended_objective([aim], bases, label, matching, None, [Key(0)]))
    for _ in range(40):
        descent.step([aim])
    assert descent.pixels.is_cuda
    assert not descent.quantized().is_cuda
    assert start - float(defended_objective([aim], descent.quantized(), label, matching, None, [Key(0)])) >= 0.1
    norms = function.gradient_norms(as_pixels(train.images[:5]), train.labels[:5])
    expected = differentiated([model.cpu()])[0].gradient_norms(as_pixels(train.images[:5]), train.labels[:5])
    torch.testing.assert_close(norms, expected, rtol=1e-3, atol=1e-5)


def test_poisons_are_where_the_surrogates_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device of shapes without numbers, where none can be checked: nothing of a step may be left on the CPU."""
    monkeypatch.setattr(Aim, "__post_init__", lambda aim: None)
    surrogates = differentiated([copy.deepcopy(normalized_network()).to("meta")])
    stored = torch.zeros((2, 3, *SHAPE), dtype=torch.uint8)
    matching = Matching(2, 0.1, "similarity", "full", 512, Shifts(1 / 8, True, "fill", (0.5,)))
    descent = Descent(stored, torch.tensor([1, 2]), Budget(3, "linf", 0.2), [Key(0), Key(1)], matching, None, "meta")
    width = sum(weight.numel() for weight in surrogates[0].model.parameters())
    aims = [Aim(surrogates[0], torch.zeros((2, width), device="meta"))]
    for held in (descent.stored, descent.labels, descent.pixels, descent.bases, descent.step(aims), descent.pixels):
        assert held.is_meta


@pytest.mark.parametrize("attack", ["label-consistent", "witches-brew"])
def test_models_of_other_classes_and_of_features_only_are_refused(attack: str) -> None:
    train = digits()[0].subset(range(400))
    goal: Goal = (
        Target(train.images[0] ^ 1, 3, 5, 0) if attack == "witches-brew" else label_consistent_corner(SHAPE, None, 5, Key(0))
    )
    task = Task(train, goal, Budget(2, "linf", 0.2, attack == "label-consistent"))
    for surrogate, message in (
        (build("cnn-32-64", SHAPE, 4, Key(0)).eval(), r"^surrogate 0 gives outputs of shape \(4,\) for the 10 classes"),
        (at_layers(build("cnn-32-64", SHAPE, 10, Key(0)).eval(), ["second"])[0], "^surrogate 0 gives features only"),
    ):
        with pytest.raises(ValueError, match=message):
            ATTACKS[attack](task, Knowledge((surrogate,)), Key(0))
