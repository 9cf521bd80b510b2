"""Sample K answers to each problem, grade them, and capture their states at control points while they are decoded.

Rollouts that finish leave the batch and waiting ones enter. A prompt is read once for all its rollouts that are live together. The state
at a control point is captured when the token there is fed to decode on, so it costs no extra pass. :func:`sample_endings` does this for any
sampling of many endings after few beginnings. A server may sample instead (``rollouts.engine``, ``models.served``); it captures no state.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.config import LOCAL, RolloutConfig, RunConfig, config_from
from stir_core.models.generation import Sampling, Strand
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed
from stir_core.models.scheduler import Batch, Draws, Fetch, Intake, Seat, Steps, schedule
from stir_core.models.served import Asked, find_served, sample_served
from stir_core.models.workers import Parcel, Workers
from stir_core.records import Problem, Rollout, Thinking, Verdict
from stir_core.seeding import generator_for, seed_for
from stir_core.tasks.grading import graded_alongside
from stir_core.tasks.segment import StepScanner
from stir_core.tasks.thinking import graded_part

Grade = Callable[[Problem, str], Verdict]
"""(problem, text of an answer) -> verdict."""


class Sampled(NamedTuple):
    """A finished rollout with what was captured on the way."""

    rollout: Rollout
    states: dict[int, Float[Tensor, "boundaries d_model"]]
    """Residual stream at the control points 1, 2, ... by layer, float32 on the CPU; empty when no layer was asked for."""


@dataclass(eq=False)
class Ending:
    """An answer, or the rest of one, that is sampled after a given beginning."""

    before: list[int]
    """Ids of the beginning: the prompt, and any part of the answer that is given."""
    strand: Strand
    scanner: StepScanner | None = None
    """Finds the control points of a whole answer; ``None`` if they are not wanted."""
    scanned: int = 0
    """Number of tokens that the scanner has seen."""
    rng_state: Any = None
    """The strand's random stream as it was before its first token."""
    asked: list[Any] = field(default_factory=list)
    """The arguments of :func:`ending_of` that made it, with which another process makes it, too."""
    ends: list[int] = field(default_factory=list)
    """Numbers of tokens after which a step ends."""
    states: list[dict[int, Tensor]] = field(default_factory=list)
    """One dict for each captured control point: ``[d_model]`` by layer, on the model's device until the ending is whole."""

    def scan(self) -> None:
        """Note where steps end in the tokens that came since the last call."""
        while self.scanner is not None and self.scanned < len(self.strand.ids):
            self.scanned += 1
            if self.scanner.push(self.strand.ids[self.scanned - 1]):
                self.ends.append(self.scanned)


def ending_of(
    model: LoadedModel, config: RunConfig, stream: Sequence[str | int], prompt_ids: list[int], given: Sequence[int] | None = None
) -> Ending:
    """An ending of an answer to a prompt, within the budget of the run's rollouts.

    Args:
        stream: names its random stream.
        given: the first tokens of the answer; ``None``: it is a whole answer, whose control points are found.
    """
    before = list(given or ())
    budget = config.rollouts.max_new_tokens - len(before)
    rng = generator_for(config.seed, *stream)
    strand = Strand("/".join(map(str, stream)), budget, rng, parts=model.budgets(prompt_ids, config.rollouts, before))
    phase = None if config.compat else config.mining.phase
    scanner = model.scanner(prompt_ids, config.delimiter, phase) if given is None else None
    return Ending([*prompt_ids, *before], strand, scanner, asked=[list(stream), prompt_ids, None if given is None else before])


class Waiting(Intake[Ending]):
    """Endings that wait to be decoded, in order. Those with one beginning are neighbours, so they enter together and share its reading.

    At most ``config.batch_rows`` are live. When keys and values would need more than ``config.cache_tokens`` positions, the youngest
    half of the batch waits again. Its sampled tokens are kept, and are read again when there is room.

    Endings are asked for when there is room, and forgotten when they have ended, so that memory does not grow with their number.
    """

    def __init__(self, endings: Iterable[Ending], config: RolloutConfig):
        self._coming = enumerate(endings)
        self._next: deque[tuple[int, Ending]] = deque()
        self._config = config
        self._halved = False

    def take(self, batch: Batch) -> list[tuple[int, Ending]]:
        """As many as fit; a single one always does."""
        if self._halved:
            batch.store.shrink()
        entering: list[tuple[int, Ending]] = []
        while (live := len(batch.seats) + len(entering)) < self._config.batch_rows:
            if not self._next:
                self._next.extend(islice(self._coming, 1))
            if not self._next:
                break
            ending = self._next[0][1]
            columns = max(batch.store.columns, len(ending.before) + len(ending.strand.ids) + 1)
            if live and (live + 1) * columns > self._config.cache_tokens:
                break
            entering.append(self._next.popleft())
        return entering

    def gone(self, batch: Batch) -> list[int]:
        """The youngest, halving the batch until the next token needs no more positions than allowed."""
        live = [seat.number for seat in batch.seats]
        longest = max(row.length for row in batch.store.rows) + 1
        left: list[int] = []
        while len(live) > 1 and longest > batch.store.columns and len(live) * longest > self._config.cache_tokens:
            left = live[len(live) - len(live) // 2 :] + left
            live = live[: len(live) - len(live) // 2]
            longest = max(seat.rows[0].length for seat in batch.seats[: len(live)]) + 1
        self._next.extendleft(reversed([(seat.number, seat.job) for seat in batch.seats if seat.number in left]))
        self._halved = bool(left)
        return left


def sample_rollouts(
    model: LoadedModel,
    prompts: list[tuple[Problem, list[int]]],
    config: RunConfig,
    grade: Grade,
    done: frozenset[tuple[str, int]] = frozenset(),
    layers: tuple[int, ...] = (),
) -> Iterator[Sampled]:
    """Sample ``config.rollouts.k`` answers to each problem, yielding each when it is graded (in no fixed order), while decoding goes on.

    A rollout's tokens depend only on the run's seed, its problem and its k, not on what is decoded beside it.

    Args:
        prompts: problems with their prompt ids.
        grade: grades an answer's text; called in a thread.
        done: (problem id, k) of rollouts that exist already.
        layers: blocks whose outputs are captured at the first ``config.mining.control_points`` boundaries.
    """
    asked: dict[Ending, tuple[Problem, int]] = {}

    def endings() -> Iterator[Ending]:
        for problem, ids in prompts:
            for k in [k for k in range(config.rollouts.k) if (problem.id, k) not in done]:
                ending = ending_of(model, config, ("rollout", problem.id, k), ids)
                asked[ending] = problem, k
                yield ending

    def ended() -> Iterator[_Ended]:
        for ending in sample_endings(model, endings(), config, layers):
            problem, k = asked.pop(ending)
            text = model.text(ending.strand.ids)
            yield _Ended(ending, problem, k, text, model.thinking(ending.before, ending.strand.ids, text, ending.strand.parts))

    for each, verdict in graded_alongside(ended(), lambda each: grade(each.problem, graded_part(each.text, each.thinking))):
        yield _sampled(each, verdict, config)


def sample_endings(model: LoadedModel, endings: Iterable[Ending], config: RunConfig, layers: tuple[int, ...] = ()) -> Iterator[Ending]:
    """Sample endings with the run's engine, temperature, nucleus, batch and memory, yielding each as it ends (in no fixed order).

    Another engine captures no states: the states stage reads them here.

    Args:
        endings: put those of one beginning side by side, so that it is read once; made by :func:`ending_of` where the model has workers.
        layers: blocks whose outputs are captured at the first ``config.mining.control_points`` boundaries of endings with a scanner.
    """
    sampling = Sampling(config.rollouts.temperature, config.rollouts.top_p)
    most = config.mining.control_points if layers else 0
    if config.rollouts.engine != LOCAL:
        served = find_served(config.rollouts.engine, model.identity.name)
        asked = (Asked(ending, ending.before, ending.strand) for ending in endings)
        for each in sample_served(model, served, asked, sampling, rows=config.rollouts.batch_rows):
            each.item.scan()
            yield each.item
        return
    if model.workers is not None:
        yield from _sampled_by(model.workers, endings, config, layers)
        return

    def begin(seat: Seat, ending: Ending) -> Steps[None]:
        seat.layers = layers
        return _sample(seat, ending, sampling, most)

    yield from schedule(model, Waiting(endings, config.rollouts), begin)


def _sampled_by(workers: Workers, endings: Iterable[Ending], config: RunConfig, layers: tuple[int, ...]) -> Iterator[Ending]:
    """Let workers sample; what they send is put into the endings that were asked for."""
    asked: dict[int, Ending] = {}

    def items() -> Iterator[Parcel]:
        for number, ending in enumerate(endings):
            asked[number] = ending
            yield Parcel(ending.asked)

    common = Parcel({"config": config.model_dump(mode="json"), "layers": layers})
    for number, (plain, arrays) in workers.share(sample_shard, common, items(), config.rollouts.batch_rows):
        ending = asked.pop(number)
        ids, logprobs, finish, ending.ends = plain
        ending.strand.ids, ending.strand.logprobs, ending.strand.finish = ids, logprobs, finish
        if ending.strand.parts is not None:
            for token_id in ids:
                ending.strand.parts.push(token_id)
        states = {layer: torch.from_numpy(arrays[str(layer)]) for layer in layers if arrays}
        ending.states = [{layer: states[layer][i] for layer in layers} for i in range(len(states[layers[0]]) if states else 0)]
        yield ending


def sample_shard(model: LoadedModel, common: Parcel, shard: Parcel) -> Iterator[tuple[int, Parcel]]:
    """A worker's part of :func:`sample_endings`: tokens, log-probabilities, finish, boundaries and states of each ending."""
    config, layers = config_from(common.plain["config"]), tuple(common.plain["layers"])
    numbers = {ending_of(model, config, *asked): number for number, asked in shard.plain}
    for ending in sample_endings(model, numbers, config, layers):
        states = {str(layer): torch.stack([each[layer] for each in ending.states]).numpy() for layer in layers if ending.states}
        plain = [ending.strand.ids, ending.strand.logprobs, ending.strand.finish, ending.ends]
        yield numbers[ending], Parcel(plain, states)


def _sample(seat: Seat, ending: Ending, sampling: Sampling, most: int) -> Steps[None]:
    """One ending, from its beginning or from where it had to wait; the first ``most`` control points are captured."""
    strand = ending.strand
    if strand.rng is not None:  # a draw that failed for want of memory may have used up a number
        stream = strand.rng.bit_generator
        ending.rng_state = stream.state = ending.rng_state or stream.state
        strand.rng.random(len(strand.ids))  # one number for each token
    row = strand.row = seat.open()
    here = yield from seat.read(row, ending.before)
    new = strand.ids[:]
    while True:
        ending.scan()
        at_boundary = ending.ends[-1:] == [len(strand.ids)] and len(ending.states) < len(ending.ends) <= most
        if new and (strand.finish is None or at_boundary):  # after the last token at most a state is wanted
            here = yield [Feed(row, new, logits=strand.finish is None, capture=(len(new) - 1,) if at_boundary else ())]
        if at_boundary:
            ending.states.append({layer: here.states[0][layer][0] for layer in seat.layers})
        if strand.finish is not None:
            break
        yield Draws([strand], here.logits, sampling)
        new = strand.ids[-1:]
    if ending.states:  # only now, all at once
        states = iter((yield Fetch([state for states in ending.states for state in states.values()])))
        ending.states = [{layer: next(states).float() for layer in captured} for captured in ending.states]
    yield ending


class _Ended(NamedTuple):
    """A rollout without its verdict."""

    ending: Ending
    problem: Problem
    k: int
    text: str
    thinking: Thinking | None


def _sampled(ended: _Ended, verdict: Verdict, config: RunConfig) -> Sampled:
    ending, problem, k, text, thinking = ended
    ids = ending.strand.ids
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
        thinking=thinking,
    )
    layers = ending.states[0] if ending.states else {}
    return Sampled(rollout, {layer: torch.stack([states[layer] for states in ending.states]) for layer in layers})
