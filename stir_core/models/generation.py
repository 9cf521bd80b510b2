"""Draw tokens for rows of any lengths side by side, each with its own budget, stop rule and named random stream.

In float32 a row's tokens do not depend on the rows beside it: each row samples from its own stream, and rows share only the matrix
products.
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
from stir_core.models.transfer import moved, to_host
from stir_core.records import Finish
from stir_core.tasks.thinking import PartBudgets

LIKELIEST = 64
"""Number of likeliest tokens tried first for a nucleus; the whole vocabulary is only sorted if their mass is too small."""


ROWS = 4
"""Rows of logits that the CPU looks at together, at least: those of a whole vocabulary leave its cache after a few."""


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
    def given(self) -> int | None:
        """The next token where it is not drawn: the end of a thinking whose budget is spent, or a forced one."""
        if self.parts is not None and self.parts.due:
            return self.parts.due[0]
        return self.forced[len(self.ids)] if len(self.ids) < len(self.forced) else None

    @property
    def mean_logprob(self) -> float | None:
        """Mean over the decoded tokens, in nats; ``None`` before the first."""
        return fsum(self.logprobs) / len(self.logprobs) if self.logprobs else None

    @property
    def mean_at_most(self) -> float:
        """The largest mean log-probability that it can end with, whatever its other tokens are: as if all of them were certain."""
        return fsum(self.logprobs) / self.budget


class Drawn(NamedTuple):
    """Next tokens that the device knows and the host does not yet; see :func:`begin_draw`."""

    strands: list[Strand]
    logits: Float[Tensor, "rows d_vocab"]
    sampling: Sampling
    uniforms: list[float]
    tensors: list[Tensor]
    """Ids, their log-probabilities, which rows need more of their distribution than was looked at, and the likeliest tokens."""


def draw(model: LoadedModel, strands: list[Strand], logits: Float[Tensor, "rows d_vocab"], sampling: Sampling) -> None:
    """Draw the next token of each strand.

    A strand ends at an end-of-text token (``"stop"``), a complete delimiter (``"delimiter"``) or a budget (``"length"``). Where the budget
    of the thinking is spent, the tokens that end it are taken instead of drawn ones; so are a strand's forced ones.
    """
    begun = begin_draw(strands, logits, sampling)
    take(model, begun, to_host(begun.tensors))


@torch.inference_mode()
def begin_draw(strands: list[Strand], logits: Float[Tensor, "rows d_vocab"], sampling: Sampling) -> Drawn:
    """Choose the next token of each strand on the device; :func:`take` gives them to the strands once they are on the host."""
    uniforms = [_uniform(strand) for strand in strands] if sampling.temperature else []
    # never one row alone of several: torch would sum it in another order
    blocks = len(strands) // max(ROWS, torch.get_num_threads()) if logits.device.type == "cpu" else 1
    read, at = [], 0
    for block in logits.tensor_split(max(1, blocks)):
        if sampling.temperature:
            found = _narrow(block, uniforms[at : at + len(block)], sampling)
        else:
            found = block.argmax(dim=-1), torch.zeros(len(block), dtype=torch.bool, device=logits.device)
        read.append((*found, block.logsumexp(dim=-1)))
        at += len(block)
    ids, wide, total = (torch.cat(each) for each in zip(*read, strict=True))
    for i, strand in enumerate(strands):
        if (token := strand.given) is not None:
            ids[i], wide[i] = token, False
    tensors = [ids, logits.gather(1, ids[:, None])[:, 0] - total, wide]
    if any(strand.likeliest for strand in strands):
        top = (logits - total[:, None]).topk(min(max(strand.likeliest for strand in strands), logits.shape[1]))
        tensors += [top.indices, top.values]
    return Drawn(strands, logits, sampling, uniforms, tensors)


@torch.inference_mode()
def take(model: LoadedModel, found: Drawn, host: Sequence[Tensor]) -> None:
    """Give drawn tokens to their strands; ``host``: the same tensors on the CPU."""
    picks, chosen, wide = (each.tolist() for each in host[:3])
    if rows := [row for row, more in enumerate(wide) if more]:  # a second transfer, for all of them
        logits = torch.cat([found.logits[row : row + 1] for row in rows])
        ids = _wide(logits, [found.uniforms[row] for row in rows], found.sampling)
        again = to_host([ids, logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(dim=-1)])
        for row, token, logprob in zip(rows, again[0].tolist(), again[1].tolist(), strict=True):
            picks[row], chosen[row] = token, logprob
    for i, (strand, token, logprob) in enumerate(zip(found.strands, picks, chosen, strict=True)):
        if strand.likeliest:
            near = [each[i, : strand.likeliest].tolist() for each in host[3:]]
            strand.alternatives.append(tuple(zip(*near, strict=True)))
        add(model, strand, token, logprob)


def add(model: LoadedModel, strand: Strand, token_id: int, logprob: float) -> None:
    """Give a strand its next token."""
    strand.ids.append(token_id)
    strand.logprobs.append(logprob)
    strand.finish = _ending(model, strand, token_id)


@torch.inference_mode()
def greedy_tokens(logits: Float[Tensor, "rows d_vocab"]) -> tuple[Int[Tensor, "rows"], Float[Tensor, "rows"]]:
    """The token that greedy decoding takes after each row (ties: lowest id), and its log-probability."""
    ids = logits.argmax(dim=-1)
    return ids, logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(dim=-1)


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
    ids, wide = _narrow(logits, uniforms, sampling)
    return torch.where(wide, _wide(logits, uniforms, sampling), ids) if bool(wide.any()) else ids


def _narrow(logits: Tensor, uniforms: list[float], sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Draws from the likeliest tokens, and the rows whose nucleus is wider than these, so that their draws do not count."""
    scaled = logits / sampling.temperature
    top, order = scaled.topk(min(LIKELIEST, scaled.shape[1]), dim=-1)
    mass = (top.double() - scaled.logsumexp(dim=-1, keepdim=True).double()).exp().cumsum(dim=-1)
    ids = _inverse(mass, order, uniforms, sampling)
    if scaled.shape[1] <= LIKELIEST:
        return ids, torch.zeros_like(ids, dtype=torch.bool)
    wide = mass[:, -1] < sampling.top_p
    if sampling.top_p < 1 or logits.device.type == "cpu":
        return ids, wide
    # the whole distribution: a few rows are peaked enough to be spared the sorting, but to ask which takes longer
    return torch.where(wide, _wide(logits, uniforms, sampling), ids), torch.zeros_like(wide)


def _wide(logits: Tensor, uniforms: list[float], sampling: Sampling) -> Tensor:
    """Draws as :func:`_narrow`, from all tokens in order."""
    scaled = logits / sampling.temperature
    every, order = scaled.sort(dim=-1, descending=True, stable=True)
    mass = (every.double() - scaled.logsumexp(dim=-1, keepdim=True).double()).exp().cumsum(dim=-1)
    return _inverse(mass, order, uniforms, sampling)


def _inverse(mass: Float[Tensor, "rows n"], order: Int[Tensor, "rows n"], uniforms: list[float], sampling: Sampling) -> Tensor:
    """Where each uniform number falls in the mass of its nucleus; ``mass`` is summed along ``order``, likeliest first."""
    u = moved(torch.tensor(uniforms, dtype=torch.float64), mass.device)[:, None]
    last = (mass < sampling.top_p).sum(dim=-1, keepdim=True).clamp(max=mass.shape[1] - 1)
    inside = torch.arange(mass.shape[1], device=mass.device) <= last
    at = ((mass < u * mass.gather(1, last)) & inside).sum(dim=-1, keepdim=True)
    return order.gather(1, at.minimum(last))[:, 0]


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
