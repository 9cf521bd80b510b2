"""The one model of a server under several tabs: simultaneous comparisons equal single ones, and traces leave no hooks and no memory."""

import gc
import resource
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from stir_core.config import DecodeConfig
from stir_core.records import Problem, Trace, TraceEvent
from stir_core.store.runs import Run
from workbench.live import ModelShelf, Steering
from workbench.shared.facts import run_fingerprint

pytestmark = pytest.mark.model

TRACES, SETTLED = 20, 5
GROWTH_MIB = 24.0
"""One trace holds about 5 MiB of keys and values while it decodes: the fifteen after the first five would be three times this."""


@pytest.fixture(scope="module")
def shelf() -> Iterator[tuple[ModelShelf, Run]]:
    """The embedded run's model, loaded once, let go of at the end."""
    yield ModelShelf(), Run.open("smollm2")
    gc.collect()


def steering(shelf: tuple[ModelShelf, Run]) -> Steering:
    """The session that every tab gets."""
    with shelf[0].lent(shelf[1], run_fingerprint(shelf[1])) as session:
        return session


def compared(session: Steering, run: Run, problem: Problem, tokens: int) -> list[Trace]:
    """Vanilla and steered answer."""
    found = session.compare(problem, run.config.gate, DecodeConfig(max_new_tokens=tokens))
    return [event.trace for event in found if isinstance(event, TraceEvent)]


def bare(traces: list[Trace]) -> list[Trace]:
    """Without what another tab's work changes: the clock, and the last bits of log-probabilities."""
    return [trace.model_copy(update={"seconds": None, "steps": ()}) for trace in traces]


@pytest.fixture(scope="module")
def two_tabs(shelf: tuple[ModelShelf, Run]) -> tuple[list[int], list[list[Trace]]]:
    """Two comparisons at once: the tab of each event in the order of events, and the traces of each tab."""
    run, problems = shelf[1], shelf[1].problems("steered")[:2]
    order: list[int] = []
    traces: list[list[Trace]] = [[], []]
    ready = threading.Barrier(2)

    def tab(number: int) -> None:
        ready.wait(60)
        for event in steering(shelf).compare(problems[number], run.config.gate, DecodeConfig(max_new_tokens=48)):
            order.append(number)
            if isinstance(event, TraceEvent):
                traces[number].append(event.trace)

    tabs = [threading.Thread(target=tab, args=(number,)) for number in range(2)]
    for thread in tabs:
        thread.start()
    for thread in tabs:
        thread.join(120)
    assert not any(thread.is_alive() for thread in tabs), "one tab waits for ever"
    return order, traces


def test_two_tabs_at_once_are_both_right(shelf: tuple[ModelShelf, Run], two_tabs: tuple[list[int], list[list[Trace]]]) -> None:
    run, (_, together) = shelf[1], two_tabs
    for problem, traces in zip(run.problems("steered")[:2], together, strict=True):
        alone = compared(steering(shelf), run, problem, 48)
        assert bare(traces) == bare(alone)
        assert [step.decision.chosen for step in traces[1].steps] == [step.decision.chosen for step in alone[1].steps]


def test_both_tabs_go_forward(two_tabs: tuple[list[int], list[list[Trace]]]) -> None:
    """A tab that decodes all the time does not starve another one: their events come interleaved."""
    order, _ = two_tabs
    first_done = max(order.index(0), order.index(1))
    assert first_done < len(order) / 2, "the second tab only began when the first had ended"
    assert sum(a != b for a, b in pairwise(order)) >= 4


def test_traces_leave_no_memory_behind(shelf: tuple[ModelShelf, Run]) -> None:
    run, problem = shelf[1], shelf[1].problems("steered")[0]
    session = steering(shelf)
    resident: list[float] = []
    for number in range(TRACES):
        assert len(compared(session, run, problem, 6)) == 2
        if number + 1 in (SETTLED, TRACES):
            gc.collect()
            resident.append(resident_mib())
    assert resident[1] - resident[0] < GROWTH_MIB, f"{resident[0]:.0f} MiB after {SETTLED} traces, {resident[1]:.0f} after {TRACES}"


def resident_mib() -> float:
    """Resident memory of this process; its peak where the system does not tell the present value."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
