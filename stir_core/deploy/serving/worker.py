"""The one thread that owns the model: answers join its decode loop between two passes, and leave it when no reader waits for them.

Requests are handled on the server's event loop, decoding runs on a thread of its own, and the two meet here under one lock:

- *In.* ``submit`` puts a ticket into the queue, or refuses it when the queue is full. Between two passes the step loop calls ``take``,
  which hands out waiting tickets in their order while fewer than ``rows`` are live; it blocks only when nothing at all is live.
- *Out.* A ticket leaves when its answer is whole, when its reader gave it up (``cancel``), or when its deadline has passed (counted
  from ``submit``, waiting included). The step loop asks ``gone`` between two passes and drops what it names, so a cancelled answer costs
  at most the pass that was running.
- *Events* go to each ticket's sink, on the worker's thread and outside the lock: a sink must not wait.
- *Failure.* A pass that fails ends the answers that were in it, each with a line that says so; those that wait go on.
- *Stopping.* ``close`` takes nothing more, ``cut`` tells those who still wait that their answer ends here, and the thread ends.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from stir_core.deploy.serving.runtime import SteeredModel
from stir_core.errors import DeployError, StirError, first_line
from stir_core.intervene.jobs import Job
from stir_core.models.scheduler import Batch, Intake
from stir_core.records import Event, TraceEvent


class Busy(DeployError):
    """The queue is full."""


@dataclass(frozen=True)
class Ended:
    """An answer that did not come to its end, and why."""

    why: str
    kind: str
    """``"timeout"``, ``"stopping"`` or ``"failed"``."""


Sink = Callable[[Event | Ended], None]
"""Takes the events of one answer; called on the worker's thread, so it must not wait."""


@dataclass(eq=False)
class Ticket:
    """One answer that somebody waits for."""

    number: int
    job: Job
    sink: Sink
    deadline: float
    """On the monotonic clock, in seconds."""
    given_up: threading.Event = field(default_factory=threading.Event)


class Worker(Intake[Job]):
    """Decodes what is submitted, ``rows`` side by side and ``waiting`` more in a queue, on a thread of its own."""

    def __init__(self, steered: SteeredModel, *, rows: int, waiting: int):
        self.steered, self.rows, self.limit = steered, rows, waiting
        self.passes = 0
        self._wake = threading.Condition()
        self._queue: deque[Ticket] = deque()
        self._live: dict[int, Ticket] = {}
        self._handed: set[int] = set()
        """Numbers that the step loop has; those that are not live any more are to be dropped."""
        self._closing = False
        self._count = 0
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)

    # -- for those who ask --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to decode."""
        self._thread.start()

    def submit(self, job: Job, sink: Sink, *, timeout: float) -> Ticket:
        """Queue an answer.

        Raises:
            Busy: as many are waiting as may.
            DeployError: the worker is stopping, or has stopped.
        """
        with self._wake:
            if self._closing or not self._thread.is_alive():
                raise DeployError("the server is stopping: ask again when it is up")
            if len(self._queue) >= self.limit and len(self._live) + len(self._queue) >= self.rows:
                raise Busy(f"{len(self._live)} answers are being decoded and {len(self._queue)} wait: ask again in a moment")
            self._count += 1
            ticket = Ticket(self._count, job, sink, time.monotonic() + timeout)
            self._queue.append(ticket)
            self._wake.notify()
            return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Nobody waits for this answer any more: its row is free before the next pass."""
        ticket.given_up.set()
        with self._wake:
            if ticket in self._queue:
                self._queue.remove(ticket)

    def close(self) -> None:
        """Take nothing more; what was taken goes on."""
        with self._wake:
            self._closing = True
            self._wake.notify()

    def cut(self) -> None:
        """Tell those who still wait that their answer ends here."""
        self._end_all(Ended("the server stopped before the answer was finished: ask again when it is up", "stopping"))

    def stop(self, seconds: float) -> None:
        """Take nothing more; what runs has ``seconds`` to end, then it is cut."""
        self.close()
        self._thread.join(seconds)
        if self._thread.is_alive():
            self.cut()
            self._thread.join(5)

    @property
    def alive(self) -> bool:
        """True while it decodes, or would."""
        return self._thread.is_alive()

    @property
    def load(self) -> tuple[int, int]:
        """Answers being decoded, and waiting."""
        return len(self._live), len(self._queue)

    # -- for the step loop, on the worker's thread --------------------------------------------------------------------

    def take(self, batch: Batch) -> list[tuple[int, Job]]:
        """See :class:`Intake`; waits when nothing is live, and ends the loop when the worker is closing."""
        self.passes += 1
        with self._wake:
            while not batch.seats and not self._queue and not self._closing:
                self._wake.wait()
            found: list[tuple[int, Job]] = []
            while self._queue and len(self._live) < self.rows:
                ticket = self._queue.popleft()
                self._live[ticket.number] = ticket
                self._handed.add(ticket.number)
                found.append((ticket.number, ticket.job))
            return found

    def gone(self, batch: Batch) -> Collection[int]:
        """See :class:`Intake`: given up by their readers, or past their deadline."""
        now = time.monotonic()
        with self._wake:
            late = [ticket for ticket in (*self._live.values(), *self._queue) if ticket.deadline < now]
            ended = [number for number, ticket in self._live.items() if ticket.given_up.is_set() or ticket in late]
            for number in ended:
                del self._live[number]
            for ticket in late:
                if ticket in self._queue:
                    self._queue.remove(ticket)
            left = self._handed - self._live.keys()
            self._handed -= left
        for ticket in late:
            ticket.sink(Ended("the answer took longer than this server allows", "timeout"))
        return left

    def _run(self) -> None:
        try:
            while not (self._closing and not self._queue and not self._live):
                try:
                    for event in self.steered.serve(self):
                        self._pass_on(event)
                except (StirError, RuntimeError, ValueError, ArithmeticError) as error:
                    # out of memory, or a pass that went wrong: those who were in it are told, those who wait go on
                    self._end_all(Ended(f"decoding failed: {first_line(error)}", "failed"), waiting=False)
                    self._handed.clear()
        finally:
            self._end_all(Ended("the server has stopped decoding", "stopping"))

    def _pass_on(self, event: Event) -> None:
        ticket = self._live.get(event.row)
        if ticket is None:
            return
        if isinstance(event, TraceEvent):
            with self._wake:
                self._live.pop(event.row, None)
                self._handed.discard(event.row)
        ticket.sink(event)

    def _end_all(self, why: Ended, *, waiting: bool = True) -> None:
        with self._wake:
            tickets = [*self._live.values(), *(self._queue if waiting else ())]
            self._live.clear()
            if waiting:
                self._queue.clear()
        for ticket in tickets:
            ticket.given_up.set()
            ticket.sink(why)
