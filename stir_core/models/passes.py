"""One forward pass: tokens in, logits and a longer context out; impulses and captures happen inside, under the model's lock.

Every other module reaches the model through :func:`forward` alone, so hooks (which are global state of the module tree) can
never leak from one caller into another.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stir_core.models.context import Context, from_cache, join, left_padded
from stir_core.models.loading import LoadedModel
from stir_core.models.steering import Impulse, captured, impulses


class Pass(NamedTuple):
    """What one forward pass gave."""

    logits: Float[Tensor, "rows d_vocab"]
    """Raw logits after the last token of each row, float32."""
    context: Context
    states: dict[int, Float[Tensor, "..."]]
    """Block outputs by layer: ``[rows, d_model]`` at the last token, or ``[rows, pos, d_model]`` with ``every_state``."""


def forward(
    model: LoadedModel,
    ids: Int[Tensor, "rows pos"],
    context: Context | None = None,
    *,
    real: Bool[Tensor, "rows pos"] | None = None,
    plan: list[Impulse] | None = None,
    capture: tuple[int, ...] = (),
    every_state: bool = False,
) -> Pass:
    """Run tokens through the model behind ``context``.

    Args:
        ids: token ids, padded on the left.
        real: which ids are tokens rather than padding; ``None`` means all.
        plan: impulses, each added once at the last token of its row.
        capture: layers whose outputs are returned.
        every_state: capture all positions rather than the last.
    """
    rows, width = ids.shape
    ids = ids.to(model.device)
    fresh = torch.ones(rows, width, dtype=torch.bool, device=model.device) if real is None else real.to(model.device)
    owned = fresh if context is None else torch.cat([context.owned, fresh], dim=1)
    masked = not bool(owned.all())
    extra: dict[str, Tensor] = {}
    if masked:
        # positions count a row's own tokens: padding and hidden columns take no place in the sequence
        extra = {"attention_mask": owned.long(), "position_ids": (owned.long().cumsum(1) - 1).clamp(min=0)[:, -width:]}
    with (
        model.lock,
        torch.inference_mode(),
        impulses(model.bridge, plan or [], rows=rows, d_model=model.d_model),
        captured(model.bridge, capture, last_only=not every_state) as states,
    ):
        logits, cache = model.bridge(
            ids,
            past_key_values=None if context is None else context.as_cache(),
            use_cache=True,
            return_type="logits_and_cache",
            logits_to_keep=1,
            **extra,
        )
    return Pass(logits[:, -1].float(), from_cache(cache, owned), states)


def read(model: LoadedModel, sequences: list[list[int]], context: Context | None = None, *, capture: tuple[int, ...] = ()) -> Pass:
    """Run one token sequence a row, of any lengths, behind ``context``: the batched prefill.

    Behind a context, sequences of different lengths leave holes between a row's tokens. Full attention masks them; a
    sliding window counts columns, so a windowed model gets rows of one length at a time instead.
    """
    lengths = sorted({len(ids) for ids in sequences})
    if context is None or len(lengths) == 1 or not model.windowed:
        ids, real = left_padded(sequences)
        return forward(model, ids, context, real=None if bool(real.all()) else real, capture=capture)
    order: list[int] = []
    passes: list[Pass] = []
    for length in lengths:
        rows = [row for row, ids in enumerate(sequences) if len(ids) == length]
        part = context.select(rows).trimmed()
        passes.append(forward(model, torch.tensor([sequences[row] for row in rows]), part, capture=capture))
        order += rows
    back = [order.index(row) for row in range(len(order))]
    states = {layer: torch.cat([each.states[layer] for each in passes])[back] for layer in capture}
    return Pass(torch.cat([each.logits for each in passes])[back], join([each.context for each in passes]).select(back), states)
