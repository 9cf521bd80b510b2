"""Learned gates at decision time: what they see, how they decide on recorded evidence, and where they cannot."""

# pyright: reportOptionalMemberAccess=false, reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false
# (what is None where a test expects something raises there, and the test fails as it should)

import numpy as np
import pytest

from stir_core.config import GateConfig
from stir_core.errors import DataError, StoreError
from stir_core.intervene.controller import run_all
from stir_core.intervene.gate import decide
from stir_core.intervene.jobs import Job
from stir_core.intervene.memory import Memory
from stir_core.intervene.replay import decide_again
from stir_core.policies import CANDIDATE_FEATURES, Policies, candidate_features
from stir_core.records import EntryKind, PolicyName, PolicyWeights, Retrieved, StepEvidence, StepTrace
from tests.intervene.test_controller import GATE, LAYER, PROMPTS, D, M, make_memory, settings

PUBLISHED = GateConfig()
SEEN = (1.0, -2.0)


def weights(policy: PolicyName, threshold: float | None, *, state=(0.0, 0.0), candidate=(0.0,) * 5, bias: float = 0.0) -> PolicyWeights:
    own = () if policy == "probe" else candidate
    return PolicyWeights(policy=policy, basis="b", layer=LAYER, bias=bias, state=state, candidate=own, threshold=threshold)


def policies(*fitted: PolicyWeights) -> Policies:
    return Policies("b", LAYER, np.zeros((M + 1, D)), np.zeros((0, D)), {each.policy: each for each in fitted})


def entry(name: str, sim: float, preview: float | None = -1.0, kind: EntryKind = "corrective") -> Retrieved:
    return Retrieved(entry_id=name, kind=kind, layer=LAYER, sim=sim, quality=0.5, value=0.5 * sim, preview_logprob=preview)


EVIDENCE = StepEvidence(
    m=1,
    position=9,
    retrieved=(entry("a", 0.9), entry("b", 0.8, -0.2), entry("n", 0.95, None, "null")),
    n_entries=3,
    null_logprob=-1.0,
    features=SEEN,
)


def test_a_gate_sees_the_state_and_its_candidates():
    rng = np.random.default_rng(0)
    means, axes, state = rng.normal(size=(3, D)), rng.normal(size=(2, D)), rng.normal(size=D)
    view = Policies("b", LAYER, means, axes, {})
    assert view.features(2, state, 0.7) == pytest.approx((*(axes @ (state - means[2])), 1.0, 0.7), abs=1e-5)
    assert view.features(9, state, 0.7)[:2] == pytest.approx(axes @ (state - means[0]), abs=1e-5)  # a point that was not mined
    scored = decide(EVIDENCE, PUBLISHED).scored
    by_name = dict(zip(CANDIDATE_FEATURES, candidate_features(scored[1], 0.95, EVIDENCE.retrieved), strict=True))
    assert by_name == pytest.approx(
        {"cosine": 0.8, "cosine above null": -0.15, "value": 0.4, "gain": 0.8, "margin": scored[1].score - 0.95}
    )


@pytest.mark.parametrize("policy", ["direct", "ips", "awr"])
def test_the_best_candidate_above_the_threshold_is_committed_at_the_published_strength(policy):
    gate, by_gain = PUBLISHED.model_copy(update={"policy": policy}), (0.0, 0.0, 0.0, 1.0, 0.0)
    decision = decide(EVIDENCE, gate, policies=policies(weights(policy, 0.5, candidate=by_gain)))
    assert decision.chosen == "b" and decision.alpha == decision.scored[1].score  # null wins by value, and the candidate by its gain
    assert decide(EVIDENCE, PUBLISHED).chosen is None
    assert [each.policy_score for each in decision.scored] == pytest.approx([0.0, 0.8])
    assert (decision.reason.kind, decision.reason.value, decision.reason.limit) == ("policy_above", pytest.approx(0.8), 0.5)
    below = decide(EVIDENCE, gate, policies=policies(weights(policy, 0.8, candidate=by_gain)))
    assert below.chosen is None and below.reason.kind == "policy_below" and below.alpha == 0
    assert str(below.reason) == "the learned gate scores b 0.800, not above 0.800"
    abstaining = decide(EVIDENCE, gate, policies=policies(weights(policy, None, candidate=by_gain)))
    assert abstaining.chosen is None and abstaining.reason.kind == "policy_abstains"


def test_the_probe_leaves_alone_what_ends_right_and_the_rest_to_the_published_gate():
    gate = PUBLISHED.model_copy(update={"policy": "probe"})
    evidence = EVIDENCE.replaced(retrieved=EVIDENCE.retrieved[:2])
    valued = decide(evidence, PUBLISHED)
    assert valued.chosen is not None
    sure = decide(evidence, gate, policies=policies(weights("probe", 0.9, state=(1.0, 0.0))))
    assert sure.chosen is None and (sure.reason.kind, sure.reason.value) == ("ends_right", 1.0)
    assert decide(evidence, gate, policies=policies(weights("probe", 1.1, state=(1.0, 0.0)))) == valued
    assert policies(weights("probe", 0.9, state=(1.0, 0.5), bias=3.0)).log_odds(SEEN) == 3.0


def test_nothing_to_inject_is_null_under_every_gate():
    for policy in ("probe", "direct", "ips", "awr"):
        gate = PUBLISHED.model_copy(update={"policy": policy, "k_scale": 0.0})
        assert decide(EVIDENCE, gate, policies=policies(weights(policy, -1e9))).chosen is None


def test_a_recorded_step_is_decided_again_under_any_gate_of_the_run():
    decision = decide(EVIDENCE, PUBLISHED)
    step = StepTrace(step=2, evidence=EVIDENCE, decision=decision, token_ids=(1,), text="a", logprobs=(-1.0,), probe_tokens=12)
    own = policies(weights("direct", 0.5, candidate=(0.0, 0.0, 0.0, 1.0, 0.0)))
    direct = PUBLISHED.model_copy(update={"policy": "direct"})
    assert decide_again(step, PUBLISHED, direct, policies=own).decision.chosen == "b"
    assert "no such gate was learned" in decide_again(step, PUBLISHED, direct).missing
    blind = step.replaced(evidence=EVIDENCE.replaced(features=None))
    assert "without the features that direct sees" in decide_again(blind, PUBLISHED, direct, policies=own).missing
    with pytest.raises(DataError, match="no such gate was learned"):
        decide(EVIDENCE, direct)


def test_the_loop_records_features_and_decides_by_the_learned_gate(tiny):
    plain = make_memory()
    axes = np.random.default_rng(1).normal(size=(2, D))
    own = policies(weights("direct", -1e9, state=(0.0,) * 4))._replace(axes=axes)
    memory = Memory(plain.entries, plain.raw_keys.numpy(), np.array([plain.action(e.id).numpy() for e in plain.entries]), policies=own)
    gate = GATE.model_copy(update={"policy": "direct"})
    jobs = [Job(name, ids, gate, memory) for name, ids in PROMPTS.items()]
    for trace in run_all(tiny, jobs, settings()):
        for step in trace.steps:
            seen = step.evidence
            assert (seen.features is not None) == bool(seen.retrieved)
            if seen.features:
                assert seen.features[2] == pytest.approx(seen.m / M) and len(seen.features) == 4 and seen.features[3] > 0
            assert decide(seen, gate, name=trace.id, policies=own) == step.decision
    with pytest.raises(StoreError, match="make it with `stir policy RUN`"):
        run_all(tiny, [Job("a", PROMPTS["a"], gate, plain)], settings())
    old = run_all(tiny, [Job("a", PROMPTS["a"], GATE, plain)], settings())[0]
    assert all("features" not in step.evidence.model_dump() for step in old.steps)  # as before there were learned gates
