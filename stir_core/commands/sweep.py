"""``stir sweep``: try settings on the validation split, and the chosen ones once on the test split."""

import argparse
import json
import shlex
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from stir_core.commands.console import Command, progress
from stir_core.commands.evaluate import positive
from stir_core.errors import ConfigError, DataError
from stir_core.tasks.overlap import find_overlaps

if TYPE_CHECKING:
    from stir_core.config import RunConfig
    from stir_core.evaluate.sweep import Point, SweepConfig
    from stir_core.models.loading import LoadedModel


def add(command: Command) -> None:
    """Make the parser."""
    sweep = command("sweep", _sweep, "Try a grid of settings on the validation split; then, with --test, the chosen point once on eval.")
    sweep.add_argument("sweep", type=Path, help="sweep file (TOML): base, n, objective, [grid]")
    sweep.add_argument("--out", type=Path, help="folder (default: runs/<sweep's name>)")
    sweep.add_argument("--run", help='take rollouts and states from this run of the base experiment (folder, or "demo")')
    sweep.add_argument("--rows", type=positive, default=16, help="answers decoded side by side")
    sweep.add_argument("--test", type=positive, metavar="N", help="evaluate the chosen point on N eval problems")
    sweep.add_argument("--model", help="another place where the base experiment's model lies")
    sweep.add_argument("--json", action="store_true", help="print JSON")


def _sweep(arguments: argparse.Namespace) -> int:
    from stir_core.config import with_changes
    from stir_core.evaluate.sweep import SweepReport, changed, choose, markdown, points_of, sweep_points
    from stir_core.models.loading import model_of
    from stir_core.store.configs import read_config
    from stir_core.store.jsonl import write_record
    from stir_core.tasks import load_problems

    asked = _read(arguments.sweep)
    base = read_config(arguments.sweep.parent / asked.base)
    configs = [(point, changed(base, point)) for point in points_of(asked)]  # a wrong key is said before a model is loaded
    if arguments.model:
        base = with_changes(base, model={"name": arguments.model})
        configs = [(point, with_changes(config, model=base.model)) for point, config in configs]
    out = arguments.out or Path("runs") / arguments.sweep.stem
    problems = list(load_problems(base.task.name, "validation", n=asked.n, seed=base.seed, levels=base.task.levels))
    model = model_of(base.model)
    points = _prepared(arguments, base, configs, out, model)
    if leaks := find_overlaps(points[0].run.problems(), problems).overlaps:
        raise DataError(f"{len(leaks)} of {len(problems)} validation problems were mined (e.g. {leaks[0].problem_id}): mine another split")
    with progress() as report:
        found = sweep_points(model, points, problems, out / "points", rows=arguments.rows, report=report)
    chosen = choose([point for point, _ in found], asked.objective)
    result = SweepReport(base=asked.base, split="validation", n=asked.n, objective=asked.objective, points=tuple(chosen))
    write_record(out / "sweep.json", result)
    (out / "sweep.md").write_text(markdown(result), encoding="utf-8")
    print(json.dumps(result.model_dump(mode="json"), indent=2) if arguments.json else markdown(result))
    if arguments.test:
        best = next(points[i] for i, point in enumerate(chosen[1:]) if point.chosen)
        _test(arguments, best, model)
    return 0


def _read(file: Path) -> "SweepConfig":
    from stir_core.evaluate.sweep import SweepConfig

    try:
        return SweepConfig.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"sweep file {file} cannot be read ({error}): give a TOML file with base and [grid]") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"sweep file {file}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None


def _prepared(
    arguments: argparse.Namespace, base: "RunConfig", configs: "list[tuple[dict, RunConfig]]", out: Path, model: "LoadedModel"
) -> "list[Point]":
    """Every point with a run whose basis is finished; points that only differ in the gate share one."""
    from stir_core.config import digest_of
    from stir_core.evaluate.sweep import Point
    from stir_core.stages.pipeline import begin_from, run_stages
    from stir_core.store.runs import Run

    with progress() as report:
        first = Run.open(arguments.run) if arguments.run else run_stages(base, out / "base", until="rollouts", report=report, model=model)
        runs = {}
        for _, config in configs:
            key = (config.mining, config.basis)
            if key not in runs:
                folder = out / "runs" / digest_of(*key)
                begin_from(first, config, folder, model)
                runs[key] = run_stages(config, folder, until="basis", report=report, model=model)
    return [Point(changes, config, runs[config.mining, config.basis]) for changes, config in configs]


def _test(arguments: argparse.Namespace, best: "Point", model: "LoadedModel") -> None:
    """Evaluate the chosen point on held-out problems, its gate being the run's own; says on stderr where the report lies."""
    from stir_core.evaluate.runner import Ask, evaluate, settle
    from stir_core.stages.pipeline import environment, short_environment
    from stir_core.store.runs import Run

    facts = environment()
    run = Run.at(best.run.path, best.config, facts)
    ask = Ask(["stir"], n=arguments.test, rows=arguments.rows, label="sweep-test")
    command = shlex.join(["stir", "sweep", str(arguments.sweep), "--test", str(arguments.test)])
    spec, problems = settle(run, model.identity, ask, command=command, environment=short_environment(facts))
    _, path = evaluate(run, model, spec, problems)
    print(f"stir: the chosen point on {arguments.test} eval problems: {path / 'report.md'}", file=sys.stderr)
