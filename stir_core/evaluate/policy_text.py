"""Learned gates as Markdown, and what their figures show in a sentence."""

from collections.abc import Sequence

from tabulate import tabulate

from stir_core.evaluate.offpolicy import FEWEST_EFFECTIVE
from stir_core.findings import Estimate, PolicyFigures, PolicyReport

NOTE = (
    "Mean reward of answers in which the gate makes one decision and the published gate the others: right - eta0 * tokens / budget. "
    "IPS and SNIPS weigh logged decisions by their propensities, DR corrects regressions by them; weights are clipped at 10, models are "
    "fitted without the problems they judge, and below an effective sample size of 50 there is no estimate (-). Intervals: bootstrap over "
    "problems. *On policy* is the gate's own run on further problems. Shuffled: learned with drawn signs of advantages, a control."
)


def gate_verdict(name: str, acts: float, over_null: Estimate, over_value: Estimate, effective: float) -> str:
    """What a gate's advantage over null and over the published gate shows; the only place that decides it."""
    if name == "null":
        return "never acts"
    if acts == 0:
        return "abstains: no gain over null was seen"
    if effective < FEWEST_EFFECTIVE:
        return f"cannot tell: the effective sample size is {effective:.0f}, below {FEWEST_EFFECTIVE:.0f}"
    low, high = over_null.bounds
    first = "gains over null" if low > 0 else "harms" if high < 0 else "no gain over null"
    if name == "value":
        return first
    low, high = over_value.bounds
    return f"{first}; {'better than' if low > 0 else 'worse than' if high < 0 else 'no different from'} the published gate"


def policy_verdict(gates: Sequence[PolicyFigures]) -> str:
    """The result of a study in one or two sentences."""
    learned = [gate for gate in gates if gate.name not in ("value", "null") and "shuffled" not in gate.name]
    gaining = [gate.name for gate in learned if gate.verdict.startswith("gains")]
    better = [gate.name for gate in learned if gate.verdict.endswith("better than the published gate")]
    if not gaining:
        said = "no learned gate is seen to do better than null on logged decisions"
        logged = next((gate for gate in gates if gate.name == "value"), None)
        if logged is not None and logged.verdict.startswith("cannot tell"):
            return f"Cannot tell: {said}, and these are too few even to judge the gate that logged them."
        return f"No gain: {said}."
    said = f"{', '.join(gaining)}: a gain over null."
    return f"{said} {', '.join(better)}: better than the published gate." if better else f"{said} None does better than the published gate."


def policy_markdown(report: PolicyReport) -> str:
    """The report as Markdown: settings, one row for each gate, calibration, what the probe leaves alone, and the truth on organisms."""
    spec = report.spec
    greedy = spec.temperature == 0
    how = "greedy, one continuation each" if greedy else f"temperature {spec.temperature:g}, {spec.rolls} continuations each"
    heads = ["gate", "acts", "ESS", "IPS", "SNIPS", "DR [95 %]", "over null [95 %]", "over the published gate", "on policy [95 %]", "in DR"]
    lines = [
        f"# Learned gates: {spec.task}",
        "",
        f"**{report.verdict}**",
        "",
        f"{report.decisions} drawn decisions of {report.problems} problems (eps {spec.eps:g}, {how}), {report.right:.1%} right under null; "
        f"on-policy run on {report.further} further problems. {report.tokens} tokens decoded in {report.rolls} continuations.",
        *(["", f"    {spec.command}"] if spec.command else []),
        "",
        tabulate([_row(gate) for gate in report.gates], heads, "github", disable_numparse=True),
        "",
        *(f"- {gate.name}: {gate.verdict}." for gate in report.gates),
        "",
        NOTE,
        "",
        "## Predicted advantage of drawn actions",
        "",
        tabulate(
            [
                [f"{each.low:+.3f} to {each.high:+.3f}", each.points, f"{each.predicted:+.3f}", f"{each.measured:+.3f}"]
                for each in report.calibration
            ],
            ["predicted", "decisions", "mean", "measured [95 %]"],
            "github",
            disable_numparse=True,
        ),
        "",
        'Brier score of "the advantage is above 0": '
        + (
            f"{report.brier:.3f}, of the share alone {report.brier_share:.3f}."
            if report.brier is not None
            else "not measured, nearly all advantages are on one side."
        ),
        "",
        "## What the probe would leave alone",
        "",
        tabulate(
            [[f"{each.log_odds:.2f}", f"{each.coverage:.0%}", f"{each.risk:.1%}"] for each in report.coverage],
            ["log-odds from", "coverage", "end wrong [95 %]"],
            "github",
            disable_numparse=True,
        ),
    ]
    if any(gate.truth for gate in report.gates):
        lines += ["", *_truth(report)]
    return "\n".join(lines) + "\n"


def _row(gate: PolicyFigures) -> list[str]:
    estimates = [
        "-" if gate.ips is None else f"{gate.ips.value:.3f}",
        "-" if gate.snips is None else f"{gate.snips.value:.3f}",
        "-" if gate.dr is None else f"{gate.dr:.3f}",
    ]
    run = ["-" if gate.on_policy is None else f"{gate.on_policy:.3f}", {None: "-", True: "yes", False: "NO"}[gate.contained]]
    return [gate.name, f"{gate.acts:.0%}", f"{gate.effective:.0f}", *estimates, f"{gate.over_null:+.3f}", f"{gate.over_value:+.3f}", *run]


def _truth(report: PolicyReport) -> list[str]:
    rows = []
    for gate in report.gates:
        if (truth := gate.truth) is not None:
            auc = "-" if truth.auc is None else f"{truth.auc:.3f}"
            share = "-" if truth.null_share is None else f"{truth.null_share:.1%}"
            rows.append([gate.name, auc, f"{truth.fired_wrong}/{truth.wrong}", f"{truth.fired_right}/{truth.right}", share])
    heads = ["gate", "ROC area, wrong habit", "acts in the wrong habit", "acts in the right one", "null where nothing is needed"]
    return ["## The truth", "", tabulate(rows, heads, "github", disable_numparse=True)]
