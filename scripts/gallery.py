"""Draws the gallery: docs/gallery.md and docs/img/gallery, the figures of two embedded runs as SVG, each with its command.

    python -m scripts.gallery

The pictures of pages below them are tests/e2e/screenshots.py's.

tests/docs/test_gallery.py checks that the page and the list of figures are up to date.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from stir_core.store.runs import Run
from workbench.report.document import TITLES
from workbench.report.figures import RunFigure, run_figures
from workbench.shared.charts_paper import svg
from workbench.shared.facts import RunFacts

ROOT = Path(__file__).resolve().parents[1]
PAGE, PICTURES = ROOT / "docs" / "gallery.md", ROOT / "docs" / "img" / "gallery"
RUNS = {
    "two_habits": "An organism: a small model with two planted habits, whose truth is known. Steering helps it, by construction.",
    "smollm2": "A real model, SmolLM2-135M-Instruct, on which no gain is seen.",
}
"""The runs, with what a reader must know of each."""
HEAD = """# Figures

Every figure below is one of the workbench's charts, drawn without a browser by `python -m scripts.gallery` of a run that comes with the
package. The links **SVG** and **PDF** below any chart of the workbench save the same file. The command under a figure writes it, and the
others of its section, as SVG and PDF; for a run of your own, name its folder instead. In Python:

```python
from stir_core.store.runs import Run
from workbench.report.figures import run_figures
from workbench.shared.charts_paper import svg
from workbench.shared.facts import RunFacts

figures = {figure.name: figure for figure in run_figures(RunFacts(Run.open("two_habits")))}
print(*figures, sep="\\n")
print(svg(figures["commits-by-control-point"].draw())[:60])
```
"""


PAGES = {
    "home": "Home: what a latent action is, recent work, and what is known of the open run, in words with intervals.",
    "actions": "Actions: the library, one card for each latent action.",
    "gates": "Gates: why a step was steered.",
    "trace": "Trace: an answer without and with impulses, side by side.",
    "saved": "Saved: what was decoded and measured, kept with its settings.",
    "report": "Report: figures and numbers of a run as one HTML file.",
}
"""Pages that are shown, with their captions."""
PAGES_HEAD = """## Pages of the workbench

The embedded run `two_habits`, drawn by `python tests/e2e/screenshots.py docs/img --run two_habits --pages trace home actions gates saved
report`.
"""


def shown(run: str) -> list[RunFigure]:
    """The figures of an embedded run that the page shows: of single actions only the one that was committed most."""
    facts = RunFacts(Run.open(run))
    return run_figures(facts, [facts.first_entry])


def page(figures: dict[str, list[RunFigure]]) -> str:
    """The page as Markdown."""
    pictures = [f"![{caption}](img/{stem}.png)\n\n{caption}\n" for stem, caption in PAGES.items()]
    return "\n".join([HEAD, *(line for run, own in figures.items() for line in _of(run, own)), PAGES_HEAD, *pictures])


def _of(run: str, figures: list[RunFigure]) -> Iterator[str]:
    yield f"## {run}\n\n{RUNS[run]}\n"
    section = ""
    for figure in figures:
        if figure.section != section:
            section = figure.section
            yield f"### {run}: {TITLES[section].lower()}\n"
        yield f"![{figure.caption}](img/gallery/{run}-{figure.name}.svg)\n\n{figure.caption}\n"
        yield f"```sh\nstir report {run} --only {section} --figures figures  # figures/{figure.name}.svg and .pdf\n```\n"


def main() -> None:
    """Draw all figures again, and write the page."""
    figures = {run: shown(run) for run in RUNS}
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True)
    for run, own in figures.items():
        for figure in own:
            (PICTURES / f"{run}-{figure.name}.svg").write_text(svg(figure.draw()), encoding="utf-8")
    PAGE.write_text(page(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
