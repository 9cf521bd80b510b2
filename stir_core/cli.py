"""``stir ...``: the command line. ``main(argv)`` returns an exit code: 0 done, 1 interrupted, 2 a refusal (one line on stderr).

Every command imports what it needs when it runs, so that listing tasks does not wait for torch.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from stir_core.commands import causal, certify, compare, critical, curate, estimate, evaluate, export, impulse, serve, sweep, whatif
from stir_core.commands.console import print_stages, print_traces, reporting, stoppable, table
from stir_core.commands.flags import add_answering, add_fields, answering, asked
from stir_core.commands.overrides import overridden
from stir_core.config import STAGES, BasisConfig
from stir_core.errors import DataError, PromptError, StirError
from stir_core.models.threads import settle_threads
from stir_core.version import VERSION


def main(argv: list[str] | None = None) -> int:
    """Run one command; refusals become one line on stderr and exit code 2.

    Args:
        argv: the command's words; ``None`` takes those of the process, which is then the command's own.
    """
    if argv is None:
        settle_threads()
    arguments = command_parser().parse_args(argv)
    try:
        with stoppable():
            return arguments.command(arguments)
    except StirError as error:
        print(f"stir: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stir: interrupted; what was finished is kept, the same command goes on from there", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader (head, less) has gone: nobody is left to tell
        sys.stderr.close()
        return 1


def command_parser() -> argparse.ArgumentParser:
    """The parser of every command with its options and their help."""
    parser = argparse.ArgumentParser(prog="stir", description="STIR on TransformerLens: discover, select and replay latent actions.")
    parser.add_argument("--version", action="version", version=f"stir {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(command=run)
        return sub

    run = command("run", _run, "Make a run from a config: rollouts, states, actions, basis, steered; goes on where it stopped.")
    run.add_argument("config", type=Path, help="experiment file (TOML)")
    run.add_argument("--out", type=Path, help="run folder (default: runs/<config's name>)")
    run.add_argument("--until", choices=STAGES, default=STAGES[-1], help="last stage to make")
    run.add_argument("--redo", choices=STAGES, help="make this stage and all later ones again")
    run.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one config key, e.g. --set task.n_train=8")
    run.add_argument("--progress", type=Path, metavar="FILE", help="append JSON lines that say how far it has come, for other programs")

    status = command("status", _status, "What a run holds, stage by stage.")
    status.add_argument("run", help='run folder, or "demo"')
    status.add_argument("--json", action="store_true", help="print JSON")

    trace = command("trace", _trace, "Decode a prompt vanilla and steered, side by side, with the gate's decisions.")
    trace.add_argument("run", help='run folder, "demo", or the folder of a bundle')
    trace.add_argument("prompt", help="a question, or the id of one of the run's held-out problems")
    trace.add_argument("--raw", action="store_true", help="send the prompt as typed, without the task's template")
    add_answering(trace)
    trace.add_argument("--model", help="another place where the run's own model lies")
    trace.add_argument("--json", action="store_true", help="print JSON")

    models = command("models", _models, "The models that can be named.")
    models.add_argument("--prepare", metavar="NAME", help="convert or download a model now rather than at first use")
    models.add_argument(
        "--check", metavar="NAME", help="load a model and compare its decoding with float32; exit code 1 when it is too far off"
    )
    models.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="numeric type for --check")
    models.add_argument("--json", action="store_true", help="print JSON")

    tasks = command("tasks", _tasks, "The tasks, or some problems of one.")
    tasks.add_argument("name", nargs="?", help="show this task's first problems")
    tasks.add_argument("--split", default="mine", help="mine, validation, eval, or a split of the data set's own")
    tasks.add_argument("-n", type=int, default=3, help="how many problems to show")
    tasks.add_argument("--json", action="store_true", help="print JSON")

    show = command("show", _show, "A run's actions as a table.")
    show.add_argument("run", help='run folder, or "demo"')
    show.add_argument("--all", action="store_true", help="all mined entries rather than the selected basis")
    show.add_argument("--json", action="store_true", help="print JSON")

    select = command("select", _select, "Select a diverse basis from any keys: greedy MAP of a quality-weighted DPP.")
    select.add_argument("keys", type=Path, help="safetensors file with `keys` [n, d] and `quality` [n]")
    select.add_argument("--budget", type=int, required=True, help="most picks")
    add_fields(select, BasisConfig, ("diversity", "epsilon"))
    select.add_argument("--compat", action="store_true", help="as the published code; without forced picks both agree")
    select.add_argument("--json", action="store_true", help="print JSON")

    grade = command("grade", _grade, "Settle one answer against its gold answer.")
    grade.add_argument("--kind", required=True, choices=("math", "number", "choice", "yesno"), help="what the answer is")
    grade.add_argument("--gold", required=True, help="the right answer: LaTeX, a number, a letter, or yes / no")
    grade.add_argument("--answer", required=True, metavar="FILE|-", help="file with the answer's text, or - for standard input")
    grade.add_argument("--json", action="store_true", help="print JSON")

    for module in (estimate, evaluate, causal, critical, impulse, sweep, curate, whatif, compare, export, certify, serve):
        module.add(command)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    with reporting(arguments.progress) as report:  # before torch is imported, which takes seconds in which one may want to stop
        from stir_core.stages.pipeline import run_stages
        from stir_core.store.configs import read_config

        config = overridden(read_config(arguments.config), arguments.set)
        out = arguments.out or Path("runs") / arguments.config.stem
        changes = [word for change in arguments.set for word in ("--set", change)]
        command = shlex.join(["stir", "run", str(arguments.config), "--out", str(out), *changes])
        run = run_stages(config, out, until=arguments.until, redo=arguments.redo, command=command, report=report)
    print(f"{run.path}")
    print_stages(run.status())
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from stir_core.store.runs import Run

    run = Run.open(arguments.run)
    rows = run.status()
    for stage in run.stages():
        run.check_files(stage)
    model = run.model_identity()
    if arguments.json:
        print(
            json.dumps(
                {"run": str(run.path), "model": model.model_dump() if model else None, "stages": [row._asdict() for row in rows]}, indent=2
            )
        )
        return 0
    name = model.name if model else run.config.model.name
    print(f"{run.path}: task {run.config.task.name}, model {name}, seed {run.config.seed}")
    print_stages(rows)
    return 0


def _trace(arguments: argparse.Namespace) -> int:
    from stir_core.deploy.bundle.reading import is_bundle, read_bundle
    from stir_core.intervene.session import STEERED, VANILLA, open_session
    from stir_core.models.loading import model_of
    from stir_core.records import Problem, TraceEvent
    from stir_core.store.runs import Run

    source = read_bundle(Path(arguments.run)) if is_bundle(Path(arguments.run)) else Run.open(arguments.run)
    run = source if isinstance(source, Run) else None
    config = source.config if isinstance(source, Run) else source.manifest.run_config()
    changed = answering(arguments, config)
    held_out = {problem.id: problem for problem in run.problems("steered")} if run and run.finished("steered") else {}
    prompt: str | Problem = held_out.get(arguments.prompt) or str(arguments.prompt)
    if run:
        run.folder("basis")
    if isinstance(prompt, str) and not prompt.strip():  # said before a model is loaded
        raise PromptError("the prompt is empty: write a question")
    model = model_of(config.model, arguments.model)
    session = open_session(source, model) if isinstance(source, Run) else source.session(model)
    events = session.compare(prompt, changed.gate, changed.decode, raw=arguments.raw)
    traces = {event.row: event.trace for event in events if isinstance(event, TraceEvent)}
    vanilla, steered = traces[VANILLA], traces[STEERED]
    if arguments.json:
        print(json.dumps({"vanilla": vanilla.model_dump(mode="json"), "steered": steered.model_dump(mode="json")}, ensure_ascii=False))
        return 0
    print_traces(vanilla, steered)
    return 0


def _models(arguments: argparse.Namespace) -> int:
    from stir_core.models.catalogue import catalogue, converted, resolve

    if arguments.prepare:
        source = resolve(arguments.prepare)
        folder = converted(source)
        if folder is None:
            from stir_core.models.loading import prepare

            folder = prepare(source)
        print(folder)
        return 0
    if arguments.check:
        return _check_model(arguments)
    rows = catalogue()
    if arguments.json:
        print(json.dumps([row._asdict() for row in rows], indent=2))
        return 0
    table(["name", "kind", "where", "state"], [list(row) for row in rows])
    return 0


def _check_model(arguments: argparse.Namespace) -> int:
    from stir_core.models.agreement import TOLERANCE, agreement
    from stir_core.models.loading import load_model

    found = agreement(load_model(arguments.check, dtype=arguments.dtype))
    most, least = TOLERANCE[arguments.dtype]
    if arguments.json:
        print(json.dumps(found._asdict() | {"tolerance": {"mean_kl": most, "same_token": least}}, indent=2))
    else:
        print(f"{arguments.check} in {arguments.dtype} against float32 at {found.positions} positions:")
        print(f"  mean KL {found.mean_kl:.2e} nats (at most {most:g}), same likeliest token {found.same_token:.0%} (at least {least:.0%})")
        print(f"  largest difference of that token's log-probability {found.largest_logprob_difference:.2e} nats")
        print("  within tolerance" if found.within else "  NOT within tolerance")
    return 0 if found.within else 1


def _tasks(arguments: argparse.Namespace) -> int:
    from stir_core.tasks import load_problems, render, task_names, task_spec

    if arguments.name is None:
        specs = [task_spec(name) for name in task_names()]
        if arguments.json:
            print(
                json.dumps(
                    [{"name": s.name, "kind": s.kind, "splits": list(s.splits), "description": s.description} for s in specs], indent=2
                )
            )
            return 0
        table(["task", "answers", "splits", "what"], [[s.name, s.kind, ", ".join(s.splits), s.description] for s in specs])
        return 0
    problems = load_problems(arguments.name, arguments.split, n=arguments.n)
    if arguments.json:
        print(json.dumps([problem.model_dump(mode="json") for problem in problems], indent=2, ensure_ascii=False))
        return 0
    for problem in problems:
        print(f"--- {problem.id}  level {problem.level}  gold {problem.answer}\n{render(problem)}\n")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from stir_core.commands.library import library_table
    from stir_core.store.runs import Run

    run = Run.open(arguments.run)
    ranks = {pick.entry_id: pick.rank for pick in run.picks()} if run.finished("basis") else {}
    entries = run.entries()
    if ranks and not arguments.all:
        entries = sorted((entry for entry in entries if entry.id in ranks), key=lambda entry: ranks[entry.id])
    controls, advantages = run.controls(), run.advantages()
    if arguments.json:
        measured = {
            entry.id: {
                "rank": ranks.get(entry.id),
                "controls": controls[entry.id].model_dump() if entry.id in controls else None,
                "advantage": advantages[entry.id].model_dump() if entry.id in advantages else None,
            }
            for entry in entries
        }
        print(json.dumps([entry.model_dump(mode="json") | measured[entry.id] for entry in entries], indent=2))
        return 0
    table(*library_table(entries, ranks, run.lenses(), controls, advantages))
    return 0


def _select(arguments: argparse.Namespace) -> int:
    from stir_core.basis.selection import greedy_map, unit_rows
    from stir_core.store.tensors import read_tensors

    basis = asked(arguments, BasisConfig)
    tensors = read_tensors(arguments.keys, ("keys", "quality"))
    picks = greedy_map(unit_rows(tensors["keys"]), tensors["quality"], basis.budget, diversity=basis.diversity, epsilon=basis.epsilon)
    if arguments.json:
        print(json.dumps({"picks": [pick.index for pick in picks]}))
        return 0
    table(["rank", "index", "gain"], [[str(rank), str(pick.index), f"{pick.gain:.4f}"] for rank, pick in enumerate(picks)])
    return 0


def _grade(arguments: argparse.Namespace) -> int:
    from stir_core.tasks import Grader

    if arguments.answer == "-":
        text = sys.stdin.read()
    else:
        try:
            text = Path(arguments.answer).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"answer file {arguments.answer} cannot be read ({error}): give a text file, or - for standard input") from None
    with Grader() as grader:
        verdict = grader.grade(arguments.kind, arguments.gold, text)
    if arguments.json:
        print(json.dumps({"correct": verdict.correct, "extracted": verdict.extracted, "reason": verdict.reason}, ensure_ascii=False))
    else:
        print(f"{'right' if verdict.correct else 'wrong'}: {verdict.reason}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
