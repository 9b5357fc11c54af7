"""Mixtures by loops, their labels by area and weight, and losses that are linear in labels."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from certidote.defenses.from_scratch import hooked
from certidote.defenses.mixing import CutMix, Mixup, mixture_loss
from certidote.streams import Key
from certidote.training.learner import Learner
from certidote.training.models import build
from certidote.training.pooled import Batch, BatchLoss, PooledTrainer, trainer_for
from certidote.training.recipe import Recipe
from fixtures_training import COMMON, accuracy, digit_views, keys, same

RECIPE = Recipe(architecture="mlp-128", epochs=12, learning_rate=0.2, batch_size=50)
LOSSES = (Mixup(), Mixup(ways=4, laplace=0.03), CutMix(), CutMix(corrected=False))


def learner(smoothing: float = 0.0) -> Learner:
    recipe = RECIPE.model_copy(update={"label_smoothing": smoothing})
    return Learner(build("mlp-128", (1, 8, 8), 10, Key(0)), "float32", recipe)


def batch(number: int, rows: int = 20) -> Batch:
    view = digit_views(1, rows=rows, sigma=0.0)[0]
    return Batch(view.images, view.labels, torch.arange(rows), Key(4) / number)


@pytest.mark.parametrize("ways", [2, 4])
def test_mixtures_are_sums_of_images(ways: int) -> None:
    given = batch(0)
    before = given.images.clone()
    images, shares = Mixup(ways).mixed(given)
    assert len(shares) == ways
    assert sum(weight for weight, _ in shares) == pytest.approx(1)
    assert shares[0][1].tolist() == list(range(20))
    assert all(sorted(rows.tolist()) == list(range(20)) for _, rows in shares)
    for place in range(20):
        expected = sum(weight * given.images[rows[place]] for weight, rows in shares)
        torch.testing.assert_close(images[place], expected)
    assert torch.equal(given.images, before)
    assert torch.equal(Mixup(ways).mixed(given)[0], images)
    assert not torch.equal(Mixup(ways).mixed(batch(1))[0], images)


def test_weights_are_uniform_on_average() -> None:
    """Of 2,000 draws at alpha 1 the first weight has mean 1/2 and variance 1/12; 5 standard errors."""
    first = torch.tensor([Mixup().mixed(batch(number, 2))[1][0][0] for number in range(2_000)])
    assert abs(float(first.mean()) - 0.5) < 5 * (1 / 12 / 2_000) ** 0.5
    assert abs(float(first.var()) - 1 / 12) < 5 * (1 / 180 / 2_000) ** 0.5


def test_laplace_noise_has_its_scale_and_is_clipped() -> None:
    """Mean absolute value 0.03, in pixels far from the border; 5 standard errors of about 0.03 / sqrt(n)."""
    given = batch(0, 500)
    plain, noisy = Mixup(4).mixed(given)[0], Mixup(4, laplace=0.03).mixed(given)[0]
    inside = (plain > 0.4) & (plain < 0.6)
    size = (noisy - plain)[inside].abs()
    assert len(size) > 500
    assert abs(float(size.mean()) - 0.03) < 5 * 0.03 / len(size) ** 0.5
    assert float(noisy.min()) == 0.0
    assert float(noisy.max()) <= 1.0


def test_cutmix_replaces_one_rectangle_and_counts_its_area() -> None:
    mixed = kept = 0
    for number in range(200):
        given = batch(number)
        given.images.add_(torch.arange(20).view(-1, 1, 1, 1) * 2)  # whose pixel is whose can be seen
        images, shares = CutMix().mixed(given)
        if len(shares) == 1:
            kept += 1
            assert torch.equal(images, given.images)
            continue
        mixed += 1
        (own, first), (share, others) = shares
        assert first.tolist() == list(range(20))
        moved = images != given.images
        foreign = [place for place in range(20) if others[place] != place]
        for place in foreign:
            area = moved[place, 0]
            assert float(area.float().mean()) == pytest.approx(share) == pytest.approx(1 - own)
            rows, columns = area.any(1).nonzero().flatten(), area.any(0).nonzero().flatten()
            assert int(area.sum()) == len(rows) * len(columns)
            assert torch.equal(images[place, 0][area], given.images[others[place], 0][area])
    assert 60 < mixed < 140  # 5.6 standard deviations of a fair coin
    assert mixed + kept == 200


def test_a_mixtures_loss_is_the_mixture_of_losses() -> None:
    """As the original writes it: a sum of cross-entropies, with label smoothing too."""
    for smoothing in (0.0, 0.2):
        model, given = learner(smoothing), batch(0)
        images, shares = Mixup(3).mixed(given)
        logits = model.logits(images)
        expected = sum(weight * cross_entropy(logits, given.labels[rows], label_smoothing=smoothing) for weight, rows in shares)
        torch.testing.assert_close(Mixup(3)(model, given), expected)
        own = cross_entropy(logits, given.labels, label_smoothing=smoothing)
        torch.testing.assert_close(Mixup(3, corrected=False)(model, given), own)
        torch.testing.assert_close(mixture_loss(model, images, given.labels, [(1.0, torch.arange(20))]), own)


@pytest.mark.parametrize("loss", LOSSES)
def test_models_learn_from_mixtures(loss: BatchLoss) -> None:
    views, names = digit_views(1, sigma=0.0), keys(1)
    before = views[0].images.clone()
    trainer = hooked(trainer_for(RECIPE), "mixing", loss=loss)
    first, second = (trainer.fit(views, names, COMMON).member(0) for _ in range(2))
    assert same(first, second)
    assert torch.equal(views[0].images, before)
    assert not same(first, PooledTrainer(RECIPE).fit(views, names, COMMON).member(0))
    assert accuracy([first]) > 0.85
    assert trainer.describe() == PooledTrainer(RECIPE).describe() | loss.describe()


def test_wrong_numbers_are_refused() -> None:
    for options in ({"ways": 1}, {"alpha": 0.0}, {"laplace": -0.1}):
        with pytest.raises(ValueError, match="give at least 2 images for each mixture, alpha above 0 and noise of at least 0"):
            Mixup(**options)  # type: ignore[arg-type]
    for options in ({"alpha": 0.0}, {"chance": 0.0}, {"chance": 1.5}):
        with pytest.raises(ValueError, match="give alpha above 0, and a chance above 0 and at most 1"):
            CutMix(**options)
