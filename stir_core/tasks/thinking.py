"""An answer's two parts: the thinking, and the final part behind it. Pure text work."""

import re
from collections.abc import Sequence
from typing import NamedTuple

TAGS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"))
"""Opening and closing tag of a thinking block: of most models, of Mistral's, and of gpt-oss (Harmony channels)."""


class SplitAnswer(NamedTuple):
    """An answer's text in its two parts."""

    thinking: str
    """The text before the last closing tag, without an opening tag at its beginning; empty where there is no thinking."""
    final: str | None
    """The rest of the text after that tag, unchanged; ``None`` where a block was opened and not closed: the answer is unfinished."""


def split_thinking(text: str, tags: Sequence[tuple[str, str]] = TAGS, *, opened: bool = False) -> SplitAnswer:
    """Split an answer's text at the last closing tag.

    Args:
        text: the generated text, without the prompt, its special tokens kept.
        tags: pairs of opening and closing tags.
        opened: whether the prompt ends inside a block.
    """
    start, closing = max((text.rfind(closing), closing) for _, closing in tags)
    end = start + len(closing) if start >= 0 else 0
    openings = "|".join(re.escape(opening) for opening, _ in tags)
    unclosed = bool(re.search(openings, text[end:])) or (opened and start < 0)
    thinking = re.sub(rf"^\s*(?:{openings})", "", text if unclosed else text[: max(start, 0)])
    return SplitAnswer(thinking, None if unclosed else text[end:])
