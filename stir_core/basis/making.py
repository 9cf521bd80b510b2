"""The basis stage as a pure function: the same call makes a run's basis, and shows what other settings would have made of it."""

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
    """A control basis, and what it was chosen by."""

    picks: list[Pick]
    keys: Float[np.ndarray, "n d"]
    """Keys of all entries in the space of ``basis.similarity``, row i belongs to ``entries[i]``."""
    notes: list[str]
    """Warnings that a reader must see."""


def choose_basis(
    entries: list[Entry], keys: Float[np.ndarray, "n d"], config: RunConfig, space: KeySpace, advantages: Mapping[str, Advantage]
) -> Basis:
    """The control basis among all mined entries.

    Args:
        keys: raw keys, row i belongs to ``entries[i]``.
        space: fitted for ``basis.similarity`` to all mined keys.
        advantages: measured values by entry id; only looked at for ``basis.quality = "measured"``.

    Raises:
        SelectionError: there is no entry to choose from.
    """
    keys = apply_space(space, keys, [entry.layer for entry in entries])
    notes: list[str] = []
    picks = _picks(entries, keys, config, advantages, notes)
    basis = config.basis
    candidates = sum(entry.reachable or basis.keep_unreachable or config.compat for entry in entries)
    if basis.budget >= candidates:
        notes.append(f"budget {basis.budget} >= {candidates} candidates: the selection kept everything and selected nothing")
    elif all(pick.forced for pick in picks):
        notes.append(f"all {len(picks)} picks were forced by min_per_control_point: the selector chose nothing")
    return Basis(picks, keys, notes)


def _picks(entries: list[Entry], keys: np.ndarray, config: RunConfig, advantages: Mapping[str, Advantage], notes: list[str]) -> list[Pick]:
    """The selection among all entries, or on measured quality among those that have one."""
    if config.basis.quality == "mined":
        picked = select(entries, keys, config.basis, seed=config.seed, compat=config.compat)
        return [Pick(rank=rank, entry_id=entries[i].id, forced=forced, gain=gain) for rank, (i, forced, gain) in enumerate(picked)]
    quality = measured_quality(entries, advantages)
    notes.append(f"selected on measured quality: {len(quality)} of {len(entries)} entries belong to an action with an advantage above 0")
    rows = list(quality)
    good = [entries[i].replaced(quality=quality[i]) for i in rows]
    picked = select(good, keys[rows], config.basis, seed=config.seed, compat=config.compat) if good else []
    return [
        Pick(rank=rank, entry_id=good[i].id, forced=forced, gain=gain, quality=good[i].quality)
        for rank, (i, forced, gain) in enumerate(picked)
    ]
