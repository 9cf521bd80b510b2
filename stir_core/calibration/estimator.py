"""The causal estimator, judged on an organism: many small studies of planted directions, and the effects that they show together.

Each study is judged by what all the *other* studies show, which share no problem with it: whether its intervals hold the effect, whether
the effect is seen, and which action is ranked first.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stir_core.config import GateConfig, RunConfig, with_changes
from stir_core.evaluate.continuations import continue_group
from stir_core.evaluate.effects import NULL_ARM, StateId, by_arm, effect
from stir_core.evaluate.statistics import verdict_of
from stir_core.findings import ArmEffect, EstimatorCheck, Roll
from stir_core.intervene.controller import run_all
from stir_core.intervene.jobs import NULL, Forced, Job, Settings
from stir_core.models.loading import LoadedModel
from stir_core.models.prompting import prompt_ids
from stir_core.organisms.planted import Organism
from stir_core.records import OnProgress, Problem, Progress
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


class _State(NamedTuple):
    """The beginning of a greedy answer: its first step."""

    problem: Problem
    prompt_ids: list[int]
    given: tuple[int, ...]

    @property
    def id(self) -> StateId:
        return self.problem.id, POINT, None


def _continued(
    model: LoadedModel,
    organism: Organism,
    config: RunConfig,
    file: Path,
    problems: Sequence[Problem],
    arms: list[str],
    repetitions: int,
    layer: int,
    norm: float,
    report: OnProgress,
) -> list[Roll]:
    """Every continuation, made as in a causal study."""
    rolls, wanted, tokens = read_appended(file, Roll), len(problems) * len(arms) * repetitions, 0
    report(Progress("causal", len(rolls), wanted, "continuations"))
    if len(rolls) == wanted:
        return rolls

    def impulse(state: _State, arm: str, rep: int) -> Forced:
        if arm == NULL_ARM:
            return NULL
        return Forced(arm, layer, _vector(organism, state.problem, arm, rep, layer, norm, config.seed))

    states = _first_steps(model, config, problems)
    sampled = with_changes(config.decode, temperature=config.rollouts.temperature, top_p=config.rollouts.top_p)
    settings, whole = Settings.of(config, sampled, 64), repetitions
    file.parent.mkdir(parents=True, exist_ok=True)
    with Grader() as grader:
        for roll in continue_group(model, settings, GateConfig(), states, rolls, whole, whole, lambda *_: arms, impulse, grader):
            append_records(file, [roll])
            rolls.append(roll)
            tokens += roll.decoded
            report(Progress("causal", len(rolls), wanted, "continuations", tokens))
    return rolls


def _first_steps(model: LoadedModel, config: RunConfig, problems: Sequence[Problem]) -> list[_State]:
    """Greedy answers up to the end of their first step; an organism's is long finished within 32 tokens."""
    decode = with_changes(config.decode, temperature=0.0, max_new_tokens=32)
    room = config.decode.max_new_tokens
    jobs = [Job(problem.id, prompt_ids(model, problem, config.task, room=room), GateConfig()) for problem in problems]
    answers = {trace.id: trace for trace in run_all(model, jobs, Settings.of(config, decode, 64))}
    return [_State(problem, list(answers[problem.id].prompt_ids), answers[problem.id].steps[0].token_ids) for problem in problems]


def _vector(organism: Organism, problem: Problem, arm: str, rep: int, layer: int, norm: float, seed: int) -> Tensor:
    if arm == TONE:
        return organism.planted.tone[layer]
    if arm == RANDOM:
        drawn = generator_for(seed, "causal noise", problem.id, POINT, rep).standard_normal(organism.planted.tone.shape[1])
        return torch.tensor(norm * drawn / np.linalg.norm(drawn), dtype=torch.float32)
    correction = organism.planted.correction(organism.rung, chain_of(problem.question).kind)[layer]
    return correction if arm == PLANTED else -correction
