"""CoLT: the model writes seed tokens and a trigger for each step, and a small decoder unpacks the step from the seeds' states."""

from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import one_hot

from stir_core.latent.frame import Latent, LatentBatch, LatentOptions, LatentPhase, LatentRecipe, PerStep, Unrolled, Weight
from stir_core.latent.strategies.sim_cot import SimCot, SimCotOptions


class ColtOptions(SimCotOptions):
    """Options of CoLT."""

    per_step: Annotated[PerStep, Field(ge=2)] = 3
    """Tokens for each reasoning step: seeds, and at last the trigger."""
    seeds: Weight = 1.0
    """Weight of predicting seeds and triggers."""


class Colt(SimCot):
    """Seeds are ordinary new tokens, the same for every step: what a step holds is in their states alone."""

    name = "colt"
    about = "seed tokens whose states a decoder unpacks"
    source = "arXiv 2602.04246"
    options_type: ClassVar[type[LatentOptions]] = ColtOptions
    options: ColtOptions
    content = "states"

    def __init__(self, lm, markers, setting, options) -> None:
        super().__init__(lm, markers, setting, options)
        table = lm.get_input_embeddings().weight.detach()
        self.words = nn.Parameter(torch.randn(options.per_step, lm.config.hidden_size) * table.std())

    def latent(self, state: Float[Tensor, "batch d_model"], noise: Tensor | None, step: Tensor | None = None) -> Latent:
        """The likeliest of seeds and trigger."""
        vector = self.words[(state @ self.words.T).argmax(-1)]
        return Latent(vector, vector)

    def given(self, batch: LatentBatch, active: int, noise: torch.Generator | None) -> list[Latent] | None:
        """Seeds and trigger, in order."""
        order = [slot % self.options.per_step for slot in range(active)]
        targets = one_hot(torch.arange(self.options.per_step), self.options.per_step).to(self.words)
        vectors, wanted = self.words.expand(len(batch.steps), -1, -1), targets.expand(len(batch.steps), -1, -1)
        return [Latent(vectors[:, word], vectors[:, word], target=wanted[:, word]) for word in order]

    def phases(self, recipe: LatentRecipe, *, started: bool) -> list[LatentPhase]:
        """All steps at once."""
        return self.at_once(recipe, started)

    def losses(self, seen: Unrolled) -> dict[str, Float[Tensor, ""]]:
        """Text, seeds, and the steps as the decoder unpacks them."""
        terms = super().losses(seen)
        if seen.active:
            terms["seeds"] = self.options.seeds * self.target_loss(seen, self.words)
        return terms

    def grouped(self, vectors: Float[Tensor, "batch slots d_model"]) -> Float[Tensor, "groups seeds d_model"]:
        """The states at the seeds of each step: those before the second token and all later ones."""
        return super().grouped(vectors)[:, 1:]
