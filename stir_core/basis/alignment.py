"""Two libraries of one model held against each other: which entries are the same direction, and how far their spans agree.

Entries are only compared at the same control point and layer: elsewhere vectors mean something else. Every figure has a baseline beside
it, since in few dimensions the best of many random directions is no stranger either.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from stir_core.basis.geometry import cosines
from stir_core.basis.selection import unit_rows

Place = tuple[int, int]
"""Control point and layer."""


class Match(NamedTuple):
    """Two entries that are each other's, as row numbers."""

    one: int
    other: int
    cosine: float


class Spans(NamedTuple):
    """How far two spans agree."""

    dimensions: tuple[int, int]
    """Leading directions of each that hold the wanted share of the squared length."""
    cosines: tuple[float, ...]
    """Cosines of the principal angles, largest first; as many as the smaller span has dimensions."""
    overlap: float
    """Mean squared cosine: 1 when the smaller span lies in the larger one."""
    by_chance: float
    """The same, expected of two random spans of these dimensions."""


def matches(
    one: Float[np.ndarray, "n d"],
    places: Sequence[Place],
    other: Float[np.ndarray, "k d"],
    other_places: Sequence[Place],
    *,
    at_least: float,
    assign: bool = False,
) -> list[Match]:
    """Pairs of entries at the same control point and layer, most alike first.

    Args:
        at_least: smallest cosine of a pair.
        assign: pair by the assignment with the largest sum of cosines (Kuhn 1955) instead of mutual nearest neighbours.
    """
    found: list[Match] = []
    for here, there, near in _by_place(one, places, other, other_places):
        if assign:
            from scipy.optimize import linear_sum_assignment

            pairs = zip(*linear_sum_assignment(near, maximize=True), strict=True)
        else:
            forth, back = near.argmax(axis=1), near.argmax(axis=0)
            pairs = ((i, j) for i, j in enumerate(forth) if back[j] == i)
        found += [Match(here[i], there[j], float(near[i, j])) for i, j in pairs if near[i, j] >= at_least]
    return sorted(found, key=lambda match: (-match.cosine, match.one))


def best_cosines(
    one: Float[np.ndarray, "n d"], places: Sequence[Place], other: Float[np.ndarray, "k d"], other_places: Sequence[Place]
) -> Float[np.ndarray, "n"]:
    """Cosine of every entry with the nearest one of the other library at its place; NaN where the other has none there."""
    best = np.full(len(one), np.nan)
    for here, _, near in _by_place(one, places, other, other_places):
        best[here] = near.max(axis=1)
    return best


def moved_on(places: Sequence[Place]) -> list[Place]:
    """The places with their control points shifted to the next one in use at the layer: a baseline of entries that are no counterparts."""
    steps: dict[int, list[int]] = {}
    for m, layer in sorted(set(places)):
        steps.setdefault(layer, []).append(m)
    following = {(m, layer): (ms[(i + 1) % len(ms)], layer) for layer, ms in steps.items() if len(ms) > 1 for i, m in enumerate(ms)}
    return [following.get(place, (-1, place[1])) for place in places]


def best_by_chance(n: int, d: int) -> float:
    """Expected largest cosine of a direction with ``n`` random ones in ``d`` dimensions, by integrating its distribution.

    The squared cosine of two random directions is Beta(1/2, (d - 1)/2) distributed.
    """
    from scipy.special import betainc

    if n < 1 or d < 2:
        return 1.0 if n else 0.0
    t = np.linspace(-1.0, 1.0, 8001)
    below = 0.5 + 0.5 * np.sign(t) * betainc(0.5, (d - 1) / 2, t**2)
    return float(1.0 - np.trapezoid(below**n, t))


def spans(one: Float[np.ndarray, "n d"], other: Float[np.ndarray, "k d"], *, share: float = 0.9) -> Spans | None:
    """Principal angles between the leading directions of two sets of unit vectors (Bjorck and Golub 1973); ``None`` for an empty set.

    Args:
        share: of the squared length of each set that its leading directions hold.
    """
    if not len(one) or not len(other):
        return None
    left, right = _leading(one, share), _leading(other, share)
    found = np.clip(np.linalg.svd(left @ right.T, compute_uv=False), 0.0, 1.0)
    dimensions = len(left), len(right)
    return Spans(dimensions, tuple(found.tolist()), float(np.mean(found**2)), max(dimensions) / one.shape[1])


def _leading(rows: Float[np.ndarray, "n d"], share: float) -> Float[np.ndarray, "r d"]:
    _, singular, axes = np.linalg.svd(unit_rows(rows), full_matrices=False)
    held = np.cumsum(singular**2) / np.square(singular).sum()
    return axes[: int(np.searchsorted(held, share - 1e-9)) + 1]


def _by_place(
    one: Float[np.ndarray, "n d"], places: Sequence[Place], other: Float[np.ndarray, "k d"], other_places: Sequence[Place]
) -> list[tuple[list[int], list[int], Float[np.ndarray, "a b"]]]:
    mine, theirs = _rows_of(places), _rows_of(other_places)
    shared = sorted(mine.keys() & theirs.keys())
    return [(mine[place], theirs[place], cosines(one[mine[place]], other[theirs[place]])) for place in shared]


def _rows_of(places: Sequence[Place]) -> dict[Place, list[int]]:
    rows: dict[Place, list[int]] = {}
    for row, place in enumerate(places):
        rows.setdefault(place, []).append(row)
    return rows
