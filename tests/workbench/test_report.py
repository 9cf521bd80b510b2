"""Reports: one HTML file that loads nothing and runs nothing, of whole and half-made runs and of selections; figures as files."""

import base64
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fake_evaluation import make_fake_causal, make_fake_evaluation
from fake_run import IDENTITY, NASTY, make_fake_run, problems
from page_reading import clean
from streamlit.testing.v1 import AppTest

from stir_core.cli import main
from stir_core.commands.report import SECTIONS
from stir_core.errors import DataError
from stir_core.evaluate.activations import activation, subject
from stir_core.evaluate.probe import probe_run
from stir_core.findings import Estimate, PolicyFigures, PolicyReport, PolicySpec
from stir_core.store.policies import PolicyFolder
from stir_core.store.saved import SavedFolder
from workbench.actions import meaning
from workbench.report.document import TITLES, Selected, report_html, report_sections
from workbench.report.figures import RunFigure, run_figures, write_figures
from workbench.shared.facts import RunFacts, evaluations_of

OpenPage = Callable[..., AppTest]


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> RunFacts:
    """A run with an evaluation and a causal study."""
    run = make_fake_run(tmp_path_factory.mktemp("studied"))
    make_fake_evaluation(run)
    make_fake_causal(run)
    return RunFacts(run)


@pytest.fixture(scope="module")
def whole(studied: RunFacts) -> str:
    """Its report."""
    return report_html(studied, Selected(), SavedFolder(studied.run.path.parent))


def pictures(html: str) -> list[str]:
    """The figures' SVG."""
    return [base64.b64decode(data).decode("utf-8") for data in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', html)]


def test_a_report_has_every_figure_and_section_and_loads_nothing(studied: RunFacts, whole: str) -> None:
    figures = run_figures(studied)
    assert {figure.section for figure in figures} == {"actions", "basis", "gate", "evaluations", "causal"}
    assert len({figure.name for figure in figures}) == len(figures) == len(pictures(whole))
    assert all(ElementTree.fromstring(picture).tag.endswith("svg") for picture in pictures(whole))
    assert [name for name in SECTIONS if f'<h2 id="{name}">{TITLES[name]}</h2>' not in whole] == []
    assert "default-src 'none'; img-src data:; style-src" in whole and len(whole) < 6_000_000
    outside = re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', whole)
    assert outside == [] and "<script" not in whole


def test_texts_of_a_model_are_text(studied: RunFacts) -> None:
    facts = RunFacts(studied.run)
    (id_,) = [id_ for id_, trace in facts.steered.items() if NASTY in trace.text]
    wrong = next(trace.verdict for trace in facts.vanilla.values() if trace.verdict and not trace.verdict.correct)
    facts.vanilla[id_] = facts.vanilla[id_].replaced(verdict=wrong)  # now steering gained it, so that it is shown
    html = report_html(facts, Selected(("answers",)), SavedFolder(facts.run.path.parent))
    assert "&lt;script&gt;window.hacked" in html and not re.search(r"<script|<img", html)


def test_numbers_are_those_of_the_studies(studied: RunFacts, whole: str) -> None:
    (folder,) = evaluations_of(studied.run).values()
    for method in folder.report().methods:
        assert f"{method.right} of {method.answers}" in whole
    held_out = [trace.verdict.correct for trace in studied.vanilla.values() if trace.verdict]
    assert f"({sum(held_out)} of {len(held_out)}; 95 % CI" in whole
    assert whole.count("Made with") == 0 and "stir run" in whole


def test_what_the_states_tell_and_what_an_action_means_stand_in_it(studied: RunFacts, whole: str) -> None:
    text = unescape(re.sub(r"<[^>]*>", "", whole))
    probed, of = probe_run(studied.run), subject(studied.run, studied.first_entry)
    assert probed.verdict in text and f"n = {probed.states} states of rollouts of {probed.problems} of" in text
    seen = activation(of)
    assert seen.steps > 0 and f"What {studied.first_entry} means" in text
    assert meaning.steps_line(seen) in text and meaning.separation_line(seen) in text
    assert f"stir show {studied.run.path} {studied.first_entry}" in text and f"stir probe {studied.run.path}" in text


def test_learned_gates_stand_in_it_with_their_figure(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path, "gates")
    settings = {"task": "arithmetic", "temperature": 0.0, "top_p": 1.0, "max_new_tokens": 8, "eta0": 0.01, "layer": 2}
    spec = PolicySpec(**settings, gate={}, run="gates", basis=run.digest("basis"), model=IDENTITY, seed=0)
    gates = [
        PolicyFigures(
            name=name,
            acts=0.25,
            threshold=None,
            effective=40,
            ips=None,
            snips=None,
            dr=None,
            over_null=Estimate(value=0.1 * i, low=0.1 * i - 0.2, high=0.1 * i + 0.2),
            over_value=Estimate(value=0.0, missing="no interval: all equal"),
            verdict="not distinguishable from null",
        )
        for i, name in enumerate(("value", "direct"))
    ]
    counts = {"problems": 8, "decisions": 30, "planned": 30, "further": 4, "rolls": 60, "tokens": 900, "right": 0.4}
    verdict = "No gate is better than null."
    rest = {"calibration": (), "brier": None, "brier_share": None, "coverage": (), "verdict": verdict}
    folder = PolicyFolder(run)
    folder.begin(spec, problems("eval", 2))
    folder.write_report(PolicyReport(spec=spec, gates=tuple(gates), **counts, **rest), "", complete=False)
    html = report_html(RunFacts(run), Selected(("policies",)), SavedFolder(tmp_path))
    assert verdict in html and "n = 30 drawn decisions of 8 problems" in html and len(pictures(html)) == 1
    assert "+0.100 [−0.100, +0.300]" in html and "no interval: all equal" in html


def test_a_half_made_run_names_what_is_missing_with_its_command(tmp_path: Path) -> None:
    facts = RunFacts(make_fake_run(tmp_path, "half", "actions"))
    sections = {section.name: section for section in report_sections(facts, Selected(), SavedFolder(tmp_path))}
    assert tuple(sections) == SECTIONS
    missing = {name for name, section in sections.items() if section.missing}
    assert missing == {"basis", "gate", "policies", "evaluations", "causal", "codebook", "answers", "saved"}
    assert all("stir " in sections[name].missing for name in missing - {"saved"})
    assert all(bool(section.parts) != bool(section.missing) for section in sections.values())


def test_a_selection_holds_nothing_else_and_what_is_absent_is_refused(studied: RunFacts) -> None:
    folder, wanted = SavedFolder(studied.run.path.parent), studied.action_ids[-1]
    html = report_html(studied, Selected(("actions",), (wanted,)), folder)
    assert html.count("<h2") == 2 and len(pictures(html)) == 3 and f"{wanted}: mined at" in html
    assert f"--only actions --action {wanted}" in html
    with pytest.raises(DataError, match="no entry"):
        report_html(studied, Selected(("actions",), ("p9999c",)), folder)


def test_figures_are_files_that_are_never_overwritten(studied: RunFacts, tmp_path: Path) -> None:
    figures: list[RunFigure] = [figure for figure in run_figures(studied) if figure.section == "gate"]
    files = list(write_figures(figures, tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in files)
    assert {path.suffix for path in files} == {".svg", ".pdf"} and len(files) == 2 * len(figures) > 0
    with pytest.raises(Exception, match="nothing is overwritten"):
        list(write_figures(figures, tmp_path / "out"))
    foreign = figures[0]._replace(name="../../elsewhere")
    assert {path.parent for path in write_figures([foreign], tmp_path / "in" / "it")} == {tmp_path / "in" / "it"}


def test_the_command_writes_a_file_once(studied: RunFacts, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["report", str(studied.run.path), "--only", "evidence", "run", "--out", str(tmp_path / "r.html"), "--runs", str(tmp_path)]
    assert main(words) == 0
    html = (tmp_path / "r.html").read_text("utf-8")
    assert "<h2" in html and TITLES["basis"] not in html and "r.html" in capfd.readouterr().out
    assert main(words) == 2
    assert "nothing is overwritten" in capfd.readouterr().err
    assert main(["report", str(studied.run.path), "--only", "gate", "--action", "p0000c", "--out", str(tmp_path / "other.html")]) == 2
    assert "--action chooses what the section actions holds" in capfd.readouterr().err and not (tmp_path / "other.html").exists()


def test_the_page_says_what_is_in_the_file_and_gives_the_command(open_page: OpenPage, store: Path) -> None:
    make_fake_run(store)
    app = clean(open_page("report"))
    table = app.dataframe[0].value.set_index("section")
    assert table.loc["Methods compared", "missing"].startswith("Not evaluated: stir eval")
    assert table.loc["Latent actions", "in the file"] == "yes" and table.loc["Latent actions", "figures"] > 1
    assert "--only" in app.code[0].value and "evaluations" not in app.code[0].value
