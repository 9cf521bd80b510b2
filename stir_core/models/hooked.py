"""The two backends that carry TransformerLens hook points: the raw bridge, and the lean decoder with the same points.

The bridge serves anything that looks inside a model. Decoding goes through :class:`HookedDecoder`.
Which of the two runs is a matter of speed alone, and ``models.agreement`` measures that it is.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from stir_core.errors import SteeringError
from stir_core.models.backends import Lean, embedded, no_block, through


class HookedDecoder(Lean, HookedRootModule):
    """The plain Hugging Face model with TransformerLens hook points ``hook_embed`` and ``blocks.{i}.hook_out``.

    It shares the weights that it is given.
    """

    name = "hooked"

    def __init__(self, model: nn.Module):
        HookedRootModule.__init__(self)
        layers = self._take(model)
        self.blocks = nn.ModuleList(_Block() for _ in layers)
        for block, layer in zip(self.blocks, layers, strict=True):
            layer.register_forward_hook(through(block.hook_out))  # type: ignore[arg-type]
        self.hook_embed = HookPoint()
        model.get_input_embeddings().register_forward_hook(through(self.hook_embed))  # type: ignore[operator]
        self.setup()

    def hook_point(self, layer: int) -> HookPoint:
        """See :class:`Backend`."""
        return _point(self.blocks, layer)

    def embed_point(self) -> HookPoint:
        """See :class:`Backend`."""
        return self.hook_embed


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
        return embedded(self.bridge.embed.original_component, ids) * self.bridge.embed._output_contribution_scale

    def pattern_point(self, layer: int) -> HookPoint:
        """``blocks.{layer}.attn.hook_pattern``: attention after the softmax, ``[1, heads, tokens, columns]``.

        Raises:
            SteeringError: this model's attention has no such point.
        """
        point = getattr(getattr(self.bridge.blocks[layer], "attn", None), "hook_pattern", None)
        if not isinstance(point, HookPoint):
            raise SteeringError(f"no hook blocks.{layer}.attn.hook_pattern: this architecture's attention cannot be looked at")
        return point


def bridge_of(name: str, hf_model: Any, tokenizer: Any, device: str, dtype: torch.dtype) -> TransformerBridge:
    """The raw bridge over a Hugging Face model, whose modules it takes over."""
    return TransformerBridge.boot_transformers(name, hf_model=hf_model, tokenizer=tokenizer, device=device, dtype=dtype)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hook_out = HookPoint()


def _point(blocks: Any, layer: int) -> HookPoint:
    if not 0 <= layer < len(blocks):
        raise no_block(layer, len(blocks))
    return blocks[layer].hook_out
