"""Do the tests of the attacks see what they are there to see? `python benchmarks/broken_variants.py`, ten minutes on one core.

Each row breaks one line of a copy of the library, as a defect known from published code or a plausible slip would, and runs the tests that
guard it: they must pass before and fail after. Writes results/benchmarks/broken_variants.json, which docs/attacks.md shows.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from machine import keep

from certidote.types import Json

ROOT = Path(__file__).resolve().parent.parent
ATTACKS, TESTS = "src/certidote/attacks", "tests/attacks"


@dataclass(frozen=True)
class Broken:
    """One defect.

    Attributes:
        guard: what the tests are there for.
        variant: the defect, in words.
        file: below the root of the repository.
        right, wrong: text that occurs once in the file, and what stands there instead.
        tests: of which one at least must fail.
        more: further such pairs, for a defect in several places.
    """

    guard: str
    variant: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]
    more: tuple[tuple[str, str], ...] = ()

    def broken(self, source: str) -> str:
        """The file's text with the defect. Raises: ValueError if what it replaces does not occur just once."""
        for right, wrong in ((self.right, self.wrong), *self.more):
            if source.count(right) != 1:
                raise ValueError(f"{self.guard}: {right!r} occurs {source.count(right)} times in {self.file}, not once")
            source = source.replace(right, wrong)
        return source


def _of(module: str, *tests: str) -> tuple[str, ...]:
    return tuple(f"{TESTS}/test_{module}.py::{test}" for test in tests)


HEADS = _of("feature_attacks", "test_heads_trained_on_the_poisons_fall_for_them")
CENTER = _of("bullseye_polytope", "test_mean_feature_reaches_the_target")
FROGS = _of("poison_frogs", "test_features_come_nearer_to_the_target_than_by_the_benchmark_s_loop")
COSINE = _of("witches_brew", "test_the_cosine_rises_to_nine_tenths")
WITCHES = _of("witches_brew", "test_fresh_victims_fall")
MARGIN = _of("witches_brew", "test_the_margin_of_the_adversarial_label_rises_in_every_trial")
SLEEPERS = _of("sleeper_agent", "test_victims_obey_the_trigger_and_nothing_else_changes")
RETRAINED = _of("sleeper_agent", "test_surrogates_are_trained_on_the_poisons_of_that_moment")
HARD = _of("label_consistent", "test_base_images_become_hard_before_the_trigger_is_pasted")
LABELS = _of("label_consistent", "test_victims_learn_the_trigger")
HIDDEN = _of("hidden_trigger", "test_triggered_images_are_taken_for_the_poisons_class")

FROGS_UP = ("pixels - rates * gradient + backward", "pixels + rates * gradient + backward")
FROGS_STUCK = (
    "        lower = moved_value + _penalty(trials, moved, l2_penalty) < value + _penalty(trials, pixels, l2_penalty)\n",
    "        held = value + _penalty(trials, pixels, l2_penalty)\n"
    "        recorded = recorded if step else torch.full_like(held, torch.inf)\n"
    "        lower = held <= recorded\n"
    "        recorded = torch.where(lower, held, recorded)\n",
)
FROGS_STUCK_TOO = (
    ("rates = rates * torch.where(chosen, GROW, SHRINK)", "rates = rates * torch.where(chosen, 1.0, 0.2)"),
    (
        "return trials.projected(share * targets + (1 - share) * trials.bases)",
        "return share * targets + (1 - share) * trials.bases",
    ),
)
FROGS_LOOP = (
    "the benchmark's loop: a start outside the budget, and a step is refused by the loss of the image held, not of the new one"
)
ADAM_UP = ("[gradient.sign() if signed else gradient]", "[-gradient]")
TRUE_LABEL = ("torch.tensor([task.goal.adversarial_label]))", "torch.tensor([target_of(task).true_label]))")
DESCENT = ("images + step_size * direction", "images - step_size * direction")
UNPATCHED = (
    'as_pixels(goal.stamped(train.images[source_rows(train, goal, "training")], key))',
    'as_pixels(train.images[source_rows(train, goal, "training")])',
)

VARIANTS = (
    Broken("rounding keeps the budget", "no clipping to whole levels", f"{ATTACKS}/budget.py",
           "step.round().clamp(-math.floor(radius), math.floor(radius))", "step.round()",
           _of("budget", "test_quantized_images_keep_the_budget")),
    Broken("projection onto ball and box", "the box is forgotten", "src/certidote/ascent.py",
           "max=(bases + budget.epsilon).clamp_max(1)", "max=bases + budget.epsilon",
           _of("budget", "test_projection_agrees_with_brute_force_in_float64")),
    Broken("Poison Frogs: distance of features", "flipped sign", f"{ATTACKS}/poison_frogs.py", *FROGS_UP, FROGS),
    Broken("Poison Frogs: distance of features", FROGS_LOOP, f"{ATTACKS}/poison_frogs.py", *FROGS_STUCK, FROGS, FROGS_STUCK_TOO),
    Broken("Poison Frogs: poisons keep moving", FROGS_LOOP, f"{ATTACKS}/poison_frogs.py", *FROGS_STUCK,
           _of("poison_frogs", "test_every_poison_moves_many_times"), FROGS_STUCK_TOO),
    Broken("Convex Polytope: coefficients are optimal", "equal coefficients", f"{ATTACKS}/simplex.py",
           "    done = gap <= TOLERANCE * objective + floor\n", "    done = torch.ones_like(gap, dtype=torch.bool)\n",
           _of("simplex", "test_solver_is_certified_and_as_good_as_an_active_set_method")),
    Broken("Convex Polytope: the hull reaches the target", "Bullseye Polytope's objective", f"{ATTACKS}/convex_polytope.py",
           "nearest_in_hull(grams, known.get(draw)).coefficients", "torch.full_like(grams[..., 0], 1 / grams.shape[-1])",
           _of("convex_polytope", "test_hull_comes_near_the_target_and_the_center_stays_away")),
    Broken("Convex Polytope: the term at layers of maps", "a sum of collisions, as the original's product of wrong shapes",
           f"{ATTACKS}/convex_polytope.py",
           "    return (target - combined).square().sum(1) / (2",
           "    apart = (target.unsqueeze(1) - points).square().sum(2)\n"
           "    return combined.sum(1) * 0 + (coefficients.to(points.dtype) * apart).sum(1) / (2",
           _of("convex_polytope", "test_term_of_pooled_features_is_the_convex_combination")),
    Broken("Bullseye Polytope: the center reaches the target", "flipped sign", f"{ATTACKS}/crafting.py", *ADAM_UP, CENTER),
    Broken("Bullseye Polytope: the center reaches the target", "epsilon in normalized units", f"{ATTACKS}/crafting.py",
           "return project(pixels, self.bases, self.budget)",
           'return project(pixels, self.bases, __import__("dataclasses").replace(self.budget, epsilon=0.376 * self.budget.epsilon))',
           CENTER),
    Broken("heads fall for the poisons", "flipped sign (both polytopes)", f"{ATTACKS}/crafting.py", *ADAM_UP, HEADS),
    Broken("heads fall for the poisons", "epsilon in the wrong units, an eighth of it", f"{ATTACKS}/crafting.py",
           "return project(pixels, self.bases, self.budget)",
           'return project(pixels, self.bases, __import__("dataclasses").replace(self.budget, epsilon=self.budget.epsilon / 8.5))',
           HEADS),
    Broken("heads fall for the poisons", "flipped sign (Poison Frogs)", f"{ATTACKS}/poison_frogs.py", *FROGS_UP, HEADS),
    Broken("Witches' Brew: the cosine rises", "the target's gradient with its true label", f"{ATTACKS}/witches_brew.py",
           *TRUE_LABEL, COSINE),
    Broken("Witches' Brew: victims", "the target's gradient with its true label", f"{ATTACKS}/witches_brew.py",
           *TRUE_LABEL, WITCHES),
    Broken("Witches' Brew: victims", "the poisons are not applied", "src/certidote/types/poisons.py",
           "        images[self.indices] = self.images\n", "        images[self.indices] = images[self.indices]\n", WITCHES),
    Broken("Witches' Brew: margins of targets", "the target's gradient with its true label", f"{ATTACKS}/witches_brew.py",
           *TRUE_LABEL, MARGIN),
    Broken("Witches' Brew: margins of targets", "the poisons are not applied", "src/certidote/types/poisons.py",
           "        images[self.indices] = self.images\n", "        images[self.indices] = images[self.indices]\n", MARGIN),
    Broken("crafting leaves BatchNorm alone", "surrogates in train mode", f"{ATTACKS}/gradient_matching.py",
           "        each = labels[:, None].expand(images.shape[:2])\n",
           "        each = labels[:, None].expand(images.shape[:2])\n        with torch.no_grad():\n"
           "            self.model.train()(images.detach().flatten(0, 1))\n        self.model.eval()\n",
           _of("gradient_matching", "test_crafting_in_eval_mode_leaves_batchnorm_alone_and_works")),
    Broken("gradient matching: gradient of the objective", "the norm of the poisons' gradient is taken as constant",
           f"{ATTACKS}/gradient_matching.py", "inward = made * (cosines / sizes[0].square())[:, None]", "inward = torch.zeros_like(made)",
           _of("gradient_matching", "test_its_gradient_is_that_of_finite_differences")),
    Broken("shifts", "8 pixels where 4 are meant", f"{ATTACKS}/shifts.py", "(2 * offsets[:, axis]", "(4 * offsets[:, axis]",
           _of("shifts", "test_whole_pixels_are_a_roll_that_uncovers_the_fill_color", "test_shifts_reach_four_pixels_of_32_and_are_uniform")),
    Broken("Sleeper Agent: victims obey the trigger", "the wanted gradient is not computed anew", f"{ATTACKS}/sleeper_agent.py",
           "aims = source_aims(differentiated(trained, task.train), sources, task.goal.adversarial_label)",
           "aims = [Aim(new, old.wanted) for new, old in zip(differentiated(trained, task.train), aims, strict=True)]", SLEEPERS),
    Broken("Sleeper Agent: victims obey the trigger", "sources without the trigger", f"{ATTACKS}/sleeper_agent.py",
           *UNPATCHED, SLEEPERS),
    Broken("Sleeper Agent: selection of bases", "drawn at random", f"{ATTACKS}/sleeper_agent.py",
           "norms.argsort(descending=True, stable=True)", "torch.randperm(len(norms))",
           _of("sleeper_agent", "test_bases_are_those_with_the_largest_gradients")),
    Broken("Sleeper Agent: selection of bases", "the smallest gradients", f"{ATTACKS}/sleeper_agent.py",
           "norms.argsort(descending=True, stable=True)", "norms.argsort(descending=False, stable=True)",
           _of("sleeper_agent", "test_bases_are_those_with_the_largest_gradients")),
    Broken("Sleeper Agent: retraining", "surrogates are never retrained", f"{ATTACKS}/sleeper_agent.py",
           "if step == last and retrain is not None:", "if step < 0 and retrain is not None:",
           RETRAINED),
    Broken("Sleeper Agent: retraining", "gradients are those of the first surrogates", f"{ATTACKS}/sleeper_agent.py",
           "aims = source_aims(differentiated(trained, task.train), sources, task.goal.adversarial_label)",
           "aims = [Aim(old.surrogate, new.wanted) for old, new in zip(aims, source_aims(differentiated(trained, task.train), sources, "
           "task.goal.adversarial_label), strict=True)]",
           RETRAINED),
    Broken("label-consistent: images become hard", "wrong sign", "src/certidote/ascent.py", *DESCENT, HARD),
    Broken("label-consistent: victims learn the trigger", "wrong sign", "src/certidote/ascent.py", *DESCENT, LABELS),
    Broken("label-consistent: victims learn the trigger", "the trigger only", f"{ATTACKS}/label_consistent.py",
           "trigger.stamped(hard, ", "trigger.stamped(stored, ",
           LABELS),
    Broken("label-consistent: victims learn the trigger", "the trigger is cut down to epsilon", f"{ATTACKS}/label_consistent.py",
           'if constraint == "linf_all":\n        images = quantize(as_pixels(images), stored, task.budget)',
           "if steps:\n        images = quantize(as_pixels(images), stored, replace(task.budget, epsilon=0.06))", LABELS),
    Broken("hidden trigger: triggered images are taken for the class", "sources without the trigger", f"{ATTACKS}/hidden_trigger.py",
           'return goal.stamped(task.train.images[torch.from_numpy(rows)], key / "places")',
           "return task.train.images[torch.from_numpy(rows)]", HIDDEN),
    Broken("hidden trigger: pairing", "the references' rule, which loses sources", f"{ATTACKS}/hidden_trigger.py",
           "torch.from_numpy(linear_sum_assignment(distances.cpu().numpy())[1])", "taken_over(distances, torch.arange(len(distances)))",
           _of("hidden_trigger", "test_pairing_is_a_bijection_of_least_total_distance")),
    Broken("pickles", "names that are not on the list are let through", "src/certidote/data/pickled.py",
           "        if name not in", "        if False and name not in",
           _of("benchmark_format", "test_a_pickle_that_names_os_system_is_refused_in_one_line")),
    Broken("the poisoned set", "poisons join their bases' neighbors, not their bases", "src/certidote/types/poisons.py",
           "        images[self.indices] = self.images\n", "        images[self.indices - 1] = self.images\n",
           _of("bullseye_polytope", "test_poisoned_set_is_assembled_in_place")),
    Broken("the benchmark's sets", "clean base images stay beside their poisons", "src/certidote/scenarios/assembled.py",
           "    free[poison.indices] = False\n", "",
           ("tests/scenarios/test_trials.py::test_the_benchmarks_sets_have_one_size_and_no_clean_base",)),
    Broken("the benchmark's sets", "the set grows by the poisons", "src/certidote/scenarios/assembled.py",
           "each[: share - len(poison.indices)] if label == wanted else each", "each",
           ("tests/scenarios/test_trials.py::test_the_benchmarks_sets_have_one_size_and_no_clean_base",)),
)  # fmt: skip


FAILURES = ("assert", "AssertionError", "BudgetExceeded", "DID NOT RAISE")
"""What a test says that sees something, and does not only stumble over it; the budget is checked by the library itself."""


def tested(copy: Path, tests: tuple[str, ...]) -> tuple[int, str]:
    """pytest's status in a copy of the repository (0 all passed, 1 some failed), and why the first one failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=line", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    why = re.findall(r"^(?:E +|/\S+?:\d+: )(.+)$", done.stdout, re.MULTILINE)
    return done.returncode, re.sub(r"\s+", " ", why[0]).replace(str(copy), ".")[:200] if why else done.stdout[-300:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="rows whose guard contains this")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/broken_variants.json"))
    options = parser.parse_args()
    chosen = [broken for broken in VARIANTS if options.only in broken.guard]
    if not chosen:
        parser.error(f"no guard contains {options.only!r}; they are: {'; '.join(dict.fromkeys(each.guard for each in VARIANTS))}")
    rows: list[Json] = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("src", "tests", "benchmarks"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        status, why = tested(copy, tuple(dict.fromkeys(test for broken in chosen for test in broken.tests)))
        if status:
            sys.exit(f"tests fail before anything is broken: {why}")
        for number, broken in enumerate(chosen, 1):
            file = copy / broken.file
            before = file.read_text(encoding="utf-8")
            try:
                after = broken.broken(before)
            except ValueError as error:
                sys.exit(str(error))
            file.write_text(after, encoding="utf-8")
            status, why = tested(copy, broken.tests)
            file.write_text(before, encoding="utf-8")
            seen = status == 1 and any(word in why for word in FAILURES)
            print(f"{number}/{len(chosen)} {broken.guard}; {broken.variant}: {'seen' if seen else 'NOT SEEN'} ({why})", flush=True)
            tests = [test.removeprefix(f"{TESTS}/") for test in broken.tests]
            rows.append({"guard": broken.guard, "variant": broken.variant, "tests": tests, "seen": seen, "failure": why})
    missed = [row for row in rows if not row["seen"]]
    if not options.only:
        keep(options.out, {"variants": rows})
    if missed:
        sys.exit(f"{len(missed)} of {len(rows)} broken variants were not seen")


if __name__ == "__main__":
    main()
