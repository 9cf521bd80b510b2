"""Answers decoded side by side: each is a generator, and one scheduler packs what all of them want fed into one forward pass.

An answer is written in the order in which it happens, as a generator (:data:`Steps`) that yields

- ``list[Feed]``: what its next pass runs. It is sent the :class:`Pass` of these feeds alone. An empty list waits for the next pass.
- :class:`Draws`: tokens to draw. It goes on once they are drawn, in one call for all answers that sample alike.
- anything else: handed to the caller as it is (an event, a finished answer).

Invariants, which the oracle tests hold:

- An answer sees its own feeds, rows and random streams alone, so its tokens do not depend on what is decoded beside it.
- An answer's rows are given back when it ends, fails or is dropped; dropping it closes its generator. No answer has to clean up.
- One pass serves all live answers, whatever each is doing; no answer waits for another, except for a prefix that the other is reading.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.models.cache import Row
from stir_core.models.cost import Cost, cost_of
from stir_core.models.generation import Sampling, Strand, draw
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed, Pass, forward, scratch
from stir_core.models.steering import Impulse

T = TypeVar("T")
JobT = TypeVar("JobT")
Steps = Generator[Any, Pass, T]
"""One answer, or a part of one: yields feeds, draws and events, is sent what its feeds gave, and returns a ``T``."""

GREEDY = Sampling()


class Draws(NamedTuple):
    """The next token of some strands, to be drawn from these logits."""

    strands: Sequence[Strand]
    logits: Float[Tensor, "strands d_vocab"]
    sampling: Sampling = GREEDY


@dataclass(eq=False)
class SharedPrefix:
    """Tokens that one answer has read, or is reading, and another may copy."""

    row: Row
    result: Pass | None = None
    """What reading its last token gave; known in the round of that pass only, before an impulse may change the last column."""


class Batch:
    """What the answers that are decoded side by side share: where keys and values lie, and which prefixes are there."""

    def __init__(self, model: LoadedModel):
        self.model = model
        self.store = model.new_store()
        """Rows of whole answers."""
        self.branches = scratch(model)
        """Rows that read their answer's row as their trunk."""
        self.prefixes: dict[Hashable, SharedPrefix] = {}
        self.seats: list[Seat] = []
        """The live answers, oldest first."""


@dataclass(eq=False)
class Seat:
    """One answer's place in the batch: its rows, and what it has cost."""

    number: int
    """Which answer it is, as its intake counts."""
    batch: Batch
    layers: tuple[int, ...] = ()
    """Blocks whose outputs are captured where its feeds ask for captures."""
    cost: Cost = field(default_factory=Cost)
    """As if it had been decoded alone: a prefix that is copied from a neighbour is charged to both."""
    rows: list[Row] = field(default_factory=list)
    steps: Steps[None] | None = None
    wish: "list[Feed] | Draws | None" = None
    """What it waits for; ``None`` when it has ended."""

    @property
    def model(self) -> LoadedModel:
        """The model."""
        return self.batch.model

    def open(self) -> Row:
        """A new, empty row."""
        self.rows.append(self.batch.store.open())
        return self.rows[-1]

    def branch(self, trunk: Row, length: int) -> Row:
        """A new row after the first ``length`` tokens of ``trunk``, which it reads where they lie."""
        self.rows.append(self.batch.branches.open(trunk, length))
        return self.rows[-1]

    def close(self, row: Row) -> None:
        """Give a row back before the answer ends."""
        self.rows.remove(row)
        row.store.close(row)

    def read(
        self, row: Row, ids: list[int], *, capture: bool = False, past: Sequence[tuple[int, Impulse]] = (), share: Hashable = ()
    ) -> Steps[Pass]:
        """Read ``ids`` into an empty row; what a neighbour holds of them, or is about to read, is copied from there.

        Args:
            capture: capture the states of ``layers`` at the last token.
            past: impulses that were live while these tokens were decoded: (tokens up to and including the one that carries it, impulse).
            share: answers that read the same ids copy from each other when this is equal, too; ``None``: this one reads for itself.

        Returns:
            Logits after the last token, ``[1, d_vocab]``, and its states.
        """
        key, shared = (tuple(ids), share), len(ids) - 1
        while share is not None and (held := self.batch.prefixes.get(key)) is not None:
            if held.row.length < shared:
                yield []
                continue
            result = held.result
            if result is not None and capture and not set(self.layers) <= result.states[0].keys():
                result = None  # the neighbour did not need the states
            copied = shared if result is None else len(ids)
            self.cost += cost_of([Feed(row, ids[:copied], logits=result is not None)])
            self.batch.store.copy(held.row, row, copied)
            held.row = row  # the newest holder is likely to stay longest
            return (yield [Feed(row, ids[-1:], capture=(0,) if capture else ())]) if result is None else result
        prefix, start = SharedPrefix(row), 0
        if share is not None:
            self.batch.prefixes[key] = prefix
        for stop, impulse in past:
            yield [Feed(row, ids[start:stop], impulse, logits=False)]
            start = stop
        prefix.result = yield [Feed(row, ids[start:], capture=(len(ids) - start - 1,) if capture else ())]
        return prefix.result

    def resume(self, sent: Pass | None) -> Iterator[Any]:
        """Let the answer go on to its next wish, or to its end; gives what it has to tell."""
        assert self.steps is not None
        try:
            while not isinstance(told := self.steps.send(sent), list | Draws):  # type: ignore[arg-type]  # None starts it, and follows draws
                sent = None
                yield told
        except StopIteration:
            self.leave()
        else:
            self.wish = told

    def leave(self) -> None:
        """End the answer, wherever it is, and give back all that it holds."""
        self.wish = None
        if self.steps is not None:
            self.steps.close()
        for row in reversed(self.rows):
            row.store.close(row)
        for key in [key for key, prefix in self.batch.prefixes.items() if prefix.row in self.rows]:
            del self.batch.prefixes[key]
        self.rows.clear()


class Intake(ABC, Generic[JobT]):
    """Where the scheduler takes jobs from while others are decoded. It asks before every pass."""

    @abstractmethod
    def take(self, batch: Batch) -> list[tuple[int, JobT]]:
        """Jobs that begin now, each with a number of its own; ``batch.seats`` are being decoded.

        With none live it may wait for one; what it gives then being empty, decoding ends.
        """

    def gone(self, batch: Batch) -> Collection[int]:
        """Numbers of live answers that are dropped before the next pass."""
        return ()


class Listed(Intake[JobT]):
    """Jobs that are all known from the beginning, numbered in their order, at most ``rows`` at a time (``None``: all)."""

    def __init__(self, jobs: Iterable[JobT], rows: int | None):
        self._waiting = deque(enumerate(jobs))
        self._rows = rows or len(self._waiting)

    def take(self, batch: Batch) -> list[tuple[int, JobT]]:
        """See :class:`Intake`."""
        return [self._waiting.popleft() for _ in range(min(self._rows - len(batch.seats), len(self._waiting)))]


def schedule(model: LoadedModel, intake: Intake[JobT], begin: Callable[[Seat, JobT], Steps[None]]) -> Generator[Any, None, None]:
    """Decode every job side by side, yielding what the answers tell as it happens. Closing the iterator drops all of them.

    Args:
        begin: makes the generator of one answer.
    """
    batch = Batch(model)
    try:
        while True:
            _drop(batch, intake.gone(batch) if batch.seats else ())
            if not batch.seats:
                batch = Batch(model)  # what was held for those that ended is given back
            entering = intake.take(batch)
            for number, job in entering:
                seat = Seat(number, batch)
                batch.seats.append(seat)
                seat.steps = begin(seat, job)
                yield from seat.resume(None)
            if not batch.seats:
                return
            yield from _round(batch)
            batch.seats = [seat for seat in batch.seats if seat.wish is not None]
    finally:
        for seat in batch.seats:
            seat.leave()


def decode(strands: Sequence[Strand], logits: Float[Tensor, "strands d_vocab"], sampling: Sampling = GREEDY) -> Steps[None]:
    """Draw tokens until every strand has ended; the last token of each is not read.

    Args:
        strands: none ended yet, each with a row.
        logits: of their next tokens.
    """
    going = strands
    while True:
        yield Draws(going, logits, sampling)
        going = [strand for strand in going if strand.finish is None]
        if not going:
            return
        logits = (yield [next_token(strand) for strand in going]).logits


def next_token(strand: Strand) -> Feed:
    """Reads a strand's last token, for the logits of the next."""
    assert strand.row is not None  # whoever decodes on opened one
    return Feed(strand.row, strand.ids[-1:])


def _round(batch: Batch) -> Iterator[Any]:
    """One pass for all live answers, then draws until each of them waits for the next pass."""
    feeding = [(seat, seat.wish) for seat in batch.seats if isinstance(seat.wish, list)]
    for seat, feeds in feeding:
        seat.cost += cost_of(feeds)  # before the pass, while the rows still have their old lengths
    layers = sorted({layer for seat, feeds in feeding for layer in seat.layers if any(feed.capture for feed in feeds)})
    packed = [feed for _, feeds in feeding for feed in feeds]
    result = forward(batch.model, packed, tuple(layers)) if packed else Pass(torch.empty(0, 0), [])
    at = row = 0
    for seat, feeds in feeding:
        rows = sum(len(feed.ids) if feed.every else 1 for feed in feeds if feed.logits)
        own = Pass(result.logits[row : row + rows], result.states[at : at + len(feeds)])
        at, row = at + len(feeds), row + rows
        yield from seat.resume(own)
    # more than once: an answer that draws its last preview token may decide, and then has the first logits of its step already
    while drawing := [(seat, seat.wish) for seat in batch.seats if isinstance(seat.wish, Draws)]:
        groups: dict[Sampling, list[Draws]] = {}
        for _, draws in drawing:
            groups.setdefault(draws.sampling, []).append(draws)
        for sampling, group in groups.items():
            draw(batch.model, [strand for draws in group for strand in draws.strands], torch.cat([each.logits for each in group]), sampling)
        for seat, _ in drawing:
            yield from seat.resume(None)
    for prefix in batch.prefixes.values():
        prefix.result = None


def _drop(batch: Batch, numbers: Collection[int]) -> None:
    if numbers:
        left = [seat for seat in batch.seats if seat.number in numbers]
        batch.seats = [seat for seat in batch.seats if seat.number not in numbers]
        for seat in left:
            seat.leave()
