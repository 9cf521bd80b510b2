"""Which tokens an action was read at: one row for each answer it was averaged over, and each answer's text with that token marked."""

import pandas as pd

from stir_core.records import Entry
from workbench.shared.action_card import Side
from workbench.shared.run_facts import RunFacts
from workbench.shared.text_segments import Segment, segment
from workbench.shared.visible_text import visible_token


def state_table(facts: RunFacts, entry: Entry) -> pd.DataFrame:
    """Where each averaged state stands; ``token``: number in the answer, ``position``: in the whole sequence, prompt included, from 0."""
    rows = []
    for sign, members in (("+", entry.positives), ("−", entry.negatives)):
        for k in members:
            rollout = facts.rollouts.get((entry.problem_id, k))
            if rollout is None or len(rollout.boundaries) < entry.m:
                continue
            at = rollout.boundaries[entry.m - 1]
            rows.append((sign, k, at, len(rollout.prompt_ids) + at - 1, rollout.token_ids[at - 1], rollout.n_tokens, rollout.reward))
    return pd.DataFrame(rows, columns=["side", "rollout", "token", "position", "id", "tokens", "reward"])


def marked_segments(side: Side, delimiter: str, m: int, token_id: int | None) -> list[Segment]:
    """An answer cut at its control point: muted before, the delimiter that the state was read at as a mark, then what followed."""
    cut = side.before.rfind(delimiter)
    body, end = (side.before, "") if cut < 0 else (side.before[:cut], side.before[cut:])
    where = "" if side.tokens_before is None else f"token {side.tokens_before} of the answer"
    name = "" if token_id is None else f", id {token_id}"
    tip = f"state read here: {where}{name}, the last of the delimiter" if where else "state read here"
    return [segment(body, "past"), segment(f"{visible_token(end)}⟦state, m = {m}⟧ ", "mark", tip), segment(side.after)]
