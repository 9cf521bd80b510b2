"""The only code that changes activations: impulses and mixtures at single tokens of a pass, and captures, as context managers.

Each one proves that it ran: an unknown hook is an error before the pass, a hook that did not fire exactly once is an error after it, and an
exception leaves no hook on the model. Tokens without an impulse or a mixture are not touched: their activations stay bit-equal.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stir_core.errors import SteeringError
from stir_core.models.backends import Backend
from stir_core.models.transfer import moved, to_device


class Impulse(NamedTuple):
    """A vector added once to the residual stream after block ``layer``."""

    layer: int
    vector: Float[Tensor, "d_model"]


Mixture = tuple[list[int], list[float]]
"""Token ids and their weights, which sum to 1: the weighted sum of the tokens' embeddings replaces one token's embedding."""

InputEmbedding = Mixture | Float[Tensor, "d_model"]
"""What replaces one token's embedding: a mixture, or any vector (a latent)."""

_WEIGHT_SLACK = 1e-4
"""Allowed distance of a sum of weights from 1: covers rounding in float32, not weights that were never normalised."""


@contextmanager
def impulses(
    backend: Backend, plan: list[tuple[int, Impulse]], *, tokens: int, d_model: int, device: torch.device | None = None
) -> Iterator[None]:
    """Add each impulse at its token of the one forward pass inside the block.

    Args:
        plan: (token of the pass, impulse).
        tokens: number of tokens of the pass.
        device: the model's; the vectors of all layers are moved there together.

    Raises:
        SteeringError: unknown layer or token or wrong width before the pass; a hook that did not fire exactly once after it.
    """
    by_layer: dict[int, list[int]] = {}
    for i, (at, impulse) in enumerate(plan):
        if not 0 <= at < tokens:
            raise SteeringError(f"impulse at token {at} of a pass of {tokens}: give a token from 0 to {tokens - 1}")
        if tuple(impulse.vector.shape) != (d_model,):
            raise SteeringError(
                f"impulse of shape {list(impulse.vector.shape)} on a residual stream of width {d_model}: give a vector of this model"
            )
        by_layer.setdefault(impulse.layer, []).append(i)

    hooks: _Hooks = {}
    if plan:
        order = [i for planned in by_layer.values() for i in planned]
        vectors = torch.stack([plan[i][1].vector for i in order])
        device = vectors.device if device is None else device
        sizes = [len(planned) for planned in by_layer.values()]
        places = to_device([[plan[i][0] for i in planned] for planned in by_layer.values()], device)
        for layer, at_, each in zip(by_layer, places, moved(vectors, device).split(sizes), strict=True):
            hooks[f"the impulse at blocks.{layer}.hook_out"] = backend.hook_point(layer), partial(_add, at_, each)
    with _hooked(hooks):
        yield


def _add(at: Int[Tensor, "n"], vectors: Float[Tensor, "n d_model"], stream: Tensor) -> Float[Tensor, "1 pos d_model"]:
    steered = _one_stream(stream).clone()
    steered[0, at.to(stream.device)] += vectors.to(stream)
    return steered


@contextmanager
def mixtures(backend: Backend, plan: list[tuple[int, InputEmbedding]], *, tokens: int) -> Iterator[None]:
    """Replace the embedding of each planned token of the one forward pass inside the block by a mixture of token embeddings or a vector.

    A mixture of one token is that token, bit for bit. The sum is computed in float32.

    Args:
        plan: (token of the pass, what replaces its embedding).
        tokens: number of tokens of the pass.

    Raises:
        SteeringError: unknown token, weights that are not a distribution or a vector of another width before the pass; a hook that did not
            fire exactly once after it.
    """
    if not plan:
        yield
        return
    width, of = (first := backend.embed([0])).shape[1], first.device
    for at, fed in plan:
        if not 0 <= at < tokens:
            raise SteeringError(f"mixture at token {at} of a pass of {tokens}: give a token from 0 to {tokens - 1}")
        if isinstance(fed, Tensor):
            if tuple(fed.shape) != (width,):
                raise SteeringError(f"a vector of shape {list(fed.shape)} fed to embeddings of width {width}: give a vector of this model")
            continue
        ids, weights = fed
        if len(ids) != len(weights) or any(not weight >= 0 for weight in weights) or abs(sum(weights) - 1) > _WEIGHT_SLACK:
            raise SteeringError(f"a mixture of {len(ids)} tokens with weights {weights[:5]}: give each a weight, adding up to 1")
    mixed = torch.stack([fed.to(of, torch.float32) if isinstance(fed, Tensor) else _mix(backend.embed(fed[0]), fed[1]) for _, fed in plan])
    with _hooked({"the mixture at hook_embed": (backend.embed_point(), partial(_replace, [at for at, _ in plan], mixed))}):
        yield


def _replace(at: list[int], mixed: Float[Tensor, "n d_model"], stream: Float[Tensor, "1 pos d_model"]) -> Float[Tensor, "1 pos d_model"]:
    changed = stream.clone()
    changed[0, torch.tensor(at).to(stream.device)] = mixed.to(stream)
    return changed


def _mix(rows: Float[Tensor, "n d_model"], weights: list[float]) -> Float[Tensor, "d_model"]:
    # a sum rather than a matrix product, whose bits would depend on the kernel chosen for its shape
    return (torch.tensor(weights, device=rows.device)[:, None] * rows.float()).sum(dim=0)


@contextmanager
def captured(
    backend: Backend, layers: tuple[int, ...], at: list[int] | Int[Tensor, "n"], *, detached: bool = True
) -> Iterator[dict[int, Tensor]]:
    """Capture block outputs at the tokens ``at`` of the one forward pass inside the block, by layer, after any impulse there.

    Args:
        detached: without the derivatives that the pass computes.

    Yields:
        A dict that fills during the pass: ``[len(at), d_model]`` by layer; it stays empty if ``at`` is.

    Raises:
        SteeringError: unknown layer before the pass; a hook that did not fire exactly once after it.
    """
    seen: dict[int, Tensor] = {}
    names = {layer: f"the capture at blocks.{layer}.hook_out" for layer in layers}
    hooks: _Hooks = {name: (backend.hook_point(layer), partial(_keep, seen, layer, at, detached)) for layer, name in names.items()}
    with _hooked(hooks if len(at) else {}):
        yield seen


def _keep(seen: dict[int, Tensor], layer: int, at: list[int] | Tensor, detached: bool, stream: Tensor) -> None:
    where = at.to(stream.device) if isinstance(at, Tensor) else at  # blocks may lie on several devices
    rows = _one_stream(stream)[0, where]
    seen[layer] = rows.detach() if detached else rows


def _one_stream(stream: Tensor) -> Tensor:
    if stream.ndim != 3:  # several streams side by side (Gemma 3n): which of them an impulse means is not defined
        raise SteeringError(f"this model's blocks do not output one residual stream but {list(stream.shape)}: take another model")
    return stream


@contextmanager
def attention(backend: Any, held: Float[Tensor, "layers heads tokens columns"] | None = None) -> Iterator[dict[int, Tensor]]:
    """Capture every block's attention pattern in the one forward pass inside the block; with ``held`` put these in their place.

    Args:
        backend: the raw bridge; the lean decoder has no such hook points.

    Yields:
        A dict that fills during the pass: ``[heads, tokens, columns]`` by layer, as the values were weighted.

    Raises:
        SteeringError: no such hook before the pass, another shape in it, a hook that did not fire exactly once after it.
    """
    seen: dict[int, Tensor] = {}
    hooks: _Hooks = {}
    for layer in range(backend.n_layers):
        hooks[f"blocks.{layer}.attn.hook_pattern"] = backend.pattern_point(layer), partial(_hold, seen, layer, held)
    with _hooked(hooks):
        yield seen


def _hold(seen: dict[int, Tensor], layer: int, held: Tensor | None, pattern: Tensor) -> Tensor | None:
    if held is None:
        seen[layer] = pattern[0].detach().clone()
        return None
    if pattern.shape[1:] != held.shape[1:]:
        raise SteeringError(
            f"attention of shape {list(held.shape[1:])} held where the pass has {list(pattern.shape[1:])}: hold those of the same tokens"
        )
    seen[layer] = held[layer]
    return held[layer][None].to(pattern)


_Hooks = dict[str, tuple[Any, Callable[[Tensor], Tensor | None]]]
"""By the name in an error message: a hook point, and a function of its output that returns a replacement or ``None``."""


@contextmanager
def _hooked(hooks: _Hooks) -> Iterator[None]:
    fired = dict.fromkeys(hooks, 0)
    # only our own handles are removed: a user's hooks on the same points stay
    handles: list[tuple[Any, Any]] = []
    try:
        for name, (point, change) in hooks.items():
            handles.append((point, point.add_hook(partial(_counted, fired, name, change))))
        yield
    finally:
        for point, handle in handles:
            handle.hook.remove()
            point.fwd_hooks.remove(handle)
    for name, count in fired.items():
        if count != 1:
            raise SteeringError(f"{name} fired {count} times in one pass instead of once: run one forward pass inside the block")


def _counted(fired: dict[str, int], name: str, change: Callable[[Tensor], Tensor | None], output: Tensor, hook: Any) -> Tensor | None:
    fired[name] += 1
    return change(output)
