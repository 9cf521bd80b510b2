"""Everything that is known of every entry, one row an entry: what a map can be coloured by, a lasso summed up, a file filled with."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from stir_core.curation import Judgement
from workbench.shared.action_card import space
from workbench.shared.action_table import action_table
from workbench.shared.run_facts import RunFacts

Scale = Literal["ordered", "sequential", "signed", "category"]
"""How a column is coloured: few whole numbers, numbers of one sign, numbers around 0, or names."""

CHOSEN_KEY, CHOSEN_ACTION = "cosine to the chosen key", "cosine to the chosen action"
_TEXTS = ("entry", "question", "promotes", "advantage 95 %")
_FEW = 12


def entry_columns(facts: RunFacts, judged: Judgement | None = None) -> pd.DataFrame:
    """The table of all entries, null ones included, with their places on every stored map (``umap 1``, ``umap 2``, ...).

    Args:
        judged: what readers said of the entries; adds their tags and stars.
    """
    table = action_table(facts, null_entries=True)
    entries = list(facts.entries.values())
    table.insert(2, "pair", [entry.pair for entry in entries])
    more: dict[str, object] = {
        "in the basis": [entry.id in facts.picks for entry in entries],
        "forced in": [facts.picks[entry.id].forced if entry.id in facts.picks else None for entry in entries],
        "reachable": [entry.reachable for entry in entries],
    }
    if judged is not None:
        said = [judged.of(entry.id) for entry in entries]
        more |= {"tags": [", ".join(each.tags) or None for each in said], "starred": [each.starred or None for each in said]}
    for name, places in sorted(facts.run.map_coordinates().items(), reverse=True):
        more |= {f"{name} {axis + 1}": places[:, axis] for axis in (0, 1)}
    return table.assign(**more)


def cosines_to(facts: RunFacts, entry_id: str) -> pd.DataFrame:
    """Cosines of every entry's key and action with those of one entry, in the original space; empty where one has no action."""
    found = {}
    for by, name in (("keys", CHOSEN_KEY), ("actions", CHOSEN_ACTION)):
        ids, rows = space(facts, by)
        by_id = dict(zip(ids, rows @ rows[ids.index(entry_id)], strict=True)) if entry_id in ids else {}
        found[name] = [by_id.get(i, np.nan) for i in facts.entries]
    return pd.DataFrame(found)


def colourings(table: pd.DataFrame) -> list[str]:
    """Columns that a map can be coloured by: all with at least one value, save plain text and places on a map."""
    own = [
        name
        for name in table.columns
        if name not in _TEXTS and name.split(" ")[0] not in ("pca", "umap") and bool(table[name].notna().any())
    ]
    return [*own, CHOSEN_KEY, CHOSEN_ACTION]


def scale_of(values: Sequence[object]) -> Scale:
    """How to colour a column; what is empty does not count."""
    known = pd.Series(list(values)).dropna().infer_objects()
    if known.empty or pd.api.types.is_bool_dtype(known) or not pd.api.types.is_numeric_dtype(known):
        return "category"
    numbers = known.to_numpy(dtype=float)
    if len(np.unique(numbers)) <= _FEW and bool((numbers == np.round(numbers)).all()):
        return "ordered"
    return "signed" if numbers.min() < 0 < numbers.max() else "sequential"


def summary(table: pd.DataFrame, ids: Sequence[str]) -> pd.DataFrame:
    """Count, mean and median of every numeric column over some entries, with the mean over all entries beside it."""
    inside = np.isin(np.array(table["entry"].tolist()), list(ids))
    rows = []
    for name in table.columns:
        if name in ("pair", "m", "layer") or name.split(" ")[0] in ("pca", "umap") or not _numeric(table[name].tolist()):
            continue
        every = table[name].to_numpy(dtype=float, na_value=np.nan)
        values = every[inside & ~np.isnan(every)]
        if len(values):
            rows.append((name, len(values), float(values.mean()), float(np.median(values)), float(np.nanmean(every))))
    return pd.DataFrame(rows, columns=["column", "n", "mean", "median", "mean of all"])


def _numeric(values: Sequence[object]) -> bool:
    known = pd.Series(list(values)).dropna().infer_objects()
    return not known.empty and not pd.api.types.is_bool_dtype(known) and pd.api.types.is_numeric_dtype(known)
