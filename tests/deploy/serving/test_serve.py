"""The server, asked by the official client: many at once, each as if alone; and everything that a bad or impatient client does."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from stir_core.deploy.serving.process import serving
from stir_core.models import scheduler
from stir_core.records import Trace
from stir_core.requests import Limits
from tests.deploy.tiny_run import QUESTIONS

NAME = "tiny-steered"
TOKENS = 24


@pytest.fixture(scope="module")
def url(steered):
    with serving(steered, NAME, Limits(rows=4, queue=64, max_body=20_000, max_new_tokens=400)) as address:
        yield address


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as made:
        yield made


def said(question):
    return [{"role": "user", "content": question}]


def ask(client, question, **more):
    stir = more.pop("stir", {})
    return client.chat.completions.create(model=NAME, messages=said(question), max_tokens=TOKENS, extra_body={"stir": stir}, **more)


def alone(steered, question, **options):
    return steered.generate([said(question)], max_new_tokens=TOKENS, **options)[0]


def raw(url, **more):
    body = {"model": NAME, "messages": said("one"), "max_tokens": 4} | more
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120, trust_env=False)


def test_eight_streams_at_once_are_each_as_alone(client, steered):
    """More than there are rows, of five questions, steered and not."""
    asked = [(QUESTIONS[i % 5], i % 4 == 3) for i in range(8)]

    def read(question, off):
        chunks = list(ask(client, question, stream=True, stir={"decisions": True, "off": off}, stream_options={"include_usage": True}))
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        chosen = [c.model_extra["stir"]["decision"]["chosen"] for c in chunks if "decision" in (c.model_extra or {}).get("stir", {})]
        return text, chosen, chunks[-1].usage.completion_tokens, chunks[-2].choices[0].finish_reason

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda each: read(*each), asked))
    injected = 0
    for (question, off), (text, chosen, tokens, finish) in zip(asked, found, strict=True):
        answer = alone(steered, question, off=off)
        assert (text, tokens, finish) == (answer.text, len(answer.token_ids), answer.finish)
        assert chosen == [decision.chosen for decision in answer.decisions]
        injected += sum(entry is not None for entry in chosen)
    assert injected > 0


def test_clients_that_leave_in_mid_stream_change_no_answer_of_the_others(client, url, steered):
    """What ``python -m benchmarks.load`` does for two minutes, in small."""

    def read(number):
        chunks = ask(client, QUESTIONS[number % 5], stream=True)
        if number % 2:
            return "".join(c.choices[0].delta.content or "" for c in chunks)
        with chunks:
            return "".join(next(chunks).choices[0].delta.content or "" for _ in range(1 + number % 7))

    with ThreadPoolExecutor(12) as pool:
        texts = list(pool.map(read, range(24)))
    wholes = [alone(steered, question).text for question in QUESTIONS[:5]]
    for number, text in enumerate(texts):
        assert text == wholes[number % 5] if number % 2 else wholes[number % 5].startswith(text)
    until(lambda: live(url) == 0)


def test_a_whole_answer_with_its_trace(client, steered):
    response = ask(client, QUESTIONS[1], stir={"decisions": True, "strength": 0.5})
    answer = alone(steered, QUESTIONS[1], strength=0.5)
    assert response.choices[0].message.content == answer.text
    assert response.usage.prompt_tokens == len(answer.prompt_ids)
    trace = Trace.model_validate(response.model_extra["stir"]["trace"])
    assert (trace.token_ids, [s.decision.chosen for s in trace.steps]) == (answer.token_ids, [d.chosen for d in answer.decisions])
    assert "trace" not in ask(client, QUESTIONS[1]).model_extra["stir"]


def test_strength_0_and_off_are_the_plain_model(client, steered):
    plain = alone(steered, QUESTIONS[0], off=True).text
    assert ask(client, QUESTIONS[0], stir={"strength": 0}).choices[0].message.content == plain
    assert ask(client, QUESTIONS[0], stir={"off": True}).choices[0].message.content == plain


def test_a_seed_repeats_a_sampled_answer_and_others_differ(client):
    one, two, other = (ask(client, QUESTIONS[0], temperature=1.5, seed=seed).choices[0].message.content for seed in (7, 7, 8))
    assert one == two != other


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("decisions", [False, True])
def test_a_stop_sequence_ends_an_answer_before_it(client, steered, streamed, decisions):
    whole = alone(steered, QUESTIONS[0]).text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    asked = {"stop": ["never said", stop], "stir": {"decisions": decisions}}
    if streamed:
        chunks = [c for c in ask(client, QUESTIONS[0], stream=True, **asked) if c.choices]
        text, finish = "".join(c.choices[0].delta.content or "" for c in chunks), chunks[-1].choices[0].finish_reason
        assert not any(stop in (c.choices[0].delta.content or "") for c in chunks)
    else:
        (choice,) = ask(client, QUESTIONS[0], **asked).choices
        text, finish = choice.message.content, choice.finish_reason
    assert (text, finish) == (whole[: whole.index(stop)], "stop")


def test_an_answer_without_the_stop_sequence_is_whole(client, steered):
    whole = alone(steered, QUESTIONS[0])
    for stop in (whole.text[-1:] + "\u2603", "\u2603"):  # the first one's beginning is held back until the end
        chunks = [c for c in ask(client, QUESTIONS[0], stream=True, stop=stop) if c.choices]
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.text
        assert chunks[-1].choices[0].finish_reason == whole.finish


def test_n_answers_are_each_from_a_stream_of_its_own(client, steered):
    response = ask(client, QUESTIONS[0], n=3, temperature=1.5, seed=7)
    texts = [choice.message.content for choice in response.choices]
    assert [choice.index for choice in response.choices] == [0, 1, 2] and len(set(texts)) == 3
    assert texts[0] == ask(client, QUESTIONS[0], temperature=1.5, seed=7).choices[0].message.content
    streamed = ["", "", ""]
    chunks = list(ask(client, QUESTIONS[0], n=3, temperature=1.5, seed=7, stream=True, stream_options={"include_usage": True}))
    for piece in chunks[:-1]:
        streamed[piece.choices[0].index] += piece.choices[0].delta.content or ""
    assert streamed == texts and chunks[-1].usage == response.usage
    assert sum(piece.choices[0].finish_reason is not None for piece in chunks[:-1]) == 3


def test_log_probabilities_are_those_of_the_trace(client, steered):
    answer = alone(steered, QUESTIONS[1])
    (choice,) = ask(client, QUESTIONS[1], logprobs=True, top_logprobs=3).choices
    entries = choice.logprobs.content
    assert [entry.logprob for entry in entries] == pytest.approx([p for step in answer.steps for p in step.logprobs], abs=1e-6)
    assert [entry.token for entry in entries] == [steered.model.text([token]) for token in answer.token_ids]
    for entry in entries:  # greedy: the token is its own likeliest alternative
        assert len(entry.top_logprobs) == 3 and entry.top_logprobs[0].logprob == pytest.approx(entry.logprob, abs=1e-5)
        assert sorted((top.logprob for top in entry.top_logprobs), reverse=True) == [top.logprob for top in entry.top_logprobs]
    streamed = [
        entry
        for piece in ask(client, QUESTIONS[1], logprobs=True, top_logprobs=3, stream=True)
        for entry in piece.choices[0].logprobs.content
    ]
    assert streamed == entries
    assert ask(client, QUESTIONS[1]).choices[0].logprobs is None


def test_log_probabilities_end_where_the_text_ends(client, steered):
    whole = alone(steered, QUESTIONS[1])
    stop = steered.model.text(whole.token_ids[:6])[-2:]
    (choice,) = ask(client, QUESTIONS[1], logprobs=True, stop=stop).choices
    told = "".join(entry.token for entry in choice.logprobs.content)
    assert told.startswith(choice.message.content) and 0 < len(choice.logprobs.content) < len(whole.token_ids)


def test_fields_at_the_value_that_asks_for_nothing_are_accepted(client, steered):
    neutral = {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "response_format": {"type": "text"}, "n": 1}
    more = {"store": False, "metadata": {"a": "b"}, "user": "me", "stop": [], "logprobs": False}
    assert ask(client, QUESTIONS[0], **neutral, **more).choices[0].message.content == alone(steered, QUESTIONS[0]).text
    named = [{"role": "user", "content": QUESTIONS[0], "name": "ann"}]
    response = client.chat.completions.create(model=NAME, messages=named, max_tokens=TOKENS)
    assert response.choices[0].message.content == alone(steered, QUESTIONS[0]).text


def test_models_and_health(client, url, steered):
    (model,) = client.models.list().data
    assert (model.id, model.model_extra["stir"]["bundle"]) == (NAME, steered.bundle.manifest.digest)
    assert client.models.retrieve(NAME).id == NAME
    assert httpx.get(f"{url}/health", trust_env=False).json()["status"] == "ok"


@pytest.mark.parametrize(
    ("more", "status", "line"),
    [
        ({"stir": {"strength": -1}}, 400, "stir.strength: Input should be greater than or equal to 0"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, 400, "reads no argument 'enable_thinking'"),
        ({"stir": {"strenght": 1}}, 400, "stir.strenght: is not a known field"),
        ({"stir": {"variant": "best"}}, 400, "stir.variant"),
        ({"stir": {"strength": "1"}}, 400, "stir.strength"),
        ({"frobnicate": 1}, 400, "frobnicate: is not a known field: fields are model"),
        ({"model": "gpt-4"}, 404, "there is no model 'gpt-4' here"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "  "}]}, 400, "conversation is empty"),
        ({"messages": [{"role": "user", "content": "one " * 500}]}, 400, f"but {NAME} reads 512"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 401}, 400, "401 tokens are asked for, this server gives 400"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": 1e-320}, 400, "temperature is 1e-320: give 0, which is greedy, or"),
        ({"stir": {"strength": 1001}}, 400, "stir.strength"),
        ({"a\nb": 1}, 400, "a?b: is not a known field"),
        ({"n": 17}, 400, "n: "),
        ({"stop": ""}, 400, "stop"),
        ({"stop": ["a"] * 17}, 400, "stop"),
        ({"top_logprobs": 3}, 400, "top_logprobs needs logprobs = true"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format.type"),
        ({"messages": [{"role": "assistant", "content": None}]}, 400, "conversation is empty"),
        ({"messages": [{"role": "user", "content": "a" * 30_000}]}, 413, "more than the 20,000 bytes"),
    ],
)
def test_a_bad_request_gets_one_clear_line(url, more, status, line):
    response = raw(url, **more)
    error = response.json()["error"]
    assert response.status_code == status and line in error["message"] and "\n" not in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert raw(url).status_code == 200, "the server goes on"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"\xff\xfe", {}, 400),
        (b"[1]", {}, 400),
        (b"[" * 19_000, {}, 400),
        (b'{"model": NaN}', {}, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"", {}, 400),
    ],
)
def test_bodies_that_are_no_request(url, body, headers, status):
    sent = {"Content-Type": "application/json"} | headers
    response = httpx.post(f"{url}/v1/chat/completions", content=body, headers=sent, trust_env=False)
    assert response.status_code == status and response.json()["error"]["message"]
    assert raw(url).status_code == 200, "the server goes on"


def test_a_body_without_a_length_is_cut_at_the_limit(url):
    def pieces():
        yield from (b" " * 4096 for _ in range(100))

    response = httpx.post(f"{url}/v1/chat/completions", content=pieces(), headers={"Content-Type": "application/json"}, trust_env=False)
    assert response.status_code == 413


@pytest.mark.parametrize(
    ("length", "body", "answer"),
    [(b"10737418240", b"{", b"413"), (b"9" * 40, b"{", b"400"), (b"-5", b"{}", b"400"), (b"5000", b"{", b"408")],
)
def test_bodies_that_are_not_what_was_announced(url, monkeypatch, length, body, answer):
    monkeypatch.setattr("stir_core.deploy.serving.service.BODY_SECONDS", 0.2)
    host, port = url.removeprefix("http://").split(":")
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head + length + b"\r\n\r\n" + body)
        assert connection.recv(100).startswith(b"HTTP/1.1 " + answer)
    assert raw(url).status_code == 200


def test_other_paths_and_methods_are_answered_in_the_same_shape(url):
    for response in (httpx.get(f"{url}/v1/nothing", trust_env=False), httpx.get(f"{url}/v1/chat/completions", trust_env=False)):
        assert response.status_code in (404, 405) and "use POST /v1/chat/completions" in response.json()["error"]["message"]


def test_the_official_client_raises_its_own_errors(client):
    with pytest.raises(openai.BadRequestError, match=r"stir\.strength"):
        ask(client, "one", stir={"strength": -2})
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.chat.completions.create(model="other", messages=said("one"))


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def live(url):
    facts = httpx.get(f"{url}/health", trust_env=False).json()
    return facts["live"] + facts["waiting"]


@pytest.fixture
def slowed(steered, monkeypatch):
    """Every pass waits a little, so that one can look while answers are being decoded."""
    whole = scheduler.forward
    monkeypatch.setattr(scheduler, "forward", lambda *args: time.sleep(0.03) or whole(*args))
    return steered


def test_a_full_queue_is_told_when_to_come_again_and_a_reader_who_leaves_frees_the_row(slowed):
    with serving(slowed, NAME, Limits(rows=1, queue=0, max_new_tokens=400)) as url:
        body = {"model": NAME, "messages": said("one"), "max_tokens": 400, "stream": True, "stir": {"off": True}}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60, trust_env=False) as first:
            lines = first.iter_lines()
            next(lines)
            until(lambda: live(url) == 1)
            refused = raw(url)
            assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
            assert refused.json()["error"]["type"] == "rate_limit_error"
        until(lambda: live(url) == 0)  # long before 400 passes
        assert raw(url).status_code == 200
        metrics = httpx.get(f"{url}/metrics", trust_env=False).text
        assert 'stir_requests_total{status="429"} 1.0' in metrics and 'stir_answers_total{how="reader left"} 1.0' in metrics


def test_an_answer_that_takes_too_long_is_cut(slowed):
    with serving(slowed, NAME, Limits(rows=2, timeout=0.4, max_new_tokens=400)) as url:
        response = raw(url, max_tokens=400, stir={"off": True})
        assert response.status_code == 504 and response.json()["error"]["code"] == "timeout"
        streamed = raw(url, max_tokens=400, stream=True, stir={"off": True}).text
        assert '"code":"timeout"' in streamed and streamed.rstrip().endswith("data: [DONE]")
        until(lambda: live(url) == 0)


def test_stopping_cuts_what_runs_and_says_so(slowed):
    """The grace is spent: the reader is told, and the server comes down."""
    with ThreadPoolExecutor(1) as pool:
        with serving(slowed, NAME, Limits(rows=2, max_new_tokens=400, grace=0.1)) as url:
            running = pool.submit(raw, url, max_tokens=400, stir={"off": True})
            until(lambda: live(url) == 1)
        response = running.result(30)
    assert response.status_code == 503 and response.json()["error"]["code"] == "stopping"


def test_a_pass_that_fails_is_told_to_those_in_it_and_the_server_goes_on(steered, monkeypatch):
    whole, broken = scheduler.forward, threading.Event()

    def forward(*args):
        if broken.is_set():
            broken.clear()
            raise RuntimeError("a kernel failed\nsecond line")
        return whole(*args)

    monkeypatch.setattr(scheduler, "forward", forward)
    with serving(steered, NAME) as url:
        broken.set()
        response = raw(url)
        assert response.status_code == 500 and response.json()["error"]["message"] == "decoding failed: a kernel failed"
        assert raw(url).status_code == 200


def test_a_token_is_asked_for(steered):
    with serving(steered, NAME, key="sesame") as url:
        for path in ("/v1/models", "/metrics"):
            assert httpx.get(url + path, trust_env=False).status_code == 401
        assert raw(url).status_code == 401
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0).models.list()
        assert openai.OpenAI(base_url=f"{url}/v1", api_key="sesame", max_retries=0).models.list().data[0].id == NAME


def test_metrics_add_up(steered):
    with serving(steered, NAME) as url:
        trace = json.loads(raw(url, max_tokens=TOKENS, messages=said(QUESTIONS[0]), stir={"decisions": True}).text)["stir"]["trace"]
        text = httpx.get(f"{url}/metrics", trust_env=False).text
    for kind, count in (("committed", trace["tokens_used"]), ("probe", trace["probe_tokens"]), ("prompt", len(trace["prompt_ids"]))):
        assert f'stir_tokens_total{{kind="{kind}"}} {float(count)}' in text
    injected = sum(step["decision"]["chosen"] is not None for step in trace["steps"])
    assert f'stir_decisions_total{{outcome="null"}} {float(len(trace["steps"]) - injected)}' in text
