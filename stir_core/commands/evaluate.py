"""``stir eval`` and ``stir methods``: paired comparisons on disk, and the methods that can be compared."""

import argparse
import shlex

from stir_core.commands.console import Command, print_json, progress, say, table
from stir_core.commands.flags import add_fields, asked, executing
from stir_core.requests import CallBudget, EvaluationRequest, ExecutorRequest, flags_of


def add(command: Command) -> None:
    """Add ``stir eval`` and ``stir methods`` with their arguments."""
    description = "Compare methods on the same held-out problems: answers, intervals, tests and costs; resumes."
    evaluate = command("eval", _eval, description, "run", "--model", "--json")
    add_fields(evaluate, EvaluationRequest)
    add_fields(evaluate, CallBudget)
    add_fields(evaluate, ExecutorRequest)
    evaluate.add_argument("--resume", action="store_true", help="continue an interrupted evaluation; this is the default")
    command("methods", _methods, "The methods that `stir eval` compares, with their parameters and sources.", "--json")


def _eval(arguments: argparse.Namespace) -> None:
    from stir_core.evaluate.decoders.registry import methods
    from stir_core.evaluate.report import evaluation_markdown
    from stir_core.evaluate.runner import evaluate, settle
    from stir_core.models.loading import model_of
    from stir_core.stages.pipeline import short_environment
    from stir_core.store.runs import Run

    request = asked(arguments, EvaluationRequest)
    run = Run.open(arguments.run)
    run.folder("basis")
    methods([request.baseline, *request.methods])  # refused before a model is loaded
    command = shlex.join(["stir", "eval", str(arguments.run), *flags_of(request)])
    with progress(asked(arguments, CallBudget)) as report, executing(arguments) as pool:
        model = model_of(run.config.model, arguments.model, pool)
        spec, problems = settle(run, model.identity, request, command=command, environment=short_environment())
        evaluation, path = evaluate(run, model, spec, problems, report=report)
    if arguments.json:
        print_json(evaluation)
    else:
        say(*evaluation_markdown(evaluation).split("\n"))
        say(path)


def _methods(arguments: argparse.Namespace) -> None:
    from stir_core.evaluate.decoders.registry import ABLATIONS, DECODERS

    if arguments.json:
        rows = {
            d.name: {"about": d.about, "source": d.source, "parameters": dict(d.parameters), "by_chance": d.by_chance}
            for d in DECODERS.values()
        }
        print_json({"decoders": rows, "ablations": ABLATIONS})
        return
    table(
        ["method", "what", "parameters", "source"],
        [[d.name, d.about, " ".join(f"{k}={v}" for k, v in d.parameters.items()), d.source] for d in DECODERS.values()],
    )
    say("", "ablations of stir:")
    table(["ablation", "method"], [[name, text] for name, text in ABLATIONS.items()])
