"""Answer with latents: think slot by slot, really stop at stop, then write the text. A batch of questions side by side."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from stir_core.latent.frame import PADDING, Reasoner


class LatentChoice(NamedTuple):
    """How latents and text are chosen. The default is the mended way; ``published`` is ATP-Latent's."""

    noise: torch.Generator | None = None
    """Source of the latents' noise; ``None``: each latent is its mean."""
    sample: torch.Generator | None = None
    """Source of draws from the stop head and from the text's logits at temperature 1; ``None``: the likeliest."""
    slots: int | None = None
    """Exactly so many latents; ``None``: until the stop head says stop."""
    first: Float[Tensor, "batch fed d_model"] | None = None
    """Latents fed at the first slots in place of the reasoner's own; it thinks on from there, and may stop no earlier."""
    published: bool = False
    """Run every slot's pass although the answer has stopped, and count these slots in the positions of the first pass after them."""
    spread: float = 0.0
    """Standard deviation of Gaussian noise on each of its own latents, beside the noise of its own."""
    dropout: float = 0.0
    """Share of the inputs of every linear map that is dropped in its own latents' passes. Both draw from ``noise``."""


OWN = LatentChoice()
"""Latents at their means, until the stop head says stop; the likeliest text."""


class LatentAnswer(NamedTuple):
    """One answer."""

    vectors: Float[Tensor, "latents d_model"]
    """What was fed."""
    ending: Float[Tensor, "d_model"] | None
    """The latent on which the stop head said stop; ``None``: it did not, since there was no room or nothing was asked."""
    ids: list[int]
    """The text after the latents, with its end-of-text token if it came to that."""
    passes: int
    """Forward passes, one after the other."""
    positions: int
    """Positions that were run."""
    states: Float[Tensor, "latents d_model"]
    """The state before each latent, after the final norm."""


class _Chain(NamedTuple):
    """Rows that stopped at the same slot."""

    rows: list[int]
    vectors: Float[Tensor, "rows latents d_model"]
    states: Float[Tensor, "rows latents d_model"]
    ending: Float[Tensor, "rows d_model"] | None
    cache: DynamicCache
    visible: Bool[Tensor, "rows cached"]
    """What of the cache is no padding."""


@torch.no_grad()
def reason(
    reasoner: Reasoner,
    question: Int[Tensor, "batch question"],
    choice: LatentChoice = OWN,
    *,
    given: Float[Tensor, "batch latents d_model"] | None = None,
    most_text: int = 16,
) -> list[LatentAnswer]:
    """Answer questions.

    Args:
        question: filled up on the left, as in :class:`~stir_core.latent.frame.LatentBatch`.
        given: latents to feed in place of the reasoner's own.
        most_text: longest text after the latents, in tokens.
    """
    question = question.to(reasoner.device)
    lengths = (question != PADDING).sum(1).tolist()
    if not reasoner.most:
        texts = write_text(reasoner, question, DynamicCache(), question[:, :0] != PADDING, most_text, choice.sample)
        empty = reasoner.embed(question)[0, :0]
        return [LatentAnswer(empty, None, ids, len(ids), n + len(ids) - 1, empty) for n, ids in zip(lengths, texts, strict=True)]
    answers: dict[int, LatentAnswer] = {}
    for chain in _chains(reasoner, question, choice) if given is None else [_read_given(reasoner, question, given)]:
        latents = chain.vectors.shape[1]
        end = question.new_full((len(chain.rows), 1), reasoner.markers.end)
        idle = reasoner.most - latents if choice.published and given is None else 0
        texts = write_text(reasoner, end, chain.cache, chain.visible, most_text, choice.sample, skipped=idle)
        for i, (row, ids) in enumerate(zip(chain.rows, texts, strict=True)):
            thought = 1 if given is not None else 1 + latents + idle
            ending = None if chain.ending is None else chain.ending[i]
            run = lengths[row] + 1 + latents + idle + len(ids)
            answers[row] = LatentAnswer(chain.vectors[i], ending, ids, thought + len(ids), run, chain.states[i])
    return [answers[row] for row in range(len(question))]


def _chains(reasoner: Reasoner, question: Int[Tensor, "batch question"], choice: LatentChoice) -> Iterator[_Chain]:
    """Think; rows that stop leave the batch."""
    cache = DynamicCache()
    asked = reasoner.marked(question, reasoner.markers.start)
    visible = asked != PADDING
    state = reasoner.read(reasoner.embed(asked), cache, visible)[:, -1]
    rows, vectors = torch.arange(len(question), device=state.device), state[:, None][:, :0]
    states = vectors
    done = torch.zeros_like(rows, dtype=torch.bool)  # used where stopped rows go on
    room = reasoner.most if choice.slots is None else choice.slots
    fed = 0 if choice.first is None else choice.first.shape[1]
    for slot in range(room + 1):
        noise = None if choice.noise is None else torch.randn(state.shape, generator=choice.noise).to(state)
        vector = choice.first[rows, slot] if choice.first is not None and slot < fed else reasoner.latent(state, noise).vector
        if choice.spread and slot >= fed:
            vector = vector + choice.spread * torch.randn(vector.shape, generator=choice.noise).to(vector)
        decides = choice.slots is None and fed <= slot < room and slot % reasoner.options.per_step == 0
        logits = reasoner.stop_logits(vector) if decides else None
        stop = torch.full_like(done, slot == room) if logits is None else _chosen(logits, choice.sample).bool()
        stop = stop & ~done
        if stop.any():
            ended = copy.deepcopy(cache)
            ended.batch_select_indices(stop.nonzero()[:, 0])
            yield _Chain(rows[stop].tolist(), vectors[stop], states[stop], None if logits is None else vector[stop], ended, visible[stop])
            done = done | stop
        if done.all() and not choice.published:
            return
        if slot == room:
            return
        if not choice.published and done.any():
            cache.batch_select_indices((~done).nonzero()[:, 0])
            kept = rows, vectors, states, vector, state, visible, done
            rows, vectors, states, vector, state, visible, done = (each[~done] for each in kept)
        vectors, states = torch.cat([vectors, vector[:, None]], dim=1), torch.cat([states, state[:, None]], dim=1)
        visible = _widened(visible, 1)
        with _dropped(reasoner, choice if slot >= fed else OWN):
            state = reasoner.read(vector[:, None], cache, visible)[:, -1]


@contextmanager
def _dropped(reasoner: Reasoner, choice: LatentChoice) -> Iterator[None]:
    """Dropout at every linear map of the language model; most models have none of their own."""

    def drop(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        kept = torch.rand(inputs[0].shape, generator=choice.noise) >= choice.dropout
        return (inputs[0] * kept.to(inputs[0]) / (1 - choice.dropout),)

    linear = [part for part in reasoner.lm.base_model.modules() if isinstance(part, nn.Linear)] if choice.dropout else []
    hooks = [part.register_forward_pre_hook(drop) for part in linear]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _read_given(reasoner: Reasoner, question: Int[Tensor, "batch question"], given: Float[Tensor, "batch latents d_model"]) -> _Chain:
    cache, asked = DynamicCache(), reasoner.marked(question, reasoner.markers.start)
    visible = _widened(asked != PADDING, given.shape[1])
    states = reasoner.read(torch.cat([reasoner.embed(asked), given], dim=1), cache, visible)
    return _Chain(list(range(len(question))), given, states[:, question.shape[1] : -1], None, cache, visible)


def _widened(visible: Bool[Tensor, "rows pos"], n: int) -> Bool[Tensor, "rows widened"]:
    return torch.cat([visible, visible.new_ones(len(visible), n)], dim=1)


def write_text(
    reasoner: Reasoner,
    ids: Int[Tensor, "rows pos"],
    cache: DynamicCache,
    visible: Bool[Tensor, "rows cached"],
    most: int,
    sample: torch.Generator | None,
    *,
    skipped: int = 0,
) -> list[list[int]]:
    """Decode the text after ``ids`` and what the cache holds, up to its end-of-text token or ``most`` tokens.

    Args:
        visible: what of the cache is no padding.
        skipped: positions that the first pass leaves free.
    """
    written = ids[:, :0]
    fed = ids
    for _ in range(most):
        visible = torch.cat([visible, fed != PADDING], dim=1)
        state = reasoner.read(reasoner.embed(fed), cache, visible, skipped=skipped)[:, -1:]
        fed = _chosen(reasoner.logits(state)[:, 0], sample)[:, None]
        written, skipped = torch.cat([written, fed], dim=1), 0
        if bool((written == reasoner.markers.eos).any(dim=1).all()):
            break
    eos = reasoner.markers.eos
    return [row[: row.index(eos) + 1] if eos in row else row for row in written.tolist()]


def _chosen(logits: Float[Tensor, "rows n"], sample: torch.Generator | None) -> Int[Tensor, "rows"]:
    if sample is None:
        return logits.argmax(-1)
    return torch.multinomial(logits.softmax(-1).cpu(), 1, generator=sample)[:, 0].to(logits.device)
