"""A run that ships as its results only: three pages open it, the others say what is missing, and its figures are those of the whole run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from page_reading import texts
from streamlit.testing.v1 import AppTest

from benchmarks.results import check
from scripts.shipped_results import ship
from stir_core.cli import main
from stir_core.findings import Answer
from stir_core.store import runs as store_runs
from stir_core.store.causal import CausalFolder
from stir_core.store.evaluations import evaluations
from stir_core.store.jsonl import read_records, write_records
from stir_core.store.runs import EMBEDDED_RUNS, RECORDS, STAGES, Run
from stir_core.store.saved import SavedFolder
from tests.seals import renew
from workbench.home.data import evidence, runs_table
from workbench.report.document import Selected, report_sections
from workbench.shared.facts import EvaluationFacts, RunFacts, evaluations_of

WHOLE = Run.open(EMBEDDED_RUNS["two_habits"])


@pytest.fixture
def results(store: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Results of the embedded organism in a store of their own."""
    monkeypatch.setattr(store_runs, "RECORDS", store)
    ship(WHOLE, store / "two_habits", traces=2)
    return Run.open(store / "two_habits")


def test_its_figures_come_from_its_answers_and_continuations(results: Run) -> None:
    assert results.results_only and results.stages() == () and not results.derived("rollouts").exists()
    (evaluation,), (whole,) = evaluations(results), evaluations(WHOLE)
    assert evaluation.report() == whole.report() and CausalFolder(results).report() == CausalFolder(WHOLE).report()
    assert [line for line in check("", [], results.path.parent) if "docs/results.md" not in line] == []
    causal = CausalFolder(results)
    said, rolls = causal.file("report.json"), causal.report().rolls
    said.write_text(said.read_text().replace(f'"rolls": {rolls}', f'"rolls": {rolls + 1}'))
    renew(causal.path)
    assert check("", [], results.path.parent)[0] == f"{causal.path}: the continuations give another report"
    file = evaluation.file_of("vanilla")
    first, *others = read_records(file, Answer)
    assert first.verdict is not None
    write_records(file, [first.replaced(verdict=first.verdict.replaced(correct=not first.verdict.correct)), *others])
    renew(evaluation.path)
    assert check("", [], results.path.parent)[0] == f"{evaluation.path}: the answers give another report"


@pytest.mark.parametrize("page", ["evaluate", "causal", "compare", "home", "report"])
def test_pages_open_it(results: Run, open_page: Callable[..., AppTest], page: str) -> None:
    app = open_page(page, run=results.name)
    assert not app.exception and not app.error and len(texts(app)) > 5


def test_evaluate_says_what_rounding_alone_changes(open_page: Callable[..., AppTest], store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(RECORDS / "qwen-svamp", store / "qwen-svamp")
    monkeypatch.setattr(store_runs, "RECORDS", store)
    (evaluation,) = [each for each in evaluations(Run.open(store / "qwen-svamp")) if each.final.name == "whole"]
    (quiet,) = [each.versus for each in evaluation.report().methods if each.name == "stir:policy=probe"]
    assert quiet and quiet.rounded and quiet.untouched
    app = open_page("evaluate", run="qwen-svamp")
    assert f"stir:policy=probe {quiet.rounded} of {quiet.untouched} ({quiet.rounded_won} won, {quiet.rounded_lost} lost)" in texts(app)


@pytest.mark.parametrize("page", ["actions", "basis", "gates", "trace", "what_if", "curate", "export", "codebook"])
def test_other_pages_say_what_is_missing(results: Run, open_page: Callable[..., AppTest], page: str) -> None:
    app = open_page(page, run=results.name)
    assert not app.exception and not app.error
    assert any(info.value.startswith("This page needs the rollouts") for info in app.info)


def test_home_counts_what_did_not_ship_and_tells_what_its_studies_found() -> None:
    facts = RunFacts(Run.open("smollm2-arithmetic"))
    table, faults = runs_table([facts])
    row = table.iloc[0]
    assert not faults and row["stages"] == "results only" and row["rollouts"] == facts.run.facts["counts"]["rollouts"]["rollouts"] > 0
    (own,) = evidence(facts, {})
    assert own.verdict == CausalFolder(facts.run, "own").report().outcome and "A problem's own action" in own.text


def test_home_names_the_variant_that_harms() -> None:
    facts = RunFacts(Run.open("qwen-svamp-again"))
    evaluated = {label: EvaluationFacts(folder) for label, folder in evaluations_of(facts.run).items()}
    found = {each.text.partition(":")[0]: each.verdict for each in evidence(facts, evaluated)}
    assert found["Evaluation layers, STIR (layer 14)"] == "harms" == found["Evaluation transfer"]


def test_the_report_says_what_ships_and_what_does_not() -> None:
    facts = RunFacts(Run.open("qwen-svamp"))
    sections = {each.name: each for each in report_sections(facts, Selected(), SavedFolder(facts.run.path.parent))}
    assert sections["probe"].parts and not sections["probe"].missing
    assert all(sections[name].missing.startswith("It does not ship") for name in ("actions", "basis", "gate", "answers", "policies"))
    tables = [
        part for name in ("evaluations", "causal") for _, part in sections[name].parts if isinstance(part, pd.DataFrame) and "p" in part
    ]
    assert tables and any("< 0.001" in set(table["p"]) for table in tables)
    assert all(isinstance(p, str) or pd.isna(p) for table in tables for p in table["p"])


def test_stages_that_never_ship_are_called_so(results: Run, open_page: Callable[..., AppTest], capsys: pytest.CaptureFixture[str]) -> None:
    app = open_page("home", run=results.name)
    assert [header.value for header in app.header] and not [header for header in app.header if header.value in ("Stages on disk", "Model")]
    assert [row.state for row in results.status()] == ["does not ship"] * len(STAGES)
    assert main(["status", str(results.path)]) == 0
    assert capsys.readouterr().out.count("does not ship") == len(STAGES)
