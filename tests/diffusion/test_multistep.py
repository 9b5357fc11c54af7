import dataclasses
import shutil

import numpy as np
import pytest
import torch

from certidote.diffusion.closed_form import Identity
from certidote.diffusion.denoiser import PACKAGED, load
from certidote.diffusion.multistep import MultistepDenoiser, called, calls_named
from certidote.streams import Key


class Shrink:
    """The posterior mean of Gaussian pixels around 1/2 with std 1/5, whose paths have a closed form."""

    std = 0.2
    sigma_min, sigma_max = 0.01, 2.0
    card = dataclasses.replace(Identity().card, name="shrink", digest="shrink")

    def __call__(self, noisy, sigma):
        gain = self.std**2 / (self.std**2 + sigma.view(-1, 1, 1, 1) ** 2)
        return 0.5 + gain * (noisy - 0.5)

    def conditioning(self, sigma):
        return ""


def noisy(n=4):
    return 0.5 + 0.3 * torch.from_numpy(Key(0).numpy().standard_normal((n, 1, 4, 4))).float()


def test_one_step_is_the_denoiser():
    x, sigma = noisy(), torch.full((4,), 0.5)
    for key in (None, Key(3)):
        assert torch.equal(MultistepDenoiser(Shrink(), 1, key)(x, sigma), Shrink()(x, sigma))


def test_many_deterministic_steps_follow_the_probability_flow():
    """Of Gaussian data: deviations shrink by sqrt((std^2 + low^2) / (std^2 + sigma^2)), and the last call multiplies once more."""
    x, sigma = noisy(), torch.full((4,), 0.5)
    many = MultistepDenoiser(Shrink(), 400)(x, sigma)
    flow = ((0.2**2 + 0.01**2) / (0.2**2 + 0.5**2)) ** 0.5 * 0.2**2 / (0.2**2 + 0.01**2)
    torch.testing.assert_close(many - 0.5, flow * (x - 0.5), rtol=0.01, atol=1e-6)


def test_ancestral_steps_have_the_spread_of_the_data():
    """Data of std 1/5 plus noise, purified, is of std 1/5 again; one call shrinks it to 0.2 * 0.2 / sqrt(0.2^2 + 0.5^2)."""
    generator = Key(1).numpy()
    clean = 0.5 + 0.2 * generator.standard_normal((150, 1, 8, 8))
    x = torch.from_numpy(clean + 0.5 * generator.standard_normal(clean.shape)).float()
    purified = MultistepDenoiser(Shrink(), 150, Key(2))(x, torch.full((150,), 0.5))
    assert float(purified.std()) == pytest.approx(0.2, rel=0.03)
    assert float(Shrink()(x, torch.full((150,), 0.5)).std()) == pytest.approx(0.2 * 0.2 / np.hypot(0.2, 0.5), rel=0.04)


def test_an_images_coins_do_not_depend_on_its_company():
    x = noisy(6)
    denoiser = MultistepDenoiser(Shrink(), 4, Key(2))
    whole = denoiser(x, torch.full((6,), 0.5))
    assert torch.equal(denoiser(x[3:5], torch.full((2,), 0.5)), whole[3:5])
    assert not torch.equal(MultistepDenoiser(Shrink(), 4, Key(5))(x, torch.full((6,), 0.5)), whole)
    twins = denoiser(torch.cat([x[:1], x[:1] + 1e-3]), torch.full((2,), 0.5))
    assert float((twins[0] - twins[1]).abs().max()) > 0.01


def test_it_has_a_card_of_its_own_and_refusals():
    cards = {MultistepDenoiser(Shrink(), steps, key).card.digest for steps in (2, 3) for key in (None, Key(0), Key(1))}
    assert len(cards) == 6
    assert "shrink" not in cards
    assert MultistepDenoiser(Shrink(), 3).conditioning(0.5) == "3 steps, sigma 0.5000, 0.0707, 0.0100"
    with pytest.raises(ValueError, match="steps=0; give at least 1 call"):
        MultistepDenoiser(Shrink(), 0)
    with pytest.raises(ValueError, match="one noise level at a time"):
        MultistepDenoiser(Shrink(), 2)(noisy(), torch.tensor([0.5, 0.5, 0.4, 0.5]))
    with pytest.raises(ValueError, match="sigma"):
        MultistepDenoiser(Shrink(), 2)(noisy(), torch.full((4,), 3.0))


@pytest.mark.parametrize("lowest", [0.01, 0.04, 0.05, 0.1, 0.2])
def test_at_the_lowest_level_several_calls_are_one_and_the_record_says_so(lowest, monkeypatch):
    """Whatever float32, in which denoisers are told the level, makes of it."""
    monkeypatch.setattr(Shrink, "sigma_min", lowest)
    monkeypatch.setattr(Shrink, "calls", 0, raising=False)
    shrunk = Shrink.__call__

    def counted(self, noisy, sigma):
        Shrink.calls += 1
        return shrunk(self, noisy, sigma)

    monkeypatch.setattr(Shrink, "__call__", counted)
    x, sigma = noisy(), torch.full((4,), lowest)
    several = MultistepDenoiser(Shrink(), 5)
    answer = several(x, sigma)
    assert Shrink.calls == 1
    assert several.conditioning(lowest) == f"1 step, sigma {lowest:.4f}"
    assert torch.equal(answer, shrunk(Shrink(), x, sigma))


def test_no_images_are_no_trouble():
    assert MultistepDenoiser(Shrink(), 3)(noisy(1)[:0], torch.empty(0)).shape == (0, 1, 4, 4)


def test_many_levels_are_told_in_short():
    told = MultistepDenoiser(Shrink(), 100).conditioning(0.5)
    assert told.startswith("100 steps, sigma 0.5000, ")
    assert told.endswith(", ..., 0.0100")
    assert told.count(",") == 11


def test_a_name_says_how_many_calls():
    asked = {
        name: calls_named(name) for name in ("digits", "digits@3", "a@b@12", "a@b", "@3", "a@1.5", "a@٣", "a@007", "kernel:a@2")
    }
    assert asked == {
        "digits": ("digits", None), "digits@3": ("digits", 3), "a@b@12": ("a@b", 12), "a@b": ("a@b", None), "@3": ("@3", None),
        "a@1.5": ("a@1.5", None), "a@٣": ("a@٣", None), "a@007": ("a", 7), "kernel:a@2": ("kernel:a", 2),
    }  # fmt: skip
    assert calls_named("a@2", lambda name: name == "a@2") == ("a@2", None)
    assert calls_named("a@2@3", lambda name: name == "a@2") == ("a@2", 3)
    for name, said in (
        ("digits@0", "'digits' in 0 steps; give @1 to @100"),
        ("digits@101", "in 101 steps; give @1 to @100"),
        (f"digits@{'9' * 5_000}", "in a number of 5000 digits steps; give @1 to @100"),
        ("digits@2@3", "names two numbers of steps; give one"),
    ):
        with pytest.raises(ValueError, match=said):
            calls_named(name)


def test_names_of_the_catalogue_win_over_folders_and_folders_over_steps(tmp_path, monkeypatch):
    """A run's directory called digits@2 is no denoiser; a denoiser's folder of such a name is one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits@2").mkdir()
    (tmp_path / "digits@2" / "config.json").write_text("{}")
    assert load("digits@2").card.name == "digits@2"
    shutil.copytree(PACKAGED / "digits", tmp_path / "mine")
    shutil.copytree(PACKAGED / "digits", tmp_path / "mine@2")
    assert [load(name).card.kind for name in ("mine", "mine@2", "mine@3", "mine@2@2")] == [
        "network",
        "network",
        "multistep",
        "multistep",
    ]
    (tmp_path / "mine@4").mkdir()  # holds none
    assert load("mine@4").card.details["steps"] == 4


def test_a_denoiser_loaded_by_such_a_name_makes_its_calls():
    one, three = load("digits"), load("digits@3")
    x, sigma = torch.rand((4, 1, 8, 8), generator=torch.Generator().manual_seed(1)), torch.full((4,), 0.5)
    levels = [0.5, (0.5 * 0.04) ** 0.5, 0.04]
    for present, following in ((levels[0], levels[1]), (levels[1], levels[2])):
        estimate = one(x, torch.full((4,), present))
        x = estimate + (x - estimate) * (following / present)
    start = torch.rand((4, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(three(start, sigma), one(x, torch.full((4,), levels[2])), rtol=0, atol=1e-6)
    assert (three.card.trained_on, three.card.training_images) == (one.card.trained_on, one.card.training_images)
    assert load("digits@1").card.digest == one.card.digest
    with pytest.raises(ValueError, match=r"none@3: several steps of none change nothing"):
        load("none@3")
    with pytest.raises(ValueError, match=r"2 steps of denoiser 'digits@3', which takes several itself"):
        MultistepDenoiser(three, 2)


def test_its_card_tells_what_each_call_is():
    card, each = load("digits@3").card, load("digits").card
    assert (card.name, card.identity["name"], card.details["dtype"], card.details["steps"]) == (
        "digits@3",
        "digits@3",
        "float32",
        3,
    )
    assert card.details["each_call"] == {"name": "digits", "kind": "network", **each.details}
    assert "key" not in card.details
    said = {"data": "photographs", "data_notes": ["resized"], "dtype": "bfloat16"}
    noted = type("Noted", (Shrink,), {"card": dataclasses.replace(each, details={**said, "recipe": {"steps": 9}})})
    assert MultistepDenoiser(noted(), 2).card.details.items() >= said.items()


@pytest.mark.parametrize("folder", ["mine", "mine/", "somewhere/mine", "somewhere/mine/"])
def test_where_a_folder_lies_is_no_part_of_an_identity(folder):
    card = dataclasses.replace(load("digits").card, name=folder)
    there = called(type("There", (Shrink,), {"card": card})(), 2)
    assert (there.card.name, there.card.identity["name"]) == (f"{folder.rstrip('/')}@2", "mine@2")


@pytest.mark.parametrize("told", [[], "network", None, {}])
def test_an_edited_card_still_has_an_identity(told):
    card = dataclasses.replace(load("digits@3").card, name="somewhere/mine@3", details={"each_call": told})
    assert card.identity["name"] == "somewhere/mine@3"


def test_several_steps_of_a_diffusion_tell_its_steps():
    diffusion = type(
        "Diffusion",
        (Shrink,),
        {"card": dataclasses.replace(Shrink.card, kind="diffusers"), "conditioning": lambda self, sigma: f"t = {1000 * sigma:.0f}"},
    )
    assert MultistepDenoiser(diffusion(), 2).conditioning(0.5) == "2 steps, sigma t = 500, t = 10"
