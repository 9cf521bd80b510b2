"""Decoders that are the step loop of Stage III with another gate, another library, or decisions made for the gate."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from stir_core.config import GateConfig, with_changes
from stir_core.errors import ConfigError, StoreError
from stir_core.evaluate.decoders.base import Bench, Decoder, Parameters, Question, Value
from stir_core.findings import Answer
from stir_core.intervene.controller import steer
from stir_core.intervene.gate import steerable
from stir_core.intervene.jobs import Force, Forced, Job
from stir_core.intervene.memory import Memory
from stir_core.records import Problem, Trace, TraceEvent
from stir_core.seeding import generator_for

_GATE: dict[str, Value] = {
    name: field.default for name, field in GateConfig.model_fields.items() if isinstance(field.default, int | float | str)
}


def vanilla(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """Greedy decoding, nothing added."""
    return job_answers(bench, questions, [Job(q.name, q.prompt_ids, bench.gate) for q in questions])


def stir(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """Retrieve, preview, commit; see :func:`stir_core.intervene.controller.steer`."""
    gate = _gate(bench.gate, {key: value for key, value in parameters.items() if key not in ("library", "layer")})
    memory = library_of(bench, str(parameters["library"]), int(parameters["layer"]))
    return job_answers(bench, questions, [Job(q.name, q.prompt_ids, gate, memory) for q in questions])


def static(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """One vector, the mean of all mined actions of a layer, added at every step's end that the gate could steer."""
    memory = library_of(bench, str(parameters["library"]), int(parameters["layer"]))
    gate, layer = _forcing_gate(bench, parameters), _dominant_layer(memory)
    mean = mean_action(memory, layer)
    dose = nominal_dose(memory, gate, layer) * float(parameters["strength"])
    forced = Forced("mean", layer, mean / mean.norm().clamp(min=1e-12), dose)
    force = _where_steerable(bench, lambda m: forced)
    return job_answers(bench, questions, [Job(q.name, q.prompt_ids, gate, force=force) for q in questions])


def noise(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """A fresh Gaussian direction at every step's end that the gate could steer, as long as the actions that STIR injects."""
    memory = library_of(bench, str(parameters["library"]), int(parameters["layer"]))
    gate, layer = _forcing_gate(bench, parameters), _dominant_layer(memory)
    dose = nominal_dose(memory, gate, layer) * float(parameters["strength"])

    def force_for(question: Question) -> Force:
        def force(m: int) -> Forced:
            drawn = generator_for(bench.settings.seed, "noise", question.name, m).standard_normal(bench.model.d_model)
            direction = torch.tensor(drawn, dtype=torch.float32)
            return Forced("noise", layer, direction / direction.norm(), dose)

        return _where_steerable(bench, force)

    return job_answers(bench, questions, [Job(q.name, q.prompt_ids, gate, force=force_for(q)) for q in questions])


def has_library(bench: Bench, parameters: Parameters) -> None:
    """Refuse a method whose library cannot be had, before anything is decoded.

    Raises:
        StoreError: the run does not hold it, or it has no action.
        ConfigError: it has no entry at the layer that is asked for.
    """
    library_of(bench, str(parameters["library"]), int(parameters["layer"]))


def nominal_dose(memory: Memory, gate: GateConfig, layer: int) -> float:
    """Norm of a typical committed impulse at a layer: ``k_scale * beta * mean quality * mean norm of its actions``.

    Cosines and preview gains are left out.
    """
    own = [entry for entry in memory.entries if entry.kind == "corrective" and entry.layer == layer]
    norms = [float(memory.action(entry.id).norm()) for entry in own]
    quality = sum(entry.quality for entry in own) / len(own)
    return gate.k_scale * gate.beta * quality * sum(norms) / len(norms)


def _forcing_gate(bench: Bench, parameters: Parameters) -> GateConfig:
    return with_changes(bench.gate, persistence=parameters["persistence"])


def _where_steerable(bench: Bench, force: Force) -> Force:
    """Force at the control points that the gate may steer, and leave the others alone."""
    gate = with_changes(bench.gate, variant="stir")
    return lambda m: force(m) if steerable(m, gate, bench.settings.control_points) is None else None


def mean_action(memory: Memory, layer: int) -> Tensor:
    """Mean of a layer's corrective actions, ``[d_model]``."""
    return torch.stack([memory.action(e.id) for e in memory.entries if e.kind == "corrective" and e.layer == layer]).mean(0)


def _dominant_layer(memory: Memory) -> int:
    """The layer that most corrective entries live in (ties: the deepest)."""
    layers = [entry.layer for entry in memory.entries if entry.kind == "corrective"]
    return max(set(layers), key=lambda layer: (layers.count(layer), layer))


def library_of(bench: Bench, name: str, layer: int = -1) -> Memory:
    """A library by name, or its entries at one layer (-1: all).

    Raises:
        StoreError: the run does not hold it, or it has no action.
        ConfigError: it has no entry at the layer that is asked for.
    """
    memory = bench.libraries(name)
    if memory is None or not any(entry.kind == "corrective" for entry in memory.entries):
        raise StoreError(f"library {name} has no action: there is nothing to steer with")
    if layer < 0:
        return memory
    if layer not in memory.layers:
        known = ", ".join(map(str, memory.layers))
        raise ConfigError(f"library {name} has no entry at layer {layer}: it has layers {known}")
    return memory.at_layer(layer)


def _gate(base: GateConfig, changes: Mapping[str, Value]) -> GateConfig:
    """The run's gate with the changed keys; what is not given stays the run's own."""
    return GateConfig.model_validate(base.model_dump() | dict(changes))


def job_answers(bench: Bench, questions: list[Question], jobs: list[Job]) -> Iterator[Answer]:
    """The answers of one job a question, decoded by the step loop, each as it ends."""
    for event in steer(bench.model, jobs, bench.settings):
        if isinstance(event, TraceEvent):
            yield answer_of(event.trace, questions[event.row].problem, questions[event.row].seed)


def answer_of(trace: Trace, problem: Problem, seed: int = 0) -> Answer:
    """A finished trace as an answer; the trace goes with it."""
    decisions = [step for step in trace.steps if (why := step.evidence.not_retrieved) is None or why.kind == "forced"]
    facts: dict[str, Any] = {"decisions": len(decisions), "commits": sum(step.decision.chosen is not None for step in trace.steps)}
    return Answer(
        method="",
        problem_id=problem.id,
        seed=seed,
        token_ids=trace.token_ids,
        text=trace.text,
        finish=trace.finish,
        tokens_used=trace.tokens_used,
        probe_tokens=trace.probe_tokens,
        reused_tokens=trace.reused_tokens,
        prompt_tokens=len(trace.prompt_ids),
        forward_tokens=trace.forward_tokens,
        flops=trace.flops or 0.0,
        trace=trace,
        facts=facts,
    )


VANILLA = Decoder("vanilla", "greedy decoding", "the baseline", vanilla, {})
STIR = Decoder(
    "stir",
    "retrieve, preview, commit",
    "arXiv 2602.04925; parameters that are not given are the run's own, not the defaults shown here",
    stir,
    {"library": "basis", "layer": -1, **_GATE},
    check=has_library,
)
STATIC = Decoder(
    "static",
    "the mean action at every step",
    "SEAL (Chen et al. 2025, arXiv 2504.07986): one vector at every step's end, kept in the cache; here the mean of all mined actions, "
    "as long as STIR's own impulses times strength, at the control points that the gate may steer",
    static,
    {"library": "all", "layer": -1, "strength": 1.0, "persistence": "persistent"},
    check=has_library,
)
NOISE = Decoder(
    "noise",
    "a random direction at every step",
    "a control for static: what any push of that size does",
    noise,
    {"library": "all", "layer": -1, "strength": 1.0, "persistence": "persistent"},
    by_chance=True,
    check=has_library,
)
