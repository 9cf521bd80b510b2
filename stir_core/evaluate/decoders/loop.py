"""What the token-by-token decoders share: running the generators of single answers side by side, and reading parameters.

A decoder writes one answer as a generator for the scheduler (``models.scheduler``), in the order in which things happen, and returns its
outcome; :func:`answers` makes answers with their costs of the outcomes.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from stir_core.errors import ConfigError
from stir_core.evaluate.decoders.base import Bench, Parameters, Question
from stir_core.findings import Answer
from stir_core.models.cost import Cost, flops
from stir_core.models.generation import Sampling
from stir_core.models.scheduler import Listed, Seat, Steps, schedule
from stir_core.records import Finish

Facts = dict[str, float | int | str]


class Outcome(NamedTuple):
    """One decoded answer, without its costs."""

    ids: list[int]
    """The committed tokens."""
    finish: Finish
    probe_tokens: int
    facts: Facts


def answers(
    bench: Bench, questions: list[Question], begin: Callable[[Seat, Question], Steps[Outcome]], *, width: int = 1
) -> Iterator[Answer]:
    """Decode the questions side by side, yielding each answer as it ends, without method, time or verdict.

    Args:
        begin: makes the generator of one answer, from its prompt to its outcome.
        width: rows that one answer keeps busy; as many answers are live as fit into ``bench.settings.rows``.
    """

    def one(seat: Seat, question: Question) -> Steps[None]:
        outcome = yield from begin(seat, question)
        yield answer_of(bench, question, outcome, seat.cost)

    rows = bench.settings.rows
    return schedule(bench.model, Listed(questions, rows and max(1, rows // width)), one)


def answer_of(bench: Bench, question: Question, outcome: Outcome, cost: Cost) -> Answer:
    """The answer of an outcome, without method, time or verdict."""
    text = bench.model.text(outcome.ids)
    return Answer(
        method="",
        problem_id=question.problem.id,
        seed=question.seed,
        token_ids=tuple(outcome.ids),
        text=text,
        finish=outcome.finish,
        tokens_used=len(outcome.ids),
        probe_tokens=outcome.probe_tokens,
        prompt_tokens=len(question.prompt_ids),  # every method here reads its prompt once
        forward_tokens=cost.tokens,
        flops=flops(bench.model.shape, cost),
        facts=outcome.facts,
        thinking=bench.model.thinking(question.prompt_ids, outcome.ids, text, bench.parts(question, outcome.ids)),
    )


def numeric(parameters: Parameters, key: str, *, least: int = 0, most: float = math.inf) -> float:
    """A parameter as a number.

    Raises:
        ConfigError: it is not a number, or out of its range.
    """
    remedy = f"take {least} {'or more' if most == math.inf else f'to {most:g}'}"
    try:
        value = float(parameters[key])
    except ValueError:
        raise ConfigError(f"{key} = {parameters[key]!r} is not a number: {remedy}") from None
    if not least <= value <= most:
        raise ConfigError(f"{key} = {parameters[key]} is out of range: {remedy}")
    return value


def sampling_of(bench: Bench, parameters: Parameters) -> Sampling:
    """Temperature and top-p of a method that samples; ``"auto"`` takes the evaluation's own.

    Raises:
        ConfigError: neither ``"auto"`` nor a number in its range.
    """
    temperature, top_p = bench.sampling
    own = {"temperature": temperature, "top_p": top_p} | {key: value for key, value in parameters.items() if value != "auto"}
    return Sampling(numeric(own, "temperature"), numeric(own, "top_p", most=1.0))
