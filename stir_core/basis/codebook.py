"""A codebook of steps: whiten what a step did to the residual stream, quantise it, and measure what the codes keep. Arrays in, numbers out.

Sources: VQ 1711.00937, revival of dead codes 2005.00341, residual VQ 2107.03312, FSQ 2309.15505; the quantisers are those of
``vector-quantize-pytorch``, k-means is scikit-learn's.
"""

from collections.abc import Callable
from itertools import combinations_with_replacement
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from torch import Tensor

COMPONENTS = 32
"""Principal components that are kept."""
SHRINKAGE = 0.1
"""Weight of the mean variance in the variance that a component is divided by."""
EACH_MERGE, ALL_MERGES = 0.01, 0.05
"""Largest relative growth of the held-out error by one merge of two codes, and by all."""
WARM_STEPS, STEPS, BATCH, LEARNING_RATE = 300, 300, 512, 3e-3
"""Training of the quantisers: steps without one, steps with it, rows a step, Adam."""
FEWEST_AT_POINT = 5
"""Train steps that a control point needs for a centre of its own."""

Assign = Callable[[Float[np.ndarray, "n before"]], tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n r"]]]
"""Codes of some rows, and the rows as the codes describe them."""


class Whitening(NamedTuple):
    """The map from a raw residual vector to whitened components."""

    centres: dict[int, Float[np.ndarray, "d"]]
    """Mean of the train rows at each control point."""
    centre: Float[np.ndarray, "d"]
    """Mean of all train rows, for control points with too few."""
    axes: Float[np.ndarray, "d r"]
    scales: Float[np.ndarray, "r"]

    def apply(self, rows: Float[np.ndarray, "n d"], ms: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n r"]:
        """Whitened components of raw rows at their control points."""
        centres = np.stack([self.centres.get(int(m), self.centre) for m in ms]) if len(ms) else np.zeros_like(rows)
        return (rows - centres) @ self.axes / self.scales


def fit_whitening(rows: Float[np.ndarray, "n d"], ms: Int[np.ndarray, "n"]) -> Whitening:
    """Centre per control point, principal components, and their scales with shrinkage; rows of train problems only."""
    rows = rows.astype(np.float64)
    centre = rows.mean(axis=0)
    centres = {int(m): rows[ms == m].mean(axis=0) for m in np.unique(ms) if (ms == m).sum() >= FEWEST_AT_POINT}
    plain = Whitening(centres, centre, np.eye(rows.shape[1]), np.ones(rows.shape[1])).apply(rows, ms)
    _, singular, axes = np.linalg.svd(plain, full_matrices=False)
    r = min(COMPONENTS, len(singular))
    variances = singular[:r] ** 2 / max(1, len(rows))
    return Whitening(centres, centre, axes[:r].T, np.sqrt((1 - SHRINKAGE) * variances + SHRINKAGE * variances.mean()) + 1e-12)


def fit_kmeans(rows: Float[np.ndarray, "n r"], size: int, seed: int) -> Assign:
    """K-means, best of four starts."""
    from sklearn.cluster import KMeans

    starts: Any = 4  # the stubs know only the text "auto"
    centroids = KMeans(size, n_init=starts, random_state=seed).fit(rows).cluster_centers_
    return by_centroid(centroids)


def by_centroid(centroids: Float[np.ndarray, "k r"]) -> Assign:
    """Each row gets its nearest centroid."""

    def assign(rows: Float[np.ndarray, "n r"]) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n r"]]:
        distances = (centroids**2).sum(axis=1) - 2 * rows @ centroids.T
        codes = distances.argmin(axis=1)
        return codes, centroids[codes]

    return assign


def fit_pca(rows: Float[np.ndarray, "n r"], components: int) -> Callable[[np.ndarray], np.ndarray]:
    """Rows as their first components describe them; fitted again, since shrinkage leaves whitened rows with unequal variances."""
    mean = rows.mean(axis=0)
    _, _, axes = np.linalg.svd(rows - mean, full_matrices=False)
    kept = axes[:components]
    return lambda given: mean + (given - mean) @ kept.T @ kept


def fsq_levels(size: int) -> tuple[int, ...]:
    """At most three numbers of levels, each at least 3 if ``size`` allows it, with the largest product that is at most ``size``."""
    each = range(3, 12) if size > 2 else range(2, 3)
    choices = [levels for n in (1, 2, 3) for levels in combinations_with_replacement(each, n) if prod(levels) <= size]
    return max(choices, key=lambda levels: (prod(levels), len(levels), -max(levels)))[::-1]


def fit_quantiser(kind: str, rows: Float[np.ndarray, "n r"], size: int, seed: int, *, hidden: int = 0) -> Assign:
    """A quantiser of ``vector-quantize-pytorch``: EMA, k-means start, revival of dead codes (FSQ has no codebook that could die).

    Args:
        hidden: width of a two-layer encoder and decoder around it; 0: none, the whitened components are quantised.
    """
    import torch

    r = rows.shape[1]
    inner = min(16, r) if hidden else r
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _trained(kind, _layers(r, hidden, inner), _layers(inner, hidden, r), inner, size, rows, rows)


def fit_windows(kind: str, windows: Float[np.ndarray, "n t r"], targets: Float[np.ndarray, "n r"], size: int, seed: int) -> Assign:
    """A one-layer GRU over the whitened states of each step, quantised; decodes the mean of the window.

    The function that it returns takes windows flattened to ``[n, t * r]``.
    """
    import torch
    from torch import nn

    n, t, r = windows.shape

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.GRU(r, 16, batch_first=True)

        def forward(self, rows: "Tensor") -> "Tensor":
            return self.inner(rows.reshape(-1, t, r))[0][:, -1]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _trained(kind, Reader(), nn.Linear(16, r), 16, size, windows.reshape(n, -1), targets)


def _trained(kind: str, encode: Any, decode: Any, width: int, size: int, rows: np.ndarray, targets: np.ndarray) -> Assign:
    """Train encoder and decoder without a quantiser, then all three: a codebook that starts in a space yet to be learned collapses."""
    import torch

    data, wanted = (torch.tensor(each, dtype=torch.float32) for each in (rows, targets))
    quantise = _quantiser(kind, width, size)
    weights = [each for part in (encode, decode, quantise) for each in part.parameters() if each.requires_grad]
    optimiser = torch.optim.Adam(weights, lr=LEARNING_RATE) if weights else None
    warm = WARM_STEPS if [*encode.parameters()] and kind != "fsq" else 0
    for step in range(warm + STEPS):
        # the k-means start of the codebook sees all rows
        batch = torch.arange(len(data)) if step == warm else torch.randint(len(data), (min(BATCH, len(data)),))
        inner = encode(data[batch])
        out, loss = (inner, torch.zeros(())) if step < warm else quantise(inner)[::2]
        if optimiser is not None:
            optimiser.zero_grad()
            ((decode(out) - wanted[batch]) ** 2).mean().add(loss).backward()
            optimiser.step()
    quantise.eval()

    def assign(given: Float[np.ndarray, "n before"]) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n r"]]:
        with torch.no_grad():
            out, codes, _ = quantise(encode(torch.tensor(given, dtype=torch.float32)))
            return codes.numpy().astype(int), decode(out).numpy().astype(np.float64)

    return assign


def _layers(before: int, hidden: int, after: int) -> Any:
    from torch import nn

    return nn.Sequential(nn.Linear(before, hidden), nn.GELU(), nn.Linear(hidden, after)) if hidden else nn.Identity()


def _quantiser(kind: str, width: int, size: int) -> Any:
    """A module ``[n, width] -> ([n, width], codes, loss)``; the code of a residual quantiser is that of its first level."""
    import torch
    from torch import nn
    from vector_quantize_pytorch import FSQ, ResidualVQ, VectorQuantize

    book: dict[str, Any] = {"codebook_size": size, "decay": 0.95, "eps": 1e-5, "kmeans_init": True, "threshold_ema_dead_code": 2}
    book["commitment_weight"] = 0.25

    class Quantiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if kind == "fsq":
                self.inner: Any = FSQ(list(fsq_levels(size)), dim=width, preserve_symmetry=size == 2)
            else:
                self.inner = ResidualVQ(dim=width, num_quantizers=2, **book) if kind == "rvq" else VectorQuantize(dim=width, **book)

        def forward(self, rows: "Tensor") -> "tuple[Tensor, Tensor, Tensor]":
            found = self.inner(rows[None])
            codes = found[1][0]
            loss = found[2].sum() if len(found) > 2 else torch.zeros(())
            return found[0][0], codes[:, 0] if kind == "rvq" else codes, loss

    return Quantiser()


def error_share(rows: Float[np.ndarray, "n r"], described: Float[np.ndarray, "n r"]) -> float:
    """Squared error of the description as a share of the rows' variance; 1 is as good as their mean."""
    variance = ((rows - rows.mean(axis=0)) ** 2).sum()
    return float(((rows - described) ** 2).sum() / variance) if variance > 0 else 0.0


def perplexity(codes: Int[np.ndarray, "n"]) -> float:
    """Exponential of the codes' entropy: how many codes are used, weighted by use."""
    shares = np.bincount(codes)[np.bincount(codes) > 0] / max(1, len(codes))
    return float(np.exp(-(shares * np.log(shares)).sum()))


def member_means(rows: Float[np.ndarray, "n r"], codes: Int[np.ndarray, "n"], size: int) -> Float[np.ndarray, "size r"]:
    """Mean row of each code; that of all rows for a code without members."""
    counts = np.bincount(codes, minlength=size)
    sums = np.stack([np.bincount(codes, weights=column, minlength=size) for column in rows.T], axis=1)
    return np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], rows.mean(axis=0))


def merged(
    train: Float[np.ndarray, "n r"], codes: Int[np.ndarray, "n"], held_out: Float[np.ndarray, "k r"], size: int
) -> tuple[Int[np.ndarray, "size"], float]:
    """Merge greedily the two codes that cost least on train rows, while the held-out error grows little (:data:`EACH_MERGE`).

    Returns:
        The merged code of each code, and the held-out error share with them.
    """
    counts = np.bincount(codes, minlength=size).astype(float)
    means, home = member_means(train, codes, size), np.arange(size)
    alive = [i for i in range(size) if counts[i] > 0]

    def error() -> float:
        return error_share(held_out, by_centroid(means[alive])(held_out)[1])

    first = last = error()
    while len(alive) > 1:
        gaps = ((means[alive][:, None] - means[alive][None]) ** 2).sum(axis=2)
        cost = gaps * np.multiply.outer(counts[alive], counts[alive]) / np.add.outer(counts[alive], counts[alive])
        np.fill_diagonal(cost, np.inf)
        i, j = (alive[each] for each in np.unravel_index(cost.argmin(), cost.shape))
        before = means[i].copy(), counts[i], list(alive)
        means[i] = (counts[i] * means[i] + counts[j] * means[j]) / (counts[i] + counts[j])
        counts[i] += counts[j]
        alive.remove(j)
        now = error()
        if now > last * (1 + EACH_MERGE) or now > first * (1 + ALL_MERGES):
            means[i], counts[i], alive = before
            break
        home[home == j], last = i, now
    places = np.zeros(size, int)
    places[alive] = np.arange(len(alive))
    return places[home], last


def read_as(train: Int[np.ndarray, "n"], train_labels: np.ndarray, codes: Int[np.ndarray, "k"], labels: np.ndarray) -> float:
    """Adjusted Rand index between labels and the commonest train label of each code. Splitting a label over several codes costs nothing.

    Needed because the plain index of K codes against two labels is far below 1 however clean the codes are.
    """
    from sklearn.metrics import adjusted_rand_score

    names, numbers = np.unique(train_labels, return_inverse=True)
    counts = np.zeros((max(train.max(initial=0), codes.max(initial=0)) + 1, len(names)))
    np.add.at(counts, (train, numbers), 1)
    return float(adjusted_rand_score(labels, names[counts.argmax(axis=1)][codes]))


def givers(places: Int[np.ndarray, "n"], answers: Int[np.ndarray, "n"], problems: Int[np.ndarray, "n"], seed: int) -> Int[np.ndarray, "n"]:
    """For each step the one whose code it gets when whole problems exchange their codes at equal places.

    Each of a problem's answers gets the codes of one answer of one other problem, as far as they reach. Steps of an answer and answers to a
    problem are alike, so codes shuffled step by step, or answer by answer, would make every association look certain.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(problems.max(initial=0) + 1)[problems]
    ranked = np.lexsort((places, answers, order))
    found = np.arange(len(places))
    ranks = np.zeros(len(places), int)
    for problem in np.unique(problems):
        own = problems == problem
        ranks[own] = np.unique(answers[own], return_inverse=True)[1]
    for place in np.unique(places):
        here = ranked[places[ranked] == place]
        groups = np.split(here, np.flatnonzero(np.diff(problems[here])) + 1)
        for taker, giver in zip(groups, groups[-1:] + groups[:-1], strict=True):
            found[taker] = giver[np.searchsorted(ranks[giver], ranks[taker]) % len(giver)]
    return found
