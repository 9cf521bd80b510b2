"""The loop that the comparison decoders share: many answers side by side, one forward pass a round, each at its own place.

A decoder writes what one answer does as a generator, in the order in which it happens: it yields the feeds of its next pass and is sent
their logits, until it returns its outcome. The loop puts the feeds of all live answers into one pass, counts what each answer's own feeds
cost, and lets waiting answers enter as others end. Nothing of an answer depends on its neighbours.
"""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from stir_core.errors import ConfigError
from stir_core.evaluate.decoders.base import Bench, Parameters, Question
from stir_core.findings import Answer
from stir_core.models.cache import Store
from stir_core.models.cost import Cost, cost_of, flops
from stir_core.models.generation import Sampling, Strand, draw
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed, forward
from stir_core.records import Finish

GREEDY = Sampling()
Facts = dict[str, float | int | str]
T = TypeVar("T")
Steps = Generator[list[Feed], list[Tensor], T]
"""What one answer does: yields feeds, is sent the logits ``[d_vocab]`` of those that ask for them, in order, and returns a ``T``."""


class Desk(NamedTuple):
    """What the answers of one evaluation work with."""

    bench: Bench
    store: Store
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
    desk = Desk(bench, bench.model.new_store(), rows)
    ended: deque[Answer] = deque()
    batch = side_by_side((_accounted(desk, question, begin) for question in questions), max(1, rows // width), ended.append)
    feeds = _going_on(batch, None)
    while feeds is not None:
        feeds = _going_on(batch, list(forward(bench.model, feeds).logits))
        while ended:
            yield ended.popleft()


def side_by_side(parts: Iterable[Steps[T]], most: int, done: Callable[[T], Any]) -> Steps[None]:
    """Run many generators as one: the feeds of ``most`` of them at a time share a pass; ``done`` is called with each result."""
    waiting = iter(parts)
    live: list[tuple[Steps[T], list[Feed]]] = []

    def go_on(part: Steps[T], logits: list[Tensor] | None) -> None:
        try:
            live.append((part, next(part) if logits is None else part.send(logits)))
        except StopIteration as end:
            done(end.value)

    while True:
        while len(live) < most and (part := next(waiting, None)) is not None:
            go_on(part, None)
        if not live:
            return
        logits = iter((yield [feed for _, feeds in live for feed in feeds]))
        asked, live[:] = live[:], []
        for part, feeds in asked:
            go_on(part, [next(logits) for feed in feeds if feed.logits])


def decode_on(model: LoadedModel, strand: Strand, logits: Tensor, sampling: Sampling = GREEDY) -> Steps[None]:
    """Draw tokens until the strand ends; its last token is not read. ``logits`` are those of its next token, ``[d_vocab]``."""
    assert strand.row is not None  # the caller opened it
    while True:
        draw(model, [strand], logits[None], sampling)
        if strand.finish is not None:
            return
        (logits,) = yield [Feed(strand.row, [strand.ids[-1]])]


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


def _going_on(batch: Steps[None], logits: list[Tensor] | None) -> list[Feed] | None:
    """The next feeds, or ``None`` when all have ended."""
    try:
        return next(batch) if logits is None else batch.send(logits)
    except StopIteration:
        return None


def _accounted(desk: Desk, question: Question, begin: Begin) -> Steps[Answer]:
    """One answer, what it costs counted pass by pass."""
    cost = Cost()
    steps = begin(desk, question)
    try:
        feeds = next(steps)
        while True:
            cost += cost_of(feeds)  # before the pass, while the rows still have their old lengths
            feeds = steps.send((yield feeds))
    except StopIteration as end:
        return _answer(desk, question, end.value, cost)


def _answer(desk: Desk, question: Question, outcome: Outcome, cost: Cost) -> Answer:
    return Answer(
        method="",
        problem_id=question.problem.id,
        seed=question.seed,
        token_ids=tuple(outcome.ids),
        text=desk.model.text(outcome.ids),
        finish=outcome.finish,
        tokens_used=len(outcome.ids),
        probe_tokens=outcome.probe_tokens,
        prompt_tokens=len(question.prompt_ids),  # every method here reads its prompt once
        forward_tokens=cost.tokens,
        flops=flops(desk.model.shape, cost),
        facts=outcome.facts,
    )
