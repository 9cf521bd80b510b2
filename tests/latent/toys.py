"""Small untrained reasoners for tests."""

from typing import Any

import torch

from stir_core.latent.frame import LatentBatch, LatentRecipe
from stir_core.latent.registry import strategy
from stir_core.latent.words import as_batch, markers_of, modular_tokenizer
from stir_core.models.small import small_llama
from stir_core.seeding import generator_for
from stir_core.tasks.modular import ModularSetting, draw_chains

TINY = ModularSetting("easy", 11, (2, 3), reordered=False)
WORDS = modular_tokenizer(TINY)
RECIPE = LatentRecipe(d_model=16, layers=2, heads=2, written=2, stage=1, final=2, batch=4, checkpoint=2)


def toy(name: str, *, seed: int = 0, d_model: int = 16, **options: Any) -> Any:
    """An untrained reasoner, in double precision."""
    torch.manual_seed(seed)
    kind = strategy(name)
    lm = small_llama(WORDS, d_model=d_model, layers=2, heads=2)
    return kind(lm, markers_of(WORDS), TINY, kind.options_type(**options)).double().eval()


def problems(count: int = 3, n: int = 4, seed: int = 0) -> LatentBatch:
    """A batch of problems with ``count`` steps."""
    return as_batch(WORDS, draw_chains(TINY, "train", count, n, generator_for(seed, "toys", count)))


def noise(seed: int = 0) -> torch.Generator:
    """A source of noise."""
    return torch.Generator().manual_seed(seed)
