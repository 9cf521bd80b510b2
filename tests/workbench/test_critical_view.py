"""Where a wrong answer was lost: what the sentence dares to say, the marks of figure and text, and the Trace page with and without it."""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false, reportOptionalMemberAccess=false
# (pandas and plotly carry no stubs here: a column may be anything to a type checker)

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from fake_critical import fake_critical, make_fake_critical
from fake_run import NASTY, fake_trace, make_fake_run
from page_reading import strips
from streamlit.testing.v1 import AppTest

from stir_core.evaluate.critical import critical_trace
from stir_core.findings import CriticalRoll, CriticalTrace
from stir_core.store.critical import CriticalFile, Of
from stir_core.store.runs import Run
from workbench.shared.command_lines import critical_command
from workbench.shared.facts import RunFacts
from workbench.trace import critical
from workbench.trace.charts import critical_strip

OpenPage = Callable[..., AppTest]
BOTH_WRONG, BOTH_RIGHT, VANILLA_WRONG = (f"arithmetic/eval/{i}" for i in (2, 0, 1))


def measured(facts: RunFacts, rights: Sequence[int], of: Of = "steered", **more: int) -> CriticalTrace:
    """Critical tokens of an answer of seven points; the gate acted at tokens 8, 19 and 38, and not at 45."""
    trace = (facts.steered if of == "steered" else facts.vanilla)[BOTH_WRONG]
    return fake_critical(facts.held_out[BOTH_WRONG], trace, of, rights, **more)


def test_a_fall_with_intervals_apart_is_a_loss(facts: RunFacts) -> None:
    found = measured(facts, [8, 8, 1])
    assert critical.loss_of(found).label == "lost here"
    assert critical.sentence(found) == (
        "Lost between tokens 8 and 16: 100 % [68, 100] of continuations from token 8 came out right, 12 % [2, 47] from token 16. "
        "The gate acted at token 8, the control point before it."
    )


def test_what_the_gate_did_is_said_point_by_point(facts: RunFacts) -> None:
    def line(*rights: int, of: Of = "steered") -> str:
        found = measured(facts, rights, of)
        return critical.gate_line(found, critical.loss_of(found))

    assert line(8) == "No control point lies before it: the first step is never steered."
    assert line(8, 8, 8) == "The gate acted at token 8, the control point before it, and acted at token 19, a control point within it."
    assert line(8, 8, 8, 8) == "The gate acted at token 19, the control point before it."
    assert line(8, 8, 8, 8, 8, 8).endswith("and did not act at token 45, a control point within it.")
    assert line(8, 8, of="vanilla") == "This answer is not steered; a gate could have acted at token 8, the control point before it."
    assert line(8, of="vanilla") == "No step ends before it."
    still = measured(facts, [8, 8]).model_copy(update={"steered_at": ()})
    assert critical.sentence(still).endswith("The gate did not act at token 8, the control point before it.")


def test_overlapping_intervals_name_no_place(facts: RunFacts) -> None:
    found = measured(facts, [6, 6, 3, 3, 3, 3, 3])
    said = critical.sentence(found)
    assert "this cannot be told from noise with 8 continuations" in said and "Lost" not in said
    assert "75 % [41, 93] to 38 % [14, 69]" in said and "lost on the way" not in said
    assert critical.loss_of(found).label == "largest fall"
    assert "comes after it" not in said
    late = critical.sentence(measured(facts, [3, 3, 5, 1, 8, 8, 5]))
    assert "most between tokens 16 and 24" in late and "token 48, it is 62 % [31, 86] again: the answer went wrong after it" in late
    slowly = critical.sentence(measured(facts, [8, 7, 5, 4, 3, 2, 1]))
    assert "cannot be told from noise" in slowly and "it was lost on the way, but the tokens cannot be named" in slowly


def test_a_rate_that_comes_back_was_not_lost(facts: RunFacts) -> None:
    found = measured(facts, [8, 8, 0, 8, 2])
    assert critical.sentence(found).startswith("Largest fall between tokens 8 and 16")
    assert "not lost there for good: from token 24 it is 100 % [68, 100] again" in critical.sentence(found)
    assert critical.loss_of(found).label == "largest fall"


def test_a_rate_that_never_falls_has_no_loss(facts: RunFacts) -> None:
    rising = critical.sentence(measured(facts, [1, 1, 2, 2, 3, 3, 4]))
    assert rising.startswith("The rate never falls: 12 % [2, 47]") and "from token 48" in rising
    assert critical.sentence(measured(facts, [])).startswith("Not one of 56 continuations came out right, not even from the beginning")
    assert "too short for a second point" in critical.sentence(measured(facts, [3], every=64))
    assert critical.loss_of(measured(facts, [])) is None


def test_notes_name_what_misleads(facts: RunFacts) -> None:
    trace = facts.steered[BOTH_WRONG]
    line = critical.rates_note(facts, trace, measured(facts, [8, 8, 1]))
    assert "8 continuations each from 7 points 8 tokens apart, not steered" in line and "largest of 6 falls was picked" in line
    assert "was cut" not in line
    cut = trace.model_copy(update={"finish": "length"})
    line = critical.rates_note(facts, cut, measured(facts, []))
    assert "was cut at 49 tokens" in line and "falls was picked" not in line


def test_text_is_whole_with_marks_where_steps_end(facts: RunFacts) -> None:
    trace, found = facts.steered[BOTH_WRONG], measured(facts, [8, 8, 1])
    pieces = critical.critical_segments(found, trace)
    assert "".join(piece["text"] for piece in pieces if piece["role"] == "plain") == trace.text
    shown = "".join(piece["text"] for piece in pieces)
    assert "add 7.\n\n⟦lost here: ◆ 18 + 7 = 26, so there are⟧ 26 apples.\n\n◆ Let me" in shown
    assert shown.count("◆") == 3 and shown.count("◇") == 1
    later = critical.critical_segments(measured(facts, [8, 8, 8, 8]), trace)
    assert "⟦lost here: 26 is the sum, and it is to⟧" in "".join(piece["text"] for piece in later)
    assert {piece["shade"] for piece in pieces if piece["role"] == "plain"} == {1.0, 0.125, 0.0}
    assert "tokens 17 to 24 · 1 of 8 right when continued before them, 12 % [2, 47]" in {piece["tip"] for piece in pieces}
    assert pieces[-1]["tip"].startswith("tokens 49 to 49 · 0 of 8")
    elsewhere = found.model_copy(update={"pieces": tuple(piece.upper() for piece in found.pieces)})
    assert not any(sign in piece["text"] for piece in critical.critical_segments(elsewhere, trace) for sign in "◆◇")


def test_figure_has_rate_band_and_every_control_point(facts: RunFacts) -> None:
    trace, found = facts.steered[BOTH_WRONG], measured(facts, [8, 8, 1])
    figure = critical_strip(critical.rate_table(found), critical.control_table(found, trace), 49, (8, 16), "lost here")
    drawn = {part.name: part for part in figure.data}
    assert list(drawn["rate"].x) == [0, 8, 16, 24, 32, 40, 48, 49] and drawn["rate"].line.shape == "hv"
    assert list(drawn["rate"].y)[:4] == [100, 100, 12.5, 0]
    assert drawn["95 % interval"].fill == "tonexty"
    assert list(drawn["gate acted"].x) == [8, 19, 38] and list(drawn["gate chose null"].x) == [45]
    assert drawn["gate acted (line)"].line.dash == "solid" and drawn["gate chose null (line)"].line.dash == "dot"
    assert drawn["gate acted"].marker.symbol != drawn["gate chose null"].marker.symbol
    assert "committed p0004c" in drawn["gate acted"].customdata[0] and "<=" not in "".join(drawn["gate chose null"].customdata)
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes] == [(8, 16)]
    assert [note.text for note in figure.layout.annotations] == ["<b>lost here</b>"]
    plain = measured(facts, [], "vanilla")
    figure = critical_strip(critical.rate_table(plain), critical.control_table(plain, facts.vanilla[BOTH_WRONG]), 49, None, "")
    assert not figure.layout.shapes and "end of a step" in {part.name for part in figure.data}
    assert figure.layout.xaxis.title.text and "(%)" in figure.layout.yaxis.title.text


def test_the_command_names_answer_and_settings(facts: RunFacts) -> None:
    assert critical_command(facts.run, "a/b", "vanilla") == f"stir critical {facts.run.path} a/b --of vanilla"
    assert critical_command(facts.run, "a/b", "steered", every=16, rolls=4).endswith("--of steered --every 16 --rolls 4")


def test_the_page_says_how_to_measure_a_wrong_answer(open_page: OpenPage, store: Path) -> None:
    make_fake_run(store)
    app = open_page("trace", problem=BOTH_WRONG)
    assert not app.exception and not app.error
    assert "Where was it lost?" in _written(app)
    assert any(code.value.endswith(f"{BOTH_WRONG} --of steered") and "stir critical" in code.value for code in app.code)
    app.button_group(key="critical_of").set_value("vanilla").run()
    assert any(code.value.endswith(f"{BOTH_WRONG} --of vanilla") for code in app.code)
    app = open_page("trace", problem=VANILLA_WRONG)
    assert any(code.value.endswith(f"{VANILLA_WRONG} --of vanilla") for code in app.code)
    assert all(group.key != "critical_of" for group in app.button_group)


def test_the_page_shows_where_it_was_lost(open_page: OpenPage, store: Path) -> None:
    make_fake_critical(make_fake_run(store), 2, "vanilla", [8, 8, 1])
    app = open_page("trace", problem=BOTH_WRONG)
    assert not app.exception and not app.error
    assert "Lost between tokens 8 and 16" in _written(app)  # the answer that was measured comes first
    assert app.get("plotly_chart")
    assert "⟦lost here: " in _texts(app)
    assert any("--of vanilla --every 8 --rolls 8" in code.value for code in app.code)
    app.button_group(key="trace_kind").set_value("Free prompt").run()
    assert "Where was it lost?" not in _written(app)


def test_nothing_was_lost_in_a_right_answer(open_page: OpenPage, store: Path) -> None:
    make_fake_run(store)
    app = open_page("trace", problem=BOTH_RIGHT)
    assert not app.exception
    assert "Where was it lost?" not in _written(app) and not any("--every" in code.value for code in app.code)


def test_model_text_stays_text_and_old_files_say_what_is_missing(open_page: OpenPage, store: Path) -> None:
    run = make_fake_run(store)
    found = make_fake_critical(run, 2, "steered", [8, 8, 1])
    trace = run.traces("steered")[2]
    file = CriticalFile(run, "steered", trace)
    file.write(found.model_copy(update={"pieces": (NASTY, *found.pieces[1:])}))
    app = open_page("trace", problem=BOTH_WRONG)
    assert NASTY in _texts(app) and "lost here" in _texts(app) and NASTY not in _written(app)
    file.write(found.model_copy(update={"pieces": ()}))
    app = open_page("trace", problem=BOTH_WRONG)
    assert "Lost between" in _written(app) and "lost here" not in _texts(app)
    assert any("by an older version, without texts" in caption.value for caption in app.caption)


def steps_of(run: Run, answers: Sequence[str]) -> CriticalTrace:
    """Eight continuations from each end of a step of the answer to problem 2, all of which end in one of ``answers``."""
    problem, trace = run.problems("steered")[2], run.traces("steered")[2]
    places = [(0, *trace.step_ends)[i] for i in range(len(trace.steps))]
    rolls = [
        CriticalRoll(position=place, rep=rep, correct=False, finished=True, tokens=3, answer=answers[min(i, len(answers) - 1)])
        for i, place in enumerate(places)
        for rep in range(8)
    ]
    found = critical_trace(problem, trace, "steered", 0, rolls)
    CriticalFile(run, "steered", trace).write(found)
    return found


def test_what_each_step_decided_is_shown_for_any_recorded_answer(open_page: OpenPage, store: Path) -> None:
    run = make_fake_run(store)
    app = open_page("trace", problem=BOTH_RIGHT)
    assert "What did each step decide?" in _written(app)
    assert any("--at steps --rolls 16" in code.value for code in app.code)
    found = steps_of(run, ["", NASTY])
    assert [each.p_holm < 0.05 for each in found.steps] == [True, *[False] * (len(found.steps) - 1)]
    app = open_page("trace", problem=BOTH_WRONG)
    assert not app.exception and "1 changes which answers follow: step 1" in _written(app)
    assert any("--at steps --rolls 8" in code.value for code in app.code)
    table = critical.importance_table(found)
    assert list(table["does"]) == [critical.DECIDES, *[critical.OPEN] * (len(table) - 1)]
    assert "<img" not in "".join(table["hover"]) and "no answer × 8" in table["hover"][0]
    assert critical.steps_sentence(steps_of(run, ["1"])).endswith("each divergence can be chance.")


def test_a_malformed_summary_is_one_line(open_page: OpenPage, store: Path) -> None:
    run = make_fake_run(store)
    found = make_fake_critical(run, 2, "steered", [8, 8, 1])
    CriticalFile(run, "steered", run.traces("steered")[2]).write(found).write_text("{}")
    app = open_page("trace", problem=BOTH_WRONG)
    assert not app.exception and len(app.error) == 1


@pytest.mark.parametrize("right", [None, True])
def test_ungraded_and_right_answers_are_not_wrong(facts: RunFacts, right: bool | None) -> None:
    other = RunFacts(facts.run)
    problem = facts.held_out[BOTH_WRONG]
    trace = fake_trace(facts.run, problem, "Two.\n\nThree.", right, steered=False, seed=1)
    other.steered, other.vanilla = {problem.id: trace}, {}
    assert critical.wrong_answers(other, problem.id) == {}


def _written(app: AppTest) -> str:
    return " ".join(element.value for element in [*app.header, *app.markdown]).replace("\\", "")


def _texts(app: AppTest) -> str:
    return "".join(piece["text"] for strip in strips(app) for piece in strip["segments"])
