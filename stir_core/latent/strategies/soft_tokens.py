"""Soft Tokens: the chain of thought in mixtures of all tokens with noise, for reinforcement."""

from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from stir_core.errors import ConfigError
from stir_core.latent.frame import Latent, LatentBatch, LatentOptions, LatentPhase, LatentRecipe, PerStep, Reasoner, Unrolled, Weight


class SoftTokensOptions(LatentOptions):
    """Options of Soft Tokens."""

    per_step: PerStep = 8
    """Latents for each reasoning step: as many as its text has tokens."""
    tau: Annotated[float, Field(gt=0)] = 0.5
    """Temperature of the mixture; "fuzzy" tokens: 0.0001."""
    sigma: Weight = 0.3
    """Standard deviation of the noise, in units of the embeddings' root mean square."""


class SoftTokens(Reasoner):
    """Supervised, each latent is a token of the step; to answer, it is the mixture of all tokens, plus noise where latents are drawn."""

    name = "soft_tokens"
    about = "mixtures of all tokens, with noise, one for each token of a written step"
    source = "arXiv 2509.19170"
    options_type: ClassVar[type[LatentOptions]] = SoftTokensOptions
    options: SoftTokensOptions
    chains_only = True
    content = "states"

    def latent(self, state: Float[Tensor, "batch d_model"], noise: Tensor | None, step: Tensor | None = None) -> Latent:
        """``p E + sigma * noise`` with ``p = softmax(logits / tau)``."""
        table = self.lm.get_input_embeddings().weight
        mean = (self.logits(state) / self.options.tau).softmax(-1) @ table
        sigma = self.options.sigma * table.detach().square().mean().sqrt()
        return Latent(mean if noise is None else mean + sigma * noise, mean, (2 * sigma.log()).expand_as(mean))

    def given(self, batch: LatentBatch, active: int, noise: torch.Generator | None) -> list[Latent] | None:
        """The tokens of the replaced steps.

        Raises:
            ConfigError: a step has another number of tokens.
        """
        length = batch.steps.shape[2]
        if length != self.options.per_step:
            raise ConfigError(f"per_step is {self.options.per_step}, but a step has {length} tokens: soft tokens need per_step={length}")
        ids = batch.steps.flatten(1)[:, :active]
        vectors, targets = self.embed(ids), one_hot(ids, self.lm.config.vocab_size)
        return [Latent(vectors[:, slot], vectors[:, slot], target=targets[:, slot].to(vectors)) for slot in range(active)]

    def phases(self, recipe: LatentRecipe, *, started: bool) -> list[LatentPhase]:
        """All steps at once."""
        return self.at_once(recipe, started)

    def losses(self, seen: Unrolled) -> dict[str, Float[Tensor, ""]]:
        """The text behind the latents, and the tokens that they stand for."""
        terms = super().losses(seen)
        if seen.active:
            terms["tokens"] = self.target_loss(seen, self.lm.get_output_embeddings().weight)
        return terms

    def decoded(self, states: Float[Tensor, "batch slots d_model"]) -> list[list[list[int]]]:
        """The likeliest tokens of each step without its delimiter, by problem and step."""
        ids = self.logits(states).argmax(-1)
        steps = ids.shape[1] // self.options.per_step
        return ids[:, : steps * self.options.per_step].unflatten(1, (steps, self.options.per_step))[:, :, :-1].tolist()
