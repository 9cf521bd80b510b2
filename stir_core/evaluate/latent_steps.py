"""STIR on latents: the step loop of Stage III where a step is a latent, and a control point is a latent's position.

Retrieval, gate, impulses and their persistence are those of ``intervene``; what differs is how a step is made. Control point m is the
position of latent m. The step after it is latent m + 1, a function of the last state there; after the last latent it is the text. So an
impulse at a latent changes the next latent and, under ``persistent``, everything that attends to this one later.

A latent has no probability. So a preview thinks on to the end, with latents at their means, and decodes the answer's first tokens: it is
scored by their mean log-probability, as every preview is. It does not see the noise to come.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.config import GateConfig, RunConfig
from stir_core.intervene.controller import decision_at, evidence_at, impulse_of
from stir_core.intervene.gate import preview_scale, shortlist
from stir_core.intervene.jobs import Force, Job, Settings
from stir_core.intervene.memory import Memory, action_of
from stir_core.latent.training import TrainedReasoner
from stir_core.latent.words import as_batch
from stir_core.models.cache import CacheRow
from stir_core.models.generation import Strand
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed, Pass
from stir_core.models.scheduler import Listed, Seat, Steps, decode, schedule
from stir_core.models.steering import Impulse
from stir_core.records import Decision, Retrieved, StepEvidence
from stir_core.seeding import generator_for
from stir_core.tasks.modular import ModularChain

TEXT = 16
"""Longest text after the latents, in tokens."""
TOGETHER = 64
"""Chains thought side by side."""


class LatentJob(NamedTuple):
    """One chain of latents to think."""

    job: Job
    """Its prompt is the question with the start marker; ``force`` is asked from control point 1 on."""
    chain: ModularChain
    added: Float[Tensor, "latents d_model"]
    """Noise that is added to each latent, whatever the gate does; there are as many latents."""


def noisy_job(
    trained: TrainedReasoner,
    name: str,
    chain: ModularChain,
    gate: GateConfig,
    *,
    noise: float,
    seed: int,
    k: int,
    memory: Memory | None = None,
    force: Force | None = None,
) -> LatentJob:
    """A chain with the right number of latents. Its noise depends on ``seed``, ``name`` and ``k`` alone, so it is the same under all gates.

    Args:
        noise: standard deviation of the Gaussian noise on each latent.
        k: number of the run among those of one problem.
    """
    count = len(chain.operations)
    shape = trained.reasoner.slots(count, count)[0], trained.reasoner.lm.config.hidden_size
    drawn = torch.tensor(generator_for(seed, "latent run", name, k).standard_normal(shape), dtype=torch.float32)
    prompt = [*as_batch(trained.words, [chain]).question[0].tolist(), trained.reasoner.markers.start]
    return LatentJob(Job(f"{name}/{k}", prompt, gate, memory, force=force), chain, noise * drawn)


class Thought(NamedTuple):
    """A chain of latents with its answer."""

    vectors: Float[Tensor, "latents d_model"]
    """What was fed."""
    states: dict[int, Float[Tensor, "latents d_model"]]
    """Unsteered block outputs at each latent, by layer."""
    ids: tuple[int, ...]
    """The text."""
    logprob: float
    """Mean log-probability of its tokens, in nats."""
    evidence: tuple[StepEvidence, ...]
    """By control point, from 0."""
    decisions: tuple[Decision, ...]
    tokens: int
    """Positions that were run, previews included."""
    said: str | None
    """The number that the text states."""


def think(
    model: LoadedModel, trained: TrainedReasoner, jobs: Sequence[LatentJob], config: RunConfig, layers: Iterable[int] = ()
) -> Iterator[tuple[int, Thought]]:
    """Think every chain, side by side; yields each with its number as it ends. In float32 a job's thought does not depend on its
    neighbours.

    Args:
        model: the reasoner's language model, as :func:`~stir_core.models.loading.load_model` opens its folder.
        config: of the run whose control points these are.
        layers: blocks whose outputs are kept.
    """
    kept, settings = tuple(layers), Settings.of(config, rows=TOGETHER)
    return schedule(model, Listed(jobs, settings.rows), lambda seat, each: _think(seat, each, trained, settings, kept))


def thoughts(model: LoadedModel, trained: TrainedReasoner, jobs: Sequence[LatentJob], config: RunConfig) -> list[Thought]:
    """The finished chains of :func:`think`, in the jobs' order."""
    found = dict(think(model, trained, jobs, config))
    return [found[i] for i in range(len(jobs))]


def _think(seat: Seat, each: LatentJob, trained: TrainedReasoner, settings: Settings, kept: tuple[int, ...]) -> Steps[None]:
    reasoner, job, last = trained.reasoner, each.job, seat.model.n_layers - 1
    seat.layers = tuple(sorted({last, *kept, *(job.memory.layers if job.memory is not None else ())}))
    slots = len(each.added)
    vectors: list[Tensor] = []
    states: list[dict[int, Tensor]] = []
    evidence: list[StepEvidence] = []
    decisions: list[Decision] = []
    row = seat.open()
    here = yield from seat.read(row, job.prompt_ids, capture=True)
    for m in range(slots + 1):
        forced = job.force(m) if job.force is not None and m else None  # no latent is before control point 0
        seen = evidence_at(job, settings, m, row.length - 1, here, forced, None, inside=False)
        candidates = () if job.gate.variant == "no_probing" else shortlist(seen.retrieved, job.gate)
        if candidates:
            previews = yield from _preview(seat, each, trained, settings, candidates, row, vectors[-1], slots - m)
            seen = _measured(seen, candidates, previews, job.gate)
        decision = decision_at(job, settings, seen, forced)
        impulse = impulse_of(job, seen, decision, forced, settings.seed)
        evidence.append(seen)
        decisions.append(decision)
        unsteered = None
        if impulse is not None:
            unsteered = seat.batch.store.column(row, row.length - 1) if job.gate.persistence == "ephemeral" else None
            row.length -= 1
            here = yield [_fed(reasoner.markers.latent, row, vectors[-1], impulse)]
        if m == slots:
            break
        vectors.append(_next(trained, here, 0, last) + each.added[m])
        if unsteered is not None:
            seat.batch.store.put(row, row.length - 1, unsteered)
        here = yield [_fed(reasoner.markers.latent, row, vectors[-1])]
        states.append({layer: here.states[0][layer][-1] for layer in kept})
    strand = Strand(job.id, TEXT, row=row)
    here = yield [Feed(row, [reasoner.markers.end])]
    yield from decode([strand], here.logits)
    by_layer = {layer: torch.stack([state[layer] for state in states]) for layer in kept}
    _, marked, number = str(trained.words.decode(strand.ids, skip_special_tokens=True)).rpartition("#### ")
    yield (
        seat.number,
        Thought(
            vectors=torch.stack(vectors),
            states=by_layer,
            ids=tuple(strand.ids),
            logprob=strand.mean_logprob or 0.0,
            evidence=tuple(evidence),
            decisions=tuple(decisions),
            tokens=seat.cost.tokens,
            said=number if marked and number else None,
        ),
    )


def _preview(
    seat: Seat,
    each: LatentJob,
    trained: TrainedReasoner,
    settings: Settings,
    candidates: tuple[Retrieved, ...],
    row: CacheRow,
    vector: Tensor,
    left: int,
) -> Steps[list[Strand]]:
    """Think on without noise and decode the answer's beginning, under null and under each candidate side by side.

    Args:
        left: latents after this one.
    """
    job, markers, last = each.job, trained.reasoner.markers, seat.model.n_layers - 1
    impulses: list[Impulse | None] = [None]
    for entry in candidates:
        action = action_of(job.memory, job.gate, entry.entry_id, settings.seed)  # type: ignore[arg-type]  # candidates come from a memory
        impulses.append(Impulse(entry.layer, preview_scale(entry, job.gate) * action))
    before = row.length - 1
    branches = [seat.branch(row, before) for _ in impulses]
    here = yield [_fed(markers.latent, branch, vector, impulse) for branch, impulse in zip(branches, impulses, strict=True)]
    for _ in range(left):
        fed = [_next(trained, here, i, last) for i in range(len(branches))]
        here = yield [_fed(markers.latent, branch, vector) for branch, vector in zip(branches, fed, strict=True)]
    previews = [Strand(f"{job.id}/preview", job.gate.probe_tokens, row=branch) for branch in branches]
    here = yield [Feed(branch, [markers.end]) for branch in branches]
    yield from decode(previews, here.logits)
    for branch in branches:
        seat.close(branch)
    return previews


def _measured(evidence: StepEvidence, candidates: tuple[Retrieved, ...], previews: list[Strand], gate: GateConfig) -> StepEvidence:
    """The evidence with the previews' tokens and log-probabilities."""
    null, *others = previews
    measured = {
        entry.entry_id: entry.replaced(
            preview_logprob=preview.mean_logprob, preview_ids=tuple(preview.ids), preview_scale=preview_scale(entry, gate)
        )
        for entry, preview in zip(candidates, others, strict=True)
    }
    return evidence.replaced(
        retrieved=tuple(measured.get(entry.entry_id, entry) for entry in evidence.retrieved),
        null_logprob=null.mean_logprob,
        null_preview_ids=tuple(null.ids),
    )


def _fed(marker: int, row: CacheRow, vector: Tensor, impulse: Impulse | None = None) -> Feed:
    return Feed(row, [marker], impulse, capture=(0,), mixture=vector)


@torch.inference_mode()
def _next(trained: TrainedReasoner, here: Pass, feed: int, last: int) -> Float[Tensor, "d_model"]:
    """The latent that the last state of a feed makes, at its mean."""
    state = trained.reasoner.lm.base_model.norm(here.states[feed][last][-1:])
    return trained.reasoner.latent(state, None).vector[0]
