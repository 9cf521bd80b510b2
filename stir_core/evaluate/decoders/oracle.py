"""The oracle of the calibration ladder: the planted direction, with the right sign, only where the writer is in the wrong habit."""

from collections.abc import Iterator

from stir_core.evaluate.decoders.base import Bench, Decoder, Parameters, Question
from stir_core.evaluate.decoders.stepwise import job_answers, where_steerable
from stir_core.findings import Answer
from stir_core.intervene.jobs import NULL, Force, Forced, Job
from stir_core.organisms.planted import Organism, organism_of
from stir_core.organisms.rungs import is_right, read_steps
from stir_core.records import Trace
from stir_core.tasks.chain import Chain, chain_of


def oracle(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """Decode, read which steps were written in the wrong habit, force the correction before the first of them, and decode again."""
    organism, layer = organism_of(bench.model.identity.name), int(parameters["layer"])
    layer = layer if layer >= 0 else round(0.6 * (bench.model.n_layers - 1))
    chains = [chain_of(question.problem.question) for question in questions]
    corrected: list[set[int]] = [set() for _ in questions]
    waiting = list(range(len(questions)))
    while waiting:
        asked = [questions[i] for i in waiting]
        forces = [_force(bench, organism, chains[i], corrected[i], layer, float(parameters["strength"])) for i in waiting]
        jobs = [Job(question.name, question.prompt_ids, bench.gate, force=force) for question, force in zip(asked, forces, strict=True)]
        rows = {question.name: i for question, i in zip(asked, waiting, strict=True)}
        waiting = []
        for answer in job_answers(bench, asked, jobs):
            assert answer.trace is not None  # the step loop records one
            row = rows[answer.trace.id]
            wrong = next((m for m in _wrong_points(organism, chains[row], answer.trace, bench) if m not in corrected[row]), None)
            if wrong is None:
                yield answer
            else:
                corrected[row].add(wrong)
                waiting.append(row)


def _wrong_points(organism: Organism, chain: Chain, trace: Trace, bench: Bench) -> list[int]:
    """Control points that the gate may steer and after which a step in the wrong habit was written."""
    steps = read_steps(chain, [step.text for step in trace.steps])
    wrong = [m for m, step in enumerate(steps) if step is not None and not is_right(organism.rung, step.habit, chain.kind)]
    return [m for m in wrong if where_steerable(bench, lambda m: NULL)(m) is not None]


def _force(bench: Bench, organism: Organism, chain: Chain, points: set[int], layer: int, strength: float) -> Force:
    forced = Forced("oracle", layer, organism.planted.correction(organism.rung, chain.kind)[layer], strength)
    return lambda m: forced if m in points else NULL


ORACLE = Decoder(
    "oracle",
    "the planted direction, only where it is needed",
    "Organisms only: knows what is planted, so it is the ceiling for every method that injects directions",
    oracle,
    {"layer": -1, "strength": 1.0},
    check=lambda bench, parameters: organism_of(bench.model.identity.name),
)
