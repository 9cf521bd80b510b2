"""``stir estimate``: what a run will cost, before it starts."""

import argparse
import json
from pathlib import Path

from stir_core.commands.console import Command, table
from stir_core.commands.overrides import overridden
from stir_core.config import STAGES


def add(command: Command) -> None:
    """Make the parser."""
    parser = command("estimate", _estimate, "What a run would cost: bounds, and expectations where something like it was measured.")
    parser.add_argument("config", type=Path, help="experiment file (TOML)")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="last stage to make")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one config key, e.g. --set task.n_train=8"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of finished runs to expect from (default: runs)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _estimate(arguments: argparse.Namespace) -> int:
    from stir_core.evaluate.estimate import estimate, in_words
    from stir_core.store.configs import read_config

    config = overridden(read_config(arguments.config), arguments.set)
    found = estimate(config, arguments.runs, until=arguments.until)
    if arguments.json:
        print(json.dumps(found.model_dump(mode="json"), indent=2))
        return 0
    table(["what", "at most", "expected", ""], [[each.name, *in_words(each), each.note] for each in found.quantities])
    if found.measured:
        mean = f"{found.measured.rollouts} rollouts of {found.measured.tokens_per_rollout:.0f} tokens on average"
        print(f"expected from run {found.measured.run} ({found.measured.device}): {mean}")
    for note in found.notes:
        print(f"note: {note}")
    return 0
