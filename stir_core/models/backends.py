"""The interface that forward passes use a model through, and its implementation on the plain Hugging Face model.

Decoding goes through a twin of the plain model: attention over packed tokens, and the model's own parameters (no second copy).
The two backends that need TransformerLens are in ``hooked``; nothing here does.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.cache_utils import DynamicCache, DynamicLayer

from stir_core.errors import ModelError, SteeringError
from stir_core.models.attention import NAME, pack_attention
from stir_core.models.cache import CacheRow, Store
from stir_core.models.products import install


@runtime_checkable
class HookPointLike(Protocol):
    """A place in a model whose output hooks see and may replace: the part of a TransformerLens ``HookPoint`` that ``steering`` uses."""

    fwd_hooks: list[Any]

    def add_hook(self, hook: Callable[..., Tensor | None]) -> Any:
        """Call ``hook(output, hook=point)`` in every pass; a result other than ``None`` replaces the output."""
        ...


@runtime_checkable
class Backend(Protocol):
    """A model as forward passes use it."""

    name: str
    packs: bool
    """Whether one pass takes tokens of many sequences."""
    n_layers: int

    def forward(
        self, ids: Int[Tensor, "1 tokens"], positions: Int[Tensor, "1 tokens"], cache: Any, keep: Int[Tensor, "kept"]
    ) -> Float[Tensor, "kept d_vocab"]:
        """Logits at the packed positions ``keep``; the new keys and values are written to ``cache``."""
        ...

    def hook_point(self, layer: int) -> "HookPointLike":
        """``blocks.{layer}.hook_out``."""
        ...

    def embed_point(self) -> "HookPointLike":
        """``hook_embed``: the token embeddings before any position embeddings are added."""
        ...

    def embed(self, ids: list[int]) -> Float[Tensor, "tokens d_model"]:
        """The output of ``embed_point`` for these tokens, without a pass and without firing hooks."""
        ...


class Lean:
    """Base of the backends that decode: packed passes through the plain Hugging Face model, over shared weights."""

    packs = True
    model: nn.Module

    def _take(self, model: nn.Module) -> nn.ModuleList:
        self.model = model
        self._products = install(model)
        layers = block_list(model)
        self.n_layers = len(layers)
        return layers

    def forward(self, ids: Tensor, positions: Tensor, cache: Any, keep: Tensor) -> Tensor:
        """See :class:`Backend`."""
        if self._products[0].plain is not cache.eager:  # a reference pass computes exactly what the model itself would
            for product in self._products:
                product.plain = cache.eager
        out = self.model(ids, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=keep)
        return out.logits[0]

    def embed(self, ids: list[int]) -> Tensor:
        """See :class:`Backend`."""
        return embedded(self.model.get_input_embeddings(), ids)  # type: ignore[operator]


class PlainDecoder(Lean):
    """The plain Hugging Face model alone: hooks are PyTorch hooks on its own modules, set only while a pass runs."""

    name = "plain"

    def __init__(self, model: nn.Module):
        layers = self._take(model)
        self._points = [ModulePoint(layer) for layer in layers]
        self._embed_point = ModulePoint(model.get_input_embeddings())  # type: ignore[operator]

    def hook_point(self, layer: int) -> "ModulePoint":
        """See :class:`Backend`."""
        return block_at(self._points, layer)

    def embed_point(self) -> "ModulePoint":
        """See :class:`Backend`."""
        return self._embed_point


class ModulePoint:
    """The output of a module, as a :class:`HookPointLike`."""

    def __init__(self, module: nn.Module):
        self.module = module
        self.fwd_hooks: list[Any] = []

    def add_hook(self, hook: Callable[..., Tensor | None]) -> "HookHandle":
        """See :class:`HookPointLike`."""
        handle = HookHandle(self.module.register_forward_hook(through(lambda output: hook(output, hook=self))))
        self.fwd_hooks.append(handle)
        return handle


class HookHandle(NamedTuple):
    """A hook on a module, with the attribute that TransformerLens gives its own handles."""

    hook: RemovableHandle


def through(hook: Callable[[Tensor], Tensor | None]) -> Any:
    """A module's forward hook that applies ``hook`` to the first element of the module's output."""

    def run(module: nn.Module, args: Any, output: Any) -> Any:
        stream = output if isinstance(output, Tensor) else output[0]
        changed = hook(stream)
        if changed is None:
            return None
        return changed if isinstance(output, Tensor) else (changed, *output[1:])

    return run


def block_at(blocks: Any, layer: int) -> Any:
    """``blocks[layer]``.

    Raises:
        SteeringError: the model has no such block.
    """
    if not 0 <= layer < len(blocks):
        raise SteeringError(f"no hook blocks.{layer}.hook_out: give a block from 0 to {len(blocks) - 1}")
    return blocks[layer]


def twin(hf_model: Any) -> nn.Module:
    """A second module tree over the same parameters and buffers, reading packed tokens.

    Make it before a bridge takes the first one over.
    """
    shared = {id(tensor): tensor for tensor in (*hf_model.parameters(), *hf_model.buffers())}
    other = copy.deepcopy(hf_model, memo=shared)
    other.config._attn_implementation = NAME
    other.config.get_text_config()._attn_implementation = NAME
    pack_attention(other)
    return other


def block_list(model: nn.Module) -> nn.ModuleList:
    """The decoder layers of a Hugging Face model: the list of blocks in the module that holds the token embeddings, too.

    A vision or audio tower has blocks of its own, perhaps as many, but no token embeddings.

    Raises:
        ModelError: there is no list of as many modules as the text model's config has layers.
    """
    n = model.config.get_text_config().num_hidden_layers  # type: ignore[union-attr]
    tokens = model.get_input_embeddings()  # type: ignore[operator]
    for owner in model.modules():
        lists = [child for child in owner.children() if isinstance(child, nn.ModuleList) and len(child) == n]
        if lists and any(module is tokens for module in owner.modules()):
            return lists[0]
    raise ModelError(
        f"{type(model).__name__} has no list of {n} blocks beside its token embeddings, so no block can be hooked: take another model"
    )


def row_cache(row: CacheRow) -> DynamicCache:
    """A Hugging Face cache with a copy of one row, its trunk's tokens first, for a pass of one sequence."""
    cache = DynamicCache()
    for piece, length in ((row.trunk, row.trunk_length), (row, row.length)):
        if piece is not None and length:
            slot = slice(piece.slot, piece.slot + 1)
            for layer in range(piece.store.n_layers):
                cache.update(piece.store.keys(layer)[slot, :, :length], piece.store.values(layer)[slot, :, :length], layer)
    return cache


def take_over(row: CacheRow, cache: DynamicCache, n: int) -> None:
    """Write the last ``n`` columns of a cache into the row."""
    row.store.reserve(row.length + n)
    for layer, held in enumerate(cache.layers):
        assert isinstance(held, DynamicLayer) and held.keys is not None and held.values is not None  # filled by the pass
        for part, tensor in ((Store.keys, held.keys), (Store.values, held.values)):
            part(row.store, layer, tensor)[row.slot, :, row.length : row.length + n] = tensor[0, :, -n:]
    row.length += n


def embedded(embedding: Any, ids: list[int]) -> Tensor:
    """Rows of an embedding module for these tokens, ``[tokens, d_model]``, without firing its hooks."""
    n, device = embedding.weight.shape[0], embedding.weight.device
    unknown = [token for token in ids if not 0 <= token < n]
    if unknown:
        raise SteeringError(f"no token {unknown[0]}: give tokens from 0 to {n - 1}")
    return embedding.forward(torch.tensor(ids, device=device))  # not a call of the module: that would fire its hook point
