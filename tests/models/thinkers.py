"""One tiny model, trained in seconds to think and answer in the style of every family; each family has its own template on it."""

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from stir_core.models.loading import boot
from tests.models.templates import SPECIAL, TEMPLATES

QUESTIONS = {"sum": ("two plus three", "5"), "product": ("two times three", "6")}
"""Question and right answer; the thinking of the first writes a wrong box, that of the second the right one."""
THOUGHT = {"sum": ("try \\boxed{4}", "no, \\boxed{7}"), "product": ("it is \\boxed{6}", "yes, \\boxed{6}")}
FINAL = {"sum": ("The sum is \\boxed{5}", "done"), "product": ("The product is \\boxed{8}", "done")}
MARKS = {
    "qwen3": ("<think>\n", "</think>"),
    "deepseek_r1": ("", "</think>"),
    "smollm3": ("<think>\n", "</think>"),
    "gpt_oss": ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    "mistral": ("[THINK]", "[/THINK]"),
    "gemma": None,
    "llama3": None,
}
"""How each family's answer opens (DeepSeek's prompt does) and closes its thinking; ``None``: it does not think."""
STYLES = tuple(MARKS)
THINKING = tuple(style for style, marks in MARKS.items() if marks)
ENDS = {"qwen3": "<|im_end|>", "smollm3": "<|im_end|>", "gpt_oss": "<|return|>", "gemma": "<end_of_turn>", "llama3": "<|eot_id|>"}


def written(style: str, question: str) -> str:
    """The answer that a style's model is trained to write, without the token that ends it."""
    thought, final = "\n\n".join(THOUGHT[question]), "\n\n".join(FINAL[question])
    marks = MARKS[style]
    return final if marks is None else f"{marks[0]}{thought}\n\n{marks[1]}\n\n{final}"


@cache
def thinker(style: str) -> Any:
    """The model with one family's template."""
    tokenizer = _tokenizer(style)
    model = LlamaForCausalLM(_trained().config)
    model.load_state_dict(_trained().state_dict())
    return boot(f"tiny/{style}", model, tokenizer, weights_sha256="0" * 64, backend="plain")


def _tokenizer(style: str) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    marks = sorted({mark for own in SPECIAL.values() for mark in own})
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "</s>", *marks, "<think>", "</think>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [*TEMPLATES.values(), *[question for question, _ in QUESTIONS.values()]]
    inner.train_from_iterator([*texts, *[part for own in (*THOUGHT.values(), *FINAL.values()) for part in own] * 20], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>", additional_special_tokens=marks
    )
    tokenizer.chat_template = TEMPLATES[style]
    return tokenizer


@cache
def _trained() -> LlamaForCausalLM:
    """Trained on both questions in every style, with the loss on the answers alone."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
    size = len(_tokenizer("qwen3"))
    model = LlamaForCausalLM(LlamaConfig(vocab_size=size, max_position_embeddings=512, bos_token_id=0, eos_token_id=1, **shape))
    rows, labels = [], []
    for style in STYLES:
        tokenizer = _tokenizer(style)
        untrained = boot(style, LlamaForCausalLM(model.config), tokenizer, weights_sha256="0" * 64, backend="plain")
        for question, (asked, _) in QUESTIONS.items():
            prompt = untrained.chat_ids(asked)
            answer = [*untrained.tokens(written(style, question)), *untrained.tokens(ENDS.get(style, "</s>"))]
            rows.append([*prompt, *answer])
            labels.append([*[-100] * len(prompt), *answer])
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[1] * (longest - len(row))] for row in rows])
    wanted = torch.tensor([[*row, *[-100] * (longest - len(row))] for row in labels])
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(400):
        loss = model(input_ids=ids, labels=wanted).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.003:
            break
    return model.eval()
