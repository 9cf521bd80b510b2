"""The geometry of a set of keys: cosines, a map in two dimensions, an order for heatmaps, effective rank and coverage.

A map in two dimensions distorts distances; all neighbours shown elsewhere in this project are computed in the original space.
"""

import warnings

import numpy as np
from jaxtyping import Float
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from stir_core.basis.selection import unit_rows

MIN_UMAP = 15
"""Fewer points than this get no UMAP, since they have no meaningful neighbourhoods; the principal components are shown instead."""


def cosines(keys: Float[np.ndarray, "n d"], others: Float[np.ndarray, "k d"] | None = None) -> Float[np.ndarray, "n k"]:
    """Cosine similarity of every key with every other (or with ``others``)."""
    units = unit_rows(keys)
    return np.clip(units @ (units if others is None else unit_rows(others)).T, -1.0, 1.0)


def pca_map(keys: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 2"]:
    """The first two principal components of the unit keys, signs fixed so that the largest loading is positive."""
    units = unit_rows(keys)
    centred = units - units.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    flat = centred @ axes.T
    return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))


def umap_map(
    keys: Float[np.ndarray, "n d"], *, seed: int = 0, n_neighbors: int = 15, min_dist: float = 0.1
) -> Float[np.ndarray, "n 2"] | None:
    """UMAP (McInnes et al. 2018) of the keys under the cosine metric, seeded; ``None`` below ``MIN_UMAP`` points.

    Importing umap compiles for many seconds: call this where results are stored, not where they are looked at.
    """
    if len(keys) < MIN_UMAP:
        return None
    import torch

    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # umap announces that a seed makes it single-threaded, and numba its own deprecations
            from umap import UMAP

            reducer = UMAP(n_neighbors=min(n_neighbors, len(keys) - 1), min_dist=min_dist, metric="cosine", random_state=seed)
            return np.asarray(reducer.fit_transform(unit_rows(keys)), dtype=np.float64)
    finally:  # numba, which umap computes with, gives OpenMP all cores, also for what torch computes from then on
        torch.set_num_threads(threads)


def cluster_order(cosine: Float[np.ndarray, "n n"]) -> list[int]:
    """A permutation that puts similar keys side by side: leaves of average-linkage clustering on ``1 - cosine``."""
    n = len(cosine)
    if n < 3:
        return list(range(n))
    distance = np.clip(1.0 - (cosine + cosine.T) / 2, 0.0, None)
    np.fill_diagonal(distance, 0.0)
    return [int(i) for i in leaves_list(linkage(squareform(distance, checks=False), method="average", optimal_ordering=True))]


def effective_rank(keys: Float[np.ndarray, "n d"]) -> float:
    """Exponential of the entropy of the normalised singular values of the unit keys (Roy and Vetterli 2007): 1 to min(n, d)."""
    singular = np.linalg.svd(unit_rows(keys), compute_uv=False)
    share = singular / singular.sum()
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def coverage(keys: Float[np.ndarray, "n d"], selected: list[int]) -> Float[np.ndarray, "n"]:
    """For every key the cosine with its nearest selected key (1 for the selected ones themselves)."""
    return cosines(keys, np.asarray(keys)[selected]).max(axis=1)
