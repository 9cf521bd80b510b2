"""States captured while rollouts are decoded, kept in the unfinished states folder until the states stage reads them.

They are written in shards beside an index, each shard before its lines of the index, and named by the number of its first row. So
everything in the index exists, and a shard that the index does not name (its process was killed in between) is never read and is
written over. A rollout that is missing from the index is read by the model again.
"""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stir_core.records import Rollout, StateRow
from stir_core.store.jsonl import append_records, read_appended
from stir_core.store.tensors import read_tensors, write_tensors

SHARD = 64
"""Rollouts a shard."""


class Captured:
    """The captured states of one run, by rollout and control point."""

    def __init__(self, folder: Path, layers: tuple[int, ...], d_model: int):
        self._folder, self._layers, self._d_model = folder, layers, d_model
        self._index = folder / "captured-rows.jsonl"
        self._known: dict[tuple[str, int, int], int] | None = None
        self._n_rows = max(self._place.values(), default=-1) + 1
        self._shards: tuple[list[int], list[dict[str, np.ndarray]]] | None = None
        self._waiting: list[tuple[StateRow, dict[int, np.ndarray]]] = []

    @property
    def _place(self) -> dict[tuple[str, int, int], int]:
        """Row by problem id, rollout and control point; kept only between two writes, so that it does not grow with a harvest."""
        if self._known is None:
            rows = read_appended(self._index, StateRow) if self._layers else []
            self._known = {(row.problem_id, row.k, row.m): row.row for row in rows}
        return self._known

    def add(self, rollout: Rollout, states: dict) -> None:
        """Keep a rollout's states: arrays or tensors ``[boundaries, d_model]`` by layer. A full shard is written."""
        if not states:
            return
        arrays = {layer: np.asarray(states[layer], np.float32) for layer in self._layers}
        for i in range(len(arrays[self._layers[0]])):
            position = len(rollout.prompt_ids) + rollout.boundaries[i] - 1
            row = StateRow(row=0, problem_id=rollout.problem_id, source="rollout", k=rollout.k, m=i + 1, position=position)
            self._waiting.append((row, {layer: array[i] for layer, array in arrays.items()}))
        if len({(row.problem_id, row.k) for row, _ in self._waiting}) >= SHARD:
            self.flush()

    def adopt(self, rows: list[StateRow], states: dict[int, np.ndarray]) -> None:
        """Keep another run's states of rollouts, ``[rows, d_model]`` by layer; layers that this run does not mine are ignored."""
        for row in rows:
            if row.source == "rollout" and (row.problem_id, row.k, row.m) not in self._place:
                self._waiting.append((row, {layer: states[layer][row.row] for layer in self._layers}))
        self.flush()

    def flush(self) -> None:
        """Write the states that are not in a shard yet."""
        if not self._waiting:
            return
        start = self._n_rows
        named = {f"layer_{layer}": np.stack([states[layer] for _, states in self._waiting]) for layer in self._layers}
        write_tensors(self._folder / f"captured-from-{start:09}.safetensors", named)
        rows = [row.replaced(row=start + i) for i, (row, _) in enumerate(self._waiting)]
        append_records(self._index, rows)
        self._n_rows += len(rows)
        self._waiting, self._known, self._shards = [], None, None

    def holds(self, problem_id: str, k: int, ms: Sequence[int]) -> bool:
        """True when the states at all these control points of a rollout were captured."""
        return all((problem_id, k, m) in self._place for m in ms)

    def states(self, problem_id: str, k: int, ms: Sequence[int]) -> dict[int, np.ndarray]:
        """A rollout's states at these control points, float32 ``[len(ms), d_model]`` by layer."""
        if self._shards is None:
            files = {int(file.stem.rpartition("-")[2]): file for file in self._folder.glob("captured-from-*.safetensors")}
            starts = sorted(start for start in files if start < self._n_rows)
            self._shards = starts, [read_tensors(files[start], columns=self._d_model) for start in starts]
        starts, shards = self._shards
        at = [(bisect_right(starts, row) - 1, row) for row in (self._place[problem_id, k, m] for m in ms)]
        return {layer: np.stack([shards[i][f"layer_{layer}"][row - starts[i]] for i, row in at]) for layer in self._layers}
