"""Deciding a recorded step again: against decoding with the other gate, against a rival written as a loop, and where it must refuse."""

# pyright: reportOptionalMemberAccess=false, reportOptionalOperand=false, reportOperatorIssue=false
# (what is None where a test expects something raises there, and the test fails as it should)

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from stir_core.config import GateConfig, with_changes
from stir_core.intervene.controller import run_all
from stir_core.intervene.gate import TIE, decide
from stir_core.intervene.jobs import Job
from stir_core.intervene.memory import Memory
from stir_core.intervene.replay import ANSWERABLE, decide_again, gate_was_asked
from stir_core.records import Decision, MarginThreshold, Reason, Retrieved, StepEvidence, StepTrace
from stir_core.store.runs import Run
from tests.intervene.test_controller import GATE as OWN
from tests.intervene.test_controller import PROMPTS, make_memory, settings

GATE = with_changes(OWN, previews="all")
CHANGES = [
    {"beta": 0.5},
    {"rho": 3.0},
    {"tau_null": 0.5},
    {"min_sim": 0.3},
    {"min_sim": 2.0},
    {"k_scale": 0.0},
    {"min_entries": 99},
    {"candidates": 1},
    {"candidates": 5},
    {"k_retrieve": 2},
    {"k_retrieve": 4, "beta": 0.3},
    {"k_retrieve": 8},
    {"probe_tokens": 1},
    {"preview_scale": "committed"},
]


def traces(tiny, gate):
    return run_all(tiny, [Job(name, ids, gate, make_memory()) for name, ids in PROMPTS.items()], settings())


def differ(one: Decision, two: Decision) -> bool:
    return (one.chosen, one.alpha) != (two.chosen, two.alpha)


def names(decision: Decision) -> list[str | None]:
    return [decision.chosen, *(scored.entry_id for scored in decision.scored)]


def numbers(decision: Decision) -> list[float]:
    scores = [number for scored in decision.scored for number in (scored.value, scored.gain or 0.0, scored.score or 0.0)]
    return [decision.alpha, decision.score_null or 0.0, *scores]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_deciding_again_equals_decoding_again(tiny, change):
    """Up to the first step that is decided otherwise the text is the recorded one, so a fresh decoding must decide the same."""
    gate = GATE.model_copy(update=change)
    for old, new in zip(traces(tiny, GATE), traces(tiny, gate), strict=True):
        for step, fresh in zip(old.steps, new.steps, strict=False):
            again = decide_again(step, GATE, gate, name=old.id)
            if again.decision is None:
                break
            assert numbers(again.decision) == pytest.approx(numbers(fresh.decision), abs=1e-4)  # other neighbours, other roundings
            assert names(again.decision) == names(fresh.decision)
            if differ(again.decision, step.decision):
                break


def test_the_recordings_own_gate_gives_the_recorded_decisions(tiny):
    for gate in (GATE, GATE.model_copy(update={"preview_scale": "committed"}), GATE.model_copy(update={"variant": "random_choice"})):
        steps = [(trace.id, step) for trace in traces(tiny, gate) for step in trace.steps]
        assert [decide_again(step, gate, gate, name=name).decision for name, step in steps] == [step.decision for _, step in steps]
        assert any(step.decision.chosen for _, step in steps)


KNOWN = {"candidates": 1}, {"k_retrieve": 2}, {"min_sim": 2.0}, {"min_entries": 99}
UNKNOWN = {
    "was not previewed": {"candidates": 5},
    "k_retrieve 9 asks for more": {"k_retrieve": 9},
    "not 1": {"probe_tokens": 1},
    "another strength": {"preview_scale": "committed"},
    "persistence changes": {"persistence": "persistent"},
    "variant changes": {"variant": "no_probing"},
}


def recorded(gate: GateConfig = GATE, *, sims=(0.9, 0.8, 0.7, 0.6, 0.5, 0.4), n_entries: int = 8) -> StepTrace:
    entries = tuple(
        Retrieved(entry_id=f"e{i}", kind="corrective", layer=2, sim=sim, quality=1.0, value=sim, preview_logprob=-1.0 if i < 3 else None)
        for i, sim in enumerate(sims)
    )
    evidence = StepEvidence(m=1, position=9, retrieved=entries, n_entries=n_entries, null_logprob=-1.2)
    return StepTrace(
        step=2, evidence=evidence, decision=decide(evidence, gate), token_ids=(1,), text="a", logprobs=(-1.0,), probe_tokens=12
    )


@pytest.mark.parametrize("change", KNOWN, ids=str)
def test_less_than_was_measured_is_in_the_recording(change):
    assert decide_again(recorded(), GATE, GATE.model_copy(update=change)).missing is None


OTHER = {
    "variant": "no_probing",
    "rule": "calibrated",
    "min_tool_m": 1,
    "max_tool_m": 3,
    "persistence": "persistent",
    "noise": "matched",
    "phase": "both",
    "search": "approximate",
}


def test_every_parameter_of_the_gate_is_in_the_table_and_those_that_need_the_model_get_no_decision():
    assert set(ANSWERABLE) == set(GateConfig.model_fields)
    assert {key for key, reach in ANSWERABLE.items() if reach == "model"} == set(OTHER)
    for key, value in OTHER.items():
        again = decide_again(recorded(), GATE, GATE.model_copy(update={key: value}))
        assert again.decision is None and again.missing == f"{key} changes what is measured"


@pytest.mark.parametrize("words", UNKNOWN)
def test_more_than_was_measured_needs_the_model(words):
    again = decide_again(recorded(), GATE, GATE.model_copy(update=UNKNOWN[words]))
    assert again.decision is None and words in again.missing


def test_an_unpreviewed_entry_that_moves_up_needs_the_model():
    """Of fewer retrieved entries another one can be among the best by value, and it was never previewed."""
    entries = [(0.9, 0.1), (0.8, 0.2), (0.7, 1.0), (0.6, 1.0), (0.5, 1.0)]
    retrieved = tuple(
        Retrieved(entry_id=f"e{i}", kind="corrective", layer=2, sim=sim, quality=q, value=sim * q, preview_logprob=-1.0 if i > 1 else None)
        for i, (sim, q) in enumerate(entries)
    )
    evidence = StepEvidence(m=1, position=9, retrieved=retrieved, n_entries=5, null_logprob=-1.2)
    step = recorded().model_copy(update={"evidence": evidence, "decision": decide(evidence, GATE)})
    assert decide_again(step, GATE, GATE.model_copy(update={"k_retrieve": 3})).missing == "e1, e0 was not previewed"


def test_a_threshold_that_prevented_retrieval():
    strict = GATE.model_copy(update={"min_sim": 0.95})
    shut = StepEvidence(m=1, position=9, n_entries=8, not_retrieved=Reason(kind="below_min_sim", value=0.9, limit=0.95))
    step = recorded().model_copy(update={"evidence": shut, "decision": decide(shut, strict)})
    assert decide_again(step, strict, GATE).decision is None
    assert decide_again(step, strict, strict.model_copy(update={"min_sim": 0.99})).decision.chosen is None
    assert decide_again(step, strict, GATE.model_copy(update={"min_entries": 99})).decision.chosen is None
    few = shut.model_copy(update={"n_entries": 3, "not_retrieved": Reason(kind="too_few_entries", value=3, limit=5)})
    step, five = step.model_copy(update={"evidence": few}), GATE.model_copy(update={"min_entries": 5})
    assert decide_again(step, five, five.model_copy(update={"min_sim": -1.0})).decision.chosen is None
    assert decide_again(step, five, GATE).decision is None


def test_decisions_not_made_by_the_gate_stay():
    first = StepEvidence(m=0, position=3, not_retrieved=Reason(kind="start"))
    nothing = decide(first, GATE)
    step = recorded().model_copy(update={"evidence": first, "decision": nothing})
    assert not gate_was_asked(step) and gate_was_asked(recorded())
    assert decide_again(step, GATE, GATE.model_copy(update={"min_sim": -1.0})).decision == nothing
    decision = Decision(chosen="x", alpha=1.0, score_null=None, reason=Reason(kind="forced"))
    forced = StepEvidence(m=1, position=3, not_retrieved=Reason(kind="forced"))
    for evidence in (forced, recorded().evidence):
        step = recorded().model_copy(update={"evidence": evidence, "decision": decision})
        assert not gate_was_asked(step)
        assert decide_again(step, GATE, GATE.model_copy(update={"beta": 0.1})).decision == decision


def rival(step: StepTrace, gate: GateConfig) -> str | None:
    """The gate as a plain loop over what was retrieved, sharing no code with it."""
    seen = step.evidence.retrieved[: gate.k_retrieve]
    if step.evidence.retrieved[0].sim < gate.min_sim:
        return None
    best, winner, null = None, None, 0.0
    for entry in seen:
        null = max(null, gate.beta * entry.value) if entry.kind == "null" else null
    if gate.beta < 0:
        null = gate.beta * max([0.0] + [entry.value for entry in seen if entry.kind == "null"])
    for entry in sorted((e for e in seen if e.kind == "corrective"), key=lambda e: -e.value)[: gate.candidates]:
        score = gate.beta * entry.value + gate.rho * (entry.preview_logprob - step.evidence.null_logprob)
        if best is None or score > best:
            best, winner = score, entry.entry_id
    if best is None or best <= null + TIE or best < gate.tau_null or gate.k_scale * best <= 0:
        return None
    return winner


@given(
    rows=some.lists(some.tuples(some.floats(-1, 1), some.floats(0.1, 1), some.floats(-3, 0), some.booleans()), min_size=1, max_size=8),
    beta=some.floats(-1, 4),
    rho=some.floats(0, 3),
    tau=some.floats(0, 2),
    floor=some.floats(-1, 1),
    k=some.integers(1, 8),
    width=some.integers(1, 8),
    strength=some.floats(0, 2),
)
def test_it_agrees_with_a_plain_loop(rows, beta, rho, tau, floor, k, width, strength):
    wide = GateConfig(k_retrieve=8, candidates=8, min_sim=-1.0)
    retrieved = tuple(
        Retrieved(
            entry_id=f"e{i}", kind="null" if null else "corrective", layer=1, sim=sim, quality=q, value=sim * q, preview_logprob=preview
        )
        for i, (sim, q, preview, null) in enumerate(sorted(rows, key=lambda row: -row[0]))
    )
    evidence = StepEvidence(m=1, position=9, retrieved=retrieved, n_entries=len(rows), null_logprob=-1.0)
    step = recorded().model_copy(update={"evidence": evidence, "decision": decide(evidence, wide)})
    changes = {"beta": beta, "rho": rho, "tau_null": tau, "min_sim": floor, "k_retrieve": k, "candidates": width, "k_scale": strength}
    gate = wide.model_copy(update=changes)
    again = decide_again(step, wide, gate)
    assert again.missing is None
    assert again.decision.chosen == rival(step, gate)


@pytest.mark.parametrize("k", [6, 99])
@pytest.mark.parametrize("nearest", [1, 3])
@pytest.mark.parametrize("threshold", [None, -0.5, 0.0, 0.02])
def test_the_calibrated_rule_is_replayed_as_the_memory_applies_it(nearest, threshold, k):
    """States near every key of a real library: the recording of the published rule tells what the calibrated one retrieves."""
    run = Run.open("two_habits")
    library, space, own, m = run.library(), run.key_space(), run.config.gate, 2
    known = MarginThreshold(m=m, layer=1, states=9, problems=9, auc=0.9, low=0.8, high=1.0, nearest=nearest, threshold=threshold)
    memory = Memory(*library, space, [known], None)
    published = with_changes(own, variant="no_probing", rule="score", k_retrieve=k)
    calibrated = with_changes(published, rule="calibrated")
    recorded = next(step for trace in run.traces() for step in trace.steps if step.m == m and step.evidence.retrieved)
    rng, kinds = np.random.default_rng(0), set()
    for key in (key for entry, key in zip(library.entries, library.keys, strict=True) if entry.m == m):
        states = {1: torch.tensor(key + 0.1 * np.linalg.norm(key) * rng.standard_normal(len(key)) / len(key) ** 0.5, dtype=torch.float32)}
        retrieved, _ = memory.retrieve(m, states, published)
        evidence = StepEvidence(m=m, position=9, retrieved=retrieved, n_entries=memory.count(m, None))
        step = recorded.replaced(evidence=evidence, decision=decide(evidence, published))
        again = decide_again(step, published, calibrated, margins=[known])
        truth, reason = memory.retrieve(m, states, calibrated)
        if again.decision is None:
            assert k < memory.count(m, None)
            continue
        assert again.evidence.retrieved == truth
        assert (again.evidence.not_retrieved is None) == (reason is None)
        assert reason is None or again.evidence.not_retrieved.kind == reason.kind
        kinds.add(reason.kind if reason else "told")
    assert kinds == {"abstains"} if threshold is None else "abstains" not in kinds and (kinds or k == 6)


def test_without_margins_the_calibrated_rule_needs_the_model(tiny):
    step = next(step for trace in traces(tiny, GATE) for step in trace.steps if step.evidence.retrieved)
    assert decide_again(step, GATE, with_changes(GATE, rule="calibrated")).missing == "rule changes what is measured"
