"""A causal study as tables, and what its intervals allow to be said. An interval that holds 0 says "not seen", never "none"."""

from typing import NamedTuple

import pandas as pd

from stir_core.evaluate.effects import PREDICTORS, roc_curve
from stir_core.findings import Advantage, ArmEffect, CausalReport, Estimate, Predictor
from stir_core.store.causal import CausalFolder
from stir_core.store.runs import Run
from workbench.shared.intervals import counted_states, verdict_of, with_interval

FEW = 10
"""Below this many states a bootstrap over states is rough."""


class Study(NamedTuple):
    """A causal study as it is on disk."""

    report: CausalReport
    ended: bool
    """False while it is being made, or after it was interrupted."""


def study_of(run: Run) -> Study | None:
    """A run's causal study; ``None`` where there is no report yet."""
    folder = CausalFolder(run)
    return Study(folder.report(), folder.finished) if folder.reported else None


def study_line(report: CausalReport) -> str:
    """What was measured, in one line."""
    spec = report.spec
    levels = f" ({', '.join(spec.levels)})" if spec.levels else ""
    return (
        f"{spec.task} · {spec.split}{levels} · {report.states} of {report.planned} states from {spec.n} problems · "
        f"{report.rolls} continuations, {report.tokens} tokens decoded · temperature {spec.temperature:g}, top-p {spec.top_p:g} · "
        f"{spec.rolls} an arm{', successive halving' if spec.halving else ''} · at most {spec.max_new_tokens} tokens an answer · "
        f"{spec.model.name} in {spec.model.dtype} · strength {spec.gate.get('k_scale', '?')} · basis {spec.basis}"
    )


class StudyAnswer(NamedTuple):
    """An answer in a few words, and the figures that it rests on."""

    answer: str
    figures: str


def gate_reading(report: CausalReport) -> StudyAnswer:
    """Does the gate know anything? Answered from the rank correlation of its margin with what candidates really did."""
    seen = next((each for each in report.predictors if each.name == "margin"), None)
    if seen is None or seen.spearman is None:
        points = seen.points if seen else 0
        return StudyAnswer("Cannot tell.", f"{points} measured candidates do not vary enough to be ranked.")
    figure = f"Rank correlation of margin with measured advantage {_signed(seen.spearman)}"
    over = f"over {seen.points} candidates at {counted_states(report.states)}"
    if seen.low is None or seen.high is None:
        return StudyAnswer("Cannot tell.", f"{figure} {over}, too few for an interval.")
    figure = f"{figure} [{_signed(seen.low)}, {_signed(seen.high)}], {over}{' (few: a rough interval)' if report.states < FEW else ''}."
    if seen.low > 0:
        return StudyAnswer("Something.", f"{figure} Candidates with larger margins tended to do better.")
    if seen.high < 0:
        return StudyAnswer("It points the wrong way.", f"{figure} Candidates with larger margins tended to do worse.")
    bound = max(abs(seen.low), abs(seen.high))
    return StudyAnswer("Nothing seen.", f"{figure} The interval holds 0; a correlation as strong as {bound:.2f} is not excluded.")


def choice_reading(report: CausalReport) -> StudyAnswer:
    """Does what the gate commits help? Answered from the chosen actions against null."""
    found = next((effect for effect in report.effects if effect.arm.startswith("chosen") and effect.against == "null"), None)
    if found is None:
        return StudyAnswer("Cannot tell.", "The gate chose no action at any measured state.")
    answer = {"helps": "It helped.", "harms": "It harmed.", "no effect seen": "No effect seen."}[verdict_of(found.advantage)]
    few = " (few: a rough interval)" if found.states < FEW else ""
    shown = with_interval(found.advantage, "{:+.3f}")
    return StudyAnswer(answer, f"Chosen minus null: {shown} right answers over {found.pairs} pairs at {counted_states(found.states)}{few}.")


def study_warnings(report: CausalReport, basis: str | None, *, ended: bool) -> list[str]:
    """What a reader must know before trusting a figure; ``basis``: digest of the run's control basis as it is now."""
    found = []
    so_far = f"{report.states} of {report.planned} states"
    if not ended:
        found.append(f"Not ended: {so_far} were measured so far. Call the command again to go on.")
    elif report.states < report.planned:
        found.append(f"Only {so_far} were measured before the token budget was used up.")
    if basis is not None and basis != report.spec.basis:
        found.append(f"Made with another control basis ({report.spec.basis}) than the run has now ({basis}).")
    return found


def bias_lines(report: CausalReport) -> list[str]:
    """How to read the figures."""
    lines = [
        "Intervals are 95 %: they resample states, then continuations within each. p is McNemar's over pairs of continuations, which takes "
        "pairs of one state for independent; they are not, so it tends to be too small."
    ]
    if report.spec.halving:
        lines.append(
            "Successive halving drops the worse half of a state's candidates after each round. Dropped ones rest on their first "
            "continuations, which were low: their advantages lean down, and those of the kept ones up. Without it: --no-halving."
        )
    tried, thin = len(report.actions), sum(action.states == 1 for action in report.actions)
    if thin:
        lines.append(
            f"{thin} of {tried} actions were tried at one state only. Their intervals know nothing of how states differ, and with few "
            "pairs they can shrink to a point: read their verdicts as anecdotes."
        )
    if tried:
        lines.append(
            f"{tried} actions were tried, each with its own 95 % interval: about {tried * 0.05:.1f} of them would seem to help or harm "
            "even if none did anything."
        )
    return lines


def arm_table(report: CausalReport) -> pd.DataFrame:
    """One row a comparison of two arms."""
    rows = [_effect_row(f"{effect.arm} vs {effect.against}", effect, effect.advantage) for effect in report.effects]
    return pd.DataFrame(rows, columns=EFFECT_COLUMNS)


def advantage_table(report: CausalReport) -> pd.DataFrame:
    """One row a measured action, best first."""
    actions = sorted(report.actions, key=lambda action: -action.value)
    return pd.DataFrame([_effect_row(action.entry_id, action, action) for action in actions], columns=EFFECT_COLUMNS)


EFFECT_COLUMNS = ["name", "value", "low", "high", "verdict", "advantage", "won", "lost", "p", "tokens", "states", "pairs", "hover"]


def _effect_row(name: str, found: ArmEffect | Advantage, advantage: Estimate | Advantage) -> dict[str, object]:
    shown, tokens = with_interval(advantage, "{:+.3f}"), with_interval(found.tokens, "{:+.1f}")
    return {
        "name": name,
        "value": advantage.value,
        "low": advantage.low,
        "high": advantage.high,
        "verdict": verdict_of(advantage),
        "advantage": shown,
        "won": found.won,
        "lost": found.lost,
        "p": found.p,
        "tokens": tokens,
        "states": found.states,
        "pairs": found.pairs,
        "hover": f"{shown}<br>{found.won} won, {found.lost} lost of {found.pairs} pairs, {counted_states(found.states)}<br>tokens {tokens}",
    }


def predictor_table(report: CausalReport) -> pd.DataFrame:
    """One row for everything that the gate sees of a candidate."""
    return pd.DataFrame(
        [(each.name, each.spearman, _interval(each), each.auc, each.positives, each.negatives, each.points) for each in report.predictors],
        columns=["predictor", "spearman", "95 %", "auc", "helps", "harms", "points"],
    )


def roc_table(report: CausalReport) -> pd.DataFrame:
    """Tidy ROC curves of "did better than null" against "did worse", candidates that tied left out; empty where one kind is missing."""
    rows = []
    for each in report.predictors:
        of = PREDICTORS.get(each.name)
        seen = [(of(point), point.advantage > 0) for point in report.points if point.advantage] if of else []
        usable = [(predicted, helps) for predicted, helps in seen if predicted is not None]
        if each.auc is not None and usable:
            false, true = roc_curve([predicted for predicted, _ in usable], [helps for _, helps in usable])
            rows += [(each.name, each.auc, x, y) for x, y in zip(false, true, strict=True)]
    return pd.DataFrame(rows, columns=["predictor", "auc", "false", "true"])


def calibration_table(report: CausalReport) -> pd.DataFrame:
    """One row a bin of predicted margin."""
    rows = [(b.low, b.high, b.predicted, b.measured.value, b.measured.low, b.measured.high, b.points) for b in report.calibration]
    return pd.DataFrame(rows, columns=["margin low", "margin high", "predicted", "value", "low", "high", "points"])


def point_table(report: CausalReport) -> pd.DataFrame:
    """One row a candidate at a state; ``gain`` is empty where the preview was not measured."""
    rows = [
        (p.entry_id, p.problem_id, p.m, "chosen" if p.chosen else "not chosen", p.gain, p.margin, p.advantage, p.pairs, p.tokens)
        for p in report.points
    ]
    return pd.DataFrame(rows, columns=["entry", "problem", "m", "fate", "gain", "margin", "advantage", "pairs", "tokens"])


def _interval(each: Predictor) -> str | None:
    return None if each.low is None or each.high is None else f"[{_signed(each.low)}, {_signed(each.high)}]"


def _signed(value: float, digits: int = 2) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")
