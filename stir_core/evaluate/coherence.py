"""The coherence of written steps as a score that needs no label: does it tell right answers from wrong ones?

Every equation in an answer's text is one step of a chain, and the chain is scored by the two rules of :mod:`stir_core.latent.coherence`.
Prose without an equation is no step.
"""

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import stdtrit

from stir_core.errors import DataError
from stir_core.evaluate.effects import area_under_roc
from stir_core.evaluate.probe import LabelledStates, separation
from stir_core.evaluate.statistics import FEWEST_PROBLEMS, LEVEL, clustered_share, jackknife
from stir_core.findings import NO_INTERVAL, CoherenceReport, CoherenceScore, Estimate
from stir_core.latent.coherence import equation_of, number_of, published_coherence, strict_coherence
from stir_core.records import Rollout
from stir_core.store.runs import Run

STRICT, PUBLISHED, AGREEMENT, LOGPROB, SHORTER = "strict coherence", "published coherence", "agreement", "mean log-probability", "shorter"
"""The scores: both coherences, and what else one has without a label: the share of the problem's other rollouts with the same answer, the
answer's mean log-probability, and its length."""

_SPELT = {"×": "*", "·": "*", "÷": "/", "−": "-", "≈": "=", r"\times": "*", r"\cdot": "*", r"\div": "/", r"\approx": "="}
_SPELLING = re.compile("|".join(re.escape(sign) + "(?![a-z])" * sign.startswith("\\") for sign in _SPELT))
_TIMES = re.compile(r"(?<=\d) ?[xX] ?(?=[$\d(])")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]{1,40})\}\s*\{([^{}]{1,40})\}")
_LAYOUT = re.compile(r"\\(?:text|mathrm|mbox)\s*\{[^{}]{0,40}\}|\\[()\[\],;! ]|[$€£*_`]{2}|[$€£]|(?<=\d),(?=\d{3}(?!\d))")
_UNIT = r"(?:\s*+[A-Za-z]++\.?){0,3}"
_OPERAND = rf"[(\s]*+-?\d++(?:\.\d++)?%?{_UNIT}[)\s]*+"
_WRITTEN = re.compile(rf"(?<![\d.=])({_OPERAND}(?:[-+*/]{_OPERAND})+)=\s*(-?\d+(?:\.\d+)?)(%?)")
_NUMBER = re.compile(r"(?<![\d.])\d+(?:\.\d+)?")
_SMALL = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_WORDS = {word: i for i, word in enumerate(_SMALL)} | {
    "twice": 2,
    "double": 2,
    "triple": 3,
    "half": 2,
    "third": 3,
    "quarter": 4,
    "dozen": 12,
}
_WORD = re.compile(rf"\b({'|'.join(_WORDS)})s?\b", re.IGNORECASE)


def equations_in(text: str) -> list[str]:
    """The equations of a text in order, each as a decoded step, e.g. ``<<48/2=24>>``; units, currency and layout are left out.

    ``20%`` counts as ``20/100``, and a left side without a per cent sign that equals a percentage as a hundred times itself.
    """
    plain = _SPELLING.sub(lambda match: _SPELT[match[0]], _FRACTION.sub(r"(\1)/(\2)", _TIMES.sub("*", text)))
    steps = []
    for match in _WRITTEN.finditer(_LAYOUT.sub("", plain)):
        left = re.sub(r"[A-Za-z]+\.?|\s", "", match[1])
        left = f"({left})*100" if match[3] and "%" not in left else left
        share = re.sub(r"(\d)%", r"\1/100", left) if not match[3] else left.replace("%", "")
        steps.append(f"<<{share}={match[2]}>>")
    return steps


def given_in(question: str) -> set[Fraction]:
    """The numbers of a question, in digits and in small words, and 100, which percentages bring with them."""
    words = {Fraction(_WORDS[word.lower()]) for word in _WORD.findall(question)}
    numbers = {number_of(number) for number in _NUMBER.findall(_LAYOUT.sub("", question))}
    return words | {number for number in numbers if number is not None} | {Fraction(100)}


def coherence_run(run: Run) -> CoherenceReport:
    """Score the rollouts of a run by their equations, and compare the scores with the verdicts.

    Raises:
        StoreError: rollouts have not finished, or they write no steps, since their steps are latents.
        DataError: all are right, or all are wrong.
    """
    run.check_text()
    questions = {problem.id: problem.question for problem in run.problems()}
    rollouts = [rollout for rollout in run.rollouts() if rollout.verdict.finished]
    if len({rollout.verdict.correct for rollout in rollouts}) < 2:
        raise DataError(f"run {run.name} has no right and wrong answers to tell apart: it needs rollouts of both kinds")
    number = {problem: i for i, problem in enumerate(questions)}
    problems = np.array([number[rollout.problem_id] for rollout in rollouts])
    right = np.array([rollout.verdict.correct for rollout in rollouts])
    steps = [equations_in(rollout.text) for rollout in rollouts]
    truths: list[list[float]] = [[] for _ in number]
    for problem, chain in zip(problems, steps, strict=True):
        truths[problem] += [float(equation is not None and equation.true) for equation in map(equation_of, chain)]
    answers = [f"#### {rollout.verdict.extracted}" for rollout in rollouts]
    given = {problem: given_in(question) for problem, question in questions.items()}
    scores = {
        STRICT: [strict_coherence(*each, given[r.problem_id]) for each, r in zip(zip(steps, answers, strict=True), rollouts, strict=True)],
        PUBLISHED: [published_coherence(*each) for each in zip(steps, answers, strict=True)],
        AGREEMENT: _agreements(rollouts),
        LOGPROB: [np.nan if rollout.mean_logprob is None else rollout.mean_logprob for rollout in rollouts],
        SHORTER: [-rollout.n_tokens for rollout in rollouts],
    }
    within = LabelledStates(problems, np.zeros_like(problems), right, np.zeros((len(problems), 0)))
    return CoherenceReport(
        run=run.name,
        problems=len(set(problems.tolist())),
        rollouts=len(rollouts),
        unfinished=len(run.rollouts()) - len(rollouts),
        right=float(right.mean()),
        with_equations=float(np.mean([bool(chain) for chain in steps])),
        equations=sum(map(len, steps)),
        true=clustered_share([group for group in truths if group]) if any(truths) else None,
        scores=tuple(
            CoherenceScore(
                score=name,
                mean_right=float(np.nanmean(values[right])),
                mean_wrong=float(np.nanmean(values[~right])),
                pooled=pooled_auc(values, right, problems),
                within=separation(name, values, within, layer=None, fitted=False),
            )
            for name, values in ((name, np.array(values, float)) for name, values in scores.items())
            if np.isfinite(values[right]).any() and np.isfinite(values[~right]).any()
        ),
    )


def pooled_auc(scores: Float[np.ndarray, "n"], right: Bool[np.ndarray, "n"], problems: Int[np.ndarray, "n"]) -> Estimate:
    """The share of all pairs of a right and a wrong answer that the scores order rightly, ties counted half; 0.5 is chance.

    A t interval over problems (delete-one jackknife). Answers to different problems are compared, so a score may gain by telling easy
    problems from hard ones. NaN scores are left out.
    """
    seen = np.isfinite(scores)
    scores, right, problems = scores[seen], right[seen], problems[seen]
    auc = area_under_roc(scores[right], scores[~right])
    assert auc is not None
    chosen = np.unique(problems)
    left_out = [area_under_roc(scores[right & (problems != i)], scores[~right & (problems != i)]) for i in chosen]
    if len(chosen) < FEWEST_PROBLEMS or None in left_out:
        return Estimate(value=auc, missing=NO_INTERVAL)
    half = float(stdtrit(len(chosen) - 1, 1 - LEVEL / 2)) * jackknife(np.array(left_out, float))
    if not half:
        return Estimate(value=auc, missing="no interval: all equal")
    return Estimate(value=auc, low=max(0.0, auc - half), high=min(1.0, auc + half))


def _agreements(rollouts: Sequence[Rollout]) -> list[float]:
    """Of each answer, the share of the problem's other answers that state the same; NaN where there is no other."""
    said = [(rollout.problem_id, rollout.verdict.extracted) for rollout in rollouts]
    same, all_of = Counter(said), Counter(problem for problem, _ in said)
    return [(same[each] - 1) / (all_of[each[0]] - 1) if all_of[each[0]] > 1 else np.nan for each in said]
