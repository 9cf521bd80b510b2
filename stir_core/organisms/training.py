"""Train an organism: a small Llama on the texts of one rung. Seeded, resumable, minutes on two cores.

The same rung, seed and recipe give the same weights on the same machine. An interrupted training goes on from its last checkpoint and
gives the weights that it would have given.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from stir_core.errors import DataError
from stir_core.models.loading import load_model
from stir_core.models.small import restore_checkpoint, save_checkpoint, save_small, small_llama, train_in, word_tokenizer
from stir_core.organisms.planted import planted, written_states
from stir_core.organisms.rungs import DELIMITER, Rung, rung_of, vocabulary, write, written_text
from stir_core.records import OnProgress, Progress
from stir_core.seeding import generator_for, seed_for
from stir_core.store.files import file_sha256, write_whole
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
    return word_tokenizer(vocabulary(), r"\n\n| ?[^\s]+", CHAT)


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
    facts = {"rung": name, "seed": seed, "recipe": recipe._asdict()}
    return train_in(out, facts, f"rung {name}, seed {seed}", lambda checkpoint: _train(rung, out, seed, recipe, checkpoint, report))


def _train(rung: Rung, out: Path, seed: int, recipe: TrainingRecipe, checkpoint: Path, report: OnProgress) -> list[dict[str, Any]]:
    words = tokenizer()
    torch.manual_seed(seed_for(seed, "weights", rung.name))
    model = small_llama(words, d_model=recipe.d_model, layers=recipe.layers, heads=recipe.heads)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98))
    log = [LogLine(*line) for line in restore_checkpoint(checkpoint, model, optimiser)]
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
            save_checkpoint(checkpoint, model, optimiser, log)
        report(Progress(rung.name, done, recipe.steps, f"steps, loss {losses[-1] if losses else log[-1].loss:.3f}"))
    save_small(out, model, words)
    directions = planted(written_states(load_model(str(out), device="cpu"), rung, seed=seed))
    write_tensors(out / "planted.safetensors", {name: rows.numpy() for name, rows in directions._asdict().items()})
    write_whole(out / "README.md", card(rung, seed, recipe, log, organism_digest(out)).encode())
    return [line._asdict() for line in log]


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
