"""The Causal page, and measured actions on the Actions page: numbers equal the report's, and sentences follow the intervals."""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOperatorIssue=false
# (pandas and plotly carry no stubs here: a column may be anything to a type checker)

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_evaluation import make_fake_causal, make_fake_own
from fake_run import make_fake_run
from page_reading import clean, texts
from streamlit.testing.v1 import AppTest

from stir_core.findings import CausalReport, Estimate
from stir_core.store.causal import CausalFolder
from stir_core.store.runs import Run
from tests.seals import renew
from workbench.causal import charts as gate_calibration
from workbench.causal import data as causal_evidence
from workbench.shared import entries as action_table
from workbench.shared.charts import VERDICTS, forest
from workbench.shared.facts import RunFacts
from workbench.shared.intervals import with_interval

OpenPage = Callable[..., AppTest]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a causal study."""
    made = make_fake_run(tmp_path_factory.mktemp("causal"))
    make_fake_causal(made)
    return made


@pytest.fixture(scope="module")
def report(run: Run) -> CausalReport:
    """The study's report, as the page reads it."""
    study = causal_evidence.study_of(run)
    assert study is not None and study.ended
    return study.report


@pytest.mark.parametrize(
    ("margin", "answer", "words"),
    [
        ((0.05, -0.2, 0.3), "Not seen.", "+0.05 [−0.20, +0.30]"),
        ((0.4, 0.1, 0.6), "Yes.", "tended to do better"),
        ((-0.4, -0.6, -0.1), "It points the wrong way.", "tended to do worse"),
        ((0.05, None, None), "Cannot tell.", "+0.05 (too few problems for an interval)"),
        (None, "Cannot tell.", "do not vary enough"),
    ],
)
def test_the_answer_follows_the_interval(report: CausalReport, margin: tuple | None, answer: str, words: str) -> None:
    rho, low, high = margin or (None, None, None)
    first = report.predictors[0].model_copy(update={"spearman": rho, "low": low, "high": high})
    reading = causal_evidence.gate_reading(report.model_copy(update={"predictors": (first, *report.predictors[1:])}))
    assert reading.answer == answer and words in reading.figures


def test_what_is_committed_is_read_carefully(report: CausalReport) -> None:
    assert causal_evidence.choice_reading(report).answer == "No effect seen."
    assert causal_evidence.choice_reading(report.model_copy(update={"effects": ()})).answer == "Cannot tell."
    few = report.effects[0].replaced(advantage=Estimate(value=0.2), states=4, problems=3, p=None)
    found = causal_evidence.choice_reading(report.model_copy(update={"effects": (few,)}))
    assert found.answer == "Cannot tell." and "+0.200 (too few problems for an interval)" in found.figures
    assert "at 4 states of 3 problems" in found.figures
    assert with_interval(Estimate(value=-0.5, low=-1, high=0.25), "+.2f") == "−0.50 [−1.00, +0.25]"


def test_a_study_from_before_problems_were_clusters_says_so(report: CausalReport) -> None:
    old = report.model_copy(update={"effects": tuple(effect.replaced(problems=None) for effect in report.effects)})
    assert any("Call the command again" in line for line in causal_evidence.study_warnings(old, None, ended=True))
    assert not causal_evidence.study_warnings(report, None, ended=True)


def test_tables_show_the_reports_numbers(report: CausalReport) -> None:
    table = causal_evidence.advantage_table(report).set_index("name")
    assert list(table["value"]) == sorted(table["value"], reverse=True)
    for action in report.actions:
        row = table.loc[action.entry_id]
        assert (row["value"], row["verdict"]) == (action.value, action.verdict)
        assert [row["low"], row["high"]] == pytest.approx(action.bounds, nan_ok=True)
        fields = ("won", "lost", "problems", "states", "pairs")
        assert [row[field] for field in fields] == [getattr(action, field) for field in fields]
        seen = [np.nan if p is None else p for p in (action.p, action.p_holm)]
        assert [row["p"], row["p holm"]] == pytest.approx(seen, nan_ok=True)
        assert (action.low is None) == ("too few problems for an interval" in row["advantage"])
    arms = causal_evidence.arm_table(report)
    assert list(arms["name"]) == [f"{effect.arm} vs {effect.against}" for effect in report.effects]
    predictors = causal_evidence.predictor_table(report)
    assert list(predictors["auc"]) == [each.auc for each in report.predictors]
    points = causal_evidence.point_table(report)
    assert len(points) == len(report.points) and points["gain"].isna().sum() == sum(p.gain is None for p in report.points)
    assert (points["fate"] == "chosen").sum() == sum(p.chosen for p in report.points)


def test_the_curves_have_the_reports_areas(report: CausalReport) -> None:
    curves = causal_evidence.roc_table(report)
    for each in report.predictors:
        part = curves[curves["predictor"] == each.name]
        assert np.trapezoid(part["true"], part["false"]) == pytest.approx(each.auc)
    one_sided = report.model_copy(update={"predictors": tuple(p.model_copy(update={"auc": None}) for p in report.predictors)})
    assert causal_evidence.roc_table(one_sided).empty


def test_notes_name_the_biases(report: CausalReport) -> None:
    lines = " ".join(causal_evidence.bias_lines(report))
    assert "their advantages are biased down" in lines and "1 of 7 actions were tried on too few problems" in lines
    whole = report.model_copy(update={"spec": report.spec.model_copy(update={"halving": False})})
    assert "halving" not in " ".join(causal_evidence.bias_lines(whole))
    assert causal_evidence.study_warnings(report, report.spec.basis, ended=True) == []
    short = report.model_copy(update={"states": 1})
    assert len(causal_evidence.study_warnings(short, "other", ended=False)) == 2
    assert "budget was used up" in causal_evidence.study_warnings(short, None, ended=True)[0]


def test_figures_have_titles_and_all_points(report: CausalReport) -> None:
    table = causal_evidence.advantage_table(report)
    figure = forest(table, "advantage", "p0001c")
    points = [data[0] for trace in figure.data if trace.customdata is not None for data in trace.customdata]
    assert sorted(points) == sorted(table["name"])
    assert figure.layout.yaxis.categoryarray[-1] == table["name"][0]  # the best on top
    assert {trace.name for trace in figure.data if trace.customdata is not None} == {"helps", "harms", "no effect seen", "cannot tell"}
    assert len({colour for colour, _ in VERDICTS.values()}) == 3 and len({shape for _, shape in VERDICTS.values()}) == 4
    assert all(trace.customdata is not None for trace in forest(table, "advantage", "nobody").data)
    shown = causal_evidence.point_table(report).dropna(subset=["gain"])
    drawing = gate_calibration.advantage_map(shown, "p0001c")
    assert drawing.layout.coloraxis.cmin == -drawing.layout.coloraxis.cmax
    assert sum(len(trace.x) for trace in drawing.data if trace.customdata is not None) == len(shown)
    for each in (drawing, gate_calibration.calibration_chart(causal_evidence.calibration_table(report))):
        assert each.layout.xaxis.title.text and each.layout.yaxis.title.text
    curves = gate_calibration.roc(causal_evidence.roc_table(report))
    assert [trace.name for trace in curves.data][1] == f"margin ({report.predictors[0].auc:.2f})"


def test_without_a_run_or_a_study_the_command_is_shown(open_page: OpenPage, store: Path) -> None:
    assert any("stir run" in code.value for code in clean(open_page("causal")).code)
    make_fake_run(store, "bare")
    app = clean(open_page("causal"))
    assert "have not been measured causally yet" in texts(app)
    assert app.code[0].value == f"stir causal {store / 'bare'}"


def test_a_study_is_shown(open_page: OpenPage, store: Path) -> None:
    make_fake_causal(make_fake_run(store))
    app = clean(open_page("causal", action="p0001c"))
    assert "Does the gate's margin predict the effect? Not seen." in texts(app)
    assert "measured at 10 states of 9 problems, 80 pairs" in texts(app) and not app.warning
    assert "stir causal fake" in [code.value for code in app.code]
    app.selectbox(key="action").select("p0003n").run()
    assert "**p0003n** was not tried in this study." in texts(clean(app))


def test_an_interrupted_study_says_so(open_page: OpenPage, store: Path) -> None:
    make_fake_causal(make_fake_run(store), ended=False, margin=None)
    app = clean(open_page("causal", action="p0000c"))
    assert "Not finished: 18 of 21 states were measured so far" in texts(app) and "Cannot tell." in texts(app)
    assert "Advantage +0.250 [+0.100, +0.400]" in texts(app)


def test_an_empty_study_is_a_page_too(open_page: OpenPage, store: Path) -> None:
    run = make_fake_run(store)
    report = make_fake_causal(run)
    empty = report.model_copy(update={"states": 0, "effects": (), "actions": (), "calibration": (), "points": (), "predictors": ()})
    CausalFolder(run).write_report(empty, "", complete=True)
    renew(CausalFolder(run).path)
    assert "No action has been measured yet." in texts(clean(open_page("causal")))


def test_a_torn_study_is_one_line(open_page: OpenPage, store: Path) -> None:
    run = make_fake_run(store)
    make_fake_causal(run)
    (CausalFolder(run).path / "report.json").write_text("{}")
    app = open_page("causal")
    assert not app.exception and len(app.error) == 1


def test_a_clicked_point_chooses_its_action(open_page: OpenPage, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AppTest cannot select points of a chart: the page's callbacks are called with the selection that a browser would send."""
    import streamlit as st

    handed = {}
    chart = st.plotly_chart
    monkeypatch.setattr(st, "plotly_chart", lambda *a, **k: (handed.update({k.get("key"): k.get("on_select")}), chart(*a, **k))[1])
    make_fake_causal(make_fake_run(store))
    clean(open_page("causal"))
    for key, entry in (("causal_actions", "p0002c"), ("causal_map", "p0004c")):
        state = {key: {"selection": {"points": [{"customdata": None}, {"customdata": [entry, 1]}]}}}
        monkeypatch.setattr(st, "session_state", state)
        handed[key]()
        assert state["action"] == entry


def test_measured_actions_are_marked_in_the_library(run: Run, report: CausalReport) -> None:
    table = action_table.action_table(RunFacts(run), null_entries=True).set_index("entry")
    measured = {action.entry_id: action for action in report.actions}
    for entry, row in table.iterrows():
        if entry in measured:
            assert row["advantage"] == measured[entry].value and row["verdict"] == measured[entry].verdict
            assert row["advantage 95 %"] in with_interval(measured[entry], "+.3f")
        else:
            assert row[list(action_table.ADVANTAGE_COLUMNS)].isna().all()


def test_the_library_of_an_unmeasured_run_has_no_such_columns(facts: RunFacts) -> None:
    assert not set(action_table.ADVANTAGE_COLUMNS) & set(action_table.action_table(facts).columns)


def test_the_card_shows_what_was_measured(open_page: OpenPage, store: Path) -> None:
    run = make_fake_run(store)
    app = clean(open_page("actions", action="p0000c"))
    assert "Advantage" not in texts(app)
    make_fake_causal(run)
    app = clean(open_page("actions", action="p0000c"))
    assert "Advantage +0.250 [+0.100, +0.400]" in texts(app)
    assert "measured at 9 states of 8 problems, 72 pairs of continuations with and without it: 3 won, 2 lost" in texts(app)
    assert "Advantage" not in texts(clean(open_page("actions", action="p0000n")))


HELPED = {"null": 0.3, "own action": 0.8, "retrieved action": 0.3, "shuffled labels": 0.3, "random": 0.3}


def test_the_study_of_own_actions_is_shown_above_the_gates(open_page: OpenPage, store: Path) -> None:
    run = make_fake_run(store)
    report = make_fake_own(run, HELPED)
    app = clean(open_page("causal"))
    assert "Can an impulse help at all? Retrieval at fault." in texts(app) and str(report.verdict) in texts(app)
    assert "20 points before any arm was decoded" in texts(app) and "a ceiling of the mechanism, not a result of the method" in texts(app)
    assert "have not been measured causally yet" in texts(app)  # by the other study
    make_fake_causal(run)
    app = clean(open_page("causal"))
    assert texts(app).index("Can an impulse help at all?") < texts(app).index("Does the gate's margin predict the effect?")
    assert not app.warning and f"stir causal {run.path} --study own" not in [code.value for code in app.code]


def test_own_arms_have_the_reports_numbers(tmp_path: Path) -> None:
    report = make_fake_own(make_fake_run(tmp_path), HELPED)
    table = causal_evidence.arm_table(report).set_index("name")
    assert list(table.index) == [f"{effect.arm} vs {effect.against}" for effect in report.effects]
    for effect, (_, row) in zip(report.effects, table.iterrows(), strict=True):
        assert row["value"] == effect.advantage.value
        assert f"{effect.accuracy:.1%}" == row["right"] and f"{effect.accuracy_against:.1%}" == row["right against"]
        assert [row["p holm"]] == pytest.approx([np.nan if effect.p_holm is None else effect.p_holm], nan_ok=True)
    assert table.loc["own action vs null", "verdict"] == "helps" and table.loc["random vs null", "verdict"] == "no effect seen"
    assert len(forest(causal_evidence.arm_table(report), "advantage").data) >= 2


def test_without_a_study_of_own_actions_its_command_is_shown(open_page: OpenPage, store: Path) -> None:
    run = make_fake_run(store)
    make_fake_causal(run)
    app = clean(open_page("causal"))
    assert "Can an impulse help at all? A problem's own action" in texts(app)
    assert f"stir causal {run.path} --study own" in [code.value for code in app.code]


def test_an_interrupted_study_of_own_actions_says_so(open_page: OpenPage, store: Path) -> None:
    make_fake_own(make_fake_run(store), HELPED, ended=False)
    assert "Not finished: 12 of 15 states were measured so far" in texts(clean(open_page("causal")))
