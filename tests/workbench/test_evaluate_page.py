"""The Evaluate page on every kind of evaluation; its numbers equal the report's."""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOptionalMemberAccess=false
# (pandas and plotly carry no stubs here: a column may be anything to a type checker)

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_evaluation import METHODS, is_right, make_fake_evaluation
from fake_run import NASTY, make_fake_run
from page_reading import clean, leaves, strips, texts
from streamlit.testing.v1 import AppTest

from stir_core.evaluate.statistics import clustered_difference
from stir_core.findings import Leak, MethodReport
from stir_core.records import StepEvidence
from stir_core.store.evaluations import EvaluationFolder
from stir_core.store.runs import Run
from tests.seals import renew
from workbench.evaluate import data as flips
from workbench.evaluate.charts import pareto, transfer_heatmap
from workbench.shared import facts as evaluation_facts
from workbench.shared.charts import method_forest
from workbench.shared.conclusion import conclusion, readable, stir_of
from workbench.shared.facts import EvaluationFacts

OpenPage = Callable[..., AppTest]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a small evaluation, one with seeds, and one on another task."""
    made = make_fake_run(tmp_path_factory.mktemp("evaluated"))
    make_fake_evaluation(made)
    make_fake_evaluation(made, "votes", seeds=3)
    make_fake_evaluation(made, "other", task="gsm8k", methods=("vanilla", "stir:k_scale=0.25,variant=no_memory"))
    return made


def facts_of(run: Run, label: str = "small") -> EvaluationFacts:
    return EvaluationFacts(EvaluationFolder(run, label))


def drawn(app: AppTest) -> list[str]:
    """Texts of the text strips."""
    return ["".join(piece["text"] for piece in strip["segments"]) for strip in strips(app)]


def test_the_table_shows_the_reports_numbers(run: Run) -> None:
    report = facts_of(run).report
    table = flips.method_table(report).set_index("method")
    assert list(table.index) == list(METHODS) and list(table["name"]) == [readable(name) for name in METHODS]
    for method in report.methods:
        row = table.loc[method.name]
        assert row["right"] == f"{sum(is_right(method.name, i) for i in range(7))} of 7"
        assert row["accuracy"] == pytest.approx(100 * method.accuracy.value)
        assert row["decoded"] == pytest.approx(method.committed + method.probe)
        assert row["gflops"] == pytest.approx(method.flops / 1e9)
        assert (row["rep 2"], row["rep 3"], row["zlib"]) == (method.repeated_2, method.repeated_3, method.zlib_ratio)
        if method.versus:
            assert (row["won"], row["lost"], row["tied"]) == (len(method.versus.won), len(method.versus.lost), method.versus.tied)
            assert (row["p"], row["p holm"]) == (method.versus.p, method.versus.p_holm)
            assert row["difference"] == pytest.approx(100 * method.versus.difference.value)
            assert row["difference 95 %"] == "too few problems for an interval" and method.versus.difference.low is None
            assert row["committed vs"].endswith("(too few problems for an interval)")
    assert table.loc["vanilla", ["won", "difference", "p"]].isna().all()
    assert set(flips.RESULTS) | set(flips.COSTS_AND_TEXT) == {"method", *table.columns}
    assert len(set(flips.method_table(report).columns)) == len(flips.method_table(report).columns)


def test_the_front_holds_the_methods_that_no_other_beats(run: Run) -> None:
    report = facts_of(run).report
    for cost in flips.COSTS:
        table = flips.pareto_table(report, cost)
        for row in table.to_dict("records"):
            better = table[
                (table["cost"] <= row["cost"])
                & (table["accuracy"] >= row["accuracy"])
                & ((table["cost"] < row["cost"]) | (table["accuracy"] > row["accuracy"]))
            ]
            assert row["front"] == better.empty
    untimed = report.model_copy(update={"methods": (report.methods[0].model_copy(update={"seconds": None}), *report.methods[1:])})
    assert list(flips.pareto_table(untimed, "seconds")["method"]) == [readable(name) for name in METHODS[1:]]


def test_flips_are_the_reports(run: Run) -> None:
    facts = facts_of(run)
    table = flips.outcome_table(facts, "stir")
    assert list(table["outcome"]) == ["won", "won", "lost", "tied", "tied", "tied", "tied"]
    assert list(table["problem"][:3]) == ["arithmetic/eval/1", "arithmetic/eval/4", "arithmetic/eval/3"]
    for row in table.to_dict("records"):
        i = int(row["problem"].rsplit("/", 1)[1])
        assert (row["baseline right"] == "yes", row["method right"] == "yes") == (is_right("vanilla", i), is_right("stir", i))
    assert flips.pair_of(facts, "stir", "nowhere") is None
    assert flips.outcome_table(facts, "static")["outcome"].eq("tied").all()


def test_seeds_are_paired_with_the_one_answer_of_a_deterministic_method(run: Run) -> None:
    facts = facts_of(run, "votes")
    assert [facts.seeds(name) for name in METHODS] == [1, 1, 1, 3]
    table = flips.outcome_table(facts, "self_consistency:k=3")
    assert table.set_index("problem").loc["arithmetic/eval/0", "method right"] == "2 of 3"
    pair = flips.pair_of(facts, "self_consistency:k=3", "arithmetic/eval/0", 2)
    assert pair and (pair.baseline.seed, pair.method.seed) == (0, 2)
    assert facts.methods["self_consistency:k=3"].versus.test.startswith("sign-flip")


def test_a_methods_gate_is_the_runs_with_its_own_parameters(run: Run) -> None:
    facts = facts_of(run, "other")
    own = run.config.gate
    assert evaluation_facts.gate_of(facts.spec, "stir") == own
    changed = evaluation_facts.gate_of(facts.spec, "stir:k_scale=0.25,library=shuffled,variant=no_memory")
    assert changed == own.model_copy(update={"k_scale": 0.25, "variant": "no_memory"})


def test_transfer_takes_the_largest_clean_evaluation(run: Run, tmp_path: Path) -> None:
    other = make_fake_run(tmp_path, "other")
    make_fake_evaluation(other, "leaky", leaks=True, n=9)
    make_fake_evaluation(other, "half", n=9, answered={"stir": 5})
    make_fake_evaluation(other, "clean", n=6)
    (EvaluationFolder(other, "leaky").path.parent / "torn").mkdir()
    (EvaluationFolder(other, "leaky").path.parent / "torn" / "report.json").write_text("{}")
    found = {each.name: ("arithmetic", [facts_of(each, label) for label in evaluation_facts.evaluations_of(each)]) for each in (run, other)}
    table, broken = flips.transfer_table(found)
    assert len(broken) == 1 and "torn/report.json" in broken[0]
    cells = {(row["run"], row["task"]): row for row in table.to_dict("records")}
    assert cells["other (arithmetic)", "arithmetic"]["label"] == "clean"
    foreign = cells["fake (arithmetic)", "gsm8k"]
    assert (foreign["method"], foreign["own"]) == ("stir:k_scale=0.25,variant=no_memory", False)
    report = facts_of(run).report
    own = cells["fake (arithmetic)", "arithmetic"]
    assert own["own"] and own["difference"] == pytest.approx(100 * report.methods[1].versus.difference.value)
    leaky, _ = flips.transfer_table({"other": ("arithmetic", [facts_of(other, "leaky")])})
    assert leaky["shown"][0].endswith(" !") and "mined" in leaky["note"][0]
    spec = transfer_heatmap(table).to_dict()
    low, high = spec["layer"][0]["encoding"]["color"]["scale"]["domain"]
    assert low == -high


def test_figures_draw_every_method_and_its_interval(run: Run) -> None:
    report = facts_of(run).report
    figure = method_forest(*flips.forest_tables(report), "vanilla")
    marks = [trace for trace in figure.data if trace.customdata is not None]
    assert sum(len(trace.x) for trace in marks) == len(METHODS) + len(METHODS) - 1
    accuracies = next(trace for trace in marks if len(trace.x) == len(METHODS))
    assert list(accuracies.x + accuracies.error_x.array) == pytest.approx([100 * m.accuracy.bounds[1] for m in report.methods])
    low, high = figure.layout.xaxis.range
    ends = [end for m in report.methods for end in m.accuracy.bounds]
    assert low < 100 * min(ends) and 100 * max(ends) < high and high - low < 1.2 * 100 * (max(ends) - min(ends)) + 2
    assert "(%)" in figure.layout.xaxis.title.text and "points" in figure.layout.xaxis2.title.text
    drawing = pareto(flips.pareto_table(report, "decoded tokens"), "tokens per answer")
    assert [trace.name for trace in drawing.data] == ["Pareto front", *map(readable, METHODS)]
    assert drawing.layout.xaxis.title.text == "tokens per answer" and "%" in drawing.layout.yaxis.title.text


def test_the_verdict_is_no_stronger_than_interval_p_and_what_was_answered(run: Run) -> None:
    report = facts_of(run).report
    few = conclusion(report)
    assert (
        few
        and few.verdict == "cannot tell"
        and "too few problems for an interval" in few.text
        and "n = 7 problems, 2 won, 1 lost" in few.text
    )
    stir = next(m for m in report.methods if m.name == "stir")

    def judged(won: int, lost: int, tied: int, p_holm: float = 0.001, **changes: object) -> tuple[str, str]:
        difference = clustered_difference([[1.0]] * won + [[-1.0]] * lost + [[0.0]] * tied)[0]
        ids = [f"p{i}" for i in range(won + lost)]
        versus = stir.versus.model_copy(
            update={"won": tuple(ids[:won]), "lost": tuple(ids[won:]), "tied": tied, "difference": difference, "p_holm": p_holm}
        )
        methods = tuple(m.model_copy(update={"versus": versus}) if m.name == "stir" else m for m in report.methods)
        found = conclusion(report.model_copy(update={"methods": methods, "problems": won + lost + tied} | changes))
        assert found and f"n = {won + lost + tied} problems, {won} won, {lost} lost" in found.text
        assert ("helps" in found.others) is False and "static" in found.others
        return found.verdict, found.text

    verdict, text = judged(20, 0, 20)
    assert verdict == "helps" and text.startswith("STIR helps: +50.0 points of accuracy against vanilla, [+")
    assert judged(0, 20, 20)[0] == "harms"
    for weak in (judged(6, 5, 20), judged(20, 0, 20, p_holm=0.06), judged(20, 0, 20, complete=False)):
        assert weak[0] == "cannot tell" and weak[1].startswith("Cannot tell whether STIR helps, since ")
    leaky = report.spec.model_copy(update={"leaks": (Leak(problem_id="a", mined_id="b", similarity=1.0, exact=True),)})
    assert judged(20, 0, 20, spec=leaky)[0] == "cannot tell"
    assert conclusion(report.model_copy(update={"methods": tuple(m for m in report.methods if m.name != "stir")})) is None


def test_without_plain_stir_the_variant_told_apart_best_is_named_and_no_control(run: Run) -> None:
    report = facts_of(run).report
    stir = next(m for m in report.methods if m.name == "stir")
    p_of = {"stir:layer=9": 0.4, "stir:layer=14,variant=random_vector": 0.001, "stir:layer=14": 0.02, "stir:library=shuffled": 0.003}
    arms = tuple(stir.model_copy(update={"name": n, "versus": stir.versus.model_copy(update={"p_holm": p})}) for n, p in p_of.items())

    def named(*methods: MethodReport) -> str:
        found = stir_of(report.model_copy(update={"methods": methods}))
        assert found is not None
        return found.name

    assert named(*arms) == named(*reversed(arms)) == "stir:layer=14"
    assert named(*arms, stir) == "stir"
    assert named(arms[1], arms[3]) == "stir:layer=14,variant=random_vector"


def test_names_of_methods_are_words() -> None:
    assert readable("stir:noise=matched,variant=random_vector") == "STIR (random vector, noise matched)"
    assert readable("stir:k_scale=0.25,library=shuffled") == "STIR (shuffled library, strength 0.25)"
    assert readable("self_consistency:k=3") == "self consistency (k 3)" and readable("vanilla") == "vanilla"


def test_without_a_run_or_an_evaluation_the_command_is_shown(open_page: OpenPage, store: Path) -> None:
    assert any("stir run" in code.value for code in clean(open_page("evaluate")).code)
    make_fake_run(store, "half", "actions")
    assert 'no finished stage "basis"' in texts(clean(open_page("evaluate")))
    make_fake_run(store, "bare")
    app = clean(open_page("evaluate", run="bare"))
    assert "has not been evaluated yet" in texts(app)
    assert app.code[0].value == f"stir eval {store / 'bare'} --methods vanilla stir static noise"


def test_a_whole_evaluation_is_shown(open_page: OpenPage, store: Path) -> None:
    report = make_fake_evaluation(make_fake_run(store))
    app = clean(open_page("evaluate"))
    assert app.selectbox(key="evaluation").value == "small"
    assert "n = 7 problems" in texts(app) and "baseline vanilla" in texts(app)
    assert not app.warning and not app.info
    assert report.spec.command in [code.value for code in app.code]
    frames = {tuple(frame.value.columns): frame.value for frame in app.dataframe}
    assert tuple(flips.RESULTS) in frames and app.text[0].value.startswith("Cannot tell whether STIR helps")
    app = clean(open_page("evaluate", evaluate_tab="Accuracy against cost"))
    frames = {tuple(frame.value.columns): frame.value for frame in app.dataframe}
    assert tuple(flips.COSTS_AND_TEXT) in frames and tuple(flips.RESULTS) not in frames
    app.button_group(key="evaluate_cost").set_value(["GFLOPs"]).run()
    clean(app)


def test_leaks_and_missing_answers_are_said(open_page: OpenPage, store: Path) -> None:
    make_fake_evaluation(make_fake_run(store), leaks=True, answered={"stir": 4})
    app = open_page("evaluate")
    assert not app.exception and len(app.error) == 1
    assert "Evaluation problems were mined: 1 of 7 (arithmetic/eval/1 is arithmetic/train/1)" in texts(app)
    assert "Not finished: 4 of 7 problems" in texts(app)


def test_an_evaluation_without_a_whole_problem_has_nothing_to_compare(open_page: OpenPage, store: Path) -> None:
    make_fake_evaluation(make_fake_run(store), answered={"stir": 0})
    app = clean(open_page("evaluate"))
    assert "nothing to compare" in texts(app) and app.code


def test_an_evaluation_of_another_basis_says_so(open_page: OpenPage, store: Path) -> None:
    run = make_fake_run(store)
    make_fake_evaluation(run)
    folder = EvaluationFolder(run, "small")
    report = folder.report()
    folder.write_report(report.model_copy(update={"spec": report.spec.model_copy(update={"basis": "0123"})}), "", complete=True)
    renew(folder.path)
    assert "Made with another control basis (0123)" in texts(clean(open_page("evaluate")))


def test_a_torn_report_is_one_line(open_page: OpenPage, store: Path) -> None:
    run = make_fake_run(store)
    make_fake_evaluation(run)
    (EvaluationFolder(run, "small").path / "report.json").write_text("{}")
    app = open_page("evaluate")
    assert not app.exception and len(app.error) == 1 and "report.json is not the file that was written" in texts(app)


def test_a_problem_shows_its_two_answers_and_the_decisions(open_page: OpenPage, store: Path) -> None:
    make_fake_evaluation(make_fake_run(store))
    app = clean(open_page("evaluate", answered="arithmetic/eval/0"))
    assert app.selectbox(key="answered").value == "arithmetic/eval/0"
    assert any(NASTY in text for text in drawn(app))
    for element in leaves(app.main):
        if element.type in ("markdown", "caption", "alert"):
            assert not getattr(element.proto, "allow_html", False) and "<script>" not in str(getattr(element.proto, "body", ""))
    assert app.button_group(key="m").value is not None
    app.selectbox(key="answered").select("arithmetic/eval/3").run()
    assert "right · extracted 1" in texts(clean(app)) and "wrong · extracted 2" in texts(app)


def test_a_clicked_row_chooses_its_problem(open_page: OpenPage, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AppTest cannot select rows of a table: the page's callback is called with the selection that a browser would send."""
    import streamlit as st

    handed = {}
    table = st.dataframe
    monkeypatch.setattr(st, "dataframe", lambda *a, **k: (handed.update({k.get("key"): k.get("on_select")}), table(*a, **k))[1])
    make_fake_evaluation(make_fake_run(store))
    clean(open_page("evaluate", evaluate_tab="Flips"))
    state = {"evaluate_flips": {"selection": {"rows": [2]}}}
    monkeypatch.setattr(st, "session_state", state)
    handed["evaluate_flips"]()
    assert state["answered"] == "arithmetic/eval/3"


def test_a_method_without_steps_has_plain_text(open_page: OpenPage, store: Path) -> None:
    make_fake_evaluation(make_fake_run(store), seeds=2)
    app = clean(open_page("evaluate", method="static", answered="arithmetic/eval/2"))
    assert "No steps are stored with this answer of static" in texts(app)
    assert any(text.startswith("Start with 18 apples") for text in drawn(app))
    app = clean(open_page("evaluate", method="self_consistency:k=3", evaluate_tab="Flips"))
    app.button_group(key="evaluate_seed").set_value(["1"]).run()
    clean(app)


def test_a_method_that_forces_its_impulses_has_no_gate_to_take_apart(open_page: OpenPage, store: Path) -> None:
    run = make_fake_run(store)
    make_fake_evaluation(run, methods=("vanilla", "stir", "stir:tau_null=9"))
    folder = EvaluationFolder(run, "small")
    answers = folder.answers("stir")
    folder.file_of("stir").unlink()
    for answer in answers:
        assert answer.trace
        bare = [step.model_copy(update={"evidence": StepEvidence(m=step.step - 1, position=9)}) for step in answer.trace.steps]
        folder.append(answer.model_copy(update={"trace": answer.trace.model_copy(update={"steps": tuple(bare)})}))
    renew(folder.path)
    app = clean(open_page("evaluate", method="stir", evaluate_tab="Flips"))
    assert "Nothing was retrieved" in texts(app) and "library at m" not in texts(app)
    assert "library at m" in texts(clean(open_page("evaluate", method="stir:tau_null=9", evaluate_tab="Flips")))


def test_outcomes_filter(open_page: OpenPage, store: Path) -> None:
    make_fake_evaluation(make_fake_run(store))
    for key in ("evaluation", "method", "answered"):
        app = open_page("evaluate", **{key: "<b>", "evaluate_tab": "Flips"})
        assert app.selectbox(key=key).value is None and ['"<b>"' in error.value.replace("\\", "") for error in app.error] == [True]
    app = clean(open_page("evaluate", evaluate_tab="Flips"))
    app.button_group(key="evaluate_outcomes").set_value(["lost"]).run()
    shown = next(frame.value for frame in clean(app).dataframe if "outcome" in frame.value.columns)
    assert list(shown["problem"]) == ["arithmetic/eval/3"]
