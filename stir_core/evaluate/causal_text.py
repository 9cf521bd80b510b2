"""A causal study as Markdown."""

from typing import get_args

from tabulate import tabulate

from stir_core.evaluate.effects import NULL_ARM
from stir_core.evaluate.statistics import FEWEST_PROBLEMS
from stir_core.findings import ArmEffect, CausalReport, EffectVerdict, Predictor, p_text

NOTE = (
    "Problems are clusters: score intervals and tests for right answers, t intervals for tokens, a jackknife for rank correlations; "
    f"none below {FEWEST_PROBLEMS} problems. p is not corrected over the arms; verdicts on actions are, over all actions (Holm)."
)


OWN_NOTE = (
    "The own action was mined from the same problem at the same control point, from rollouts whose beginnings are the states: a ceiling of "
    "the mechanism, not a result of the method. Continuations are fresh. The retrieved one is that of the nearest entry of other "
    "problems, which may be null; other problems' are drawn at random. Noise and a planted direction have the own one's norm. "
    f"Problems are clusters; none of the intervals and tests below {FEWEST_PROBLEMS} problems. p (Holm) is corrected over the comparisons "
    "with null; the others are not corrected."
)


def causal_markdown(report: CausalReport) -> str:
    """The report as Markdown: settings, arms against each other, and what follows: a verdict, or how well the gate predicts effects."""
    return _own(report) if report.spec.study == "own" else _gate(report)


def _own(report: CausalReport) -> str:
    spec = report.spec
    arms = (
        "arm",
        "right [95 %]",
        "against",
        "right [95 %]",
        "difference [95 %]",
        "won / lost",
        "p",
        "p (Holm)",
        "problems",
        "states",
        "pairs",
    )
    lines = [
        f"# Can an impulse help at all? {spec.task}",
        "",
        f"**{report.outcome}.** {report.verdict}",
        "",
        own_size(report),
        *(["", f"    {spec.command}"] if spec.command else []),
        "",
        tabulate(map(_compared, report.effects), arms, "github", disable_numparse=True),
        "",
        OWN_NOTE,
    ]
    if spec.layers:
        lines += [
            "At further layers the impulse is the action that was mined there; "
            "their comparisons with null are corrected as a family of their own."
        ]
    return "\n".join(lines) + "\n"


def own_size(report: CausalReport) -> str:
    """States, continuations and power of a study ``own``, with its settings."""
    spec = report.spec
    place = "" if report.layer is None else f", at layer {report.layer} of {spec.model.n_layers}"
    power = "too few problems for a test" if report.detectable is None else f"80 % power for {100 * report.detectable:.0f} points"
    return (
        f"Run `{spec.run}` (basis {spec.basis}), {spec.model.name} in {spec.model.dtype}. {report.states} of {report.planned} undecided "
        f"states among {report.screened} re-rolled ones of at most {spec.n} mined problems ({power} before any arm was decoded), "
        f"{spec.rolls} continuations per arm ({report.rolls} with re-rolls, {report.tokens} tokens) at temperature {spec.temperature:g}, "
        f"top-p {spec.top_p:g}, at most {spec.max_new_tokens} tokens per answer, strength {spec.gate['k_scale']:g}{place}."
    )


def _compared(effect: ArmEffect) -> list[str | int]:
    ours, theirs = ("-" if share is None else f"{share:.1%}" for share in (effect.accuracy, effect.accuracy_against))
    cells = [effect.arm, ours, effect.against, theirs, f"{effect.advantage:+.1%}", f"{effect.won} / {effect.lost}"]
    holm = "-" if effect.against != NULL_ARM else p_text(effect.p_holm)
    return [*cells, p_text(effect.p), holm, "-" if effect.problems is None else effect.problems, effect.states, effect.pairs]


def _gate(report: CausalReport) -> str:
    spec = report.spec
    halving = ", successive halving" if spec.halving else ""
    lines = [
        f"# Causal value of actions: {spec.task} {spec.split}",
        "",
        f"Run `{spec.run}` ({spec.library} {spec.basis}), {spec.model.name} in {spec.model.dtype}. {report.states} of {report.planned} "
        f"states from {spec.n} problems, {report.rolls} continuations ({report.tokens} tokens) at temperature {spec.temperature:g}, "
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
