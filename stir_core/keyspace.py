"""The space in which keys and states are compared: as they are, centred, or whitened.

Residual states are strongly anisotropic (two states of unrelated texts have a cosine far above 0), so the plain cosine ranks them mainly by
their common mean. Centring subtracts the mean key of a layer; whitening also gives every direction the same variance. The plain cosine is
the published choice and the default. This module knows arrays only, no files and no model.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

Similarity = Literal["cosine", "centred", "whitened"]
"""The map of keys and states before their cosine is computed."""


class KeySpace(NamedTuple):
    """An affine map for each layer, fitted to a run's keys; cosines are computed after it."""

    kind: Similarity
    means: dict[int, Float[np.ndarray, "d"]]
    maps: dict[int, Float[np.ndarray, "d d"]]
    """Inverse square roots of the covariances; empty unless whitened."""

    def apply(self, layer: int, rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Rows of a layer in this space; rows of a layer without a fit are returned unchanged."""
        if layer not in self.means:
            return rows
        moved = rows - self.means[layer]
        return moved @ self.maps[layer] if layer in self.maps else moved


def fit_space(kind: Similarity, keys: Float[np.ndarray, "n d"], layers: list[int]) -> KeySpace:
    """Fit the space to raw keys; ``layers[i]`` is the layer of key i.

    The covariance is shrunk towards a multiple of the identity (Ledoit and Wolf 2004), since there are mostly fewer keys than
    dimensions. A layer with fewer than two keys is not fitted.
    """
    means: dict[int, np.ndarray] = {}
    maps: dict[int, np.ndarray] = {}
    if kind == "cosine":
        return KeySpace(kind, means, maps)
    for layer in sorted(set(layers)):
        rows = np.asarray(keys, np.float64)[[i for i, own in enumerate(layers) if own == layer]]
        if len(rows) < 2:
            continue
        means[layer] = rows.mean(axis=0)
        if kind == "whitened":
            from sklearn.covariance import ledoit_wolf  # costs a second to import

            variances, axes = np.linalg.eigh(ledoit_wolf(rows)[0])
            maps[layer] = (axes / np.sqrt(np.maximum(variances, 1e-12))) @ axes.T
    return KeySpace(kind, means, maps)


def apply_space(space: KeySpace, keys: Float[np.ndarray, "n d"], layers: list[int]) -> Float[np.ndarray, "n d"]:
    """Keys of several layers in the space, each mapped by its own layer; the plain space returns them unchanged."""
    if space.kind == "cosine":
        return keys
    moved = np.asarray(keys, np.float64).copy()
    for layer in sorted(set(layers)):
        own = [i for i, each in enumerate(layers) if each == layer]
        moved[own] = space.apply(layer, moved[own])
    return moved
