"""``stir causal``: measure the causal effect of actions, and whether the gate predicts it."""

import argparse
import shlex

from stir_core.commands.console import Command, print_json, progress, say
from stir_core.commands.flags import add_fields, asked, executing
from stir_core.requests import CallBudget, CausalRequest, ExecutorRequest, flags_of


def add(command: Command) -> None:
    """Add ``stir causal`` and its arguments."""
    description = "Measure actions causally: continuations from recorded states with an action, without it, and with noise; resumes."
    causal = command("causal", _causal, description, "run", "--model", "--json")
    add_fields(causal, CausalRequest)
    add_fields(causal, CallBudget)
    add_fields(causal, ExecutorRequest)


def _causal(arguments: argparse.Namespace) -> None:
    from stir_core.evaluate.causal import measure
    from stir_core.evaluate.causal_text import causal_markdown
    from stir_core.models.loading import model_of
    from stir_core.stages.pipeline import short_environment
    from stir_core.store.runs import Run

    request = asked(arguments, CausalRequest)
    run = Run.open(arguments.run)
    for stage in ("basis", *(["codes"] if request.study == "codes" else [])):
        run.folder(stage)  # refused before a model is loaded
    command = shlex.join(["stir", "causal", str(arguments.run), *flags_of(request)])
    with progress(asked(arguments, CallBudget)) as report, executing(arguments) as pool:
        model = model_of(run.config.model, arguments.model, pool)
        settings = {"command": command, "environment": short_environment()}
        study, path = measure(run, model, request, **settings, report=report, say=lambda line: say(line, error=True))
    if arguments.json:
        print_json(study)
    else:
        say(*causal_markdown(study).split("\n"))
        say(path)
