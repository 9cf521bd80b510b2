"""From continuations to causal value: advantages with intervals, and how well the gate's figures predict them. Pure numbers, no model."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np
from scipy.special import stdtrit

from stir_core.evaluate.statistics import FEWEST_PROBLEMS, LEVEL, clustered_difference, clustered_mean, holm, jackknife, verdict_of
from stir_core.findings import Advantage, ArmEffect, Bin, CausalPoint, Predictor, Roll

BINS = 5
"""Bins of the calibration; fewer where a bin would hold less than four candidates."""

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


def effect(rolls: Rolls, states: list[StateId], arm: Callable[[StateId], str | None], name: str, against: str) -> ArmEffect | None:
    """One arm against ``"null"`` or ``"random"``; ``None`` where no state has both.

    Args:
        arm: state -> its arm, which may be another entry at each state; ``None`` where it has none.
    """
    named = [(state, own) for state in states if (own := arm(state)) is not None]
    wins = [(state, gaps(rolls, state, own, against, right)) for state, own in named]
    tokens = [(state, gaps(rolls, state, own, against, length)) for state, own in named]
    flat = [gap for _, group in wins for gap in group]
    if not flat:
        return None
    by_problem = problem_groups(wins)
    advantage, p = clustered_difference(by_problem)
    return ArmEffect(
        arm=name,
        against=against,
        advantage=advantage,
        tokens=clustered_mean(problem_groups(tokens)),
        states=sum(bool(group) for _, group in wins),
        problems=len(by_problem),
        pairs=len(flat),
        won=sum(gap > 0 for gap in flat),
        lost=sum(gap < 0 for gap in flat),
        p=p,
    )


def problem_groups(values: Iterable[tuple[StateId, Iterable[ValueT]]]) -> list[list[ValueT]]:
    """Values of states, grouped by problem; problems without values are left out."""
    groups: dict[str, list[ValueT]] = defaultdict(list)
    for (problem, _), own in values:
        groups[problem] += own
    return [group for group in groups.values() if group]


def advantages(rolls: Rolls, entries: Iterable[str], states: list[StateId]) -> list[Advantage]:
    """Causal value of every action that was tried, over its states; p and verdicts are corrected for their number (Holm)."""
    tried = {id_: effect(rolls, states, lambda state, id_=id_: id_ if (state, id_) in rolls else None, id_, "null") for id_ in entries}
    found = {id_: measured for id_, measured in tried.items() if measured is not None}
    adjusted = holm({id_: measured.p for id_, measured in found.items() if measured.p is not None})
    return [
        Advantage(
            entry_id=id_,
            **dict(measured.advantage),
            **{field: getattr(measured, field) for field in ("tokens", "states", "problems", "pairs", "won", "lost", "p")},
            p_holm=adjusted.get(id_),
            verdict=verdict_of(measured.advantage.value, adjusted.get(id_)),
        )
        for id_, measured in found.items()
    ]


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


def predictor(name: str, points: list[CausalPoint]) -> Predictor:
    """Rank correlation and area under the ROC curve of one of the gate's figures against the measured advantage."""
    usable = [(point, seen) for point in points if (seen := PREDICTORS[name](point)) is not None]
    predicted = np.array([seen for _, seen in usable])
    measured = np.array([point.advantage for point, _ in usable])
    helps, harms = measured > 0, measured < 0
    rho, interval = None, (None, None)
    if len(usable) >= 3 and np.ptp(predicted) > 0 and np.ptp(measured) > 0:
        rho = _spearman(predicted, measured)
        interval = _spearman_interval(predicted, measured, np.array([point.problem_id for point, _ in usable]))
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


def calibration(points: list[CausalPoint], *, bins: int = BINS) -> tuple[Bin, ...]:
    """Candidates in equally large bins of predicted margin, with the mean measured advantage of each."""
    ordered = sorted(points, key=lambda point: point.margin)
    parts = [part for part in np.array_split(np.arange(len(ordered)), min(bins, max(1, len(ordered) // 4))) if len(part)]
    filled: list[Bin] = []
    for part in parts:
        own = [ordered[j] for j in part]
        measured = clustered_mean(problem_groups(((point.problem_id, point.m), [point.advantage]) for point in own))
        margins = [point.margin for point in own]
        filled.append(Bin(low=min(margins), high=max(margins), points=len(own), predicted=float(np.mean(margins)), measured=measured))
    return tuple(filled)


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])  # Spearman's rho is Pearson's over ranks


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties averaged, as ``scipy.stats.rankdata``, which takes most of a second to import."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _spearman_interval(a: np.ndarray, b: np.ndarray, problems: np.ndarray) -> tuple[float | None, float | None]:
    """Fisher's z with the standard error of a jackknife over problems, and Student's t."""
    names = np.unique(problems)
    left_out = [(a[problems != name], b[problems != name]) for name in names]
    if len(names) < FEWEST_PROBLEMS or not all(np.ptp(x) > 0 and np.ptp(y) > 0 for x, y in left_out):
        return None, None
    z = np.arctanh(np.clip([_spearman(x, y) for x, y in ((a, b), *left_out)], -1 + 1e-9, 1 - 1e-9))
    half = stdtrit(len(names) - 1, 1 - LEVEL / 2) * jackknife(z[1:])
    return (float(np.tanh(z[0] - half)), float(np.tanh(z[0] + half))) if half > 0 else (None, None)
