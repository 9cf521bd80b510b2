"""Answers that begin with given tokens, decisions made for the gate, and prefixes taken over from a neighbour."""

import pytest
import torch

from stir_core.intervene.controller import run_all
from stir_core.intervene.jobs import NULL, Forced, Job, Settings
from stir_core.models import passes
from stir_core.records import Trace
from tests.intervene.test_controller import GATE, LAYER, PROMPTS, D, make_memory, settings


def full(tiny, gate=GATE, **changes) -> Trace:
    (trace,) = run_all(tiny, [Job("a", PROMPTS["a"], gate, make_memory())], settings(**changes))
    assert len(trace.steps) >= 3
    assert any(step.decision.chosen for step in trace.steps)
    return trace


def recorded(trace: Trace, memory):
    """The trace's own decisions, as something to force."""
    by_m = {step.evidence.m: step for step in trace.steps}

    def force(m: int) -> Forced | None:
        step = by_m[m]
        if step.decision.chosen is None:
            return NULL
        layer = next(entry.layer for entry in step.evidence.retrieved if entry.entry_id == step.decision.chosen)
        return Forced(step.decision.chosen, layer, memory.action(step.decision.chosen), step.decision.alpha)

    return force


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_continuing_after_given_steps_gives_the_recorded_rest(tiny, temperature):
    whole = settings()
    whole = whole._replace(decode=whole.decode.model_copy(update={"temperature": temperature}))
    (trace,) = run_all(tiny, [Job("a", PROMPTS["a"], GATE, make_memory())], whole)
    for done in range(1, len(trace.steps)):
        given = tuple(token for step in trace.steps[:done] for token in step.token_ids)
        (rest,) = run_all(tiny, [Job("a", PROMPTS["a"], GATE, make_memory(), given)], whole)
        assert rest.token_ids == trace.token_ids
        assert (rest.given, rest.tokens_used, rest.text) == (len(given), trace.tokens_used, trace.text)
        assert [step.decision.chosen for step in rest.steps] == [step.decision.chosen for step in trace.steps[done:]]
        assert rest.steps[0].step == done + 1


def test_given_tokens_may_end_inside_a_step(tiny):
    job = Job("a", PROMPTS["a"], GATE)
    (trace,) = run_all(tiny, [job], settings())
    ends = {sum(len(step.token_ids) for step in trace.steps[: i + 1]) for i in range(len(trace.steps))}
    for n in range(1, trace.tokens_used, 3):
        (rest,) = run_all(tiny, [Job("a", PROMPTS["a"], GATE, given=trace.token_ids[:n])], settings())
        assert rest.token_ids == trace.token_ids
        done = sum(end <= n for end in ends)
        assert [step.step for step in rest.steps] == [step.step for step in trace.steps[done:]]


def test_inside_a_step_nothing_is_steered_and_the_next_control_point_is(tiny):
    trace = full(tiny)
    first = len(trace.steps[0].token_ids)
    (rest,) = run_all(tiny, [Job("a", PROMPTS["a"], GATE, make_memory(), trace.token_ids[: first - 1])], settings())
    reason = rest.steps[0].evidence.not_retrieved
    assert reason is not None and reason.kind == "inside_step"
    assert rest.steps[0].decision.chosen is None
    assert rest.token_ids == trace.token_ids  # the first step is never steered, so its rest is the same


def test_forcing_the_recorded_decisions_gives_the_recorded_tokens(tiny):
    trace, memory = full(tiny), make_memory()
    (again,) = run_all(tiny, [Job("a", PROMPTS["a"], GATE, force=recorded(trace, memory))], settings())
    assert again.token_ids == trace.token_ids
    assert [(s.decision.chosen, s.decision.alpha) for s in again.steps] == [(s.decision.chosen, s.decision.alpha) for s in trace.steps]
    assert again.probe_tokens == 0


def test_forcing_nothing_is_vanilla_and_forcing_at_one_step_leaves_the_others_to_the_gate(tiny):
    trace, memory = full(tiny), make_memory()
    (vanilla,) = run_all(tiny, [Job("a", PROMPTS["a"], GATE)], settings())
    (nothing,) = run_all(tiny, [Job("a", PROMPTS["a"], GATE, memory, force=lambda m: NULL)], settings())
    assert nothing.token_ids == vanilla.token_ids
    at = next(step.evidence.m for step in trace.steps if step.decision.chosen)
    (denied,) = run_all(tiny, [Job("a", PROMPTS["a"], GATE, memory, force=lambda m: NULL if m == at else None)], settings())
    assert denied.steps[at].decision.chosen is None
    assert denied.steps[at].decision.reason.kind == "forced"
    assert any(step.decision.scored for step in denied.steps[at + 1 :])


def test_a_forced_vector_changes_what_follows_and_a_zero_one_does_not(tiny):
    (vanilla,) = run_all(tiny, [Job("a", PROMPTS["a"], GATE)], settings())
    spike = torch.full((D,), 4.0)

    def forced(vector, alpha):
        job = Job("a", PROMPTS["a"], GATE, force=lambda m: Forced("mine", LAYER, vector, alpha))
        return run_all(tiny, [job], settings())[0]

    assert forced(spike, 1.0).token_ids != vanilla.token_ids
    assert forced(spike, 1.0).steps[0].decision.chosen == "mine"  # control point 0 may be forced
    assert (forced(spike, 1.0).variant, vanilla.variant) == ("forced", "no_memory")
    assert forced(torch.zeros(D), 1.0).token_ids == vanilla.token_ids
    assert forced(spike, 0.0).steps[0].decision.chosen is None


@pytest.mark.parametrize("persistence", ["ephemeral", "persistent"])
@pytest.mark.parametrize("rows", [2, 3, 8])
def test_neighbours_share_a_prefix_and_nothing_else(tiny, persistence, rows):
    gate, memory = GATE.model_copy(update={"persistence": persistence}), make_memory()
    trace = full(tiny, gate)
    given = tuple(token for step in trace.steps[:2] for token in step.token_ids)
    sampled = Settings(settings().decode.model_copy(update={"temperature": 1.0}), 4, "e", rows=rows)
    jobs = [Job(f"roll{i}", PROMPTS["a"], gate, memory, given) for i in range(5)]
    jobs[2:2] = [Job("b", PROMPTS["b"], gate, memory)]
    together = run_all(tiny, jobs, sampled)
    alone = [run_all(tiny, [job], sampled)[0] for job in jobs]
    assert [t.token_ids for t in together] == [t.token_ids for t in alone]
    assert [t.forward_tokens for t in together] == [t.forward_tokens for t in alone]
    assert [t.flops for t in together] == [t.flops for t in alone]
    assert len({t.token_ids for t in together}) > 2


def count_fed(monkeypatch) -> list[int]:
    """Tokens of every feed that the scheduler runs, as they come."""
    fed: list[int] = []
    forward = passes.forward

    def counted(model, feeds, layers=()):
        fed.extend(len(feed.ids) for feed in feeds)
        return forward(model, feeds, layers)

    monkeypatch.setattr("stir_core.models.scheduler.forward", counted)
    return fed


def test_a_shared_prefix_is_run_once(tiny, monkeypatch):
    fed = count_fed(monkeypatch)
    prompt = list(range(3, 63))
    run_all(tiny, [Job(str(i), prompt, GATE) for i in range(4)], settings(2))
    assert sum(n for n in fed if n > 1) == len(prompt)
