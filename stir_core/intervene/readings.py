"""Read a recorded answer again: the distribution at every token of the model that decoded it, and of the unsteered model on that prefix.

Nothing is decoded. Each step is read after its own prefix, with its impulse at its control point: under ``ephemeral`` the prefix is
unsteered, under ``persistent`` earlier impulses stay in it. Where no impulse is live the models are equal, and one reading serves both. The
two readings of a steered step share a pass; only scalars and the likeliest tokens of their logits are kept.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.config import GateConfig
from stir_core.intervene.jobs import recorded_decision
from stir_core.intervene.memory import Memory
from stir_core.models.cache import CacheRow, Store, shared_length
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed, forward
from stir_core.models.steering import Impulse
from stir_core.readings import TOP, Alternative, TokenReading
from stir_core.records import StepTrace, Trace

CHUNK = 64
"""Maximum number of tokens of a sequence whose logits are in memory at once, whatever the answer's length."""


class RecordedAnswer(NamedTuple):
    """An answer to read again, with the impulses that it was decoded with."""

    trace: Trace
    impulses: Mapping[int, Impulse] = {}
    """By the control point that they were injected at."""
    persistence: Literal["ephemeral", "persistent"] = "ephemeral"
    compat: bool = False
    """Whether the text was tokenised again at every boundary (``Settings.compat``)."""


def reread(model: LoadedModel, answers: Sequence[RecordedAnswer], *, chunk: int = CHUNK) -> Generator[tuple[int, TokenReading], None, None]:
    """Read every committed token of every answer in order, as (number of the answer, reading). Closing the iterator early is safe.

    Tokens that an answer was given have no reading, since the model did not choose them. Answers share the prefix that they have in common.

    Args:
        chunk: maximum number of tokens of a sequence whose logits are in memory at once.
    """
    store = model.new_store()
    unsteered = _Line(store)
    for number, answer in enumerate(answers):
        steered: _Line | None = None
        position = _unread(answer.trace)
        for stretch in _stretches(model, answer):
            feeds = unsteered.go_to(stretch.prefix[:-1])
            if stretch.impulse is not None and (steered is None or answer.persistence == "ephemeral"):
                if feeds:
                    forward(model, feeds)
                feeds = []
                steered = steered or _Line(store)
                steered.follow(unsteered)
            elif steered is not None and answer.persistence == "persistent":
                feeds += steered.go_to(stretch.prefix[:-1])
                steered.impulses = [place for place in steered.impulses if place < steered.row.length]  # others were cut off
            if feeds:
                forward(model, feeds)
            # where no impulse is live, the unsteered reading serves both
            apart = steered if stretch.impulse is not None or (steered is not None and steered.impulses) else None
            for reading in _read(model, stretch, unsteered, apart, position, chunk):
                yield number, reading
            position += len(stretch.tokens)
            if steered is not None and answer.persistence == "ephemeral":
                steered.impulses = []
        if steered is not None:
            store.close(steered.row)


def impulses_of(trace: Trace, gate: GateConfig, memory: Memory | None, *, seed: int = 0) -> dict[int, Impulse]:
    """The impulses of a recorded answer by control point; the vector of a forced entry is taken from the library.

    Raises:
        DataError: a step was steered by an entry that the library does not hold.
    """
    decisions = {step.m: recorded_decision(step, gate, memory, seed) for step in trace.steps}
    return {m: impulse for m, decision in decisions.items() if (impulse := decision.impulse) is not None}


class _Line:
    """A row with the ids that it holds; ``impulses`` are the positions at which it was read with an impulse."""

    def __init__(self, store: Store):
        self.row: CacheRow = store.open()
        self.ids: list[int] = []
        self.impulses: list[int] = []

    def go_to(self, wanted: list[int]) -> list[Feed]:
        """Cut the row to the ids it shares with ``wanted``; returns the feed of the rest, if any."""
        self.row.length = shared = shared_length(self.ids, wanted)
        self.ids = list(wanted)
        return [Feed(self.row, wanted[shared:], logits=False)] if shared < len(wanted) else []

    def follow(self, other: "_Line") -> None:
        """Copy the contents of ``other``, a line of the same store."""
        other.row.store.copy(other.row, self.row, other.row.length)
        self.ids, self.impulses = list(other.ids), list(other.impulses)


class _Stretch(NamedTuple):
    """Tokens that one pass can read: a steered step, or neighbouring steps without impulses."""

    prefix: list[int]
    tokens: list[int]
    steps: list[int]
    """For each token, the control point at which its step begins."""
    impulse: Impulse | None


def _stretches(model: LoadedModel, answer: RecordedAnswer) -> Iterator[_Stretch]:
    going: _Stretch | None = None
    for prefix, step in _prefixes(model, answer):
        impulse = answer.impulses.get(step.m)
        numbers = [step.m] * len(step.token_ids)
        extends = going is not None and (going.impulse is None or answer.persistence == "persistent")
        if going is not None and extends and impulse is None and prefix == going.prefix + going.tokens:
            going = going._replace(tokens=[*going.tokens, *step.token_ids], steps=[*going.steps, *numbers])
            continue
        if going is not None:
            yield going
        going = _Stretch(prefix, list(step.token_ids), numbers, impulse)
    if going is not None and going.tokens:
        yield going


def _prefixes(model: LoadedModel, answer: RecordedAnswer) -> Iterator[tuple[list[int], StepTrace]]:
    """Every step with the ids of its prefix."""
    trace = answer.trace
    prompt, done = list(trace.prompt_ids), list(trace.token_ids[: _unread(trace)])
    texts = [model.text(done)] if done else []
    for step in trace.steps:
        again = answer.compat and bool(texts)
        yield model.tokens(model.prompt_text(prompt) + "".join(texts)) if again else [*prompt, *done], step
        done += step.token_ids
        texts.append(step.text)


def _unread(trace: Trace) -> int:
    """Number of tokens before the first recorded step: those that the answer was given."""
    return len(trace.token_ids) - sum(len(step.token_ids) for step in trace.steps)


def _read(
    model: LoadedModel, stretch: _Stretch, unsteered: _Line, steered: _Line | None, position: int, chunk: int
) -> Iterator[TokenReading]:
    """Read a stretch, of whose prefix both lines hold all but the last token; ``position`` is its first token's place in the answer."""
    body = [stretch.prefix[-1], *stretch.tokens[:-1]]
    cuts = [0, *range(1 if stretch.impulse is not None else chunk, len(body), chunk), len(body)]
    for start, stop in pairwise(cuts):
        ids = body[start:stop]
        feeds = [Feed(unsteered.row, ids, every=True)]
        if steered is not None:
            impulse = stretch.impulse if start == 0 else None
            if impulse is not None:
                steered.impulses.append(steered.row.length)
            feeds.append(Feed(steered.row, ids, impulse, every=True))
            steered.ids += ids
        unsteered.ids += ids
        looked = _look(forward(model, feeds).logits, stretch.tokens[start:stop])
        for i, (scalars, near) in enumerate(looked, start=start):
            token = stretch.tokens[i]
            yield TokenReading(
                m=stretch.steps[i],
                position=position + i,
                token_id=token,
                text=model.token_text(token),
                live=steered is not None,
                alternatives=tuple(
                    Alternative(token_id=at, text=model.token_text(at), logprob=own, unsteered_logprob=other) for at, own, other in near
                ),
                **scalars,
            )


@torch.inference_mode()
def _look(logits: Float[Tensor, "n d_vocab"], tokens: list[int]) -> Iterator[tuple[dict, list[tuple[int, float, float]]]]:
    """Scalars and likeliest tokens of each row; if there are ``2 n`` rows, the second half is steered."""
    n = len(tokens)
    unsteered = logits[:n].float().log_softmax(dim=-1)
    own = logits[n:].float().log_softmax(dim=-1) if len(logits) > n else unsteered
    at = torch.tensor(tokens, device=logits.device)[:, None]
    # rounding may leave a divergence of 0 slightly negative
    kl = (own.exp() * (own - unsteered)).sum(dim=-1).clamp(min=0) if own is not unsteered else unsteered.new_zeros(n)
    columns = {"kl": kl.tolist()}
    for prefix, log in (("", own), ("unsteered_", unsteered)):
        here = log.gather(1, at)
        columns[f"{prefix}logprob"] = here[:, 0].tolist()
        columns[f"{prefix}rank"] = ((log > here).sum(dim=-1) + 1).tolist()
        columns[f"{prefix}entropy"] = (-(log.exp() * log).sum(dim=-1)).clamp(min=0).tolist()
    best = [log.topk(min(TOP, log.shape[-1]), dim=-1).indices.tolist() for log in (own, unsteered)]
    rows = []
    for i in range(n):
        ids = list(dict.fromkeys(best[0][i] + best[1][i]))
        pairs = zip(ids, own[i, ids].tolist(), unsteered[i, ids].tolist(), strict=True)
        rows.append(({name: values[i] for name, values in columns.items()}, sorted(pairs, key=lambda row: -row[1])))
    return iter(rows)
