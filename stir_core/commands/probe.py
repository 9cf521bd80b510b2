"""``stir probe``: whether a run's recorded states tell right from wrong by something that problems share."""

import argparse
from typing import TYPE_CHECKING

from stir_core.commands.console import Command, print_json, say, table
from stir_core.findings import p_text

if TYPE_CHECKING:
    from stir_core.findings import ProbeReport, Separation


def add(command: Command) -> None:
    """Make the parser."""
    description = "Whether recorded states tell right from wrong by something that problems share: can steering work? Needs no model."
    probe = command("probe", _probe, description, "run", "--json")
    probe.add_argument("--layer", type=int, help="only this harvested layer, chosen before looking (default: all of them)")


def _probe(arguments: argparse.Namespace) -> None:
    from stir_core.evaluate.probe import probe_run
    from stir_core.store.runs import Run

    report = probe_run(Run.open(arguments.run), arguments.layer)
    if arguments.json:
        print_json(report)
    else:
        _print(report)


def _print(report: "ProbeReport") -> None:
    from stir_core.evaluate.probe import DIFFERENCE, LOGISTIC, MARGIN, NEIGHBOUR

    problems = f"{report.problems} of {report.mined} problems"
    say(f"{report.run}: {report.states} states of rollouts of {problems}, {report.right:.0%} of them right.")
    say("AUC: share of pairs (right and wrong, one problem and control point) that a read-out from the other problems orders rightly.", "")
    heads = ["read-out", "layer", "AUC [95 %]", "p (Holm)", "states", "problems", "pairs"]
    table(heads, [_row(each) for each in [*report.pooled, *([report.text] if report.text else [])]])
    if report.text is None:
        say("The ceiling from the text was not measured: mining.stability_rolls sampled no prefix again.")
    for each in report.support:
        closer = "" if each.spearman is None else f"; the more, the closer to foreign states: rank correlation {each.spearman:+.2f}"
        say("", f"Rollouts behind a key of layer {each.layer} (median): {each.corrective:g} corrective, {each.null:g} null{closer}.")
    say("", "At single control points (not corrected for their number):")
    names = (DIFFERENCE, NEIGHBOUR, LOGISTIC, MARGIN)
    cells = {(each.layer, each.m, each.readout): each for each in report.cells}
    rows = []
    for layer, m in dict.fromkeys((each.layer, each.m) for each in report.cells):
        first = cells[layer, m, DIFFERENCE]
        figures = [_figures(cells[layer, m, name]) for name in names]
        rows.append([str(layer), str(m), *figures, str(first.states), str(first.problems)])
    table(["layer", "m", *names, "states", "problems"], rows)
    say("", report.verdict)


def _row(seen: "Separation") -> list[str]:
    p = p_text(seen.p_holm)
    layer = "-" if seen.layer is None else str(seen.layer)
    return [seen.readout, layer, _figures(seen), p, str(seen.states), str(seen.problems), str(seen.pairs)]


def _figures(seen: "Separation") -> str:
    if seen.auc is None:
        return "-"
    return f"{seen.auc:.2f}" if seen.low is None else f"{seen.auc:.2f} [{seen.low:.2f}, {seen.high:.2f}]"
