"""One entry's card: the rollouts it was mined from, cut at the control point, its neighbours, and the held-out steps that fired it.

Text is cut at the run's delimiter, tokens are counted from the recorded boundaries; nothing is tokenised here.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from stir_core.errors import DataError
from stir_core.records import Entry, Rollout, Verdict
from stir_core.tasks.segment import split_steps
from workbench.shared.run_facts import RunFacts


class Side(NamedTuple):
    """One answer that an action was averaged from, cut at its control point."""

    label: str
    before: str
    """The prefix whose last token's state was averaged: the first ``m`` steps."""
    after: str
    tokens_before: int | None
    """Generated tokens up to the control point; ``None`` for a gold solution."""
    n_tokens: int | None
    reward: float | None
    verdict: Verdict | None
    exact: bool
    """False when text and tokens disagree about the number of steps (a token that holds two delimiters), so the cut may be early."""


def entry_of(facts: RunFacts, entry_id: str) -> Entry:
    """The entry of that id.

    Raises:
        DataError: the run has no such entry.
    """
    if entry_id not in facts.entries:
        raise DataError(f'run {facts.name} has no entry "{entry_id}": choose one from the table')
    return facts.entries[entry_id]


def partner_of(facts: RunFacts, entry: Entry) -> Entry | None:
    """The other entry of the same mined pair."""
    return next((other for other in facts.entries.values() if other.pair == entry.pair and other.id != entry.id), None)


def sides(facts: RunFacts, entry: Entry) -> tuple[list[Side], list[Side]]:
    """The right answers and the wrong answers behind an entry, in the order they were chosen."""
    right = [_side(facts, entry, k, "right") for k in entry.positives]
    if entry.pos_source == "gold":
        right = [_gold_side(facts, entry)]
    return right, [_side(facts, entry, k, "wrong") for k in entry.negatives]


def cut_at(text: str, delimiter: str, m: int) -> tuple[str, str]:
    """Text up to control point ``m`` (the first ``m`` steps, delimiter included) and the text after it."""
    steps = split_steps(text, delimiter)
    return "".join(steps[:m]), "".join(steps[m:])


def neighbours(facts: RunFacts, entry_id: str, by: str, n: int = 8) -> pd.DataFrame:
    """Nearest entries in the original space, by cosine of ``"keys"`` or of ``"actions"`` (corrective entries only).

    Retrieval compares keys of one control point only; ``m`` says which neighbours could ever compete with this entry.
    """
    ids, rows = space(facts, by)
    if entry_id not in ids:
        return pd.DataFrame(columns=["entry", "cosine", "m", "kind", "same problem", "in basis"])
    here = ids.index(entry_id)
    cosines = rows @ rows[here]
    order = [i for i in np.argsort(-cosines, kind="stable") if i != here][:n]
    me = facts.entries[entry_id]
    found = [(facts.entries[ids[i]], float(cosines[i])) for i in order]
    return pd.DataFrame(
        {
            "entry": [other.id for other, _ in found],
            "cosine": [cosine for _, cosine in found],
            "m": [other.m for other, _ in found],
            "kind": [other.kind for other, _ in found],
            "same problem": [other.problem_id == me.problem_id for other, _ in found],
            "in basis": [other.id in facts.picks for other, _ in found],
        }
    )


def space(facts: RunFacts, by: str) -> tuple[tuple[str, ...], Float[np.ndarray, "n d_model"]]:
    """Ids and unit rows of one space: ``"keys"`` of all entries or ``"actions"`` of the corrective ones."""
    if by == "keys":
        return tuple(facts.entries), facts.unit_keys
    return facts.action_ids, facts.unit_actions


def firings(facts: RunFacts, entry_id: str) -> pd.DataFrame:
    """Held-out steps that retrieved this entry, committed ones first, then by cosine."""
    rows = []
    for trace in facts.steered.values():
        for step in trace.steps:
            seen = next((c for c in step.evidence.retrieved if c.entry_id == entry_id), None)
            if seen is None:
                continue
            score = next((s.score for s in step.decision.scored if s.entry_id == entry_id), None)
            fired = step.decision.chosen == entry_id
            null = step.decision.score_null
            margin = score - null if score is not None and null is not None else None
            alpha = step.decision.alpha if fired else None
            right = trace.verdict.correct if trace.verdict else None
            rows.append((trace.id, step.m, fired, seen.sim, seen.value, score, margin, alpha, right))
    columns = ["problem", "m", "committed", "cosine", "value", "score", "margin", "alpha", "answer right"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.sort_values(["committed", "cosine"], ascending=False, kind="stable", ignore_index=True)


def _side(facts: RunFacts, entry: Entry, k: int, label: str) -> Side:
    rollout = facts.rollouts.get((entry.problem_id, k))
    if rollout is None:
        raise DataError(f"rollout {k} of {entry.problem_id} is not in run {facts.name}: make the rollouts again")
    before, after = cut_at(rollout.text, facts.config.delimiter, entry.m)
    exact = rollout.text.count(facts.config.delimiter) == len(rollout.boundaries)
    tokens = _tokens_before(rollout, entry.m)
    return Side(f"{label} · rollout {k}", before, after, tokens, rollout.n_tokens, rollout.reward, rollout.verdict, exact)


def _tokens_before(rollout: Rollout, m: int) -> int | None:
    return rollout.boundaries[m - 1] if 1 <= m <= len(rollout.boundaries) else None


def _gold_side(facts: RunFacts, entry: Entry) -> Side:
    problem = facts.problems.get(entry.problem_id)
    before, after = cut_at(problem.solution or "" if problem else "", facts.config.delimiter, entry.m)
    return Side("right · the data set's own solution", before, after, None, None, None, None, True)
