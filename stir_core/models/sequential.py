"""Sequences of a model that is not packed, one per pass over Hugging Face caches: exact for every architecture, and slow.

A recurrent state (a gated delta-net, Mamba) cannot be cut back or copied in part as keys and values can. So a row here holds what was fed,
token by token, with impulses and mixtures, and remembers the model's cache at some lengths. Cutting, forking, copying and grafting rows are
operations on these tokens; a length whose cache is not remembered is read again from the longest one that is.
"""

import copy
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import DummyLayer, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from stir_core.models.cache import GRAIN, CacheRow, Store
from stir_core.models.steering import Impulse, InputEmbedding

_LONG, _SHORT = 4, 2
"""Remembered caches of a row with a recurrent state, by the pass that made them: of several tokens (steps begin there), of one."""


class FedToken(NamedTuple):
    """One token as it was fed: in place of its keys and values."""

    id: int
    impulse: Impulse | None = None
    mixture: InputEmbedding | None = None


class SequentialRow(CacheRow):
    """One sequence as the tokens that were fed; those from ``length`` on are scratch."""

    __slots__ = ("caches", "fed")

    def __init__(self, store: "SequentialStore", slot: int, trunk: "SequentialRow | None" = None, trunk_length: int = 0):
        super().__init__(store, slot, trunk, trunk_length)
        self.fed: list[FedToken] = []
        """Its own tokens, without the trunk's."""
        self.caches: dict[int, tuple[DynamicCache, bool]] = {}
        """By length of the whole sequence: the cache, never written to, and whether a pass of several tokens made it."""


class SequentialStore(Store):
    """Rows of a model that is not packed.

    Args:
        config: of the Hugging Face model.
    """

    def __init__(self, n_layers: int, config: Any, *, columns: int = GRAIN):
        super().__init__(n_layers, columns=columns)
        self.fresh = fresh_cache(config)
        self.cuts = cuttable(self.fresh)

    def open(self, trunk: CacheRow | None = None, trunk_length: int = 0) -> SequentialRow:
        """See :class:`Store`."""
        assert trunk is None or isinstance(trunk, SequentialRow)
        self.rows.append(row := SequentialRow(self, len(self.rows), trunk, trunk_length))
        return row

    def close(self, row: SequentialRow) -> None:
        """See :class:`Store`."""
        super().close(row)
        row.fed, row.caches = [], {}

    def copy(self, source: SequentialRow, target: SequentialRow, length: int) -> None:
        """See :class:`Store`."""
        target.fed, target.length = source.fed[:length], length
        target.caches = {at: held for at, held in source.caches.items() if self.cuts or at <= length}

    def column(self, row: SequentialRow, position: int) -> FedToken:  # type: ignore[override]
        """The token that stands at this column of the row."""
        return row.fed[position]

    def put(self, row: SequentialRow, position: int, column: FedToken) -> None:
        """Replace one token as it was fed; later ones must be cut or read again."""
        forget(row, row.trunk_length + position)
        row.fed[position : position + 1] = [column]

    def append(self, branch: SequentialRow, trunk: SequentialRow, skip: int) -> None:
        """See :class:`Store`."""
        start, stop = branch.trunk_length + skip, branch.trunk_length + branch.length
        same = all(mine is yours for mine, yours in zip(trunk.fed[branch.trunk_length : start], branch.fed[:skip], strict=True))
        forget(trunk, start)
        trunk.fed[start:] = branch.fed[skip : branch.length]
        if same:
            trunk.caches |= {at: held for at, held in branch.caches.items() if start < at <= stop}

    def tokens(self, row: SequentialRow, start: int, stop: int) -> list[FedToken]:
        """The tokens at these positions of the whole sequence, as they were fed."""
        before = [] if row.trunk is None else row.trunk.fed[: row.trunk_length]  # type: ignore[attr-defined]
        return [*before, *row.fed][start:stop]

    def longest(self, row: SequentialRow, most: int) -> tuple[int, DynamicCache]:
        """The longest remembered beginning of at most ``most`` tokens: its length, and its cache for the next pass to write to."""
        found: tuple[int, DynamicCache | None] = (0, None)
        trunk: Any = row.trunk
        for holder, limit in ((row, most), (trunk, min(most, row.trunk_length))):
            for at, (cache, _) in () if holder is None else holder.caches.items():
                length = min(at, limit) if self.cuts else at
                if found[0] < length <= limit:
                    found = length, cache
        length, cache = found
        return length, cut(self.fresh if cache is None else cache, length if self.cuts else None)

    def remember(self, row: SequentialRow, length: int, cache: DynamicCache, *, several: bool) -> None:
        """Keep a cache for the row's first ``length`` tokens, or for its trunk's if these are all of them; older ones may go."""
        holder: Any = row if length > row.trunk_length else row.trunk
        holder.caches.pop(length, None)
        holder.caches[length] = cache, several
        for kind, most in ((True, 1 if self.cuts else _LONG), (False, 1 if self.cuts else _SHORT)):
            same = [at for at, (_, other) in holder.caches.items() if other is kind]
            for at in same[:-most]:
                del holder.caches[at]


def forget(row: SequentialRow, length: int) -> None:
    """Forget the caches of more than the first ``length`` tokens, which become others; keep as much as can be cut from them."""
    for at in [at for at in row.caches if at > length]:
        cache, several = row.caches.pop(at)
        if cuttable(cache) and length:
            row.caches.setdefault(length, (cut(cache, length), several))


def fresh_cache(config: Any) -> DynamicCache:
    """An empty cache for a model. Layers with a window keep all keys and values, so that they can be cut; the mask leaves out the rest."""
    cache = DynamicCache(config=config)
    if all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return DynamicCache()
    cache.layers = [DynamicLayer() if type(layer) is DynamicSlidingWindowLayer else layer for layer in cache.layers]
    return cache


def cuttable(cache: DynamicCache) -> bool:
    """Whether the cache holds keys and values only, no recurrent state."""
    return all(type(layer) in (DynamicLayer, DummyLayer) for layer in cache.layers)


def cut(cache: DynamicCache, length: int | None) -> DynamicCache:
    """A copy of a cache that a pass may write to, of its first ``length`` tokens (``None``: all, with any recurrent states).

    Keys and values are shared with the original: passes replace these tensors and never write into them.
    """
    held = [layer for layer in cache.layers if type(layer) is DynamicLayer and layer.is_initialized]
    shared = {id(tensor): tensor for layer in held for tensor in (layer.keys, layer.values)}
    made = copy.deepcopy(cache, shared)
    for layer in made.layers:
        if length is not None and type(layer) is DynamicLayer and layer.is_initialized:
            assert isinstance(layer.keys, torch.Tensor) and isinstance(layer.values, torch.Tensor)
            layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]
    return made
