"""The library's entries: the data of one entry's card (source rollouts, neighbours, held-out firings) and the table of all entries.

Text is cut at the run's delimiter, tokens are counted from the recorded boundaries; nothing is tokenised here.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from stir_core.basis.selection import unit_rows
from stir_core.errors import DataError
from stir_core.evaluate import confounds
from stir_core.findings import Advantage
from stir_core.records import Entry, Lens, Verdict
from stir_core.tasks.segment import split_steps
from workbench.shared.facts import RunFacts
from workbench.shared.gate_evidence import margin_of
from workbench.shared.intervals import interval
from workbench.shared.text import one_line, visible_token

BLOCK = 8192
"""Vectors of a large library that are compared at once."""


class SourceAnswer(NamedTuple):
    """One of the answers whose states an action averages, cut at the control point."""

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
    """False where text and tokens give different numbers of steps (one token holds two delimiters); the cut may then be early."""


def entry_of(facts: RunFacts, entry_id: str) -> Entry:
    """The entry of that id.

    Raises:
        DataError: the run has no such entry.
    """
    if entry_id not in facts.entries:
        raise DataError(f'run {facts.name} has no entry "{entry_id}": choose one from the table')
    return facts.entries[entry_id]


def source_answers(facts: RunFacts, entry: Entry) -> tuple[list[SourceAnswer], list[SourceAnswer]]:
    """The right answers and the wrong answers that an entry was mined from, in the order they were chosen."""
    right = [_side(facts, entry, k, "right") for k in entry.positives]
    if entry.pos_source == "gold":
        right = [_gold_side(facts, entry)]
    return right, [_side(facts, entry, k, "wrong") for k in entry.negatives]


def source_steps(facts: RunFacts, entry: Entry) -> str:
    """The steps around the mined states, of all right and wrong answers: the one that ends at the control point and the one after it."""
    steps = []
    for side in source_answers(facts, entry):
        for answer in side:
            steps += split_steps(answer.before, facts.config.delimiter)[-1:] + split_steps(answer.after, facts.config.delimiter)[:1]
    return "\n".join(dict.fromkeys(steps))


def cut_at(text: str, delimiter: str, m: int) -> tuple[str, str]:
    """Text up to control point ``m`` (the first ``m`` steps, delimiter included) and the text after it."""
    steps = split_steps(text, delimiter)
    return "".join(steps[:m]), "".join(steps[m:])


def neighbours(facts: RunFacts, entry_id: str, by: str, n: int = 8) -> pd.DataFrame:
    """Nearest entries in the original space, by cosine of ``"keys"`` or of ``"actions"`` (corrective entries only).

    Retrieval compares keys of one control point only: entries of another ``m`` never compete with this one.
    """
    ids = _ids(facts, by)
    columns = ["entry", "cosine", "m", "kind", "same problem", "in basis"]
    if by == "actions" and facts.entries[entry_id].action_row is None:
        return pd.DataFrame(columns=columns)
    here, own = ids.index(entry_id), facts.entries[entry_id].problem_id
    cosines = _cosines(facts, by, entry_id)
    order = [i for i in np.argsort(-cosines, kind="stable")[: n + 1].tolist() if i != here][:n]
    near = [(facts.entries[ids[i]], float(cosines[i])) for i in order]
    return pd.DataFrame(
        [(other.id, cosine, other.m, other.kind, other.problem_id == own, other.id in facts.picks) for other, cosine in near],
        columns=columns,
    )


def _ids(facts: RunFacts, by: str) -> tuple[str, ...]:
    """The entries of one space: all that have ``"keys"``, or the corrective ones, which have ``"actions"``."""
    return facts.ids if by == "keys" else facts.action_ids


def unit_rows_of(facts: RunFacts, by: str, ids: Sequence[str]) -> Float[np.ndarray, "n d_model"]:
    """Unit vectors of some entries of a space; of a large library only these are read."""
    if facts.large:
        return unit_rows(facts.vectors[by == "actions"][[facts.row[i] for i in ids]])
    place = facts.row if by == "keys" else {entry_id: i for i, entry_id in enumerate(facts.action_ids)}
    return (facts.unit_keys if by == "keys" else facts.unit_actions)[[place[i] for i in ids]]


def _cosines(facts: RunFacts, by: str, entry_id: str) -> Float[np.ndarray, "n"]:
    """Cosine of every entry of a space with one of them; of a large library block by block, and kept for the last ones asked for."""
    own = unit_rows_of(facts, by, [entry_id])[0]
    if not facts.large:
        return (facts.unit_keys if by == "keys" else facts.unit_actions) @ own
    if (by, entry_id) not in facts.cosines:
        ids = _ids(facts, by)
        blocks = [unit_rows_of(facts, by, ids[start : start + BLOCK]) @ own for start in range(0, len(ids), BLOCK)]
        if len(facts.cosines) >= 8:
            facts.cosines.clear()
        facts.cosines[by, entry_id] = np.concatenate(blocks)
    return facts.cosines[by, entry_id]


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
            alpha = step.decision.alpha if fired else None
            right = trace.verdict.correct if trace.verdict else None
            rows.append((trace.id, step.m, fired, seen.sim, seen.value, score, margin_of(step.decision, score), alpha, right))
    columns = ["problem", "m", "committed", "cosine", "value", "score", "margin", "alpha", "answer right"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.sort_values(["committed", "cosine"], ascending=False, kind="stable", ignore_index=True)


def _side(facts: RunFacts, entry: Entry, k: int, label: str) -> SourceAnswer:
    rollout = facts.rollouts.get((entry.problem_id, k))
    if rollout is None:
        raise DataError(f"rollout {k} of {entry.problem_id} is not in run {facts.name}: make the rollouts again")
    before, after = cut_at(rollout.text, facts.config.delimiter, entry.m)
    exact = rollout.text.count(facts.config.delimiter) == len(rollout.boundaries)
    tokens = rollout.boundaries[entry.m - 1] if 1 <= entry.m <= len(rollout.boundaries) else None
    return SourceAnswer(f"{label} · rollout {k}", before, after, tokens, rollout.n_tokens, rollout.reward, rollout.verdict, exact)


def _gold_side(facts: RunFacts, entry: Entry) -> SourceAnswer:
    problem = facts.problems.get(entry.problem_id)
    before, after = cut_at(problem.solution or "" if problem else "", facts.config.delimiter, entry.m)
    return SourceAnswer("right · the data set's own solution", before, after, None, None, None, None, True)


def action_table(facts: RunFacts, *, null_entries: bool = False, ids: Sequence[str] | None = None) -> pd.DataFrame:
    """Corrective entries (and null ones if asked), best pair first; with ``ids`` just these, in that order.

    ``retrieved`` and ``committed`` count held-out steps; they are empty when the run has no held-out traces. Norms are raw L2
    norms of residual-stream vectors; ``|v|/|key|`` compares an action with the state it was mined at. The columns of the controls
    (see ``confounds``) and of the measured advantages are only there when the run has them.
    """
    steps = [step for trace in facts.steered.values() for step in trace.steps]
    uses = {
        "retrieved": Counter(candidate.entry_id for step in steps for candidate in step.evidence.retrieved),
        "committed": Counter(step.decision.chosen for step in steps),
    }
    advantages = facts.advantages
    rows = [
        _row(facts, entry, advantages.get(entry.id)) | {name: counts[entry.id] if steps else None for name, counts in uses.items()}
        for entry in (facts.entries.values() if ids is None else map(facts.entries.__getitem__, ids))
        if null_entries or entry.kind == "corrective" or ids is not None
    ]
    left_out = (() if facts.controls else CONTROL_COLUMNS) + (() if advantages else ADVANTAGE_COLUMNS)
    return pd.DataFrame(rows, columns=[name for name in COLUMNS if name not in left_out])


CONTROL_FIELDS = {
    "length cos": "length_cosine",
    "matched cos": "length_matched_cosine",
    "length gap": "length_gap",
    "gap matched": "length_gap_matched",
    "perm. p": "permutation_p",
    "shuffled cos": "shuffled_cosine",
    "stable+": "stability_pos",
    "stable-": "stability_neg",
    "leave-one-out": "leave_one_out",
    "others cos": "others_cosine",
}
"""Columns that show a field of :class:`~stir_core.records.Control` as it is."""
CONTROL_COLUMNS = ("controls", "flags", *CONTROL_FIELDS)
"""These columns after their verdict (passes, flagged, cannot tell) and the flags in words."""

ADVANTAGE_COLUMNS = ("advantage", "advantage 95 %", "pairs", "verdict")
"""Share of right answers with the action minus without it, measured by a causal study; empty for actions that it did not try."""

COLUMNS = [
    "entry", "committed", "controls", *ADVANTAGE_COLUMNS, "promotes", "kind", "m", "layer", "quality", "retrieved", "pick",
    "|v|", "|key|", "|v|/|key|", "gain", "reward+", "reward-", "n+", "n-", *CONTROL_COLUMNS[1:], "problem", "question",
]  # fmt: skip


def _row(facts: RunFacts, entry: Entry, advantage: Advantage | None) -> dict[str, object]:
    pick = facts.picks.get(entry.id)
    problem = facts.problems.get(entry.problem_id)
    norm = entry.action_norm
    control = facts.controls.get(entry.id)
    return {
        "entry": entry.id,
        "kind": entry.kind,
        "m": entry.m,
        "layer": entry.layer,
        "quality": entry.quality,
        "reward+": entry.reward_pos,
        "reward-": entry.reward_neg,
        "n+": len(entry.positives) or (1 if entry.pos_source == "gold" else 0),
        "n-": len(entry.negatives),
        "|v|": norm,
        "|key|": entry.key_norm,
        "|v|/|key|": norm / entry.key_norm if norm is not None and entry.key_norm else None,
        "pick": pick.rank + 1 if pick else None,
        "gain": pick.gain if pick else None,
        "advantage": advantage.value if advantage else None,
        "advantage 95 %": interval(advantage, "+.3f") if advantage else None,
        "pairs": advantage.pairs if advantage else None,
        "verdict": advantage.verdict if advantage else None,
        "controls": confounds.verdict(control) if control else None,
        "flags": ", ".join(confounds.flags(control)) if control else None,
        **{name: getattr(control, field) if control else None for name, field in CONTROL_FIELDS.items()},
        "promotes": top_tokens(facts.lenses.get(entry.id)),
        "problem": entry.problem_id,
        "question": one_line(problem.question, 90) if problem else None,
    }


def top_tokens(lens: Lens | None, n: int = 4) -> str | None:
    """The first tokens that an action promotes, white space drawn; ``None`` for a null entry."""
    return "  ".join(visible_token(token.text) for token in lens.promoted[:n]) if lens else None
