"""What a model had to say at each token of an answer that is already there: with the impulses that were live, and without any.

No tensors, and nothing of the size of a vocabulary: scalars and a handful of alternatives a token. All log-probabilities and entropies are
in nats, at temperature 1, over the whole vocabulary.
"""

from stir_core.records import Record

TOP = 5
"""Likeliest tokens that are kept of each distribution."""


class Alternative(Record):
    """One token that could have stood here, under both distributions."""

    token_id: int
    text: str
    logprob: float
    """Under the model that decoded the answer."""
    unsteered_logprob: float
    """Under the unsteered model behind the same prefix."""


class TokenReading(Record):
    """One committed token, read again behind the prefix that it was decoded behind."""

    m: int
    """The control point that its step begins at."""
    position: int
    """0-based place in the answer's ``token_ids``."""
    token_id: int
    text: str
    """The token by itself, special tokens included; half a character is drawn as U+FFFD."""
    live: bool
    """Whether an impulse acted on its distribution."""
    logprob: float
    """Of the committed token, under the model that decoded it (steered where an impulse was live)."""
    unsteered_logprob: float
    """Of the committed token, under the unsteered model behind the same prefix."""
    rank: int
    """1 + the number of tokens that were likelier, under the model that decoded it."""
    unsteered_rank: int
    entropy: float
    unsteered_entropy: float
    kl: float
    """KL(decoding model || unsteered model) over the whole vocabulary, summed in float32; exactly 0 where no impulse was live."""
    alternatives: tuple[Alternative, ...]
    """The ``TOP`` likeliest of either distribution, likeliest first under the model that decoded it."""

    @property
    def change(self) -> float:
        """What the impulses did to the committed token's log-probability: steered minus unsteered."""
        return self.logprob - self.unsteered_logprob
