"""Workers on Ray: actors that keep a model, on one machine or many. The only importer of ray, an optional package.

Ray moves the bytes of :class:`~stir_core.models.workers.Parcel` and nothing else of ours; how it finds the actor's class and starts its
processes is Ray's own business (cloudpickle, by the module's name).
"""

import json
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from typing import Any

from stir_core.config import ModelConfig, section_from
from stir_core.errors import FAULTS, ConfigError, MismatchError, ModelError, StirError, first_line, line_of
from stir_core.models.catalogue import LOG
from stir_core.models.loading import LoadedModel, load_model
from stir_core.models.workers import TRIES, Heard, Parcel, WorkerPool
from stir_core.records import ModelIdentity
from stir_core.store.runs import check_identity
from stir_core.version import VERSION

STARTING = 60.0
"""Seconds that work waits for all workers before it begins with those that are there."""
REACHED = 10.0
"""Seconds within which the machine of an address has to answer."""
PATIENCE = 600.0
"""Seconds that work waits while there is no worker at all, e.g. for a cluster to start its first machine."""


class ModelActor:
    """One process: loads the model that it is asked for, keeps it until it is asked for another, and does shards of work with it."""

    def __init__(self) -> None:
        self._model: LoadedModel | None = None
        self._settings: dict[str, Any] | None = None

    def ready(self) -> None:
        """Returns once the process runs."""

    def do(self, order: bytes, common: bytes, shard: bytes) -> Iterator[bytes]:
        """Do a shard, yielding a packed result for each item as it is made; a refusal is the last one."""
        try:
            asked = json.loads(order)
            module, _, name = asked["work"].partition(":")
            if not module.startswith("stir_core."):
                raise ModelError(f"{module} is not a module of STIR Workbench")
            model = self._loaded(asked)
            for number, made in getattr(import_module(module), name)(model, Parcel.unpacked(common), Parcel.unpacked(shard)):
                yield Parcel([number, made.plain], made.arrays).packed()
        except FAULTS as error:
            kind = type(error).__name__ if isinstance(error, StirError) else StirError.__name__
            yield Parcel([None, [kind, f"a worker refuses: {line_of(error)}"]]).packed()

    def _loaded(self, asked: dict[str, Any]) -> LoadedModel:
        if asked["version"] != VERSION:
            raise MismatchError(f"it has STIR Workbench {VERSION}, and {asked['version']} asks: install the same on every machine")
        if self._model is None or self._settings != asked["model"]:
            self._model = None  # before the next, so that memory has to hold only one
            self._model, self._settings = load_model(**dict(section_from(ModelConfig, asked["model"]))), asked["model"]
        wanted = ModelIdentity.model_validate_json(asked["identity"])
        check_identity("the work that it is given", wanted, self._model.identity, "copy the same model to every machine")
        return self._model


class RayPool(WorkerPool):
    """A pool of Ray actors, started when work is first shared out.

    A lost actor is replaced, as long as machines last; at most :data:`~stir_core.models.workers.TRIES` times the number of workers.
    """

    def __init__(self, address: str | None, workers: int | None):
        self._address, self._asked = address, workers
        self._ray: Any = None
        self._options: dict[str, Any] = {}
        self._size = 0
        self._replaced = 0
        self._numbers = count(1)
        self._starting: dict[Any, int] = {}
        """Workers by the reference that is ready once they run."""
        self._actors: dict[int, Any] = {}
        self._free: deque[int] = deque()
        self._busy: dict[Any, tuple[int, int]] = {}
        """Call and worker, by the stream of its results."""

    @property
    def size(self) -> int:
        """See :class:`~stir_core.models.workers.WorkerPool`."""
        self._start()
        return self._size

    @property
    def device(self) -> str | None:
        """The CPU where workers take the GPUs."""
        self._start()
        return "cpu" if self._options["num_gpus"] else None

    @property
    def free(self) -> bool:
        """See :class:`~stir_core.models.workers.WorkerPool`."""
        return bool(self._free)

    def put(self, data: bytes) -> Any:
        """Into the object store, from which every machine takes it once."""
        return self._ray.put(data)

    def begin(self, order: bytes, common: Any, shard: bytes) -> int:
        """See :class:`~stir_core.models.workers.WorkerPool`."""
        worker, call = self._free.popleft(), next(self._numbers)
        stream = self._actors[worker].do.options(num_returns="streaming").remote(order, common, shard)
        self._busy[stream] = call, worker
        return call

    def wait(self) -> Heard | None:
        """See :class:`~stir_core.models.workers.WorkerPool`."""
        pending = [*self._starting, *self._busy]
        told = self._ray.wait(pending, num_returns=1, timeout=None if self._busy else PATIENCE)[0] if pending else ()
        if not told:
            raise ModelError("no worker is left: look at `ray status`, then give the same command again; finished results are kept")
        if told[0] in self._starting:
            return self._joined(told[0])
        stream = told[0]
        call, worker = self._busy[stream]
        try:
            return Heard(call, self._ray.get(next(stream)))
        except StopIteration:
            del self._busy[stream]
            self._free.append(worker)
            return Heard(call)
        except self._ray.exceptions.RayTaskError:  # a bug, with the worker's traceback
            raise
        except self._ray.exceptions.RayError as error:
            del self._busy[stream]
            return Heard(call, lost=self._lost(worker, error))

    def drop(self, call: int) -> None:
        """Its worker takes the next shard when it has ended this one."""
        for stream in [stream for stream, (own, _) in self._busy.items() if own == call]:
            self._free.append(self._busy.pop(stream)[1])

    def close(self) -> None:
        """End the workers, and the connection."""
        if self._ray is not None:
            for actor in self._actors.values():
                self._ray.kill(actor)
            self._ray.shutdown()
            self._ray = None

    def _joined(self, ready: Any) -> Heard | None:
        worker = self._starting.pop(ready)
        try:
            self._ray.get(ready)
            self._free.append(worker)
        except self._ray.exceptions.RayError as error:
            LOG.warning("%s does not start: %s", self._lost(worker, error), first_line(error))
        return None

    def _lost(self, worker: int, error: Exception) -> str:
        """Start another in a lost worker's place; returns the lost one's name."""
        self._ray.kill(self._actors.pop(worker))  # one that could not be reached may still run
        if self._replaced < TRIES * self._size:
            self._replaced += 1
            self._hire()
        return f"worker {worker} ({type(error).__name__})"

    def _hire(self) -> None:
        actor, worker = self._ray.remote(ModelActor).options(**self._options).remote(), next(self._numbers)
        self._actors[worker] = actor
        self._starting[actor.ready.remote()] = worker

    def _start(self) -> None:
        if self._ray is not None:
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else a cluster that is started here tells Ray's makers about itself
        import ray  # pyright: ignore[reportMissingImports]

        main = threading.current_thread() is threading.main_thread()
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=self._address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"--address {self._address}: no Ray cluster answers there ({first_line(error)}): see `ray status`") from None
        finally:
            if main:
                signal.signal(
                    signal.SIGTERM, signal.SIG_DFL if handler is None else handler
                )  # Ray sets its own, which ends the process without keeping results
        self._ray = ray
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = int(sum(machine.get("GPU", 0) for machine in machines))
        self._size = self._asked or gpus or len(machines)
        cores = min((machine["CPU"] for machine in machines if machine.get("CPU")), default=1.0)
        a_machine = -(-self._size // max(1, len(machines)))
        # with GPUs a worker's own thread is enough; without, the workers of a machine divide its cores
        self._options = {"num_gpus": 1 if gpus else 0, "num_cpus": 1 if gpus else max(1, int(cores // a_machine))}
        self._options |= {"scheduling_strategy": "SPREAD", "max_restarts": 0}
        for _ in range(self._size):
            self._hire()
        running = len(ray.wait(list(self._starting), num_returns=self._size, timeout=STARTING)[0])  # so that the first shards go to all
        if running < self._size:
            LOG.warning("%d of %d workers have started; the others join when the cluster has room for them", running, self._size)


def check_address(address: str | None) -> None:
    """Refuse an address at which nothing listens: Ray itself would wait for it for minutes.

    Raises:
        ConfigError: not an address of a cluster, or nothing answers there.
    """
    if address in (None, "auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"--address {address} is no address of a Ray cluster: give auto, or HOST:PORT such as ray-head:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED).close()
    except OSError as error:
        raise ConfigError(f"--address {address}: nothing answers there ({first_line(error)}): see `ray status` on the cluster") from None


@contextmanager
def pool_of(address: str | None = None, workers: int | None = None) -> Iterator[WorkerPool]:
    """Workers on a Ray cluster, started when they are first needed and ended after the block.

    Args:
        address: of the cluster, e.g. ``"auto"``; ``None``: the one on this machine, or one that is started here.
        workers: number of workers; ``None``: one for each GPU, or without GPUs one for each machine.

    Raises:
        ConfigError: ray is not installed, or no cluster at the address.
    """
    check_address(address)
    if find_spec("ray") is None:
        raise ConfigError("--executor ray needs the package ray: pip install -c constraints.txt -e '.[ray]'")
    pool = RayPool(address, workers)
    try:
        yield pool
    finally:
        pool.close()
