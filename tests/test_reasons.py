"""Reasons of gate decisions: values with numbers, worded in one place, and parsed from the sentences that schema 1 stored."""

import json
from collections import Counter
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from stir_core.intervene.gate import decide
from stir_core.records import Decision, Manifest, Reason, ReasonKind, Scored, StepEvidence, Trace
from stir_core.store.jsonl import read_records
from stir_core.store.runs import Run

STORED = {  # sentence of schema 1 -> parsed reason
    "variant no_memory: always null": Reason(kind="vanilla"),
    "control point 0 is never steered": Reason(kind="start"),
    "control point 1 lies outside 3..6": Reason(kind="before_window", value=1, limit=3),
    "control point 7 lies outside 3..6": Reason(kind="after_window", value=7, limit=6),
    "no library": Reason(kind="no_library"),
    "2 entries at control point 7, min_entries is 5": Reason(kind="too_few_entries", value=2, limit=5),
    "best cosine 0.913 < min_sim 0.95": Reason(kind="below_min_sim", value=0.913, limit=0.95),
    "nothing retrieved": Reason(kind="nothing_retrieved"),
    "forced": Reason(kind="forced"),
    "inside a step": Reason(kind="inside_step"),
    "no corrective entry among the retrieved": Reason(kind="no_corrective"),
    "no candidate's preview was measured": Reason(kind="not_previewed"),
    "best p0003c 0.412 <= null 0.523": Reason(kind="not_above_null", entry_id="p0003c", value=0.412, limit=0.523),
    "best p0003c -0.412 < tau_null 1e-06": Reason(kind="below_tau_null", entry_id="p0003c", value=-0.412, limit=1e-6),
    "strength is -0.5: p0003c won at 0.412, nothing to inject": Reason(kind="no_strength", entry_id="p0003c", value=0.412),
    "p0003c 1.944 > null 1.871": Reason(kind="above_null", entry_id="p0003c", value=1.944, limit=1.871),
}
REWORDED = {"vanilla", "before_window", "after_window", "too_few_entries", "no_strength"}


@pytest.mark.parametrize("sentence", STORED)
def test_a_stored_sentence_is_parsed_into_its_kind_and_numbers(sentence):
    reason = Reason.model_validate(sentence)
    assert reason == STORED[sentence]
    assert (str(reason) == sentence) is (reason.kind not in REWORDED)
    assert Reason.model_validate_json(reason.model_dump_json()) == reason


def test_every_kind_has_a_stored_sentence_and_wording():
    later = {"abstains", "below_margin", "in_thinking", "in_final", "handled", "left_explicit", "cannot_win"}
    later |= {"policy_abstains", "ends_right", "policy_below", "policy_above"}  # kinds that came after schema 1 have no sentence
    assert {reason.kind for reason in STORED.values()} | later == set(get_args(ReasonKind))
    assert len({str(reason) for reason in STORED.values()}) == len(STORED)


@pytest.mark.parametrize("sentence", ["", "Forced", "forced ", "best p1 high <= null 0.5", "it felt right", "no library\n"])
def test_other_sentences_are_refused(sentence):
    with pytest.raises(ValidationError):
        Reason.model_validate(sentence)


@pytest.mark.parametrize("fields", [{"kind": "above_null", "entry_id": "a", "value": 1.0}, {"kind": "below_min_sim", "value": 0.5}])
def test_a_reason_needs_the_numbers_of_its_wording(fields):
    with pytest.raises(ValidationError, match="needs limit"):
        Reason.model_validate(fields)


def test_the_scores_of_a_stored_decision_are_exact():
    scored = (Scored(entry_id="a", value=0.9, gain=0.1, score=1.8123456), Scored(entry_id="b", value=0.8, gain=0.1, score=1.7))
    data = {"chosen": "a", "alpha": 1.0, "score_null": 1.7654321, "scored": scored, "reason": "a 1.812 > null 1.765"}
    assert Decision.model_validate(data).reason == Reason(kind="above_null", entry_id="a", value=1.8123456, limit=1.7654321)
    data |= {"chosen": None, "alpha": 0.0, "reason": "best a 1.812 < tau_null 2.5"}
    assert Decision.model_validate(data).reason == Reason(kind="below_tau_null", entry_id="a", value=1.8123456, limit=2.5)


def sides(data: Any) -> list[tuple[str, StepEvidence | Decision]]:
    """Every sentence in stored JSON, with the record that holds it."""
    if isinstance(data, list):
        return [side for item in data for side in sides(item)]
    if not isinstance(data, dict):
        return []
    below = [side for value in data.values() for side in sides(value)]
    if "not_retrieved" in data:
        return [*below, *([(data["not_retrieved"], StepEvidence.model_validate(data))] if data["not_retrieved"] else [])]
    return [*below, (data["reason"], Decision.model_validate(data))] if "score_null" in data else below


def test_every_stored_reason_of_the_embedded_run_is_parsed(embedded):
    lines = [line for path in sorted(embedded.path.rglob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()]
    stored = [side for line in lines if "score_null" in line for side in sides(json.loads(line))]
    kinds: Counter[str] = Counter()
    for sentence, record in stored:
        reason = record.not_retrieved if isinstance(record, StepEvidence) else record.reason
        assert reason is not None
        kinds[reason.kind] += 1
        assert reason.kind == STORED[sentence].kind if sentence in STORED else reason.entry_id or reason.kind == "too_few_entries"
        assert str(reason) == sentence or reason.kind in REWORDED
        if isinstance(record, Decision) and reason.entry_id is not None:
            scores = {scored.entry_id: scored.score for scored in record.scored}
            assert (reason.value, reason.limit) == (scores[reason.entry_id], record.score_null)
            assert (reason.kind == "above_null") is (record.chosen == reason.entry_id)
    assert set(kinds) == {"start", "vanilla", "no_library", "forced", "too_few_entries", "not_above_null", "above_null"}
    assert sum(kinds.values()) == len(stored) > 1000


def test_the_embedded_run_has_schema_1_and_todays_gate_reproduces_its_decisions(embedded):
    assert {embedded.manifest(stage).schema_version for stage in embedded.stages()} == {1}
    traces = read_records(embedded.folder("steered") / "steered.jsonl", Trace)
    steps = [(trace.id, step) for trace in traces for step in trace.steps]
    again = [decide(step.evidence, embedded.config.gate, seed=embedded.config.seed, name=name) for name, step in steps]
    assert again == [step.decision for _, step in steps]
    assert {step.decision.reason.kind for _, step in steps} >= {"start", "above_null", "not_above_null"}


def test_a_new_manifest_is_of_schema_2_and_a_later_one_is_refused(embedded):
    data = embedded.manifest("steered").model_dump(exclude={"schema_version"})
    assert Manifest.model_validate(data).schema_version == 2
    with pytest.raises(ValidationError):
        Manifest.model_validate(data | {"schema_version": 3})


@pytest.fixture(scope="module")
def embedded() -> Run:
    return Run.open("smollm2")
