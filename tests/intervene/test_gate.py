"""The gate as a pure function: ties, floors, thresholds, missing measurements and variants."""

import pytest

from stir_core.config import GateConfig
from stir_core.intervene.gate import decide, null_value, shortlist, steerable
from stir_core.records import EntryKind, Reason, Retrieved, StepEvidence

GATE = GateConfig()


def entry(name: str, value: float, preview: float | None = -1.0, kind: EntryKind = "corrective", quality: float = 1.0) -> Retrieved:
    return Retrieved(entry_id=name, kind=kind, layer=2, sim=value / quality, quality=quality, value=value, preview_logprob=preview)


def evidence(*retrieved: Retrieved, null: float | None = -1.0) -> StepEvidence:
    return StepEvidence(m=1, position=9, retrieved=retrieved, n_entries=len(retrieved), null_logprob=null)


def test_the_score_is_value_plus_preview_gain():
    decision = decide(evidence(entry("a", 0.9, -0.5), entry("n", 0.8, None, "null")), GATE)
    assert decision.chosen == "a"
    assert decision.score_null == pytest.approx(1.6)
    assert decision.scored[0].gain == pytest.approx(0.5)
    assert decision.alpha == decision.scored[0].score == pytest.approx(2 * 0.9 + 0.1 * 0.5)


def test_null_wins_ties():
    assert decide(evidence(entry("a", 0.8), entry("n", 0.8, None, "null")), GATE).chosen is None
    barely = decide(evidence(entry("a", 0.8 + 4e-13), entry("n", 0.8, None, "null")), GATE)
    assert barely.chosen is None and barely.reason.kind == "not_above_null"
    assert decide(evidence(entry("a", 0.8 + 1e-9), entry("n", 0.8, None, "null")), GATE).chosen == "a"


def test_the_null_value_is_never_negative():
    assert null_value((entry("n", -0.3, None, "null"),)) == 0.0
    decision = decide(evidence(entry("a", -0.1), entry("n", -0.3, None, "null")), GATE)
    assert decision.chosen is None and decision.score_null == 0.0


def test_a_score_below_tau_is_not_committed():
    decision = decide(evidence(entry("a", 0.4)), GATE.model_copy(update={"tau_null": 0.9}))
    assert decision.chosen is None and decision.reason == Reason(kind="below_tau_null", entry_id="a", value=0.8, limit=0.9)
    assert decide(evidence(entry("a", 0.45)), GATE.model_copy(update={"tau_null": 0.9})).chosen == "a"


def test_an_unmeasured_preview_is_never_the_best():
    decision = decide(evidence(entry("a", 0.9, None), entry("b", 0.5)), GATE)
    assert decision.chosen == "b"
    assert decision.scored[0].score is None
    assert decide(evidence(entry("a", 0.9, None)), GATE).reason == Reason(kind="not_previewed")
    assert decide(evidence(entry("a", 0.9), null=None), GATE).chosen is None


def test_only_the_shortlist_is_scored():
    many = tuple(entry(name, value) for name, value in [("a", 0.1), ("b", 0.5), ("c", 0.3), ("d", 0.4), ("e", 0.2)])
    assert [e.entry_id for e in shortlist(many, GATE)] == ["b", "d", "c", "e"]
    assert [e.entry_id for e in shortlist(many, GATE.model_copy(update={"candidates": 2}))] == ["b", "d"]


def test_equal_values_are_ordered_by_cosine_then_quality():
    close = entry("close", 0.5, quality=0.5)
    good = entry("good", 0.5, quality=1.0)
    assert [e.entry_id for e in shortlist((good, close), GATE)] == ["close", "good"]


def test_strength_zero_injects_nothing_and_says_so():
    decision = decide(evidence(entry("a", 0.9)), GATE.model_copy(update={"k_scale": 0.0}))
    assert decision.chosen is None and decision.alpha == 0 and decision.reason.kind == "no_strength"


def test_no_probing_needs_no_preview():
    decision = decide(evidence(entry("a", 0.9, None), null=None), GATE.model_copy(update={"variant": "no_probing"}))
    assert decision.chosen == "a" and decision.alpha == pytest.approx(1.8)


def test_random_choice_is_named_and_among_the_shortlist():
    many = [entry(name, 0.9) for name in "abcdef"]
    gate = GATE.model_copy(update={"variant": "random_choice"})
    picks = {decide(evidence(*many), gate, seed=seed, name="x").chosen for seed in range(40)}
    assert picks == set("abcd")
    assert decide(evidence(*many), gate, seed=7, name="x") == decide(evidence(*many), gate, seed=7, name="x")


@pytest.mark.parametrize(
    ("m", "changes", "allowed"),
    [
        (0, {}, False),
        (1, {}, True),
        (7, {}, True),
        (8, {}, False),
        (1, {"min_tool_m": 2}, False),
        (5, {"max_tool_m": 4}, False),
        (3, {"min_tool_m": 2, "max_tool_m": 4}, True),
        (3, {"variant": "no_memory"}, False),
    ],
)
def test_where_steering_is_allowed(m, changes, allowed):
    reason = steerable(m, GATE.model_copy(update=changes), 8)
    assert (reason is None) is allowed


def test_nothing_retrieved_carries_its_reason():
    reason = Reason(kind="below_min_sim", value=0.1, limit=0.5)
    decision = decide(StepEvidence(m=1, position=3, not_retrieved=reason), GATE)
    assert decision.chosen is None and decision.reason == reason and decision.score_null is None


def test_a_decision_can_be_taken_again_with_other_parameters():
    recorded = evidence(entry("a", 0.9, -3.0), entry("n", 0.85, None, "null"))
    assert decide(recorded, GATE).chosen is None
    assert decide(recorded, GATE.model_copy(update={"rho": 0.0})).chosen == "a"
