"""The Compare page: copies, other models, versions of one library, and evaluations on the same problems."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from big_run import make_big_run  # pyright: ignore[reportMissingImports]
from fake_evaluation import make_fake_evaluation  # pyright: ignore[reportMissingImports]
from fake_run import make_fake_run  # pyright: ignore[reportMissingImports]
from page_reading import MOST_CALLS, calls_of_a_rerun  # pyright: ignore[reportMissingImports]

from stir_core.cli import main
from stir_core.curation import make_edit
from stir_core.store.curation import Curation
from stir_core.store.runs import Run
from stir_core.store.tensors import write_tensors
from tests.seals import renew, rewrite
from workbench.compare import charts, several
from workbench.compare import data as comparison
from workbench.shared.charts_paper import svg
from workbench.shared.facts import RunFacts

WHEN = "2026-11-21T17:33:14Z"


def copy_of(run: Run, name: str = "copy") -> Run:
    shutil.copytree(run.path, run.path.parent / name)
    return Run.open(run.path.parent / name)


def with_vectors(run: Run, change) -> Run:
    tensors = {"keys": run.key_rows(), "actions": run.action_rows()}
    write_tensors(run.path / "actions" / "actions.safetensors", {name: change(rows).astype(np.float32) for name, rows in tensors.items()})
    renew(run.path / "actions")
    return run


def held(one: Run, other: Run, by: str = "actions", version: str = "all"):
    sides = [comparison.library_side(RunFacts(run), version, by) for run in (one, other)]
    return comparison.compare_libraries(*sides)


@pytest.fixture
def run(store) -> Run:
    return make_fake_run(store)


@pytest.mark.parametrize("by", comparison.BY)
def test_a_copy_shares_every_entry(run, by):
    made = held(run, copy_of(run), by)
    found = comparison.shared_entries(made, 0.99, assign=False)
    assert list(found.shared["entry"]) == list(found.shared["other"]) and found.lost.empty and found.gained.empty
    assert len(found.shared) == len(made.one.entries) == (12 if by == "actions" else 24)
    np.testing.assert_allclose(found.shared["cosine"], 1, atol=1e-6)
    assert made.spans is not None and made.spans.overlap == pytest.approx(1)
    assert list(found.shared["controls"]) == list(found.shared["controls '"])


def test_entries_in_another_order_are_the_same_entries(run):
    other = copy_of(run)
    rewrite(other, "actions", "entries.jsonl", list(reversed(other.entries())))
    found = comparison.shared_entries(held(run, other), 0.99, assign=True)
    assert len(found.shared) == 12 and list(found.shared["entry"]) == list(found.shared["other"])


def test_a_rotated_copy_shares_nothing_and_lies_where_chance_would(run):
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(32, 32)))[0]
    made = held(run, with_vectors(copy_of(run), lambda rows: rows @ turn))
    assert made.by_chance is not None and abs(np.nanmean(made.best) - made.by_chance) < 0.15
    found = comparison.shared_entries(made, 0.7, assign=False)
    assert (len(found.shared), len(found.lost), len(found.gained)) == (0, 12, 12)


def test_settings_are_compared_leaf_by_leaf(run):
    changed = run.config.model_copy(update={"gate": run.config.gate.model_copy(update={"k_scale": 0.125})})
    table = several.settings_table({"this run": run.config, "other run": changed})
    assert table.to_dict("records") == [{"setting": "gate.k_scale", "this run": "0.5", "other run": "0.125"}]
    assert several.settings_table({"a": run.config, "b": run.config, "c": run.config}).empty
    assert list(several.settings_table({"a": run.config, "b": run.config, "c": changed})["c"]) == ["0.125"]


def test_differences_of_texts_give_both_texts_back():
    one, other = "First 3 + 4 = 7.\nSo the answer is 7.", "3 + 4 = 8.\nSo, then, the answer is 8."
    for text, against in ((one, other), (other, one), (one, one), (one, "")):
        pieces = several.difference_segments(text, against)
        assert "".join(piece["text"] for piece in pieces if piece["role"] == "plain") == text
        alike = [piece["text"] for piece in pieces if piece["role"] == "plain" and not piece["shade"]]
        at = 0
        for piece in alike:  # unshaded pieces stand in the other text, in this order
            at = against.index(piece, at) + len(piece)
        assert any(piece["shade"] or piece["role"] == "mark" for piece in pieces) == (text != against)


def test_runs_are_compared_on_the_problems_that_all_answered(run):
    facts = RunFacts(run)
    first, then = (several.answers_of(facts, {}, source) for source in ("vanilla", "steered"))
    fewer = dict(list(then.items())[1:])
    table = several.runs_accuracy({"a": first, "b": then, "c": fewer}).set_index("run")
    shared = [id_ for id_ in first if id_ in fewer]
    assert list(table["n"]) == [len(shared)] * 3 == [len(first) - 1] * 3
    right = [{id_ for id_, trace in arm.items() if trace.verdict and trace.verdict.correct} for arm in (facts.vanilla, facts.steered)]
    gaps = [(id_ in right[1]) - (id_ in right[0]) for id_ in shared]
    assert (table.loc["b", "won"], table.loc["b", "lost"]) == (gaps.count(1), gaps.count(-1))
    assert table.loc["c", "difference"] == table.loc["b", "difference"] == pytest.approx(100 * sum(gaps) / len(gaps))
    differ = [id_ for id_ in first if first[id_].right != then[id_].right]
    assert several.verdict_table({"a": first, "b": then})["problem"].iloc[0] in differ
    other = {id_: each._replace(problem=each.problem.model_copy(update={"question": "another"})) for id_, each in then.items()}
    assert several.runs_accuracy({"a": first, "b": other}).empty and several.common_problems([first, other]) == []


def test_several_runs_on_the_page_and_their_answers_in_python(store, open_page, capsys):
    for name in "abc":
        make_fake_evaluation(make_fake_run(store, name))
    query = {"compare_tab": "Several runs", "answers": "small: stir", "answered": "arithmetic/eval/3"}
    app = open_page("compare", run="a", runs="a,b,c", **query)
    assert not app.exception and not app.error
    table = next(frame.value for frame in app.dataframe if "accuracy" in frame.value)
    assert list(table["run"]) == ["a", "b", "c"] and list(table["difference"])[1:] == [0, 0]
    exec(app.code[0].value, {})
    assert capsys.readouterr().out.count("The answer is 2") == 3
    app = open_page("compare", run="a", compare_tab="Several runs", runs="a")
    assert not app.exception and "two or more runs" in app.info[0].value


def test_ticks_of_counts_have_no_decimals():
    """M10 of the review: an axis from 1 to 1 had the tick "1,000000"."""
    for n in (1, 2, 40):
        angles = pd.DataFrame({"direction": range(1, n + 1), "cosine": [0.5] * n, "degrees": [60.0] * n})
        table = pd.DataFrame({"against": ["same control point"] * n, "cosine": [0.99] * n})
        for chart in (charts.principal_angles(angles, 0.2), charts.match_histogram(table, 0.7, 0.2)):
            labels = re.findall(r"<text[^>]*>([^<]+)</text>", svg(chart))
            assert len(labels) > 3 and not [label for label in labels if re.search(r"\d[.,]\d{3,}", label)], labels


def test_a_store_without_runs_and_one_with_a_single_run(store, open_page):
    app = open_page("compare")
    assert not app.exception and "stir run" in app.code[0].value
    make_fake_run(store)
    app = open_page("compare")
    assert not app.exception and not app.error
    assert [metric.value for metric in app.metric] == ["7", "0", "5"], "the basis against all mined actions of the same run"
    assert "--other-library all" in app.code[-1].value


def test_the_page_on_a_copy_and_its_command(run, open_page, capsys):
    copy_of(run)
    app = open_page("compare", run="fake", compared="copy", version="all", compared_version="all")
    assert not app.exception and not app.error
    assert [metric.value for metric in app.metric] == ["12", "0", "0"]
    assert app.code[-1].value.startswith("stir compare ") and app.code[-1].value.endswith("--min-cosine 0.7")
    app.toggle(key="compare_assign").set_value(True).run()
    app.slider(key="compare_cosine").set_value(1.0).run()
    app.button_group(key="compare_by").set_value("keys").run()
    assert not app.exception and 0 < int(app.metric[0].value) < 24
    _, *words = shlex.split(app.code[-1].value)
    assert main(words) == 0 and f"{app.metric[0].value} shared of 24 and 24 entries" in capsys.readouterr().out, (
        "the command of the view as it stands"
    )


def test_another_model_is_refused_in_one_line_naming_what_differs(run, open_page):
    other = copy_of(run, "other")
    for manifest in other.path.glob("*/manifest.json"):
        facts = json.loads(manifest.read_text())
        facts["model"] |= {"weights_sha256": "b" * 64, "dtype": "bfloat16"}
        manifest.write_text(json.dumps(facts))
    app = open_page("compare", run="fake", compared="other")
    assert not app.exception and len(app.error) == 1
    assert "differ in weights\\_sha256, dtype" in app.error[0].value.replace("\\,", ",") and not app.metric


def test_the_curated_library_is_one_of_the_versions(run, open_page):
    Curation.open(run).add(
        make_edit("exclude", ["p0001c", "p0002c"], who="a", when=WHEN), make_edit("include", ["p0009c"], who="a", when=WHEN)
    )
    app = open_page("compare", run="fake", compared="fake", version="basis", compared_version="curated")
    assert not app.exception and [metric.value for metric in app.metric] == ["5", "2", "1"]


def test_a_library_of_two_entries_and_a_run_without_a_basis(store, run, open_page):
    small = make_fake_run(store, "small", upto="actions")
    rewrite(small, "actions", "entries.jsonl", small.entries()[:2])
    app = open_page("compare", run="fake", compared="small", version="all", compared_version="all")
    assert not app.exception and [metric.value for metric in app.metric] == ["1", "11", "0"]
    app = open_page("compare", run="fake", compared="small", version="all", compared_version="basis")
    assert not app.exception and "no finished stage" in app.error[0].value


def test_evaluations_are_paired_by_problem(run, open_page):
    make_fake_evaluation(run)
    other = copy_of(run)
    file = next((other.work / "evaluation").glob("*/answers/stir-*.jsonl"))
    answers = [json.loads(line) for line in file.read_text().splitlines()]
    turned = [answer for answer in answers if not answer["verdict"]["correct"]]
    assert turned, "the comparison proves nothing when every answer is right"
    for answer in turned[:1]:
        answer["verdict"]["correct"] = True
    file.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    renew(file.parents[1])
    app = open_page("compare", run="fake", compared="copy")
    assert not app.exception
    table: pd.DataFrame = next(frame.value for frame in app.dataframe if "this run" in frame.value and "method" in frame.value).set_index(
        "method"
    )
    name = turned[0]["method"]
    assert (table.loc[name, "won"], table.loc[name, "lost"]) == (1, 0)
    assert table.loc[name, "difference"] == pytest.approx(table.loc[name, "other run"] - table.loc[name, "this run"])
    assert table.loc["vanilla", "difference"] == 0 and table.loc["vanilla", "p"] == 1


@pytest.mark.slow
def test_five_thousand_entries_stay_quick(store: Path, open_page):
    run = make_big_run(store)
    copy_of(run)
    app = open_page("compare", run="big", compared="copy", version="all", compared_version="all")
    assert not app.exception and [metric.value for metric in app.metric] == ["2500", "0", "0"]
    assert calls_of_a_rerun(app) < MOST_CALLS
