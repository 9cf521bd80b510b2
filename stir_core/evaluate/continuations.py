"""Continuations of states under the arms of a causal study.

All arms of a state share their random streams (common random numbers), so they differ only in the impulse. Nothing is injected after it.
"""

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from stir_core.config import GateConfig, RunConfig, with_changes
from stir_core.evaluate.effects import StateId
from stir_core.findings import CausalSpec, Roll
from stir_core.intervene.controller import steer
from stir_core.intervene.jobs import NULL, Force, Forced, Job, Settings
from stir_core.models.loading import LoadedModel
from stir_core.records import OnProgress, Problem, Progress, finished_traces
from stir_core.seeding import generator_for
from stir_core.store.causal import CausalFolder
from stir_core.tasks import Grader

FIRST_ROUND = 2
"""Continuations of every arm before any is dropped."""


@runtime_checkable
class Continuable(Protocol):
    """A state: the beginning of an answer to a problem, up to a control point."""

    @property
    def problem(self) -> Problem: ...
    @property
    def prompt_ids(self) -> list[int]: ...
    @property
    def given(self) -> tuple[int, ...]: ...
    @property
    def id(self) -> StateId: ...


StateT = TypeVar("StateT", bound=Continuable)
Arms = Callable[[StateT, list[Roll], int], list[str]]
"""``(state, its continuations, number wanted) -> the arms that are still in``."""
Impulses = Callable[[StateT, str, int], Forced]
"""``(state, arm, repetition) -> what is injected at its control point``."""


def _never() -> bool:
    return False


def continue_states(
    model: LoadedModel,
    config: RunConfig,
    spec: CausalSpec,
    folder: CausalFolder,
    states: list[StateT],
    rolls: list[Roll],
    arms: Arms[StateT],
    impulses: Impulses[StateT],
    *,
    first: int = FIRST_ROUND,
    most: int | None = None,
    stage: str = "states",
    enough: Callable[[], bool] = _never,
    report: OnProgress = lambda progress: None,
) -> None:
    """Continue states under their arms until each has ``spec.rolls``, or ``most``; continuations are kept as they arrive.

    States go in groups, so that ``spec.budget_tokens`` is spent on whole states; it counts earlier attempts too.

    Args:
        rolls: continuations so far, which are not made again; new ones are added.
        first: continuations before ``arms`` is asked again; then twice as many, and so on.
        enough: asked before each group; true ends it.
    """
    decode = with_changes(config.decode, temperature=spec.temperature, top_p=spec.top_p, max_new_tokens=spec.max_new_tokens)
    settings = Settings.of(config, decode, spec.rows)._replace(seed=spec.seed)
    gate = with_changes(GateConfig(), persistence=spec.gate["persistence"])
    tokens, done = sum(roll.decoded for roll in rolls), 0
    size = max(1, 4 * spec.rows // (6 * FIRST_ROUND))  # with about six arms per state, a first round fills the batch four times
    if model.workers is not None and spec.budget_tokens is None and enough is _never:  # else the groups decide which states are taken
        size *= model.workers.pool.size
    report(Progress(stage, 0, len(states), "states", tokens))
    with Grader() as grader:
        for start in range(0, len(states), size):
            if enough() or (spec.budget_tokens is not None and tokens >= spec.budget_tokens):
                break
            group = states[start : start + size]
            for roll in continue_group(model, settings, gate, group, rolls, first, most or spec.rolls, arms, impulses, grader):
                folder.add_rolls([roll])
                rolls.append(roll)
                tokens += roll.decoded
                report(Progress(stage, done, len(states), "states", tokens))
            done += len(group)
            report(Progress(stage, done, len(states), "states", tokens))


def continue_group(
    model: LoadedModel,
    settings: Settings,
    gate: GateConfig,
    group: list[StateT],
    known: list[Roll],
    first: int,
    most: int,
    arms: Arms[StateT],
    impulses: Impulses[StateT],
    grader: Grader,
) -> Iterator[Roll]:
    """Continue a group of states, round by round, until every arm that is still in has ``most``.

    Args:
        gate: says how long an impulse lasts.
        known: continuations that are not made again.
        first: continuations before ``arms`` is asked again; then twice as many, and so on.
    """
    ids = {state.id for state in group}
    rolls = [roll for roll in known if roll.state in ids]
    upto = min(first, most)
    while True:
        have = {(roll.state, roll.arm, roll.rep) for roll in rolls}
        wanted = [(state, arm, rep) for state in group for arm in arms(state, rolls, upto) for rep in range(upto)]
        asked = [(state, arm, rep) for state, arm, rep in wanted if (state.id, arm, rep) not in have]
        jobs = [
            Job(_stream(state.id, arm, rep), state.prompt_ids, gate, given=state.given, force=_at(state.id[1], impulses(state, arm, rep)))
            for state, arm, rep in asked
        ]
        problems = [state.problem for state, _, _ in asked]
        for row, trace, verdict in grader.judge_traces(finished_traces(steer(model, jobs, settings)), problems.__getitem__):
            state, arm, rep = asked[row]
            problem_id, m, k = state.id
            roll = Roll(
                problem_id=problem_id,
                m=m,
                k=k,
                arm=arm,
                alpha=trace.steps[0].decision.alpha if trace.steps else 0.0,
                rep=rep,
                correct=verdict.correct,
                finished=verdict.finished,
                tokens=trace.tokens_used,
                decoded=trace.tokens_used - trace.given,
            )
            rolls.append(roll)
            yield roll
        if upto >= most:
            return
        upto = min(2 * upto, most)


SCREEN_ARM = "screen"
"""Vanilla re-rolls that only decide whether a state is undecided. They have streams of their own, and count in no comparison."""


def _stream(state: StateId, arm: str, rep: int) -> str:
    """Names the random streams of a continuation: without the arm, since all arms draw from the same."""
    problem_id, m, k = state
    return f"{problem_id}@{m}{'' if k is None else f'#{k}'}~{'screen' if arm == SCREEN_ARM else ''}{rep}"


def _at(m: int, forced: Forced) -> Force:
    """Inject at one control point, and nothing elsewhere."""
    return lambda at: forced if at == m else NULL


def noise_like(vector: Tensor, seed: int, *names: str | int) -> Tensor:
    """A Gaussian direction of the vector's norm, from a named stream."""
    noise = torch.tensor(generator_for(seed, *names).standard_normal(len(vector)), dtype=torch.float32)
    return noise * (vector.norm() / noise.norm())
