"""A batch that does not fit into memory is halved and decoded again: the same tokens, each event once, one line in the log."""

import logging

import pytest
import torch

from stir_core.errors import ModelError
from stir_core.harvest.rollouts import sample_rollouts
from stir_core.harvest.states import Reading, capture_states
from stir_core.intervene.controller import steer
from stir_core.intervene.jobs import Job
from stir_core.models import generation, passes, scheduler
from stir_core.models.cache import Store
from stir_core.models.generation import score
from stir_core.records import TraceEvent
from tests.harvest.test_rollouts import LAYERS, PROBLEMS, config, grade
from tests.intervene.test_controller import GATE, PROMPTS, make_memory, settings

LACKS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes."),
    MemoryError(),
]


def fits(monkeypatch, module, most, error=LACKS[0], name="forward"):
    """Let a module's passes fail when they have more than ``most`` feeds; returns the number of feeds of each pass."""
    seen, whole = [], getattr(module, name)

    def limited(model, feeds, *more):
        seen.append(len(feeds))
        if len(feeds) > most:
            raise error
        return whole(model, feeds, *more)

    monkeypatch.setattr(module, name, limited)
    return seen


def rollouts(model, **changes):
    return {(s.rollout.problem_id, s.rollout.k): s for s in sample_rollouts(model, PROBLEMS, config(**changes), grade, layers=LAYERS)}


def same(ours, theirs):
    assert ours.keys() == theirs.keys() and len(ours) == 12
    for name, each in ours.items():
        told, other = each.rollout, theirs[name].rollout
        assert (told.token_ids, told.boundaries, told.finish) == (other.token_ids, other.boundaries, other.finish)
        assert each.states.keys() == theirs[name].states.keys()
        for layer, states in each.states.items():
            torch.testing.assert_close(states, theirs[name].states[layer], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("error", LACKS, ids=lambda error: type(error).__name__)
def test_rollouts_are_those_of_the_smaller_batch(tiny, monkeypatch, caplog, error):
    smaller = rollouts(tiny, batch_rows=3)
    seen = fits(monkeypatch, scheduler, 4, error)
    with caplog.at_level(logging.WARNING, "stir_core"):
        same(rollouts(tiny), smaller)
    assert max(seen) == 12 and max(seen[-5:]) <= 2
    assert [line.getMessage().split(" (")[0] for line in caplog.records] == [
        "memory does not suffice for 12 answers at a time, continuing with 6",
        "memory does not suffice for 5 answers at a time, continuing with 2",
    ]


@pytest.mark.parametrize("at", [1, 2, 9, 20])
def test_a_pass_may_fail_at_any_moment(tiny, monkeypatch, at):
    whole, forward, count = rollouts(tiny), scheduler.forward, iter(range(10**6))

    def fails_once(model, feeds, *more):
        if next(count) == at:
            raise LACKS[0]
        return forward(model, feeds, *more)

    monkeypatch.setattr(scheduler, "forward", fails_once)
    same(rollouts(tiny), whole)


@pytest.mark.parametrize(("where", "name"), [(scheduler, "take"), (Store, "copy")])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_so_may_a_draw_or_a_copy(tiny, monkeypatch, where, name, at):
    """A draw that fails has used up numbers of the random streams; a copy that fails ends its answer's generator."""
    whole, original, count = rollouts(tiny), getattr(where, name), iter(range(10**6))

    def fails_once(*arguments):
        if next(count) == at:
            raise LACKS[1]
        return original(*arguments)

    monkeypatch.setattr(where, name, fails_once)
    same(rollouts(tiny), whole)
    assert next(count) > at


def test_steered_answers_are_the_same_and_no_event_is_repeated(tiny, monkeypatch):
    jobs = [Job(name, ids, GATE, make_memory()) for name, ids in PROMPTS.items() for _ in range(2)]

    def events():
        by_row: dict[int, list] = {}
        for event in steer(tiny, jobs, settings()):
            by_row.setdefault(event.row, []).append(event)
        return by_row

    whole, forward, count = events(), scheduler.forward, iter(range(10**6))

    def fails_twice(model, feeds, *more):
        if next(count) in (12, 30):
            raise LACKS[0]
        return forward(model, feeds, *more)

    monkeypatch.setattr(scheduler, "forward", fails_twice)
    again = events()
    assert next(count) > 31 and again.keys() == whole.keys()
    for row, told in again.items():
        assert [type(event) for event in told] == [type(event) for event in whole[row]]
        ours, theirs = ([e.trace for e in each if isinstance(e, TraceEvent)] for each in (told, whole[row]))
        assert [t.token_ids for t in ours] == [t.token_ids for t in theirs]
        assert [[s.decision.chosen for s in t.steps] for t in ours] == [[s.decision.chosen for s in t.steps] for t in theirs]


def test_one_answer_alone_is_refused_with_the_remedy(tiny, monkeypatch):
    fits(monkeypatch, scheduler, 0)
    with pytest.raises(ModelError, match=r"memory does not suffice for one of the answers alone \(CUDA out of memory.*free memory, take a"):
        rollouts(tiny, batch_rows=4)


def test_other_errors_are_bugs(tiny, monkeypatch):
    fits(monkeypatch, scheduler, 0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes"):
        rollouts(tiny)


def test_what_is_read_again_is_read_in_halves(tiny, monkeypatch, caplog):
    readings = [Reading(f"p{i}", "rollout", 0, (1,), [5 + i, 9, 40, 7], (3,)) for i in range(8)]
    sequences = [(reading.ids[:2], reading.ids[2:]) for reading in readings]
    whole, scored = list(capture_states(tiny, readings, LAYERS)), score(tiny, sequences)
    from stir_core.harvest import states

    seen = fits(monkeypatch, states, 3), fits(monkeypatch, generation, 3)
    again = list(capture_states(tiny, readings, LAYERS))
    assert seen[0] == [8, 4, 2, 2, 2, 2] and [each.reading for each in again] == readings
    for ours, theirs in zip(again, whole, strict=True):
        for layer in LAYERS:
            torch.testing.assert_close(ours.by_layer[layer], theirs.by_layer[layer], atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(score(tiny, sequences), scored, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert "memory does not suffice for 8 sequences at a time, continuing with 4" in caplog.text
    monkeypatch.setattr(states, "forward", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(ModelError, match="one of the sequences alone"):
        list(capture_states(tiny, readings, LAYERS))
    assert not passes.lacks_memory(ValueError("out of memory"))
