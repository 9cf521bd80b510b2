"""Two gates on the same recorded evidence: at how many decisions they agree, and where they differ. No model is called.

Every step is decided by itself, on its recorded text; what either gate would have written afterwards is not in the recording.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import pandas as pd

from stir_core.config import GateConfig, with_changes
from stir_core.findings import PolicyReport
from stir_core.intervene.replay import Again, decide_again, gate_was_asked
from stir_core.records import Decision, StepTrace, Trace
from stir_core.store.policies import PolicyFolder
from workbench.shared.facts import EvaluationFacts, RunFacts, gate_of
from workbench.shared.intervals import proportion, with_interval

PUBLISHED, CALIBRATED = "published", "calibrated"
"""The value gate under its two rules."""
HELD_OUT, STUDY = "held-out answers of the run", "answers of stir policy"
PairKind = Literal["both null", "same action", "only the first acts", "only the second acts", "different actions", "needs the model"]
KINDS: tuple[PairKind, ...] = ("both null", "same action", "only the first acts", "only the second acts", "different actions")
AGREE: tuple[PairKind, ...] = KINDS[:2]


class Evidence(NamedTuple):
    """Recorded answers, and the gate that they were recorded with."""

    traces: dict[str, Trace]
    gate: GateConfig

    @property
    def seen(self) -> bool:
        """Whether some step holds what learned gates see."""
        return any(step.evidence.features is not None for trace in self.traces.values() for step in trace.steps)


class Pairing(NamedTuple):
    """One step under both gates."""

    answer: str
    right: bool | None
    step: StepTrace
    first: Again
    second: Again
    kind: PairKind


def evidences(facts: RunFacts, evaluations: Mapping[str, EvaluationFacts]) -> dict[str, Evidence]:
    """Recorded answers of the run by name; those that hold what learned gates see come first."""
    found: dict[str, Evidence] = {}
    folder = PolicyFolder(facts.run)
    if folder.reported:
        gate = GateConfig.model_validate(folder.report().spec.gate, strict=False)
        found[STUDY] = Evidence({trace.id: trace for trace in folder.traces()}, gate)
    for label, evaluation in evaluations.items():
        for name in evaluation.methods:
            if name.partition(":")[0] == "stir":
                answers = evaluation.answers(name)
                traces = {f"{problem}#{seed}" if seed else problem: each.trace for (problem, seed), each in answers.items() if each.trace}
                if traces:
                    found[f"{label}: {name}"] = Evidence(traces, gate_of(evaluation.spec, name))
    found[HELD_OUT] = Evidence(facts.steered, facts.config.gate)
    return dict(sorted(found.items(), key=lambda each: not each[1].seen))


def gate_named(recorded: GateConfig, name: str) -> GateConfig:
    """The recorded gate with another policy: one of the two rules of the value gate, or a learned one."""
    if name in (PUBLISHED, CALIBRATED):
        return with_changes(recorded, policy="value", rule="score" if name == PUBLISHED else "calibrated")
    return with_changes(recorded, policy=name)


def paired_decisions(facts: RunFacts, recorded: Evidence, first: str, second: str) -> list[Pairing]:
    """Every step at which the recorded gate was asked, under both gates."""
    policies, margins, seed = facts.policies, facts.margins, facts.config.seed
    gates = gate_named(recorded.gate, first), gate_named(recorded.gate, second)
    found = []
    for id_, trace in recorded.traces.items():
        right = trace.verdict.correct if trace.verdict else None
        for step in filter(gate_was_asked, trace.steps):
            one, other = (
                decide_again(step, recorded.gate, gate, seed=seed, name=trace.id, policies=policies, margins=margins) for gate in gates
            )
            found.append(Pairing(id_, right, step, one, other, _kind(one.decision, other.decision)))
    return found


def _kind(first: Decision | None, second: Decision | None) -> PairKind:
    if first is None or second is None:
        return "needs the model"
    if first.chosen == second.chosen:
        return "same action" if first.chosen else "both null"
    if first.chosen is None:
        return "only the second acts"
    return "only the first acts" if second.chosen is None else "different actions"


def agreement_line(pairs: Iterable[Pairing]) -> str:
    """At how many decisions both gates agree, and how many are not in the recording."""
    pairs = list(pairs)
    known = [pair for pair in pairs if pair.kind != "needs the model"]
    share = proportion(sum(pair.kind in AGREE for pair in known), len(known))
    line = f"They agree at {share}" if known else "The recording answers for no step"
    unknown = len(pairs) - len(known)
    if not unknown:
        return f"{line}."
    why = next(again.missing for pair in pairs for again in (pair.first, pair.second) if again.decision is None)
    return f"{line}. {unknown} of {len(pairs)} steps are not in the recording: {why}."


def count_table(pairs: Iterable[Pairing]) -> pd.DataFrame:
    """One row per way to agree or differ, with its share of the known decisions and the answers that it occurs in."""
    known = [pair for pair in pairs if pair.kind != "needs the model"]
    rows = []
    for kind in KINDS:
        here = [pair for pair in known if pair.kind == kind]
        share = proportion(len(here), len(known))
        right = {pair.answer for pair in here if pair.right}
        rows.append((kind, *share, len({pair.answer for pair in here}), len(right)))
    return pd.DataFrame(rows, columns=["decision", "steps", "of", "share", "low", "high", "answers", "right"])


def learned_table(report: PolicyReport) -> pd.DataFrame:
    """One row per gate that was estimated: columns of :func:`workbench.shared.charts.forest`, and the figures in words."""
    rows = []
    for gate in report.gates:
        over_null, low_high = with_interval(gate.over_null, "+.3f"), gate.over_null.bounds
        shown = (over_null, with_interval(gate.over_value, "+.3f"), gate.on_policy and with_interval(gate.on_policy, ".3f"), gate.verdict)
        rows.append((gate.name, f"ESS {gate.effective:.0f}", gate.over_null.value, *low_high, "", over_null, gate.acts, *shown))
    words = ["acts", "over null [95 %]", "over the published gate", "on policy [95 %]", "said"]
    return pd.DataFrame(rows, columns=["name", "n", "value", "low", "high", "verdict", "hover", *words])


def decision_word(decision: Decision | None) -> str:
    """A decision in a word or two."""
    if decision is None:
        return "needs the model"
    return f"{decision.chosen} × {decision.alpha:.2f}" if decision.chosen else "null"


def disagreements(pairs: Iterable[Pairing]) -> list[Pairing]:
    """The steps at which the gates differ."""
    return [pair for pair in pairs if pair.kind in KINDS and pair.kind not in AGREE]


def differing_table(pairs: Iterable[Pairing], first: str, second: str) -> pd.DataFrame:
    """One row per step at which the gates differ, with both decisions and reasons."""
    rows = []
    for pair in disagreements(pairs):
        both = [decision_word(each.decision) for each in (pair.first, pair.second)]
        reasons = [str(each.decision.reason) if each.decision else each.missing for each in (pair.first, pair.second)]
        rows.append((pair.answer, pair.step.m, *both, decision_word(pair.step.decision), pair.right, *reasons))
    columns = ["answer", "m", first, second, "recorded", "right", f"{first}: reason", f"{second}: reason"]
    return pd.DataFrame(rows, columns=columns)
