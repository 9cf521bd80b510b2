"""Look inside one forward pass: the residual stream after every block and the attention pattern of every head, on the raw bridge.

Slow but complete, for one short window of one sequence; decoding goes through ``passes``.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.errors import ModelError
from stir_core.models.backends import row_cache
from stir_core.models.cache import CacheRow
from stir_core.models.hooked import BridgeBackend
from stir_core.models.loading import LoadedModel
from stir_core.models.sequential import SequentialStore
from stir_core.models.steering import Impulse, attention, captured, impulses


class Look(NamedTuple):
    """Activations of one pass over a window of tokens, on the model's device."""

    logits: Float[Tensor, "tokens d_vocab"]
    """Float32, after each token of the window."""
    stream: Float[Tensor, "layers tokens d_model"]
    """Block outputs, any impulse included."""
    patterns: Float[Tensor, "layers heads tokens columns"]
    """Attention of each token of the window to every token up to it, prefix first; rows sum to 1."""


@torch.inference_mode()
def look(model: LoadedModel, row: CacheRow, ids: list[int], impulse: Impulse | None = None, patterns: Tensor | None = None) -> Look:
    """Run ``ids`` after the tokens of the row and capture everything; the row stays unchanged.

    Args:
        impulse: added at the first of ``ids``.
        patterns: attention patterns of an earlier look at the same window, which replace those of this pass.

    Raises:
        SteeringError: the model has no such layer, or a hook did not fire exactly once.
        ModelError: TransformerLens makes no bridge of this architecture.
    """
    if model.bridge is None:
        raise ModelError(f"{model.identity.name} cannot be looked into: TransformerLens has no bridge for {model.identity.architecture}")
    backend = BridgeBackend(model.bridge)
    n = len(ids)
    layers = tuple(range(model.n_layers))
    with (
        model.lock,
        impulses(backend, [] if impulse is None else [(0, impulse)], tokens=n, d_model=model.d_model),
        captured(backend, layers, list(range(n))) as stream,
        attention(backend, patterns) as seen,
    ):
        positions = torch.arange(row.total, row.total + n, device=model.device)[None]
        keep = torch.arange(n, device=model.device)
        cache = row.store.longest(row, row.total)[1] if isinstance(row.store, SequentialStore) else row_cache(row)  # type: ignore[arg-type]
        logits = backend.forward(torch.tensor([ids], device=model.device), positions, cache, keep)
    return Look(logits.float(), torch.stack([stream[i] for i in layers]).float(), torch.stack([seen[i] for i in layers]))
