"""Branches against what is recorded and against the vanilla continuation: nothing changed is the recorded answer."""

from itertools import pairwise

import pytest

from stir_core.config import GateConfig
from stir_core.errors import DataError, SteeringError
from stir_core.intervene.branches import branch
from stir_core.intervene.changes import own_alpha, was_forced
from stir_core.intervene.controller import run_all
from stir_core.intervene.jobs import NULL, Job, Settings
from stir_core.records import StepEvent, TokenEvent, Trace, TraceEvent
from stir_core.requests import DENY, KEEP, Change
from tests.intervene.test_controller import GATE, PROMPTS, make_memory, settings

PERSISTENT = GATE.model_copy(update={"persistence": "persistent"})


def sampled(temperature: float) -> Settings:
    base = settings()
    return base._replace(decode=base.decode.model_copy(update={"temperature": temperature}), seed=3)


def recorded(tiny, gate: GateConfig = GATE, how: Settings | None = None, prompt: str = "a") -> Trace:
    (trace,) = run_all(tiny, [Job(prompt, PROMPTS[prompt], gate, make_memory())], how or settings())
    assert sum(step.decision.chosen is not None for step in trace.steps) >= 1
    return trace


def branches(tiny, trace: Trace, *changes: Change, gate: GateConfig = GATE, how: Settings | None = None) -> list[Trace]:
    events = list(branch(tiny, trace, changes, gate, make_memory(), how or settings()))
    found = {event.row: event.trace for event in events if isinstance(event, TraceEvent)}
    return [found[row] for row in range(len(changes))]


def decisions(trace: Trace) -> list:
    return [(step.decision.chosen, pytest.approx(step.decision.alpha, abs=1e-4)) for step in trace.steps]


def commits(trace: Trace) -> list[int]:
    return [step.evidence.m for step in trace.steps if step.decision.chosen is not None]


@pytest.mark.parametrize("gate", [GATE, PERSISTENT], ids=["ephemeral", "persistent"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("prompt", list(PROMPTS))
def test_nothing_changed_is_the_recorded_answer_at_every_control_point(tiny, gate, temperature, prompt):
    how = sampled(temperature)
    (trace,) = run_all(tiny, [Job(prompt, PROMPTS[prompt], gate, make_memory())], how)
    kept = branches(tiny, trace, *(Change(m=step.evidence.m) for step in trace.steps), gate=gate, how=how)
    for found in kept:
        assert found.token_ids == trace.token_ids
        assert decisions(found) == decisions(trace)
        assert [step.token_ids for step in found.steps] == [step.token_ids for step in trace.steps]
        assert (found.text, found.finish, found.tokens_used, found.given) == (trace.text, trace.finish, trace.tokens_used, 0)


def test_earlier_impulses_in_the_cache_matter(tiny):
    """Otherwise the persistent case above would prove nothing."""
    differing = 0
    for prompt in PROMPTS:
        trace = recorded(tiny, PERSISTENT, prompt=prompt)
        last = trace.steps[-1]
        given = trace.token_ids[: len(trace.token_ids) - len(last.token_ids)]
        (forgot,) = run_all(tiny, [Job(prompt, PROMPTS[prompt], PERSISTENT, make_memory(), given)], settings())
        (kept,) = branches(tiny, trace, Change(m=last.evidence.m), gate=PERSISTENT)
        assert kept.token_ids == trace.token_ids
        assert kept.steps[-1].logprobs == pytest.approx(last.logprobs, abs=1e-4)
        differing += forgot.steps[-1].logprobs != pytest.approx(last.logprobs, abs=1e-2)
    assert differing


@pytest.mark.parametrize("gate", [GATE, PERSISTENT], ids=["ephemeral", "persistent"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_forcing_what_the_gate_chose_at_its_own_strength_is_the_recorded_answer(tiny, gate, temperature):
    how = sampled(temperature)
    trace = recorded(tiny, gate, how)
    for m in commits(trace):
        chosen = trace.steps[m].decision.chosen
        (found,) = branches(tiny, trace, Change(m=m, to=chosen or ""), gate=gate, how=how)
        assert found.token_ids == trace.token_ids
        assert decisions(found) == decisions(trace)
        assert was_forced(found.steps[m]) and found.steps[m].evidence == trace.steps[m].evidence
        assert found.steps[m].decision.scored == trace.steps[m].decision.scored


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_denying_is_the_vanilla_continuation_and_strength_zero_is_denying(tiny, temperature):
    how = sampled(temperature)
    trace, changed = recorded(tiny, how=how), 0
    for m in commits(trace):
        given = tuple(token for step in trace.steps[:m] for token in step.token_ids)
        (vanilla,) = run_all(tiny, [Job("a", PROMPTS["a"], GATE, given=given)], how)
        chosen = trace.steps[m].decision.chosen or ""
        ways = (Change(m=m, to=DENY, then="null"), Change(m=m, to=chosen, alpha=0.0, then="null"))
        for found in branches(tiny, trace, *ways, how=how):
            assert found.token_ids == vanilla.token_ids
            assert [step.decision.chosen for step in found.steps[m:]] == [None] * (len(found.steps) - m)
            assert found.steps[:m] == trace.steps[:m]
        denied, zero = branches(tiny, trace, Change(m=m, to=DENY), Change(m=m, to=chosen, alpha=0.0), how=how)
        assert denied.token_ids == zero.token_ids and decisions(denied) == decisions(zero)
        changed += denied.token_ids != trace.token_ids
    assert changed


def test_after_the_change_the_gate_decides_as_in_an_answer_of_its_own(tiny):
    trace = recorded(tiny)
    m = commits(trace)[0]
    (found,) = branches(tiny, trace, Change(m=m, to=DENY))
    (straight,) = run_all(tiny, [Job("a", PROMPTS["a"], GATE, make_memory(), force=lambda at: NULL if at == m else None)], settings())
    assert found.token_ids == straight.token_ids
    assert decisions(found) == decisions(straight)


def test_another_candidate_and_another_strength(tiny):
    trace, memory = recorded(tiny), make_memory()
    m = commits(trace)[0]
    step = trace.steps[m]
    other = next(scored.entry_id for scored in step.decision.scored if scored.entry_id != step.decision.chosen)
    seen = {entry.entry_id for entry in step.evidence.retrieved}
    foreign = next(entry.id for entry in memory.entries if entry.m == m and entry.kind == "corrective" and entry.id not in seen)
    strong, unseen, back = branches(
        tiny, trace, Change(m=m, to=other, alpha=5.0), Change(m=m, to=foreign, alpha=1.5), Change(m=m, to=other, alpha=-5.0)
    )
    assert (strong.steps[m].decision.chosen, strong.steps[m].decision.alpha) == (other, 5.0)
    assert unseen.steps[m].decision.chosen == foreign
    assert len({strong.token_ids, back.token_ids, trace.token_ids}) == 3
    mine = own_alpha(step, other, GATE)
    if mine is not None:
        (own,) = branches(tiny, trace, Change(m=m, to=other))
        assert own.steps[m].decision.alpha == mine


@pytest.mark.parametrize("gate", [GATE, PERSISTENT], ids=["ephemeral", "persistent"])
def test_a_branch_is_branched_and_kept_like_any_answer(tiny, gate):
    trace = recorded(tiny, gate)
    m = commits(trace)[0]
    other = next(s.entry_id for s in trace.steps[m].decision.scored if s.entry_id != trace.steps[m].decision.chosen)
    (first,) = branches(tiny, trace, Change(m=m, to=other, alpha=3.0, then="null"), gate=gate)
    assert first.token_ids != trace.token_ids
    for found in branches(tiny, first, *(Change(m=step.evidence.m) for step in first.steps), gate=gate):
        assert found.token_ids == first.token_ids
        assert decisions(found) == decisions(first)
    (again,) = branches(tiny, first, Change(m=m, to=trace.steps[m].decision.chosen or ""), gate=gate)
    if own_alpha(trace.steps[m], trace.steps[m].decision.chosen or "", gate) == pytest.approx(trace.steps[m].decision.alpha):
        assert again.token_ids == trace.token_ids  # back on the recorded way


def test_branches_side_by_side_equal_each_alone_in_tokens_and_in_cost(tiny):
    for gate in (GATE, PERSISTENT):
        trace = recorded(tiny, gate)
        changes = [Change(m=m, to=to) for m in commits(trace) for to in (KEEP, DENY)]
        together = branches(tiny, trace, *changes, gate=gate)
        alone = [branches(tiny, trace, change, gate=gate)[0] for change in changes]
        assert [found.token_ids for found in together] == [found.token_ids for found in alone]
        assert [decisions(found) for found in together] == [decisions(found) for found in alone]
        assert [(found.forward_tokens, found.flops) for found in together] == [(found.forward_tokens, found.flops) for found in alone]


def test_a_branch_is_charged_for_what_it_ran(tiny):
    trace = recorded(tiny)
    kept = branches(tiny, trace, *(Change(m=step.evidence.m) for step in trace.steps))
    assert kept[0].forward_tokens == trace.forward_tokens and kept[0].flops == trace.flops
    assert all(earlier.probe_tokens >= later.probe_tokens for earlier, later in pairwise(kept))
    assert kept[-1].probe_tokens == trace.steps[-1].probe_tokens
    assert sum(step.probe_tokens for step in kept[-1].steps) == trace.probe_tokens


def test_events_are_those_of_the_new_steps_with_the_recorded_evidence_at_the_change(tiny):
    trace = recorded(tiny)
    m = commits(trace)[0]
    events = list(branch(tiny, trace, [Change(m=m, to=DENY)], GATE, make_memory(), settings()))
    steps = [event for event in events if isinstance(event, StepEvent)]
    assert steps[0].step == m + 1
    assert steps[0].evidence == trace.steps[m].evidence and steps[0].decision.chosen is None
    (whole,) = [event.trace for event in events if isinstance(event, TraceEvent)]
    given = sum(len(step.token_ids) for step in trace.steps[:m])
    assert tuple(event.token_id for event in events if isinstance(event, TokenEvent)) == whole.token_ids[given:]


def test_refusals_name_the_value_and_the_remedy(tiny):
    trace, memory = recorded(tiny), make_memory()
    m = commits(trace)[0]
    null = next(entry.id for entry in memory.entries if entry.m == m and entry.kind == "null")
    unseen = next(e.id for e in memory.entries if e.m == m and e.kind == "corrective" and own_alpha(trace.steps[m], e.id, GATE) is None)
    elsewhere = next(entry.id for entry in memory.entries if entry.m != m)
    for change, words in (
        (Change(m=99), "no step after control point 99: take 0 to"),
        (Change(m=m, to="p9"), "no entry 'p9' in the library"),
        (Change(m=m, to=elsewhere), "belongs to control point"),
        (Change(m=m, to=null), "null entry"),
        (Change(m=m, to=unseen), "measured no strength"),
    ):
        with pytest.raises(DataError, match=words):
            branches(tiny, trace, change)
    with pytest.raises(DataError, match="tokens are kept, and max_new_tokens is 3: allow more"):
        branches(tiny, trace, Change(m=trace.steps[-1].evidence.m), how=settings(3))
    with pytest.raises(DataError, match="empty library"):
        list(branch(tiny, trace, [Change(m=m, to=unseen)], GATE, None, settings()))
    later = [step.evidence.m for step in trace.steps if step.evidence.m > m][:1]
    with pytest.raises(SteeringError, match="compat"):
        branches(tiny, trace, *(Change(m=at) for at in later), gate=PERSISTENT, how=settings(compat=True))
