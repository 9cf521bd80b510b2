"""Read the residual stream at control points of finished answers: one forward pass gives every boundary and every layer.

States of rollouts are captured while they are decoded (see ``rollouts``); this is for worked solutions, ``compat``, and layers added later.

Positions are those of the generated ids. ``compat`` instead cuts the text, tokenises each prefix again and runs it, as the
published code does; the states may then differ from those during decoding.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.config import RunConfig
from stir_core.harvest.pairs import Gold
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed, forward, in_batches
from stir_core.models.workers import Parcel
from stir_core.records import Pair, Problem, Rollout
from stir_core.tasks.segment import boundaries, count_steps, split_steps

SHARE = 32
"""Sequences in a batch of a worker."""


class Reading(NamedTuple):
    """A token sequence and the positions whose states are wanted."""

    problem_id: str
    source: Literal["rollout", "gold"]
    k: int
    ms: tuple[int, ...]
    """Control points, one for each position."""
    ids: list[int]
    positions: tuple[int, ...]
    """0-based token positions, prompt included."""


class States(NamedTuple):
    """The states of one reading."""

    reading: Reading
    by_layer: dict[int, Float[Tensor, "positions d_model"]]


def gold_solutions(model: LoadedModel, problems: list[Problem], config: RunConfig) -> dict[str, Gold]:
    """Worked solutions counted like rollouts: finished steps, and the reward of a right answer of their length."""
    golds: dict[str, Gold] = {}
    for problem in problems:
        if problem.solution and config.mining.pos_source != "rollout":
            ids = model.tokens(problem.solution)
            penalty = config.rollouts.eta0 * len(ids) / config.rollouts.max_new_tokens
            golds[problem.id] = Gold(finished_steps(model, ids, problem.solution, config), 1.0 - penalty)
    return golds


def finished_steps(model: LoadedModel, ids: list[int], text: str, config: RunConfig) -> int:
    """Finished steps of an answer: token boundaries, or under ``compat`` delimiters in its text."""
    if config.compat:
        return count_steps(text, config.delimiter)
    return len(boundaries(ids, model.text, config.delimiter))


def plan_readings(
    model: LoadedModel,
    problems: list[Problem],
    rollouts: list[Rollout],
    pairs: list[Pair],
    config: RunConfig,
    prompts: dict[str, list[int]],
) -> list[Reading]:
    """The sequences and positions that the pairs need, and those of every other rollout at the pairs' control points (see ``controls``).

    Under ``compat``, where each prefix costs a pass of its own, only those of the pairs.
    """
    wanted: dict[tuple[str, Literal["rollout", "gold"], int], set[int]] = {}
    for pair in pairs:
        for k in (*pair.positives, *pair.negatives):
            wanted.setdefault((pair.problem_id, "rollout", k), set()).add(pair.m)
        if pair.gold:
            wanted.setdefault((pair.problem_id, "gold", 0), set()).add(pair.m)
    points = {(pair.problem_id, pair.m, pair.phase) for pair in pairs if not config.compat}
    for rollout in rollouts:
        reached = {m for m in range(1, len(rollout.boundaries) + 1) if (rollout.problem_id, m, rollout.phase(m)) in points}
        if reached:
            wanted.setdefault((rollout.problem_id, "rollout", rollout.k), set()).update(reached)
    by_key = {(rollout.problem_id, rollout.k): rollout for rollout in rollouts}
    solutions = {problem.id: problem.solution or "" for problem in problems}
    readings: list[Reading] = []
    for (problem_id, source, k), needed in wanted.items():
        ms = tuple(sorted(needed))
        rollout = by_key[problem_id, k] if source == "rollout" else None
        text = solutions[problem_id] if rollout is None else rollout.text
        if config.compat:
            readings += _prefixes(model, Reading(problem_id, source, k, ms, prompts[problem_id], ()), text, config.delimiter)
        else:
            ids = model.tokens(text) if rollout is None else list(rollout.token_ids)
            ends = boundaries(ids, model.text, config.delimiter) if rollout is None else rollout.boundaries
            start = len(prompts[problem_id])
            last = ends[ms[-1] - 1]  # later tokens cannot change the wanted states
            readings.append(
                Reading(problem_id, source, k, ms, [*prompts[problem_id], *ids[:last]], tuple(start + ends[m - 1] - 1 for m in ms))
            )
    return readings


def capture_states(model: LoadedModel, readings: list[Reading], layers: tuple[int, ...], *, batch_tokens: int = 4096) -> Iterator[States]:
    """States of every reading at its positions, in order, float32 on the CPU.

    Args:
        batch_tokens: tokens in one pass; bounds memory.
    """
    if model.workers is not None:
        items = (Parcel([reading.ids, reading.positions]) for reading in readings)
        early: dict[int, Parcel] = {}
        number = 0
        for arrived, result in model.workers.share(read_shard, Parcel(layers), items, SHARE):
            early[arrived] = result
            while number in early:
                arrays = early.pop(number).arrays
                yield States(readings[number], {layer: torch.from_numpy(arrays[str(layer)]) for layer in layers})
                number += 1
        return

    def read(part: slice) -> list[States]:
        store, batch = model.new_store(), readings[part]
        feeds = [Feed(store.open(), reading.ids, logits=False, capture=reading.positions) for reading in batch]
        seen = forward(model, feeds, layers).states
        return [States(each, {at: state.float().cpu() for at, state in by.items()}) for each, by in zip(batch, seen, strict=True)]

    for states in in_batches([len(reading.ids) for reading in readings], batch_tokens, read):
        yield from states


def read_shard(model: LoadedModel, common: Parcel, shard: Parcel) -> Iterator[tuple[int, Parcel]]:
    """A worker's part of :func:`capture_states`."""
    readings = [Reading("", "rollout", 0, (), ids, tuple(positions)) for _, (ids, positions) in shard.plain]
    for (number, _), states in zip(shard.plain, capture_states(model, readings, tuple(common.plain)), strict=True):
        yield number, Parcel(None, {str(layer): rows.numpy() for layer, rows in states.by_layer.items()})


def _prefixes(model: LoadedModel, reading: Reading, text: str, delimiter: str) -> list[Reading]:
    prompt_text = model.prompt_text(reading.ids)
    pieces = split_steps(text, delimiter)
    prefixes: list[Reading] = []
    for m in reading.ms:
        ids = model.tokens(prompt_text + "".join(pieces[:m]))
        prefixes.append(reading._replace(ms=(m,), ids=ids, positions=(len(ids) - 1,)))
    return prefixes
