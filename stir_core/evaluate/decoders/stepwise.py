"""Decoders that are the step loop of Stage III with another gate, another library, or decisions made for the gate."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.config import GateConfig, with_changes
from stir_core.errors import ConfigError, StoreError
from stir_core.evaluate.decoders.base import Bench, Decoder, Parameters, Question, Value
from stir_core.findings import Answer
from stir_core.intervene.controller import steer
from stir_core.intervene.gate import steerable
from stir_core.intervene.jobs import Force, Forced, Job
from stir_core.intervene.memory import Memory, check_gate, fullest_layer
from stir_core.records import finished_traces
from stir_core.seeding import generator_for

_GATE: dict[str, Value] = {
    name: field.default for name, field in GateConfig.model_fields.items() if isinstance(field.default, int | float | str)
}


def vanilla(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """Greedy decoding, nothing added."""
    return job_answers(bench, questions, [Job(q.name, q.prompt_ids, bench.gate) for q in questions])


def stir(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """Retrieve, preview, commit; see :func:`stir_core.intervene.controller.steer`. Gate parameters that are not given are the run's own."""
    gate, memory = _gate_of(bench, parameters), library_of(bench, parameters)
    return job_answers(bench, questions, [Job(q.name, q.prompt_ids, gate, memory) for q in questions])


def _gate_of(bench: Bench, parameters: Parameters) -> GateConfig:
    return with_changes(bench.gate, **{key: value for key, value in parameters.items() if key in GateConfig.model_fields})


def _check_stir(bench: Bench, parameters: Parameters) -> None:
    check_gate(_gate_of(bench, parameters), library_of(bench, parameters))


def static(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """One vector, the mean of all mined actions of a layer, added at the end of every step that the gate could steer."""
    memory, gate, layer, dose = _injection(bench, parameters)
    mean = mean_action(memory, layer)
    forced = Forced("mean", layer, mean / mean.norm().clamp(min=1e-12), dose)
    force = where_steerable(bench, lambda m: forced)
    return job_answers(bench, questions, [Job(q.name, q.prompt_ids, gate, force=force, within=gate.phase) for q in questions])


def noise(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """A fresh Gaussian direction at the end of every step that the gate could steer, with the norm of the actions that STIR injects."""
    _, gate, layer, dose = _injection(bench, parameters)

    def force_for(question: Question) -> Force:
        def force(m: int) -> Forced:
            drawn = generator_for(bench.settings.seed, "noise", question.name, m).standard_normal(bench.model.d_model)
            direction = torch.tensor(drawn, dtype=torch.float32)
            return Forced("noise", layer, direction / direction.norm(), dose)

        return where_steerable(bench, force)

    return job_answers(bench, questions, [Job(q.name, q.prompt_ids, gate, force=force_for(q), within=gate.phase) for q in questions])


def _injection(bench: Bench, parameters: Parameters) -> tuple[Memory, GateConfig, int, float]:
    """Library, gate, layer and norm of a forced impulse.

    The layer is the one with most corrective entries (ties: the deepest). The norm is that of a typical committed impulse there, times the
    method's strength: ``strength * k_scale * beta * mean quality * mean norm of the layer's actions``, without cosines and preview gains.
    """
    memory, gate = library_of(bench, parameters), with_changes(bench.gate, persistence=parameters["persistence"])
    layer = fullest_layer(memory.entries)
    own = [entry for entry in memory.entries if entry.kind == "corrective" and entry.layer == layer]
    quality, norms = sum(entry.quality for entry in own) / len(own), [float(memory.action(entry.id).norm()) for entry in own]
    return memory, gate, layer, gate.k_scale * gate.beta * quality * sum(norms) / len(norms) * float(parameters["strength"])


def where_steerable(bench: Bench, force: Force) -> Force:
    """Force at the control points that the gate may steer, and leave the others alone."""
    gate = with_changes(bench.gate, variant="stir")
    return lambda m: force(m) if steerable(m, gate, bench.settings.control_points) is None else None


def mean_action(memory: Memory, layer: int) -> Float[Tensor, "d_model"]:
    """Mean of a layer's corrective actions, ``[d_model]``; the layer must have one."""
    return torch.stack([memory.action(e.id) for e in memory.entries if e.kind == "corrective" and e.layer == layer]).mean(0)


def library_of(bench: Bench, parameters: Parameters) -> Memory:
    """The library that the parameters ``library`` and ``layer`` (-1: all) name, used at the block ``at`` (-1: where it was mined).

    Raises:
        StoreError: the run does not hold it, or it has no action.
        ConfigError: it has no action at the layer, or the model has no such block.
    """
    name, layer, at = str(parameters["library"]), int(parameters["layer"]), int(parameters.get("at", -1))
    memory = bench.libraries(name)
    layers = sorted({entry.layer for entry in memory.entries if entry.kind == "corrective"}) if memory is not None else []
    if memory is None or not layers:
        raise StoreError(f"library {name} has no action, so there is nothing to steer with: choose another library")
    if layer < 0 and at >= 0:
        raise ConfigError(f"at={at} moves the actions of one layer: add layer={layers[0]}, or another of {', '.join(map(str, layers))}")
    if at >= bench.model.n_layers:
        raise ConfigError(f"at={at}: the model has blocks 0 to {bench.model.n_layers - 1}")
    if layer < 0:
        return memory
    if layer not in layers:
        raise ConfigError(f"library {name} has no action at layer {layer}: choose one of {', '.join(map(str, layers))}")
    return memory.at_layer(layer, None if at < 0 else at)


def job_answers(bench: Bench, questions: list[Question], jobs: list[Job]) -> Iterator[Answer]:
    """Decode one job for each question with the step loop, and yield the answers, with their traces, as they end."""
    for row, trace in finished_traces(steer(bench.model, jobs, bench.settings)):
        reasons = [step.evidence.not_retrieved for step in trace.steps]
        commits = sum(step.decision.chosen is not None for step in trace.steps)
        yield Answer(
            method="",
            problem_id=questions[row].problem.id,
            seed=questions[row].seed,
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
            thinking=trace.thinking,
            facts={"decisions": sum(why is None or why.kind == "forced" for why in reasons), "commits": commits},
        )


VANILLA = Decoder("vanilla", "greedy decoding", "the baseline", vanilla, {})
STIR = Decoder(
    "stir",
    "retrieve, preview, commit",
    "arXiv 2602.04925; parameters that are not given are the run's own, not the defaults shown here",
    stir,
    {"library": "basis", "layer": -1, "at": -1, **_GATE},
    check=_check_stir,
)
STATIC = Decoder(
    "static",
    "the mean action at every step",
    "SEAL (Chen et al. 2025, arXiv 2504.07986): one vector at every step's end, kept in the cache; here the mean of all mined actions, "
    "as long as STIR's own impulses times strength, at the control points that the gate may steer",
    static,
    {"library": "all", "layer": -1, "strength": 1.0, "persistence": "persistent"},
    check=library_of,
)
NOISE = Decoder(
    "noise",
    "a random direction at every step",
    "a control for static: the effect of any impulse of that norm",
    noise,
    {"library": "all", "layer": -1, "strength": 1.0, "persistence": "persistent"},
    by_chance=True,
    check=library_of,
)
