"""``stir sweep``: try settings on the validation split, and evaluate the chosen point once on the test split."""

import argparse
import shlex
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from stir_core.commands.console import Command, place, print_json, progress, say
from stir_core.commands.flags import add_fields, asked, executing
from stir_core.config import section_from, with_changes
from stir_core.errors import ConfigError, DataError
from stir_core.requests import CallBudget, EvaluationRequest, ExecutorRequest, MeasurementRequest
from stir_core.tasks.overlap import find_overlaps

if TYPE_CHECKING:
    from stir_core.config import RunConfig
    from stir_core.evaluate.sweep import GridPoint, SweepConfig
    from stir_core.models.loading import LoadedModel
    from stir_core.records import OnProgress


def add(command: Command) -> None:
    """Add ``stir sweep`` and its arguments."""
    description = "Try a grid of settings on the validation split; with --test, evaluate the chosen point once on eval."
    sweep = command("sweep", _sweep, description, "--model", "--json")
    sweep.add_argument("sweep", type=Path, help="sweep file (TOML): base, n, objective, [grid]")
    sweep.add_argument("--out", type=place, help="folder (default: runs/<sweep's name>)")
    sweep.add_argument(
        "--run", help="take rollouts and states from this run of the base experiment (folder, or the name of an embedded run)"
    )
    add_fields(sweep, MeasurementRequest)
    add_fields(sweep, CallBudget)
    add_fields(sweep, ExecutorRequest)
    sweep.add_argument("--test", type=int, metavar="N", help="evaluate the chosen point on N eval problems")


def _sweep(arguments: argparse.Namespace) -> None:
    from stir_core.evaluate.sweep import SweepReport, changed, choose, grid_points, sweep_markdown, sweep_points
    from stir_core.models.loading import model_of
    from stir_core.store.configs import read_config
    from stir_core.store.files import write_whole
    from stir_core.store.jsonl import check_free, write_record
    from stir_core.store.locks import one_writer
    from stir_core.tasks import load_problems

    rows = asked(arguments, MeasurementRequest).rows
    test = section_from(EvaluationRequest, {"n": arguments.test, "rows": rows, "label": "sweep-test"}, {"n": "--test"})
    sweep = _read(arguments.sweep)
    base = read_config(arguments.sweep.parent / sweep.base)
    configs = [(point, changed(base, point)) for point in grid_points(sweep)]  # a wrong key is refused before a model is loaded
    if arguments.model:
        base = with_changes(base, model={"name": arguments.model})
        configs = [(point, with_changes(config, model=base.model)) for point, config in configs]
    out = arguments.out or Path("runs") / arguments.sweep.stem
    if (out / "sweep.md").exists() and not (out / "sweep.json").exists():
        raise DataError(f"{out / 'sweep.md'} is not a sweep's: choose another --out, nothing there is overwritten")
    problems = list(load_problems(base.task.name, "validation", n=sweep.n, seed=base.seed, levels=base.task.levels))
    with progress(asked(arguments, CallBudget)) as report, executing(arguments) as pool:
        model = model_of(base.model, None, pool)
        with one_writer(out / "sweep", of=out, owns=(out / "sweep.json", out / "sweep.md", out / "points")):
            check_free(out / "sweep.json", SweepReport)
            points = _prepared(arguments, base, configs, out, model, report)
            if leaks := find_overlaps(points[0].run.problems(), problems).overlaps:
                raise DataError(
                    f"{len(leaks)} of {len(problems)} validation problems were mined (e.g. {leaks[0].problem_id}): mine another split"
                )
            measured = sweep_points(model, points, problems, out / "points", rows=rows, report=report)
            chosen = choose([point for point, _ in measured], sweep.objective)
            result = SweepReport(base=sweep.base, split="validation", n=sweep.n, objective=sweep.objective, points=tuple(chosen))
            write_record(out / "sweep.json", result)
            write_whole(out / "sweep.md", sweep_markdown(result).encode("utf-8"))
        best = next(points[i] for i, point in enumerate(chosen[1:]) if point.chosen)
        tested = None if test.n is None else _tested(arguments, best, model, test, report)
    if arguments.json:
        print_json(result)
    else:
        say(*sweep_markdown(result).split("\n"))
    if tested is not None:
        say(f"stir: the chosen point on {test.n} eval problems: {tested / 'report.md'}", error=True)


def _read(file: Path) -> "SweepConfig":
    from stir_core.evaluate.sweep import SweepConfig

    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
        if not data.keys() & {"base", "grid"}:
            raise ConfigError(f"it has no base and no [grid], so it is not a sweep; `stir run {file}` takes an experiment file")
        return section_from(SweepConfig, data)
    except ConfigError as error:
        raise ConfigError(f"sweep file {file}: {error}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"sweep file {file} cannot be read ({error}): give a TOML file with base and [grid]") from None


def _prepared(
    arguments: argparse.Namespace,
    base: "RunConfig",
    configs: "list[tuple[dict, RunConfig]]",
    out: Path,
    model: "LoadedModel",
    report: "OnProgress",
) -> "list[GridPoint]":
    """Every point with a run whose basis is finished; points that differ in the gate alone share a run."""
    from stir_core.config import digest_of
    from stir_core.evaluate.sweep import GridPoint
    from stir_core.stages.pipeline import begin_from, run_stages
    from stir_core.store.runs import Run

    first = Run.open(arguments.run) if arguments.run else run_stages(base, out / "base", until="rollouts", report=report, model=model)
    runs = {}
    for _, config in configs:
        key = (config.mining, config.basis)
        if key not in runs:
            folder = out / "runs" / digest_of(*key)
            begin_from(first, config, folder, model)
            runs[key] = run_stages(config, folder, until="basis", report=report, model=model)
    return [GridPoint(changes, config, runs[config.mining, config.basis]) for changes, config in configs]


def _tested(
    arguments: argparse.Namespace, best: "GridPoint", model: "LoadedModel", request: EvaluationRequest, report: "OnProgress"
) -> Path:
    """Evaluate the chosen point on held-out problems with its own gate; returns the folder of the report."""
    from stir_core.evaluate.runner import evaluate, settle
    from stir_core.stages.pipeline import environment, short_environment
    from stir_core.store.runs import Run

    facts = environment()
    run = Run.at(best.run.path, best.config, facts)
    command = shlex.join(["stir", "sweep", str(arguments.sweep), "--test", str(request.n)])
    spec, problems = settle(run, model.identity, request, command=command, environment=short_environment(facts))
    return evaluate(run, model, spec, problems, report=report)[1]
