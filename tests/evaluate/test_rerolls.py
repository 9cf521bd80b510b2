"""The tree of an answer's continuations: every continuation is read back from it, and its counts add up."""

import numpy as np
import pytest

from stir_core.errors import DataError
from stir_core.evaluate.rerolls import RollNode, reroll_tree
from stir_core.records import Decision, Reason, StepEvidence, StepTrace, Trace, Verdict

START = 2
"""Control point that the continuations begin from."""


def continuation(number: int) -> Trace:
    """Two steps that all have, then one to four of two kinds, and a verdict by the last."""
    rng = np.random.default_rng(number)
    kinds = [0, 0, *rng.integers(2, size=rng.integers(1, 5)).tolist()]
    reason = Reason(kind="no_library")
    steps = tuple(
        StepTrace(
            step=m + 1,
            evidence=StepEvidence(m=m, position=m, not_retrieved=reason),
            decision=Decision(chosen=None, alpha=0.0, score_null=None, reason=reason),
            probe_tokens=0,
            token_ids=(10 * m, kind),
            text=f"{m}{kind}",
            logprobs=(0.0, 0.0),
        )
        for m, kind in enumerate(kinds)
    )
    ids = tuple(token for step in steps for token in step.token_ids)
    verdict = Verdict(correct=kinds[-1] == 1, extracted=None, gold="", method="", reason="", finished=True) if number % 7 else None
    return Trace(
        id=f"p^4~{number}",
        variant="no_memory",
        prompt_ids=(1,),
        steps=steps,
        token_ids=ids,
        text="",
        finish="stop",
        tokens_used=len(ids),
        probe_tokens=0,
        forward_tokens=0,
        flops=0,
        verdict=verdict,
    )


@pytest.fixture(scope="module")
def rolls() -> list[Trace]:
    return [continuation(number) for number in range(40)]


def path(nodes: list[RollNode], place: int) -> tuple[StepTrace, ...]:
    node = nodes[place]
    return node.steps if node.parent is None else path(nodes, node.parent) + node.steps


def test_every_continuation_is_read_back_from_its_leaf_and_counts_add_up(rolls: list[Trace]) -> None:
    nodes = reroll_tree(rolls, START)
    assert nodes[0].rolls == tuple(range(len(rolls)))
    for place, node in enumerate(nodes):
        children = [child for child in nodes if child.parent == place]
        verdicts = [verdict.correct for roll in node.rolls if (verdict := rolls[roll].verdict)]
        assert (node.right, node.wrong) == (verdicts.count(True), verdicts.count(False))
        assert all(rolls[roll].steps[START:][: len(path(nodes, place))] == path(nodes, place) for roll in node.rolls)
        assert len(children) != 1 and (node.parent is None or node.parent < place)
        if children:
            assert sorted(roll for child in children for roll in child.rolls) == sorted(node.rolls)
        else:
            assert {rolls[roll].token_ids for roll in node.rolls} == {rolls[node.rolls[0]].token_ids}
            assert path(nodes, place) == rolls[node.rolls[0]].steps[START:]


def test_one_continuation_and_equal_ones_are_one_node(rolls: list[Trace]) -> None:
    for some in (rolls[:1], [rolls[0]] * 3):
        (node,) = reroll_tree(some, START)
        assert node.steps == rolls[0].steps[START:] and len(node.rolls) == len(some)


def test_a_control_point_that_is_not_there_is_refused(rolls: list[Trace]) -> None:
    with pytest.raises(DataError, match="no step after control point 99"):
        reroll_tree(rolls, 99)
