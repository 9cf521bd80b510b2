"""A table with one row an entry, in which a click chooses the entry on every page."""

from collections.abc import Mapping
from typing import Any, Literal

import pandas as pd
import streamlit as st

from workbench import session


def entry_table(
    table: pd.DataFrame, styles: Mapping[str, Any], *, key: str, alt: str, height: int | Literal["auto"] = "auto", chooses: bool = True
) -> None:
    """Draw ``table``, which has a column ``entry``.

    Args:
        styles: column styles by name; those of columns that the table lacks are left out.
        chooses: False for entries of another run, which cannot be chosen here.
    """

    def choose_row() -> None:
        rows = session.selected_rows(key)
        if rows and rows[0] < len(table):
            session.point_at(session.ACTION, str(table["entry"].iloc[rows[0]]))

    st.dataframe(
        table,
        hide_index=True,
        placeholder="",
        column_config={name: style for name, style in styles.items() if name in table.columns},
        key=key,
        on_select=choose_row if chooses else "ignore",
        selection_mode="single-row",
        height=height,
        alt=alt,
    )
