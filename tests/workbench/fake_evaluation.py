"""Evaluations and causal studies of a fake run, built from the real records and written through the stores' own functions.

Which answer is right follows small rules, so that every figure on a page can be counted by hand. Nothing is decoded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from fake_run import IDENTITY, NASTY, answer, fake_trace, problems, tokens_of, verdict

from stir_core.config import digest_of
from stir_core.evaluate.causal_text import causal_markdown
from stir_core.evaluate.effects import PREDICTORS, area_under_roc, by_arm, own_effects, own_verdict
from stir_core.evaluate.report import evaluation_markdown, evaluation_report
from stir_core.evaluate.statistics import verdict_of
from stir_core.findings import (
    NO_INTERVAL,
    Advantage,
    Answer,
    ArmEffect,
    Bin,
    CausalPoint,
    CausalReport,
    CausalSpec,
    Estimate,
    EvaluationReport,
    EvaluationSpec,
    Leak,
    Predictor,
    Roll,
)
from stir_core.records import Problem
from stir_core.store.causal import CausalFolder
from stir_core.store.evaluations import EvaluationFolder
from stir_core.store.runs import Run

METHODS = ("vanilla", "stir", "static", "self_consistency:k=3")
BY_CHANCE = ("self_consistency:k=3",)


def is_right(method: str, i: int, seed: int = 0) -> bool:
    """Vanilla is right on every third problem; stir wins the ones after those and loses problem 3; static equals vanilla; votes vary."""
    if method.startswith("stir"):
        return i % 3 != 2 and i != 3
    if method in BY_CHANCE:
        return (i + seed) % 2 == 0
    return i % 3 == 0


def make_fake_evaluation(
    run: Run,
    label: str = "small",
    *,
    methods: Sequence[str] = METHODS,
    n: int = 7,
    seeds: int = 1,
    answered: Mapping[str, int] | None = None,
    leaks: bool = False,
    task: str = "arithmetic",
) -> EvaluationReport:
    """Write an evaluation; ``answered``: number of problems that a method has answered, if not all."""
    asked = problems("eval", n)
    spec = EvaluationSpec(
        label=label,
        task=task,
        split="eval",
        n=n,
        seeds=seeds,
        methods=tuple(methods),
        baseline="vanilla",
        template="auto",
        gate=run.config.gate.model_dump(mode="json"),
        max_new_tokens=160,
        rows=8,
        run=run.name,
        config_digest=digest_of(run.config),
        basis=run.digest("basis"),
        model=IDENTITY,
        seed=7,
        leaks=(Leak(problem_id=asked[1].id, mined_id="arithmetic/train/1", similarity=1.0, exact=True),) if leaks else (),
        same_words=2,
        command=f"stir eval {run.name} --methods stir static --label {label}",
        environment={"torch": "2.13.0"},
    )
    folder = EvaluationFolder(run, label)
    folder.begin(spec, asked)
    for method in methods:
        for i, problem in enumerate(asked[: (answered or {}).get(method, n)]):
            for seed in range(seeds if method in BY_CHANCE else 1):
                folder.append(fake_answer(run, method, problem, i, seed))
    found = {method: folder.answers(method) for method in methods}
    report = evaluation_report(spec, [p.id for p in asked], found, lambda name: (f"what {name} is", "a source"))
    folder.write_report(report, evaluation_markdown(report), complete=report.complete)
    return report


def fake_answer(run: Run, method: str, problem: Problem, i: int, seed: int) -> Answer:
    """One settled answer; vanilla and stir have a trace, stir's first one holds markup."""
    right, steered = is_right(method, i, seed), method.startswith("stir")
    text = answer(problem, right=right, long=not steered)
    if steered and i == 0:
        text = text.replace("Start with", NASTY + " Start with")
    trace = fake_trace(run, problem, text, right, steered=steered, seed=i) if steered or method == "vanilla" else None
    ids = trace.token_ids if trace else tokens_of(text)[1]
    probe = trace.probe_tokens if trace else 2 * len(ids) if method in BY_CHANCE else 0
    commits: dict[str, float | int | str] = (
        {"commits": sum(step.decision.chosen is not None for step in trace.steps)} if trace and steered else {}
    )
    return Answer(
        method=method,
        problem_id=problem.id,
        seed=seed,
        token_ids=ids,
        text=text,
        finish="stop",
        tokens_used=len(ids),
        probe_tokens=probe,
        prompt_tokens=30,
        forward_tokens=30 + len(ids) + probe,
        flops=2.7e8 * (30 + len(ids) + probe),
        seconds=0.02 * (len(ids) + probe),
        verdict=verdict(problem, right),
        trace=trace,
        facts=commits,
    )


def _causal_spec(run: Run, **facts: Any) -> CausalSpec:
    return CausalSpec(
        task="arithmetic",
        rolls=8,
        temperature=0.7,
        top_p=0.95,
        max_new_tokens=160,
        gate=run.config.gate.model_dump(mode="json"),
        run=run.name,
        basis=run.digest("basis"),
        model=IDENTITY,
        seed=7,
        **facts,
    )


def make_fake_causal(run: Run, *, margin: tuple[float, float, float] | None = (0.05, -0.2, 0.3), ended: bool = True) -> CausalReport:
    """Write a causal study; ``margin``: rank correlation of the margin with its interval, ``None`` where there is none."""
    points = _points(run)
    entries = sorted({point.entry_id for point in points})
    spec = _causal_spec(run, split="validation", n=6, states=None, halving=True, command=f"stir causal {run.name}")
    ordered = sorted(points, key=lambda point: point.margin)
    bins = [ordered[start : start + len(ordered) // 4] for start in range(0, 4 * (len(ordered) // 4), len(ordered) // 4)]
    states = len({(point.problem_id, point.m) for point in points})
    report = CausalReport(
        spec=spec,
        states=states,
        planned=states + (0 if ended else 3),
        rolls=400,
        tokens=16000,
        effects=tuple(
            _effect(*arms)
            for arms in (("chosen action", "null", 0.02), ("random direction", "null", -0.01), ("chosen action", "random", 0.03))
        ),
        actions=tuple(sorted((_advantage(entry, i) for i, entry in enumerate(entries)), key=lambda action: -action.value)),
        predictors=tuple(_predictor(name, points, margin) for name in PREDICTORS),
        calibration=tuple(_bin(part) for part in bins),
        points=tuple(points),
    )
    folder = CausalFolder(run)
    folder.begin(spec, problems("eval", 6))
    folder.write_report(report, causal_markdown(report), complete=ended)
    return report


def make_fake_own(run: Run, right: Mapping[str, float], *, ended: bool = True) -> CausalReport:
    """Write a study ``own`` of 12 problems with 8 continuations of each arm, of which this share is right, spread as evenly as can be."""
    rolls = [
        Roll(
            problem_id=f"p{i}",
            m=1,
            k=0,
            arm=arm,
            alpha=1.0,
            rep=rep,
            finished=True,
            tokens=20,
            decoded=5,
            correct=(5 * rep + i) % 8 < 8 * share,
        )
        for arm, share in right.items()
        for i in range(12)
        for rep in range(8)
    ]
    spec = _causal_spec(run, study="own", split="train", n=12, halving=False, command=f"stir causal {run.name} --study own")
    effects = own_effects(by_arm(rolls), [(f"p{i}", 1, 0) for i in range(12)])
    outcome, verdict = own_verdict(effects)
    report = CausalReport(
        spec=spec,
        states=12,
        planned=12 if ended else 15,
        rolls=len(rolls),
        tokens=5 * len(rolls),
        effects=tuple(effects),
        actions=(),
        predictors=(),
        calibration=(),
        points=(),
        screened=40,
        detectable=0.2,
        outcome=outcome,
        verdict=verdict,
    )
    folder = CausalFolder(run, "own")
    folder.begin(spec, problems("train", 2))
    folder.write_report(report, causal_markdown(report), complete=ended)
    return report


def _points(run: Run) -> list[CausalPoint]:
    rng = np.random.default_rng(19)
    found = []
    for trace in run.traces("steered"):
        for step in trace.steps:
            sims = {seen.entry_id: seen.sim for seen in step.evidence.retrieved}
            for scored in step.decision.scored:
                if scored.score is None or step.decision.score_null is None:
                    continue
                found.append(
                    CausalPoint(
                        problem_id=trace.id,
                        m=step.evidence.m,
                        entry_id=scored.entry_id,
                        chosen=scored.entry_id == step.decision.chosen,
                        margin=scored.score - step.decision.score_null,
                        value=scored.value,
                        gain=scored.gain if len(found) % 9 else None,
                        sim=sims[scored.entry_id],
                        advantage=float(rng.integers(-2, 3)) / 8,
                        tokens=float(rng.normal() * 6),
                        pairs=8,
                    )
                )
    return found


def _advantage(entry: str, i: int) -> Advantage:
    """The first action helps, the second harms, the fourth was tried on one problem, and the others have no visible effect."""
    value, reach = ((0.25, 0.15), (-0.2, 0.1))[i] if i < 2 else (0.02 * (i - 4), 0.2)
    few, p = i == 3, 0.01 if i < 2 else 0.6
    return Advantage(
        entry_id=entry,
        value=value,
        low=None if few else value - reach,
        high=None if few else value + reach,
        missing=NO_INTERVAL if few else None,
        tokens=Estimate(value=0.0, missing=NO_INTERVAL) if few else Estimate(value=-3.0 + i, low=-9.0, high=4.0 + i),
        states=1 if few else 9 + i,
        problems=1 if few else 8 + i,
        pairs=8 * (9 + i),
        won=3 + i,
        lost=2,
        p=None if few else p,
        p_holm=None if few else min(1.0, 4 * p),
        verdict=verdict_of(value, None if few else 4 * p),
    )


def _effect(arm: str, against: str, value: float) -> ArmEffect:
    reach = Estimate(value=value, low=value - 0.06, high=value + 0.07)
    tokens = Estimate(value=1.5, low=-2, high=5)
    return ArmEffect(arm=arm, against=against, advantage=reach, tokens=tokens, states=14, problems=9, pairs=112, won=9, lost=7, p=0.8)


def _predictor(name: str, points: list[CausalPoint], margin: tuple[float, float, float] | None) -> Predictor:
    usable = [(seen, point.advantage) for point in points if (seen := PREDICTORS[name](point)) is not None]
    helps = np.array([seen for seen, advantage in usable if advantage > 0])
    harms = np.array([seen for seen, advantage in usable if advantage < 0])
    rho, low, high = (margin or (None, None, None)) if name == "margin" else (0.1, -0.1, 0.3)
    return Predictor(
        name=name,
        points=len(usable),
        spearman=rho,
        low=low,
        high=high,
        auc=area_under_roc(helps, harms),
        positives=len(helps),
        negatives=len(harms),
    )


def _bin(part: list[CausalPoint]) -> Bin:
    margins, measured = [point.margin for point in part], float(np.mean([point.advantage for point in part]))
    estimate = Estimate(value=measured, low=measured - 0.1, high=measured + 0.12)
    return Bin(low=min(margins), high=max(margins), points=len(part), predicted=float(np.mean(margins)), measured=estimate)
