"""A causal study as tables and sentences. An interval that holds 0 is reported as "no effect seen", never as "no effect"."""

from typing import NamedTuple

import pandas as pd

from stir_core.evaluate.effects import PREDICTORS, roc_curve
from stir_core.findings import Advantage, ArmEffect, CausalReport, Estimate, Predictor
from stir_core.store.causal import CausalFolder
from stir_core.store.runs import Run
from workbench.shared.intervals import counted_states, verdict_of, with_interval

FEW = 10
"""With fewer states than this, a bootstrap over states is rough."""


class Study(NamedTuple):
    """A causal study on disk."""

    report: CausalReport
    ended: bool
    """False while it is being made, or if it was interrupted."""


def study_of(run: Run) -> Study | None:
    """A run's causal study; ``None`` if there is no report yet."""
    folder = CausalFolder(run)
    return Study(folder.report(), folder.finished) if folder.reported else None


def study_line(report: CausalReport) -> str:
    """The study's settings and size in one line."""
    spec = report.spec
    levels = f" ({', '.join(spec.levels)})" if spec.levels else ""
    return (
        f"{spec.task} · {spec.split}{levels} · {report.states} of {report.planned} states from {spec.n} problems · "
        f"{report.rolls} continuations, {report.tokens} tokens decoded · temperature {spec.temperature:g}, top-p {spec.top_p:g} · "
        f"{spec.rolls} per arm{', successive halving' if spec.halving else ''} · at most {spec.max_new_tokens} tokens per answer · "
        f"{spec.model.name} in {spec.model.dtype} · strength {spec.gate.get('k_scale', '?')} · basis {spec.basis}"
    )


class StudyAnswer(NamedTuple):
    """The answer to a question in a few words, and the figures that it rests on."""

    answer: str
    figures: str


def gate_reading(report: CausalReport) -> StudyAnswer:
    """Does the gate's margin predict the effect? Answered from its rank correlation with the measured advantage of the candidates."""
    margin = next((each for each in report.predictors if each.name == "margin"), None)
    if margin is None or margin.spearman is None:
        points = margin.points if margin else 0
        return StudyAnswer("Cannot tell.", f"{points} measured candidates do not vary enough to be ranked.")
    figure = f"Rank correlation of margin with measured advantage {_signed(margin.spearman)}"
    over = f"over {margin.points} candidates at {counted_states(report.states)}"
    if margin.low is None or margin.high is None:
        return StudyAnswer("Cannot tell.", f"{figure} {over}, too few for an interval.")
    figure = f"{figure} {_interval(margin)}, {over}{' (few: a rough interval)' if report.states < FEW else ''}."
    if margin.low > 0:
        return StudyAnswer("Yes.", f"{figure} Candidates with larger margins tended to do better.")
    if margin.high < 0:
        return StudyAnswer("It points the wrong way.", f"{figure} Candidates with larger margins tended to do worse.")
    bound = max(abs(margin.low), abs(margin.high))
    return StudyAnswer("Not seen.", f"{figure} The interval holds 0; a correlation as strong as {bound:.2f} is not excluded.")


def choice_reading(report: CausalReport) -> StudyAnswer:
    """Do the committed actions help? Answered from the effect of the chosen actions against null."""
    chosen = next((effect for effect in report.effects if effect.arm.startswith("chosen") and effect.against == "null"), None)
    if chosen is None:
        return StudyAnswer("Cannot tell.", "The gate chose no action at any measured state.")
    answer = {"helps": "They helped.", "harms": "They harmed.", "no effect seen": "No effect seen."}[verdict_of(chosen.advantage)]
    few = " (few: a rough interval)" if chosen.states < FEW else ""
    shown = with_interval(chosen.advantage, "{:+.3f}")
    over = f"{chosen.pairs} pairs at {counted_states(chosen.states)}{few}"
    return StudyAnswer(answer, f"Chosen minus null: {shown} in the share of right answers, over {over}.")


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
    return warnings


def bias_lines(report: CausalReport) -> list[str]:
    """How to read the figures."""
    lines = [
        "Intervals are 95 % bootstrap intervals: they resample states, then continuations within each state. p is McNemar's test over "
        "pairs of continuations. It treats pairs of one state as independent, which they are not, so it tends to be too small."
    ]
    if report.spec.halving:
        lines.append(
            "Successive halving drops the worse half of a state's candidates after each round. Dropped candidates are judged by their "
            "first continuations, which went badly, so their advantages are biased down; those of the others are biased up. "
            "The option --no-halving avoids this."
        )
    tried, thin = len(report.actions), sum(action.states == 1 for action in report.actions)
    if thin:
        lines.append(
            f"{thin} of {tried} actions were tried at one state only. Their intervals do not include the variation between states, and "
            "with few pairs they can shrink to a point: take their verdicts as anecdotes."
        )
    if tried:
        lines.append(
            f"{tried} actions were tried, each with its own 95 % interval: about {tried * 0.05:.1f} of them would seem to help or harm "
            "even if none had an effect."
        )
    return lines


def arm_table(report: CausalReport) -> pd.DataFrame:
    """One row per comparison of two arms."""
    rows = [_effect_row(f"{effect.arm} vs {effect.against}", effect, effect.advantage) for effect in report.effects]
    return pd.DataFrame(rows, columns=EFFECT_COLUMNS)


def advantage_table(report: CausalReport) -> pd.DataFrame:
    """One row per measured action, best first."""
    actions = sorted(report.actions, key=lambda action: -action.value)
    return pd.DataFrame([_effect_row(action.entry_id, action, action) for action in actions], columns=EFFECT_COLUMNS)


EFFECT_COLUMNS = ["name", "value", "low", "high", "verdict", "advantage", "won", "lost", "p", "tokens", "states", "pairs", "hover"]


def _effect_row(name: str, effect: ArmEffect | Advantage, advantage: Estimate | Advantage) -> dict[str, object]:
    shown, tokens = with_interval(advantage, "{:+.3f}"), with_interval(effect.tokens, "{:+.1f}")
    pairs = f"{effect.won} won, {effect.lost} lost of {effect.pairs} pairs, {counted_states(effect.states)}"
    return {
        "name": name,
        **{field: getattr(advantage, field) for field in ("value", "low", "high")},
        "verdict": verdict_of(advantage),
        "advantage": shown,
        "tokens": tokens,
        **{field: getattr(effect, field) for field in ("won", "lost", "p", "states", "pairs")},
        "hover": f"{shown}<br>{pairs}<br>tokens {tokens}",
    }


def predictor_table(report: CausalReport) -> pd.DataFrame:
    """One row per predictor: a quantity that the gate has of a candidate before it decides."""
    return pd.DataFrame(
        [(each.name, each.spearman, _interval(each), each.auc, each.positives, each.negatives, each.points) for each in report.predictors],
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
    rows = [(b.low, b.high, b.predicted, b.measured.value, b.measured.low, b.measured.high, b.points) for b in report.calibration]
    return pd.DataFrame(rows, columns=["margin low", "margin high", "predicted", "value", "low", "high", "points"])


def point_table(report: CausalReport) -> pd.DataFrame:
    """One row for each candidate at a state; ``gain`` is empty if its preview was not measured."""
    rows = [
        (p.entry_id, p.problem_id, p.m, "chosen" if p.chosen else "not chosen", p.gain, p.margin, p.advantage, p.pairs, p.tokens)
        for p in report.points
    ]
    return pd.DataFrame(rows, columns=["entry", "problem", "m", "fate", "gain", "margin", "advantage", "pairs", "tokens"])


def _interval(each: Predictor) -> str | None:
    return None if each.low is None or each.high is None else f"[{_signed(each.low)}, {_signed(each.high)}]"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
