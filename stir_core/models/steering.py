"""The only code that changes activations: impulses and mixtures at single tokens of a pass, and captures, as context managers.

They prove that they ran: an unknown hook is an error before the pass, a hook that never fired is an error after it, and an exception
leaves no hook behind. Tokens without an impulse or a mixture are not touched at all: their activations stay bit-equal.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.errors import SteeringError
from stir_core.models.backends import Backend


class Impulse(NamedTuple):
    """A vector added once to the residual stream after block ``layer``."""

    layer: int
    vector: Float[Tensor, "d_model"]


Mixture = tuple[list[int], list[float]]
"""Token ids and their weights, which add up to 1: the weighted sum of the tokens' embeddings, in the place of one token's."""

_WEIGHT_SLACK = 1e-4
"""How far weights may be from adding up to 1: rounding in float32, not forgetting to normalise."""


@contextmanager
def impulses(backend: Backend, plan: list[tuple[int, Impulse]], *, tokens: int, d_model: int) -> Iterator[None]:
    """Add each impulse at its token of the one forward pass inside the block.

    Args:
        plan: (token of the pass, impulse).
        tokens: tokens of the pass.

    Raises:
        SteeringError: unknown layer or token or wrong width before the pass; a hook that did not fire exactly once after it.
    """
    by_layer: dict[int, list[tuple[int, Impulse]]] = {}
    for at, impulse in plan:
        if not 0 <= at < tokens:
            raise SteeringError(f"impulse at token {at} of a pass of {tokens}")
        if tuple(impulse.vector.shape) != (d_model,):
            raise SteeringError(f"impulse of shape {list(impulse.vector.shape)} on a residual stream of width {d_model}")
        by_layer.setdefault(impulse.layer, []).append((at, impulse))
    fired = dict.fromkeys(by_layer, 0)
    points = {layer: backend.hook_point(layer) for layer in by_layer}

    def add(layer: int) -> Any:
        at = [at for at, _ in by_layer[layer]]
        vectors = torch.stack([impulse.vector for _, impulse in by_layer[layer]])

        def hook(stream: Tensor, hook: Any) -> Tensor:
            fired[layer] += 1
            steered = stream.clone()
            steered[0, at] += vectors.to(stream)
            return steered

        return hook

    with _hooked([(point, add(layer)) for layer, point in points.items()]):
        yield
    wrong = [layer for layer, count in fired.items() if count != 1]
    if wrong:
        raise SteeringError(f"the impulse at blocks.{wrong[0]}.hook_out fired {fired[wrong[0]]} times in one pass instead of once")


@contextmanager
def mixtures(backend: Backend, plan: list[tuple[int, Mixture]], *, tokens: int) -> Iterator[None]:
    """Replace the embedding of each of these tokens of the one forward pass inside the block by a mixture of token embeddings.

    A mixture of one token is that token, bit for bit. The sum is made in float32.

    Args:
        plan: (token of the pass, mixture).
        tokens: tokens of the pass.

    Raises:
        SteeringError: unknown token or weights that are no distribution before the pass; a hook that did not fire exactly once after it.
    """
    if not plan:
        yield
        return
    for at, (ids, weights) in plan:
        if not 0 <= at < tokens:
            raise SteeringError(f"mixture at token {at} of a pass of {tokens}")
        if len(ids) != len(weights) or any(not weight >= 0 for weight in weights) or abs(sum(weights) - 1) > _WEIGHT_SLACK:
            raise SteeringError(f"a mixture of {len(ids)} tokens with weights {weights[:5]}: give each a weight, adding up to 1")
    places = torch.tensor([at for at, _ in plan])
    mixed = torch.stack([_mix(backend.embed(ids), weights) for _, (ids, weights) in plan])
    fired = 0

    def replace(stream: Tensor, hook: Any) -> Tensor:
        nonlocal fired
        fired += 1
        changed = stream.clone()
        changed[0, places] = mixed.to(stream)
        return changed

    with _hooked([(backend.embed_point(), replace)]):
        yield
    if fired != 1:
        raise SteeringError(f"the mixture at hook_embed fired {fired} times in one pass instead of once")


def _mix(rows: Float[Tensor, "n d_model"], weights: list[float]) -> Float[Tensor, "d_model"]:
    # a sum and not a matrix product: its bits do not depend on a kernel chosen for the shape
    return (torch.tensor(weights, device=rows.device)[:, None] * rows.float()).sum(dim=0)


@contextmanager
def captured(backend: Backend, layers: tuple[int, ...], at: list[int]) -> Iterator[dict[int, Tensor]]:
    """Collect block outputs at the tokens ``at`` of the one forward pass inside the block, by layer, after any impulse there.

    Yields:
        A dict that fills during the pass: ``[len(at), d_model]`` by layer; empty when nothing is asked for.

    Raises:
        SteeringError: unknown layer before the pass; a hook that did not fire after it.
    """
    seen: dict[int, Tensor] = {}
    points = {layer: backend.hook_point(layer) for layer in layers}

    def keep(layer: int) -> Any:
        def hook(stream: Tensor, hook: Any) -> None:
            seen[layer] = stream[0, at].detach()

        return hook

    with _hooked([(point, keep(layer)) for layer, point in points.items()] if at else []):
        yield seen
    missing = [layer for layer in layers if layer not in seen] if at else []
    if missing:
        raise SteeringError(f"the capture at blocks.{missing[0]}.hook_out never fired")


@contextmanager
def attention(backend: Any, held: Float[Tensor, "layers heads tokens columns"] | None = None) -> Iterator[dict[int, Tensor]]:
    """Collect every block's attention pattern in the one forward pass inside the block; with ``held`` put these in their place.

    Args:
        backend: the raw bridge; the lean decoder has no such points.

    Yields:
        A dict that fills during the pass: ``[heads, tokens, columns]`` by layer, as the values were weighted.

    Raises:
        SteeringError: no such hook before the pass, another shape in it, a hook that did not fire exactly once after it.
    """
    seen: dict[int, Tensor] = {}
    fired = dict.fromkeys(range(backend.n_layers), 0)
    points = [backend.pattern_point(layer) for layer in fired]

    def keep(layer: int) -> Any:
        def hook(pattern: Tensor, hook: Any) -> Tensor | None:
            fired[layer] += 1
            if held is None:
                seen[layer] = pattern[0].detach().clone()
                return None
            if pattern.shape[1:] != held.shape[1:]:
                raise SteeringError(f"attention of shape {list(held.shape[1:])} held where the pass has {list(pattern.shape[1:])}")
            seen[layer] = held[layer]
            return held[layer][None].to(pattern)

        return hook

    with _hooked([(point, keep(layer)) for layer, point in enumerate(points)]):
        yield seen
    wrong = [layer for layer, count in fired.items() if count != 1]
    if wrong:
        raise SteeringError(f"blocks.{wrong[0]}.attn.hook_pattern fired {fired[wrong[0]]} times in one pass instead of once")


@contextmanager
def _hooked(hooks: list[tuple[Any, Any]]) -> Iterator[None]:
    # only our own handles are taken off again: a user's hooks on the same points stay
    handles: list[tuple[Any, Any]] = []
    try:
        for point, hook in hooks:
            handles.append((point, point.add_hook(hook)))
        yield
    finally:
        for point, handle in handles:
            handle.hook.remove()
            point.fwd_hooks.remove(handle)
