"""Making a model answer now: a text that only an answer can follow, and where that answer ends.

The wording is what the prompts ask for (``tasks.prompts``) and grading recognises (``tasks.extract``): ``\\boxed{`` for mathematics,
``####`` for numbers, letters, and yes or no, unless the prompt's template asks for a box.
No blank stands behind ``####``: whether it belongs to the answer's first token is the
tokenizer's business (``" yes"`` is one token, ``" 4"`` two), and a blank forced in the wrong place is text that a model never saw.
"""

from collections.abc import Callable
from typing import NamedTuple

from stir_core.evaluate.decoders.base import Question
from stir_core.evaluate.decoders.loop import Desk
from stir_core.models.cache import Row
from stir_core.models.generation import Strand
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed
from stir_core.models.scheduler import Steps, decode
from stir_core.records import AnswerKind
from stir_core.tasks.extract import boxes

BOX = "The final answer is \\boxed{"
HASHES = "####"
_TAIL = 8
"""Tokens that are looked at for the end of a line."""


class Induced(NamedTuple):
    """An answer that was asked for."""

    inducer: list[int]
    strand: Strand
    """The answer behind it; ``finish`` says ``"delimiter"`` when it is complete."""
    room: int
    """Most tokens that the budget allows it."""


def induce(desk: Desk, question: Question, row: Row, ids: list[int], most: int | None = None) -> Steps[Induced | None]:
    """Append an inducer and decode the answer greedily, up to ``most`` tokens; ``None`` when the budget has no room for it.

    Args:
        row: holds the prompt and all of ``ids``; afterwards also the inducer and the answer but for its last token.
        ids: what is committed so far.
    """
    model, kind = desk.model, question.form
    inducer = inducer_ids(model, kind, ids)
    room = desk.budget - len(ids) - len(inducer)
    if room < 1:
        return None
    strand = Strand("answer", room if most is None else min(most, room), ends_step=answer_ends(model, kind), row=row)
    here = yield [Feed(row, inducer)]
    yield from decode([strand], here.logits)
    return Induced(inducer, strand, room)


def inducer_ids(model: LoadedModel, kind: AnswerKind, before: list[int]) -> list[int]:
    """Token ids that make an answer follow behind the ids ``before``; they begin a new line where that text does not end one."""
    text = model.text(before[-_TAIL:])
    return model.tokens(("" if text.endswith("\n") else "\n\n") + (BOX if kind == "math" else HASHES))


def answer_ends(model: LoadedModel, kind: AnswerKind) -> Callable[[int], bool]:
    """Fed the tokens behind an inducer one by one; True when the answer is complete: its box closed, or its line ended."""
    ids: list[int] = []

    def ends(token_id: int) -> bool:
        ids.append(token_id)
        text = model.text(ids)
        return bool(boxes("\\boxed{" + text)) if kind == "math" else "\n" in text.lstrip()

    return ends


def answer_tokens(model: LoadedModel, kind: AnswerKind, ids: list[int], *, ended: bool) -> list[int]:
    """Places in ``ids`` of the tokens that say something: no blanks, and no closing brace or end of line where that is what ended it."""
    texts = [model.text([token_id]) for token_id in ids]
    if ended:
        texts[-1] = texts[-1].partition("}" if kind == "math" else "\n")[0]
    return [i for i, text in enumerate(texts) if text.strip()]
