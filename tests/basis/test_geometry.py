"""Cosines, maps, orders and ranks with known answers."""

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from stir_core.basis.geometry import cluster_order, cosines, coverage, effective_rank, pca_map, umap_map


def test_cosines():
    keys = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    assert cosines(keys) == pytest.approx(np.array([[1, 0, 0.5**0.5], [0, 1, 0.5**0.5], [0.5**0.5, 0.5**0.5, 1]]))
    assert cosines(keys, keys[:1]).shape == (3, 1)


def test_effective_rank_of_known_sets():
    assert effective_rank(np.eye(5)) == pytest.approx(5)
    assert effective_rank(np.ones((4, 6))) == pytest.approx(1)


def test_clusters_stand_side_by_side():
    rng = np.random.default_rng(0)
    keys = np.repeat(np.eye(8)[:3], 5, axis=0) + 0.05 * rng.standard_normal((15, 8))
    shuffled = rng.permutation(15)
    order = cluster_order(cosines(keys[shuffled]))
    assert sorted(order) == list(range(15))
    groups = [int(shuffled[i]) // 5 for i in order]
    assert sum(a != b for a, b in pairwise(groups)) == 2


def test_coverage_is_the_cosine_with_the_nearest_selected_key():
    keys = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert coverage(keys, [0]) == pytest.approx([1, 0, 0.5**0.5])


def test_the_principal_map_is_centred_and_has_a_fixed_sign():
    keys = np.random.default_rng(1).standard_normal((20, 6))
    flat = pca_map(keys)
    assert flat.shape == (20, 2) and flat.mean(axis=0) == pytest.approx([0, 0], abs=1e-12)
    assert flat.var(axis=0)[0] >= flat.var(axis=0)[1]
    assert np.allclose(flat, pca_map(keys.copy()))
    assert pca_map(np.eye(3)[:1]).shape == (1, 2)


def test_umap_keeps_clusters_together_and_repeats():
    rng = np.random.default_rng(2)
    keys = np.repeat(np.eye(8)[:2], 12, axis=0) + 0.05 * rng.standard_normal((24, 8))
    flat = umap_map(keys, seed=3, n_neighbors=8)
    assert flat is not None and flat.shape == (24, 2) and np.isfinite(flat).all()
    first, second = flat[:12], flat[12:]
    between = np.linalg.norm(first.mean(axis=0) - second.mean(axis=0))
    assert between > 2 * max(np.linalg.norm(part - part.mean(axis=0), axis=1).mean() for part in (first, second))
    again = umap_map(keys, seed=3, n_neighbors=8)
    assert again is not None and np.array_equal(flat, again)


def test_umap_leaves_torch_its_threads():
    """In a process of its own, since numba takes the cores once in a process."""
    make = "import numpy as np, torch; from stir_core.basis.geometry import umap_map; keys = np.random.default_rng(0).random((30, 8))"
    seen = "from threadpoolctl import threadpool_info; print({x['num_threads'] for x in threadpool_info() if x['user_api'] == 'openmp'})"
    one = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    told = subprocess.run([sys.executable, "-c", f"{make}; umap_map(keys); {seen}"], capture_output=True, text=True, env=one)
    assert told.stdout == "{1}\n", told.stderr


def test_too_few_points_have_no_umap():
    assert umap_map(np.eye(5)) is None
