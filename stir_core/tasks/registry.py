"""Tasks by name, and problems by role: ``mine`` for rollouts, ``validation`` for choosing settings, ``eval`` held out.

The roles never share a problem. A question of the mined split that repeats one of a held-out split is not mined. Where there is no
validation split, a tenth of the mine split is set apart by a hash of the question, so it is the same tenth for every seed.
"""

import difflib
from collections import Counter
from collections.abc import Iterable

from stir_core.config import RunConfig
from stir_core.errors import DataError
from stir_core.records import Problem
from stir_core.seeding import seed_for
from stir_core.tasks.benchmarks import benchmark_problems
from stir_core.tasks.catalogue import TASKS, TaskSpec
from stir_core.tasks.prompts import check_template
from stir_core.tasks.rows import fingerprint, hashed
from stir_core.tasks.segment import segmenter

ROLES = ("mine", "validation", "eval")


def task_names() -> tuple[str, ...]:
    """Names of all tasks, in display order."""
    return tuple(TASKS)


def task_spec(name: str) -> TaskSpec:
    """The task of that name.

    Raises:
        DataError: no such task.
    """
    if name in TASKS:
        return TASKS[name]
    close = difflib.get_close_matches(str(name), TASKS, n=1)
    raise DataError(f"unknown task {name!r}: " + (f"did you mean {close[0]}?" if close else f"known tasks: {', '.join(TASKS)}"))


def load_problems(name: str, split: str, *, n: int | None = None, seed: int = 0, levels: tuple[str, ...] = ()) -> tuple[Problem, ...]:
    """The first ``n`` problems of a task's split, in an order that the seed fixes.

    A larger ``n`` begins with the problems of a smaller one. ``arithmetic`` and ``chain`` take their levels in turn, so that every
    prefix is balanced.

    Args:
        name: task name.
        split: one of the task's own splits (all of its rows), or a role: ``"mine"``, ``"validation"``, ``"eval"``. Where a split is
            named like a role, the role is meant; for such tasks the two hold the same problems.
        n: how many; ``None`` takes all.
        seed: seed of the order.
        levels: levels to draw from; empty takes all.

    Raises:
        DataError: no such task, split or level, the task cannot be mined, the data is not there, or there are fewer than ``n``.
    """
    spec = task_spec(name)
    levels = (levels,) if isinstance(levels, str) else levels
    spec.check_levels(levels)
    problems = _of_role(spec, split) if split in ROLES else _of_split(spec, split)
    ordered = _ordered((problem for problem in problems if not levels or problem.level in levels), seed, in_turn=spec.disjoint)
    if n is None:
        return tuple(ordered)
    if isinstance(n, bool) or not isinstance(n, int):
        raise DataError(f"{n!r:.80} is not a number of problems: give a whole number, or None for all")
    if not 0 <= n <= len(ordered):
        chosen = f" at levels {', '.join(levels)}" if levels else ""
        raise DataError(f"task {name} has {len(ordered)} {split} problems{chosen}, {n} were asked for: ask for at most {len(ordered)}")
    return tuple(ordered[:n])


def check_task(config: RunConfig) -> None:
    """Refuse settings that no run can be made with, without reading a problem.

    Raises:
        DataError: no such task, level, template or segmenter, or the task cannot be mined.
    """
    spec = task_spec(config.task.name)
    spec.check_mined()
    spec.check_levels(config.task.levels)
    check_template(config.task.template)
    segmenter(config.delimiter)


def mined_problems(config: RunConfig) -> tuple[Problem, ...]:
    """The problems that a run samples rollouts for; raises as :func:`load_problems`."""
    return load_problems(config.task.name, "mine", n=config.task.n_train, seed=config.seed, levels=config.task.levels)


def held_out_problems(config: RunConfig) -> tuple[Problem, ...]:
    """The held-out problems that a run answers; raises as :func:`load_problems`."""
    task = config.task
    return load_problems(task.name, task.held_out, n=task.n_eval, seed=config.seed, levels=task.levels) if task.n_eval else ()


def _of_split(spec: TaskSpec, split: str) -> tuple[Problem, ...]:
    if split not in spec.splits:
        raise DataError(f"task {spec.name} has no split {split!r}: take one of {', '.join(dict.fromkeys((*ROLES, *spec.splits)))}")
    return spec.problems(split) if spec.problems is not None else benchmark_problems(spec.name, split)


def _of_role(spec: TaskSpec, role: str) -> list[Problem]:
    if role == "eval":
        return list(_of_split(spec, spec.eval_split))
    mined = spec.check_mined()
    problems = list(_of_split(spec, mined if role == "mine" else spec.validation_split or mined))
    if spec.disjoint:
        return problems
    held_out = _fingerprints(_of_split(spec, spec.eval_split))
    if role == "mine" and spec.validation_split:
        held_out |= _fingerprints(_of_split(spec, spec.validation_split))
    problems = [problem for problem in problems if fingerprint(problem.question) not in held_out]
    if spec.validation_split:
        return problems
    wanted = role == "validation"
    return [problem for problem in problems if (hashed(f"validation {fingerprint(problem.question)}") % 10 == 0) == wanted]


def _fingerprints(problems: Iterable[Problem]) -> set[str]:
    return {fingerprint(problem.question) for problem in problems}


def _ordered(problems: Iterable[Problem], seed: int, *, in_turn: bool) -> list[Problem]:
    """Shuffle by id, so that the order of two problems does not depend on the others; ``in_turn`` takes the levels in turn."""
    shuffled = sorted(problems, key=lambda problem: (seed_for(seed, "problem order", problem.id), problem.id))
    if not in_turn:
        return shuffled
    dealt = Counter[str | None]()
    turns: dict[str, int] = {}
    for problem in shuffled:
        turns[problem.id] = dealt[problem.level]
        dealt[problem.level] += 1
    return sorted(shuffled, key=lambda problem: turns[problem.id])
