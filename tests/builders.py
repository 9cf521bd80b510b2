"""Tiny random models and records for tests; every number can be checked against the plain Hugging Face model."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from stir_core.models.cache import CacheRow
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed, Pass, forward
from stir_core.records import Entry, EntryKind, Pair

CORPUS = [
    "one two three four five six seven",
    "the sum of two and three is five",
    "so the answer is ten\n\nnext step\n\n",
    "0123456789 + - =",
]
CHAT = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def make_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 300 tokens with a chat template that writes its own BOS."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>", chat_template=CHAT)
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)  # the bridge reads it again from this folder


def make_hf(kind: str, vocab: int, layers: int = 4) -> Any:
    """A random causal language model, initialised with a scale at which its tokens vary."""
    shape: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.25,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    torch.manual_seed({"llama": 0, "qwen2": 1, "gemma3": 2}[kind])
    if kind == "gemma3":
        config = Gemma3TextConfig(**shape, head_dim=8, sliding_window=16, pad_token_id=1)
        return Gemma3ForCausalLM(config).eval()
    return (LlamaForCausalLM(LlamaConfig(**shape)) if kind == "llama" else Qwen2ForCausalLM(Qwen2Config(**shape))).eval()


def prefill(model: LoadedModel, sequences: list[list[int]], layers: tuple[int, ...] = ()) -> tuple[list[CacheRow], Pass]:
    """Rows of a new store that hold these sequences, and the pass that read them, with states at each last token."""
    store = model.new_store()
    rows = [store.open() for _ in sequences]
    return rows, forward(model, [Feed(row, ids, capture=(len(ids) - 1,)) for row, ids in zip(rows, sequences, strict=True)], layers)


def make_pair(
    m: int, positives: tuple[int, ...], negatives: tuple[int, ...], pos: float = 1.0, neg: float = 0.0, gold: bool = False
) -> Pair:
    """A pair of problem p at control point m."""
    return Pair(problem_id="p", m=m, positives=positives, negatives=negatives, reward_pos=pos, reward_neg=neg, gold=gold)


def make_entry(name: str, m: int, layer: int = 0, quality: float = 1.0, kind: EntryKind = "corrective", **more: Any) -> Entry:
    """A library entry with the given fields and defaults for the others."""
    facts: dict[str, Any] = {"pair": 0, "problem_id": "p", "reward_pos": quality, "reward_neg": 0.0, "positives": (0,), "negatives": (1,)}
    facts |= {"key_row": 0, "action_row": None, "key_norm": 1.0, "action_norm": None, "reachable": True}
    return Entry(id=name, kind=kind, m=m, layer=layer, quality=quality, **(facts | more))
