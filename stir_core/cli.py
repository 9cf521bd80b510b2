"""``stir ...``: the command line. ``main(argv)`` returns an exit code: 0 done, 1 interrupted, 2 a refusal (one line on stderr), 3 the
call's budget is used up and the same command continues.

A full or read-only disk and a folder without permission are refused like any other input.

Every command imports its own dependencies when it runs, so that listing tasks does not wait for torch.
"""

import argparse
import io
import os
import re
import shlex
import sys
from pathlib import Path
from typing import NoReturn

from stir_core.commands import (
    calibrate,
    causal,
    certify,
    codebook,
    coherence,
    compare,
    critical,
    curate,
    curriculum,
    estimate,
    evaluate,
    export,
    impulse,
    latent,
    library,
    organism,
    policy,
    probe,
    report,
    saved,
    serve,
    sweep,
    verify,
    watch,
    whatif,
    workbench,
)
from stir_core.commands.console import (
    Handler,
    asked_prompt,
    place,
    print_json,
    print_stages,
    print_traces,
    reporting,
    say,
    stoppable,
    table,
    with_common,
)
from stir_core.commands.flags import add_answering, add_fields, answering, asked, executing
from stir_core.commands.overrides import add_experiment, overridden
from stir_core.config import STAGES, BasisConfig
from stir_core.errors import FAULTS, BudgetSpent, DataError, escaped, line_of
from stir_core.models.threads import settle_threads
from stir_core.requests import CallBudget, ExecutorRequest
from stir_core.version import VERSION


def main(argv: list[str] | None = None) -> int:
    """Run one command; refusals become one line on stderr and exit code 2.

    Args:
        argv: the command's words; ``None``: those of the process, whose thread count is then settled too.
    """
    if argv is None:
        speak_utf8()
        settle_threads()
    arguments = parsed(sys.argv[1:] if argv is None else argv)
    try:
        with stoppable():
            code = arguments.command(arguments) or 0
            sys.stdout.flush()
            return code
    except BudgetSpent as error:
        say(f"stir: {error}; {_kept(arguments)}", error=True)
        return 3
    except KeyboardInterrupt:
        say(f"stir: interrupted; {_kept(arguments)}", error=True)
        return 1
    except BrokenPipeError:  # the reader (head, less) has closed the pipe: print nothing more
        sys.stderr.close()
        return 1
    except FAULTS as error:
        say(f"stir: {line_of(error)}", error=True)
        if isinstance(error, OSError) and error.filename is None and argv is None:  # it may be that of standard output
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter tries again, and shows a traceback
        return 2


def _kept(arguments: argparse.Namespace) -> str:
    """What an interrupted command keeps, and how to continue: without the flags that would make finished results again."""
    if not arguments.resumes:
        return "this command keeps no part of its work"
    anew = [f"--{name}" for name in ("redo", "fresh") if getattr(arguments, name, None)]
    return f"finished results are kept, the same command {'without ' + anew[0] + ' ' if anew else ''}continues from them"


def speak_utf8() -> None:
    """Read arguments and write output as UTF-8 in every locale: under ``LC_ALL=C`` the process starts again in Python's UTF-8 mode.

    What cannot be written (lone surrogates) becomes an escape.
    """
    if sys.flags.utf8_mode == 0 and sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"  # for the helpers too
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def parsed(words: list[str]) -> argparse.Namespace:
    """Parse a command's words.

    An option's text or number that begins with a minus sign is joined to it (``--gold=-2\\pi``), since argparse takes it for an option.
    """
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] in ("--gold", "--why", "--alpha") and word.startswith("-") and not word.startswith("--"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    parser = command_parser()
    for word in words:
        if "\0" in word or any("\ud800" <= sign <= "\udfff" for sign in word):
            parser.error(f"{word!r:.200} is not UTF-8 text: type it again, or rename the file")
    return parser.parse_args(joined)


class _Parser(argparse.ArgumentParser):
    """Refuses in one line, as all commands do."""

    def error(self, message: str) -> NoReturn:
        left, _, words = message.partition(": ")
        change = re.match(r"[\w.]+=", words) if left == "unrecognized arguments" else None
        remedy = "each change needs a --set of its own" if change else f"`{self.prog} --help` lists what it takes"
        self.exit(2, f"{self.prog}: {escaped(message)}; {remedy}\n")


def command_parser() -> argparse.ArgumentParser:
    """The parser of all commands with their options and help."""
    parser = _Parser(prog="stir", description="STIR on TransformerLens: discover, select and replay latent actions.")
    parser.add_argument("--version", action="version", version=f"stir {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Handler, help: str, *common: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        long = ("run", "eval", "causal", "policy", "critical", "curriculum", "sweep", "calibrate", "organism", "latent")
        sub.set_defaults(command=run, resumes=name in long)
        return with_common(sub, *common)

    run = command("run", _run, "Make a run from a config: rollouts, states, actions, basis, steered; resumes.")
    add_experiment(run)
    run.add_argument("--out", type=place, help="run folder (default: runs/<config's name>)")
    add_fields(run, CallBudget)
    add_fields(run, ExecutorRequest)
    run.add_argument("--base", metavar="RUN", help="take the rollouts of this finished run, to mine or select with other settings")
    run.add_argument("--redo", choices=STAGES, help="make this stage and all later ones again")
    run.add_argument("--progress", type=Path, metavar="FILE", help="append the progress to a file as JSON lines, for other programs")

    command("status", _status, "The state of a run, stage by stage.", "run", "--json")

    trace = command(
        "trace", _trace, "Decode a prompt vanilla and steered, side by side, with the gate's decisions.", "source", "--model", "--json"
    )
    trace.add_argument("prompt", help="a question, the id of one of the run's held-out problems or of a saved trace, or @FILE")
    trace.add_argument("--raw", action="store_true", help="send the prompt as typed, without the task's template")
    add_answering(trace)

    models = command("models", _models, "The models of the catalogue.", "--json")
    models.add_argument("--prepare", metavar="NAME", help="convert or download a model now rather than at first use")
    models.add_argument("--check", metavar="NAME", help="compare a model's decoding with float32; exit code 1 if it differs too much")
    models.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="numeric type for --check")

    tasks = command("tasks", _tasks, "The tasks, or some problems of one.", "--json")
    tasks.add_argument("name", nargs="?", help="show this task's first problems")
    tasks.add_argument("--split", default="mine", help="mine, validation, eval, or a split of the data set's own")
    tasks.add_argument("-n", type=int, default=3, help="how many problems to show")

    library.add(command)

    select = command("select", _select, "Select a diverse basis from any keys: greedy MAP of a quality-weighted DPP.", "--json")
    select.add_argument("keys", type=Path, help="safetensors file with `keys` [n, d] and `quality` [n]")
    select.add_argument("--budget", type=int, required=True, help="most picks")
    add_fields(select, BasisConfig, ("diversity", "epsilon"))
    select.add_argument("--compat", action="store_true", help="as the published code; without forced picks both agree")

    grade = command("grade", _grade, "Grade one answer against its gold answer.", "--json")
    grade.add_argument("--kind", required=True, choices=("math", "number", "choice", "yesno"), help="form of the answer")
    grade.add_argument("--gold", required=True, help="the right answer: LaTeX, a number, a letter, or yes / no")
    grade.add_argument("--answer", required=True, metavar="FILE|-", help="file with the answer's text, or - for standard input")

    modules = (
        verify,
        watch,
        estimate,
        evaluate,
        causal,
        probe,
        coherence,
        policy,
        codebook,
        critical,
        impulse,
        sweep,
        curriculum,
        curate,
        whatif,
        saved,
        report,
        compare,
        export,
        certify,
        serve,
        workbench,
        calibrate,
        latent,
        organism,
    )
    for module in modules:
        module.add(command)
    return parser


def _run(arguments: argparse.Namespace) -> None:
    # entered before torch is imported, so that the seconds of the import can be interrupted
    with reporting(arguments.progress, asked(arguments, CallBudget)) as report, executing(arguments) as pool:
        from stir_core.stages.pipeline import run_stages
        from stir_core.store.configs import read_config
        from stir_core.store.runs import Run

        config = overridden(read_config(arguments.config), arguments.set)
        base = Run.open(arguments.base) if arguments.base else None
        out = arguments.out or Path("runs") / arguments.config.stem
        changes = [word for change in arguments.set for word in ("--set", change)]
        command = shlex.join(
            ["stir", "run", str(arguments.config), "--out", str(out), *changes, *(["--base", arguments.base] if base else [])]
        )
        run = run_stages(config, out, until=arguments.until, redo=arguments.redo, command=command, report=report, pool=pool, base=base)
    say(run.path)
    print_stages(run.status())


def _status(arguments: argparse.Namespace) -> None:
    from stir_core.store.runs import Run

    run = Run.open(arguments.run)
    rows = run.status()
    for stage in run.stages():
        run.check_files(stage)
    model = run.model_identity()
    if arguments.json:
        print_json({"run": run.path, "model": model, "stages": [row._asdict() for row in rows]})
        return
    name = model.name if model else run.config.model.name
    say(f"{run.path}: task {run.config.task.name}, model {name}, seed {run.config.seed}")
    if run.standing:
        say(run.standing)
    print_stages(rows)


def _trace(arguments: argparse.Namespace) -> None:
    from stir_core.deploy.bundle.reading import open_source, session_on
    from stir_core.intervene.gate import needs_all
    from stir_core.models.loading import model_of
    from stir_core.store.runs import Run

    source = open_source(arguments.source)
    changed = answering(arguments, source.config)
    if isinstance(source, Run):
        source.folder("basis")
    prompt, _ = asked_prompt(source, arguments.prompt)  # an empty one is refused before a model is loaded
    session = session_on(source, model_of(source.config.model, arguments.model))
    answers = session.answer(prompt, changed.gate, changed.decode, raw=arguments.raw)
    if arguments.json:
        print_json(answers._asdict())
    else:
        print_traces(*answers)
        if changed.gate.previews == "needed" and (why := needs_all(changed.gate)) is not None:
            say(f"every candidate was previewed to its end: {why}")


def _models(arguments: argparse.Namespace) -> int | None:
    from stir_core.models.catalogue import catalogue, prepare, resolve

    if arguments.prepare is not None:
        say(prepare(resolve(arguments.prepare)))
    elif arguments.check:
        return _check_model(arguments)
    elif arguments.json:
        print_json([row._asdict() for row in catalogue()])
    else:
        table(["name", "kind", "where", "state"], [list(row) for row in catalogue()])
    return None


def _check_model(arguments: argparse.Namespace) -> int:
    from stir_core.models.agreement import TOLERANCE, agreement
    from stir_core.models.loading import load_model

    model = load_model(arguments.check, dtype=arguments.dtype)
    found = agreement(model, exact=True)
    most, least = TOLERANCE[arguments.dtype]
    way = f"{model.backend.name}, {'packed' if model.backend.packs else 'one sequence at a time'}"
    if arguments.json:
        print_json(found._asdict() | {"decoder": way, "tolerance": {"kl": most, "same_token": least}})
    else:
        say(f"{arguments.check} in {arguments.dtype} ({way}) against {found.reference} at {found.positions} positions:")
        say(f"  mean KL {found.kl:.2e} nats (at most {most:g}), same likeliest token {found.same_token:.0%} (at least {least:.0%})")
        say(f"  largest difference of that token's log-probability {found.largest_logprob_difference:.2e} nats")
        say("  agrees" if found.agrees else "  does NOT agree")
    return 0 if found.agrees else 1


def _tasks(arguments: argparse.Namespace) -> None:
    from stir_core.tasks import load_problems, render, task_names, task_spec

    if arguments.name is None:
        specs = [task_spec(name) for name in task_names()]
        if arguments.json:
            print_json([{"name": s.name, "kind": s.kind, "splits": list(s.splits), "description": s.description} for s in specs])
        else:
            table(["task", "answers", "splits", "what"], [[s.name, s.kind, ", ".join(s.splits), s.description] for s in specs])
        return
    problems = load_problems(arguments.name, arguments.split, n=arguments.n)
    if arguments.json:
        print_json(problems)
        return
    for problem in problems:
        say(f"--- {problem.id}  level {problem.level}  gold {problem.answer}", *render(problem).split("\n"), "")


def _select(arguments: argparse.Namespace) -> None:
    from stir_core.basis.selection import greedy_map, unit_rows
    from stir_core.store.tensors import read_tensors

    basis = asked(arguments, BasisConfig)
    tensors = read_tensors(arguments.keys, ("keys", "quality"))
    picks = greedy_map(unit_rows(tensors["keys"]), tensors["quality"], basis.budget, diversity=basis.diversity, epsilon=basis.epsilon)
    if arguments.json:
        print_json({"picks": [pick.index for pick in picks]})
    else:
        table(["rank", "index", "gain"], [[str(rank), str(pick.index), f"{pick.gain:.4f}"] for rank, pick in enumerate(picks)])


def _grade(arguments: argparse.Namespace) -> None:
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
        print_json({"correct": verdict.correct, "extracted": verdict.extracted, "reason": verdict.reason})
    else:
        say(f"{'right' if verdict.correct else 'wrong'}: {verdict.reason}")


if __name__ == "__main__":
    raise SystemExit(main())
