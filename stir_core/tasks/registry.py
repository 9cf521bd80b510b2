"""Tasks by name, and problems by role: which are mined, which choose settings, which are held out.

The roles ``mine``, ``validation`` and ``eval`` never share a problem. Where a data set repeats a question of its held-out splits
in the split that is mined, the copy is left out of the mining; where it has no validation split, a tenth of the mine
split is set apart by a hash of the question, so it is the same tenth for every seed.
"""

import difflib
from collections import defaultdict
from collections.abc import Iterable

from stir_core.errors import DataError
from stir_core.records import Problem
from stir_core.seeding import seed_for
from stir_core.tasks.benchmarks import benchmark_problems
from stir_core.tasks.catalogue import TASKS, TaskSpec
from stir_core.tasks.rows import fingerprint, hashed

ROLES = ("mine", "validation", "eval")


def task_names() -> tuple[str, ...]:
    """Names of all tasks, in the order in which they are shown."""
    return tuple(TASKS)


def task_spec(name: str) -> TaskSpec:
    """What there is to know about a task.

    Raises:
        DataError: no such task.
    """
    if name in TASKS:
        return TASKS[name]
    close = difflib.get_close_matches(name, TASKS, n=1)
    raise DataError(f"unknown task {name!r}: " + (f"did you mean {close[0]}?" if close else f"known tasks: {', '.join(TASKS)}"))


def load_problems(name: str, split: str, *, n: int | None = None, seed: int = 0, levels: tuple[str, ...] = ()) -> tuple[Problem, ...]:
    """The first ``n`` problems of a task's split, in an order that the seed fixes.

    A larger ``n`` begins with the problems of a smaller one. ``arithmetic`` takes its levels in turn, so that every prefix
    is balanced.

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
    unknown = [level for level in levels if level not in spec.levels]
    if unknown:
        known = f"take one of {', '.join(spec.levels)}" if spec.levels else "it has no levels, leave them out"
        raise DataError(f"task {name} has no level {unknown[0]!r}: {known}")
    problems = _of_role(spec, split) if split in ROLES else _of_split(spec, split)
    ordered = _ordered((problem for problem in problems if not levels or problem.level in levels), seed, in_turn=name == "arithmetic")
    if n is None:
        return tuple(ordered)
    if not 0 <= n <= len(ordered):
        chosen = f" at levels {', '.join(levels)}" if levels else ""
        raise DataError(f"task {name} has {len(ordered)} {split} problems{chosen}, {n} were asked for: ask for at most {len(ordered)}")
    return tuple(ordered[:n])


def _of_split(spec: TaskSpec, split: str) -> tuple[Problem, ...]:
    if split not in spec.splits:
        raise DataError(f"task {spec.name} has no split {split!r}: take one of {', '.join((*ROLES, *spec.splits))}")
    return spec.problems(split) if spec.problems is not None else benchmark_problems(spec.name, split)


def _of_role(spec: TaskSpec, role: str) -> list[Problem]:
    if role == "eval":
        return list(_of_split(spec, spec.eval_split))
    if spec.mine_split is None:
        raise DataError(
            f"task {spec.name} is for evaluation only (its one split is {spec.eval_split}): "
            f"mine on {spec.mine_instead}, and evaluate the result on {spec.name}"
        )
    source = spec.mine_split if role == "mine" else spec.validation_split or spec.mine_split
    problems = list(_of_split(spec, source))
    if spec.name == "arithmetic":  # disjoint by construction
        return problems
    held_out = _fingerprints(_of_split(spec, spec.eval_split))
    if role == "mine" and spec.validation_split:
        held_out |= _fingerprints(_of_split(spec, spec.validation_split))
    problems = [problem for problem in problems if fingerprint(problem.question) not in held_out]
    if spec.validation_split:
        return problems
    return [problem for problem in problems if _set_apart(problem) == (role == "validation")]


def _set_apart(problem: Problem) -> bool:
    return hashed(f"validation {fingerprint(problem.question)}") % 10 == 0


def _fingerprints(problems: Iterable[Problem]) -> set[str]:
    return {fingerprint(problem.question) for problem in problems}


def _ordered(problems: Iterable[Problem], seed: int, *, in_turn: bool) -> list[Problem]:
    """Shuffle by id: where a problem comes does not depend on which others there are. ``in_turn`` deals the levels out."""
    shuffled = sorted(problems, key=lambda problem: (seed_for(seed, "problem order", problem.id), problem.id))
    if not in_turn:
        return shuffled
    place: dict[str | None, int] = defaultdict(int)
    turns: list[int] = []
    for problem in shuffled:
        turns.append(place[problem.level])
        place[problem.level] += 1
    return [problem for _, problem in sorted(zip(turns, shuffled, strict=True), key=lambda pair: pair[0])]
