"""A causal study as Markdown."""

from typing import get_args

from tabulate import tabulate

from stir_core.evaluate.statistics import FEWEST_PROBLEMS
from stir_core.findings import ArmEffect, CausalReport, EffectVerdict, Predictor, p_text

NOTE = (
    "Problems are clusters: score intervals and tests for right answers, t intervals for tokens, a jackknife for rank correlations; "
    f"none below {FEWEST_PROBLEMS} problems. p is not corrected over the arms; verdicts on actions are, over all actions (Holm)."
)


def causal_markdown(report: CausalReport) -> str:
    """The report as Markdown: settings, arms against each other, and how well the gate's figures predict the advantage."""
    spec = report.spec
    halving = ", successive halving" if spec.halving else ""
    lines = [
        f"# Causal value of actions: {spec.task} {spec.split}",
        "",
        f"Run `{spec.run}` (basis {spec.basis}), {spec.model.name} in {spec.model.dtype}. {report.states} of {report.planned} states from "
        f"{spec.n} problems, {report.rolls} continuations ({report.tokens} tokens) at temperature {spec.temperature:g}, "
        f"top-p {spec.top_p:g}, at most {spec.max_new_tokens} tokens per answer; {spec.rolls} per arm{halving}.",
    ]
    if spec.command:
        lines += ["", f"    {spec.command}"]
    arms = ("arm", "against", "advantage [95 %]", "won / lost", "p", "tokens [95 %]", "problems", "states", "pairs")
    lines += ["", tabulate(map(_arm, report.effects), arms, "github", disable_numparse=True)]
    lines += ["", "Does the gate's evidence predict the effect? Each of its figures against the candidate's measured advantage:", ""]
    heads = ("predictor", "rank correlation [95 %]", "ROC area", "helps / harms", "points")
    lines.append(tabulate(map(_predictor, report.predictors), heads, "github", disable_numparse=True))
    verdicts = [action.verdict for action in report.actions]
    counted = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in get_args(EffectVerdict) if verdict in verdicts)
    lines += ["", f"Actions tried: {len(report.actions)}{f': {counted}' if counted else ''}.", "", NOTE]
    if spec.halving:
        lines += ["Candidates that were dropped rest on their first, low continuations: their advantages lean down, the others' up."]
    return "\n".join(lines) + "\n"


def _arm(effect: ArmEffect) -> list[str | int]:
    cells = [effect.arm, effect.against, f"{effect.advantage:+.3f}", f"{effect.won} / {effect.lost}", p_text(effect.p)]
    return [*cells, f"{effect.tokens:+.1f}", "-" if effect.problems is None else effect.problems, effect.states, effect.pairs]


def _predictor(seen: Predictor) -> list[str | int]:
    rho = "-" if seen.correlation is None else f"{seen.correlation:+.2f}"
    area = "-" if seen.auc is None else f"{seen.auc:.2f}"
    return [seen.name, rho, area, f"{seen.positives} / {seen.negatives}", seen.points]
