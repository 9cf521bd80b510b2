"""The only code that changes activations: impulses at the last token of a pass, and captures, as context managers that prove they ran.

An unknown hook is an error before the pass, a hook that never fired is an error after it, and an exception leaves no hook
behind. Rows without an impulse are not touched at all: their activations stay bit-equal.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.errors import SteeringError


class Impulse(NamedTuple):
    """A vector added once to the residual stream after block ``layer``, at the last token of row ``row``."""

    row: int
    layer: int
    vector: Float[Tensor, "d_model"]


def hook_point(bridge: Any, layer: int) -> Any:
    """TransformerLens hook point of block ``layer``'s output, ``blocks.{layer}.hook_out``.

    Raises:
        SteeringError: no such block.
    """
    if not 0 <= layer < len(bridge.blocks):
        raise SteeringError(f"no hook blocks.{layer}.hook_out: the model has blocks 0 to {len(bridge.blocks) - 1}")
    return bridge.blocks[layer].hook_out


@contextmanager
def impulses(bridge: Any, plan: list[Impulse], *, rows: int, d_model: int) -> Iterator[None]:
    """Add each impulse of the plan during the one forward pass inside the block.

    Raises:
        SteeringError: unknown layer or row or wrong width before the pass; a hook that did not fire exactly once after it.
    """
    by_layer: dict[int, list[Impulse]] = {}
    for impulse in plan:
        if not 0 <= impulse.row < rows:
            raise SteeringError(f"impulse for row {impulse.row} of a batch of {rows}")
        if tuple(impulse.vector.shape) != (d_model,):
            raise SteeringError(f"impulse of shape {list(impulse.vector.shape)} on a residual stream of width {d_model}")
        by_layer.setdefault(impulse.layer, []).append(impulse)
    fired = dict.fromkeys(by_layer, 0)
    points = {layer: hook_point(bridge, layer) for layer in by_layer}

    def add(layer: int) -> Any:
        at = [impulse.row for impulse in by_layer[layer]]
        vectors = torch.stack([impulse.vector for impulse in by_layer[layer]])

        def hook(stream: Tensor, hook: Any) -> Tensor:
            fired[layer] += 1
            steered = stream.clone()
            steered[at, -1] += vectors.to(stream)
            return steered

        return hook

    with _hooked([(point, add(layer)) for layer, point in points.items()]):
        yield
    wrong = [layer for layer, count in fired.items() if count != 1]
    if wrong:
        raise SteeringError(f"the impulse at blocks.{wrong[0]}.hook_out fired {fired[wrong[0]]} times in one pass instead of once")


@contextmanager
def captured(bridge: Any, layers: tuple[int, ...], *, last_only: bool) -> Iterator[dict[int, Tensor]]:
    """Collect block outputs of the one forward pass inside the block, by layer, after any impulse there.

    Yields:
        A dict that fills during the pass: ``[rows, d_model]`` at the last token, or ``[rows, pos, d_model]``.

    Raises:
        SteeringError: unknown layer before the pass; a hook that did not fire after it.
    """
    seen: dict[int, Tensor] = {}
    points = {layer: hook_point(bridge, layer) for layer in layers}

    def keep(layer: int) -> Any:
        def hook(stream: Tensor, hook: Any) -> None:
            seen[layer] = (stream[:, -1] if last_only else stream).detach().clone()

        return hook

    with _hooked([(point, keep(layer)) for layer, point in points.items()]):
        yield seen
    missing = [layer for layer in layers if layer not in seen]
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
