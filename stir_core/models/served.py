"""Sample answers with another engine that serves the model: vLLM, SGLang, llama.cpp's server, or `stir serve`.

A prompt is sent as token ids, so that only the chat template here has a say in it, and an answer comes back as token ids, which must be
those of its text under the tokenizer here. Weights cannot be seen from outside; :func:`unlikely_share` tells whether the tokens are ones
that the model here would draw. Every answer has its own seed, drawn from its random stream, so an answer that is asked for again, or with
others beside it, is the same as far as the engine keeps its seeds.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

import anyio
import httpx
import torch
from anyio.from_thread import start_blocking_portal
from pydantic import AliasChoices, BaseModel, Field, ValidationError

from stir_core.errors import ModelError, first_line
from stir_core.models.generation import Sampling, Strand
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed, forward
from stir_core.records import Finish

T = TypeVar("T")

KEY = "STIR_ENGINE_KEY"
"""Environment variable with the bearer token that is sent to the server; it is written nowhere."""
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Seconds before each further try of a request that found no connection or a server in trouble (408, 429, 5xx)."""
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 600.0
"""Seconds that an answer may take, and one more for each token of its budget."""
MOST_BYTES = 64 << 20
"""A longer response is no answer of such a server, and is not read to its end."""
LLAMA_CPP = "llamacpp"
_OF_STIR: dict[str, Any] = {"stir": {"off": True}}
_ENDED = {"stop": True, "eos": True, "length": False, "limit": False}
"""Whether an answer ended by itself, in the engines' words; another word is a fault."""


class Served(NamedTuple):
    """A model that a server offers."""

    url: str
    """Up to and including ``/v1``."""
    name: str
    """The model's name there."""
    engine: str
    """What serves it, as its list of models says: ``"vllm"``, ``"sglang"``, ``"llamacpp"``, ``"stir"`` or another."""

    def __str__(self) -> str:
        return f"{self.url} ({self.engine})"


@dataclass(frozen=True)
class Asked(Generic[T]):
    """An answer to be sampled."""

    item: T
    """Returned when the answer is there."""
    before: list[int]
    """Ids that it follows."""
    strand: Strand
    """Has no tokens yet; gets them and its ``finish``."""


class _Choice(BaseModel):
    """One answer; the second names are llama.cpp's."""

    text: str = Field(validation_alias=AliasChoices("text", "content"))
    finish_reason: str | None = Field(None, validation_alias=AliasChoices("finish_reason", "stop_type"))
    token_ids: list[int] | None = Field(None, validation_alias=AliasChoices("token_ids", "tokens"))
    prompt_token_ids: list[int] | None = None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1, max_length=1)


class _Offer(BaseModel):
    id: str
    owned_by: str = "unknown"


class _Offers(BaseModel):
    data: list[_Offer]


def find_served(engine: str, own: str) -> Served:
    """The model at a URL (``config.Engine``), asked for once, without a second try.

    Args:
        own: the model's name here, which is taken if the server offers several models and none is named.

    Raises:
        ModelError: nothing answers there, it refuses the key, or it does not offer the model.
    """
    address, _, name = engine.partition("#")
    url = address.rstrip("/").removesuffix("/v1") + "/v1"

    async def offered() -> httpx.Response:
        async with httpx.AsyncClient(headers=_headers(), timeout=CONNECT_SECONDS) as client:
            return await _fetched(client, "GET", f"{url}/models")

    try:
        with start_blocking_portal() as portal:
            response = portal.call(offered)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        remedy = "start the server, wait until it has loaded its model, or correct the URL"
        raise ModelError(f"nothing answers at {url} ({first_line(error)}): {remedy}") from None
    offers = {offer.id: offer.owned_by for offer in _read(_Offers, url, response).data}
    wanted = name or (next(iter(offers)) if len(offers) == 1 else own)
    if wanted not in offers:
        raise ModelError(f"{url} does not serve {wanted[:80]!r} but {', '.join(offers)[:300] or 'nothing'}: name one of them as {url}#NAME")
    return Served(url, wanted, offers[wanted])


def sample_served(model: LoadedModel, served: Served, asked: Iterable[Asked[T]], sampling: Sampling, *, rows: int) -> Iterator[Asked[T]]:
    """Sample answers, yielding each as it arrives (in no fixed order). Closing the iterator drops the requests that are under way.

    Args:
        model: whose tokenizer and stop tokens hold.
        rows: requests at one time.

    Raises:
        ModelError: the server stays away or in trouble after all of :data:`PAUSES`, refuses a request, or gives an answer that is
            not whole or whose ids are not those of the tokenizer here.
    """
    waiting, live = iter(asked), dict[Future[httpx.Response], Asked[T]]()
    with start_blocking_portal() as portal:
        client = httpx.AsyncClient(headers=_headers(), limits=httpx.Limits(max_connections=rows))
        try:
            while True:
                for each in islice(waiting, rows - len(live)):
                    live[portal.start_task_soon(_post, client, served, _request(model, served, each, sampling), each.strand.budget)] = each
                if not live:
                    return
                done, _ = wait(live, return_when=FIRST_COMPLETED)
                for answer in sorted(done, key=lambda future: future.exception() is not None):  # what is whole is handed over first
                    each = live.pop(answer)
                    _take(model, served, each, answer.result())
                    yield each
        finally:
            for future in live:
                future.cancel()
            portal.call(client.aclose)


@torch.inference_mode()
def unlikely_share(model: LoadedModel, answers: Sequence[tuple[Sequence[int], Sequence[int]]], sampling: Sampling) -> float:
    """Share, in [0, 1], of the answers' tokens that the model here could not have drawn: outside its nucleus, or not its likeliest one
    at temperature 0. About 0 for the same weights (not quite in another dtype), and for any weights if ``top_p`` is 1.

    Args:
        answers: (prompt ids, answer ids), neither empty.
    """
    unlikely = total = 0
    for prompt, ids in answers:
        row = model.new_store().open()
        if len(prompt) > 1:
            forward(model, [Feed(row, list(prompt[:-1]), logits=False)])
        logits = forward(model, [Feed(row, [prompt[-1], *ids[:-1]], every=True)]).logits.float()
        own = logits.gather(1, torch.tensor(list(ids), device=logits.device)[:, None])
        if sampling.temperature == 0:
            likelier = (logits > own).any(dim=-1)
        else:
            mass = (logits / sampling.temperature).double().softmax(dim=-1)
            likelier = torch.where(logits > own, mass, 0.0).sum(dim=-1) >= sampling.top_p
        unlikely, total = unlikely + int(likelier.sum()), total + len(ids)
    return unlikely / total


def _headers() -> dict[str, str]:
    key = os.environ.get(KEY, "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}


def _request(model: LoadedModel, served: Served, asked: Asked[T], sampling: Sampling) -> dict[str, Any]:
    """The body of a request. What engines would take from the model's generation config, or by default, is set to nothing."""
    rng, budget = asked.strand.rng, asked.strand.budget
    body: dict[str, Any] = {
        "model": served.name,
        "prompt": asked.before,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": 0 if rng is None else int(rng.integers(2**31)),
        "top_k": -1,
        "min_p": 0.0,
    }
    if served.engine == LLAMA_CPP:
        order = ["temperature", "top_p"]  # as here; its default is the other way round
        return body | {"n_predict": budget, "return_tokens": True, "samplers": order}
    more = _OF_STIR if served.engine == "stir" else {"stop_token_ids": sorted(model.stop_ids)}
    return body | {"max_tokens": budget, "n": 1, "repetition_penalty": 1.0, "return_token_ids": True} | more


async def _fetched(client: httpx.AsyncClient, method: str, url: str, **sent: Any) -> httpx.Response:
    """A response, read to its end.

    Raises:
        ModelError: it has more than :data:`MOST_BYTES`.
    """
    read = bytearray()
    async with client.stream(method, url, **sent) as response:
        async for block in response.aiter_bytes():
            read += block
            if len(read) > MOST_BYTES:
                raise ModelError(f"{url} answers with more than {MOST_BYTES >> 20} MB: is it an OpenAI-compatible server?")
    waits = {name: value for name, value in response.headers.items() if name == "retry-after"}
    return httpx.Response(response.status_code, headers=waits, content=bytes(read))


async def _post(client: httpx.AsyncClient, served: Served, body: dict[str, Any], budget: int) -> httpx.Response:
    """Send a request, again after each pause while the server is not there or in trouble."""
    # llama.cpp's answers have token ids on its own path only
    url = f"{served.url.removesuffix('/v1')}/completion" if served.engine == LLAMA_CPP else f"{served.url}/completions"
    timeout = httpx.Timeout(ANSWER_SECONDS + budget, connect=CONNECT_SECONDS, pool=None)
    for pause in (*PAUSES, None):
        try:
            response = await _fetched(client, "POST", url, json=body, timeout=timeout)
        except httpx.ReadTimeout:
            seconds = f"{ANSWER_SECONDS + budget:.0f} seconds"
            raise ModelError(f"{served} did not answer in {seconds}: look at its log, or lower rollouts.batch_rows; {_KEPT}") from None
        except httpx.TransportError as error:
            trouble, after = first_line(error), ""
        else:
            if response.status_code not in (408, 429) and response.status_code < 500:
                return response
            trouble, after = f"{response.status_code}: {_said(response)}", response.headers.get("retry-after", "")
        if pause is None:
            break
        await anyio.sleep(max(pause, min(float(after), 60.0) if after.isdecimal() else 0.0))
    raise ModelError(f"{served} failed {len(PAUSES) + 1} times in a row ({trouble}): look at its log; {_KEPT}")


_KEPT = "what is finished is kept, and the same command goes on from there"


def _read(form: Any, url: str, response: httpx.Response) -> Any:
    """A response in its form.

    Raises:
        ModelError: a status that is not 200, or another form.
    """
    status = response.status_code
    if status in (401, 403):
        raise ModelError(f"{url} refuses the key ({status}): set {KEY} in the environment to the server's key")
    if status != 200:
        raise ModelError(f"{url} refuses the request ({status}: {_said(response)}): check the URL, and the server's settings")
    try:
        return form.model_validate_json(response.content)
    except ValidationError as error:
        wrong = first_line(ValueError(error.errors()[0]["msg"]))
        raise ModelError(
            f"{url} answers with {response.text[:80]!r}, which is not in the protocol's form ({wrong}): is it an OpenAI-compatible server?"
        ) from None


def _said(response: httpx.Response) -> str:
    """The message of a refusal, in one line."""
    try:
        told = response.json()
    except ValueError:
        told = response.text
    for key in ("error", "message", "detail"):
        told = told.get(key, told) if isinstance(told, dict) else told
    return first_line(ValueError(str(told)))


def _take(model: LoadedModel, served: Served, asked: Asked[T], response: httpx.Response) -> None:
    """Check an answer, and give its tokens to its strand."""
    told = _read(_Choice if served.engine == LLAMA_CPP else _Completion, str(served), response)
    choice: _Choice = told.choices[0] if isinstance(told, _Completion) else told
    strand, ids = asked.strand, choice.token_ids
    who = f"{served} answered {strand.name}"
    if ids is None:
        remedy = "take vLLM 0.10.2, an SGLang that knows return_token_ids, a llama.cpp of 2025, `stir serve`, or newer ones"
        raise ModelError(f"{who} without token ids, so its tokens are not known: {remedy}")
    if choice.prompt_token_ids is not None and choice.prompt_token_ids != asked.before:
        at = next((i for i, pair in enumerate(zip(choice.prompt_token_ids, asked.before, strict=False)) if pair[0] != pair[1]), "its end")
        raise ModelError(f"{who} after another prompt than the one it was sent (from token {at} on): let the server add and cut nothing")
    strange = [token for token in ids if not 0 <= token < len(model.tokenizer)]
    if strange or choice.text.strip("\ufffd \n") not in (texts := _texts(model, ids)):
        said = f"token {strange[0]}" if strange else f"{ids[:8]} for {choice.text[:60]!r}, which here are {texts[0][:60]!r}"
        raise ModelError(f"{who} with {said}: its tokenizer is not that of {model.identity.name}, so serve the same model")
    if choice.finish_reason not in _ENDED or not ids:
        raise ModelError(f"{who} with {len(ids)} tokens and the end {choice.finish_reason!r}: look at its log; {_KEPT}")
    strand.ids[:], strand.finish = _ended(model, who, ids, strand.budget, by_itself=_ENDED[choice.finish_reason])


def _texts(model: LoadedModel, ids: list[int]) -> list[str]:
    """The texts that engines may write for these ids: with and without a token that ends the answer, and tags that are special tokens.

    Spaces at the ends and an incomplete character are left out, since engines differ there.
    """
    whole = ids[:-1] if ids and ids[-1] in model.stop_ids else ids
    plain = [model.tokenizer.decode(each, skip_special_tokens=True, clean_up_tokenization_spaces=False) for each in (ids, whole)]
    return [str(text).strip("\ufffd \n") for text in (model.text(ids), *plain, model.text(whole))]


def _ended(model: LoadedModel, who: str, ids: list[int], budget: int, *, by_itself: bool) -> tuple[list[int], Finish]:
    """The tokens up to the first that ends an answer here, and why it ended: later ones would not have been sampled."""
    end = next((i for i, token in enumerate(ids) if token in model.stop_ids), None)
    if end is not None and end < budget:
        return ids[: end + 1], "stop"
    if by_itself:
        text = model.token_text(ids[-1])
        raise ModelError(f"{who} and stopped at {text!r} ({ids[-1]}), which ends no answer of {model.identity.name}: serve the same model")
    if len(ids) < budget:
        remedy = "raise the server's context (--max-model-len, --ctx-size), or lower rollouts.max_new_tokens"
        raise ModelError(f"{who} with {len(ids)} of {budget} tokens, then cut it: {remedy}")
    return ids[:budget], "length"
