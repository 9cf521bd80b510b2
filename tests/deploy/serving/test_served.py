"""Rollouts from another engine: `stir serve` gives what local sampling gives, and a server at fault gives one line and loses nothing."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np
import pytest

from stir_core.config import DecodeConfig, GateConfig, RunConfig, config_from, with_changes
from stir_core.deploy.serving.process import serving
from stir_core.errors import ConfigError, ModelError
from stir_core.evaluate.decoders.base import Bench, Question
from stir_core.evaluate.decoders.registry import method
from stir_core.intervene.jobs import Settings
from stir_core.models import served
from stir_core.records import Problem, Verdict
from stir_core.requests import Limits
from stir_core.stages import rollouts
from stir_core.stages.pipeline import run_stages
from stir_core.store.runs import Run
from stir_core.tasks import Grader
from stir_core.tasks.segment import boundaries
from tests.deploy.tiny_run import QUESTIONS

CONFIG = {
    "delimiter": "e",
    "task": {"n_train": 4, "n_eval": 0, "template": "plain"},
    "rollouts": {"k": 4, "max_new_tokens": 24, "temperature": 1.0, "top_p": 0.95},
    "mining": {"control_points": 4, "layers": [1, 2], "top_pairs": 7},
}
NAME, SECRET = "tiny-steered", "key-of-nobody"
ALL = {(i, k) for i in range(4) for k in range(4)}


class Coin(Grader):
    """A random model is never right: half of its rollouts are declared so."""

    def grade(self, kind, gold, answer_text, *, choices=()):
        right = len(answer_text) % 2 == 0
        return Verdict(correct=right, extracted="1", gold=gold, method="coin", reason="coin", finished=True)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """No test waits for a server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollouts, "Grader", Coin)
        patch.setattr(served, "PAUSES", (0.0, 0.0))
        patch.setattr(served, "MOST_BYTES", 20_000)
        patch.delenv(served.KEY, raising=False)
        yield


@pytest.fixture(scope="module")
def url(steered) -> Iterator[str]:
    with serving(steered, NAME, Limits(rows=8), key=SECRET) as address:
        yield address


def config(engine: str, model: str, **changed: Any) -> RunConfig:
    return with_changes(config_from({**CONFIG, "model": {"name": model}}), rollouts={"engine": engine, **changed})


def made(engine, tiny_folder, model, out, until="states", **changed) -> Run:
    return run_stages(config(engine, tiny_folder, **changed), out, until=until, model=model)


class Fake:
    """A server of the tiny model whose answers a test may spoil. An answer is the prompt's last ids again, in an order of its seed."""

    def __init__(self, model):
        self.model, self.asked, self.offers = model, [], [{"id": "one", "owned_by": "vllm"}]
        self.spoil: Callable[[int, dict[str, Any]], Any] = lambda number, answer: answer
        """(number of the request, good answer) -> the answer: a body, bytes or a status."""

    def answer(self, body: dict[str, Any]) -> Any:
        rng = np.random.default_rng(body["seed"])
        ordinary = [i for i in range(len(self.model.tokenizer)) if i not in self.model.tokenizer.all_special_ids]
        ids = [int(i) for i in rng.choice(ordinary, body["max_tokens"])]
        good = {"text": self.model.text(ids), "finish_reason": "length", "token_ids": ids, "prompt_token_ids": body["prompt"]}
        self.asked.append(body)
        return self.spoil(len(self.asked), good)

    @contextmanager
    def up(self) -> Iterator[str]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.give(200, json.dumps({"data": fake.offers}).encode())

            def do_POST(self) -> None:
                told = fake.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                if isinstance(told, dict):
                    self.give(200, json.dumps({"choices": [told]}).encode())
                elif isinstance(told, bytes):
                    self.give(200, told)
                elif told == "half":
                    self.give(200, b'{"choices": [', length=500)
                else:
                    self.give(told, json.dumps({"error": {"message": "engine core\ndied"}}).encode())

            def give(self, status: int, body: bytes, length: int | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(length or len(body)))
                self.send_header("Retry-After", "0")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_address[1]}/v1"
            finally:
                server.shutdown()
                thread.join()


@pytest.fixture
def fake(engine) -> Fake:
    return Fake(engine)


@pytest.fixture(scope="module")
def undisturbed(engine, tiny_folder, tmp_path_factory) -> Run:
    """The run of a fake server without faults."""
    with Fake(engine).up() as at:
        return made(at, tiny_folder, engine, tmp_path_factory.mktemp("undisturbed") / "run", until="rollouts")


# -- stir serve ---------------------------------------------------------------------------------------------------------


def test_greedy_rollouts_of_stir_serve_are_the_local_ones_and_their_states_too(url, engine, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv(served.KEY, SECRET)
    here = made("local", tiny_folder, engine, tmp_path / "here", temperature=0.0)
    there = made(url, tiny_folder, engine, tmp_path / "there", temperature=0.0)
    assert len(here.rollouts()) == len(ALL) and sum(len(rollout.boundaries) for rollout in here.rollouts()) > 12
    assert [rollout.replaced(mean_logprob=None) for rollout in here.rollouts()] == there.rollouts()
    (note,) = there.manifest("rollouts").notes
    assert "would not have drawn 0.0%" in note and here.manifest("rollouts").notes == ()


@pytest.fixture(scope="module")
def sampled(url, engine, tiny_folder, tmp_path_factory) -> Run:
    """A run sampled by `stir serve`, four at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(served.KEY, SECRET)
        return made(f"{url}/v1#{NAME}", tiny_folder, engine, tmp_path_factory.mktemp("served") / "run", batch_rows=4)


def test_sampled_rollouts_are_what_a_local_look_at_their_tokens_says(sampled, engine):
    for rollout in sampled.rollouts():
        assert rollout.text == engine.text(rollout.token_ids)
        assert rollout.boundaries == tuple(boundaries(list(rollout.token_ids), engine.text, "e"))
        assert (rollout.finish == "stop") == (rollout.token_ids[-1] in engine.stop_ids)
    assert len({rollout.token_ids for rollout in sampled.rollouts()}) > 6, "every rollout has a seed of its own"
    rows, tensors = sampled.states((1, 2))
    assert len(rows) == len(tensors[1]) > 0


def test_an_answer_does_not_depend_on_the_number_of_requests_at_once(sampled, url, engine, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv(served.KEY, SECRET)
    alone = made(url, tiny_folder, engine, tmp_path / "alone", until="rollouts", batch_rows=1)
    assert alone.rollouts() == sampled.rollouts()


def test_the_key_is_asked_for_and_written_nowhere(sampled, url, engine, tiny_folder, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=rf"refuses the key \(401\): set {served.KEY}"):
        made(url, tiny_folder, engine, tmp_path / "run")
    files = [file for file in sampled.path.rglob("*") if file.is_file()]
    assert len(files) > 5 and not any(SECRET.encode() in file.read_bytes() for file in files)
    for bad in (f"http://me:{SECRET}@host/v1", f"http://host/v1?key={SECRET}"):
        with pytest.raises(ConfigError, match=served.KEY) as refused:
            config(bad, tiny_folder)
        assert SECRET not in str(refused.value)


def test_completions_give_ids_where_vllm_does(url, engine, steered):
    ids = engine.chat_ids("one two")
    asked = {"model": NAME, "max_tokens": 12, "temperature": 0, "return_token_ids": True, "stir": {"off": True}}
    send = {"headers": {"Authorization": f"Bearer {SECRET}"}, "trust_env": False}
    told = httpx.post(f"{url}/v1/completions", json=asked | {"prompt": ids}, **send).json()
    (alone,) = steered.generate([[{"role": "user", "content": "one two"}]], max_new_tokens=12, temperature=0.0, off=True)
    assert told["choices"][0]["token_ids"] == list(alone.token_ids) and told["choices"][0]["prompt_token_ids"] == ids
    assert told["choices"][0]["text"] == alone.text and told["usage"]["prompt_tokens"] == len(ids)
    chat = asked | {"messages": [{"role": "user", "content": "one two"}]}
    said = httpx.post(f"{url}/v1/chat/completions", json=chat, **send).json()
    assert said["choices"][0]["token_ids"] == list(alone.token_ids) and said["prompt_token_ids"] == ids
    for more in ({"prompt": [9999]}, {"prompt": []}, {"prompt": [-1]}, {"prompt": "one", "stream": True}):
        refused = httpx.post(f"{url}/v1/completions", json=asked | more, **send)
        assert refused.status_code == 400 and refused.json()["error"]["param"].split(".")[0] == list(more)[-1]
    assert httpx.post(f"{url}/v1/chat/completions", json=chat | {"stream": True}, **send).status_code == 400


# -- servers at fault ---------------------------------------------------------------------------------------------------


def changed(**fields: Any) -> Callable[[int, dict[str, Any]], Any]:
    return lambda number, answer: answer | fields


FAULTS: dict[str, tuple[Callable[[int, dict[str, Any]], Any], str]] = {
    "no ids": (changed(token_ids=None), r"without token ids.*take vLLM 0\.10\.2"),
    "ids of another tokenizer": (changed(text="something else"), r"for 'something else', which here are .*serve the same model"),
    "ids outside the vocabulary": (changed(token_ids=[99999]), r"token 99999: its tokenizer is not that of"),
    "another prompt": (lambda n, a: a | {"prompt_token_ids": [1, *a["prompt_token_ids"]]}, r"after another prompt.*from token"),
    "a cut answer": (lambda n, a: a | {"token_ids": a["token_ids"][:5], "text": None}, r"not in the protocol's form"),
    "ended early": (changed(finish_reason="stop"), r"stopped at .* which ends no answer of .*serve the same model"),
    "aborted": (changed(finish_reason="abort"), r"the end 'abort': look at its log"),
    "no token": (changed(token_ids=[], text=""), r"with 0 tokens"),
    "no JSON": (lambda n, a: b"<html>502</html>", r"answers with '<html>502</html>', which is not in the protocol's form"),
    "half a response": (lambda n, a: "half", r"failed 3 times in a row \(peer closed connection"),
    "always in trouble": (lambda n, a: 503, r"failed 3 times in a row \(503: engine core\): look at its log; what is finished is kept"),
    "busy for ever": (lambda n, a: 429, r"failed 3 times in a row \(429"),
    "an endless page": (lambda n, a: b"x" * 30_000, r"/completions answers with more than 0 MB: is it an OpenAI-compatible server"),
    "a refusal": (lambda n, a: 400, r"refuses the request \(400: engine core\)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_at_fault_gives_one_line_and_loses_nothing(fault, fake, undisturbed, engine, tiny_folder, tmp_path):
    """It answers five times, then goes wrong; the resumed run asks for the rest only, and is the undisturbed one."""
    spoil, line = FAULTS[fault]
    fake.spoil = lambda number, answer: answer if number <= 5 else spoil(number, answer)
    with fake.up() as at:
        with pytest.raises(ModelError, match=line) as refused:
            made(at, tiny_folder, engine, tmp_path / "run", until="rollouts", batch_rows=2)
        assert str(refused.value).isprintable() and at in str(refused.value)
        kept = (tmp_path / "run" / "rollouts.part" / "rollouts.jsonl").read_text().splitlines()
        assert 4 <= len(kept) <= 5
    whole = Fake(engine)
    with whole.up() as elsewhere:  # the same server at another address
        resumed = made(elsewhere, tiny_folder, engine, tmp_path / "run", until="rollouts")
    assert len(whole.asked) == len(ALL) - len(kept)
    assert resumed.rollouts() == undisturbed.rollouts() and len(undisturbed.rollouts()) == len(ALL)


def test_a_server_in_passing_trouble_is_asked_again(fake, engine, tiny_folder, tmp_path):
    fake.spoil = lambda number, answer: (429, 503, answer)[number % 3]
    with fake.up() as at:
        run = made(at, tiny_folder, engine, tmp_path / "run", until="rollouts", batch_rows=1)
    assert len(run.rollouts()) == len(ALL) and len(fake.asked) == 2 + 3 * (len(ALL) - 1)


def test_what_was_decoded_behind_the_end_of_an_answer_is_cut_off(fake, engine, tiny_folder, tmp_path):
    """A server with fewer stop tokens than the model here."""
    end = min(engine.stop_ids)

    def spoil(number, answer):
        ids = [*answer["token_ids"][:3], end, *answer["token_ids"][4:]]
        return answer | {"token_ids": ids, "text": engine.text(ids)}

    fake.spoil = spoil
    with fake.up() as at:
        run = made(at, tiny_folder, engine, tmp_path / "run", until="rollouts")
    assert {(len(rollout.token_ids), rollout.finish) for rollout in run.rollouts()} == {(4, "stop")}


def test_a_server_of_other_weights_is_told_by_its_tokens(fake, engine, tiny_folder, tmp_path):
    """Tokens at random are ones that the model would often not have drawn."""
    with fake.up() as at:
        run = made(at, tiny_folder, engine, tmp_path / "run", until="rollouts", top_p=0.5)
    (note,) = run.manifest("rollouts").notes
    assert float(re.findall(r"drawn ([\d.]+)%", note)[0]) > 5 and "other weights may be served" in note


def test_a_server_that_is_not_there_or_has_another_model(fake, engine, tiny_folder, tmp_path):
    with fake.up() as at:
        with pytest.raises(ModelError, match=r"does not serve 'three' but one: name one of them as http"):
            made(f"{at}#three", tiny_folder, engine, tmp_path / "run")
        fake.offers.append({"id": "two"})
        with pytest.raises(ModelError, match=r"but one, two: name one of them as http.*#NAME"):
            made(at, tiny_folder, engine, tmp_path / "run")
        made(f"{at}#two", tiny_folder, engine, tmp_path / "run", until="rollouts")
        assert {body["model"] for body in fake.asked} == {"two"} and len({body["seed"] for body in fake.asked}) == len(ALL)
    with pytest.raises(ModelError, match=r"nothing answers at http://127.0.0.1:\d+/v1 \(.*\): start the server"):
        made(at, tiny_folder, engine, tmp_path / "other")


@pytest.mark.parametrize("bad", ["", "remote", "ftp://host", "http://", "http://host:99999", "http://[", "http://a b\n"])
def test_what_is_no_engine_is_refused(bad, tiny_folder):
    with pytest.raises(ConfigError, match=r"rollouts.engine = .*: (give|that is no URL)"):
        config(bad, tiny_folder)


def test_budgets_of_parts_are_refused_with_a_server(tiny_folder):
    with pytest.raises(ConfigError, match="max_thinking_tokens and max_final_tokens are kept by engine"):
        config("http://host/v1", tiny_folder, max_thinking_tokens=5)


# -- evaluation ---------------------------------------------------------------------------------------------------------


def test_sampling_methods_draw_from_a_server_what_they_draw_here_and_cost_the_same(url, engine, monkeypatch):
    monkeypatch.setenv(served.KEY, SECRET)
    problems = [Problem(id=f"p{i}", task="t", split="eval", question=q, answer="1", kind="number") for i, q in enumerate(QUESTIONS)]
    questions = [Question(problem, engine.chat_ids(problem.question)) for problem in problems]
    here = Bench(engine, Settings(DecodeConfig(max_new_tokens=12), rows=4), GateConfig(), lambda name: None)
    there = replace(here, engine=url)
    for name in ("sampling:temperature=0", "self_consistency:k=3,temperature=0"):
        own, other = ({answer.problem_id: answer for answer in method(name).answer(bench, questions)} for bench in (here, there))
        assert own == other and len(own) == len(QUESTIONS), "text, tokens, votes, forward tokens and FLOPs"
    for name in ("sampling", "self_consistency"):
        drawn = {answer.problem_id: answer for answer in method(name).answer(there, questions)}
        assert {answer.token_ids for answer in drawn.values()} != {answer.token_ids for answer in own.values()}


def test_an_evaluation_refuses_a_server_that_is_not_there_and_budgets_of_parts(engine):
    bench = Bench(engine, Settings(DecodeConfig()), GateConfig(), lambda name: None, engine="http://127.0.0.1:9/v1")
    asked = method("sampling")
    with pytest.raises(ModelError, match=r"nothing answers at http://127\.0\.0\.1:9/v1"):
        asked.decoder.check(bench, asked.parameters)
    parts = replace(bench, settings=Settings(DecodeConfig(max_final_tokens=4)))
    with pytest.raises(ConfigError, match=r"decode.max_thinking_tokens .*leave"):
        asked.decoder.check(parts, asked.parameters)
