"""Compare a run on an organism with what is planted there. Pure: records and arrays in, figures out; no model is run."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

import numpy as np

from stir_core.evaluate.confounds import LABELS_DO_NOT_MATTER, MOSTLY_LENGTH, flags, verdict
from stir_core.evaluate.effects import BINS, area_under_roc
from stir_core.evaluate.habits import KnownPoint
from stir_core.evaluate.probe import MARGIN, LabelledStates, key_margins, separation
from stir_core.evaluate.statistics import clustered_share
from stir_core.findings import ActionAgreement, Bin, ControlCounts, GateCounts, PickCount, Separation
from stir_core.keyspace import apply_space
from stir_core.organisms.planted import Organism
from stir_core.organisms.rungs import DELIMITER, Habit, is_right, read_steps
from stir_core.records import Control, Entry, Rollout, StepTrace
from stir_core.store.runs import Library, Run
from stir_core.tasks.chain import KINDS, Chain
from stir_core.tasks.segment import split_steps


def gate_counts(points: Sequence[KnownPoint]) -> tuple[GateCounts, ...]:
    """Commits by control point, where the writer is in the wrong habit and where it is not, and what became of the steered steps."""
    counts: list[GateCounts] = []
    for m in sorted({point.step.m for point in points}):
        own = [point for point in points if point.step.m == m]
        fired = [point for point in own if point.step.decision.chosen is not None]
        wrong, fired_wrong = (sum(point.wrong for point in which) for which in (own, fired))
        counts.append(
            GateCounts(
                m=m,
                wrong=wrong,
                fired_wrong=fired_wrong,
                mended=sum(point.wrong and not point.erred for point in fired),
                right=len(own) - wrong,
                fired_right=len(fired) - fired_wrong,
                harmed=sum(not point.wrong and point.erred for point in fired),
            )
        )
    return tuple(counts)


def margin(step: StepTrace) -> float | None:
    """The gate's best score minus that of null; ``None`` where nothing was scored."""
    scores = [scored.score for scored in step.decision.scored if scored.score is not None]
    return max(scores) - step.decision.score_null if scores and step.decision.score_null is not None else None


def gate_auc(points: Sequence[KnownPoint]) -> float | None:
    """Area under the ROC curve of the gate's margin for "the writer is in the wrong habit"; nothing scored counts as the lowest margin."""
    seen = np.array([-np.inf if (value := margin(point.step)) is None else value for point in points])
    wrong = np.array([point.wrong for point in points], bool)
    return area_under_roc(seen[wrong], seen[~wrong])


def gate_bins(points: Sequence[KnownPoint]) -> tuple[Bin, ...]:
    """Scored control points in equally large bins of the gate's margin, with the share of writers in the wrong habit."""
    scored = sorted(((value, point) for point in points if (value := margin(point.step)) is not None), key=lambda pair: pair[0])
    filled: list[Bin] = []
    for part in np.array_split(np.arange(len(scored)), min(BINS, max(1, len(scored) // 4))):
        own = [scored[i] for i in part]
        if own:
            groups: dict[str, list[float]] = defaultdict(list)
            for _, point in own:
                groups[point.problem_id].append(float(point.wrong))
            margins = [value for value, _ in own]
            measured = clustered_share(groups.values())
            filled.append(Bin(low=margins[0], high=margins[-1], points=len(own), predicted=float(np.mean(margins)), measured=measured))
    return tuple(filled)


def planted_cosines(entries: Sequence[Entry], actions: np.ndarray, chains: Mapping[str, Chain], organism: Organism) -> dict[str, float]:
    """Cosine of each action with the planted correction of its problem's kind, by corrective entry; empty where no habit decides."""
    cosines: dict[str, float] = {}
    for entry, action in zip(entries, actions, strict=True):
        planted = organism.planted.correction(organism.rung, chains[entry.problem_id].kind)[entry.layer].numpy()
        if entry.kind == "corrective" and planted.any():
            cosines[entry.id] = _cosine(action, planted)
    return cosines


def cosines_by_place(entries: Sequence[Entry], cosines: Mapping[str, float]) -> tuple[ActionAgreement, ...]:
    """Median of :func:`planted_cosines` by layer, control point and number of rollouts behind the key."""
    groups: dict[tuple[int, int, int], list[float]] = defaultdict(list)
    for entry in entries:
        if entry.id in cosines:
            groups[entry.layer, entry.m, len(entry.negatives)].append(cosines[entry.id])
    return tuple(
        ActionAgreement(layer=layer, m=m, behind=behind, actions=len(own), cosine=float(np.median(own)))
        for (layer, m, behind), own in sorted(groups.items())
    )


def pick_counts(basis: Library, chains: Mapping[str, Chain], organism: Organism) -> tuple[PickCount, ...]:
    """Corrective entries by kind of problem and by the habit that their action points to; empty where no habit decides."""
    if organism.rung.right is None:
        return ()
    counts: Counter[tuple[str, str]] = Counter()
    for entry, action in zip(basis.entries, basis.actions, strict=True):
        if entry.kind == "corrective":
            along = float(action @ organism.planted.habit[entry.layer].numpy())
            counts[chains[entry.problem_id].kind, "P" if along > 0 else "Q"] += 1
    return tuple(PickCount(kind=kind, towards=habit, picks=counts[kind, habit]) for kind in KINDS for habit in get_args(Habit))


def retrieval(run: Run, organism: Organism, chains: Mapping[str, Chain]) -> Separation | None:
    """How well the key margin of recorded states, by the keys of other problems, tells the wrong habit from the right one.

    Pairs are two rollouts of one problem at one control point, one whose writer is in the wrong habit there and one whose writer is in the
    right one. ``None`` where no habit decides.
    """
    if organism.rung.right is None:
        return None
    rows, states = run.states()
    known = known_habits(run.rollouts(), chains, organism)
    rows = [row for row in rows if row.source == "rollout" and (row.problem_id, row.k, row.m) in known]
    numbers = {problem_id: i for i, problem_id in enumerate(sorted(chains))}
    columns = [(numbers[row.problem_id], row.m, known[row.problem_id, row.k, row.m]) for row in rows]
    problems, ms, right = np.array(columns, int).reshape(-1, 3).T
    data = LabelledStates(problems, ms, right.astype(bool), np.empty((len(rows), 0)))
    place, library, space = np.array([row.row for row in rows], int), run.library(selected=False), run.key_space()
    keys = apply_space(space, library.keys, [(entry.m, entry.layer) for entry in library.entries])
    margins = np.full(len(rows), np.nan)
    for m, layer in sorted({(entry.m, entry.layer) for entry in library.entries}):
        there = [i for i, entry in enumerate(library.entries) if (entry.m, entry.layer) == (m, layer)]
        own, at = [library.entries[i] for i in there], ms == m
        theirs, kinds = np.array([numbers[entry.problem_id] for entry in own]), np.array([entry.kind == "corrective" for entry in own])
        here = space.apply((m, layer), states[layer][place[at]].astype(np.float64))
        margins[at] = np.fmax(margins[at], key_margins(keys[there], theirs, kinds, here, problems[at]))
    return separation(MARGIN, -margins, data, layer=None)


def known_habits(rollouts: Iterable[Rollout], chains: Mapping[str, Chain], organism: Organism) -> dict[tuple[str, int, int], bool]:
    """Whether the writer is in the right habit, by problem, rollout and control point; steps outside the language are left out."""
    known: dict[tuple[str, int, int], bool] = {}
    for rollout in rollouts:
        chain = chains[rollout.problem_id]
        for m, step in enumerate(read_steps(chain, split_steps(rollout.text, DELIMITER)), 1):
            if step is not None:
                known[rollout.problem_id, rollout.k, m] = is_right(organism.rung, step.habit, chain.kind)
    return known


def control_counts(library: Library, controls: Mapping[str, Control], organism: Organism) -> ControlCounts:
    """What the confound controls say about a library's actions."""
    pairs = [(entry, action) for entry, action in zip(library.entries, library.actions, strict=True) if entry.kind == "corrective"]
    verdicts = Counter(verdict(controls.get(entry.id)) for entry, _ in pairs)
    flagged = Counter(flag for entry, _ in pairs if entry.id in controls for flag in flags(controls[entry.id]))
    tones = [_cosine(action, organism.planted.tone[entry.layer].numpy()) for entry, action in pairs]
    return ControlCounts(
        actions=len(pairs),
        passes=verdicts["passes"],
        cannot_tell=verdicts["cannot tell"],
        length=flagged[MOSTLY_LENGTH],
        labels=flagged[LABELS_DO_NOT_MATTER],
        tone_cosine=float(np.median(np.abs(tones))) if tones else 0.0,
    )


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else 0.0
