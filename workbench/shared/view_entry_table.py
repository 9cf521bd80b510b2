"""A table with one row an entry, in which a click chooses the entry on every page, or rows are ticked."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pandas as pd
import streamlit as st

from workbench import session


def entry_table(
    table: pd.DataFrame,
    styles: Mapping[str, Any],
    *,
    key: str,
    alt: str,
    height: int | Literal["auto"] = "auto",
    chooses: bool = True,
    ticked: Callable[[list[str]], None] | None = None,
    ticks: Sequence[str] = (),
) -> None:
    """Draw ``table``, which has a column ``entry``.

    Args:
        styles: column styles by name; those of columns that the table lacks are left out.
        chooses: False for entries of another run, which cannot be chosen here.
        ticked: rows are ticked, any number; called with their entries before the page is drawn again.
        ticks: entries that are ticked at first. Rows are known by number: another table needs another ``key``.
    """
    names = [str(name) for name in table["entry"]]

    def selected() -> None:
        found = [names[row] for row in session.selected_rows(key) if row < len(names)]
        if ticked is not None:
            ticked(found)
        elif found:
            session.point_at(session.ACTION, found[0])

    st.dataframe(
        table,
        hide_index=True,
        placeholder="",
        column_config={name: style for name, style in styles.items() if name in table.columns},
        key=key,
        on_select=selected if chooses else "ignore",
        selection_mode="single-row" if ticked is None else "multi-row",
        selection_default={"selection": {"rows": [names.index(name) for name in ticks if name in names]}} if ticks else None,
        height=height,
        alt=alt,
    )
