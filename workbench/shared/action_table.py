"""The library as a table: one row an entry, with how the basis and the held-out gate treated it."""

from collections import Counter

import pandas as pd

from stir_core.findings import Advantage
from stir_core.records import Entry, Lens
from workbench.shared import confounds
from workbench.shared.estimates import interval
from workbench.shared.run_facts import RunFacts
from workbench.shared.visible_text import one_line, visible_token


def action_table(facts: RunFacts, *, null_entries: bool = False) -> pd.DataFrame:
    """Corrective entries (and null ones if asked), best pair first.

    ``retrieved`` and ``committed`` count held-out steps; they are empty when the run has no held-out traces. Norms are raw L2
    norms of residual-stream vectors; ``|v|/|key|`` compares an action with the state it was mined at. The columns of the controls
    (see ``confounds``) and of the measured advantages are only there when the run has them.
    """
    retrieved, committed = _use(facts)
    measured = bool(facts.steered)
    wanted = [entry for entry in facts.entries.values() if null_entries or entry.kind == "corrective"]
    advantages = facts.advantages
    rows = [_row(facts, entry) | _used(entry.id, retrieved, committed, measured) | _measured(advantages.get(entry.id)) for entry in wanted]
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
"""The same behind two columns that read them: passes / flagged / cannot tell, and the flags in words."""

ADVANTAGE_COLUMNS = ("advantage", "advantage 95 %", "verdict")
"""Right answers with the action minus without it, as a causal study measured it; empty for actions that it did not try."""

COLUMNS = [
    "entry", "kind", "m", "layer", "quality", "reward+", "reward-", "n+", "n-", "|v|", "|key|", "|v|/|key|",
    "pick", "gain", "retrieved", "committed", *ADVANTAGE_COLUMNS, *CONTROL_COLUMNS, "promotes", "problem", "question",
]  # fmt: skip


def _row(facts: RunFacts, entry: Entry) -> dict[str, object]:
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
        "controls": confounds.verdict(control) if control else None,
        "flags": ", ".join(confounds.flags(control)) if control else None,
        **{name: getattr(control, field) if control else None for name, field in CONTROL_FIELDS.items()},
        "promotes": top_tokens(facts.lenses.get(entry.id)),
        "problem": entry.problem_id,
        "question": one_line(problem.question, 90) if problem else None,
    }


def _measured(found: Advantage | None) -> dict[str, object]:
    if found is None:
        return {name: None for name in ADVANTAGE_COLUMNS}
    return {"advantage": found.value, "advantage 95 %": interval(found, "{:+.3f}"), "verdict": found.verdict}


def top_tokens(lens: Lens | None, n: int = 4) -> str | None:
    """The first tokens that an action promotes, white space drawn; ``None`` for a null entry."""
    return "  ".join(visible_token(token.text) for token in lens.promoted[:n]) if lens else None


def _use(facts: RunFacts) -> tuple[Counter[str], Counter[str]]:
    retrieved: Counter[str] = Counter()
    committed: Counter[str] = Counter()
    for trace in facts.steered.values():
        for step in trace.steps:
            retrieved.update(candidate.entry_id for candidate in step.evidence.retrieved)
            if step.decision.chosen:
                committed[step.decision.chosen] += 1
    return retrieved, committed


def _used(entry_id: str, retrieved: Counter[str], committed: Counter[str], measured: bool) -> dict[str, object]:
    return {"retrieved": retrieved[entry_id] if measured else None, "committed": committed[entry_id] if measured else None}
