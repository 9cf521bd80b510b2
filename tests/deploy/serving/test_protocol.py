"""Requests as clients send them: what asks for nothing is accepted, and nothing that asks for something is ignored."""

import json

import pytest

from stir_core.deploy.serving.protocol import Refused, parse

ASKED = {"model": "m", "messages": [{"role": "user", "content": "one"}]}


def with_turn(**more):
    return {"messages": [*ASKED["messages"], {"role": "assistant", **more}, *ASKED["messages"]]}


NEUTRAL = [
    {"frequency_penalty": 0},
    {"presence_penalty": 0.0},
    {"repetition_penalty": 1},
    {"top_k": -1},
    {"top_k": 0},
    {"min_p": 0},
    {"logit_bias": {}},
    {"logit_bias": None},
    {"stop": None},
    {"stop": []},
    {"logprobs": False},
    {"logprobs": None, "top_logprobs": 0},
    {"n": 1},
    {"tools": []},
    {"tools": None, "tool_choice": None},
    {"tool_choice": "none"},
    {"parallel_tool_calls": True},
    {"response_format": {"type": "text"}},
    {"store": False},
    {"metadata": {}},
    {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
    {"stream": False, "stream_options": {"include_usage": None}},
    {"chat_template_kwargs": None},
    {"modalities": ["text"]},
    {"messages": [{"role": "user", "content": "one", "name": "ann"}]},
    with_turn(content=None),
    with_turn(tool_calls=None),
    with_turn(content=None, tool_calls=[]),
    with_turn(content="two", refusal=None, annotations=[], audio=None, function_call=None, tool_calls=None),
]


@pytest.mark.parametrize("more", NEUTRAL, ids=json.dumps)
def test_what_asks_for_nothing_is_the_same_request(more):
    asked = parse(json.dumps(ASKED | more).encode())
    assert asked.stops == () and asked.budget is None
    assert [message.plain()["content"] for message in asked.messages if message.role == "user"] == ["one"] * (len(asked.messages) // 2 + 1)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"frequency_penalty": 0.1}, "frequency_penalty"),
        ({"presence_penalty": -2}, "presence_penalty"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"top_k": 40}, "top_k"),
        ({"min_p": 0.05}, "min_p"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"stop": [None]}, "stop"),
        ({"stop": 5}, "stop"),
        ({"tools": [{}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format.type"),
        ({"modalities": ["audio"]}, "modalities.0"),
        (with_turn(tool_calls=[{"id": "1"}]), "messages.1.tool_calls"),
        (with_turn(content="", refusal="no"), "messages.1.refusal"),
        ({"best_of": 2}, "best_of"),
    ],
)
def test_what_asks_for_something_that_is_not_there_is_refused_by_name(more, param):
    with pytest.raises(Refused) as refused:
        parse(json.dumps(ASKED | more).encode())
    assert refused.value.status == 400 and (refused.value.param or "").startswith(param)
    assert str(refused.value).startswith(param) and str(refused.value).isprintable()


@pytest.mark.parametrize(("stop", "stops"), [("\n\n", ("\n\n",)), (["#", ";"], ("#", ";")), ([], ()), (None, ())])
def test_stop_is_a_text_a_list_or_nothing(stop, stops):
    assert parse(json.dumps(ASKED | {"stop": stop}).encode()).stops == stops
