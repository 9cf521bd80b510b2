"""Models that think and answer in the style of every family: labels, control points, phases and streams are right."""

from typing import Any

import pytest
import torch

from stir_core.config import DecodeConfig, GateConfig, config_from
from stir_core.deploy.serving.choices import Choice, StopText
from stir_core.evaluate.decoders.base import Bench, Question
from stir_core.evaluate.decoders.registry import method
from stir_core.harvest.pairs import plan_pairs
from stir_core.harvest.rollouts import sample_rollouts
from stir_core.intervene.controller import run_all
from stir_core.intervene.jobs import Forced, Job, Settings
from stir_core.records import Problem
from stir_core.tasks import Grader
from stir_core.tasks.thinking import ThinkingStream, graded_part
from tests.models.thinkers import FINAL, QUESTIONS, STYLES, THINKING, THOUGHT, thinker, written

STEP = Settings(DecodeConfig(max_new_tokens=120))


def problem(name):
    asked, gold = QUESTIONS[name]
    return Problem(id=name, task="t", split="s", question=asked, answer=gold, kind="math")


def decoded(style, name, settings=STEP, **job) -> Any:
    model = thinker(style)
    (trace,) = run_all(model, [Job("p", model.chat_ids(QUESTIONS[name][0]), GateConfig(), **job)], settings)
    return trace


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", QUESTIONS)
def test_control_points_lie_in_the_right_part_and_the_label_is_that_of_the_final_part(style, name):
    trace = decoded(style, name)
    assert trace.text == written(style, name) and trace.finish == "stop"
    steps = [step.text for step in trace.steps]
    assert "".join(steps) == trace.text
    phases = [step.evidence.phase for step in trace.steps]
    if style not in THINKING:
        assert phases == [None, None] and trace.thinking is None
    else:
        begin = "thinking" if style == "deepseek_r1" else None
        assert phases == [begin, "thinking", "thinking", "final"]
        # the closing tag begins the step that goes on behind it
        assert THOUGHT[name][1] in steps[1] and steps[2].endswith(f"{FINAL[name][0]}\n\n") and steps[3] == FINAL[name][1]
        assert trace.thinking.closed and trace.text[trace.thinking.chars :] == f"\n\n{FINAL[name][0]}\n\n{FINAL[name][1]}"
        assert thinker(style).text(trace.token_ids[: trace.thinking.tokens]) == trace.text[: trace.thinking.chars]
    with Grader() as grader:
        assert grader.judge(problem(name), graded_part(trace.text, trace.thinking)).correct == (name == "sum")


@pytest.mark.parametrize("style", THINKING)
def test_an_answer_that_is_cut_off_in_its_thinking_is_unfinished(style):
    budget = decoded(style, "product").thinking.tokens - 1
    trace = decoded(style, "product", Settings(DecodeConfig(max_new_tokens=budget)))
    assert "\\boxed{6}" in trace.text and trace.thinking.closed is False and trace.thinking.tokens == budget
    with Grader() as grader:
        verdict = grader.judge(problem("product"), graded_part(trace.text, trace.thinking))
    assert not verdict.finished and not verdict.correct


def inner_tokens(style, trace):
    """Tokens of the thinking before the end that a budget wrote, and the answer up to that end."""
    model = thinker(style)
    opened = 0 if model.opened(trace.prompt_ids) else len(model.tokens(model.tags.opening))
    ids, end = list(trace.token_ids), model.tokens(model.tags.end)
    at = next(i for i in range(len(ids)) if ids[i : i + len(end)] == end)
    return at - opened, ids[: at + len(end)]


@pytest.mark.parametrize("style", THINKING)
@pytest.mark.parametrize("budget", [0, 1, 9, 12])
def test_when_the_budget_of_the_thinking_is_spent_its_end_is_written_and_the_final_part_follows(style, budget):
    settings = Settings(DecodeConfig(max_new_tokens=120, max_thinking_tokens=budget))
    trace = decoded(style, "sum", settings)
    thought, begun = inner_tokens(style, trace)
    assert thought == budget and trace.thinking.closed and trace.thinking.forced
    free = decoded(style, "sum")
    assert not free.thinking.forced and "forced" not in free.thinking.model_dump()
    kept = len(begun) - len(thinker(style).tokens(thinker(style).tags.end))
    assert trace.token_ids[:kept] == free.token_ids[:kept]
    # what follows is what the model writes behind this beginning
    assert decoded(style, "sum", given=tuple(begun)).token_ids == trace.token_ids
    assert trace.text[trace.thinking.chars :].strip()
    # an answer that is taken up anywhere, even within the end that is being written, goes on in the same way
    for given in (kept - 1, kept, kept + 1, len(begun), len(begun) + 2):
        again = decoded(style, "sum", settings, given=trace.token_ids[: max(given, 0)])
        assert again.token_ids == trace.token_ids and again.thinking == trace.thinking


def test_a_budget_that_is_not_reached_changes_nothing():
    for style in STYLES:
        free = decoded(style, "sum")
        decode = DecodeConfig(max_new_tokens=120, max_thinking_tokens=100, max_final_tokens=100)
        assert decoded(style, "sum", Settings(decode)).token_ids == free.token_ids


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("budget", [1, 5])
def test_the_final_part_has_a_budget_of_its_own(style, budget):
    free, trace = decoded(style, "sum"), decoded(style, "sum", Settings(DecodeConfig(max_new_tokens=120, max_final_tokens=budget)))
    before = free.thinking.tokens if free.thinking is not None else 0
    if before or style in ("gemma", "llama3"):
        assert trace.token_ids == free.token_ids[: before + budget] and trace.finish == "length"


def test_every_decoder_keeps_the_budgets_of_the_parts():
    model = thinker("qwen3")
    decode = DecodeConfig(max_new_tokens=120, max_thinking_tokens=9, max_final_tokens=4)
    wanted = decoded("qwen3", "sum", Settings(decode))
    own = Bench(model, Settings(decode), GateConfig(), lambda name: None)
    for name in ("vanilla", "sampling:temperature=0", "soft_thinking:temperature=0", "multiplex:temperature=0", "deer:threshold=1"):
        (answer,) = method(name).answer(own, [Question(problem("sum"), model.chat_ids(QUESTIONS["sum"][0]))])
        assert answer.token_ids == wanted.token_ids and answer.thinking == wanted.thinking and answer.finish == "length"
    settings = {"rollouts": {"k": 1, "temperature": 0.0, "max_new_tokens": 120, "max_thinking_tokens": 9, "max_final_tokens": 4}}
    (found,) = sample_rollouts(model, [(problem("sum"), model.chat_ids(QUESTIONS["sum"][0]))], config_from(settings), Grader().judge)
    assert found.rollout.token_ids == wanted.token_ids and found.rollout.thinking == wanted.thinking


def test_a_sample_that_is_still_thinking_does_not_vote():
    model = thinker("deepseek_r1")
    own = Bench(model, Settings(DecodeConfig(max_new_tokens=20)), GateConfig(), lambda name: None)
    (answer,) = method("self_consistency:k=2,temperature=0").answer(own, [Question(problem("sum"), model.chat_ids(QUESTIONS["sum"][0]))])
    assert "\\boxed{4}" in answer.text and answer.facts["voters"] == 0


def test_with_phase_final_steps_are_counted_behind_the_thinking():
    trace = decoded("qwen3", "sum", STEP._replace(phase="final"))
    assert [step.evidence.phase for step in trace.steps] == [None, "final"] and trace.steps[1].text == FINAL["sum"][1]


@pytest.mark.parametrize(("phase", "steered"), [("thinking", [1, 2]), ("final", [3]), ("both", [1, 2, 3])])
def test_the_gate_steers_the_chosen_part_only(phase, steered):
    model = thinker("qwen3")
    forced = Forced("x", 1, torch.zeros(model.d_model), 1.0)
    trace = decoded("qwen3", "sum", force=lambda m: forced if m else None, within=phase)
    assert [step.m for step in trace.steps if step.decision.chosen] == steered
    reasons = {m: step.evidence.not_retrieved.kind for m, step in enumerate(decoded("qwen3", "sum").steps)}
    assert reasons == {0: "start", 1: "no_library", 2: "no_library", 3: "in_final"}


@pytest.mark.parametrize("given", [5, 17, 30, 40])
def test_an_answer_taken_up_in_the_middle_has_the_same_control_points(given):
    whole = decoded("gpt_oss", "sum")
    again = decoded("gpt_oss", "sum", given=whole.token_ids[:given])
    assert again.token_ids == whole.token_ids and again.thinking == whole.thinking
    at = {step.m: step.evidence.phase for step in whole.steps}
    assert all(at[step.m] == step.evidence.phase for step in again.steps)


def test_rollouts_carry_the_phase_of_their_control_points_and_pairs_stay_inside_one():
    model = thinker("mistral")
    asked = problem("sum")
    settings = {"rollouts": {"k": 2, "temperature": 0.0, "max_new_tokens": 120}, "mining": {"control_points": 4, "layers": [1]}}
    found = sample_rollouts(model, [(asked, model.chat_ids(asked.question))], config_from(settings), Grader().judge)
    right, wrong = (each.rollout for each in found)
    assert right.verdict.correct and [right.phase(m) for m in (1, 2, 3)] == ["thinking", "thinking", "final"]
    verdict = wrong.verdict.replaced(correct=False)
    wrong = wrong.replaced(k=1, verdict=verdict, reward=-1.0)
    for phase, wanted in {"thinking": {1, 2}, "final": {3}, "both": {1, 2, 3}}.items():
        mining = config_from({**settings, "mining": {**settings["mining"], "phase": phase}, "gate": {"phase": "both"}}).mining
        pairs = plan_pairs([asked], [right, wrong], mining)
        assert {(pair.m, pair.phase) for pair in pairs} == {(m, "final" if m == 3 else "thinking") for m in wanted}
    # of rollouts in different parts at a control point, no pair is made
    assert wrong.thinking is not None
    late = wrong.replaced(thinking=wrong.thinking.replaced(tokens=1))
    assert {pair.m for pair in plan_pairs([asked], [right, late], config_from(settings).mining)} == set()


def bench(model):
    return Bench(model, STEP, GateConfig(), lambda name: None)


@pytest.mark.parametrize("style", THINKING)
@pytest.mark.parametrize("name", ["deer:threshold=0", "soft_thinking:temperature=0", "soft_thinking:temperature=0,patience=12,entropy=9"])
def test_decoders_end_the_thinking_with_its_tag(style, name):
    model = thinker(style)
    (answer,) = method(name).answer(bench(model), [Question(problem("sum"), model.chat_ids(QUESTIONS["sum"][0]))])
    thought, closing, _ = answer.text.partition(model.tags.closing)
    assert closing
    if name == "soft_thinking:temperature=0":
        assert answer.text == written(style, "sum") and answer.facts["cold_stop"] == 0
        assert answer.thinking is not None and answer.facts["thinking_tokens"] == answer.thinking.tokens
    elif name.startswith("deer"):
        assert THOUGHT["sum"][0] in thought and THOUGHT["sum"][1] not in thought and answer.facts["exit_step"] == 1
    else:
        assert answer.facts["cold_stop"] == 1 and answer.facts["thinking_tokens"] == 12
        assert model.text(answer.token_ids[12:]).startswith(model.tags.end)


def test_multiplex_answers_in_plain_tokens_behind_the_thinking():
    model = thinker("deepseek_r1")
    (answer,) = method("multiplex:temperature=0").answer(bench(model), [Question(problem("sum"), model.chat_ids(QUESTIONS["sum"][0]))])
    assert answer.text == written("deepseek_r1", "sum") and answer.finish == "stop"


@pytest.mark.parametrize("style", THINKING)
def test_the_server_s_parts_are_the_same_streamed_token_by_token_and_whole(style):
    model, trace = thinker(style), decoded(style, "sum")
    opened = model.opened(trace.prompt_ids)
    whole, streamed = (Choice(0, StopText(()), ThinkingStream(model.tags, opened=opened), settled=now) for now in (True, False))
    assert whole.fields(trace.text) == whole.message
    for character in trace.text:
        streamed.fields(character)
    streamed.settled = True
    streamed.fields("")
    assert streamed.message == whole.message
    assert whole.message["content"] == trace.text[trace.thinking.chars :]
    assert whole.message["reasoning_content"].strip() == "\n\n".join(THOUGHT["sum"])


def test_an_answer_of_one_channel_shows_no_channel():
    for cut in (1, 4, 100):
        text, stream = "<|channel|>final<|message|>It is 5.", ThinkingStream(thinker("gpt_oss").tags)
        pieces = [piece for i in range(0, len(text), cut) for piece in stream.push(text[i : i + cut])] + stream.push("", last=True)
        assert {phase for phase, _ in pieces} == {"final"} and "".join(piece for _, piece in pieces) == "It is 5."
