"""Gradient matching beside the adversarial-robustness-toolbox's: the parts of `benchmarks/attacks.py` that are about Witches' Brew.

On the digits, one surrogate, no augmentation, the same base images, restarts, epsilon and number of steps for both, each with its own
starting point, step sizes and schedule. The objective, 1 - cosine of the gradients over all parameters, is taken by one function on
what each returns; ours in 8 bits.
"""

import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from certidote.attacks.gradient_matching import Aim, Matching, differentiated, objective
from certidote.attacks.selection import target_of
from certidote.attacks.witches_brew import target_gradients, witches_brew
from certidote.data.digits import load_digits
from certidote.scenarios.scratch import knowledge, learner
from certidote.streams import Key, torch_seeded
from certidote.training.recipe import Recipe
from certidote.types import Budget, Images, Json, Knowledge, Target, Task, as_pixels

RECIPES = {
    "mlp": Recipe(architecture="mlp-128", epochs=30, batch_size=64, learning_rate=0.05),
    "cnn": Recipe(architecture="cnn-32-64", epochs=10, batch_size=64, learning_rate=0.05),
}
EPSILON, STEPS, RESTARTS = 0.4, 50, 8
"""Restarts are the default of both; steps are a fifth of it."""

Clocks = tuple[float, float]
"""Seconds by the clock, and of this process's processor time."""


def gradient_matching(
    seed: int, trials: int, num_poisons: int, surrogate: str, steps: int = STEPS, restarts: int = RESTARTS
) -> tuple[list[dict[str, float]], Json]:
    """Trial by trial: objectives and seconds by the clock; and facts: what is faster, and by how much, in processor time too.

    The toolbox starts a process for every step, to load images that are in memory. What is left of its time when it loads them in its own
    process, as in a second run here, is arithmetic.
    """
    key = Key(seed) / "gradient matching"
    known = knowledge(load_digits("trusted"), learner([RECIPES[surrogate]]), key / "attacker" / surrogate)
    _ours(_tasks(1, num_poisons, key / "warm-up")[0], known, key, 2, restarts)
    rows, arithmetic = [], []
    for trial, task in enumerate(_tasks(trials, num_poisons, key / "targets")):
        of_trial = key / "trial" / trial
        ours, (our_seconds, our_work) = _ours(task, known, of_trial, steps, restarts)
        theirs, (their_seconds, _) = _theirs(task, known, of_trial, steps, restarts)
        with patch.object(torch.utils.data, "DataLoader", _in_this_process(torch.utils.data.DataLoader)):
            _, (_, their_work) = _theirs(task, known, of_trial, steps, restarts)
        row = {"our_seconds": our_seconds, "toolbox_seconds": their_seconds}
        rows.append(row | {"ours": _gap(task, known, ours), "toolbox": _gap(task, known, theirs)})
        arithmetic.append((our_work, their_work))
    our_work, their_work = np.mean(arithmetic, axis=0).tolist()
    facts = {"steps": steps, "restarts": restarts, "epsilon": EPSILON, "surrogate": RECIPES[surrogate].architecture}
    return rows, facts | {"times_faster_in_one_process": their_work / our_work}


def _ours(task: Task, known: Knowledge, key: Key, steps: int, restarts: int) -> tuple[Images, Clocks]:
    options: Json = {"steps": steps, "step_size": 0.4 * EPSILON, "restarts": restarts, "shift": 0.0, "flip": False}
    return _timed(lambda: as_pixels(witches_brew(task, known, key, **options).images))


def _theirs(task: Task, known: Knowledge, key: Key, steps: int, restarts: int) -> tuple[Images, Clocks]:
    """It is handed our base images as the whole training set, so that it poisons just these. Step sizes fall at its default's shares."""
    from art.attacks.poisoning import GradientMatchingAttack
    from art.estimators.classification import PyTorchClassifier

    model = known.surrogates[0]
    assert isinstance(model, nn.Module)
    model.requires_grad_(True)
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), task.train.image_shape, task.train.num_classes, clip_values=(0, 1), device_type="cpu"
    )
    schedule = ([1e-1, 1e-2, 1e-3, 1e-4], [int(share * steps) for share in (0.4, 0.6, 0.8, 0.88)])
    attack = GradientMatchingAttack(classifier, 1.0, EPSILON, restarts, steps, schedule, verbose=0)
    assert task.bases is not None
    bases, label = as_pixels(task.train.images[task.bases]).numpy(), task.goal.adversarial_label
    target = as_pixels(target_of(task).image.unsqueeze(0)).numpy()
    labels = np.full(len(bases), label)
    with torch_seeded(key):  # where it draws its start
        (made, _), seconds = _timed(lambda: attack.poison(target, labels[:1], bases, labels))
    model.requires_grad_(False)
    return torch.from_numpy(made).to(torch.float32), seconds


def _in_this_process(loader: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **options: loader(*args, **{**options, "num_workers": 0})


def _timed(work: Callable[[], Any]) -> tuple[Any, Clocks]:
    begin = time.perf_counter(), time.process_time()
    made = work()
    return made, (time.perf_counter() - begin[0], time.process_time() - begin[1])


def _gap(task: Task, known: Knowledge, images: Images) -> float:
    """1 - cosine."""
    (function,) = differentiated(known.surrogates)
    aim = Aim(function, target_gradients(function, [task]))
    return float(objective([aim], images.unsqueeze(0), torch.tensor([task.goal.adversarial_label]), Matching()))


def _tasks(trials: int, num_poisons: int, key: Key) -> list[Task]:
    """Test digits, each wanted in a drawn other class, whose first images are the bases."""
    train, test = load_digits("trusted"), load_digits("test")
    generator, made = key.numpy(), []
    for row in generator.choice(len(test), size=trials, replace=False).tolist():
        true = int(test.labels[row])
        label = (true + int(generator.integers(1, 10))) % 10
        bases = (train.labels == label).nonzero().squeeze(1)[:num_poisons]
        made.append(Task(train, Target(test.images[row], true, label, row), Budget(num_poisons, "linf", EPSILON), bases))
    return made
