"""Answers that arrive while others are decoded, or that are dropped before their end: each is what it would be alone."""

import pytest
import torch

from stir_core.config import DecodeConfig
from stir_core.intervene.controller import run_all, steer
from stir_core.intervene.jobs import Forced, Job
from stir_core.models import scheduler
from stir_core.models.scheduler import Intake
from stir_core.records import TraceEvent
from tests.intervene.test_controller import GATE, LAYER, PROMPTS, D, assert_same, make_memory, settings
from tests.intervene.test_forced import count_fed


class Scripted(Intake):
    """Job number i arrives before pass ``arrivals[i]``; number i is given up at pass ``leaving[i]``."""

    def __init__(self, jobs, arrivals, leaving=None):
        self.jobs, self.arrivals, self.leaving = jobs, list(arrivals), leaving or {}
        self.at = -1
        self.batches = []

    def take(self, batch):
        self.at += 1
        self.batches.append(batch)
        due = [i for i, at in enumerate(self.arrivals) if at is not None and (at <= self.at or not batch.seats)]
        for i in due:
            self.arrivals[i] = None
        return [(i, self.jobs[i]) for i in due]

    def gone(self, batch):
        return [i for i, at in self.leaving.items() if at <= self.at]


def jobs_of(*names):
    memory = make_memory()
    return [Job(name, PROMPTS[name[0]], GATE, memory) for name in names]


def traces_of(model, intake):
    return {event.row: event.trace for event in steer(model, intake, settings()) if isinstance(event, TraceEvent)}


def test_an_answer_that_arrives_late_is_decoded_as_alone(tiny):
    jobs = jobs_of("a", "b", "a2", "c", "b2")
    traces = traces_of(tiny, Scripted(jobs, [0, 3, 7, 11, 500]))  # the last one arrives when all the others have ended
    assert set(traces) == set(range(5))
    for number, trace in traces.items():
        assert_same(trace, run_all(tiny, [jobs[number]], settings())[0])


@pytest.mark.parametrize("at", [0, 1, 2, 4, 7, 11])
def test_an_answer_that_leaves_changes_nothing_for_the_others(tiny, at):
    """At every pass of the first steps: while it reads, previews or commits."""
    jobs = jobs_of("a", "b", "c")
    intake = Scripted(jobs, [0, 0, 2], {1: at})
    traces = traces_of(tiny, intake)
    assert set(traces) == {0, 2}
    for number, trace in traces.items():
        assert_same(trace, run_all(tiny, [jobs[number]], settings())[0])
    assert intake.batches and all(not batch.store.rows and not batch.branches.rows for batch in intake.batches)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_answer_that_waits_for_a_neighbours_prefix_reads_for_itself_when_that_one_leaves(tiny, monkeypatch, at):
    """With impulses left in the cache the prefix takes several passes to read; the reader leaves before, in and after them."""
    fed = count_fed(monkeypatch)
    given, gate = [7, 11, 3, 200, 61, 9], GATE.model_copy(update={"persistence": "persistent"})
    left = Forced("left", LAYER, torch.ones(D), 0.5)
    past = lambda m: left if m == 0 else None  # noqa: E731
    jobs = [Job(f"b{i}", PROMPTS["b"], gate, make_memory(), tuple(given), past=past) for i in range(2)]
    traces = traces_of(tiny, Scripted(jobs, [0, 0], {0: at}))
    assert set(traces) == {1}
    read_twice = sum(n for n in fed if n > 1)
    fed.clear()
    assert_same(traces[1], run_all(tiny, [jobs[1]], settings())[0])
    assert read_twice >= sum(n for n in fed if n > 1) > len(PROMPTS["b"])


def test_closing_the_iterator_closes_every_answer_and_gives_its_rows_back(tiny):
    intake = Scripted(jobs_of("a", "b", "c"), [0, 0, 0])
    events = steer(tiny, intake, settings())
    for _ in range(9):
        next(events)
    (batch,) = set(intake.batches)
    assert len(batch.store.rows) == 3
    events.close()
    assert not batch.store.rows and not batch.branches.rows and not batch.prefixes


def test_a_pass_that_fails_gives_every_row_back(tiny, monkeypatch):
    intake = Scripted(jobs_of("a", "b"), [0, 0])
    forward, passes = scheduler.forward, []

    def failing(*arguments):
        passes.append(arguments)
        if len(passes) == 4:
            raise RuntimeError("a kernel failed")
        return forward(*arguments)

    monkeypatch.setattr(scheduler, "forward", failing)
    with pytest.raises(RuntimeError, match="a kernel failed"):
        list(steer(tiny, intake, settings()))
    assert all(not batch.store.rows and not batch.branches.rows for batch in intake.batches)


def test_each_answer_has_its_own_budget_and_temperature(tiny):
    memory = make_memory()
    hot, nucleus = DecodeConfig(max_new_tokens=30, temperature=1.0), DecodeConfig(max_new_tokens=21, temperature=0.7, top_p=0.9)
    decodes = [None, DecodeConfig(max_new_tokens=7), hot, nucleus]
    jobs = [Job(f"a{i}", PROMPTS["a"], GATE, memory, decode=decode) for i, decode in enumerate(decodes)]
    together = run_all(tiny, jobs, settings())
    for job, trace in zip(jobs, together, strict=True):
        assert_same(trace, run_all(tiny, [job], settings())[0])
    assert [trace.tokens_used for trace in together] == [40, 7, 30, 21]
    assert together[2].token_ids[:7] != together[1].token_ids
