"""The results page is assembled from the reports beside the data, and hand-written text is kept."""

import json
import re
import shutil
import tomllib

import pytest

from benchmarks.results import (
    FIGURE,
    PAGE,
    README,
    ROOT,
    TRANSFER,
    WRITTEN,
    check,
    commands,
    figures_in,
    main,
    portable,
    readme_table,
    unknown_figures,
    with_table,
)
from stir_core.findings import EvaluationReport, EvaluationSpec
from stir_core.records import ModelIdentity
from stir_core.store.evaluations import EvaluationFolder
from stir_core.store.runs import EMBEDDED_RUNS, RECORDS, Run

FILE = """
[[experiment]]
title = "(x) an experiment"
run = "small"
sweep = "sweep-small"
commands = ["stir run configs/small.toml"]
"""


@pytest.fixture
def runs(tmp_path):
    shutil.copytree(
        EMBEDDED_RUNS["smollm2"], tmp_path / "runs" / "small", ignore=shutil.ignore_patterns("evaluation", "causal", "critical")
    )
    run = Run.open(tmp_path / "runs" / "small")
    model = ModelIdentity(name="m", weights_sha256="w", tokenizer_sha256="t", dtype="float32", architecture="A", n_layers=1, d_model=2)
    facts = {
        "label": "x",
        "task": "t",
        "split": "eval",
        "n": 0,
        "methods": ("vanilla",),
        "baseline": "vanilla",
        "template": "hash",
        "gate": {},
    }
    facts |= {"max_new_tokens": 9, "rows": 1, "run": "small", "config_digest": "c", "basis": "b", "model": model, "seed": 0}
    spec = EvaluationSpec(**facts, command=f"stir eval {tmp_path}/runs/small --n 5")
    folder = EvaluationFolder(run, "x")
    folder.begin(spec, [])
    folder.write_report(EvaluationReport(spec=spec, complete=True, problems=0, methods=()), "# x: t eval\n\n| a table |\n", complete=True)
    (tmp_path / "runs" / "sweep-small").mkdir()
    (tmp_path / "runs" / "sweep-small" / "sweep.md").write_text("# Sweep\n")
    (tmp_path / "results.toml").write_text(FILE)
    return tmp_path


def run_main(runs, *more) -> int:
    return main(["--runs", str(runs / "runs"), "--file", str(runs / "results.toml"), "--page", str(runs / "page.md"), *more])


def test_reports_are_inserted_and_hand_written_text_is_kept(runs):
    assert run_main(runs) == 0
    page = (runs / "page.md").read_text()
    assert "### x: t eval" in page and "### Sweep" in page and "| a table |" in page
    correct = json.loads((EMBEDDED_RUNS["smollm2"] / "rollouts" / "manifest.json").read_text())["counts"]["correct"]
    assert f"{correct} correct" in page
    (runs / "page.md").write_text(
        page.replace("## (x) an experiment", "By hand.\n\n## (x) an experiment").replace("| a table |", "| stale |")
    )
    assert run_main(runs) == 0
    again = (runs / "page.md").read_text()
    assert "By hand." in again and "stale" not in again and again.count("### Sweep") == 1


def test_commands_contain_no_local_folders(runs):
    experiment = {"run": "small", "commands": ["stir run configs/small.toml"]}
    assert commands(experiment, runs / "runs") == ["stir run configs/small.toml", "stir eval runs/small --n 5"]
    run_main(runs)
    assert str(runs) not in (runs / "page.md").read_text()


def test_a_config_named_like_its_run_keeps_its_folder():
    line = "stir run /home/me/stir/configs/protocol/small.toml --out /data/small --set model.name=/data/m.gguf"
    told = "stir run configs/protocol/small.toml --out runs/protocol/small --set model.name=m.gguf"
    assert portable(line, "small", "runs/protocol/") == told
    based = "stir run configs/small.toml --out /data/small-again --base /data/small --until basis"
    assert portable(based, "small-again", "runs/") == "stir run configs/small.toml --out runs/small-again --base runs/small --until basis"


def test_a_missing_run_is_one_line(runs, capsys):
    shutil.rmtree(runs / "runs" / "small")
    assert run_main(runs) == 2
    assert capsys.readouterr().err.startswith("results: no run at")


def test_the_readmes_table_agrees_with_the_results_page():
    readme, page = README.read_text(encoding="utf-8"), PAGE.read_text(encoding="utf-8")
    assert with_table(readme, page) == readme, "copy it again with `python -m benchmarks.results --readme`"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in readme_table(page).splitlines()[2:]]
    sections = [part[0] for part in WRITTEN.finditer(page) if re.search(r"^\| `(stir|static)` ", part[0].split(TRANSFER)[0], re.M)]
    assert sum(row[1] == "vanilla" for row in rows) == len(sections) > 0
    for row in rows:  # every figure stands in one line of the page, in this order
        assert any(all(cell in line for cell in row[2:]) for line in page.splitlines()), row
    assert readme_table(page.replace("24/200", "25/200")) != readme_table(page)


def test_a_hand_written_figure_that_no_report_holds_is_found(tmp_path):
    page, readme = PAGE.read_text(encoding="utf-8"), README.read_text(encoding="utf-8")
    assert all(FIGURE.findall(text) for text in (WRITTEN.sub("", page), readme))  # there is something to compare
    before = check(page, [], tmp_path, readme)
    false = "\nIt gains +1.5 points [-9.9, +9.9] (27/134).\n"
    assert {*check(page + false, [], tmp_path, readme)} - {*before} == {"docs/results.md: +1.5 [-9.9, +9.9] is not in any report"}
    assert {*check(page, [], tmp_path, readme + false)} - {*before} == {"README.md: +1.5 [-9.9, +9.9] is not in any report"}
    changed = readme.replace("20/134", "21/134", 1)
    assert any(line.startswith("README.md: its table") for line in check(page, [], tmp_path, changed))


def test_a_figure_of_another_run_is_found():
    experiments = tomllib.loads((ROOT / "configs" / "results.toml").read_text(encoding="utf-8"))["experiment"]
    page = PAGE.read_text(encoding="utf-8")
    assert unknown_figures(page, experiments, RECORDS) == []
    figure = "0.66 [0.62, 0.69]"  # of the probe on GSM8K
    wrong = [f"docs/results.md: {figure} is not in the reports of qwen-svamp"]
    for layout in ("- A probe reads {}.", "* A probe reads {}.", "In short:\n\n- A probe reads {}.", "A probe reads\n{}."):
        moved = page.replace("\n`qwen-svamp`:\n\n", f"\n`qwen-svamp`:\n\n{layout.format(figure)}\n")
        assert figure in page and unknown_figures(moved, experiments, RECORDS) == wrong, layout
    false = "[+8.8, +9.9]"
    for written in (f"+9.9 points\n  {false}", f"+9.9 points (95 %: {false})", f"**+9.9** {false}", f"+9.9 percentage points {false}"):
        found = unknown_figures(f"{page}\n{written}\n", experiments, RECORDS)
        assert found == [f"docs/results.md: +9.9 {false} is not in any report"], written


@pytest.mark.parametrize(
    "written",
    [
        "+9.9 points, [+1.0, +2.0]", "+9.9 points: [+1.0, +2.0]", "+9.9 points (95 % interval [+1.0, +2.0])",
        "**+9.9 points** [+1.0, +2.0]",
        "`+9.9` [+1.0, +2.0]", "+9.9 %-points [+1.0, +2.0]", "| +9.9 | [+1.0, +2.0] |", "+9.9\u00a0points [+1.0,\n+2.0]",
        "+9.9 points of the whole accuracy by problem [+1.0, +2.0]",
    ],
)  # fmt: skip
def test_a_figure_is_found_however_it_is_written(written):
    assert figures_in(f"Layer 14 gives {written} of 12.") == [("+9.9", "[+1.0, +2.0]")]


def test_a_part_twice_or_of_no_experiment_and_a_readme_without_its_table_are_found():
    page, readme = PAGE.read_text(), README.read_text()
    experiments = tomllib.loads((ROOT / "configs" / "results.toml").read_text())["experiment"]
    links = page[page.index("<!-- links") : page.index("<!-- /links -->")] + "<!-- /links -->"
    said = check(f"{page}\n{links}\n<!-- results: Fake -->\n+9.9 [+1.0, +2.0]\n<!-- /results: Fake -->\n", experiments, RECORDS)
    assert sum('the part "links" is there 2 times' in line or 'the part "results: Fake" is there' in line for line in said) == 2
    bare = readme.replace("<!-- table: written by python -m benchmarks.results --readme -->", "")
    assert bare != readme and any("its table is not that" in line for line in check(page, experiments, RECORDS, bare))


def test_every_figure_that_ships_is_what_its_answers_and_continuations_give(capsys):
    assert main(["--check"]) == 0, capsys.readouterr().out
    assert len(list(RECORDS.glob("*/*/rolls.jsonl"))) >= 2 and len(list(RECORDS.glob("*/evaluation/*/answers/*.jsonl"))) >= 2
