"""Controls on planted data: what is made of length is told from what is made of correctness, and chance from both."""

from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest

from stir_core.config import MiningConfig, RolloutConfig, RunConfig
from stir_core.harvest.actions import mine
from stir_core.harvest.controls import (
    MOST_LABELINGS,
    Controls,
    Rule,
    labelings,
    leave_one_out,
    length_difference,
    match_lengths,
    measure_controls,
    permutation_test,
)
from stir_core.harvest.pairs import Gold, plan_pairs
from stir_core.harvest.stability import Shares
from stir_core.records import Problem, Rollout, StateRow, Verdict
from stir_core.seeding import generator_for

WIDTH, LAYER = 48, 5
CONFIG = RunConfig(rollouts=RolloutConfig(max_new_tokens=200), mining=MiningConfig(control_points=1))


def unit(i: int) -> np.ndarray:
    return np.eye(WIDTH)[i]


BREVITY, CORRECTNESS = unit(0), unit(1)


def problem(i: int) -> Problem:
    return Problem(id=f"p{i}", task="t", split="train", question="?", answer="1", kind="number")


def rollout(i: int, k: int, correct: bool, n_tokens: int, steps: int = 1) -> Rollout:
    verdict = Verdict(correct=correct, extracted="1", gold="1", method="m", reason="r", finished=True)
    return Rollout(
        problem_id=f"p{i}", k=k, seed=0, prompt_ids=(1,), token_ids=(1,) * n_tokens, text="x", finish="stop",
        boundaries=tuple(range(1, steps + 1)), mean_logprob=-1.0, verdict=verdict, reward=float(correct) - 0.01 * n_tokens / 200,
    )  # fmt: skip


def planted(by_length: float, by_label: float, *, noise: float = 0.3, n_problems: int = 12, k: int = 8) -> list[tuple[Rollout, np.ndarray]]:
    """States = brevity * length + correctness * label + noise; wrong rollouts are longer on average, as they are."""
    rng = np.random.default_rng(3)
    found = []
    for i in range(n_problems):
        for j in range(k):
            correct = j % 2 == 0
            n_tokens = int(rng.integers(30, 120)) + (0 if correct else 30)
            state = 3 * unit(7) - by_length * (n_tokens - 90) / 40 * BREVITY + by_label * (1.0 if correct else -1.0) * CORRECTNESS
            found.append((rollout(i, j, correct, n_tokens), state + noise * rng.standard_normal(WIDTH)))
    return found


def controlled(
    data: list[tuple[Rollout, np.ndarray]], config: RunConfig = CONFIG, *, kept: Any = None, golds: Any = None, **more: Any
) -> tuple[Controls, np.ndarray]:
    """Mine the data and measure; ``kept`` says of which rollouts the state was kept."""
    rollouts = [rollout for rollout, _ in data]
    problems = [problem(i) for i in range(len({r.problem_id for r in rollouts}))]
    pairs = plan_pairs(problems, rollouts, config.mining, golds=golds)
    used = {(pair.problem_id, k) for pair in pairs for k in (*pair.positives, *pair.negatives)}
    with_state = [(r, state) for r, state in data if kept is None or kept(r) or (r.problem_id, r.k) in used]
    rows = [StateRow(row=i, problem_id=r.problem_id, source="rollout", k=r.k, m=1, position=1) for i, (r, _) in enumerate(with_state)]
    states = np.array([state for _, state in with_state], np.float32)
    if golds:
        first = len(rows)
        rows += [StateRow(row=first + i, problem_id=p, source="gold", k=0, m=1, position=1) for i, p in enumerate(golds)]
        states = np.concatenate([states, np.random.default_rng(1).standard_normal((len(golds), WIDTH)).astype(np.float32)])
    mined = mine(pairs, rows, {LAYER: states}, config.mining)
    return measure_controls(mined.entries, mined.actions, rollouts, rows, {LAYER: states}, config, **more), mined.actions


def median(controls: Controls, field: str) -> float:
    return float(np.median([getattr(record, field) for record in controls.records]))


def test_an_action_made_of_length_is_detected() -> None:
    controls, _ = controlled(planted(by_length=3, by_label=0))
    assert median(controls, "length_cosine") > 0.8
    assert median(controls, "length_matched_cosine") < 0.6
    assert median(controls, "length_gap") > 40 and abs(median(controls, "length_gap_matched")) < 15
    assert median(controls, "permutation_p") > 0.2, "brevity is in the null as well, so it is no evidence for the labels"
    assert median(controls, "others_cosine") > 0.8, "a shared direction, but not of correctness"


def test_an_action_made_of_correctness_passes() -> None:
    controls, _ = controlled(planted(by_length=0, by_label=3))
    assert abs(median(controls, "length_cosine")) < 0.3
    assert median(controls, "length_matched_cosine") > 0.9
    assert median(controls, "permutation_p") < 0.1
    assert median(controls, "permutation_floor") <= 1 / 70 + 1e-12
    assert median(controls, "leave_one_out") > 0.9 and median(controls, "others_cosine") > 0.9


def test_an_action_made_of_noise_is_not_significant() -> None:
    controls, _ = controlled(planted(by_length=0, by_label=0, noise=1))
    assert abs(median(controls, "length_cosine")) < 0.3 and abs(median(controls, "others_cosine")) < 0.3
    assert 0.2 < median(controls, "permutation_p") < 0.8


def test_rounding_is_no_difference() -> None:
    """Rollouts of one prefix have one state; decoded in other batches, it has other last bits."""
    controls, _ = controlled(planted(by_length=0, by_label=0, noise=1e-7))
    assert not controls.shuffled.any() and not controls.length_matched.any()
    assert {(record.shuffled_cosine, record.length_matched_cosine) for record in controls.records} == {(None, None)}
    assert {record.permutation_p for record in controls.records} == {1.0}


def test_rows_stand_beside_their_actions() -> None:
    data = planted(by_length=1, by_label=2)
    controls, actions = controlled(data)
    assert controls.length_matched.shape == controls.shuffled.shape == actions.shape
    states = {(r.problem_id, r.k): state for r, state in data}
    lengths = {(r.problem_id, r.k): r.n_tokens for r, _ in data}
    at = next(i for i, record in enumerate(controls.records) if record.entry_id.startswith("p0000"))
    # the two closest pairs of problem p0, or whichever problem pair 0 came from, by brute force
    source = {r.problem_id for r, _ in data}
    vectors = {}
    for name in source:
        right = [k for k in range(8) if k % 2 == 0]
        wrong = [k for k in range(8) if k % 2 == 1]
        choices = [
            (abs(lengths[name, a] - lengths[name, c]) + abs(lengths[name, b] - lengths[name, d]), (a, b), (c, d))
            for a, b in combinations(right, 2)
            for c, d in permutations(wrong, 2)
        ]
        best = min(choice[0] for choice in choices)
        vectors[name] = [
            np.mean([states[name, k] for k in pos], axis=0) - np.mean([states[name, k] for k in neg], axis=0)
            for total, pos, neg in choices
            if total == best
        ]
    row = controls.length_matched[at]
    assert any(np.allclose(row, vector, atol=1e-5) for found in vectors.values() for vector in found)
    record = controls.records[at]
    expected = row @ actions[at] / np.linalg.norm(row) / np.linalg.norm(actions[at])
    assert record.length_matched_cosine == pytest.approx(float(expected), abs=1e-5)
    again, _ = controlled(data)
    assert np.array_equal(controls.shuffled, again.shuffled), "shuffles have names"


def test_shuffled_rows_follow_the_named_shuffle() -> None:
    data = planted(by_length=0, by_label=2, n_problems=1)
    controls, _ = controlled(data)
    correct = np.array([r.verdict.correct for r, _ in data])
    tokens = np.array([r.n_tokens for r, _ in data])
    labels = generator_for(CONFIG.seed, "shuffled", "p0", 1).permutation(correct)
    right = sorted(np.flatnonzero(labels), key=lambda i: (tokens[i], i))[:2]
    wrong = sorted(np.flatnonzero(~labels), key=lambda i: (-tokens[i], i))[:3]
    expected = np.mean([data[i][1] for i in right], axis=0) - np.mean([data[i][1] for i in wrong], axis=0)
    assert controls.shuffled[0] == pytest.approx(expected, abs=1e-5)
    assert controls.records[0].length_cosine is None and controls.records[0].others_cosine is None, "there is no other problem"


@pytest.mark.parametrize(("n_right", "n_wrong"), [(1, 1), (2, 3), (3, 2), (4, 4), (1, 5)])
def test_matching_equals_brute_force(n_right: int, n_wrong: int) -> None:
    rng = np.random.default_rng(n_right * 10 + n_wrong)
    for _ in range(20):
        right, wrong = rng.integers(5, 60, n_right), rng.integers(20, 90, n_wrong)
        for n in range(1, min(n_right, n_wrong) + 1):
            i, j = match_lengths(right, wrong, n)
            assert len(set(i)) == len(set(j)) == n
            best = min(
                np.abs(right[list(a)] - wrong[list(b)]).sum()
                for a in combinations(range(n_right), n)
                for b in permutations(range(n_wrong), n)
            )
            assert np.abs(right[i] - wrong[j]).sum() == best


def test_the_rule_is_that_of_mining() -> None:
    """What the null chooses under the true labels are the positives and negatives that were mined."""
    data = planted(1, 1)
    (pair, *_) = plan_pairs([problem(2)], [r for r, _ in data], CONFIG.mining)
    own = [r for r, _ in data if r.problem_id == "p2"]
    correct, tokens = np.array([r.verdict.correct for r in own]), np.array([r.n_tokens for r in own])
    positives, negatives = Rule(2, 3, True).choose(correct, tokens)
    assert (tuple(positives), tuple(negatives)) == (pair.positives, pair.negatives)
    free = RunConfig(rollouts=RolloutConfig(eta0=0), mining=CONFIG.mining)
    level = [r.model_copy(update={"reward": float(r.verdict.correct)}) for r in own]
    (pair, *_) = plan_pairs([problem(2)], level, free.mining)
    positives, negatives = Rule(2, 3, False).choose(correct, tokens)
    assert (tuple(positives), tuple(negatives)) == (pair.positives, pair.negatives)


def test_labelings_are_all_of_them_or_random_ones() -> None:
    correct = np.array([True, False, True, False, False])
    found = labelings(correct, np.random.default_rng(0))
    assert len(found) == 10 == len({tuple(row) for row in found}) and (found[0] == correct).all() and (found.sum(axis=1) == 2).all()
    many = labelings(np.arange(12) < 6, np.random.default_rng(0))
    assert len(many) == MOST_LABELINGS and (many.sum(axis=1) == 6).all() and (many[0] == (np.arange(12) < 6)).all()


def test_p_is_uniform_without_an_effect_and_small_with_one() -> None:
    rng = np.random.default_rng(5)
    rule, labels = Rule(2, 3, True), np.arange(8) < 4
    none, some = [], []
    for _ in range(400):
        tokens, states = rng.integers(20, 120, 8), rng.standard_normal((8, 16))
        every = labelings(labels, rng)
        none.append(permutation_test(states, tokens, every, rule)[0])
        some.append(permutation_test(states + 3 * labels[:, None], tokens, every, rule)[0])
    assert np.mean(none) == pytest.approx(0.5, abs=0.05)
    for level in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert np.mean(np.array(none) <= level) == pytest.approx(level, abs=0.06)
    assert np.median(some) < 0.05 and np.mean(np.array(some) <= 0.2) > 0.95


def test_p_has_a_floor() -> None:
    rng = np.random.default_rng(0)
    states, tokens = rng.standard_normal((4, 8)), np.array([10, 20, 30, 40])
    one_each = np.array([True, False])
    p, floor = permutation_test(states[:2], tokens[:2], labelings(one_each, rng), Rule(2, 3, True))
    assert (p, floor) == (1.0, 1.0), "one of each: swapping them gives the same vector backwards"
    two_each = np.array([True, True, False, False])
    p, floor = permutation_test(states, tokens, labelings(two_each, rng), Rule(2, 3, True))
    assert floor == pytest.approx(2 / 6) and p >= floor


def test_leave_one_out_by_hand() -> None:
    positives, negatives = np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([[0.0, 0.0], [0.0, 0.0]])
    # v = (1, 1); without the first (0, 2), without the second (2, 0), without a negative still (1, 1)
    assert leave_one_out(positives, negatives) == pytest.approx(np.sqrt(0.5))
    assert leave_one_out(positives[:1], negatives[:1]) is None
    assert leave_one_out(positives[:1], np.array([[0.0, 0.0], [0.0, 4.0]])) == pytest.approx(1 / np.sqrt(2))


def test_the_length_direction_of_one_problem() -> None:
    states = np.arange(10.0).reshape(5, 2)
    found = length_difference(states, np.array([50, 10, 30, 20, 40]))
    assert found == pytest.approx(states[[1, 3]].mean(axis=0) - states[[4, 0]].mean(axis=0))
    assert length_difference(states[:1], np.array([5])) is None
    assert length_difference(states[:3], np.array([5, 5, 5])) is None


def test_without_other_rollouts_states_the_controls_that_need_them_are_none() -> None:
    """As under ``compat``, or on states that an earlier version kept."""
    controls, actions = controlled(planted(1, 1), kept=lambda r: False)
    assert not controls.length_matched.any() and not controls.shuffled.any() and len(controls.records) == len(actions)
    for record in controls.records:
        needs_others = ("length_cosine", "length_matched_cosine", "length_gap_matched", "shuffled_cosine")
        assert all(getattr(record, field) is None for field in (*needs_others, "permutation_p", "permutation_floor", "stability_pos"))
        assert record.leave_one_out is not None and record.others_cosine is not None and record.length_gap is not None


def test_random_mining_has_no_labels_to_shuffle() -> None:
    config = CONFIG.model_copy(update={"mining": CONFIG.mining.model_copy(update={"mining": "random"})})
    controls, _ = controlled(planted(1, 1), config)
    assert all(r.permutation_p is None and r.length_matched_cosine is None for r in controls.records)
    assert all(r.length_cosine is not None for r in controls.records)


def test_gold_positives_have_no_length_in_tokens() -> None:
    config = CONFIG.model_copy(update={"mining": CONFIG.mining.model_copy(update={"pos_source": "gold"})})
    controls, _ = controlled(planted(1, 1), config, golds={f"p{i}": Gold(1, 1.0) for i in range(12)})
    for record in controls.records:
        assert record.length_gap is None and record.permutation_p is None and record.length_matched_cosine is None
        assert record.leave_one_out is not None, "the negatives can spare one"


def test_stability_is_passed_on() -> None:
    controls, _ = controlled(planted(1, 1), stability={"p0000c": Shares(0.75, 0.25)})
    first, second, *_ = controls.records
    assert (first.stability_pos, first.stability_neg, second.stability_pos) == (0.75, 0.25, None)
