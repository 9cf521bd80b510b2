"""The one decode loop: rows of any lengths side by side, each with its own budget, stop rule and named random stream.

Rollouts, previews, committed steps and vanilla answers all decode here. A row's tokens do not depend on which rows decode beside
it: sampling draws from the row's own stream, and rows share nothing but the matrix products.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.models.context import Context, join
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import forward
from stir_core.records import Finish


class Sampling(NamedTuple):
    """How the next token is drawn. Temperature 0 is greedy (ties: lowest id)."""

    temperature: float = 0.0
    top_p: float = 1.0


@dataclass
class Strand:
    """One sequence being decoded. ``ids`` grows; ``finish`` is set when it ends."""

    name: str
    budget: int
    """Most tokens it may take (at least 1)."""
    rng: np.random.Generator | None = None
    """Its own random stream; needed when the temperature is above 0."""
    ends_step: Callable[[int], bool] | None = None
    """Fed every token id; True when the step delimiter is complete. ``None``: delimiters do not end it."""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    """Log-probability of each id under the model, temperature 1, in nats."""
    finish: Finish | None = None
    context: Context | None = None
    """One row, set at the end when asked for: everything but the strand's last token."""

    @property
    def mean_logprob(self) -> float | None:
        """Mean over the decoded tokens, in nats; ``None`` before the first."""
        return sum(self.logprobs) / len(self.logprobs) if self.logprobs else None


class Batch(NamedTuple):
    """Strands with the logits that their next token is drawn from."""

    strands: list[Strand]
    logits: Float[Tensor, "rows d_vocab"]
    context: Context


class Step(NamedTuple):
    """One decoded token."""

    strand: Strand
    token_id: int
    logprob: float


def decode(
    model: LoadedModel,
    batch: Batch,
    sampling: Sampling,
    *,
    keep_context: bool = False,
    refill: Callable[[int], Batch | None] | None = None,
) -> Iterator[Step]:
    """Decode until every strand has ended, yielding each token as it is drawn.

    A strand ends at an end-of-text token (``"stop"``), a complete delimiter (``"delimiter"``) or its budget (``"length"``).

    Args:
        keep_context: leave each ended strand its one-row context.
        refill: called with the number of live rows whenever some have left; a batch that it returns joins the others.
    """
    strands, logits, context = batch
    while strands:
        ids, logprobs = _draw(logits, strands, sampling)
        for strand, token_id, logprob in zip(strands, ids, logprobs, strict=True):
            strand.ids.append(token_id)
            strand.logprobs.append(logprob)
            strand.finish = _ending(model, strand, token_id)
            yield Step(strand, token_id, logprob)
        alive = [row for row, strand in enumerate(strands) if strand.finish is None]
        left = len(alive) < len(strands)
        if left:
            if keep_context:
                for row, strand in enumerate(strands):
                    if strand.finish is not None:
                        strand.context = context.row(row)
            strands = [strands[row] for row in alive]
            if strands:
                context = context.select(alive).trimmed()
        if strands:
            fed = torch.tensor([[strand.ids[-1]] for strand in strands])
            logits, context, _ = forward(model, fed, context)
        more = refill(len(strands)) if refill is not None and left else None
        if more is not None:
            if strands:
                logits, context = torch.cat([logits, more.logits]), join([context, more.context])
            else:
                logits, context = more.logits, more.context
            strands = [*strands, *more.strands]


def _ending(model: LoadedModel, strand: Strand, token_id: int) -> Finish | None:
    if token_id in model.stop_ids:
        return "stop"
    if strand.ends_step is not None and strand.ends_step(token_id):
        return "delimiter"
    return "length" if len(strand.ids) >= strand.budget else None


def _draw(logits: Float[Tensor, "rows d_vocab"], strands: list[Strand], sampling: Sampling) -> tuple[list[int], list[float]]:
    if sampling.temperature == 0:
        ids = logits.argmax(dim=-1)
    else:
        uniforms = torch.tensor([_uniform(strand) for strand in strands], dtype=torch.float64)
        ids = torch.stack([_nucleus(row, float(u), sampling) for row, u in zip(logits, uniforms, strict=True)])
    chosen = logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(dim=-1)
    return ids.tolist(), chosen.tolist()


def _uniform(strand: Strand) -> float:
    if strand.rng is None:
        raise ValueError(f"strand {strand.name} has no random stream, but the temperature is above 0")
    return float(strand.rng.random())


def _nucleus(logits: Float[Tensor, "d_vocab"], u: float, sampling: Sampling) -> Tensor:
    """Inverse-CDF draw from the smallest set of likeliest tokens whose mass reaches top_p."""
    probabilities = (logits.double() / sampling.temperature).softmax(dim=-1)
    # the tail beyond the likeliest few thousand tokens is only sorted when the nucleus reaches it
    k = min(1024, len(probabilities))
    top, order = probabilities.topk(k)
    if float(top.sum()) < sampling.top_p and k < len(probabilities):
        top, order = probabilities.sort(descending=True)
    mass = top.cumsum(dim=0)
    inside = int((mass < sampling.top_p).sum()) + 1
    mass = mass[:inside]
    pick = int((mass < u * mass[-1]).sum())
    return order[min(pick, len(mass) - 1)]
