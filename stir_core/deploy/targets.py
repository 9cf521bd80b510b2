"""What is certified: the runtime in this process, and a server, this process's own or one that is up already."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal

import httpx

from stir_core.deploy.certificate import Answering, Ask, Pair, certify
from stir_core.deploy.certified import Certificate
from stir_core.deploy.process import Server, bound
from stir_core.deploy.runtime import SteeredModel
from stir_core.deploy.serve import KEY, Limits, build_app
from stir_core.errors import DeployError
from stir_core.intervene.session import Session
from stir_core.models.loading import LoadedModel
from stir_core.records import Problem, Trace

_SECONDS = 3600.0


def compared(
    steered: SteeredModel,
    session: Session,
    problems: Sequence[Problem],
    target: Literal["runtime", "server"],
    *,
    reference: str,
    max_new_tokens: int | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Certificate:
    """Certify one of the two that decode by themselves.

    Args:
        steered: the bundle on a model; for ``"server"`` it is asked through a server of this process.
        session: the workbench's engine, with the run's library or the bundle's.
        reference: what ``session`` was made from, for the reader.
        max_new_tokens: budget of an answer; the bundle's own where not given.
    """
    budget = max_new_tokens or steered.bundle.manifest.stage3.decode.max_new_tokens

    def by(answering: Answering, plain: LoadedModel | None) -> Certificate:
        facts: dict[str, Any] = {"reference": reference, "max_new_tokens": budget, "report": report}
        return certify(steered.bundle, session, problems, target, answering, plain=plain, **facts)

    if target == "runtime":
        return by(by_runtime(steered), steered.model)
    with serving(steered, "certified") as url:
        return by(by_server(url, "certified"), None)


def by_runtime(steered: SteeredModel) -> Answering:
    """Answers of the runtime, all prompts in one batch."""

    def answering(asks: Sequence[Ask]) -> list[Pair]:
        options: dict[str, Any] = {"max_new_tokens": asks[0].max_new_tokens, "temperature": 0.0, "raw": True}
        messages = [ask.message for ask in asks]
        plain, moved = (steered.generate(messages, off=off, **options) for off in (True, False))
        return [Pair(one.trace, two.trace) for one, two in zip(plain, moved, strict=True)]

    return answering


def by_server(url: str, model: str) -> Answering:
    """Answers of a server at ``url`` (without ``/v1``), all prompts at once."""

    def answering(asks: Sequence[Ask]) -> list[Pair]:
        headers = {"Authorization": f"Bearer {os.environ[KEY]}"} if os.environ.get(KEY) else {}
        with httpx.Client(base_url=url, timeout=_SECONDS, headers=headers, trust_env=False) as client, ThreadPoolExecutor(8) as pool:
            jobs = [pool.submit(_posted, client, model, ask, off) for ask in asks for off in (True, False)]
            traces = [job.result() for job in jobs]
        return [Pair(one, two) for one, two in zip(traces[::2], traces[1::2], strict=True)]

    return answering


@contextmanager
def serving(steered: SteeredModel, name: str, limits: Limits | None = None, *, key: str | None = None) -> Iterator[str]:
    """A server in this process on a free port of 127.0.0.1, for as long as the block lasts; yields its address. For good: `stir serve`.

    Args:
        steered: what answers.
        name: the model's name in the protocol.
        limits: rows decoded side by side, waiting requests, sizes and times; its own where not given.
        key: a token that requests must carry.

    Raises:
        DeployError: it did not start.
    """
    listener = bound("127.0.0.1", 0)
    limits = limits or Limits()
    app = build_app(steered, name, limits, key=key)
    server = Server(app, app.state.service.worker, limits.grace)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise DeployError("the server did not start: look at what it printed")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


def _posted(client: httpx.Client, model: str, ask: Ask, off: bool) -> Trace:
    first = [] if ask.system is None else [{"role": "system", "content": ask.system}]
    body = {
        "model": model,
        "messages": [*first, {"role": "user", "content": ask.message}],
        "max_tokens": ask.max_new_tokens,
        "temperature": 0,
        "stir": {"decisions": True, "off": off},
    }
    try:
        response = client.post("/v1/chat/completions", json=body)
        if response.status_code != 200:
            raise DeployError(f"the server refused a prompt ({response.status_code}): {response.text[:200]}")
        return Trace.model_validate(response.json()["stir"]["trace"])
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise DeployError(f"the server at {client.base_url} did not answer as it should ({type(error).__name__}: {error})") from None
