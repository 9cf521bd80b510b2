"""Keys and values of many sequences, each of its own length, written in place and read as views.

A :class:`Store` holds two buffers per layer, keys and values, each ``[slots, kv_heads, columns, d_head]``. A :class:`CacheRow` is one
sequence in a slot, its tokens side by side from column 0, so nothing is padded or shifted. A *branch* is a row of another store that reads
the first ``trunk_length`` tokens of its trunk in place and keeps its own from column 0: forking copies nothing.

Invariants:

- Columns from a row's length on are scratch. Cutting a row short is one assignment, and a token is read again by cutting and feeding it.
- Live rows fill the first slots without a gap, so that a batch is a view of the buffer. Closing a row moves the last one into its slot;
  a slot number is therefore good until the next ``close``, a ``CacheRow`` for as long as its sequence lives.
- While a row has branches its first ``trunk_length`` columns must stay as they are; those after them may be written.
- Keys hold their position (rotary), so a column may be copied between rows at its own position only.
"""

import torch
from jaxtyping import Float
from torch import Tensor

GRAIN = 64
"""Columns are reserved in multiples of this."""

Column = list[tuple[Tensor, Tensor] | None]
"""Keys and values of one token, one pair per layer: ``[kv_heads, d_head]`` each; ``None``: the layer reads another one's."""


class CacheRow:
    """One sequence: the first ``trunk_length`` tokens of ``trunk``, then ``length`` tokens of its own in ``store``."""

    __slots__ = ("length", "slot", "store", "trunk", "trunk_length")

    def __init__(self, store: "Store", slot: int, trunk: "CacheRow | None" = None, trunk_length: int = 0):
        self.store, self.slot, self.length = store, slot, 0
        self.trunk, self.trunk_length = trunk, trunk_length

    @property
    def total(self) -> int:
        """Tokens of the whole sequence, the trunk's included; also the position of the next one."""
        return self.trunk_length + self.length


class Store:
    """Buffers ``[slots, kv_heads, columns, d_head]`` for keys and values, one pair per layer, which grow on demand."""

    def __init__(self, n_layers: int, *, columns: int = GRAIN):
        self.n_layers = n_layers
        self._keys: list[Tensor | None] = [None] * n_layers
        self._values: list[Tensor | None] = [None] * n_layers
        self.rows: list[CacheRow] = []
        self.slots = 1
        self.columns = columns

    def open(self, trunk: CacheRow | None = None, trunk_length: int = 0) -> CacheRow:
        """A new, empty row; with ``trunk`` a branch after its first ``trunk_length`` tokens."""
        row = CacheRow(self, len(self.rows), trunk, trunk_length)
        self.rows.append(row)
        if len(self.rows) > self.slots:
            self.slots = max(len(self.rows), self.slots + self.slots // 2)
        return row

    @torch.inference_mode()
    def close(self, row: CacheRow) -> None:
        """Give the row's slot back; the last row moves into it."""
        last = self.rows.pop()
        if last is not row:
            self._copy(last.slot, row.slot, last.length)
            last.slot = row.slot
            self.rows[row.slot] = last
        row.slot, row.length = -1, 0

    def reserve(self, columns: int) -> None:
        """Make room for sequences of ``columns`` tokens of their own."""
        if columns > self.columns:
            self.columns = max(-(-columns // GRAIN) * GRAIN, self.columns + self.columns // 4 // GRAIN * GRAIN)

    def shrink(self) -> None:
        """Give back the slots that no row uses."""
        self.slots = max(1, len(self.rows))
        for buffers in (self._keys, self._values):
            for layer, held in enumerate(buffers):
                if held is not None and held.shape[0] > self.slots:
                    buffers[layer] = held[: self.slots].clone()

    def keys(self, layer: int, like: Tensor | None = None) -> Float[Tensor, "slots kv_heads columns d_head"]:
        """The key buffer of a layer, made or grown if needed; ``like`` (new keys ``[1, kv_heads, n, d_head]``) gives shape and dtype."""
        return self._buffer(self._keys, layer, like)

    def values(self, layer: int, like: Tensor | None = None) -> Float[Tensor, "slots kv_heads columns d_head"]:
        """The value buffer of a layer, as :meth:`keys`."""
        return self._buffer(self._values, layer, like)

    def holds(self, layer: int) -> bool:
        """Whether the layer has keys and values; in some models it reads those of another layer."""
        return self._keys[layer] is not None

    @torch.inference_mode()
    def copy(self, source: CacheRow, target: CacheRow, length: int) -> None:
        """Make ``target`` (of this store) the first ``length`` tokens of ``source`` (of this store)."""
        self._copy(source.slot, target.slot, length)
        target.length = length

    @torch.inference_mode()
    def column(self, row: CacheRow, position: int) -> Column:
        """A copy of one token's keys and values."""
        own = [(self.keys(i), self.values(i)) if self.holds(i) else None for i in range(self.n_layers)]
        return [each and (each[0][row.slot, :, position].clone(), each[1][row.slot, :, position].clone()) for each in own]

    @torch.inference_mode()
    def put(self, row: CacheRow, position: int, column: Column) -> None:
        """Overwrite one token's keys and values."""
        for i, each in enumerate(column):
            if each is None:
                continue
            key, value = each
            self.keys(i, key[None, :, None])[row.slot, :, position] = key
            self.values(i, value[None, :, None])[row.slot, :, position] = value

    def append(self, branch: CacheRow, trunk: CacheRow, skip: int) -> None:
        """Write a branch's own tokens, without the first ``skip``, after its trunk's (of this store); see :func:`graft`."""
        start, stop = branch.trunk_length + skip, branch.trunk_length + branch.length
        self.reserve(stop)
        for layer in filter(branch.store.holds, range(self.n_layers)):
            for of in (Store.keys, Store.values):
                own = of(branch.store, layer)
                of(self, layer, own)[trunk.slot, :, start:stop] = own[branch.slot, :, skip : branch.length]

    def _buffer(self, buffers: list[Tensor | None], layer: int, like: Tensor | None) -> Tensor:
        held = buffers[layer]
        if held is not None and held.shape[0] >= self.slots and held.shape[2] >= self.columns:
            return held
        if held is None:
            if like is None:
                raise ValueError(f"layer {layer} of the store holds nothing yet")
            shape = (self.slots, like.shape[1], self.columns, like.shape[3])
        else:
            shape = (max(self.slots, held.shape[0]), held.shape[1], max(self.columns, held.shape[2]), held.shape[3])
        # zeros, since a masked column is still multiplied by its weight 0, and 0 times a NaN left in memory is NaN
        made = torch.zeros(shape, dtype=(held if like is None else like).dtype, device=(held if like is None else like).device)  # type: ignore[union-attr]
        if held is not None:
            made[: held.shape[0], :, : held.shape[2]] = held
        buffers[layer] = made
        return made

    def _copy(self, source: int, target: int, length: int) -> None:
        for buffers in (self._keys, self._values):
            for layer, held in enumerate(buffers):
                if held is not None:
                    held = self._buffer(buffers, layer, None)
                    held[target, :, :length] = held[source, :, :length]


@torch.inference_mode()
def graft(branch: CacheRow, *, skip: int = 0) -> None:
    """Append a branch's own tokens, without the first ``skip``, to its trunk, which then continues as the branch would have.

    The trunk's columns from ``trunk_length`` on are overwritten; save those that are needed later with :meth:`Store.column`.
    """
    trunk = branch.trunk
    if trunk is None:
        raise ValueError("only a branch can be grafted")
    trunk.store.append(branch, trunk, skip)
    trunk.length = branch.trunk_length + branch.length


def shared_length(ids: list[int], others: list[int]) -> int:
    """Number of leading ids that two sequences have in common: a row that holds one is cut to it before the other is read."""
    return next((i for i, (one, other) in enumerate(zip(ids, others, strict=False)) if one != other), min(len(ids), len(others)))
