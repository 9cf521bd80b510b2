"""An approximate index of unit keys, for libraries too large to compare every state with every key. The only importer of usearch.

A hierarchical navigable small world graph (Malkov and Yashunin, arXiv 1603.09320) finds most of the nearest keys, not all: what it finds is
compared exactly afterwards, and its recall is measured when it is built and stated wherever it was used. One thread builds it, since
several would insert in another order each time. It is kept in the cache folder, under a hash of the keys and of how it was built.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from stir_core.errors import ConfigError
from stir_core.models.catalogue import cache_root
from stir_core.seeding import generator_for
from stir_core.store.files import write_whole

LOG = logging.getLogger("stir_core")

INDEX_FROM = 100_000
"""Entries of a control point and layer from which on ``gate.search = "approximate"`` uses an index (see ``benchmarks/retrieve.py``)."""
LINKS, BREADTH_ADD, BREADTH_SEARCH = 32, 128, 256
"""Links of a key, and candidates kept while a key is added and searched for: more find more and take longer."""
BYTES_BESIDE = 300
"""Of each key, beside its two bytes a number: links of the lowest level, a share of those above, and its row."""
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

        n, width = 0, 0
        name = hashlib.sha256(json.dumps([version("usearch"), LINKS, BREADTH_ADD, BREADTH_SEARCH, QUERIES, k]).encode())
        for block in blocks():
            name.update(block.tobytes())
            n, width = n + len(block), block.shape[1]
        self._index = Index(
            ndim=width, metric="ip", dtype="f16", connectivity=LINKS, expansion_add=BREADTH_ADD, expansion_search=BREADTH_SEARCH
        )
        file = cache_root() / "indexes" / f"{name.hexdigest()[:24]}.usearch"
        recall = _kept(file, self._index)
        if recall is None:
            start = 0
            for block in blocks():
                self._index.add(np.arange(start, start + len(block), dtype=np.uint64), block, threads=1)
                start += len(block)
            recall = self._recall(blocks, n, k)
            _keep(file, self._index, recall)
        self.recall: float = recall
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


def _kept(file: Path, index: Any) -> float | None:
    """Read an index that was kept, and return its recall; ``None`` where there is none, or its bytes are not its own."""
    try:
        note, data = json.loads(file.with_suffix(".json").read_bytes()), file.read_bytes()
        if note["sha256"] != hashlib.sha256(data).hexdigest():
            return None
        recall = float(note["recall"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    index.load(data)
    return recall


def _keep(file: Path, index: Any, recall: float) -> None:
    data = bytes(index.save())
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, data)
        write_whole(file.with_suffix(".json"), json.dumps({"sha256": hashlib.sha256(data).hexdigest(), "recall": recall}).encode())
    except OSError as error:  # the next process builds it again
        LOG.warning("the index of %d keys is not kept, since %s cannot be written: %s", len(index), file, error)
