"""What a batch of sequences has left in the model: keys, values and a mask. Rows can be forked, dropped, joined and cut.

Every row is padded on the LEFT, so the last column is the last token of every row, whatever the rows' lengths: an impulse
at ``[:, -1]`` hits the control point of each. Columns that a row does not own are masked and never attended to. Nothing is ever
written in place (Hugging Face's ``DynamicLayer`` only concatenates), so a fork may share memory with its origin.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer


@dataclass(frozen=True)
class Context:
    """Keys and values of ``rows`` sequences over ``columns`` cache positions."""

    keys: tuple[Float[Tensor, "rows kv_heads columns d_head"], ...]
    """One tensor a layer."""
    values: tuple[Float[Tensor, "rows kv_heads columns d_head"], ...]
    owned: Bool[Tensor, "rows columns"]
    """True where the column holds a token of the row."""

    @property
    def rows(self) -> int:
        """Number of sequences."""
        return self.owned.shape[0]

    @property
    def columns(self) -> int:
        """Number of cache positions, masked ones included."""
        return self.owned.shape[1]

    @property
    def lengths(self) -> Int[Tensor, "rows"]:
        """Tokens that each row holds."""
        return self.owned.sum(dim=1)

    def select(self, rows: list[int]) -> "Context":
        """The given rows, in the given order; a row may be repeated (a fork). One row forked is a view, not a copy."""
        if len(set(rows)) == 1:
            i, n = rows[0], len(rows)
            return Context(
                tuple(t[i : i + 1].expand(n, -1, -1, -1) for t in self.keys),
                tuple(t[i : i + 1].expand(n, -1, -1, -1) for t in self.values),
                self.owned[i : i + 1].expand(n, -1),
            )
        index = torch.tensor(rows, device=self.owned.device)
        return Context(tuple(t[index] for t in self.keys), tuple(t[index] for t in self.values), self.owned[index])

    def row(self, i: int) -> "Context":
        """One row alone, without the columns that it does not own (a view where its tokens lie side by side)."""
        at = self.owned[i].nonzero()[:, 0]
        first, last = (int(at[0]), int(at[-1])) if len(at) else (0, -1)
        if last - first + 1 == len(at):
            keep: slice | Tensor = slice(first, last + 1)
        else:
            keep = at
        owned = self.owned[i : i + 1, keep]
        return Context(tuple(t[i : i + 1][:, :, keep] for t in self.keys), tuple(t[i : i + 1][:, :, keep] for t in self.values), owned)

    def without_last(self) -> "Context":
        """The same sequences before their last token (a view)."""
        return Context(tuple(t[:, :, :-1] for t in self.keys), tuple(t[:, :, :-1] for t in self.values), self.owned[:, :-1])

    def hide_last(self, counts: list[int]) -> "Context":
        """Mask the last ``counts[row]`` tokens of each row, so that other tokens can follow the rest."""
        if not any(counts):
            return self
        from_end = self.owned.flip(1).cumsum(1).flip(1)  # the last owned column counts 1
        hidden = from_end <= torch.tensor(counts, device=self.owned.device)[:, None]
        return Context(self.keys, self.values, self.owned & ~hidden)

    def trimmed(self) -> "Context":
        """Without the leading columns that no row owns (a view)."""
        used = self.owned.any(dim=0).nonzero()
        first = int(used[0]) if len(used) else self.columns
        if first == 0:
            return self
        return Context(tuple(t[:, :, first:] for t in self.keys), tuple(t[:, :, first:] for t in self.values), self.owned[:, first:])

    def as_cache(self) -> DynamicCache:
        """A Hugging Face cache over the same memory.

        Sliding-window models get full layers too: the model's own mask still applies the window, and a fork needs every column.
        """
        cache = DynamicCache()
        for keys, values in zip(self.keys, self.values, strict=True):
            layer = DynamicLayer()
            layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
            layer.keys, layer.values = keys, values
            cache.layers.append(layer)
        return cache


def join(parts: list[Context]) -> Context:
    """One batch from several, rows in order, shorter ones padded on the left with columns that they do not own."""
    if len(parts) == 1:
        return parts[0]
    columns = max(part.columns for part in parts)

    def padded(tensor: Tensor, dim: int) -> Tensor:
        missing = columns - tensor.shape[dim]
        if missing == 0:
            return tensor
        shape = list(tensor.shape)
        shape[dim] = missing
        return torch.cat([tensor.new_zeros(shape), tensor], dim=dim)

    layers = range(len(parts[0].keys))
    return Context(
        tuple(torch.cat([padded(part.keys[i], 2) for part in parts]) for i in layers),
        tuple(torch.cat([padded(part.values[i], 2) for part in parts]) for i in layers),
        torch.cat([padded(part.owned, 1) for part in parts]),
    )


def from_cache(cache: DynamicCache, owned: Bool[Tensor, "rows columns"]) -> Context:
    """Take over the tensors of a Hugging Face cache."""
    return Context(tuple(layer.keys for layer in cache.layers), tuple(layer.values for layer in cache.layers), owned)  # type: ignore[arg-type]


def left_padded(sequences: list[list[int]], pad: int = 0) -> tuple[Int[Tensor, "rows pos"], Bool[Tensor, "rows pos"]]:
    """Token ids padded on the left to the longest, and which of them are real."""
    width = max(len(ids) for ids in sequences)
    ids = torch.full((len(sequences), width), pad, dtype=torch.long)
    real = torch.zeros((len(sequences), width), dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        if sequence:
            ids[row, width - len(sequence) :] = torch.tensor(sequence)
            real[row, width - len(sequence) :] = True
    return ids, real
