"""A model's predictions at each token of a recorded answer: with the impulses of that answer, and without any.

These records hold scalars and a few alternatives for each token, no tensors. All log-probabilities and entropies are in nats, at
temperature 1, over the whole vocabulary.
"""

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
