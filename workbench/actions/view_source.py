"""Where an action comes from: its problem, and its right and wrong answers with the token marked that each state was read at."""

import streamlit as st

from stir_core.records import Entry
from workbench.actions.source import marked_segments, state_table
from workbench.shared import action_card as cards
from workbench.shared.run_facts import RunFacts
from workbench.shared.view_text import text_strip
from workbench.shared.visible_text import plain


def source(facts: RunFacts, entry: Entry) -> None:
    """The source problem, both sides, and the table of states."""
    problem = facts.problems.get(entry.problem_id)
    if problem:
        level = f" · level {problem.level}" if problem.level else ""
        st.caption(plain(f"Source problem {problem.id}{level} · gold answer {problem.answer}"))
        st.text(problem.question)
    states = state_table(facts, entry)
    ids = dict(zip(states["rollout"].tolist(), states["id"].tolist(), strict=True))
    for column, members, name in zip(st.columns(2), cards.sides(facts, entry), ("right", "wrong"), strict=True):
        with column:
            _side(facts, members, entry, name, ids)
    if not states.empty:
        st.dataframe(states, hide_index=True, column_config=_COLUMNS, height="content", alt="Tokens whose states were averaged")
        st.caption(
            plain(
                f"v is the mean of the + states minus the mean of the − states, read behind block {entry.layer} at exactly these tokens: "
                "the last of each delimiter."
            )
        )


def _side(facts: RunFacts, members: list[cards.Side], entry: Entry, name: str, ids: dict[int, int]) -> None:
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
            "Text and tokens disagree about the number of steps here (one token holds two delimiters): the mark may sit a step early."
        )


def _facts_of(side: cards.Side) -> str:
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
    "position": _number("position", format="%d", help="In the whole sequence, prompt included, from 0.", width=76),
    "id": _number("id", format="%d", help="The token's id.", width=70),
    "tokens": _number("of tokens", format="%d", help="Tokens of the whole answer.", width=80),
    "reward": _number("reward", format="%.3f", width=70),
}
