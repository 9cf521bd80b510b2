"""What the commands print, on the console: progress bars, tables, traces side by side."""

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stir_core.store.progress import ProgressFile

if TYPE_CHECKING:
    from stir_core.records import OnProgress, Progress, StepTrace, Trace
    from stir_core.store.runs import StageStatus

Command = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]
"""``(name, what runs it and gives the exit code, help) -> its parser``: what every command's ``add`` is given."""

_STOPS = (signal.SIGTERM, signal.SIGINT)


def print_stages(rows: "list[StageStatus]") -> None:
    """One line a stage, its notes below it."""
    for stage, state, digest, counts, notes in rows:
        print(f"  {stage:9} {state:12} {digest or '-':16} {counted(counts)}")
        for note in notes:
            print(f"  {'':9} note: {note}")


@contextmanager
def progress() -> "Iterator[OnProgress]":
    """Progress bars with rate and time left, one a stage, on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:9}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    bars = Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
    tasks: dict[str, TaskID] = {}

    def report(progress: "Progress") -> None:
        if progress.stage not in tasks:
            bars.start()  # not before there is something to show: a refusal is one line on stderr, and nothing else
            tasks[progress.stage] = bars.add_task(progress.stage, total=progress.total, rate=progress.unit)
        task = bars.tasks[bars.task_ids.index(tasks[progress.stage])]
        elapsed = task.elapsed or 0.0
        rate = f"{progress.unit}, {progress.tokens / elapsed:.0f} tokens/s" if progress.tokens and elapsed > 0 else progress.unit
        bars.update(tasks[progress.stage], completed=progress.done, total=progress.total, rate=rate)

    try:
        yield report
    finally:
        if tasks:
            bars.stop()


@contextmanager
def reporting(file: Path | None) -> "Iterator[OnProgress]":
    """Progress on the console and, where a file is named, in it as JSON lines; the last one says how it ended."""
    if file is None:
        with progress() as report:
            yield report
        return
    with ProgressFile(file) as lines, progress() as show:

        def both(progress: "Progress") -> None:
            show(progress)
            lines.report(progress)

        yield both


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGINT end the command as Ctrl-C does: what is whole is kept. A second one waits until that is done.

    A process in the background of a shell inherits a SIGINT that is ignored, hence both. Outside the main thread nothing is changed.
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
    """Two answers step by step, side by side, then the gate's scores and the costs."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(show_lines=True, expand=True)
    for name in ("m", "vanilla", "steered"):
        table.add_column(name, ratio=None if name == "m" else 1)
    for m in range(max(len(vanilla.steps), len(steered.steps))):
        cells = [Text(trace.steps[m].text if m < len(trace.steps) else "") for trace in (vanilla, steered)]
        if m < len(steered.steps):
            cells[1] = Text(_gate_line(steered.steps[m]) + "\n", style="bold") + cells[1]
        table.add_row(str(m), *cells)
    console.print(table)
    for step in steered.steps:
        if step.decision.scored:
            gate = Table(title=Text(f"gate at control point {step.m}: {step.decision.reason}"), title_justify="left")
            for name in ("candidate", "cosine", "value A", "preview gain (nats/token)", "score"):
                gate.add_column(name)
            by_id = {entry.entry_id: entry for entry in step.evidence.retrieved}
            gate.add_row("null", "", "", "", f"{step.decision.score_null:.4f}")
            for row in step.decision.scored:
                gain = "-" if row.gain is None else f"{row.gain:+.4f}"
                score = "-" if row.score is None else f"{row.score:.4f}"
                mark = " *" if row.entry_id == step.decision.chosen else ""
                gate.add_row(row.entry_id + mark, f"{by_id[row.entry_id].sim:.4f}", f"{row.value:.4f}", gain, score)
            console.print(gate)
    for name, trace in (("vanilla", vanilla), ("steered", steered)):
        verdict = f", {'right' if trace.verdict.correct else 'wrong'} ({trace.verdict.reason})" if trace.verdict else ""
        counts = f"{trace.tokens_used} tokens + {trace.probe_tokens} probe = {trace.total_tokens}"
        cost = f"{trace.reused_tokens} of them decoded once for both, {trace.forward_tokens} run through the model"
        print(f"{name}: {counts}; {cost}; {trace.finish}{verdict}")
    same = vanilla.token_ids == steered.token_ids
    commits = sum(step.decision.chosen is not None for step in steered.steps)
    print(f"{commits} actions committed; the answers are {'equal, token for token' if same else 'different'}")


def _gate_line(step: "StepTrace") -> str:
    decision = step.decision
    return f"[{decision.chosen} x {decision.alpha:.3f}]" if decision.chosen else f"[null: {decision.reason}]"


def table(heads: list[str], rows: list[list[str]]) -> None:
    """Print rows under their heads; cells are plain text."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console() if sys.stdout.isatty() else Console(width=220)
    console.print(table)


def counted(counts: dict[str, int]) -> str:
    """Counts as a phrase."""
    return ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in counts.items())
