"""Where reasoning steps end: in a text, and in generated token ids while they arrive.

Pure functions over strings and ids. A step ends in the delimiter (by default a blank line). In tokens, a step that started
at token ``s`` is finished after token ``i`` when the delimiter occurs in the text of tokens ``s..i``; the next step starts at
``i + 1``. A token that holds several delimiters is therefore one boundary, and a delimiter never straddles two steps. There is
one implementation, :class:`StepScanner`, for decoding token by token and for finished rollouts alike.

Where no fixed text ends a step, a function can (:func:`register_segmenter`): it is called after every token with the text of the step so
far. Its name takes the delimiter's place, so that runs and bundles made with it are refused where it is not registered.
"""

import re
from collections.abc import Callable, Sequence
from copy import copy

from stir_core.errors import DataError
from stir_core.records import PhaseChoice
from stir_core.tasks.thinking import ThinkingScanner

Decode = Callable[[list[int]], str]
"""Token ids -> text, with or without special tokens, as the caller's tokenizer does it."""

Ends = Callable[[str], bool]
"""Text of the current step so far, from its first character -> whether the step is finished."""

SEGMENTERS: dict[str, Ends] = {}
"""Functions registered in this process, by the delimiter that names them."""
_NAMED = "segmenter:"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,47}")
_SLACK_TOKENS = 8
"""Tokens examined beyond one for each delimiter character: room for characters of several tokens and for tokens without text."""


def register_segmenter(name: str, ends: Ends) -> str:
    """Add a function that says where steps end, in this process; one of the same name that was registered before is replaced.

    Args:
        name: lower-case letters, digits, dashes and underscores.
        ends: text of the current step so far -> True when it is finished. Called after every token, so it must be fast and depend on
            nothing else; an incomplete character at the text's end reads as U+FFFD.

    Returns:
        ``"segmenter:NAME"``, which a config takes as its ``delimiter``.

    Raises:
        DataError: the name cannot be used, or a step without text would be finished.
    """
    if not _NAME.fullmatch(name):
        raise DataError(f"a segmenter cannot be called {name!r}: take lower-case letters, digits, dashes and underscores")
    if ends(""):
        raise DataError(f'segmenter {name} finishes a step that has no text: it must return False for ""')
    SEGMENTERS[_NAMED + name] = ends
    return _NAMED + name


def split_steps(text: str, delimiter: str = "\n\n") -> list[str]:
    """Cut a text into steps; joined they give the text back.

    Every step but perhaps the last is finished; so is the last when it ends in the delimiter (or its segmenter says so). An empty text has
    no steps.

    Args:
        text: an answer, or a part of one.
        delimiter: text that ends a step, or a registered segmenter, which is called after every character.

    Raises:
        DataError: the delimiter is empty, or no such segmenter is registered.
    """
    ends = segmenter(delimiter)
    if not delimiter.startswith(_NAMED):
        *finished, rest = text.split(delimiter)
        return [step + delimiter for step in finished] + ([rest] if rest else [])
    steps, step = [], ""
    for character in text:
        step += character
        if ends(step):
            steps.append(step)
            step = ""
    return steps + ([step] if step else [])


def count_steps(text: str, delimiter: str = "\n\n") -> int:
    """Finished steps of a text, as :func:`split_steps` cuts it."""
    return sum(map(segmenter(delimiter), split_steps(text, delimiter)))


class StepScanner:
    """Tells, token by token, when a step is finished.

    Only a short tail of the current step is decoded for each token (the whole step for a segmenter), never anything before the step's
    start, so the cost of a token does not grow with the length of the answer.

    In an answer that thinks, a delimiter straight after a tag does not end a step: the closing tag begins the step that goes on after it.

    Args:
        thinking: says in which part of the answer it is; ``None``: tags have no meaning.
        phase: with ``"final"``, steps are counted behind the thinking only.
    """

    def __init__(
        self, decode: Decode, delimiter: str = "\n\n", thinking: ThinkingScanner | None = None, phase: PhaseChoice = "thinking"
    ) -> None:
        self.thinking, self._phase = thinking, phase
        self._decode = decode
        self._ends = segmenter(delimiter)
        self._window = None if delimiter.startswith(_NAMED) else len(delimiter) + _SLACK_TOKENS
        self._tail: list[int] = []

    def push(self, token_id: int) -> bool:
        """Take the next generated token; True when it finishes the current step."""
        self._tail.append(token_id)
        if self._window is not None:
            del self._tail[: -self._window]
        finished = self._ends(self._decode(self._tail))
        if finished:
            self._tail = []
        if self.thinking is not None:
            self.thinking.push(token_id)
            finished = finished and not self.thinking.after_tag and not (self._phase == "final" and self.thinking.phase == "thinking")
        return finished

    def copy(self) -> "StepScanner":
        """A scanner that goes on from here by itself."""
        other = copy(self)
        other._tail, other.thinking = self._tail[:], self.thinking.copy() if self.thinking is not None else None
        return other

    def boundaries(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Push these tokens: numbers of tokens after which a step is finished."""
        return tuple(count for count, token_id in enumerate(ids, start=1) if self.push(token_id))


def boundaries(ids: Sequence[int], decode: Decode, delimiter: str = "\n\n") -> tuple[int, ...]:
    """Numbers of tokens after which a step is finished: entry ``m - 1`` belongs to control point ``m``.

    Args:
        ids: generated token ids, without the prompt.
        decode: ids -> text.
        delimiter: text that ends a step, or a registered segmenter.

    Raises:
        DataError: the delimiter is empty, or no such segmenter is registered.
    """
    return StepScanner(decode, delimiter).boundaries(ids)


def segmenter(delimiter: str) -> Ends:
    """The function that says whether a step is finished.

    Raises:
        DataError: the delimiter is empty, or no such segmenter is registered.
    """
    if not delimiter:
        raise DataError('the step delimiter is empty: give the text that ends a step, e.g. "\\n\\n"')
    if not delimiter.startswith(_NAMED):
        return lambda text: delimiter in text
    if delimiter not in SEGMENTERS:
        raise DataError(
            f"steps end where {delimiter} says, which is not registered here: call register_segmenter first, with the function that "
            "the run or bundle was made with"
        )
    return SEGMENTERS[delimiter]
