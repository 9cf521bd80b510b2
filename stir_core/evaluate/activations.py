"""The steps of a run's own rollouts that lie along an action: which are at its ends, and how those of right and wrong rollouts spread.

Everything is read from recorded states, without a model.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from stir_core.errors import DataError
from stir_core.evaluate.probe import LabelledStates, mixed_states, separation
from stir_core.evaluate.spots import action_named
from stir_core.findings import Separation
from stir_core.readings import ActivatingStep, Activation, ProjectionCounts
from stir_core.records import Entry, StateRow, StepState
from stir_core.store.runs import Run
from stir_core.tasks.segment import split_steps

TOP = 8
"""Steps at each end of an action that are listed."""
BINS = 32
ACTION = "action"


class StepStates(NamedTuple):
    """The states at the ends of a run's steps, at one layer."""

    rows: Sequence[StateRow | StepState]
    states: Float[np.ndarray, "n d_model"]
    right: Bool[np.ndarray, "n"]
    """Whether the step's rollout ended right."""
    prefixes: list[tuple[str, int, tuple[int, ...]]]
    """Problem, control point and tokens up to it: equal where rollouts share it."""
    texts: list[str]
    recorded: int
    """All ends of steps in the rollouts."""
    mixed: LabelledStates
    """Those whose problem has right and wrong rollouts at their control point."""
    numbers: dict[str, int]
    """The number of each problem in ``mixed``."""


def step_states(run: Run, layer: int) -> StepStates:
    """The states at the ends of steps: those of all steps where the run has them (`stir codebook`), else those at mined control points.

    Raises:
        StoreError: rollouts or states have not finished.
        DataError: the layer was not harvested.
    """
    rollouts = {(rollout.problem_id, rollout.k): rollout for rollout in run.rollouts()}
    if run.finished("steps") and layer in run.manifest("steps").layers:
        steps, tensors = run.steps()
        rows: Sequence[StateRow | StepState] = [row for row in steps if row.m]
        states = tensors[f"layer_{layer}"]
    elif layer in (layers := run.manifest("states").layers):
        recorded, by_layer = run.states([layer])
        rows, states = [row for row in recorded if row.source == "rollout"], by_layer[layer]
    else:
        raise DataError(f"layer {layer} was not harvested in run {run.name}: take an action of layer {', '.join(map(str, layers))}")
    cut = {key: split_steps(rollout.text, run.config.delimiter) for key, rollout in rollouts.items()}
    texts, prefixes = [], []
    for row in rows:
        rollout, steps = rollouts[row.problem_id, row.k], cut[row.problem_id, row.k]
        text = row.text if isinstance(row, StepState) else next(iter(steps[row.m - 1 : row.m]), "")
        texts.append(f"latent {row.m}" if run.on_latents else text)
        # one token stands for every latent, so equal tokens do not mean equal states there
        tokens = (row.k,) if run.on_latents else rollout.token_ids[: rollout.boundaries[row.m - 1]]
        prefixes.append((row.problem_id, row.m, tokens))
    right = np.array([rollouts[row.problem_id, row.k].verdict.correct for row in rows], bool)
    every = sum(len(rollout.boundaries) for rollout in rollouts.values())
    states = states[np.array([row.row for row in rows], int)]
    mixed, kept, numbers = mixed_states(run, rows)
    place = {id(row): i for i, row in enumerate(rows)}
    mixed = mixed._replace(states=states[np.array([place[id(row)] for row in kept], int)])
    return StepStates(rows, states, right, prefixes, texts, every, mixed, numbers)


class Subject(NamedTuple):
    """An action beside the states that it is read by."""

    run: Run
    entry: Entry
    action: Float[np.ndarray, "d_model"]
    """Raw."""
    seen: StepStates
    own: Bool[np.ndarray, "k"]
    """Which of ``seen.mixed`` belong to the problem that the action was made from."""

    @property
    def others(self) -> LabelledStates:
        """Those of ``seen.mixed`` that belong to other problems."""
        return self.seen.mixed.only(~self.own)

    @property
    def unit(self) -> Float[np.ndarray, "d_model"]:
        """The action scaled to unit norm."""
        return self.action / np.linalg.norm(self.action)


def subject(run: Run, entry_id: str, seen: StepStates | None = None) -> Subject:
    """An action of a run with the states at its layer, which are read unless they are given.

    Raises:
        DataError: no such action, or its layer was not harvested.
        StoreError: a stage that is read has not finished.
    """
    entry = action_named(run, entry_id)
    seen = step_states(run, entry.layer) if seen is None else seen
    own = seen.mixed.problems == seen.numbers.get(entry.problem_id, -1)
    return Subject(run, entry, run.action_rows()[entry.action_row].astype(np.float64), seen, own)


def activation(of: Subject, top: int = TOP) -> Activation:
    """The steps at both ends of the action, and how all steps of right and of wrong rollouts are distributed along it."""
    seen = of.seen
    projections = seen.states @ of.unit - seen.states.mean(axis=0, dtype=np.float64) @ of.unit if seen.rows else np.empty(0)
    groups: dict[tuple[str, int, tuple[int, ...]], list[int]] = {}
    for i, prefix in enumerate(seen.prefixes):
        groups.setdefault(prefix, []).append(i)
    order = sorted(groups.values(), key=lambda group: -projections[group].mean())
    step = partial(_step, of, projections)
    return Activation(
        source="steps" if seen.rows and isinstance(seen.rows[0], StepState) else "states",
        steps=len(seen.rows),
        recorded=seen.recorded,
        problems=len({row.problem_id for row in seen.rows}),
        deviation=float(projections.std()) if len(projections) else 0.0,
        high=tuple(map(step, order[:top])),
        low=tuple(map(step, order[::-1][:top])),
        spread=_spread(projections, seen.right),
        own=_separated(of, of.own),
        others=_separated(of, ~of.own),
    )


def _separated(of: Subject, which: Bool[np.ndarray, "k"]) -> Separation:
    part = of.seen.mixed.only(which)
    return separation(ACTION, part.states @ of.unit, part, layer=of.entry.layer, fitted=False)


def _step(of: Subject, projections: np.ndarray, group: list[int]) -> ActivatingStep:
    seen = of.seen
    first = min(group, key=lambda i: seen.rows[i].k)
    row, right = seen.rows[first], int(seen.right[group].sum())
    return ActivatingStep(
        problem_id=row.problem_id,
        k=row.k,
        m=row.m,
        text=seen.texts[first],
        right=right,
        wrong=len(group) - right,
        projection=float(projections[group].mean()),
        own=row.problem_id == of.entry.problem_id,
    )


def _spread(projections: np.ndarray, right: np.ndarray) -> ProjectionCounts:
    if not len(projections):
        return ProjectionCounts(edges=(), right=(), wrong=())
    edges = np.histogram_bin_edges(projections, BINS)
    counts = [tuple(np.histogram(projections[side], edges)[0].tolist()) for side in (right, ~right)]
    return ProjectionCounts(edges=tuple(edges.tolist()), right=counts[0], wrong=counts[1])
