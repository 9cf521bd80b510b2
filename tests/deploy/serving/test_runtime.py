"""The plain-transformers runtime against the workbench: same tokens, same decisions, and no TransformerLens."""

import copy
import subprocess
import sys

import pytest
import torch

from stir_core.deploy.bundle.reading import read_bundle
from stir_core.deploy.export import export
from stir_core.deploy.serving.runtime import SteeredModel
from stir_core.errors import ConfigError, MismatchError, PromptError, SteeringError
from stir_core.intervene.session import STEERED, VANILLA, open_session
from stir_core.records import StepEvent, TokenEvent, Trace, TraceEvent
from tests.builders import make_hf
from tests.deploy.tiny_run import QUESTIONS, tiny_run


def test_tokens_and_decisions_are_those_of_the_workbench(tiny_bundled, engine, steered):
    session = open_session(tiny_bundled[0], engine)
    injected = 0
    for question in QUESTIONS:
        traces = {event.row: event.trace for event in session.compare(question) if isinstance(event, TraceEvent)}
        answer, vanilla = steered.generate(question)[0], steered.generate(question, off=True)[0]
        assert (answer.token_ids, answer.text, answer.finish) == (traces[STEERED].token_ids, traces[STEERED].text, traces[STEERED].finish)
        assert [d.chosen for d in answer.decisions] == [step.decision.chosen for step in traces[STEERED].steps]
        for ours, theirs in zip(answer.steps, traces[STEERED].steps, strict=True):
            assert ours.decision.alpha == pytest.approx(theirs.decision.alpha, abs=1e-5)
            assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)
            assert [e.entry_id for e in ours.evidence.retrieved] == [e.entry_id for e in theirs.evidence.retrieved]
        assert answer.forward_tokens == traces[STEERED].forward_tokens
        assert (vanilla.token_ids, vanilla.text) == (traces[VANILLA].token_ids, traces[VANILLA].text)
        injected += sum(decision.chosen is not None for decision in answer.decisions)
    assert injected >= 3, "the comparison proves nothing when nothing is steered"


@pytest.mark.parametrize("variant", ["no_probing", "random_vector", "random_choice"])
def test_variants_are_those_of_the_workbench(tiny_bundled, engine, steered, variant):
    run = tiny_bundled[0]
    gate = run.config.gate.model_copy(update={"variant": variant, "k_scale": 0.7 * 0.5})
    events = open_session(run, engine).compare(QUESTIONS[0], gate)
    theirs = next(e.trace for e in events if isinstance(e, TraceEvent) and e.row == STEERED)
    (ours,) = steered.generate(QUESTIONS[0], variant=variant, strength=0.5)
    assert ours.token_ids == theirs.token_ids
    assert [d.chosen for d in ours.decisions] == [step.decision.chosen for step in theirs.steps]


def test_a_batch_equals_its_rows_and_streaming_equals_waiting(steered):
    together = steered.generate(list(QUESTIONS))
    events = list(steered.generate(list(QUESTIONS), stream=True))
    for row, (question, answer) in enumerate(zip(QUESTIONS, together, strict=True)):
        (alone,) = steered.generate(question)
        assert (alone.token_ids, alone.text) == (answer.token_ids, answer.text)
        assert [d.chosen for d in alone.decisions] == [d.chosen for d in answer.decisions]
        own = [event for event in events if event.row == row]
        assert tuple(event.token_id for event in own if isinstance(event, TokenEvent)) == answer.token_ids
        assert tuple(event.decision for event in own if isinstance(event, StepEvent)) == answer.decisions
        assert isinstance(own[-1], TraceEvent) and own[-1].trace == answer


@pytest.mark.parametrize("options", [{"strength": 0}, {"off": True}, {"variant": "no_memory"}])
def test_what_injects_nothing_is_plain_greedy_decoding(steered, llama_pair, options):
    for answer in steered.generate(list(QUESTIONS[:2]), max_new_tokens=16, **options):
        ids = torch.tensor([answer.prompt_ids])
        with torch.inference_mode():
            plain = llama_pair[1].generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False, pad_token_id=1)
        assert answer.token_ids == tuple(plain[0, ids.shape[1] :].tolist())
        assert not any(decision.chosen for decision in answer.decisions)


def test_vectors_next_to_zero_are_plain_decoding(engine, tmp_path, steered):
    """A bundle refuses actions that are exactly zero; these are lost in float32."""
    export(tiny_run(tmp_path, engine.identity, scale=1e-20), tmp_path / "bundle")
    weak = SteeredModel.on(steered.model, read_bundle(tmp_path / "bundle"))
    answers = weak.generate(list(QUESTIONS))
    assert any(decision.chosen for answer in answers for decision in answer.decisions)
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in steered.generate(list(QUESTIONS), off=True)]


def test_a_conversation_goes_as_it_is(steered):
    messages = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}, {"role": "user", "content": "three"}]
    (answer,) = steered.generate(messages, max_new_tokens=4)
    wanted = "<s>user\none</s>\n<s>assistant\ntwo</s>\n<s>user\nthree</s>\n<s>assistant\n"
    assert steered.model.prompt_text(list(answer.prompt_ids)) == wanted
    assert len(steered.generate([messages, messages], max_new_tokens=2)) == 2


@pytest.mark.parametrize(
    ("prompts", "options", "error", "said"),
    [
        ("one", {"strength": -1}, SteeringError, "strength is -1"),
        ("one", {"strength": float("nan")}, SteeringError, "strength is nan"),
        ("one", {"variant": "best"}, ConfigError, "variant = 'best'"),
        ("one", {"max_new_tokens": 0}, ConfigError, "max_new_tokens = 0"),
        ("one", {"temperature": -0.1}, SteeringError, "temperature is -0.1"),
        (" ", {}, PromptError, "the prompt is empty"),
        ([], {}, PromptError, "no prompt"),
        ([{"role": "user"}], {}, PromptError, "a role and a content"),
        ("one two " * 400, {}, PromptError, "reads 512"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(steered, prompts, options, error, said):
    with pytest.raises(error, match=said) as caught:
        steered.generate(prompts, **options)
    assert "\n" not in str(caught.value)


def test_another_model_is_refused(tiny_bundled, tokenizer, llama_pair):
    bundle, other = tiny_bundled[1], copy.deepcopy(llama_pair[1])
    with pytest.raises(MismatchError, match="not known"):
        SteeredModel(other, tokenizer, bundle)
    with pytest.raises(MismatchError, match="weights_sha256"):
        SteeredModel(other, tokenizer, bundle, weights_sha256="1" * 64)
    assert SteeredModel(other, tokenizer, bundle, check="shape").generate("one", max_new_tokens=2)
    with pytest.raises(MismatchError, match="n_layers 4"):
        SteeredModel(make_hf("llama", len(tokenizer), layers=3), tokenizer, bundle, check="shape")
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = changed.chat_template.replace("assistant", "model")
    with pytest.raises(MismatchError, match="tokenizer_sha256"):
        SteeredModel(other, changed, bundle, weights_sha256=bundle.manifest.model.weights_sha256)


def test_a_fresh_process_with_the_bundle_alone_decodes_as_the_run_does(tiny_bundled, engine, tiny_folder):
    """Token for token and decision for decision, and without TransformerLens."""
    run, bundle = tiny_bundled
    own = {event.row: event.trace for event in open_session(run, engine).compare(QUESTIONS[0]) if isinstance(event, TraceEvent)}
    code = (
        "import sys; from stir_core.deploy.serving.runtime import SteeredModel; "
        f"steered = SteeredModel.load({str(bundle.folder)!r}, {tiny_folder!r}); "
        f"[print(answer.model_dump_json()) for off in (True, False) for answer in steered.generate({QUESTIONS[0]!r}, off=off)]; "
        "assert not any(name.startswith('transformer' + '_lens') for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for row, line in zip((VANILLA, STEERED), done.stdout.splitlines(), strict=True):
        ours, theirs = own[row], Trace.model_validate_json(line)
        assert (theirs.token_ids, theirs.text, theirs.finish) == (ours.token_ids, ours.text, ours.finish)
        for a, b in zip(ours.steps, theirs.steps, strict=True):
            assert (b.decision.chosen, b.decision.alpha) == (a.decision.chosen, pytest.approx(a.decision.alpha, abs=1e-6))
            assert [entry.entry_id for entry in b.evidence.retrieved] == [entry.entry_id for entry in a.evidence.retrieved]
    assert any(step.decision.chosen for step in own[STEERED].steps)
