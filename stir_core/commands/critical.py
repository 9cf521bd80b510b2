"""``stir critical``: at which token was a wrong answer lost, and which steps decided an answer?"""

import argparse
from itertools import pairwise

from stir_core.commands.console import Command, print_json, progress, say, table
from stir_core.commands.flags import add_fields, asked
from stir_core.errors import DataError
from stir_core.findings import CriticalTrace, p_text
from stir_core.requests import CallBudget, CriticalRequest


def add(command: Command) -> None:
    """Add ``stir critical`` and its arguments."""
    description = "Continue a held-out answer from every k-th token, or from every step: where it was lost, or what each decided; resumes."
    critical = command("critical", _critical, description, "run", "--model", "--json")
    critical.add_argument("problem", nargs="?", help="id of a held-out problem (default: the first that serves)")
    add_fields(critical, CriticalRequest)
    add_fields(critical, CallBudget)


def _critical(arguments: argparse.Namespace) -> None:
    from stir_core.evaluate.critical import critical_tokens
    from stir_core.models.loading import model_of
    from stir_core.store.critical import CriticalFile
    from stir_core.store.runs import Run

    request = asked(arguments, CriticalRequest)
    run = Run.open(arguments.run)
    traces = {trace.id: trace for trace in run.traces(request.of)}
    if request.at == "steps":
        fit, none = [id_ for id_, trace in traces.items() if len(trace.steps) > 1], f"no {request.of} answer of two steps"
    else:
        fit = [id_ for id_, trace in traces.items() if trace.verdict is not None and not trace.verdict.correct]
        none = f"no wrong {request.of} answer, and critical tokens are those that lose one"
    name = arguments.problem or next(iter(fit), None)
    if name is None:
        raise DataError(f"{run.path} has {none}: take another run")
    if name not in traces:
        raise DataError(f"{name!r} is not a held-out problem of {run.path}: take one such as {', '.join((fit or list(traces))[:4])}")
    problem = next(problem for problem in run.problems("steered") if problem.id == name)
    file = CriticalFile(run, request.of, traces[name])
    with progress(asked(arguments, CallBudget)) as report:
        model = model_of(run.config.model, arguments.model)
        run.check_model(model.identity)
        critical = critical_tokens(model, run.config, problem, traces[name], file, request, report=report)
    if arguments.json:
        print_json(critical)
        return
    if critical.steps:
        _say_steps(critical)
        return
    rows = []
    for point, text in zip(critical.points, critical.pieces, strict=True):
        mark = "lost here" if point.position == critical.lost_at else ""
        rows.append([str(point.position), f"{point.right}/{point.rolls}", f"{point.rate:.2f}", mark, repr(text)])
    say(f"{critical.problem_id}, {critical.of} answer: success rate of continuing from each token")
    table(["token", "right", "rate [95 %]", "", "text after it"], rows)
    ends, steered = (", ".join(map(str, at)) or "none" for at in (critical.control_points, critical.steered_at))
    say(f"control points at {ends}; steered at {steered}")


def _say_steps(critical: CriticalTrace) -> None:
    rates, rows = [f"{point.right}/{point.rolls}" for point in critical.points], []
    for each, (before, after) in zip(critical.steps, pairwise(rates), strict=True):
        acted, text = "acted" if each.start in critical.steered_at else "", each.text if len(each.text) < 60 else each.text[:57] + "..."
        rows.append([str(each.step), f"{before} -> {after}", f"{each.kl:.2f}", p_text(each.p_holm), acted, repr(text)])
    say(f"{critical.problem_id}, {critical.of} answer: how the answers of continuations change with each step")
    table(["step", "right", "KL (nats)", "p (Holm)", "gate", "text"], rows)
    say("right: of continuations from its start, then from its end. KL: of the answers after it from those before it.")
