"""Two gates on the same recorded evidence: counted as a plain loop over the gate's decisions counts, and the page's section."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_run import make_fake_run
from page_reading import clean, texts
from streamlit.testing.v1 import AppTest

from stir_core.config import with_changes
from stir_core.intervene.gate import decide
from stir_core.intervene.replay import gate_was_asked
from stir_core.policies import Policies
from stir_core.records import PolicyName, PolicyWeights
from stir_core.store.runs import EMBEDDED_RUNS, Run
from workbench.gates import policies as tables
from workbench.gates.policies import AGREE, CALIBRATED, PUBLISHED, Evidence
from workbench.shared.facts import RunFacts

OpenPage = Callable[..., AppTest]


def weights(policy: PolicyName, threshold: float | None) -> PolicyWeights:
    candidate = () if policy == "probe" else (0.0, 1.0, 0.0, 0.0, 0.0)
    return PolicyWeights(policy=policy, basis="b", layer=1, bias=0.0, state=(1.0,), candidate=candidate, threshold=threshold)


POLICIES = Policies("b", 1, np.zeros((2, 4)), np.zeros((0, 4)), {"probe": weights("probe", 0.0), "direct": weights("direct", 0.05)})


@pytest.fixture(scope="module")
def recorded() -> Evidence:
    """The embedded organism's steered answers, with a feature for learned gates that changes its sign from step to step."""
    run = Run.open(EMBEDDED_RUNS["two_habits"])
    traces = {}
    for trace in run.traces():
        steps = [
            step.replaced(evidence=step.evidence.replaced(features=(-((-1.0) ** step.m),))) if step.evidence.retrieved else step
            for step in trace.steps
        ]
        traces[trace.id] = trace.replaced(steps=tuple(steps))
    return Evidence(traces, run.config.gate)


@pytest.fixture
def facts(monkeypatch: pytest.MonkeyPatch) -> RunFacts:
    """The run's facts, with learned gates."""
    monkeypatch.setattr(Run, "policies", lambda self: POLICIES)
    return RunFacts(Run.open(EMBEDDED_RUNS["two_habits"]))


@pytest.mark.parametrize(("first", "second"), [(PUBLISHED, "probe"), ("direct", "probe"), (PUBLISHED, PUBLISHED)])
def test_the_counts_are_those_of_a_plain_loop(facts: RunFacts, recorded: Evidence, first: str, second: str) -> None:
    pairs = tables.paired_decisions(facts, recorded, first, second)
    slow: Counter[tuple[str | None, str | None]] = Counter()
    for trace in recorded.traces.values():
        for step in filter(gate_was_asked, trace.steps):
            policies = ("value" if name == PUBLISHED else name for name in (first, second))
            gates = (with_changes(recorded.gate, policy=policy) for policy in policies)
            one, other = (decide(step.evidence, gate, seed=facts.config.seed, name=trace.id, policies=POLICIES).chosen for gate in gates)
            slow[one, other] += 1
    agree = sum(n for (one, other), n in slow.items() if one == other)
    assert len(pairs) == sum(slow.values()) > 20 and sum(pair.kind in AGREE for pair in pairs) == agree
    assert f"({agree} of {len(pairs)};" in tables.agreement_line(pairs)
    table = tables.count_table(pairs)
    assert sum(table["steps"].tolist()) == len(pairs) and set(table["of"]) == {len(pairs)}
    assert len(tables.differing_table(pairs, "a", "b")) == len(pairs) - agree
    assert (agree < len(pairs)) == (first != second)
    mirrored = {"only the first acts": "only the second acts", "only the second acts": "only the first acts"}
    back = tables.paired_decisions(facts, recorded, second, first)
    assert [pair.kind for pair in back] == [mirrored.get(pair.kind, pair.kind) for pair in pairs]


def test_answers_without_features_say_what_is_missing(facts: RunFacts) -> None:
    held_out = tables.evidences(facts, {})[tables.HELD_OUT]
    pairs = tables.paired_decisions(facts, held_out, PUBLISHED, "direct")
    assert {pair.kind for pair in pairs} == {"needs the model"}
    assert "recorded without the features that direct sees" in tables.agreement_line(pairs)
    steps = sum(gate_was_asked(step) for trace in held_out.traces.values() for step in trace.steps)
    assert steps == len(pairs) == len(tables.paired_decisions(facts, held_out, PUBLISHED, CALIBRATED))


def test_the_section_counts_and_names_the_command_that_learns_gates(open_page: OpenPage, store: Path) -> None:
    run = make_fake_run(store)
    app = clean(open_page("gates", gate=PUBLISHED, against=PUBLISHED))
    assert f"stir policy {run.path}" in [code.value for code in app.code]
    assert "They agree at 100.0%" in texts(app)  # a link to two gates opens their tab


def test_a_step_at_which_they_differ_is_drawn_under_both(
    open_page: OpenPage, store: Path, monkeypatch: pytest.MonkeyPatch, recorded: Evidence
) -> None:
    make_fake_run(store)
    monkeypatch.setattr(Run, "policies", lambda self: POLICIES)
    monkeypatch.setattr(tables, "evidences", lambda facts, evaluations: {"answers": recorded})
    app = clean(open_page("gates", gate=PUBLISHED, against="probe"))
    differ = tables.disagreements(tables.paired_decisions(RunFacts(Run.open(EMBEDDED_RUNS["two_habits"])), recorded, PUBLISHED, "probe"))
    shown = texts(app)
    assert f"n = {len(differ)} steps" in shown and f"{differ[0].answer}, control point {differ[0].step.m}: {differ[0].kind}" in shown
