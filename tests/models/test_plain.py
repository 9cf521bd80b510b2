"""The decoder without TransformerLens: the same bits, hooks only while a pass runs, and the user's own model left as it was."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig

from stir_core.errors import ModelError, SteeringError
from stir_core.models.backends import PlainDecoder, block_list
from stir_core.models.loading import boot
from stir_core.models.passes import Feed, forward
from stir_core.models.steering import Impulse, captured
from tests.builders import make_hf

IDS = [[5, 9, 40], [17, 3, 250, 7], [60]]
VECTOR = torch.randn(32, generator=torch.Generator().manual_seed(0))
KICK = Impulse(1, VECTOR)


@pytest.fixture(scope="module")
def plain(llama_pair, tokenizer):
    return boot("tiny/llama", llama_pair[1], tokenizer, weights_sha256="0" * 64, backend="plain")


def run(model):
    store = model.new_store()
    feeds = [Feed(store.open(), ids, KICK if i == 1 else None, capture=(len(ids) - 1,)) for i, ids in enumerate(IDS)]
    mixed = feeds[2]._replace(mixture=([60, 61], [0.25, 0.75]))
    return forward(model, [*feeds[:2], mixed], (0, 1, 3))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3"])
def test_bits_are_those_of_the_hooked_decoder(kind, tokenizer):
    hf = make_hf(kind, len(tokenizer))
    lean = run(boot("tiny", hf, tokenizer, weights_sha256="0" * 64, backend="plain"))
    hooked = run(boot("tiny", hf, tokenizer, weights_sha256="0" * 64))  # last: it takes the modules over
    assert torch.equal(lean.logits, hooked.logits)
    for one, two in zip(lean.states, hooked.states, strict=True):
        assert all(torch.equal(one[layer], two[layer]) for layer in (0, 1, 3))


def test_no_hook_is_left_and_the_given_model_is_untouched(plain, llama_pair):
    ids = torch.tensor([IDS[1]])
    with torch.inference_mode():
        before = llama_pair[1](ids).logits
    run(plain)
    with pytest.raises(ZeroDivisionError), captured(plain.backend, (2,), [0]):
        raise ZeroDivisionError
    assert isinstance(plain.backend, PlainDecoder) and plain.bridge is None
    for module in (*plain.backend.model.modules(), *llama_pair[1].modules()):
        assert not module._forward_hooks
    with torch.inference_mode():
        assert torch.equal(llama_pair[1](ids).logits, before)
    own = {weight.data_ptr() for weight in llama_pair[1].parameters()}
    assert {weight.data_ptr() for weight in plain.backend.model.parameters()} == own


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_block_that_is_not_there_is_refused(plain, layer):
    with pytest.raises(SteeringError, match="give a block from 0 to 3"):
        plain.backend.hook_point(layer)


def test_blocks_are_those_of_the_text_model_and_not_of_a_vision_tower_of_as_many(tokenizer):
    sizes: Any = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    vision = SiglipVisionConfig(**sizes, image_size=28, patch_size=14)
    text = Gemma3TextConfig(**sizes, num_key_value_heads=1, head_dim=16, vocab_size=len(tokenizer))
    seeing = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)).eval()
    lists = [module for module in seeing.modules() if isinstance(module, torch.nn.ModuleList)]
    assert [len(each) for each in lists] == [2, 2] and lists[0] in list(seeing.model.vision_tower.modules())
    assert block_list(seeing) is lists[1] is seeing.model.language_model.layers
    with pytest.raises(ModelError, match="has no list of 2 blocks beside its token embeddings"):
        seeing.model.language_model.layers = torch.nn.ModuleList()
        block_list(seeing)


def test_the_step_loop_does_without_the_library():
    code = "import sys, stir_core.intervene.controller; assert not any(name.startswith('transformer' '_lens') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
