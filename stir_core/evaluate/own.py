"""Can an impulse help at all? A problem's own action, injected where its own rollouts could still end either way, on fresh continuations.

The action was mined from the same problem, at the same control point. So this is no result of the method but its ceiling: if even that does
not help, no retrieval can. All impulses of a state have the own one's norm, layer and place, and differ by their direction alone; at
further layers there are the own action and noise, with the norm that the action has there.
"""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from stir_core.config import GateConfig, RunConfig, with_changes
from stir_core.errors import ConfigError, StoreError
from stir_core.evaluate.causal_text import causal_markdown
from stir_core.evaluate.continuations import SCREEN_ARM, continue_states, noise_like
from stir_core.evaluate.effects import (
    ANOTHER,
    NULL_ARM,
    OWN,
    PLANTED,
    RANDOM_ARM,
    RETRIEVED,
    SHUFFLED,
    StateId,
    arm_at,
    by_arm,
    own_effects,
    own_verdict,
)
from stir_core.evaluate.statistics import detectable_difference
from stir_core.findings import CausalReport, CausalSpec, Roll
from stir_core.intervene.jobs import NULL, Forced
from stir_core.intervene.memory import Memory, fullest_layer
from stir_core.models.loading import LoadedModel
from stir_core.organisms.planted import Organism
from stir_core.records import Entry, OnProgress, Problem, Rollout
from stir_core.seeding import generator_for
from stir_core.store.causal import CausalFolder
from stir_core.store.runs import Run
from stir_core.tasks.chain import chain_of

SCREENED = 8
"""Vanilla re-rolls of a state at most, until a right and a wrong one are seen; the arms, null included, are continued afresh."""


class OwnState(NamedTuple):
    """The beginning of one of a problem's own rollouts, up to a control point at which an action was mined from the problem."""

    problem: Problem
    m: int
    k: int
    """Rollout."""
    prompt_ids: list[int]
    given: tuple[int, ...]
    """The rollout's tokens before the control point."""
    impulses: dict[str, Forced]
    """By arm, the own action first; ``random`` is not among them, since it is drawn anew for each repetition."""

    @property
    def id(self) -> StateId:
        """Problem, control point and rollout."""
        return self.problem.id, self.m, self.k


def own_states(run: Run, memory: Memory, spec: CausalSpec, organism: Organism | None) -> list[OwnState]:
    """For each of ``spec.n`` mined problems and each control point with an own action, the beginning of a right and of a wrong rollout.

    The rollouts are drawn by the seed. The order is fixed, and goes round the problems, so that its beginning holds many of them.

    Args:
        memory: the control basis, which other problems' actions are taken from.

    Raises:
        StoreError: no action was mined that a gate could inject.
        ConfigError: a layer of ``spec.layers`` that was not harvested, or is the study's anyway.
    """
    mined = run.library(selected=False)
    usable = {  # older runs hold actions of zero, from rollouts that begin alike
        entry.id: row for row, entry in enumerate(mined.entries) if entry.kind == "corrective" and entry.reachable and entry.action_norm
    }
    if not usable:
        raise StoreError(f"run {run.path} has no action before its last control point: mine more problems or more rollouts")
    layer = fullest_layer([mined.entries[row] for row in usable.values()])
    _check_layers(spec.layers, layer, {mined.entries[row].layer for row in usable.values()})
    at_layer: dict[int, dict[tuple[str | None, int], int]] = {each: {} for each in (layer, *spec.layers)}
    for row in usable.values():
        if (entry := mined.entries[row]).layer in at_layer:
            at_layer[entry.layer][entry.problem_id, entry.m] = row
    own = at_layer.pop(layer)
    rollouts: dict[str, list[Rollout]] = {}
    for rollout in run.rollouts():
        rollouts.setdefault(rollout.problem_id, []).append(rollout)
    directions = _Directions(run, memory, layer, organism, spec.seed)
    gate = GateConfig.model_validate(spec.gate)
    by_problem: list[list[OwnState]] = []
    for problem in [problem for problem in run.problems() if any(problem.id == id_ for id_, _ in own)][: spec.n]:
        states: list[OwnState] = []
        for m in sorted(m for id_, m in own if id_ == problem.id):
            entry, action = mined.entries[own[problem.id, m]], torch.tensor(mined.actions[own[problem.id, m]])
            for rollout in _either_side(rollouts[problem.id], m, spec):
                vectors = {OWN: action * entry.quality, **directions.others(entry, rollout.k, problem)}
                alpha = gate.k_scale * gate.beta
                impulses = {arm: Forced(arm, layer, vector, alpha) if vector.any() else NULL for arm, vector in vectors.items()}
                for further, rows in at_layer.items():
                    if (row := rows.get((problem.id, m))) is not None:
                        vector = torch.tensor(mined.actions[row]) * mined.entries[row].quality
                        impulses[arm_at(OWN, further)] = Forced(arm_at(OWN, further), further, vector, alpha)
                given = rollout.token_ids[: rollout.boundaries[m - 1]]
                states.append(OwnState(problem, m, rollout.k, list(rollout.prompt_ids), given, impulses))
        order = generator_for(spec.seed, "own states", problem.id).permutation(len(states)).tolist()
        by_problem.append([states[i] for i in order])
    return [state for states in zip_longest(*by_problem) for state in states if state is not None]


def _check_layers(asked: Sequence[int], layer: int, harvested: set[int]) -> None:
    for each in asked:
        if each == layer:
            raise ConfigError(f"--layers {each}: the study injects there anyway, leave it out")
        if each not in harvested:
            raise ConfigError(f"--layers {each}: no action was mined there, but at {', '.join(map(str, sorted(harvested)))}")


def _either_side(rollouts: Sequence[Rollout], m: int, spec: CausalSpec) -> list[Rollout]:
    """A right and a wrong rollout that reach the control point with budget left; one, where both begin alike."""
    reaching = [rollout for rollout in rollouts if len(rollout.boundaries) >= m and rollout.boundaries[m - 1] < spec.max_new_tokens]
    drawn: dict[tuple[int, ...], Rollout] = {}
    for correct in (True, False):
        if side := [rollout for rollout in reaching if rollout.verdict.correct == correct]:
            chance = generator_for(spec.seed, "own state", side[0].problem_id, m, str(correct))
            rollout = side[int(chance.integers(len(side)))]
            drawn.setdefault(rollout.token_ids[: rollout.boundaries[m - 1]], rollout)
    return list(drawn.values())


class _Directions:
    """What the other arms inject: what retrieval finds among other problems' entries, one of their actions at random, and controls."""

    def __init__(self, run: Run, memory: Memory, layer: int, organism: Organism | None, seed: int):
        rows, states = run.states([layer])
        self._memory, self._layer, self._organism, self._seed = memory.at_layer(layer), layer, organism, seed
        self._states = {(row.problem_id, row.k, row.m): states[layer][row.row] for row in rows if row.source == "rollout"}
        self._shuffled = run.control_rows("shuffled") if run.controls() else None
        self._everything = with_changes(GateConfig(), k_retrieve=max(1, len(memory.entries)), min_sim=-1.0)

    def others(self, entry: Entry, k: int, problem: Problem) -> dict[str, Tensor]:
        """Vectors times quality by arm; zero where retrieval finds a null entry. An arm that is not possible here is left out."""
        found: dict[str, Tensor] = {}
        foreign = {each.id: each for each in self._memory.entries if each.m == entry.m and each.problem_id != problem.id}
        actions = [id_ for id_, each in foreign.items() if each.kind == "corrective"]
        state = self._states.get((problem.id, k, entry.m))
        if foreign and state is not None:
            nearest, _ = self._memory.retrieve(entry.m, {self._layer: torch.tensor(state)}, self._everything)
            best = next(seen.entry_id for seen in nearest if seen.entry_id in foreign)
            found[RETRIEVED] = self._memory.action(best) * foreign[best].quality
        if actions:
            drawn = actions[int(generator_for(self._seed, "own another", problem.id, entry.m, k).integers(len(actions)))]
            found[ANOTHER] = self._memory.action(drawn) * foreign[drawn].quality
        if self._shuffled is not None and entry.action_row is not None and self._shuffled[entry.action_row].any():
            found[SHUFFLED] = torch.tensor(self._shuffled[entry.action_row]) * entry.quality
        if self._organism is not None:
            correction = self._organism.planted.correction(self._organism.rung, chain_of(problem.question).kind)[self._layer]
            if correction.norm() > 0:
                found[PLANTED] = correction * (float(entry.action_norm or 0.0) * entry.quality / correction.norm())
        return found


def study_own(
    model: LoadedModel,
    config: RunConfig,
    spec: CausalSpec,
    folder: CausalFolder,
    candidates: list[OwnState],
    *,
    say: Callable[[str], None] = lambda line: None,
    report: OnProgress = lambda progress: None,
) -> CausalReport:
    """Re-roll the candidates until ``spec.states`` are found undecided, continue those under every arm, and write the report.

    Args:
        say: is told the size and the power of the study before anything is decoded, and again before any arm is.
    """
    rolls, ended = folder.rolls(), False
    arms = max((len(_arms(state)) for state in candidates), default=0)
    most = len(candidates) if spec.states is None else min(spec.states, len(candidates))
    at_most = _size(candidates[:most], spec)
    say(
        f"{len(candidates)} states of {len({state.problem.id for state in candidates})} mined problems, up to {SCREENED} vanilla re-rolls "
        f"each; then {arms} arms x {spec.rolls} continuations from those where they are mixed, at most {at_most}."
    )

    def impulses(state: OwnState, arm: str, rep: int) -> Forced:
        noise, own = _noises(state), state.impulses.get(arm, NULL)
        if arm in noise:
            own = noise[arm]
            assert own.vector is not None  # a label comes with a vector
            names = ("own noise", state.problem.id, state.m, state.k, rep)
            return own._replace(label=arm, vector=noise_like(own.vector, spec.seed, *names))
        return own

    def undecided() -> list[OwnState]:
        return _undecided(candidates, rolls)[: spec.states]

    try:
        continue_states(
            model,
            config,
            spec,
            folder,
            candidates,
            rolls,
            lambda state, rolls, upto: [] if _undecided([state], rolls) else [SCREEN_ARM],
            lambda state, arm, rep: NULL,
            most=SCREENED,
            stage="screen",
            enough=lambda: spec.states is not None and len(undecided()) >= spec.states,
            report=report,
        )
        states = undecided()
        say(f"Undecided: {_size(states, spec)}.")
        continue_states(
            model,
            config,
            spec,
            folder,
            states,
            rolls,
            lambda state, rolls, upto: _arms(state),
            impulses,
            first=spec.rolls,
            report=report,
        )
        ended = True
    finally:  # an interrupted study leaves a report, too
        found = undecided()
        layer = next((each.layer for state in found if (each := state.impulses[OWN]) != NULL), None)
        summary = own_report(spec, [state.id for state in found], rolls, layer)
        folder.write_report(summary, causal_markdown(summary), complete=ended)
    return summary


def _noises(state: OwnState) -> dict[str, Forced]:
    """The arms of noise, and the own action whose norm and layer each has."""
    return {arm.replace(OWN, RANDOM_ARM): forced for arm, forced in state.impulses.items() if arm.startswith(OWN)}


def _arms(state: OwnState) -> list[str]:
    return [NULL_ARM, *state.impulses, *_noises(state)]


def _undecided(states: Sequence[OwnState], rolls: Sequence[Roll]) -> list[OwnState]:
    found = set(mixed(rolls))
    return [state for state in states if state.id in found]


def _detectable(states: Sequence[StateId], spec: CausalSpec) -> float | None:
    return detectable_difference(spec.rolls * len(states), len({problem for problem, *_ in states}))


def _size(states: Sequence[OwnState], spec: CausalSpec) -> str:
    smallest = _detectable([state.id for state in states], spec)
    power = "too few problems for a test" if smallest is None else f"80 % power to see a difference of {100 * smallest:.0f} points"
    return f"{len(states)} states of {len({state.problem.id for state in states})} problems, {power}"


def mixed(rolls: Sequence[Roll]) -> list[StateId]:
    """The states whose vanilla re-rolls show both outcomes, in the order of the re-rolls."""
    seen: dict[StateId, set[bool]] = {}
    for roll in rolls:
        if roll.arm == SCREEN_ARM:
            seen.setdefault(roll.state, set()).add(roll.correct)
    return [state for state, outcomes in seen.items() if len(outcomes) == 2]


def own_report(spec: CausalSpec, states: Sequence[StateId], rolls: Sequence[Roll], layer: int | None) -> CausalReport:
    """The report over the continuations so far.

    Args:
        states: the undecided ones.
        layer: where all impulses are injected; ``None`` where there is none.
    """
    grouped = by_arm(rolls)
    tried = [state for state in states if (state, NULL_ARM) in grouped]
    effects = own_effects(grouped, tried, spec.layers)
    outcome, verdict = own_verdict(effects)
    return CausalReport(
        spec=spec,
        states=len(tried),
        planned=len(states),
        rolls=len(rolls),
        tokens=sum(roll.decoded for roll in rolls),
        effects=tuple(effects),
        actions=(),
        predictors=(),
        calibration=(),
        points=(),
        screened=len({roll.state for roll in rolls if roll.arm == SCREEN_ARM}),
        detectable=_detectable(states, spec),
        layer=layer,
        outcome=outcome,
        verdict=verdict,
    )
