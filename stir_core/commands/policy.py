"""``stir policy``: learn gates from logged decisions, and judge them beside the published one."""

import argparse
import shlex

from stir_core.commands.console import Command, print_json, progress, say
from stir_core.commands.flags import add_fields, asked
from stir_core.requests import CallBudget, PolicyRequest, flags_of


def add(command: Command) -> None:
    """Add ``stir policy`` to the parser."""
    description = "Learn gates that decide when to act, from decisions logged on further mined problems; estimate and run them; resumes."
    policy = command("policy", _policy, description, "run", "--model", "--json")
    add_fields(policy, PolicyRequest)
    add_fields(policy, CallBudget)


def _policy(arguments: argparse.Namespace) -> None:
    from stir_core.evaluate.policy import learn
    from stir_core.evaluate.policy_text import policy_markdown
    from stir_core.models.loading import model_of
    from stir_core.stages.pipeline import short_environment
    from stir_core.store.runs import Run

    request = asked(arguments, PolicyRequest)
    run = Run.open(arguments.run)
    run.folder("basis")  # refused before a model is loaded
    command = shlex.join(["stir", "policy", str(arguments.run), *flags_of(request)])
    with progress(asked(arguments, CallBudget)) as report:
        model = model_of(run.config.model, arguments.model)
        study, path = learn(run, model, request, command=command, environment=short_environment(), report=report)
    if arguments.json:
        print_json(study)
    else:
        say(*policy_markdown(study).split("\n"))
        say(path)
