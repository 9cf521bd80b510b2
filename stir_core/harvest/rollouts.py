"""Sampling K answers to each problem, verified and cut into steps, their states at control points captured as they are decoded.

Rows that finish leave the batch and waiting ones enter; a prompt is read once and forked for its rollouts. When the live sequences need
more memory than allowed, the youngest half waits, and is read again when there is room. :func:`sample` is the loop itself, for anything
that samples many endings behind a few beginnings.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.config import RunConfig
from stir_core.models.cache import Store
from stir_core.models.generation import Sampling, Strand, draw
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed, forward
from stir_core.records import Problem, Rollout, Verdict
from stir_core.seeding import generator_for, seed_for
from stir_core.tasks.segment import StepScanner

Grade = Callable[[Problem, str], Verdict]
"""(problem, text of an answer) -> verdict."""


class Sampled(NamedTuple):
    """A finished rollout with what was captured on the way."""

    rollout: Rollout
    states: dict[int, Float[Tensor, "boundaries d_model"]]
    """Residual stream at the control points 1, 2, ... by layer, float32 on the CPU; empty when no layer was asked for."""


@dataclass(eq=False)
class Ending:
    """What is sampled behind a given beginning; endings of equal beginnings that enter together share its prefill."""

    before: list[int]
    """Ids of the beginning: the prompt, and whatever of the answer is there already."""
    strand: Strand
    scanner: StepScanner | None = None
    """Finds the control points of a whole answer; ``None``: they are not wanted."""
    fresh: bool = True
    """Nothing of it has been read yet, or it was read and put back."""
    at_boundary: bool = False
    """Its last token finished a step, and the state there is still to come."""
    ends: list[int] = field(default_factory=list)
    """Numbers of tokens after which a step is finished."""
    states: list[dict[int, Tensor]] = field(default_factory=list)
    """``[d_model]`` by layer, one dict a captured control point."""


def sample_rollouts(
    model: LoadedModel,
    prompts: list[tuple[Problem, list[int]]],
    config: RunConfig,
    grade: Grade,
    done: frozenset[tuple[str, int]] = frozenset(),
    layers: tuple[int, ...] = (),
) -> Iterator[Sampled]:
    """Sample ``config.rollouts.k`` answers to each problem, yielding each as it ends (in no fixed order).

    A rollout's tokens depend on the run's seed, its problem and its k alone, never on what decodes beside it.

    Args:
        prompts: problems with their prompt ids.
        grade: settles an answer's text.
        done: (problem id, k) that are there already.
        layers: blocks whose outputs are captured at the first ``config.mining.control_points`` boundaries.
    """
    owners: dict[str, tuple[Problem, int]] = {}
    waiting: list[Ending] = []
    for problem, ids in prompts:
        for k in [k for k in range(config.rollouts.k) if (problem.id, k) not in done]:
            rng = generator_for(config.seed, "rollout", problem.id, k)
            strand = Strand(f"{problem.id}#{k}", config.rollouts.max_new_tokens, rng)
            owners[strand.name] = problem, k
            waiting.append(Ending(ids, strand, StepScanner(model.text, config.delimiter)))
    for ending in sample(model, waiting, config, layers):
        yield _sampled(model, ending, *owners[ending.strand.name], config, grade)


def sample(model: LoadedModel, endings: Iterable[Ending], config: RunConfig, layers: tuple[int, ...] = ()) -> Iterator[Ending]:
    """Sample endings with the run's temperature, nucleus, batch and memory, yielding each as it ends (in no fixed order).

    Args:
        endings: put those of one beginning side by side, so that it is read once.
        layers: blocks whose outputs are captured at the first ``config.mining.control_points`` boundaries of endings with a scanner.
    """
    waiting = deque(endings)
    store = model.new_store()
    live: list[Ending] = []
    sampling = Sampling(config.rollouts.temperature, config.rollouts.top_p)
    limit = config.rollouts.cache_tokens
    while waiting or live:
        _make_room(store, live, waiting, limit)
        live += _enter(store, live, waiting, config)
        logits = _pass(model, store, live, layers)
        for ending in [ending for ending in live if ending.strand.finish is not None]:  # only its last state was still wanted
            live.remove(ending)
            _leave(store, ending)
            yield ending
        going = [ending for ending in live if ending.strand.finish is None]
        if going:
            draw(model, [ending.strand for ending in going], torch.stack([logits[id(ending)] for ending in going]), sampling)
        for ending in going:
            if ending.scanner is not None and ending.scanner.push(ending.strand.ids[-1]):
                ending.ends.append(len(ending.strand.ids))
                ending.at_boundary = bool(layers) and len(ending.ends) <= config.mining.control_points
        for ending in [e for e in going if e.strand.finish is not None and not e.at_boundary]:
            live.remove(ending)
            _leave(store, ending)
            yield ending


def _enter(store: Store, live: list[Ending], waiting: deque[Ending], config: RunConfig) -> list[Ending]:
    """Rows for waiting endings, as many as fit; siblings on the same prompt enter together, so that it is read once."""
    entering: list[Ending] = []
    while waiting and len(live) + len(entering) < config.rollouts.batch_rows:
        need = len(waiting[0].before) + len(waiting[0].strand.ids) + 1
        if (live or entering) and (len(store.rows) + 1) * max(store.columns, need) > config.rollouts.cache_tokens:
            break
        ending = waiting.popleft()
        ending.strand.row = store.open()
        entering.append(ending)
    return entering


def _make_room(store: Store, live: list[Ending], waiting: deque[Ending], limit: int) -> None:
    """Put the youngest half of the batch back while the next token would need more than ``limit`` token places."""
    while len(live) > 1:
        longest = max(ending.strand.row.length for ending in live if ending.strand.row is not None) + 1
        if longest <= store.columns or len(live) * longest <= limit:
            return
        for ending in reversed(live[-(len(live) // 2) :]):
            live.remove(ending)
            _leave(store, ending)
            waiting.appendleft(ending)
        store.shrink()


def _leave(store: Store, ending: Ending) -> None:
    if ending.strand.row is not None:
        store.close(ending.strand.row)
    ending.strand.row, ending.fresh = None, True


def _pass(model: LoadedModel, store: Store, live: list[Ending], layers: tuple[int, ...]) -> dict[int, Tensor]:
    """One token of every ending, and whole prompts of those that enter; gives the next logits by ending."""
    feeds: list[Feed] = []
    fed: list[Ending] = []
    siblings: dict[tuple[int, ...], list[Ending]] = {}
    for ending in live:
        row, ids = ending.strand.row, ending.strand.ids
        assert row is not None  # live endings have one
        if ending.fresh and not ids:
            same = siblings.setdefault(tuple(ending.before), [])
            same.append(ending)
            if len(same) > 1:
                continue
        new = [*ending.before, *ids] if ending.fresh else [ids[-1]]
        capture = (len(new) - 1,) if ending.at_boundary else ()
        feeds.append(Feed(row, new, logits=ending.strand.finish is None, capture=capture))
        fed.append(ending)
    result = forward(model, feeds, layers)
    logits: dict[int, Tensor] = {}
    rows = iter(result.logits)
    for ending, feed, states in zip(fed, feeds, result.states, strict=True):
        if feed.logits:
            logits[id(ending)] = next(rows)
        if states:
            ending.states.append({layer: state[0].float().cpu() for layer, state in states.items()})
        ending.at_boundary = ending.fresh = False
    for first, *others in siblings.values():
        for other in others:
            assert first.strand.row is not None and other.strand.row is not None
            store.copy(first.strand.row, other.strand.row, len(other.before))
            logits[id(other)] = logits[id(first)]
            other.fresh = False
    return logits


def _sampled(model: LoadedModel, ending: Ending, problem: Problem, k: int, config: RunConfig, grade: Grade) -> Sampled:
    ids = ending.strand.ids
    text = model.text(ids)
    verdict = grade(problem, text)
    rollout = Rollout(
        problem_id=problem.id,
        k=k,
        seed=seed_for(config.seed, "rollout", problem.id, k),
        prompt_ids=tuple(ending.before),
        token_ids=tuple(ids),
        text=text,
        finish=ending.strand.finish or "length",
        boundaries=tuple(ending.ends),
        mean_logprob=ending.strand.mean_logprob,
        verdict=verdict,
        reward=float(verdict.correct) - config.rollouts.eta0 * len(ids) / config.rollouts.max_new_tokens,
    )
    layers = ending.states[0] if ending.states else {}
    return Sampled(rollout, {layer: torch.stack([states[layer] for states in ending.states]) for layer in layers})
