"""Work shared out among other processes: shards of items go to workers, results come back as they are made, a lost worker's rest goes on.

A :class:`WorkerPool` is the processes (``models.cluster`` makes one of Ray); :class:`Workers` cuts work into shards for the free ones.
Results arrive one by one, so a lost worker costs only the items that it had not finished. They are given to another one, and come out
the same, since every draw has a name. What travels is JSON and arrays (:class:`Parcel`), never an object.
"""

import json
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy as st

from stir_core import errors
from stir_core.errors import ModelError, StirError
from stir_core.models.catalogue import LOG
from stir_core.version import VERSION

TRIES = 3
"""Workers that may be lost over one item before the work is given up."""
SHARD = 2
"""Batches in a full shard: while it is decoded, its rows are refilled once."""


class Parcel(NamedTuple):
    """What travels: plain data and arrays."""

    plain: Any
    """As JSON knows it; records are in it as their JSON text."""
    arrays: Mapping[str, np.ndarray] = {}

    def packed(self) -> bytes:
        """As one safetensors file, with the plain data as an array of bytes."""
        text = np.frombuffer(json.dumps(self.plain).encode(), np.uint8)
        return st.save({"": text} | {name: np.ascontiguousarray(array) for name, array in self.arrays.items()})

    @classmethod
    def unpacked(cls, data: bytes) -> "Parcel":
        """The parcel that :meth:`packed` made."""
        arrays = st.load(data)
        return cls(json.loads(arrays.pop("").tobytes()), arrays)


Work = Callable[[Any, Parcel, Parcel], Iterator[tuple[int, Parcel]]]
"""``(model, what all shards share, a shard) -> (number of an item, its result)``, one for each item: a public function of a module, which
travels by its name. The shard's ``plain`` has ``[number, plain data]`` of each item, its arrays are those of all."""


class Heard(NamedTuple):
    """What a pool has heard of a shard."""

    call: int
    result: bytes | None = None
    """A packed result; ``None``: the shard has ended."""
    lost: str | None = None
    """The worker, if it has died or cannot be reached; the shard has ended then, too."""


class WorkerPool(ABC):
    """Processes that work."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Workers that there should be."""

    @property
    @abstractmethod
    def device(self) -> str | None:
        """Device for the caller's own model; ``None``: as the settings say."""

    @abstractmethod
    def put(self, data: bytes) -> Any:
        """Keep data where every worker can read them; the handle is passed to :meth:`begin`."""

    @property
    @abstractmethod
    def free(self) -> bool:
        """Whether a worker waits for a shard."""

    @abstractmethod
    def begin(self, order: bytes, common: Any, shard: bytes) -> int:
        """Give a shard to a free worker; returns the number of the call."""

    @abstractmethod
    def wait(self) -> Heard | None:
        """The next that is heard of any shard; ``None``: a worker has become free.

        Raises:
            ModelError: no worker is left.
        """

    @abstractmethod
    def drop(self, call: int) -> None:
        """Hear no more of a call."""


@dataclass(frozen=True, eq=False)
class Workers:
    """Workers with a copy of one model."""

    pool: WorkerPool
    settings: Mapping[str, Any]
    """The arguments with which a worker loads the model."""
    identity: str
    """The model's identity as JSON: a worker whose model has another is refused."""

    def share(self, work: Work, common: Parcel, items: Iterable[Parcel], rows: int) -> Iterator[tuple[int, Parcel]]:
        """Let workers do all items; yields each item's number and result as it arrives, in no fixed order.

        Args:
            work: what is done with a shard.
            common: sent once, for all shards.
            items: asked for when there are free workers; arrays of one shard must not have the same names.
            rows: items in a batch.

        Raises:
            ModelError: no worker is left, or one item has cost :data:`TRIES` of them. What was yielded stays.
            StirError: as the work raises.
        """
        name = f"{work.__module__}:{work.__qualname__}"
        order = json.dumps({"work": name, "model": dict(self.settings), "identity": self.identity, "version": VERSION}).encode()
        pool, coming = self.pool, enumerate(items)
        sent: Any = None
        waiting: deque[dict[int, Parcel]] = deque()
        doing: dict[int, dict[int, Parcel]] = {}
        losses: Counter[int] = Counter()
        try:
            while True:
                if not waiting:
                    ahead = list(islice(coming, pool.size * SHARD * rows))
                    most = -(-len(ahead) // pool.size)  # so the last ones are shared out evenly, too
                    waiting.extend(dict(ahead[start : start + most]) for start in range(0, len(ahead), most or 1))
                if not waiting and not doing:
                    return
                if waiting and pool.free:
                    sent = pool.put(common.packed()) if sent is None else sent
                    shard = waiting.popleft()
                    doing[pool.begin(order, sent, _packed(shard))] = shard
                    continue
                heard = pool.wait()
                if heard is None or heard.call not in doing:
                    continue
                shard = doing[heard.call]
                if heard.result is not None:
                    number, result = _result(heard.result)
                    del shard[number]
                    yield number, result
                    continue
                del doing[heard.call]
                if heard.lost is None:
                    assert not shard, f"{name} left out {len(shard)} items"
                elif shard:
                    LOG.warning("%s is lost: %d items that it had not finished are given to another", heard.lost, len(shard))
                    losses.update(list(shard))
                    if max(losses[number] for number in shard) >= TRIES:
                        raise ModelError(
                            f"{TRIES} workers were lost over the same items, the last of them {heard.lost}: look into its log, or at its "
                            "memory; finished results are kept"
                        )
                    waiting.appendleft(shard)
        finally:
            for call in doing:
                pool.drop(call)


def _packed(shard: Mapping[int, Parcel]) -> bytes:
    arrays = {name: array for parcel in shard.values() for name, array in parcel.arrays.items()}
    return Parcel([[number, parcel.plain] for number, parcel in shard.items()], arrays).packed()


def _result(data: bytes) -> tuple[int, Parcel]:
    """A worker's result, or the refusal that it met."""
    (number, plain), arrays = Parcel.unpacked(data)
    if number is None:
        kind, text = plain
        raise getattr(errors, kind, StirError)(text)
    return number, Parcel(plain, arrays)
