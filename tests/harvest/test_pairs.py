"""Which rollouts become positives and negatives: the rules of Stage I on hand-made rollouts."""

import pytest

from stir_core.config import MiningConfig
from stir_core.harvest.pairs import Gold, plan_pairs, without_equal_sides
from stir_core.records import Problem, Rollout, Verdict

MINING = MiningConfig(control_points=3)


def problem(name: str = "p") -> Problem:
    return Problem(id=name, task="t", split="train", question="?", answer="1", kind="number")


def rollout(k: int, correct: bool, steps: int, reward: float | None = None, name: str = "p") -> Rollout:
    verdict = Verdict(correct=correct, extracted="1", gold="1", method="m", reason="r", finished=True)
    reward = reward if reward is not None else float(correct) - 0.001 * k
    return Rollout(
        problem_id=name, k=k, seed=0, prompt_ids=(1,), token_ids=(1,) * 9, text="x", finish="stop", boundaries=tuple(range(1, steps + 1)),
        mean_logprob=-1.0, verdict=verdict, reward=reward,
    )  # fmt: skip


ROLLOUTS = [
    rollout(0, True, 2),
    rollout(1, False, 3),
    rollout(2, True, 3),
    rollout(3, False, 1),
    rollout(4, False, 2),
    rollout(5, True, 1),
    rollout(6, False, 2),
]


def test_the_best_right_against_the_worst_wrong():
    pairs = {pair.m: pair for pair in plan_pairs([problem()], ROLLOUTS, MINING)}
    assert pairs[1].positives == (0, 2) and pairs[1].negatives == (6, 4, 3)
    assert pairs[2].positives == (0, 2) and pairs[2].negatives == (6, 4, 1)
    assert pairs[3].positives == (2,) and pairs[3].negatives == (1,)
    assert pairs[1].quality == pytest.approx((1.0 + 0.998) / 2 - (-0.006 - 0.004 - 0.003) / 3)


def test_equal_numbers_stand_behind_both_keys_where_asked():
    equal = MiningConfig(control_points=3, equal_numbers=True)
    from_gold = MiningConfig(control_points=3, equal_numbers=True, pos_source="gold")
    pairs = {pair.m: pair for pair in plan_pairs([problem()], ROLLOUTS, equal)}
    assert [(pairs[m].positives, pairs[m].negatives) for m in (1, 2, 3)] == [((0, 2), (6, 4)), ((0, 2), (6, 4)), ((2,), (1,))]
    gold = {"p": Gold(3, 0.9)}
    (pair,) = [pair for pair in plan_pairs([problem()], ROLLOUTS, from_gold, golds=gold) if pair.m == 1]
    assert pair.gold and not pair.positives and pair.negatives == (6,)


def test_best_quality_first_and_ties_in_problem_order():
    rollouts = [rollout(k, k == 0, 3, reward=1.0 if k == 0 else 0.0, name=name) for name in ("a", "b") for k in range(2)]
    pairs = plan_pairs([problem("b"), problem("a")], rollouts, MINING)
    assert [(pair.problem_id, pair.m) for pair in pairs] == [("b", 1), ("b", 2), ("b", 3), ("a", 1), ("a", 2), ("a", 3)]
    ordered = plan_pairs([problem()], ROLLOUTS, MINING)
    assert [pair.quality for pair in ordered] == sorted((pair.quality for pair in ordered), reverse=True)


@pytest.mark.parametrize(
    ("rollouts", "changes"),
    [
        ([rollout(0, True, 3), rollout(1, True, 3)], {}),
        ([rollout(0, False, 3), rollout(1, False, 3)], {}),
        ([rollout(0, True, 0), rollout(1, False, 3)], {}),
        ([rollout(0, True, 3, reward=0.1), rollout(1, False, 3, reward=0.1)], {}),
        (ROLLOUTS, {"min_correct_rollouts": 4}),
        (ROLLOUTS, {"min_incorrect_rollouts": 5}),
    ],
)
def test_where_there_is_no_pair(rollouts, changes):
    assert plan_pairs([problem()], rollouts, MINING.model_copy(update=changes)) == []


def test_rollouts_that_are_one_text_up_to_a_control_point_are_no_pair_there():
    right, wrong = (rollout(k, k == 0, 3).replaced(token_ids=(7, 7, *range(k, k + 7))) for k in range(2))
    other = rollout(2, False, 3).replaced(token_ids=(8,) * 9)
    gold = {"p": Gold(n_steps=3, reward=0.99)}
    for rollouts, mining, left in (
        ([right, wrong], MINING, [3]),
        ([right, wrong], MINING.model_copy(update={"mining": "random"}), [3]),
        ([right, wrong, other], MINING, [1, 2, 3]),
        ([right, wrong], MINING.model_copy(update={"pos_source": "gold"}), [1, 2, 3]),
    ):
        pairs = plan_pairs([problem()], rollouts, mining, golds=gold)
        assert len(pairs) == 3 and [pair.m for pair in without_equal_sides(pairs, rollouts)] == left


def test_gold_positives():
    wrong = [rollout(0, False, 3), rollout(1, False, 3)]
    golds = {"p": Gold(n_steps=2, reward=0.99)}
    for source in ("gold", "rollout_or_gold"):
        pairs = plan_pairs([problem()], wrong, MINING.model_copy(update={"pos_source": source}), golds=golds)
        assert [(pair.m, pair.gold, pair.positives) for pair in pairs] == [(1, True, ()), (2, True, ())]
        assert pairs[0].reward_pos == 0.99
    assert plan_pairs([problem()], wrong, MINING, golds=golds) == []
    mixed = plan_pairs([problem()], ROLLOUTS, MINING.model_copy(update={"pos_source": "rollout_or_gold"}), golds=golds)
    assert not any(pair.gold for pair in mixed)
    assert all(pair.gold for pair in plan_pairs([problem()], ROLLOUTS, MINING.model_copy(update={"pos_source": "gold"}), golds=golds))


def test_random_mining_ignores_correctness_and_is_named():
    mining = MINING.model_copy(update={"mining": "random"})
    first, again, other = (plan_pairs([problem()], ROLLOUTS, mining, seed=seed) for seed in (0, 0, 1))
    assert first == again and first != other
    for pair in first:
        assert pair.quality >= 0 and not set(pair.positives) & set(pair.negatives)
    draws = [plan_pairs([problem()], ROLLOUTS, mining, seed=seed) for seed in range(30)]
    assert any(not {0, 2, 5} >= set(pair.positives) for pairs in draws for pair in pairs)
