"""The Gates page's data: outcomes of answers, the rows of the margin map, and the range of every setting that can be tried."""

from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import NamedTuple

import pandas as pd

from stir_core.config import GateConfig
from stir_core.records import Trace
from workbench.shared.gate_replay import AnswerReplay

OUTCOMES = ("gained", "both right", "both wrong", "lost", "not graded")
"""Outcomes of a recorded answer: steered against vanilla."""


def outcome(steered: Trace, vanilla: Trace | None) -> str:
    """One of :data:`OUTCOMES`."""
    if steered.verdict is None or vanilla is None or vanilla.verdict is None:
        return "not graded"
    if steered.verdict.correct == vanilla.verdict.correct:
        return "both right" if steered.verdict.correct else "both wrong"
    return "gained" if steered.verdict.correct else "lost"


def map_rows(answers: Mapping[str, AnswerReplay], outcomes: Mapping[str, str]) -> pd.DataFrame:
    """One row per step with a scored candidate: preview gain and margin of its best candidate, the decision and the answer's outcome."""
    rows = []
    for id_, answer in answers.items():
        for step in answer.steps:
            decision = step.again.decision
            if decision is None or decision.score_null is None:
                continue
            scores = [(scored.score, scored) for scored in decision.scored if scored.score is not None]
            if scores:
                score, best = max(scores, key=lambda pair: pair[0])
                margin, fate = score - decision.score_null, "committed" if decision.chosen else "null"
                rows.append(
                    (id_, step.step.m, best.entry_id, best.gain, margin, fate, outcomes[id_], step.change, step.flips, step.diverged)
                )
    return pd.DataFrame(rows, columns=["problem", "m", "entry", "gain", "margin", "decision", "outcome", "change", "flips", "diverged"])


POINTS = 25
"""Maximum number of values of a setting on the curve."""
FEWEST, DECISIONS = 7, 4000
"""Minimum number of values on the curve, and about the maximum number of decisions in all, so that sliders react at once on large runs."""


class Scale(NamedTuple):
    """The slider of one gate setting: its range, its step and the run's own value."""

    name: str
    label: str
    low: float
    high: float
    step: float
    own: float
    """The run's own value."""
    help: str
    span: tuple[float, float]
    """Range in which decisions can change, which the curve covers."""

    @property
    def whole(self) -> bool:
        """True if the setting takes whole numbers only."""
        return self.step == 1

    def points(self, steps: int = 0) -> list[float]:
        """Values across the span, the run's own among them: fewer if many ``steps`` are decided at each value."""
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
