"""The interface that forward passes use a model through, and its implementation on the plain Hugging Face model.

Decoding goes through a twin of the plain model: attention over packed tokens, and the model's own parameters (no second copy).
The two backends that need TransformerLens are in ``hooked``; nothing here does.
"""

import copy
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.cache_utils import DynamicCache

from stir_core.errors import ModelError, SteeringError
from stir_core.models.attention import NAME, pack_attention
from stir_core.models.cache import GRAIN, CacheRow, Store
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
    config: Any
    """Of the Hugging Face model."""

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


@runtime_checkable
class Decodable(Protocol):
    """A model with all that forward passes need of it: a ``LoadedModel``."""

    @property
    def backend(self) -> Backend: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def eager(self) -> bool: ...
    @property
    def lock(self) -> Any: ...
    @property
    def d_model(self) -> int: ...

    def new_store(self, *, columns: int = GRAIN) -> Store:
        """An empty store for keys and values."""
        ...


class Lean:
    """Base of the backends that decode through the plain Hugging Face model, over shared weights.

    Passes are packed if the model's config names packed attention (:func:`twin`). Otherwise each takes one sequence over a Hugging Face
    cache, with the model's own attention and products.
    """

    model: nn.Module
    packs: bool

    def _take(self, model: nn.Module) -> nn.ModuleList:
        self.model, self.config = model, model.config
        self.packs = model.config._attn_implementation == NAME  # type: ignore[union-attr]
        self._products = install(model) if self.packs else []
        self._takes = inspect.signature(model.forward).parameters
        layers = block_list(model)
        self.n_layers = len(layers)
        return layers

    def forward(self, ids: Tensor, positions: Tensor, cache: Any, keep: Tensor) -> Tensor:
        """See :class:`Backend`."""
        # a reference pass computes exactly what the model itself would
        if self.packs and self._products and self._products[0].plain is not cache.eager:
            for product in self._products:
                product.plain = cache.eager
        options = {"position_ids": positions, "logits_to_keep": keep, "past_key_values": cache, "cache_params": cache}
        out = self.model(ids, use_cache=True, **{name: value for name, value in options.items() if name in self._takes})
        return out.logits[0] if "logits_to_keep" in self._takes else out.logits[0, keep]

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


def twin(hf_model: Any, attention: str = NAME) -> nn.Module:
    """A second module tree over the same parameters and buffers, which reads packed tokens, or one with another kernel of attention.

    Make it before a bridge takes the first one over.
    """
    shared = {id(tensor): tensor for tensor in (*hf_model.parameters(), *hf_model.buffers())}
    other = copy.deepcopy(hf_model, memo=shared)
    other.config._attn_implementation = attention
    other.config.get_text_config()._attn_implementation = attention
    if attention == NAME:
        pack_attention(other)
    return other


_BLOCKS = ("layers", "h", "blocks", "block")
"""Names that transformers gives to the list of a text model's blocks."""


def block_list(model: nn.Module) -> nn.ModuleList:
    """The decoder layers of a Hugging Face model: the list of blocks of the text model, which is the module that embeds the tokens.

    A vision or audio tower has blocks of its own, perhaps as many, but no token embeddings.

    Raises:
        ModelError: the module with the token embeddings has no list of as many blocks as the text model's config has layers.
    """
    n = model.config.get_text_config().num_hidden_layers  # type: ignore[union-attr]
    tokens = model.get_input_embeddings()  # type: ignore[operator]
    text = next((owner for owner in model.modules() if any(child is tokens for child in owner.children())), model)
    blocks = next((child for name, child in text.named_children() if name in _BLOCKS and isinstance(child, nn.ModuleList)), None)
    if blocks is None or len(blocks) != n:
        raise ModelError(
            f"{type(model).__name__} has no list of {n} blocks beside its token embeddings, so no block can be hooked: take another model"
        )
    return blocks


def row_cache(row: CacheRow) -> DynamicCache:
    """A Hugging Face cache with a copy of one row, its trunk's tokens first, for a pass of one sequence."""
    cache = DynamicCache()
    for piece, length in ((row.trunk, row.trunk_length), (row, row.length)):
        if piece is not None and length:
            slot = slice(piece.slot, piece.slot + 1)
            for layer in filter(piece.store.holds, range(piece.store.n_layers)):
                cache.update(piece.store.keys(layer)[slot, :, :length], piece.store.values(layer)[slot, :, :length], layer)
    return cache


def embedded(embedding: Any, ids: list[int]) -> Tensor:
    """Rows of an embedding module for these tokens, ``[tokens, d_model]``, without firing its hooks."""
    n, device = embedding.weight.shape[0], embedding.weight.device
    unknown = [token for token in ids if not 0 <= token < n]
    if unknown:
        raise SteeringError(f"no token {unknown[0]}: give tokens from 0 to {n - 1}")
    return embedding.forward(torch.tensor(ids).to(device))  # not a call of the module: that would fire its hook point
