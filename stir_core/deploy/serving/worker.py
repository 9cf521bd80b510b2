"""The one thread that owns the model: answers join its decode loop between two passes, and leave it when they end or are cancelled.

Requests are handled on the server's event loop, decoding runs on a thread of its own, and the two meet here under one lock:

- *Joining.* ``submit`` puts a ticket into the queue, or refuses it if the queue is full. Between two passes the step loop calls ``take``,
  which returns queued tickets in order while fewer than ``rows`` are live; it blocks only if no ticket is live.
- *Leaving.* A ticket leaves when its answer is complete, when it was cancelled (``cancel``), or when its deadline has passed (counted from
  ``submit``, so the time in the queue is included). Between two passes the step loop calls ``gone`` and drops those tickets, so a cancelled
  answer costs at most the pass that is running.
- *Events* go to each ticket's sink, on the worker's thread and outside the lock: a sink must not block.
- *Failure.* A failed pass ends the answers in it, each with an error line; queued answers are decoded afterwards.
- *Stopping.* ``close`` refuses new tickets, ``cut`` ends the remaining answers with an error line, and the thread ends.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
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
    """An answer that was not finished, and the reason."""

    why: str
    kind: str
    """``"timeout"``, ``"stopping"`` or ``"failed"``."""


Sink = Callable[[Event | Ended], None]
"""Receives the events of one answer; called on the worker's thread, so it must not block."""


@dataclass(eq=False)
class Ticket:
    """One answer that was requested."""

    number: int
    job: Job
    sink: Sink
    deadline: float
    """On the monotonic clock, in seconds."""
    given_up: threading.Event = field(default_factory=threading.Event)


class Worker(Intake[Job]):
    """Decodes submitted jobs on a thread of its own, ``rows`` side by side and ``waiting`` more in a queue."""

    def __init__(self, steered: SteeredModel, *, rows: int, waiting: int):
        self.steered, self.rows, self.limit = steered, rows, waiting
        self.passes = 0
        self._wake = threading.Condition()
        self._queue: deque[Ticket] = deque()
        self._live: dict[int, Ticket] = {}
        self._handed: set[int] = set()
        """Numbers of the tickets in the step loop; those that are no longer live must be dropped from it."""
        self._closing = False
        self._count = 0
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)

    # -- for the event loop -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the decoding thread."""
        self._thread.start()

    def submit(self, jobs: Sequence[Job], sinks: Sequence[Sink], *, timeout: float) -> list[Ticket]:
        """Queue answers, all or none; each has a sink of its own.

        Raises:
            Busy: the queue is full.
            DeployError: the worker is stopping, or has stopped.
        """
        with self._wake:
            if self._closing or not self._thread.is_alive():
                raise DeployError("the server is stopping: try again when it is up")
            if len(self._queue) + len(jobs) > self.limit and len(self._live) + len(self._queue) + len(jobs) > self.rows:
                raise Busy(f"{len(self._live)} answers are being decoded and {len(self._queue)} wait: try again in a moment")
            deadline = time.monotonic() + timeout
            tickets = [Ticket(self._count + 1 + i, job, sink, deadline) for i, (job, sink) in enumerate(zip(jobs, sinks, strict=True))]
            self._count += len(jobs)
            self._queue += tickets
            self._wake.notify()
            return tickets

    def cancel(self, ticket: Ticket) -> None:
        """Drop an answer that is no longer needed; its row is free before the next pass."""
        ticket.given_up.set()
        with self._wake:
            if ticket in self._queue:
                self._queue.remove(ticket)

    def close(self) -> None:
        """Refuse new tickets; submitted ones are still decoded."""
        with self._wake:
            self._closing = True
            self._wake.notify()

    def cut(self) -> None:
        """End all remaining answers with an error line."""
        self._end_all(Ended("the server stopped before the answer was finished: try again when it is up", "stopping"))

    def stop(self, seconds: float) -> None:
        """Refuse new tickets, and cut the running answers after ``seconds``."""
        self.close()
        self._thread.join(seconds)
        if self._thread.is_alive():
            self.cut()
            self._thread.join(5)

    @property
    def alive(self) -> bool:
        """True while the thread runs."""
        return self._thread.is_alive()

    @property
    def load(self) -> tuple[int, int]:
        """Number of answers that are being decoded, and in the queue."""
        return len(self._live), len(self._queue)

    # -- for the step loop, on the worker's thread --------------------------------------------------------------------

    def take(self, batch: Batch) -> list[tuple[int, Job]]:
        """See :class:`Intake`; blocks while no ticket is live or queued, and ends the loop when the worker is closing."""
        self.passes += 1
        with self._wake:
            while not batch.seats and not self._queue and not self._closing:
                self._wake.wait()
            jobs: list[tuple[int, Job]] = []
            while self._queue and len(self._live) < self.rows:
                ticket = self._queue.popleft()
                self._live[ticket.number] = ticket
                self._handed.add(ticket.number)
                jobs.append((ticket.number, ticket.job))
            return jobs

    def gone(self, batch: Batch) -> Collection[int]:
        """See :class:`Intake`: the tickets that were cancelled or have passed their deadline."""
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
                    # no memory for one answer, or another failed pass: its answers end with an error, queued answers are decoded next
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
