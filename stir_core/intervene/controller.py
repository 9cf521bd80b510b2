"""The step loop of Stage III: at each control point retrieve, preview, decide, inject one impulse, decode to the delimiter.

Many answers go through it side by side (a single prompt is a batch of one), each at its own place: one may preview while another
commits and a third reads, all in the same forward pass, so no answer waits for another's step. Each has its own gate, so a vanilla answer
is simply a row whose gate always says null. The loop measures, ``gate.decide`` decides; ``answering`` is one answer's way through a step.

No prefix is ever run again. Previews are branches that read the prefix where it lies. One clean pass over a steered step gives
both the unsteered context (``ephemeral``) and the state at the next control point. Under greedy decoding a preview that is committed as
it stands (null, or any with ``preview_scale = "committed"``) simply goes on.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from stir_core.intervene.answering import Batch, LiveAnswer
from stir_core.intervene.jobs import Intake, Job, Listed, Settings
from stir_core.models.generation import Sampling, Strand, draw
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import forward, scratch
from stir_core.records import Event, Trace, TraceEvent


def steer(model: LoadedModel, jobs: list[Job] | Intake, settings: Settings) -> Iterator[Event]:
    """Decode every job step by step, side by side, yielding each decision, token and finished trace as it happens.

    Source: arXiv 2602.04925, Stage III. Rows never touch each other: a job's events do not depend on its neighbours.

    Args:
        jobs: all of them, or where they come from while others are decoded; new ones begin between two passes.
    """
    intake = jobs if isinstance(jobs, Intake) else Listed(jobs, settings.rows)
    batch = Batch(model, settings, model.new_store(), scratch(model))
    live: list[LiveAnswer] = []
    while True:
        live = _stayed(live, intake)
        if not live:
            batch = Batch(model, settings, model.new_store(), scratch(model))  # what was held for those that ended is given back
        for number, job in intake.take(len(live)):
            live.append(LiveAnswer(job, number, batch))
            live[-1].begin(live[:-1])
        if not live:
            return
        feeds = [answer.feeds() for answer in live]
        arriving = [answer.job.memory for answer in live if answer.phase == "read" and answer.job.memory is not None]
        layers = tuple(sorted({layer for memory in arriving for layer in memory.layers}))
        result = forward(model, [feed for own in feeds for feed in own], layers)
        logits, states = iter(result.logits), iter(result.states)
        fed = [(answer, own) for answer, own in zip(live, feeds, strict=True) if own]
        for answer, own in fed:
            answer.take([next(logits) for feed in own if feed.logits], [next(states) for _ in own])
        for answer in live:  # now, while the neighbours' rows still hold the clean prefix
            if answer.twin is not None:
                answer.copy_twin()
        for answer, _ in fed:
            if answer.phase == "read":
                yield from answer.arrive()
        # more than once: an answer that draws its last preview token may decide, and then has the first logits of its step already
        while pending := [(answer, strand) for answer in live for strand in answer.undrawn]:
            _draw_all(model, pending)
            for answer in live:
                if answer.undrawn:
                    answer.undrawn.clear()
                    yield from answer.drawn()
        live = [answer for answer in live if answer.finish is None]


def run_all(model: LoadedModel, jobs: list[Job], settings: Settings) -> list[Trace]:
    """The finished traces of :func:`steer`, in the jobs' order."""
    traces = {event.row: event.trace for event in steer(model, jobs, settings) if isinstance(event, TraceEvent)}
    return [traces[row] for row in range(len(jobs))]


def _stayed(live: list[LiveAnswer], intake: Intake) -> list[LiveAnswer]:
    """The answers that somebody still waits for; the others leave, whatever they were doing."""
    gone = intake.gone() if live else ()
    left = [answer for answer in live if answer.number in gone]
    stayed = [answer for answer in live if answer.number not in gone]
    for answer in left:
        answer.leave(stayed)
    return stayed


def _draw_all(model: LoadedModel, pending: list[tuple[LiveAnswer, Strand]]) -> None:
    """The next token of every strand, each as its own answer samples."""
    groups: dict[Sampling, list[tuple[Strand, Tensor]]] = {}
    for answer, strand in pending:
        groups.setdefault(answer.sampling, []).append((strand, answer.undrawn[strand]))
    for sampling, group in groups.items():
        draw(model, [strand for strand, _ in group], torch.stack([logits for _, logits in group]), sampling)
