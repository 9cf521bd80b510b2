"""``stir estimate``: the cost of a run, before it starts."""

import argparse
from pathlib import Path

from stir_core.commands.console import Command, print_json, say, table
from stir_core.commands.overrides import add_experiment, overridden
from stir_core.errors import StoreError


def add(command: Command) -> None:
    """Add ``stir estimate`` and its arguments."""
    description = "The cost of a run: bounds, and expectations from finished runs that are like it."
    parser = command("estimate", _estimate, description, "--json")
    add_experiment(parser)
    parser.add_argument("--runs", type=Path, help="folder of finished runs to expect from (default: runs)")


def _estimate(arguments: argparse.Namespace) -> None:
    from stir_core.evaluate.estimate import bound_and_expectation, estimate
    from stir_core.store.configs import read_config

    if arguments.runs is not None and not arguments.runs.is_dir():
        raise StoreError(f"--runs {arguments.runs} is not a folder: give the one that has the finished runs, or leave it out")
    config, runs = overridden(read_config(arguments.config), arguments.set), arguments.runs or Path("runs")
    cost = estimate(config, runs, until=arguments.until)
    if arguments.json:
        print_json(cost)
        return
    table(["what", "at most", "expected", ""], [[each.name, *bound_and_expectation(each), each.note] for each in cost.quantities])
    if cost.measured:
        mean = f"{cost.measured.rollouts} rollouts of {cost.measured.tokens_per_rollout:.0f} tokens on average"
        say(f"expected from run {cost.measured.run} ({cost.measured.device}): {mean}")
    for note in cost.notes:
        say(f"note: {note}")
