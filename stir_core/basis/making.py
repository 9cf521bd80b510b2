"""The basis stage as a pure function: the same call chooses a run's basis, and tries other settings on it."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from stir_core.basis.selection import select
from stir_core.config import RunConfig
from stir_core.findings import Advantage
from stir_core.keyspace import KeySpace, apply_space
from stir_core.records import Entry, Pick
from stir_core.store.libraries import measured_quality


class Basis(NamedTuple):
    """A control basis, with the keys that it was chosen by."""

    picks: list[Pick]
    keys: Float[np.ndarray, "n d"]
    """Keys of all entries in the space of ``basis.similarity``; row i belongs to ``entries[i]``."""
    notes: list[str]
    """Warnings that a reader must see."""


def choose_basis(
    entries: list[Entry], keys: Float[np.ndarray, "n d"], config: RunConfig, space: KeySpace, advantages: Mapping[str, Advantage]
) -> Basis:
    """The control basis among all mined entries.

    Args:
        keys: raw keys, row i belongs to ``entries[i]``.
        space: fitted to all mined keys for ``basis.similarity``.
        advantages: measured values by entry id, for ``basis.quality = "measured"``; ignored otherwise.

    Raises:
        SelectionError: there is no entry to choose from.
    """
    keys = apply_space(space, keys, [(entry.m, entry.layer) for entry in entries])
    basis, notes = config.basis, list[str]()
    rows, pool = list(range(len(entries))), entries
    if basis.quality == "measured":
        quality = measured_quality(entries, advantages)
        rows, pool = list(quality), [entries[i].replaced(quality=quality[i]) for i in quality]
        notes.append(f"selected on measured quality: {len(pool)} of {len(entries)} entries belong to an action with an advantage above 0")
    picked = select(pool, keys[rows], basis, seed=config.seed, compat=config.compat) if pool or basis.quality == "mined" else []
    picks = [
        Pick(rank=rank, entry_id=pool[i].id, forced=forced, gain=gain, quality=pool[i].quality if basis.quality == "measured" else None)
        for rank, (i, forced, gain) in enumerate(picked)
    ]
    candidates = sum(entry.reachable or basis.keep_unreachable or config.compat for entry in entries)
    if basis.budget >= candidates:
        notes.append(f"budget {basis.budget} >= {candidates} candidates: the selection kept everything and selected nothing")
    elif all(pick.forced for pick in picks):
        notes.append(f"all {len(picks)} picks were forced by min_per_control_point: the selector chose nothing")
    return Basis(picks, keys, notes)
