"""``stir organism``: train a model of the calibration ladder."""

import argparse

from stir_core.commands.console import Command, place, progress, say, with_common
from stir_core.organisms.rungs import RUNGS


def add(command: Command) -> None:
    """Add ``stir organism train``."""
    description = "Train an organism: a small model in which latent modes are planted (calibration only, never evidence for the method)."
    verbs = command("organism", _train, description).add_subparsers(required=True, metavar="WHAT")
    about = "Train the organism of a rung on the CPU; the same command goes on with an interrupted training."
    train = with_common(verbs.add_parser("train", help=about, description=about))
    train.add_argument("rung", choices=tuple(RUNGS), help="rung of the ladder")
    train.add_argument("--out", type=place, required=True, metavar="DIR", help="model folder to make")
    train.add_argument("--seed", type=int, default=0, help="seed of weights and texts (default: 0)")


def _train(arguments: argparse.Namespace) -> None:
    from stir_core.organisms.training import organism_digest, train

    with progress() as report:
        folder = train(arguments.rung, arguments.out, seed=arguments.seed, report=report)
    say(folder, f"weights {organism_digest(folder)}")
