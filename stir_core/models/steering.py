"""The only code that changes activations: impulses at single tokens of a pass, and captures, as context managers that prove they ran.

An unknown hook is an error before the pass, a hook that never fired is an error after it, and an exception leaves no hook
behind. Tokens without an impulse are not touched at all: their activations stay bit-equal.
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
