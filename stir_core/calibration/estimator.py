"""The causal estimator, judged on an organism: many small studies of planted directions, and the effects that they show together.

Each study is judged by what all the *other* studies show, which share no problem with it: whether its intervals hold the effect, whether
the effect is seen, and which action is ranked first.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stir_core.config import GateConfig, RunConfig, with_changes
from stir_core.evaluate.effects import NULL_ARM, StateId, by_arm, effect
from stir_core.evaluate.statistics import verdict_of
from stir_core.findings import ArmEffect, EstimatorCheck, Roll
from stir_core.intervene.controller import run_all, steer
from stir_core.intervene.jobs import NULL, Force, Forced, Job, Settings
from stir_core.models.loading import LoadedModel
from stir_core.models.prompting import prompt_ids
from stir_core.organisms.planted import Organism
from stir_core.records import OnProgress, Problem, Progress, Trace, finished_traces
from stir_core.seeding import generator_for
from stir_core.store.jsonl import append_records, read_appended
from stir_core.tasks import Grader, load_problems
from stir_core.tasks.chain import chain_of

PLANTED, OPPOSITE, TONE, RANDOM = "planted", "opposite", "tone", "random direction"
POINT = 1
"""Control point of all states: the first that a gate may steer."""


class StudyDesign(NamedTuple):
    """How many studies of an organism, and how large each is."""

    studies: int
    problems: int
    """Of each study; each gives one state."""
    rolls: int
    """Continuations of an arm at each state."""


def check_estimator(
    model: LoadedModel,
    organism: Organism,
    config: RunConfig,
    file: Path,
    design: StudyDesign,
    *,
    layer: int,
    norm: float,
    report: OnProgress = lambda progress: None,
) -> tuple[EstimatorCheck, ...]:
    """Continue greedy answers after their first step with planted directions, noise and nothing, and judge each study.

    Args:
        file: JSON lines of the continuations; those in it are not made again.
        layer: layer of the impulses.
        norm: length of the noise.
    """
    problems = load_problems(config.task.name, "validation", n=design.studies * design.problems, seed=config.seed)
    arms = [PLANTED, OPPOSITE, TONE, RANDOM] if organism.rung.right is not None else [TONE, RANDOM]
    rolls = _continued(model, organism, config, file, problems, [NULL_ARM, *arms], design.rolls, layer, norm, report)
    return judged(rolls, [(problem.id, POINT, None) for problem in problems], arms, design)


def judged(rolls: Iterable[Roll], states: Sequence[StateId], arms: Sequence[str], design: StudyDesign) -> tuple[EstimatorCheck, ...]:
    """Deal the states out to studies, estimate every arm's effect in each, and compare it with what the other studies show."""
    grouped = by_arm(rolls)
    parts = [list(states[i :: design.studies]) for i in range(design.studies)]

    def estimated(part: list[StateId], arm: str) -> ArmEffect:
        found = effect(grouped, part, lambda state: arm, arm, NULL_ARM)
        assert found is not None  # every state has every arm
        return found

    seen = {arm: [estimated(part, arm) for part in parts] for arm in arms}
    checks: list[EstimatorCheck] = []
    for arm, own in seen.items():
        values = np.array([each.advantage.value for each in own])
        others = (values.sum() - values) / (len(values) - 1)
        best = np.max([[each.advantage.value for each in rivals] for name, rivals in seen.items() if name != arm], axis=0)
        checks.append(
            EstimatorCheck(
                action=arm,
                effect=float(values.mean()),
                studies=len(own),
                problems=design.problems,
                rolls=design.rolls,
                covered=sum(each.advantage.bounds[0] <= truth <= each.advantage.bounds[1] for each, truth in zip(own, others, strict=True)),
                seen=sum(verdict_of(each.advantage.value, each.p) in ("helps", "harms") for each in own),
                first=int((values > best).sum()),
            )
        )
    return tuple(checks)


def _continued(
    model: LoadedModel,
    organism: Organism,
    config: RunConfig,
    file: Path,
    problems: Sequence[Problem],
    arms: Sequence[str],
    repetitions: int,
    layer: int,
    norm: float,
    report: OnProgress,
) -> list[Roll]:
    """Every continuation: all arms of a repetition draw from the same random streams, as in a causal study."""
    rolls = read_appended(file, Roll)
    have = {(roll.problem_id, roll.arm, roll.rep) for roll in rolls}
    wanted = [(problem, arm, rep) for problem in problems for arm in arms for rep in range(repetitions)]
    asked = [(problem, arm, rep) for problem, arm, rep in wanted if (problem.id, arm, rep) not in have]
    report(Progress("causal", len(wanted) - len(asked), len(wanted), "continuations"))
    if not asked:
        return rolls
    gate, decode = with_changes(GateConfig(), variant="no_memory"), config.decode
    answers = _first_steps(model, config, problems)
    jobs: list[Job] = []
    for problem, arm, rep in asked:
        trace, force = answers[problem.id], _force(organism, problem, arm, rep, layer, norm, config.seed)
        jobs.append(Job(f"{problem.id}@{POINT}~{rep}", list(trace.prompt_ids), gate, given=trace.steps[0].token_ids, force=force))
    sampled = with_changes(decode, temperature=config.rollouts.temperature, top_p=config.rollouts.top_p)
    file.parent.mkdir(parents=True, exist_ok=True)
    with Grader() as grader:
        for row, trace in finished_traces(steer(model, jobs, Settings.of(config, sampled, 64))):
            problem, arm, rep = asked[row]
            verdict = grader.judge(problem, trace.text)
            decoded, alpha = trace.tokens_used - trace.given, float(arm != NULL_ARM)
            facts: dict[str, Any] = {"correct": verdict.correct, "finished": verdict.finished, "decoded": decoded}
            roll = Roll(problem_id=problem.id, m=POINT, arm=arm, alpha=alpha, rep=rep, tokens=trace.tokens_used, **facts)
            append_records(file, [roll])
            rolls.append(roll)
            report(Progress("causal", len(wanted) - len(asked) + len(rolls) - len(have), len(wanted), "continuations"))
    return rolls


def _first_steps(model: LoadedModel, config: RunConfig, problems: Sequence[Problem]) -> dict[str, Trace]:
    """Greedy answers by problem; an organism's first step is long finished within 32 tokens."""
    decode = with_changes(config.decode, temperature=0.0, max_new_tokens=32)
    gate, room = with_changes(GateConfig(), variant="no_memory"), config.decode.max_new_tokens
    jobs = [Job(problem.id, prompt_ids(model, problem, config.task, room=room), gate) for problem in problems]
    return {trace.id: trace for trace in run_all(model, jobs, Settings.of(config, decode, 64))}


def _force(organism: Organism, problem: Problem, arm: str, rep: int, layer: int, norm: float, seed: int) -> Force:
    """Inject the arm's vector at the state's control point, and nothing elsewhere."""
    if arm == NULL_ARM:
        return lambda at: NULL
    forced = Forced(arm, layer, _vector(organism, problem, arm, rep, layer, norm, seed))
    return lambda at: forced if at == POINT else NULL


def _vector(organism: Organism, problem: Problem, arm: str, rep: int, layer: int, norm: float, seed: int) -> Tensor:
    if arm == TONE:
        return organism.planted.tone[layer]
    if arm == RANDOM:
        drawn = generator_for(seed, "causal noise", problem.id, POINT, rep).standard_normal(organism.planted.tone.shape[1])
        return torch.tensor(norm * drawn / np.linalg.norm(drawn), dtype=torch.float32)
    correction = organism.planted.correction(organism.rung, chain_of(problem.question).kind)[layer]
    return correction if arm == PLANTED else -correction
