"""Previews that are left out because they cannot matter: what is decided without them is what is decided with them, to the last bit."""

# pyright: reportOptionalMemberAccess=false, reportOptionalOperand=false, reportOperatorIssue=false
# (what is None where a test expects something raises there, and the test fails as it should)

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from stir_core.config import DecodeConfig, GateConfig, with_changes
from stir_core.errors import DataError
from stir_core.intervene.controller import run_all
from stir_core.intervene.gate import contenders, decide
from stir_core.intervene.jobs import Job, Settings
from stir_core.intervene.memory import Memory, memory_of
from stir_core.intervene.replay import decide_again
from stir_core.models.loading import load_model
from stir_core.models.prompting import prompt_ids
from stir_core.records import Trace
from stir_core.store.runs import Run
from tests.intervene.test_controller import GATE, PROMPTS, D, make_memory, settings
from tests.intervene.test_gate import entry, evidence
from tests.intervene.test_policies import policies, weights
from tests.intervene.test_replay import recorded

ROUND = [-3.0, -1.0, -0.5, -0.25, 0.0]  # so that scores tie
LOGPROBS = some.lists(some.one_of(some.sampled_from(ROUND), some.floats(-8, 0, width=32)), min_size=1, max_size=4)
VALUES = some.one_of(some.sampled_from([0.5, 0.75, 1.0]), some.floats(-1, 1))


def mean(logprobs: list[float], n: int) -> float:
    return math.fsum(logprobs) / n


@given(
    values=some.lists(some.tuples(VALUES, LOGPROBS), min_size=1, max_size=6),
    nulls=some.lists(VALUES, max_size=2),
    of_null=LOGPROBS,
    gate=some.builds(
        GateConfig,
        beta=some.sampled_from([-1.0, 0.0, 0.5, 2.0]),
        rho=some.sampled_from([0.0, 0.1, 1.0, 3.0]),
        tau_null=some.sampled_from([0.0, 0.5, 2.0, 100.0]),
        k_scale=some.sampled_from([0.0, 0.3, 1.0]),
        candidates=some.integers(1, 6),
        preview_scale=some.sampled_from(["unit", "committed"]),
    ),
    seed=some.integers(0, 999),
)
def test_any_order_of_previews_ends_in_the_decision_of_all(values, nulls, of_null, gate, seed):
    """Tokens are shown in a random order, to contenders only, until there is none; some previews end early."""
    n, draw = gate.probe_tokens, random.Random(seed)
    names = [f"e{i}" for i in range(len(values))]
    logprobs = {name: tokens for name, (_, tokens) in zip(names, values, strict=True)}
    kinds = [entry(f"n{i}", value, None, "null") for i, value in enumerate(nulls)]
    whole = [entry(name, value, mean(logprobs[name], len(logprobs[name]))) for name, (value, _) in zip(names, values, strict=True)]
    whole_evidence = evidence(*whole, *kinds, null=mean(of_null, len(of_null)))
    truth = decide(whole_evidence, gate)
    shown = dict.fromkeys([*names, "null"], 0)

    def now():
        seen = []
        for each in whole:
            tokens = logprobs[each.entry_id][: shown[each.entry_id]]
            done = len(tokens) == len(logprobs[each.entry_id])
            seen.append(each if done else each.replaced(preview_logprob=None, preview_at_most=mean(tokens, n)))
        known = mean(of_null, len(of_null)) if shown["null"] == len(of_null) else None
        floor = None if known is not None else -8.0
        return evidence(*seen, *kinds, null=known).replaced(null_at_least=floor)

    while left := contenders(seen := now(), gate):
        least = seen.null_at_least if seen.null_logprob is None else seen.null_logprob
        bounds = [gate.beta * each.value + gate.rho * (each.preview_at_most - least) for each in left]
        assert bounds == sorted(bounds, reverse=True)
        choices = [each.entry_id for each in left] + (["null"] if shown["null"] < len(of_null) else [])
        shown[draw.choice(choices)] += 1
    if any(shown.values()):  # null's preview is decoded to its end wherever there is any
        shown["null"] = len(of_null)
        assert not contenders(now(), gate)
    partial = decide(now(), gate)
    assert (partial.chosen, partial.alpha, partial.score_null) == (truth.chosen, truth.alpha, truth.score_null)
    assert partial.chosen is None or partial.reason == truth.reason
    for few, every in zip(partial.scored, truth.scored, strict=True):
        assert few.score in (None, every.score) and (few.at_most is None or few.at_most >= every.score)
    if partial.reason.kind == "cannot_win":
        assert all(partial.reason.value >= each.score for each in truth.scored)


def saved(one: Trace, two: Trace) -> int:
    """Checks that answers with the previews needed and with all of them are the same to the last bit; preview tokens spared."""
    assert [one.token_ids, one.finish, one.text] == [two.token_ids, two.finish, two.text]
    for few, every in zip(one.steps, two.steps, strict=True):
        assert few.logprobs == every.logprobs
        a, b = few.decision, every.decision
        assert (a.chosen, a.alpha, a.score_null) == (b.chosen, b.alpha, b.score_null)
        for mine, yours in zip(a.scored, b.scored, strict=True):
            assert mine.score in (None, yours.score) and (mine.at_most is None or mine.at_most >= yours.score)
        assert few.evidence.null_logprob in (None, every.evidence.null_logprob)
        for mine, yours in zip(few.evidence.retrieved, every.evidence.retrieved, strict=True):
            assert (mine.entry_id, mine.sim) == (yours.entry_id, yours.sim)
            assert mine.preview_ids == yours.preview_ids[: len(mine.preview_ids)]
            assert mine.preview_at_most is not None or mine.preview_logprob == yours.preview_logprob
    return two.probe_tokens - one.probe_tokens


def both(model, gate: GateConfig, memory: Memory | None, prompts: dict[str, list[int]], how: Settings) -> int:
    """Preview tokens spared on these prompts, each answered alone."""
    spared = 0
    for name, ids in prompts.items():
        pair = [run_all(model, [Job(name, ids, with_changes(gate, previews=previews), memory)], how)[0] for previews in ("needed", "all")]
        spared += saved(*pair)
    return spared


GATES = [
    {},
    {"preview_scale": "committed"},
    {"persistence": "persistent"},
    {"rho": 1.0, "candidates": 5, "probe_tokens": 4},
    {"tau_null": 100.0},
    {"rho": 0.0},
    {"variant": "random_vector", "noise": "matched"},
]


@pytest.mark.parametrize("change", GATES, ids=str)
def test_decisions_texts_and_scores_are_those_of_all_previews(tiny, change):
    spared = both(tiny, with_changes(GATE, **change), make_memory(), PROMPTS, settings())
    assert spared > 0


def test_likewise_where_tokens_are_drawn(tiny):
    hot = Settings(DecodeConfig(max_new_tokens=40, temperature=1.0), 4, "e", seed=3)
    assert both(tiny, GATE, make_memory(), PROMPTS, hot) > 0


def test_an_organism_is_steered_the_same():
    run = Run.open("two_habits")
    model, memory = load_model(run.config.model.name), memory_of(run, run.library())
    prompts = {each.id: prompt_ids(model, each, run.config.task, room=90) for each in run.problems("steered")[:4]}
    gates = [with_changes(run.config.gate, rule=rule) for rule in ("score", "calibrated")]
    assert sum(both(model, gate, memory, prompts, Settings.of(run.config)) for gate in gates) > 0


def test_where_nothing_can_win_nothing_is_previewed(tiny):
    gate = with_changes(GATE, tau_null=100.0)
    (vanilla,) = run_all(tiny, [Job("a", PROMPTS["a"], GATE)], settings())
    (trace,) = run_all(tiny, [Job("a", PROMPTS["a"], gate, make_memory())], settings())
    assert trace.token_ids == vanilla.token_ids and trace.probe_tokens == 0
    asked = [step for step in trace.steps if step.evidence.retrieved]
    assert asked
    for step in asked:
        assert step.decision.reason.kind == "cannot_win" and step.decision.reason.limit == 100.0
        assert str(step.decision.reason).endswith("against 100.000")
        assert all(each.at_most is not None and each.at_most < 100.0 for each in step.decision.scored)


def test_a_gate_that_sees_every_preview_gets_every_preview(tiny):
    for change in ({"variant": "random_choice"}, {"rho": -0.5}):
        pair = [
            run_all(tiny, [Job("a", PROMPTS["a"], with_changes(GATE, **change, previews=previews), make_memory())], settings())[0]
            for previews in ("needed", "all")
        ]
        assert [step.evidence for step in pair[0].steps] == [step.evidence for step in pair[1].steps]
        assert any(step.evidence.null_logprob is not None for step in pair[0].steps)


def test_learned_gates_get_what_they_see(tiny):
    """A gate that scores every candidate gets every preview; the probe, which only lets the published gate act or not, those it needs."""
    plain = make_memory()
    actions = np.array([plain.action(each.id).numpy() for each in plain.entries])
    own = policies(weights("direct", -1e9, state=(0.0,) * 4), weights("probe", 0.0, state=(0.5, -0.5, 0.0, 0.0)))
    own = own._replace(axes=np.random.default_rng(1).normal(size=(2, D)))
    memory = Memory(plain.entries, plain.raw_keys.numpy(), actions, policies=own)
    assert both(tiny, with_changes(GATE, policy="probe"), memory, PROMPTS, settings()) > 0
    assert both(tiny, with_changes(GATE, policy="direct"), memory, PROMPTS, settings()) == 0


def test_a_preview_that_was_stopped_is_never_guessed():
    """Another gate is answered where the bound suffices, and refused where it does not; so is a gate that sees every preview."""
    stopped = entry("b", 0.6, None).replaced(preview_at_most=-0.25)
    seen = evidence(entry("a", 0.9, -1.0), stopped, entry("n", 0.5, None, "null"), null=-0.5)
    gate = GateConfig()
    assert decide(seen, gate).chosen == "a"
    assert decide(seen, gate).scored[1].at_most == pytest.approx(2 * 0.6 + 0.1 * 0.25)
    step = recorded().replaced(evidence=seen, decision=decide(seen, gate))
    assert decide_again(step, gate, with_changes(gate, rho=0.2)).decision.chosen == "a"
    for change, why in ({"rho": 3.0}, "may win"), ({"rho": -1.0}, "rho is below 0"):
        missing = decide_again(step, gate, with_changes(gate, **change)).missing
        assert missing is not None and missing.startswith("b was not previewed to its end") and why in missing
        with pytest.raises(DataError, match='gate\\.previews = "all"'):
            decide(seen, with_changes(gate, **change))
