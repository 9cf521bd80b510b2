"""ATP-Latent: a latent is drawn from a learned Gaussian, a decoder reads it, and a stop head ends the chain.

The Gaussian conditions on the question and on earlier latents, never on the step's text: there is no recognition network, and the prior
is the fixed N(0, I). The terms of the loss are those of the published code; what is mended in it is an option.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stir_core.latent.frame import Latent, LatentOptions, Unrolled, Weight
from stir_core.latent.heads import LatentHead, StopHead
from stir_core.latent.strategies.sim_cot import SimCot, SimCotOptions


class AtpOptions(SimCotOptions):
    """Options of ATP-Latent."""

    latents: Literal["sampled", "mean"] = "sampled"
    """Whether a latent is drawn in training, or is the Gaussian's mean (a deterministic latent)."""
    scale: Literal["embedding", "one"] = "embedding"
    """Unit of N(0, I) and of the latents: the embeddings' root mean square at the start, or 1 (published)."""
    residual: bool = True
    """Whether a latent's mean is the state plus what the head says, or what the head says alone (published).

    A head alone begins as a random map: what the text has learned to read from written numbers does not read its latents.
    """
    kl: Weight = 1e-3
    """Weight of KL(latent || N(0, I)), a mean over dimensions and slots; 0: no prior."""
    stop: Weight = 1.0
    """Weight of the stop head's loss; 0: no stop head."""
    stop_on: Literal["first", "every"] = "first"
    """Latents that the stop head is trained on: the first of each step, which alone decides, or every one (published)."""
    surplus: Literal["first", "all"] = "first"
    """Latents beyond the last step in training: the one that stops, or all up to the longest chain's (published)."""

    @classmethod
    def compat(cls) -> "AtpOptions":
        """As published."""
        return cls(scale="one", residual=False, decoder=1.0, stop_on="every", surplus="all", train_eos=False, fresh_optimiser=True)


class Atp(SimCot):
    """Latents as actions of a Gaussian policy."""

    name = "atp"
    about = "latents drawn from a learned Gaussian, with a step decoder and a stop head"
    source = "arXiv 2601.21598"
    options_type: ClassVar[type[LatentOptions]] = AtpOptions
    options: AtpOptions

    def __init__(self, lm, markers, setting, options) -> None:
        super().__init__(lm, markers, setting, options)
        self.head = LatentHead(lm.config.hidden_size)
        if options.residual:
            nn.init.zeros_(self.head.mean.weight)
            nn.init.zeros_(self.head.mean.bias)
        self.stopper = StopHead(lm.config.hidden_size) if options.stop else None

    def latent(self, state: Float[Tensor, "batch d_model"], noise: Tensor | None, step: Tensor | None = None) -> Latent:
        """``mean + sigma * noise``, in units of the scale."""
        mean, logvar = self.head(state)
        mean = state + mean if self.options.residual else mean
        mean, logvar = self.scale * mean, logvar + 2 * self.scale.log()
        drawn = self.options.latents == "sampled" and noise is not None
        return Latent(mean + (logvar / 2).exp() * noise if drawn else mean, mean, logvar)

    def stop_logits(self, vector: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch 2"] | None:
        """From the latent itself, as published: stopping is a region of latent space."""
        return None if self.stopper is None else self.stopper(vector)

    def slots(self, count: int, replaced: int) -> tuple[int, int]:
        """Surplus latents follow where no step is left to write."""
        active, _ = super().slots(count, replaced)
        if self.stopper is None or replaced < count:
            return active, 0
        return active, 1 if self.options.surplus == "first" else self.options.per_step * (replaced - count)

    def losses(self, seen: Unrolled) -> dict[str, Float[Tensor, ""]]:
        """Text, decoder, KL and stop."""
        terms = super().losses(seen)
        if not seen.active:
            return terms
        if self.options.kl:
            logvar = torch.stack([each.logvar for each in seen.latents if each.logvar is not None], dim=1)
            mean = torch.stack([each.mean for each in seen.latents], dim=1)
            terms["kl"] = self.options.kl * kl_to_prior(mean / self.scale, logvar - 2 * self.scale.log())[seen.own].mean()
        if self.stopper is not None:
            c, first = self.options.per_step, self.options.stop_on == "first"
            at = list(range(0, len(seen.latents), c if first else 1))
            own, target = seen.own[:, at], (~seen.stands[:, at]).long()
            nats = cross_entropy(self.stopper(seen.vectors[:, at])[own], target[own], reduction="sum") / len(own)
            terms["stop"] = self.options.stop * nats / (int(own.sum()) / len(own) / (1 if first else c))
        return terms

    def readings(self, seen: Unrolled) -> Iterator[tuple[Float[Tensor, "groups per_step d_model"], Int[Tensor, "groups pos"]]]:
        """The steps, and with ``surplus = "all"`` an empty text after each surplus group."""
        yield from super().readings(seen)
        surplus = (seen.own & ~seen.stands)[:, :: self.options.per_step].flatten()
        if self.options.surplus == "all" and surplus.any():
            groups = self.grouped(seen.vectors)[surplus]
            yield groups, torch.full((len(groups), 1), self.markers.eos, device=groups.device)


def kl_to_prior(mean: Float[Tensor, "*n"], logvar: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """KL of a Gaussian from N(0, 1), for each dimension, in nats."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
