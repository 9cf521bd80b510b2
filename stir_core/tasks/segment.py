"""Where reasoning steps end: in a text, and in generated token ids while they arrive.

Pure functions over strings and ids. A step ends in the delimiter (by default a blank line). In tokens, a step that started
at token ``s`` is finished after token ``i`` when the delimiter occurs in the text of tokens ``s..i``; the next step starts at
``i + 1``. A token that holds several delimiters is therefore one boundary, and a delimiter never straddles two steps. There is
one implementation, :class:`StepScanner`, for decoding token by token and for finished rollouts alike.
"""

from collections.abc import Callable, Sequence

from stir_core.errors import DataError

Decode = Callable[[list[int]], str]
"""Token ids -> text, special tokens left out or not, as the caller's tokenizer does it."""

_SLACK_TOKENS = 8
"""Tokens looked at beyond one a delimiter character: room for characters spread over several tokens and for tokens without text."""


def split_steps(text: str, delimiter: str = "\n\n") -> list[str]:
    """Cut a text into steps; joined they give the text back.

    Every step but perhaps the last ends in the delimiter; the last one is unfinished when it does not. An empty text has
    no steps.

    Raises:
        DataError: the delimiter is empty.
    """
    _check(delimiter)
    *finished, rest = text.split(delimiter)
    return [step + delimiter for step in finished] + ([rest] if rest else [])


class StepScanner:
    """Tells, token by token, when a step is finished.

    Only a short tail of the current step is decoded for each token, never anything before the step's start, so the cost of a
    token does not grow with the length of the answer.
    """

    def __init__(self, decode: Decode, delimiter: str = "\n\n") -> None:
        _check(delimiter)
        self._decode = decode
        self._delimiter = delimiter
        self._window = len(delimiter) + _SLACK_TOKENS
        self._tail: list[int] = []

    def push(self, token_id: int) -> bool:
        """Take the next generated token; True when it finishes the current step."""
        self._tail = [*self._tail[-self._window + 1 :], token_id]
        finished = self._delimiter in self._decode(self._tail)
        if finished:
            self._tail = []
        return finished


def boundaries(ids: Sequence[int], decode: Decode, delimiter: str = "\n\n") -> tuple[int, ...]:
    """Numbers of tokens after which a step is finished: entry ``m - 1`` belongs to control point ``m``.

    Args:
        ids: generated token ids, without the prompt.
        decode: ids -> text.
        delimiter: text that ends a step.

    Raises:
        DataError: the delimiter is empty.
    """
    scanner = StepScanner(decode, delimiter)
    return tuple(count for count, token_id in enumerate(ids, start=1) if scanner.push(token_id))


def _check(delimiter: str) -> None:
    if not delimiter:
        raise DataError('the step delimiter is empty: give the text that ends a step, e.g. "\\n\\n"')
