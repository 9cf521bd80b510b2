"""How the library lies in space: map, cosines in cluster order, coverage, and what selection kept. Cosines are always of raw vectors."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from stir_core.basis import geometry
from workbench.services.action_card import space
from workbench.services.run_facts import RunFacts
from workbench.services.visible_text import one_line

HEATMAP_LIMIT = 96
"""Most entries drawn in one heatmap: beyond that a cell is smaller than a finger and a pixel."""


def projections(facts: RunFacts) -> list[str]:
    """Names of the stored maps, UMAP before PCA; none for an empty library."""
    return sorted(facts.run.map_coordinates(), reverse=True)


def map_table(facts: RunFacts, projection: str) -> pd.DataFrame:
    """One row an entry: its two coordinates and everything a map can be coloured by."""
    xy = facts.run.map_coordinates()[projection]
    entries = list(facts.entries.values())
    return pd.DataFrame(
        {
            "entry": [entry.id for entry in entries],
            "x": xy[:, 0],
            "y": xy[:, 1],
            "m": [entry.m for entry in entries],
            "quality": [entry.quality for entry in entries],
            "kind": [entry.kind for entry in entries],
            "problem": [entry.problem_id for entry in entries],
            "layer": [entry.layer for entry in entries],
            "selected": [entry.id in facts.picks for entry in entries],
            "question": [one_line(facts.problems[e.problem_id].question, 70) if e.problem_id in facts.problems else "" for e in entries],
        }
    )


def heatmap_ids(facts: RunFacts, by: str, *, m: int | None = None, only_selected: bool = False) -> tuple[list[str], int]:
    """Ids that a heatmap shows, and how many there were: basis first in pick order, then the others by quality."""
    ids, _ = space(facts, by)
    wanted = [i for i in ids if (m is None or facts.entries[i].m == m) and (not only_selected or i in facts.picks)]
    picked = {id_: rank for rank, id_ in enumerate(facts.picks)}
    wanted.sort(key=lambda i: (picked.get(i, len(picked)), -facts.entries[i].quality))
    return wanted[:HEATMAP_LIMIT], len(wanted)


def heatmap_table(facts: RunFacts, by: str, shown: Sequence[str]) -> pd.DataFrame:
    """Tidy cosines between the shown entries; ``row`` and ``column`` are positions in cluster order."""
    ids, rows = space(facts, by)
    place = {id_: i for i, id_ in enumerate(ids)}
    cosines = geometry.cosines(rows[[place[i] for i in shown]])
    order = geometry.cluster_order(cosines)
    names = [shown[i] for i in order]
    ordered = cosines[np.ix_(order, order)]
    n = len(names)
    m = [facts.entries[name].m for name in names]
    return pd.DataFrame(
        {
            "row": np.repeat(np.arange(n), n),
            "column": np.tile(np.arange(n), n),
            "i": np.repeat(names, n),
            "j": np.tile(names, n),
            "m_i": np.repeat(m, n),
            "m_j": np.tile(m, n),
            "cosine": ordered.ravel(),
        }
    )


def mean_cosine(rows: Float[np.ndarray, "n d_model"]) -> float | None:
    """Mean cosine over all distinct pairs; ``None`` below two rows."""
    n = len(rows)
    if n < 2:
        return None
    total = float(np.square(rows.astype(np.float64).sum(axis=0)).sum())
    return (total - n) / (n * (n - 1))


def coverage_table(facts: RunFacts) -> pd.DataFrame:
    """Mined, selected and dropped entries: counts, quality, and how many independent directions their keys and actions span."""
    ids = list(facts.entries)
    groups = {
        "mined": ids,
        "selected": [i for i in ids if i in facts.picks],
        "dropped": [i for i in ids if i not in facts.picks],
    }
    place = {id_: i for i, id_ in enumerate(ids)}
    selected = [place[i] for i in groups["selected"]]
    nearest = geometry.coverage(facts.unit_keys, selected) if selected else None
    rows = []
    for name, members in groups.items():
        cover = nearest[[place[i] for i in members]] if nearest is not None and members else None
        near = {"nearest selected": None if cover is None else float(cover.mean()), "worst": None if cover is None else float(cover.min())}
        rows.append(_coverage_row(facts, name, members) | near)
    return pd.DataFrame(rows)


def _coverage_row(facts: RunFacts, name: str, members: list[str]) -> dict[str, object]:
    entries = [facts.entries[i] for i in members]
    inside = set(members)
    keys = facts.unit_keys[[i for i, id_ in enumerate(facts.entries) if id_ in inside]]
    actions = facts.unit_actions[[i for i, id_ in enumerate(facts.action_ids) if id_ in inside]]
    pairs: dict[int, int] = {}
    for entry in entries:
        pairs[entry.pair] = pairs.get(entry.pair, 0) + 1
    return {
        "set": name,
        "entries": len(entries),
        "corrective": sum(entry.kind == "corrective" for entry in entries),
        "null": sum(entry.kind == "null" for entry in entries),
        "split pairs": sum(count == 1 for count in pairs.values()),
        "mean quality": float(np.mean([entry.quality for entry in entries])) if entries else None,
        "key rank": geometry.effective_rank(keys) if len(keys) else None,
        "key cosine": mean_cosine(keys),
        "action rank": geometry.effective_rank(actions) if len(actions) else None,
        "action cosine": mean_cosine(actions),
        "unreachable": sum(not entry.reachable for entry in entries),
    }


def counts_by_step(facts: RunFacts) -> pd.DataFrame:
    """Entries at every control point, selected and dropped, corrective and null."""
    counted = Counter((e.m, e.kind, "selected" if e.id in facts.picks else "dropped") for e in facts.entries.values())
    return pd.DataFrame([(*key, n) for key, n in sorted(counted.items())], columns=["m", "kind", "fate", "entries"])


def pick_table(facts: RunFacts) -> pd.DataFrame:
    """The basis in pick order (counted from 1) with the marginal gain of each pick."""
    picked = [(pick, facts.entries[pick.entry_id]) for pick in facts.picks.values()]
    rows = [(pick.rank + 1, entry.id, entry.m, entry.kind, entry.quality, pick.gain, pick.forced) for pick, entry in picked]
    return pd.DataFrame(rows, columns=["pick", "entry", "m", "kind", "quality", "gain", "forced"])


def pair_cosines(facts: RunFacts, one: str, other: str) -> dict[str, float | None]:
    """Cosine of the keys and of the actions of two entries; ``None`` where one of them has no action."""
    found: dict[str, float | None] = {}
    for by in ("keys", "actions"):
        ids, rows = space(facts, by)
        both = one in ids and other in ids
        found[by] = float(rows[ids.index(one)] @ rows[ids.index(other)]) if both else None
    return found
