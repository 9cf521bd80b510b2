"""Latent-SFT: a latent is a mixture of token embeddings, learned from a compressed form of the step's text."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stir_core.latent.compress import StepCompressor
from stir_core.latent.frame import Latent, LatentBatch, LatentOptions, LatentPhase, LatentRecipe, Reasoner, Size, Unrolled, Weight


class LatentSftOptions(LatentOptions):
    """Options of Latent-SFT."""

    top: Size = 10
    """Tokens in a mixture."""
    kl: Weight = 1.0
    """Weight of KL(stored mixture || model) at latent positions."""
    gumbel: Weight = 0.0
    """Scale of Gumbel noise on the stored mixtures' logits in training, clamped to [-1.5, 3]; published: 1."""


class LatentSft(Reasoner):
    """First a compressor of steps is trained; then it is held, and the language model learns its mixtures and the answer."""

    name = "latent_sft"
    about = "mixtures of the vocabulary that stand for the compressed step"
    source = "arXiv 2510.15522"
    options_type: ClassVar[type[LatentOptions]] = LatentSftOptions
    options: LatentSftOptions
    content = "states"

    def __init__(self, lm, markers, setting, options) -> None:
        super().__init__(lm, markers, setting, options)
        self.compressor = StepCompressor(lm, options.per_step)

    def latent(self, state: Float[Tensor, "batch d_model"], noise: Tensor | None, step: Tensor | None = None) -> Latent:
        """The mixture of the likeliest next tokens."""
        vector = self.mixture(self.logits(state)) @ self.lm.get_input_embeddings().weight
        return Latent(vector, vector)

    def mixture(self, logits: Float[Tensor, "*n d_vocab"]) -> Float[Tensor, "*n d_vocab"]:
        """Softmax over the likeliest tokens; the others are 0."""
        kept = logits.topk(min(self.options.top, logits.shape[-1]), dim=-1)
        return torch.full_like(logits, -torch.inf).scatter(-1, kept.indices, kept.values).softmax(-1)

    def compressed(self, steps: Int[Tensor, "n step"]) -> Float[Tensor, "n per_step d_vocab"]:
        """Logits of the mixtures that stand for steps."""
        return self.compressor.encoder(steps) @ self.compressor.encoder.table.T

    def given(self, batch: LatentBatch, active: int, noise: torch.Generator | None) -> list[Latent] | None:
        """The mixtures of the replaced steps, as they are stored."""
        steps = batch.steps[:, : active // self.options.per_step]
        with torch.no_grad():
            logits = self.compressed(self.ended(steps.flatten(0, 1)))
            if self.options.gumbel and noise is not None:
                drawn = -torch.log(-torch.log(torch.rand(logits.shape, generator=noise).clamp(1e-6, 1 - 1e-6)))
                logits = logits + self.options.gumbel * drawn.clamp(-1.5, 3).to(logits)
            weights = self.mixture(logits).unflatten(0, (len(steps), -1)).flatten(1, 2)
        vectors = weights @ self.lm.get_input_embeddings().weight
        return [Latent(vectors[:, slot], vectors[:, slot], target=weights[:, slot]) for slot in range(active)]

    def phases(self, recipe: LatentRecipe, *, started: bool) -> list[LatentPhase]:
        """One stage's steps for the compressor alone; then everything else, with all steps latent at once."""
        longest = max(self.setting.counts)
        return [
            LatentPhase(0 if started else recipe.written, 0),
            LatentPhase(recipe.stage, longest, only=("compressor.",)),
            LatentPhase((longest - 1) * recipe.stage + recipe.final, longest, only=("lm.",)),
        ]

    def losses(self, seen: Unrolled) -> dict[str, Float[Tensor, ""]]:
        """Text, KL at the latents, and the compressor's own loss."""
        terms = super().losses(seen)
        if seen.active:
            wanted = torch.stack([each.target for each in seen.latents if each.target is not None], dim=1)
            entropy = torch.special.entr(wanted).sum(-1)[seen.stands].mean()
            terms["kl"] = self.options.kl * (self.target_loss(seen, self.lm.get_output_embeddings().weight) - entropy)
        if seen.active and self.compressor.trained:
            steps = self.ended(seen.batch.steps[seen.batch.there])
            terms["compressor"] = self.compressor.loss(self.mixture(self.compressed(steps)) @ self.compressor.encoder.table, steps)
        return terms

    def decoded(self, states: Float[Tensor, "batch slots d_model"]) -> list[list[list[int]]]:
        """Token ids of each step as the compressor's decoder reads the mixtures, by problem and step."""
        return self.compressor.write(self.mixture(self.logits(states)) @ self.compressor.encoder.table, eos=self.markers.eos)
