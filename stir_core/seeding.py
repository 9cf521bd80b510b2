"""Random choices are seeded by name, so that a result never depends on batch size, order or the other answers of a batch.

``seed_for(7, "rollout", problem_id, k)`` is the same number on every machine and in every batch.
"""

import hashlib

import numpy as np


def seed_for(run_seed: int, *name: str | int) -> int:
    """A 63-bit seed for the random choice called ``name`` in the run seeded ``run_seed``.

    The name's parts are joined with their types, so ``("a", 1)`` and ``("a", "1")`` differ.
    """
    text = "\x1f".join([str(run_seed), *(f"{type(part).__name__}:{part}" for part in name)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator_for(run_seed: int, *name: str | int) -> np.random.Generator:
    """A NumPy generator (Philox, counter based) for the random choice called ``name``."""
    return np.random.Generator(np.random.Philox(seed_for(run_seed, *name)))
