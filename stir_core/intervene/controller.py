"""The step loop of Stage III: at each control point retrieve, preview, decide, inject one impulse, decode to the delimiter.

Many answers go through it side by side (a single prompt is a batch of one); each has its own gate, so a vanilla answer is simply a
row whose gate always says null. The loop measures, ``gate.decide`` decides. No prefix is ever run again: previews and
steered steps fork the context before its last token, and one clean pass over a steered step gives both the unsteered
context (``ephemeral``) and the state at the next control point.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from stir_core.config import DecodeConfig, GateConfig
from stir_core.intervene.gate import decide, preview_scale, shortlist, steerable
from stir_core.intervene.memory import Memory
from stir_core.models.context import Context, join
from stir_core.models.generation import Batch, Sampling, Strand, decode
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import forward, read
from stir_core.models.steering import Impulse
from stir_core.records import Decision, Event, Finish, Retrieved, StepEvent, StepEvidence, StepTrace, TokenEvent, Trace, TraceEvent
from stir_core.seeding import generator_for
from stir_core.tasks.segment import StepScanner


@dataclass(frozen=True)
class Job:
    """One answer to decode."""

    id: str
    """Names the answer's random streams and its trace."""
    prompt_ids: list[int]
    gate: GateConfig
    memory: Memory | None = None
    """``None`` decodes unsteered, whatever the gate says."""


class Settings(NamedTuple):
    """What all answers of a batch share."""

    decode: DecodeConfig
    control_points: int = 8
    delimiter: str = "\n\n"
    seed: int = 0
    compat: bool = False
    """Tokenise the whole text again at every boundary, as the published code does."""


def steer(model: LoadedModel, jobs: list[Job], settings: Settings) -> Iterator[Event]:
    """Decode every job step by step, all jobs in lock-step, yielding each decision, token and finished trace as it happens.

    Source: spec, Stage III. Rows never touch each other: a job's events do not depend on its neighbours.
    """
    answers = [_Answer(job, row) for row, job in enumerate(jobs)]
    _advance(model, answers, settings)
    step = 1
    while active := [answer for answer in answers if answer.finish is None]:
        for answer in active:
            answer.open_step(step, settings)
        _preview(model, [answer for answer in active if answer.candidates], settings)
        for answer in active:
            answer.decision = decide(answer.evidence, answer.job.gate, seed=settings.seed, name=answer.job.id)
            yield StepEvent(row=answer.row, step=step, evidence=answer.evidence, decision=answer.decision, probe_tokens=answer.probed)
        yield from _commit(model, active, step, settings)
        for answer in active:
            answer.close_step(step, model, settings)
            if answer.finish is not None:
                yield TraceEvent(row=answer.row, trace=answer.trace(model, settings))
        _advance(model, [answer for answer in active if answer.finish is None], settings)
        step += 1


def run_all(model: LoadedModel, jobs: list[Job], settings: Settings) -> list[Trace]:
    """The finished traces of :func:`steer`, in the jobs' order."""
    traces = {event.row: event.trace for event in steer(model, jobs, settings) if isinstance(event, TraceEvent)}
    return [traces[row] for row in range(len(jobs))]


@dataclass
class _Answer:
    """One answer on its way: what is committed, and what the model has read of it."""

    job: Job
    row: int
    ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    steps: list[StepTrace] = field(default_factory=list)
    read_ids: list[int] = field(default_factory=list)
    """The ids whose keys and values ``context`` holds."""
    context: Context | None = None
    """One row, through the last id read. Unsteered under ``ephemeral``."""
    logits: Tensor | None = None
    """Unsteered logits after the last id read, ``[d_vocab]``."""
    states: dict[int, Tensor] = field(default_factory=dict)
    finish: Finish | None = None
    probe_tokens: int = 0
    forward_tokens: int = 0
    evidence: StepEvidence = field(default_factory=lambda: StepEvidence(m=0, position=0))
    candidates: tuple[Retrieved, ...] = ()
    probed: int = 0
    decision: Decision = field(default_factory=lambda: Decision(chosen=None, alpha=0.0, score_null=None, reason=""))
    strand: Strand = field(default_factory=lambda: Strand("", 1))

    def wanted(self, model: LoadedModel, settings: Settings) -> list[int]:
        """The ids that the model should have read before the next step."""
        if settings.compat and self.texts:
            return model.tokens(model.prompt_text(self.job.prompt_ids) + "".join(self.texts))
        return [*self.job.prompt_ids, *self.ids]

    def open_step(self, step: int, settings: Settings) -> None:
        """Retrieve for the step that is about to start."""
        gate, m = self.job.gate, step - 1
        retrieved: tuple[Retrieved, ...] = ()
        reason = steerable(m, gate, settings.control_points) or ("no library" if self.job.memory is None else None)
        if reason is None and self.job.memory is not None:
            retrieved, reason = self.job.memory.retrieve(m, self.states, gate)
        n = self.job.memory.count(m) if self.job.memory is not None else 0
        self.evidence = StepEvidence(m=m, position=len(self.read_ids) - 1, retrieved=retrieved, n_entries=n, not_retrieved=reason)
        self.candidates = () if gate.variant == "no_probing" else shortlist(retrieved, gate)
        self.probed = 0

    def close_step(self, step: int, model: LoadedModel, settings: Settings) -> None:
        """Take over the committed strand."""
        strand = self.strand
        text = model.text(strand.ids)
        self.steps.append(
            StepTrace(
                step=step,
                evidence=self.evidence,
                decision=self.decision,
                token_ids=tuple(strand.ids),
                text=text,
                logprobs=tuple(strand.logprobs),
                probe_tokens=self.probed,
            )
        )
        self.ids += strand.ids
        self.texts.append(text)
        self.probe_tokens += self.probed
        self.forward_tokens += len(strand.ids) - 1
        if strand.finish == "delimiter" and len(self.ids) < settings.decode.max_new_tokens:
            if self.decision.alpha == 0 or self.job.gate.persistence == "persistent":
                # an unsteered step's own context is the clean one: nothing has to be run again
                self.context = strand.context
                self.read_ids = [*self.read_ids, *strand.ids[:-1]]
        else:
            self.finish = "stop" if strand.finish == "stop" else "length"

    def trace(self, model: LoadedModel, settings: Settings) -> Trace:
        return Trace(
            id=self.job.id,
            variant=self.job.gate.variant if self.job.memory is not None else "no_memory",
            prompt_ids=tuple(self.job.prompt_ids),
            steps=tuple(self.steps),
            token_ids=tuple(self.ids),
            text="".join(self.texts) if settings.compat else model.text(self.ids),
            finish=self.finish or "length",
            tokens_used=len(self.ids),
            probe_tokens=self.probe_tokens,
            forward_tokens=self.forward_tokens,
        )


def _advance(model: LoadedModel, answers: list[_Answer], settings: Settings) -> None:
    """Bring every answer's context to the end of its committed ids in one pass; gives the states at the control point."""
    if not answers:
        return
    segments: list[list[int]] = []
    parts: list[Context] = []
    for answer in answers:
        wanted = answer.wanted(model, settings)
        shared = 0
        limit = min(len(answer.read_ids), len(wanted) - 1)
        while shared < limit and answer.read_ids[shared] == wanted[shared]:
            shared += 1
        if answer.context is not None:
            parts.append(answer.context.hide_last([len(answer.read_ids) - shared]).row(0))
        segments.append(wanted[shared:])
        answer.forward_tokens += len(wanted) - shared
        answer.read_ids = wanted
    layers = tuple(sorted({layer for answer in answers if answer.job.memory for layer in answer.job.memory.layers}))
    logits, context, states = read(model, segments, join(parts) if parts else None, capture=layers)
    for row, answer in enumerate(answers):
        answer.context = context.row(row)
        answer.logits = logits[row]
        answer.states = {layer: state[row] for layer, state in states.items()}


def _preview(model: LoadedModel, answers: list[_Answer], settings: Settings) -> None:
    """Preview every candidate of every answer, and null, in one batch of forks of the context before its last token."""
    if not answers:
        return
    parts: list[Context] = []
    fed: list[int] = []
    plan: list[Impulse] = []
    strands: list[Strand] = []
    for answer in answers:
        scales = [preview_scale(entry, answer.job.gate) for entry in answer.candidates]
        for entry, scale in zip(answer.candidates, scales, strict=True):
            row = len(strands) + 1 + answer.candidates.index(entry)
            plan.append(Impulse(row, entry.layer, scale * _action(answer, entry.entry_id, settings)))
        branches = ["null", *(entry.entry_id for entry in answer.candidates)]
        strands += [_strand(model, answer, "preview", settings, answer.job.gate.probe_tokens, name) for name in branches]
        parts.append(_context(answer).without_last().select([0] * len(branches)))
        fed += [answer.read_ids[-1]] * len(branches)
    logits, context, _ = forward(model, torch.tensor(fed)[:, None], join(parts), plan=plan)
    for _ in decode(model, Batch(list(strands), logits, context), _sampling(settings)):
        pass
    taken = iter(strands)
    for answer in answers:
        _keep_previews(answer, [next(taken) for _ in range(1 + len(answer.candidates))])


def _keep_previews(answer: _Answer, strands: list[Strand]) -> None:
    null, *others = strands
    measured = {
        entry.entry_id: entry.model_copy(
            update={
                "preview_logprob": strand.mean_logprob,
                "preview_ids": tuple(strand.ids),
                "preview_scale": preview_scale(entry, answer.job.gate),
            }
        )
        for entry, strand in zip(answer.candidates, others, strict=True)
    }
    answer.evidence = answer.evidence.model_copy(
        update={
            "retrieved": tuple(measured.get(entry.entry_id, entry) for entry in answer.evidence.retrieved),
            "null_logprob": null.mean_logprob,
            "null_preview_ids": tuple(null.ids),
        }
    )
    answer.probed = sum(len(strand.ids) for strand in strands)
    answer.forward_tokens += answer.probed  # one token fed for each decoded: the last prefix token, then all but the last decoded


def _commit(model: LoadedModel, active: list[_Answer], step: int, settings: Settings) -> Iterator[TokenEvent]:
    """Decode the step of every answer, those with a committed action behind its impulse."""
    rest = step > settings.control_points
    for answer in active:
        budget = settings.decode.max_new_tokens - len(answer.ids)
        answer.strand = _strand(model, answer, f"step{step}", settings, budget, str(answer.row), to_delimiter=not rest)
    steered = [answer for answer in active if answer.decision.chosen is not None]
    plain = [answer for answer in active if answer.decision.chosen is None]
    logits = [answer.logits[None] for answer in plain if answer.logits is not None]
    parts = [_context(answer) for answer in plain]
    if steered:
        plan = [_impulse(row, answer, settings) for row, answer in enumerate(steered)]
        fed = torch.tensor([[answer.read_ids[-1]] for answer in steered])
        first = forward(model, fed, join([_context(answer).without_last() for answer in steered]), plan=plan)
        logits.append(first.logits)
        parts.append(first.context)
        for answer in steered:
            answer.forward_tokens += 1
    order = [*plain, *steered]
    batch = Batch([answer.strand for answer in order], torch.cat(logits), join(parts))
    shown = {answer.row: "" for answer in order}
    rows = {id(answer.strand): answer.row for answer in order}
    for strand, token_id, logprob in decode(model, batch, _sampling(settings), keep_context=True):
        row = rows[id(strand)]
        text = model.text(strand.ids)
        whole = not text.endswith("\ufffd")  # half a character: wait for the rest of its bytes
        new = text[len(shown[row]) :] if whole else ""
        shown[row] = text if whole else shown[row]
        yield TokenEvent(row=row, step=step, token_id=token_id, text=new, logprob=logprob)


def _impulse(row: int, answer: _Answer, settings: Settings) -> Impulse:
    chosen = answer.decision.chosen
    entry = next(entry for entry in answer.evidence.retrieved if entry.entry_id == chosen)
    return Impulse(row, entry.layer, answer.decision.alpha * _action(answer, entry.entry_id, settings))


def _action(answer: _Answer, entry_id: str, settings: Settings) -> Tensor:
    memory, gate = answer.job.memory, answer.job.gate
    assert memory is not None  # candidates only come from a memory
    action = memory.action(entry_id)
    if gate.variant != "random_vector":
        return action
    noise = torch.tensor(generator_for(settings.seed, "random_vector", entry_id).standard_normal(action.shape[0]), dtype=torch.float32)
    return noise if gate.noise == "unit" else noise * (action.norm() / noise.norm())


def _strand(
    model: LoadedModel, answer: _Answer, stream: str, settings: Settings, budget: int, branch: str, *, to_delimiter: bool = True
) -> Strand:
    # all branches of a preview draw from the same stream, so that they differ by their impulse alone
    rng = generator_for(settings.seed, stream, answer.job.id, answer.evidence.m) if settings.decode.temperature > 0 else None
    scanner = StepScanner(model.text, settings.delimiter) if to_delimiter else None
    return Strand(f"{answer.job.id}/{stream}/{branch}", budget, rng, scanner.push if scanner else None)


def _context(answer: _Answer) -> Context:
    assert answer.context is not None  # set by _advance before any step
    return answer.context


def _sampling(settings: Settings) -> Sampling:
    return Sampling(settings.decode.temperature, settings.decode.top_p)
