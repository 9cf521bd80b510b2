"""The supported part of the chat-completions protocol: strict requests, responses, chunks, and errors of one line."""

import json
import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stir_core.errors import StirError
from stir_core.records import StepEvent, Trace, Variant

MAX_MESSAGES = 1000
_FINISH = {"stop": "stop", "length": "length", "delimiter": "length"}


class Refused(StirError):
    """A request that is refused: one line, an HTTP status, and the protocol's error fields."""

    def __init__(self, status: int, line: str, *, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None):
        super().__init__(line)
        self.status, self.kind, self.param, self.code = status, kind, param, code
        self.headers: dict[str, str] = {}

    def body(self) -> dict[str, Any]:
        """The error in the protocol's form."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class TextPart(_Strict):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class Message(_Strict):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def plain(self) -> dict[str, str]:
        """The message in a chat template's form."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StirOptions(_Strict):
    """The steering options of a request."""

    strength: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Multiple of the bundle's strength; 0 injects nothing."""
    off: bool = False
    """Decode unsteered."""
    variant: Variant | None = None
    """An ablation instead of the method."""
    decisions: bool = False
    """Return the gate's decisions and their evidence."""


class StreamOptions(_Strict):
    """The options of a streamed answer."""

    include_usage: bool = False


class ChatRequest(_Strict):
    """A request for one answer. Unknown fields are refused, never ignored."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """``None``: the bundle's own."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    """Accepted and ignored."""
    chat_template_kwargs: dict[str, bool | int | float | str] = {}
    """Arguments of the chat template, in addition to the bundle's own."""
    stir: StirOptions = StirOptions()

    @property
    def budget(self) -> int | None:
        """Maximum number of tokens of the answer."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


def parse(body: bytes) -> ChatRequest:
    """Validate a request.

    Raises:
        Refused: 400, naming the first wrong field.
    """
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    param = "".join(each if each.isprintable() else "?" for each in ".".join(str(part) for part in first["loc"])[:100])
    reason = first["msg"].splitlines()[0][:200]
    if first["type"] == "extra_forbidden":
        reason = "is not a known field"
        if len(first["loc"]) == 1:
            reason += f": fields are {', '.join(ChatRequest.model_fields)}"
    raise Refused(400, f"{param or 'the body'}: {reason}", param=param or None)


def usage(trace: Trace) -> dict[str, Any]:
    """Token counts of an answer. Previews are not completion tokens; their count is in ``stir``."""
    prompt, answer = len(trace.prompt_ids), trace.tokens_used
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def steering_facts(trace: Trace, digest: str, *, whole: bool) -> dict[str, Any]:
    """Counts of steps, impulses and tokens; with ``whole`` also the trace, with evidence and decisions step by step."""
    facts: dict[str, Any] = {
        "bundle": digest,
        "variant": trace.variant,
        "steps": len(trace.steps),
        "injected": sum(step.decision.chosen is not None for step in trace.steps),
        "probe_tokens": trace.probe_tokens,
        "reused_tokens": trace.reused_tokens,
        "forward_tokens": trace.forward_tokens,
    }
    return facts | ({"trace": trace.model_dump(mode="json")} if whole else {})


def completion(name: str, model: str, trace: Trace, stir: dict[str, Any]) -> dict[str, Any]:
    """A whole answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": trace.text}, "logprobs": None, "finish_reason": _FINISH[trace.finish]}
    return {**_head(name, model, "chat.completion"), "choices": [choice], "usage": usage(trace), "stir": stir}


def chunk(name: str, model: str, delta: dict[str, Any], *, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """A piece of a streamed answer."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": _FINISH[finish] if finish else None}
    return {**_head(name, model, "chat.completion.chunk"), "choices": [choice], **more}


def usage_chunk(name: str, model: str, trace: Trace) -> dict[str, Any]:
    """The last chunk, if the request asks for usage."""
    return {**_head(name, model, "chat.completion.chunk"), "choices": [], "usage": usage(trace)}


def decided(event: StepEvent) -> dict[str, Any]:
    """A decision in a streamed answer."""
    return {"step": event.step, "m": event.m, "decision": event.decision.model_dump(mode="json")}


def sse(data: dict[str, Any] | str) -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


def _head(name: str, model: str, kind: str) -> dict[str, Any]:
    return {"id": name, "object": kind, "created": int(time.time()), "model": model}
