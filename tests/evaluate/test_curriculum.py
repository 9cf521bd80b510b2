"""The curriculum on a run of the tiny model: what a share handles, how it is raised and refused, and that it resumes."""

# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# (what is None where a test expects something raises there, and the test fails as it should)

import math

import pytest

from stir_core.config import GateConfig
from stir_core.errors import ConfigError, DataError, StoreError
from stir_core.evaluate.curriculum import curriculum_markdown, raise_share
from stir_core.evaluate.decoders.internalise import ORDERS, ranked
from stir_core.evaluate.decoders.registry import method
from stir_core.evaluate.policy import learn
from stir_core.evaluate.runner import evaluate, settle
from stir_core.records import Decision, Reason, Scored, StepEvidence
from stir_core.requests import CurriculumRequest, EvaluationRequest, PolicyRequest
from stir_core.store.evaluations import EvaluationFolder

N = 12


@pytest.fixture
def learned(run, tiny_loaded):
    learn(run, tiny_loaded, PolicyRequest(n=10, further=4, rows=16), command="stir policy", environment={})
    return run


def answers(run, model, *methods):
    asked = EvaluationRequest(methods=methods, n=N, split="validation", rows=16)
    spec, problems = settle(run, model.identity, asked, command=None, environment={})
    evaluate(run, model, spec, problems)
    folder = EvaluationFolder(run, spec.label)
    return [{answer.problem_id: answer for answer in folder.answers(method(name).name)} for name in ("vanilla", *methods)]


def raised(run, model, **asked):
    return raise_share(run, model, CurriculumRequest(**{"n": N, "rows": 16, "step": 0.5, **asked}), environment={})


def test_no_step_is_handled_at_first_and_every_one_that_can_be_at_last(learned, tiny_loaded):
    vanilla, none, every = answers(learned, tiny_loaded, "internalise", "internalise:above=-1e9")
    assert {id_: answer.token_ids for id_, answer in none.items()} == {id_: answer.token_ids for id_, answer in vanilla.items()}
    kinds = {step.decision.reason.kind for answer in every.values() for step in answer.trace.steps}
    assert "handled" in kinds and "left_explicit" not in kinds
    assert sum(answer.facts["commits"] for answer in every.values()) > 0 == sum(answer.facts["commits"] for answer in none.values())


def test_a_skipped_step_is_not_written(learned, tiny_loaded):
    _, skipped = answers(learned, tiny_loaded, "internalise:above=-1e9,how=skip")
    handled = [step for answer in skipped.values() for step in answer.trace.steps if step.decision.chosen]
    assert handled and {step.text for step in handled} == {learned.config.delimiter}


def test_a_share_is_raised_while_it_holds(learned, tiny_loaded):
    found, path = raised(learned, tiny_loaded, margin=1.0)
    assert found.reached == 1 and [row.share for row in found.rows] == [0, 0.5, 0.5, 0.5, 1, 1, 1]
    assert [row.order for row in found.rows] == [None, *ORDERS, *ORDERS]
    assert found.rows[0].handled == 0 < found.rows[1].handled < found.rows[4].handled
    assert path.name == "curriculum-impulse" and found.verdict in curriculum_markdown(found)
    before = {file: file.stat().st_mtime_ns for file in (path / "answers").iterdir()}
    assert raised(learned, tiny_loaded, margin=1.0)[0] == found
    assert {file: file.stat().st_mtime_ns for file in (path / "answers").iterdir()} == before  # nothing was decoded again


def test_two_refusals_end_it(learned, tiny_loaded):
    found, _ = raised(learned, tiny_loaded, margin=0.0)  # so few problems hold nothing
    assert found.reached == 0 and [row.share for row in found.rows] == [0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert not any(row.holds for row in found.rows) and found.verdict.startswith("No share holds")


def test_without_learned_gates_it_is_refused(run, tiny_loaded):
    with pytest.raises(StoreError, match="stir policy"):
        raised(run, tiny_loaded)


@pytest.mark.parametrize("parameters", ["order=best", "how=hidden"])
def test_an_unknown_order_or_way_is_refused(learned, tiny_loaded, parameters):
    with pytest.raises(ConfigError, match="is unknown: take one of"):
        answers(learned, tiny_loaded, f"internalise:{parameters}")


def test_step_sampling_by_the_probe_chooses_otherwise_and_costs_a_read_a_sample(learned, tiny_loaded):
    _, likely, probed = answers(learned, tiny_loaded, "step_sampling", "step_sampling:choose=probe")
    assert {id_: answer.token_ids for id_, answer in likely.items()} != {id_: answer.token_ids for id_, answer in probed.items()}
    weights = learned.policies().weights
    assert set(weights) >= {"probe"} and any(weights["probe"].state)
    first = next(answer for answer in probed.values() if answer.facts["steps"] > 1)
    assert first.forward_tokens > first.tokens_used + first.probe_tokens


def test_step_sampling_by_a_probe_that_is_not_there_is_refused(run, tiny_loaded):
    with pytest.raises(StoreError, match="stir policy"):
        answers(run, tiny_loaded, "step_sampling:choose=probe")


def scored(name, advantage, score=1.0):
    return Scored(entry_id=name, value=1.0, gain=0.0, score=score, policy_score=advantage)


def test_ranks_by_hand():
    decision = Decision(
        chosen=None,
        alpha=0.0,
        score_null=0.0,
        scored=(scored("a", 0.1), scored("b", 0.3), scored("c", 0.9, score=-1.0)),  # c has no strength to inject
        reason=Reason(kind="policy_abstains"),
    )
    ranks = {
        (order, m): ranked(order, StepEvidence(m=m, position=9), decision, GateConfig(), seed=0, name="p")
        for order in ORDERS
        for m in (1, 2)
    }
    assert {rank.best.entry_id for rank in ranks.values() if rank} == {"b"}
    assert ranks["advantage", 1].score == ranks["advantage", 2].score == 0.3
    assert 0 <= ranks["random", 1].score < 1 and ranks["random", 1] != ranks["random", 2]
    assert -1 <= ranks["left", 1].score < 0 and math.floor(ranks["left", 2].score) == -2
    nothing = decision.replaced(scored=(scored("c", 0.9, score=-1.0),))
    assert ranked("left", StepEvidence(m=1, position=9), nothing, GateConfig(), seed=0, name="p") is None


def test_mined_problems_are_refused_without_a_flag_that_the_command_lacks(run, tiny_loaded):
    with pytest.raises(DataError, match=r"were mined .*: choose another split$"):
        raised(run, tiny_loaded, split="mine", n=2)
