"""What is read of a recorded answer: a model's predictions at each token, with the impulses of that answer and without any; and what an
answer's latents hold.

These records hold scalars and a few tokens for each place, no tensors. All log-probabilities and entropies are in nats, at
temperature 1, over the whole vocabulary.
"""

from typing import Literal

from stir_core.findings import Estimate
from stir_core.records import Record

TOP = 5
"""Number of likeliest tokens to keep of each distribution."""


class Alternative(Record):
    """One candidate for a token, under both distributions."""

    token_id: int
    text: str
    logprob: float
    """Under the model that decoded the answer."""
    unsteered_logprob: float
    """Under the unsteered model after the same prefix."""


class TokenReading(Record):
    """One committed token, with its predictions after the same prefix."""

    m: int
    """The control point that its step begins at."""
    position: int
    """0-based place in the answer's ``token_ids``."""
    token_id: int
    text: str
    """The token's own text, also for special tokens; an incomplete character is U+FFFD."""
    live: bool
    """Whether an impulse acted on its distribution."""
    logprob: float
    """Of the committed token, under the model that decoded it (steered where an impulse was live)."""
    unsteered_logprob: float
    """Of the committed token, under the unsteered model after the same prefix."""
    rank: int
    """1 + the number of likelier tokens, under the model that decoded it."""
    unsteered_rank: int
    entropy: float
    unsteered_entropy: float
    kl: float
    """KL(decoding model || unsteered model) over the whole vocabulary, summed in float32; exactly 0 where no impulse was live."""
    alternatives: tuple[Alternative, ...]
    """The ``TOP`` likeliest of either distribution, likeliest first under the model that decoded it."""

    @property
    def change(self) -> float:
        """Effect of the impulses on the committed token's log-probability: steered minus unsteered."""
        return self.logprob - self.unsteered_logprob


class LatentToken(Record):
    """A token beside a latent."""

    text: str
    value: float
    """Its probability under the logit lens, or the cosine of its embedding with the latent."""


class LatentLayer(Record):
    """The residual stream at a latent's position after one block."""

    layer: int
    """0: the latent itself, as it is fed; l: after block l, counted from 1."""
    entropy: float
    """Of the next token, read through the final norm and the unembedding (the logit lens)."""
    top: tuple[LatentToken, ...]
    """The ``TOP`` likeliest tokens, likeliest first."""
    attention: float | None
    """That the position which decides the answer's number pays to this one in block l, averaged over heads; ``None`` at layer 0, and where
    the answer states no number."""


class ReadLatent(Record):
    """One latent."""

    step: int
    """The step that it stands for, counted from 1."""
    norm: float
    nearest: tuple[LatentToken, ...]
    """The ``TOP`` tokens whose embeddings have the largest cosine with it."""
    deviation: float | None
    """Root mean square of its Gaussian's standard deviations; ``None``: it is not drawn from one."""
    stop: float | None
    """Probability of stopping at it, where the stop head decides; ``None``: it does not decide here, or there is none."""
    layers: tuple[LatentLayer, ...]


class ReadStep(Record):
    """One step: what is read from its latents, beside the truth."""

    text: str | None
    """As the decoder reads it, or as it is written where steps are written; ``None``: there is no decoder, or no such step."""
    truth: str | None
    """The true step; ``None``: the problem has no such step."""
    right: bool | None
    """Whether the result that is read is the step's true value; ``None``: nothing was read."""
    strict: bool | None
    """Whether the step counts for the strict coherence; ``None``: nothing was read."""
    published: bool | None
    """Likewise for the published one."""


Held = Literal["after", "before", "operation"]
"""What of another problem the latents of a step may hold: the value after the step, the value before it, or its operation."""


class LatentChange(Record):
    """What the answer becomes when the latents of one step are replaced."""

    step: int
    how: Literal["zero", "mean", "swapped", "dropped"]
    """Zeros; the mean over other problems; the other problem's; or nothing."""
    then: Literal["later latents kept", "thinking on"]
    answer: str
    """The number that is stated; the empty text if none is."""
    probability: float
    """Of the unchanged answer's number, where the answer is forced to state one now."""
    implied: dict[Held, int]
    """The answer if what the latents hold of the other problem is followed: its value after the step, before it, or its operation; empty:
    the latents are not another problem's."""
    implied_probability: dict[Held, float]
    """Of each of these answers."""


class LatentSample(Record):
    """Answers with one latent moved: on the line to another problem's latent, or by noise. Later latents are thought anew."""

    latent: int
    """Counted from 1."""
    how: Literal["interpolation", "its own noise", "noise of problems"]
    """Noise is drawn with the standard deviations of the latent's own Gaussian, or where it has none with those that this latent has over
    other problems."""
    amount: float
    """Share of the way to the other problem's latent, or how many standard deviations."""
    draws: int
    kept: Estimate
    """Share of answers that stay."""
    answer: str
    """The most frequent one; the empty text: no number is stated."""
    step: str | None
    """What the decoder reads of the latent's step, the most frequent text; ``None``: there is no decoder."""


class LatentRun(Record):
    """One run with drawn latents."""

    latents: int
    steps: tuple[str, ...]
    """As the decoder reads them; empty where there is none."""
    answer: str
    right: bool


class LatentReading(Record):
    """Everything that is read of one question's chain of latents."""

    strategy: str
    setting: str
    question: str
    split: str | None
    """``train``: a training may have seen the problem, or an equivalent order of it; ``validation``, ``eval``, or ``None`` (it is in no
    split): none has."""
    text: str
    """What is written after the latents."""
    answer: str
    """The number that the text states; the empty text if none."""
    truth: int
    probability: float | None
    """Of the stated number; ``None``: no number is stated, or there are no latents."""
    steps: tuple[ReadStep, ...]
    latents: tuple[ReadLatent, ...]
    stop_at_end: float | None
    """Probability of stopping at the latent on which the chain ended; ``None``: it did not end by itself."""
    embedding_norms: tuple[float, float, float]
    """Least, median and largest norm of the tokens' embeddings."""
    other: str | None
    """The problem whose latents are swapped in; ``None``: there are no latents."""
    other_values: tuple[int, ...]
    """Its values after each step."""
    changes: tuple[LatentChange, ...]
    samples: tuple[LatentSample, ...] = ()
    runs: tuple[LatentRun, ...] | None
    """``None``: nothing is drawn, so every run is the same."""

    @property
    def right(self) -> bool:
        """Whether the stated number is the right one."""
        return self.answer == str(self.truth)
