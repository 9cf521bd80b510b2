"""Answers that arrive while others are decoded, or that nobody waits for any more: each is what it would be alone."""

import pytest

from stir_core.config import DecodeConfig
from stir_core.intervene import controller
from stir_core.intervene.controller import run_all, steer
from stir_core.intervene.jobs import Intake, Job
from stir_core.models.passes import scratch
from stir_core.records import TraceEvent
from tests.intervene.test_controller import GATE, PROMPTS, assert_same, make_memory, settings


class Scripted(Intake):
    """Job number i arrives before pass ``arrivals[i]``; number i is given up at pass ``leaving[i]``."""

    def __init__(self, jobs, arrivals, leaving=None):
        self.jobs, self.arrivals, self.leaving = jobs, list(arrivals), leaving or {}
        self.at = -1

    def take(self, live):
        self.at += 1
        due = [i for i, at in enumerate(self.arrivals) if at is not None and (at <= self.at or not live)]
        for i in due:
            self.arrivals[i] = None
        return [(i, self.jobs[i]) for i in due]

    def gone(self):
        return [i for i, at in self.leaving.items() if at <= self.at]


def jobs_of(*names):
    memory = make_memory()
    return [Job(name, PROMPTS[name[0]], GATE, memory) for name in names]


def traces_of(model, intake):
    return {event.row: event.trace for event in steer(model, intake, settings()) if isinstance(event, TraceEvent)}


def test_who_arrives_late_is_decoded_as_alone(tiny):
    jobs = jobs_of("a", "b", "a2", "c", "b2")
    traces = traces_of(tiny, Scripted(jobs, [0, 3, 7, 11, 500]))  # the last one arrives when all the others have ended
    assert set(traces) == set(range(5))
    for number, trace in traces.items():
        assert_same(trace, run_all(tiny, [jobs[number]], settings())[0])


@pytest.mark.parametrize("at", [0, 1, 2, 4, 7, 11])
def test_who_leaves_changes_nothing_for_the_others(tiny, monkeypatch, at):
    """At every pass of the first steps: while it reads, previews or commits."""
    batches = []
    made = controller.Batch
    monkeypatch.setattr(controller, "Batch", lambda *parts: batches.append(made(*parts)) or batches[-1])
    jobs = jobs_of("a", "b", "c")
    traces = traces_of(tiny, Scripted(jobs, [0, 0, 2], {1: at}))
    assert set(traces) == {0, 2}
    for number, trace in traces.items():
        assert_same(trace, run_all(tiny, [jobs[number]], settings())[0])
    assert batches and all(not batch.store.rows and not batch.branches.rows for batch in batches)


def test_who_waits_for_a_neighbours_prefix_reads_for_itself_when_that_one_leaves(tiny):
    first, second = jobs_of("b", "b")
    batch = controller.Batch(tiny, settings(), tiny.new_store(), scratch(tiny))
    one, two = controller.LiveAnswer(first, 0, batch), controller.LiveAnswer(second, 1, batch)
    one.begin([])
    two.begin([one])
    assert two.twin is one and two.feeds() == []
    one.leave([two])
    (feed,) = two.feeds()
    assert feed.ids == PROMPTS["b"] and two.cost.tokens == len(PROMPTS["b"])
    assert batch.store.rows == [two.row]


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
