"""Decode many answers side by side: each is a generator, and one scheduler packs the feeds of all of them into one forward pass.

An answer is a generator (:data:`Steps`), written in the order in which things happen. It yields

- ``list[Feed]``: its part of the next pass. It is sent the :class:`Pass` of these feeds only. An empty list waits for the next pass.
- :class:`Draws`: tokens to draw. It resumes once they are drawn, in one call for all answers with equal sampling settings.
- :class:`Fetch`: tensors that it needs on the host. It is sent them, in order.
- anything else: passed on to the caller unchanged (an event, a finished answer).

Invariants, which the oracle tests hold:

- An answer sees only its own feeds, rows and random streams, so in float32 its tokens do not depend on what is decoded beside it.
- An answer's rows are released when it ends, fails or is dropped; dropping it closes its generator. No answer has to clean up.
- One pass serves all live answers, whatever each is doing. An answer waits for another only while that one reads a prefix they share.
- What a pass sends to the host, drawn tokens and fetched tensors of all answers, is sent in one transfer. There is another one where an
  answer asks again before the next pass, as it does when it draws at random after it has retrieved, or where a nucleus is wide.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.errors import first_line
from stir_core.models.cache import CacheRow
from stir_core.models.cost import Cost, cost_of
from stir_core.models.generation import Sampling, Strand, add, begin_draw, take
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed, Pass, forward, halved, lacks_memory
from stir_core.models.steering import Impulse
from stir_core.models.transfer import to_host

T = TypeVar("T")
JobT = TypeVar("JobT")
Steps = Generator[Any, Any, T]
"""One answer, or a part of one: yields feeds, draws and events, is sent the :class:`Pass` of its feeds, and returns a ``T``."""

GREEDY = Sampling()


class Draws(NamedTuple):
    """Draw the next token of some strands from these logits."""

    strands: Sequence[Strand]
    logits: Float[Tensor, "strands d_vocab"]
    sampling: Sampling = GREEDY
    known: tuple[int, float] | None = None
    """For one strand: what greedy decoding draws from these logits, and its log-probability, where that is on the host already."""


class Fetch(NamedTuple):
    """Bring tensors to the host, together with all that other answers draw and fetch."""

    tensors: Sequence[Tensor]


@dataclass(eq=False)
class SharedPrefix:
    """Tokens that one answer has read, or is reading, and another may copy."""

    row: CacheRow
    result: Pass | None = None
    """The pass that read its last token; kept for that round only, since an impulse may change the last column later."""


class Batch:
    """State shared by the answers that are decoded side by side: stores of keys and values, and the prefixes that were read."""

    def __init__(self, model: LoadedModel):
        self.model = model
        self.store = model.new_store()
        """Rows of whole answers."""
        self.branches = model.new_store(columns=8)
        """Branches of answers' rows, a few tokens each."""
        self.prefixes: dict[Hashable, SharedPrefix] = {}
        self.seats: list[Seat] = []
        """The live answers, oldest first."""


@dataclass(eq=False)
class Seat:
    """One answer's place in the batch, with its rows and its cost."""

    number: int
    """The answer's number, as its intake counts."""
    job: Any
    """What it answers, as its intake gave it."""
    batch: Batch
    layers: tuple[int, ...] = ()
    """Blocks whose outputs are captured at the tokens in ``Feed.capture``."""
    cost: Cost = field(default_factory=Cost)
    """As if it were decoded alone: a prefix that is copied from a neighbour is charged to both."""
    rows: list[CacheRow] = field(default_factory=list)
    steps: Steps[None] | None = None
    wish: "list[Feed] | Draws | Fetch | None" = None
    """Its last request, not served yet; ``None`` when it has ended."""
    told: int = 0
    """Events so far; an answer that is decoded again passes on only those after them."""
    known: int = 0
    """Events that were passed on when it was decoded before."""

    @property
    def model(self) -> LoadedModel:
        """The model that all answers of the batch are decoded with."""
        return self.batch.model

    def open(self) -> CacheRow:
        """A new, empty row."""
        self.rows.append(self.batch.store.open())
        return self.rows[-1]

    def branch(self, trunk: CacheRow, length: int) -> CacheRow:
        """A new row after the first ``length`` tokens of ``trunk``, which it reads in place."""
        self.rows.append(self.batch.branches.open(trunk, length))
        return self.rows[-1]

    def close(self, row: CacheRow) -> None:
        """Release a row before the answer ends."""
        self.rows.remove(row)
        self._release([row])

    def read(
        self, row: CacheRow, ids: list[int], *, capture: bool = False, past: Sequence[tuple[int, Impulse]] = (), share: Hashable = ()
    ) -> Steps[Pass]:
        """Read ``ids`` into an empty row; if a neighbour has read them or is reading them, copy its keys and values.

        Args:
            capture: capture the states of ``layers`` at the last token.
            past: impulses to read these tokens with: (number of tokens up to and including the one that carries it, impulse).
            share: answers copy from each other where the ids and this value are equal; ``None`` reads without sharing.

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
                result = None  # the neighbour did not capture the states
            copied = shared if result is None else len(ids)
            self.cost += cost_of([Feed(row, ids[:copied], logits=result is not None)])
            self.batch.store.copy(held.row, row, copied)
            held.row = row  # the newest reader is likely to live longest
            return (yield [Feed(row, ids[-1:], capture=(0,) if capture else ())]) if result is None else result
        prefix, start = SharedPrefix(row), 0
        if share is not None:
            self.batch.prefixes[key] = prefix
        for stop, impulse in past:
            yield [Feed(row, ids[start:stop], impulse, logits=False)]
            start = stop
        result = yield [Feed(row, ids[start:], capture=(len(ids) - start - 1,) if capture else ())]
        prefix.result = result
        return result

    def resume(self, sent: Pass | list[Tensor] | None) -> Iterator[Any]:
        """Run the answer to its next request or its end, yielding its events."""
        assert self.steps is not None
        try:
            while not isinstance(told := self.steps.send(sent), list | Draws | Fetch):  # None starts it, and follows draws
                sent = None
                self.told += 1
                if self.told > self.known:
                    yield told
        except StopIteration:
            self.leave()
        else:
            self.wish = told

    def leave(self) -> None:
        """End the answer at whatever point it is, and release its rows."""
        self.wish = None
        if self.steps is not None:
            self.steps.close()
            self.steps = None
        self._release(self.rows)
        self.rows.clear()

    def _release(self, rows: list[CacheRow]) -> None:
        # a prefix goes with its row: an answer that still waited for it would wait forever
        for key in [key for key, prefix in self.batch.prefixes.items() if prefix.row in rows]:
            del self.batch.prefixes[key]
        for row in reversed(rows):
            row.store.close(row)


class Intake(ABC, Generic[JobT]):
    """The source of the scheduler's jobs; asked before every pass, so jobs may join while others are decoded."""

    @abstractmethod
    def take(self, batch: Batch) -> list[tuple[int, JobT]]:
        """Jobs that begin now, each with a unique number; ``batch.seats`` are the live ones.

        With no live job it may block until there is one; an empty list then ends decoding.
        """

    def gone(self, batch: Batch) -> Collection[int]:
        """Numbers of live answers that are dropped before the next pass."""
        return ()


class Listed(Intake[JobT]):
    """Jobs that are all known in advance, numbered in order, at most ``rows`` at a time (``None``: all)."""

    def __init__(self, jobs: Iterable[JobT], rows: int | None):
        self._waiting = deque(enumerate(jobs))
        self._rows = rows or len(self._waiting)

    def take(self, batch: Batch) -> list[tuple[int, JobT]]:
        """See :class:`Intake`."""
        return [self._waiting.popleft() for _ in range(min(self._rows - len(batch.seats), len(self._waiting)))]


def schedule(model: LoadedModel, intake: Intake[JobT], begin: Callable[[Seat, JobT], Steps[None]]) -> Generator[Any, None, None]:
    """Decode all jobs side by side, yielding the answers' events as they happen. Closing the iterator drops all answers.

    When memory does not suffice, the live answers are begun again, at most half as many side by side from then on, one more in each pass.
    An answer does not depend on those beside it, so it is the same again, and its events are not repeated.

    Args:
        begin: makes the generator of one answer.

    Raises:
        ModelError: memory does not suffice for one answer.
    """
    batch, most = Batch(model), 0
    waiting: deque[tuple[int, JobT, int]] = deque()
    try:
        while True:
            if batch.seats and (gone := intake.gone(batch)):
                for seat in [seat for seat in batch.seats if seat.number in gone]:
                    seat.leave()
                batch.seats = [seat for seat in batch.seats if seat.number not in gone]
                waiting = deque(each for each in waiting if each[0] not in gone)
            if not batch.seats:
                batch = Batch(model)  # frees the buffers of those that have ended
            short = ""
            try:
                if not waiting:
                    waiting.extend((number, job, 0) for number, job in intake.take(batch))
                while waiting and (not most or len(batch.seats) < most):
                    number, job, known = waiting.popleft()
                    seat = Seat(number, job, batch, known=known)
                    batch.seats.append(seat)
                    seat.steps = begin(seat, job)
                    yield from seat.resume(None)
                    if most:
                        break
                if not batch.seats:
                    return
                yield from _round(batch)
            except (RuntimeError, MemoryError) as error:
                if not lacks_memory(error):
                    raise
                short = first_line(error)
            if short:  # only now: the error holds what the pass had allocated
                again = [(seat.number, seat.job, max(seat.told, seat.known)) for seat in batch.seats if seat.steps is not None]
                for seat in batch.seats:
                    seat.leave()
                batch = Batch(model)
                most = halved(len(again), "answers", short)
                waiting.extendleft(reversed(again))
            batch.seats = [seat for seat in batch.seats if seat.wish is not None]
    finally:
        for seat in batch.seats:
            seat.leave()


def decode(strands: Sequence[Strand], logits: Float[Tensor, "strands d_vocab"], sampling: Sampling = GREEDY) -> Steps[None]:
    """Draw tokens until every strand has ended. The last token of each is not read.

    Args:
        strands: none has ended, each has a row.
        logits: for their next tokens.
    """
    going = strands
    while True:
        yield Draws(going, logits, sampling)
        going = [strand for strand in going if strand.finish is None]
        if not going:
            return
        logits = (yield [next_token(strand) for strand in going]).logits


def next_token(strand: Strand) -> Feed:
    """The feed that reads a strand's last token, for the logits of the next."""
    assert strand.row is not None  # a strand that is decoded on has one
    return Feed(strand.row, strand.ids[-1:])


def _round(batch: Batch) -> Iterator[Any]:
    """Run one pass for all live answers, then draw until each of them waits for the next pass."""
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
    # repeated, since an answer may draw again at once: after its last preview token it decides, and may have its next logits already
    while asking := [(seat, seat.wish) for seat in batch.seats if isinstance(seat.wish, Draws | Fetch)]:
        groups: dict[Sampling, list[Draws]] = {}
        for _, wish in asking:
            if isinstance(wish, Draws):
                if wish.known is not None and wish.strands[0].given is None:
                    add(batch.model, wish.strands[0], *wish.known)
                else:
                    groups.setdefault(wish.sampling, []).append(wish)
        found = [
            begin_draw([strand for draws in group for strand in draws.strands], torch.cat([each.logits for each in group]), sampling)
            for sampling, group in groups.items()
        ]
        wanted = [each.tensors for each in found] + [wish.tensors for _, wish in asking if isinstance(wish, Fetch)]
        host = iter(to_host([tensor for tensors in wanted for tensor in tensors]))
        for each in found:
            take(batch.model, each, [next(host) for _ in each.tensors])
        for seat, wish in asking:
            yield from seat.resume([next(host) for _ in wish.tensors] if isinstance(wish, Fetch) else None)
    for prefix in batch.prefixes.values():
        prefix.result = None
