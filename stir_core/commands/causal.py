"""``stir causal``: does an action do anything, and does the gate know?"""

import argparse
import json
import shlex

from stir_core.commands.console import Command, progress
from stir_core.commands.evaluate import positive


def add(command: Command) -> None:
    """Make the parser."""
    causal = command(
        "causal",
        _causal,
        "Measure actions causally: continuations from logged states with an action, without it, and with noise; goes on where it stopped.",
    )
    causal.add_argument("run", help='run folder, or "demo"')
    causal.add_argument("--split", default="validation", help="where the states come from (default: validation, so that eval stays unseen)")
    causal.add_argument("--n", type=positive, default=24, help="held-out problems that are decoded for their states")
    causal.add_argument("--states", type=positive, help="most states (default: all)")
    causal.add_argument("--rolls", type=positive, default=8, help="continuations of an arm that is never dropped")
    causal.add_argument("--no-halving", action="store_true", help="give every candidate all its continuations: no bias from dropping")
    causal.add_argument("--budget-tokens", type=positive, help="stop once this many tokens were decoded in continuations")
    causal.add_argument("--strength", type=float, help="k_scale instead of the run's own")
    causal.add_argument("--max-new-tokens", type=positive, help="budget of an answer (default: the run's own)")
    causal.add_argument("--rows", type=positive, default=16, help="continuations decoded side by side")
    causal.add_argument("--fresh", action="store_true", help="forget what is there")
    causal.add_argument("--model", help="another place where the run's own model lies")
    causal.add_argument("--json", action="store_true", help="print the report as JSON")


def _causal(arguments: argparse.Namespace) -> int:
    from stir_core.evaluate.causal import Ask, measure
    from stir_core.evaluate.causal_text import markdown
    from stir_core.models.loading import model_of
    from stir_core.stages.pipeline import short_environment
    from stir_core.store.runs import Run

    run = Run.open(arguments.run)
    run.folder("basis")
    model = model_of(run.config.model, arguments.model)
    ask = Ask(
        split=arguments.split,
        n=arguments.n,
        states=arguments.states,
        rolls=arguments.rolls,
        halving=not arguments.no_halving,
        budget_tokens=arguments.budget_tokens,
        strength=arguments.strength,
        max_new_tokens=arguments.max_new_tokens,
        rows=arguments.rows,
        fresh=arguments.fresh,
    )
    with progress() as report:
        found, path = measure(run, model, ask, command=_command(arguments), environment=short_environment(), report=report)
    if arguments.json:
        print(json.dumps(found.model_dump(mode="json"), indent=2))
        return 0
    print(markdown(found))
    print(path)
    return 0


def _command(arguments: argparse.Namespace) -> str:
    words = ["stir", "causal", str(arguments.run)]
    for name in ("split", "n", "states", "rolls", "budget_tokens", "strength", "max_new_tokens"):
        value = getattr(arguments, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words + (["--no-halving"] if arguments.no_halving else []))
