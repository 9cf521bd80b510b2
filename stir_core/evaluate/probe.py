"""Is there a direction that problems share? How well recorded states tell right from wrong rollouts, before anything is steered.

Every read-out scores a problem's states from the *other* problems alone. What counts are pairs of a right and a wrong rollout of the same
problem at the same control point: how hard a problem is, and how long its answers are, decides nothing. Arrays in, numbers out: no model.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import stdtr, stdtrit

from stir_core.errors import ConfigError
from stir_core.evaluate.statistics import FEWEST_PROBLEMS, LEVEL, degrees_of_freedom, holm, jackknife
from stir_core.findings import KeySupport, ProbeOutcome, ProbeReport, Separation
from stir_core.harvest.actions import Mined, mine
from stir_core.keyspace import Place, apply_space
from stir_core.records import Continuation, MarginThreshold, Pair, StateRow, StepState
from stir_core.store.jsonl import read_record, read_records
from stir_core.store.runs import Library, Run

WORTH = 0.6
"""An AUC below it is too weak to steer by; what a verdict that nothing is there has to exclude."""
NEIGHBOURS = 8
"""Nearest states that vote, and nearest keys of each kind that a margin with a threshold averages."""
FOLDS = 10
"""Parts of whole problems that the logistic probe is fitted without; one problem at a time up to this many."""
PENALTY = 0.01
"""Inverse strength ``C`` of the probe's L2 penalty on standardised states."""
EPSILON = 1e-12
"""Smallest norm that a state is divided by."""
TIE = 1e-4
"""Scores closer than this share of their standard deviation tie: equal prefixes have equal states but for rounding."""

DIFFERENCE, MARGIN, NEIGHBOUR, LOGISTIC, TEXT = (
    "difference of means",
    "key margin",
    "nearest neighbours",
    "logistic probe",
    "re-rolled text",
)
KEYS = {"": None, ", equal numbers": 0, ", one rollout": 1}
"""Variants of the keys by the name of their margin: rollouts behind each key (``None``: as mined; 0: as many as behind the other one)."""


RowT = TypeVar("RowT", bound=StateRow | StepState)


class LabelledStates(NamedTuple):
    """States of rollouts at control points, each with whether its rollout ended right."""

    problems: Int[np.ndarray, "n"]
    """Problem of each state, numbered from 0."""
    ms: Int[np.ndarray, "n"]
    """Control points."""
    right: Bool[np.ndarray, "n"]
    states: Float[np.ndarray, "n d_model"]

    @property
    def strata(self) -> Int[np.ndarray, "n"]:
        """One number for each problem and control point."""
        return np.unique(np.stack([self.problems, self.ms]), axis=1, return_inverse=True)[1].ravel()

    def only(self, chosen: Bool[np.ndarray, "n"]) -> "LabelledStates":
        """Some of the states."""
        return LabelledStates(*(column[chosen] for column in self))


class Keys(NamedTuple):
    """Keys of one layer."""

    keys: Float[np.ndarray, "n_keys d_model"]
    problems: Int[np.ndarray, "n_keys"]
    ms: Int[np.ndarray, "n_keys"]
    corrective: Bool[np.ndarray, "n_keys"]
    """True: mean state of wrong rollouts; false (null): of right ones."""
    behind: Int[np.ndarray, "n_keys"]
    """Number of rollouts averaged."""


class OrderedPairs(NamedTuple):
    """Pairs of a right and a wrong rollout of one problem at one control point, counted by problem."""

    ordered: Float[np.ndarray, "problems"]
    """Pairs in which the right one scores higher; a tie counts half."""
    pairs: Int[np.ndarray, "problems"]
    """All pairs; at least one for each problem."""
    tied: bool
    """Whether every pair is a tie."""


def key_margins(
    keys: Float[np.ndarray, "n_keys d_model"],
    key_problems: Int[np.ndarray, "n_keys"],
    key_kinds: Bool[np.ndarray, "n_keys"],
    states: Float[np.ndarray, "n d_model"],
    state_problems: Int[np.ndarray, "n"],
    *,
    centred: bool = False,
    nearest: int = 1,
) -> Float[np.ndarray, "n"]:
    """Mean cosine with the ``nearest`` corrective keys minus that with the nearest null keys, over the keys of other problems.

    All keys and states belong to one control point and layer. A high margin says "wrong"; with one key of each kind, retrieval finds a
    corrective entry first.

    Args:
        key_problems, state_problems: problem of each key and state, in the same numbering.
        key_kinds: true for a corrective key (mean state of wrong rollouts), false for a null key (of right ones).
        centred: subtract the mean key of the other problems from keys and states first.

    Returns:
        NaN where the other problems lack keys of one kind.
    """
    keys, states = np.asarray(keys, np.float64), np.asarray(states, np.float64)
    problems, number = np.unique(state_problems, return_inverse=True)
    others = problems[:, None] != key_problems  # by problem and key
    means = np.zeros((len(problems), keys.shape[1]))
    if centred:
        means = others / np.maximum(others.sum(axis=1, keepdims=True), 1) @ keys
    # inner products after subtracting each problem's mean m: (s - m)(k - m) = sk - sm - mk + mm
    key_mean, mean_mean = means @ keys.T, (means**2).sum(axis=1)
    state_mean = (states * means[number]).sum(axis=1)
    inner = states @ keys.T - state_mean[:, None] + (mean_mean[:, None] - key_mean)[number]
    key_norms = np.sqrt(np.maximum((keys**2).sum(axis=1) - 2 * key_mean + mean_mean[:, None], EPSILON**2))[number]
    state_norms = np.sqrt(np.maximum((states**2).sum(axis=1) - 2 * state_mean + mean_mean[number], EPSILON**2))
    cosines = inner / (key_norms * state_norms[:, None])
    corrective, null = (_nearest_mean(np.where(others[number] & kind, cosines, -np.inf), nearest) for kind in (key_kinds, ~key_kinds))
    known = np.isfinite(corrective) & np.isfinite(null)
    return np.subtract(corrective, null, out=np.full(len(states), np.nan), where=known)


def _nearest_mean(cosines: Float[np.ndarray, "n n_keys"], nearest: int) -> Float[np.ndarray, "n"]:
    """Mean of the largest finite cosines of each state, at most ``nearest`` of them; minus infinity where there is none."""
    if cosines.shape[1] > nearest:
        cosines = np.partition(cosines, -nearest, axis=1)[:, -nearest:]
    finite = np.isfinite(cosines)
    counts, sums = finite.sum(axis=1), np.where(finite, cosines, 0.0).sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), -np.inf)


def mean_difference_scores(data: LabelledStates) -> Float[np.ndarray, "n"]:
    """Projection on the mean right minus the mean wrong state of the other problems, all centred within problem and control point."""
    states, labels = centred_within(data.states, data.strata), centred_within(data.right[:, None].astype(float), data.strata)[:, 0]
    by_problem = _sums(labels[:, None] * states, data.problems)
    return np.einsum("nd,nd->n", states, (by_problem.sum(axis=0) - by_problem)[data.problems])


def neighbour_scores(data: LabelledStates) -> Float[np.ndarray, "n"]:
    """Share of right ones among the nearest states of other problems at the same control point, by cosine after centring as above."""
    unit = centred_within(data.states, data.strata)
    unit = (unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), EPSILON)).astype(np.float32)
    scores = np.zeros(len(unit))
    for m in np.unique(data.ms):
        there = np.flatnonzero(data.ms == m)
        problems = data.problems[there]
        k = min(NEIGHBOURS, len(there) - int(np.bincount(problems).max()))  # every state has as many foreign ones
        if k:
            cosines = unit[there] @ unit[there].T
            cosines[problems[:, None] == problems] = -np.inf
            near = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
            scores[there] = data.right[there][near].mean(axis=1)
    return scores


def logistic_scores(data: LabelledStates) -> Float[np.ndarray, "n"]:
    """Log-odds of a logistic probe fitted to the other problems, on states centred within problem and control point, and standardised."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    states = centred_within(data.states, data.strata).astype(np.float32)
    scores, folds = np.zeros(len(states)), np.unique(data.problems, return_inverse=True)[1] % FOLDS
    for fold in np.unique(folds):
        others = folds != fold
        if len(np.unique(data.right[others])) == 2:
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=1000, tol=1e-3))
            scores[~others] = probe.fit(states[others], data.right[others]).decision_function(states[~others])
    return scores


def ordered_pairs(scores: Float[np.ndarray, "n"], data: LabelledStates) -> OrderedPairs:
    """Count the pairs that the scores order rightly, ties (within :data:`TIE`) half; states whose score is NaN are left out."""
    tie = TIE * float(np.nanstd(scores)) if np.isfinite(scores).any() else 0.0
    ordered, pairs = np.zeros(data.problems.max(initial=-1) + 1), np.zeros(data.problems.max(initial=-1) + 1, int)
    tied = True
    strata = data.strata
    order = np.argsort(strata, kind="stable")
    for own in np.split(order, np.flatnonzero(np.diff(strata[order])) + 1):
        own = own[~np.isnan(scores[own])]
        right, wrong = scores[own[data.right[own]]], scores[own[~data.right[own]]]
        if len(right) and len(wrong):
            gaps = right[:, None] - wrong
            ties = (np.abs(gaps) <= tie).sum()
            ordered[data.problems[own[0]]] += (gaps > tie).sum() + 0.5 * ties
            tied = tied and bool(ties == gaps.size)
            pairs[data.problems[own[0]]] += len(right) * len(wrong)
    return OrderedPairs(ordered[pairs > 0], pairs[pairs > 0], tied)


def separation(
    readout: str, scores: Float[np.ndarray, "n"], data: LabelledStates, *, layer: int | None, m: int | None = None, fitted: bool = True
) -> Separation:
    """The AUC of scores that should be higher for right rollouts, with its interval and the one-sided p-value of AUC <= 0.5.

    Wilson's interval (Wilson 1927) at the effective number of pairs, with problems as clusters (delete-one jackknife) and quantiles of
    Student's t. Where each problem is scored by the others, two problems share one comparison: with nothing to find, that doubles the
    variance, so it is doubled.

    A score that ties every pair, such as a constant, has no interval: it says nothing, and says it without a doubt.

    Args:
        fitted: whether the scores of a problem were made from other problems.
    """
    seen = ordered_pairs(scores, data)
    n, used = len(seen.pairs), int((~np.isnan(scores)).sum())
    place = {"readout": readout, "layer": layer, "m": m, "states": used, "problems": n, "pairs": int(seen.pairs.sum())}
    if not n:
        return Separation(**place)
    auc = float(seen.ordered.sum() / seen.pairs.sum())
    if n < FEWEST_PROBLEMS or seen.tied:
        return Separation(**place, auc=auc)
    without = (seen.ordered.sum() - seen.ordered) / (seen.pairs.sum() - seen.pairs)
    variance = jackknife(without) ** 2 * (2 if fitted else 1)
    effective = auc * (1 - auc) / variance if variance > 0 else n  # all problems agree: each counts once
    degrees = degrees_of_freedom(seen.pairs)
    quantile = float(stdtrit(degrees, 1 - LEVEL / 2))
    centre = (auc * effective + quantile**2 / 2) / (effective + quantile**2)
    half = quantile / (effective + quantile**2) * sqrt(effective * auc * (1 - auc) + quantile**2 / 4)
    p = float(stdtr(degrees, -(auc - 0.5) / (0.5 / sqrt(effective)))) if effective > 0 else 1.0
    return Separation(**place, auc=auc, low=max(0.0, min(auc, centre - half)), high=min(1.0, max(auc, centre + half)), p=p)


def _sums(rows: Float[np.ndarray, "n d"], groups: Int[np.ndarray, "n"]) -> Float[np.ndarray, "groups d"]:
    from scipy.sparse import csr_array

    return csr_array((np.ones(len(rows)), (groups, np.arange(len(rows))))) @ rows


def centred_within(rows: Float[np.ndarray, "n d"], groups: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n d"]:
    """Rows minus the mean row of their group, in float64."""
    rows = np.asarray(rows, np.float64)
    if not len(rows):
        return rows
    return rows - (_sums(rows, groups) / np.maximum(np.bincount(groups), 1)[:, None])[groups]


def read_layer(layer: int, data: LabelledStates, keys: Mapping[str, Keys]) -> tuple[list[Separation], list[Separation]]:
    """Every read-out over all control points, and at each of them (fitted to the states there).

    Args:
        data: states of problems and control points with both right and wrong rollouts.
        keys: by the name of their variant, as in :data:`KEYS`.
    """
    fitted = {DIFFERENCE: mean_difference_scores, LOGISTIC: logistic_scores}
    local = {NEIGHBOUR: neighbour_scores(data)}
    for variant, own in keys.items():
        for name, centred in ((f"{MARGIN}{variant}", False), (f"{MARGIN}{variant}, centred", True)):
            local[name] = np.full(len(data.states), np.nan)
            for m in np.unique(data.ms):
                at, there = data.ms == m, own.ms == m
                found = own.keys[there], own.problems[there], own.corrective[there]
                local[name][at] = -key_margins(*found, data.states[at], data.problems[at], centred=centred)
    pooled = [separation(name, score(data), data, layer=layer) for name, score in fitted.items()]
    pooled += [separation(name, scores, data, layer=layer) for name, scores in local.items()]
    cells: list[Separation] = []
    for m in np.unique(data.ms):
        at = data.ms == m
        part = data.only(at)
        cells += [separation(name, score(part), part, layer=layer, m=int(m)) for name, score in fitted.items()]
        cells += [separation(name, scores[at], part, layer=layer, m=int(m)) for name, scores in local.items()]
    return pooled, cells


def key_support(layer: int, data: LabelledStates, keys: Keys) -> KeySupport | None:
    """How many rollouts stand behind keys, and whether a key is the closer to foreign states the more there are; ``None``: no keys."""
    if not len(keys.keys):
        return None
    from scipy.stats import rankdata

    unit, units = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), EPSILON) for rows in (keys.keys, data.states))
    foreign = (keys.ms[:, None] == data.ms) & (keys.problems[:, None] != data.problems)
    counts = foreign.sum(axis=1)
    closeness, behind = ((foreign * (unit @ units.T)).sum(axis=1) / np.maximum(counts, 1))[counts > 0], keys.behind[counts > 0]
    varies = len(behind) > 2 and np.ptp(behind) > 0 and np.ptp(closeness) > 0
    corrective, null = (float(np.median(keys.behind[side])) for side in (keys.corrective, ~keys.corrective))
    rho = float(np.corrcoef(rankdata(behind), rankdata(closeness))[0, 1]) if varies else None
    return KeySupport(layer=layer, keys=len(unit), corrective=corrective, null=null, spearman=rho)


def corrected(pooled: list[Separation]) -> tuple[Separation, ...]:
    """The pooled read-outs with p-values corrected (Holm) for their number: all read-outs at all layers."""
    adjusted = holm({str(i): each.p for i, each in enumerate(pooled) if each.p is not None})
    return tuple(each.replaced(p_holm=adjusted.get(str(i))) for i, each in enumerate(pooled))


def conclude(pooled: tuple[Separation, ...]) -> tuple[ProbeOutcome, str]:
    """What the corrected read-outs over all control points show, in a word and in a sentence.

    Something is seen where the corrected p is below 0.05. The gate's key margin is called blind only where its interval lies below
    :data:`WORTH`; where it does not, the question stays open.
    """
    problems = max((each.problems for each in pooled), default=0)
    tested = sorted((each for each in pooled if each.p is not None), key=lambda each: each.p or 0.0)
    if not tested:
        found = f"{problems} problem{'s' * (problems != 1)} with right and wrong rollouts at a control point"
        return "cannot tell", f"Cannot tell: {found}, and an interval takes at least {FEWEST_PROBLEMS}."
    seen = [each for each in tested if each.p_holm is not None and each.p_holm < LEVEL]
    direction = _first(seen, DIFFERENCE)
    gates = [each for each in tested if each.readout == MARGIN and (direction is None or each.layer == direction.layer)]
    gate = f"the gate's {_shown(gates[0])}" if gates else "the gate, which has no keys here,"
    blind = all((each.high or 0.0) < WORTH for each in gates)
    margins = [each for each in seen if each.readout.startswith(MARGIN) and (direction is None or each.layer == direction.layer)]
    knowing = _first(margins, MARGIN)
    if direction is not None:
        text = f"A shared direction is seen at layer {direction.layer} ({_shown(direction)})"
        if knowing is not None:
            layers = [str(layer) for layer in sorted(each.layer or 0 for each in _of(seen, MARGIN)) if layer != direction.layer]
            more = f" The key margin tells right from wrong at layer {', '.join(layers)}, too." if layers else ""
            able = "steering by retrieval may work there, and `stir causal` tests it"
            return "shared direction", f"{text}, and {gate} sees it: {able}.{more}"
        other = f" (the {_shown(margins[0])} does)" if margins else ""
        end = "is not expected to use it" if blind else "may or may not use it"
        return "shared direction", f"{text}, but {gate} is not seen to follow it{other}: retrieval with these keys {end}."
    none = "No single direction shared between problems is seen" + "".join(f" ({_shown(each)})" for each in _of(tested, DIFFERENCE)[:1])
    if margins:
        each = knowing or margins[0]
        able = "retrieval may work there" if knowing else "retrieval may work with such keys, not with the keys as mined"
        text = f"{none}, but at layer {each.layer} the {_shown(each)} tells right from wrong"
        open_ = any((each.high or 0.0) >= WORTH for each in _of(tested, DIFFERENCE))
        static = "whether one static vector can stays open" if open_ else "one static vector is not expected to"
        return "retrieval only", f"{text}: {able}; {static}."
    if seen:
        text = f"Right and wrong are decodable at layer {seen[0].layer} ({_shown(seen[0])}), but {gate} does not see it"
        if blind:
            return "not in the keys", f"{text}: steering with this library is not expected to help."
        return "cannot tell", f"{text} here, and {problems} problems do not settle it: whether steering can help stays open."
    text = f"{none}; of {len(pooled)} read-outs the best is {_shown(tested[0])}, and {gate} does not tell right from wrong"
    if blind:
        return "none seen", f"{text}: steering with this library is not expected to help."
    return "cannot tell", f"{text} here, but {problems} problems do not exclude that one of them can: whether steering can help stays open."


def _shown(seen: Separation) -> str:
    """Name, AUC and interval as text."""
    interval = "" if seen.low is None or seen.high is None else f" [{seen.low:.2f}, {seen.high:.2f}]"
    return f"{seen.readout} AUC {'-' if seen.auc is None else f'{seen.auc:.2f}'}{interval}"


def shipped_probe(run: Run) -> Path | None:
    """The report that ships beside a run's results, since states are too large to; ``None``: there is none."""
    beside = run.path.with_name(f"{run.name}.probe.json")
    return beside if run.results_only and beside.is_file() else None


def probe_run(run: Run, layer: int | None = None) -> ProbeReport:
    """Read out a run's recorded states; of a run that ships as its results, the report of all layers that ships with it.

    Args:
        layer: only this harvested layer, named before looking; ``None``: all of them.

    Raises:
        ConfigError: the layer was not harvested.
        StoreError: rollouts or states have not finished, or, in a run from before pairs were kept, actions have not.
    """
    if layer is None and (shipped := shipped_probe(run)) is not None:
        return read_record(shipped, ProbeReport, "install the package anew")
    harvested = run.manifest("states").layers
    if layer is not None and layer not in harvested:
        raise ConfigError(f"layer {layer} was not harvested in run {run.name}: take one of {', '.join(map(str, harvested))}")
    rows, states = run.states()
    data, kept, numbers = mixed_states(run, rows)
    place = np.array([row.row for row in kept], int)
    pairs = mined_pairs(run)
    mined = {name: mine([with_behind(pair, number) for pair in pairs], rows, states, run.config.mining) for name, number in KEYS.items()}
    pooled: list[Separation] = []
    cells: list[Separation] = []
    support: list[KeySupport | None] = []
    for each in sorted(harvested) if layer is None else [layer]:
        here = data._replace(states=states[each][place].astype(np.float64))
        keys = {name: _keys_at(each, own, numbers) for name, own in mined.items()}
        over, at = read_layer(each, here, keys)
        pooled, cells = pooled + over, cells + at
        support.append(key_support(each, here, keys[""]))
    judged = corrected(pooled)
    outcome, verdict = conclude(judged)
    if outcome in ("shared direction", "retrieval only") and chosen_by_quality(run):
        most = run.config.mining.top_pairs
        verdict += (
            f" But only the {most} best pairs were mined, and these look better than all would: raise mining.top_pairs and look again."
        )
    return ProbeReport(
        run=run.name,
        states=len(place),
        problems=len(np.unique(data.problems)),
        mined=len(run.problems()),
        right=float(data.right.mean()) if len(place) else 0.0,
        pooled=judged,
        cells=tuple(cells),
        text=_rerolled(run, kept, data),
        support=tuple(each for each in support if each is not None),
        outcome=outcome,
        verdict=verdict,
    )


def chosen_by_quality(run: Run) -> bool:
    """Whether ``mining.top_pairs`` left pairs out.

    Quality prefers short right and long wrong rollouts, so problems in which length happens to go with correctness are chosen for it.
    Read-outs then tell right from wrong even where nothing is there (docs/calibration.md has the figures).
    """
    return len(run.pairs() or ()) >= run.config.mining.top_pairs


def mixed_states(run: Run, rows: Sequence[RowT]) -> tuple[LabelledStates, list[RowT], dict[str, int]]:
    """Labels of the recorded states at places with right and wrong rollouts of the same problem; the states themselves are left empty.

    Returns:
        The labels, their rows in the same order, and the number of each problem.
    """
    right = {(rollout.problem_id, rollout.k): rollout.verdict.correct for rollout in run.rollouts()}
    numbers = {problem_id: i for i, problem_id in enumerate(dict.fromkeys(row.problem_id for row in rows))}
    sampled = [row for row in rows if isinstance(row, StepState) or row.source == "rollout"]
    columns = [(numbers[row.problem_id], row.m, right[row.problem_id, row.k]) for row in sampled]
    problems, ms, ended = np.array(columns, int).reshape(-1, 3).T
    every = LabelledStates(problems, ms, ended.astype(bool), np.empty((len(sampled), 0)))
    share = _sums(ended[:, None].astype(float), every.strata)[:, 0] / np.bincount(every.strata) if sampled else np.empty(0)
    mixed = ((share > 0) & (share < 1))[every.strata]
    return every.only(mixed), [row for row, is_mixed in zip(sampled, mixed, strict=True) if is_mixed], numbers


def margin_thresholds(run: Run, library: Library) -> list[MarginThreshold]:
    """Where a library's key margin tells wrong from right rollouts of other problems.

    A place has a threshold where chance is excluded (p below 0.05 after Holm's correction for the number of places, so that a run in which
    nothing is there is steered anywhere in at most one of twenty). It is 0: the nearest keys are corrective ones.
    """
    rows, states = run.states()
    data, kept, numbers = mixed_states(run, rows)
    place, space = np.array([row.row for row in kept], int), run.key_space()
    keys = apply_space(space, library.keys, [(entry.m, entry.layer) for entry in library.entries])
    measured: dict[Place, Separation] = {}
    for m, layer in sorted({(entry.m, entry.layer) for entry in library.entries if entry.reachable}):
        there = [i for i, entry in enumerate(library.entries) if (entry.m, entry.layer) == (m, layer)]
        own = [library.entries[i] for i in there]
        problems, kinds = np.array([numbers[e.problem_id] for e in own]), np.array([e.kind == "corrective" for e in own])
        at = data.only(data.ms == m)
        here = space.apply((m, layer), states[layer][place[data.ms == m]].astype(np.float64))
        margins = key_margins(keys[there], problems, kinds, here, at.problems, nearest=NEIGHBOURS)
        measured[m, layer] = separation(MARGIN, -margins, at, layer=layer, m=m)
    corrected_p = holm({place: seen.p for place, seen in measured.items() if seen.p is not None})
    return [
        MarginThreshold(
            m=m,
            layer=layer,
            states=seen.states,
            problems=seen.problems,
            auc=seen.auc,
            low=seen.low,
            high=seen.high,
            p_holm=corrected_p.get((m, layer)),
            nearest=NEIGHBOURS,
            threshold=0.0 if corrected_p.get((m, layer), 1.0) < LEVEL else None,
        )
        for (m, layer), seen in measured.items()
    ]


def mined_pairs(run: Run) -> list[Pair]:
    """The pairs that were mined; of a run from before they were kept, those behind its entries."""
    pairs = run.pairs()
    if pairs is not None:
        return pairs
    by_place = {(entry.problem_id, entry.m): entry for entry in run.entries()}
    return [
        Pair(
            problem_id=entry.problem_id,
            m=entry.m,
            positives=() if entry.pos_source == "gold" else entry.positives,
            negatives=entry.negatives,
            reward_pos=entry.reward_pos,
            reward_neg=entry.reward_neg,
            gold=entry.pos_source == "gold",
        )
        for entry in by_place.values()
    ]


def with_behind(pair: Pair, number: int | None) -> Pair:
    """The pair with another number of rollouts on each side (see :data:`KEYS`), best first."""
    if number is None:
        return pair
    number = number or min(1 if pair.gold else len(pair.positives), len(pair.negatives))
    return pair.replaced(positives=pair.positives[:number], negatives=pair.negatives[:number])


def _keys_at(layer: int, mined: Mined, numbers: Mapping[str, int]) -> Keys:
    entries = [entry for entry in mined.entries if entry.layer == layer]
    columns = [
        (numbers[e.problem_id], e.m, e.kind == "corrective", len(e.negatives if e.kind == "corrective" else e.positives) or 1)
        for e in entries
    ]
    problems, ms, corrective, behind = np.array(columns, int).reshape(-1, 4).T
    return Keys(mined.keys[[entry.key_row for entry in entries]].astype(np.float64), problems, ms, corrective.astype(bool), behind)


def _rerolled(run: Run, rows: list[StateRow], data: LabelledStates) -> Separation | None:
    """The outcome of a rollout, told from how often the same prefix ends right when it is sampled again; ``None``: not measured."""
    if not run.finished("actions") or not run.has("actions", "continuations.jsonl"):
        return None
    rolled: dict[tuple[str, int, int], list[bool]] = {}
    for each in read_records(run.file("actions", "continuations.jsonl"), Continuation):
        if each.source == "rollout":
            rolled.setdefault((each.problem_id, each.k, each.m), []).append(each.verdict.correct)
    shares = [float(np.mean(rolled.get((row.problem_id, row.k, row.m), np.nan))) for row in rows]
    return separation(TEXT, np.array(shares, float), data, layer=None, fitted=False)


def _of(separations: list[Separation], readout: str) -> list[Separation]:
    return [each for each in separations if each.readout == readout]


def _first(separations: list[Separation], readout: str) -> Separation | None:
    return next(iter(_of(separations, readout)), None)
