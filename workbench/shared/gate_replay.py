"""Recorded answers decided again under other gate settings. No model is called; steps that the recording cannot answer stay unknown.

After the first step that is decided otherwise, the answer would have continued with other text. Later decisions still use the recorded
evidence and hold for the recorded text only, so such steps are marked ``diverged`` and counted apart.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import pandas as pd

from stir_core.config import GateConfig, with_changes
from stir_core.intervene.replay import Again, decide_again, gate_was_asked
from stir_core.policies import Policies
from stir_core.records import Decision, StepEvidence, StepTrace, Trace
from workbench.shared.gate_evidence import best_score, candidate_table, funnel, margin_of
from workbench.shared.intervals import proportion

FlipKind = Literal["not asked", "same", "null → action", "action → null", "action → other", "other strength", "needs the model"]
FLIPS: tuple[FlipKind, ...] = ("null → action", "action → null", "action → other")
"""The ways in which a decision can flip. The same action at another strength is none, but the text after it may differ."""


class StepReplay(NamedTuple):
    """One recorded step under the settings that are tried."""

    step: StepTrace
    again: Again
    change: FlipKind
    diverged: bool
    """An earlier step of the answer is decided otherwise, or is unknown."""

    @property
    def flips(self) -> bool:
        """True where another action, or none, is chosen than in the recording."""
        return self.change in FLIPS

    @property
    def turns(self) -> bool:
        """True where the recorded text does not hold from here on: the decision differs, also in strength only, or is unknown."""
        return self.flips or self.change in ("other strength", "needs the model")

    @property
    def standing(self) -> str:
        """How far the new decision can be trusted, in words."""
        if self.change == "not asked":
            return "never asked"
        if self.again.decision is None:
            return "not in the recording"
        return "as recorded up to here only" if self.diverged else "decided"


class AnswerReplay(NamedTuple):
    """One recorded answer under the settings that are tried."""

    id: str
    steps: tuple[StepReplay, ...]

    @property
    def turn(self) -> StepReplay | None:
        """The first step that is decided otherwise or is unknown; ``None``: the answer stays as it is."""
        return next((step for step in self.steps if step.turns), None)

    def at(self, m: int) -> StepReplay | None:
        """The step that begins at control point ``m``."""
        return next((step for step in self.steps if step.step.m == m), None)


def changes_of(own: GateConfig, gate: GateConfig) -> dict[str, float]:
    """The settings that differ from the run's own gate, in the order of the config."""
    return {key: value for key, value in gate if value != getattr(own, key)}


def replay_answer(trace: Trace, own: GateConfig, gate: GateConfig, *, seed: int, policies: Policies | None = None) -> AnswerReplay:
    """Decide every step of an answer again; ``policies``: the run's learned gates, for a gate with such a policy."""
    steps: list[StepReplay] = []
    diverged = False
    for step in trace.steps:
        again = decide_again(step, own, gate, seed=seed, name=trace.id, policies=policies)
        steps.append(StepReplay(step, again, _change(step, again), diverged))
        diverged = diverged or steps[-1].turns
    return AnswerReplay(trace.id, tuple(steps))


def replay_all(
    traces: Mapping[str, Trace], own: GateConfig, gate: GateConfig, *, seed: int, policies: Policies | None = None
) -> dict[str, AnswerReplay]:
    """Decide every step of every answer again."""
    return {id_: replay_answer(trace, own, gate, seed=seed, policies=policies) for id_, trace in traces.items()}


def _change(step: StepTrace, again: Again) -> FlipKind:
    if not gate_was_asked(step):
        return "not asked"
    if again.decision is None:
        return "needs the model"
    old, new = step.decision, again.decision
    if old.chosen == new.chosen:
        return "same" if old.alpha == new.alpha else "other strength"
    if old.chosen is None:
        return "null → action"
    return "action → null" if new.chosen is None else "action → other"


class Tally(NamedTuple):
    """All answers under the settings that are tried, counted."""

    answers: int
    asked: int
    """Steps at which the gate had something to decide."""
    known: int
    """Of these, the ones known from the recording, in answers not diverged before them."""
    flips: dict[FlipKind, int]
    """Of the known ones, the decisions that flip, by kind: at most one per answer."""
    strengths: int
    """Of the known ones, those that keep the action at another strength: no flips, but the answer turns there, too."""
    unknown: int
    """First steps of an answer that need the model."""
    diverged: int
    """Steps after a flip, another strength or an unknown step."""
    diverged_flips: int
    """Of these, the ones that would flip if the text had stayed as recorded."""

    @property
    def flipped(self) -> int:
        """Decisions that flip, at most one per answer."""
        return sum(self.flips.values())


def tally(answers: Iterable[AnswerReplay]) -> Tally:
    """Count the decisions that flip, that are known, and that need the model."""
    answers = list(answers)
    asked = [step for answer in answers for step in answer.steps if step.change != "not asked"]
    front, diverged = [s for s in asked if not s.diverged], [s for s in asked if s.diverged]
    known = [step for step in front if step.again.decision is not None]
    kinds: dict[FlipKind, int] = {kind: sum(step.change == kind for step in known) for kind in FLIPS}
    lost = len(front) - len(known)
    strengths = sum(step.change == "other strength" for step in known)
    return Tally(len(answers), len(asked), len(known), kinds, strengths, lost, len(diverged), sum(step.flips for step in diverged))


def flips_line(counts: Tally) -> str:
    """The badge: how many decisions flip, by kind, and how many keep their action at another strength."""
    kinds = ", ".join(f"{n} {kind}" for kind, n in counts.flips.items() if n)
    more = f" ({kinds})" if kinds else ""
    kept = f"; {counts.strengths} keep{'s' if counts.strengths == 1 else ''} the action at another strength" if counts.strengths else ""
    return f"decided again with other settings: {counts.flipped} of {counts.known} decisions flip{more}{kept}"


def reach_line(counts: Tally) -> str:
    """Steps that the counts leave out, and why."""
    parts = []
    if counts.diverged:
        parts.append(
            f"{counts.diverged} steps lie after a flip, another strength or an unknown step: their evidence is that of the recorded text "
            f"({counts.diverged_flips} of them would flip if it had stayed)"
        )
    if counts.unknown:
        answers = "1 answer reaches" if counts.unknown == 1 else f"{counts.unknown} answers reach"
        parts.append(f"{answers} a step that is not in the recording and needs the model")
    return "; ".join(parts)


def flip_table(answers: Iterable[AnswerReplay]) -> pd.DataFrame:
    """One row per answer that turns: the step, and how it is decided."""
    rows = []
    for answer in answers:
        turn = answer.turn
        if turn is not None:
            old, new = turn.step.decision, turn.again.decision
            after = sum(step.change != "not asked" for step in answer.steps if step.diverged)
            now = turn.again.missing if new is None else str(new.reason)
            rows.append((answer.id, turn.step.m, turn.change, _said(old), _said(new), after, now))
    return pd.DataFrame(rows, columns=["problem", "m", "change", "recorded", "now", "later", "why now"])


def _said(decision: Decision | None) -> str:
    if decision is None:
        return "?"
    return f"{decision.chosen} × {decision.alpha:.3f}" if decision.chosen else "null"


def step_rows(answer: AnswerReplay) -> pd.DataFrame:
    """One row per step of an answer: the recorded decision, the new one, and how far the new one can be trusted."""
    rows = []
    for step in answer.steps:
        new = step.again.decision
        now = step.again.missing if new is None else str(new.reason)
        margin = margin_of(new, best_score(new)) if new else None
        rows.append((step.step.m, _said(step.step.decision), _said(new), step.change, step.standing, margin, now))
    return pd.DataFrame(rows, columns=["m", "recorded", "now", "change", "standing", "margin", "why now"])


def curve(
    traces: Mapping[str, Trace],
    own: GateConfig,
    gate: GateConfig,
    key: str,
    values: Iterable[float],
    *,
    seed: int,
    policies: Policies | None = None,
) -> pd.DataFrame:
    """Share of steps that a gate steers as one of its settings takes each of ``values`` and the others stay as in ``gate``.

    Each recorded step is decided by itself, with the text before it as recorded; steps that need the model are left out (``unknown``).
    Intervals are Wilson's and treat steps as independent.
    """
    asked = [(id_, step) for id_, trace in traces.items() for step in trace.steps if gate_was_asked(step)]
    rows = []
    for value in values:
        other = with_changes(gate, **{key: value})
        decisions = [decide_again(step, own, other, seed=seed, name=id_, policies=policies).decision for id_, step in asked]
        known = [decision for decision in decisions if decision is not None]
        share = proportion(sum(decision.chosen is not None for decision in known), len(known))
        rows.append((value, *share, len(decisions) - len(known)))
    return pd.DataFrame(rows, columns=["value", "steered", "n", "rate", "low", "high", "unknown"])


STAGES = ("library at m", "retrieved k", "candidates L", "committed")
"""The gate's sieves, widest first."""


RECORDED = "recorded"


NOW = "with these settings"


TERMS = ("β (A − A null)", "ρ · gain")
"""The terms of a margin: how far retrieval puts the candidate above null, and the preview's contribution."""


def funnel_rows(steps: Iterable[StepReplay]) -> pd.DataFrame:
    """How many entries were left after each sieve, recorded and now, summed over the steps that the recording can answer.

    Each step is taken by itself, with the text before it as recorded; steps at which the gate was never asked are left out.
    """
    totals = {when: [0] * len(STAGES) for when in (RECORDED, NOW)}
    for step in steps:
        if step.change == "not asked" or step.again.decision is None:
            continue
        pairs = ((RECORDED, step.step.evidence, step.step.decision), (NOW, step.again.evidence, step.again.decision))
        for when, evidence, decision in pairs:
            totals[when] = [total + n for total, n in zip(totals[when], funnel(evidence, decision), strict=True)]
    rows = [(stage, when, totals[when][i]) for when in totals for i, stage in enumerate(STAGES)]
    return pd.DataFrame(rows, columns=["stage", "when", "entries"])


def why_not_rows(evidence: StepEvidence, decision: Decision, again: Again) -> pd.DataFrame:
    """Every retrieved entry with its recorded fate and its fate under the settings that are tried."""
    table = candidate_table(evidence, decision)
    if again.decision is None:
        return table.assign(**{"score now": None, "margin now": None, "fate now": "not in the recording: needs the model"})
    now = candidate_table(again.evidence, again.decision).set_index("entry")[["score", "margin", "fate"]].add_suffix(" now")
    reason = again.evidence.not_retrieved or "outside the k nearest"
    return table.join(now, on="entry").fillna({"fate now": f"not retrieved: {reason}"})


def term_rows(decision: Decision | None, gate: GateConfig) -> pd.DataFrame:
    """One row per term of every scored candidate's margin; the terms of a candidate add up to its margin over null."""
    rows = []
    null = decision.score_null if decision else None
    for scored in decision.scored if decision else ():
        if scored.score is None or null is None:
            continue
        value, gain = gate.beta * scored.value, None if scored.gain is None else gate.rho * scored.gain
        numbers = (scored.score - null, value, gain, null, scored.score)
        fate = "committed" if decision and scored.entry_id == decision.chosen else "not committed"
        terms = zip(TERMS, (value - null, gain), strict=True)
        rows += [(scored.entry_id, term, amount, *numbers, fate) for term, amount in terms if amount is not None]
    return pd.DataFrame(rows, columns=["candidate", "term", "amount", "margin", "beta value", "rho gain", "null score", "score", "fate"])


def margin_rows(answer: AnswerReplay) -> pd.DataFrame:
    """One row per step and scored candidate of one answer, under the settings that are tried; positive margins beat null.

    Steps that the recording cannot answer are left out.
    """
    rows = []
    for step in answer.steps:
        if (decision := step.again.decision) is not None:
            scored = candidate_table(step.again.evidence, decision).dropna(subset=["margin"])
            marks = {"m": step.step.m, "committed": scored["entry"] == decision.chosen, "diverged": step.diverged}
            rows += scored.assign(**marks).to_dict("records")
    return pd.DataFrame(rows, columns=["m", "entry", "cosine", "value", "gain", "score", "margin", "committed", "diverged"])
