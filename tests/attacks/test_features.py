import copy

import pytest
import torch
from torch import nn

from certidote.attacks.features import AtLayer, at_layers, averaged_maps, has_dropout, maps_of
from certidote.attacks.selection import check_surrogates
from certidote.streams import Key
from certidote.training.extractor import ConvExtractor
from certidote.training.models import build

IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Dropping(nn.Module):
    """Two linear layers, a ReLU in place between them, and dropout; a head behind."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 12), nn.Linear(12, 40), nn.Linear(40, 3)
        self.relu, self.dropout = nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.passes = 0

    def penultimate(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return self.dropout(self.second(self.relu(self.first(images.flatten(1)))))


def dropping() -> Dropping:
    torch.manual_seed(0)
    return Dropping().eval().requires_grad_(False)


def extractor() -> ConvExtractor:
    torch.manual_seed(0)
    return ConvExtractor((1, 8, 8), 5, 0.3, 0.3).eval()


def test_a_layer_gives_its_output() -> None:
    model = extractor()
    maps, last = maps_of(at_layers(model, ["body.3", "penultimate"]), IMAGES)
    expected = model.body[:4]((IMAGES - model.mean) / model.std)
    assert maps.shape == (3, 32, 4, 4)
    assert torch.equal(maps, expected)
    assert torch.equal(last, model.penultimate(IMAGES))
    assert torch.equal(AtLayer(model, "body.3").penultimate(IMAGES), expected.flatten(1))
    assert not [hook for module in model.modules() for hook in module._forward_hooks]


def test_every_named_layer_of_our_architectures_can_be_aimed_at() -> None:
    images = torch.rand(2, 3, 32, 32)
    for architecture in ("cnn-32-64", "resnet-18-gn", "mlp-128"):
        model = build(architecture, (3, 32, 32), 4, Key(0)).eval()
        names = [name for name, _ in model.named_modules() if name and name != "head"]
        assert all(maps.shape[0] == 2 for maps in maps_of(at_layers(model, names), images))


def test_layers_of_one_model_share_a_forward_pass() -> None:
    model, other = dropping(), dropping()
    found = maps_of([*at_layers(model, ["first", "second", "penultimate"]), other, AtLayer(model, "relu")], IMAGES)
    assert (model.passes, other.passes) == (1, 1)
    assert [maps.shape[1] for maps in found] == [12, 40, 40, 40, 12]


def test_a_layer_s_output_is_what_it_gave_and_not_what_was_made_of_it_in_place() -> None:
    model = dropping()
    assert torch.equal(maps_of([AtLayer(model, "first")], IMAGES)[0], model.first(IMAGES.flatten(1)))


def test_gradients_go_through_a_layer() -> None:
    images = IMAGES.clone().requires_grad_()
    maps_of([AtLayer(extractor(), "body.0")], images)[0].sum().backward()
    assert float(images.grad.abs().min()) > 0


def test_one_name_is_no_list_of_layers() -> None:
    with pytest.raises(ValueError, match=r"^layers='penultimate' is one name; give a list of names, \['penultimate'\]$"):
        at_layers(dropping(), "penultimate")


def test_layers_that_do_not_exist_are_refused_and_the_nearest_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"^no layer 'body\.33' in a ConvExtractor; did you mean 'body\.3'\? it has penultimate, body, body\.0"
    ):
        AtLayer(extractor(), "body.33")
    with pytest.raises(ValueError, match=r"^no layer 'penultimat' in a ConvExtractor; did you mean 'penultimate'\?"):
        at_layers(extractor(), ["body.3", "penultimat"])
    with pytest.raises(ValueError, match=r"^no layer '' in a ConvExtractor; did you mean "):
        AtLayer(extractor(), "")
    with pytest.raises(TypeError, match=r"^a Linear has no method `penultimate`, of images; give the model one$"):
        AtLayer(nn.Linear(2, 2), "penultimate")
    with pytest.raises(
        ValueError, match=r"^layer 'head' of a ConvExtractor gives no features: it comes after the penultimate ones"
    ):
        maps_of([AtLayer(extractor(), "head")], IMAGES)


def test_train_mode_is_seen_through_a_layer() -> None:
    model = extractor()
    check_surrogates(at_layers(model, ["body.3"]))
    model.body[1].train()
    with pytest.raises(ValueError, match=r"surrogate 0 is in train mode"):
        check_surrogates(at_layers(model, ["body.3"]))
    assert [module.training for module in model.body].count(True) == 1  # looking changed nothing


def test_dropout_draws_are_averaged_and_named_by_a_key() -> None:
    model = dropping()
    state, plain = copy.deepcopy(model.state_dict()), model.penultimate(IMAGES)
    one, again, other, many = (
        averaged_maps([model], IMAGES, draws, Key(seed))[0] for draws, seed in ((1, 0), (1, 0), (1, 1), (2_000, 0))
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    dropped = one == 0
    assert 20 < int(dropped.sum()) < 100  # of 120
    torch.testing.assert_close(one[~dropped], 2 * plain[~dropped])
    assert float((many - plain).abs().max()) < 6 * float(plain.abs().max()) / 2_000**0.5  # six standard errors
    assert torch.equal(averaged_maps([model], IMAGES, 0, Key(0))[0], plain)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_masks_do_not_touch_the_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    averaged_maps([dropping_without_seeding()], IMAGES, 1, Key(0))
    assert torch.equal(torch.rand(1), expected)


def dropping_without_seeding() -> Dropping:
    with torch.random.fork_rng():
        return dropping()


def test_dropout_is_found() -> None:
    assert has_dropout(dropping())
    assert has_dropout(AtLayer(dropping(), "first"))
    assert not has_dropout(extractor())
