"""Causal value of actions: from logged states of held-out answers, continuations with the action, without it, and with noise of its size.

All arms of a state share their random streams (common random numbers), so that they differ by the impulse alone. Nothing else is injected
behind it: what is measured is one decision, not a policy. The tokens before the state are read unsteered; under ``persistent`` the gate saw
them with what earlier impulses had left, so there the state is the answer's text and not its cache.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from stir_core.config import GateConfig, RunConfig, with_changes
from stir_core.errors import DataError, StoreError
from stir_core.evaluate.causal_text import markdown
from stir_core.evaluate.effects import (
    PREDICTORS,
    Candidate,
    StateId,
    advantage_of,
    by_arm,
    calibration,
    effect,
    gaps,
    points_of,
    predictor,
    right,
)
from stir_core.findings import CausalReport, CausalSpec, Roll
from stir_core.intervene.controller import steer
from stir_core.intervene.gate import dose
from stir_core.intervene.jobs import NULL, Force, Forced, Job, Settings
from stir_core.intervene.memory import Memory
from stir_core.models.loading import LoadedModel
from stir_core.models.prompting import prompt_ids
from stir_core.records import OnProgress, Problem, Progress, StepTrace, Trace, TraceEvent
from stir_core.requests import CausalRequest
from stir_core.seeding import generator_for
from stir_core.store.causal import CausalFolder
from stir_core.store.runs import Run
from stir_core.tasks import Grader, load_problems
from stir_core.tasks.overlap import find_overlaps

NULL_ARM, RANDOM_ARM = "null", "random"
"""The arms beside the candidates: no impulse, and noise of the action's norm and strength."""
FIRST_ROUND = 2
"""Continuations of every arm before any is dropped."""


class Logged(NamedTuple):
    """A state at which the gate had candidates: the beginning of an answer, up to a control point."""

    problem: Problem
    prompt_ids: list[int]
    given: tuple[int, ...]
    """Answer tokens before the control point."""
    step: StepTrace
    doses: dict[str, float]
    """Multiple that the gate would inject, by candidate in preview order."""

    @property
    def id(self) -> StateId:
        """Problem and control point."""
        return self.problem.id, self.step.evidence.m


def measure(
    run: Run,
    model: LoadedModel,
    request: CausalRequest,
    *,
    command: str | None,
    environment: dict[str, str],
    report: OnProgress = lambda progress: None,
) -> tuple[CausalReport, Path]:
    """Decode held-out answers, continue from their states under every arm, and write the report.

    Returns:
        The report and the folder that it lies in.

    Raises:
        DataError: problems that were mined, or too few of them.
        StoreError: the run has no library, or its study was made with other settings.
        MismatchError: the run was made with another model.
    """
    run.check_model(model.identity)
    config = run.config
    library = run.library()
    if not library.entries:
        raise StoreError(f"run {run.path} has an empty library: there is no action to measure")
    gate = config.gate if request.strength is None else with_changes(config.gate, k_scale=request.strength)
    problems = list(load_problems(config.task.name, request.split, n=request.n, seed=config.seed, levels=config.task.levels))
    if leaks := find_overlaps(run.problems(), problems).overlaps:
        raise DataError(f"{len(leaks)} of {len(problems)} problems were mined (e.g. {leaks[0].problem_id}): choose another --split")
    settled: dict[str, Any] = dict(request)
    if request.max_new_tokens is None:
        settled["max_new_tokens"] = config.decode.max_new_tokens
    spec = CausalSpec(
        **settled,
        task=config.task.name,
        levels=config.task.levels,
        temperature=config.rollouts.temperature,
        top_p=config.rollouts.top_p,
        gate=gate.model_dump(mode="json"),
        run=run.name,
        basis=run.digest("basis"),
        model=model.identity,
        seed=config.seed,
        command=command,
        environment=environment,
    )
    folder = CausalFolder(run)
    folder.begin(spec, problems)
    memory = Memory(*library, run.key_space())
    traces = _traces(model, config, gate, memory, spec, folder, problems, report)
    states = logged_states(traces, problems, gate, seed=spec.seed, most=request.states)
    found = study(model, config, memory, spec, folder, states, report=report)
    return found, folder.path


def _traces(
    model: LoadedModel,
    config: RunConfig,
    gate: GateConfig,
    memory: Memory,
    spec: CausalSpec,
    folder: CausalFolder,
    problems: list[Problem],
    report: OnProgress,
) -> list[Trace]:
    """Steered greedy answers to the problems, in their order; those that are there are not made again."""
    known = {trace.id: trace for trace in folder.traces()}
    missing = [problem for problem in problems if problem.id not in known]
    decode = with_changes(config.decode, max_new_tokens=spec.max_new_tokens, temperature=0.0)
    settings = Settings.of(config, decode, spec.rows)
    jobs = [Job(problem.id, prompt_ids(model, problem, config.task, room=spec.max_new_tokens), gate, memory) for problem in missing]
    for event in steer(model, jobs, settings):
        if isinstance(event, TraceEvent):
            folder.add_trace(event.trace)
            known[event.trace.id] = event.trace
            report(Progress("answers", len(known), len(problems), "answers"))
    return [known[problem.id] for problem in problems]


def logged_states(traces: list[Trace], problems: list[Problem], gate: GateConfig, *, seed: int, most: int | None = None) -> list[Logged]:
    """States at which the gate had a candidate that it could inject, in an order that the seed fixes."""
    by_id = {problem.id: problem for problem in problems}
    found: list[Logged] = []
    for trace in traces:
        given: tuple[int, ...] = ()
        for step in trace.steps:
            doses = _doses(step, gate)
            if doses:
                found.append(Logged(by_id[trace.id], list(trace.prompt_ids), given, step, doses))
            given += step.token_ids
    order = generator_for(seed, "causal states").permutation(len(found)).tolist()
    return [found[i] for i in order][:most]


def _doses(step: StepTrace, gate: GateConfig) -> dict[str, float]:
    """What the gate would inject of each candidate if it chose it; candidates of no positive strength are left out."""
    found: dict[str, float] = {}
    for scored in step.decision.scored:
        multiple = dose(scored, gate)
        if multiple is not None and multiple > 0:
            found[scored.entry_id] = multiple
    return found


def candidates_of(states: list[Logged]) -> list[Candidate]:
    """What the gate saw of every candidate."""
    found: list[Candidate] = []
    for state in states:
        sims = {entry.entry_id: entry.sim for entry in state.step.evidence.retrieved}
        for scored in state.step.decision.scored:
            if scored.entry_id in state.doses and scored.score is not None:
                margin = scored.score - (state.step.decision.score_null or 0.0)
                chosen = scored.entry_id == state.step.decision.chosen
                found.append(Candidate(state.id, scored.entry_id, chosen, margin, scored.value, scored.gain, sims[scored.entry_id]))
    return found


def study(
    model: LoadedModel,
    config: RunConfig,
    memory: Memory,
    spec: CausalSpec,
    folder: CausalFolder,
    states: list[Logged],
    *,
    report: OnProgress = lambda progress: None,
) -> CausalReport:
    """Continue from every state under every arm, as far as the budget goes, and sum up what was found.

    States are worked on in groups, so that what is spent goes into whole states. With ``spec.halving`` the worse half of a
    state's candidates is dropped after each round; ``null``, the chosen action and ``random`` never are. Continuations that are there
    are never made again. ``spec.budget_tokens`` stops before the next group once so many were decoded, in earlier attempts too.
    """
    settings = _settings(config, spec)
    known = folder.rolls()
    tokens, done = sum(roll.decoded for roll in known), 0
    size = max(1, 4 * spec.rows // (6 * FIRST_ROUND))  # with about six arms a state, a first round fills the batch four times
    ended = False
    report(Progress("states", 0, len(states), "states", tokens))
    try:
        with Grader() as grader:
            for start in range(0, len(states), size):
                if spec.budget_tokens is not None and tokens >= spec.budget_tokens:
                    break
                group = states[start : start + size]
                for roll in _group(model, memory, settings, spec, group, known, grader):
                    folder.add_roll(roll)
                    known.append(roll)
                    tokens += roll.decoded
                    report(Progress("states", done, len(states), "states", tokens))
                done += len(group)
                report(Progress("states", done, len(states), "states", tokens))
        ended = True
    finally:  # an interrupted study leaves a report of what is there
        found = sum_up(spec, states, known)
        folder.write_report(found, markdown(found), complete=ended)
    return found


def _group(
    model: LoadedModel, memory: Memory, settings: Settings, spec: CausalSpec, group: list[Logged], known: list[Roll], grader: Grader
) -> Iterator[Roll]:
    """All rounds of some states."""
    ids = {state.id for state in group}
    rolls = [roll for roll in known if (roll.problem_id, roll.m) in ids]
    persistence = "persistent" if spec.gate["persistence"] == "persistent" else "ephemeral"
    upto = min(FIRST_ROUND, spec.rolls)
    while True:
        have = {(roll.problem_id, roll.m, roll.arm, roll.rep) for roll in rolls}
        jobs: list[Job] = []
        asked: list[tuple[Logged, str, int]] = []
        for state in group:
            for arm in _arms(state, rolls, upto, spec):
                for rep in range(upto):
                    if (*state.id, arm, rep) not in have:
                        jobs.append(_job(state, arm, rep, memory, spec.seed, persistence))
                        asked.append((state, arm, rep))
        for event in steer(model, jobs, settings):
            if isinstance(event, TraceEvent):
                state, arm, rep = asked[event.row]
                rolls.append(_roll(event.trace, state, arm, rep, grader))
                yield rolls[-1]
        if upto >= spec.rolls:
            return
        upto = min(2 * upto, spec.rolls)


def _arms(state: Logged, rolls: list[Roll], upto: int, spec: CausalSpec) -> list[str]:
    """The arms that are still in at a state; each round after the first keeps the better half of the candidates of the one before."""
    arms, n = list(state.doses), FIRST_ROUND
    grouped = by_arm(roll for roll in rolls if (roll.problem_id, roll.m) == state.id)
    while spec.halving and n < upto and len(arms) > 1:
        gained = {arm: [gap for gap in gaps(grouped, state.id, arm, NULL_ARM, right)][:n] for arm in arms}
        keep = sorted(arms, key=lambda arm: -sum(gained[arm]) / max(1, len(gained[arm])))[: (len(arms) + 1) // 2]  # stable: order of value
        arms = [arm for arm in arms if arm in keep or arm == state.step.decision.chosen]
        n *= 2
    return [NULL_ARM, *arms, RANDOM_ARM]


def _job(state: Logged, arm: str, rep: int, memory: Memory, seed: int, persistence: Literal["ephemeral", "persistent"]) -> Job:
    problem_id, m = state.id
    name = f"{problem_id}@{m}~{rep}"  # without the arm: all arms draw from the same streams
    gate = GateConfig(persistence=persistence)
    return Job(name, state.prompt_ids, gate, given=state.given, force=_force(state, arm, rep, memory, seed))


def _force(state: Logged, arm: str, rep: int, memory: Memory, seed: int) -> Force:
    m = state.step.evidence.m
    if arm == NULL_ARM:
        return lambda at: NULL
    layers = {entry.entry_id: entry.layer for entry in state.step.evidence.retrieved}
    entry_id = arm if arm != RANDOM_ARM else state.step.decision.chosen or next(iter(state.doses))
    vector = memory.action(entry_id)
    if arm == RANDOM_ARM:
        noise = torch.tensor(generator_for(seed, "causal noise", *state.id, rep).standard_normal(len(vector)), dtype=torch.float32)
        vector = noise * (vector.norm() / noise.norm())
    forced = Forced(arm, layers[entry_id], vector, state.doses[entry_id])
    return lambda at: forced if at == m else NULL


def _roll(trace: Trace, state: Logged, arm: str, rep: int, grader: Grader) -> Roll:
    problem = state.problem
    verdict = grader.judge(problem, trace.text)
    return Roll(
        problem_id=problem.id,
        m=state.id[1],
        arm=arm,
        alpha=trace.steps[0].decision.alpha if trace.steps else 0.0,
        rep=rep,
        correct=verdict.correct,
        finished=verdict.finished,
        tokens=trace.tokens_used,
        decoded=trace.tokens_used - trace.given,
    )


def _settings(config: RunConfig, spec: CausalSpec) -> Settings:
    decode = with_changes(config.decode, temperature=spec.temperature, top_p=spec.top_p, max_new_tokens=spec.max_new_tokens)
    return Settings.of(config, decode, spec.rows)._replace(seed=spec.seed)


def sum_up(spec: CausalSpec, states: list[Logged], rolls: list[Roll]) -> CausalReport:
    """What the continuations say so far."""
    grouped = by_arm(rolls)
    tried = [state for state in states if (state.id, NULL_ARM) in grouped]
    ids = [state.id for state in tried]
    chosen = {state.id: state.step.decision.chosen for state in tried}
    best = {state.id: next(iter(state.doses)) for state in tried}
    effects = [
        effect(grouped, ids, lambda state: chosen[state], "chosen action", NULL_ARM, seed=spec.seed),
        effect(grouped, ids, lambda state: RANDOM_ARM, "random direction", NULL_ARM, seed=spec.seed),
        effect(grouped, ids, lambda state: chosen[state], "chosen action", RANDOM_ARM, seed=spec.seed),
    ]
    if not spec.halving:  # dropping would bias it
        effects.append(effect(grouped, ids, lambda state: best[state], "first candidate, chosen or not", NULL_ARM, seed=spec.seed))
    candidates = candidates_of(tried)
    entries = sorted({candidate.entry_id for candidate in candidates})
    actions = [found for entry in entries if (found := advantage_of(grouped, entry, ids, seed=spec.seed)) is not None]
    points = points_of(grouped, candidates)
    return CausalReport(
        spec=spec,
        states=len(tried),
        planned=len(states),
        rolls=len(rolls),
        tokens=sum(roll.decoded for roll in rolls),
        effects=tuple(found for found in effects if found is not None),
        actions=tuple(sorted(actions, key=lambda action: -action.value)),
        predictors=tuple(predictor(name, points, seed=spec.seed) for name in PREDICTORS),
        calibration=calibration(points, seed=spec.seed) if points else (),
        points=tuple(points),
    )
