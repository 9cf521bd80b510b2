"""Draw tokens for rows of any lengths side by side, each with its own budget, stop rule and named random stream.

A row's tokens do not depend on the rows beside it: each row samples from its own stream, and rows share only the matrix products.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from stir_core.models.cache import CacheRow
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed, forward, in_batches
from stir_core.records import Finish
from stir_core.tasks.thinking import PartBudgets

LIKELIEST = 64
"""Number of likeliest tokens tried first for a nucleus; the whole vocabulary is only sorted if their mass is too small."""


class Sampling(NamedTuple):
    """How the next token is drawn. Temperature 0 is greedy (ties: lowest id)."""

    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(eq=False)
class Strand:
    """One sequence being decoded. ``ids`` grows; ``finish`` is set when it ends."""

    name: str
    budget: int
    """Maximum number of tokens it may take (at least 1)."""
    rng: np.random.Generator | None = None
    """Its own random stream; needed when the temperature is above 0."""
    ends_step: Callable[[int], bool] | None = None
    """Called with every token id; True when the step delimiter is complete. ``None``: delimiters do not end the strand."""
    parts: PartBudgets | None = None
    """Budgets of the answer's thinking and final part, after all tokens before this strand; they take its tokens. ``None``: no limits."""
    row: CacheRow | None = None
    """Holds its keys and values, except those of its last token."""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    """Log-probability of each id under the model, temperature 1, in nats."""
    likeliest: int = 0
    """Number of likeliest tokens to keep for each id."""
    alternatives: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    """For each id the likeliest tokens in its place with their log-probabilities, likeliest first; empty if ``likeliest`` is 0."""
    finish: Finish | None = None
    forced: Sequence[int] = ()
    """Its first tokens, taken instead of drawn ones."""

    @property
    def mean_logprob(self) -> float | None:
        """Mean over the decoded tokens, in nats; ``None`` before the first."""
        return fsum(self.logprobs) / len(self.logprobs) if self.logprobs else None

    @property
    def mean_at_most(self) -> float:
        """The largest mean log-probability that it can end with, whatever its other tokens are: as if all of them were certain."""
        return fsum(self.logprobs) / self.budget


@torch.inference_mode()
def draw(model: LoadedModel, strands: list[Strand], logits: Float[Tensor, "rows d_vocab"], sampling: Sampling) -> None:
    """Draw the next token of each strand.

    A strand ends at an end-of-text token (``"stop"``), a complete delimiter (``"delimiter"``) or a budget (``"length"``). Where the budget
    of the thinking is spent, the tokens that end it are taken instead of drawn ones; so are a strand's forced ones.
    """
    greedy = sampling.temperature == 0
    ids = logits.argmax(dim=-1) if greedy else nucleus(logits, [_uniform(strand) for strand in strands], sampling)
    for i, strand in enumerate(strands):
        if strand.parts is not None and strand.parts.due:
            ids[i] = strand.parts.due[0]
        elif len(strand.ids) < len(strand.forced):
            ids[i] = strand.forced[len(strand.ids)]
    total = logits.logsumexp(dim=-1)
    chosen = logits.gather(1, ids[:, None])[:, 0] - total
    for i, (strand, token_id, logprob) in enumerate(zip(strands, ids.tolist(), chosen.tolist(), strict=True)):
        strand.ids.append(token_id)
        strand.logprobs.append(logprob)
        if strand.likeliest:
            top = (logits[i] - total[i]).topk(min(strand.likeliest, logits.shape[1]))
            strand.alternatives.append(tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)))
        strand.finish = _ending(model, strand, token_id)


class TextStream:
    """The text that each new token adds to the text so far.

    An incomplete character waits for the rest of its bytes. Only the last few tokens are decoded, so a token's cost does not grow with the
    length of the text. They are decoded together with the token before, since some tokenizers decode a token differently at a text's start.
    """

    def __init__(self, decode: Callable[[list[int]], str]):
        self._decode = decode
        self._ids: list[int] = []
        self._told = 0
        """Number of ids in ``_ids`` whose text was returned already."""

    def push(self, token_id: int) -> str:
        """Add the next token; returns the text that it completes, which may be empty."""
        self._ids.append(token_id)
        before, now = self._decode(self._ids[: self._told]), self._decode(self._ids)
        if now.endswith("\ufffd"):
            return ""
        del self._ids[: self._told]
        self._told = len(self._ids)
        return now[len(before) :]


@torch.inference_mode()
def score(model: LoadedModel, sequences: list[tuple[list[int], list[int]]], *, batch_tokens: int = 2048) -> list[list[float]]:
    """Log-probability, in nats, of each token of an answer after its prompt under the unsteered model.

    Args:
        sequences: (prompt ids, answer ids), neither empty.
        batch_tokens: tokens in one pass; bounds memory (each answer token needs a row of logits).
    """

    def read(part: slice) -> list[list[float]]:
        batch, store = sequences[part], model.new_store()
        rows = [store.open() for _ in batch]
        if before := [Feed(row, ids[:-1], logits=False) for row, (ids, _) in zip(rows, batch, strict=True) if len(ids) > 1]:
            forward(model, before)
        feeds = [Feed(row, [prompt[-1], *answer[:-1]], every=True) for row, (prompt, answer) in zip(rows, batch, strict=True)]
        logits = forward(model, feeds).logits
        chosen = torch.tensor([token for _, answer in batch for token in answer], device=logits.device)
        logprobs = iter((logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(dim=-1)).tolist())
        return [[next(logprobs) for _ in answer] for _, answer in batch]

    lengths = [len(prompt) + len(answer) for prompt, answer in sequences]
    return [each for scored in in_batches(lengths, batch_tokens, read) for each in scored]


def nucleus(logits: Float[Tensor, "rows d_vocab"], uniforms: list[float], sampling: Sampling) -> Int[Tensor, "rows"]:
    """Inverse-CDF draws from the smallest set of likeliest tokens whose mass reaches ``top_p``, one uniform number per row."""
    scaled = logits / sampling.temperature
    total = scaled.logsumexp(dim=-1, keepdim=True).double()
    top, order = scaled.topk(min(LIKELIEST, scaled.shape[1]), dim=-1)
    mass = (top.double() - total).exp().cumsum(dim=-1)
    picks: list[int] = []
    for row, u in enumerate(uniforms):
        row_mass, row_order = mass[row], order[row]
        if float(row_mass[-1]) < sampling.top_p and len(row_mass) < scaled.shape[1]:
            every, row_order = scaled[row].sort(descending=True, stable=True)
            row_mass = (every.double() - total[row]).exp().cumsum(dim=-1)
        inside = min(int((row_mass < sampling.top_p).sum()) + 1, len(row_mass))
        at = int((row_mass[:inside] < u * row_mass[inside - 1]).sum())
        picks.append(int(row_order[min(at, inside - 1)]))
    return torch.tensor(picks, device=logits.device)


def _ending(model: LoadedModel, strand: Strand, token_id: int) -> Finish | None:
    if strand.parts is not None:
        strand.parts.push(token_id)
    if token_id in model.stop_ids:
        return "stop"
    if strand.parts is not None and strand.parts.left == 0:
        return "length"
    if strand.ends_step is not None and strand.ends_step(token_id):
        return "delimiter"
    return "length" if len(strand.ids) >= strand.budget else None


def _uniform(strand: Strand) -> float:
    if strand.rng is None:
        raise ValueError(f"strand {strand.name} has no random stream, but the temperature is above 0")
    return float(strand.rng.random())
