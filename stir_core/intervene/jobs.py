"""What the step loop is given: answers to decode, decisions made for the gate, and what a batch shares."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from stir_core.config import DecodeConfig, GateConfig, RunConfig
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
    """The first tokens of the answer: decoding goes on after them. They count as committed. Where they end inside a step, its rest is
    decoded unsteered."""
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
    """M of the paper: after the M-th step the rest of the answer is decoded unsteered."""
    delimiter: str = "\n\n"
    """Text that ends a step."""
    seed: int = 0
    """Run seed, which the names of all random streams start from."""
    compat: bool = False
    """Tokenise the whole text again at every boundary, as the published code does."""
    rows: int | None = None
    """Most answers decoded side by side; the others wait. ``None``: all."""

    @classmethod
    def of(cls, config: RunConfig, decode: DecodeConfig | None = None, rows: int | None = None) -> "Settings":
        """A run's own settings; with another token budget, temperature or batch where they are given."""
        return cls(decode or config.decode, config.mining.control_points, config.delimiter, config.seed, config.compat, rows)
