"""The supported part of the chat-completions protocol: strict requests, responses, chunks, and errors of one line."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from stir_core.deploy.serving.choices import Choice
from stir_core.errors import StirError
from stir_core.records import StepEvent, TokenEvent, Variant

MAX_MESSAGES = 1000
MAX_STOPS = 16
MAX_CHOICES = 16
MAX_ALTERNATIVES = 20


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
    content: str | list[TextPart] | None = None
    """``null`` is an empty text."""
    name: str | None = None
    """Accepted and ignored: chat templates have no place for it."""
    reasoning_content: str | None = None
    """The thinking of an earlier answer, as clients send it back: accepted and ignored, since templates drop it."""
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    """Not supported, as the next ones: clients send them back empty with an earlier answer."""
    function_call: None = None
    refusal: None = None
    audio: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    def plain(self) -> dict[str, str]:
        """The message in a chat template's form."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())
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
    max_final_tokens: Annotated[int, Field(ge=1)] | None = None
    """Budget of the final part, or of an answer without thinking."""


class StreamOptions(_Strict):
    """The options of a streamed answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Accepted and ignored: nothing is padded."""


class TextFormat(_Strict):
    """The one format of an answer."""

    type: Literal["text"]


Stop = Annotated[str, Field(min_length=1, max_length=1000)]


class _Asked(_Strict):
    """What requests for an answer have in common. Unknown fields are refused, never ignored; known fields without support are accepted at a
    value that asks for nothing."""

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """``None``: the bundle's own."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    """Answers, each from a random stream of its own."""
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    """Texts that end an answer before them."""
    seed: int | None = None
    return_token_ids: bool | None = None
    """Give the ids of the prompt and of each answer, as in vLLM; not in a stream."""
    user: str | None = None
    """Accepted and ignored."""
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    """Not supported, as the next ones: only the value that asks for nothing is accepted."""
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    repetition_penalty: Annotated[float, Field(ge=1, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    stir: StirOptions = StirOptions()

    @property
    def stops(self) -> tuple[str, ...]:
        """All stop sequences."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class CompletionRequest(_Asked):
    """A request to go on after a prompt that is sent as it is: as token ids, or as text without a chat template."""

    prompt: Annotated[str, Field(min_length=1)] | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    stream: Literal[False] | None = None
    """Not supported, as the next ones."""
    echo: Literal[False] | None = None
    logprobs: None = None


class ChatRequest(_Asked):
    """A request for the next turn of a conversation."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    thinking_token_budget: Annotated[int, Field(ge=0)] | None = None
    """Tokens of thinking before the tag that ends it is written, as in vLLM."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] | None = None
    """Likeliest tokens beside each token; needs ``logprobs``."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    metadata: dict[str, str] | None = None
    """Accepted and ignored, as the next ones are."""
    store: bool | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    response_format: TextFormat | None = None
    """Not supported, as the next ones: only the value that asks for nothing is accepted."""
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    chat_template_kwargs: dict[str, bool | int | float | str] | None = None
    """Arguments of the chat template, in addition to the bundle's own."""

    @model_validator(mode="after")
    def _fits_together(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError("top_logprobs", "top_logprobs needs logprobs = true")
        if self.return_token_ids and self.stream:
            raise PydanticCustomError("return_token_ids", "return_token_ids needs stream = false")
        return self

    @property
    def budget(self) -> int | None:
        """Maximum number of tokens of the answer."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


RequestT = TypeVar("RequestT", bound=_Asked)


def parse(body: bytes, form: type[RequestT] = ChatRequest) -> RequestT:
    """Validate a request.

    Raises:
        Refused: 400, naming the first wrong field.
    """
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    param = "".join(each if each.isprintable() else "?" for each in ".".join(str(part) for part in first["loc"])[:100])
    reason = first["msg"].splitlines()[0][:200]
    if first["type"] == "extra_forbidden":
        reason = "is not a known field"
        if len(first["loc"]) == 1:
            reason += f": fields are {', '.join(form.model_fields)}"
    raise Refused(400, f"{param or 'the body'}: {reason}", param=param or None)


def usage(prompt: int, choices: Sequence[Choice]) -> dict[str, Any]:
    """Token counts of a response. Previews are not completion tokens; their count is in ``stir``."""
    answer = sum(choice.tokens for choice in choices)
    counts: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
    if thought := [choice.trace.thinking.tokens for choice in choices if choice.trace is not None and choice.trace.thinking is not None]:
        counts["completion_tokens_details"] = {"reasoning_tokens": sum(thought)}
    return counts


def steering_facts(choice: Choice, digest: str, *, whole: bool) -> dict[str, Any]:
    """Counts of steps, impulses and tokens; with ``whole`` also the trace, with evidence and decisions step by step.

    Of an answer that a stop sequence ended they cover what was decoded until then, without ``forward_tokens``.
    """
    steps, trace = choice.decided, choice.trace
    facts: dict[str, Any] = {
        "bundle": digest,
        "steps": len(steps),
        "injected": sum(step.decision.chosen is not None for step in steps),
        "probe_tokens": sum(step.probe_tokens for step in steps),
        "reused_tokens": sum(step.reused_tokens for step in steps),
    }
    if trace is not None:
        facts |= {"variant": trace.variant, "forward_tokens": trace.forward_tokens}
    return facts | ({"trace": trace.model_dump(mode="json")} if whole and trace is not None else {})


def token_entry(text: Callable[[list[int]], str], event: TokenEvent) -> dict[str, Any]:
    """A token with its log-probability and its alternatives. Bytes of an incomplete character are not known."""

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        token = text([token_id])
        return {"token": token, "logprob": logprob, "bytes": None if "\ufffd" in token else list(token.encode())}

    return entry(event.token_id, event.logprob) | {"top_logprobs": [entry(*alternative) for alternative in event.alternatives]}


def completion(
    name: str, model: str, prompt_ids: Sequence[int], choices: Sequence[Choice], facts: Sequence[dict[str, Any]], *, chat: bool, ids: bool
) -> dict[str, Any]:
    """A whole response; ``stir`` of the first answer stands at the top, too.

    Args:
        chat: in the form of chat completions, not of completions.
        ids: with the token ids of the prompt and of each answer, in the places where vLLM has them.
    """
    told: list[dict[str, Any]] = []
    for choice, stir in zip(choices, facts, strict=True):
        said = {"message": {"role": "assistant", **choice.message}} if chat else {"text": choice.message["content"]}
        told.append({"index": choice.index, **said, "logprobs": _logprobs(choice), "finish_reason": choice.finish, "stir": stir})
        if ids:
            told[-1] |= {"token_ids": choice.ids} | ({} if chat else {"prompt_token_ids": list(prompt_ids)})
    head = _head(name, model, "chat.completion" if chat else "text_completion")
    more = {"prompt_token_ids": list(prompt_ids)} if chat and ids else {}
    return {**head, **more, "choices": told, "usage": usage(len(prompt_ids), choices), "stir": facts[0]}


def chunk(name: str, model: str, choice: Choice, delta: dict[str, Any], *, last: bool = False, **more: Any) -> dict[str, Any]:
    """A piece of a streamed answer, with the log-probabilities of its tokens."""
    told = {"index": choice.index, "delta": delta, "logprobs": _logprobs(choice), "finish_reason": choice.finish if last else None}
    return {**_head(name, model, "chat.completion.chunk"), "choices": [told], **more}


def usage_chunk(name: str, model: str, prompt: int, choices: Sequence[Choice]) -> dict[str, Any]:
    """The last chunk, if the request asks for usage."""
    return {**_head(name, model, "chat.completion.chunk"), "choices": [], "usage": usage(prompt, choices)}


def _logprobs(choice: Choice) -> dict[str, Any] | None:
    return None if choice.logprobs is None else {"content": list(choice.told()), "refusal": None}


def decided(event: StepEvent) -> dict[str, Any]:
    """A decision in a streamed answer."""
    return {"step": event.step, "m": event.m, "decision": event.decision.model_dump(mode="json")}


def sse(data: dict[str, Any] | str) -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


def _head(name: str, model: str, kind: str) -> dict[str, Any]:
    return {"id": name, "object": kind, "created": int(time.time()), "model": model}
