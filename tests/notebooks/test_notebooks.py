"""Every notebook runs in a clean kernel (``-m notebooks``), and the stored version matches its script and has clean outputs."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from scripts import notebooks

SCRIPTS = notebooks.scripts()


def test_there_are_notebooks_and_each_is_stored() -> None:
    assert SCRIPTS
    stored = {file.stem for file in notebooks.FOLDER.glob("*.ipynb")}
    assert stored == {script.stem for script in SCRIPTS}
    assert len({script.stem[:2] for script in SCRIPTS}) == len(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_stored_notebook_matches_its_script_and_has_clean_outputs(script) -> None:
    """If this fails after an edit of the script, run `make notebooks`."""
    file = script.with_suffix(".ipynb")
    stored, written = nbformat.read(file, as_version=4), notebooks.read(script)
    nbformat.validate(stored)
    sources = [(cell.cell_type, cell.source) for cell in written.cells]
    assert [(cell.cell_type, cell.source) for cell in stored.cells] == sources
    assert [cell["id"] for cell in stored.cells] == [cell["id"] for cell in written.cells]
    assert stored.metadata == written.metadata
    assert notebooks.problems(stored) == []
    assert file.stat().st_size <= notebooks.MOST_BYTES
    assert stored.cells[0].cell_type == "markdown"
    assert stored.cells[0].source.startswith("# ")
    assert any(notebooks.PNG in output.get("data", {}) for cell in stored.cells for output in cell.get("outputs", []))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_notebook_uses_the_public_api(script) -> None:
    """Notebooks use the public API; figures and their tables come from the workbench."""
    source = script.read_text("utf-8")
    assert re.findall(r"^\s*(?:from|import) stir_core\.\S+.*", source, re.MULTILINE) == []
    assert not notebooks.PATHS.search(source)


def test_unwanted_outputs_are_detected() -> None:
    outputs = [
        new_output("stream", name="stdout", text="wrote /home/me/run.json"),
        new_output("stream", name="stderr", text="careful"),
        new_output("error", ename="ValueError", evalue="x", traceback=["x"]),
        new_output("display_data", {"text/plain": "<Thing at 0x7f0011223344>", notebooks.PLOTLY: {}}),
        new_output("stream", name="stdout", text="arithmetic/eval/sum_tiny:5+5, a/tmp/b and 3/4 are no places"),
        new_output("display_data", {"text/plain": "x" * (notebooks.MOST_TEXT + 1)}),
    ]
    cells = [new_code_cell("f()", execution_count=1, outputs=outputs), new_code_cell("g()")]
    seen = notebooks.problems(new_notebook(cells=cells))
    wanted = [
        "names a place",
        "stderr",
        "ended in ValueError",
        "address in memory",
        "not an image",
        "20,001 characters",
        "cell 1 was never executed",
    ]
    assert len(seen) == len(wanted)
    for said, expected in zip(seen, wanted, strict=True):
        assert expected in said


@pytest.mark.notebooks
@pytest.mark.timeout(900)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_notebook_runs_from_a_clean_kernel(script) -> None:
    notebook, seconds = notebooks.execute(script)
    # figures become images only when a notebook is stored, which needs a browser
    assert [problem for problem in notebooks.problems(notebook) if "not an image" not in problem] == []
    assert seconds < notebooks.LIMIT
