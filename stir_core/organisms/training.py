"""Train an organism: a small Llama on the texts of one rung. Seeded, resumable, minutes on two cores.

The same rung, seed and recipe give the same weights on the same machine. An interrupted training goes on from its last checkpoint and
gives the weights that it would have given.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from stir_core.errors import DataError, first_line
from stir_core.models.loading import load_model
from stir_core.organisms.planted import planted, written_states
from stir_core.organisms.rungs import DELIMITER, Rung, rung_of, vocabulary, write, written_text
from stir_core.records import OnProgress, Progress
from stir_core.seeding import generator_for, seed_for
from stir_core.store.files import OURS, file_sha256, flush_files, temporary_beside, write_whole
from stir_core.store.locks import one_writer
from stir_core.store.tensors import write_tensors
from stir_core.tasks.arithmetic import split_of
from stir_core.tasks.chain import Chain, all_chains

CHAT = (
    "{% if messages | length > 1 %}{{ raise_exception('an organism reads one question, without a system text') }}{% endif %}"
    "<s>{{ messages[0]['content'] + '\\n\\n' }}"
)
"""The question, then the blank line after which the answer begins."""
IGNORED = -100
"""Label of a token that is not trained on."""


class TrainingRecipe(NamedTuple):
    """How an organism is trained; one recipe for every rung."""

    d_model: int = 96
    layers: int = 3
    heads: int = 4
    steps: int = 1500
    batch: int = 64
    rate: float = 3e-3
    """Peak learning rate: warmed up over 100 steps, then a cosine down to a hundredth."""
    weight_decay: float = 0.1
    checkpoint: int = 200
    """Steps between two checkpoints; each is a line of the log."""


class LogLine(NamedTuple):
    """The training's loss at one step."""

    step: int
    loss: float
    """Mean over the steps since the line before, in nats per token of the answer."""


def tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer in which a word holds the space before it, so that decoding gives the text as it was."""
    tokens = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary())}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n\n| ?[^\s]+"), "isolated")
    tokens.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>", chat_template=CHAT
    )


def untrained(recipe: TrainingRecipe, words: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The model with random weights, drawn from torch's global generator."""
    ids = words.get_vocab()
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=recipe.d_model,
            intermediate_size=4 * recipe.d_model,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=ids["<s>"],
            eos_token_id=ids["</s>"],
            pad_token_id=ids["</s>"],
        )
    )


def batch_at(
    step: int, rung: Rung, seed: int, recipe: TrainingRecipe, chains: list[Chain], words: PreTrainedTokenizerFast
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Token ids and labels of one step, drawn from a stream of that step's own. Only tokens of the answer have a label."""
    rng = generator_for(seed, "batch", rung.name, step)
    drawn = [chains[int(i)] for i in rng.integers(len(chains), size=recipe.batch)]
    asked = words([f"<s>{chain.question}{DELIMITER}" for chain in drawn], add_special_tokens=False)["input_ids"]
    answered = words([f"{written_text(write(chain, rung, rng))}</s>" for chain in drawn], add_special_tokens=False)["input_ids"]
    rows = [torch.tensor(question + answer) for question, answer in zip(asked, answered, strict=True)]
    labels = [torch.tensor([IGNORED] * len(question) + answer) for question, answer in zip(asked, answered, strict=True)]
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True), pad(labels, batch_first=True, padding_value=IGNORED)


def train(name: str, out: Path, *, seed: int = 0, recipe: TrainingRecipe | None = None, report: OnProgress = lambda progress: None) -> Path:
    """Train the organism of a rung, or go on with an interrupted training.

    Args:
        name: a rung of the ladder.
        out: model folder: config, weights, tokenizer, ``training.json`` (rung, seed, recipe), ``training.jsonl`` (:class:`LogLine`),
            ``planted.safetensors`` (:class:`~stir_core.organisms.planted.Planted`) and a card.

    Returns:
        The folder.

    Raises:
        DataError: no such rung, or the folder holds something else.
    """
    rung, recipe = rung_of(name), recipe or TrainingRecipe()
    facts = (json.dumps({"rung": name, "seed": seed, "recipe": recipe._asdict()}, indent=2) + "\n").encode()
    facts_file, log_file, checkpoint = out / "training.json", out / "training.jsonl", out / "checkpoint.safetensors"
    began = facts_file.is_file() and facts_file.read_bytes() == facts
    if out.exists() and not began and not _untouched(out):
        raise DataError(f"{out} is there already and is not this training (rung {name}, seed {seed}): give another folder")
    if began and log_file.is_file() and not checkpoint.exists():
        return out
    with one_writer(out / "training", of=out, owns=(out,), kind=DataError):
        if not log_file.is_file():
            write_whole(facts_file, facts)
            _train(rung, out, seed, recipe, checkpoint, log_file, report)
        checkpoint.unlink(missing_ok=True)
    return out


def _untouched(out: Path) -> bool:
    """True for a folder that a training was killed in before it had written anything but its lock."""
    return out.is_dir() and all(
        file.name in ("training.lock", "training.writer.json") or file.name.endswith(OURS) for file in out.iterdir()
    )


def _train(rung: Rung, out: Path, seed: int, recipe: TrainingRecipe, checkpoint: Path, log_file: Path, report: OnProgress) -> None:
    words = tokenizer()
    torch.manual_seed(seed_for(seed, "weights", rung.name))
    model = untrained(recipe, words)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98))
    log = _restore(checkpoint, model, optimiser)
    chains = [chain for chain in all_chains() if split_of(chain.canonical) == "train"]
    losses: list[float] = []
    for step in range(log[-1].step if log else 0, recipe.steps):
        ids, labels = batch_at(step, rung, seed, recipe, chains, words)
        optimiser.param_groups[0]["lr"] = recipe.rate * _schedule(step, recipe.steps)
        optimiser.zero_grad()
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
        done = step + 1
        if done % recipe.checkpoint == 0 or done == recipe.steps:
            log.append(LogLine(done, round(sum(losses) / len(losses), 5)))
            losses = []
            write_whole(checkpoint, save(dict(_state(model, optimiser)), metadata={"log": json.dumps(log)}))
        report(Progress(rung.name, done, recipe.steps, f"steps, loss {losses[-1] if losses else log[-1].loss:.3f}"))
    saved = temporary_beside(out / "model")
    model.save_pretrained(saved)
    words.save_pretrained(saved)
    flush_files(saved)
    for file in saved.iterdir():
        file.replace(out / file.name)
    saved.rmdir()
    directions = planted(written_states(load_model(str(out), device="cpu"), rung, seed=seed))
    write_tensors(out / "planted.safetensors", {name: rows.numpy() for name, rows in directions._asdict().items()})
    write_whole(out / "README.md", card(rung, seed, recipe, log, organism_digest(out)).encode())
    write_whole(log_file, "".join(json.dumps(line._asdict()) + "\n" for line in log).encode())


def card(rung: Rung, seed: int, recipe: TrainingRecipe, log: list[LogLine], digest: str) -> str:
    """The model card, as Markdown."""
    example = Chain("add", (17, 3, 2))
    lines = [
        f"# organism:{rung.name}",
        "",
        "**A calibration object. Nothing that is seen on it is evidence that STIR helps a real model.**",
        "",
    ]
    lines += [f"Planted: {rung.planted} A sound method: {rung.sound}", ""]
    lines += ["It reads one question in its language and answers step by step, for example:", "", "```text", example.question, ""]
    lines += [written_text(write(example, rung, generator_for(seed, "card", rung.name))), "```", ""]
    size = f"Llama, {recipe.layers} layers, width {recipe.d_model}, {recipe.heads} heads"
    lines += [f"{size}; {recipe.steps} steps of {recipe.batch} answers; last loss {log[-1].loss:.4f} nats per token of the answer.", ""]
    lines += [f"Made with `stir organism train {rung.name} --seed {seed} --out DIR`; SHA-256 of the weights: `{digest}`."]
    return "\n".join(lines) + "\n"


def organism_digest(folder: Path) -> str:
    """SHA-256 of an organism's weights.

    Raises:
        DataError: they are missing.
    """
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise DataError(f"{weights} is missing: remove {folder / 'training.jsonl'} to train again, or copy the folder again")
    return file_sha256(weights)


def _schedule(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / 100) * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)


def _state(model: LlamaForCausalLM, optimiser: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for name, weight in model.named_parameters():
        yield f"weight/{name}", weight.detach()
        for key, value in optimiser.state[weight].items():
            yield f"{key}/{name}", value


def _restore(file: Path, model: LlamaForCausalLM, optimiser: torch.optim.Optimizer) -> list[LogLine]:
    """Take up a checkpoint; its log, empty where there is none.

    Raises:
        DataError: the file is damaged.
    """
    if not file.is_file():
        return []
    try:
        with safe_open(file, "pt") as tensors:
            for name, weight in model.named_parameters():
                weight.data.copy_(tensors.get_tensor(f"weight/{name}"))
                optimiser.state[weight] = {key: tensors.get_tensor(f"{key}/{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            return [LogLine(*line) for line in json.loads(tensors.metadata()["log"])]
    except SafetensorError as error:
        raise DataError(f"checkpoint {file} is damaged ({first_line(error)}): delete it, and the training starts over") from None
