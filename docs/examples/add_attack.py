"""Add an attack: it moves images of the wanted class towards the target, as far as the budget lets it."""

import certidote
from certidote.attacks import ATTACKS
from certidote.attacks.budget import quantize
from certidote.streams import Key
from certidote.types import Budget, Knowledge, Poison, Target, Task


def blend(task: Task, knowledge: Knowledge, key: Key) -> Poison:
    rows = (task.train.labels == task.goal.adversarial_label).nonzero().flatten()
    chosen = rows[key.numpy().permutation(len(rows))[: task.budget.num_poisons]]
    bases = task.train.images[chosen]
    return Poison(chosen, quantize(task.goal.image.expand_as(bases) / 255, bases, task.budget), task.goal, task.budget)


ATTACKS["blend"] = blend

train, test = certidote.load("digits", "train"), certidote.load("digits", "test")
goal = Target(test.images[0], true_label=int(test.labels[0]), adversarial_label=(int(test.labels[0]) + 1) % 10, test_index=0)
poison = ATTACKS["blend"](Task(train, goal, Budget(5, "linf", 0.2)), Knowledge(()), Key(0))
poisoned = poison.apply(train)  # raises if the 8-bit images break the budget
print(f"{int((poisoned.images != train.images).flatten(1).any(1).sum())} of {len(train)} images altered, no label")
