"""Plotly charts whose points can be clicked."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st

from workbench import session

PLAIN: dict[str, Any] = {"displayModeBar": False}
"""Plotly settings of a chart that is only looked at."""
ZOOMED: dict[str, Any] = {"scrollZoom": True, "displaylogo": False}
"""Plotly settings of a chart that is moved and zoomed."""


def points_chart(figure: Any, clicked: Callable[[list[Any]], None], *, key: str, alt: str, config: dict[str, Any] = PLAIN) -> None:
    """Draw a plotly figure.

    Args:
        clicked: called with the custom data of a point that was clicked, before the page is drawn again.
    """

    def choose_point() -> None:
        for data in session.selected_points(key):
            if data:
                clicked(data)

    st.plotly_chart(figure, key=key, on_select=choose_point, selection_mode="points", config=config, alt=alt)


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
