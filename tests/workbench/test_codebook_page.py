"""The Codebook page: cards, charts and strips hold what the codebook on disk holds, and a run without one says how to make it."""

# pyright: reportCallIssue=false, reportArgumentType=false
# (plotly carries no stubs here: a trace may be anything to a type checker)

import shutil
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from fake_run import make_fake_run
from page_reading import clean, components, strips, texts
from streamlit.testing.v1 import AppTest

from stir_core.evaluate.codes import coder_of
from stir_core.records import Lens, TokenWeight
from stir_core.store.causal import CausalFolder
from stir_core.store.runs import EMBEDDED_RUNS, Run
from workbench.codebook import charts, data
from workbench.codebook.data import Book
from workbench.live import ModelShelf
from workbench.shared.charts import categorical
from workbench.shared.codes import code_colour, code_segments
from workbench.shared.command_lines import codebook_command
from workbench.shared.facts import RunFacts

OpenPage = Callable[..., AppTest]
EMBEDDED = EMBEDDED_RUNS["two_habits"]


@pytest.fixture(scope="module")
def coded() -> RunFacts:
    """The embedded organism's run, which has a codebook."""
    return RunFacts(Run.open(EMBEDDED))


@pytest.fixture(scope="module")
def book(coded: RunFacts) -> Book:
    """Its codebook."""
    assert coded.codebook is not None
    return data.book_of(coded, coded.codebook, coded.codebook.layers[0].layer)


@pytest.fixture
def copied(store: Path) -> Path:
    """A copy of it in the store."""
    return Path(shutil.copytree(EMBEDDED, store / "two_habits"))


def test_a_card_shows_what_the_codes_of_all_steps_say(book: Book) -> None:
    shown = data.cards(book, {}, "number", 2)
    assert [card["code"] for card in shown] == sorted(book.by_number) and [card["chosen"] for card in shown].count(True) == 1
    every, points = Counter(book.codes), Counter((row.m, code) for row, code in zip(book.rows, book.codes, strict=True))
    at = Counter(row.m for row in book.rows)
    for card in shown:
        assert card["used"].startswith(f"{every[card['code']]} steps")
        assert card["points"] == [[m, points[m, card["code"]], n] for m, n in sorted(at.items())]
        assert set(card["texts"]) <= {row.text.strip() for row, code in zip(book.rows, book.codes, strict=True) if code == card["code"]}
        assert card["colour"] == code_colour(card["code"])
    assert len({card["colour"] for card in shown}) == len(shown) <= len(categorical(len(shown)))
    assert [card["code"] for card in data.cards(book, {}, "most used", None)] == [code for code, _ in every.most_common()]


def test_flags_and_layers_are_said_in_words(book: Book) -> None:
    code = book.layer.codes[0].replaced(flags=("position", "length"))
    flagged = book._replace(layer=book.layer.replaced(codes=(code,)))
    assert data.cards(flagged, {}, "flagged first", None)[0]["flags"] == ["position only", "length only"]


def test_effects_come_with_their_number_and_only_where_they_were_measured(coded: RunFacts, book: Book) -> None:
    assert coded.advantages and book.effects and not book.own
    for code, effects in book.effects.items():
        names = {each.entry_id for each in effects}
        assert len(names) == len(effects) and names <= set(coded.advantages)
        pairs = sum(coded.advantages[name].pairs for name in names)
        assert f"n = {len(names)} action" in data.effect_line(effects) and f"{pairs} pairs" in data.effect_line(effects)
        assert list(data.effect_table(effects)["advantage"]) == sorted((each.value for each in effects), reverse=True)
        assert code in book.by_number
    assert data.effect_line([]) == "not measured"


def test_the_effects_of_the_codes_own_vectors_come_first_while_they_are_of_this_codebook(copied: Path) -> None:
    run = Run.open(copied)
    report = CausalFolder(run).report()
    own = tuple(report.actions[0].replaced(entry_id=f"c1.{m}.2c", value=0.1 * m) for m in (1, 3))
    for digest in (run.digest("codes"), "another"):
        spec = report.spec.replaced(study="codes", basis=digest)
        folder = CausalFolder(run, "codes")
        folder.path.mkdir(exist_ok=True)
        folder.write_report(report.replaced(spec=spec, actions=own), "", complete=False)
        facts = RunFacts(run)
        assert facts.codebook is not None
        found = data.book_of(facts, facts.codebook, 1)
        assert found.own == (digest != "another") and (found.effects.get(2) == list(own)) == found.own


def test_the_curve_has_every_fit(book: Book) -> None:
    table = data.error_table(book.layer)
    assert len(table) == len(book.layer.rate) + len(book.layer.fits) and {"pca", "kmeans"} <= set(table["method"])
    figure = charts.rate_chart(table)
    drawn = sorted((x, y) for trace in figure.data for x, y in zip(trace["x"], trace["y"], strict=True))
    assert drawn == sorted((fit.size, fit.error) for fit in (*book.layer.rate, *book.layer.fits))
    assert figure.layout.xaxis.title.text and figure.layout.yaxis.title.text


def test_a_strip_is_the_whole_answer_with_a_label_before_each_step(coded: RunFacts, book: Book) -> None:
    answers = data.coded_answers(coded, book)
    assert sum(len(answer.codes) for answer in answers.values()) == len(book.rows)
    for answer in answers.values():
        assert "".join(row.text for row in answer.rows) + answer.tail == answer.rollout.text
        pieces = code_segments(answer.rows, answer.codes, answer.tail)
        assert [int(piece["text"]) for piece in pieces if piece["role"] == "code"] == answer.codes
    problem = book.rows[0].problem_id
    table = data.sequence_table(answers, problem)
    assert len(table) == sum(row.problem_id == problem for row in book.rows)


def test_a_run_without_codes_shows_the_command(open_page: OpenPage, store: Path) -> None:
    run = make_fake_run(store)
    app = clean(open_page("codebook"))
    assert "has no codebook yet" in texts(app)
    assert [code.value for code in app.code] == [f"stir codebook {run.path}"]


def test_an_embedded_run_is_copied_first() -> None:
    embedded = Run.open("smollm2")
    assert codebook_command(embedded) == f"cp -r {embedded.path} runs/smollm2-codes && stir codebook runs/smollm2-codes"


def test_a_codebook_is_shown_and_a_card_chooses_its_code(
    open_page: OpenPage, copied: Path, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = clean(open_page("codebook", code="2"))
    (grid,) = [part for part in components(app) if "cards" in part]
    assert [card["code"] for card in grid["cards"] if card["chosen"]] == [2] and not any(card["promotes"] for card in grid["cards"])
    assert len(strips(app)) == 2 and "1234 steps of 16 problems, 4 of them held out" in texts(app)
    assert [code.value for code in app.code] == [
        f"stir causal {copied} --study codes",
        f"stir codebook {copied} --kind kmeans --size 4 --encoder state --redo",
    ]
    told = Lens(entry_id="0", promoted=(TokenWeight(token_id=1, text=" so", logit=1.0),), suppressed=())
    monkeypatch.setattr(ModelShelf, "lens", lambda self, run, rows, names: [told.replaced(entry_id=name) for name in names])
    app.button(key="codebook_read").click().run()
    (grid,) = [part for part in components(clean(app)) if "cards" in part]
    assert [card["promotes"] for card in grid["cards"]] == [["␣so"]] * len(book.by_number)


def test_a_damaged_codebook_is_one_line(open_page: OpenPage, copied: Path) -> None:
    (copied / "codes" / "report.json").write_text("{}\n")
    app = open_page("codebook")
    assert not app.exception and len(app.error) == 1 and "\n" not in app.error[0].value


@pytest.mark.model
def test_answers_that_are_read_again_get_the_codes_of_the_run(coded: RunFacts) -> None:
    """A rollout dressed as a trace: its states, read by the shelf's model, have the codes that the codebook gave its steps."""
    coder, trace = coder_of(coded.run), coded.run.traces("vanilla")[0]
    assert coder is not None
    rows = zip(coded.step_rows, coded.step_codes["codes_1"].tolist(), strict=True)
    known = {(row.problem_id, row.k, row.m): code for row, code in rows if row.m}
    traces, wanted = [], []
    for rollout in list(coded.rollouts.values())[:40:3]:
        cuts = (0, *rollout.boundaries, len(rollout.token_ids))
        steps = tuple(trace.steps[0].replaced(token_ids=rollout.token_ids[a:b]) for a, b in pairwise(cuts))
        traces.append(trace.replaced(prompt_ids=rollout.prompt_ids, token_ids=rollout.token_ids, steps=steps))
        wanted.append([known[rollout.problem_id, rollout.k, m] for m in range(1, len(rollout.boundaries) + 1)])
    found = ModelShelf().step_states(coded.run, traces, (1,))
    assert [coder.codes(states)[1] for states in found] == wanted and len({code for codes in wanted for code in codes}) > 1
