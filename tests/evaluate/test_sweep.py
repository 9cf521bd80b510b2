"""Sweeps: what recorded evidence says about another gate, against decoding with that gate."""

# pyright: reportOptionalMemberAccess=false
# (what is None where a test expects something raises there, and the test fails as it should)

import pytest

from stir_core.config import DecodeConfig, GateConfig, with_changes
from stir_core.errors import ConfigError
from stir_core.evaluate.sweep import GridPoint, SweepConfig, changed, choose, grid_points, replay, sweep_points
from stir_core.intervene.controller import run_all
from stir_core.intervene.jobs import Job, Settings
from stir_core.tasks import load_problems
from tests.intervene.test_controller import GATE, PROMPTS, M, make_memory, settings

CHANGES = [
    {"beta": 0.5},
    {"rho": 3.0},
    {"tau_null": 0.5},
    {"tau_null": 9.0},
    {"min_sim": 0.3},
    {"k_scale": 0.2},
    {"k_scale": 0.0},
    {"min_entries": 99},
]


def traces(tiny, gate, given=None):
    jobs = [Job(name, ids, gate, make_memory(), (given or {}).get(name, ())) for name, ids in PROMPTS.items()]
    return run_all(tiny, jobs, settings())


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_the_replayed_beginning_is_what_the_other_gate_decodes(tiny, change):
    gate = GATE.model_copy(update=change)
    recorded, fresh = traces(tiny, GATE), traces(tiny, gate)
    for old, new in zip(recorded, fresh, strict=True):
        held = replay(old, GATE, gate, seed=0)
        assert held is not None
        assert new.token_ids[: len(held.given)] == held.given
        assert [s.probe_tokens for s in held.steps] == [s.probe_tokens for s in new.steps[: len(held.steps)]]
        assert [s.decision for s in new.steps[: len(held.steps)]] == [
            s.decision.model_copy(update={"reason": n.decision.reason}) for s, n in zip(held.steps, new.steps, strict=False)
        ] or any(s.decision.reason.kind == "below_min_sim" for s in new.steps)
        if held.whole:
            assert new.token_ids == old.token_ids
        else:
            differing = new.steps[len(held.steps)].decision
            was = old.steps[len(held.steps)].decision
            assert (differing.chosen, differing.alpha) != (was.chosen, was.alpha)


def test_going_on_from_a_replayed_beginning_gives_the_fresh_answer(tiny):
    gate = GATE.model_copy(update={"tau_null": 0.5, "rho": 2.0})
    held = {t.id: replay(t, GATE, gate, seed=0) for t in traces(tiny, GATE)}
    begun = traces(tiny, gate, {name: found.given for name, found in held.items() if not found.whole})
    for one, two in zip(begun, traces(tiny, gate), strict=True):
        assert one.token_ids == two.token_ids


@pytest.mark.parametrize(
    "change", [{"candidates": 1}, {"probe_tokens": 1}, {"k_retrieve": 2}, {"persistence": "persistent"}, {"variant": "no_probing"}]
)
def test_what_changes_the_evidence_is_not_replayed(tiny, change):
    assert replay(traces(tiny, GATE)[0], GATE, GATE.model_copy(update=change), seed=0) is None


@pytest.mark.parametrize("change", [{"k_scale": 0.1}, {"beta": 0.5}])
def test_strength_counts_as_evidence_where_previews_run_at_the_committed_strength(tiny, change):
    gate = GATE.model_copy(update={"preview_scale": "committed"})
    assert replay(traces(tiny, gate)[0], gate, gate.model_copy(update=change), seed=0) is None


def test_a_looser_threshold_must_look_again(tiny):
    strict = GATE.model_copy(update={"min_sim": 2.0})
    trace = traces(tiny, strict)[0]
    held = replay(trace, strict, GATE, seed=0)
    assert held is not None and len(held.steps) == 1  # the first step is never steered, the second was never looked at


def test_a_sweep_equals_decoding_every_point(run, tiny_loaded, tmp_path):
    sweep = SweepConfig(base="x", grid={"gate.k_scale": (0.0, 1.0), "gate.tau_null": (0.0, 0.9)})
    points = [GridPoint(changes, changed(run.config, changes), run) for changes in grid_points(sweep)]
    problems = list(load_problems("arithmetic", "validation", n=3))
    found = sweep_points(tiny_loaded, points, problems, tmp_path / "points", rows=4)
    assert [point.changes for point, _ in found] == [{"method": "vanilla"}, *grid_points(sweep)]
    library = run.library()
    from stir_core.intervene.memory import Memory
    from stir_core.tasks import render

    memory = Memory(library.entries, library.keys, library.actions, run.key_space())
    config = run.config
    for (summary, own), point in zip(found[1:], points, strict=True):
        prompts = [tiny_loaded.chat_ids(render(p, "plain"), None, room=24) for p in problems]
        gate = with_changes(point.config.gate, previews="all")  # as a sweep records it
        jobs = [Job(p.id, ids, gate, memory) for p, ids in zip(problems, prompts, strict=True)]
        alone = run_all(tiny_loaded, jobs, Settings(DecodeConfig(max_new_tokens=24), config.mining.control_points, "e", config.seed))
        assert [t.token_ids for t in own] == [t.token_ids for t in alone]
        assert [[s.decision.chosen for s in t.steps] for t in own] == [[s.decision.chosen for s in t.steps] for t in alone]
        assert [(t.tokens_used, t.probe_tokens) for t in own] == [(t.tokens_used, t.probe_tokens) for t in alone]
        assert summary.problems == 3 and summary.right == sum(t.verdict.correct for t in own)
    again = sweep_points(tiny_loaded, points, problems, tmp_path / "points", rows=4)
    assert [summary.decoded for summary, _ in again] == [0] * 5
    assert [summary.right for summary, _ in again] == [summary.right for summary, _ in found]


def test_the_choice():
    vanilla, *others = [summary(r, c) for r, c in ((5, 100), (6, 90), (6, 80), (4, 10))]
    by_accuracy, by_tokens = choose([vanilla, *others], "accuracy"), choose([vanilla, *others], "tokens")
    assert [p.chosen for p in by_accuracy] == [False, False, True, False]
    assert [p.chosen for p in by_tokens] == [False, False, True, False]
    worse = choose([summary(9, 100), summary(6, 90), summary(4, 10)], "tokens")
    assert [p.chosen for p in worse] == [False, False, True]


def summary(right, committed):
    from stir_core.evaluate.sweep import SweepPoint
    from stir_core.findings import Estimate

    return SweepPoint(
        changes={},
        problems=10,
        right=right,
        accuracy=Estimate(value=0, low=0, high=0),
        committed=committed,
        probe=0,
        commits=0,
        unfinished=0,
        reused=0,
        decoded=0,
    )


def test_a_wrong_key_is_refused(run):
    with pytest.raises(ConfigError, match=r"did you mean gate\.k_scale"):
        changed(run.config, {"gate.k_scal": 1})
    for key in ("gates.k_scale", "decode.max_new_tokens", "seed", "rollouts.k"):
        with pytest.raises(ConfigError, match="cannot be swept"):
            changed(run.config, {key: 1})
    assert GateConfig() and M
