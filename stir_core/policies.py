"""Learned gates: what they see of a step, their fitted weights, and their scores. Arrays and records only, no files and no model.

Every learned gate is linear. It sees *features* of the state at a control point (principal components of the residual stream, the control
point, the entropy of the next token), which are recorded with the evidence, and features of each candidate, which follow from the evidence.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from stir_core.records import PolicyWeights, Retrieved, Scored

CANDIDATE_FEATURES = ("cosine", "cosine above null", "value", "gain", "margin")
"""Of a candidate: cosine with its key, the same minus that of the nearest null entry, value ``A``, preview gain (nats per token), and score
minus null's score. A preview that was not made counts as a gain of 0."""


class Policies(NamedTuple):
    """The learned gates of a run: one view of the state, and the weights of each."""

    basis: str
    """Digest of the control basis that they were fitted with."""
    layer: int
    """Layer whose residual stream they see."""
    means: Float[np.ndarray, "points d_model"]
    """Mean state by control point, row 0 over all of them."""
    axes: Float[np.ndarray, "components d_model"]
    """Principal axes of the states around these means, divided by their standard deviations."""
    weights: dict[str, PolicyWeights]
    """By name; empty while decisions are logged to fit them."""

    def features(self, m: int, state: Float[np.ndarray, "d_model"], entropy: float) -> tuple[float, ...]:
        """What the gates see of a state: components in standard deviations, ``m / M``, and the next token's entropy in nats."""
        last = len(self.means) - 1
        components = self.axes @ (np.asarray(state, np.float64) - self.means[m if m <= last else 0])
        return tuple(round(float(value), 5) for value in (*components, m / last, entropy))

    def log_odds(self, features: Sequence[float]) -> float:
        """The probe's log-odds that an answer in this state ends right if the step is left unsteered.

        Raises:
            KeyError: no probe was fitted.
        """
        return self.weights["probe"].score(features)


def candidate_features(scored: Scored, score_null: float, retrieved: Sequence[Retrieved]) -> tuple[float, ...]:
    """:data:`CANDIDATE_FEATURES` of one candidate."""
    sim = next(entry.sim for entry in retrieved if entry.entry_id == scored.entry_id)
    null = max((entry.sim for entry in retrieved if entry.kind == "null"), default=0.0)
    return sim, sim - null, scored.value, scored.gain or 0.0, (scored.score or 0.0) - score_null
