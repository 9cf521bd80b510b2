"""``stir eval`` and ``stir methods``: paired comparisons on disk, and the ways to answer that can be compared."""

import argparse
import json
import shlex

from stir_core.commands.console import Command, progress, table


def add(command: Command) -> None:
    """Make the parsers."""
    evaluate = command(
        "eval", _eval, "Compare methods on the same held-out problems: answers, intervals, tests and costs; goes on where it stopped."
    )
    evaluate.add_argument("run", help='run folder, or "demo"')
    evaluate.add_argument(
        "--methods", nargs="+", default=["stir"], metavar="METHOD", help='e.g. stir "stir:k_scale=0.5" deer; `stir methods` lists them'
    )
    evaluate.add_argument("--task", help="task to evaluate on (default: the run's own)")
    evaluate.add_argument("--split", default="eval", help="eval (default), validation, or a split of the data set's own")
    evaluate.add_argument("--n", type=positive, help="problems (default: all of the split)")
    evaluate.add_argument("--levels", nargs="+", help="difficulty levels to draw from (default: the run's own)")
    evaluate.add_argument("--seeds", type=positive, default=1, help="repetitions of methods that sample")
    evaluate.add_argument("--baseline", default="vanilla", help="method that the others are compared with")
    evaluate.add_argument("--max-new-tokens", type=positive, help="budget of committed tokens (default: the run's own)")
    evaluate.add_argument("--template", help="prompt template (default: the run's own)")
    evaluate.add_argument("--rows", type=positive, default=16, help="answers decoded side by side")
    evaluate.add_argument("--label", help="name of the evaluation (default: <task>-<split>)")
    evaluate.add_argument("--resume", action="store_true", help="go on where it stopped; this is what happens anyway")
    evaluate.add_argument("--fresh", action="store_true", help="forget what is there under this label")
    evaluate.add_argument("--allow-leak", action="store_true", help="go on although evaluation problems were mined; marks the report")
    evaluate.add_argument("--model", help="another place where the run's own model lies")
    evaluate.add_argument("--json", action="store_true", help="print the report as JSON")

    listed = command("methods", _methods, "The ways to answer that `stir eval` compares, with their parameters and sources.")
    listed.add_argument("--json", action="store_true", help="print JSON")


def _eval(arguments: argparse.Namespace) -> int:
    from stir_core.evaluate.decoders.registry import methods
    from stir_core.evaluate.report import markdown
    from stir_core.evaluate.runner import Ask, evaluate, settle
    from stir_core.models.loading import model_of
    from stir_core.stages.pipeline import short_environment
    from stir_core.store.runs import Run

    run = Run.open(arguments.run)
    run.folder("basis")
    methods([arguments.baseline, *arguments.methods])  # said before a model is loaded
    model = model_of(run.config.model, arguments.model)
    ask = Ask(
        arguments.methods,
        task=arguments.task,
        split=arguments.split,
        n=arguments.n,
        seeds=arguments.seeds,
        levels=tuple(arguments.levels) if arguments.levels else None,
        template=arguments.template,
        max_new_tokens=arguments.max_new_tokens,
        rows=arguments.rows,
        label=arguments.label,
        allow_leak=arguments.allow_leak,
        baseline=arguments.baseline,
    )
    spec, problems = settle(run, model.identity, ask, command=_command(arguments), environment=short_environment())
    with progress() as report:
        found, path = evaluate(run, model, spec, problems, fresh=arguments.fresh, report=report)
    if arguments.json:
        print(found.model_dump_json(indent=2))
        return 0
    print(markdown(found))
    print(f"{path}")
    return 0


def _methods(arguments: argparse.Namespace) -> int:
    from stir_core.evaluate.decoders.registry import ABLATIONS, DECODERS

    if arguments.json:
        rows = {
            d.name: {"about": d.about, "source": d.source, "parameters": dict(d.parameters), "by_chance": d.by_chance}
            for d in DECODERS.values()
        }
        print(json.dumps({"decoders": rows, "ablations": ABLATIONS}, indent=2))
        return 0
    table(
        ["method", "what", "parameters", "source"],
        [[d.name, d.about, " ".join(f"{k}={v}" for k, v in d.parameters.items()), d.source] for d in DECODERS.values()],
    )
    print("\nablations of stir:")
    table(["ablation", "method"], [[name, text] for name, text in ABLATIONS.items()])
    return 0


def _command(arguments: argparse.Namespace) -> str:
    """The command that makes this evaluation, from what differs from the defaults."""
    words = ["stir", "eval", str(arguments.run), "--methods", *arguments.methods]
    for name in ("task", "split", "n", "seeds", "baseline", "max_new_tokens", "template", "rows", "label"):
        value = getattr(arguments, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    if arguments.levels:
        words += ["--levels", *arguments.levels]
    return shlex.join(words + (["--allow-leak"] if arguments.allow_leak else []))


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number
