"""A job's progress lines as what a page shows: one line of words, and its stages on a time axis. Draws nothing."""

from typing import NamedTuple

import pandas as pd

from stir_core.config import STAGES
from stir_core.store.progress import ProgressLine

_TIMELINE = ("stage", "start", "end", "seconds", "made", "tokens", "going")
LOADING = "loading"
"""Before the first stage counts anything: imports and the model."""


class Pace(NamedTuple):
    """How the current stage goes."""

    share: float
    """In [0, 1]."""
    text: str


def pace(lines: list[ProgressLine]) -> Pace | None:
    """The current stage in words; ``None`` before there is anything to count."""
    last = lines[-1] if lines else None
    if last is None or last.stage is None:
        return None
    first = next(line for line in lines if line.stage == last.stage)
    parts = [f"{last.stage}: {last.done} of {last.total} {last.unit}"]
    if last.tokens and last.seconds > 0:
        parts += [f"{last.tokens:,} tokens", f"{last.tokens / last.seconds:.1f} tokens/s"]
    fresh = last.done - first.done
    if fresh > 0 and last.done < last.total and not last.last:
        parts.append(f"about {words(last.seconds * (last.total - last.done) / fresh)} left at this pace")
    return Pace(min(1.0, last.done / last.total) if last.total else 1.0, " · ".join(parts))


def words(seconds: float) -> str:
    """A duration in two figures or so."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def timeline(lines: list[ProgressLine], started: float, now: float) -> pd.DataFrame:
    """One row a stage of this attempt: when it began and ended, in seconds since the start, and how far it came.

    A stage ends where the next one begins, the last one with the job's last word, or now.
    """
    if not lines:
        return pd.DataFrame(columns=list(_TIMELINE))
    begun: dict[str, ProgressLine] = {}
    latest: dict[str, ProgressLine] = {}
    for line in lines:
        stage = line.stage or LOADING
        begun.setdefault(stage, line)
        latest[stage] = line
    ended = lines[-1].at if lines[-1].last else now
    starts = [started if stage == LOADING else line.at for stage, line in begun.items()]
    ends = [*starts[1:], ended]
    rows: list[dict[str, object]] = [
        {
            "stage": stage,
            "start": max(0.0, start - started),
            "end": max(0.0, end - started),
            "seconds": max(0.0, end - start),
            "made": f"{latest[stage].done} of {latest[stage].total} {latest[stage].unit}" if stage != LOADING else "imports and the model",
            "tokens": latest[stage].tokens or None,
            "going": stage == list(begun)[-1] and not lines[-1].last,
        }
        for stage, start, end in zip(begun, starts, ends, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(_TIMELINE))


def kept(finished: tuple[str, ...], lines: list[ProgressLine]) -> list[str]:
    """Stages that were there before this attempt and that it had nothing to do for."""
    made = {line.stage for line in lines}
    return [stage for stage in STAGES if stage in finished and stage not in made]
