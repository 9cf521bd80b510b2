"""Continuations of one answer from one place as a tree: those that begin with the same steps share a node, which counts right and wrong."""

from collections.abc import Sequence
from typing import NamedTuple

from stir_core.intervene.changes import step_at
from stir_core.records import StepTrace, Trace


class RollNode(NamedTuple):
    """Steps that some continuations share, token for token, after those of the parent."""

    parent: int | None
    """Place of the parent in the list; ``None`` for the root, whose steps may be empty."""
    rolls: tuple[int, ...]
    """The continuations by number, which is the seed of each."""
    steps: tuple[StepTrace, ...]
    right: int
    wrong: int
    """Answers that are not graded count in neither."""


def reroll_tree(rolls: Sequence[Trace], m: int) -> list[RollNode]:
    """The tree of an answer's continuations from control point ``m``, or from a token of the step after it.

    Args:
        rolls: whole answers, at least one, which are equal before ``m``.

    Returns:
        Parents before their children, larger children first.

    Raises:
        DataError: an answer has no such control point.
    """
    nodes: list[RollNode] = []

    def grow(parent: int | None, some: list[int], start: int) -> None:
        end = start
        while len(heads := {_ids(rolls[roll], end) for roll in some}) == 1 and heads != {None}:
            end += 1
        verdicts = [verdict.correct for roll in some if (verdict := rolls[roll].verdict) is not None]
        steps = rolls[some[0]].steps[start:end]
        nodes.append(RollNode(parent, tuple(some), steps, sum(verdicts), len(verdicts) - sum(verdicts)))
        here, groups = len(nodes) - 1, dict[tuple[int, ...] | None, list[int]]()
        for roll in some:
            groups.setdefault(_ids(rolls[roll], end), []).append(roll)
        for group in sorted(groups.values(), key=len, reverse=True) if len(groups) > 1 else ():
            grow(here, group, end)

    grow(None, list(range(len(rolls))), min(step_at(roll, m) for roll in rolls))
    return nodes


def _ids(answer: Trace, place: int) -> tuple[int, ...] | None:
    """The tokens of a step; ``None`` where the answer had ended."""
    return answer.steps[place].token_ids if place < len(answer.steps) else None
