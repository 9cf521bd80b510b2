"""Sampling K answers to each problem, verified and cut into steps, their states at control points captured as they are decoded.

Rows that finish leave the batch and waiting ones enter; a prompt is read once and forked for its rollouts. When the live sequences need
more memory than allowed, the youngest half waits, and is read again when there is room.
"""

from collections import deque
from collections.abc import Callable, Iterator
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


class Sampled(NamedTuple):
    """A finished rollout with what was captured on the way."""

    rollout: Rollout
    states: dict[int, Float[Tensor, "boundaries d_model"]]
    """Residual stream at the control points 1, 2, ... by layer, float32 on the CPU; empty when no layer was asked for."""


@dataclass(eq=False)
class _Answer:
    problem: Problem
    prompt_ids: list[int]
    k: int
    strand: Strand
    scanner: StepScanner
    fresh: bool = True
    """Nothing of it has been read yet, or it was read and put back."""
    at_boundary: bool = False
    """Its last token finished a step, and the state there is still to come."""
    ends: list[int] = field(default_factory=list)
    """Numbers of tokens after which a step is finished."""
    states: list[dict[int, Tensor]] = field(default_factory=list)


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
    waiting = deque(
        _answer(model, problem, ids, k, config) for problem, ids in prompts for k in range(config.rollouts.k) if (problem.id, k) not in done
    )
    store = model.new_store()
    live: list[_Answer] = []
    sampling = Sampling(config.rollouts.temperature, config.rollouts.top_p)
    limit = config.rollouts.cache_tokens
    while waiting or live:
        _make_room(store, live, waiting, limit)
        entering = _enter(store, live, waiting, config)
        live += entering
        logits = _pass(model, store, live, layers)
        for answer in [answer for answer in live if answer.strand.finish is not None]:  # only its last state was still wanted
            live.remove(answer)
            yield _close(model, store, answer, config, grade)
        going = [answer for answer in live if answer.strand.finish is None]
        if going:
            draw(model, [answer.strand for answer in going], torch.stack([logits[id(answer)] for answer in going]), sampling)
        for answer in going:
            if answer.scanner.push(answer.strand.ids[-1]):
                answer.ends.append(len(answer.strand.ids))
                answer.at_boundary = bool(layers) and len(answer.ends) <= config.mining.control_points
        for answer in [a for a in going if a.strand.finish is not None and not a.at_boundary]:
            live.remove(answer)
            yield _close(model, store, answer, config, grade)


def _answer(model: LoadedModel, problem: Problem, prompt_ids: list[int], k: int, config: RunConfig) -> _Answer:
    strand = Strand(f"{problem.id}#{k}", config.rollouts.max_new_tokens, generator_for(config.seed, "rollout", problem.id, k))
    return _Answer(problem, prompt_ids, k, strand, StepScanner(model.text, config.delimiter))


def _enter(store: Store, live: list[_Answer], waiting: deque[_Answer], config: RunConfig) -> list[_Answer]:
    """Rows for waiting answers, as many as fit; siblings on the same prompt enter together, so that it is read once."""
    entering: list[_Answer] = []
    while waiting and len(live) + len(entering) < config.rollouts.batch_rows:
        need = len(waiting[0].prompt_ids) + len(waiting[0].strand.ids) + 1
        if (live or entering) and (len(store.rows) + 1) * max(store.columns, need) > config.rollouts.cache_tokens:
            break
        answer = waiting.popleft()
        answer.strand.row = store.open()
        entering.append(answer)
    return entering


def _make_room(store: Store, live: list[_Answer], waiting: deque[_Answer], limit: int) -> None:
    """Put the youngest half of the batch back while the next token would need more than ``limit`` token places."""
    while len(live) > 1:
        longest = max(answer.strand.row.length for answer in live if answer.strand.row is not None) + 1
        if longest <= store.columns or len(live) * longest <= limit:
            return
        for answer in reversed(live[-(len(live) // 2) :]):
            live.remove(answer)
            _leave(store, answer)
            waiting.appendleft(answer)
        store.shrink()


def _leave(store: Store, answer: _Answer) -> None:
    if answer.strand.row is not None:
        store.close(answer.strand.row)
    answer.strand.row, answer.fresh = None, True


def _pass(model: LoadedModel, store: Store, live: list[_Answer], layers: tuple[int, ...]) -> dict[int, Tensor]:
    """One token of every answer, and whole prompts of those that enter; gives the next logits by answer."""
    feeds: list[Feed] = []
    fed: list[_Answer] = []
    siblings: dict[str, list[_Answer]] = {}
    for answer in live:
        row, ids = answer.strand.row, answer.strand.ids
        assert row is not None  # live answers have one
        if answer.fresh and not ids:
            siblings.setdefault(answer.problem.id, []).append(answer)
            if len(siblings[answer.problem.id]) > 1:
                continue
        new = [*answer.prompt_ids, *ids] if answer.fresh else [ids[-1]]
        capture = (len(new) - 1,) if answer.at_boundary else ()
        feeds.append(Feed(row, new, logits=answer.strand.finish is None, capture=capture))
        fed.append(answer)
    result = forward(model, feeds, layers)
    logits: dict[int, Tensor] = {}
    rows = iter(result.logits)
    for answer, feed, states in zip(fed, feeds, result.states, strict=True):
        if feed.logits:
            logits[id(answer)] = next(rows)
        if states:
            answer.states.append({layer: state[0].float().cpu() for layer, state in states.items()})
        answer.at_boundary = answer.fresh = False
    for first, *others in siblings.values():
        for other in others:
            assert first.strand.row is not None and other.strand.row is not None
            store.copy(first.strand.row, other.strand.row, len(other.prompt_ids))
            logits[id(other)] = logits[id(first)]
            other.fresh = False
    return logits


def _close(model: LoadedModel, store: Store, answer: _Answer, config: RunConfig, grade: Grade) -> Sampled:
    _leave(store, answer)
    strand, problem = answer.strand, answer.problem
    text = model.text(strand.ids)
    verdict = grade(problem, text)
    penalty = config.rollouts.eta0 * len(strand.ids) / config.rollouts.max_new_tokens
    rollout = Rollout(
        problem_id=problem.id,
        k=answer.k,
        seed=seed_for(config.seed, "rollout", problem.id, answer.k),
        prompt_ids=tuple(answer.prompt_ids),
        token_ids=tuple(strand.ids),
        text=text,
        finish=strand.finish or "length",
        boundaries=tuple(answer.ends),
        mean_logprob=strand.mean_logprob,
        verdict=verdict,
        reward=float(verdict.correct) - penalty,
    )
    layers = answer.states[0] if answer.states else {}
    return Sampled(rollout, {layer: torch.stack([states[layer] for states in answer.states]) for layer in layers})
