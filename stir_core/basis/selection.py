"""Choose the control basis: greedy MAP of a quality-weighted determinantal point process, and two simple baselines.

Objective: ``sum_i log(1 + q_i) + diversity * logdet(K_S + epsilon * I)`` over the cosine kernel ``K`` of the keys. The
greedy step keeps an incremental Cholesky factor (Chen, Zhang and Zhou 2018, arXiv 1709.05135): O(n B d) time and O(n B)
memory, never an n x n kernel.
"""

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from stir_core.config import SELECTORS, BasisConfig
from stir_core.errors import ConfigError, SelectionError
from stir_core.records import Entry
from stir_core.seeding import generator_for

FLOOR = 1e-12
"""Smallest Schur complement inside a logarithm; an exact duplicate still has about 2 * epsilon."""
TIE = 1e-6
"""Gains closer than this tie: keys that are equal but for the rounding of states must not be picked in another order each time."""


class Picked(NamedTuple):
    """One choice: index of the entry, whether it was forced, and its marginal gain at that time."""

    index: int
    forced: bool
    gain: float | None


def unit_rows(keys: np.ndarray) -> Float[np.ndarray, "n d"]:
    """Rows scaled to unit length, in float64.

    Raises:
        SelectionError: a row is zero or not finite.
    """
    rows = np.array(keys, dtype=np.float64)  # a copy of its own, scaled in place
    if rows.ndim != 2:
        raise SelectionError(f"keys have shape {list(rows.shape)}: give one row per key, [n, d_model]")
    norms = np.linalg.norm(rows, axis=1)
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(bad):
        raise SelectionError(f"key {bad[0]} is zero or not finite: it has no direction, leave it out")
    rows /= norms[:, None]
    return rows


def greedy_map(
    units: Float[np.ndarray, "n d"],
    quality: np.ndarray,
    budget: int,
    *,
    diversity: float = 0.5,
    epsilon: float = 1e-4,
    forced: tuple[int, ...] = (),
    conditioned: bool = True,
) -> list[Picked]:
    """Greedy maximiser of the objective, in pick order; ties (within :data:`TIE`) go to the lowest index.

    Args:
        units: unit-length keys, ``[n, d]``.
        quality: reward gaps, ``[n]``; a negative one counts as 0, as published.
        budget: maximum number of picks, forced ones included.
        forced: indices taken first, in this order.
        conditioned: whether the diversity of later picks takes the forced ones into account (False: as published).

    Raises:
        SelectionError: shapes that do not fit, a quality that is not finite, or a budget below 1.
    """
    n = len(units)
    quality = np.asarray(quality, dtype=np.float64)
    if quality.shape != (n,):
        raise SelectionError(f"quality has shape {list(quality.shape)} for {n} keys: give one number per key")
    if not np.isfinite(quality).all():
        raise SelectionError(f"quality {quality[~np.isfinite(quality)][0]} is not a finite number: leave that entry out")
    if budget < 1:
        raise SelectionError(f"budget {budget} selects nothing: give at least 1")
    forced = forced[:budget]
    reward = np.log1p(np.maximum(quality, 0.0))
    open_reward = reward.copy()  # minus infinity where picked
    schur = np.full(n, 1.0 + epsilon)
    factor = np.empty((min(budget, n), n))  # one row per pick: written and read whole, and never an n x n kernel
    picks: list[Picked] = []
    depth = 0

    def gain_of(index: int) -> float:
        return float(reward[index] + diversity * np.log(max(schur[index], FLOOR)))

    def absorb(index: int) -> None:
        nonlocal depth
        column = units @ units[index]
        if depth:
            column -= factor[:depth, index] @ factor[:depth]
        column[index] += epsilon
        column /= np.sqrt(max(schur[index], FLOOR))
        factor[depth] = column
        schur[:] = schur - column**2
        depth += 1

    for index in forced:
        picks.append(Picked(index, True, gain_of(index)))
        open_reward[index] = -np.inf
        if conditioned:
            absorb(index)
    while len(picks) < min(budget, n):
        gains = open_reward + diversity * np.log(np.maximum(schur, FLOOR))
        index = int((gains >= gains.max() - TIE).argmax())
        picks.append(Picked(index, False, float(gains[index])))
        open_reward[index] = -np.inf
        absorb(index)
    return picks


def select(
    entries: list[Entry], keys: Float[np.ndarray, "n d"], config: BasisConfig, *, seed: int = 0, compat: bool = False
) -> list[Picked]:
    """Choose the control basis among mined entries; indices are into ``entries``.

    Entries at a control point that retrieval never uses are left out unless ``keep_unreachable`` or ``compat``. The best
    ``min_per_control_point`` entries of each control point are forced in first, for every selector.

    Args:
        keys: in the space of comparison (raw for the plain cosine), of any length; row i belongs to ``entries[i]``.

    Raises:
        SelectionError: no entry to choose from, an unknown selector, or picks that break the rules of one.
    """
    candidates = [i for i, entry in enumerate(entries) if entry.reachable or config.keep_unreachable or compat]
    if not candidates:
        raise SelectionError(
            "no entry can be selected: nothing was mined at a reachable control point; mine more problems or more rollouts"
        )
    if config.selector not in SELECTORS:
        raise SelectionError(f'unknown selector "{config.selector}": choose {", ".join(SELECTORS)}')
    selector = SELECTORS[config.selector] or import_module(f"stir_core.basis.selectors.{config.selector}").select
    chosen = [entries[i] for i in candidates]
    forced = forced_picks(chosen, config)
    picks = selector(chosen, unit_rows(keys[candidates]), config, forced, seed, compat)
    indices = [pick.index for pick in picks]
    if not (len(set(indices)) == len(indices) <= config.budget and set(forced) <= set(indices) <= set(range(len(chosen)))):
        raise SelectionError(
            f'selector "{config.selector}" returned {len(picks)} picks: it has to return at most {config.budget} different candidates, '
            f"the {len(forced)} forced ones among them"
        )
    return [pick._replace(index=candidates[pick.index]) for pick in picks]


def forced_picks(entries: list[Entry], config: BasisConfig) -> tuple[int, ...]:
    """The best ``min_per_control_point`` entries of each control point by quality (ties: lowest index), within the budget."""
    forced: list[int] = []
    for m in sorted({entry.m for entry in entries}):
        members = [i for i, entry in enumerate(entries) if entry.m == m]
        members.sort(key=lambda i: (-entries[i].quality, i))
        forced += members[: config.min_per_control_point]
    return tuple(forced[: config.budget])


Selector = Callable[[list[Entry], np.ndarray, BasisConfig, tuple[int, ...], int, bool], list[Picked]]
"""``(candidates, unit keys [n, d], settings, forced indices, seed, compat) -> picks``, forced ones first.

Indices are into the candidates."""


def _dpp(entries: list[Entry], units: np.ndarray, config: BasisConfig, forced: tuple[int, ...], seed: int, compat: bool) -> list[Picked]:
    quality = np.array([entry.quality for entry in entries])
    return greedy_map(
        units, quality, config.budget, diversity=config.diversity, epsilon=config.epsilon, forced=forced, conditioned=not compat
    )


def _top(entries: list[Entry], units: np.ndarray, config: BasisConfig, forced: tuple[int, ...], seed: int, compat: bool) -> list[Picked]:
    order = sorted(range(len(entries)), key=lambda i: (-entries[i].quality, i))
    return _after(forced, order, config.budget)


def _random(entries: list[Entry], units: np.ndarray, config: BasisConfig, forced: tuple[int, ...], seed: int, compat: bool) -> list[Picked]:
    order = generator_for(seed, "basis", "random").permutation(len(entries)).tolist()
    return _after(forced, order, config.budget)


def _after(forced: tuple[int, ...], order: list[int], budget: int) -> list[Picked]:
    rest = [i for i in order if i not in set(forced)]
    return [Picked(i, True, None) for i in forced] + [Picked(i, False, None) for i in rest[: budget - len(forced)]]


_OWN: dict[str, Selector] = {"dpp": _dpp, "top": _top, "random": _random}
SELECTORS.update(_OWN)


def register_selector(name: str, selector: Selector) -> None:
    """Add a selector in this process; one of the same name that was registered before is replaced. Configs can then name it.

    Raises:
        ConfigError: one of the built-in selectors has that name.
    """
    if name in _OWN:
        raise ConfigError(f"{name} is one of the built-in selectors ({', '.join(_OWN)}): choose another name")
    SELECTORS[name] = selector
