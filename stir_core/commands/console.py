"""What all commands share: common arguments, progress bars, tables, JSON, and traces side by side."""

import argparse
import difflib
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from stir_core.errors import BudgetSpent, DataError, PromptError, escaped, line_of
from stir_core.requests import CallBudget, duration
from stir_core.saved import SAVED_ID
from stir_core.store.progress import ProgressFile

if TYPE_CHECKING:
    from rich.text import Text

    from stir_core.records import OnProgress, Problem, Progress, StepTrace, Trace
    from stir_core.store.runs import StageStatus

COMMON: dict[str, dict[str, Any]] = {
    "run": {"help": "run folder, or the name of an embedded run"},
    "source": {"metavar": "RUN", "help": "run folder, the name of an embedded run, or the folder of a bundle"},
    "--model": {"help": "another place of the run's or the bundle's own model"},
    "--json": {"action": "store_true", "help": "print JSON"},
}
"""Arguments that several commands take, each with its one help text."""
Handler = Callable[[argparse.Namespace], int | None]
"""Runs a command and returns its exit code; ``None`` is 0."""


Command = Callable[..., argparse.ArgumentParser]
"""``(name, handler, help, *common) -> parser`` with the named arguments of :data:`COMMON`: passed to every command module's ``add``."""


def with_common(parser: argparse.ArgumentParser, *common: str) -> argparse.ArgumentParser:
    """The parser with some arguments of :data:`COMMON` added."""
    for name in common:
        parser.add_argument(name, **COMMON[name])
    return parser


def place(text: str) -> Path:
    """A folder to write that a flag names: one with a name of its own, that is there already or can be made.

    Raises:
        argparse.ArgumentTypeError: it is ``.`` or empty, or a file.
    """
    path = Path(text)
    try:
        if path.name in ("", ".."):
            raise argparse.ArgumentTypeError(f"{text!r} is not a folder of its own: give a name such as runs/mine")
        if path.exists() and not path.is_dir():
            raise argparse.ArgumentTypeError(f"{text!r} is a file: name a folder")
    except OSError as error:
        raise argparse.ArgumentTypeError(line_of(error)) from None
    return path


_CONTROLS = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters that JSON does not escape by itself."""
_STOPS = (signal.SIGTERM, signal.SIGINT)


def say(*lines: object, error: bool = False) -> None:
    """Print each argument as one line, on stderr if it is an ``error`` or a note; line breaks and control characters in it are escapes."""
    for line in lines:
        print(escaped(str(line)), file=sys.stderr if error else sys.stdout, flush=True)


def print_stages(rows: "list[StageStatus]") -> None:
    """Print one line for each stage, with its notes below it."""
    for stage, state, digest, counts, notes in rows:
        say(f"  {stage:9} {state:12} {digest or '-':16} {counted(counts)}")
        for note in notes:
            say(f"  {'':9} note: {note}")


def within(budget: CallBudget | None, report: "OnProgress", clock: Callable[[], float] = time.monotonic) -> "OnProgress":
    """Report progress, and end the command at a finished result once its budget is used up.

    At least one result is finished first, so that a command that is called again and again comes to its end. A stage whose last result is
    finished is finished too.

    Args:
        clock: seconds; the budget counts from now.

    The callback raises:
        BudgetSpent: the message names the budget and says how far the work has come.
    """
    if budget is None or budget == CallBudget():
        return report
    end = math.inf if budget.max_time is None else clock() + duration(budget.max_time)
    seen: dict[str, Progress] = {}
    tokens = 0

    def checked(progress: "Progress") -> None:
        nonlocal tokens
        report(progress)
        before = seen.get(progress.stage, progress)  # the first may count results of earlier calls
        seen[progress.stage] = progress
        if progress.done >= before.done and progress.tokens >= before.tokens:  # else the stage of another run has begun
            tokens += progress.tokens - before.tokens
        if not tokens or not progress.kept or progress.done >= progress.total:
            return
        if clock() >= end:
            spent = f"--max-time {budget.max_time}"
        elif budget.max_tokens is not None and tokens >= budget.max_tokens:
            spent = f"--max-tokens {budget.max_tokens}"
        else:
            return
        raise BudgetSpent(f"{spent} is used up: {progress.stage} has {progress.done} of {progress.total} {progress.unit}")

    return checked


@contextmanager
def progress(budget: CallBudget | None = None) -> "Iterator[OnProgress]":
    """Progress bars with rate and time left, one for each stage, on stderr; the command ends when its budget is used up."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:9}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    bars = Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
    tasks: dict[str, TaskID] = {}

    def report(progress: "Progress") -> None:
        if progress.stage not in tasks:
            bars.start()  # only now: a refusal before any progress must be one line on stderr and nothing else
            tasks[progress.stage] = bars.add_task(progress.stage, total=progress.total, rate=progress.unit)
        task = bars.tasks[bars.task_ids.index(tasks[progress.stage])]
        elapsed = task.elapsed or 0.0
        rate = f"{progress.unit}, {progress.tokens / elapsed:.0f} tokens/s" if progress.tokens and elapsed > 0 else progress.unit
        bars.update(tasks[progress.stage], completed=progress.done, total=progress.total, rate=rate)

    try:
        yield within(budget, report)
    finally:
        if tasks:
            bars.stop()


@contextmanager
def reporting(file: Path | None, budget: CallBudget) -> "Iterator[OnProgress]":
    """Progress on the console and, if a file is given, as JSON lines in it; the last line says how the command ended."""
    if file is None:
        with progress(budget) as report:
            yield report
        return
    with ProgressFile(file) as lines, progress() as show:

        def both(progress: "Progress") -> None:
            show(progress)
            lines.report(progress)

        yield within(budget, both)


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGINT end the command like Ctrl-C, so that whole results are kept. Further signals are ignored.

    SIGINT is set too, since a background process of a shell inherits an ignored SIGINT. Outside the main thread nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        for each in _STOPS:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {each: signal.signal(each, stop) for each in _STOPS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, signal.SIG_DFL if handler is None else handler)


def print_traces(vanilla: "Trace", steered: "Trace") -> None:
    """Print two answers step by step, side by side, then the gate's scores and the costs."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(show_lines=True, expand=True)
    for name in ("m", "vanilla", "steered"):
        table.add_column(name, ratio=None if name == "m" else 1)
    for m in range(max(len(vanilla.steps), len(steered.steps))):
        cells = [_step_text(trace, m) for trace in (vanilla, steered)]
        if m < len(steered.steps):
            cells[1] = Text(escaped(_gate_line(steered.steps[m])) + "\n", style="bold") + cells[1]
        table.add_row(str(m), *cells)
    console.print(table)
    for step in steered.steps:
        if step.decision.scored:
            gate = Table(title=Text(escaped(f"gate at control point {step.m}: {step.decision.reason}")), title_justify="left")
            for name in ("candidate", "cosine", "value A", "preview gain (nats/token)", "score"):
                gate.add_column(name)
            by_id = {entry.entry_id: entry for entry in step.evidence.retrieved}
            gate.add_row("null", "", "", "", f"{step.decision.score_null:.4f}")
            for row in step.decision.scored:
                gain = "-" if row.gain is None else f"{row.gain:+.4f}"
                score = (row.stopped or "-") if row.score is None else f"{row.score:.4f}"
                mark = " *" if row.entry_id == step.decision.chosen else ""
                gate.add_row(Text(escaped(row.entry_id + mark)), f"{by_id[row.entry_id].sim:.4f}", f"{row.value:.4f}", gain, score)
            console.print(gate)
    if stopped := sum(row.stopped is not None for step in steered.steps for row in step.decision.scored):
        say(f"{stopped} candidates were not previewed to their end, since they could not win (gate.previews=needed)")
    for name, trace in (("vanilla", vanilla), ("steered", steered)):
        counts = f"{trace.tokens_used} tokens + {trace.probe_tokens} probe = {trace.total_tokens}"
        cost = f"{trace.reused_tokens} of them decoded once for both, {trace.forward_tokens} run through the model"
        say(f"{name}: {counts}; {cost}; {ending(trace)}")
    same = vanilla.token_ids == steered.token_ids
    commits = sum(step.decision.chosen is not None for step in steered.steps)
    say(f"{commits} actions committed; the answers are {'equal, token for token' if same else 'different'}")


def _step_text(trace: "Trace", m: int) -> "Text":
    """A step's text with its line breaks, and with the thinking in italics; empty behind the last step."""
    from rich.text import Text

    text = trace.steps[m].text if m < len(trace.steps) else ""
    before = sum(len(step.text) for step in trace.steps[:m])
    thought = 0 if trace.thinking is None else max(0, trace.thinking.chars - before)
    thinking, rest = ("\n".join(map(escaped, part.split("\n"))) for part in (text[:thought], text[thought:]))
    return Text.assemble((thinking, "italic"), rest)


def ending(trace: "Trace") -> str:
    """How an answer ended, and its verdict."""
    verdict = trace.verdict
    return trace.finish if verdict is None else f"{trace.finish}, {'right' if verdict.correct else 'wrong'} ({verdict.reason})"


def asked_prompt(source: object, text: str) -> "tuple[str | Problem, Problem | None]":
    """The prompt that a command's argument stands for, and the problem, if it is one.

    Args:
        text: the id of a held-out problem or of a saved trace (in ``STIR_RUNS``, else ``runs``), ``@FILE``, or a question.

    Raises:
        PromptError: the question is empty, or its file cannot be read.
        DataError: an id, but not of one of the run's held-out problems.
        StoreError: no saved work has that id.
    """
    from stir_core.store.runs import Run

    if text.startswith("@"):
        text = _file_text(Path(text[1:]))
    elif re.fullmatch(SAVED_ID, text):
        text = _saved_question(text)
    held_out = source.problems("steered") if isinstance(source, Run) and source.finished("steered") else []
    known = {problem.id: problem for problem in held_out}
    if text in known:
        return known[text], known[text]
    if not text.strip():
        raise PromptError("the prompt is empty: write a question")
    if re.fullmatch(r"[A-Za-z]\w*/\w+/\S+", text.strip()):
        close = difflib.get_close_matches(text, known, n=1) or list(known)[:1]
        remedy = f"take one of its own, e.g. {close[0]}, or write the question" if close else "it has none, so write the question"
        raise DataError(f"{text!r} is not the id of a held-out problem here: {remedy}")
    return text, None


def _file_text(file: Path) -> str:
    try:
        return file.read_text("utf-8").strip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"the prompt's file {file} cannot be read ({error}): name a file of UTF-8 text") from None


def _saved_question(id_: str) -> str:
    """What a saved trace was asked, or the id of its problem."""
    from stir_core.saved import SavedTrace
    from stir_core.store.saved import SavedFolder

    content = SavedFolder(os.environ.get("STIR_RUNS") or "runs").content(id_)
    if not isinstance(content, SavedTrace):
        raise DataError(f"{id_} is no trace, so it has no prompt: `stir saved` lists the traces")
    return content.problem or content.question


def _gate_line(step: "StepTrace") -> str:
    decision = step.decision
    return f"[{decision.chosen} x {decision.alpha:.3f}]" if decision.chosen else f"[null: {decision.reason}]"


def table(heads: list[str], rows: list[list[str]]) -> None:
    """Print rows of plain text under their heads; line breaks and control characters in a cell are shown as escapes."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(escaped(cell)) for cell in row))
    console = Console() if sys.stdout.isatty() else Console(width=220)
    console.print(table)


def print_json(data: Any) -> None:
    """Print data as indented JSON; records and models in it are written as their fields."""
    print(_CONTROLS.sub(lambda sign: f"\\u{ord(sign[0]):04x}", to_json(data, indent=2).decode("utf-8")))


def counted(counts: dict[str, int]) -> str:
    """Counts as text, e.g. ``"8 problems, 64 rollouts"``."""
    return ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in counts.items())
