"""One forward pass over tokens of many sequences, with impulses and captures, under the model's lock.

All decoding goes through :func:`forward`. Hooks are global state of the module tree; the lock keeps those of one caller from acting in
another's pass.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.models.attention import Packed, Piece
from stir_core.models.backends import row_cache, take_over
from stir_core.models.cache import CacheRow
from stir_core.models.loading import LoadedModel
from stir_core.models.steering import Impulse, Mixture, captured, impulses, mixtures


class Feed(NamedTuple):
    """New tokens for one row in a pass."""

    row: CacheRow
    ids: list[int]
    impulse: Impulse | None = None
    """Added at the last of the new tokens."""
    logits: bool = True
    """Whether the logits after the last new token are wanted."""
    capture: tuple[int, ...] = ()
    """Indices into ``ids`` whose states are wanted."""
    every: bool = False
    """Logits after each of the new tokens instead of after the last only."""
    mixture: Mixture | None = None
    """Replaces the last new token's embedding; that token's id then only stands for it in the row."""


class Pass(NamedTuple):
    """Results of one forward pass, in the order of the feeds."""

    logits: Float[Tensor, "wanted d_vocab"]
    """Raw float32 logits after the last token of each feed with ``logits`` (after every token with ``every``)."""
    states: list[dict[int, Float[Tensor, "captured d_model"]]]
    """Block outputs at each feed's captured tokens, by layer; an empty dict for a feed without captures."""


@torch.inference_mode()
def forward(model: LoadedModel, feeds: list[Feed], layers: tuple[int, ...] = ()) -> Pass:
    """Run new tokens after those that their rows hold; the rows then hold them too.

    Args:
        feeds: at most one per row; a branch takes one token at a time.
        layers: blocks whose outputs are captured.
    """
    with model.lock:
        if model.backend.packs:
            return _run(model, feeds, layers)
        passes = [_run(model, [feed], layers) for feed in feeds]
    return Pass(torch.cat([each.logits for each in passes]), [states for each in passes for states in each.states])


def batches(lengths: list[int], most: int) -> Iterator[slice]:
    """Neighbouring sequences that hold at most ``most`` tokens together, at least one each time."""
    start = 0
    while start < len(lengths):
        stop = start + 1
        while stop < len(lengths) and sum(lengths[start : stop + 1]) <= most:
            stop += 1
        yield slice(start, stop)
        start = stop


def _run(model: LoadedModel, feeds: list[Feed], layers: tuple[int, ...]) -> Pass:
    """One pass; a backend that does not pack takes one feed, over a Hugging Face cache in the place of the packed one."""
    packed = Packed([Piece(feed.row, feed.ids) for feed in feeds], device=model.device, eager=model.eager)
    cache = packed if model.backend.packs else row_cache(feeds[0].row)
    ends = dict(zip(packed.order, packed.ends, strict=True))
    plan = [(ends[i], feed.impulse) for i, feed in enumerate(feeds) if feed.impulse is not None]
    mixed = [(ends[i], feed.mixture) for i, feed in enumerate(feeds) if feed.mixture is not None]
    at = [ends[i] - len(feed.ids) + 1 + j for i, feed in enumerate(feeds) for j in feed.capture]
    wanted = [i for i, feed in enumerate(feeds) if feed.logits]
    kept = [end for i in wanted for end in range(ends[i] - len(feeds[i].ids) + 1 if feeds[i].every else ends[i], ends[i] + 1)]
    keep = torch.tensor(kept, dtype=torch.long, device=model.device)
    with (
        mixtures(model.backend, mixed, tokens=len(packed.ids)),
        impulses(model.backend, plan, tokens=len(packed.ids), d_model=model.d_model),
        captured(model.backend, layers, at) as seen,
    ):
        logits = model.backend.forward(
            torch.tensor([packed.ids], device=model.device), torch.tensor([packed.positions], device=model.device), cache, keep
        )
    if isinstance(cache, Packed):
        cache.advance()
    else:
        take_over(feeds[0].row, cache, len(packed.ids))
    states: list[dict[int, Tensor]] = []
    start = 0
    for feed in feeds:
        stop = start + len(feed.capture)
        states.append({layer: seen[layer][start:stop] for layer in layers} if feed.capture else {})
        start = stop
    return Pass(logits.float(), states)
