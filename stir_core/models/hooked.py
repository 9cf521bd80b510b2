"""The two backends that carry TransformerLens hook points: the raw bridge, and the lean decoder with the same points.

The bridge is for looking inside a model; decoding goes through :class:`HookedDecoder`. The two compute the same, at different speed:
``models.agreement`` measures it.
"""

from typing import Any

from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from stir_core.errors import SteeringError
from stir_core.models.backends import Lean, block_at, embedded, through


class HookedDecoder(Lean, HookedRootModule):
    """The plain Hugging Face model with TransformerLens hook points ``hook_embed`` and ``blocks.{i}.hook_out``, over the same weights."""

    name = "hooked"

    def __init__(self, model: nn.Module):
        HookedRootModule.__init__(self)
        layers = self._take(model)
        self.blocks = nn.ModuleList(nn.ModuleDict({"hook_out": HookPoint()}) for _ in layers)
        for block, layer in zip(self.blocks, layers, strict=True):
            layer.register_forward_hook(through(block.hook_out))  # type: ignore[arg-type]
        self.hook_embed = HookPoint()
        model.get_input_embeddings().register_forward_hook(through(self.hook_embed))  # type: ignore[operator]
        self.setup()

    def hook_point(self, layer: int) -> HookPoint:
        """See :class:`Backend`."""
        return block_at(self.blocks, layer).hook_out

    def embed_point(self) -> HookPoint:
        """See :class:`Backend`."""
        return self.hook_embed


class BridgeBackend:
    """The raw bridge, one sequence per pass, attention as Hugging Face's eager kernel computes it: slow, and the reference."""

    name = "bridge"
    packs = False

    def __init__(self, bridge: Any):
        self.bridge = bridge
        self.config = bridge.original_model.config
        self.n_layers = len(bridge.blocks)

    def forward(self, ids: Tensor, positions: Tensor, cache: Any, keep: Tensor) -> Tensor:
        """See :class:`Backend`; ``keep`` must be empty, the last position, or all positions."""
        kept = max(1, len(keep))  # 0 would keep all
        logits, _ = self.bridge(ids, past_key_values=cache, use_cache=True, return_type="logits_and_cache", logits_to_keep=kept)
        return logits[0, : len(keep)]

    def hook_point(self, layer: int) -> HookPoint:
        """See :class:`Backend`."""
        return block_at(self.bridge.blocks, layer).hook_out

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
            raise SteeringError(
                f"no hook blocks.{layer}.attn.hook_pattern: this architecture does not expose its attention patterns, take another model"
            )
        return point
