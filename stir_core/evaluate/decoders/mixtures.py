"""Decoders that feed mixtures of token embeddings instead of tokens: Soft Thinking and Multiplex Thinking.

Mixtures are fed until the recorded tokens hold the tag that ends the thinking; then the answer is decoded in plain tokens. An answer
without such a tag is thinking until an end-of-text token (or, for Soft Thinking, Cold Stop). The committed thinking is the sequence of
recorded tokens, each of which stands for the mixture that was fed.

Soft Thinking's weights are a smooth function of the logits, so rounding errors are fed back, unlike in methods that feed tokens. A trained
model damps them (SmolLM2-135M: 120 tokens were the same with 1, 2 and 4 rows); a random one doubles them with each token.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from stir_core.evaluate.decoders.base import Bench, Decoder, Parameters, Question
from stir_core.evaluate.decoders.inducer import answer_behind, induce
from stir_core.evaluate.decoders.loop import Facts, Outcome, answers, numeric, sampling_of
from stir_core.findings import Answer
from stir_core.models.cache import CacheRow
from stir_core.models.generation import Sampling, nucleus
from stir_core.models.passes import Feed
from stir_core.models.scheduler import Seat, Steps
from stir_core.models.steering import Mixture
from stir_core.records import Finish
from stir_core.seeding import generator_for


class Read(NamedTuple):
    """The token that is recorded next, and the mixture that is fed for it."""

    token: int
    mixture: Mixture | None
    """``None``: the token itself is fed."""
    enough: bool = False
    """Whether thinking ends after it."""


def concept(
    logits: Float[Tensor, "d_vocab"], temperature: float, top_k: int, top_p: float
) -> tuple[Float[Tensor, "kept"], Int[Tensor, "kept"], float]:
    """Soft Thinking's concept token: a distribution over the tokens whose embeddings it mixes.

    Returns:
        (weights, tokens, entropy). Weights are the probabilities at the temperature, cut to the ``top_k`` likeliest tokens and then to the
        fewest that reach ``top_p`` of their mass, normalised to 1. The entropy is that of the distribution before the cut, in nats.
        Temperature 0 gives the likeliest token alone.
    """
    if temperature == 0:
        return torch.ones(1), logits.argmax()[None], 0.0
    whole = (logits / temperature).softmax(dim=-1)
    kept, tokens = whole.topk(min(top_k, len(whole)))
    kept = kept.double() / kept.double().sum()
    inside = max(1, int((kept.cumsum(dim=-1) - kept < top_p).sum()))
    return kept[:inside] / kept[:inside].sum(), tokens[:inside], float(torch.special.entr(whole).sum())


def soft_thinking(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """Feed the probability-weighted mixture of the likeliest tokens' embeddings; record the likeliest token.

    With ``cold_stop``, thinking ends once the entropy was below ``entropy`` nats for ``patience`` tokens in a row. Then the tag that closes
    the thinking is appended, or DEER's inducer where the answer has none, and it is decoded greedily in plain tokens. As in the published
    implementation, top-k is applied before top-p and the entropy is taken at the temperature; its minimum probability (0.001) is
    left out.
    """
    temperature, top_p = numeric(parameters, "temperature"), numeric(parameters, "top_p", most=1.0)
    top_k, patience = int(numeric(parameters, "top_k", least=1)), int(numeric(parameters, "patience", least=1))
    limit, cold_stop = numeric(parameters, "entropy"), bool(parameters["cold_stop"])

    def one(seat: Seat, question: Question) -> Steps[Outcome]:
        row, calm = seat.open(), 0

        def choose(logits: Tensor) -> Read:
            nonlocal calm
            weights, tokens, entropy = concept(logits, temperature, top_k, top_p)
            calm = calm + 1 if entropy < limit else 0
            mixture = (tokens.tolist(), weights.tolist()) if len(tokens) > 1 else None
            return Read(int(logits.argmax()), mixture, cold_stop and calm >= patience)

        ids, mixed, finish = yield from _think(bench, seat, question, row, choose)
        cold = finish is None or finish == "cold"
        facts: Facts = {"thinking_tokens": len(ids), "mixed_tokens": mixed, "cold_stop": int(cold)}
        if finish in ("closed", "cold"):
            rest = yield from answer_behind(bench, question, row, ids, close=finish == "cold")
            return Outcome([*ids, *rest.ids], rest.finish, 0, facts)
        if finish is None:
            answer = yield from induce(bench, question, row, ids)
            finish = "length" if answer is None or answer.strand.finish == "length" else "stop"
            ids = ids if answer is None else [*ids, *answer.inducer, *answer.strand.ids]
        return Outcome(ids, finish, 0, facts)

    return answers(bench, questions, one)


def multiplex_thinking(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """Feed the average embedding of ``k`` independently sampled tokens; record the likeliest of them (ties: lowest id).

    The published method without its training and with uniform weights: a token that was sampled twice counts twice. Weighting the sampled
    tokens by their probabilities is not implemented.
    """
    sampling, k = sampling_of(bench, parameters), int(numeric(parameters, "k", least=1))

    def one(seat: Seat, question: Question) -> Steps[Outcome]:
        rng = generator_for(bench.settings.seed, "multiplex", question.name)
        choose = partial(_multiplexed, k=k, sampling=sampling, rng=rng)
        row = seat.open()
        ids, mixed, finish = yield from _think(bench, seat, question, row, choose)
        if finish == "closed":
            rest = yield from answer_behind(bench, question, row, ids, sampling=sampling, rng=rng, close=False)
            ids, finish = [*ids, *rest.ids], rest.finish
        return Outcome(ids, "stop" if finish == "stop" else "length", 0, {"mixed_tokens": mixed})

    return answers(bench, questions, one)


def _think(
    bench: Bench, seat: Seat, question: Question, row: CacheRow, choose: Callable[[Tensor], Read]
) -> Steps[tuple[list[int], int, Finish | Literal["closed", "cold"] | None]]:
    """Recorded tokens, how many of them stand for a mixture of several, and why decoding ended.

    Where only the thinking ended: ``"closed"`` by its tag, which is not read yet; ``"cold"`` by the method, inside its block; ``None`` by
    the method in an answer without a block.
    """
    ids, mixed = list[int](), 0
    scanner = bench.model.scanner(question.prompt_ids, bench.settings.delimiter, "both")
    parts = bench.parts(question)
    here = yield from seat.read(row, question.prompt_ids)
    while True:
        token, mixture, enough = Read(parts.due[0], None) if parts is not None and parts.due else choose(here.logits[0])
        ids.append(token)
        if parts is not None:
            parts.push(token)
        if token in bench.model.stop_ids:
            return ids, mixed, "stop"
        if len(ids) >= bench.budget or (parts is not None and parts.left == 0):
            return ids, mixed, "length"
        scanner.push(token)
        phase = scanner.thinking.phase if scanner.thinking is not None else None
        if phase == "final":
            return ids, mixed, "closed"
        mixed += mixture is not None
        here = yield [Feed(row, [token], mixture=mixture, logits=not enough)]
        if enough:
            return ids, mixed, "cold" if phase == "thinking" else None


def _multiplexed(logits: Tensor, k: int, sampling: Sampling, rng: np.random.Generator) -> Read:
    if sampling.temperature == 0:
        return Read(int(logits.argmax()), None)
    picks: list[int] = nucleus(logits.expand(k, -1), [float(rng.random()) for _ in range(k)], sampling).tolist()
    shares = Counter(picks)
    token = min(shares, key=lambda pick: (-float(logits[pick]), pick))
    return Read(token, (list(shares), [n / k for n in shares.values()]) if len(shares) > 1 else None)


SOFT_THINKING = Decoder(
    name="soft_thinking",
    about="reads probability-weighted mixtures of token embeddings",
    source="Zhang et al. 2025, arXiv 2505.15778",
    decode=soft_thinking,
    parameters={"temperature": 0.6, "top_k": 10, "top_p": 0.95, "cold_stop": True, "entropy": 0.01, "patience": 256},
)
MULTIPLEX = Decoder(
    name="multiplex",
    about="reads the average embedding of k sampled tokens",
    source="Tang et al. 2026, arXiv 2601.08808",
    decode=multiplex_thinking,
    parameters={"k": 3, "temperature": "auto", "top_p": "auto"},
    by_chance=True,
)
