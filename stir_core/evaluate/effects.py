"""From continuations to causal value: advantages with intervals, and how well the gate's figures predict them. Pure numbers, no model."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np
from scipy.special import stdtrit

from stir_core.evaluate.statistics import (
    FEWEST_PROBLEMS,
    LEVEL,
    clustered_difference,
    clustered_mean,
    clustered_share,
    degrees_of_freedom,
    holm,
    jackknife,
    verdict_of,
)
from stir_core.findings import Advantage, ArmEffect, Bin, CausalPoint, OwnOutcome, Predictor, Roll

BINS = 5
"""Bins of the calibration; fewer where a bin would hold less than four candidates."""
NULL_ARM, RANDOM_ARM = "null", "random"
"""The arms of every study: no impulse, and noise of the norm of the chosen (or the own) action's impulse."""
OWN, RETRIEVED, ANOTHER, SHUFFLED, PLANTED = (
    "own action",
    "retrieved action",
    "other problem's action",
    "shuffled labels",
    "planted direction",
)
"""The other arms of the study ``own``, as ``evaluate.own`` makes them."""


def arm_at(arm: str, layer: int) -> str:
    """The own action, or noise of its norm, at another layer than the study's."""
    return f"{arm}, layer {layer}"


WORTH_HAVING = 0.1
"""A gain in the share of right answers. "mechanism empty" has to exclude one of this size."""

ValueT = TypeVar("ValueT")
StateId = tuple[str, int, int | None]
"""Problem id, control point, and rollout (``None``: a held-out answer)."""


Rolls = dict[tuple[StateId, str], dict[int, Roll]]
"""Continuations by (state, arm), then by repetition."""


def by_arm(rolls: Iterable[Roll]) -> Rolls:
    """Continuations grouped by state and arm, then by repetition."""
    groups: Rolls = defaultdict(dict)
    for roll in rolls:
        groups[roll.state, roll.arm][roll.rep] = roll
    return groups


def gaps(rolls: Rolls, state: StateId, arm: str, against: str, of: Callable[[Roll], float]) -> list[float]:
    """Differences between two arms at a state, one for each repetition that both have."""
    return [of(ours) - of(theirs) for ours, theirs in paired(rolls, state, arm, against)]


def paired(rolls: Rolls, state: StateId, arm: str, against: str) -> list[tuple[Roll, Roll]]:
    """Continuations of a state under two arms, one pair for each repetition that both have."""
    ours, theirs = rolls.get((state, arm), {}), rolls.get((state, against), {})
    return [(ours[rep], theirs[rep]) for rep in sorted(ours.keys() & theirs.keys())]


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
    shares = [
        clustered_share(problem_groups((state, [right(pair[side]) for pair in paired(rolls, state, own, against)]) for state, own in named))
        for side in (0, 1)
    ]
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
        accuracy=shares[0],
        accuracy_against=shares[1],
    )


def own_effects(rolls: Rolls, states: list[StateId], layers: Iterable[int] = ()) -> list[ArmEffect]:
    """The comparisons of the study ``own``: every arm with null, corrected for their number (Holm), then those that a verdict takes.

    Args:
        layers: further ones. Their comparisons with null come last, and are a family of their own, so that asking for them later does not
            change what was found before.
    """
    arms = (OWN, RETRIEVED, ANOTHER, SHUFFLED, RANDOM_ARM, PLANTED)
    compared = [(arm, NULL_ARM) for arm in arms]
    compared += [(OWN, RANDOM_ARM), (OWN, SHUFFLED), (OWN, RETRIEVED), (RETRIEVED, RANDOM_ARM)]
    further: list[tuple[str, str]] = []
    for own, noise in ((arm_at(OWN, layer), arm_at(RANDOM_ARM, layer)) for layer in layers):
        further += [(own, NULL_ARM), (noise, NULL_ARM), (own, noise)]
    return [*_family(rolls, states, compared), *_family(rolls, states, further)]


def _family(rolls: Rolls, states: list[StateId], compared: list[tuple[str, str]]) -> list[ArmEffect]:
    made = [effect(rolls, states, lambda state, arm=arm: arm, arm, against) for arm, against in compared]
    found = [each for each in made if each is not None]
    adjusted = holm({each.arm: each.p for each in found if each.against == NULL_ARM and each.p is not None})
    return [each.replaced(p_holm=adjusted.get(each.arm)) if each.against == NULL_ARM else each for each in found]


def own_verdict(effects: Iterable[ArmEffect]) -> tuple[OwnOutcome, str]:
    """What the study ``own`` shows, in a word and in a sentence; the only place that decides it.

    An arm helps where its difference from null is above 0 with a corrected p below 0.05. An own action that helps counts only if it also
    does better than noise of its norm and than its action with shuffled labels, and a retrieved one if it does better than noise. That
    something does not help is said only where the whole interval lies below :data:`WORTH_HAVING`, or, of the retrieved action, where the
    own one did better.

    Args:
        effects: from :func:`own_effects`.
    """
    found = {(each.arm, each.against): each for each in effects}
    own, retrieved = found.get((OWN, NULL_ARM)), found.get((RETRIEVED, NULL_ARM))
    if own is None or own.p_holm is None:
        problems = 0 if own is None else own.problems
        return "cannot tell", f"There are undecided states of {problems} problems, and an interval takes at least {FEWEST_PROBLEMS}."
    helping = [arm for (arm, against), each in found.items() if against == NULL_ARM and _helps(each, each.p_holm)]
    if OWN not in helping:
        harms = verdict_of(own.advantage.value, own.p_holm) == "harms"
        said = f"A problem's own action {'harms' if harms else 'is not seen to help'}: {own.advantage:+.1%}"
        if own.advantage.high is None or own.advantage.high >= WORTH_HAVING:
            return "cannot tell", f"{said}. A gain of {100 * WORTH_HAVING:.0f} points is not excluded."
        said += f". A gain of {100 * WORTH_HAVING:.0f} points is excluded"
        if PLANTED in helping:
            planted = found[PLANTED, NULL_ARM].advantage
            return "mining at fault", f"{said}. The planted direction of the same norm does help: {planted:+.1%}."
        if helping:
            return "cannot tell", f"{said}. But an impulse can help here: {_listed(helping)} did."
        return "mechanism empty", f"{said}, at this layer and strength."
    said = f"A problem's own action helps: {own.advantage:+.1%}"
    if equal := [arm for arm in (RANDOM_ARM, SHUFFLED) if (OWN, arm) in found and not _helps(found[OWN, arm], found[OWN, arm].p)]:
        return "cannot tell", f"{said}. But it is not seen to do better than {_listed(equal)}, so its direction may not matter."
    if retrieved is None or retrieved.p_holm is None:
        return "cannot tell", f"{said}. Actions of other problems were tried on too few problems."
    other, noise, behind = f"{retrieved.advantage:+.1%}", found.get((RETRIEVED, RANDOM_ARM)), found.get((OWN, RETRIEVED))
    if RETRIEVED in helping and noise is not None and _helps(noise, noise.p):
        return "works", f"{said}. So does what is retrieved from other problems: {other}."
    if behind is not None and _helps(behind, behind.p):
        return "retrieval at fault", f"{said}. What is retrieved from other problems does worse than that ({other})."
    return "cannot tell", f"{said}. Whether what is retrieved from other problems does is open: {other}."


def _helps(effect: ArmEffect, p: float | None) -> bool:
    return verdict_of(effect.advantage.value, p) == "helps"


def _listed(arms: list[str]) -> str:
    names = {RANDOM_ARM: "noise of its norm", SHUFFLED: "the same action from shuffled labels"}
    placed = [arm.partition(", layer ") for arm in arms]
    return " and ".join(names.get(arm, f"the {arm}") + (f" at layer {layer}" if layer else "") for arm, _, layer in placed)


def problem_groups(values: Iterable[tuple[StateId, Iterable[ValueT]]]) -> list[list[ValueT]]:
    """Values of states, grouped by problem; problems without values are left out."""
    groups: dict[str, list[ValueT]] = defaultdict(list)
    for (problem, *_), own in values:
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
        measured = clustered_mean(problem_groups(((point.problem_id, point.m, None), [point.advantage]) for point in own))
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
    names, sizes = np.unique(problems, return_counts=True)
    left_out = [(a[problems != name], b[problems != name]) for name in names]
    if len(names) < FEWEST_PROBLEMS or not all(np.ptp(x) > 0 and np.ptp(y) > 0 for x, y in left_out):
        return None, None
    z = np.arctanh(np.clip([_spearman(x, y) for x, y in ((a, b), *left_out)], -1 + 1e-9, 1 - 1e-9))
    half = stdtrit(degrees_of_freedom(sizes), 1 - LEVEL / 2) * jackknife(z[1:])
    return (float(np.tanh(z[0] - half)), float(np.tanh(z[0] + half))) if half > 0 else (None, None)
