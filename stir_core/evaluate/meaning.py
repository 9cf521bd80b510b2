"""What an action means: the steps of a run along it, its share of the task's subspace, what erasure leaves of it, the features of a
dictionary that it is made of, and its nearest kin in other runs.

Everything is read from recorded states, without a model. An action was made from the states of its own problem, so these never count as
evidence: subspace, separation and erasure are computed on the other problems.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from stir_core.basis.alignment import best_by_chance
from stir_core.basis.directions import leace, matching_pursuit, principal_axes, share_by_chance, share_in_span
from stir_core.basis.geometry import cosines
from stir_core.errors import DataError
from stir_core.evaluate.activations import ACTION, TOP, StepStates, Subject, activation, subject
from stir_core.evaluate.probe import FOLDS, WORTH, LabelledStates, centred_within, separation
from stir_core.findings import Separation
from stir_core.readings import (
    ActionReading,
    Decomposition,
    Erasure,
    ErasureOutcome,
    Feature,
    ForeignAction,
    JacobianReading,
    SubspaceShare,
)
from stir_core.records import Entry
from stir_core.seeding import generator_for
from stir_core.store.dictionaries import read_dictionary
from stir_core.store.runs import Run, check_identity

if TYPE_CHECKING:
    from stir_core.models.loading import LoadedModel

AXES = (1, 4, 16, 64)
"""Numbers of principal directions whose span is compared with an action."""
DRAWS = 32
"""Random directions of each kind that a decomposition is compared with."""


def meaning_of(
    run: Run,
    entry_id: str,
    *,
    top: int = TOP,
    others: Sequence[Run] = (),
    dictionary: Path | None = None,
    tensor: str | None = None,
    model: "LoadedModel | None" = None,
) -> ActionReading:
    """Read one action of a run; see :class:`~stir_core.readings.ActionReading`.

    Args:
        top: how many steps at each end, features and foreign actions to list.
        others: runs of the same model whose actions at the same layer are compared.
        dictionary: file of an SAE's or transcoder's decoder, see :func:`~stir_core.store.dictionaries.read_dictionary`.
        tensor: its name in that file.
        model: the run's own, to read the action through the Jacobian lens.

    Raises:
        DataError: no such action, or ``top`` is not positive, or another run has no action at this layer.
        MismatchError: another run, or the model, is of another model.
        ModelError: the model has no Jacobian lens.
        StoreError: a stage that is read has not finished, or the dictionary is no such file.
    """
    if top < 1:
        raise DataError(f"top is {top}: give a whole number of at least 1")
    of = subject(run, entry_id)
    if model is not None:
        run.check_model(model.identity)
    return ActionReading(
        entry_id=of.entry.id,
        problem_id=of.entry.problem_id,
        layer=of.entry.layer,
        elsewhere=tuple(near for other in others for near in nearest_elsewhere(of, other, top)),  # refused before anything slow
        decomposition=None if dictionary is None else decompose(of, dictionary, tensor, top),
        activation=activation(of, top),
        subspace=subspace(of),
        erasure=erasure(of.others, of.unit, of.entry.layer),
        jacobian=None if model is None else through_jacobian(of, model),
    )


def through_jacobian(of: Subject, model: "LoadedModel") -> JacobianReading:
    """The Jacobian lens of the action over its run's rollouts; see :func:`~stir_core.models.lens.jacobian_lens`."""
    import torch

    from stir_core.models.lens import jacobian_lens

    action = torch.from_numpy(of.action).float()
    return jacobian_lens(model, of.entry.id, action, of.entry.layer, of.run.rollouts())


def _peers(run: Run, layer: int) -> tuple[list[Entry], Float[np.ndarray, "n d_model"]]:
    """The actions of a run at one layer."""
    entries = [entry for entry in run.entries() if entry.action_row is not None and entry.layer == layer]
    return entries, run.action_rows()[[row for entry in entries if (row := entry.action_row) is not None]]


def subspace(of: Subject) -> tuple[SubspaceShare, ...]:
    """Shares of the action and of the run's other actions at its layer in the principal directions of other problems' states."""
    states = of.seen.states[[row.problem_id != of.entry.problem_id for row in of.seen.rows]]
    axes = principal_axes(states) if len(states) > 1 else np.empty((0, len(of.unit)))
    peers, actions = _peers(of.run, of.entry.layer)
    actions = actions[[peer.problem_id != of.entry.problem_id for peer in peers]]
    shares = []
    for k in AXES:
        if k > len(axes) or k >= len(of.unit):
            break
        typical = float(np.median(share_in_span(actions, axes[:k]))) if len(actions) else None
        share, high = float(share_in_span(of.unit[None], axes[:k])[0]), share_by_chance(k, len(of.unit), 0.95)
        shares.append(SubspaceShare(k=k, share=share, by_chance=k / len(of.unit), chance_high=high, actions=typical))
    return tuple(shares)


def erasure(data: LabelledStates, unit: Float[np.ndarray, "d_model"], layer: int) -> Erasure:
    """Separation by a direction before and after erasing right against wrong, each problem with an eraser fitted to the others.

    States and labels are centred within problem and control point, so what problems have in common is erased, not what they differ by.

    Args:
        data: of problems that the direction was not made from.
    """
    states, labels = centred_within(data.states, data.strata), centred_within(data.right[:, None].astype(float), data.strata)[:, 0]
    folds = np.unique(data.problems, return_inverse=True)[1] % FOLDS
    erased, probe = states.copy(), np.zeros(len(states))
    for fold in np.unique(folds):
        here = folds == fold
        eraser = leace(states[~here], labels[~here]) if not here.all() else None
        if eraser is not None:
            erased[here], probe[here] = eraser.states(states[here]), states[here] @ eraser.read
    whole = leace(states, labels) if len(states) else None
    before = separation(ACTION, states @ unit, data, layer=layer, fitted=False)
    taken, after = separation("linear probe", probe, data, layer=layer), separation(f"{ACTION}, erased", erased @ unit, data, layer=layer)
    outcome, verdict = _concluded(before, taken, after)
    cosine = None if whole is None else float(unit @ whole.removed / np.linalg.norm(whole.removed))
    return Erasure(before=before, erased=taken, after=after, cosine=cosine, outcome=outcome, verdict=verdict)


def _concluded(before: Separation, taken: Separation, after: Separation) -> tuple[ErasureOutcome, str]:
    shown, left = auc_text(before), auc_text(after)
    over = f"{before.problems} other problem{'s' * (before.problems != 1)}"
    tells = "right from wrong steps of other problems"
    if before.low is None or before.high is None or taken.low is None or after.low is None or after.high is None:
        return "cannot tell", f"Cannot tell whether it separates {tells}: {shown} on {over}, too few for an interval, or all ties."
    if before.low <= 0.5:
        if before.high >= WORTH:
            return "cannot tell", f"Cannot tell whether it separates {tells}: {shown} on {over}."
        wrong_way = " (wrong steps lie further along it)" if before.high < 0.5 else ""
        return "does not separate", f"It does not tell {tells}: {shown} on {over}{wrong_way}. There is nothing to erase."
    start = f"It tells {tells} ({shown} on {over})"
    if taken.low <= 0.5:
        return "cannot tell", f"{start}, but what is erased does not carry over to problems it was not fitted to ({auc_text(taken)})."
    if after.low > 0.5:
        return "remains", f"{start}, and still does after what tells them linearly in all problems was erased ({left})."
    if after.high < WORTH:
        return "erased", f"{start}; after what tells them linearly in all problems was erased, it no longer does ({left})."
    return "cannot tell", f"{start}; whether it still does after erasure stays open ({left})."


def auc_text(seen: Separation) -> str:
    """An AUC with its interval, in words."""
    interval = "" if seen.low is None else f" [{seen.low:.2f}, {seen.high:.2f}]"
    return "no pair of a right and a wrong rollout" if seen.auc is None else f"AUC {seen.auc:.2f}{interval}"


def decompose(of: Subject, file: Path, tensor: str | None = None, top: int = TOP) -> Decomposition:
    """The action as a sum of at most ``top`` features of a dictionary, beside random directions and differences of states.

    Raises:
        StoreError: the file is no dictionary of the stream's width.
        DataError: the configuration beside it names another layer.
    """
    name, features = read_dictionary(file, columns=len(of.unit), layer=of.entry.layer, tensor=tensor)
    draw = generator_for(of.run.config.seed, "meaning", of.entry.id)
    random = draw.standard_normal((DRAWS, len(of.unit)))
    natural = _differences(of.seen, of.entry.problem_id, draw)
    both = matching_pursuit(np.concatenate([of.unit[None], random, natural]), features, top)
    own = features @ of.unit.astype(features.dtype)
    near = np.argsort(-own, kind="stable")[:top]
    chosen = zip(both.features[0].tolist(), both.weights[0].tolist(), strict=True)
    by_random, by_states = np.split(both.explained[1:], [DRAWS])
    return Decomposition(
        dictionary=file.name,
        tensor=name,
        features=int((np.linalg.norm(features, axis=1) > 0).sum()),
        nearest=tuple(Feature(index=int(i), cosine=float(own[i])) for i in near),
        chosen=tuple(Feature(index=i, cosine=float(own[i]), weight=weight) for i, weight in chosen),
        explained=float(both.explained[0]),
        random=float(by_random.mean()),
        random_most=float(by_random.max()),
        states=float(by_states.mean()) if len(by_states) else None,
        states_most=float(by_states.max()) if len(by_states) else None,
        draws=DRAWS,
    )


def _differences(seen: StepStates, problem_id: str, draw: np.random.Generator) -> Float[np.ndarray, "n d_model"]:
    """Differences of states of two other problems at the same control point, :data:`DRAWS` of them, or none."""
    by_point: dict[int, list[int]] = {}
    for i, row in enumerate(seen.rows):
        if row.problem_id != problem_id:
            by_point.setdefault(row.m, []).append(i)
    places = [rows for rows in by_point.values() if len({seen.rows[i].problem_id for i in rows}) > 1]
    if not places:
        return np.empty((0, seen.states.shape[1]))
    weights = np.array([len(rows) for rows in places], float)
    found: list[np.ndarray] = []
    while len(found) < DRAWS:
        rows = places[draw.choice(len(places), p=weights / weights.sum())]
        one, other = draw.choice(rows, 2, replace=False)
        difference = seen.states[one] - seen.states[other]
        if seen.rows[one].problem_id != seen.rows[other].problem_id and difference.any():
            found.append(difference)
    return np.stack(found)


def nearest_elsewhere(of: Subject, other: Run, top: int = TOP) -> tuple[ForeignAction, ...]:
    """The actions of another run that point most nearly the same way, at the same layer of the same model.

    Raises:
        MismatchError: the other run was made with another model.
        DataError: it has no action at this layer.
    """
    entry, made_with = of.entry, other.manifest("actions").model
    check_identity(f"run {other.name}", made_with, of.run.manifest("actions").model, "compare actions of one model")
    theirs, rows = _peers(other, entry.layer)
    if not theirs:
        layers = sorted({each.layer for each in other.entries() if each.action_row is not None})
        raise DataError(f"run {other.name} has no action at layer {entry.layer}, only at {layers}: compare actions of one layer")
    near = cosines(of.action[None], rows)[0]
    typical = float(np.median(cosines(_peers(of.run, entry.layer)[1], rows).max(axis=1)))
    questions, asked = ({problem.id: problem.question for problem in run.problems()} for run in (other, of.run))
    lenses, chance = other.lenses(), best_by_chance(len(theirs), len(of.unit))
    found = []
    for i in np.argsort(-near, kind="stable")[:top].tolist():
        id_, problem_id = theirs[i].id, theirs[i].problem_id
        foreign = ForeignAction(
            run=other.name,
            entry_id=id_,
            m=theirs[i].m,
            problem_id=problem_id,
            cosine=float(near[i]),
            same_question=questions.get(problem_id) == asked.get(entry.problem_id),
            promoted=tuple(token.text for token in lenses[id_].promoted[:4]) if id_ in lenses else (),
            by_chance=chance,
            typical=typical,
        )
        found.append(foreign)
    return tuple(found)
