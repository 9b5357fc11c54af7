import json

import numpy as np
import pytest
import torch

from certidote.data.tiny import tiny
from certidote.streams import Key
from certidote.training.extractor import ConvExtractor, pretrain
from certidote.training.head import Heads, HeadTrainer, features
from certidote.training.head_recipe import HEAD_RECIPES, HeadRecipe
from certidote.types import Lineage, Trainer, View


class Flat:
    """The images themselves as features, in eval mode by nature."""

    def penultimate(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)

    def digest(self) -> str:
        return "flat"


def view(key: Key, num_per_class: int = 12, noise: float = 0.3) -> View:
    data = tiny(num_per_class, 3, (1, 8, 8), key)
    shift = torch.from_numpy((key / "noise").numpy().normal(0, noise, tuple(data.images.shape)).astype("float32"))
    return View(data.pixels() + shift, data.labels, 3, Lineage(sigma=noise, draws=1, start="trusted"))


def views_and_keys(count: int) -> tuple[list[View], list[Key]]:
    return [view(Key(0) / i) for i in range(count)], [Key(0) / "member" / i for i in range(count)]


def slow_head(images: torch.Tensor, labels: torch.Tensor, key: Key, epochs: int, batch: int, rate: float, decay: int) -> np.ndarray:
    """One head by torch's autograd and a scalar Adam in float64."""
    x = images.flatten(1).double()
    generator = (key / "init").numpy()
    bound = 1 / np.sqrt(x.shape[1])
    both = torch.from_numpy(generator.uniform(-bound, bound, size=(3, x.shape[1] + 1))).requires_grad_()
    average, square, step = torch.zeros_like(both), torch.zeros_like(both), 0
    for epoch in range(epochs):
        order = torch.from_numpy((key / "order" / epoch).numpy().permutation(len(x)))
        for start in range(0, len(x), batch):
            rows = order[start : start + batch]
            loss = torch.nn.functional.cross_entropy(x[rows] @ both[:, :-1].T + both[:, -1], labels[rows])
            (gradient,) = torch.autograd.grad(loss, [both])
            step += 1
            average, square = 0.9 * average + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            size = rate * (0.1 if epoch >= decay else 1)
            move = size * (average / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
            both = (both - move).detach().requires_grad_()
    return both.detach().numpy()


def test_heads_agree_with_autograd() -> None:
    """Float32 against float64 over 40 steps: the problem is convex and smooth, errors of 1e-7 a step do not grow."""
    views, keys = views_and_keys(2)
    trainer = HeadTrainer(Flat(), epochs=10, batch_size=10, learning_rate=0.05, decay_epochs=(6,))
    heads = trainer.fit(views, keys, Key(9))
    for member in range(2):
        expected = slow_head(views[member].images, views[member].labels, keys[member], 10, 10, 0.05, 6)
        np.testing.assert_allclose(heads.weights[member].numpy(), expected[:, :-1], atol=2e-4)
        np.testing.assert_allclose(heads.biases[member].numpy(), expected[:, -1], atol=2e-4)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_heads_by_sgd_agree_with_torch(momentum: float) -> None:
    views, keys = views_and_keys(2)
    recipe = HeadRecipe(epochs=6, batch_size=10, learning_rate=0.05, decay_epochs=(4,), momentum=momentum, weight_decay=0.01)
    heads = HeadTrainer(Flat(), **recipe.model_dump()).fit(views, keys, Key(9))
    for member, (seen, key) in enumerate(zip(views, keys, strict=True)):
        x, bound = seen.images.flatten(1).double(), 1 / 8
        both = torch.from_numpy((key / "init").numpy().uniform(-bound, bound, size=(3, 65))).requires_grad_()
        optimizer = torch.optim.SGD([both], lr=0.05, momentum=momentum, weight_decay=0.01)
        for epoch in range(6):
            optimizer.param_groups[0]["lr"] = 0.05 if epoch < 4 else 0.005
            for rows in torch.from_numpy((key / "order" / epoch).numpy().permutation(len(x))).split(10):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(x[rows] @ both[:, :-1].T + both[:, -1], seen.labels[rows]).backward()
                optimizer.step()
        np.testing.assert_allclose(heads.weights[member].numpy(), both[:, :-1].detach().numpy(), atol=2e-4)
        np.testing.assert_allclose(heads.biases[member].numpy(), both[:, -1].detach().numpy(), atol=2e-4)


@pytest.mark.parametrize("name", sorted(HEAD_RECIPES))
def test_a_recipe_of_heads_is_a_value_and_trains_the_same_bits_twice(name: str) -> None:
    recipe = HEAD_RECIPES[name]
    assert HeadRecipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    assert hash(recipe) == hash(HeadRecipe(**recipe.model_dump()))
    trainer = HeadTrainer(Flat(), **recipe.model_dump())
    assert recipe.to_json().items() <= trainer.describe().items()
    assert torch.equal(*(trainer.fit(*views_and_keys(2), Key(9)).weights for _ in range(2)))


def test_the_benchmark_s_heads_have_its_numbers() -> None:
    found = HEAD_RECIPES["benchmark"]
    assert (found.epochs, found.batch_size, found.learning_rate, found.decay_epochs) == (40, 128, 0.01, (30,))
    assert (found.momentum, found.weight_decay) == (0.9, 2e-4)
    assert HeadTrainer(Flat()).recipe == HEAD_RECIPES["adam"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epoch": 3}, "head recipe: epoch: Extra inputs are not permitted"),
        ({"weight_decay": 0.1}, r"head recipe: weight_decay=0.1 is for SGD; give its momentum too, or leave weight_decay out"),
        ({"momentum": 1.0}, r"head recipe: momentum=1.0, weight_decay=0.0; give numbers of at least 0 and below 1"),
        ({"learning_rate": float("nan")}, "head recipe: learning_rate: Input should be a finite number"),
    ],
)
def test_bad_recipes_of_heads_are_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeadRecipe.from_json(given)


def test_heads_learn() -> None:
    extractor = pretrain(tiny(30, 3, (1, 8, 8), Key(7)), Key(7), epochs=2)
    views, keys = views_and_keys(3)
    test = tiny(20, 3, (1, 8, 8), Key(5))
    logits = HeadTrainer(extractor).fit(views, keys, Key(9))(test.pixels())
    assert logits.shape == (3, 60, 3)
    assert float((logits.argmax(2) == test.labels).float().mean()) > 0.95


def test_members_do_not_depend_on_their_stack() -> None:
    """Alone, in another order, beside other members and beside views of another size: the same head.

    Batched products may round differently with the batch, so closeness: the problem is convex, and 1e-7 a step stays below 1e-4.
    """
    views, keys = views_and_keys(5)
    trainer = HeadTrainer(Flat(), epochs=20, batch_size=10)
    together = trainer.fit(views, keys, Key(9))
    images = tiny(20, 3, (1, 8, 8), Key(5)).pixels()
    for chosen in ([3], [4, 2, 0]):
        apart = trainer.fit([views[i] for i in chosen], [keys[i] for i in chosen], Key(9))
        torch.testing.assert_close(apart.weights, together.weights[chosen], rtol=0, atol=1e-4)
        assert torch.equal(apart(images).argmax(2), together(images)[chosen].argmax(2))
    mixed = trainer.fit([views[0], view(Key(1), 5), views[1]], [keys[0], Key(1), keys[1]], Key(9))
    torch.testing.assert_close(mixed.weights[[0, 2]], together.weights[:2], rtol=0, atol=1e-4)
    assert len({float(weight.sum()) for weight in together.weights}) == 5


def test_only_view_and_key_decide() -> None:
    views, keys = views_and_keys(2)
    trainer = HeadTrainer(Flat(), epochs=3)
    first = trainer.fit(views, keys, Key(9))
    torch.manual_seed(5)
    assert torch.equal(trainer.fit(views, keys, Key(8)).weights, first.weights)
    assert torch.equal(HeadTrainer(Flat(), epochs=3, stack_size=1).fit(views, keys, Key(9)).weights, first.weights)
    swapped = trainer.fit(views, [keys[1], keys[0]], Key(9))
    assert not torch.allclose(swapped.weights, first.weights, atol=1e-3)


def test_views_are_not_written_to() -> None:
    views, keys = views_and_keys(1)
    before = views[0].images.clone()
    HeadTrainer(Flat(), epochs=2).fit(views, keys, Key(9))
    assert torch.equal(views[0].images, before)


def test_diverged_heads_are_marked() -> None:
    views, keys = views_and_keys(2)
    broken = View(views[1].images * float("inf"), views[1].labels, 3, views[1].lineage)
    heads = HeadTrainer(Flat(), epochs=2).fit([views[0], broken], keys, Key(9))
    assert heads.failed.tolist() == [False, True]
    torch.testing.assert_close(heads.weights[0], HeadTrainer(Flat(), epochs=2).fit(views[:1], keys[:1], Key(9)).weights[0])


def test_extractor_stays_as_it_is() -> None:
    extractor = pretrain(tiny(10, 3, (1, 8, 8), Key(7)), Key(7), epochs=1)
    before = extractor.digest()
    views, keys = views_and_keys(2)
    HeadTrainer(extractor, epochs=2).fit(views, keys, Key(9))
    assert extractor.digest() == before


def test_features_do_not_depend_on_the_number_of_images() -> None:
    extractor = pretrain(tiny(10, 3, (1, 8, 8), Key(7)), Key(7), epochs=1)
    images = torch.rand(1_030, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(features(extractor, images)[:20], features(extractor, images[:20]), rtol=1e-5, atol=1e-5)
    assert features(extractor, images).shape == (1_030, 512)


def test_the_extractor_follows_the_images_to_their_device() -> None:
    """To a device of shapes without numbers, and nothing of it is left behind."""
    extractor = ConvExtractor((1, 8, 8), 3, 0.0, 1.0).eval()
    elsewhere = features(extractor, torch.rand(3, 1, 8, 8).to("meta"))
    assert elsewhere.is_meta
    assert {value.device.type for value in extractor.state_dict().values()} == {"meta"}


def test_everything_that_decides_weights_is_described() -> None:
    """Each option changes the description, and so the configuration digest; the size of a stack does not."""
    plain = HeadTrainer(Flat()).describe()
    options = {"epochs": 3, "batch_size": 3, "learning_rate": 0.3, "decay_epochs": (3,), "momentum": 0.5}
    for name, value in options.items():
        assert HeadTrainer(Flat(), **{name: value}).describe() != plain
    assert HeadTrainer(Flat(), stack_size=1).describe() == plain
    one, two = (pretrain(tiny(10, 3, (1, 8, 8), Key(7)), Key(seed), epochs=1) for seed in (1, 2))
    assert HeadTrainer(one).describe() != HeadTrainer(two).describe()


def test_members_start_from_trusted_weights() -> None:
    trainer = HeadTrainer(Flat())
    assert isinstance(trainer, Trainer)
    assert trainer.start == "trusted"
    assert isinstance(trainer.fit(*views_and_keys(1), Key(9)), Heads)


def test_what_cannot_be_fitted_is_refused() -> None:
    views, keys = views_and_keys(2)
    with pytest.raises(
        ValueError, match=r"the extractor is in train mode, where its BatchNorm follows the data; call .eval\(\) on it"
    ):
        HeadTrainer(ConvExtractor((1, 8, 8), 3, 0.5, 0.5))
    with pytest.raises(ValueError, match=r"head recipe: epochs=0, batch_size=64, learning_rate=0.01; all must be positive"):
        HeadTrainer(Flat(), epochs=0)
    with pytest.raises(ValueError, match=r"stack_size=0; give at least 1"):
        HeadTrainer(Flat(), stack_size=0)
    with pytest.raises(ValueError, match=r"2 views and 1 keys; give at least one view, and one key for each"):
        HeadTrainer(Flat()).fit(views, keys[:1], Key(9))
    other = View(views[1].images, views[1].labels, 4, views[1].lineage)
    with pytest.raises(ValueError, match=r"views of \[3, 4\] classes; members of one stack must have equally many"):
        HeadTrainer(Flat()).fit([views[0], other], keys, Key(9))


def test_one_member_alone_answers_as_in_its_stack() -> None:
    views, keys = views_and_keys(3)
    heads = HeadTrainer(Flat(), epochs=2, batch_size=10, learning_rate=0.05).fit(views, keys, Key(9))
    together = heads(views[0].images)
    assert not torch.equal(together[0], together[1])
    for member in range(3):
        assert torch.equal(heads.member(member)(views[0].images), together[member])
