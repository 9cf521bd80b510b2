"""Geometry of the library: map, cosines in cluster order, coverage, and the table of all entries. Cosines are of raw vectors."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from stir_core.basis import geometry
from stir_core.curation import Judgement
from workbench.shared.entries import action_table, unit_rows_of
from workbench.shared.facts import RunFacts

HEATMAP_LIMIT = 64
"""Maximum number of entries drawn in one heatmap: beyond that its cells are too small to click."""


def projections(facts: RunFacts) -> list[str]:
    """Names of the stored maps, UMAP before PCA; none for an empty library."""
    return sorted(facts.maps, reverse=True)


def found_by_text(steps: Mapping[str, str], query: str) -> list[str]:
    """Entries whose source steps hold all words of the query, in any case and order; none for an empty query."""
    words = query.casefold().split()
    return [id_ for id_, text in steps.items() if all(word in text for word in words)] if words else []


def heatmap_ids(
    facts: RunFacts, by: str, *, m: int | None = None, only_selected: bool = False, among: Collection[str] = (), first: Sequence[str] = ()
) -> tuple[list[str], int]:
    """Ids that a heatmap shows, and how many there were: basis first in pick order, then the others by quality.

    Args:
        among: show only these; empty shows all.
        first: these come before all others where they are shown, so that the limit never cuts them.
    """
    inside = frozenset(among)
    wanted = [
        i
        for i in (facts.picks if only_selected else facts.ranked)
        if (by == "keys" or facts.entries[i].action_row is not None)
        and (m is None or facts.entries[i].m == m)
        and (not inside or i in inside)
    ]
    if len(wanted) <= HEATMAP_LIMIT:  # the order does not depend on the choice
        return wanted, len(wanted)
    ahead = [i for i in wanted if i in first]
    return [*ahead, *(i for i in wanted[: HEATMAP_LIMIT + len(ahead)] if i not in first)][:HEATMAP_LIMIT], len(wanted)


def heatmap_table(facts: RunFacts, by: str, shown: Sequence[str]) -> pd.DataFrame:
    """Tidy cosines between the shown entries; ``row`` and ``column`` are positions in cluster order."""
    cosines = geometry.cosines(unit_rows_of(facts, by, shown))
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
    """Mined, selected and dropped entries: counts, quality, and how many independent directions their keys and actions span.

    Of a large library the vectors of the shown entries are measured.
    """
    ids = list(facts.entries)
    groups = {
        "mined": ids,
        "selected": [i for i in ids if i in facts.picks],
        "dropped": [i for i in ids if i not in facts.picks],
    }
    nearest = nearest_of(facts, groups["selected"])
    rows = []
    for name, members in groups.items():
        cover = np.array([nearest[i] for i in members if i in nearest]) if nearest and members else None
        near = {"nearest selected": None if cover is None else float(cover.mean()), "worst": None if cover is None else float(cover.min())}
        rows.append({"set": name} | set_row(facts, members) | near)
    return pd.DataFrame(rows)


def nearest_of(facts: RunFacts, selected: Sequence[str]) -> dict[str, float]:
    """Cosine of the key of each shown entry with the nearest of the selected ones; empty without any."""
    if not selected:
        return {}
    keys = unit_rows_of(facts, "keys", facts.shown)
    return dict(zip(facts.shown, geometry.cosines(keys, unit_rows_of(facts, "keys", selected)).max(axis=1).tolist(), strict=True))


def set_row(facts: RunFacts, members: list[str]) -> dict[str, float | None]:
    """Counts, quality, ranks and mean cosines of a set of entries; ``None`` where there is nothing to measure."""
    entries = [facts.entries[i] for i in members]
    inside = set(members)
    measured = [id_ for id_ in facts.shown if id_ in inside]
    keys = unit_rows_of(facts, "keys", measured)
    actions = unit_rows_of(facts, "actions", [id_ for id_ in measured if facts.entries[id_].action_row is not None])
    pairs = Counter(entry.pair for entry in entries)
    return {
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


def pair_cosines(facts: RunFacts, one: str, other: str) -> dict[str, float | None]:
    """Cosine of the keys and of the actions of two entries; ``None`` where one of them has no action."""
    row = cosines_to(facts, one, [other]).iloc[0].tolist()
    return {by: None if np.isnan(value) else value for by, value in zip(("keys", "actions"), row, strict=True)}


ColourScale = Literal["ordered", "sequential", "signed", "category"]
"""How a column is coloured: few whole numbers, numbers of one sign, numbers around 0, or names."""

CHOSEN_KEY, CHOSEN_ACTION = "cosine to the chosen key", "cosine to the chosen action"
_TEXTS = ("entry", "question", "promotes", "advantage 95 %")
_FEW = 12


def entry_columns(facts: RunFacts, judged: Judgement | None = None, *, every: bool = False) -> pd.DataFrame:
    """The table of the shown entries, null ones included, with their coordinates on every stored map (``umap 1``, ``umap 2``, ...).

    Args:
        judged: the judgements on the entries; adds their tags and stars.
        every: all entries, however many.
    """
    ids = facts.ids if every else facts.shown
    table = action_table(facts, ids=ids)
    entries, rows = [facts.entries[id_] for id_ in ids], [facts.row[id_] for id_ in ids]
    table.insert(2, "pair", [entry.pair for entry in entries])
    more: dict[str, object] = {
        "in the basis": [entry.id in facts.picks for entry in entries],
        "forced in": [facts.picks[entry.id].forced if entry.id in facts.picks else None for entry in entries],
        "reachable": [entry.reachable for entry in entries],
    }
    if judged is not None:
        judgements = [judged.of(entry.id) for entry in entries]
        more |= {"tags": [", ".join(each.tags) or None for each in judgements], "starred": [each.starred or None for each in judgements]}
    for name, places in sorted(facts.maps.items(), reverse=True):
        more |= {f"{name} {axis + 1}": places[rows, axis] for axis in (0, 1)}
    return table.assign(**more)


def cosines_to(facts: RunFacts, entry_id: str, others: Sequence[str]) -> pd.DataFrame:
    """Cosines of other entries' keys and actions with those of one entry, in the original space; empty where one has no action."""
    cosines = {}
    for by, name in (("keys", CHOSEN_KEY), ("actions", CHOSEN_ACTION)):
        acting = [i for i in others if by == "keys" or facts.entries[i].action_row is not None]
        if by == "actions" and facts.entries[entry_id].action_row is None:
            acting = []
        by_id = dict(zip(acting, unit_rows_of(facts, by, acting) @ unit_rows_of(facts, by, [entry_id])[0], strict=True)) if acting else {}
        cosines[name] = [by_id.get(i, np.nan) for i in others]
    return pd.DataFrame(cosines)


def colourings(table: pd.DataFrame) -> list[str]:
    """Columns that a map can be coloured by: all with at least one value, except plain text and coordinates."""
    own = [
        name
        for name in table.columns
        if name not in _TEXTS and name.split(" ")[0] not in ("pca", "umap") and bool(table[name].notna().any())
    ]
    return [*own, CHOSEN_KEY, CHOSEN_ACTION]


def scale_of(values: Sequence[object]) -> ColourScale:
    """How to colour a column; empty values do not count."""
    numbers = _numbers(values)
    if numbers is None:
        return "category"
    if len(np.unique(numbers)) <= _FEW and bool((numbers == np.round(numbers)).all()):
        return "ordered"
    return "signed" if numbers.min() < 0 < numbers.max() else "sequential"


def column_summary(table: pd.DataFrame, ids: Sequence[str]) -> pd.DataFrame:
    """Count, mean and median of every numeric column over some entries, with the mean over all entries beside it."""
    inside = np.isin(np.array(table["entry"].tolist()), list(ids))
    rows = []
    for name in table.columns:
        if name in ("pair", "m", "layer") or name.split(" ")[0] in ("pca", "umap") or _numbers(table[name].tolist()) is None:
            continue
        every = table[name].to_numpy(dtype=float, na_value=np.nan)
        values = every[inside & ~np.isnan(every)]
        if len(values):
            rows.append((name, len(values), float(values.mean()), float(np.median(values)), float(np.nanmean(every))))
    return pd.DataFrame(rows, columns=["column", "n", "mean", "median", "mean of all"])


def _numbers(values: Sequence[object]) -> Float[np.ndarray, "n"] | None:
    """The known values as numbers; ``None`` where there are none, or any is no number."""
    known = pd.Series(list(values)).dropna().infer_objects()
    numeric = len(known) and pd.api.types.is_numeric_dtype(known) and not pd.api.types.is_bool_dtype(known)
    return known.to_numpy(dtype=float) if numeric else None
