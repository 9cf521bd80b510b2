"""A steering session without a model: plausible events in lock-step, closed when told to, quick."""

import time
from collections.abc import Iterator

from fake_run import IDENTITY, NASTY, answer, fake_trace, problems, tokens_of

from stir_core.config import DecodeConfig, GateConfig
from stir_core.records import Event, ModelIdentity, Problem, StepEvent, TokenEvent, Trace, TraceEvent
from stir_core.store.runs import Run


class FakeSteering:
    """Answers every question alike; strength 0 repeats the vanilla answer exactly, as the real one must."""

    identity: ModelIdentity = IDENTITY

    def __init__(self, run: Run, *, pause: float = 0.0, nasty: bool = False):
        self.run, self.pause, self.nasty = run, pause, nasty
        self.closed = 0
        self.asked: list[tuple[str | Problem, GateConfig, DecodeConfig]] = []

    def compare(self, prompt: str | Problem, gate: GateConfig, decode: DecodeConfig, *, raw: bool = False) -> Iterator[Event]:
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
