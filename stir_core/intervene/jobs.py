"""What the step loop is given: answers to decode, decisions made for the gate, and what a batch shares."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from stir_core.config import DecodeConfig, GateConfig
from stir_core.intervene.memory import Memory


class Forced(NamedTuple):
    """A decision that is made for the gate: inject this vector, whatever was retrieved."""

    label: str | None
    """What the trace calls it; ``None`` leaves the step unsteered."""
    layer: int = 0
    vector: Tensor | None = None
    """Raw, ``[d_model]``."""
    alpha: float = 1.0
    """Multiple of the vector that is injected."""


NULL = Forced(None)
"""Leave the step unsteered."""


Force = Callable[[int], Forced | None]
"""Control point -> what is forced there; ``None`` lets the gate decide."""


@dataclass(frozen=True)
class Job:
    """One answer to decode."""

    id: str
    """Names the answer's random streams and its trace."""
    prompt_ids: list[int]
    gate: GateConfig
    memory: Memory | None = None
    """``None`` decodes unsteered, whatever the gate says."""
    given: tuple[int, ...] = ()
    """The first tokens of the answer, there already: decoding goes on behind them. They count as committed. Where they end inside a step,
    its rest is decoded unsteered."""
    force: Force | None = None
    """Overrules the gate where it says something."""
    past: Force | None = None
    """Impulses that were live while the given tokens were decoded. Under ``persistent`` these tokens are read with them at their control
    points; under ``ephemeral``, and where ``None``, they are read unsteered."""
    decode: DecodeConfig | None = None
    """Its own budget and temperature; ``None``: the batch's."""


class Settings(NamedTuple):
    """What all answers of a batch share."""

    decode: DecodeConfig
    """Token budget and sampling of the jobs that bring none of their own."""
    control_points: int = 8
    """M of the paper: behind the M-th step the rest of the answer is decoded unsteered."""
    delimiter: str = "\n\n"
    """Text that ends a step."""
    seed: int = 0
    """Run seed, which the names of all random streams start from."""
    compat: bool = False
    """Tokenise the whole text again at every boundary, as the published code does."""
    rows: int | None = None
    """Most answers decoded side by side; the others wait. ``None``: all."""


class Intake(ABC):
    """Where jobs come from while others are decoded. The step loop asks before every pass."""

    @abstractmethod
    def take(self, live: int) -> list[tuple[int, Job]]:
        """Jobs that begin now, each with the number that its events carry; ``live`` are being decoded.

        With none live it may wait for one; what it gives then being empty, the loop ends.
        """

    def gone(self) -> Collection[int]:
        """Numbers of answers that nobody waits for any more; they are dropped before the next pass, without a trace."""
        return ()


class Listed(Intake):
    """Jobs that are all known from the beginning, numbered in their order, at most ``rows`` at a time."""

    def __init__(self, jobs: list[Job], rows: int | None):
        self._waiting = deque(enumerate(jobs))
        self._rows = rows or len(jobs)

    def take(self, live: int) -> list[tuple[int, Job]]:
        """See :class:`Intake`."""
        return [self._waiting.popleft() for _ in range(min(self._rows - live, len(self._waiting)))]
