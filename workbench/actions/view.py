"""The sortable table of the library; a click on a row chooses the entry everywhere."""

import streamlit as st

from workbench.shared.action_table import action_table
from workbench.shared.confounds import VERDICTS
from workbench.shared.curation_table import with_judgements
from workbench.shared.run_facts import RunFacts
from workbench.shared.view_columns import ACTION_COLUMNS, JUDGED_COLUMNS
from workbench.shared.view_entry_table import entry_table

_TABLE = "actions_table"
_CONTROLS_HELP = "What tells an action from length and chance; see the card. None chosen shows all; null entries have none."


def action_list(facts: RunFacts) -> None:
    """Table with filters for control point, null entries, basis and controls, and a line of counts."""
    points = sorted({entry.m for entry in facts.entries.values()})
    with st.container(horizontal=True, vertical_alignment="bottom"):
        only = st.segmented_control("Control point m", points, selection_mode="multi", key="actions_m", help="None chosen shows all.")
        nulls = st.toggle("Null entries", key="actions_null", help="They carry no action; they only compete.")
        basis_only = st.toggle("Only the basis", key="actions_basis", disabled=not facts.picks)
        found = st.segmented_control(
            "Controls", VERDICTS, selection_mode="multi", key="actions_controls", disabled=not facts.controls, help=_CONTROLS_HELP
        )
    table = action_table(facts, null_entries=nulls)
    if only:
        table = table.query("m in @only")
    if basis_only and facts.picks:
        table = table.dropna(subset=["pick"])
    if found and facts.controls:
        table = table.query("controls in @found")
    table = with_judgements(table.drop(columns=[] if nulls else ["kind"]), facts)
    entry_table(table, ACTION_COLUMNS | JUDGED_COLUMNS, key=_TABLE, alt="Latent actions of the run", height=300)
    measured = f", use counted over {sum(len(t.steps) for t in facts.steered.values())} held-out steps" if facts.steered else ""
    st.caption(f"n = {len(table)} of {len(facts.entries)} entries{measured}. Click a row for its card; sort by clicking a column.")
