"""Controls and decompositions of a direction: its share in a subspace, erasure of a label, and a sparse sum over a dictionary.

Arrays in, numbers out: no model, no files.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from stir_core.basis.selection import unit_rows

LEAST_GAIN = 1e-6
"""A feature whose inner product with what is left of a unit direction is not above it adds nothing but rounding."""


def principal_axes(states: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "r d"]:
    """Orthonormal principal directions of the states around their mean, largest variance first, without those that do not vary."""
    centred = np.asarray(states, np.float64) - np.mean(states, axis=0, dtype=np.float64)
    wide = centred.shape[1] > len(centred)
    variances, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)  # the smaller of the two products
    seen = np.flatnonzero(variances > max(variances[-1], 0.0) * max(centred.shape) * np.finfo(np.float64).eps)[::-1]
    return (centred.T @ vectors[:, seen] / np.sqrt(variances[seen])).T if wide else vectors[:, seen].T


def share_in_span(directions: Float[np.ndarray, "n d"], axes: Float[np.ndarray, "k d"]) -> Float[np.ndarray, "n"]:
    """Share of each direction's squared norm that lies in the span of the orthonormal ``axes``, from 0 to 1."""
    return np.square(unit_rows(directions) @ axes.T).sum(axis=1)


def share_by_chance(k: int, d: int, quantile: float) -> float:
    """Quantile of the share of a random direction in ``k`` of ``d`` dimensions, which is Beta(k/2, (d - k)/2) distributed with mean k/d."""
    from scipy.stats import beta

    return 1.0 if k >= d else float(beta.ppf(quantile, k / 2, (d - k) / 2))


class Eraser(NamedTuple):
    """An affine map of states after which no linear read-out tells a label: ``x - (read @ (x - mean)) * removed``."""

    mean: Float[np.ndarray, "d"]
    removed: Float[np.ndarray, "d"]
    """Covariance of the states with the label: the direction that is taken out."""
    read: Float[np.ndarray, "d"]
    """How much of it is taken out; ``read @ removed`` is 1."""

    def states(self, rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """The states without the label."""
        return rows - ((rows - self.mean) @ self.read)[:, None] * self.removed


def leace(states: Float[np.ndarray, "n d"], labels: Float[np.ndarray, "n"]) -> Eraser | None:
    """The eraser of one label (LEACE; Belrose et al. 2023, arXiv 2306.03819, theorem 4.3, for a label of one dimension).

    Afterwards the states have no covariance with the label, exactly, and of all affine maps with that property it changes them least, in
    the metric of their covariance. The covariance is shrunk (Ledoit and Wolf 2004), since states are seldom many more than dimensions; the
    property holds for any.

    Returns:
        ``None`` where the states have no covariance with the label, so that nothing is to be erased.
    """
    from sklearn.covariance import ledoit_wolf

    mean = states.mean(axis=0)
    centred = np.asarray(states, np.float64) - mean
    cross = centred.T @ (labels - labels.mean()) / max(1, len(labels))
    if not np.linalg.norm(cross) > 1e-12 * np.linalg.norm(centred):
        return None
    read = np.linalg.solve(ledoit_wolf(centred, assume_centered=True)[0], cross)
    return Eraser(mean, cross, read / (read @ cross))


class Pursuit(NamedTuple):
    """A sparse sum of a dictionary's features with weights above 0, for each of some directions."""

    features: list[Int[np.ndarray, "k"]]
    """In the order they were taken."""
    weights: list[Float[np.ndarray, "k"]]
    """For features and directions of unit norm."""
    explained: Float[np.ndarray, "n"]
    """Share of each direction's squared norm that its sum explains, from 0 to 1."""


def matching_pursuit(directions: Float[np.ndarray, "n d"], features: Float[np.ndarray, "k d"], most: int) -> Pursuit:
    """Non-negative orthogonal matching pursuit of each direction (Bruckstein, Elad and Zibulevsky 2008).

    The feature with the largest inner product with what is left is added, and all weights are fitted again by non-negative least squares,
    up to ``most`` features.

    Args:
        features: rows of unit norm, or of zeros, which are never taken.
    """
    from scipy.optimize import nnls

    targets = unit_rows(directions)
    left = targets.copy()
    taken: list[list[int]] = [[] for _ in targets]
    weights: list[np.ndarray] = [np.empty(0) for _ in targets]
    for _ in range(most):
        products = features @ left.T.astype(features.dtype)
        best = products.argmax(axis=0)
        for i in np.flatnonzero(products[best, np.arange(len(left))] > LEAST_GAIN):
            if int(best[i]) in taken[i]:  # only rounding is left to explain
                continue
            taken[i].append(int(best[i]))
            atoms = features[taken[i]].astype(np.float64)
            weights[i] = nnls(atoms.T, targets[i])[0]
            left[i] = targets[i] - weights[i] @ atoms
    kept = [row > 0 for row in weights]
    found = [np.array(row, int)[keep] for row, keep in zip(taken, kept, strict=True)]
    return Pursuit(found, [row[keep] for row, keep in zip(weights, kept, strict=True)], 1 - np.square(left).sum(axis=1))
