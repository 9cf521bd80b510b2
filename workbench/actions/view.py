"""The Actions page's library and sources: the sortable table, and the right and wrong answers that an action was averaged from."""

import streamlit as st

from stir_core.evaluate.confounds import VERDICTS
from stir_core.records import Entry
from workbench.actions.data import marked_segments, state_table
from workbench.shared import entries as cards
from workbench.shared.command_lines import entries_python
from workbench.shared.curation_table import with_judgements
from workbench.shared.facts import RunFacts
from workbench.shared.text import plain
from workbench.shared.view_tables import ACTION_COLUMNS, JUDGED_COLUMNS, data_table, entry_table, page_of, some_entries
from workbench.shared.view_text import text_strip

_TABLE = "actions_table"
_CONTROLS_HELP = "Whether length or chance could explain the action; see its card. None chosen shows all; null entries have no controls."


def action_list(facts: RunFacts) -> None:
    """The table of actions with its filters, and a line of counts."""
    points = sorted({entry.m for entry in facts.entries.values()})
    with st.container(horizontal=True, vertical_alignment="bottom"):
        only = st.segmented_control("Control point m", points, selection_mode="multi", key="actions_m", help="None chosen shows all.")
        nulls = st.toggle("Null entries", key="actions_null", help="They carry no action; they only compete with actions.")
        basis_only = st.toggle("Only the basis", key="actions_basis", disabled=not facts.picks)
        verdicts = st.segmented_control(
            "Controls", VERDICTS, selection_mode="multi", key="actions_controls", disabled=not facts.controls, help=_CONTROLS_HELP
        )
    wanted = [
        id_
        for id_, entry in facts.entries.items()
        if (nulls or entry.kind == "corrective")
        and (not only or entry.m in only)
        and (not basis_only or not facts.picks or id_ in facts.picks)
        and (not verdicts or not facts.controls or facts.verdicts.get(id_) in verdicts)
    ]
    wanted.sort(key=lambda id_: -facts.commits[id_])
    drawn, rows = page_of(wanted, "actions_page")
    table = some_entries(facts, drawn)
    table = with_judgements(table.drop(columns=[] if nulls else ["kind"]), facts)
    entry_table(table, ACTION_COLUMNS | JUDGED_COLUMNS, key=_TABLE, alt="Latent actions of the run", height=300)
    steps = sum(len(trace.steps) for trace in facts.steered.values())
    counted = f"; those committed most often first, counted over {steps} held-out steps" if facts.steered else ""
    st.caption(f"n = {len(wanted):,} of {len(facts.entries):,} entries{counted}.{rows} Click a row for its card; click a column to sort.")
    with st.expander("These entries in Python"):
        filters = {
            "nulls": nulls,
            "points": only,
            "basis": basis_only and bool(facts.picks),
            "controls": verdicts if facts.controls else [],
        }
        st.code(entries_python(facts.run, **filters), language="python")


def source(facts: RunFacts, entry: Entry) -> None:
    """The source problem, the right and wrong answers, and the table of averaged states."""
    problem = facts.problems.get(entry.problem_id)
    if problem:
        level = f" · level {problem.level}" if problem.level else ""
        st.caption(plain(f"Source problem {problem.id}{level} · gold answer {problem.answer}"))
        st.text(problem.question)
    states = state_table(facts, entry)
    ids = dict(zip(states["rollout"].tolist(), states["id"].tolist(), strict=True))
    for column, members, name in zip(st.columns(2), cards.source_answers(facts, entry), ("right", "wrong"), strict=True):
        with column:
            _side(facts, members, entry, name, ids)
    if not states.empty:
        data_table(states, _COLUMNS, "Tokens whose states were averaged", height="content")
        st.caption(
            plain(
                f"v is the mean of the + states minus the mean of the − states, read after block {entry.layer} at these tokens, each the "
                "last one of its delimiter."
            )
        )


def _side(facts: RunFacts, members: list[cards.SourceAnswer], entry: Entry, name: str, ids: dict[int, int]) -> None:
    if not members:
        st.caption(f"No {name} rollout.")
        return
    labels = [side.label for side in members]
    label = st.segmented_control(
        f"Averaged over {len(members)} {name} answers", labels, default=labels[0], required=True, key=f"side_{name}_{entry.id}"
    )
    number = labels.index(label) if label in labels else 0
    side = members[number]
    rollouts = entry.positives if name == "right" else entry.negatives
    token_id = ids.get(rollouts[number]) if number < len(rollouts) else None
    pieces = marked_segments(side, facts.config.delimiter, entry.m, token_id)
    text_strip(pieces, key=f"strip_{name}_{entry.id}_{side.label}", height=300, head=_facts_of(side))
    if side.verdict:
        st.caption(plain(f"{'right' if side.verdict.correct else 'wrong'}: {side.verdict.reason}"))
    if not side.exact:
        st.caption(
            "Text and tokens disagree about the number of steps here (one token holds two delimiters): the mark may be one step early."
        )


def _facts_of(side: cards.SourceAnswer) -> str:
    parts = []
    if side.n_tokens is not None:
        where = "" if side.tokens_before is None else f", state read at token {side.tokens_before}"
        parts.append(f"{side.n_tokens} tokens{where}")
    if side.reward is not None:
        parts.append(f"reward {side.reward:.3f}")
    return " · ".join(parts)


_number = st.column_config.NumberColumn
_COLUMNS = {
    "side": st.column_config.TextColumn("side", help="+ right, − wrong.", width=50),
    "rollout": _number("rollout", format="%d", width=70),
    "token": _number("token", format="%d", help="Number of the token in the answer, from 1.", width=70),
    "position": _number("position", format="%d", help="Position in the whole sequence with the prompt, from 0.", width=76),
    "id": _number("id", format="%d", help="The token's id.", width=70),
    "tokens": _number("of tokens", format="%d", help="Tokens of the whole answer.", width=80),
    "reward": _number("reward", format="%.3f", width=70),
}
