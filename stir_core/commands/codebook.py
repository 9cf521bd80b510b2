"""``stir codebook``: a codebook of a run's steps, what its codes keep, and what they go with."""

import argparse
from typing import TYPE_CHECKING

from stir_core.commands.console import Command, print_json, progress, say, table
from stir_core.commands.flags import add_fields
from stir_core.config import CodesConfig

if TYPE_CHECKING:
    from stir_core.findings import CodebookReport, CodeFit, CodeInformation, LayerCodes

SHOWN = 40
"""Characters of an exemplar in the table; ``--json`` prints all."""


def add(command: Command) -> None:
    """Make the parser."""
    description = (
        "Quantise all steps of a run into codes, and report what the codes keep and go with; reads the rollouts with the model once."
    )
    parser = command("codebook", _codebook, description, "run", "--model", "--json")
    add_fields(parser, CodesConfig)
    parser.add_argument("--redo", action="store_true", help="replace a codebook that was made with other settings")


def _codebook(arguments: argparse.Namespace) -> None:
    with progress() as report:
        from stir_core.models.loading import model_of
        from stir_core.stages.pipeline import make_codebook
        from stir_core.store.runs import Run

        run = Run.open(arguments.run)
        given = {name: value for name, value in vars(arguments).items() if name in CodesConfig.model_fields}
        model = None if arguments.model is None else model_of(run.config.model, arguments.model)
        found = make_codebook(run, given, redo=arguments.redo, model=model, report=report)
    if arguments.json:
        print_json(found)
    else:
        print_codebook(found)


def print_codebook(report: "CodebookReport") -> None:
    """Print the report's tables."""
    say(f"{report.run}: {report.steps} steps ({report.encoder}) of {report.problems} problems, {report.held_out} of them held out.")
    for each in report.layers:
        _print_layer(each)
    source = "measured advantages" if report.quality == "measured" else "the share of wrong answers among members, a proxy"
    say("", f"Entries for stir:library=codes: {sum(each.entries for each in report.layers)} corrective; quality from {source}.")
    for note in report.notes:
        say(f"note: {note}")


def _print_layer(layer: "LayerCodes") -> None:
    say("", f"Layer {layer.layer}: squared error on held-out problems as a share of their variance, in whitened components.")
    rows = [[fit.method, str(fit.size), f"{fit.error if fit.estimate is None else fit.estimate:.3f}", *_used(fit)] for fit in layer.fits]
    table(["method", "codes", "error [95 %]", "perplexity", "dead"], rows)
    for method in dict.fromkeys(fit.method for fit in layer.rate):
        say(f"{method} over K: " + ", ".join(f"{fit.size}: {fit.error:.3f}" for fit in layer.rate if fit.method == method))
    say(f"Merged: {layer.merged} codes with error {layer.merged_error:.3f}.")
    say(f"Agreement (adjusted Rand index): {layer.seeds:.2f} between seeds, {layer.halves:.2f} between halves of the problems.", "")
    rows = [[each.about, str(each.steps), "-" if each.problems is None else str(each.problems), *_told(each)] for each in layer.information]
    table(["codes and", "steps", "problems", "AMI [95 %]", "AMI by chance", "ARI", "ARI read as [95 %]", "shuffled"], rows)
    say("")
    rows = [
        [
            str(c.code),
            str(c.merged),
            str(c.members),
            f"{c.right:.0%}",
            f"{c.tokens:g}",
            ", ".join(c.flags) or "-",
            repr(c.exemplars[0][:SHOWN]),
        ]
        for c in layer.codes
    ]
    table(["code", "merged", "members", "right", "tokens", "flags", "nearest step"], rows)


def _used(fit: "CodeFit") -> list[str]:
    return ["-", "-"] if fit.perplexity is None else [f"{fit.perplexity:.1f}", str(fit.dead)]


def _told(each: "CodeInformation") -> list[str]:
    told, read = each.estimates.get("information", each.information), each.estimates.get("read_as", each.read_as)
    return [f"{told:.2f}", f"{each.null:.2f}", f"{each.ari:.2f}", f"{read:.2f}", f"{each.shuffled:.2f}"]
