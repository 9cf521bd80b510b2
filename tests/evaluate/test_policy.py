"""Learned gates on a run of the tiny model: what is drawn and continued, that it resumes, and that the gates then decide."""

# pyright: reportOptionalMemberAccess=false, reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false
# (what is None where a test expects something raises there, and the test fails as it should)

import pytest

from stir_core.config import with_changes
from stir_core.errors import BudgetSpent, StoreError
from stir_core.evaluate import policy
from stir_core.evaluate.effects import NULL_ARM, by_arm
from stir_core.evaluate.libraries import libraries_of
from stir_core.evaluate.policy import learn
from stir_core.evaluate.runner import evaluate, settle
from stir_core.intervene.gate import decide
from stir_core.intervene.session import open_session
from stir_core.requests import EvaluationRequest, PolicyRequest
from stir_core.store.policies import PolicyFolder
from stir_core.store.runs import Run
from tests.evaluate.conftest import lines

SMALL = {"n": 10, "further": 4, "rows": 16}


def learned(run, model, **asked):
    return learn(run, model, PolicyRequest(**{**SMALL, **asked}), command="stir policy", environment={})


def test_one_decision_of_a_rollout_is_drawn_and_its_outcome_and_that_of_null_are_measured(run, tiny_loaded):
    report, path = learned(run, tiny_loaded)
    folder = PolicyFolder(run)
    traces, rolls = {trace.id: trace for trace in folder.traces()}, by_arm(folder.rolls())
    mined = {problem.id for problem in run.problems()}
    assert path == run.path / "policy" and len(traces) == 14 and not mined & set(traces)
    decisions = folder.decisions()
    logged = {problem.id for problem in folder.problems()[:10]}
    assert decisions and {each.problem_id for each in decisions} <= logged
    for each in decisions:
        step = next(step for step in traces[each.problem_id].steps if step.m == each.m)
        assert sum(each.propensities.values()) == pytest.approx(1) and each.propensity > 0
        assert each.chosen == (step.decision.chosen or NULL_ARM) and len(step.evidence.features) == len(
            run.policies().weights["probe"].state
        )
        uniform = report.spec.eps / len(each.propensities)
        assert each.propensities[each.chosen] == pytest.approx(uniform + 1 - report.spec.eps)
        assert all(set(rolls[(each.problem_id, each.m, None), arm]) == {0} for arm in (each.arm, NULL_ARM))  # greedy: one continuation
        recorded = rolls.get(((each.problem_id, each.m, None), each.chosen))
        if recorded is not None:  # what the gate chose is the recorded answer
            trace = traces[each.problem_id]
            assert recorded[0].tokens == trace.tokens_used and recorded[0].correct == trace.verdict.correct and recorded[0].decoded == 0
    assert [gate.name for gate in report.gates][:6] == ["value", "null", "probe", "direct", "ips", "awr"]
    assert all(gate.on_policy is not None for gate in report.gates[:6]) and all(gate.on_policy is None for gate in report.gates[6:])
    assert all(gate.truth is None for gate in report.gates)  # no organism


def test_sampled_rollouts_have_every_continuation(run, tiny_loaded):
    report, _ = learned(run, tiny_loaded, temperature=1.0, rolls=3, n=6, further=2)
    rolls = by_arm(PolicyFolder(run).rolls())
    assert report.spec.rolls == 3 and rolls and all(set(reps) == {0, 1, 2} for reps in rolls.values())


def test_an_interrupted_study_continues_and_ends_in_the_same_files(run, tiny_loaded, tmp_path):
    whole = Run.open(run.path)
    learned(whole, tiny_loaded)
    expected = {file.name: file.read_bytes() for file in (run.path / "policy").iterdir()}
    (run.path / "policy").rename(tmp_path / "first")

    def stop(progress):
        if progress.stage == "decisions" and progress.done >= 2:
            raise BudgetSpent("enough")

    with pytest.raises(BudgetSpent):
        learn(run, tiny_loaded, PolicyRequest(**SMALL), command="stir policy", environment={}, report=stop)
    assert lines(run.path / "policy.part")["traces.jsonl"] == 14 and run.policies() is None
    learned(run, tiny_loaded)
    again = {file.name: file.read_bytes() for file in (run.path / "policy").iterdir()}
    assert again["decisions.jsonl"] == expected["decisions.jsonl"] and again["weights.jsonl"] == expected["weights.jsonl"]
    assert again["report.json"] == expected["report.json"]
    with pytest.raises(StoreError, match=r"eps = 0\.5, not 0\.3: add --fresh"):
        learned(run, tiny_loaded, eps=0.3)


def acting(run, threshold=-1e9, names=("probe", "direct", "ips", "awr")):
    """Set the thresholds of a run's learned gates, so that they act wherever they can."""
    folder = run.path / "policy"
    weights = [
        each.replaced(threshold=1e9 if name == "probe" else threshold) for name, each in run.policies().weights.items() if name in names
    ]
    (folder / "weights.jsonl").write_text("".join(each.model_dump_json() + "\n" for each in weights))
    (folder / "digests.json").unlink()


def test_a_learned_gate_is_a_method_and_a_session_and_its_decisions_are_pure(run, tiny_loaded):
    request = EvaluationRequest(methods=("stir", "stir:policy=direct"), n=2, rows=8)
    spec, problems = settle(run, tiny_loaded.identity, request, command=None, environment={})
    with pytest.raises(StoreError, match="no such gate was learned for this library: make it with `stir policy RUN`"):
        evaluate(run, tiny_loaded, spec, problems)
    learned(run, tiny_loaded)
    acting(run)
    spec, problems = settle(run, tiny_loaded.identity, request, command=None, environment={})
    assert spec.policies == run.policies_digest()
    report, _ = evaluate(run, tiny_loaded, spec, problems)
    assert [method.name for method in report.methods] == ["vanilla", "stir", "stir:policy=direct"]
    gate = with_changes(run.config.gate, policy="direct")
    trace = open_session(run, tiny_loaded).answer(problems[0], gate).steered
    policies = libraries_of(run)("basis").policies
    kinds = set()
    for step in trace.steps:
        assert decide(step.evidence, gate, name=trace.id, policies=policies) == step.decision
        kinds.add(step.decision.reason.kind)
        if step.decision.reason.kind == "policy_above":
            best = max(step.decision.scored, key=lambda each: each.policy_score)
            assert step.decision.chosen == best.entry_id and step.decision.alpha == pytest.approx(best.score)
    assert "policy_above" in kinds


def test_gates_of_another_basis_are_not_used(run, tiny_loaded, monkeypatch):
    learned(run, tiny_loaded)
    assert run.policies() is not None
    monkeypatch.setattr(Run, "digest", lambda self, stage: "another")
    assert run.policies() is None


def test_a_run_without_decisions_to_draw_is_refused(run, tiny_loaded, monkeypatch):
    monkeypatch.setattr(policy, "drawable", lambda trace, gate, budget: [])
    with pytest.raises(policy.DataError, match="no answer has a control point"):
        learned(run, tiny_loaded)
