"""The causal study on the tiny model: what an arm injects, which arms stay in, and how it is interrupted."""

# pyright: reportOptionalMemberAccess=false
# (what is None where a test expects something raises there, and the test fails as it should)

from dataclasses import replace

import pytest
import torch

from stir_core.config import with_changes
from stir_core.errors import DataError, StoreError
from stir_core.evaluate import causal, continuations
from stir_core.evaluate.causal import logged_states, measure
from stir_core.evaluate.effects import NULL_ARM, RANDOM_ARM, by_arm
from stir_core.evaluate.libraries import libraries_of
from stir_core.records import TraceEvent
from stir_core.requests import CausalRequest
from stir_core.stages.pipeline import run_stages
from stir_core.stages.stage import check_fresh
from stir_core.store.causal import CausalFolder
from stir_core.store.runs import Run
from tests.evaluate.conftest import lines


def measured(run, model, **asked):
    return measure(run, model, CausalRequest(**{"n": 3, "rolls": 4, "rows": 8, **asked}), command="stir causal", environment={})


def states_of(run, **more):
    folder = CausalFolder(run)
    return logged_states(folder.traces(), folder.problems(), run.config.gate, seed=0, **more)


def test_without_halving_every_arm_has_every_repetition(run, tiny_loaded):
    report, path = measured(run, tiny_loaded, halving=False)
    states, rolls = states_of(run), by_arm(CausalFolder(run).rolls())
    assert path == run.path / "causal" and len(states) >= 3
    for state in states:
        arms = {arm for (own, arm) in rolls if own == state.id}
        assert arms == {NULL_ARM, RANDOM_ARM, *state.doses}
        assert all(sorted(rolls[state.id, arm]) == [0, 1, 2, 3] for arm in arms)
    assert report.states == report.planned == len(states)
    assert {found.entry_id for found in report.actions} == {arm for (_, arm) in rolls} - {NULL_ARM, RANDOM_ARM}
    assert report.tokens == sum(roll.decoded for group in rolls.values() for roll in group.values())
    assert run.advantages() == {found.entry_id: found for found in report.actions}
    assert [found.arm for found in report.effects][:2] == ["chosen action", "random direction"]
    assert all(abs(found.advantage.value) <= 1 for found in report.effects)


def test_arms_differ_by_their_impulse_alone(run, tiny_loaded, monkeypatch):
    seen = []
    steer = continuations.steer
    monkeypatch.setattr(continuations, "steer", lambda model, jobs, settings: seen.append((jobs, settings)) or steer(model, jobs, settings))
    measured(run, tiny_loaded, halving=False, rolls=2)
    memory = libraries_of(run)("basis")
    states = {state.id: state for state in states_of(run)}
    jobs = [job for batch, settings in seen if settings.decode.temperature > 0 for job in batch]
    assert jobs
    by_name: dict[str, list] = {}
    for job in jobs:
        by_name.setdefault(job.id, []).append(job)
    for name, arms in by_name.items():
        problem_id, _, rest = name.partition("@")
        state = states[problem_id, int(rest.split("~")[0]), None]
        m = state.id[1]
        assert len({job.given for job in arms}) == 1 and list(arms[0].given) == list(state.given)
        forced = {job.force(m).label: job.force(m) for job in arms}
        assert set(forced) == {None, RANDOM_ARM, *state.doses}
        assert all(job.force(other).label is None for job in arms for other in range(9) if other != m)
        for entry_id, dose in state.doses.items():
            assert torch.equal(forced[entry_id].vector, memory.action(entry_id)) and forced[entry_id].alpha == dose
        best = state.step.decision.chosen or next(iter(state.doses))
        assert float(forced[RANDOM_ARM].vector.norm()) == pytest.approx(float(memory.action(best).norm()), rel=1e-5)
        if state.step.decision.chosen:
            assert state.doses[best] == pytest.approx(state.step.decision.alpha)


def test_arms_share_their_random_numbers(run, tiny_loaded, monkeypatch):
    """With zero vectors in place of every impulse, all arms of a repetition give the same answer."""
    steer, texts = continuations.steer, {}

    def silent(force):
        return lambda m: (forced := force(m))._replace(vector=None if forced.vector is None else torch.zeros_like(forced.vector))

    def steer_silently(model, jobs, settings):
        for event in steer(model, [job if job.force is None else replace(job, force=silent(job.force)) for job in jobs], settings):
            if isinstance(event, TraceEvent) and jobs[event.row].force is not None:
                texts.setdefault(event.trace.id, set()).add(event.trace.token_ids)  # the id names state and repetition, but not the arm
            yield event

    monkeypatch.setattr(continuations, "steer", steer_silently)
    report, _ = measured(run, tiny_loaded, halving=False, rolls=2)
    assert texts and all(len(own) == 1 for own in texts.values())
    assert len({next(iter(own)) for own in texts.values()}) > len(texts) / 2
    assert all(found.advantage.value == found.won == found.lost == 0 for found in report.effects)
    assert all(found.advantage.low is None or found.advantage.bounds[0] < 0 < found.advantage.bounds[1] for found in report.effects)


def test_halving_drops_the_worse_half_and_never_the_fixed_arms(run, tiny_loaded):
    measured(run, tiny_loaded, rolls=8)
    rolls = by_arm(CausalFolder(run).rolls())
    dropped = 0
    for state in states_of(run):
        counts = {arm: len(rolls[state.id, arm]) for arm in (NULL_ARM, RANDOM_ARM, *state.doses)}
        assert counts[NULL_ARM] == counts[RANDOM_ARM] == 8
        if state.step.decision.chosen:
            assert counts[state.step.decision.chosen] == 8
        assert set(counts.values()) <= {2, 4, 8}
        losers = [arm for arm in state.doses if counts[arm] == 2]
        keepers = [arm for arm in state.doses if counts[arm] > 2 and arm != state.step.decision.chosen]
        assert len(losers) <= len(state.doses) // 2
        first = {arm: sum(rolls[state.id, arm][rep].correct for rep in range(2)) for arm in state.doses}
        assert all(first[keeper] >= first[loser] for keeper in keepers for loser in losers)
        dropped += len(losers)
    assert dropped > 0


def test_a_budget_ends_it_and_more_budget_goes_on(run, tiny_loaded):
    report, path = measured(run, tiny_loaded, budget_tokens=1, rows=3)
    assert 0 < report.states < report.planned and path == run.path / "causal"
    before = (path / "rolls.jsonl").read_bytes()
    again, path = measured(run, tiny_loaded, rows=3)
    assert again.states == again.planned
    assert (path / "rolls.jsonl").read_bytes().startswith(before)


def test_an_interrupted_study_repeats_nothing(run, tiny_loaded):
    left = iter(range(7))

    def stop(progress):
        if progress.stage == "states" and next(left, None) is None:
            raise KeyboardInterrupt

    asked = CausalRequest(n=3, rolls=4, rows=8)
    with pytest.raises(KeyboardInterrupt):
        measure(run, tiny_loaded, asked, command=None, environment={}, report=stop)
    folder = CausalFolder(run)
    assert folder.path == folder.part and len(folder.rolls()) == 7
    with (folder.part / "rolls.jsonl").open("a") as out:
        out.write('{"torn')
    before = [roll.model_dump() for roll in folder.rolls()]
    report, path = measure(run, tiny_loaded, asked, command=None, environment={})
    rolls = folder.rolls()
    assert [roll.model_dump() for roll in rolls[:7]] == before
    assert len({(roll.state, roll.arm, roll.rep) for roll in rolls}) == len(rolls)
    assert lines(path)["traces.jsonl"] == 3
    fresh, _ = measure(run, tiny_loaded, with_changes(asked, fresh=True), command=None, environment={})
    assert fresh.points == report.points and fresh.effects == report.effects


def test_other_settings_and_mined_problems_are_refused(run, tiny_loaded, monkeypatch):
    measured(run, tiny_loaded, rolls=2)
    with pytest.raises(StoreError, match="add --fresh"):
        measured(run, tiny_loaded, n=2, rolls=2)
    mined = run.problems()
    monkeypatch.setattr(causal, "load_problems", lambda *a, **k: tuple(mined[:1]))
    with pytest.raises(DataError, match="1 of 1 problems were mined"):
        measured(run, tiny_loaded, fresh=True)


def test_the_measured_library_keeps_what_helps(run, tiny_loaded):
    named = libraries_of(run)
    with pytest.raises(StoreError, match="stir causal"):
        named("measured")
    report, _ = measured(run, tiny_loaded)
    memory = libraries_of(run)("measured")
    good = {found.entry_id: found.value for found in report.actions if found.value > 0}
    if not good:
        assert memory is None
        return
    assert {entry.id for entry in memory.entries if entry.kind == "corrective"} == set(good)
    assert all(entry.quality == good[entry.id] for entry in memory.entries if entry.kind == "corrective")
    assert {entry.pair for entry in memory.entries if entry.kind == "null"} <= {
        entry.pair for entry in memory.entries if entry.kind == "corrective"
    }


def test_a_basis_is_rebuilt_on_measured_quality(run, tiny_loaded):
    measured_config = run.config.model_copy(update={"basis": run.config.basis.model_copy(update={"quality": "measured"})})
    before = run.picks()
    with pytest.raises(StoreError, match="no measured advantages"):
        run_stages(measured_config, run.path, until="basis", redo="basis", model=tiny_loaded)
    assert Run.open(run.path).picks() == before, "a refusal loses nothing"
    report, _ = measured(run, tiny_loaded, rolls=2)
    good = {found.entry_id: found.value for found in report.actions if found.value > 0}
    assert good, "the comparison proves nothing without an action that came out above 0"
    again = run_stages(measured_config, run.path, until="basis", redo="basis", model=tiny_loaded)
    assert again.manifest("basis").inputs["advantages"] == run.advantages_digest()
    check_fresh(again, "basis")
    picked = {pick.entry_id: pick.quality for pick in again.picks()}
    pairs = {entry.id: entry.pair for entry in again.entries()}
    by_pair = {pairs[name]: value for name, value in good.items()}
    assert picked and all(by_pair[pairs[name]] == quality for name, quality in picked.items())
    assert {entry.quality for entry in again.library().entries} <= set(good.values())
    assert "selected on measured quality" in again.manifest("basis").notes[0]


def test_a_basis_of_another_study_is_not_fresh(run, tiny_loaded):
    measured_config = run.config.model_copy(update={"basis": run.config.basis.model_copy(update={"quality": "measured"})})
    measured(run, tiny_loaded, rolls=2)
    run_stages(measured_config, run.path, until="basis", redo="basis", model=tiny_loaded)
    (run.path / "causal" / "advantages.jsonl").write_text("")
    with pytest.raises(StoreError, match=r"advantages.jsonl is not the file that was written"):
        check_fresh(Run.open(run.path), "basis")
    (run.path / "causal" / "digests.json").unlink()
    with pytest.raises(StoreError, match="made from other measured advantages: add --redo basis"):
        check_fresh(Run.open(run.path), "basis")


def test_impulses_persist_where_the_gates_do(run, tiny_loaded, monkeypatch):
    seen = []
    steer = continuations.steer
    monkeypatch.setattr(continuations, "steer", lambda model, jobs, settings: seen.extend(jobs) or steer(model, jobs, settings))
    gate = run.config.gate.model_copy(update={"persistence": "persistent"})
    persistent = Run.at(run.path, run.config.model_copy(update={"gate": gate}), {})
    measured(persistent, tiny_loaded, rolls=2)
    assert {job.gate.persistence for job in seen} == {"persistent"}
