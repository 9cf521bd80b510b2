"""Decoders that feed mixtures of token embeddings in the place of tokens: Soft Thinking and Multiplex Thinking.

Both were made for reasoning models that mark the end of their thinking with a tag and then answer in plain tokens. Instruction-tuned models
have no such tag, so here everything is thinking until the recorded token is an end-of-text token (or, for Soft Thinking, Cold Stop fires).
The committed answer is the sequence of recorded tokens; each also stands for the mixture that was read in its place.

Soft Thinking's weights depend on the logits smoothly, so what rounding does to them comes back as input, unlike in any method that reads
tokens. A trained model forgets it (SmolLM2-135M: 120 tokens were the same with 1, 2 and 4 rows); a random one doubles it with each token.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from stir_core.evaluate.decoders.base import Bench, Decoder, Parameters, Question
from stir_core.evaluate.decoders.inducer import induce
from stir_core.evaluate.decoders.loop import Desk, Facts, Outcome, answers, number, sampling_of
from stir_core.findings import Answer
from stir_core.models.cache import Row
from stir_core.models.generation import Sampling, nucleus
from stir_core.models.passes import Feed
from stir_core.models.scheduler import Steps
from stir_core.models.steering import Mixture
from stir_core.records import Finish
from stir_core.seeding import generator_for


class Read(NamedTuple):
    """What is read next, and what is recorded for it."""

    token: int
    mixture: Mixture | None
    """``None``: the token itself."""
    enough: bool = False
    """Whether thinking ends behind it."""


def concept(
    logits: Float[Tensor, "d_vocab"], temperature: float, top_k: int, top_p: float
) -> tuple[Float[Tensor, "kept"], Int[Tensor, "kept"], float]:
    """Soft Thinking's concept token: a distribution over the tokens whose embeddings it mixes.

    Returns:
        The probabilities at the temperature, cut to the ``top_k`` likeliest tokens and then to the fewest that reach ``top_p`` of
        their mass, adding up to 1; the tokens; and the entropy of the whole distribution before it was cut, in nats. Temperature 0 is
        the likeliest token alone.
    """
    if temperature == 0:
        return torch.ones(1), logits.argmax()[None], 0.0
    whole = (logits / temperature).softmax(dim=-1)
    kept, tokens = whole.topk(min(top_k, len(whole)))
    kept = kept.double() / kept.double().sum()
    inside = max(1, int((kept.cumsum(dim=-1) - kept < top_p).sum()))
    return kept[:inside] / kept[:inside].sum(), tokens[:inside], float(torch.special.entr(whole).sum())


def soft_thinking(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """Read the probability-weighted mixture of the likeliest tokens' embeddings; record the likeliest token.

    Cold Stop, where it is on: when the entropy has been below ``entropy`` nats for ``patience`` tokens in a row, thinking ends, an answer
    inducer (the same as DEER's) is appended, and the answer is decoded greedily in plain tokens until it is complete. Published, what is
    appended is the tag that closes the thinking. Cutting follows the published implementation, which applies top-k before top-p and takes
    the entropy at the temperature; its further cut by a least probability (0.001) is left out.
    """
    thinker = _thinker(parameters)

    def one(desk: Desk, question: Question) -> Steps[Outcome]:
        row = desk.seat.open()
        ids, mixed, finish = yield from _think(desk, question, row, thinker())
        facts: Facts = {"thinking_tokens": len(ids), "mixed_tokens": mixed, "cold_stop": int(finish is None)}
        if finish is None:
            answer = yield from induce(desk, question, row, ids)
            finish = "length" if answer is None or answer.strand.finish == "length" else "stop"
            ids = ids if answer is None else [*ids, *answer.inducer, *answer.strand.ids]
        return Outcome(ids, finish, 0, facts)

    return answers(bench, questions, one)


def multiplex_thinking(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """Read the average embedding of ``k`` independently sampled tokens; record the likeliest of them (ties: lowest id).

    This is the published method without its training and with uniform weights: a token that was sampled twice counts twice. The variant
    that weighs the sampled tokens by their probabilities is not offered.
    """
    sampling, k = sampling_of(bench, parameters), int(number(parameters, "k", least=1))

    def one(desk: Desk, question: Question) -> Steps[Outcome]:
        row = desk.seat.open()
        rng = generator_for(bench.settings.seed, "multiplex", question.name)
        thought = yield from _think(desk, question, row, lambda logits: _multiplexed(logits, k, sampling, rng))
        return Outcome(thought.ids, thought.finish or "length", 0, {"mixed_tokens": thought.mixed})

    return answers(bench, questions, one)


class _Thought(NamedTuple):
    ids: list[int]
    mixed: int
    """How many of them stand for a mixture of several tokens that was read."""
    finish: Finish | None
    """``None``: thinking ended before the answer did; all ids have been read then."""


def _think(desk: Desk, question: Question, row: Row, choose: Callable[[Tensor], Read]) -> Steps[_Thought]:
    ids: list[int] = []
    mixed = 0
    here = yield from desk.seat.read(row, question.prompt_ids)
    while True:
        token, mixture, enough = choose(here.logits[0])
        ids.append(token)
        if token in desk.model.stop_ids:
            return _Thought(ids, mixed, "stop")
        if len(ids) >= desk.budget:
            return _Thought(ids, mixed, "length")
        mixed += mixture is not None
        here = yield [Feed(row, [token], mixture=mixture, logits=not enough)]
        if enough:
            return _Thought(ids, mixed, None)


def _thinker(parameters: Parameters) -> Callable[[], Callable[[Tensor], Read]]:
    """Makes, for each answer, the function that says what Soft Thinking reads next; it counts sure tokens in a row."""
    temperature, top_p = number(parameters, "temperature"), number(parameters, "top_p", most=1.0)
    top_k, patience = int(number(parameters, "top_k", least=1)), int(number(parameters, "patience", least=1))
    limit, cold_stop = number(parameters, "entropy"), bool(parameters["cold_stop"])

    def thinker() -> Callable[[Tensor], Read]:
        sure = 0

        def choose(logits: Tensor) -> Read:
            nonlocal sure
            weights, tokens, entropy = concept(logits, temperature, top_k, top_p)
            sure = sure + 1 if entropy < limit else 0
            mixture = (tokens.tolist(), weights.tolist()) if len(tokens) > 1 else None
            return Read(int(logits.argmax()), mixture, cold_stop and sure >= patience)

        return choose

    return thinker


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
