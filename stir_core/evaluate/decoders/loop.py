"""What the comparison decoders share: from a generator that says what one answer does to graded-to-be answers of all questions.

A decoder writes one answer as the scheduler's generator (``models.scheduler``), in the order in which it happens, and returns its outcome.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from stir_core.errors import ConfigError
from stir_core.evaluate.decoders.base import Bench, Parameters, Question
from stir_core.findings import Answer
from stir_core.models.cost import flops
from stir_core.models.generation import Sampling
from stir_core.models.loading import LoadedModel
from stir_core.models.scheduler import Listed, Seat, Steps, schedule
from stir_core.records import Finish

Facts = dict[str, float | int | str]


class Desk(NamedTuple):
    """What one answer works with."""

    bench: Bench
    seat: Seat
    rows: int
    """Most sequences decoded side by side."""

    @property
    def model(self) -> LoadedModel:
        """The model."""
        return self.bench.model

    @property
    def budget(self) -> int:
        """Most tokens that an answer may commit."""
        return self.bench.settings.decode.max_new_tokens


class Outcome(NamedTuple):
    """One decoded answer, without what it cost."""

    ids: list[int]
    """The committed tokens."""
    finish: Finish
    probe_tokens: int
    facts: Facts


Begin = Callable[[Desk, Question], Steps[Outcome]]
"""What one answer to a question does, from its prompt to its outcome."""


def answers(bench: Bench, questions: list[Question], begin: Begin, *, width: int = 1) -> Iterator[Answer]:
    """Decode the questions side by side, yielding each answer as it ends, without method, time or verdict.

    Args:
        begin: what one answer does.
        width: rows that one answer keeps busy; as many answers are live as fit into ``bench.settings.rows``.
    """
    rows = bench.settings.rows or max(1, len(questions) * width)

    def one(seat: Seat, question: Question) -> Steps[None]:
        outcome = yield from begin(Desk(bench, seat, rows), question)
        yield Answer(
            method="",
            problem_id=question.problem.id,
            seed=question.seed,
            token_ids=tuple(outcome.ids),
            text=bench.model.text(outcome.ids),
            finish=outcome.finish,
            tokens_used=len(outcome.ids),
            probe_tokens=outcome.probe_tokens,
            prompt_tokens=len(question.prompt_ids),  # every method here reads its prompt once
            forward_tokens=seat.cost.tokens,
            flops=flops(bench.model.shape, seat.cost),
            facts=outcome.facts,
        )

    yield from schedule(bench.model, Listed(questions, max(1, rows // width)), one)


def number(parameters: Parameters, key: str, *, least: int = 0, most: float = math.inf) -> float:
    """A parameter as a number.

    Raises:
        ConfigError: it is none, or out of its range.
    """
    try:
        value = float(parameters[key])
    except ValueError:
        raise ConfigError(f"{key} = {parameters[key]!r} is not a number") from None
    if not least <= value <= most:
        raise ConfigError(f"{key} = {parameters[key]} is out of range: take {least} {'or more' if most == math.inf else f'to {most:g}'}")
    return value


def sampling_of(bench: Bench, parameters: Parameters) -> Sampling:
    """Temperature and top-p of a method that samples; ``"auto"`` takes the evaluation's own.

    Raises:
        ConfigError: neither ``"auto"`` nor a number in its range.
    """
    own = dict(zip(("temperature", "top_p"), bench.sampling, strict=True))
    given = {key: own[key] if parameters[key] == "auto" else parameters[key] for key in own}
    return Sampling(number(given, "temperature"), number(given, "top_p", most=1.0))
