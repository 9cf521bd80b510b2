"""Coconut: the last state itself is the next input embedding."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.latent.frame import Latent, LatentOptions, Reasoner


class CoconutOptions(LatentOptions):
    """Options of strategies that feed a state."""

    scale: Literal["embedding", "one"] = "embedding"
    """What a state is multiplied by before it is fed: the embeddings' root mean square at the start, or 1 (published).

    A state after the final norm is about ten times as large as an embedding. Fed as it is, what the blocks add to it is small beside it.
    """


class Coconut(Reasoner):
    """A latent is the state after the final norm, one position earlier. Only the remaining text is trained on."""

    name = "coconut"
    about = "the last state is fed back"
    source = "Hao et al. 2024, arXiv 2412.06769"
    options_type: ClassVar[type[LatentOptions]] = CoconutOptions
    options: CoconutOptions
    scale: Tensor

    def __init__(self, lm, markers, setting, options) -> None:
        super().__init__(lm, markers, setting, options)
        rms = self.lm.get_input_embeddings().weight.detach().square().mean().sqrt()
        self.register_buffer("scale", rms if self.options.scale == "embedding" else torch.ones_like(rms))

    def latent(self, state: Float[Tensor, "batch d_model"], noise: Tensor | None, step: Tensor | None = None) -> Latent:
        """The state, scaled."""
        return Latent(self.scale * state, self.scale * state)
