"""The logit lens of a direction: the tokens whose logits it raises and lowers most, through the final norm's gain and the unembedding."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.errors import DataError, ModelError
from stir_core.models.backends import block_list
from stir_core.models.loading import LoadedModel
from stir_core.records import Lens, TokenWeight


def direction_logits(model: LoadedModel, directions: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
    """Direct effect of each direction on the logits, up to the final norm's data-dependent scale (Belrose et al. 2023, section 2)."""
    norm, unembedding = _ends(model)
    with model.lock, torch.inference_mode():
        vectors = directions.to(model.device, torch.float32)
        if getattr(norm, "bias", None) is None:
            # a vector of ones has RMS 1, so an RMS norm returns its gain, whatever its convention (w or 1 + w)
            ones = torch.ones(1, 1, model.d_model, device=model.device, dtype=next(norm.parameters()).dtype)
            gain = norm(ones)[0, 0].to(vectors)
        else:
            vectors = vectors - vectors.mean(dim=-1, keepdim=True)  # a layer norm centres first
            gain = norm.weight.to(vectors)
        return (vectors * gain) @ unembedding.to(vectors)


def _ends(model: LoadedModel) -> tuple[Any, Float[Tensor, "d_model d_vocab"]]:
    """The final norm and the unembedding, of the plain model where TransformerLens has no bridge.

    Raises:
        ModelError: the plain model has no final norm that is known.
    """
    if model.bridge is not None:
        return model.bridge.ln_final, model.bridge.W_U
    blocks = block_list(model.plain)
    owner = next(each for each in model.plain.modules() if any(child is blocks for child in each.children()))
    norm = next((child for name, child in owner.named_children() if name in _NORMS), None)
    if norm is None:
        raise ModelError(
            f"{model.identity.name} has no final norm named {', '.join(_NORMS)}: no logit lens can be read, take another model"
        )
    return norm, model.plain.get_output_embeddings().weight.T


_NORMS = ("norm", "ln_f", "norm_f", "final_layernorm", "final_layer_norm")
"""Names that transformers gives to the norm after the last block."""


def lens_of(model: LoadedModel, entry_ids: list[str], actions: Float[Tensor, "n d_model"], *, top: int = 10) -> list[Lens]:
    """The ``top`` most promoted and most suppressed tokens of each action; logits are rounded to 4 decimals.

    Raises:
        DataError: ``top`` is not a number of tokens of the vocabulary, or a direction is not finite.
    """
    effects = direction_logits(model, actions)
    if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= effects.shape[1]:
        raise DataError(f"top is {top!r}: give a whole number of tokens from 1 to {effects.shape[1]}, the size of the vocabulary")
    if not bool(effects.isfinite().all()):
        bad = int((~effects.isfinite().all(dim=1)).nonzero()[0])
        raise DataError(f"direction {entry_ids[bad]} is not finite: leave it out")
    lenses: list[Lens] = []
    for entry_id, logits in zip(entry_ids, effects, strict=True):
        high, low = logits.topk(top), (-logits).topk(top)
        promoted = token_weights(model, high.indices.tolist(), [round(logit, 4) for logit in high.values.tolist()])
        suppressed = token_weights(model, low.indices.tolist(), [round(-logit, 4) for logit in low.values.tolist()])
        lenses.append(Lens(entry_id=entry_id, promoted=promoted, suppressed=suppressed))
    return lenses


def token_weights(model: LoadedModel, token_ids: list[int], logits: list[float]) -> tuple[TokenWeight, ...]:
    """Tokens with their texts and logits."""
    return tuple(TokenWeight(token_id=i, text=model.token_text(i), logit=logit) for i, logit in zip(token_ids, logits, strict=True))
