"""Figures from hand-made answers: counted, paired, corrected, written."""

# pyright: reportOptionalMemberAccess=false
# (what is None where a test expects something raises there, and the test fails as it should)

from typing import Any

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar as sm_mcnemar
from statsmodels.stats.multitest import multipletests

from stir_core.evaluate.degeneration import compressed, repeated
from stir_core.evaluate.report import evaluation_markdown, evaluation_report
from stir_core.findings import Answer, EvaluationSpec
from stir_core.records import ModelIdentity, Verdict

MODEL = ModelIdentity(name="m", weights_sha256="w", tokenizer_sha256="t", dtype="float32", architecture="A", n_layers=1, d_model=2)


def spec(methods, n, **more) -> EvaluationSpec:
    facts: dict[str, Any] = dict(
        label="x", task="t", split="eval", n=n, methods=tuple(methods), baseline=methods[0], template="hash", gate={}, max_new_tokens=9
    )
    facts |= dict(rows=1, run="r", config_digest="c", basis="b", model=MODEL, seed=0)
    return EvaluationSpec(**(facts | more))


def answer(method, problem, right, tokens=5, seed=0, probe=0, text="a b c") -> Answer:
    verdict = Verdict(correct=right, extracted="1", gold="1", method="", reason="", finished=right)
    cost: dict[str, Any] = dict(
        tokens_used=tokens, probe_tokens=probe, prompt_tokens=3, forward_tokens=tokens + 3 + probe, flops=10.0 * tokens, seconds=0.5
    )
    return Answer(
        method=method, problem_id=problem, seed=seed, token_ids=tuple(range(tokens)), text=text, finish="stop", verdict=verdict, **cost
    )


def report_of(rights: dict[str, list[bool]], **more):
    n = len(next(iter(rights.values())))
    problems = [f"p{i}" for i in range(n)]
    answers = {
        name: [answer(name, p, r, tokens=5 + j) for p, r in zip(problems, own, strict=True)] for j, (name, own) in enumerate(rights.items())
    }
    return evaluation_report(spec(list(rights), n, **more), problems, answers, lambda name: ("about", "source"))


def test_counts_tests_and_correction_against_statsmodels():
    base = [True] * 6 + [False] * 14
    rights = {"vanilla": base, "good": [True] * 13 + [False] * 7, "bad": [False] * 6 + [True] * 2 + [False] * 12, "same": base}
    report = report_of(rights)
    assert report.complete
    good, bad, same = report.methods[1:]
    assert (len(good.versus.won), len(good.versus.lost), good.versus.tied) == (7, 0, 13)
    assert good.versus.won == tuple(f"p{i}" for i in range(6, 13))
    for method, table in ((good, [[6, 0], [7, 7]]), (bad, [[0, 6], [2, 12]])):
        assert method.versus.p == pytest.approx(float(vars(sm_mcnemar(table, exact=True))["pvalue"]))
    adjusted = multipletests([good.versus.p, bad.versus.p, same.versus.p], method="holm")[1]
    assert [m.versus.p_holm for m in (good, bad, same)] == pytest.approx(np.asarray(adjusted).tolist())
    assert good.versus.difference.value == pytest.approx(7 / 20)
    assert good.versus.difference.bounds[0] > 0 and bad.versus.difference.bounds[0] < bad.versus.difference.bounds[1]
    assert (same.versus.p, same.versus.difference.value) == (1.0, 0.0)
    assert good.versus.tokens.value == 1.0 and bad.versus.tokens.value == 2.0
    assert good.unfinished == 7


def test_only_problems_that_all_have_answered_count():
    answers = {"vanilla": [answer("vanilla", f"p{i}", True) for i in range(3)], "stir": [answer("stir", "p1", False)]}
    report = evaluation_report(spec(["vanilla", "stir"], 3), ["p0", "p1", "p2"], answers, lambda name: ("", ""))
    assert (report.problems, report.complete) == (1, False)
    assert [m.answers for m in report.methods] == [1, 1]
    assert "Not finished:** 1 of 3" in evaluation_markdown(report)


def test_no_answers_yet_is_a_report_that_says_so():
    report = evaluation_report(spec(["vanilla", "stir"], 3), ["p0"], {"vanilla": [], "stir": []}, lambda name: ("", ""))
    assert (report.methods, report.complete, report.problems) == ((), False, 0)
    assert "0 of 3" in evaluation_markdown(report)


def test_several_seeds_are_compared_by_problem():
    problems = [f"p{i}" for i in range(8)]
    base = [answer("vanilla", p, i < 2) for i, p in enumerate(problems)]
    sampled = [answer("sampling", p, i < 5, seed=seed) for i, p in enumerate(problems) for seed in range(3)]
    report = evaluation_report(
        spec(["vanilla", "sampling"], 8, seeds=3), problems, {"vanilla": base, "sampling": sampled}, lambda n: ("", "")
    )
    versus = report.methods[1].versus
    assert versus.test.startswith("sign-flip") and report.methods[1].interval.endswith("with problems as clusters")
    assert versus.difference.value == pytest.approx(3 / 8)
    assert versus.p == pytest.approx(2 / 2**3, abs=0.02)  # three problems differ, all in one direction


def test_what_a_reader_must_know_stands_in_the_text():
    from stir_core.findings import Leak

    text = evaluation_markdown(
        report_of({"vanilla": [True, False], "stir": [True, True]}, leaks=(Leak(problem_id="p0", mined_id="m", similarity=1, exact=True),))
    )
    assert "**LEAK:** 1 of these problems were mined (p0)" in text
    assert "| `stir` | 2/2 | 100.0 % [34.2, 100.0] | 1 / 0 | +50.0 points" in " ".join(text.split())
    assert "exact McNemar" in text


def test_rounding_is_counted_where_nothing_was_injected():
    base = [answer("vanilla", f"p{i}", True, text="a").replaced(facts={"commits": 0}) for i in range(4)]
    own = [
        answer("stir", f"p{i}", i > 0, text=text).replaced(facts={"commits": n})
        for i, (text, n) in enumerate(zip("bbab", (0, 1, 0, 0), strict=True))
    ]
    other = [each.replaced(method="deer") for each in own]
    methods = {"vanilla": base, "stir": own, "deer": other}
    report = evaluation_report(spec(list(methods), 4), [f"p{i}" for i in range(4)], methods, lambda name: ("about", "source"))
    assert [each.versus and (each.versus.untouched, each.versus.rounded) for each in report.methods] == [None, (3, 2), (None, None)]
    assert report.methods[1].versus and (report.methods[1].versus.rounded_won, report.methods[1].versus.rounded_lost) == (0, 1)
    assert "is still not that of `vanilla`: `stir` 2 of 3 (0 won, 1 lost). In" in evaluation_markdown(report)
    equal = evaluation_report(
        spec(["vanilla", "stir"], 4), ["p2"], {"vanilla": base[2:3], "stir": own[2:3]}, lambda name: ("about", "source")
    )
    assert equal.methods[1].versus.rounded == 0 and "Rounding" not in evaluation_markdown(equal)


def test_degeneration():
    assert repeated((1, 2, 3, 1, 2, 3), 3) == pytest.approx(1 / 4)
    assert repeated((1, 1, 1, 1), 2) == pytest.approx(2 / 3)
    assert repeated((1,), 2) == 0.0
    assert compressed("ab" * 200) < 0.1 < compressed("the quick brown fox jumps over the lazy dog")
    assert compressed("") == 1.0
