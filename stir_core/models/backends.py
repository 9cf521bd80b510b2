"""Two ways through one set of weights, behind one small interface: the raw bridge, and a lean decoder with the same hook points.

The bridge serves anything that looks inside a model. Decoding goes through :class:`HookedDecoder`: the plain Hugging Face model with
TransformerLens hook points at its block outputs, attention over packed tokens, and the bridge's own parameters (no second copy).
Which of the two runs is a matter of speed alone, and :func:`agreement` measures that it is.
"""

import copy
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint
from transformers.cache_utils import DynamicCache, DynamicLayer

from stir_core.errors import ModelError, SteeringError
from stir_core.models.attention import NAME
from stir_core.models.cache import Row, Store
from stir_core.models.products import install


@runtime_checkable
class Backend(Protocol):
    """What a forward pass needs of a model."""

    name: str
    packs: bool
    """Whether one pass takes tokens of many sequences."""
    n_layers: int

    def forward(
        self, ids: Int[Tensor, "1 tokens"], positions: Int[Tensor, "1 tokens"], cache: Any, keep: Int[Tensor, "kept"]
    ) -> Float[Tensor, "kept d_vocab"]:
        """Logits at the packed positions ``keep``; ``cache`` takes the new keys and values in."""
        ...

    def hook_point(self, layer: int) -> HookPoint:
        """``blocks.{layer}.hook_out``."""
        ...

    def embed_point(self) -> HookPoint:
        """``hook_embed``: the token embeddings as they enter the first block (position embeddings, where there are any, come after)."""
        ...

    def embed(self, ids: list[int]) -> Float[Tensor, "tokens d_model"]:
        """What ``embed_point`` shows for these tokens, without a pass and without firing it."""
        ...


class HookedDecoder(HookedRootModule):
    """The plain Hugging Face model with TransformerLens hook points ``hook_embed`` and ``blocks.{i}.hook_out``.

    It shares the weights that it is given.
    """

    name = "hooked"
    packs = True

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self._products = install(model)
        layers = block_list(model)
        self.n_layers = len(layers)
        self.blocks = nn.ModuleList(_Block() for _ in layers)
        for block, layer in zip(self.blocks, layers, strict=True):
            layer.register_forward_hook(_through(block.hook_out))  # type: ignore[arg-type]
        self.hook_embed = HookPoint()
        model.get_input_embeddings().register_forward_hook(_through(self.hook_embed))  # type: ignore[operator]
        self.setup()

    def forward(self, ids: Tensor, positions: Tensor, cache: Any, keep: Tensor) -> Tensor:
        """See :class:`Backend`."""
        if self._products[0].plain is not cache.eager:
            for product in self._products:
                product.plain = cache.eager
        out = self.model(ids, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=keep)
        return out.logits[0]

    def hook_point(self, layer: int) -> HookPoint:
        """See :class:`Backend`."""
        return _point(self.blocks, layer)

    def embed_point(self) -> HookPoint:
        """See :class:`Backend`."""
        return self.hook_embed

    def embed(self, ids: list[int]) -> Tensor:
        """See :class:`Backend`."""
        return _embedded(self.model.get_input_embeddings(), ids)  # type: ignore[operator]


class BridgeBackend:
    """The raw bridge, one sequence a pass, attention as Hugging Face's eager kernel computes it: slow, and the reference."""

    name = "bridge"
    packs = False

    def __init__(self, bridge: Any):
        self.bridge = bridge
        self.n_layers = len(bridge.blocks)

    def forward(self, ids: Tensor, positions: Tensor, cache: Any, keep: Tensor) -> Tensor:
        """See :class:`Backend`; ``keep`` must be the last position, or all of them."""
        logits, _ = self.bridge(ids, past_key_values=cache, use_cache=True, return_type="logits_and_cache", logits_to_keep=len(keep))
        return logits[0]

    def hook_point(self, layer: int) -> HookPoint:
        """See :class:`Backend`."""
        return _point(self.bridge.blocks, layer)

    def embed_point(self) -> HookPoint:
        """See :class:`Backend`."""
        return self.bridge.embed.hook_out

    def embed(self, ids: list[int]) -> Tensor:
        """See :class:`Backend`."""
        # where the model scales embeddings outside of their module (Granite), the bridge's point shows them scaled
        return _embedded(self.bridge.embed.original_component, ids) * self.bridge.embed._output_contribution_scale

    def pattern_point(self, layer: int) -> HookPoint:
        """``blocks.{layer}.attn.hook_pattern``: attention after the softmax, ``[1, heads, tokens, columns]``.

        Raises:
            SteeringError: this model's attention has no such point.
        """
        point = getattr(getattr(self.bridge.blocks[layer], "attn", None), "hook_pattern", None)
        if not isinstance(point, HookPoint):
            raise SteeringError(f"no hook blocks.{layer}.attn.hook_pattern: this architecture's attention cannot be looked at")
        return point


def twin(hf_model: Any) -> nn.Module:
    """A second module tree over the same parameters and buffers, reading packed tokens.

    Make it before a bridge takes the first one over.
    """
    shared = {id(tensor): tensor for tensor in (*hf_model.parameters(), *hf_model.buffers())}
    other = copy.deepcopy(hf_model, memo=shared)
    other.config._attn_implementation = NAME
    other.config.get_text_config()._attn_implementation = NAME
    return other


def block_list(model: nn.Module) -> nn.ModuleList:
    """The decoder layers of a Hugging Face model.

    Raises:
        ModelError: there is no list of as many modules as the config has layers.
    """
    n = model.config.get_text_config().num_hidden_layers  # type: ignore[union-attr]
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == n:
            return module
    raise ModelError(f"{type(model).__name__} has no list of {n} blocks: it cannot be hooked at block outputs")


def row_cache(row: Row) -> DynamicCache:
    """A Hugging Face cache over one row, its trunk's share included, for passes of one sequence."""
    cache = DynamicCache()
    if row.total == 0:
        return cache
    for layer in range(len(row.store._keys)):
        parts: list[tuple[Tensor, Tensor]] = []
        if row.trunk is not None:
            parts.append(_view(row.trunk, layer, row.trunk_length))
        if row.length:
            parts.append(_view(row, layer, row.length))
        held = DynamicLayer()
        held.keys = torch.cat([keys for keys, _ in parts], dim=2)
        held.values = torch.cat([values for _, values in parts], dim=2)
        held.dtype, held.device, held.is_initialized = held.keys.dtype, held.keys.device, True
        cache.layers.append(held)
    return cache


def take_over(row: Row, cache: DynamicCache, n: int) -> None:
    """Write the last ``n`` columns of a cache into the row."""
    row.store.reserve(row.length + n)
    for layer, held in enumerate(cache.layers):
        assert isinstance(held, DynamicLayer) and held.keys is not None and held.values is not None  # row_cache made it, the pass filled it
        for part, tensor in ((Store.keys, held.keys), (Store.values, held.values)):
            part(row.store, layer, tensor)[row.slot, :, row.length : row.length + n] = tensor[0, :, -n:]
    row.length += n


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hook_out = HookPoint()


def _through(point: HookPoint) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return point(output)
        return (point(output[0]), *output[1:])

    return hook


def _point(blocks: Any, layer: int) -> HookPoint:
    if not 0 <= layer < len(blocks):
        raise SteeringError(f"no hook blocks.{layer}.hook_out: the model has blocks 0 to {len(blocks) - 1}")
    return blocks[layer].hook_out


def _embedded(embedding: Any, ids: list[int]) -> Tensor:
    n, device = embedding.weight.shape[0], embedding.weight.device
    unknown = [token for token in ids if not 0 <= token < n]
    if unknown:
        raise SteeringError(f"no token {unknown[0]}: the model has tokens 0 to {n - 1}")
    return embedding.forward(torch.tensor(ids, device=device))  # not a call of the module: that would fire its hook point


def _view(row: Row, layer: int, length: int) -> tuple[Tensor, Tensor]:
    at = slice(row.slot, row.slot + 1)
    return row.store.keys(layer)[at, :, :length], row.store.values(layer)[at, :, :length]
