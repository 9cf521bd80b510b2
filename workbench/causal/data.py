"""A causal study as tables and sentences. An effect that cannot be told from 0 is "no effect seen", never "no effect"."""

from typing import NamedTuple

import pandas as pd

from stir_core.evaluate.causal_text import NOTE, OWN_NOTE, own_size
from stir_core.evaluate.effects import PREDICTORS, roc_curve
from stir_core.evaluate.statistics import verdict_of
from stir_core.findings import Advantage, ArmEffect, CausalReport, EffectVerdict, Estimate
from stir_core.requests import CausalStudyName
from stir_core.store.causal import CausalFolder
from stir_core.store.runs import Run
from workbench.shared.intervals import counted_states, interval, with_interval


class Study(NamedTuple):
    """A causal study on disk."""

    report: CausalReport
    ended: bool
    """False while it is being made, or if it was interrupted."""


def study_of(run: Run, study: CausalStudyName = "gate") -> Study | None:
    """One of a run's causal studies; ``None`` if there is no report yet."""
    folder = CausalFolder(run, study)
    return Study(folder.report(), folder.finished) if folder.reported else None


def study_line(report: CausalReport) -> str:
    """The study's settings and size in one line."""
    spec = report.spec
    if spec.study == "own":
        return own_size(report).replace("`", "")
    levels = f" ({', '.join(spec.levels)})" if spec.levels else ""
    return (
        f"{spec.task} · {spec.split}{levels} · {report.states} of {report.planned} states from {spec.n} problems · "
        f"{report.rolls} continuations, {report.tokens} tokens decoded · temperature {spec.temperature:g}, top-p {spec.top_p:g} · "
        f"{spec.rolls} per arm{', successive halving' if spec.halving else ''} · at most {spec.max_new_tokens} tokens per answer · "
        f"{spec.model.name} in {spec.model.dtype} · strength {spec.gate.get('k_scale', '?')} · {spec.library} {spec.basis}"
    )


class StudyAnswer(NamedTuple):
    """The answer to a question in a few words, and the figures that it rests on."""

    answer: str
    figures: str


def own_reading(report: CausalReport) -> StudyAnswer:
    """Can an impulse help at all? The verdict of the study ``own``, as the core decides it."""
    return StudyAnswer(f"{report.outcome or 'cannot tell'}.".capitalize(), report.verdict or "")


def gate_reading(report: CausalReport) -> StudyAnswer:
    """Does the gate's margin predict the effect? Answered from its rank correlation with the measured advantage of the candidates."""
    margin = next((each for each in report.predictors if each.name == "margin"), None)
    if margin is None or margin.correlation is None:
        points = margin.points if margin else 0
        return StudyAnswer("Cannot tell.", f"{points} measured candidates do not vary enough to be ranked.")
    shown = with_interval(margin.correlation, "+.2f")
    figure = f"Rank correlation of margin with measured advantage {shown}, over {margin.points} candidates at {report.states} states."
    if margin.low is None or margin.high is None:
        return StudyAnswer("Cannot tell.", figure)
    if margin.low > 0:
        return StudyAnswer("Yes.", f"{figure} Candidates with larger margins tended to do better.")
    if margin.high < 0:
        return StudyAnswer("It points the wrong way.", f"{figure} Candidates with larger margins tended to do worse.")
    return StudyAnswer("Not seen.", f"{figure} The interval holds 0; a correlation up to {margin.high:+.2f} is not excluded.")


def choice_reading(report: CausalReport) -> StudyAnswer:
    """Do the committed actions help? Answered from the effect of the chosen actions against null."""
    chosen = next((effect for effect in report.effects if effect.arm.startswith("chosen") and effect.against == "null"), None)
    if chosen is None:
        return StudyAnswer("Cannot tell.", "The gate chose no action at any measured state.")
    shown = with_interval(chosen.advantage, "+.3f")
    over = f"{chosen.pairs} pairs at {counted_states(chosen)}"
    return StudyAnswer(_ANSWERS[_verdict(chosen)], f"Chosen minus null: {shown} in the share of right answers, over {over}.")


_ANSWERS: dict[EffectVerdict, str] = {
    "helps": "They helped.",
    "harms": "They harmed.",
    "no effect seen": "No effect seen.",
    "cannot tell": "Cannot tell.",
}


def _verdict(effect: ArmEffect | Advantage) -> EffectVerdict:
    """Of an action, corrected for the number of actions; arms answer one question each, and are corrected in the study ``own`` only."""
    if isinstance(effect, Advantage):
        return effect.verdict
    return verdict_of(effect.advantage.value, effect.p if effect.p_holm is None else effect.p_holm)


def study_warnings(report: CausalReport, basis: str | None, *, ended: bool) -> list[str]:
    """Reasons to read the figures with care; ``basis``: digest of the run's present control basis."""
    warnings = []
    so_far = f"{report.states} of {report.planned} states"
    if not ended:
        warnings.append(f"Not finished: {so_far} were measured so far. Call the command again to continue.")
    elif report.states < report.planned:
        warnings.append(f"Only {so_far} were measured before the token budget was used up.")
    if basis is not None and basis != report.spec.basis:
        warnings.append(f"Made with another control basis ({report.spec.basis}) than the run has now ({basis}).")
    if any(effect.problems is None for effect in report.effects):
        warnings.append(
            "Its intervals are older than the rule that problems are clusters, so they do not cover as they say. "
            "Call the command again; continuations are kept."
        )
    return warnings


def bias_lines(report: CausalReport) -> list[str]:
    """How to read the figures."""
    if report.spec.study == "own":
        return [OWN_NOTE]
    lines = [NOTE]
    if report.spec.halving:
        lines.append(
            "Successive halving drops the worse half of a state's candidates after each round. Dropped candidates are judged by their "
            "first continuations, which went badly, so their advantages are biased down; those of the others are biased up. "
            "The option --no-halving avoids this."
        )
    if unknown := sum(action.verdict == "cannot tell" for action in report.actions):
        lines.append(f"{unknown} of {len(report.actions)} actions were tried on too few problems to tell whether they help or harm.")
    return lines


def arm_table(report: CausalReport) -> pd.DataFrame:
    """One row per comparison of two arms."""
    rows = [_effect_row(f"{effect.arm} vs {effect.against}", effect, effect.advantage) for effect in report.effects]
    return pd.DataFrame(rows, columns=EFFECT_COLUMNS)


def advantage_table(report: CausalReport) -> pd.DataFrame:
    """One row per measured action, best first."""
    actions = sorted(report.actions, key=lambda action: -action.value)
    return pd.DataFrame([_effect_row(action.entry_id, action, action) for action in actions], columns=EFFECT_COLUMNS)


EFFECT_COLUMNS = [
    "name",
    "n",
    "value",
    "low",
    "high",
    "verdict",
    "advantage",
    "right",
    "right against",
    "won",
    "lost",
    "p",
    "p holm",
    "tokens",
    "problems",
    "states",
    "pairs",
    "hover",
]


def _effect_row(name: str, effect: ArmEffect | Advantage, advantage: Estimate) -> dict[str, object]:
    shown, tokens = with_interval(advantage, "+.3f"), with_interval(effect.tokens, "+.1f")
    pairs = f"{effect.won} won, {effect.lost} lost of {effect.pairs} pairs, {counted_states(effect)}"
    low, high = advantage.bounds
    return {
        "name": name,
        "n": f"n {effect.pairs} pairs" + (f" of {effect.problems} problems" if effect.problems is not None else ""),
        "value": advantage.value,
        "low": low,
        "high": high,
        "verdict": _verdict(effect),
        "advantage": shown,
        "tokens": tokens,
        **{field: getattr(effect, field) for field in ("won", "lost", "p", "problems", "states", "pairs")},
        "p holm": effect.p_holm,
        **(_accuracies(effect) if isinstance(effect, ArmEffect) else {}),
        "hover": f"{shown}<br>{pairs}<br>tokens {tokens}",
    }


def _accuracies(effect: ArmEffect) -> dict[str, str]:
    shares = {"right": effect.accuracy, "right against": effect.accuracy_against}
    return {name: with_interval(share, ".1%") for name, share in shares.items() if share is not None}


def predictor_table(report: CausalReport) -> pd.DataFrame:
    """One row per predictor: a quantity that the gate has of a candidate before it decides."""
    return pd.DataFrame(
        [
            (p.name, p.spearman, interval(p.correlation, "+.2f") if p.correlation else None, p.auc, p.positives, p.negatives, p.points)
            for p in report.predictors
        ],
        columns=["predictor", "spearman", "95 %", "auc", "helps", "harms", "points"],
    )


def roc_table(report: CausalReport) -> pd.DataFrame:
    """Tidy ROC curves of each predictor for "better than null" against "worse"; ties are left out. Empty if either kind is missing."""
    rows = []
    for each in report.predictors:
        predict = PREDICTORS.get(each.name, lambda _: None)
        measured = [(predict(point), point.advantage > 0) for point in report.points if point.advantage]
        usable = [(predicted, helps) for predicted, helps in measured if predicted is not None]
        if each.auc is not None and usable:
            false, true = roc_curve([predicted for predicted, _ in usable], [helps for _, helps in usable])
            rows += [(each.name, each.auc, x, y) for x, y in zip(false, true, strict=True)]
    return pd.DataFrame(rows, columns=["predictor", "auc", "false", "true"])


def calibration_table(report: CausalReport) -> pd.DataFrame:
    """One row per bin of predicted margin."""
    rows = [
        (b.low, b.high, b.predicted, b.measured.value, *b.measured.bounds, with_interval(b.measured, "+.3f"), b.points)
        for b in report.calibration
    ]
    return pd.DataFrame(rows, columns=["margin low", "margin high", "predicted", "value", "low", "high", "shown", "points"])


def point_table(report: CausalReport) -> pd.DataFrame:
    """One row for each candidate at a state; ``gain`` is empty if its preview was not measured."""
    rows = [
        (p.entry_id, p.problem_id, p.m, "chosen" if p.chosen else "not chosen", p.gain, p.margin, p.advantage, p.pairs, p.tokens)
        for p in report.points
    ]
    return pd.DataFrame(rows, columns=["entry", "problem", "m", "fate", "gain", "margin", "advantage", "pairs", "tokens"])
