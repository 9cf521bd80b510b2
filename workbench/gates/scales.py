"""The range of every gate setting that can be tried on a recording: wide enough to see what it does, and holding the run's own value."""

from collections.abc import Iterable, Sequence
from math import ceil
from typing import NamedTuple

from stir_core.config import GateConfig
from stir_core.records import Trace

POINTS = 25
"""Values of a setting that the curve goes through."""
FEWEST, DECISIONS = 7, 4000
"""At least so many, and at most about so many decisions in all: a slider must answer at once on large runs too."""


class Scale(NamedTuple):
    """One slider."""

    name: str
    label: str
    low: float
    high: float
    step: float
    own: float
    """The run's own value."""
    help: str
    span: tuple[float, float]
    """Where decisions can change: what the curve goes through."""

    @property
    def whole(self) -> bool:
        """Whole numbers only."""
        return self.step == 1

    def points(self, steps: int = 0) -> list[float]:
        """About :data:`POINTS` values across the span, fewer where many ``steps`` are decided at each, the run's own among them."""
        if self.whole:
            return [float(value) for value in range(int(self.low), int(self.high) + 1)]
        low, high = self.span
        n = max(FEWEST, min(POINTS, DECISIONS // max(1, steps)))
        return sorted({round(low + i * (high - low) / (n - 1), 6) for i in range(n)} | {self.own})


def scales(gate: GateConfig, traces: Iterable[Trace]) -> list[Scale]:
    """The sliders for these recorded answers."""
    traces = list(traces)
    seen = [step.evidence for trace in traces for step in trace.steps if step.evidence.retrieved]
    entries = max([evidence.n_entries for evidence in seen], default=1)
    scores = [scored.score for trace in traces for step in trace.steps for scored in step.decision.scored if scored.score is not None]
    nearest = [evidence.retrieved[0].sim for evidence in seen]
    return [
        _scale(gate, "beta", "β", 0.0, 4.0, 0.05),
        _scale(gate, "rho", "ρ", 0.0, 1.0, 0.01),
        _scale(gate, "tau_null", "τ", 0.0, float(ceil(max([1.0, *scores]))), 0.02, scores),
        _scale(gate, "min_sim", "min sim", 0.0, 1.0, 0.01, nearest),
        _scale(gate, "k_scale", "strength", 0.0, 1.0, 0.05),
        _scale(gate, "k_retrieve", "k", 1, max(2, entries), 1),
        _scale(gate, "candidates", "L", 1, max(2, gate.k_retrieve), 1),
    ]


def _scale(gate: GateConfig, name: str, label: str, low: float, high: float, step: float, seen: Sequence[float] = ()) -> Scale:
    own = getattr(gate, name)
    low, high = min(low, own), max(high, 2 * own if step < 1 else own)
    wide = 0.1 * (max(seen) - min(seen)) if seen else 0.0
    span = (max(low, min(seen) - wide), min(high, max(seen) + wide)) if wide else (low, high)
    return Scale(name, label, low, high, step, own, GateConfig.model_fields[name].description or "", span)
