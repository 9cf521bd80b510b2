"""A pool without processes: its workers are objects here, and some of them are lost."""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import count

from stir_core.errors import ModelError
from stir_core.models.cluster import ModelActor
from stir_core.models.workers import Heard, WorkerPool
from stir_core.seeding import generator_for

Do = Callable[[bytes, bytes, bytes], Iterator[bytes]]


class LossyPool(WorkerPool):
    """Hears of its workers in an order that the seed draws; ``lives[i]`` are the results after which the i-th worker is lost."""

    def __init__(self, size: int, lives: list[int], seed: int = 0, spare: int = 99, do: Callable[[], Do] = lambda: ModelActor().do):
        self._size, self.calls, self.lost = size, 0, 0
        self._lives, self._spare, self._do = deque(lives), spare, do
        self._numbers, self._rng = count(), generator_for(seed, "lossy")
        self._free = [self._hired() for _ in range(size)]
        self._busy: dict[int, tuple[list, Iterator[bytes]]] = {}

    def _hired(self) -> list:
        return [self._do(), self._lives.popleft() if self._lives else None]

    @property
    def size(self) -> int:
        return self._size

    @property
    def device(self) -> str | None:
        return None

    @property
    def free(self) -> bool:
        return bool(self._free)

    def put(self, data: bytes) -> bytes:
        return data

    def begin(self, order: bytes, common: bytes, shard: bytes) -> int:
        worker, call = self._free.pop(0), next(self._numbers)
        self._busy[call] = worker, worker[0](order, common, shard)
        self.calls += 1
        return call

    def wait(self) -> Heard | None:
        if not self._busy:
            raise ModelError("no worker is left")
        call = list(self._busy)[int(self._rng.integers(len(self._busy)))]
        worker, results = self._busy[call]
        if worker[1] == 0:
            del self._busy[call]
            self.lost += 1
            if self._spare:
                self._spare -= 1
                self._free.append(self._hired())
            return Heard(call, lost=f"worker {self.lost}")
        try:
            result = next(results)
        except StopIteration:
            del self._busy[call]
            self._free.append(worker)
            return Heard(call)
        worker[1] = None if worker[1] is None else worker[1] - 1
        return Heard(call, result)

    def drop(self, call: int) -> None:
        self._free.append(self._busy.pop(call)[0])
