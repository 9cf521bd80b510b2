"""One forward pass over tokens of many sequences: logits and states out, interventions and captures inside, under the model's lock.

Every other module reaches the model through :func:`forward` alone, so hooks (which are global state of the module tree) can
never leak from one caller into another.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.models.attention import Packed, Piece
from stir_core.models.backends import row_cache, take_over
from stir_core.models.cache import Row, Store
from stir_core.models.loading import LoadedModel
from stir_core.models.steering import Impulse, Mixture, captured, impulses, mixtures


class Feed(NamedTuple):
    """New tokens for one row in a pass."""

    row: Row
    ids: list[int]
    impulse: Impulse | None = None
    """Added at the last of the new tokens."""
    logits: bool = True
    """Whether the logits after the last new token are wanted."""
    capture: tuple[int, ...] = ()
    """Indices into ``ids`` whose states are wanted."""
    every: bool = False
    """Logits after each of the new tokens instead of the last alone."""
    mixture: Mixture | None = None
    """Read in the place of the last new token's embedding; the token itself is only a name for it then."""


class Pass(NamedTuple):
    """What one forward pass gave, in the order of the feeds."""

    logits: Float[Tensor, "wanted d_vocab"]
    """Raw float32 logits after the last token of each feed that asked for them (after every token, where it asked for that)."""
    states: list[dict[int, Float[Tensor, "captured d_model"]]]
    """Block outputs of each feed's captured tokens, by layer; empty dicts where nothing was captured."""


@torch.inference_mode()
def forward(model: LoadedModel, feeds: list[Feed], layers: tuple[int, ...] = ()) -> Pass:
    """Run new tokens behind what their rows hold; the rows then hold them too.

    Args:
        feeds: at most one a row; a branch takes one token at a time.
        layers: blocks whose outputs are captured.
    """
    with model.lock:
        if model.backend.packs:
            return _packed(model, feeds, layers)
        return _one_by_one(model, feeds, layers)


def batches(lengths: list[int], most: int) -> Iterator[slice]:
    """Neighbouring sequences that hold at most ``most`` tokens together, at least one each time."""
    start = 0
    while start < len(lengths):
        stop = start + 1
        while stop < len(lengths) and sum(lengths[start : stop + 1]) <= most:
            stop += 1
        yield slice(start, stop)
        start = stop


def read(model: LoadedModel, sequences: list[list[int]], layers: tuple[int, ...] = ()) -> tuple[list[Row], Pass]:
    """Prefill whole sequences in a store of their own; the states are those of each last token."""
    store = model.new_store()
    rows = [store.open() for _ in sequences]
    return rows, forward(model, [Feed(row, ids, capture=(len(ids) - 1,)) for row, ids in zip(rows, sequences, strict=True)], layers)


def _packed(model: LoadedModel, feeds: list[Feed], layers: tuple[int, ...]) -> Pass:
    cache = Packed([Piece(feed.row, feed.ids) for feed in feeds], eager=model.eager)
    ends = dict(zip(cache.order, cache.ends, strict=True))
    plan = [(ends[i], feed.impulse) for i, feed in enumerate(feeds) if feed.impulse is not None]
    mixed = [(ends[i], feed.mixture) for i, feed in enumerate(feeds) if feed.mixture is not None]
    at = [ends[i] - len(feed.ids) + 1 + j for i, feed in enumerate(feeds) for j in feed.capture]
    wanted = [i for i, feed in enumerate(feeds) if feed.logits]
    kept = [end for i in wanted for end in range(ends[i] - len(feeds[i].ids) + 1 if feeds[i].every else ends[i], ends[i] + 1)]
    keep = torch.tensor(kept, dtype=torch.long, device=model.device)
    with (
        mixtures(model.backend, mixed, tokens=len(cache.ids)),
        impulses(model.backend, plan, tokens=len(cache.ids), d_model=model.d_model),
        captured(model.backend, layers, at) as seen,
    ):
        logits = model.backend.forward(
            torch.tensor([cache.ids], device=model.device), torch.tensor([cache.positions], device=model.device), cache, keep
        )
    cache.advance()
    states: list[dict[int, Tensor]] = []
    start = 0
    for feed in feeds:
        stop = start + len(feed.capture)
        states.append({layer: seen[layer][start:stop] for layer in layers} if feed.capture else {})
        start = stop
    return Pass(logits.float(), states)


def _one_by_one(model: LoadedModel, feeds: list[Feed], layers: tuple[int, ...]) -> Pass:
    """The same for a backend that takes one sequence a pass."""
    logits: list[Tensor] = []
    states: list[dict[int, Tensor]] = []
    for row, ids, impulse, wanted, capture, every, mixture in feeds:
        cache = row_cache(row)
        last = len(ids) - 1
        with (
            mixtures(model.backend, [(last, mixture)] if mixture is not None else [], tokens=len(ids)),
            impulses(model.backend, [(last, impulse)] if impulse is not None else [], tokens=len(ids), d_model=model.d_model),
            captured(model.backend, layers, list(capture)) as seen,
        ):
            positions = torch.arange(row.total, row.total + len(ids), device=model.device)[None]
            keep = torch.arange(0 if every else last, len(ids), device=model.device)
            found = model.backend.forward(torch.tensor([ids], device=model.device), positions, cache, keep)
        take_over(row, cache, len(ids))
        states.append({layer: seen[layer] for layer in layers} if capture else {})
        if wanted:
            logits.append(found.float())
    return Pass(torch.cat(logits) if logits else torch.empty(0, 0), states)


def scratch(model: LoadedModel) -> Store:
    """A small store for branches, which hold a few tokens each."""
    return Store(model.n_layers, columns=8)
