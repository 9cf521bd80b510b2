"""``stir eval`` and ``stir methods``: paired comparisons on disk, and the ways to answer that can be compared."""

import argparse
import json
import shlex

from stir_core.commands.console import Command, progress, table
from stir_core.commands.flags import add_fields, asked
from stir_core.requests import EvaluationRequest, flags_of


def add(command: Command) -> None:
    """Make the parsers."""
    evaluate = command(
        "eval", _eval, "Compare methods on the same held-out problems: answers, intervals, tests and costs; goes on where it stopped."
    )
    evaluate.add_argument("run", help='run folder, or "demo"')
    add_fields(evaluate, EvaluationRequest)
    evaluate.add_argument("--resume", action="store_true", help="go on where it stopped; this is what happens anyway")
    evaluate.add_argument("--model", help="another place where the run's own model lies")
    evaluate.add_argument("--json", action="store_true", help="print the report as JSON")

    listed = command("methods", _methods, "The ways to answer that `stir eval` compares, with their parameters and sources.")
    listed.add_argument("--json", action="store_true", help="print JSON")


def _eval(arguments: argparse.Namespace) -> int:
    from stir_core.evaluate.decoders.registry import methods
    from stir_core.evaluate.report import markdown
    from stir_core.evaluate.runner import evaluate, settle
    from stir_core.models.loading import model_of
    from stir_core.stages.pipeline import short_environment
    from stir_core.store.runs import Run

    request = asked(arguments, EvaluationRequest)
    run = Run.open(arguments.run)
    run.folder("basis")
    methods([request.baseline, *request.methods])  # said before a model is loaded
    model = model_of(run.config.model, arguments.model)
    command = shlex.join(["stir", "eval", str(arguments.run), *flags_of(request)])
    spec, problems = settle(run, model.identity, request, command=command, environment=short_environment())
    with progress() as report:
        found, path = evaluate(run, model, spec, problems, report=report)
    if arguments.json:
        print(found.model_dump_json(indent=2))
        return 0
    print(markdown(found))
    print(f"{path}")
    return 0


def _methods(arguments: argparse.Namespace) -> int:
    from stir_core.evaluate.decoders.registry import ABLATIONS, DECODERS

    if arguments.json:
        rows = {
            d.name: {"about": d.about, "source": d.source, "parameters": dict(d.parameters), "by_chance": d.by_chance}
            for d in DECODERS.values()
        }
        print(json.dumps({"decoders": rows, "ablations": ABLATIONS}, indent=2))
        return 0
    table(
        ["method", "what", "parameters", "source"],
        [[d.name, d.about, " ".join(f"{k}={v}" for k, v in d.parameters.items()), d.source] for d in DECODERS.values()],
    )
    print("\nablations of stir:")
    table(["ablation", "method"], [[name, text] for name, text in ABLATIONS.items()])
    return 0
