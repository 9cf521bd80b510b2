"""Learn gates from logged decisions: draw decisions on problems of the mined split, see what comes of them, fit, estimate, and run.

A rollout is an answer under the published gate in which the decision at *one* control point is drawn, with known probabilities, so it is a
contextual bandit and no product of weights arises. The problems lie behind the mined ones: at a mined problem's own states the library
would retrieve the problem's own keys, which no held-out problem has. Held-out problems are never used.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Float

from stir_core.config import GateConfig, RunConfig, with_changes
from stir_core.errors import DataError, StoreError
from stir_core.evaluate.effects import NULL_ARM, Rolls, area_under_roc, by_arm, right
from stir_core.evaluate.habits import known_points
from stir_core.evaluate.offpolicy import (
    FITS,
    Linear,
    Logged,
    OutOfFold,
    best_column,
    cross_fitted,
    estimates,
    gains,
    margin_threshold,
    outcome_models,
    reliability,
    resampled,
    risk_coverage,
    sure_threshold,
    unless_sure,
)
from stir_core.evaluate.policy_text import gate_verdict, policy_markdown, policy_verdict
from stir_core.evaluate.statistics import clustered_mean, clustered_share
from stir_core.findings import Estimate, LoggedDecision, PolicyFigures, PolicyReport, PolicySpec, PolicyTruth, Roll
from stir_core.intervene.branches import branch_job
from stir_core.intervene.changes import step_at
from stir_core.intervene.controller import steer
from stir_core.intervene.gate import decide, injectable
from stir_core.intervene.jobs import Job, Settings
from stir_core.intervene.memory import Memory, fullest_layer, memory_of
from stir_core.models.loading import LoadedModel
from stir_core.models.prompting import fitting_prompts
from stir_core.organisms.planted import Organism, organism_named
from stir_core.policies import CANDIDATE_FEATURES, Policies, candidate_features
from stir_core.records import OnProgress, PolicyName, PolicyWeights, Problem, Progress, StepTrace, Trace, finished_traces
from stir_core.requests import DENY, Change, PolicyRequest
from stir_core.seeding import generator_for, seed_for
from stir_core.store.policies import PolicyFolder
from stir_core.store.runs import Run
from stir_core.tasks import Grader, load_problems
from stir_core.tasks.chain import chain_of

COMPONENTS = 32
"""Principal components of the state that learned gates see; fewer where the model is narrower or the run has fewer states."""
VALUE, SHUFFLED = "value", ", shuffled"


class Outcomes(NamedTuple):
    """Everything that a study has decoded."""

    traces: dict[str, Trace]
    """Answers under the published gate, by problem."""
    rolls: Rolls
    """Continuations by state and arm."""


class Fitted(NamedTuple):
    """One gate, judged on the logged decisions by models that did not see the row's problem."""

    name: str
    columns: np.ndarray
    """What it chooses, by row of the log."""
    weights: PolicyWeights | None = None
    """Fitted to all rows; ``None``: a gate without weights, or a control."""


def learn(
    run: Run,
    model: LoadedModel,
    request: PolicyRequest,
    *,
    command: str | None,
    environment: dict[str, str],
    report: OnProgress = lambda progress: None,
) -> tuple[PolicyReport, Path]:
    """Log decisions, fit every learned gate, estimate and run each, and write gates and report.

    Returns:
        The report and its folder.

    Raises:
        DataError: too few problems behind the mined ones, or too few decisions to learn from.
        StoreError: the run has no library, or its study was made with other settings.
        MismatchError: the run was made with another model.
    """
    run.check_model(model.identity)
    library = run.library()
    memory = memory_of(run, library)
    if memory is None or not any(entry.kind == "corrective" for entry in library.entries):
        raise StoreError(f"run {run.path} has a library without actions, so there is nothing to decide: mine more problems or rollouts")
    spec = settled(run, model, request, fullest_layer(library.entries), command, environment)
    problems = _problems(run.config, spec)
    means, axes = view_of(run, spec.layer)
    view = Policies(spec.basis, spec.layer, means, axes, {})
    memory = Memory(*library, memory.space, memory.margins, view)
    study = _Study(run, model, spec, PolicyFolder(run), memory, report)
    with study.folder.writer():
        study.folder.begin(spec, problems)
        outcomes = study.answers(problems)
        mined, further = problems[: spec.n], problems[spec.n :]
        decisions = drawn(outcomes.traces, mined, spec)
        study.folder.put_decisions(decisions)
        asked = [(each.problem_id, each.m, arm) for each in decisions for arm in (each.arm, NULL_ARM)]
        study.continue_from(outcomes, problems, asked, "decisions")
        log = logged(decisions, outcomes, spec)
        models = outcome_models(log)
        fitted = [*_plain(log), *fit_all(log, spec, spec.basis), *fit_all(_shuffled(log, spec.seed), spec, None)]
        weights = [each.weights for each in fitted if each.weights is not None]
        policies = view._replace(weights={each.policy: each for each in weights})
        places = _places(outcomes.traces, further, spec)
        chosen = {name: chosen_arms(places, outcomes.traces, policies, name, spec) for name in (VALUE, *policies.weights)}
        chosen[NULL_ARM] = dict.fromkeys(places, NULL_ARM)
        study.continue_from(outcomes, problems, [(*place, arm) for arms in chosen.values() for place, arm in arms.items()], "on policy")
        truths = _truths(outcomes.traces, further, policies, spec, organism_named(model.identity.name) if run.is_organism else None)
        result = reported(spec, decisions, log, models, fitted, outcomes, chosen, truths)
        study.folder.put_gates(weights, means, axes)
        study.folder.write_report(result, policy_markdown(result), complete=True)
        return result, study.folder.path


def settled(
    run: Run, model: LoadedModel, request: PolicyRequest, layer: int, command: str | None, environment: dict[str, str]
) -> PolicySpec:
    """The request with every value that the results depend on."""
    config = run.config
    temperature = config.decode.temperature if request.temperature is None else request.temperature
    values: dict[str, Any] = dict(request) | {
        "temperature": temperature,
        "rolls": request.rolls if temperature > 0 else 1,
        "max_new_tokens": config.decode.max_new_tokens if request.max_new_tokens is None else request.max_new_tokens,
    }
    return PolicySpec(
        **values,
        task=config.task.name,
        levels=config.task.levels,
        top_p=config.decode.top_p if request.temperature is None else config.rollouts.top_p,
        eta0=config.rollouts.eta0,
        layer=layer,
        gate=with_changes(config.gate, policy="value").model_dump(mode="json"),
        run=run.name,
        basis=run.digest("basis"),
        model=model.identity,
        seed=config.seed,
        command=command,
        environment=environment,
    )


def _problems(config: RunConfig, spec: PolicySpec) -> list[Problem]:
    mined = config.task.n_train
    wanted = mined + spec.n + spec.further
    return list(load_problems(config.task.name, "mine", n=wanted, seed=config.seed, levels=config.task.levels))[mined:]


def view_of(run: Run, layer: int) -> tuple[Float[np.ndarray, "points d_model"], Float[np.ndarray, "components d_model"]]:
    """Mean state by control point (row 0: over all), and principal axes around them over their standard deviations, of a run's rollouts."""
    rows, states = run.states([layer])
    rows = [row for row in rows if row.source == "rollout"]
    if len(rows) < 2:
        raise StoreError(f"run {run.path} holds {len(rows)} states of rollouts, too few to see by: mine more problems")
    all_states, ms = states[layer][[row.row for row in rows]].astype(np.float64), np.array([row.m for row in rows])
    means = np.tile(all_states.mean(axis=0), (run.config.mining.control_points + 1, 1))
    for m in np.unique(ms):
        means[m] = all_states[ms == m].mean(axis=0)
    centred = all_states - means[ms]
    _, spreads, axes = np.linalg.svd(centred, full_matrices=False)
    kept = spreads[:COMPONENTS] > 1e-6 * spreads[0]
    deviations = spreads[:COMPONENTS][kept] / np.sqrt(len(rows))
    return means, axes[:COMPONENTS][kept] / deviations[:, None]


class _Study:
    """What is decoded, and where it is kept."""

    def __init__(self, run: Run, model: LoadedModel, spec: PolicySpec, folder: PolicyFolder, memory: Memory, report: OnProgress):
        config = run.config
        decode = with_changes(config.decode, temperature=spec.temperature, top_p=spec.top_p, max_new_tokens=spec.max_new_tokens)
        self.settings = Settings.of(config, decode, spec.rows)
        self.config, self.model, self.spec, self.folder, self.memory, self.report = config, model, spec, folder, memory, report
        self.gate = GateConfig.model_validate(spec.gate)
        self.tokens = 0

    def answers(self, problems: list[Problem]) -> Outcomes:
        """Answer every problem under the published gate. Those whose prompt does not fit the context are left out."""
        traces = {trace.id: trace for trace in self.folder.traces()}
        fitting, _ = fitting_prompts(self.model, problems, self.config.task, room=self.spec.max_new_tokens)
        missing = [(problem, ids) for problem, ids in fitting if problem.id not in traces]
        seen = with_changes(self.gate, previews="all")  # every candidate may be drawn, and learned gates see its preview
        jobs = [Job(problem.id, ids, seen, self.memory) for problem, ids in missing]
        self.report(Progress("answers", len(fitting) - len(jobs), len(fitting), "answers", self.tokens))
        with Grader() as grader:
            ended = finished_traces(steer(self.model, jobs, self.settings))
            for _, trace, verdict in grader.judge_traces(ended, lambda row: missing[row][0]):
                traces[trace.id] = trace.replaced(verdict=verdict)
                self.folder.add_trace(traces[trace.id])
                self.tokens += trace.tokens_used
                self.report(Progress("answers", len(traces), len(fitting), "answers", self.tokens))
        return Outcomes(traces, by_arm(self.folder.rolls()))

    def continue_from(self, outcomes: Outcomes, problems: list[Problem], asked: Iterable[tuple[str, int, str]], stage: str) -> None:
        """Continue answers from control points under arms, as far as that is missing; what the gate chose was decoded already if greedy."""
        by_id = {problem.id: problem for problem in problems}
        missing: list[tuple[str, int, str, int]] = []
        for problem_id, m, arm in dict.fromkeys(asked):
            known = outcomes.rolls.get(((problem_id, m, None), arm), {})
            missing += [(problem_id, m, arm, rep) for rep in range(self.spec.rolls) if rep not in known]
        if self.spec.temperature == 0:
            mine = [each for each in missing if _arm(_step(outcomes.traces[each[0]], each[1])) == each[2]]
            self._keep(outcomes, [_recorded(outcomes.traces[problem_id], m, arm) for problem_id, m, arm, _ in mine])
            missing = [each for each in missing if each not in set(mine)]
        jobs = [self._job(outcomes.traces[problem_id], m, arm, rep) for problem_id, m, arm, rep in missing]
        self.report(Progress(stage, 0, len(jobs), "continuations", self.tokens))
        with Grader() as grader:
            ended = finished_traces(steer(self.model, jobs, self.settings))
            judged = grader.judge_traces(ended, lambda row: by_id[missing[row][0]])
            for done, (row, trace, verdict) in enumerate(judged, 1):
                problem_id, m, arm, rep = missing[row]
                place = {"problem_id": problem_id, "m": m, "arm": arm, "rep": rep}
                said = {"correct": verdict.correct, "finished": verdict.finished, "alpha": trace.steps[0].decision.alpha}
                self._keep(outcomes, [Roll(**place, **said, tokens=trace.tokens_used, decoded=trace.tokens_used - trace.given)])
                self.report(Progress(stage, done, len(jobs), "continuations", self.tokens))

    def _job(self, trace: Trace, m: int, arm: str, rep: int) -> Job:
        change = Change(m=m, to=DENY if arm == NULL_ARM else arm)
        job = branch_job(trace, change, self.gate, self.memory, self.settings)
        return replace(job, id=f"{trace.id}~{rep}") if self.spec.temperature > 0 else job  # greedy decoding draws nothing

    def _keep(self, outcomes: Outcomes, rolls: Sequence[Roll]) -> None:
        if rolls:
            self.folder.add_rolls(rolls)
        for roll in rolls:
            outcomes.rolls[roll.state, roll.arm][roll.rep] = roll
            self.tokens += roll.decoded


def _step(trace: Trace, m: int) -> StepTrace:
    return trace.steps[step_at(trace, m)]


def _arm(step: StepTrace) -> str:
    return step.decision.chosen or NULL_ARM


def _recorded(trace: Trace, m: int, arm: str) -> Roll:
    """A greedy answer as the continuation of its own decision at one of its control points."""
    assert trace.verdict is not None  # answers are graded as they end
    alpha = _step(trace, m).decision.alpha
    said = {"correct": trace.verdict.correct, "finished": trace.verdict.finished, "tokens": trace.tokens_used, "decoded": 0}
    return Roll(problem_id=trace.id, m=m, arm=arm, alpha=alpha, rep=0, **said)


def drawable(trace: Trace, gate: GateConfig, budget: int) -> list[int]:
    """Control points of an answer at which the gate had a candidate that it could inject, with tokens left to decode."""
    points: list[int] = []
    given = 0
    for step in trace.steps:
        if given < budget and injectable(step.decision.scored, gate):
            points.append(step.m)
        given += len(step.token_ids)
    return points


def drawn(traces: Mapping[str, Trace], problems: Sequence[Problem], spec: PolicySpec) -> list[LoggedDecision]:
    """One drawn decision for each rollout of each problem that has a control point to draw at."""
    gate, decisions = GateConfig.model_validate(spec.gate), list[LoggedDecision]()
    for problem in (problem for problem in problems if problem.id in traces):
        trace = traces[problem.id]
        points = drawable(trace, gate, spec.max_new_tokens)
        for rollout in range(spec.rollouts if points else 0):
            chance = generator_for(spec.seed, "policy log", problem.id, rollout)
            step = _step(trace, points[int(chance.integers(len(points)))])
            chosen, arms = _arm(step), [NULL_ARM, *injectable(step.decision.scored, gate)]
            explored = float(chance.random()) < spec.eps
            uniform = arms[int(chance.integers(len(arms)))]
            decisions.append(
                LoggedDecision(
                    problem_id=problem.id,
                    rollout=rollout,
                    m=step.m,
                    propensities={arm: spec.eps / len(arms) + (1 - spec.eps) * (arm == chosen) for arm in arms},
                    arm=uniform if explored else chosen,
                    chosen=chosen,
                    explored=explored,
                )
            )
    return decisions


def _rewards(outcomes: Outcomes, problem_id: str, m: int, arm: str, spec: PolicySpec) -> tuple[float, float]:
    """Mean reward of an arm at a state, and share of right answers."""
    rolls = [*outcomes.rolls[(problem_id, m, None), arm].values()][: spec.rolls]
    share = float(np.mean([right(roll) for roll in rolls]))
    return share - spec.eta0 * float(np.mean([roll.tokens for roll in rolls])) / spec.max_new_tokens, share


def logged(decisions: Sequence[LoggedDecision], outcomes: Outcomes, spec: PolicySpec) -> Logged:
    """The drawn decisions as arrays.

    Raises:
        DataError: there is none.
    """
    if not decisions:
        raise DataError("no answer has a control point at which the gate had a candidate: mine more problems, or look at `stir probe`")
    numbers = {problem_id: i for i, problem_id in enumerate(dict.fromkeys(each.problem_id for each in decisions))}
    most = max(len(each.propensities) for each in decisions)
    states: list[tuple[float, ...]] = []
    candidates, options = np.zeros((len(decisions), most - 1, len(CANDIDATE_FEATURES))), np.zeros((len(decisions), most), bool)
    columns: list[tuple[float, ...]] = []
    for i, each in enumerate(decisions):
        step = _step(outcomes.traces[each.problem_id], each.m)
        arms = list(each.propensities)
        scored = {one.entry_id: one for one in step.decision.scored}
        states.append(step.evidence.features or ())
        options[i, : len(arms)] = True
        for j, arm in enumerate(arms[1:]):
            candidates[i, j] = candidate_features(scored[arm], step.decision.score_null or 0.0, step.evidence.retrieved)
        reward, _ = _rewards(outcomes, each.problem_id, each.m, each.arm, spec)
        null = _rewards(outcomes, each.problem_id, each.m, NULL_ARM, spec)
        chosen, taken = (arms.index(arm) if arm in arms else 0 for arm in (each.chosen, each.arm))
        columns.append((numbers[each.problem_id], chosen, taken, each.propensity, reward, *null))
    problems, chosen, taken, propensity, reward, null_reward, null_right = np.array(columns, float).T
    whole = (problems.astype(int), np.array(states, float), candidates, options, chosen.astype(int), taken.astype(int))
    return Logged(*whole, propensity, reward, null_reward, null_right)


def _shuffled(log: Logged, seed: int) -> Logged:
    """A control from which nothing can be learned: outcomes of null are dealt to other rows, and the sign of each advantage is drawn."""
    order = generator_for(seed, "policy shuffled").permutation(len(log.reward))
    signs = generator_for(seed, "policy signs").choice([-1.0, 1.0], len(log.reward))
    null = log.null_reward[order]
    return log._replace(null_reward=null, null_right=log.null_right[order], reward=null + signs * log.advantage)


def _plain(log: Logged) -> list[Fitted]:
    return [Fitted(VALUE, log.chosen), Fitted(NULL_ARM, np.zeros(len(log.chosen), int))]


def fit_all(log: Logged, spec: PolicySpec, basis: str | None) -> list[Fitted]:
    """Every learned gate: its threshold and its choices out of fold, and its weights from all rows.

    Args:
        basis: digest of the control basis; ``None`` for the control, whose weights are not kept.
    """
    gates: list[Fitted] = []
    for name, fit in FITS.items():
        if name == "probe":
            log_odds = cross_fitted(log, fit, Linear.of_states)
            threshold = sure_threshold(log, log_odds, spec.risk)
            columns = unless_sure(log, log_odds, threshold)
        else:
            scores = cross_fitted(log, fit, Linear.of_candidates)
            threshold = margin_threshold(log, scores, spec.risk)
            columns = best_column(scores, threshold)
        weights = None
        if basis is not None:
            whole = fit(log)
            parts = {"state": tuple(whole.state.tolist()), "candidate": tuple(whole.candidate.tolist()), "threshold": threshold}
            weights = PolicyWeights(policy=cast(PolicyName, name), basis=basis, layer=spec.layer, bias=whole.bias, **parts)
        gates.append(Fitted(name if basis is not None else f"{name}{SHUFFLED}", columns, weights))
    return gates


def _places(traces: Mapping[str, Trace], problems: Sequence[Problem], spec: PolicySpec) -> list[tuple[str, int]]:
    """Problem and control point of every decision of the on-policy run."""
    return list(dict.fromkeys((each.problem_id, each.m) for each in drawn(traces, problems, spec)))


def chosen_arms(
    places: Sequence[tuple[str, int]], traces: Mapping[str, Trace], policies: Policies, name: str, spec: PolicySpec
) -> dict[tuple[str, int], str]:
    """What a gate chooses on the recorded evidence of each place."""
    gate = with_changes(GateConfig.model_validate(spec.gate), policy=name)
    made: dict[tuple[str, int], str] = {}
    for problem_id, m in places:
        evidence = _step(traces[problem_id], m).evidence
        made[problem_id, m] = decide(evidence, gate, seed=spec.seed, name=problem_id, policies=policies).chosen or NULL_ARM
    return made


def score_of(step: StepTrace, name: str, gate: GateConfig, policies: Policies, *, seed: int, answer: str) -> float:
    """How strongly a gate would act at a recorded step: its best score, over null's for the published gate; for the probe the log-odds of
    a wrong answer. Minus infinity where nothing could be injected."""
    evidence = step.evidence
    if evidence.features is None or not injectable(step.decision.scored, gate):
        return -np.inf
    if name == "probe":
        return -policies.log_odds(evidence.features)
    decision = decide(evidence, with_changes(gate, policy=name), seed=seed, name=answer, policies=policies)
    if name == VALUE:
        return max(each.score for each in decision.scored if each.score is not None) - (decision.score_null or 0.0)
    weights, null = policies.weights[name], decision.score_null or 0.0
    doses = injectable(decision.scored, gate)
    seen = [candidate_features(each, null, evidence.retrieved) for each in decision.scored if each.entry_id in doses]
    return max(weights.score(evidence.features, each) for each in seen)


def _truths(
    traces: Mapping[str, Trace], problems: Sequence[Problem], policies: Policies, spec: PolicySpec, organism: Organism | None
) -> dict[str, PolicyTruth]:
    """Every gate against the habit that the writer is in, at the control points of answers to further problems."""
    if organism is None:
        return {}
    gate, chains = GateConfig.model_validate(spec.gate), {problem.id: chain_of(problem.question) for problem in problems}
    points = known_points([traces[id_] for id_ in chains if id_ in traces], chains, organism, len(policies.means) - 1)
    wrong = np.array([point.wrong for point in points], bool)
    truths: dict[str, PolicyTruth] = {}
    for name in (VALUE, *policies.weights):
        tried = with_changes(gate, policy=name)
        about = [(point.step, point.problem_id) for point in points]
        seen = np.array([score_of(step, name, gate, policies, seed=spec.seed, answer=id_) for step, id_ in about])
        decided = [decide(step.evidence, tried, seed=spec.seed, name=id_, policies=policies) for step, id_ in about]
        fired = np.array([decision.chosen is not None for decision in decided], bool)
        truths[name] = PolicyTruth(
            auc=area_under_roc(seen[wrong], seen[~wrong]) if organism.rung.right is not None else None,
            wrong=int(wrong.sum()),
            fired_wrong=int((fired & wrong).sum()),
            right=int((~wrong).sum()),
            fired_right=int((fired & ~wrong).sum()),
        )
    return truths


def reported(
    spec: PolicySpec,
    decisions: Sequence[LoggedDecision],
    log: Logged,
    models: OutOfFold,
    fitted: Sequence[Fitted],
    outcomes: Outcomes,
    chosen: Mapping[str, Mapping[tuple[str, int], str]],
    truths: Mapping[str, PolicyTruth],
) -> PolicyReport:
    """The report over everything that was decoded."""
    ones, seed = np.ones(len(log.reward)), seed_for(spec.seed, "policy bootstrap")
    value = gains(log, log.chosen, models)
    gates: list[PolicyFigures] = []
    for each in fitted:
        gained, found = gains(log, each.columns, models), estimates(log, each.columns, models, seed=seed)
        over_null, over_value = (resampled(log, terms, ones, seed) for terms in (gained, gained - value))
        run = _on_policy(chosen.get(each.name), outcomes, spec)
        acts = float((each.columns > 0).mean())
        gates.append(
            PolicyFigures(
                name=each.name,
                acts=acts,
                threshold=each.weights.threshold if each.weights is not None else None,
                effective=found.effective,
                ips=found.ips,
                snips=found.snips,
                dr=found.dr,
                over_null=over_null,
                over_value=over_value,
                verdict=gate_verdict(each.name, acts, over_null, over_value, found.effective),
                **run,
                **_compared(found.dr, run.get("on_policy")),
                truth=truths.get(each.name),
            )
        )
    bins, brier, share = reliability(log, models)
    log_odds = cross_fitted(log, FITS["probe"], Linear.of_states)
    rolls = [roll for reps in outcomes.rolls.values() for roll in reps.values()]
    return PolicyReport(
        spec=spec,
        problems=len({each.problem_id for each in decisions}),
        decisions=len(decisions),
        planned=spec.n * spec.rollouts,
        further=len({problem_id for problem_id, _ in chosen[VALUE]}),
        rolls=len(rolls),
        tokens=sum(roll.decoded for roll in rolls),
        right=float(log.null_right.mean()),
        gates=tuple(gates),
        calibration=bins,
        brier=brier,
        brier_share=share,
        coverage=risk_coverage(log, log_odds),
        verdict=policy_verdict(gates),
    )


def _on_policy(arms: Mapping[tuple[str, int], str] | None, outcomes: Outcomes, spec: PolicySpec) -> dict[str, Estimate]:
    """Mean reward and share of right answers of a gate's choices on further problems."""
    if not arms:
        return {}
    rewards: dict[str, list[float]] = {}
    shares: dict[str, list[float]] = {}
    for (problem_id, m), arm in arms.items():
        reward, share = _rewards(outcomes, problem_id, m, arm, spec)
        rewards.setdefault(problem_id, []).append(reward)
        shares.setdefault(problem_id, []).append(share)
    return {"on_policy": clustered_mean(rewards.values()), "right": clustered_share(shares.values())}


def _compared(estimate: Estimate | None, run: Estimate | None) -> dict[str, Any]:
    """Whether an off-policy interval contains what was seen, and the difference with the errors of both."""
    if estimate is None or run is None or None in (estimate.low, estimate.high, run.low, run.high):
        return {}
    (low, high), (run_low, run_high) = estimate.bounds, run.bounds
    half = float(np.hypot(high - low, run_high - run_low)) / 2
    difference = estimate.value - run.value
    return {
        "contained": low <= run.value <= high,
        "difference": Estimate(value=difference, low=difference - half, high=difference + half),
    }
