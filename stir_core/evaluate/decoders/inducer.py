"""Making a model state its answer now: the inducer text that only an answer can follow, and where that answer ends.

Inducers are what the prompts ask for (``tasks.prompts``) and grading recognises (``tasks.extract``): ``\\boxed{`` for mathematics and where
the prompt's template asks for a box, else ``####``. No space follows ``####``: some tokenizers make it part of the answer's first token
(``" yes"`` is one token, ``" 4"`` two), and a space in the wrong token is text that the model never saw.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from stir_core.evaluate.decoders.base import Bench, Question
from stir_core.models.cache import CacheRow
from stir_core.models.generation import Sampling, Strand
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed
from stir_core.models.scheduler import GREEDY, Steps, decode
from stir_core.records import AnswerKind, Finish
from stir_core.tasks.extract import boxes

BOX = "The final answer is \\boxed{"
HASHES = "####"
_TAIL = 8
"""Committed tokens that are decoded to see whether their text ends a line."""


class Induced(NamedTuple):
    """An inducer and the answer after it."""

    inducer: list[int]
    strand: Strand
    """The answer; its ``finish`` is ``"delimiter"`` when it is complete."""
    room: int
    """Maximum number of tokens that the budget leaves for the answer."""


def induce(bench: Bench, question: Question, row: CacheRow, ids: list[int], most: int | None = None) -> Steps[Induced | None]:
    """Append an inducer and decode the answer greedily, up to ``most`` tokens; ``None`` when the budget has no room for it.

    Args:
        row: holds the prompt and all of ``ids``; afterwards also the inducer and the answer without its last token.
        ids: the tokens committed so far.
    """
    model, kind = bench.model, question.form
    inducer = inducer_ids(model, kind, ids)
    parts = bench.parts(question, ids)
    left = bench.budget - len(ids) if parts is None or parts.left is None else min(bench.budget - len(ids), parts.left)
    room = left - len(inducer)
    if room < 1:
        return None
    strand = Strand("answer", room if most is None else min(most, room), ends_step=answer_ends(model, kind), row=row)
    here = yield [Feed(row, inducer)]
    yield from decode([strand], here.logits)
    return Induced(inducer, strand, room)


class RestOfAnswer(NamedTuple):
    """The rest of an answer."""

    ids: list[int]
    finish: Finish


def answer_behind(
    bench: Bench,
    question: Question,
    row: CacheRow,
    ids: list[int],
    *,
    sampling: Sampling = GREEDY,
    rng: np.random.Generator | None = None,
    close: bool = True,
) -> Steps[RestOfAnswer]:
    """Write the tag that ends the thinking, and decode the final part after it in plain tokens.

    Args:
        row: holds the prompt and ``ids``, the tokens committed so far; without ``close``, all but the last of them.
        close: ``False``: the tag is written already.
    """
    model = bench.model
    assert model.tags is not None  # the answer is in its thinking
    first = model.tokens(model.tags.end)[: bench.budget - len(ids)] if close else []
    if len(ids) + len(first) >= bench.budget:
        return RestOfAnswer(first, "length")
    rest = Strand("answer", bench.budget - len(ids) - len(first), rng, parts=bench.parts(question, [*ids, *first]), row=row)
    here = yield [Feed(row, first or ids[-1:])]
    yield from decode([rest], here.logits, sampling)
    return RestOfAnswer([*first, *rest.ids], rest.finish or "length")


def inducer_ids(model: LoadedModel, kind: AnswerKind, before: list[int]) -> list[int]:
    """Token ids of the inducer after the ids ``before``; it begins a new line unless their text ends one."""
    text = model.text(before[-_TAIL:])
    return model.tokens(("" if text.endswith("\n") else "\n\n") + (BOX if kind == "math" else HASHES))


def answer_ends(model: LoadedModel, kind: AnswerKind) -> Callable[[int], bool]:
    """A function that takes the answer's tokens one by one and is True when the answer is complete: its box closed, or its line ended."""
    ids: list[int] = []

    def ends(token_id: int) -> bool:
        ids.append(token_id)
        text = model.text(ids)
        return bool(boxes("\\boxed{" + text)) if kind == "math" else "\n" in text.lstrip()

    return ends


def answer_tokens(model: LoadedModel, kind: AnswerKind, ids: list[int], *, ended: bool) -> list[int]:
    """Positions in ``ids`` of tokens with text: not whitespace, and not the closing brace or line break that ended the answer."""
    texts = [model.text([token_id]) for token_id in ids]
    if ended:
        texts[-1] = texts[-1].partition("}" if kind == "math" else "\n")[0]
    return [i for i, text in enumerate(texts) if text.strip()]
