"""Retrieval: the library's entries at a control point, ranked by the cosine between their keys and the current state.

Exact brute force: one matrix product a layer. Knows nothing of models; states come in as tensors.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.config import GateConfig
from stir_core.records import Entry, Retrieved

EPSILON = 1e-12


class Memory:
    """Library entries by control point and layer, with unit keys and raw actions."""

    def __init__(self, entries: tuple[Entry, ...], keys: Float[np.ndarray, "n d_model"], actions: Float[np.ndarray, "n d_model"]):
        self.entries = entries
        self.by_id = {entry.id: entry for entry in entries}
        self.layers = tuple(sorted({entry.layer for entry in entries}))
        self._row = {entry.id: row for row, entry in enumerate(entries)}
        self.raw_keys = torch.tensor(keys, dtype=torch.float32)
        self._actions = torch.tensor(actions, dtype=torch.float32)
        unit = torch.nn.functional.normalize(self.raw_keys, dim=-1, eps=EPSILON)
        self._groups: dict[int, list[tuple[int, list[int], Tensor]]] = {}
        for m in sorted({entry.m for entry in entries}):
            for layer in self.layers:
                rows = [row for row, entry in enumerate(entries) if entry.m == m and entry.layer == layer]
                if rows:
                    self._groups.setdefault(m, []).append((layer, rows, unit[rows]))

    def action(self, entry_id: str) -> Float[Tensor, "d_model"]:
        """The raw action vector of an entry; zero for a null entry."""
        return self._actions[self._row[entry_id]]

    def count(self, m: int) -> int:
        """Entries at control point ``m``."""
        return sum(len(rows) for _, rows, _ in self._groups.get(m, []))

    def retrieve(self, m: int, states: dict[int, Float[Tensor, "d_model"]], gate: GateConfig) -> tuple[tuple[Retrieved, ...], str | None]:
        """The ``k_retrieve`` nearest entries at control point ``m``, best cosine first (ties: library order).

        Args:
            states: the residual stream at the control point, by layer; each entry is compared at its own layer.

        Returns:
            The entries, and when there are none the reason why.
        """
        n = self.count(m)
        if n < gate.min_entries:
            return (), f"{n} entries at control point {m}, min_entries is {gate.min_entries}"
        rows: list[int] = []
        sims: list[Tensor] = []
        for layer, members, unit in self._groups[m]:
            state = torch.nn.functional.normalize(states[layer].float().cpu(), dim=0, eps=EPSILON)
            rows += members
            sims.append(unit @ state)
        values = torch.cat(sims).tolist()
        order = sorted(range(n), key=lambda i: (-values[i], rows[i]))[: gate.k_retrieve]
        if values[order[0]] < gate.min_sim:
            return (), f"best cosine {values[order[0]]:.3f} < min_sim {gate.min_sim:g}"
        return tuple(self._retrieved(rows[i], values[i]) for i in order), None

    def _retrieved(self, row: int, sim: float) -> Retrieved:
        entry = self.entries[row]
        return Retrieved(entry_id=entry.id, kind=entry.kind, layer=entry.layer, sim=sim, quality=entry.quality, value=sim * entry.quality)
