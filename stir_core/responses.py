"""The effect of one impulse on the model at one control point, as frozen records: its impulse response.

Sizes are in the residual stream's own units, divergences in nats, ``KL(steered || unsteered)``. ``None``: not measured, or not defined.
"""

from typing import Literal

from pydantic import Field

from stir_core.records import Record, TokenWeight


class Spot(Record):
    """A control point in a recorded answer: everything before it, and the tokens that followed there."""

    kind: Literal["held-out", "rollout"]
    problem_id: str
    m: int
    """Control point: finished steps before it."""
    k: int | None = None
    """Rollout number, for ``kind="rollout"``."""
    correct: bool | None = None
    """Verdict of the whole recorded answer."""
    prompt_ids: tuple[int, ...]
    given: tuple[int, ...]
    """The answer's tokens up to the control point; the impulse is added at the last of them."""
    following: tuple[int, ...] = ()
    """The recorded tokens of the next step; they are read, not decoded again."""
    sim: float | None = None
    """Recorded cosine of the state with the entry's key; ``None``: it was not retrieved."""
    alpha: float | None = None
    """Multiple of the action that the gate injected here; ``None``: it injected another action, or none."""

    @property
    def name(self) -> str:
        """``PROBLEM:M`` for a held-out answer, ``PROBLEM#K:M`` for rollout K."""
        return f"{self.problem_id}{'' if self.k is None else f'#{self.k}'}:{self.m}"


class ReadToken(Record):
    """One token of the recorded answer."""

    token_id: int
    text: str
    logprob: float | None
    """Under the unsteered pass, in nats; ``None`` for the control point's own token, which is not predicted here."""
    steered: float | None = Field(default=None, exclude_if=lambda value: value is None)
    """Likewise with the impulse; ``None`` also in responses from before it was kept."""


class LayerResponse(Record):
    """The disturbance (steered minus unsteered residual) after one block, at the control point."""

    layer: int
    norm: float
    cosine: float | None
    """With the injected vector; ``None``: no disturbance."""
    relative: float
    """Norm over the norm of the unsteered residual."""
    promoted: tuple[TokenWeight, ...]
    """Through the final norm's gain and the unembedding: the direct path from this layer."""
    suppressed: tuple[TokenWeight, ...]


class TokenShift(Record):
    """One next token at the control point, with its probability without and with the impulse."""

    token_id: int
    text: str
    before: float
    """Probability without the impulse, in [0, 1]."""
    after: float


class Dose(Record):
    """The effect of one strength: divergence on recorded tokens, and the model's own continuation."""

    alpha: float
    """Multiple of the action."""
    fraction: float
    """Norm of the impulse over the norm of the unsteered residual at the same point."""
    kl: float
    """At the control point, in nats."""
    kl_following: float | None
    """Mean over the recorded tokens after the control point; ``None`` when there are none."""
    token_ids: tuple[int, ...]
    """Greedy continuation under the run's own persistence."""
    text: str
    unsteered_logprob: float | None
    """Mean log-probability of that continuation under the unsteered model, in nats per token."""


class ImpulseResponse(Record):
    """One action at one control point and strength, measured on the model."""

    entry_id: str
    layer: int
    """Block whose output was changed."""
    alpha: float
    action_norm: float
    unsteered_norm: float
    """Norm of the unsteered residual at the control point, at :attr:`layer`."""
    spot: Spot
    tokens: tuple[ReadToken, ...]
    """The control point's token, then the recorded tokens after it."""
    layers: tuple[LayerResponse, ...]
    """From the injected layer to the last."""
    relative: tuple[tuple[float, ...], ...]
    """Relative norm of the disturbance, layer by token, in the order of :attr:`layers` and :attr:`tokens`."""
    shifts: tuple[TokenShift, ...]
    """Likeliest next tokens of either kind, likeliest before first."""
    kl: tuple[float, ...]
    """At each of :attr:`tokens`."""
    kl_frozen: tuple[float, ...]
    """The same with every attention pattern fixed at its unsteered value: the effect without any change of attention."""
    attention_unsteered: tuple[tuple[float, ...], ...]
    """Mean attention of the tokens after the control point to it, block by head; empty when there are none."""
    attention_steered: tuple[tuple[float, ...], ...]
    doses: tuple[Dose, ...]
    """Weakest first; the first is 0."""
