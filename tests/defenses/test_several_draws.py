"""Several copies of the training set at once."""

import pytest
import torch

from certidote.data.tiny import tiny
from certidote.defenses.one_shot import OneShot
from certidote.defenses.sanitize import sanitized
from certidote.defenses.several_draws import SeveralDraws
from certidote.diffusion.closed_form import Identity
from certidote.streams import Key
from certidote.types import Untrusted

SIGMA = 0.25
DATA = tiny(200, 3, (1, 8, 8), Key(0))
ONCE = OneShot(Identity(), SIGMA, 2)


def test_copies_are_independent_draws_of_the_whole_set_one_behind_the_other() -> None:
    """The mean of k copies keeps noise of std sigma / sqrt(k): 12,800 pixels tell it to half a percent."""
    view = SeveralDraws(ONCE, 4).view(Untrusted(DATA), 0, Key(1))
    copies = view.images.unflatten(0, (4, len(DATA)))
    assert torch.equal(view.labels.unflatten(0, (4, len(DATA))), DATA.labels.expand(4, -1))
    assert torch.equal(copies[2], sanitized(Untrusted(DATA), Identity(), SIGMA, Key(1) / "noise" / 2).images)
    noise = copies - DATA.pixels()
    assert (noise.mean(0).std() / SIGMA).item() == pytest.approx(0.5, rel=0.03)
    assert torch.corrcoef(noise.flatten(1)).fill_diagonal_(0).abs().max() < 0.05


def test_the_record_says_how_many_draws_were_seen() -> None:
    """A proof divides its radius by the root of the draws: the record of what was read must count them, and does."""
    data = Untrusted(DATA)
    lineage = SeveralDraws(ONCE, 3).view(data, 0, Key(1)).lineage
    seen = data.reads.amend(lineage)
    assert (seen.draws, seen.sigma, seen.unsealed) == (3, SIGMA, ())


def test_fewer_than_two_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="draws=1; give at least 2, or use the scheme that noises once"):
        SeveralDraws(ONCE, 1)
