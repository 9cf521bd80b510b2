"""``stir coherence``: whether the equations that answers write tell right answers from wrong ones, without a label."""

import argparse
from typing import TYPE_CHECKING

from stir_core.commands.console import Command, print_json, say, table

if TYPE_CHECKING:
    from stir_core.findings import CoherenceReport, CoherenceScore


def add(command: Command) -> None:
    """Make the parser."""
    description = "Whether the coherence of the equations that rollouts write tells right answers from wrong ones. Needs no model."
    command("coherence", _coherence, description, "run", "--json")


def _coherence(arguments: argparse.Namespace) -> None:
    from stir_core.evaluate.coherence import coherence_run
    from stir_core.store.runs import Run

    report = coherence_run(Run.open(arguments.run))
    if arguments.json:
        print_json(report)
    else:
        _print(report)


def _print(report: "CoherenceReport") -> None:
    say(
        f"{report.run}: {report.rollouts} answers to {report.problems} problems, {report.right:.0%} of them right; "
        f"{report.unfinished} that state no result are left out."
    )
    true = "" if report.true is None else f", of which {report.true:.1%} are true"
    say(f"{report.with_equations:.0%} of the answers have an equation; {report.equations} equations{true}.", "")
    say("AUC: share of pairs of a right and a wrong answer that a score orders rightly; 0.5 is chance.", "")
    heads = ["score", "mean, right", "mean, wrong", "AUC, all pairs [95 %]", "AUC, one problem [95 %]", "problems", "pairs"]
    table(heads, [_row(each) for each in report.scores])


def _row(seen: "CoherenceScore") -> list[str]:
    within = seen.within
    own = "-" if within.auc is None else f"{within.auc:.2f}" + ("" if within.low is None else f" [{within.low:.2f}, {within.high:.2f}]")
    return [
        seen.score,
        f"{seen.mean_right:.2f}",
        f"{seen.mean_wrong:.2f}",
        f"{seen.pooled:.2f}",
        own,
        str(within.problems),
        str(within.pairs),
    ]
