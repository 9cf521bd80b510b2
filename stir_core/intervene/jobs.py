"""Input of the step loop: answers to decode, decisions forced on the gate, and the settings of a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from stir_core.config import DecodeConfig, GateConfig, RunConfig
from stir_core.errors import DataError
from stir_core.intervene.memory import Memory, action_of
from stir_core.models.steering import Impulse
from stir_core.records import Decision, PhaseChoice, StepEvidence, StepTrace


class Forced(NamedTuple):
    """A decision made in the gate's place: inject this vector, whatever is retrieved."""

    label: str | None
    """The entry's name in the trace; ``None`` leaves the step unsteered."""
    layer: int = 0
    vector: Tensor | None = None
    """Raw, ``[d_model]``."""
    alpha: float = 1.0
    """Multiple of the vector that is injected."""

    @property
    def impulse(self) -> Impulse | None:
        """``alpha`` times the vector; ``None`` if nothing is injected."""
        if self.label is None or self.alpha == 0:
            return None
        assert self.vector is not None  # a label comes with a vector
        return Impulse(self.layer, self.alpha * self.vector)


NULL = Forced(None)
"""Leave the step unsteered."""


Force = Callable[[int], Forced | None]
"""Control point -> the decision forced there; ``None`` lets the gate decide."""
Overrule = Callable[[StepEvidence, Decision], Decision]
"""What was measured at a control point, and the gate's decision -> the decision that is committed."""


def recorded_decision(step: StepTrace, gate: GateConfig, memory: Memory | None, seed: int) -> Forced:
    """A recorded decision, to be forced again.

    Raises:
        DataError: the step was steered by an entry that the library does not hold.
    """
    chosen = step.decision.chosen
    if chosen is None:
        return NULL
    if memory is None or chosen not in memory.by_id:
        raise DataError(f'control point {step.m} was steered by "{chosen}", which is not in this library: open the run it was made with')
    return Forced(chosen, memory.by_id[chosen].layer, action_of(memory, gate, chosen, seed), step.decision.alpha)


@dataclass(frozen=True)
class Job:
    """One answer to decode."""

    id: str
    """Names the answer's random streams and its trace."""
    prompt_ids: list[int]
    gate: GateConfig
    memory: Memory | None = None
    """``None``: the gate never steers; ``force`` still may."""
    given: tuple[int, ...] = ()
    """The first tokens of the answer; decoding goes on after them. They count as committed. If they end inside a step, the rest of the step
    is decoded unsteered."""
    force: Force | None = None
    """Overrules the gate at the control points for which it returns a decision. It is asked at every one, 0 and M included."""
    past: Force | None = None
    """Impulses that were live while the given tokens were decoded. Under ``persistent`` the given tokens are read with these impulses at
    their control points; under ``ephemeral``, or if ``None``, they are read unsteered."""
    decode: DecodeConfig | None = None
    """Token budget and sampling; ``None``: those of the batch."""
    likeliest: int = 0
    """Number of likeliest tokens that each token's event tells."""
    within: PhaseChoice = "both"
    """Part of the answer in which ``force`` is asked; elsewhere the step is left unsteered."""
    overrule: Overrule | None = None
    """May change what the gate decided at a control point where it retrieved; ``None``: its decisions stand."""
    skip: bool = False
    """A steered step is not written: the delimiter alone stands in its place. Wants ``persistent``, since an impulse that is taken back
    with its step would leave nothing."""
    begin: tuple[int, ...] = ()
    """First tokens of the step at the control point after ``given``, taken instead of drawn ones. Wants a forced decision there."""


class Settings(NamedTuple):
    """Settings of all answers of a batch."""

    decode: DecodeConfig
    """Token budget and sampling of the jobs that have none of their own."""
    control_points: int = 8
    """M of the paper: after the M-th step the rest of the answer is one step, which the gate leaves unsteered."""
    delimiter: str = "\n\n"
    """Text that ends a step."""
    seed: int = 0
    """Run seed; all named random streams derive from it."""
    phase: PhaseChoice = "thinking"
    """Part of a thinking model's answers that was mined: with ``"final"``, control points are counted behind the thinking."""
    compat: bool = False
    """Tokenise the whole text again at every boundary, as the published code does."""
    rows: int | None = None
    """Maximum number of answers decoded side by side; the others wait. ``None``: all."""

    @classmethod
    def of(cls, config: RunConfig, decode: DecodeConfig | None = None, rows: int | None = None) -> "Settings":
        """A run's settings, with another token budget and sampling (``decode``) or batch size (``rows``) if given."""
        mining = config.mining
        return cls(decode or config.decode, mining.control_points, config.delimiter, config.seed, mining.phase, config.compat, rows)
