"""Certificates of private votes: on a learner whose privacy is known exactly, through the engine, and what voids them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certidote.certification.privacy import certifiable, certify_private, models_needed
from certidote.data.tiny import tiny
from certidote.defenses.dp_sgd import PrivateTrainer
from certidote.defenses.private_vote import PrivateVote
from certidote.streams import Key
from certidote.training.recipe import Recipe
from certidote.training.stacked import StackedTrainer
from certidote.types import CountCertificate, Retrained, Scheme, Unproved, Untrusted
from running import ballots_of

RECIPE = Recipe(architecture="mlp-128", epochs=2, learning_rate=0.3)
TRAIN, TEST = (tiny(60, 3, (1, 8, 8), Key(5) / split) for split in ("train", "test"))


def vote(**options: Any) -> PrivateVote:
    pytest.importorskip("opacus")
    trainer = PrivateTrainer(options.pop("recipe", RECIPE), options.pop("sampling_rate", 0.1), noise=options.pop("noise", 30.0))
    return PrivateVote(trainer, len(TRAIN), options.pop("n", 40), **options)


@pytest.mark.parametrize("epsilon", [0.05, 0.2, 0.7])
def test_no_more_altered_images_than_certified_change_the_answer(epsilon: float) -> None:
    """The sign of a sum of +-1 with Laplace noise of scale 1 / epsilon: private exactly, and an altered image moves the sum by 2."""
    generator, margins = np.random.default_rng(0), np.arange(1, 61)
    wrong = np.exp(-epsilon * margins) / 2
    right = 1 - wrong
    counts = generator.binomial(20_000, right)
    certified = certify_private(
        np.stack([20_000 - counts, counts], 1), 20_000, epsilon=epsilon, delta=0.0, num_samples=100, alpha=1e-6
    )
    assert certified.unit == "images altered in place"
    assert (certified.labels[certified.radii >= 0] == 1).all()
    assert (margins - 2 * certified.radii > 0).all()
    assert certified.radii.max() >= 1
    exact = np.ceil(np.log(right / wrong) / (2 * epsilon)) - 1  # insertions and removals, if chances were known
    assert (certified.radii <= exact // 2).all()


def test_the_models_that_a_certificate_needs() -> None:
    """The fewest n with alpha^(1/n)-like bounds that satisfy the inequality for two steps; none for a large epsilon."""
    for epsilon, classes in ((0.1, 2), (0.5, 10), (1.5, 3)):
        told: dict[str, Any] = {"epsilon": epsilon, "delta": 1e-6, "num_samples": 50, "alpha": 1e-3}
        least = models_needed(classes, **told)
        assert least is not None
        assert certifiable(least, classes, **told) == 1
        assert certifiable(least - 1, classes, **told) < 1
        level = 1e-3 / (classes + 2)
        p_a = level ** (1 / least)
        assert p_a > (1 - p_a) * math.exp(4 * epsilon) - 1e-3
    told = {"delta": 1e-5, "num_samples": 50_000, "alpha": 1e-3}
    assert [models_needed(10, epsilon=epsilon, **told) for epsilon in (1.0, 0.5)] == [518, 75]  # as docs/attacks.md says
    assert models_needed(10, epsilon=9.0, delta=0.0, num_samples=50, alpha=1e-3) is None
    assert models_needed(10, epsilon=math.inf, delta=0.0, num_samples=50, alpha=1e-3) is None
    with pytest.raises(ValueError, match="epsilon=inf; nothing follows"):
        certify_private(np.array([[3, 0]]), 3, epsilon=math.inf, delta=0.0, num_samples=5, alpha=0.1)


def test_votes_of_private_trainings_certify_through_the_engine(tmp_path: Path) -> None:
    scheme = vote()
    assert isinstance(scheme, Scheme)
    assert 0 < scheme.trainer.epsilon < 0.5
    ballots = ballots_of(scheme, scheme.trainer, TRAIN, TEST, tmp_path / "ledger.sqlite")
    found = scheme.certify(ballots)
    assert isinstance(found, CountCertificate), found
    counts = ballots.counts(0, len(ballots))
    expected = certify_private(counts, 40, epsilon=scheme.trainer.epsilon, delta=1e-5, num_samples=len(TRAIN), alpha=1e-3)
    assert np.array_equal(found.radii, expected.radii)
    assert found.radii.max() <= scheme.certifiable(3)

    fewer = scheme.certify(ballots.of_members(0, 39))
    assert isinstance(fewer, Unproved)
    assert "39 members have voted, but 40 were fixed beforehand" in fewer.reasons[0]
    noisier = vote(noise=40.0).certify(ballots)
    assert isinstance(noisier, Unproved)
    assert "the members were trained for privacy.epsilon=" in noisier.reasons[0]
    unknown = scheme.certify(replace(ballots, provenance=replace(ballots.provenance, trainer=None)))
    assert isinstance(unknown, Unproved)
    assert "there is no record of how the members learned" in unknown.reasons[0]
    crossed = replace(ballots.provenance, retrained=Retrained(3, 100, 90, True), mixture=("a", "b"))
    several = scheme.certify(replace(ballots, provenance=crossed))
    assert isinstance(several, Unproved)
    assert len(several.reasons) == 2
    warm = replace(ballots.lineages[0], start="untrusted", unsealed=("a look",))
    several = scheme.certify(replace(ballots, lineages=(warm,)))
    assert isinstance(several, Unproved)
    assert len(several.reasons) == 2


def test_members_that_learned_otherwise_prove_nothing(tmp_path: Path) -> None:
    scheme = vote(n=4)
    ballots = ballots_of(scheme, StackedTrainer(RECIPE), TRAIN, TEST, tmp_path / "ledger.sqlite")
    found = scheme.certify(ballots)
    assert isinstance(found, Unproved)
    assert any("the members were trained for " in reason for reason in found.reasons)


def test_a_large_epsilon_is_no_guarantee(tmp_path: Path) -> None:
    scheme = vote(noise=0.05, n=2)
    found = scheme.certify(ballots_of(scheme, scheme.trainer, TRAIN, TEST, tmp_path / "ledger.sqlite"))
    assert isinstance(found, Unproved)
    assert "no guarantee" in found.reasons[0]
    assert (scheme.certifiable(3), scheme.models_needed(3)) == (-1, None)


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="n=0, num_samples=180; give at least 1 model"):
        vote(n=0)
    with pytest.raises(ValueError, match="180 training images, but this scheme was made for num_samples=7"):
        replace(vote(), num_samples=7).view(Untrusted(TRAIN), 0, Key(0))
