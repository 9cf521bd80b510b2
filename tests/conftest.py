"""Session-wide fixtures: a tokenizer, a tiny random Llama, and its untouched Hugging Face twin."""

import copy
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from stir_core.models.loading import LoadedModel, boot, load_model
from tests.builders import make_hf, make_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def llama_pair(tokenizer: PreTrainedTokenizerFast) -> tuple[LoadedModel, Any]:
    """The loaded tiny model and its Hugging Face twin with the same weights; a test that leaves something on the twin takes a copy."""
    hf = make_hf("llama", len(tokenizer))
    return boot("tiny/llama", copy.deepcopy(hf), tokenizer, weights_sha256="0" * 64), hf


@pytest.fixture(scope="session")
def tiny(llama_pair: tuple[LoadedModel, Any]) -> LoadedModel:
    """A 4-layer random Llama, d_model 32."""
    return llama_pair[0]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> str:
    """The tiny Llama as a local model folder."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    make_hf("llama", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def smollm2() -> LoadedModel:
    """The embedded language model, loaded once for all tests that decode with it."""
    return load_model("smollm2")
