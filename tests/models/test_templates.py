"""Chat templates: nothing is dropped in silence, no day of the run in a prompt, and the answer ends where the template ends it."""

import pytest

from stir_core.commands.overrides import changes_between, overridden
from stir_core.config import config_from, digest_of
from stir_core.errors import ConfigError, MismatchError, ModelError, PromptError
from stir_core.models import templates
from stir_core.models.loading import boot, load_model
from stir_core.store.runs import check_identity
from tests.builders import make_hf, make_tokenizer
from tests.models.templates import PLAIN, SPECIAL, TEMPLATES


def family(name, folder, template=None):
    """A tokenizer with a family's template and special tokens."""
    tokenizer = make_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL.get(name, [])})
    tokenizer.add_tokens(PLAIN.get(name, []))
    tokenizer.chat_template = template or TEMPLATES[name]
    return tokenizer


def booted(name, folder, template=None, **args):
    tokenizer = family(name, folder, template)
    return boot(name, make_hf("llama", len(tokenizer)), tokenizer, weights_sha256="0" * 64, backend="plain", template_args=args)


@pytest.mark.parametrize("name", TEMPLATES)
def test_question_and_system_text_stand_in_every_prompt(tmp_path, name):
    text = booted(name, tmp_path).chat_text("What is two?", "Be brief.")
    assert text.index("Be brief.") < text.index("What is two?")


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("qwen3", {"</s>", "<|im_end|>"}),
        ("deepseek_r1", {"</s>"}),
        ("smollm3", {"</s>", "<|im_end|>"}),
        ("gpt_oss", {"</s>", "<|return|>"}),
        ("gemma", {"</s>", "<end_of_turn>"}),
        ("llama3", {"</s>", "<|eot_id|>"}),
        ("mistral", {"</s>"}),
    ],
)
def test_an_answer_ends_where_the_template_ends_it(tmp_path, name, ends):
    model = booted(name, tmp_path)
    assert {model.token_text(token_id) for token_id in model.stop_ids} == ends


def test_ends_of_the_generation_config_are_kept(tmp_path):
    tokenizer = family("gemma", tmp_path)
    hf = make_hf("llama", len(tokenizer))
    hf.generation_config.eos_token_id = [1, 7]
    assert {1, 7, tokenizer.get_vocab()["<end_of_turn>"]} == boot("x", hf, tokenizer, weights_sha256="0" * 64, backend="plain").stop_ids


def test_arguments_reach_the_template_and_the_identity(tmp_path):
    thinking, direct = booted("qwen3", tmp_path), booted("qwen3", tmp_path, enable_thinking=False)
    assert not thinking.chat_text("two").endswith("</think>\n\n") and direct.chat_text("two").endswith("<think>\n\n</think>\n\n")
    assert direct.identity.template_args == {"enable_thinking": False} and "template_args" not in thinking.identity.model_dump()
    with pytest.raises(MismatchError, match=r"load it with template_args=\{'enable_thinking': False\}"):
        check_identity("the run", direct.identity, thinking.identity, "another")
    messages = [{"role": "user", "content": "two"}]
    assert thinking.dialogue_text(messages, {"enable_thinking": False}) == direct.dialogue_text(messages)


@pytest.mark.parametrize(
    ("name", "default", "other"),
    [("llama3", "26 Jul 2024", "01 May 2025"), ("smollm3", "26 July 2024", "01 May 2025"), ("gpt_oss", "2024-07-26", "2025-05-01")],
)
def test_the_date_is_fixed_and_recorded(tmp_path, name, default, other):
    model = booted(name, tmp_path)
    assert default in model.chat_text("two") and model.identity.template_args == {"date": "2024-07-26"}
    assert other in booted(name, tmp_path, date="2025-05-01").chat_text("two")
    before = model.identity.replaced(template_args={})  # made before dates were fixed
    check_identity("the run", before, model.identity, "another")


@pytest.mark.parametrize(
    ("name", "template", "args", "line"),
    [
        ("qwen3", None, {"enable_thinkin": False}, "reads no argument 'enable_thinkin': did you mean enable_thinking"),
        ("qwen3", None, {"date": "2025-05-01"}, "reads no argument 'date': take it out of model.template_args"),
        ("qwen3", None, {"tokenize": True}, "reads no argument 'tokenize'"),
        ("llama3", None, {"date": "May"}, "date = 'May' is not a date"),
        ("llama3", "{{ strftime_now(fmt) }}{{ messages[0].content }}", {"fmt": "%d"}, "in a computed format"),
        ("x", "{% for part in messages[0].content %}{{ part.text }}{% endfor %}", {}, "does not write the question"),
        ("x", "{{ messages[0].content + 5 }}", {}, r"cannot be asked: .* \(TypeError\)"),
        ("x", "{{ messages[0].content.nothing.more }}", {}, "cannot be asked"),
        ("x", "{{ messages[0].content }", {}, "cannot be asked"),
        ("x", "{% break %}{{ messages[0].content }}", {}, r"cannot be asked: .* \(SyntaxError\)"),
        ("x", "{{ '{0:>99999999999999}'.format('x') }}", {}, r"cannot be asked: .* \(MemoryError\)"),
        ("x", "{% for i in range(9999) %}" * 3 + "{% endfor %}" * 3 + "{{ messages[0].content }}", {}, "has not ended after 0.5 s"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_in_one_line(tmp_path, monkeypatch, name, template, args, line):
    monkeypatch.setattr(templates, "TRIAL_S", 0.5)
    with pytest.raises(ModelError, match=line) as caught:
        booted(name, tmp_path, template, **args)
    assert "\n" not in str(caught.value)


def test_a_system_text_that_the_template_drops_goes_into_the_question(tmp_path):
    model = booted("x", tmp_path, "{% for m in messages if m.role == 'user' %}[{{ m.content }}]{% endfor %}")
    assert model.chat_text("two", "be brief") == "[be brief\n\ntwo]"
    with pytest.raises(PromptError, match="put it into the user's message"):
        model.dialogue_text([{"role": "system", "content": "be brief"}])


def test_settings_of_a_run(tiny_folder):
    plain, given = config_from({}), config_from({"model": {"template_args": {"enable_thinking": False}}})
    before = plain.model_dump(mode="json")
    del before["model"]["template_args"]
    assert digest_of(plain) == digest_of(before) != digest_of(given)
    assert overridden(plain, ["model.template_args.enable_thinking=false"]) == given
    assert overridden(plain, changes_between(plain, given)) == given
    with pytest.raises(ConfigError, match=r"model.template_args: tools = \[1\] is neither a text in quotes"):
        config_from({"model": {"template_args": {"tools": [1]}}})
    with pytest.raises(ModelError, match="reads no argument 'enable_thinking'"):
        load_model(tiny_folder, template_args={"enable_thinking": False})
