"""Coherence of written steps: equations are read as they are written, and scores order answers as a slower count says."""

from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from stir_core.errors import DataError
from stir_core.evaluate.coherence import AGREEMENT, PUBLISHED, SHORTER, STRICT, coherence_run, equations_in, given_in, pooled_auc
from stir_core.evaluate.probe import LabelledStates, separation
from stir_core.latent.coherence import equation_of, strict_coherence
from stir_core.store.runs import Run
from tests.seals import rewrite
from tests.workbench.fake_run import make_fake_run


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("She has 16 - 3 - 4 = 9 eggs and earns 9 * $2 = $18.", ["<<16-3-4=9>>", "<<9*2=18>>"]),
        (r"\( 48 \div 2 = 24 \), and \frac{1}{2} \times 10 = 5", ["<<48/2=24>>", "<<(1)/(2)*10=5>>"]),
        ("10/50 = 20%, so 20% * 50 = 10", ["<<(10/50)*100=20>>", "<<20/100*50=10>>"]),
        ("1,200 apples + 3 apples = 1,203 apples", ["<<1200+3=1203>>"]),
        ("5 boxes × 3 apples per box = **15** apples; 3 x 4 = 12", ["<<5*3=15>>", "<<3*4=12>>"]),
        ("total = (3 + 4) * 2 = 14 = 7 + 7", ["<<(3+4)*2=14>>"]),
        ("There are 3 cats, and x = 5.", []),
    ],
)
def test_equations_are_read_as_they_are_written(text: str, steps: list[str]) -> None:
    assert equations_in(text) == steps
    assert all(equation_of(step).true for step in steps)  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["5" + "a" * 5000, "5" + " " * 5000 + "x", "1+" * 1500, "5 " + "ab " * 1500, "(" * 5000, r"\frac{" * 800])
def test_no_text_takes_long_to_read(text: str) -> None:
    """Without an equation every way of cutting it would be tried; the first of these took minutes."""
    assert equations_in(text) == []


def test_a_result_is_true_to_its_last_decimal() -> None:
    true = {step: equation_of(step).true for step in ("<<10/3=3.33>>", "<<10/3=3.3>>", "<<10/3=3.34>>", "<<10/3=3>>", "<<1/3=0.33>>")}  # type: ignore[union-attr]
    assert true == {"<<10/3=3.33>>": True, "<<10/3=3.3>>": True, "<<10/3=3.34>>": False, "<<10/3=3>>": False, "<<1/3=0.33>>": True}


def test_numbers_of_a_question_in_digits_and_words() -> None:
    said = given_in("Tom has twice as many as the 1,000 of Ann, and 2.5 dozen more.")
    assert said == {Fraction(number) for number in (2, 1000, "2.5", 12, 100)}
    assert strict_coherence(equations_in("2 * 1000 = 2000"), "#### 2000", said) == 1


def test_numbers_that_python_refuses_to_read_are_none() -> None:
    huge = "9" * 5000
    assert given_in(f"Add {huge} and 2.") == {Fraction(2), Fraction(100)}
    assert equation_of(f"<<1+{huge}=2>>") is equation_of(f"<<1+1={huge}>>") is None
    assert strict_coherence(["<<1+1=2>>"], f"#### {huge}", [1]) == 0


def test_a_constant_score_has_no_interval() -> None:
    problems, right = np.repeat(np.arange(20), 6), np.tile([True, False, True, False, False, True], 20)
    data = LabelledStates(problems, np.zeros_like(problems), right, np.zeros((len(problems), 0)))
    found = separation("constant", np.ones(120), data, layer=None, fitted=False)
    assert (found.auc, found.low, found.high, found.p) == (0.5, None, None, None)
    assert pooled_auc(np.ones(120), right, problems).missing == "no interval: all equal"
    told = separation("told", right.astype(float), data, layer=None, fitted=False)
    assert told.auc == 1 and told.low is not None


def test_the_pooled_auc_is_the_share_of_ordered_pairs_and_its_interval_is_of_problems() -> None:
    rng = np.random.default_rng(0)
    problems, right = np.repeat(np.arange(20), 6), rng.random(120) < 0.5
    scores = np.round(right + rng.normal(size=120), 1)
    scores[:5] = np.nan
    seen = np.isfinite(scores)
    found = pooled_auc(scores, right, problems)
    assert found.value == pytest.approx(roc_auc_score(right[seen], scores[seen]))
    assert found.low is not None and found.high is not None and found.low < found.value < found.high
    # the same answers copied within their problems say nothing new
    copied = pooled_auc(np.tile(scores, 4), np.tile(right, 4), np.tile(problems, 4))
    assert copied.value == pytest.approx(found.value)
    assert copied.bounds == pytest.approx(found.bounds)
    assert pooled_auc(scores[:40], right[:40], problems[:40]).missing == "too few problems for an interval"


def test_scores_of_a_run_are_those_of_a_slower_count() -> None:
    embedded = Run.open("smollm2")
    report = coherence_run(embedded)
    rollouts = [each for each in embedded.rollouts() if each.verdict.finished]
    assert (report.rollouts, report.unfinished) == (len(rollouts), len(embedded.rollouts()) - len(rollouts))
    agreement = []
    for each in rollouts:
        others = [other for other in rollouts if other.problem_id == each.problem_id and other is not each]
        agreement.append(np.mean([other.verdict.extracted == each.verdict.extracted for other in others]) if others else np.nan)
    right = np.array([each.verdict.correct for each in rollouts])
    rows = {each.score: each for each in report.scores}
    for name, values in ((AGREEMENT, agreement), (SHORTER, [-len(each.token_ids) for each in rollouts])):
        values = np.array(values, float)
        pairs = [(values[i], values[j]) for i, j in product(np.flatnonzero(right), np.flatnonzero(~right))]
        pairs = [(a, b) for a, b in pairs if np.isfinite([a, b]).all()]
        assert rows[name].pooled.value == pytest.approx(np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]))
        assert rows[name].mean_right == pytest.approx(np.nanmean(values[right]))
    assert 0 < rows[STRICT].mean_wrong < rows[PUBLISHED].mean_wrong  # false steps are coherent by the published rule


def test_answers_that_are_all_right_are_refused(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path, upto="rollouts")
    kept = [each for each in run.rollouts() if each.verdict.correct]
    assert kept and len(kept) < len(run.rollouts())
    rewrite(run, "rollouts", "rollouts.jsonl", kept)
    with pytest.raises(DataError, match="no right and wrong answers to tell apart"):
        coherence_run(Run.open(run.path))
