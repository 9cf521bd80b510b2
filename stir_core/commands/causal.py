"""``stir causal``: does an action do anything, and does the gate know?"""

import argparse
import json
import shlex

from stir_core.commands.console import Command, progress
from stir_core.commands.flags import add_fields, asked
from stir_core.requests import CausalRequest, flags_of


def add(command: Command) -> None:
    """Make the parser."""
    causal = command(
        "causal",
        _causal,
        "Measure actions causally: continuations from logged states with an action, without it, and with noise; goes on where it stopped.",
    )
    causal.add_argument("run", help='run folder, or "demo"')
    add_fields(causal, CausalRequest)
    causal.add_argument("--model", help="another place where the run's own model lies")
    causal.add_argument("--json", action="store_true", help="print the report as JSON")


def _causal(arguments: argparse.Namespace) -> int:
    from stir_core.evaluate.causal import measure
    from stir_core.evaluate.causal_text import markdown
    from stir_core.models.loading import model_of
    from stir_core.stages.pipeline import short_environment
    from stir_core.store.runs import Run

    request = asked(arguments, CausalRequest)
    run = Run.open(arguments.run)
    run.folder("basis")
    model = model_of(run.config.model, arguments.model)
    command = shlex.join(["stir", "causal", str(arguments.run), *flags_of(request)])
    with progress() as report:
        found, path = measure(run, model, request, command=command, environment=short_environment(), report=report)
    if arguments.json:
        print(json.dumps(found.model_dump(mode="json"), indent=2))
        return 0
    print(markdown(found))
    print(path)
    return 0
