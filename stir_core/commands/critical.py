"""``stir critical``: at which token was a wrong answer lost?"""

import argparse

from stir_core.commands.console import Command, print_json, progress, say, table
from stir_core.commands.flags import add_fields, asked
from stir_core.errors import DataError
from stir_core.requests import CallBudget, CriticalRequest


def add(command: Command) -> None:
    """Add ``stir critical`` and its arguments."""
    description = "Success rate of continuing a wrong held-out answer from every k-th token; resumes."
    critical = command("critical", _critical, description, "run", "--model", "--json")
    critical.add_argument("problem", nargs="?", help="id of a held-out problem (default: the first with a wrong answer)")
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
    wrong = [id_ for id_, trace in traces.items() if trace.verdict is not None and not trace.verdict.correct]
    name = arguments.problem or next(iter(wrong), None)
    if name is None:
        raise DataError(f"{run.path} has no wrong {request.of} answer, and critical tokens are those that lose one: take another run")
    if name not in traces:
        raise DataError(f"{name!r} is not a held-out problem of {run.path}: take one such as {', '.join((wrong or list(traces))[:4])}")
    problem = next(problem for problem in run.problems("steered") if problem.id == name)
    file = CriticalFile(run, request.of, traces[name])
    with progress(asked(arguments, CallBudget)) as report:
        model = model_of(run.config.model, arguments.model)
        run.check_model(model.identity)
        critical = critical_tokens(model, run.config, problem, traces[name], file, request, report=report)
    if arguments.json:
        print_json(critical)
        return
    rows = []
    for point, text in zip(critical.points, critical.pieces, strict=True):
        mark = "lost here" if point.position == critical.lost_at else ""
        rows.append([str(point.position), f"{point.right}/{point.rolls}", f"{point.rate:.2f}", mark, repr(text)])
    say(f"{critical.problem_id}, {critical.of} answer: success rate of continuing from each token")
    table(["token", "right", "rate [95 %]", "", "text after it"], rows)
    ends, steered = (", ".join(map(str, at)) or "none" for at in (critical.control_points, critical.steered_at))
    say(f"control points at {ends}; steered at {steered}")
