"""Problems of the task ``modular`` as token ids: every number is one token, and every step has equally many."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerFast

from stir_core.latent.frame import LatentBatch, LatentRecipe, Markers
from stir_core.models.small import word_tokenizer
from stir_core.seeding import generator_for
from stir_core.tasks.modular import ModularChain, ModularSetting, draw_chains

STEP_END = "\n\n"
CHAT = (
    "{% if messages | length > 1 %}{{ raise_exception('this model reads one question, without a system text') }}{% endif %}"
    "<s>{{ messages[0]['content'] + '\\n\\n' }}"
)
_MARKERS = ("<|start-latent|>", "<|latent|>", "<|end-latent|>")


def modular_tokenizer(setting: ModularSetting) -> PreTrainedTokenizerFast:
    """The tokenizer of a setting's problems; the markers of latents are ordinary tokens, as published."""
    numbers = [str(number) for number in range(setting.modulus)]
    vocabulary = ["<s>", "</s>", "<unk>", STEP_END, "<<", ">>", "=", "?", "#### ", "+", "-", "*", *_MARKERS, *numbers]
    return word_tokenizer(vocabulary, r"\n\n|#### |<<|>>|<[^<>]+>|\d+|[-+*=?]", CHAT)


def markers_of(words: PreTrainedTokenizerFast) -> Markers:
    """The frame's own tokens."""
    ids = words.get_vocab()
    return Markers(*(ids[token] for token in (*_MARKERS, "</s>")))


def as_batch(
    words: PreTrainedTokenizerFast, chains: Sequence[ModularChain], solutions: Sequence[ModularChain] | None = None
) -> LatentBatch:
    """Problems with equally many steps as a batch.

    Args:
        solutions: the orders in which they are solved; ``None``: as they are asked.
    """

    def ids(texts: list[str]) -> torch.Tensor:
        return torch.tensor(words(texts, add_special_tokens=False)["input_ids"])

    steps = [[f"{step}{STEP_END}" for step in chain.steps] for chain in solutions or chains]
    return LatentBatch(
        ids([f"<s>{chain.question}{STEP_END}" for chain in chains]),
        torch.stack([ids(each) for each in steps]),
        ids([f"#### {chain.answer}</s>" for chain in chains]),
    )


def training_batch(step: int, setting: ModularSetting, seed: int, recipe: LatentRecipe, words: PreTrainedTokenizerFast) -> LatentBatch:
    """The problems of one training step, drawn from a stream of that step's own; all have equally many operations."""
    rng = generator_for(seed, "latent batch", setting.name, step)
    count = setting.counts[int(rng.integers(len(setting.counts)))]
    chains = draw_chains(setting, "train", count, recipe.batch, rng)
    return as_batch(words, chains, [chain.reordered(rng) for chain in chains] if setting.reordered else None)
