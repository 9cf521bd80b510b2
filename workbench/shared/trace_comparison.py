"""Two answers to one prompt, vanilla and steered: folded from decoding events, aligned by step, counted and compared by id.

Equality is checked on token ids, also at strength 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import pandas as pd

from stir_core.config import DecodeConfig, GateConfig, digest_of
from stir_core.evaluate.degeneration import compressed, repeated
from stir_core.findings import Answer
from stir_core.readings import TokenReading
from stir_core.records import Decision, Event, ModelIdentity, StepEvent, StepEvidence, TokenEvent, Trace, TraceEvent
from stir_core.saved import SavedTrace, SavedWork

VANILLA, STEERED = 0, 1
ROWS = ("vanilla", "steered")


@dataclass
class StepRow:
    """One step of one answer while it grows."""

    m: int
    evidence: StepEvidence | None = None
    decision: Decision | None = None
    tokens: list[TokenEvent] = field(default_factory=list)

    @property
    def steered(self) -> bool:
        """True when an impulse was committed before this step."""
        return self.decision is not None and self.decision.chosen is not None

    @property
    def text(self) -> str:
        """Text so far."""
        return "".join(token.text for token in self.tokens)


@dataclass
class Recording:
    """The events of one comparison so far; complete once both rows have their whole trace."""

    digest: str
    """Digest of the settings that it was started with; where it differs from the form's, the result is stale."""
    settings: dict[str, Any]
    steps: tuple[dict[int, StepRow], dict[int, StepRow]] = field(default_factory=lambda: ({}, {}))
    traces: list[Trace | None] = field(default_factory=lambda: [None, None])
    identity: ModelIdentity | None = None
    seconds: float = 0.0
    """Wall-clock time of decoding so far, both answers together: they share every forward pass."""
    readings: tuple[list[TokenReading], list[TokenReading]] = field(default_factory=lambda: ([], []))
    """Readings of both finished answers, token by token; shorter than the answers where reading was stopped."""
    reading_seconds: float = 0.0
    """Wall-clock time of reading so far."""
    codes: tuple[dict[int, int], dict[int, int]] = field(default_factory=lambda: ({}, {}))
    """The run's code of each finished step, by the control point at which it begins; empty without a codebook."""
    id: str = ""
    """Under which it is saved."""
    events: list[Event] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Bring the comparison up to date with one event."""
        self.events.append(event)
        if isinstance(event, TraceEvent):
            self.traces[event.row] = event.trace
            return
        row = self.steps[event.row].setdefault(event.m, StepRow(event.m))
        if isinstance(event, StepEvent):
            row.evidence, row.decision = event.evidence, event.decision
        elif isinstance(event, TokenEvent):
            row.tokens.append(event)

    @property
    def complete(self) -> bool:
        """Both answers ended by themselves."""
        return None not in self.traces

    @property
    def read(self) -> bool:
        """Every token of both answers was read again."""
        return self.complete and all(len(self.readings[row]) == len(self.ids(row)) for row in (VANILLA, STEERED))

    @property
    def last_m(self) -> int:
        """Last control point that either answer has reached; -1 before the first."""
        return max((m for row in self.steps for m in row), default=-1)

    def tokens(self, row: int) -> list[TokenEvent]:
        """All committed tokens of one answer so far."""
        return [token for m in sorted(self.steps[row]) for token in self.steps[row][m].tokens]

    def ids(self, row: int) -> tuple[int, ...]:
        """All committed ids of one answer so far."""
        trace = self.traces[row]
        return tuple(token.token_id for token in self.tokens(row)) if trace is None else trace.token_ids


def recording_of_answer(trace: Trace, readings: Sequence[TokenReading], row: int, gate: GateConfig) -> Recording:
    """One answer that was read again, as the :class:`Recording` that its token strip is drawn from; the other row stays empty.

    Args:
        readings: of all its tokens.
        gate: that it was decoded with.
    """
    digest = digest_of(gate, row, list(trace.prompt_ids), list(trace.token_ids))
    recording = Recording(digest, {"gate": gate.model_dump(mode="json")}, id=digest)
    for step in trace.steps:
        decided = StepEvent(row=row, step=step.step, evidence=step.evidence, decision=step.decision, probe_tokens=step.probe_tokens)
        recording.take(decided)
        for each in (reading for reading in readings if reading.m == step.m):
            recording.take(TokenEvent(row=row, step=step.step, token_id=each.token_id, text=each.text, logprob=each.logprob))
    recording.take(TraceEvent(row=row, trace=trace))
    recording.readings[row].extend(readings)
    return recording


def settings_of(
    run_digest: str, question: str, problem_id: str | None, gate: GateConfig, decode: DecodeConfig, *, raw: bool = False
) -> dict[str, Any]:
    """All settings that a comparison's result depends on, ready for JSON."""
    return {
        "run": run_digest,
        "problem": problem_id,
        "question": question,
        "raw": raw,
        "gate": gate.model_dump(mode="json"),
        "decode": decode.model_dump(mode="json", exclude={"batch_problems"}),
    }


def saved_trace(recording: Recording, seed: int) -> SavedTrace:
    """The comparison as it is saved."""
    settings = recording.settings
    return SavedTrace(
        question=settings["question"],
        problem=settings["problem"],
        raw=settings["raw"],
        gate=GateConfig.model_validate(settings["gate"]),
        decode=DecodeConfig.model_validate(settings["decode"]),
        seed=seed,
        events=tuple(recording.events),
        readings=(tuple(recording.readings[VANILLA]), tuple(recording.readings[STEERED])),
        codes=recording.codes,
        seconds=recording.seconds,
        reading_seconds=recording.reading_seconds,
    )


def recording_of(work: SavedWork, content: SavedTrace, run: str) -> Recording:
    """The comparison that was saved; ``run``: the run's digest, as :func:`settings_of` takes it."""
    settings = settings_of(run, content.question, content.problem, content.gate, content.decode, raw=content.raw)
    recording = Recording(digest_of(settings), settings, identity=work.model, id=work.id)
    for event in content.events:
        recording.take(event)
    for mine, theirs in zip(recording.readings, content.readings, strict=True):
        mine.extend(theirs)
    for held, codes in zip(recording.codes, content.codes, strict=True):
        held.update(codes)
    recording.seconds, recording.reading_seconds = content.seconds, content.reading_seconds
    return recording


def outcome_line(recording: Recording) -> str:
    """What came of it, in a few words: both verdicts, and where the answers part."""
    grades = [f"{name} {'stopped' if trace is None else grade_of(trace)}" for name, trace in zip(ROWS, recording.traces, strict=True)]
    return f"{', '.join(grades)}; {equality_line(recording)[1]}"


def grade_of(answer: Trace | Answer) -> str:
    """``right``, ``wrong`` or ``not graded``."""
    if answer.verdict is None:
        return "not graded"
    return "right" if answer.verdict.correct else "wrong"


def changed_settings(defaults: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """Dotted settings whose value differs from the run's own, for the command line."""
    return {
        f"{section}.{key}": value
        for section in ("gate", "decode")
        for key, value in chosen[section].items()
        if defaults[section].get(key) != value
    }


def stale_fields(made_with: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Names of the settings in which a result differs from the form as it stands."""
    plain = [key for key in ("run", "problem", "question", "raw") if made_with.get(key) != now.get(key)]
    return plain + list(changed_settings(made_with, now))


def first_divergence(one: tuple[int, ...], other: tuple[int, ...]) -> int | None:
    """0-based position of the first differing token; ``None`` when the ids are equal. A prefix diverges at its end."""
    return next((position for position, (a, b) in enumerate(zip_longest(one, other)) if a != b), None)


def equality_line(recording: Recording) -> tuple[bool, str]:
    """Whether the two answers are the same ids, and one line that says so with counts."""
    one, other = recording.ids(VANILLA), recording.ids(STEERED)
    at = first_divergence(one, other)
    if at is None:
        return True, f"{len(one)} of {len(one)} token ids equal"
    if not recording.complete and at == min(len(one), len(other)):
        return True, f"the first {at} token ids are equal so far"
    return False, f"ids differ from token {at + 1} on ({len(one)} vanilla, {len(other)} steered)"


def unsteered_line(recording: Recording, delimiter: str) -> str | None:
    """Why no step of a finished steered answer was steered; ``None`` where one was, or the answer has not ended."""
    trace = recording.traces[STEERED]
    if trace is None or any(step.decision.chosen for step in trace.steps):
        return None
    if len(trace.steps) > 1:
        return f"No step was steered: the gate committed nothing at {len(trace.steps)} control points; the line under each step says why."
    end = "a blank line" if delimiter == "\n\n" else repr(delimiter)
    return f"No step was steered: the answer is one step. A step ends with {end}, and the gate is first asked where one has ended."


def cost_table(recording: Recording) -> pd.DataFrame:
    """One row per answer: verdict, steps, commits and every kind of token that was spent."""
    rows = []
    for number, name in enumerate(ROWS):
        trace = recording.traces[number]
        steps = recording.steps[number]
        rows.append(
            {
                "answer": name,
                "right": trace.verdict.correct if trace and trace.verdict else None,
                "extracted": trace.verdict.extracted if trace and trace.verdict else None,
                "ended by": trace.finish if trace else None,
                "steps": len(trace.steps) if trace else len(steps),
                "commits": sum(row.steered for row in steps.values()),
                "committed tokens": trace.tokens_used if trace else len(recording.ids(number)),
                "probe tokens": trace.probe_tokens if trace else None,
                "of them reused": trace.reused_tokens if trace else None,
                "total tokens": trace.total_tokens if trace else None,
                "forward positions": trace.forward_tokens if trace else None,
            }
        )
    return pd.DataFrame(rows)


def degeneration_table(recording: Recording) -> pd.DataFrame:
    """One row per answer: how repetitive it is so far, by token ids and by text; ``None`` before its first token."""
    rows = []
    for number, name in enumerate(ROWS):
        ids, text = recording.ids(number), "".join(token.text for token in recording.tokens(number))
        rows.append(
            {
                "answer": name,
                "repeated 2-grams": repeated(ids, 2) if ids else None,
                "repeated 3-grams": repeated(ids, 3) if ids else None,
                "zlib ratio": compressed(text) if text else None,
            }
        )
    return pd.DataFrame(rows)


def comparison_json(recording: Recording, command: str) -> dict[str, Any]:
    """The whole comparison as plain JSON: settings, model, command, both traces, and both read again."""
    traces = {name: trace.model_dump(mode="json") if trace else None for name, trace in zip(ROWS, recording.traces, strict=True)}
    return {
        "digest": recording.digest,
        "command": command,
        "model": recording.identity.model_dump(mode="json") if recording.identity else None,
        "seconds": recording.seconds,
        "settings": recording.settings,
        **traces,
        "readings": {
            name: [reading.model_dump(mode="json") for reading in readings] for name, readings in zip(ROWS, recording.readings, strict=True)
        },
        "reading_seconds": recording.reading_seconds,
    }
