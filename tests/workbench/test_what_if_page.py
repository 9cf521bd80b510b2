"""The What-if page with a fake session: branches, the tree, the table of one step, links, errors, and runs without answers."""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false
# (pandas carries no stubs here: a column may be anything to a type checker)

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_run import NASTY, make_fake_run
from fake_steering import FakeSteering, install
from page_reading import components, strips
from streamlit.testing.v1 import AppTest

from stir_core.errors import DataError
from stir_core.saved import SavedBranch, SavedRerolls
from stir_core.store.runs import Run
from stir_core.store.saved import SavedFolder
from workbench.shared.saved import command_of
from workbench.what_if.data import changes_nothing

OpenPage = Callable[..., AppTest]


@pytest.fixture
def sessions(store: Path, monkeypatch: pytest.MonkeyPatch) -> list[FakeSteering]:
    """Sessions that the app has opened, on a store with one run."""
    make_fake_run(store)
    return install(monkeypatch, nasty=False)


def clean(app: AppTest) -> AppTest:
    assert not app.exception, app.exception[0].value
    assert not app.error, app.error[0].value
    return app


def badges(app: AppTest) -> str:
    return " ".join(element.value for element in app.markdown).replace("\\", "")


def tables(app: AppTest, column: str) -> list:
    return [frame.value for frame in app.dataframe if column in frame.value.columns]


def open_step(open_page: OpenPage, problem: str = "arithmetic/eval/2", m: str = "2") -> AppTest:
    app = clean(open_page("what_if", problem=problem, m=m))
    app.button_group(key="what_if_way").set_value("Keep")  # with the next run
    return app


def test_keeping_equals_the_recorded_trace_and_says_so(open_page: OpenPage, sessions: list[FakeSteering]) -> None:
    app = open_step(open_page)
    assert app.code[0].value.endswith("arithmetic/eval/2 --at 2 --deny"), "the page answers: what without it?"
    app.run()
    assert not sessions, "no model before a branch is asked for"
    (code,) = app.code
    assert code.value.endswith("arithmetic/eval/2 --at 2"), "the form as it stands, before anything is decoded"
    app.button_group(key="what_if_way").set_value("Deny").run()
    assert clean(app).code[0].value.endswith("--at 2 --deny")
    app.button_group(key="what_if_way").set_value("Keep").run()
    app.button(key="what_if_branch").click().run()
    assert "nothing changed: equals the recorded trace token for token" in badges(clean(app))
    trace, (change,), gate, _ = sessions[0].branched[0]
    assert (trace.id, change.m, change.to, gate.k_scale) == ("arithmetic/eval/2", 2, "keep", 0.5)
    assert sessions[0].closed == 1
    assert any("stir whatif" in code.value and "--at 2" in code.value for code in app.code)


def test_denying_differs_and_the_tree_holds_both(open_page: OpenPage, sessions: list[FakeSteering]) -> None:
    app = open_step(open_page)
    app.button(key="what_if_branch").click().run()
    app.button_group(key="what_if_way").set_value("Deny").run()
    app.button(key="what_if_branch").click().run()
    assert "differs from the recorded trace from token" in badges(clean(app))
    (table,) = tables(app, "of")
    assert list(table["change"]) == ["recorded", "m 2: keep", "m 2: deny"]
    assert table["differs_at"].isna().tolist() == [True, True, False]
    assert any("--deny" in code.value for code in app.code)
    app.button(key="what_if_branch").click().run()  # the same change again replaces its branch
    assert len(tables(clean(app), "of")[0]) == 3


def test_another_action_at_another_strength_and_a_branch_of_a_branch(open_page: OpenPage, sessions: list[FakeSteering]) -> None:
    app = open_step(open_page)
    app.button_group(key="what_if_way").set_value("Take an action").run()
    entry = app.selectbox(key="what_if_entry_2")
    assert entry.options[0] != entry.options[1]
    for toggle in app.toggle:
        if str(toggle.key).startswith("what_if_own"):
            toggle.set_value(False).run()
    app.slider(key="what_if_alpha").set_value(1.5).run()
    app.button_group(key="what_if_then").set_value("null from here on").run()
    app.button(key="what_if_branch").click().run()
    change = sessions[0].branched[0][1][0]
    assert (change.to, change.alpha, change.then) == (entry.value, 1.5, "null")
    key = next(box.key for box in app.selectbox if str(box.key).startswith("what_if_from"))
    app.selectbox(key=key).set_value(1).run()
    app.button_group(key="what_if_way").set_value("Keep").run()
    app.button_group(key="what_if_then").set_value("the gate decides").run()
    app.button(key="what_if_branch").click().run()
    assert sessions[0].branched[1][0].steps[2].decision.chosen == entry.value
    assert "nothing changed: equals #1 token for token" in badges(clean(app))
    code = app.code[-1].value
    assert code.count("--at") == 2 and "--alpha 1.5 --then null" in code


def test_all_candidates_at_once_make_the_one_step_table(open_page: OpenPage, sessions: list[FakeSteering]) -> None:
    app = open_step(open_page)
    app.button(key="what_if_all").click().run()
    changes = sessions[0].branched[0][1]
    evidence = sessions[0].branched[0][0].steps[2].evidence
    corrective = {entry.entry_id for entry in evidence.retrieved if entry.kind == "corrective"}
    assert len(sessions[0].branched) == 1 and {change.to for change in changes} == {"null", *corrective}
    assert all(change.alpha is not None for change in changes[1:])
    (table,) = tables(clean(app), "at this step")
    assert len(table) == len(changes) + 1 and table["at this step"].iloc[0].startswith("as it stands")
    assert set(table["verdict"]) == {"wrong"} and table["degenerated"].tolist() == [False] * len(table)


def test_arrows_step_and_the_ends_are_closed(open_page: OpenPage, sessions: list[FakeSteering]) -> None:
    app = open_step(open_page, m="0")
    assert app.button(key="what_if_left").disabled
    app.button(key="what_if_right").click().run()
    assert clean(app).button_group(key="m").value == "1"
    assert not app.button(key="what_if_left").disabled


def test_the_tree_is_kept_while_other_pages_are_open(open_page: OpenPage, sessions: list[FakeSteering]) -> None:
    app = open_step(open_page)
    app.button(key="what_if_branch").click().run()
    app.switch_page("../pages/home.py").run()
    app.switch_page("../pages/what_if.py").run()
    assert len(tables(clean(app), "of")[0]) == 2
    app.selectbox(key="problem").select("arithmetic/eval/1").run()
    assert len(tables(clean(app), "of")[0]) == 1
    app.selectbox(key="problem").select("arithmetic/eval/2").run()
    assert len(tables(clean(app), "of")[0]) == 2


def test_the_last_comparison_of_trace_is_an_origin(open_page: OpenPage, sessions: list[FakeSteering]) -> None:
    app = open_page("trace", problem="arithmetic/eval/2")
    app.number_input(key="trace_k_scale_fake").set_value(0.25).run()
    app.button(key="trace_start").click().run()
    app.switch_page("../pages/what_if.py").run()
    app.button_group(key="what_if_kind").set_value("Last comparison of Trace").run()
    app.button(key="what_if_branch").click().run()
    assert sessions[0].branched[0][2].k_scale == 0.25
    assert any("stir whatif" in code.value and "--strength 0.25" in code.value for code in clean(app).code)


def test_a_new_comparison_of_a_free_prompt_is_what_the_page_opens_on_at_its_first_impulse(
    open_page: OpenPage, sessions: list[FakeSteering]
) -> None:
    app = open_step(open_page, m="4")
    app.switch_page("../pages/trace.py").run()
    app.button_group(key="trace_kind").set_value("Free prompt").run()
    app.text_area(key="trace_prompt").set_value("What is 2 + 2?").run()
    app.button(key="trace_start").click().run()
    steered = clean(app).session_state["trace_recording"].traces[1]
    app.switch_page("../pages/what_if.py").run()
    assert clean(app).button_group(key="what_if_kind").value == "Last comparison of Trace"
    assert app.button_group(key="m").value == str(next(step.m for step in steered.steps if step.decision.chosen))
    app.button_group(key="what_if_kind").set_value("Recorded held-out answer").run()
    app.switch_page("../pages/home.py").run()
    app.switch_page("../pages/what_if.py").run()
    assert clean(app).button_group(key="what_if_kind").value == "Recorded held-out answer", "once for each comparison"


def test_where_nothing_was_committed_there_is_nothing_to_deny(open_page: OpenPage, sessions: list[FakeSteering], store: Path) -> None:
    trace = next(trace for trace in Run.open(store / "fake").traces("steered") if trace.id == "arithmetic/eval/2")
    offered = {}
    for chosen in (True, False):
        step = next(step for step in trace.steps if bool(step.decision.chosen) == chosen)
        offered[chosen] = open_step(open_page, m=str(step.m)).button_group(key="what_if_way").options
    assert "Deny" in offered[True] and "Deny" not in offered[False]


def test_a_token_of_any_answer_of_the_tree_is_clicked_and_forked(open_page: OpenPage, sessions: list[FakeSteering], store: Path) -> None:
    app = open_step(open_page)
    app.button(key="what_if_tokens_ask").click().run()
    trace = next(trace for trace in Run.open(store / "fake").traces("steered") if trace.id == "arithmetic/eval/2")
    (drawn,) = [data for data in components(clean(app)) if data is not None and "steps" in data]
    tokens = [token for step in drawn["steps"] for row in step["rows"] for token in row["tokens"]]
    assert tuple(token["id"] for token in tokens) == trace.token_ids and drawn["names"] == ["steered"]
    assert all(token["reading"]["near"] for token in tokens), "each has alternatives to click"
    clicked = {"row": 1, "at": 4, "id": 7, "text": NASTY, "was": "x", "of": drawn["digest"]}
    app.session_state["trace_fork"] = clicked
    app.run()
    assert any(code.value.endswith("--at-token 5 --put id:7") for code in clean(app).code)
    app.session_state["trace_fork"] = clicked  # AppTest draws the whole page where a browser draws the dialog alone
    app.button(key="trace_fork_start").click().run()
    begun, (made,), _, _ = sessions[0].branched[0]
    assert begun == trace and (made.position, made.token) == (4, 7)
    (table,) = tables(clean(app), "of")
    assert list(table["change"])[1].startswith("token 5: put “")
    own = made.model_copy(update={"token": trace.token_ids[4]})
    assert changes_nothing(own, trace) and not changes_nothing(made, trace)
    assert not changes_nothing(own.model_copy(update={"seed": 0}), trace), "sampled, it may differ"


def test_model_text_is_text(open_page: OpenPage, sessions: list[FakeSteering]) -> None:
    app = open_step(open_page, problem="arithmetic/eval/0", m="0")
    drawn = strips(app)
    assert any(NASTY in "".join(piece["text"] for piece in strip["segments"]) for strip in drawn)
    assert not any("<script>" in element.value for element in app.markdown)


def test_a_refusal_is_one_line_and_the_tree_stands(
    open_page: OpenPage, sessions: list[FakeSteering], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_step(open_page)
    app.button(key="what_if_branch").click().run()

    def refuse(*_: object, **__: object) -> object:
        raise DataError("the answer was steered by p0009c, which is not in the library")

    monkeypatch.setattr(FakeSteering, "branch", refuse)
    app.button(key="what_if_branch").click().run()
    assert not app.exception and len(app.error) == 1
    app.run()
    assert len(tables(clean(app), "of")[0]) == 2


@pytest.mark.parametrize("upto", ["rollouts", "basis"])
def test_without_a_steered_stage_the_command_is_shown(open_page: OpenPage, store: Path, upto: str) -> None:
    make_fake_run(store, "half", upto)
    app = clean(open_page("what_if"))
    assert "no finished stage" in app.info[0].value and "--until steered" in app.code[0].value


def test_rerolls_are_a_tree_with_counts_saved_together_and_each_has_its_command(
    open_page: OpenPage, sessions: list[FakeSteering], store: Path
) -> None:
    app = open_step(open_page)
    app.number_input(key="what_if_rolls").set_value(5).run()
    app.button(key="what_if_reroll").click().run()
    trace, changes, _, decode = sessions[0].branched[0]
    assert [(change.m, change.to, change.seed) for change in changes] == [(2, "keep", seed) for seed in range(5)]
    assert decode.temperature == Run.open(store / "fake").config.decode.temperature, "the seed's own sampler is the session's"
    (work,) = SavedFolder(store).all()[0]
    content = SavedFolder(store).content(work.id)
    assert isinstance(content, SavedRerolls) and len(content.rolls) == 5 and content.change.seed is None
    assert work.id in clean(app).query_params["saved"]
    right = sum(roll.verdict is not None and roll.verdict.correct for roll in content.rolls)
    said = f"5 continuations sampled from control point 2: {right} of 5 right"
    assert said in " ".join(element.value for element in app.markdown).replace("\\", "")
    (table,) = tables(app, "seed")
    assert table["differs_at"].isna().tolist() == [True, False, True, False, True]
    codes = [code.value for code in app.code]
    assert any(code.endswith("--at 2 --rolls 5") for code in codes) and any(code.endswith("--at 2 --seed 0") for code in codes)
    other = clean(open_page("what_if", saved=work.id))  # another tab
    assert other.selectbox(key="problem").value == trace.id and len(tables(other, "seed")) == 1
    assert command_of(content, Run.open(store / "fake")) in [code.value for code in clean(open_page("saved", saved=work.id)).code]


def test_a_branch_is_sampled_with_a_named_seed(open_page: OpenPage, sessions: list[FakeSteering]) -> None:
    app = open_step(open_page)
    app.button_group(key="what_if_draw").set_value("sampled").run()
    app.number_input(key="what_if_seed").set_value(3).run()
    assert clean(app).code[0].value.endswith("--at 2 --seed 3")
    app.button(key="what_if_branch").click().run()
    assert sessions[0].branched[0][1][0].seed == 3
    key = next(box.key for box in clean(app).selectbox if str(box.key).startswith("what_if_from"))
    app.selectbox(key=key).set_value(1).run()
    app.button_group(key="what_if_draw").set_value("as the answer was").run()
    app.button(key="what_if_branch").click().run()
    decode = sessions[0].branched[1][3]
    assert decode.temperature > 0, "a branch of a sampled branch is sampled too"


@pytest.mark.parametrize(("row", "way", "change"), [(1, "steered: the gate decides", ("keep", "gate")), (0, "vanilla", ("keep", "null"))])
def test_a_token_clicked_on_trace_is_forked_and_shown_as_a_branch(
    open_page: OpenPage, sessions: list[FakeSteering], store: Path, row: int, way: str, change: tuple[str, str]
) -> None:
    app = open_page("trace", problem="arithmetic/eval/2")
    app.button(key="trace_start").click().run()
    recording = app.session_state["trace_recording"]
    clicked = {"row": row, "at": 4, "id": 7, "text": NASTY, "was": "␣x", "of": recording.id}
    app.session_state["trace_fork"] = clicked
    app.run()
    assert clean(app).button_group(key=f"trace_fork_way_{row}").value == way
    said = " ".join(element.value for element in app.markdown).replace("\\", "")
    assert f"{('vanilla', 'steered')[row]} answer, token 5: “{NASTY}” in place of “␣x”" in said
    app.session_state["trace_fork"] = clicked  # AppTest draws the whole page where a browser draws the dialog alone
    app.button(key="trace_fork_start").click().run()
    trace, (made,), _, _ = sessions[0].branched[0]
    assert trace == recording.traces[row] and (made.position, made.token, made.to, made.then) == (4, 7, *change)
    (work,) = [work for work in SavedFolder(store).all()[0] if work.kind == "what-if"]
    content = SavedFolder(store).content(work.id)
    assert isinstance(content, SavedBranch) and content.of == ("vanilla", "steered")[row] and content.origin == trace
    other = clean(open_page("what_if", saved=work.id))
    (table,) = tables(other, "of")
    assert list(table["change"])[1].startswith("token 5: put “")
    assert not any("<script>" in element.value for element in other.markdown)
    codes = [code.value for code in other.code]
    assert any("--at-token 5 --put id:7" in code and ("--of vanilla" in code) == (row == 0) for code in codes)
