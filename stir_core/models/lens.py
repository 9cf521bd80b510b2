"""Lenses of a direction: the tokens whose logits it raises and lowers most, through the final norm's gain and the unembedding.

The logit lens reads it where it is, the Jacobian lens after the model's mean Jacobian has carried it to the last block.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.errors import DataError, ModelError
from stir_core.models.backends import block_list
from stir_core.models.hooked import BridgeBackend
from stir_core.models.loading import LoadedModel
from stir_core.models.steering import Impulse, captured, impulses
from stir_core.readings import JacobianReading
from stir_core.records import Lens, Rollout, TokenWeight

ANSWERS, ANSWER_TOKENS = 16, 96
"""Rollouts that the mean Jacobian is taken over, and tokens that are read of each."""


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


def jacobian_lens(
    model: LoadedModel, entry_id: str, action: Float[Tensor, "d_model"], layer: int, rollouts: Sequence[Rollout], *, top: int = 10
) -> JacobianReading:
    """The Jacobian lens of a direction over a run's own rollouts (Gurnee et al. 2026, transformer-circuits.pub/2026/workspace).

    It is TransformerLens's ``JacobianLens`` with every token of an answer but the last as position: the Jacobian is averaged over source
    tokens, summed over the tokens from there on, and averaged over answers. One direction takes one forward-mode pass an answer, where
    fitting the whole matrix takes as many backward passes as the stream is wide; the result is the same.

    Args:
        layer: 0-based block whose output the direction belongs to.
        rollouts: the first :data:`ANSWERS` of them are read, one of each problem before a second one.

    Raises:
        ModelError: TransformerLens makes no bridge of this architecture, or its kernels pass no derivatives on.
        DataError: no rollout has two tokens.
    """
    if model.bridge is None:
        raise ModelError(f"{model.identity.name} has no Jacobian lens: TransformerLens has no bridge for {model.identity.architecture}")
    order = sorted((rollout for rollout in rollouts if rollout.n_tokens > 1), key=lambda rollout: rollout.k)
    chosen = [(list(each.prompt_ids), list(each.token_ids[:ANSWER_TOKENS])) for each in order]
    chosen = [(prompt, answer) for prompt, answer in chosen if len(prompt) + len(answer) <= model.n_ctx][:ANSWERS]
    if not chosen:
        raise DataError("no rollout of at least two tokens fits the model's context: there is nothing to average a Jacobian over")
    carried = torch.stack([carried_by_jacobian(model, action, layer, *each) for each in chosen])
    mean, n = carried.mean(dim=0), len(carried)
    (lens,) = lens_of(model, [entry_id], mean[None].cpu(), top=top)
    (plain,) = lens_of(model, [entry_id], action[None], top=top)
    without = (carried.sum(dim=0) - carried) / max(1, n - 1)
    return JacobianReading(
        lens=lens,
        answers=n,
        positions=sum(len(answer) - 1 for _, answer in chosen),
        gain=float(mean.norm() / action.norm()),
        agreement=float(torch.nn.functional.cosine_similarity(carried, without, dim=1).mean()) if n > 1 else None,
        logit_overlap=len({token.token_id for token in lens.promoted} & {token.token_id for token in plain.promoted}),
    )


def carried_by_jacobian(
    model: LoadedModel, direction: Float[Tensor, "d_model"], layer: int, prompt: list[int], answer: list[int]
) -> Float[Tensor, "d_model"]:
    """A direction times one answer's Jacobian: d(residual of the last block at later tokens) / d(residual of block ``layer`` at a token).

    Averaged over the answer's tokens but the last, and summed over later ones; float32, on the model's device.
    """
    from torch.autograd import forward_ad

    backend, n = BridgeBackend(model.bridge), len(prompt) + len(answer)
    at, last = list(range(len(prompt), n - 1)), model.n_layers - 1
    tangent = direction.to(model.device, next(model.bridge.parameters()).dtype)
    with model.lock, torch.no_grad(), forward_ad.dual_level():
        impulse = Impulse(layer, forward_ad.make_dual(torch.zeros_like(tangent), tangent))  # nothing is added but the derivative
        plan = [(token, impulse) for token in at]
        with (
            impulses(backend, plan, tokens=n, d_model=model.d_model, device=model.device),
            captured(backend, (last,), at, detached=False) as seen,
        ):
            model.bridge(torch.tensor([[*prompt, *answer]], device=model.device), return_type=None, logits_to_keep=1)
        found = forward_ad.unpack_dual(seen[last]).tangent
    if found is None:
        raise ModelError(f"{model.identity.name} has no Jacobian lens: one of its kernels passes no derivative on")
    return found.float().sum(dim=0) / len(at)
