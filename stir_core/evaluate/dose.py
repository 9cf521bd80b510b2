"""Reading a dose-response: the strength with a given divergence in nats, and the first one at which the text degenerates. No model."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from stir_core.evaluate.degeneration import compressed, repeated
from stir_core.responses import Dose, ImpulseResponse

REPEATS = 0.5
"""A continuation repeats itself when at least this share of its token 3-grams occurred in it before."""
FAR = 3.0
"""It is far from the model's language when the unsteered model finds it this many nats per token less likely than its own continuation."""


class Meters(NamedTuple):
    """Figures of a continuation as text."""

    rep3: float
    zlib: float
    gap: float | None
    """Nats per token by which the unsteered model finds it less likely than its own continuation; ``None``: not measured."""
    why: str | None
    """Why it counts as degenerate; ``None``: it does not."""


def meters(dose: Dose, unsteered: Dose) -> Meters:
    """Degeneration of one continuation, compared with the one without an impulse; repeating no more than that one does not count."""
    rep3, base = repeated(dose.token_ids), repeated(unsteered.token_ids)
    gap = why = None
    if dose.unsteered_logprob is not None and unsteered.unsteered_logprob is not None:
        gap = unsteered.unsteered_logprob - dose.unsteered_logprob
    if rep3 >= REPEATS and rep3 > base:
        why = f"{rep3:.0%} of its token 3-grams are repeated"
    elif gap is not None and gap >= FAR:
        why = f"{gap:.1f} nats per token less likely than the unsteered continuation"
    return Meters(rep3, compressed(dose.text), gap, why)


def degenerates_at(doses: Sequence[Dose]) -> float | None:
    """The weakest strength tried from which every continuation is degenerate; ``None``: the strongest one is not.

    Args:
        doses: of one impulse response, weakest first, the first of strength 0 (``ImpulseResponse.doses``).

    Returns:
        A multiple of the raw action. :func:`meters` says what is degenerate, compared with the continuation without an impulse.

    Raises nothing.
    """
    first = None
    for dose in reversed(doses):
        if meters(dose, doses[0]).why is None:
            break
        first = dose.alpha
    return first


def strength_for(doses: Sequence[Dose], nats: float) -> float | None:
    """Multiple of the action at which the divergence at the control point first reaches ``nats``.

    Interpolates between two strengths on a log-log scale (a small impulse's divergence is a power of its strength), or linearly where one
    of them is 0. ``None``: outside the range that was tried.

    Args:
        doses: of one impulse response, weakest first (``ImpulseResponse.doses``).
        nats: KL(steered || unsteered) at the control point.

    Raises nothing.
    """
    for low, high in pairwise(doses):
        if low.kl < nats <= high.kl:
            if low.alpha > 0 and low.kl > 0:
                share = math.log(nats / low.kl) / math.log(high.kl / low.kl)
                return low.alpha * (high.alpha / low.alpha) ** share
            return low.alpha + (high.alpha - low.alpha) * (nats - low.kl) / (high.kl - low.kl)
    return None


class FirstToken(NamedTuple):
    """How much of an impulse's effect over the recorded step falls on its first token."""

    share: float | None
    """Of the divergence, summed over the places at which it was read; ``None``: no divergence, or one place."""
    places: int
    """The control point and the recorded tokens after it; an even spread would give 1 / places."""
    change: float | None
    """Of the first recorded token's log-probability, in nats; ``None``: not kept, or no recorded token."""
    whole: float | None
    """Of the log-probability of all recorded tokens that were read."""


def first_token(response: ImpulseResponse) -> FirstToken:
    """The first token's part of an effect that was measured on recorded tokens."""
    total, places = sum(response.kl), len(response.kl)
    changes = [token.steered - token.logprob for token in response.tokens if token.steered is not None and token.logprob is not None]
    share = response.kl[0] / total if total > 0 and places > 1 else None
    return FirstToken(share, places, *((changes[0], sum(changes)) if changes else (None, None)))


def first_token_text(found: FirstToken) -> str:
    """The same in one sentence."""
    if found.share is None:
        return "The first token's share of the effect cannot be told: one place was read, or nothing changed."
    change = ""
    if found.change is not None and found.whole is not None:
        change = f"; log-probability of the recorded step {found.whole:+.3f} nats, of its first token {found.change:+.3f}"
    return (
        f"{found.share:.0%} of the KL over {found.places} places falls on the first token (spread evenly: {1 / found.places:.0%}){change}."
    )
