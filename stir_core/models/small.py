"""Small models that are trained here, on the CPU: a word-level tokenizer, a Llama of any size, checkpoints and the folder of a training.

A training is seeded and can be interrupted: it goes on from its last checkpoint and gives the weights that it would have given. There is no
pickle: checkpoints are safetensors files.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging as hf_logging

from stir_core.errors import DataError, first_line
from stir_core.store.files import OURS, flush_files, temporary_beside, write_whole
from stir_core.store.locks import one_writer

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps for each weight."""


def word_tokenizer(vocabulary: Sequence[str], pattern: str, template: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are words, so that decoding gives the text as it was.

    Args:
        vocabulary: every token; ``<s>``, ``</s>`` and ``<unk>`` are among them.
        pattern: regular expression of one token.
        template: chat template.
    """
    tokens = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokens.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>", chat_template=template
    )


def small_llama(words: PreTrainedTokenizerFast, *, d_model: int, layers: int, heads: int) -> LlamaForCausalLM:
    """A Llama with random weights, drawn from torch's global generator; input and output embeddings are one table."""
    ids = words.get_vocab()
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=d_model,
            intermediate_size=4 * d_model,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=ids["<s>"],
            eos_token_id=ids["</s>"],
            pad_token_id=ids["</s>"],
        )
    )


def save_small(out: Path, model: PreTrainedModel, words: PreTrainedTokenizerBase) -> None:
    """Write a model and its tokenizer into a folder, each file whole or not at all."""
    saved = temporary_beside(out / "model")
    model.save_pretrained(saved)
    words.save_pretrained(saved)
    flush_files(saved)
    for file in saved.iterdir():
        file.replace(out / file.name)
    saved.rmdir()


def save_checkpoint(file: Path, model: nn.Module, optimiser: torch.optim.Optimizer, log: Sequence[Any]) -> None:
    """Write weights, the optimiser's moments and the log so far."""
    write_whole(file, save(dict(_state(model, optimiser)), metadata={"log": json.dumps(log)}))


def _state(model: nn.Module, optimiser: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for name, weight in model.named_parameters():
        yield f"weight/{name}", weight.detach()
        for key, value in optimiser.state[weight].items():
            yield f"{key}/{name}", value
    for name, value in model.named_buffers():
        yield f"buffer/{name}", value.clone()  # a model may hold one tensor under two names


def restore_checkpoint(file: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> list[list[Any]]:
    """Take up a checkpoint; the lines of its log, none where there is no file.

    Raises:
        DataError: the file is damaged, or of another model.
    """
    if not file.is_file():
        return []
    try:
        with safe_open(file, "pt") as tensors:
            kept = set(tensors.keys())
            for name, weight in model.named_parameters():
                value = tensors.get_tensor(f"weight/{name}")
                if value.shape != weight.shape:  # copying would repeat a single row
                    raise ValueError(f"{name} has the shape {list(value.shape)}, not {list(weight.shape)}")
                weight.data.copy_(value)
                if f"step/{name}" in kept:  # a weight that no loss has reached yet has no moments
                    optimiser.state[weight] = {key: _moment(tensors.get_tensor(f"{key}/{name}"), weight) for key in _MOMENTS}
            for name, value in model.named_buffers():
                if f"buffer/{name}" in kept:  # checkpoints of before it was kept lack it
                    value.copy_(tensors.get_tensor(f"buffer/{name}"))
            return json.loads((tensors.metadata() or {}).get("log", "no log"))
    except (SafetensorError, ValueError) as error:
        raise DataError(f"checkpoint {file} is damaged ({first_line(error)}): delete it, and the training starts over") from None


def _moment(value: Tensor, weight: Tensor) -> Tensor:
    return value.to(weight.device) if value.ndim else value  # the step number stays on the CPU, as AdamW has it


def train_in(out: Path, facts: Mapping[str, Any], what: str, work: Callable[[Path], list[dict[str, Any]]]) -> Path:
    """Do a training in a folder once: a finished one is left as it is, an interrupted one goes on.

    Args:
        out: the folder; ``training.json`` holds the facts, ``training.jsonl`` the log, written last.
        facts: everything that decides the weights.
        what: the training, for the message.
        work: trains, taking the place of the checkpoint; writes all other files and returns the lines of the log.

    Returns:
        The folder.

    Raises:
        DataError: the folder holds something else.
    """
    hf_logging.disable_progress_bar()  # it draws bars between those of the training
    told = (json.dumps(facts, indent=2) + "\n").encode()
    facts_file, log_file, checkpoint = out / "training.json", out / "training.jsonl", out / "checkpoint.safetensors"
    began = facts_file.is_file() and facts_file.read_bytes() == told
    if out.exists() and not began and not _untouched(out):
        raise DataError(f"{out} is there already and is not this training ({what}): give another folder")
    if began and log_file.is_file() and not checkpoint.exists():
        return out
    with one_writer(out / "training", of=out, owns=(out,), kind=DataError):
        if not log_file.is_file():
            write_whole(facts_file, told)
            lines = work(checkpoint)
            write_whole(log_file, "".join(json.dumps(line) + "\n" for line in lines).encode())
        checkpoint.unlink(missing_ok=True)
    return out


def _untouched(out: Path) -> bool:
    """True for a folder that a training was killed in before it had written anything but its lock."""
    return out.is_dir() and all(
        file.name in ("training.lock", "training.writer.json") or file.name.endswith(OURS) for file in out.iterdir()
    )
