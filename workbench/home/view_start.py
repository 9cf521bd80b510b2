"""Home for a first visit: what a latent action is, what is known about the open run, and where to begin."""

import streamlit as st
from streamlit.components.v2 import component

from stir_core.errors import FAULTS, line_of
from stir_core.store.calibrations import SHIPPED, read_calibration
from workbench.bootstrap import PAGES, known_evaluations
from workbench.home import data as overview
from workbench.shared.facts import RunFacts
from workbench.shared.glossary import meanings
from workbench.shared.text import plain
from workbench.shared.view_page import badged_line

WHAT = (
    "A latent action is a direction in a model's residual stream: the mean state of right answers minus that of wrong ones, "
    "where a step of reasoning ends. "
    "STIR mines such directions from a model's own rollouts, keeps a small library of them, and adds one as an impulse while the model "
    "answers. "
    "A gate decides at each step whether one of them is added, and which; this workbench shows what was found, what it does, and how "
    "sure that is."
)
QUESTIONS = (
    ("What did it find?", "actions", "the library, one card for each latent action"),
    ("Does it do anything?", "evaluate", "methods on the same problems, with paired intervals"),
    ("Why was this step steered?", "gates", "the gate's evidence at every step"),
    ("What would have happened without?", "what_if", "one decision changed, decoded on from there"),
)

_DRAWING = """
<svg class="action" viewBox="0 0 520 178" role="img" aria-label="Left: states of right and wrong answers at the end of a step; the arrow
from the mean of the wrong ones to the mean of the right ones is the latent action v. Right: an answer of four steps; at the end of each
the gate adds an impulse or nothing.">
  <g class="wrong"><circle cx="42" cy="122" r="5"/><circle cx="66" cy="140" r="5"/><circle cx="82" cy="112" r="5"/>
    <circle cx="54" cy="98" r="5"/><circle cx="92" cy="134" r="5"/></g>
  <g class="right"><circle cx="140" cy="44" r="5"/><circle cx="166" cy="62" r="5"/><circle cx="182" cy="34" r="5"/>
    <circle cx="152" cy="78" r="5"/><circle cx="196" cy="56" r="5"/></g>
  <path class="arrow" d="M70 120 L158 61"/><path class="head" d="M168 54 L153 58 L159 67 Z"/>
  <text x="16" y="168">wrong answers</text><text x="128" y="18">right answers</text><text class="v" x="92" y="80">v</text>
  <g class="steps"><rect x="252" y="96" width="52" height="24" rx="4"/><rect x="322" y="96" width="52" height="24" rx="4"/>
    <rect class="steered" x="392" y="96" width="52" height="24" rx="4"/><rect x="462" y="96" width="52" height="24" rx="4"/></g>
  <text x="252" y="140">step 1</text><text x="322" y="140">step 2</text>
  <text x="392" y="140">step 3</text><text x="462" y="140">step 4</text>
  <g class="gate"><path d="M313 99 l9 9 -9 9 -9 -9 z"/><path class="on" d="M383 99 l9 9 -9 9 -9 -9 z"/>
    <path d="M453 99 l9 9 -9 9 -9 -9 z"/></g>
  <path class="arrow" d="M383 44 L383 82"/><path class="head" d="M383 94 L377 80 L389 80 Z"/>
  <text x="394" y="62">+ &#945; v</text><text x="252" y="168">&#9671; the gate: an impulse, or nothing</text>
</svg>
"""
_CSS = """
.action { width: 100%; max-width: 34rem; height: auto; font: 13px var(--st-font); }
.action text { fill: var(--st-text-color); } .action .v { font-style: italic; font-weight: 700; }
.wrong circle { fill: none; stroke: #d55e00; stroke-width: 2; } .right circle { fill: #009e73; }
.arrow { stroke: var(--st-text-color); stroke-width: 2.5; fill: none; } .head { fill: var(--st-text-color); }
.steps rect { fill: var(--st-secondary-background-color); stroke: var(--st-text-color); stroke-opacity: 0.5; }
.steps .steered { fill: #009e73; fill-opacity: 0.3; }
.gate path { fill: var(--st-background-color); stroke: var(--st-text-color); stroke-width: 1.5; } .gate .on { fill: var(--st-text-color); }
"""
_PICTURE = component("stir_action_drawing", html=_DRAWING, css=_CSS)


def what_it_is() -> None:
    """Three sentences and one drawing, and four questions that lead to pages."""
    left, right = st.columns([1.2, 1], gap="large", vertical_alignment="center")
    with left:
        st.markdown(WHAT, help=meanings(WHAT))
        for question, stem, about in QUESTIONS:
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                st.page_link(PAGES / f"{stem}.py", label=f"**{question}**")
                st.caption(about, help=meanings(about))
    with right:
        _PICTURE(key="home_drawing")


def what_is_known(facts: RunFacts) -> None:
    """The state of evidence on the open run in words, with paired intervals, and the calibration of the instruments."""
    st.header(f"What is known of {plain(facts.name)}", anchor=False)
    try:
        found = overview.evidence(facts, known_evaluations(facts))
        calibration = read_calibration(SHIPPED).verdict
    except FAULTS as error:
        st.error(plain(line_of(error)))
        return
    for each in found:
        badged_line(each.verdict, each.text)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.badge("instruments", color="gray")
        st.text(f"On models whose latent modes are known: {calibration}")
        st.page_link(PAGES / "calibration.py", label="Calibration")
    st.page_link(PAGES / "report.py", label="Figures and numbers of this run as one HTML file")
