"""Token Assorted: steps are replaced by discrete codes that are new words of the language model."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot
from vector_quantize_pytorch import VectorQuantize

from stir_core.latent.compress import StepCompressor
from stir_core.latent.frame import Latent, LatentBatch, LatentOptions, LatentPhase, LatentRecipe, Reasoner, Size, Unrolled, Weight


class TokenAssortedOptions(LatentOptions):
    """Options of Token Assorted."""

    codes: Size = 64
    """Size of the codebook: the new words."""
    width: Size = 16
    """Dimensions that are quantised."""
    assorted: bool = True
    """In training each batch has a random number of its first steps replaced, from none to all that the phase replaces. Otherwise all."""
    predicted: Weight = 1.0
    """Weight of predicting the codes."""


class TokenAssorted(Reasoner):
    """First a quantiser of steps is trained; then it is held, and the language model learns its codes among the written steps."""

    name = "token_assorted"
    about = "discrete codes of steps, predicted like words"
    source = "Su et al. 2025, arXiv 2502.03275"
    options_type: ClassVar[type[LatentOptions]] = TokenAssortedOptions
    options: TokenAssortedOptions

    def __init__(self, lm, markers, setting, options) -> None:
        super().__init__(lm, markers, setting, options)
        d, table = self.lm.config.hidden_size, self.lm.get_input_embeddings().weight.detach()
        self.words = nn.Parameter(torch.randn(self.options.codes, d) * table.std())
        self.compressor = StepCompressor(lm, options.per_step)
        self.quantiser: Any = VectorQuantize(
            dim=d,
            codebook_dim=self.options.width,
            codebook_size=self.options.codes,
            decay=0.95,
            kmeans_init=True,
            threshold_ema_dead_code=2,
        )

    def latent(self, state: Float[Tensor, "batch d_model"], noise: Tensor | None, step: Tensor | None = None) -> Latent:
        """The likeliest code."""
        vector = self.words[(state @ self.words.T).argmax(-1)]
        return Latent(vector, vector)

    def given(self, batch: LatentBatch, active: int, noise: torch.Generator | None) -> list[Latent] | None:
        """The codes of the replaced steps."""
        steps = self.ended(batch.steps[:, : active // self.options.per_step].flatten(0, 1))
        with torch.no_grad():
            codes = self.quantised(steps)[1].view(len(batch.steps), active)
        targets = one_hot(codes, self.options.codes).to(self.words)
        return [Latent(self.words[codes[:, slot]], self.words[codes[:, slot]], target=targets[:, slot]) for slot in range(active)]

    def quantised(self, steps: Int[Tensor, "n step"], noise: int | None = None) -> tuple[Tensor, Int[Tensor, "n per_step"], Tensor]:
        """Steps as the codebook describes them, their codes, and the quantiser's own loss.

        Args:
            noise: seed of the codebook's start and revivals: the codebook learns; ``None``: it is held.
        """
        encoded = self.compressor.encoder(steps)
        if noise is None:
            self.quantiser.eval()
            return self.quantiser(encoded)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(noise)
            return self.quantiser.train()(encoded)

    def phases(self, recipe: LatentRecipe, *, started: bool) -> list[LatentPhase]:
        """One stage's steps for the quantiser alone; then the language model and its new words."""
        longest = max(self.setting.counts)
        return [
            LatentPhase(0 if started else recipe.written, 0),
            LatentPhase(recipe.stage, longest, only=("compressor.", "quantiser.")),
            LatentPhase((longest - 1) * recipe.stage + recipe.final, longest, only=("lm.", "words")),
        ]

    def unroll(self, batch: LatentBatch, replaced: int, noise: torch.Generator | None) -> Unrolled:
        """With noise the number of replaced steps is drawn."""
        if noise is not None and self.options.assorted and replaced and not self.compressor.trained:
            most = min(replaced, batch.steps.shape[1])
            replaced = int(torch.randint(most + 1, (), generator=noise))
        return super().unroll(batch, replaced, noise)

    def losses(self, seen: Unrolled) -> dict[str, Float[Tensor, ""]]:
        """Text and codes; and the quantiser's loss in its phase."""
        terms = super().losses(seen)
        if seen.active:
            terms["codes"] = self.options.predicted * self.target_loss(seen, self.words)
        if seen.active and self.compressor.trained:
            steps = self.ended(seen.batch.steps[seen.batch.there])
            described, _, commitment = self.quantised(steps, noise=int(steps.sum()))
            terms["compressor"] = self.compressor.loss(described, steps)
            terms["commitment"] = commitment.sum()
        return terms

    def decoded(self, vectors: Float[Tensor, "batch slots d_model"]) -> list[list[list[int]]]:
        """Token ids of each step as the quantiser's decoder reads the codes nearest to what was fed, by problem and step."""
        codes = torch.cdist(vectors, self.words.expand(len(vectors), -1, -1)).argmin(-1)
        return self.compressor.write(self.quantiser.get_output_from_indices(codes), eos=self.markers.eos)
