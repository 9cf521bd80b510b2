"""A codebook of a run's steps: fitted on train problems, judged on the others, and turned into entries of a library. Runs no model."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from stir_core.basis.codebook import (
    Assign,
    Whitening,
    by_centroid,
    error_share,
    fit_kmeans,
    fit_pca,
    fit_quantiser,
    fit_whitening,
    fit_windows,
    fsq_levels,
    givers,
    member_means,
    merged,
    perplexity,
    read_as,
)
from stir_core.config import CodesConfig
from stir_core.errors import ConfigError, DataError
from stir_core.evaluate.statistics import jackknife_interval
from stir_core.findings import Advantage, Code, CodebookReport, CodeFit, CodeInformation, Estimate, LayerCodes
from stir_core.harvest.actions import Mined
from stir_core.organisms.rungs import read_steps
from stir_core.records import Entry, EntryKind, Rollout, StepState
from stir_core.seeding import generator_for
from stir_core.store.runs import Run
from stir_core.tasks.chain import chain_of

SIZES = (4, 8, 16, 32, 64, 128)
"""Numbers of codes of the rate-distortion curve."""
TRAIN = 0.75
"""Share of the problems that a codebook is fitted on."""
STEPS_A_CODE = 20
"""Train steps that each code needs."""
KEPT_BELOW = 0.9
"""A two-layer encoder is kept if its held-out error is below this share of that of k-means (of the plain quantiser for rvq)."""
EXCHANGES = 100
"""Random exchanges of codes between problems behind the null of the mutual information."""
FEWEST_PROBLEMS = 3
"""Problems that an entry's vector is a mean over."""
_OPERATOR = re.compile(r"\d\s*([-+*/×÷−])\s*\d")


class CodedLayer(NamedTuple):
    """The codebook of one layer with its arrays."""

    report: LayerCodes
    codes: Int[np.ndarray, "steps"]
    """The code of every step."""
    means: Float[np.ndarray, "size r"]
    """Mean whitened member of each code."""
    whitening: Whitening


class CodedSteps(NamedTuple):
    """The steps of a run (``m >= 1``) with what is known of each."""

    rows: list[StepState]
    before: Int[np.ndarray, "n"]
    """Row of the state at the beginning of each step."""
    at: Int[np.ndarray, "n"]
    """Row of the state at its end."""
    ms: Int[np.ndarray, "n"]
    answers: Int[np.ndarray, "n"]
    train: Bool[np.ndarray, "n"]
    right: Bool[np.ndarray, "n"]
    lengths: Int[np.ndarray, "n"]

    @property
    def problems(self) -> list[str]:
        """The problem of each step."""
        return [row.problem_id for row in self.rows]

    @property
    def numbers(self) -> Int[np.ndarray, "n"]:
        """The same as numbers."""
        return np.unique(self.problems, return_inverse=True)[1]


def coded_steps(rows: Sequence[StepState], rollouts: Sequence[Rollout], seed: int) -> CodedSteps:
    """The steps, split into train and held-out problems by the run's seed."""
    right = {(each.problem_id, each.k): each.verdict.correct for each in rollouts}
    problems = sorted({row.problem_id for row in rows})
    order = generator_for(seed, "codes", "split").permutation(len(problems))
    train = {problems[i] for i in order[: max(1, round(TRAIN * len(problems)))]}
    steps = [row for row in rows if row.m]
    answers = {key: i for i, key in enumerate(dict.fromkeys((row.problem_id, row.k) for row in steps))}
    at = np.array([row.row for row in steps], int)
    return CodedSteps(
        steps,
        at - 1,  # rows of one rollout follow one another
        at,
        np.array([row.m for row in steps], int),
        np.array([answers[row.problem_id, row.k] for row in steps], int),
        np.array([row.problem_id in train for row in steps], bool),
        np.array([right[row.problem_id, row.k] for row in steps], bool),
        np.array([row.n_tokens for row in steps], int),
    )


def labels_of(run: Run, table: CodedSteps) -> dict[str, tuple[np.ndarray, Bool[np.ndarray, "n"]]]:
    """Everything known of each step, as labels by name, with the steps that have one."""
    every = np.ones(len(table.rows), bool)
    quartiles = np.quantile(table.lengths[table.train], (0.25, 0.5, 0.75))
    known = {
        "control point": (table.ms.astype(str), every),
        "length": (np.searchsorted(quartiles, table.lengths).astype(str), every),
        "correctness": (table.right.astype(str), every),
    }
    if not run.is_organism:
        found = [_OPERATOR.search(row.text) for row in table.rows]
        return known | {"operator": (np.array([each[1] if each else "" for each in found]), np.array([each is not None for each in found]))}
    chains = {problem.id: chain_of(problem.question) for problem in run.problems()}
    steps = [read_steps(chains[row.problem_id], [row.text])[0] for row in table.rows]
    habits = np.array([step.habit if step else "" for step in steps])
    kinds = np.array([chains[row.problem_id].kind for row in table.rows])
    read = habits != ""
    return known | {"habit": (habits, read), "kind": (kinds, read), "habit and kind": (np.char.add(habits, kinds), read)}


def fit_codes(run: Run, settings: CodesConfig, rows: list[StepState], tensors: Mapping[str, np.ndarray]) -> dict[int, CodedLayer]:
    """The codebook of every harvested layer.

    Args:
        rows: the steps stage's.
        tensors: its tensors, ``layer_17: [n, d_model]``.

    Raises:
        DataError: fewer than two problems with a step.
        ConfigError: more codes than the steps allow.
    """
    table = table_for(run, settings, rows)
    labels = labels_of(run, table)
    layers = sorted(int(name.removeprefix("layer_")) for name in tensors if name.startswith("layer_"))
    return {layer: _fit_layer(layer, settings, table, labels, tensors, run.config.seed) for layer in layers}


def table_for(run: Run, settings: CodesConfig, rows: list[StepState]) -> CodedSteps:
    """The steps that a codebook is fitted to and judged on, if they are enough for it.

    Raises:
        DataError: fewer than two problems with a step.
        ConfigError: more codes than the steps allow.
    """
    table = coded_steps(rows, run.rollouts(), run.config.seed)
    if not table.rows or table.train.all():
        raise DataError(f"run {run.name} has steps of fewer than two problems: a codebook is judged on problems that it was not fitted on")
    most = int(table.train.sum()) // STEPS_A_CODE
    if settings.size > most:
        few = int(table.train.sum())
        raise ConfigError(
            f"size {settings.size} is too many codes for {few} train steps: give at most {most}, one for {STEPS_A_CODE} steps"
        )
    return table


class _Data(NamedTuple):
    rows: Float[np.ndarray, "n r"]
    windows: Float[np.ndarray, "n tr"] | None
    whitening: Whitening

    def fit(self, kind: str, size: int, seed: int, which: Bool[np.ndarray, "n"], hidden: int = 0) -> Assign:
        """A codebook fitted to some rows; like the rows, it takes windows where there are any."""
        if kind == "kmeans":
            return fit_kmeans(self.rows[which], size, seed)
        if self.windows is None:
            return fit_quantiser(kind, self.rows[which], size, seed, hidden=hidden)
        width = self.rows.shape[1]
        return fit_windows(kind, self.windows[which].reshape(which.sum(), -1, width), self.rows[which], size, seed)

    def given(self, kind: str) -> np.ndarray:
        return self.rows if kind == "kmeans" or self.windows is None else self.windows


def _data_of(encoder: str, layer: int, table: CodedSteps, tensors: Mapping[str, np.ndarray]) -> _Data:
    states = tensors[f"layer_{layer}"].astype(np.float64)
    raw, windows = states[table.at], None
    if encoder == "delta":
        raw = raw - states[table.before]
    elif encoder == "window":
        windows = tensors[f"window_{layer}"].reshape(len(states), -1, states.shape[1])[table.at].astype(np.float64)
        held = (windows != 0).any(axis=2, keepdims=True)
        raw = windows.sum(axis=1) / np.maximum(held.sum(axis=1), 1)
    whitening = fit_whitening(raw[table.train], table.ms[table.train])
    rows = whitening.apply(raw, table.ms)
    if windows is None:
        return _Data(rows, None, whitening)
    each = whitening.apply(windows.reshape(-1, states.shape[1]), np.repeat(table.ms, windows.shape[1]))
    return _Data(rows, np.where(held, each.reshape(*windows.shape[:2], -1), 0.0).reshape(len(rows), -1), whitening)


def _fit_layer(
    layer: int,
    settings: CodesConfig,
    table: CodedSteps,
    labels: Mapping[str, tuple[np.ndarray, np.ndarray]],
    tensors: Mapping[str, np.ndarray],
    seed: int,
) -> CodedLayer:
    kind, size, train = settings.kind, settings.size, table.train
    data = _data_of(settings.encoder, layer, table, tensors)
    given = data.given(kind)
    plain = data.fit("kmeans", size, seed, train)
    chosen, hidden, tried = data.fit(kind, size, seed, train), 0, []
    if kind != "kmeans" and data.windows is None:
        deep = data.fit(kind, size, seed, train, hidden=64)
        equal = chosen if kind == "rvq" else plain  # two levels describe more than as many codes of k-means
        errors = [error_share(data.rows[~train], each(data.rows[~train])[1]) for each in (deep, equal)]
        tried = [_fit_of(f"{kind}, two-layer encoder", size, deep, data.rows, data.rows, table)]
        if errors[0] < KEPT_BELOW * errors[1]:
            chosen, hidden = deep, 64
    codes = chosen(given)[0]
    # a scalar quantiser has as many codes as its levels multiply to
    number = int(np.prod(fsq_levels(size))) if kind == "fsq" else size
    means = member_means(data.rows[train], codes[train], number)
    first = _fit_of(f"{kind}{', two-layer encoder' if hidden else ''}", number, chosen, given, data.rows, table)
    rng = generator_for(seed, "codes", "controls")
    random = rng.standard_normal(means.shape)
    random *= np.linalg.norm(means, axis=1, keepdims=True) / np.linalg.norm(random, axis=1, keepdims=True)
    shuffled = rng.permutation(codes[~train])
    fits = [first, *([] if hidden else tried)]
    if kind != "kmeans":
        fits.append(_fit_of("kmeans", size, plain, data.rows, data.rows, table))
    bits = max(1, round(np.log2(number)))
    held = data.rows[~train]
    fits.append(
        CodeFit(method="pca", size=number, perplexity=None, dead=None, **_error(held, fit_pca(data.rows[train], bits)(held), table))
    )
    fits.append(_fit_of("random vectors", number, by_centroid(random), data.rows, data.rows, table))
    fits.append(first.replaced(method="shuffled codes", **_error(held, means[shuffled], table)))
    possible = [each for each in SIZES if each <= int(train.sum()) // STEPS_A_CODE]
    rate = [
        _fit_of(method, each, data.fit(method, each, seed, train, hidden * (method == kind)), data.given(method), data.rows, table)
        for method in dict.fromkeys((kind, "kmeans"))
        for each in possible
    ]
    home, merged_error = merged(data.rows[train], codes[train], data.rows[~train], number)
    # a label with one value is read from any codes
    varied = {name: each for name, each in labels.items() if len(np.unique(each[0][each[1] & ~train])) > 1}
    between, within = _exchanges(table, seed)
    information = tuple(
        _information(name, *each, codes, table, within if name == "control point" else between, seed) for name, each in varied.items()
    )
    report = LayerCodes(
        layer=layer,
        fits=tuple(fits),
        rate=tuple(rate),
        seeds=_agreement(codes[~train], data.fit(kind, size, seed + 1, train, hidden)(given[~train])[0]),
        halves=_halves(data, kind, size, hidden, table, seed),
        information=information,
        flag=_flag(information),
        codes=tuple(_code(code, int(home[code]), codes, table, data.rows, means) for code in range(number) if (codes == code).any()),
        merged=len(np.unique(home[np.unique(codes[train])])),
        merged_error=merged_error,
        entries=0,
    )
    return CodedLayer(report, codes, means, data.whitening)


def _fit_of(method: str, size: int, assign: Assign, given: np.ndarray, rows: np.ndarray, table: CodedSteps) -> CodeFit:
    codes, described = assign(given)
    held, counts = ~table.train, np.bincount(codes[table.train], minlength=size)
    found, dead = _error(rows[held], described[held], table), int((counts[:size] == 0).sum())
    return CodeFit(method=method, size=size, perplexity=perplexity(codes[held]), dead=dead, **found)


def _error(held: np.ndarray, described: np.ndarray, table: CodedSteps) -> dict[str, Any]:
    """The error of held-out rows as a share of their variance, and the same with its interval over their problems."""
    estimate = _over_problems(lambda kept: error_share(held[kept], described[kept]), table.numbers[~table.train])
    return {"error": estimate.value, "estimate": estimate}


def _agreement(ours: np.ndarray, theirs: np.ndarray) -> float:
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(ours, theirs))


def _halves(data: _Data, kind: str, size: int, hidden: int, table: CodedSteps, seed: int) -> float:
    problems = sorted({problem for problem, train in zip(table.problems, table.train, strict=True) if train})
    half = set(generator_for(seed, "codes", "halves").permutation(problems)[: len(problems) // 2].tolist())
    inside = np.array([problem in half for problem in table.problems], bool)
    sides = [side & table.train for side in (inside, ~inside)]
    if min(side.sum() for side in sides) < max(size, 2):
        return 0.0
    given = data.given(kind)
    first, second = (data.fit(kind, size, seed, side, hidden)(given[~table.train])[0] for side in sides)
    return _agreement(first, second)


def _exchanges(table: CodedSteps, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Orders of the held-out steps: whole problems exchange their codes, and the steps of each answer do."""
    held = ~table.train
    answers = table.answers[held]
    rng = generator_for(seed, "codes", "control point")
    between = [givers(table.ms[held], answers, table.numbers[held], seed + i) for i in range(EXCHANGES)]
    home = np.argsort(np.argsort(answers, kind="stable"), kind="stable")
    return between, [np.lexsort((rng.random(len(answers)), answers))[home] for _ in range(EXCHANGES)]


def _information(
    name: str, labels: np.ndarray, known: np.ndarray, codes: np.ndarray, table: CodedSteps, orders: Sequence[np.ndarray], seed: int
) -> CodeInformation:
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

    held, train = known & ~table.train, known & table.train
    ours, theirs, problems = codes[held], labels[held], table.numbers[held]
    rng = generator_for(seed, "codes", name)
    told, every = known[~table.train], codes[~table.train]
    null = [adjusted_mutual_info_score(theirs, every[order][told]) for order in orders]
    figures: dict[str, Callable[[np.ndarray], float]] = {
        "information": lambda kept: float(adjusted_mutual_info_score(theirs[kept], ours[kept])),
        "ari": lambda kept: float(adjusted_rand_score(theirs[kept], ours[kept])),
        "read_as": lambda kept: read_as(codes[train], labels[train], ours[kept], theirs[kept]) if train.any() else 0.0,
    }
    estimates = {figure: _over_problems(of, problems, most=1.0) for figure, of in figures.items()}
    return CodeInformation(
        about=name,
        steps=int(held.sum()),
        problems=len(np.unique(problems)),
        null=float(np.quantile(null, 0.95)),
        **{figure: each.value for figure, each in estimates.items()},
        shuffled=read_as(rng.permutation(codes[train]), labels[train], rng.permutation(ours), theirs) if train.any() else 0.0,
        estimates=estimates,
    )


def _over_problems(figure: Callable[[np.ndarray], float], problems: Int[np.ndarray, "n"], most: float = np.inf) -> Estimate:
    """A figure of some rows, given as a mask and at most ``most``, with its interval over the problems of all rows."""
    names, sizes = np.unique(problems, return_counts=True)
    left_out = [figure(problems != name) for name in names] if len(names) > 1 else []
    found = jackknife_interval(figure(np.ones(len(problems), bool)), np.array(left_out), sizes)
    return found if found.high is None else found.replaced(high=min(found.high, most))


def _flag(information: Sequence[CodeInformation]) -> str | None:
    """Whether position or length is told, and better than anything else."""
    told = {each.about: each.information for each in information if each.information > each.null}
    nuisance = max((name for name in ("control point", "length") if name in told), key=lambda name: told[name], default=None)
    others = max((value for name, value in told.items() if name not in ("control point", "length")), default=0.0)
    if nuisance is None or told[nuisance] <= others:
        return None
    return f"the codes tell {nuisance} (adjusted mutual information {told[nuisance]:.2f}) better than anything else ({others:.2f})"


def _code(code: int, home: int, codes: np.ndarray, table: CodedSteps, rows: np.ndarray, means: np.ndarray) -> Code:
    members = np.flatnonzero(codes == code)
    near = members[np.argsort(((rows[members] - means[code]) ** 2).sum(axis=1), kind="stable")]
    points = {str(m): int((table.ms[members] == m).sum()) for m in np.unique(table.ms[members])}
    flags: list[Literal["position", "length"]] = []
    top = max(points, key=lambda m: points[m])
    if points[top] >= 0.9 * len(members) and (table.ms == int(top)).mean() < 0.5:
        flags.append("position")
    rest = table.lengths[codes != code]
    if len(rest):
        below = np.searchsorted(np.sort(rest), table.lengths[members], "left") + np.searchsorted(
            np.sort(rest), table.lengths[members], "right"
        )
        if abs(float(below.mean()) / (2 * len(rest)) - 0.5) >= 0.4:  # the AUC of length
            flags.append("length")
    return Code(
        code=code,
        merged=home,
        members=len(members),
        points=points,
        right=float(table.right[members].mean()),
        tokens=float(np.median(table.lengths[members])),
        exemplars=tuple(dict.fromkeys(table.rows[i].text.strip() for i in near)).__getitem__(slice(5)),
        flags=tuple(flags),
    )


class Coder(NamedTuple):
    """Codes of states that are not the run's own: each gets the code whose mean member is nearest, which for k-means is its codebook."""

    encoder: str
    layers: dict[int, tuple[Whitening, Int[np.ndarray, "alive"], Float[np.ndarray, "alive r"]]]
    """By layer: the whitening, the codes with a member, and their mean members."""

    def codes(self, states: Mapping[int, Float[np.ndarray, "steps d"]]) -> dict[int, list[int]]:
        """By layer, the codes of an answer's finished steps; ``states``: at the end of the prompt and of each of these steps, raw."""
        found = {}
        for layer, (whitening, alive, means) in self.layers.items():
            raw = states[layer].astype(np.float64)
            raw = np.diff(raw, axis=0) if self.encoder == "delta" else raw[1:]
            found[layer] = alive[by_centroid(means)(whitening.apply(raw, np.arange(1, len(raw) + 1)))[0]].tolist()
        return found


def coder_of(run: Run) -> Coder | None:
    """The coder of a run's codebook; ``None`` where it codes windows of states, which only the trained reader can.

    Raises:
        StoreError: the run has no codebook, or the states of its steps are missing.
    """
    report = run.codebook()
    if report.encoder == "window":
        return None
    rows, tensors = run.steps()
    table, arrays = coded_steps(rows, run.rollouts(), run.config.seed), run.step_codes()
    layers = {}
    for layer in (each.layer for each in report.layers):
        alive = np.unique(arrays[f"codes_{layer}"][table.at])
        layers[layer] = _data_of(report.encoder, layer, table, tensors).whitening, alive, arrays[f"means_{layer}"][alive]
    return Coder(report.encoder, layers)


def code_entries(
    run: Run, rows: list[StepState], states: Mapping[int, np.ndarray], coded: Mapping[int, np.ndarray], advantages: Mapping[str, Advantage]
) -> Mined:
    """The codes as entries of a library, at every control point, layer and code with wrong answers of :data:`FEWEST_PROBLEMS` problems.

    The vector of a code is the mean, over problems, of the mean state of the problem's right rollouts there minus that of its wrong
    rollouts that have the code; its norm is the median of theirs. So problems, and with them the kind of problem, are compared with
    themselves. Corrective keys are the mean state of the code's wrong members, null keys that of its right ones.

    Args:
        states: at every row, by layer.
        coded: the code of every step, by layer.
        advantages: measured advantages of mined actions. Where there are some, the quality of a code's entries is the mean of those whose
            wrong rollouts are its members, and codes without a positive one are left out. Else it is a proxy: the share of wrong
            answers among the members for a corrective entry, and that of right ones for a null entry.
    """
    table = coded_steps(rows, run.rollouts(), run.config.seed)
    problems = np.array(table.problems)
    entries: list[Entry] = []
    keys: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    pairs = 0
    for layer, codes in sorted(coded.items()):
        measured = _measured(run, layer, table, codes, advantages)
        here = states[layer][table.at].astype(np.float64)
        for m, code in ((m, code) for m in range(1, run.config.mining.control_points + 1) for code in np.unique(codes)):
            at, quality = table.ms == m, measured.get((m, int(code)))
            wrong, good = at & (codes == code) & ~table.right, at & (codes == code) & table.right
            both = [each for each in dict.fromkeys(problems[wrong].tolist()) if (at & table.right & (problems == each)).any()]
            if len(both) < FEWEST_PROBLEMS or (advantages and (quality is None or quality <= 0)):
                continue
            moves = np.stack(
                [here[at & table.right & (problems == each)].mean(axis=0) - here[wrong & (problems == each)].mean(axis=0) for each in both]
            )
            mean = moves.mean(axis=0)
            norm = float(np.median(np.linalg.norm(moves, axis=1)))
            if norm == 0 or not np.linalg.norm(mean):
                continue
            share = float(wrong.sum() / (wrong.sum() + good.sum()))
            sides: list[tuple[EntryKind, np.ndarray, float]] = [("corrective", wrong, share), ("null", good, 1 - share)]
            for kind, members, proxy in sides:
                if not members.any():
                    continue
                key = here[members].mean(axis=0)
                corrective = kind == "corrective"
                entries.append(
                    Entry(
                        id=f"c{layer}.{m}.{code}{kind[0]}",
                        kind=kind,
                        pair=pairs,
                        problem_id=both[0],
                        m=m,
                        layer=layer,
                        quality=proxy if quality is None else quality,
                        reward_pos=1 - share,
                        reward_neg=share,
                        positives=(),
                        negatives=(),
                        key_row=len(keys),
                        action_row=len(actions) if corrective else None,
                        key_norm=float(np.linalg.norm(key)),
                        action_norm=norm if corrective else None,
                        reachable=m < run.config.mining.control_points,
                    )
                )
                keys.append(key)
                if corrective:
                    actions.append(mean * norm / np.linalg.norm(mean))
            pairs += 1
    width = next(iter(states.values())).shape[1]
    return Mined(entries, np.array(keys, np.float32).reshape(-1, width), np.array(actions, np.float32).reshape(-1, width), [])


def actions_of_codes(
    entries: Iterable[Entry], layer: int, rows: Sequence[StepState], codes: Sequence[int] | Int[np.ndarray, "n"]
) -> dict[tuple[int, int], list[str]]:
    """Mined actions of a layer by control point and code: an action's id once for each of its wrong rollouts whose step there has the code.

    Args:
        codes: of each of the rows.
    """
    code_at = {(row.problem_id, row.k, row.m): int(code) for row, code in zip(rows, codes, strict=True) if row.m}
    found: dict[tuple[int, int], list[str]] = {}
    for entry in entries:
        if entry.layer == layer and entry.kind == "corrective":
            for k in entry.negatives:
                if (code := code_at.get((entry.problem_id, k, entry.m))) is not None:
                    found.setdefault((entry.m, code), []).append(entry.id)
    return found


def _measured(
    run: Run, layer: int, table: CodedSteps, codes: np.ndarray, advantages: Mapping[str, Advantage]
) -> dict[tuple[int, int], float]:
    """Mean measured advantage by control point and code."""
    if not advantages:
        return {}
    found = actions_of_codes((each for each in run.entries() if each.id in advantages), layer, table.rows, codes)
    return {key: float(np.mean([advantages[name].value for name in names])) for key, names in found.items()}


def codebook_report(
    run: Run, settings: CodesConfig, rows: list[StepState], found: Mapping[int, CodedLayer], library: Mined
) -> CodebookReport:
    """The report of a finished codebook."""
    table = coded_steps(rows, run.rollouts(), run.config.seed)
    notes = []
    for layer, each in found.items():
        if (flag := each.report.flag) is not None:
            notes.append(f"layer {layer}: {flag}")
        if settings.kind != "kmeans" and settings.encoder != "window" and "two-layer" not in each.report.fits[0].method:
            than = "the plain one" if settings.kind == "rvq" else "k-means"
            notes.append(f"layer {layer}: the two-layer encoder is dropped, its held-out error is not 10 % below that of {than}")
    kinds = [entry.layer for entry in library.entries if entry.kind == "corrective"]
    return CodebookReport(
        run=run.name,
        kind=settings.kind,
        size=settings.size,
        encoder=settings.encoder,
        steps=len(table.rows),
        problems=len(set(table.problems)),
        held_out=len({problem for problem, train in zip(table.problems, table.train, strict=True) if not train}),
        quality="measured" if run.advantages() else "share",
        layers=tuple(each.report.replaced(entries=kinds.count(layer)) for layer, each in found.items()),
        notes=tuple(notes),
    )
