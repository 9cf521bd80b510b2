"""Statistics against scipy and statsmodels; their coverage is simulated in test_coverage."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest, ttest_1samp
from scipy.stats import t as student
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from stir_core.evaluate.statistics import (
    ALIKE,
    DISCORDANT,
    FEWEST_PROBLEMS,
    clustered_difference,
    clustered_mean,
    clustered_share,
    clusters,
    detectable_difference,
    holm,
    least_difference,
    mcnemar,
    verdict_of,
    wilson,
)
from stir_core.findings import NO_INTERVAL


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


def test_means_of_single_values_have_students_interval():
    values = np.random.default_rng(0).normal(size=50)
    found = clustered_mean([[value] for value in values])
    theirs = ttest_1samp(values, 0).confidence_interval()
    assert found.value == pytest.approx(values.mean()) and found.bounds == pytest.approx((theirs.low, theirs.high))


def test_values_of_equal_groups_count_once_a_group():
    """Against scipy over the groups' means; values of a group that repeat each other add nothing."""
    means = np.random.default_rng(0).normal(size=12)
    found = clustered_mean([[mean - 1, mean, mean + 1] for mean in means])
    theirs = ttest_1samp(means, 0).confidence_interval()
    assert found.bounds == pytest.approx((theirs.low, theirs.high))
    seen = clusters([[mean] * 5 for mean in means])
    assert (seen.n, seen.problems) == (60, 12) and seen.effective == pytest.approx(12, rel=0.1)


@pytest.mark.parametrize(("won", "lost", "n", "difference"), [(12, 3, 40, 0.1), (12, 3, 40, -0.3), (1, 0, 25, 0.2), (5, 5, 30, 0.05)])
def test_the_score_is_the_one_under_the_likeliest_shares(won, lost, n, difference):
    """Against a numerical maximisation of the multinomial likelihood with the difference held fixed."""

    def fit(lost_share):
        won_share = lost_share + difference
        rest = 1 - won_share - lost_share
        return -sum(k * np.log(max(share, 1e-300)) for k, share in ((won, won_share), (lost, lost_share), (n - won - lost, rest)))

    low, high = max(0.0, -difference), (1 - difference) / 2
    share = minimize_scalar(fit, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    score = (won - lost - n * difference) / np.sqrt(n * (2 * share + difference - difference**2))
    pairs = [[1.0]] * won + [[-1.0]] * lost + [[0.0]] * (n - won - lost)
    found, p = clustered_difference(pairs)
    statistic = vars(reference_mcnemar([[0, won], [lost, 0]], exact=False, correction=False))["statistic"]
    assert p == pytest.approx(2 * student.sf(np.sqrt(statistic), n - 1))
    inside = found.bounds[0] < difference < found.bounds[1]
    assert inside == (abs(score) < student.ppf(0.975, n - 1))
    edge = found.bounds[1]
    difference, low, high = edge, max(0.0, -edge), (1 - edge) / 2
    share = minimize_scalar(fit, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    assert (won - lost - n * edge) / np.sqrt(n * (2 * share + edge - edge**2)) == pytest.approx(-student.ppf(0.975, n - 1), abs=1e-3)


@pytest.mark.parametrize("rolls", [1, 4])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_ties_have_an_interval_as_wide_as_one_pair_a_problem_gives(value, rolls):
    for n in (8, 30):
        found, p = clustered_difference([[value] * rolls] * n)
        z = float(student.ppf(0.975, n - 1)) ** 2
        low, high = found.bounds
        assert low < high and found.value == value
        if value == 0:
            assert p == 1 and (low, high) == pytest.approx((-z / (n + z), z / (n + z)))
        else:
            assert p is not None and p < 0.05 and value in (low, high)


@pytest.mark.parametrize("of", [clustered_mean, clustered_share, lambda groups: clustered_difference(groups)[0]])
def test_few_problems_have_no_interval(of):
    few = of([[0.0, 1.0]] * (FEWEST_PROBLEMS - 1))
    assert (few.value, few.low, few.high, few.missing) == (0.5, None, None, NO_INTERVAL)
    assert f"{few:+.2f}" == "+0.50 (too few problems for an interval)" and f"{few:.1%}" == "50.0 % (too few problems for an interval)"
    low, high = of([[0.0, 1.0], [1.0], *[[0.0]] * (FEWEST_PROBLEMS - 2)]).bounds
    assert low < high


def test_no_interval_has_zero_width():
    same = clustered_mean([[3.0, 3.0]] * 20)
    assert same.low is same.high is None and f"{same:.1f}" == "3.0 (no interval: all equal)"
    for value in (0.0, 1.0):
        low, high = clustered_share([[value] * 3] * 20).bounds
        assert 0 <= low < high <= 1


def test_verdicts_are_decided_by_the_corrected_p():
    assert [verdict_of(value, p) for value, p in ((0.2, 0.01), (-0.2, 0.01), (0.2, 0.05), (0.2, None))] == [
        "helps",
        "harms",
        "no effect seen",
        "cannot tell",
    ]


@pytest.mark.parametrize(
    "bad", [lambda: wilson(1, 0), lambda: wilson(3, 2), lambda: clustered_mean([[np.nan]]), lambda: clustered_mean([[]])]
)
def test_what_cannot_be_estimated_is_refused(bad):
    with pytest.raises(ValueError, match=r"proportion|finite"):
        bad()


@pytest.mark.parametrize(("problems", "pairs"), [(12, 8), (24, 32)])
def test_the_detectable_difference_is_found_in_four_of_five_studies(problems, pairs):
    rng, found, studies = np.random.default_rng(0), 0, 400
    true = detectable_difference(problems * pairs, problems)
    for _ in range(studies):
        own = np.clip(true + rng.normal(0, np.sqrt(ALIKE * DISCORDANT), problems), -DISCORDANT, DISCORDANT)
        chance = rng.random((problems, pairs))
        won, lost = chance < (DISCORDANT + own[:, None]) / 2, chance > 1 - (DISCORDANT - own[:, None]) / 2
        estimate, p = clustered_difference((won.astype(float) - lost).tolist())
        found += p is not None and p < 0.05 and estimate.value > 0
    assert 0.72 < found / studies < 0.88


def test_below_eight_problems_nothing_is_detectable():
    assert detectable_difference(1000, FEWEST_PROBLEMS - 1) is None
    few, many = detectable_difference(1000, FEWEST_PROBLEMS), detectable_difference(4000, 4 * FEWEST_PROBLEMS)
    assert few is not None and many is not None and few > many


@pytest.mark.parametrize(("won", "lost", "tied"), [(0, 0, 200), (10, 4, 186), (3, 12, 45)])
def test_the_one_sided_bound_is_where_the_score_reaches_its_quantile(won, lost, tied):
    groups = [[1.0]] * won + [[-1.0]] * lost + [[0.0]] * tied
    least, (both, _) = least_difference(groups), clustered_difference(groups)
    assert both.low is not None and least is not None and both.low < least < both.value
    n, quantile = len(groups), student.ppf(0.95, len(groups) - 1)
    if not won + lost:
        assert least == pytest.approx(-(quantile**2) / (n + quantile**2), abs=1e-6)
        return

    def unlikely(share):  # of lost ones, where the difference of the shares is the bound
        return -(lost * np.log(share) + won * np.log(share + least) + tied * np.log(1 - 2 * share - least))

    share = minimize_scalar(
        unlikely, bounds=(max(0.0, -least) + 1e-9, (1 - least) / 2 - 1e-9), method="bounded", options={"xatol": 1e-12}
    ).x
    assert (won - lost - n * least) / np.sqrt(n * (2 * share + least - least**2)) == pytest.approx(quantile, rel=1e-3)


def test_few_problems_have_no_one_sided_bound():
    assert least_difference([[1.0]] * 7) is None
