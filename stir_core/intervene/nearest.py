"""An approximate index of unit keys, for libraries too large to compare every state with every key. The only importer of usearch.

A hierarchical navigable small world graph (Malkov and Yashunin, arXiv 1603.09320) finds most of the nearest keys, not all: what it finds is
compared exactly afterwards, and its recall is measured when it is built and stated wherever it was used. One thread builds it, since
several would insert in another order each time.
"""

from collections.abc import Callable, Iterable
from importlib.util import find_spec

import numpy as np
from jaxtyping import Float, Int

from stir_core.errors import ConfigError
from stir_core.seeding import generator_for

LINKS, BREADTH_ADD, BREADTH_SEARCH = 32, 128, 256
"""Links of a key, and candidates kept while a key is added and searched for: more find more and take longer."""
QUERIES = 64
"""Keys of the index that its recall is measured with, each without itself."""


def check_installed() -> None:
    """Refuse an approximate search without its package.

    Raises:
        ConfigError: usearch is not installed.
    """
    if find_spec("usearch") is None:
        raise ConfigError("gate.search = approximate needs the package usearch: pip install -c constraints.txt -e '.[usearch]'")


class NearestIndex:
    """Rows of unit keys that are near a unit vector.

    Args:
        blocks: yields all keys, ``[n, d]`` in blocks, anew at each call.
        k: number of nearest keys that the recall is measured for.

    Raises:
        ConfigError: usearch is not installed.
    """

    def __init__(self, blocks: Callable[[], Iterable[Float[np.ndarray, "n d"]]], k: int):
        check_installed()
        from usearch.index import Index  # pyright: ignore[reportMissingImports]

        n = 0
        for block in blocks():
            if n == 0:
                self._index = Index(
                    ndim=block.shape[1], metric="ip", dtype="f16", connectivity=LINKS,
                    expansion_add=BREADTH_ADD, expansion_search=BREADTH_SEARCH,
                )  # fmt: skip
            self._index.add(np.arange(n, n + len(block), dtype=np.uint64), block, threads=1)
            n += len(block)
        self.recall = self._recall(blocks, n, k)
        """Share of the ``k`` nearest keys that are found, over :data:`QUERIES` of the keys themselves."""

    def search(self, unit: Float[np.ndarray, "d"], k: int) -> Int[np.ndarray, "found"]:
        """Rows of at most ``2 * k`` near keys, in ascending order; the nearest ``k`` are mostly among them."""
        return np.sort(self._index.search(unit, 2 * k, threads=1).keys.astype(np.int64))

    def _recall(self, blocks: Callable[[], Iterable[Float[np.ndarray, "n d"]]], n: int, k: int) -> float:
        chosen = np.sort(generator_for(0, "index", "recall").permutation(n)[:QUERIES])
        start, kept = 0, list[np.ndarray]()
        for block in blocks():
            kept.append(block[chosen[(chosen >= start) & (chosen < start + len(block))] - start])
            start += len(block)
        queries, start, k = np.concatenate(kept), 0, min(k, n - 1)
        rows, best = np.empty((len(chosen), 0), np.int64), np.empty((len(chosen), 0), np.float32)
        for block in blocks():
            own = np.arange(start, start + len(block))
            cosines = np.where(own == chosen[:, None], -np.inf, queries @ block.T)
            rows = np.concatenate([rows, np.broadcast_to(own, cosines.shape)], axis=1)
            best = np.concatenate([best, cosines], axis=1)
            order = np.argsort(-best, axis=1, kind="stable")[:, :k]
            rows, best = np.take_along_axis(rows, order, axis=1), np.take_along_axis(best, order, axis=1)
            start += len(block)
        found = [np.isin(nearest, self.search(query, k + 1)).sum() for nearest, query in zip(rows, queries, strict=True)]
        return float(np.sum(found) / rows.size) if rows.size else 1.0
