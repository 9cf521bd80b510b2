"""The model in memory, one for all browser tabs, and what is being decoded with it.

Pages know the protocol :class:`Steering`; the core is imported inside functions only, so that opening a page never loads torch.
Answers of several tabs share the model pass by pass. At most one model is held: asking for another releases the first, and is refused
while the first is answering.

Decoding goes on in a thread of its own (:class:`Decoding`) whatever page is open, and any tab can follow it.
"""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from jaxtyping import Float

from stir_core.config import DecodeConfig, GateConfig, ModelConfig
from stir_core.errors import FAULTS, ModelError
from stir_core.models.threads import settle_threads
from stir_core.readings import JacobianReading, LatentReading, TokenReading
from stir_core.records import Entry, Event, Lens, ModelIdentity, Problem, Trace
from stir_core.requests import Change
from stir_core.responses import ImpulseResponse, Spot
from stir_core.store.runs import Run

if TYPE_CHECKING:
    from stir_core.evaluate.activations import Subject
    from stir_core.models.loading import LoadedModel


T = TypeVar("T")


class Steering(Protocol):
    """One run's library on one model, ready to answer."""

    @property
    def identity(self) -> ModelIdentity:
        """Identity of the model that answers."""
        ...

    def compare(self, prompt: str | Problem, gate: GateConfig, decode: DecodeConfig, *, raw: bool = False) -> Generator[Event, None, None]:
        """Decode vanilla (row 0) and steered (row 1) in lock-step, step by step. Closing it early ends decoding."""
        ...

    def read(self, traces: Sequence[Trace], gate: GateConfig) -> Generator[tuple[int, TokenReading], None, None]:
        """Read finished answers again, as (number of the answer, reading of its next token). Closing it early ends decoding."""
        ...

    def branch(
        self, trace: Trace, changes: Sequence[Change], gate: GateConfig, decode: DecodeConfig, *, problem: Problem | None = None
    ) -> Generator[Event, None, None]:
        """Take an answer that was recorded with these settings up again, a branch for each change, side by side: one row per change."""
        ...

    def respond(self, entry: Entry, action: Float[np.ndarray, "d_model"], spot: Spot, alpha: float) -> ImpulseResponse:
        """What ``alpha`` times the entry's raw action does at one recorded control point."""
        ...


class ModelShelf:
    """Holds at most one loaded model and one session on it, for every browser tab of this server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._model_key: tuple[str, ...] | None = None
        self._model: "LoadedModel | None" = None
        self._session_key: tuple[object, ...] | None = None
        self._session: Steering | None = None
        self._answering = 0

    @property
    def identity(self) -> ModelIdentity | None:
        """Identity of the loaded model; ``None`` while none is loaded. Never loads one."""
        model = self._model
        return model.identity if model is not None else None

    def load(self, config: ModelConfig) -> ModelIdentity:
        """Load the model unless it is the one already in memory.

        Raises:
            ModelError: it cannot be found or loaded, or another model is answering.
        """
        with self._lock:
            return self._take(config).identity

    def lens(self, run: Run, directions: Float[np.ndarray, "n d_model"], names: Sequence[str]) -> list[Lens]:
        """The tokens that raw directions of a run's own model promote and suppress; loads the model unless it is in memory.

        Raises:
            ModelError: the model cannot be found or loaded, or another model is answering.
            MismatchError: the run was made with another model than the one of that name.
        """
        from stir_core.api import logit_lens

        with self._lock:
            model = self._take(run.config.model)
        run.check_model(model.identity, ("rollouts",))
        return logit_lens(model, directions, names=names)

    def jacobian(self, of: "Subject") -> JacobianReading:
        """An action carried to the last block by its run's own model, and read there; loads the model unless it is in memory.

        Raises:
            ModelError, MismatchError: as for :meth:`lens`; also for a model that TransformerLens makes no bridge of.
        """
        from stir_core.evaluate.meaning import through_jacobian

        with self._lock:
            model = self._take(of.run.config.model)
        of.run.check_model(model.identity, ("rollouts",))
        return through_jacobian(of, model)

    def step_states(
        self, run: Run, traces: Sequence[Trace], layers: tuple[int, ...]
    ) -> list[dict[int, Float[np.ndarray, "steps d_model"]]]:
        """States at the end of the prompt and of every finished step of some answers, read unsteered, by layer.

        Raises:
            ModelError, MismatchError: as for :meth:`lens`.
        """
        from stir_core.harvest.states import Reading, capture_states

        with self._lock:
            model = self._take(run.config.model)
        run.check_model(model.identity, ("rollouts",))
        readings = []
        for number, trace in enumerate(traces):
            ends = (0, *trace.step_ends)
            ids = [*trace.prompt_ids, *trace.token_ids[: ends[-1]]]
            at = tuple(len(trace.prompt_ids) + end - 1 for end in ends)
            readings.append(Reading(trace.id, "rollout", number, tuple(range(len(ends))), ids, at))
        return [{layer: seen.by_layer[layer].numpy() for layer in layers} for seen in capture_states(model, readings, layers)]

    @contextmanager
    def lent(self, run: Run, fingerprint: str) -> Iterator[Steering]:
        """A session of this run on its own model, for the length of the block; meanwhile no other model is taken.

        It is the same session as long as neither the run (by its ``fingerprint``) nor the model changes.

        Raises:
            ModelError: on entering: the model cannot be found or loaded, or another model is answering.
            MismatchError: the run was made with another model than the one of that name.
            StoreError: a stage that steering needs has not finished.
        """
        with self._lock:
            model = self._take(run.config.model)
            key = (fingerprint, self._model_key)
            if self._session is None or key != self._session_key:
                self._session, self._session_key = open_steering(run, model), key
            session = self._session
            self._answering += 1
        try:
            yield session
        finally:
            with self._lock:
                self._answering -= 1

    def _take(self, config: ModelConfig) -> "LoadedModel":
        key = (config.name, *map(str, config.model_dump().values()))
        if self._model is None or key != self._model_key:
            if self._answering and self._model_key:
                raise ModelError(
                    f"model {self._model_key[0]} is answering in another tab, and one model is held at a time: "
                    f"let it end or stop it there, then ask for {config.name} again"
                )
            self._model, self._session = None, None
            self._model = load_core_model(config)
            self._model_key = key
        return self._model


class Decoding:
    """Work on the model that goes on when its page is left: what it has made so far, and whether it has ended."""

    def __init__(self, id_: str, title: str, run: str, made: Any):
        self.id, self.title, self.run, self.made = id_, title, run, made
        self.stopping = False
        """Set by :meth:`stop`: it ends after the next event, and what was decoded is kept."""
        self.ended = False
        self.fault: BaseException | None = None
        """Why it ended early; ``None``: it did not."""
        self._told: list[Any] = []
        self._news = threading.Condition()

    def stop(self) -> None:
        """Ask it to end."""
        self.stopping = True

    def told(self, events: Generator[T, None, None]) -> Iterator[T]:
        """Events one by one, each told to the followers once it is dealt with; the generator is closed at the end or at :meth:`stop`."""
        with closing(events):
            for event in events:
                yield event
                with self._news:
                    self._told.append(event)
                    self._news.notify_all()
                if self.stopping:
                    return

    def follow(self, every: float = 0.3) -> Iterator[list[Any]]:
        """All events from the first on, in batches as they come, until it has ended; an empty batch where none came for ``every`` seconds.

        A page draws something for each batch, so that it can be left.
        """
        seen = 0
        while True:
            with self._news:
                if len(self._told) == seen and not self.ended:
                    self._news.wait(every)
                fresh, ended = self._told[seen:], self.ended
            yield fresh
            seen += len(fresh)
            if ended:
                return

    def run_to_end(self, work: "Callable[[Decoding], None]") -> None:
        """Do the work, in this thread; a refusal or a fault of a disk becomes :attr:`fault`."""
        self.fault = RuntimeError("decoding ended by a fault of the program: its log has the traceback")
        try:
            work(self)
            self.fault = None
        except FAULTS as error:
            self.fault = error
        finally:
            with self._news:
                self.ended = True
                self._news.notify_all()


class Decodings:
    """What is being decoded on this server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: list[Decoding] = []

    def start(self, decoding: Decoding, work: Callable[[Decoding], None]) -> Decoding:
        """Begin the work in a thread of its own; it must not draw."""
        with self._lock:
            self._held = [*(each for each in self._held if not each.ended), decoding]
        threading.Thread(target=decoding.run_to_end, args=(work,), daemon=True, name=f"stir-{decoding.id}").start()
        return decoding

    def running(self) -> list[Decoding]:
        """Those that have not ended."""
        with self._lock:
            return [each for each in self._held if not each.ended]


def load_core_model(config: ModelConfig) -> "LoadedModel":
    """Load a model through the core (imports torch)."""
    settle_threads()
    from stir_core.models.loading import model_of

    return model_of(config)


def open_steering(run: Run, model: "LoadedModel") -> Steering:
    """Open a session of ``run`` on ``model`` through the core."""
    from stir_core.intervene.session import open_session as open_core_session

    return open_core_session(run, model)


def load_latent_reasoner(folder: Path) -> Callable[[str, str | None], LatentReading]:
    """What reads a question's latents, and the answer with another question's, through the core (imports torch).

    Raises:
        DataError: the folder holds no finished reasoner.
    """
    settle_threads()
    from stir_core.evaluate.latent_readings import read_latents
    from stir_core.latent.training import load_reasoner

    trained = load_reasoner(folder)
    return lambda question, other: read_latents(trained, question, other=other)
