"""Recorded answers decided again: compared with the recording and with a plain loop; counts, figures and limits."""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOptionalMemberAccess=false, reportOperatorIssue=false
# (pandas and plotly carry no stubs here: a column may be anything to a type checker)

import shlex

import fake_run
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as some

from stir_core.config import config_from, with_changes
from stir_core.errors import ConfigError
from stir_core.evaluate.decoders.registry import method
from stir_core.intervene.gate import decide
from stir_core.intervene.replay import ANSWERABLE
from stir_core.store.runs import EMBEDDED_RUNS, Run
from workbench.gates import charts as gate_funnel
from workbench.gates import data as tables
from workbench.gates.data import scales
from workbench.shared import gate_replay as replay
from workbench.shared.charts import margin_terms
from workbench.shared.command_lines import gate_command
from workbench.shared.facts import RunFacts
from workbench.shared.gate_replay import NOW, RECORDED, STAGES, TERMS, funnel_rows, term_rows, why_not_rows

CHANGES = ({"beta": 0.3}, {"rho": 1.0}, {"tau_null": 1.2}, {"min_sim": 0.6}, {"k_scale": 0.0}, {"k_retrieve": 2}, {"candidates": 1})
CONFIG = fake_run.fake_config()


@pytest.fixture(scope="module")
def embedded() -> RunFacts:
    """The embedded run."""
    assert (EMBEDDED_RUNS["smollm2"] / "run.json").is_file(), "the embedded run ships with the package: a checkout without it is broken"
    return RunFacts(Run.open("smollm2"))


def again(facts: RunFacts, **changes: float) -> dict[str, replay.AnswerReplay]:
    gate = with_changes(facts.config.gate, **changes)
    return replay.replay_all(facts.steered, facts.config.gate, gate, seed=facts.config.seed)


def sieved(answers: dict[str, replay.AnswerReplay]) -> list[replay.StepReplay]:
    return [step for answer in answers.values() for step in answer.steps]


@pytest.mark.parametrize("which", ["embedded", "fake"])
def test_the_runs_own_settings_give_every_recorded_decision(which: str, embedded: RunFacts, facts: RunFacts) -> None:
    run = embedded if which == "embedded" else facts
    steps = sieved(again(run))
    assert len(steps) > 20
    assert [step.again.decision for step in steps] == [step.step.decision for step in steps]
    assert {step.change for step in steps} == {"same", "not asked"} and not any(step.diverged for step in steps)
    counted = replay.tally(again(run).values())
    assert counted.flipped == counted.diverged == counted.unknown == 0
    assert counted.known == counted.asked == sum(step.step.evidence.not_retrieved is None for step in steps)


@given(
    beta=some.floats(0, 4),
    rho=some.floats(0, 2),
    tau_null=some.floats(0, 3),
    min_sim=some.floats(0, 1),
    k_scale=some.floats(0, 2),
    k_retrieve=some.integers(1, 6),
    candidates=some.integers(1, 3),
)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_it_is_a_plain_loop_over_the_recording(facts: RunFacts, **changes: float) -> None:
    """A replay equals a plain loop over the recorded evidence wherever it was measured; steps after the first flip count as diverged."""
    gate = with_changes(facts.config.gate, **changes)
    for id_, answer in again(facts, **changes).items():
        turned = False
        for step, recorded in zip(answer.steps, facts.steered[id_].steps, strict=True):
            assert step.diverged == turned
            evidence = recorded.evidence
            if evidence.retrieved and evidence.retrieved[0].sim < gate.min_sim:
                assert step.again.decision.chosen is None
            else:
                evidence = evidence.model_copy(update={"retrieved": evidence.retrieved[: gate.k_retrieve]})
                expected = decide(evidence, gate)
                unmeasured = any(scored.score is None for scored in expected.scored)
                assert step.again.decision == (None if unmeasured else expected)
            new = step.again.decision
            turned = turned or new is None or (new.chosen, new.alpha) != (recorded.decision.chosen, recorded.decision.alpha)
        assert (answer.turn is not None) == turned


def test_each_kind_of_flip_is_told_apart(facts: RunFacts) -> None:
    seen = {step.change for changes in CHANGES for step in sieved(again(facts, **changes))}
    assert {*replay.FLIPS, "other strength"} <= seen
    for changes in CHANGES:
        for step in sieved(again(facts, **changes)):
            old, new = step.step.decision, step.again.decision
            if new is not None and step.change != "not asked":
                assert step.flips == (old.chosen != new.chosen)
                assert step.turns == ((old.chosen, old.alpha) != (new.chosen, new.alpha))
                assert (step.change == "other strength") == (old.chosen == new.chosen and old.alpha != new.alpha)


def test_strength_0_leaves_nothing_steered_and_counts_one_flip_an_answer(facts: RunFacts) -> None:
    answers = again(facts, k_scale=0.0)
    counted = replay.tally(answers.values())
    steered = [trace for trace in facts.steered.values() if any(step.decision.chosen for step in trace.steps)]
    assert counted.flipped == counted.flips["action → null"] == len(steered) == len(replay.flip_table(answers.values()))
    assert counted.known + counted.diverged == counted.asked
    for id_, answer in answers.items():
        first = next((step.m for step in facts.steered[id_].steps if step.decision.chosen), None)
        assert (answer.turn.step.m if answer.turn else None) == first
    assert f"{counted.flipped} of {counted.known} decisions flip" in replay.flips_line(counted)
    assert f"{counted.diverged} steps lie after" in replay.reach_line(counted)


@pytest.fixture
def narrow(tmp_path, monkeypatch: pytest.MonkeyPatch) -> RunFacts:
    """A run that retrieved and previewed less than its library holds."""
    gate = {"k_retrieve": 4, "candidates": 1}
    monkeypatch.setattr(fake_run, "fake_config", lambda: config_from(CONFIG.model_dump(mode="json") | {"gate": gate}))
    return RunFacts(fake_run.make_fake_run(tmp_path, "narrow"))


def test_what_was_not_measured_is_said_and_never_guessed(narrow: RunFacts) -> None:
    for changes in ({"k_retrieve": 5}, {"candidates": 2}):
        answers = again(narrow, **changes)
        unknown = [step for step in sieved(answers) if step.change == "needs the model"]
        assert unknown and all(step.again.decision is None and step.again.missing for step in unknown)
        assert all(step.standing == "not in the recording" for step in unknown)
        counted = replay.tally(answers.values())
        assert counted.flipped == 0 and counted.unknown == len(replay.flip_table(answers.values())) > 0
        assert set(replay.flip_table(answers.values())["now"]) == {"?"}
        table = why_not_rows(unknown[0].step.evidence, unknown[0].step.decision, unknown[0].again)
        assert set(table["fate now"]) == {"not in the recording: needs the model"} and table["score now"].isna().all()
        assert term_rows(unknown[0].again.decision, narrow.config.gate).empty
    wide = replay.curve(narrow.steered, narrow.config.gate, narrow.config.gate, "k_retrieve", [4, 5], seed=0)
    assert wide["unknown"].tolist()[0] == 0 < wide["unknown"].tolist()[1] and len(set(wide["n"] + wide["unknown"])) == 1


def test_the_curve_counts_what_a_loop_counts(facts: RunFacts) -> None:
    own, asked = facts.config.gate, [s for t in facts.steered.values() for s in t.steps if s.evidence.retrieved]
    table = replay.curve(facts.steered, own, own, "tau_null", [0.0, 1.0, 99.0], seed=facts.config.seed)
    for row in table.to_dict("records"):
        gate = own.model_copy(update={"tau_null": row["value"]})
        assert row["steered"] == sum(decide(step.evidence, gate).chosen is not None for step in asked)
        assert row["n"] == len(asked) and row["unknown"] == 0
        assert row["low"] <= row["rate"] <= row["high"]
    assert table["steered"].tolist()[-1] == 0
    chart = gate_funnel.steered_share(table, "tau", 0.0, 1.0).to_dict()
    assert chart["layer"][1]["encoding"]["y"]["scale"]["domain"] == [0, 1] and len(chart["layer"]) == 4


def test_the_funnel_adds_up(facts: RunFacts) -> None:
    table = funnel_rows(sieved(again(facts, tau_null=99.0)))
    counts = {(row["when"], row["stage"]): row["entries"] for row in table.to_dict("records")}
    steps = [s for t in facts.steered.values() for s in t.steps if s.evidence.retrieved]
    assert counts[RECORDED, "library at m"] == sum(s.evidence.n_entries for s in steps)
    assert counts[RECORDED, "committed"] == sum(s.decision.chosen is not None for s in steps)
    assert counts[NOW, "committed"] == 0
    assert counts[NOW, "candidates L"] == counts[RECORDED, "candidates L"]
    assert list(dict.fromkeys(table["stage"])) == list(STAGES)


def test_terms_add_up_to_the_margin(facts: RunFacts) -> None:
    gate = facts.config.gate
    for step in sieved(again(facts)):
        terms = term_rows(step.again.decision, gate)
        for name, part in terms.groupby("candidate"):
            scored = next(s for s in step.step.decision.scored if s.entry_id == name)
            assert part["amount"].sum() == pytest.approx(scored.score - step.step.decision.score_null)
            assert part["amount"].sum() == pytest.approx(part["margin"].tolist()[0])
        committed = set(terms[terms["fate"] == "committed"]["candidate"])
        assert committed == ({step.step.decision.chosen} - {None})
    shown = next(t for t in (term_rows(s.again.decision, gate) for s in sieved(again(facts))) if len(t))
    spec = margin_terms(shown, 0.25).to_dict()
    assert spec["layer"][0]["encoding"]["color"]["scale"]["domain"] == list(TERMS)


def test_the_map_holds_every_scored_step(facts: RunFacts) -> None:
    outcomes = {id_: tables.outcome(trace, facts.vanilla.get(id_)) for id_, trace in facts.steered.items()}
    assert [outcomes[f"arithmetic/eval/{i}"] for i in range(3)] == ["both right", "gained", "both wrong"]
    answers = again(facts, k_scale=0.0)
    table = tables.map_rows(answers, outcomes)
    assert len(table) == sum(bool(s.decision.scored) for t in facts.steered.values() for s in t.steps)
    assert set(table["decision"]) == {"null"} and table["flips"].any() and table["diverged"].any()
    own = tables.map_rows(again(facts), outcomes)
    assert (own[own["decision"] == "committed"]["margin"] > 0).all()
    figure = gate_funnel.step_map(own, "arithmetic/eval/0", 1)
    points = [data for trace in figure.data if trace.customdata is not None for data in trace.customdata]
    assert sorted((data[0], data[1]) for data in points) == sorted(zip(own["problem"], own["m"], strict=True))
    assert "(" in figure.layout.xaxis.title.text and "(" in figure.layout.yaxis.title.text
    assert {trace.marker.symbol for trace in figure.data if trace.name in ("committed", "null")} == {"diamond", "circle"}


def test_why_not_under_both_settings(facts: RunFacts) -> None:
    fates = set()
    for changes in CHANGES:
        for step in sieved(again(facts, **changes)):
            table = why_not_rows(step.step.evidence, step.step.decision, step.again)
            assert list(table["entry"]) and len(table) == len(step.step.evidence.retrieved) if step.step.evidence.retrieved else table.empty
            for row in table.to_dict("records"):
                fates.add(str(row["fate now"]).split(",")[0].split(":")[0].split(" (")[0])
                committed = step.again.decision is not None and row["entry"] == step.again.decision.chosen
                assert str(row["fate now"]).startswith("committed") == committed
    assert {"committed", "not above null", "above null", "not retrieved", "no candidate"} <= fates


def test_sliders_hold_the_runs_own_value_and_the_gates_rules(embedded: RunFacts, facts: RunFacts) -> None:
    for run in (embedded, facts):
        for scale in scales(run.config.gate, run.steered.values()):
            assert ANSWERABLE[scale.name] != "model"
            assert scale.own == getattr(run.config.gate, scale.name)
            assert scale.low <= scale.own <= scale.high and scale.own in scale.points()
            for value in (scale.low, scale.high):
                with_changes(run.config.gate, **{scale.name: int(value) if scale.whole else value})
    with pytest.raises(ConfigError, match="config key k_retrieve = 0"):
        with_changes(facts.config.gate, **{"k_retrieve": 0})


def test_the_command_decodes_with_these_settings(facts: RunFacts) -> None:
    own = facts.config.gate
    gate = with_changes(own, **{"beta": 1.15, "candidates": 2})
    words = shlex.split(gate_command(facts.run, replay.changes_of(own, gate), 6))
    assert words[:2] == ["stir", "eval"] and words[words.index("--n") + 1] == "6"
    made = method(next(word for word in words if word.startswith("stir:")))
    assert {key: made.parameters[key] for key in ("beta", "candidates")} == {"beta": 1.15, "candidates": 2}


def test_answers_are_decided_again_one_by_one(embedded: RunFacts) -> None:
    own = embedded.config.gate
    gate = with_changes(own, **{"rho": 0.5})
    whole = replay.replay_all(embedded.steered, own, gate, seed=0)
    assert list(whole) == list(embedded.steered)
    assert whole == {id_: replay.replay_answer(trace, own, gate, seed=0) for id_, trace in embedded.steered.items()}
    assert replay.tally(whole.values()) == replay.tally([whole[id_] for id_ in reversed(whole)])
