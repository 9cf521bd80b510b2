"""Compare two libraries of one model: which entries have the same direction, and how far their spans agree.

Entries are only compared at the same control point and layer, since vectors mean something else elsewhere. Every figure has a baseline,
since in few dimensions the best of many random directions has a high cosine, too.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from stir_core.basis.geometry import cosines
from stir_core.basis.selection import unit_rows

Site = tuple[int, int]
"""Control point and layer."""


class Match(NamedTuple):
    """Two matched entries, as row numbers."""

    one: int
    other: int
    cosine: float


class Spans(NamedTuple):
    """How far two spans agree."""

    dimensions: tuple[int, int]
    """Numbers of leading directions that hold the given share of each set's squared length."""
    cosines: tuple[float, ...]
    """Cosines of the principal angles, largest first; as many as the smaller span has dimensions."""
    overlap: float
    """Mean squared cosine: 1 when the smaller span lies in the larger one."""
    by_chance: float
    """Expected overlap of two random spans of these dimensions."""


def matches(
    one: Float[np.ndarray, "n d"],
    sites: Sequence[Site],
    other: Float[np.ndarray, "k d"],
    other_sites: Sequence[Site],
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
    for here, there, near in _by_site(one, sites, other, other_sites):
        if assign:
            from scipy.optimize import linear_sum_assignment

            pairs = zip(*linear_sum_assignment(near, maximize=True), strict=True)
        else:
            forth, back = near.argmax(axis=1), near.argmax(axis=0)
            pairs = ((i, j) for i, j in enumerate(forth) if back[j] == i)
        found += [Match(here[i], there[j], float(near[i, j])) for i, j in pairs if near[i, j] >= at_least]
    return sorted(found, key=lambda match: (-match.cosine, match.one))


def best_cosines(
    one: Float[np.ndarray, "n d"], sites: Sequence[Site], other: Float[np.ndarray, "k d"], other_sites: Sequence[Site]
) -> Float[np.ndarray, "n"]:
    """Cosine of every entry with the nearest one of the other library at its site; NaN if the other has none there."""
    best = np.full(len(one), np.nan)
    for here, _, near in _by_site(one, sites, other, other_sites):
        best[here] = near.max(axis=1)
    return best


def moved_on(sites: Sequence[Site]) -> list[Site]:
    """The sites with each control point replaced by the next one in use at its layer: a baseline of entries that do not correspond."""
    steps: dict[int, list[int]] = {}
    for m, layer in sorted(set(sites)):
        steps.setdefault(layer, []).append(m)
    following = {(m, layer): (ms[(i + 1) % len(ms)], layer) for layer, ms in steps.items() if len(ms) > 1 for i, m in enumerate(ms)}
    return [following.get(site, (-1, site[1])) for site in sites]


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
    angle_cosines = np.clip(np.linalg.svd(left @ right.T, compute_uv=False), 0.0, 1.0)
    dimensions = len(left), len(right)
    return Spans(dimensions, tuple(angle_cosines.tolist()), float(np.mean(angle_cosines**2)), max(dimensions) / one.shape[1])


def _leading(rows: Float[np.ndarray, "n d"], share: float) -> Float[np.ndarray, "r d"]:
    _, singular, axes = np.linalg.svd(unit_rows(rows), full_matrices=False)
    held = np.cumsum(singular**2) / np.square(singular).sum()
    return axes[: int(np.searchsorted(held, share - 1e-9)) + 1]


def _by_site(
    one: Float[np.ndarray, "n d"], sites: Sequence[Site], other: Float[np.ndarray, "k d"], other_sites: Sequence[Site]
) -> list[tuple[list[int], list[int], Float[np.ndarray, "a b"]]]:
    mine, theirs = _rows_of(sites), _rows_of(other_sites)
    shared = sorted(mine.keys() & theirs.keys())
    return [(mine[site], theirs[site], cosines(one[mine[site]], other[theirs[site]])) for site in shared]


def _rows_of(sites: Sequence[Site]) -> dict[Site, list[int]]:
    rows: dict[Site, list[int]] = {}
    for row, site in enumerate(sites):
        rows.setdefault(site, []).append(row)
    return rows
