"""Attention over packed tokens of many sequences: every token reads its own sequence in place, nothing is padded or gathered.

A pass runs over ``[1, tokens, d_model]``: the new tokens of all sequences, one after the other. All modules except attention treat tokens
one by one. Attention is registered with transformers under :data:`NAME`, and the model's own attention modules call it
with a :class:`Packed` in place of keys and values: queries ``[1, heads, tokens, d_head]``, new keys and values
``[1, kv_heads, tokens, d_head]``, buffers of the store ``[slots, kv_heads, columns, d_head]``.

The kernels of transformers do not serve here: they need a padded batch in which every row has the same number of new tokens, while a pass
here may hold a prompt of 200 tokens, an unsteered pass over 30, single next tokens, and previews that share a trunk. Packed order puts
tokens of a kind side by side, so that each kind takes few calls:

- *single* next tokens of neighbouring slots: one fused call on views of the buffer (``_Stretch``);
- *branches* of one trunk, one token each: the trunk's keys meet the queries of all branches in one product, each branch's own few columns
  are added, and one softmax runs over both (``_Forks``);
- *segments* of several tokens (prompts, unsteered passes): one causal call each (``_Segment``).

Invariants: new keys and values are written, at the columns after a row's length, before anything is read; a row's length grows only when
the whole pass is done (:meth:`Packed.advance`), so a pass that fails leaves every row unchanged; masks and buffer indices are made once
per pass, for all layers. A token's attention output depends on its neighbours only through the rounding of the chosen kernel.

Only whole segments use einops for changes of shape. Single tokens and branches are attended to in every layer of every decoding step, where
a call of einops (ten microseconds and more) costs ten times a plain view.
"""

from itertools import groupby
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor
from transformers import AttentionInterface

from stir_core.models.cache import CacheRow, Store

NAME = "stir_packed"


class Piece(NamedTuple):
    """New tokens of one sequence in a pass."""

    row: CacheRow
    ids: list[int]


class _Stretch(NamedTuple):
    """Single tokens of neighbouring slots of one store: packed positions ``at .. at + n``."""

    at: int
    n: int
    store: Store
    slot: int
    lengths: list[int]
    """Tokens that each reads, its own included."""


class _Forks(NamedTuple):
    """Single tokens of branches of one trunk."""

    at: int
    rows: list[CacheRow]


class _Segment(NamedTuple):
    """Several tokens of one row."""

    at: int
    row: CacheRow
    n: int


class Packed:
    """One pass over packed tokens, passed to the model in place of a Hugging Face cache: stores new keys and values, and attends.

    Args:
        pieces: the new tokens; at most one piece per row, branches one token at a time.
        eager: compute attention as Hugging Face's eager kernel does, bit for bit, rather than with fused kernels.
    """

    is_compileable = False

    def __init__(self, pieces: list[Piece], *, eager: bool = False):
        self.eager = eager
        singles = [i for i, piece in enumerate(pieces) if len(piece.ids) == 1 and piece.row.trunk is None]
        singles.sort(key=lambda i: (id(pieces[i].row.store), pieces[i].row.slot))
        branches = [i for i, p in enumerate(pieces) if p.row.trunk is not None]
        trunks = {id(row): n for n, row in enumerate(dict.fromkeys(pieces[i].row.trunk for i in branches))}
        branches.sort(key=lambda i: (trunks[id(pieces[i].row.trunk)], pieces[i].row.trunk_length))
        segments = [i for i, p in enumerate(pieces) if len(p.ids) > 1 and p.row.trunk is None]
        self.order = [*singles, *branches, *segments]
        """Pieces in packed order."""
        if any(len(pieces[i].ids) != 1 for i in branches):
            raise ValueError("a branch takes one token at a time")
        for piece in pieces:
            piece.row.store.reserve(piece.row.length + len(piece.ids))
        self.ids = [token for i in self.order for token in pieces[i].ids]
        self.positions = [pieces[i].row.total + j for i in self.order for j in range(len(pieces[i].ids))]
        self.ends: list[int] = []
        """Packed position of each piece's last token, by packed order."""
        at = 0
        for i in self.order:
            at += len(pieces[i].ids)
            self.ends.append(at - 1)
        self._stretches = _stretches([pieces[i].row for i in singles])
        self._forks = _families(len(singles), [pieces[i].row for i in branches])
        self._segments: list[_Segment] = []
        at = len(singles) + len(branches)
        for i in segments:
            self._segments.append(_Segment(at, pieces[i].row, len(pieces[i].ids)))
            at += len(pieces[i].ids)
        self._pieces = pieces
        self._new: tuple[Tensor, Tensor] | None = None
        self._layer = -1
        self._masks: dict[tuple[int, int | None], Tensor | None] = {}
        self._tails: dict[int, Tensor] = {}
        self._places: dict[int, Tensor] = {}

    def advance(self) -> None:
        """After the pass: count the new tokens as the rows' own."""
        for piece in self._pieces:
            piece.row.length += len(piece.ids)

    # -- the methods of a Hugging Face cache that the model calls ----------------------------------------------------

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Always 0: positions are passed explicitly, so the model never derives them from it."""
        return 0

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args: object, **kwargs: object) -> tuple["Packed", "Packed"]:
        """Write new keys and values ``[1, kv_heads, tokens, d_head]`` of a layer; the attention function then receives this object."""
        self._new, self._layer = (keys, values), layer_idx
        for part, new in ((Store.keys, keys), (Store.values, values)):
            for stretch in self._stretches:
                self._write(part, stretch.store, new, stretch.at, [(stretch.slot + i, n - 1) for i, n in enumerate(stretch.lengths)])
            for forks in self._forks:
                self._write(part, forks.rows[0].store, new, forks.at, [(row.slot, row.length) for row in forks.rows])
            for at, row, n in self._segments:
                part(row.store, layer_idx, new)[row.slot, :, row.length : row.length + n] = new[0, :, at : at + n]
        return self, self

    def _write(self, part, store: Store, new: Tensor, at: int, places: list[tuple[int, int]]) -> None:
        buffer = part(store, self._layer, new)
        if len(places) == 1:
            slot, column = places[0]
            buffer[slot, :, column] = new[0, :, at]
            return
        heads, columns = buffer.shape[1], buffer.shape[2]
        index = self._places.get(at)
        if index is None:
            first = torch.tensor([slot * heads * columns + column for slot, column in places], device=new.device)
            index = (first[:, None] + torch.arange(heads, device=new.device) * columns).flatten()
            self._places[at] = index
        buffer.view(-1, buffer.shape[3]).index_copy_(0, index, new[0, :, at : at + len(places)].transpose(0, 1).flatten(0, 1))

    # -- attention ---------------------------------------------------------------------------------------------------

    def attend(self, query: Tensor, scale: float, window: int | None, softcap: float | None) -> Tensor:
        """Attention output ``[1, tokens, heads, d_head]`` for queries ``[1, heads, tokens, d_head]``."""
        packed = query[0].transpose(0, 1)  # [tokens, heads, d_head]
        outs = [self._attend_stretch(packed, stretch, scale, window, softcap) for stretch in self._stretches]
        outs += [self._attend_forks(packed, forks, scale, window, softcap) for forks in self._forks]
        outs += [self._attend_segment(query, segment, scale, window, softcap) for segment in self._segments]
        return (outs[0] if len(outs) == 1 else torch.cat(outs))[None]

    def _attend_stretch(self, packed: Tensor, stretch: _Stretch, scale: float, window: int | None, softcap: float | None) -> Tensor:
        at, n, store, slot, lengths = stretch
        longest = max(lengths)
        keys = store.keys(self._layer)[slot : slot + n, :, :longest]
        values = store.values(self._layer)[slot : slot + n, :, :longest]
        name = (at, window)
        if name not in self._masks:
            self._masks[name] = _reach(lengths, longest, window, packed.device)
        heads = keys.shape[1]
        query = packed[at : at + n].reshape(n, heads, -1, packed.shape[2])
        out = self._kernel(query, keys, values, self._masks[name], scale, softcap)
        return out.reshape(n, -1, out.shape[-1])

    def _attend_forks(self, packed: Tensor, forks: _Forks, scale: float, window: int | None, softcap: float | None) -> Tensor:
        at, rows = forks
        trunk = rows[0].trunk
        assert trunk is not None  # only branches come here
        reach, b = rows[0].trunk_length, len(rows)
        if at not in self._tails:
            self._tails[at] = torch.tensor([row.slot for row in rows], device=packed.device)
        slots = self._tails[at]
        longest = max(row.length for row in rows) + 1
        # a branch may have grown beyond the window: at least one column of the trunk stays, masked
        first = 0 if window is None else max(0, min(reach - 1, min(row.total for row in rows) + 1 - window))
        keys, values = (part(trunk.store, self._layer)[trunk.slot, :, first:reach] for part in (Store.keys, Store.values))
        tail_keys, tail_values = (part(rows[0].store, self._layer)[slots, :, :longest] for part in (Store.keys, Store.values))
        heads, width = keys.shape[0], keys.shape[2]
        query = packed[at : at + b].reshape(b, heads, -1, width)  # [branches, kv_heads, group, d_head]
        # one product of the trunk's keys with the queries of all branches, so that the trunk is read once
        joint = query.transpose(0, 1).reshape(heads, -1, width)
        far = (joint @ keys.transpose(1, 2)).view(heads, b, -1, keys.shape[1]).transpose(0, 1)
        near = query @ tail_keys.transpose(2, 3)
        scores = torch.cat([far, near], dim=-1).float() * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        name = (at, window)
        if name not in self._masks:  # once per pass, not once per layer
            self._masks[name] = self._fork_mask(rows, first, reach, longest, window, packed.device)
        if (mask := self._masks[name]) is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        weights = scores.softmax(dim=-1).to(query.dtype)
        split = keys.shape[1]
        out = weights[..., split:] @ tail_values
        joint = weights[..., :split].transpose(0, 1).reshape(heads, -1, split) @ values
        out = out + joint.view(heads, b, -1, width).transpose(0, 1)
        return out.reshape(b, -1, width)

    @staticmethod
    def _fork_mask(rows: list[CacheRow], first: int, reach: int, longest: int, window: int | None, device: torch.device) -> Tensor | None:
        if window is None and len({row.length for row in rows}) == 1:
            return None
        at = torch.arange(first, reach + longest, device=device)[None]
        end = torch.tensor([row.total for row in rows], device=device)[:, None]
        seen = at <= end if window is None else (at <= end) & (at > end - window)
        return seen[:, None, None, :]

    def _attend_segment(self, query: Tensor, segment: _Segment, scale: float, window: int | None, softcap: float | None) -> Tensor:
        at, row, n = segment
        before = row.length
        keys = row.store.keys(self._layer)[row.slot : row.slot + 1, :, : before + n]
        values = row.store.values(self._layer)[row.slot : row.slot + 1, :, : before + n]
        group = query.shape[1] // keys.shape[1]
        # repeat every key and value head for each query head that reads it
        keys, values = (repeat(each, "row kv columns d_head -> row (kv group) columns d_head", group=group) for each in (keys, values))
        name = (-1 - at, window)
        if name not in self._masks:
            i = torch.arange(before, before + n, device=query.device)[:, None]
            j = torch.arange(before + n, device=query.device)[None]
            self._masks[name] = (j <= i if window is None else (j <= i) & (j > i - window))[None, None]
        out = self._kernel(query[:, :, at : at + n], keys, values, self._masks[name], scale, softcap)
        return rearrange(out, "1 heads tokens d_head -> tokens heads d_head")

    def _kernel(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float, softcap: float | None) -> Tensor:
        if softcap is None and not self.eager:
            return torch.nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
        # the same order of operations as Hugging Face's eager kernel, for equal bits
        scores = torch.matmul(query, keys.transpose(2, 3)) * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        return torch.matmul(scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype), values)


def _stretches(rows: list[CacheRow]) -> list[_Stretch]:
    """Rows in slot order, cut where a slot is missing or the store changes."""
    stretches: list[_Stretch] = []
    for at, row in enumerate(rows):
        last = stretches[-1] if stretches else None
        if last is not None and last.store is row.store and row.slot == last.slot + last.n:
            stretches[-1] = last._replace(n=last.n + 1, lengths=[*last.lengths, row.length + 1])
        else:
            stretches.append(_Stretch(at, 1, row.store, row.slot, [row.length + 1]))
    return stretches


def _families(at: int, rows: list[CacheRow]) -> list[_Forks]:
    """Branches from packed position ``at`` on, cut where the trunk, its share or the store changes."""
    families: list[_Forks] = []
    for _, same in groupby(rows, key=lambda row: (row.trunk, row.trunk_length, row.store)):
        families.append(_Forks(at, list(same)))
        at += len(families[-1].rows)
    return families


def _reach(lengths: list[int], longest: int, window: int | None, device: torch.device) -> Tensor | None:
    """Mask of the columns that each row's last token sees, ``[rows, 1, 1, columns]``; ``None`` if it is all of them."""
    if min(lengths) == longest and (window is None or longest <= window):
        return None
    end = torch.tensor(lengths, device=device)[:, None]
    at = torch.arange(longest, device=device)[None]
    seen = at < end if window is None else (at < end) & (at >= end - window)
    return seen[:, None, None, :]


def _packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: "Packed",
    value: "Packed",
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    return key.attend(query, query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap), None


AttentionInterface.register(NAME, _packed_attention)
