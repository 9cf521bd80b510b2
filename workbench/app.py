"""Navigation and the password before it: `streamlit run workbench/app.py`, from any folder."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)] if str(ROOT) not in sys.path else []

import streamlit as st  # noqa: E402

from workbench import session  # noqa: E402
from workbench.bootstrap import PAGES  # noqa: E402
from workbench.shared import view_password  # noqa: E402

NAMES = (
    ("home", "Home", "Runs, their held-out results, and the model in memory."),
    ("harvest", "Harvest", "A new run: settings, cost, progress."),
    ("actions", "Actions", "The library of latent actions, one card each."),
    ("basis", "Basis", "Map, cosines and coverage of the control basis."),
    ("codebook", "Codebook", "Codes of all steps of a run: what each code stands for, and what it goes with."),
    ("curate", "Curate", "Star, tag, note, exclude, rename, merge; with history."),
    ("gates", "Gates", "The gate's evidence and decisions on held-out problems."),
    ("evaluate", "Evaluate", "Methods compared on the same held-out problems."),
    ("causal", "Causal", "Effects of actions with everything else held equal."),
    ("compare", "Compare", "Two runs or libraries of one model."),
    ("trace", "Trace", "Any prompt, vanilla and steered side by side."),
    ("what_if", "What-if", "A recorded answer with one decision changed, decoded on from there."),
    ("saved", "Saved", "Traces, branches and measurements made here: open, share, delete."),
    ("report", "Report", "Figures and numbers of a run as one HTML file."),
    ("latents", "Latents", "Reasoners whose steps are latents: what each latent holds, and what the answer makes of it."),
    ("calibration", "Calibration", "The instruments on models whose latent modes are known."),
    ("export", "Export", "A library for another system: its content, its losses, and how to serve it."),
)


def open_workbench() -> None:
    """Draw the page that the address names, or the question for the password."""
    pages = {stem: st.Page(PAGES / f"{stem}.py", title=title, help=text, default=stem == "home") for stem, title, text in NAMES}

    def _what_if() -> None:
        """The address as the page's name is written."""
        st.switch_page(pages["what_if"], query_params=session.parameters())

    is_open = view_password.is_open()
    hidden = st.Page(_what_if, url_path="what-if", visibility="hidden")
    page = st.navigation([*pages.values(), hidden], position="top" if is_open else "hidden")
    title = f"{page.title} · STIR Workbench" if is_open else "STIR Workbench"
    st.set_page_config(page_title=title, page_icon=str(ROOT / "workbench" / "assets" / "icon.png"), layout="wide")
    st.html(ROOT / "workbench" / "assets" / "style.css")
    if is_open:
        page.run()
    else:
        view_password.ask()


if __name__ == "__main__":  # a process that a page starts imports this file, too
    open_workbench()
