"""One forward pass over tokens of many sequences, with impulses and captures, under the model's lock.

All decoding goes through :func:`forward`. Hooks are global state of the module tree; the lock keeps those of one caller from acting in
another's pass.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from stir_core.errors import ModelError, first_line
from stir_core.models.attention import Packed
from stir_core.models.backends import Decodable
from stir_core.models.cache import CacheRow
from stir_core.models.packing import Piece
from stir_core.models.sequential import FedToken, SequentialStore, cut, forget
from stir_core.models.steering import Impulse, InputEmbedding, captured, impulses, mixtures
from stir_core.models.transfer import to_device

LOG = logging.getLogger("stir_core")
T = TypeVar("T")


class Feed(NamedTuple):
    """New tokens for one row in a pass."""

    row: CacheRow
    ids: list[int]
    impulse: Impulse | None = None
    """Added at one of the new tokens: the last, or the first of several (``first``)."""
    logits: bool = True
    """Whether the logits after the last new token are wanted."""
    capture: tuple[int, ...] = ()
    """Indices into ``ids`` whose states are wanted."""
    every: bool = False
    """Logits after each of the new tokens instead of after the last only."""
    mixture: InputEmbedding | None = None
    """A mixture or a vector (a latent) that replaces the last new token's embedding; that token's id then only stands for it in the row."""
    first: bool = False
    """The impulse is at the first new token; those after it are read in the same pass."""


class Pass(NamedTuple):
    """Results of one forward pass, in the order of the feeds."""

    logits: Float[Tensor, "wanted d_vocab"]
    """Raw float32 logits after the last token of each feed with ``logits`` (after every token with ``every``)."""
    states: list[dict[int, Float[Tensor, "captured d_model"]]]
    """Block outputs at each feed's captured tokens, by layer; an empty dict for a feed without captures."""


@torch.inference_mode()
def forward(model: Decodable, feeds: list[Feed], layers: tuple[int, ...] = ()) -> Pass:
    """Run new tokens after those that their rows hold; the rows then hold them too.

    Args:
        feeds: at most one per row; a branch takes one token at a time.
        layers: blocks whose outputs are captured.
    """
    with model.lock:
        if model.backend.packs:
            return _packed(model, feeds, layers)
        passes = [_alone(model, feed, layers) for feed in feeds]
    return Pass(torch.cat([each.logits for each in passes]), [states for each in passes for states in each.states])


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice: PyTorch's for a GPU and for the CPU, and Python's own."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = ("DefaultCPUAllocator", "not enough memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)


def halved(batch: int, what: str, reason: str) -> int:
    """Half of a batch that did not fit into memory, with one line in the log.

    Args:
        what: what the batch consists of, e.g. ``"answers"``.
        reason: the first line of the error.

    Raises:
        ModelError: the batch was a single one.
    """
    if batch == 1:
        raise ModelError(
            f"memory does not suffice for one of the {what} alone ({reason}): free memory, take a smaller max_new_tokens, "
            "a smaller model, or bfloat16"
        )
    LOG.warning("memory does not suffice for %d %s at a time, continuing with %d (%s)", batch, what, batch // 2, reason)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return batch // 2


def in_batches(lengths: list[int], most: int, read: Callable[[slice], T]) -> Iterator[T]:
    """Read sequences in :func:`batches`; a batch that does not fit into memory is read again in halves.

    Args:
        read: makes the result of a batch.

    Raises:
        ModelError: a sequence does not fit into memory alone.
    """
    start = 0
    while start < len(lengths):
        stop = start + next(batches(lengths[start:], most)).stop
        made: list[T] = []
        reason = ""
        try:
            made.append(read(slice(start, stop)))
        except (RuntimeError, MemoryError) as error:
            if not lacks_memory(error):
                raise
            reason = first_line(error)
        if reason:  # only now: the error holds what the pass had allocated
            most = max(1, sum(lengths[start : start + halved(stop - start, "sequences", reason)]))
        else:
            yield from made
            start = stop


def batches(lengths: list[int], most: int) -> Iterator[slice]:
    """Neighbouring sequences that hold at most ``most`` tokens together, at least one each time."""
    start = 0
    while start < len(lengths):
        stop = start + 1
        while stop < len(lengths) and sum(lengths[start : stop + 1]) <= most:
            stop += 1
        yield slice(start, stop)
        start = stop


def _packed(model: Decodable, feeds: list[Feed], layers: tuple[int, ...]) -> Pass:
    """One pass for all feeds."""
    packed = Packed([Piece(feed.row, feed.ids) for feed in feeds], device=model.device, eager=model.eager)
    ends = dict(zip(packed.order, packed.ends, strict=True))
    plan = [(ends[i] - (len(feed.ids) - 1) * feed.first, feed.impulse) for i, feed in enumerate(feeds) if feed.impulse is not None]
    mixed = [(ends[i], feed.mixture) for i, feed in enumerate(feeds) if feed.mixture is not None]
    at = [ends[i] - len(feed.ids) + 1 + j for i, feed in enumerate(feeds) for j in feed.capture]
    wanted = [i for i, feed in enumerate(feeds) if feed.logits]
    kept = [end for i in wanted for end in range(ends[i] - len(feeds[i].ids) + 1 if feeds[i].every else ends[i], ends[i] + 1)]
    numbers = packed.settle(kept, at)
    logits, seen = _run(model, numbers, packed, layers, plan, mixed)
    packed.advance()
    states: list[dict[int, Tensor]] = []
    start = 0
    for feed in feeds:
        stop = start + len(feed.capture)
        states.append({layer: seen[layer][start:stop] for layer in layers} if feed.capture else {})
        start = stop
    return Pass(logits, states)


def _alone(model: Decodable, feed: Feed, layers: tuple[int, ...]) -> Pass:
    """One feed over a Hugging Face cache, in as many passes as it takes: earlier tokens without a cache are read again before it.

    A token with an impulse or a mixture ends its pass. With a recurrent state the last token is read by itself, so that the row can go back
    to before it, as impulses and branches do.
    """
    row: Any = feed.row
    store: SequentialStore = row.store
    length, cache = store.longest(row, row.total)
    again = store.tokens(row, length, row.total)
    new = [FedToken(token) for token in feed.ids]
    new[-1] = FedToken(feed.ids[-1], None, feed.mixture)
    carrier = 0 if feed.first else -1
    new[carrier] = new[carrier]._replace(impulse=feed.impulse)
    tokens = [*again, *new]
    ends = {i + 1 for i, token in enumerate(tokens) if token.impulse is not None or token.mixture is not None}
    ends |= {len(again), len(tokens)} | (set() if store.cuts else {len(tokens) - 1})
    logits: list[Tensor] = []
    seen: dict[int, dict[int, Tensor]] = {layer: {} for layer in layers}
    caches: list[tuple[int, DynamicCache, bool]] = []
    start = 0
    for end in sorted(ends - {0}):
        piece, first = tokens[start:end], start - len(again)
        at = [i - first for i in feed.capture if first <= i < end - len(again)] if start >= len(again) else []
        wanted = range(len(piece)) if feed.every and start >= len(again) else [len(piece) - 1] if end == len(tokens) else []
        plan = [(i, token.impulse) for i, token in enumerate(piece) if token.impulse is not None]
        mixed = [(i, token.mixture) for i, token in enumerate(piece) if token.mixture is not None]
        positions = list(range(length + start, length + end))
        kept = list(wanted) if feed.logits else []
        numbers = to_device([[token.id for token in piece], positions, kept, at], model.device)
        made, states = _run(model, numbers, cache, layers, plan, mixed)
        logits.append(made)
        for layer, captured_ in states.items():
            seen[layer] |= dict(zip((i + first for i in at), captured_, strict=True))
        caches.append((length + end, cache, len(piece) > 1))
        if end < len(tokens):
            cache = cut(cache, None)
        start = end
    forget(row, row.total)
    row.fed[row.length :] = new
    row.length += len(new)
    for at_, held, several in caches:
        store.remember(row, at_, held, several=several)
    states = {layer: torch.stack([by[i] for i in feed.capture]) for layer, by in seen.items()} if feed.capture else {}
    return Pass(torch.cat(logits), [states])


def _run(
    model: Decodable,
    numbers: list[Int[Tensor, "_"]],
    cache: Any,
    layers: tuple[int, ...],
    plan: list[tuple[int, Impulse]],
    mixed: list[tuple[int, InputEmbedding]],
) -> tuple[Float[Tensor, "kept d_vocab"], dict[int, Tensor]]:
    """One pass over packed tokens; ``numbers``: ids, positions, where logits are kept, where states are captured by layer."""
    ids, positions, kept, at = numbers
    with (
        mixtures(model.backend, mixed, tokens=len(ids)),
        impulses(model.backend, plan, tokens=len(ids), d_model=model.d_model, device=model.device),
        captured(model.backend, layers, at) as seen,
    ):
        logits = model.backend.forward(ids[None], positions[None], cache, kept)
    return logits.to(model.device, torch.float32), {layer: states.to(model.device) for layer, states in seen.items()}
