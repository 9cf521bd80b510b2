"""Controls: how much of an action is the correctness that it is mined for, and how much is a confound.

Positives are the *shortest* correct rollouts and negatives the *longest* wrong ones, so an action is confounded with brevity by
construction; and with few rollouts any two groups of states differ. All controls are computed from the states of all rollouts that
reach an action's control point; nothing is decoded. A control that these states cannot answer is ``None``, never a number.
"""

from collections.abc import Mapping
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from stir_core.config import RunConfig
from stir_core.harvest.stability import Shares, prefix_keys
from stir_core.records import Control, Entry, Phase, Rollout, StateRow
from stir_core.seeding import generator_for

MOST_LABELINGS = 200
"""Up to this many distinct labellings are all tried; of more, the true one and random ones, this many in total (p resolves 0.005)."""

ControlPoint = tuple[str, int, Phase | None]
"""Problem id, control point, and the part of the answers that it lies in."""


class Pool(NamedTuple):
    """All rollouts of one problem that reach one control point, by rollout number."""

    correct: Bool[np.ndarray, "n"]
    tokens: Int[np.ndarray, "n"]
    """Generated tokens of each whole rollout."""
    rows: Int[np.ndarray, "n"]
    """Rows of the state tensors."""


class Rule(NamedTuple):
    """How mining chooses positives and negatives among labelled rollouts."""

    k_pos: int
    k_neg: int
    by_length: bool
    """Shortest correct and longest wrong first; else (no length penalty) by rollout number."""

    def choose(self, correct: Bool[np.ndarray, "n"], tokens: Int[np.ndarray, "n"]) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the positives and of the negatives, in the order of ``harvest.pairs``."""
        cost = tokens if self.by_length else np.zeros_like(tokens)
        right, wrong = np.flatnonzero(correct), np.flatnonzero(~correct)
        right, wrong = right[np.argsort(cost[right], kind="stable")], wrong[np.argsort(-cost[wrong], kind="stable")]
        return right[: self.k_pos], wrong[: self.k_neg]


ROUNDING = 1e-5
"""Part of a state's norm that float32 rounding may be; differences of means of other rollouts are hundreds of times as large."""


class Labelled(NamedTuple):
    """An action re-estimated from its rollouts under other choices and other labels; ``None`` where that is not possible."""

    matched: Float[np.ndarray, "d_model"] | None = None
    gap_matched: float | None = None
    """Mean tokens of the matched negatives minus those of the matched positives."""
    shuffled: Float[np.ndarray, "d_model"] | None = None
    p: float | None = None
    """Permutation p-value."""
    floor: float | None = None
    """Smallest p-value that these rollouts can give."""


class Controls(NamedTuple):
    """The controls of a run's actions."""

    records: list[Control]
    """One for each corrective entry, in the order of ``Entry.action_row``."""
    length_matched: Float[np.ndarray, "n_actions d_model"]
    """Actions re-estimated from rollouts matched in length; zero where that is not possible."""
    shuffled: Float[np.ndarray, "n_actions d_model"]
    """Actions re-estimated under labels shuffled within the problem; zero where that is not possible."""


def measure_controls(
    entries: list[Entry],
    actions: Float[np.ndarray, "n_actions d_model"],
    rollouts: list[Rollout],
    rows: list[StateRow],
    states: Mapping[int, Float[np.ndarray, "n_rows d_model"]],
    config: RunConfig,
    *,
    steps: Mapping[tuple[str, int], int] | None = None,
    stability: Mapping[str, Shares] | None = None,
) -> Controls:
    """The controls of every corrective entry.

    Args:
        actions: raw actions by ``Entry.action_row``.
        rows: where each row of the state tensors comes from.
        states: state tensors by layer.
        steps: finished steps by (problem id, k); taken from the rollouts' boundaries when not given.
        stability: results of ``harvest.stability`` by entry id.
    """
    float64_states = {layer: tensor.astype(np.float64) for layer, tensor in states.items()}
    place = {(row.problem_id, row.source, row.k, row.m): row.row for row in rows}
    corrective = sorted((entry for entry in entries if entry.action_row is not None), key=lambda entry: entry.action_row or 0)
    pools = _pools(corrective, rollouts, place, steps)
    lengths = {(rollout.problem_id, rollout.k): rollout.n_tokens for rollout in rollouts}
    directions = _length_directions(pools, corrective, float64_states)
    own = [pools.get((entry.problem_id, entry.m, entry.phase)) for entry in corrective]
    relabelled = [_labelled(float64_states[entry.layer], pool, entry, config) for entry, pool in zip(corrective, own, strict=True)]
    records: list[Control] = []
    for entry, action, labelled in zip(corrective, actions, relabelled, strict=True):
        like = [(e.problem_id, actions[j]) for j, e in enumerate(corrective) if (e.m, e.layer) == (entry.m, entry.layer)]
        shares = (stability or {}).get(entry.id)
        records.append(
            Control(
                entry_id=entry.id,
                length_cosine=_with_mean(action, entry, directions.get((entry.m, entry.layer), [])),
                length_matched_cosine=cosine(action, labelled.matched),
                length_gap=_gap(entry, lengths),
                length_gap_matched=labelled.gap_matched,
                shuffled_cosine=cosine(action, labelled.shuffled),
                permutation_p=labelled.p,
                permutation_floor=labelled.floor,
                stability_pos=shares.pos if shares else None,
                stability_neg=shares.neg if shares else None,
                leave_one_out=leave_one_out(*(float64_states[entry.layer][[place[key] for key in side]] for side in prefix_keys(entry))),
                others_cosine=_with_mean(action, entry, like),
            )
        )
    matched, shuffled = np.zeros(actions.shape, np.float32), np.zeros(actions.shape, np.float32)
    for row, labelled in enumerate(relabelled):
        if labelled.matched is not None and labelled.shuffled is not None:
            matched[row], shuffled[row] = labelled.matched, labelled.shuffled
    return Controls(records, matched, shuffled)


def cosine(a: np.ndarray, b: np.ndarray | None) -> float | None:
    """Cosine of two vectors; ``None`` if one of them is zero or missing."""
    if b is None:
        return None
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(np.clip(a @ b / norms, -1.0, 1.0)) if norms > 0 else None


def length_difference(states: Float[np.ndarray, "n d_model"], tokens: Int[np.ndarray, "n"]) -> Float[np.ndarray, "d_model"] | None:
    """Mean state of the shorter half of some rollouts minus that of the longer half (the middle one of an odd number is in neither).

    ``None`` if there are fewer than two, or all are equally long.
    """
    half = len(tokens) // 2
    order = np.argsort(tokens, kind="stable")
    shorter, longer = order[:half], order[len(order) - half :]
    if half == 0 or tokens[shorter].sum() == tokens[longer].sum():
        return None
    return states[shorter].mean(axis=0) - states[longer].mean(axis=0)


def match_lengths(right: Int[np.ndarray, "r"], wrong: Int[np.ndarray, "w"], n: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``n`` disjoint pairs of a right and a wrong rollout whose lengths differ least in total: indices into ``right`` and ``wrong``.

    An assignment problem with exactly ``n`` real pairs: all other rollouts are paired with dummies, at no cost.

    Args:
        n: at most the smaller of the two numbers.
    """
    spare_right, spare_wrong = len(right) - n, len(wrong) - n
    cost = np.zeros((len(right) + spare_wrong, len(wrong) + spare_right))
    cost[: len(right), : len(wrong)] = np.abs(right[:, None] - wrong[None, :])
    cost[len(right) :, len(wrong) :] = np.inf  # never pair two dummies
    rows, columns = linear_sum_assignment(cost)
    real = (rows < len(right)) & (columns < len(wrong))
    return rows[real], columns[real]


def labelings(correct: Bool[np.ndarray, "n"], rng: np.random.Generator) -> Bool[np.ndarray, "labelings n"]:
    """The true labelling first, then others with as many right rollouts: all of them if they are few, else random ones."""
    n, right = len(correct), int(correct.sum())
    if comb(n, right) > MOST_LABELINGS:
        return np.array([correct, *(rng.permutation(correct) for _ in range(MOST_LABELINGS - 1))])
    every = np.zeros((comb(n, right), n), bool)
    for row, chosen in zip(every, combinations(range(n), right), strict=True):
        row[list(chosen)] = True
    true = (every == correct).all(axis=1)
    return np.concatenate([every[true], every[~true]])


def permutation_test(
    states: Float[np.ndarray, "n d_model"], tokens: Int[np.ndarray, "n"], labels: Bool[np.ndarray, "labelings n"], rule: Rule
) -> tuple[float, float]:
    """Permutation test of the norm of the difference of means: its p-value, and the smallest that these labellings can give.

    Null hypothesis: labels are exchangeable among the rollouts that reach the control point. Every labelling goes through the same rule
    as the true one (row 0), so the preference for short right and long wrong rollouts is part of it. ``p = (1 + #{other >= true}) /
    (1 + #others)``; labellings that choose the same rollouts tie with each other, so under the null hypothesis p leans above uniform.
    """
    weights = np.zeros((len(labels), len(tokens)))
    for row, correct in zip(weights, labels, strict=True):
        positives, negatives = rule.choose(correct, tokens)
        row[positives] = 1 / len(positives)
        row[negatives] = -1 / len(negatives)
    norms = np.linalg.norm(weights @ states, axis=1)
    norms[norms <= ROUNDING * np.linalg.norm(states, axis=1).mean()] = 0
    norms = np.where(np.isclose(norms, norms[0], rtol=ROUNDING), norms[0], norms)  # equal choices of rollouts must tie exactly
    return float(np.mean(norms >= norms[0])), float(np.mean(np.isclose(norms, norms.max(), rtol=ROUNDING)))


def leave_one_out(positives: Float[np.ndarray, "p d_model"], negatives: Float[np.ndarray, "q d_model"]) -> float | None:
    """Smallest cosine of an action with itself without one of its rollouts; ``None`` if each side has only one."""
    action = positives.mean(axis=0) - negatives.mean(axis=0)
    cosines: list[float | None] = []
    for side, other, sign in ((positives, negatives, 1), (negatives, positives, -1)):
        for i in range(len(side) if len(side) > 1 else 0):
            cosines.append(cosine(action, sign * (np.delete(side, i, axis=0).mean(axis=0) - other.mean(axis=0))))
    return min((value for value in cosines if value is not None), default=None)


def _pools(
    entries: list[Entry], rollouts: list[Rollout], place: dict[tuple[str, str, int, int], int], steps: Mapping[tuple[str, int], int] | None
) -> dict[ControlPoint, Pool]:
    """The pools of the entries' control points, without those for which a rollout's state was not kept."""
    by_problem: dict[str, list[Rollout]] = {}
    for rollout in sorted(rollouts, key=lambda rollout: rollout.k):
        by_problem.setdefault(rollout.problem_id, []).append(rollout)
    pools: dict[ControlPoint, Pool] = {}
    points: list[ControlPoint] = [(entry.problem_id, entry.m, entry.phase) for entry in entries]
    for problem_id, m, phase in dict.fromkeys(points):
        own = by_problem.get(problem_id, [])
        if steps is not None:
            valid = [r for r in own if steps[r.problem_id, r.k] >= m]
        else:
            valid = [r for r in own if len(r.boundaries) >= m and r.phase(m) == phase]
        at = [place.get((problem_id, "rollout", r.k, m)) for r in valid]
        if None not in at:
            correct, tokens = [r.verdict.correct for r in valid], [r.n_tokens for r in valid]
            pools[problem_id, m, phase] = Pool(np.array(correct, bool), np.array(tokens, int), np.array(at, int))
    return pools


def _length_directions(
    pools: dict[ControlPoint, Pool], entries: list[Entry], states: Mapping[int, np.ndarray]
) -> dict[tuple[int, int], list[tuple[str, np.ndarray]]]:
    """(Problem id, length difference among its correct rollouts), by (m, layer)."""
    wanted = {(entry.m, entry.layer) for entry in entries}
    directions: dict[tuple[int, int], list[tuple[str, np.ndarray]]] = {}
    for (problem_id, m, _), pool in pools.items():
        for layer in [layer for layer in states if (m, layer) in wanted]:
            difference = length_difference(states[layer][pool.rows[pool.correct]], pool.tokens[pool.correct])
            if difference is not None:
                directions.setdefault((m, layer), []).append((problem_id, difference))
    return directions


def _labelled(states: Float[np.ndarray, "n_rows d_model"], pool: Pool | None, entry: Entry, config: RunConfig) -> Labelled:
    """Re-estimate an action; not possible where mining ignores the labels (random) or takes positives from elsewhere (gold)."""
    mining = config.mining
    if pool is None or mining.mining == "random" or entry.pos_source == "gold":
        return Labelled()
    own, name = states[pool.rows], (entry.problem_id, entry.m)
    right, wrong = np.flatnonzero(pool.correct), np.flatnonzero(~pool.correct)
    n = min(mining.k_pos, mining.k_neg, len(right), len(wrong))
    i, j = match_lengths(pool.tokens[right], pool.tokens[wrong], n)
    rule = Rule(mining.k_pos, mining.k_neg, config.rollouts.eta0 > 0)
    p, floor = permutation_test(own, pool.tokens, labelings(pool.correct, generator_for(config.seed, "permutation", *name)), rule)
    positives, negatives = rule.choose(generator_for(config.seed, "shuffled", *name).permutation(pool.correct), pool.tokens)
    return Labelled(
        matched=_difference(own[right[i]], own[wrong[j]]),
        gap_matched=float(pool.tokens[wrong[j]].mean() - pool.tokens[right[i]].mean()),
        shuffled=_difference(own[positives], own[negatives]),
        p=p,
        floor=floor,
    )


def _difference(positives: Float[np.ndarray, "p d_model"], negatives: Float[np.ndarray, "q d_model"]) -> Float[np.ndarray, "d_model"]:
    """Difference of mean states; zero where it is rounding alone: the state of one prefix has other last bits in another batch."""
    difference = positives.mean(axis=0) - negatives.mean(axis=0)
    return difference if np.linalg.norm(difference) > ROUNDING * np.linalg.norm(negatives.mean(axis=0)) else np.zeros_like(difference)


def _gap(entry: Entry, lengths: dict[tuple[str, int], int]) -> float | None:
    if entry.pos_source == "gold":
        return None
    positives, negatives = ([lengths[entry.problem_id, k] for k in ks] for ks in (entry.positives, entry.negatives))
    return float(np.mean(negatives) - np.mean(positives))


def _with_mean(action: np.ndarray, entry: Entry, vectors: list[tuple[str, np.ndarray]]) -> float | None:
    """Cosine with the mean vector of the other problems; ``None`` if they have none."""
    others = [vector for problem_id, vector in vectors if problem_id != entry.problem_id]
    return cosine(action, np.mean(others, axis=0)) if others else None
