"""An answer's two parts: the thinking, and the final part behind it; in a text, and in token ids while they arrive.

A thinking block may be opened by the prompt or by the answer. ``phase`` is the part that a token or a control point lies in; it is
``None`` in an answer without tags, which is all that a model without thinking gives.
"""

import re
from collections.abc import Callable, Sequence
from copy import copy
from typing import NamedTuple

from stir_core.records import Phase, PhaseChoice, Thinking

TAGS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
"""Opening and closing tag of a thinking block: of most models, of Mistral's, of gpt-oss (Harmony channels), Seed-OSS and Command A."""
_SLACK_TOKENS = 8
"""Tokens examined beyond one for each character of a tag."""


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


class ThinkingTags(NamedTuple):
    """How a model marks its thinking."""

    opening: str
    closing: str
    end: str
    """Text that a decoder writes to end the thinking."""
    lead: str = ""
    """Text before an answer without thinking."""


def tags_like(opening: str, closing: str) -> ThinkingTags:
    """Tags with the text that ends the thinking; in Harmony that text is the closing tag as well."""
    if "<|message|>" in closing:
        whole = f"<|end|><|start|>assistant{closing}"
        return ThinkingTags(opening, whole, whole, lead=closing)
    return ThinkingTags(opening, closing, f"\n{closing}\n\n")


class ThinkingScanner:
    """Tells, token by token, in which part of an answer it is.

    Args:
        decode: token ids -> text, with the tags.
        opened: whether the prompt ends inside a block.
    """

    def __init__(self, decode: Callable[[list[int]], str], tags: ThinkingTags, *, opened: bool = False) -> None:
        self._decode, self._tags = decode, tags
        self._window = max(len(tags.opening), len(tags.closing)) + _SLACK_TOKENS
        self._recent: list[int] = []
        self.phase: Phase | None = "thinking" if opened else None
        """``None``: no tag yet, so nothing says that the answer thinks."""
        self.after_tag = opened
        """Whether nothing but white space followed the last tag."""
        self.begun = opened
        """Whether more came than white space and what may be the beginning of the first opening tag."""
        self.read = self.closed_at = 0
        """Tokens taken; and those up to the last closing tag."""

    def push(self, token_id: int) -> None:
        """Take the next generated token."""
        self.read += 1
        self._recent = [*self._recent[1 - self._window :], token_id]
        text = self._decode(self._recent)
        tags: tuple[tuple[str, Phase], ...] = ((self._tags.closing, "final"), (self._tags.opening, "thinking"))
        for tag, phase in tags:
            if tag in text:
                self.phase, self.after_tag, self._recent = phase, not text.rpartition(tag)[2].strip(), []
                self.closed_at = self.read if phase == "final" else self.closed_at
                self.begun = True
                return
        self.begun = self.begun or not self._tags.opening.startswith(text.strip())
        self.after_tag = self.after_tag and not text.strip()

    def copy(self) -> "ThinkingScanner":
        """A scanner that goes on from here; its lists are replaced, never changed, so they may be shared."""
        return copy(self)


class PartBudgets:
    """The budgets of an answer's parts, token by token.

    When the budget of the thinking is spent, the text that ends it is written in place of drawn tokens, as budget forcing does
    (arXiv 2501.19393); when that of the final part is spent, the answer ends.

    Args:
        scanner: says in which part the answer is; ``None``: the model does not think, and all of the answer is the final part.
        end: ids of the text that ends the thinking.
        thinking: maximum number of tokens inside thinking blocks, before the text that ends them; ``None``: no limit.
        final: maximum number of tokens of the final part, or of an answer without thinking; ``None``: no limit.
    """

    def __init__(self, scanner: ThinkingScanner | None, end: Sequence[int], *, thinking: int | None, final: int | None) -> None:
        self._scanner, self._end, self._thinking, self._final = scanner, tuple(end), thinking, final
        self._thought = self._said = 0
        self.due: tuple[int, ...] = ()
        """Ids that must come next."""
        self.forced = False
        """Whether a block was closed by the budget."""
        self._look()

    @property
    def left(self) -> int | None:
        """Tokens that the final part may still take; ``None``: it has no limit, or has not begun."""
        return None if self._final is None or self.due or self._phase == "thinking" else max(self._final - self._said, 0)

    def push(self, token_id: int) -> None:
        """Take the next token of the answer, drawn, forced or given."""
        due, inside = self.due, self._phase == "thinking"
        self.due = due[1:] if due[:1] == (token_id,) else ()
        if self._scanner is not None:
            self._scanner.push(token_id)
        self._thought += inside
        closed = inside and self._phase == "final"
        self.forced = self.forced or (closed and due[:1] == (token_id,))
        begun = self._scanner is None or self._scanner.begun
        self._said = 0 if closed or self._phase == "thinking" or self.due or not begun else self._said + 1
        if not self.due:
            self._look()

    def copy(self) -> "PartBudgets":
        """Budgets that go on from here by themselves."""
        other = copy(self)
        other._scanner = self._scanner.copy() if self._scanner is not None else None
        return other

    @property
    def _phase(self) -> Phase | None:
        return self._scanner.phase if self._scanner is not None else None

    def _look(self) -> None:
        if self._phase == "thinking" and self._thinking is not None and self._thought >= self._thinking:
            self.due = self._end


class ThinkingStream:
    """Splits a streamed text into the two parts: a piece that may be the beginning of a tag waits for the rest.

    Joined, the pieces of each part do not depend on how the text was cut.
    """

    def __init__(self, tags: ThinkingTags, *, opened: bool = False) -> None:
        self._tags, self._inside, self._held, self._begun = tags, opened, "", opened

    def push(self, text: str, *, last: bool = False) -> list[tuple[Phase, str]]:
        """The pieces of text that are certain now, each with its part.

        Args:
            last: no more text follows, so nothing is held back.
        """
        self._held += text
        if not self._begun and self._tags.lead:
            if self._tags.lead.startswith(self._held) and self._held != self._tags.lead and not last:
                return []
            if self._held.startswith(self._tags.lead):
                self._held, self._begun = self._held.removeprefix(self._tags.lead), True
        pieces: list[tuple[Phase, str]] = []
        while True:
            tag = self._tags.closing if self._inside else self._tags.opening
            before, found, after = self._held.partition(tag)
            if not found and not last:
                kept = next((n for n in range(min(len(tag) - 1, len(before)), 0, -1) if tag.startswith(before[-n:])), 0)
                kept = len(before) if not self._begun and not before[: len(before) - kept].strip() else kept
                before, after = before[: len(before) - kept], before[len(before) - kept :]
            if before and (self._begun or not found):  # white space before a first opening tag belongs to neither part
                self._begun = True
                pieces.append(("thinking" if self._inside else "final", before))
            self._held = after
            if not found:
                return pieces
            self._inside, self._begun = not self._inside, True


def in_phase(phase: Phase | None, chosen: PhaseChoice) -> bool:
    """Whether a control point of this phase is among the chosen; one of an answer that does not think always is."""
    return phase is None or chosen in ("both", phase)


def graded_part(text: str, thinking: Thinking | None) -> str:
    """The part of an answer that grading reads; of an answer that did not end its thinking, an open block."""
    if thinking is None:
        return text
    return text[thinking.chars :] if thinking.closed else TAGS[0][0]
