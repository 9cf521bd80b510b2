"""The space in which keys and states are compared: as they are, centred, or whitened.

Residual states are strongly anisotropic (two states of unrelated texts have a cosine far above 0), so the plain cosine ranks them mainly by
their common mean. Centring subtracts the mean key of a layer, or of a control point and layer; whitening also gives every direction the
same variance. The plain cosine is the published choice and the default. This module knows arrays only, no files and no model.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

Similarity = Literal["cosine", "centred", "point_centred", "whitened"]
"""The map of keys and states before their cosine is computed."""

Place = tuple[int, int]
"""Control point and layer. In a space that does not tell control points apart, the control point is 0."""


class KeySpace(NamedTuple):
    """An affine map for each place, fitted to a run's keys; cosines are computed after it."""

    kind: Similarity
    means: dict[Place, Float[np.ndarray, "d"]]
    maps: dict[Place, Float[np.ndarray, "d d"]]
    """Inverse square roots of the covariances; empty unless whitened."""

    def apply(self, place: Place, rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Rows of a control point and layer in this space; rows of a place without a fit are returned unchanged."""
        place = fitted_place(self.kind, place)
        if place not in self.means:
            return rows
        moved = rows - self.means[place]
        return moved @ self.maps[place] if place in self.maps else moved


def fitted_place(kind: Similarity, place: Place) -> Place:
    """The place whose map serves a control point and layer."""
    return place if kind == "point_centred" else (0, place[1])


def fit_space(kind: Similarity, keys: Float[np.ndarray, "n d"], places: list[Place]) -> KeySpace:
    """Fit the space to raw keys; ``places[i]`` is the control point and layer of key i.

    The covariance is shrunk towards a multiple of the identity (Ledoit and Wolf 2004), since there are mostly fewer keys than
    dimensions. A place with fewer than two keys is not fitted.
    """
    means: dict[Place, np.ndarray] = {}
    maps: dict[Place, np.ndarray] = {}
    if kind == "cosine":
        return KeySpace(kind, means, maps)
    places = [fitted_place(kind, place) for place in places]
    for place in sorted(set(places)):
        rows = np.asarray(keys, np.float64)[[i for i, own in enumerate(places) if own == place]]
        if len(rows) < 2:
            continue
        means[place] = rows.mean(axis=0)
        if kind == "whitened":
            from sklearn.covariance import ledoit_wolf  # costs a second to import

            variances, axes = np.linalg.eigh(ledoit_wolf(rows)[0])
            maps[place] = (axes / np.sqrt(np.maximum(variances, 1e-12))) @ axes.T
    return KeySpace(kind, means, maps)


def apply_space(space: KeySpace, keys: Float[np.ndarray, "n d"], places: list[Place]) -> Float[np.ndarray, "n d"]:
    """Keys of several places in the space, each mapped by its own; the plain space returns them unchanged."""
    if space.kind == "cosine":
        return keys
    moved = np.asarray(keys, np.float64).copy()
    for place in sorted(set(places)):
        own = [i for i, each in enumerate(places) if each == place]
        moved[own] = space.apply(place, moved[own])
    return moved
