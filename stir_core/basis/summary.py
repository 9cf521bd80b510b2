"""Summarise a library in a few numbers: counts, incomplete pairs, and how many directions it spans. Needs no model."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from stir_core.basis.geometry import effective_rank
from stir_core.store.runs import Library


class Summary(NamedTuple):
    """Counts of a library; ranks are ``None`` if there are no vectors."""

    entries: int
    corrective: int
    null: int
    by_step: dict[int, tuple[int, int]]
    """Corrective and null entries at every control point."""
    orphaned: int
    """Pairs with only one of their two entries: an action without its null, or a null without its action."""
    unreachable: int
    key_rank: float | None
    """Effective rank of the unit keys (Roy and Vetterli 2007)."""
    action_rank: float | None
    mean_quality: float | None


def summary(library: Library) -> Summary:
    """Counts and ranks of a library's entries."""
    kinds = Counter(entry.kind for entry in library.entries)
    places = Counter((entry.m, entry.kind) for entry in library.entries)
    pairs = Counter(entry.pair for entry in library.entries)
    actions = library.actions[[i for i, entry in enumerate(library.entries) if entry.kind == "corrective"]]
    actions = actions[np.linalg.norm(actions, axis=1) > 0]
    return Summary(
        entries=len(library.entries),
        corrective=kinds["corrective"],
        null=kinds["null"],
        by_step={m: (places[m, "corrective"], places[m, "null"]) for m in sorted({entry.m for entry in library.entries})},
        orphaned=sum(count == 1 for count in pairs.values()),
        unreachable=sum(not entry.reachable for entry in library.entries),
        key_rank=effective_rank(library.keys) if len(library.keys) else None,
        action_rank=effective_rank(actions) if len(actions) else None,
        mean_quality=float(np.mean([entry.quality for entry in library.entries])) if library.entries else None,
    )
