"""Causal value of actions: from logged states of held-out answers, continuations with the action, without it, and with noise of its size.

All arms of a state share their random streams (common random numbers), so they differ only in the impulse. Nothing is injected after it:
the study measures one decision, not a policy. The tokens before the state are read unsteered. Under ``persistent`` the gate saw them with
earlier impulses in the cache, so there the study continues the recorded text, not the recorded cache.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from stir_core.config import GateConfig, RunConfig, with_changes
from stir_core.errors import ConfigError, DataError, StoreError
from stir_core.evaluate.causal_text import causal_markdown
from stir_core.evaluate.continuations import FIRST_ROUND, continue_states, noise_like
from stir_core.evaluate.effects import (
    NULL_ARM,
    PREDICTORS,
    RANDOM_ARM,
    Rolls,
    StateId,
    advantages,
    by_arm,
    calibration,
    effect,
    gaps,
    measured_point,
    predictor,
    right,
)
from stir_core.evaluate.own import own_states, study_own
from stir_core.findings import CausalPoint, CausalReport, CausalSpec, Roll
from stir_core.intervene.controller import steer
from stir_core.intervene.gate import injectable
from stir_core.intervene.jobs import NULL, Forced, Job, Settings
from stir_core.intervene.memory import Memory, memory_of
from stir_core.models.loading import LoadedModel
from stir_core.models.prompting import prompt_ids
from stir_core.organisms.planted import organism_named
from stir_core.records import OnProgress, Problem, Progress, StepTrace, Trace, finished_traces
from stir_core.requests import CausalRequest
from stir_core.seeding import generator_for
from stir_core.store.causal import CausalFolder
from stir_core.store.libraries import library_named
from stir_core.store.runs import Run
from stir_core.tasks import load_problems
from stir_core.tasks.overlap import find_overlaps


class LoggedState(NamedTuple):
    """A state at which the gate had candidates: the beginning of an answer, up to a control point."""

    problem: Problem
    prompt_ids: list[int]
    given: tuple[int, ...]
    """Answer tokens before the control point."""
    step: StepTrace
    doses: dict[str, float]
    """Multiple of the action that the gate would inject, by candidate, in preview order."""

    @property
    def id(self) -> StateId:
        """Problem and control point."""
        return self.problem.id, self.step.evidence.m, None


def measure(
    run: Run,
    model: LoadedModel,
    request: CausalRequest,
    *,
    command: str | None,
    environment: dict[str, str],
    report: OnProgress = lambda progress: None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[CausalReport, Path]:
    """Find the states of the study that is asked for, continue them under every arm, and write the report.

    Args:
        say: is told the size and the power of the study ``own`` before it decodes.

    Returns:
        The report and its folder.

    Raises:
        ConfigError: a split for the study ``own``, layers for another one, or layers that have no actions.
        DataError: problems that were mined, or too few of them.
        StoreError: the run has no library, or its study was made with other settings.
        MismatchError: the run was made with another model.
    """
    run.check_model(model.identity)
    config = run.config
    which = "codes" if request.study == "codes" else "basis"
    memory = memory_of(run, library_named(run, which))
    if memory is None:
        raise StoreError(f"run {run.path} has no entry in its {which}, so no action to measure: mine more problems or more rollouts")
    gate = config.gate if request.strength is None else with_changes(config.gate, k_scale=request.strength)
    own = request.study == "own"
    if request.layers and not own:
        raise ConfigError(f"--layers {' '.join(map(str, request.layers))}: only the study own asks for layers, add --study own")
    budget = (config.rollouts if own else config.decode).max_new_tokens if request.max_new_tokens is None else request.max_new_tokens
    settled: dict[str, Any] = dict(request) | {"max_new_tokens": budget, "layers": tuple(dict.fromkeys(request.layers))}
    if own:
        if request.split != CausalRequest().split:
            raise ConfigError(f"--split {request.split}: the study own takes the problems that were mined, leave --split out")
        settled |= {"split": run.problems()[0].split, "halving": False}
    spec = CausalSpec(
        **settled,
        task=config.task.name,
        levels=config.task.levels,
        temperature=config.rollouts.temperature,
        top_p=config.rollouts.top_p,
        gate=gate.model_dump(mode="json"),
        run=run.name,
        basis=run.digest(which),
        model=model.identity,
        seed=config.seed,
        command=command,
        environment=environment,
    )
    folder = CausalFolder(run, request.study)
    if own:
        candidates = own_states(run, memory, spec, organism_named(model.identity.name) if config.task.name == "chain" else None)
        with folder.writer():
            folder.begin(spec, list({state.problem.id: state.problem for state in candidates}.values()))
            return study_own(model, config, spec, folder, candidates, say=say, report=report), folder.path
    problems = list(load_problems(config.task.name, request.split, n=request.n, seed=config.seed, levels=config.task.levels))
    if leaks := find_overlaps(run.problems(), problems).overlaps:
        raise DataError(f"{len(leaks)} of {len(problems)} problems were mined (e.g. {leaks[0].problem_id}): choose another --split")
    with folder.writer():
        folder.begin(spec, problems)
        decode = with_changes(config.decode, max_new_tokens=spec.max_new_tokens, temperature=0.0)
        traces = {trace.id: trace for trace in folder.traces()}
        missing = [problem for problem in problems if problem.id not in traces]
        seen = with_changes(gate, previews="all")  # every candidate may become an arm, at the strength that its preview gives
        jobs = [Job(problem.id, prompt_ids(model, problem, config.task, room=spec.max_new_tokens), seen, memory) for problem in missing]
        tokens = 0
        report(Progress("answers", len(traces), len(problems), "answers"))
        for _, trace in finished_traces(steer(model, jobs, Settings.of(config, decode, spec.rows))):
            folder.add_trace(trace)
            traces[trace.id] = trace
            tokens += trace.forward_tokens
            report(Progress("answers", len(traces), len(problems), "answers", tokens))
        states = logged_states([traces[problem.id] for problem in problems], problems, gate, seed=spec.seed, most=request.states)
        return study(model, config, memory, spec, folder, states, report=report), folder.path


def logged_states(
    traces: list[Trace], problems: list[Problem], gate: GateConfig, *, seed: int, most: int | None = None
) -> list[LoggedState]:
    """States at which the gate had a candidate that it could inject, in an order that the seed fixes."""
    by_id = {problem.id: problem for problem in problems}
    states: list[LoggedState] = []
    for trace in traces:
        given: tuple[int, ...] = ()
        for step in trace.steps:
            if doses := injectable(step.decision.scored, gate):
                states.append(LoggedState(by_id[trace.id], list(trace.prompt_ids), given, step, doses))
            given += step.token_ids
    order = generator_for(seed, "causal states").permutation(len(states)).tolist()
    return [states[i] for i in order][:most]


def _points(rolls: Rolls, states: list[LoggedState]) -> Iterator[CausalPoint]:
    """Every candidate that was tried at a state: the gate's figures and the measured advantage."""
    for state in states:
        decision, sims = state.step.decision, {entry.entry_id: entry.sim for entry in state.step.evidence.retrieved}
        for scored in decision.scored:
            if scored.entry_id in state.doses and scored.score is not None:
                seen = {"value": scored.value, "gain": scored.gain, "sim": sims[scored.entry_id]}
                seen |= {"chosen": scored.entry_id == decision.chosen, "margin": scored.score - (decision.score_null or 0.0)}
                if point := measured_point(rolls, state.id, scored.entry_id, **seen):
                    yield point


def study(
    model: LoadedModel,
    config: RunConfig,
    memory: Memory,
    spec: CausalSpec,
    folder: CausalFolder,
    states: list[LoggedState],
    *,
    report: OnProgress = lambda progress: None,
) -> CausalReport:
    """Continue from every state under every arm, as far as the budget goes, and write the report.

    With ``spec.halving`` the worse half of a state's candidates is dropped after each round; ``null``, ``random`` and the chosen action
    never are.
    """
    rolls, ended = folder.rolls(), False

    def arms(state: LoggedState, rolls: list[Roll], upto: int) -> list[str]:
        return _arms(state, rolls, upto, spec)

    def impulses(state: LoggedState, arm: str, rep: int) -> Forced:
        return _impulse(state, arm, rep, memory, spec.seed)

    try:
        continue_states(model, config, spec, folder, states, rolls, arms, impulses, report=report)
        ended = True
    finally:  # an interrupted study leaves a report, too
        summary = causal_report(spec, states, rolls)
        folder.write_report(summary, causal_markdown(summary), complete=ended)
    return summary


def _arms(state: LoggedState, rolls: list[Roll], upto: int, spec: CausalSpec) -> list[str]:
    """The arms that are still in at a state: each round after the first keeps the better half of the candidates before it."""
    arms, n = list(state.doses), FIRST_ROUND
    grouped = by_arm(roll for roll in rolls if roll.state == state.id)
    while spec.halving and n < upto and len(arms) > 1:
        gained = {arm: gaps(grouped, state.id, arm, NULL_ARM, right)[:n] for arm in arms}
        # the sort is stable, so that ties keep the preview's order
        keep = sorted(arms, key=lambda arm: -sum(gained[arm]) / max(1, len(gained[arm])))[: (len(arms) + 1) // 2]
        arms = [arm for arm in arms if arm in keep or arm == state.step.decision.chosen]
        n *= 2
    return [NULL_ARM, *arms, RANDOM_ARM]


def _impulse(state: LoggedState, arm: str, rep: int, memory: Memory, seed: int) -> Forced:
    if arm == NULL_ARM:
        return NULL
    layers = {entry.entry_id: entry.layer for entry in state.step.evidence.retrieved}
    entry_id = arm if arm != RANDOM_ARM else state.step.decision.chosen or next(iter(state.doses))
    vector = memory.action(entry_id)
    if arm == RANDOM_ARM:
        vector = noise_like(vector, seed, "causal noise", state.problem.id, state.step.evidence.m, rep)
    return Forced(arm, layers[entry_id], vector, state.doses[entry_id])


def causal_report(spec: CausalSpec, states: list[LoggedState], rolls: list[Roll]) -> CausalReport:
    """The report over the continuations so far."""
    grouped = by_arm(rolls)
    tried = [state for state in states if (state.id, NULL_ARM) in grouped]
    ids = [state.id for state in tried]
    chosen = {state.id: state.step.decision.chosen for state in tried}
    best = {state.id: next(iter(state.doses)) for state in tried}
    effects = [
        effect(grouped, ids, lambda state: chosen[state], "chosen action", NULL_ARM),
        effect(grouped, ids, lambda state: RANDOM_ARM, "random direction", NULL_ARM),
        effect(grouped, ids, lambda state: chosen[state], "chosen action", RANDOM_ARM),
    ]
    if not spec.halving:  # dropping candidates would bias this one
        effects.append(effect(grouped, ids, lambda state: best[state], "first candidate, chosen or not", NULL_ARM))
    points = list(_points(grouped, tried))
    entries = sorted({point.entry_id for point in points})
    actions = advantages(grouped, entries, ids)
    return CausalReport(
        spec=spec,
        states=len(tried),
        planned=len(states),
        rolls=len(rolls),
        tokens=sum(roll.decoded for roll in rolls),
        effects=tuple(filter(None, effects)),
        actions=tuple(sorted(actions, key=lambda action: -action.value)),
        predictors=tuple(predictor(name, points) for name in PREDICTORS),
        calibration=calibration(points) if points else (),
        points=tuple(points),
    )
