"""From continuations to causal value: advantages with intervals, and how well the gate's figures predict them. Pure numbers, no model."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Literal, TypeVar

import numpy as np

from stir_core.evaluate.statistics import mcnemar
from stir_core.findings import Advantage, ArmEffect, Bin, CausalPoint, Estimate, Predictor, Roll
from stir_core.seeding import generator_for

DRAWS = 4000
"""Bootstrap resamples of an interval."""
BINS = 5
"""Bins of the calibration; fewer where a bin would hold less than four candidates."""
FEWEST_STATES = 3
"""An action that was tried at fewer states gets no verdict: resampling one or two states says nothing about others."""

ValueT = TypeVar("ValueT")
StateId = tuple[str, int]
"""Problem id and control point."""


Rolls = dict[tuple[StateId, str], dict[int, Roll]]
"""Continuations by (state, arm), then by repetition."""


def by_arm(rolls: Iterable[Roll]) -> Rolls:
    """Continuations grouped by state and arm, then by repetition."""
    groups: Rolls = defaultdict(dict)
    for roll in rolls:
        groups[(roll.problem_id, roll.m), roll.arm][roll.rep] = roll
    return groups


def gaps(rolls: Rolls, state: StateId, arm: str, against: str, of: Callable[[Roll], float]) -> list[float]:
    """Differences between two arms at a state, one for each repetition that both have."""
    ours, theirs = rolls.get((state, arm), {}), rolls.get((state, against), {})
    return [of(ours[rep]) - of(theirs[rep]) for rep in sorted(ours.keys() & theirs.keys())]


def right(roll: Roll) -> float:
    """1 for a right answer."""
    return float(roll.correct)


def length(roll: Roll) -> float:
    """Tokens of the answer."""
    return float(roll.tokens)


def two_level(groups: list[list[float]], *, seed: int = 0, name: str = "") -> Estimate:
    """Mean over all values, with a 95 % percentile interval that resamples groups and then values within each.

    Values of one state are alike (same problem, same prefix); resampled as if they were independent, the interval would be too short.

    Raises:
        ValueError: no values.
    """
    groups = [group for group in groups if group]
    if not groups:
        raise ValueError("a mean needs values")
    rng = generator_for(seed, "two-level bootstrap", name)
    sizes = np.array([len(group) for group in groups])
    longest = int(sizes.max())
    values = np.zeros((len(groups), longest))
    for i, group in enumerate(groups):
        values[i, : len(group)] = group
    means = np.empty(DRAWS)
    step = max(1, 2_000_000 // (len(groups) * longest))  # draws at a time, which bounds the memory
    for start in range(0, DRAWS, step):
        n = min(step, DRAWS - start)
        picked = rng.integers(0, len(groups), (n, len(groups)))
        within = (rng.random((n, len(groups), longest)) * sizes[picked][..., None]).astype(np.int64)
        drawn = np.where(np.arange(longest) < sizes[picked][..., None], values[picked[..., None], within], 0.0)
        means[start : start + n] = drawn.sum((1, 2)) / sizes[picked].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(value=float(values.sum() / sizes.sum()), low=float(low), high=float(high))


def effect(
    rolls: Rolls, states: list[StateId], arm: Callable[[StateId], str | None], name: str, against: str, *, seed: int
) -> ArmEffect | None:
    """One arm against ``"null"`` or ``"random"``; ``None`` where no state has both.

    Args:
        arm: state -> its arm, which may be another entry at each state; ``None`` where it has none.
    """
    named = [(state, own) for state in states if (own := arm(state)) is not None]
    wins = [gaps(rolls, state, own, against, right) for state, own in named]
    tokens = [gaps(rolls, state, own, against, length) for state, own in named]
    flat = [gap for group in wins for gap in group]
    if not flat:
        return None
    won, lost = sum(gap > 0 for gap in flat), sum(gap < 0 for gap in flat)
    # names the random streams; "nothing", the old word for null, gives stored studies the same intervals again
    pair = f"{name} {'nothing' if against == 'null' else against}"
    return ArmEffect(
        arm=name,
        against=against,
        advantage=two_level(wins, seed=seed, name=f"{pair} right"),
        tokens=two_level(tokens, seed=seed, name=f"{pair} tokens"),
        states=sum(bool(group) for group in wins),
        pairs=len(flat),
        won=won,
        lost=lost,
        p=mcnemar(won, lost),
    )


def advantage_of(rolls: Rolls, entry_id: str, states: list[StateId], *, seed: int) -> Advantage | None:
    """Causal value of one action over the states at which it was tried; ``None`` when it was not."""
    against_null = effect(rolls, states, lambda state: entry_id if (state, entry_id) in rolls else None, entry_id, "null", seed=seed)
    if against_null is None:
        return None
    return Advantage(
        entry_id=entry_id,
        value=against_null.advantage.value,
        low=against_null.advantage.low,
        high=against_null.advantage.high,
        tokens=against_null.tokens,
        states=against_null.states,
        pairs=against_null.pairs,
        won=against_null.won,
        lost=against_null.lost,
        p=against_null.p,
        verdict=_verdict(against_null),
    )


def _verdict(effect: ArmEffect) -> Literal["helps", "harms", "no effect seen"]:
    if effect.states >= FEWEST_STATES and effect.advantage.low > 0:
        return "helps"
    return "harms" if effect.states >= FEWEST_STATES and effect.advantage.high < 0 else "no effect seen"


def measured_point(rolls: Rolls, state: StateId, entry_id: str, **seen: Any) -> CausalPoint | None:
    """One candidate at one state with its measured advantage; ``None`` when it was not tried.

    Args:
        seen: the gate's figures, as :class:`~stir_core.findings.CausalPoint` has them.
    """
    wins, tokens = (gaps(rolls, state, entry_id, "null", of) for of in (right, length))
    if not wins:
        return None
    advantage, longer = float(np.mean(wins)), float(np.mean(tokens))
    return CausalPoint(problem_id=state[0], m=state[1], entry_id=entry_id, advantage=advantage, tokens=longer, pairs=len(wins), **seen)


PREDICTORS: dict[str, Callable[[CausalPoint], float | None]] = {
    "margin": attrgetter("margin"),
    "value": attrgetter("value"),
    "preview gain": attrgetter("gain"),
    "cosine": attrgetter("sim"),
}
"""The gate's figures of a candidate, by the name that reports give them."""


def predictor(name: str, points: list[CausalPoint], *, seed: int) -> Predictor:
    """Rank correlation and area under the ROC curve of one of the gate's figures against the measured advantage."""
    usable = [(point, seen) for point in points if (seen := PREDICTORS[name](point)) is not None]
    predicted = np.array([seen for _, seen in usable])
    measured = np.array([point.advantage for point, _ in usable])
    helps, harms = measured > 0, measured < 0
    rho, interval = None, (None, None)
    if len(usable) >= 3 and np.ptp(predicted) > 0 and np.ptp(measured) > 0:
        rho = _spearman(predicted, measured)
        interval = _spearman_interval(usable, seed, name)
    return Predictor(
        name=name,
        points=len(usable),
        spearman=rho,
        low=interval[0],
        high=interval[1],
        auc=area_under_roc(predicted[helps], predicted[harms]),
        positives=int(helps.sum()),
        negatives=int(harms.sum()),
    )


def area_under_roc(positives: np.ndarray, negatives: np.ndarray) -> float | None:
    """Probability that a positive is ranked above a negative, ties counted half (Mann and Whitney); ``None`` when one is missing."""
    if not len(positives) or not len(negatives):
        return None
    ranks = _ranks(np.concatenate([positives, negatives]))
    n = len(positives)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * len(negatives)))


def roc_curve(predicted: list[float], helps: list[bool]) -> tuple[list[float], list[float]]:
    """False and true positive rates as the threshold falls, from (0, 0) to (1, 1)."""
    order = np.argsort(-np.asarray(predicted), kind="stable")
    scores, labels = np.asarray(predicted)[order], np.asarray(helps, bool)[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # equal scores are one point of the curve
    true, false = np.cumsum(labels)[last], np.cumsum(~labels)[last]
    return [0.0, *(false / max(1, (~labels).sum())).tolist()], [0.0, *(true / max(1, labels.sum())).tolist()]


def calibration(points: list[CausalPoint], *, seed: int, bins: int = BINS) -> tuple[Bin, ...]:
    """Candidates in equally large bins of predicted margin, with the mean measured advantage of each."""
    ordered = sorted(points, key=lambda point: point.margin)
    parts = [part for part in np.array_split(np.arange(len(ordered)), min(bins, max(1, len(ordered) // 4))) if len(part)]
    filled: list[Bin] = []
    for i, part in enumerate(parts):
        own = [ordered[j] for j in part]
        measured = two_level(_by_state((point, point.advantage) for point in own), seed=seed, name=f"bin {i}")
        margins = [point.margin for point in own]
        filled.append(Bin(low=min(margins), high=max(margins), points=len(own), predicted=float(np.mean(margins)), measured=measured))
    return tuple(filled)


def _by_state(values: Iterable[tuple[CausalPoint, ValueT]]) -> list[list[ValueT]]:
    groups: dict[StateId, list[ValueT]] = defaultdict(list)
    for point, value in values:
        groups[point.problem_id, point.m].append(value)
    return list(groups.values())


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])  # Spearman's rho is Pearson's over ranks


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties averaged, as ``scipy.stats.rankdata``, whose checks take longer than a bootstrap has for each resample."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _spearman_interval(usable: list[tuple[CausalPoint, float]], seed: int, name: str) -> tuple[float | None, float | None]:
    groups = [np.array(group) for group in _by_state((point, (seen, point.advantage)) for point, seen in usable)]
    rng = generator_for(seed, "spearman bootstrap", name)
    draws: list[float] = []
    for _ in range(1000):
        drawn = np.concatenate([groups[j] for j in rng.integers(0, len(groups), len(groups))])
        if np.ptp(drawn[:, 0]) > 0 and np.ptp(drawn[:, 1]) > 0:
            draws.append(_spearman(drawn[:, 0], drawn[:, 1]))
    if len(draws) < 100:  # too few resamples in which both vary for an interval
        return None, None
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
