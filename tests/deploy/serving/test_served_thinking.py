"""The server shows a model's thinking apart from its answer, streamed and whole, and keeps the bundle's template arguments."""

import json

import httpx
import pytest

from stir_core.deploy.bundle.reading import read_bundle
from stir_core.deploy.export import export
from stir_core.deploy.serving.process import serving
from stir_core.deploy.serving.runtime import SteeredModel
from tests.deploy.tiny_run import tiny_run
from tests.models.thinkers import QUESTIONS, thinker, written


@pytest.mark.parametrize("style", ["qwen3", "deepseek_r1", "gpt_oss"])
def test_thinking_and_answer_are_apart_streamed_and_whole(style, tmp_path):
    model = thinker(style)
    export(tiny_run(tmp_path, model.identity), tmp_path / "bundle")
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.manifest.model.template_args == model.identity.template_args
    asked = {"model": style, "messages": [{"role": "user", "content": QUESTIONS["sum"][0]}], "max_tokens": 120, "stir": {"off": True}}
    with serving(SteeredModel.on(model, bundle), style) as url:

        def ask(**more):
            return httpx.post(f"{url}/v1/chat/completions", json=asked | more, timeout=120, trust_env=False)

        whole = ask().json()
        short = ask(thinking_token_budget=4, stir={"off": True, "max_final_tokens": 3}).json()
        chunks = [json.loads(line[6:]) for line in ask(stream=True).text.splitlines() if line.startswith("data: {")]
    message = whole["choices"][0]["message"]
    streamed = {"role": "assistant"}
    for delta in (chunk["choices"][0]["delta"] for chunk in chunks):
        streamed |= {key: streamed.get(key, "") + text for key, text in delta.items() if key != "role"}
    assert streamed == message
    final = written(style, "sum").partition(model.tags.closing)[2]
    assert message["content"] == final and message["reasoning_content"].strip().startswith("try")
    assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] < whole["usage"]["completion_tokens"]
    # a budget for each part: the thinking is closed after four tokens, and three follow it
    parts, steered = short["choices"][0]["message"], SteeredModel.on(model, bundle)
    (trace,) = steered.generate(
        [[asked["messages"][0]]], max_new_tokens=120, max_thinking_tokens=4, max_final_tokens=3, strength=0, off=True
    )
    assert trace.thinking is not None and trace.thinking.forced and trace.finish == short["choices"][0]["finish_reason"] == "length"
    assert parts["content"] == trace.text[trace.thinking.chars :]
    assert model.text(trace.token_ids[: trace.thinking.tokens]) == trace.text[: trace.thinking.chars]
    assert len(parts["reasoning_content"].strip()) < len(message["reasoning_content"].strip())
