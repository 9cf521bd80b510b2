"""``stir curriculum``: how large a share of the steps can be handled latently before accuracy falls."""

import argparse
import shlex

from stir_core.commands.console import Command, print_json, progress, say
from stir_core.commands.flags import add_fields, asked
from stir_core.requests import CallBudget, CurriculumRequest, flags_of


def add(command: Command) -> None:
    """Make the parser."""
    description = "Raise the share of latently handled steps while validation accuracy holds; resumes."
    curriculum = command("curriculum", _curriculum, description, "run", "--model", "--json")
    add_fields(curriculum, CurriculumRequest)
    add_fields(curriculum, CallBudget)


def _curriculum(arguments: argparse.Namespace) -> None:
    from stir_core.evaluate.curriculum import curriculum_markdown, raise_share
    from stir_core.models.loading import model_of
    from stir_core.stages.pipeline import short_environment
    from stir_core.store.runs import Run

    request = asked(arguments, CurriculumRequest)
    run = Run.open(arguments.run)
    run.folder("basis")
    command = shlex.join(["stir", "curriculum", str(arguments.run), *flags_of(request)])
    with progress(asked(arguments, CallBudget)) as report:
        model = model_of(run.config.model, arguments.model)
        result, path = raise_share(run, model, request, command=command, environment=short_environment(), report=report)
    if arguments.json:
        print_json(result)
    else:
        say(*curriculum_markdown(result).split("\n"))
        say(path)
