"""Contract of every attack that is listed: it is tested by being listed."""

import time

import pytest
import torch

from certidote.attacks import ATTACKS, find
from certidote.data.tiny import tiny
from certidote.streams import Key
from certidote.types import Attack, Budget, Knowledge, Norm, Target, Task


class Patches:
    """Features of a surrogate that costs nothing: means over 2x2 patches."""

    def penultimate(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images, 2).flatten(1)


def tiny_task(norm: Norm) -> Task:
    train, test = (tiny(10, 3, (1, 8, 8), Key(0) / split) for split in ("train", "test"))
    return Task(train, Target(test.images[0], int(test.labels[0]), (int(test.labels[0]) + 1) % 3, 0), Budget(5, norm, 0.2))


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_attack_keeps_the_contract(attack: Attack, norm: Norm) -> None:
    task = tiny_task(norm)
    digest, target = task.train.digest(), task.goal.image.clone()
    begin = time.process_time()
    poison = attack(task, Knowledge((Patches(),)), Key(0))
    seconds = time.process_time() - begin
    again = attack(task, Knowledge((Patches(),)), Key(0))
    other = attack(task, Knowledge((Patches(),)), Key(1))

    poisoned = poison.apply(task.train)  # verifies the budget on the 8-bit images
    kept = torch.ones(len(task.train), dtype=torch.bool)
    kept[poison.indices] = False
    assert poison.images.dtype == torch.uint8
    assert poison.budget == task.budget
    assert poison.goal is task.goal
    assert torch.equal(poisoned.labels, task.train.labels)
    assert torch.equal(poisoned.images[kept], task.train.images[kept])
    assert not torch.equal(poisoned.images, task.train.images)
    assert task.train.digest() == digest
    assert torch.equal(task.goal.image, target)
    assert torch.equal(poison.indices, again.indices)
    assert torch.equal(poison.images, again.images)
    assert poison.indices.tolist() != other.indices.tolist()
    assert seconds < 10  # below one on an idle machine


def test_names_are_looked_up() -> None:
    assert len(ATTACKS) >= 1
    for name, attack in ATTACKS.items():
        assert find(ATTACKS, name, "attack") is attack


def test_unknown_names_name_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"^unknown attack 'bullseye'; did you mean 'bullseye-polytope'\? choose one of: .*bullseye-pol"
    ):
        find(ATTACKS, "bullseye", "attack")
    with pytest.raises(ValueError, match=r"^unknown defense 'zzz'; choose one of: a, b$"):
        find({"b": 1, "a": 2}, "zzz", "defense")
