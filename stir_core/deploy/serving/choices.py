"""One choice of a response: its text up to a stop sequence, its tokens, and what is known of it when it ends."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from stir_core.records import StepEvent, TokenEvent, Trace
from stir_core.tasks.thinking import ThinkingStream


class StopText:
    """The text of an answer up to its first stop sequence. What may be the beginning of one is held back until that is settled."""

    def __init__(self, stops: tuple[str, ...]):
        self._stops = stops
        self._held = ""
        self.stopped = False
        """Whether a stop sequence was found; nothing follows it."""

    def push(self, text: str) -> str:
        """Add text; returns what can be sent, which may be empty."""
        if self.stopped:
            return ""
        text = self._held + text
        found = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((n for stop in self._stops for n in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What was held back, at the end of the answer."""
        held, self._held = self._held, ""
        return held


@dataclass
class Choice:
    """One of the answers to a request, as its events arrive."""

    index: int
    text: StopText
    parts: ThinkingStream | None = None
    """Splits the text into thinking and final part; ``None``: the model does not think."""
    logprobs: Callable[[TokenEvent], dict[str, Any]] | None = None
    """Makes a token's entry in the protocol's form; ``None``: they were not asked for."""
    message: dict[str, str] = field(default_factory=lambda: {"content": ""})
    """The text that has left: ``content``, and ``reasoning_content`` if there is thinking."""
    sent: str = ""
    received: str = ""
    """The answer's text so far; ``sent`` is the part of it that has left."""
    ids: list[int] = field(default_factory=list)
    """Its tokens so far."""
    decided: list[StepEvent] = field(default_factory=list)
    trace: Trace | None = None
    settled: bool = False
    """Whether all that is sent of it is known."""
    _untold: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    """Entries of tokens whose text has not left, with the place in the text at which they begin."""

    @property
    def tokens(self) -> int:
        """Number of its tokens so far."""
        return len(self.ids)

    @property
    def finish(self) -> str:
        """Why it ended, in the protocol's words."""
        return "stop" if self.text.stopped or (self.trace is not None and self.trace.finish == "stop") else "length"

    def token(self, event: TokenEvent) -> str:
        """Add a token; returns the text that can be sent."""
        self.ids.append(event.token_id)
        if self.logprobs is not None:
            self._untold.append((len(self.received), self.logprobs(event)))
        self.received += event.text
        return self._left(self.text.push(event.text))

    def end(self, trace: Trace) -> str:
        """The answer is whole; returns the text that was held back."""
        self.trace = trace
        rest = (
            trace.text[len(self.received) :] if trace.text.startswith(self.received) else ""
        )  # an incomplete character waited for its end
        self.received += rest
        return self._left(self.text.push(rest)) + self._left(self.text.rest())

    def fields(self, text: str) -> dict[str, str]:
        """Text that can be sent, as fields of a message; at the end also the possible beginning of a tag that was held back."""
        pieces = [("final", text)] if self.parts is None else self.parts.push(text, last=self.settled)
        added: dict[str, str] = {}
        for phase, piece in pieces:
            if piece:
                key = "reasoning_content" if phase == "thinking" else "content"
                added[key] = added.get(key, "") + piece
        self.message |= {key: self.message.get(key, "") + piece for key, piece in added.items()}
        return added

    def told(self) -> Iterator[dict[str, Any]]:
        """Entries of the tokens whose text has begun to leave since the last call, all of them at the end."""
        whole = self.trace is not None and not self.text.stopped
        while self._untold and (whole or self._untold[0][0] < len(self.sent)):
            yield self._untold.pop(0)[1]

    def _left(self, text: str) -> str:
        self.sent += text
        return text
