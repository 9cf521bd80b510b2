"""Plan the pairs of right and wrong rollouts to mine, by control point. Pure bookkeeping: no model, no tensors."""

from typing import NamedTuple

from stir_core.config import MiningConfig
from stir_core.records import Pair, Phase, Problem, Rollout
from stir_core.seeding import generator_for
from stir_core.tasks.thinking import in_phase


class Gold(NamedTuple):
    """A data set's worked solution, measured like a rollout."""

    n_steps: int
    reward: float


def plan_pairs(
    problems: list[Problem],
    rollouts: list[Rollout],
    mining: MiningConfig,
    *,
    seed: int = 0,
    steps: dict[tuple[str, int], int] | None = None,
    golds: dict[str, Gold] | None = None,
) -> list[Pair]:
    """All usable pairs, best quality first (ties: problem order, then m), uncut.

    Source: arXiv 2602.04925, Stage I.

    Args:
        steps: finished steps by (problem id, k), and then tags have no meaning; taken from the rollouts' boundaries when not given.
        golds: worked solutions by problem id, for ``pos_source`` "gold" and "rollout_or_gold".
    """
    by_problem: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        by_problem.setdefault(rollout.problem_id, []).append(rollout)
    pairs: list[Pair] = []
    for problem in problems:
        own = sorted(by_problem.get(problem.id, []), key=lambda rollout: rollout.k)
        gold = (golds or {}).get(problem.id)
        for m in range(1, mining.control_points + 1):
            long_enough = [r for r in own if (steps[r.problem_id, r.k] if steps is not None else len(r.boundaries)) >= m]
            by_phase: dict[Phase | None, list[Rollout]] = {None: []}
            for rollout in long_enough:
                by_phase.setdefault(rollout.phase(m) if steps is None else None, []).append(rollout)
            for phase, reaching in by_phase.items():  # a state of the thinking is never contrasted with one behind it
                pair = _draw_pair(problem.id, m, reaching, gold, mining, seed) if in_phase(phase, mining.phase) else None
                if pair is not None:
                    pairs.append(pair if phase is None else pair.replaced(phase=phase))
    return sorted(pairs, key=lambda pair: -pair.quality)  # stable: ties keep problem order


def without_equal_sides(pairs: list[Pair], rollouts: list[Rollout]) -> list[Pair]:
    """The pairs whose rollouts are not all one text up to the control point: else their states differ by rounding alone, if at all."""
    by_name = {(rollout.problem_id, rollout.k): rollout for rollout in rollouts}

    def texts(pair: Pair) -> int:
        sides = [by_name[pair.problem_id, k] for k in (*pair.positives, *pair.negatives)]
        return len({rollout.token_ids[: rollout.boundaries[pair.m - 1]] for rollout in sides})

    return [pair for pair in pairs if pair.gold or texts(pair) > 1]


def _draw_pair(problem_id: str, m: int, valid: list[Rollout], gold: Gold | None, mining: MiningConfig, seed: int) -> Pair | None:
    if mining.mining == "random":
        return _random_pair(problem_id, m, valid, mining, seed)
    correct = sorted((r for r in valid if r.verdict.correct), key=lambda r: (-r.reward, r.k))
    wrong = sorted((r for r in valid if not r.verdict.correct), key=lambda r: (r.reward, r.k))
    use_gold = mining.pos_source == "gold" or (mining.pos_source == "rollout_or_gold" and not correct)
    if use_gold and (gold is None or gold.n_steps < m):
        return None
    if len(wrong) < mining.min_incorrect_rollouts or (not use_gold and len(correct) < mining.min_correct_rollouts):
        return None
    positives, negatives = ([] if use_gold else correct[: mining.k_pos]), wrong[: mining.k_neg]
    if mining.equal_numbers:
        n = min(len(positives) or 1, len(negatives))
        positives, negatives = positives[:n], negatives[:n]
    reward_pos = gold.reward if use_gold and gold is not None else _mean([r.reward for r in positives])
    pair = Pair(
        problem_id=problem_id,
        m=m,
        positives=tuple(r.k for r in positives),
        negatives=tuple(r.k for r in negatives),
        reward_pos=reward_pos,
        reward_neg=_mean([r.reward for r in negatives]),
        gold=use_gold,
    )
    return pair if pair.quality > 0 else None


def _random_pair(problem_id: str, m: int, valid: list[Rollout], mining: MiningConfig, seed: int) -> Pair | None:
    """The ablation: positives and negatives drawn at random; a negative gap counts as quality 0."""
    if len(valid) < 2:
        return None
    order = generator_for(seed, "random_mining", problem_id, m).permutation(len(valid)).tolist()
    n_pos = min(mining.k_pos, len(valid) - 1)
    positives = [valid[i] for i in order[:n_pos]]
    negatives = [valid[i] for i in order[n_pos : n_pos + mining.k_neg]]
    reward_neg = _mean([r.reward for r in negatives])
    reward_pos = max(_mean([r.reward for r in positives]), reward_neg)
    right, wrong = (tuple(r.k for r in side) for side in (positives, negatives))
    return Pair(problem_id=problem_id, m=m, positives=right, negatives=wrong, reward_pos=reward_pos, reward_neg=reward_neg)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
