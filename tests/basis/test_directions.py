"""Controls and decompositions of a direction, against slower computations and planted answers."""

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression

from stir_core.basis.directions import leace, matching_pursuit, principal_axes, share_by_chance, share_in_span

DRAW = np.random.default_rng(0)


def labelled(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated states whose label lies along two directions, and the labels."""
    labels = DRAW.random(n) < 0.4
    states = DRAW.standard_normal((n, d)) @ DRAW.standard_normal((d, d)) + 3
    states[labels] += 4 * DRAW.standard_normal(d)
    return states, labels.astype(float)


@pytest.mark.parametrize(("n", "d"), [(200, 12), (30, 60)])
def test_the_eraser_is_the_published_formula_and_leaves_no_covariance(n: int, d: int) -> None:
    states, labels = labelled(n, d)
    eraser = leace(states, labels)
    assert eraser is not None
    centred = states - states.mean(axis=0)
    variances, vectors = np.linalg.eigh(ledoit_wolf(centred, assume_centered=True)[0])
    whitening, colouring = (vectors * variances**power @ vectors.T for power in (-0.5, 0.5))
    cross = centred.T @ (labels - labels.mean()) / n
    seen = whitening @ cross[:, None]
    slow = states - centred @ (colouring @ seen @ np.linalg.pinv(seen) @ whitening).T  # theorem 4.3, with W and its inverse
    erased = eraser.states(states)
    np.testing.assert_allclose(erased, slow, atol=1e-8)
    assert np.abs((erased - erased.mean(axis=0)).T @ (labels - labels.mean())).max() < 1e-8 * np.abs(cross).max() * n
    np.testing.assert_allclose(eraser.states(erased), erased, atol=1e-8)  # nothing is left to erase


def test_after_erasure_a_probe_fitted_to_the_same_states_is_at_chance() -> None:
    states, labels = labelled(400, 12)
    eraser = leace(states, labels)
    assert eraser is not None
    before, after = (
        LogisticRegression(max_iter=2000).fit(rows, labels).predict_proba(rows)[:, 1] for rows in (states, eraser.states(states))
    )
    assert ((before > 0.5) == labels).mean() > 0.9
    np.testing.assert_allclose(after, labels.mean(), atol=0.02)  # the constant answer


def test_without_covariance_there_is_nothing_to_erase() -> None:
    rows = DRAW.standard_normal((10, 4))
    assert leace(np.concatenate([rows, rows]), np.repeat([0.0, 1.0], 10)) is None
    assert leace(np.ones((6, 3)), np.array([0.0, 1, 0, 1, 0, 1])) is None


@pytest.mark.parametrize(("n", "d"), [(40, 7), (5, 30)])
def test_principal_axes_are_those_of_the_singular_value_decomposition(n: int, d: int) -> None:
    states = DRAW.standard_normal((n, d)) * np.arange(1, d + 1)
    axes = principal_axes(states)
    assert len(axes) == min(n - 1, d)
    np.testing.assert_allclose(axes @ axes.T, np.eye(len(axes)), atol=1e-9)
    right = np.linalg.svd(states - states.mean(axis=0))[2][: len(axes)]
    np.testing.assert_allclose(np.abs(axes @ right.T), np.eye(len(axes)), atol=1e-6)
    assert len(principal_axes(np.ones((4, 3)))) == 0


def test_the_share_in_a_span_and_what_chance_gives() -> None:
    axes = np.linalg.qr(DRAW.standard_normal((20, 20)))[0][:5]
    inside, outside = DRAW.standard_normal(5) @ axes, np.linalg.svd(axes)[2][-1]
    np.testing.assert_allclose(share_in_span(np.stack([inside, outside, 3 * inside + 0 * outside]), axes), [1, 0, 1], atol=1e-9)
    random = share_in_span(DRAW.standard_normal((20_000, 20)), axes)
    assert random.mean() == pytest.approx(5 / 20, abs=0.005)
    assert (random < share_by_chance(5, 20, 0.95)).mean() == pytest.approx(0.95, abs=0.01)
    assert share_by_chance(20, 20, 0.5) == 1


def test_pursuit_finds_a_planted_sum_and_takes_no_negative_weight() -> None:
    features = np.linalg.qr(DRAW.standard_normal((30, 30)))[0]
    features[7] = 0
    planted = 2 * features[3] + features[20] + 0.5 * features[11]
    found = matching_pursuit(np.stack([planted, -features[5], 4 * features[9]]), features, 3)
    assert found.features[0].tolist() == [3, 20, 11]
    np.testing.assert_allclose(found.weights[0] * np.linalg.norm(planted), [2, 1, 0.5])
    assert found.explained.tolist() == pytest.approx([1, 0, 1], abs=1e-9)
    assert [row.tolist() for row in found.features[1:]] == [[], [9]]
    assert not any(7 in row for row in found.features)


def test_one_feature_explains_the_squared_cosine_and_more_explain_more() -> None:
    features = DRAW.standard_normal((200, 16))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    directions = DRAW.standard_normal((4, 16))
    cosines = directions / np.linalg.norm(directions, axis=1, keepdims=True) @ features.T
    shares = [matching_pursuit(directions, features, most).explained for most in (1, 2, 4, 8)]
    np.testing.assert_allclose(shares[0], cosines.max(axis=1) ** 2, atol=1e-9)
    assert (np.diff(shares, axis=0) > 0).all()
    assert (shares[-1] <= 1).all()
    both = matching_pursuit(directions, features, 8)
    for row, taken, weights in zip(directions, both.features, both.weights, strict=True):
        left = row / np.linalg.norm(row) - weights @ features[taken]
        np.testing.assert_allclose(features[taken] @ left, 0, atol=1e-8)  # least squares on what was taken
