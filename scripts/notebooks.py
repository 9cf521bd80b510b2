"""Executes the notebooks from a clean kernel and stores their outputs: ``make notebooks``, or ``make notebooks ARGS="01 02"``.

A notebook is written as ``notebooks/NN_name.py`` (jupytext percent script) and stored beside it as ``.ipynb`` with its outputs. The kernel
has no network, and its working folder and the folder of its runs are temporary. The stored notebook does not depend on the time or place of
its execution: no times, no machine paths, numbered cells, figures as images.
"""

import argparse
import base64
import io
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
LIMIT = 120
"""Seconds that a notebook may take, its kernel's start included: of the clock, or of the processor where others keep it busy."""
MOST_BYTES = 1_500_000
"""Of a stored notebook."""
MOST_TEXT = 20_000
"""Characters of one stored text output."""
METADATA = {
    "jupytext": {"formats": "ipynb,py:percent"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
PLOTLY, PNG, TEXT = "application/vnd.plotly.v1+json", "image/png", "text/plain"
PATHS = re.compile(r"(?<![\w.])(/(home|root|tmp|work|Users|var|opt|mnt|srv)/|[A-Z]:\\\\)[^\s'\"]*")
"""Matches paths of a machine."""
_HOPELESS = "http://127.0.0.1:9"
"""A proxy that does not answer, so that network access fails at once."""


class NotebookError(Exception):
    """A notebook that cannot be executed or stored; the message is one line."""


def scripts() -> list[Path]:
    """Every notebook's script, in order."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def read(script: Path) -> NotebookNode:
    """The script as a notebook without outputs, its cells numbered."""
    cells = []
    for number, cell in enumerate(jupytext.read(script).cells):
        make = new_markdown_cell if cell.cell_type == "markdown" else new_code_cell
        cells.append(make(cell.source, id=f"cell-{number:02d}"))
    return new_notebook(cells=cells, metadata=METADATA)


def execute(script: Path, *, limit: float = 5 * LIMIT) -> tuple[NotebookNode, float]:
    """Execute a script from a clean kernel; the notebook with its outputs, and the seconds that it took.

    Args:
        limit: maximum time of one cell in seconds.

    Raises:
        NotebookError: a cell raised, or took too long.
    """
    notebook, started, used = read(script), time.monotonic(), _children()
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder, environment(_clean(Path(folder))):
        work = Path(folder) / "work"
        work.mkdir()
        # sockets in the folder: no port of this machine, and no warning about one
        wires = {} if sys.platform == "win32" else {"transport": "ipc", "ip": f"{folder}/wire"}
        kernel = AsyncKernelManager(kernel_name="python3", **wires)
        client = NotebookClient(
            notebook,
            km=kernel,
            timeout=int(limit),
            startup_timeout=int(limit),
            resources={"metadata": {"path": str(work)}},
            record_timing=False,
        )
        try:
            client.execute(cleanup_kc=True)  # the kernel ends here, and its times are ours
        except CellExecutionError as error:
            raise NotebookError(f"{script.name}: {str(error).strip()[-3000:]}") from None
        except TimeoutError:
            raise NotebookError(f"{script.name}: a cell took more than {limit:.0f} s") from None
    for cell in notebook.cells:
        cell["metadata"] = {}
        if "outputs" in cell:
            cell["outputs"] = _joined(cell["outputs"])
    notebook.metadata = nbformat.from_dict(METADATA)  # the kernel puts its own version there
    return notebook, min(time.monotonic() - started, _children() - used or math.inf)


def problems(notebook: NotebookNode) -> list[str]:
    """Outputs that must not be stored: errors, text on stderr, machine paths, addresses, very long text; one line each."""
    found: list[str] = []
    for number, cell in enumerate(notebook.cells):
        where = f"cell {number}"
        if cell.cell_type == "code" and cell.source.strip() and cell.get("execution_count") is None:
            found.append(f"{where} was never executed")
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                found.append(f"{where} ended in {output.ename}")
            if output.output_type == "stream" and output.name == "stderr":
                found.append(f"{where} wrote to stderr: {output.text[:80]!r}")
            for text in _texts(output):
                if path := PATHS.search(text):
                    found.append(f"{where} names a place of this machine: {path[0][:80]}")
                if re.search(r"\bat 0x[0-9a-f]{6,}", text):
                    found.append(f"{where} shows an address in memory: give the object a text, or end the line with a semicolon")
                if len(text) > MOST_TEXT:
                    found.append(f"{where} shows {len(text):,} characters: show fewer rows")
            if PLOTLY in output.get("data", {}):
                found.append(f"{where} holds a figure that is not an image")
    return found


def write(script: Path, notebook: NotebookNode) -> Path:
    """Store an executed notebook beside its script, figures as images.

    Raises:
        NotebookError: an output must not be stored, or the file is too large.
    """
    as_images(notebook)
    if wrong := problems(notebook):
        raise NotebookError(f"{script.name}: {'; '.join(wrong)}")
    text = nbformat.writes(notebook) + "\n"
    if len(text) > MOST_BYTES:
        raise NotebookError(f"{script.name}: {len(text):,} bytes, at most {MOST_BYTES:,} are stored: fewer or smaller figures")
    place = script.with_suffix(".ipynb")
    place.write_text(text, encoding="utf-8")
    return place


def as_images(notebook: NotebookNode) -> None:
    """Replace every plotly figure by an image, drawn by a headless browser with the package's own plotly.js.

    Raises:
        NotebookError: there is no browser.
    """
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    if any(PLOTLY in output.data for output in outputs):
        with _drawing() as draw:
            for output in outputs:
                if PLOTLY in output.data:
                    image, size = draw(dict(output.data[PLOTLY]))
                    output.data = nbformat.from_dict({PNG: image, TEXT: "<a plotly figure>"})
                    output.metadata = nbformat.from_dict({PNG: size})
    for output in outputs:
        if PNG in output.data:
            output.data[PNG] = _smaller(output.data[PNG])


def _children() -> float:
    """Processor seconds of finished child processes; 0 if the system does not count them."""
    spent = os.times()
    return spent.children_user + spent.children_system


@contextmanager
def _drawing() -> Iterator[Any]:
    """A function from a figure to PNG as base64, and its size in pixels of a page."""
    import plotly.offline
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=os.environ.get("STIR_CHROMIUM"), args=["--no-sandbox"])
        except Error as error:
            raise NotebookError(
                f"plotly figures need a browser to become images, name one in STIR_CHROMIUM ({str(error)[:80]!r})"
            ) from None
        page = browser.new_page()
        page.add_script_tag(content=plotly.offline.get_plotlyjs())

        def draw(figure: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
            layout = dict(figure.get("layout", {}))
            size = {"width": layout.get("width", 820), "height": layout.get("height", 460)}
            drawn = [{"data": figure.get("data", []), "layout": layout}, {"format": "png", "scale": 1.5, **size}]
            return str(page.evaluate("([figure, how]) => Plotly.toImage(figure, how)", drawn)).partition(",")[2], size

        yield draw
        browser.close()


def _smaller(image: str) -> str:
    """A PNG with at most 256 colours: no visible change in charts, at a third to a tenth of the bytes."""
    from PIL import Image

    drawn, out = Image.open(io.BytesIO(base64.b64decode(image))).convert("RGBA"), io.BytesIO()
    ground = Image.new("RGBA", drawn.size, "white")  # a viewer may be dark, a figure's text is not light
    Image.alpha_composite(ground, drawn).convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        out, "PNG", optimize=True
    )
    return base64.b64encode(out.getvalue()).decode()


def _clean(folder: Path) -> dict[str, str | None]:
    """The environment of a clean kernel: no network, no user settings, and temporary folders for output."""
    proxies: dict[str, str | None] = {f"{kind}_proxy": _HOPELESS for kind in ("http", "https")}
    proxies |= {name.upper(): value for name, value in proxies.items()} | {
        "no_proxy": "127.0.0.1,localhost",
        "NO_PROXY": "127.0.0.1,localhost",
    }
    return proxies | {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "OMP_WAIT_POLICY": "passive",
        "PLOTLY_RENDERER": "plotly_mimetype",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PYTHONWARNINGS": "ignore:IProgress not found",  # progress bars would need widgets; there are none to show
        "STIR_RUNS": str(folder / "runs"),
        "TOKENIZERS_PARALLELISM": "false",
    }


@contextmanager
def environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """The process's environment with these changes; ``None`` removes a name."""
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(changes: Mapping[str, str | None]) -> None:
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Merge neighbouring pieces of one stream, since their division depends on timing."""
    found: list[NotebookNode] = []
    for output in outputs:
        last = found[-1] if found else None
        if last is not None and output.output_type == last.output_type == "stream" and output.name == last.name:
            last["text"] += output.text
        else:
            found.append(output)
    return found


def _texts(output: NotebookNode) -> Iterator[str]:
    """All texts of an output, without figures, which become images."""
    if output.output_type == "stream":
        yield output.text
    if output.output_type == "error":
        yield "\n".join(output.traceback)
    for kind, data in output.get("data", {}).items():
        if kind not in (PNG, PLOTLY):
            yield data if isinstance(data, str) else str(data)


def main(argv: list[str]) -> int:
    """Execute and store the named notebooks (``01``, or a part of a name), or all."""
    parser = argparse.ArgumentParser(prog="notebooks", description="Execute the notebooks from a clean kernel and store them.")
    parser.add_argument("names", nargs="*", help="e.g. 01 geometry; all where none is named")
    names = parser.parse_args(argv).names
    chosen = [script for script in scripts() if not names or any(name in script.stem for name in names)]
    if not chosen:
        print(
            f"error: no notebook is called {' or '.join(names)}: there are {', '.join(script.stem for script in scripts())}",
            file=sys.stderr,
        )
        return 2
    for script in chosen:
        try:
            notebook, seconds = execute(script)
            place = write(script, notebook)
        except NotebookError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(f"{place.relative_to(ROOT)}: {seconds:.0f} s, {place.stat().st_size / 1000:.0f} kB", flush=True)
        if seconds > LIMIT:
            print(f"error: {script.name} took {seconds:.0f} s, at most {LIMIT} are allowed", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
