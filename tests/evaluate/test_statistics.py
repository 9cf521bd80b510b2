"""Statistics against scipy and statsmodels, and by simulation: intervals cover what they say."""

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from stir_core.evaluate.statistics import bootstrap_mean, holm, mcnemar, wilson


@pytest.mark.parametrize(("right", "n"), [(0, 7), (7, 7), (3, 16), (150, 200), (1, 1)])
def test_wilson(right, n):
    ours = wilson(right, n)
    theirs = binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert (ours.low, ours.high) == pytest.approx(proportion_confint(right, n, 0.05, method="wilson"), abs=1e-12)
    assert ours.value == right / n


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (1, 0), (5, 5), (3, 12), (40, 22)])
def test_mcnemar(won, lost):
    table = [[10, won], [lost, 20]]
    assert mcnemar(won, lost) == pytest.approx(float(vars(reference_mcnemar(table, exact=True))["pvalue"]) if won + lost else 1.0)


def test_holm():
    p = {"a": 0.04, "b": 0.001, "c": 0.03, "d": 0.9, "e": 0.03}
    expected = multipletests(list(p.values()), method="holm")[1]
    assert list(holm(p).values()) == pytest.approx(np.asarray(expected).tolist()) and list(holm(p)) == list(p)
    assert holm({}) == {}


def test_a_bootstrap_is_centred_on_the_mean_and_seeded():
    values = np.random.default_rng(0).normal(size=50)
    found = bootstrap_mean(values)
    assert found.value == values.mean() and found.low < values.mean() < found.high
    assert bootstrap_mean(values) == found and bootstrap_mean(values, seed=1).low != found.low


def test_intervals_cover_what_they_say():
    """2,000 simulated pairs: a 95 % interval holds the truth in 93 to 97 % of them."""
    rng = np.random.default_rng(0)
    n, inside_bootstrap, inside_wilson = 150, 0, 0
    cells = np.array([0.3, 0.15, 0.1, 0.45])  # both right, won, lost, both wrong
    for i in range(2000):
        drawn = rng.choice(4, size=n, p=cells)
        gaps = (drawn == 1).astype(float) - (drawn == 2)
        found = bootstrap_mean(gaps, draws=1000, name=str(i))
        inside_bootstrap += found.low <= cells[1] - cells[2] <= found.high
        right = int((drawn < 2).sum())
        interval = wilson(right, n)
        inside_wilson += interval.low <= cells[0] + cells[1] <= interval.high
    assert 0.93 <= inside_bootstrap / 2000 <= 0.97
    assert 0.93 <= inside_wilson / 2000 <= 0.97


@pytest.mark.parametrize("bad", [lambda: wilson(1, 0), lambda: wilson(3, 2), lambda: bootstrap_mean(np.array([np.nan]))])
def test_what_cannot_be_estimated_is_refused(bad):
    with pytest.raises(ValueError, match=r"proportion|finite"):
        bad()
