"""``stir latent``: train a reasoner whose steps are latents, evaluate one, and steer one."""

import argparse
from pathlib import Path
from typing import Any

from stir_core.commands.console import Command, place, print_json, print_stages, progress, say, with_common
from stir_core.commands.latent_tables import (
    print_calibration,
    print_interchange,
    print_reading,
    print_report,
    print_reports,
    print_steering,
)
from stir_core.commands.overrides import overridden, plain_value
from stir_core.config import STAGES, section_from
from stir_core.errors import ConfigError
from stir_core.findings import LatentReport
from stir_core.requests import LatentTraining
from stir_core.store.configs import read_config
from stir_core.tasks.modular import MODULAR

_RECIPE = "recipe."
"""Before a key of ``LatentRecipe`` in ``--set``; the other keys are options of the strategy."""
_WHICH = "folder of a finished training, or a shipped one's name (a folder that is called like one: ./NAME)"


def add(command: Command) -> None:
    """Add the verbs of ``stir latent``: ``train``, ``eval``, ``read``, ``interchange``, ``harvest``, ``steer``, ``calibrate``."""
    description = "Reasoners whose steps are latents: train a strategy on chains modulo a prime, or a model of the catalogue on a file of "
    description += "problems, and evaluate it with its controls."
    verbs = command("latent", _train, description).add_subparsers(required=True, metavar="WHAT")
    about = "Train a strategy on chains, or with --data a model on a file; the same command goes on with an interrupted training."
    train = with_common(verbs.add_parser("train", help=about, description=about))
    train.add_argument("strategy", help="atp, coconut, ...: a file of stir_core/latent/strategies; or an experiment file (TOML)")
    train.add_argument("--out", type=place, required=True, metavar="DIR", help="model folder to make")
    train.add_argument("--stage", choices=("sft", "rl"), default="sft", help="supervised, or reinforcement from --start (default: sft)")
    train.add_argument("--setting", choices=tuple(MODULAR), help="which chains (default: easy; rl: those of the start)")
    train.add_argument("--data", type=Path, metavar="FILE", help="problems with their steps, one a line: JSON, GSM8K's own, or iCoT's text")
    train.add_argument("--model", metavar="NAME", help="with --data: catalogue name, folder, GGUF file or hub name (default: smollm2)")
    train.add_argument("--seed", type=int, help="seed of weights, problems and noise (default: 0)")
    train.add_argument(
        "--start",
        metavar="DIR",
        help="sft: finished training that is the start, of any strategy (default: every step is written first); rl: what is trained",
    )
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the strategy, or with rl of reinforcement, e.g. --set kl=0.01; a size of a training on chains, e.g. "
        "--set recipe.final=100; of an experiment file: one of its keys",
    )
    train.set_defaults(command=_train, resumes=True)
    about = "Evaluate a trained reasoner on held-out problems: accuracy, cost, controls, and what its latents hold."
    evaluate = with_common(verbs.add_parser("eval", help=about, description=about), "--json")
    evaluate.add_argument("folders", nargs="+", metavar="DIR", help=f"{_WHICH}; several: one table")
    evaluate.add_argument("--n", type=int, default=500, help="problems for each number of steps, with --data in all (default: 500)")
    evaluate.add_argument("--data", type=Path, metavar="FILE", help="problems to answer, for a reasoner that was trained on a file")
    evaluate.add_argument("--seed", type=int, default=0, help="seed of the problems and of sampled latents (default: 0)")
    evaluate.add_argument("--runs", type=int, default=0, metavar="N", help="answer each problem N more times: coverage, vote, beam search")
    evaluate.add_argument("--noise", type=float, help="with --runs: deviation of Gaussian noise on each latent (default: 0)")
    evaluate.add_argument("--dropout", type=float, help="with --runs: dropout in the latents' passes (default: 0)")
    evaluate.add_argument(
        "--scored",
        type=int,
        metavar="N",
        help="with --runs: problems of each number of steps to train the scorer on (default: 50)",
    )
    evaluate.add_argument("--probes", action="store_true", help="read every value of the chain from every latent at every layer, too")
    evaluate.set_defaults(command=_evaluate, resumes=False)
    about = "Look into one problem's chain: what each latent holds, and what the answer becomes when it is moved, swapped or left out."
    read = with_common(verbs.add_parser("read", help=about, description=about), "--json")
    read.add_argument("folder", metavar="DIR", help=_WHICH)
    read.add_argument("question", help="the problem, such as 7+3*5-2?")
    read.add_argument("--other", metavar="QUESTION", help="problem whose latents are swapped in (default: drawn)")
    read.add_argument("--runs", type=int, help="answers with drawn latents, where they are drawn (default: 8)")
    read.add_argument("--seed", type=int, default=0, help="seed of what is drawn (default: 0)")
    read.set_defaults(command=_read, resumes=False)
    about = "Replace the latents of one step by another problem's, by zeros or by a mean: what does the answer follow?"
    swap = with_common(verbs.add_parser("interchange", help=about, description=about), "--json")
    swap.add_argument("folder", metavar="DIR", help=_WHICH)
    swap.add_argument("--n", type=int, default=200, help="problems for each number of steps (default: 200)")
    swap.add_argument("--seed", type=int, default=0, help="seed of the problems (default: 0)")
    swap.set_defaults(command=_interchange, resumes=False)
    about = "STIR at latents: mine actions between right and wrong noisy runs of a problem, up to a control basis, as a run; resumes."
    harvest = with_common(verbs.add_parser("harvest", help=about, description=about))
    harvest.add_argument("folder", metavar="DIR", help=_WHICH)
    harvest.add_argument("--out", type=place, required=True, metavar="RUN", help="run folder to make")
    harvest.add_argument("--noise", type=float, default=0.15, help="deviation of Gaussian noise on each latent (default: 0.15)")
    harvest.add_argument("--steps", type=int, nargs="+", default=[], metavar="N", help="numbers of steps of the problems (default: all)")
    harvest.add_argument("--n", type=int, default=50, help="problems for each number of steps (default: 50)")
    harvest.add_argument("--runs", type=int, default=16, help="noisy runs of each problem (default: 16)")
    harvest.add_argument("--seed", type=int, default=0, help="seed of the problems and of the noise (default: 0)")
    harvest.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a config key, e.g. --set mining.layers=[2]"
    )
    harvest.add_argument("--redo", choices=STAGES[: STAGES.index("steered")], help="make this stage and all later ones again")
    harvest.set_defaults(command=_harvest, resumes=True)
    about = "Think held-out problems with noise, with and without the impulses of a run at latents, beside random and shuffled actions."
    steer = with_common(verbs.add_parser("steer", help=about, description=about), "run", "--json")
    steer.add_argument("--n", type=int, default=300, help="problems for each number of steps (default: 300)")
    steer.add_argument("--runs", type=int, default=1, help="noisy runs of each problem (default: 1)")
    steer.add_argument(
        "--own", type=int, default=0, metavar="N", help="try each mined action in N new runs of its own problem (default: 0)"
    )
    steer.add_argument("--seed", type=int, default=0, help="seed of the problems and of the noise (default: 0)")
    steer.add_argument("--split", choices=("eval", "validation"), default="eval", help="problems: validation to choose settings on")
    steer.add_argument("--library", choices=("basis", "all"), default="basis", help="the control basis, or all mined entries")
    steer.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the gate, e.g. --set gate.rho=5")
    steer.set_defaults(command=_steer, resumes=False)
    about = "Judge trained reasoners: accuracy with no written step, controls, stopping, and reinforcement against as many supervised "
    about += "updates where both are named; exit code 1 if a mark is missed."
    judged = with_common(verbs.add_parser("calibrate", help=about, description=about), "--json")
    judged.add_argument("folders", nargs="*", metavar="DIR", help=f"{_WHICH} (default: all that are shipped)")
    judged.add_argument("--quick", action="store_true", help="100 problems for each number of steps instead of 500")
    judged.set_defaults(command=_calibrate, resumes=False)


def _train(arguments: argparse.Namespace) -> None:
    from stir_core.latent.training import train_latent, train_latent_model, weights_of

    options = dict(plain_value(change) for change in arguments.set)
    training = _of_a_model(arguments, options)
    recipe = {key.removeprefix(_RECIPE): options.pop(key) for key in list(options) if key.startswith(_RECIPE)}
    if recipe and (training is not None or arguments.stage == "rl"):
        raise ConfigError(f"--set {_RECIPE}{next(iter(recipe))} is of a supervised training on chains: leave it out")
    if arguments.stage == "rl":
        _reinforce(arguments, training, options)
        return
    with progress() as report:
        if training is not None:
            folder = train_latent_model(arguments.out, start=arguments.start, report=report, **training.model_dump())
            say(folder, f"weights {weights_of(folder)}")
            return
        folder = train_latent(
            arguments.strategy,
            arguments.out,
            setting=arguments.setting or "easy",
            seed=arguments.seed or 0,
            start=arguments.start,
            options=options,
            recipe=recipe,
            report=report,
        )
    say(folder, f"weights {weights_of(folder)}")


def _of_a_model(arguments: argparse.Namespace, options: dict[str, Any]) -> LatentTraining | None:
    """The training of a model on a file that is asked for; ``None``: it is one on chains."""
    given = {"data": arguments.data and str(arguments.data), "model": arguments.model, "seed": arguments.seed}
    given = {key: value for key, value in given.items() if value is not None}
    file = Path(arguments.strategy)
    if file.suffix == ".toml":
        data = read_config(file, LatentTraining).model_dump() | given
        for key, value in options.items():
            section, _, rest = key.rpartition(".")
            place = data.get(section) if section else data
            if not isinstance(place, dict):
                raise ConfigError(f"--set {key}: {section} is not a section of {file}: take options or rl")
            place[rest] = value
        training = section_from(LatentTraining, data)
    elif arguments.data is None:
        if arguments.model is not None:
            raise ConfigError(f"--model {arguments.model} needs problems to be trained on: give their file with --data")
        return None
    else:
        training = section_from(
            LatentTraining, {"strategy": arguments.strategy, "rl" if arguments.stage == "rl" else "options": options, **given}
        )
    if arguments.setting is not None:
        raise ConfigError(f"--setting {arguments.setting} is for chains: leave it out with a file of problems")
    return training


def _reinforce(arguments: argparse.Namespace, training: LatentTraining | None, options: dict[str, Any]) -> None:
    from stir_core.latent.rl import reinforce
    from stir_core.latent.training import load_reasoner, weights_of

    if arguments.start is None:
        raise ConfigError("reinforcement needs a trained reasoner: give its folder with --start")
    held = load_reasoner(arguments.start)
    strategy = arguments.strategy if training is None else training.strategy
    if (held.reasoner.name, held.setting.name) != (strategy, arguments.setting or held.setting.name):
        raise ConfigError(f"{arguments.start} holds {held.reasoner.name} on the setting {held.setting.name}: name what it holds")
    seed, data = (arguments.seed or 0, None) if training is None else (training.seed, training.data)
    options = options if training is None else training.rl
    with progress() as report:
        folder = reinforce(arguments.start, arguments.out, seed=seed, options=options, data=data, report=report)
    say(folder, f"weights {weights_of(folder)}")


def _evaluate(arguments: argparse.Namespace) -> None:
    from stir_core.evaluate.latent_runs import RunChoice, evaluate_runs
    from stir_core.evaluate.latents import evaluate_latents
    from stir_core.store.latents import different_folders

    asked = {"n": arguments.n, "seed": arguments.seed}
    of_runs = {name: value for name in ("noise", "dropout", "scored") if (value := getattr(arguments, name)) is not None}
    if of_runs and not arguments.runs:
        raise ConfigError(f"{', '.join(f'--{name} {value}' for name, value in of_runs.items())}: of use with --runs N alone, add it")
    found: list[LatentReport] = []
    for folder in different_folders(arguments.folders):
        with progress() as report:
            choice = RunChoice(arguments.runs, **of_runs)
            runs = evaluate_runs(folder, choice, **asked, report=report) if arguments.runs else ()  # first, since it refuses more
            each = evaluate_latents(folder, **asked, probes=arguments.probes, data=arguments.data, report=report)
        found.append(each.replaced(runs=runs))
    if arguments.json:
        print_json(found[0] if len(found) == 1 else found)
    elif len(found) == 1:
        print_report(found[0])
    else:
        print_reports(arguments.folders, found)


def _interchange(arguments: argparse.Namespace) -> None:
    from stir_core.evaluate.interchange import interchange

    with progress() as report:
        found = interchange(arguments.folder, n=arguments.n, seed=arguments.seed, report=report)
    if arguments.json:
        print_json(found)
        return
    print_interchange(found)


def _read(arguments: argparse.Namespace) -> None:
    from stir_core.evaluate.latent_readings import read_latents
    from stir_core.latent.training import load_reasoner

    found = read_latents(
        load_reasoner(arguments.folder),
        arguments.question,
        other=arguments.other,
        runs=8 if arguments.runs is None else arguments.runs,
        seed=arguments.seed,
    )
    if arguments.runs is not None and found.runs is None:
        raise ConfigError(f"--runs {arguments.runs}: the latents of {found.strategy} are not drawn, so all runs are alike: leave it out")
    if arguments.json:
        print_json(found)
        return
    print_reading(found)


def _harvest(arguments: argparse.Namespace) -> None:
    from stir_core.evaluate.latent_steering import latent_config
    from stir_core.stages.pipeline import run_stages

    asked = {name: getattr(arguments, name) for name in ("noise", "steps", "n", "runs", "seed")}
    config = overridden(latent_config(arguments.folder, **asked), arguments.set)
    with progress() as report:
        run = run_stages(config, arguments.out, until="basis", redo=arguments.redo, report=report)
    say(run.path)
    print_stages(run.status())


def _steer(arguments: argparse.Namespace) -> None:
    from stir_core.evaluate.latent_steering import evaluate_latent_steering
    from stir_core.store.runs import Run

    if other := [change for change in arguments.set if not change.startswith("gate.")]:
        raise ConfigError(f"--set {other[0]} is no key of the gate, and all else is what the run was mined with: take one such as gate.rho")
    run = Run.open(arguments.run)
    asked = {name: getattr(arguments, name) for name in ("n", "runs", "own", "seed", "split", "library")}
    with progress() as report:
        found = evaluate_latent_steering(run, gate=overridden(run.config, arguments.set).gate, report=report, **asked)
    if arguments.json:
        print_json(found)
        return
    print_steering(found)


def _calibrate(arguments: argparse.Namespace) -> int:
    from stir_core.calibration.latents import calibrate_latents
    from stir_core.store.latents import latent_folders

    with progress() as report:
        found = calibrate_latents(arguments.folders or list(latent_folders(())), n=100 if arguments.quick else 500, report=report)
    if arguments.json:
        print_json(found)
    else:
        print_calibration(found)
    return 1 if found.failed else 0
