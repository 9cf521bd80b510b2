"""A shorter chain of thought: of every step only the result is written. What latents are to be compared with, beside whole steps."""

import torch

from stir_core.latent.frame import LatentBatch, LatentPhase, LatentRecipe, Reasoner, Unrolled


class ShortCot(Reasoner):
    """Trained on questions, results of steps and answers, for as many training steps as the latent strategies."""

    name = "short_cot"
    about = "the results of the steps are written"
    source = "baseline"
    chains_only = True

    def unroll(self, batch: LatentBatch, replaced: int, noise: torch.Generator | None) -> Unrolled:
        """With every step cut to its result and delimiter."""
        return super().unroll(batch._replace(steps=batch.steps[:, :, [-3, -1]]), 0, noise)

    def phases(self, recipe: LatentRecipe, *, started: bool) -> list[LatentPhase]:
        """One phase; never from a model that writes whole steps."""
        return [LatentPhase(recipe.written + max(self.setting.counts) * recipe.stage + recipe.final, 0)]

    @property
    def most(self) -> int:
        """None."""
        return 0
