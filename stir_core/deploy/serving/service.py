"""An OpenAI-compatible server over a bundle: one decode loop for all requests, and no answer depends on the others.

``POST /v1/chat/completions`` (streamed or whole), ``/v1/completions`` (whole), ``GET /v1/models``, ``/health``, ``/metrics``. A request
may contain ``"stir": {"strength": 0.5, "off": false, "variant": null, "decisions": true}``; unknown fields are refused.
"""

import asyncio
import hmac
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from stir_core.deploy.serving.choices import Choice, StopText
from stir_core.deploy.serving.guard import THIS_MACHINE, HostCheck
from stir_core.deploy.serving.protocol import (
    ChatRequest,
    CompletionRequest,
    Refused,
    chunk,
    completion,
    decided,
    parse,
    sse,
    steering_facts,
    token_entry,
    usage_chunk,
)
from stir_core.deploy.serving.runtime import SteeredModel
from stir_core.deploy.serving.worker import Busy, Ended, Ticket, Worker
from stir_core.errors import ConfigError, DeployError, ModelError, PromptError, SteeringError
from stir_core.records import Event, StepEvent, TokenEvent, Trace, TraceEvent
from stir_core.requests import Limits
from stir_core.version import VERSION

KEY = "STIR_API_KEY"
"""Environment variable with the bearer token that requests must send; without it no token is needed."""
_ENDED = {"timeout": 504, "stopping": 503, "failed": 500}
_LOOK = 0.25
"""Seconds between two checks whether the client is still connected."""
BODY_SECONDS = 30.0
"""Maximum time in seconds for a request's body to arrive."""
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class ServerMetrics:
    """The server's metrics for Prometheus, in a registry of their own."""

    def __init__(self, load: Callable[[], tuple[int, int]]):
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self._requests = Counter("stir_requests", "Requests for an answer, by HTTP status.", ["status"], **own)
        self._ended = Counter("stir_answers", "Answers, by how they ended.", ["how"], **own)
        self._tokens = Counter("stir_tokens", "Tokens: read in prompts, committed to answers, decoded in previews.", ["kind"], **own)
        self._decisions = Counter("stir_decisions", "Decisions of the gate before a step.", ["outcome"], **own)
        self._seconds = Histogram("stir_answer_seconds", "From request to the end of the answer.", buckets=_SECONDS, **own)
        self._first = Histogram("stir_first_token_seconds", "From request to the first token.", buckets=_SECONDS, **own)
        Gauge("stir_rows_live", "Answers being decoded.", **own).set_function(lambda: load()[0])
        Gauge("stir_rows_waiting", "Answers waiting for a row.", **own).set_function(lambda: load()[1])

    def asked(self, status: int) -> None:
        """Count a request that was answered or refused with this status."""
        self._requests.labels(str(status)).inc()

    def first(self, seconds: float) -> None:
        """Record the time to an answer's first token."""
        self._first.observe(seconds)

    def decided(self, event: StepEvent) -> None:
        """Count a decision of the gate."""
        self._decisions.labels("null" if event.decision.chosen is None else "injected").inc()

    def finished(self, trace: Trace, seconds: float) -> None:
        """Count a finished answer."""
        self._answered(trace.finish, seconds, prompt=len(trace.prompt_ids), committed=trace.tokens_used, probe=trace.probe_tokens)

    def stopped(self, choice: Choice, prompt: int, seconds: float) -> None:
        """Count an answer that a stop sequence ended."""
        probe = sum(step.probe_tokens for step in choice.decided)
        self._answered("stop", seconds, prompt=prompt, committed=choice.tokens, probe=probe)

    def _answered(self, how: str, seconds: float, **tokens: int) -> None:
        self._ended.labels(how).inc()
        self._seconds.observe(seconds)
        for kind, count in tokens.items():
            self._tokens.labels(kind).inc(count)

    def cut(self, how: str) -> None:
        """Count an unfinished answer: its client left, its time ran out, or decoding failed."""
        self._ended.labels(how).inc()

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)


@dataclass
class _Call:
    """One request that is being answered."""

    name: str
    asked: ChatRequest | CompletionRequest
    began: float
    prompt_ids: list[int]
    choices: list[Choice]
    queue: "asyncio.Queue[tuple[Choice, Event | Ended]]" = field(default_factory=asyncio.Queue)
    tickets: list[Ticket] = field(default_factory=list)
    """One for each choice."""
    first: bool = True
    """Whether no token has come."""

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens of the prompt."""
        return len(self.prompt_ids)


class Service:
    """The endpoints and their shared state."""

    def __init__(self, steered: SteeredModel, name: str, limits: Limits, key: str | None):
        self.steered, self.name, self.limits, self._key = steered, name, limits, key
        self.worker = Worker(steered, rows=limits.rows, waiting=limits.queue)
        self.meters = ServerMetrics(lambda: self.worker.load)
        self._mean_seconds = 1.0

    # -- endpoints -----------------------------------------------------------------------------------------------------

    async def chat(self, request: Request) -> Response:
        """``POST /v1/chat/completions``."""
        return await self._answer(request, ChatRequest)

    async def complete(self, request: Request) -> Response:
        """``POST /v1/completions``."""
        return await self._answer(request, CompletionRequest)

    async def _answer(self, request: Request, form: type[ChatRequest] | type[CompletionRequest]) -> Response:
        try:
            self._let_in(request)
            call = self._begin(parse(await self._body(request), form))
            response = self._streamed(call) if call.asked.stream else await self._whole(call, request)
        except Refused as refused:
            self.meters.asked(refused.status)
            raise
        self.meters.asked(response.status_code)
        return response

    async def models(self, request: Request) -> Response:
        """``GET /v1/models``."""
        self._let_in(request)
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def model(self, request: Request) -> Response:
        """``GET /v1/models/NAME``."""
        self._let_in(request)
        self._check_name(str(request.path_params["name"]))
        return JSONResponse(self._described())

    async def health(self, request: Request) -> Response:
        """``GET /health``: 200 while the decode loop runs, else 503."""
        live, waiting = self.worker.load
        alive = self.worker.alive
        facts = {"status": "ok" if alive else "stopped", "live": live, "waiting": waiting, "version": VERSION}
        return JSONResponse(facts | {"bundle": self.steered.bundle.manifest.digest}, status_code=200 if alive else 503)

    async def metrics(self, request: Request) -> Response:
        """``GET /metrics``."""
        self._let_in(request)
        return Response(self.meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    # -- admission -----------------------------------------------------------------------------------------------------

    def _let_in(self, request: Request) -> None:
        given = request.headers.get("authorization", "")
        if self._key is not None and not hmac.compare_digest(given.encode(), f"Bearer {self._key}".encode()):
            refused = Refused(401, "the bearer token is missing or wrong", kind="authentication_error", code="invalid_api_key")
            refused.headers["WWW-Authenticate"] = "Bearer"
            raise refused

    async def _body(self, request: Request) -> bytes:
        if not request.headers.get("content-type", "").split(";")[0].strip().lower().endswith("json"):
            raise Refused(415, "the body must be JSON: send Content-Type: application/json")
        too_large = Refused(413, f"the body has more than the {self.limits.max_body:,} bytes that are read: send less")
        said = request.headers.get("content-length", "")
        if said.isascii() and said.isdigit() and (len(said) > 18 or int(said) > self.limits.max_body):
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    body += part
                    if len(body) > self.limits.max_body:
                        raise too_large
        except ClientDisconnect:
            raise Refused(400, "the request ended before its body was complete: send it again") from None
        except TimeoutError:
            raise Refused(408, f"the body was not complete after {BODY_SECONDS:g} seconds: send it again") from None
        return bytes(body)

    def _begin(self, asked: ChatRequest | CompletionRequest) -> _Call:
        self._check_name(asked.model)
        chat, options = asked if isinstance(asked, ChatRequest) else None, asked.stir
        name = f"{'cmpl' if chat is None else 'chatcmpl'}-{uuid.uuid4().hex}"
        loop = asyncio.get_running_loop()

        def sink(choice: Choice, event: Event | Ended) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(call.queue.put_nowait, (choice, event))

        try:
            decode = self.steered.decoding(
                max_new_tokens=asked.max_tokens if chat is None else chat.budget,
                max_thinking_tokens=None if chat is None else chat.thinking_token_budget,
                max_final_tokens=options.max_final_tokens,
                temperature=asked.temperature,
                top_p=asked.top_p,
            )
            if decode.max_new_tokens > self.limits.max_new_tokens:
                most = f"this server gives {self.limits.max_new_tokens}"
                raise Refused(400, f"{decode.max_new_tokens} tokens are asked for, {most}", param="max_tokens")
            if (asked.n or 1) > max(self.limits.rows, self.limits.queue):
                raise Refused(400, f"n = {asked.n} answers at once do not fit into this server: ask one by one", param="n")
            ids = self._prompt_ids(asked, decode.max_new_tokens)
            entry = partial(token_entry, self.steered.model.text) if asked.logprobs else None
            choices = [
                Choice(i, StopText(asked.stops), self.steered.parts(ids) if chat is not None else None, entry) for i in range(asked.n or 1)
            ]
            call = _Call(name, asked, time.monotonic(), ids, choices)
            stream = name if asked.seed is None else f"seed {asked.seed}"  # random streams are named by the job
            jobs = [
                self.steered.job(
                    f"{stream} choice {choice.index}" if choice.index else stream,
                    ids,
                    strength=options.strength,
                    off=options.off,
                    variant=options.variant,
                    decode=decode,
                    likeliest=(chat.top_logprobs if chat is not None else None) or 0,
                )
                for choice in call.choices
            ]
            call.tickets = self.worker.submit(jobs, [partial(sink, choice) for choice in call.choices], timeout=self.limits.timeout)
        except (PromptError, SteeringError, ConfigError, ModelError) as error:
            line = str(error).replace(self.steered.model.identity.name, self.name)  # the model's own name may be a folder of this machine
            param = {PromptError: "messages" if chat is not None else "prompt", ModelError: "chat_template_kwargs"}.get(type(error))
            raise Refused(400, line, param=param) from None
        except Busy as error:
            refused = Refused(429, str(error), kind="rate_limit_error", code="rate_limit_exceeded")
            refused.headers["Retry-After"] = str(max(1, min(60, round(self._mean_seconds))))
            raise refused from None
        except DeployError as error:
            raise Refused(503, str(error), kind="server_error") from None
        return call

    def _prompt_ids(self, asked: ChatRequest | CompletionRequest, room: int) -> list[int]:
        model = self.steered.model
        if isinstance(asked, ChatRequest):
            messages = [message.plain() for message in asked.messages]
            return self.steered.prompt_ids(messages, room=room, template_args=asked.chat_template_kwargs)
        ids = model.tokens(asked.prompt) if isinstance(asked.prompt, str) else asked.prompt
        if not ids or max(ids) >= len(model.tokenizer):
            raise PromptError(f"the prompt has {len(ids)} tokens: give at least one, each from 0 to {len(model.tokenizer) - 1}")
        return model.fitting(ids, room=room)

    def _check_name(self, name: str) -> None:
        if name != self.name:
            raise Refused(404, f"there is no model {name[:80]!r} here: use {self.name!r}", param="model", code="model_not_found")

    def _described(self) -> dict[str, Any]:
        manifest = self.steered.bundle.manifest
        facts = {"bundle": manifest.digest, "base_model": manifest.base_model or manifest.model.name, "actions": manifest.n_actions}
        return {"id": self.name, "object": "model", "created": 0, "owned_by": "stir", "stir": facts | {"layers": list(manifest.layers)}}

    # -- answering -----------------------------------------------------------------------------------------------------

    async def _whole(self, call: _Call, request: Request) -> Response:
        waiting = asyncio.ensure_future(self._last(call))
        try:
            while not waiting.done():
                await asyncio.wait({waiting}, timeout=_LOOK)
                if not waiting.done() and await request.is_disconnected():
                    self.meters.cut("reader left")
                    return Response(status_code=499)
        finally:
            waiting.cancel()
            self._leave(call)
        if (ended := waiting.result()) is not None:
            raise Refused(_ENDED[ended.kind], ended.why, kind="server_error", code=ended.kind)
        facts = [self._facts(call, choice) for choice in call.choices]
        form = {"chat": isinstance(call.asked, ChatRequest), "ids": bool(call.asked.return_token_ids)}
        return JSONResponse(completion(call.name, self.name, call.prompt_ids, call.choices, facts, **form))

    async def _last(self, call: _Call) -> Ended | None:
        async for _, event, _ in self._events(call):
            if isinstance(event, Ended):
                return event
        return None

    async def _events(self, call: _Call) -> AsyncIterator[tuple[Choice, Event | Ended, dict[str, str]]]:
        """A request's events with the text that each lets out, as fields of a message, until all choices are over or one is cut."""
        while not all(choice.settled for choice in call.choices):
            choice, event = await call.queue.get()
            if choice.settled or (choice.text.stopped and isinstance(event, TokenEvent | StepEvent)):
                continue  # what was decoded behind a stop sequence
            self._count(call, event)
            text = ""
            if isinstance(event, TokenEvent):
                text = choice.token(event)
            elif isinstance(event, StepEvent):
                choice.decided.append(event)
            elif isinstance(event, TraceEvent):
                text = choice.end(event.trace)
            choice.settled = choice.trace is not None
            if choice.text.stopped and not choice.settled and not call.asked.stir.decisions:  # with decisions, the trace is waited for
                self.worker.cancel(call.tickets[choice.index])
                self.meters.stopped(choice, call.prompt_tokens, time.monotonic() - call.began)
                choice.settled = True
            yield choice, event, choice.fields(text)
            if isinstance(event, Ended):
                return

    def _streamed(self, call: _Call) -> Response:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._pieces(call), media_type="text/event-stream", headers=headers)

    async def _pieces(self, call: _Call) -> AsyncIterator[bytes]:
        whole = False
        try:
            for choice in call.choices:
                yield sse(chunk(call.name, self.name, choice, {"role": "assistant", "content": ""}))
            async for choice, event, fields in self._events(call):
                if fields:
                    yield sse(chunk(call.name, self.name, choice, fields))
                if isinstance(event, StepEvent) and call.asked.stir.decisions:
                    yield sse(chunk(call.name, self.name, choice, {}, stir=decided(event)))
                if isinstance(event, Ended):
                    whole = True
                    yield sse(Refused(_ENDED[event.kind], event.why, kind="server_error", code=event.kind).body())
                elif choice.settled:
                    whole = all(each.settled for each in call.choices)
                    yield sse(chunk(call.name, self.name, choice, {}, last=True, stir=self._facts(call, choice)))
            assert isinstance(call.asked, ChatRequest)  # completions are not streamed
            if call.asked.stream_options is not None and call.asked.stream_options.include_usage and call.choices[-1].settled:
                yield sse(usage_chunk(call.name, self.name, call.prompt_tokens, call.choices))
            yield sse("[DONE]")
        finally:
            self._leave(call)
            if not whole:
                self.meters.cut("reader left")

    def _facts(self, call: _Call, choice: Choice) -> dict[str, Any]:
        return steering_facts(choice, self.steered.bundle.manifest.digest, whole=call.asked.stir.decisions)

    def _leave(self, call: _Call) -> None:
        for ticket in call.tickets:
            self.worker.cancel(ticket)

    def _count(self, call: _Call, event: Event | Ended) -> None:
        seconds = time.monotonic() - call.began
        if isinstance(event, TokenEvent) and call.first:
            call.first = False
            self.meters.first(seconds)
        elif isinstance(event, StepEvent):
            self.meters.decided(event)
        elif isinstance(event, TraceEvent):
            self.meters.finished(event.trace, seconds)
            self._mean_seconds += 0.1 * (seconds - self._mean_seconds)
        elif isinstance(event, Ended):
            self.meters.cut(event.kind)


def build_app(
    steered: SteeredModel,
    name: str,
    limits: Limits | None = None,
    *,
    key: str | None = None,
    hosts: Collection[str] | None = THIS_MACHINE,
) -> Starlette:
    """The server as an ASGI application; its decode loop runs during the application's lifespan.

    Args:
        name: the model's name in requests.
        key: bearer token that requests must send.
        hosts: names in ``Host`` that are answered; ``None``: all of them.
    """
    limits = limits or Limits()
    service = Service(steered, name, limits, key)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.worker.start()
        yield
        await asyncio.to_thread(service.worker.stop, limits.grace)

    routes = [
        Route("/v1/chat/completions", service.chat, methods=["POST"]),
        Route("/v1/completions", service.complete, methods=["POST"]),
        Route("/v1/models", service.models),
        Route("/v1/models/{name:path}", service.model),
        Route("/health", service.health),
        Route("/metrics", service.metrics),
    ]
    guards = [] if hosts is None else [Middleware(HostCheck, names=hosts)]
    refusals = {Refused: _refusal, HTTPException: _no_such_thing}
    app = Starlette(routes=routes, lifespan=lifespan, middleware=guards, exception_handlers=refusals)
    app.state.service = service
    return app


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)  # registered for this class alone
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


async def _no_such_thing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # registered for this class alone
    known = "POST /v1/chat/completions, POST /v1/completions, GET /v1/models, /health, /metrics"
    line = f"{request.method} {request.url.path[:80]}: {error.detail}; use {known}"
    return JSONResponse(Refused(error.status_code, line).body(), status_code=error.status_code)
