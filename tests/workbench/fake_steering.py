"""A steering session without a model: plausible events of both answers in lock-step."""

import time
from collections.abc import Generator, Iterator, Sequence

import numpy as np
import pytest
from fake_impulse import fake_response
from fake_run import IDENTITY, NASTY, answer, fake_trace, problems, tokens_of

from stir_core.config import DecodeConfig, GateConfig
from stir_core.readings import Alternative, TokenReading
from stir_core.records import Entry, Event, ModelIdentity, Problem, Reason, StepEvent, TokenEvent, Trace, TraceEvent
from stir_core.requests import KEEP, Change
from stir_core.responses import ImpulseResponse, Spot
from stir_core.store.runs import Run
from workbench import live


class FakeSteering:
    """Answers every question alike; strength 0 repeats the vanilla answer exactly, as the real one must."""

    identity: ModelIdentity = IDENTITY

    def __init__(self, run: Run, *, pause: float = 0.0, nasty: bool = False):
        self.run, self.pause, self.nasty = run, pause, nasty
        self.closed = 0
        self.responded: list[tuple[str, str, float]] = []
        self.asked: list[tuple[str | Problem, GateConfig, DecodeConfig]] = []
        self.branched: list[tuple[Trace, tuple[Change, ...], GateConfig, DecodeConfig]] = []

    def compare(self, prompt: str | Problem, gate: GateConfig, decode: DecodeConfig, *, raw: bool = False) -> Generator[Event, None, None]:
        """Vanilla is row 0, steered row 1."""
        self.asked.append((prompt, gate, decode))
        problem = prompt if isinstance(prompt, Problem) else problems("eval", 1)[0]
        known = isinstance(prompt, Problem)
        plain = answer(problem, right=False, long=True)
        other = plain if gate.k_scale == 0 else answer(problem, right=True, long=False)
        if self.nasty:
            other = NASTY + " " + other
        traces = (
            fake_trace(self.run, problem, plain, False if known else None, steered=False, seed=1),
            fake_trace(self.run, problem, other, (gate.k_scale != 0) if known else None, steered=True, seed=0, gate=gate),
        )
        try:
            yield from self._lock_step(traces)
        finally:
            self.closed += 1

    def read(self, traces: Sequence[Trace], gate: GateConfig) -> Generator[tuple[int, TokenReading], None, None]:
        """Each token is the likelier one of two; an impulse makes it 0.25 nats likelier."""
        for number, trace in enumerate(traces):
            position = 0
            for step in trace.steps:
                live = step.decision.chosen is not None
                for token_id, text, logprob in zip(step.token_ids, tokens_of(step.text)[0], step.logprobs, strict=True):
                    before = logprob - 0.25 * live
                    near = (
                        Alternative(token_id=token_id, text=text, logprob=logprob, unsteered_logprob=before),
                        Alternative(token_id=7, text=NASTY, logprob=-3.0, unsteered_logprob=-2.5 if live else -3.0),
                    )
                    yield (
                        number,
                        TokenReading(
                            m=step.m,
                            position=position,
                            token_id=token_id,
                            text=text,
                            live=live,
                            logprob=logprob,
                            unsteered_logprob=before,
                            rank=1,
                            unsteered_rank=1 + live,
                            entropy=0.5,
                            unsteered_entropy=0.5 + 0.2 * live,
                            kl=0.1 * live,
                            alternatives=near,
                        ),
                    )
                    position += 1

    def branch(
        self, trace: Trace, changes: Sequence[Change], gate: GateConfig, decode: DecodeConfig, *, problem: Problem | None = None
    ) -> Generator[Event, None, None]:
        """Keeping gives the answer itself, also for an even seed; anything else a wrong answer after the change, its decision forced."""
        self.branched.append((trace, tuple(changes), gate, decode))
        try:
            for row, change in enumerate(changes):
                found = trace if change.to == KEEP and not (change.seed or 0) % 2 else self._changed(trace, change, problem)
                for step in found.steps[change.m :]:
                    yield StepEvent(row=row, step=step.step, evidence=step.evidence, decision=step.decision, probe_tokens=step.probe_tokens)
                    for token_id, text, logprob in zip(step.token_ids, tokens_of(step.text)[0], step.logprobs, strict=True):
                        yield TokenEvent(row=row, step=step.step, token_id=token_id, text=text, logprob=logprob)
                        time.sleep(self.pause)
                yield TraceEvent(row=row, trace=found)
        finally:
            self.closed += 1

    def respond(self, entry: Entry, action: np.ndarray, spot: Spot, alpha: float) -> ImpulseResponse:
        """A made-up response (see ``fake_impulse``)."""
        self.responded.append((entry.id, spot.name, alpha))
        return fake_response(entry, action, spot, alpha)

    def _changed(self, trace: Trace, change: Change, problem: Problem | None) -> Trace:
        known = problem or problems("eval", 1)[0]
        text = answer(known, right=False, long=change.forces)
        other = fake_trace(self.run, known, text, False if problem else None, steered=True, seed=9)
        here = trace.steps[change.m]
        chosen = change.to if change.forces else None
        alpha = (0.5 if change.alpha is None else change.alpha) if chosen else 0.0
        decision = here.decision.model_copy(update={"chosen": chosen, "alpha": alpha, "reason": Reason(kind="forced")})
        rest = other.steps[change.m :] or other.steps[-1:]
        first = rest[0].model_copy(update={"step": here.step, "evidence": here.evidence, "decision": decision})
        steps = (*trace.steps[: change.m], first, *rest[1:])
        ids = tuple(token for step in steps for token in step.token_ids)
        return other.model_copy(update={"id": trace.id, "steps": steps, "token_ids": ids, "tokens_used": len(ids)})

    def _lock_step(self, traces: tuple[Trace, Trace]) -> Iterator[Event]:
        for number in range(max(len(trace.steps) for trace in traces)):
            for row, trace in enumerate(traces):
                if number >= len(trace.steps):
                    continue
                step = trace.steps[number]
                yield StepEvent(row=row, step=step.step, evidence=step.evidence, decision=step.decision, probe_tokens=step.probe_tokens)
            for place in range(max(len(t.steps[number].token_ids) if number < len(t.steps) else 0 for t in traces)):
                for row, trace in enumerate(traces):
                    if number < len(trace.steps) and place < len(trace.steps[number].token_ids):
                        step = trace.steps[number]
                        text = tokens_of(step.text)[0][place]
                        yield TokenEvent(row=row, step=step.step, token_id=step.token_ids[place], text=text, logprob=step.logprobs[place])
                        time.sleep(self.pause)
            for row, trace in enumerate(traces):
                if number == len(trace.steps) - 1:
                    yield TraceEvent(row=row, trace=trace)


class LoadedFake:
    """Stands for a loaded model."""

    identity = IDENTITY


def install(monkeypatch: pytest.MonkeyPatch, *, nasty: bool) -> list[FakeSteering]:
    """Let the app open fake sessions; the list grows by every session that it opens."""
    opened: list[FakeSteering] = []

    def open_session(run: Run, model: object) -> FakeSteering:
        opened.append(FakeSteering(run, nasty=nasty))
        return opened[-1]

    monkeypatch.setattr(live, "load_core_model", lambda config: LoadedFake())
    monkeypatch.setattr(live, "open_steering", open_session)
    return opened
