"""States captured while rollouts are decoded, waiting in the unfinished states folder until that stage takes what it needs.

Written in shards beside an index, the shard first: what the index names is there. A rollout that is not in the index (its process was
killed before the next shard) is simply read by the model again.
"""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from stir_core.records import Rollout, StateRow
from stir_core.store.jsonl import append_records, read_records
from stir_core.store.tensors import read_tensors, write_tensors

SHARD = 64
"""Rollouts a shard."""


@runtime_checkable
class _Wanted(Protocol):
    """As much of ``harvest.states.Reading`` as is asked for here: the store does not know the harvest."""

    @property
    def problem_id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def k(self) -> int: ...
    @property
    def ms(self) -> tuple[int, ...]: ...


class Captured:
    """The captured states of one run, by rollout and control point."""

    def __init__(self, folder: Path, layers: tuple[int, ...], d_model: int):
        self._folder, self._layers, self._d_model = folder, layers, d_model
        self._index = folder / "captured.jsonl"
        self._rows: list[StateRow] = read_records(self._index, StateRow, torn="drop") if self._index.exists() and layers else []
        self._place = {(row.problem_id, row.k, row.m): row.row for row in self._rows}
        self._tensors: dict[int, np.ndarray] | None = None
        self._waiting: list[tuple[StateRow, dict[int, np.ndarray]]] = []

    def add(self, rollout: Rollout, states: dict) -> None:
        """Keep a rollout's states (float32 arrays or tensors ``[boundaries, d_model]`` by layer); written in shards."""
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
        """Keep rollouts' states that another run holds, ``[rows, d_model]`` by layer; layers that are not wanted are ignored."""
        for row in rows:
            if row.source == "rollout" and (row.problem_id, row.k, row.m) not in self._place:
                self._waiting.append((row, {layer: states[layer][row.row] for layer in self._layers}))
        self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        number = len(list(self._folder.glob("captured-*.safetensors")))
        named = {f"layer_{layer}": np.stack([states[layer] for _, states in self._waiting]) for layer in self._layers}
        write_tensors(self._folder / f"captured-{number:05}.safetensors", named)
        start = self._written(number)
        rows = [row.replaced(row=start + i) for i, (row, _) in enumerate(self._waiting)]
        append_records(self._index, rows)
        self._rows += rows
        self._place |= {(row.problem_id, row.k, row.m): row.row for row in rows}
        self._waiting, self._tensors = [], None

    def holds(self, wanted: _Wanted) -> bool:
        """Whether every control point of a reading is there."""
        return wanted.source == "rollout" and all((wanted.problem_id, wanted.k, m) in self._place for m in wanted.ms)

    def states(self, wanted: _Wanted) -> dict[int, np.ndarray]:
        """``[control points, d_model]`` by layer."""
        if self._tensors is None:
            shards = [read_tensors(file, columns=self._d_model) for file in sorted(self._folder.glob("captured-*.safetensors"))]
            self._tensors = {layer: np.concatenate([shard[f"layer_{layer}"] for shard in shards]) for layer in self._layers}
        at = [self._place[wanted.problem_id, wanted.k, m] for m in wanted.ms]
        return {layer: self._tensors[layer][at] for layer in self._layers}

    def clear(self) -> None:
        """Remove the shards: the stage has taken what it needs."""
        self._index.unlink(missing_ok=True)
        for file in self._folder.glob("captured-*.safetensors"):
            file.unlink()

    def _written(self, count: int) -> int:
        """Rows in the first ``count`` shards, whether or not the index came to name them."""
        shards = [read_tensors(self._folder / f"captured-{i:05}.safetensors", columns=self._d_model) for i in range(count)]
        return sum(len(next(iter(shard.values()))) for shard in shards)
