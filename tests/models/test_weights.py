"""Weights are read whole, from the files alone, or refused in one line that names the tensor."""

import json
import shutil
import subprocess
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig, T5Config

from stir_core.errors import ModelError
from stir_core.models.loading import boot, load_model
from tests.builders import prefill


@pytest.fixture
def folder(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "model")
    return tmp_path / "model"


def refused(folder) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(folder, **tensors) -> None:
    """Replace tensors of the file; ``None`` leaves one out."""
    held = load_file(folder / "model.safetensors") | tensors
    save_file({name: value for name, value in held.items() if value is not None}, folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def test_a_missing_tensor_is_not_made_up(folder):
    change(folder, **{"model.norm.weight": None, "model.layers.2.mlp.up_proj.weight": None})
    assert "the tensor model.layers.2.mlp.up_proj.weight (and 1 more) is missing" in refused(folder)


def test_a_tensor_without_a_place_is_named(folder):
    change(folder, **{"model.layers.0.self_attn.sinks": torch.zeros(4)})
    assert "the tensor model.layers.0.self_attn.sinks has no place in the model" in refused(folder)


def test_a_tensor_of_another_shape_is_refused(folder):
    change(folder, **{"model.norm.weight": torch.zeros(5)})
    assert "cannot be loaded from" in refused(folder) or "another shape" in refused(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(folder, value):
    change(folder, **{"model.layers.1.input_layernorm.weight": torch.full((32,), value)})
    assert "layers.1.input_layernorm.weight holds numbers that are not finite" in refused(folder)


@pytest.mark.parametrize("config", [BertConfig(), T5Config()])
def test_encoders_are_refused(folder, config):
    config.save_pretrained(folder)
    assert "is an encoder" in refused(folder) and "give a causal language model" in refused(folder)


def test_quantised_weights_without_their_package_are_refused_in_one_line(folder):
    configure(folder, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128})
    assert "has weights quantised with gptq: install the package gptqmodel, or take the unquantised model" in refused(folder)


def test_code_in_the_folder_is_never_run(folder, tmp_path):
    (folder / "modeling_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    configure(folder, model_type="own", auto_map={"AutoConfig": "modeling_own.Config", "AutoModelForCausalLM": "modeling_own.Model"})
    assert "cannot be loaded from" in refused(folder) and not (tmp_path / "ran").exists()


def test_a_vision_model_is_loaded_without_installing_anything(tokenizer, monkeypatch):
    for name in ("check_call", "run", "Popen"):
        monkeypatch.setattr(subprocess, name, lambda *args, **kwargs: pytest.fail(f"a process was started: {args}"))
    sizes: Any = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    vision = SiglipVisionConfig(**sizes, image_size=28, patch_size=14)
    text = Gemma3TextConfig(**sizes, num_key_value_heads=1, head_dim=16, vocab_size=len(tokenizer), sliding_window=16)
    seeing = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)).eval()
    model = boot("tiny/vlm", seeing, tokenizer, weights_sha256="0" * 64, backend="auto")
    assert prefill(model, [[5, 9, 40]], (1,))[1].states[0][1].shape == (1, 32)
