"""What an action means: steps along it, its share of the task's subspace, erasure, a dictionary, and other runs' actions."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import stir_core as stir
from stir_core.errors import DataError, MismatchError
from stir_core.evaluate.activations import TOP, activation, step_states, subject
from stir_core.evaluate.meaning import erasure, meaning_of, nearest_elsewhere, subspace
from stir_core.evaluate.probe import LabelledStates


@pytest.fixture(scope="module")
def of():
    return subject(stir.open_run("two_habits"), "p0005c")


def test_the_steps_at_both_ends_are_those_with_the_largest_projections(of) -> None:
    found, seen = activation(of), of.seen
    along = (seen.states - seen.states.mean(axis=0)) @ (of.action / np.linalg.norm(of.action))
    assert found.high[0].projection == pytest.approx(along.max(), abs=1e-4)
    assert found.low[0].projection == pytest.approx(along.min(), abs=1e-4)
    assert [step.projection for step in found.high] == sorted((step.projection for step in found.high), reverse=True)
    assert len(found.high) == len(found.low) == TOP
    rollouts = {(rollout.problem_id, rollout.k): rollout for rollout in of.run.rollouts()}
    for step in (*found.high, *found.low):
        rollout = rollouts[step.problem_id, step.k]
        assert step.text in rollout.text
        begins = rollout.token_ids[: rollout.boundaries[step.m - 1]]
        same = [r for r in rollouts.values() if r.problem_id == step.problem_id and r.token_ids[: len(begins)] == begins]
        assert (step.right, step.wrong) == (sum(r.verdict.correct for r in same), sum(not r.verdict.correct for r in same))
        assert step.own == (step.problem_id == of.entry.problem_id)
    assert sum(found.spread.right) == seen.right.sum()
    assert sum(found.spread.wrong) == (~seen.right).sum()
    assert (found.source, found.steps) == ("steps", sum(len(rollout.boundaries) for rollout in rollouts.values()))
    assert found.own.problems == 1
    assert found.others.problems > 1


def test_states_at_control_points_serve_where_not_all_steps_were_read() -> None:
    run = stir.open_run("smollm2")
    seen = step_states(run, 17)
    assert len(seen.rows) == len(run.states()[0])
    assert seen.recorded == sum(len(rollout.boundaries) for rollout in run.rollouts()) > len(seen.rows)
    rollouts = {(rollout.problem_id, rollout.k): rollout for rollout in run.rollouts()}
    assert all(text and text in rollouts[row.problem_id, row.k].text for row, text in zip(seen.rows, seen.texts, strict=True))


def test_an_action_lies_in_the_span_of_ever_more_axes(of) -> None:
    shares = subspace(of)
    assert [share.k for share in shares] == [1, 4, 16, 64]
    assert list(np.diff([share.share for share in shares]) >= 0) == [True] * 3
    assert all(0 <= share.share <= 1 and share.by_chance < share.chance_high for share in shares)


def planted(problems: int = 60, each: int = 16, d: int = 12) -> LabelledStates:
    """Right states lie further along axis 0; along axis 1 most of them do, and rare ones so far back that the means are equal."""
    draw = np.random.default_rng(3)
    right = np.tile(np.arange(each) % 2 == 0, problems)
    states = draw.standard_normal((problems * each, d)) + 5 * draw.standard_normal((problems, d)).repeat(each, axis=0)
    states[right, 0] += 3
    back = np.tile(np.arange(each) % 8 == 0, problems)  # one right state of four
    states[right & ~back, 1] += 4
    states[back, 1] -= 12
    return LabelledStates(np.arange(problems).repeat(each), np.ones(problems * each, int), right, states)


@pytest.mark.parametrize(("axis", "outcome"), [(0, "erased"), (1, "remains"), (5, "does not separate")])
def test_erasure_takes_what_separates_linearly_and_leaves_the_rest(axis: int, outcome: str) -> None:
    found = erasure(planted(), np.eye(12)[axis], 0)
    assert found.outcome == outcome
    assert found.erased.auc is not None and found.erased.auc > 0.9
    assert f"AUC {found.before.auc:.2f}" in found.verdict


def test_erasure_says_what_it_cannot_tell() -> None:
    few, direction = planted(problems=3), np.eye(12)[0]
    assert (found := erasure(few, direction, 0)).outcome == "cannot tell"
    assert "too few" in found.verdict
    assert erasure(few.only(np.zeros(len(few.right), bool)), direction, 0).outcome == "cannot tell"
    unshared = planted()
    draw = np.random.default_rng(1)
    for problem in range(60):  # what separates lies along another axis in each problem, and always along the action
        unshared.states[(unshared.problems == problem) & unshared.right] += 20 * draw.standard_normal(12)
    found = erasure(unshared, direction, 0)
    assert found.outcome in ("cannot tell", "does not separate")


def test_an_action_is_explained_by_a_dictionary_that_holds_it(of, tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((50, len(of.action))).astype(np.float32)
    features[17], features[30] = of.action, 0
    save_file({"W_dec": features}, tmp_path / "sae.safetensors")
    found = meaning_of(of.run, of.entry.id, dictionary=tmp_path / "sae.safetensors", top=3).decomposition
    assert found is not None
    assert (found.nearest[0].index, found.chosen[0].index, found.features, found.tensor) == (17, 17, 49, "W_dec")
    assert found.explained == pytest.approx(1, abs=1e-5)
    assert found.random < found.random_most < 1
    assert found.states is not None and found.states < found.explained
    again = meaning_of(of.run, of.entry.id, dictionary=tmp_path / "sae.safetensors", top=3).decomposition
    assert again == found


def test_the_nearest_action_of_a_run_beside_itself_is_the_action(of) -> None:
    near = nearest_elsewhere(of, of.run, top=2)
    assert (near[0].entry_id, near[0].cosine, near[0].same_question) == (of.entry.id, pytest.approx(1), True)
    assert near[1].cosine < near[0].cosine
    assert near[0].typical == pytest.approx(1)
    assert 0 < near[0].by_chance < 1


def test_what_cannot_be_read_is_refused(of) -> None:
    with pytest.raises(MismatchError, match="compare actions of one model"):
        meaning_of(of.run, of.entry.id, others=[stir.open_run("smollm2")])
    with pytest.raises(DataError, match="is a null entry"):
        subject(of.run, "p0005n")
    with pytest.raises(DataError, match="is not an entry"):
        subject(of.run, "absent")
    with pytest.raises(DataError, match="top is 0"):
        meaning_of(of.run, of.entry.id, top=0)
    with pytest.raises(DataError, match="layer 0 was not harvested"):
        step_states(of.run, 0)
