"""One run, one model, any prompt: vanilla and steered answers decoded side by side, event by event."""

from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from stir_core.config import DecodeConfig, GateConfig, RunConfig, with_changes
from stir_core.intervene.branches import branch
from stir_core.intervene.changes import sampled
from stir_core.intervene.controller import steer
from stir_core.intervene.impulse import respond
from stir_core.intervene.jobs import Job, Settings
from stir_core.intervene.memory import Memory, memory_of
from stir_core.intervene.readings import RecordedAnswer, impulses_of, reread
from stir_core.models.loading import LoadedModel
from stir_core.models.prompting import prompt_ids
from stir_core.readings import TokenReading
from stir_core.records import Entry, Event, ModelIdentity, Problem, Trace, TraceEvent
from stir_core.requests import Change
from stir_core.responses import ImpulseResponse, Spot
from stir_core.store.runs import Library, Run
from stir_core.tasks import Grader
from stir_core.tasks.thinking import graded_part

VANILLA, STEERED = 0, 1
"""Rows of the two answers of :meth:`Session.compare`."""


class Steered(NamedTuple):
    """One prompt answered twice by one model, in one batch."""

    vanilla: Trace
    """Nothing retrieved, nothing injected."""
    steered: Trace
    """Decoded under the gate; ``steps`` holds its evidence and decisions."""


class Session:
    """A run's library on the model that it was harvested from; made by :func:`stir_core.open_session`.

    Args:
        config: the run's; its ``gate`` and ``decode`` are the defaults of the methods.
        memory: the library; ``None`` if it has no entries, and then nothing is steered.
    """

    def __init__(self, config: RunConfig, model: LoadedModel, memory: Memory | None):
        self.config = config
        self.model = model
        self.memory = memory

    @property
    def identity(self) -> ModelIdentity:
        """Identity of the loaded model."""
        return self.model.identity

    def prompt_ids(self, prompt: str | Problem, decode: DecodeConfig, *, raw: bool = False) -> list[int]:
        """Prompt ids: a problem or question in the task's template (``raw``: as typed), inside the chat template.

        Raises:
            PromptError: empty, or too long for the context.
        """
        return prompt_ids(self.model, prompt, self.config.task, room=decode.max_new_tokens, raw=raw)

    def compare(
        self, prompt: str | Problem, gate: GateConfig | None = None, decode: DecodeConfig | None = None, *, raw: bool = False
    ) -> Generator[Event, None, None]:
        """Decode the prompt twice in one batch, row 0 vanilla and row 1 steered, step by step in lock-step.

        A problem's answers are graded when they end. Closing the iterator early is safe.

        Args:
            gate, decode: settings in place of the run's.
            raw: send a free prompt as typed, without the task's template.

        Raises:
            PromptError: an empty prompt, or one too long for the context.
        """
        gate, decode = gate or self.config.gate, decode or self.config.decode
        ids = self.prompt_ids(prompt, decode, raw=raw)
        name = prompt.id if isinstance(prompt, Problem) else "prompt"
        jobs = [Job(name, ids, with_changes(gate, variant="no_memory")), Job(name, ids, gate, self.memory)]
        yield from _graded(steer(self.model, jobs, Settings.of(self.config, decode)), prompt if isinstance(prompt, Problem) else None)

    def answer(
        self, prompt: str | Problem, gate: GateConfig | None = None, decode: DecodeConfig | None = None, *, raw: bool = False
    ) -> Steered:
        """Both answers of :meth:`compare`, when they have ended."""
        traces = {event.row: event.trace for event in self.compare(prompt, gate, decode, raw=raw) if isinstance(event, TraceEvent)}
        return Steered(traces[VANILLA], traces[STEERED])

    def branch(
        self,
        trace: Trace,
        changes: Sequence[Change],
        gate: GateConfig | None = None,
        decode: DecodeConfig | None = None,
        *,
        problem: Problem | None = None,
    ) -> Generator[Event, None, None]:
        """Continue a recorded answer with one decision or token changed, a branch for each change; see :func:`branches.branch`.

        Args:
            trace: recorded with ``gate`` and ``decode``; a branch was, with :func:`changes.decode_after`.
            gate, decode: settings in place of the run's.
            problem: its problem, to grade branches when they end.

        Raises:
            DataError: no such control point or token, or an entry that cannot be injected there.
        """
        settings, seeded = Settings.of(self.config, decode), sampled(decode or self.config.decode, self.config)
        yield from _graded(branch(self.model, trace, changes, gate or self.config.gate, self.memory, settings, seeded), problem)

    def read(self, traces: Sequence[Trace], gate: GateConfig | None = None) -> Generator[tuple[int, TokenReading], None, None]:
        """Read answers of this session again, token by token, as (number of the answer, reading): see :func:`readings.reread`.

        Args:
            gate: the gate that they were recorded with; the run's if not given.

        Raises:
            DataError: an answer was steered by an entry that is not in this library.
        """
        gate = gate or self.config.gate
        seed, compat = self.config.seed, self.config.compat
        answers = [RecordedAnswer(each, impulses_of(each, gate, self.memory, seed=seed), gate.persistence, compat) for each in traces]
        yield from reread(self.model, answers)

    def respond(self, entry: Entry, action: Float[np.ndarray, "d_model"], spot: Spot, alpha: float) -> ImpulseResponse:
        """Measure the effect of ``alpha`` times the entry's raw action at one recorded control point; see :func:`impulse.respond`.

        Raises:
            DataError: a null entry, or a spot that is not a control point.
            SteeringError: a strength that is not finite and at least 0.
        """
        return respond(self.model, self.config, spot, entry, torch.tensor(action), alpha)


def open_session(run: Run, model: LoadedModel, library: Library | None = None) -> Session:
    """A session of the run's control basis, or another library of its entries, on ``model``.

    Raises:
        MismatchError: the run was made with another model.
        StoreError: the run has no finished basis, or its files are damaged.
    """
    run.check_model(model.identity)
    return Session(run.config, model, memory_of(run, run.library() if library is None else library))


def _graded(events: Iterator[Event], problem: Problem | None) -> Iterator[Event]:
    if problem is None:
        yield from events
        return
    with Grader() as grader:
        for event in events:
            if isinstance(event, TraceEvent):
                trace = event.trace
                event = event.replaced(trace=trace.replaced(verdict=grader.judge(problem, graded_part(trace.text, trace.thinking))))
            yield event
