"""The What-if page's rerolls: sampled continuations from one place as a tree, with right and wrong counts, and each by itself."""

import streamlit as st

from stir_core.config import with_changes
from stir_core.saved import SavedRerolls
from workbench import session
from workbench.shared.branching import BranchOrigin
from workbench.shared.facts import RunFacts
from workbench.shared.text import one_line, plain, trace_segments
from workbench.shared.trace_comparison import grade_of
from workbench.shared.view_branching import branch_command, saved_of
from workbench.shared.view_charts import draw_chart
from workbench.shared.view_page import command_line
from workbench.shared.view_tables import data_table, number_column
from workbench.shared.view_text import text_strip
from workbench.what_if import rerolls
from workbench.what_if.charts import reroll_chart
from workbench.what_if.view import BRANCH_COLUMNS


def rerolls_asked() -> bool:
    """Whether rerolls were just decoded, or opened by the address: they are then what the page is about."""
    return (session.chosen(session.SAVED) or "").startswith("rerolls")


def rerolls_view(facts: RunFacts, origin: BranchOrigin) -> None:
    """Draw the saved rerolls of this answer and of its branches, one tree at a time; nothing where there are none."""
    found = {work.id: (work, content) for work, content in saved_of(facts, origin, "rerolls")}
    if not found:
        return
    st.header("Rerolls", anchor=False)
    key, ids = f"rerolls_{origin.key}", list(found)
    arrived = session.chosen(session.SAVED)
    if arrived in found and session.state_of("rerolls_arrived") != arrived:
        session.set_state("rerolls_arrived", arrived)
        session.set_state(key, arrived)
    if session.state_of(key) not in found:
        session.set_state(key, ids[0])
    id_ = ids[0]
    if len(ids) > 1:
        titles = {id_: f"{one_line(work.title, 60)} · {work.outcome} · {id_[-8:]}" for id_, (work, _) in found.items()}
        chosen = st.selectbox("Rerolls", ids, key=key, format_func=lambda id_: titles[str(id_)])
        id_ = chosen if chosen in found else id_
    content = found[id_][1]
    assert isinstance(content, SavedRerolls)  # by its kind
    _tree(facts, origin, content)


def _tree(facts: RunFacts, origin: BranchOrigin, content: SavedRerolls) -> None:
    st.markdown(plain(rerolls.rerolls_sentence(content)))
    chart = reroll_chart(rerolls.node_lines(content))
    draw_chart(chart, key="reroll_tree", alt="Tree of rerolls by control point, with right and wrong counts of each shared beginning")
    st.caption(
        "Rerolls that begin with the same steps share a line; n/N: right ones of those that share it. A line ends in its final answer."
    )
    seed_key = "reroll_seed"

    def choose(row: int) -> None:
        session.set_state(seed_key, row)

    left, right = st.columns([1, 1.4], gap="medium")
    with left:
        height = min(360, 38 + 35 * len(content.rolls))
        columns = BRANCH_COLUMNS | {
            "seed": number_column("seed", "%d", "Names its random streams: decoded alone it is the same.", width=56)
        }
        data_table(rerolls.roll_table(content), columns, "Rerolls by seed", key="reroll_table", height=height, clicked=choose)
    with right:
        seed = session.state_of(seed_key, 0)
        seed = seed if seed < len(content.rolls) else 0
        roll = content.rolls[seed]
        head = f"seed {seed}: {grade_of(roll)}, {roll.tokens_used} tokens. Click a row for another."
        text_strip(trace_segments(roll), key="reroll_text", head=head, height=320)
    changes = [*content.changes, content.change]
    command_line(branch_command(facts, origin, changes, len(content.rolls)), "These rerolls on the command line")
    alone = [*content.changes, with_changes(content.change, seed=seed)]
    command_line(branch_command(facts, origin, alone), f"The reroll with seed {seed} alone")
