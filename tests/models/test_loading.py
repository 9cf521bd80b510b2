"""Loading, identity and prompts: what a name resolves to, and what makes two models the same."""

import hashlib
import json
import shutil
from dataclasses import replace

import pytest
import torch

from stir_core.config import TaskConfig
from stir_core.errors import ModelError, PromptError
from stir_core.models.catalogue import catalogue, file_digest, prepare, resolve
from stir_core.models.hooked import BridgeBackend
from stir_core.models.loading import load_model
from stir_core.models.prompting import fitting_prompts
from stir_core.records import Problem
from tests.builders import prefill

TEXTS = (("short", "two and three"), ("long", "one two three " * 300))


@pytest.fixture
def folder(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_loads_and_knows_itself(folder):
    first, second = load_model(str(folder)), load_model(str(folder))
    assert first.identity == second.identity
    identity = first.identity
    assert (identity.processing, identity.dtype, identity.n_layers, identity.d_model) == ("raw", "float32", 4, 32)
    assert first.stop_ids == {1} and first.n_ctx == 512
    assert load_model(str(folder), dtype="bfloat16").identity.dtype == "bfloat16"


def test_other_weights_or_another_tokenizer_are_another_model(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    before = load_model(str(folder)).identity
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1.001
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    changed = load_model(str(folder)).identity
    assert changed.weights_sha256 != before.weights_sha256 and changed.tokenizer_sha256 == before.tokenizer_sha256
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert load_model(str(folder)).identity.tokenizer_sha256 != before.tokenizer_sha256


def test_a_model_of_another_numeric_type_is_refused_by_the_loader(folder):
    with pytest.raises(ModelError, match='dtype "int8" is not offered'):
        load_model(str(folder), dtype="int8")


@pytest.mark.parametrize("damage", ["truncated", "not json", "unknown architecture"])
def test_damaged_folders_are_one_line(folder, damage):
    if damage == "truncated":
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "not json":
        (folder / "config.json").write_text("{")
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "nonsense", "architectures": ["Nonsense"]}))
    with pytest.raises(ModelError, match="cannot be loaded from") as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_gguf(tmp_path, monkeypatch):
    monkeypatch.setenv("STIR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + b"\0" * 40)
    with pytest.raises(ModelError, match="cannot be read as a GGUF model"):
        load_model(str(tmp_path / "x.gguf"))
    assert not list((tmp_path / "cache" / "models").glob("*")) if (tmp_path / "cache" / "models").exists() else True


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smolm2", 'did you mean "smollm2"'),
        ("a/b/c", "unknown model"),
        ("none.gguf", "no GGUF file at none.gguf"),
        ("", "unknown model"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ModelError, match=message):
        resolve(name)


def test_pickled_weights_are_never_loaded(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match="pickled weights are never loaded"):
        load_model(str(tmp_path))


def test_the_catalogue_starts_with_the_embedded_model():
    assert catalogue()[0].name == "smollm2"


def test_a_digest_follows_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("STIR_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "a"
    file.write_bytes(b"one")
    first = file_digest(file)
    assert file_digest(file) == first
    file.write_bytes(b"other")
    assert file_digest(file) != first


def test_a_cache_that_cannot_be_written_keeps_no_model_from_loading(tmp_path, monkeypatch):
    (file := tmp_path / "weights").write_bytes(b"abc")
    (tmp_path / "closed").write_text("a file where the cache would be")
    monkeypatch.setenv("STIR_CACHE", str(tmp_path / "closed"))
    assert file_digest(file) == hashlib.sha256(b"abc").hexdigest()


def test_the_chat_template_writes_the_only_bos(tiny):
    ids = tiny.chat_ids("two and three")
    assert tiny.prompt_text(ids) == "<s>user\ntwo and three</s>\n<s>assistant\n"
    assert ids.count(0) == 2 and ids[:2] != [0, 0]
    with_system = tiny.chat_text("two", "be brief")
    assert with_system.startswith("<s>system\nbe brief</s>\n<s>user\ntwo")


def test_a_template_without_a_system_role_gets_it_in_the_question(tiny, monkeypatch):
    refusal = "{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    refuses = "{% for m in messages %}" + refusal + "[{{ m['content'] }}]{% endfor %}"
    monkeypatch.setattr(tiny.tokenizer, "chat_template", refuses)
    assert tiny.chat_text("two", "be brief") == "[be brief\n\ntwo]"


def test_a_base_model_gets_the_bare_question(tiny, monkeypatch):
    monkeypatch.setattr(tiny.tokenizer, "chat_template", None)
    assert tiny.chat_text("two", "be brief") == "<s>be brief\n\ntwo"


def test_prompts_that_cannot_be_answered(tiny):
    for empty in ("", " \n"):
        with pytest.raises(PromptError, match="the prompt is empty"):
            tiny.chat_ids(empty)
    with pytest.raises(PromptError, match="reads 512: shorten the prompt"):
        tiny.chat_ids("one two three " * 300)
    with pytest.raises(PromptError, match="600 must follow"):
        tiny.chat_ids("one", room=600)


def test_a_problem_that_does_not_fit_is_left_out_and_named(tiny):
    short, long = (Problem(id=name, task="arithmetic", split="train", question=text, answer="1", kind="number") for name, text in TEXTS)
    fitting, notes = fitting_prompts(tiny, [short, long], TaskConfig(), room=8)
    assert [problem.id for problem, _ in fitting] == ["short"]
    assert len(notes) == 1 and notes[0].startswith("left out: problem long: the prompt has ")
    with pytest.raises(PromptError, match="problem long: the prompt has"):
        fitting_prompts(tiny, [long], TaskConfig(), room=8)


@pytest.mark.model
def test_the_embedded_model_equals_the_plain_one(smollm2):
    """Converted once, loaded raw: logits and residual stream are the Hugging Face model's own, bit for bit."""
    from transformers import AutoModelForCausalLM

    model = smollm2
    ids = model.chat_ids("What is 2 + 3?")
    assert ids.count(model.tokens("<|im_start|>")[0]) == 3 and ids[0] != ids[1]
    hf = AutoModelForCausalLM.from_pretrained(prepare(resolve("smollm2")), dtype=torch.float32, attn_implementation="eager").eval()
    states = {}
    hf.model.layers[17].register_forward_hook(lambda m, a, out: states.update(h=out[0] if isinstance(out, tuple) else out))
    with torch.inference_mode():
        logits = hf(torch.tensor([ids]), logits_to_keep=1).logits[0, -1]
    state = states["h"][0, -1] if states["h"].ndim == 3 else states["h"][-1]
    for way in (replace(model, backend=BridgeBackend(model.bridge)), replace(model, eager=True)):
        _, ours = prefill(way, [ids], (17,))
        assert torch.equal(ours.logits[0], logits)
        assert torch.equal(ours.states[0][17][0], state)
    _, fused = prefill(model, [ids], (17,))
    torch.testing.assert_close(fused.logits[0].log_softmax(-1), logits.log_softmax(-1), atol=1e-4, rtol=0)
