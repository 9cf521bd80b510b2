"""Charts on a page: drawn, clicked, and saved as SVG or PDF for a paper."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from workbench import session
from workbench.shared import charts_paper

_SVG = {"toImageButtonOptions": {"format": "svg"}}
PLAIN: dict[str, Any] = {"displayModeBar": False}
"""Plotly settings of a chart that is only looked at."""
ZOOMED: dict[str, Any] = {"scrollZoom": True, "displaylogo": False, **_SVG}
"""Plotly settings of a chart that is moved and zoomed; its toolbar saves the part that is seen."""


def draw_chart(chart: Any, *, key: str, alt: str, config: dict[str, Any] = PLAIN, **widget: Any) -> None:
    """Draw a chart, and below it the links that save it for a paper.

    Args:
        chart: of Altair or plotly.
        alt: what it shows, for those who do not see it.
        config: plotly's settings.
        widget: further arguments of Streamlit's chart, e.g. ``on_select``.
    """
    file = re.sub(r"\W+", "-", key)
    with st.container(gap=None):
        if charts_paper.is_plotly(chart):
            st.plotly_chart(chart, key=key, config=config, alt=alt, **widget)
        else:
            st.altair_chart(chart, key=key, alt=alt, **widget)
        with st.container(horizontal=True, horizontal_alignment="right", gap="xsmall", key=f"figure_{key}"):
            for name, made, mime in (("SVG", charts_paper.svg, "image/svg+xml"), ("PDF", charts_paper.pdf, "application/pdf")):
                st.download_button(
                    name,
                    partial(made, chart),
                    f"{file}.{name.lower()}",
                    mime,
                    key=f"{key}_{name}",
                    help=f"Save for a paper, whole and on white: {alt}",
                    on_click="ignore",
                    type="tertiary",
                )


def points_chart(figure: Any, clicked: Callable[[list[Any]], None], *, key: str, alt: str, config: dict[str, Any] = PLAIN) -> None:
    """Draw a plotly figure.

    Args:
        clicked: called with the custom data of a point that was clicked, before the page is drawn again.
    """

    def choose_point() -> None:
        for data in session.selected_points(key):
            if data:
                clicked(data)

    draw_chart(figure, key=key, on_select=choose_point, selection_mode="points", config=config, alt=alt)


def gate_map(
    table: pd.DataFrame,
    draw: Callable[[pd.DataFrame], Any],
    clicked: Callable[[list[Any]], None],
    *,
    what: str,
    text: str,
    key: str,
    alt: str,
) -> None:
    """Draw the rows of ``table`` on the gate's axes; those whose preview gain was not measured are counted below.

    Args:
        what: the rows in a word or two, e.g. ``"steps"``.
        text: the caption after the count.
    """
    shown = table.dropna(subset=["gain"])
    if shown.empty:
        st.caption(f"No preview was measured, so {what} cannot be drawn on the gate's axes.")
        return
    points_chart(draw(shown), clicked, key=key, alt=alt, config=ZOOMED)
    left_out = f" {len(table) - len(shown)} without a preview are left out." if len(shown) < len(table) else ""
    answers = len(set(shown["problem"]))
    st.caption(f"n = {len(shown)} {what} of {answers} answer{'' if answers == 1 else 's'}. {text}{left_out}")
