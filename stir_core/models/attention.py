"""Attention over packed tokens of many sequences: every token reads its own sequence in place, nothing is padded or gathered.

A pass runs over ``[1, tokens, d_model]``: the new tokens of all sequences, one after the other. All modules except attention treat tokens
one by one. Attention is registered with transformers under :data:`NAME`, and the model's own attention modules call it
with a :class:`WrittenLayer` in place of keys and values: queries ``[1, heads, tokens, d_head]``, new keys and values
``[1, kv_heads, tokens, d_head]``, buffers of the store ``[slots, kv_heads, columns, d_head]``. Models with latent attention (DeepSeek)
store the latents that keys and values are computed from; these are expanded for each sequence when it is read.

Nothing that a model asks for is ignored: in place of a mask, transformers passes the columns that a layer reads (:class:`Reach`), and an
argument of attention or a mask that is not known here is refused.

The kernels of transformers do not serve here: they need a padded batch in which every row has the same number of new tokens, while a pass
here may hold a prompt of 200 tokens, an unsteered pass over 30, single next tokens, and previews that share a trunk. Packed order puts
tokens of a kind side by side, so that each kind takes few calls:

- *single* next tokens of neighbouring slots: one fused call on views of the buffer (``Stretch``);
- *branches* of one trunk, one token each: the trunk's keys meet the queries of all branches in one product, each branch's own few columns
  are added, and one softmax runs over both (``Forks``);
- *segments* of several tokens (prompts, unsteered passes): one causal call each on the CPU, where padding costs time and gains none;
  elsewhere one padded call for all segments of about one size (``Segments``), so that the calls do not grow with the rows.

Invariants: new keys and values are written, at the columns after a row's length, before anything is read; a row's length grows only when
the whole pass is done (:meth:`Packed.advance`), so a pass that fails leaves every row unchanged; masks and buffer indices are made once
per pass, for all layers. A token's attention output depends on its neighbours only through the rounding of the chosen kernel.

Only whole segments use einops for changes of shape. Single tokens and branches are attended to in every layer of every decoding step, where
a call of einops (ten microseconds and more) costs ten times a plain view.
"""

import copy
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from stir_core.errors import ModelError
from stir_core.models.cache import CacheRow, Store
from stir_core.models.packing import Forks, Piece, Segments, Stretch, arranged
from stir_core.models.transfer import to_device

NAME = "stir_packed"


class Reach(NamedTuple):
    """The columns that a layer's tokens read: all up to their own, the last ``window`` of these, or those of their own chunk."""

    window: int | None = None
    chunk: int | None = None

    def first(self, at: Any) -> Any:
        """First column that a token at position ``at`` reads (an int, or a tensor of them); may be negative."""
        if self.window is not None:
            return at - self.window + 1
        return at * 0 if self.chunk is None else at // self.chunk * self.chunk


class Terms(NamedTuple):
    """What a layer's attention computes, beside the products with keys and values."""

    scale: float
    reach: Reach
    softcap: float | None = None
    """Scores are squashed to plus and minus this."""
    sinks: Tensor | None = None
    """``[heads]``: scores of a column without a value (gpt-oss)."""
    expand: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    """Computes keys and values from the latents that are stored (DeepSeek)."""


class WrittenLayer(NamedTuple):
    """One layer of a pass: what the model's attention receives for its keys and its values, once the new ones are written."""

    packed: "Packed"
    layer: int

    def to(self, *args: object, **kwargs: object) -> "WrittenLayer":
        """Itself: models that share keys between layers move them to the device of the queries."""
        return self


class Packed:
    """One pass over packed tokens, passed to the model in place of a Hugging Face cache: stores new keys and values, and attends.

    Args:
        pieces: the new tokens; at most one piece per row, branches one token at a time.
        eager: compute attention as Hugging Face's eager kernel does, bit for bit, rather than with fused kernels.
    """

    is_compileable = False

    def __init__(self, pieces: list[Piece], *, device: torch.device, eager: bool = False):
        self.device, self.eager = device, eager
        self.order, self._stretches, self._forks, self._segments = arranged(pieces, alike=device.type != "cpu")
        """Pieces in packed order, and what is attended to together."""
        for piece in pieces:
            piece.row.store.reserve(piece.row.length + len(piece.ids))
        self.ids = [token for i in self.order for token in pieces[i].ids]
        self.positions = [pieces[i].row.total + j for i in self.order for j in range(len(pieces[i].ids))]
        self.ends = [end - 1 for end in accumulate(len(pieces[i].ids) for i in self.order)]
        """Packed position of each piece's last token, by packed order."""
        self._pieces = pieces
        self._masks: dict[tuple[int, Reach], Tensor | None] = {}
        self._at: Tensor | None = None
        """Positions on the device, once :meth:`settle` has moved them there."""
        self._numbers: dict[int, list[Tensor]] = {}
        """By packed position of tokens of a kind: slot and column of each, and what their kind needs else."""
        self._places: dict[tuple[int, int, int], Tensor] = {}
        self._elsewhere: dict[torch.device, Packed] = {}

    def _on(self, device: torch.device) -> "Packed":
        """This pass with its numbers on the device of a block, where blocks lie on several; made once for each."""
        if self._at is None or device == self._at.device:
            return self
        if device not in self._elsewhere:
            there = self._elsewhere[device] = copy.copy(self)
            there.device, there._at, there._masks, there._places = device, self._at.to(device), {}, {}
            there._numbers = {at: [each.to(device) for each in numbers] for at, numbers in self._numbers.items()}
        return self._elsewhere[device]

    def settle(self, *more: list[int]) -> list[Tensor]:
        """Move all numbers of the pass to the device in one transfer: ids and positions, which are returned first, and ``more``."""
        kinds = [*self._stretches, *self._forks, *self._segments]
        own = [kind.numbers() for kind in kinds]
        flat = [numbers for each in own for numbers in each]
        ids, self._at, *others = to_device([self.ids, self.positions, *flat, *more], self.device)
        rest = iter(others)
        self._numbers = {kind.at: [next(rest) for _ in each] for kind, each in zip(kinds, own, strict=True)}
        return [ids, self._at, *rest]

    def advance(self) -> None:
        """After the pass: count the new tokens as the rows' own."""
        for piece in self._pieces:
            piece.row.length += len(piece.ids)

    # -- the methods of a Hugging Face cache that the model calls ----------------------------------------------------

    def get_seq_length(self, layer_idx: int | None = None) -> int | Tensor:
        """For the whole model 0, since positions are passed explicitly.

        For a layer ``[tokens]``: each token's position minus its place in the pass. Llama 4 adds the places to it.
        """
        if layer_idx is None:
            return 0
        assert self._at is not None  # the pass runs
        return self._at - torch.arange(len(self.positions), device=self.device)

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """For a mask of transformers, which is never computed: see :class:`Reach`."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """See :meth:`get_query_offset`."""
        return query_length, 0

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args: object, **kwargs: object) -> tuple[WrittenLayer, WrittenLayer]:
        """Write new keys and values ``[1, kv_heads, tokens, d_head]`` of a layer; the attention function then receives the result."""
        here = self._on(keys.device)
        for part, new in ((Store.keys, keys), (Store.values, values)):
            for stretch in self._stretches:
                here._write(part(stretch.store, layer_idx, new), new, stretch.at, stretch.n, stretch.slot, stretch.lengths[0] - 1)
            for forks in self._forks:
                first = forks.rows[0]
                here._write(part(first.store, layer_idx, new), new, forks.at, len(forks.rows), first.slot, first.length)
            for at, rows, counts in self._segments:
                buffer, row = part(rows[0].store, layer_idx, new), rows[0]
                if len(rows) == 1:
                    buffer[row.slot, :, row.length : row.length + counts[0]] = new[0, :, at : at + counts[0]]
                else:
                    here._write(buffer, new, at, sum(counts), row.slot, row.length)
        written = WrittenLayer(here, layer_idx)
        return written, written

    def _write(self, buffer: Tensor, new: Tensor, at: int, n: int, slot: int, column: int) -> None:
        """Write ``n`` tokens from packed position ``at`` on; the first one to this slot and column."""
        if n == 1:
            buffer[slot, :, column] = new[0, :, at]
            return
        heads, columns = buffer.shape[1], buffer.shape[2]
        index = self._places.get((at, heads, columns))
        if index is None:
            slots, own, *_ = self._numbers[at]
            first = slots * (heads * columns) + own
            index = (first[:, None] + torch.arange(heads, device=new.device) * columns).flatten()
            self._places[at, heads, columns] = index
        buffer.view(-1, buffer.shape[3]).index_copy_(0, index, new[0, :, at : at + n].transpose(0, 1).flatten(0, 1))

    # -- attention ---------------------------------------------------------------------------------------------------

    def attend(self, layer: int, query: Tensor, terms: Terms) -> Tensor:
        """Attention output ``[1, tokens, heads, d_head]`` of a layer for queries ``[1, heads, tokens, d_head]``."""
        packed = query[0].transpose(0, 1)  # [tokens, heads, d_head]
        outs = [self._attend_stretch(layer, packed, stretch, terms) for stretch in self._stretches]
        outs += [self._attend_forks(layer, packed, forks, terms) for forks in self._forks]
        outs += [self._attend_segments(layer, query, segments, terms) for segments in self._segments]
        return (outs[0] if len(outs) == 1 else torch.cat(outs))[None]

    def _attend_stretch(self, layer: int, packed: Tensor, stretch: Stretch, terms: Terms) -> Tensor:
        at, n, store, slot, lengths = stretch
        longest = max(lengths)
        keys, values = (part(store, layer)[slot : slot + n, :, :longest] for part in (Store.keys, Store.values))
        if terms.expand is not None:
            keys, values = terms.expand(keys, values)
        name = (at, terms.reach)
        if name not in self._masks:
            self._masks[name] = _seen(lengths, self._numbers[at][1], longest, terms.reach)
        query = packed[at : at + n].reshape(n, keys.shape[1], -1, packed.shape[2])
        sinks = None if terms.sinks is None else terms.sinks.view(1, keys.shape[1], -1, 1)
        out = self._kernel(query, keys, values, self._masks[name], terms, sinks)
        return out.reshape(n, -1, out.shape[-1])

    def _attend_forks(self, layer: int, packed: Tensor, forks: Forks, terms: Terms) -> Tensor:
        at, rows = forks
        trunk = rows[0].trunk
        assert trunk is not None  # only branches come here
        shared, b = rows[0].trunk_length, len(rows)
        slots, own = self._numbers[at]
        longest = max(row.length for row in rows) + 1
        # a branch may have grown beyond the window: at least one column of the trunk stays, masked
        first = max(0, min(shared - 1, terms.reach.first(min(row.total for row in rows))))
        keys, values = (part(trunk.store, layer)[trunk.slot, :, first:shared] for part in (Store.keys, Store.values))
        tail_keys, tail_values = (part(rows[0].store, layer)[slots, :, :longest] for part in (Store.keys, Store.values))
        if terms.expand is not None:
            keys, values = (each[0] for each in terms.expand(keys[None], values[None]))
            tail_keys, tail_values = terms.expand(tail_keys, tail_values)
        heads, width, split = keys.shape[0], keys.shape[2], keys.shape[1]
        query = packed[at : at + b].reshape(b, heads, -1, width)  # [branches, kv_heads, group, d_head]
        # one product of the trunk's keys with the queries of all branches, so that the trunk is read once
        joint = query.transpose(0, 1).reshape(heads, -1, width)
        far = (joint @ keys.transpose(1, 2)).view(heads, b, -1, split).transpose(0, 1)
        near = query @ tail_keys.transpose(2, 3)
        scores = torch.cat([far, near], dim=-1).float() * terms.scale
        if terms.softcap is not None:
            scores = terms.softcap * torch.tanh(scores / terms.softcap)
        name = (at, terms.reach)
        if name not in self._masks:  # once per pass, not once per layer
            self._masks[name] = self._fork_mask(rows, own + shared, first, shared + longest, terms.reach)
        if (mask := self._masks[name]) is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        sinks = None if terms.sinks is None else terms.sinks.view(1, heads, -1, 1)
        weights = _weights(scores, sinks).to(query.dtype)
        out = weights[..., split:] @ tail_values
        joint = weights[..., :split].transpose(0, 1).reshape(heads, -1, split) @ values
        out = out + joint.view(heads, b, -1, values.shape[2]).transpose(0, 1)
        return out.reshape(b, -1, values.shape[2])

    @staticmethod
    def _fork_mask(rows: list[CacheRow], ends: Tensor, first: int, stop: int, reach: Reach) -> Tensor | None:
        if reach == Reach() and len({row.length for row in rows}) == 1:
            return None
        at, end = torch.arange(first, stop, device=ends.device)[None], ends[:, None]
        return ((at <= end) & (at >= reach.first(end)))[:, None, None, :]

    def _attend_segments(self, layer: int, query: Tensor, segments: Segments, terms: Terms) -> Tensor:
        at, rows, counts = segments
        store, first, n, b = rows[0].store, rows[0].slot, max(counts), len(rows)
        longest = max(row.length + count for row, count in zip(rows, counts, strict=True))
        neighbours = all(row.slot == first + i for i, row in enumerate(rows))
        slots = slice(first, first + b) if neighbours else self._numbers[at][2]
        keys, values = (part(store, layer)[slots, :, :longest] for part in (Store.keys, Store.values))
        if terms.expand is not None:
            keys, values = terms.expand(keys, values)
        group = query.shape[1] // keys.shape[1]
        # repeat every key and value head for each query head that reads it
        keys, values = (repeat(each, "row kv columns d_head -> row (kv group) columns d_head", group=group) for each in (keys, values))
        queries = query[:, :, at : at + n]
        if b > 1:
            queries = rearrange(query[0][:, self._numbers[at][3]], "heads (row n) d_head -> row heads n d_head", row=b)
        if self.device.type != "cpu" and self._fused(terms) and terms.reach == Reach() and not any(row.length for row in rows):
            # from the first column on a causal mask also hides what pads a row, and without a mask of its own the kernel is flash attention
            out = torch.nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=terms.scale)
        else:
            name = (-1 - at, terms.reach)
            if name not in self._masks:
                i = torch.arange(rows[0].length, rows[0].length + n, device=query.device)[None]
                if b > 1:
                    assert self._at is not None  # the pass runs
                    i = self._at[self._numbers[at][3]].view(b, n)
                j = torch.arange(longest, device=query.device)
                self._masks[name] = ((j <= i[..., None]) & (j >= terms.reach.first(i[..., None])))[:, None]
            sinks = None if terms.sinks is None else terms.sinks.view(1, -1, 1, 1)
            out = self._kernel(queries, keys, values, self._masks[name], terms, sinks)
        out = rearrange(out, "row heads n d_head -> (row n) heads d_head")
        return out if b == 1 else out[self._numbers[at][4]]

    def _fused(self, terms: Terms) -> bool:
        return terms.softcap is None and terms.sinks is None and not self.eager

    def _kernel(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, terms: Terms, sinks: Tensor | None) -> Tensor:
        if self._fused(terms):
            return torch.nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=terms.scale)
        # the same order of operations as Hugging Face's eager kernel, for equal bits
        scores = torch.matmul(query, keys.transpose(2, 3)) * terms.scale
        if terms.softcap is not None:
            scores = terms.softcap * torch.tanh(scores / terms.softcap)
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        return torch.matmul(_weights(scores, sinks).to(query.dtype), values)


def _weights(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Softmax of scores over their last dimension, in float32; a sink (shaped as they are, but for that) takes a part of the mass."""
    if sinks is None:
        return scores.softmax(dim=-1, dtype=torch.float32)
    scores = torch.cat([scores, sinks.expand(*scores.shape[:-1], 1).to(scores)], dim=-1)
    return (scores - scores.amax(dim=-1, keepdim=True)).softmax(dim=-1, dtype=torch.float32)[..., :-1]


def _seen(lengths: list[int], ends: Tensor, longest: int, reach: Reach) -> Tensor | None:
    """Mask of the columns that each row's last token, at ``ends``, sees, ``[rows, 1, 1, columns]``; ``None`` if it is all of them."""
    if min(lengths) == longest and reach.first(longest - 1) <= 0:
        return None
    end, at = ends[:, None], torch.arange(longest, device=ends.device)[None]
    return ((at <= end) & (at >= reach.first(end)))[:, None, None, :]


_REACHES = {
    ("causal_mask_function",): lambda size: Reach(),
    ("causal_mask_function", "sliding_window_overlay"): lambda size: Reach(window=size),
    ("causal_mask_function", "chunked_overlay"): lambda size: Reach(chunk=size),
}
"""By the functions of transformers that a mask is composed of."""


def _packed_reach(*, mask_function: Any, local_size: int | None = None, **kwargs: object) -> Reach:
    """In place of a mask: the columns that it lets a token read. Its parts are told by their names, since they are closures.

    Raises:
        ModelError: the mask has parts that are not known here.
    """
    inner = mask_function.__closure__[0].cell_contents if mask_function.__name__ == "and_mask" else (mask_function,)
    parts = tuple(sorted(part.__qualname__.partition(".")[0] for part in inner))
    if parts not in _REACHES:
        raise ModelError(f"packed attention does not know a mask of {', '.join(parts)}: set model.backend=auto")
    return _REACHES[parts](local_size)


_WITHOUT_EFFECT = ("position_ids", "use_cache", "output_attentions", "output_router_logits", "cache_position")
"""Arguments that models pass on to attention and that change nothing there."""


def _packed_attention(
    module: Any,
    query: Tensor,
    key: WrittenLayer,
    value: WrittenLayer,
    attention_mask: Reach,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attention as the modules of transformers call it; the mask says more than ``sliding_window``, which only some models pass.

    Raises:
        ModelError: an argument that is not known here, and not ``None``.
    """
    unknown = sorted(name for name, value in kwargs.items() if value is not None and name not in _WITHOUT_EFFECT)
    if is_causal is False:
        unknown.append("is_causal=False")
    if not isinstance(attention_mask, Reach):
        unknown.append("a mask of its own")
    if unknown:
        raise ModelError(f"packed attention does not know {', '.join(unknown)} of {type(module).__name__}: set model.backend=auto")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    expand = partial(type(module).expand_kv, module) if hasattr(module, "expand_kv") else None
    return key.packed.attend(key.layer, query, Terms(scale, attention_mask, softcap, s_aux, expand)), None


def pack_attention(model: Any) -> None:
    """Let a model whose config names packed attention use it where its attention does more than call a registered function."""
    for module in model.modules():
        if hasattr(module, "expand_kv"):  # latents are expanded as they are read
            module.expand_kv = lambda keys, values: (keys, values)
        if type(module).__name__ in ("GPTJAttention", "CodeGenAttention"):
            module._attn = partial(_own_attention, module)


def _own_attention(module: Any, query: Tensor, key: WrittenLayer, value: WrittenLayer, attention_mask: Any = None) -> tuple[Tensor, None]:
    """``_attn`` of models that do not call a registered function: ``[1, heads, tokens, d_head]``."""
    scale = 1.0 / float(module.scale_attn)
    return _packed_attention(module, query, key, value, attention_mask, scaling=scale)[0].transpose(1, 2), None


AttentionInterface.register(NAME, _packed_attention)
AttentionMaskInterface.register(NAME, _packed_reach)
