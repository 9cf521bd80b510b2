"""Coconut: the last state itself is the next input embedding."""

from jaxtyping import Float
from torch import Tensor

from stir_core.latent.frame import Latent, Reasoner


class Coconut(Reasoner):
    """A latent is the state after the final norm, one position earlier. Only the remaining text is trained on."""

    name = "coconut"
    about = "the last state is fed back"
    source = "Hao et al. 2024, arXiv 2412.06769"

    def latent(self, state: Float[Tensor, "batch d_model"], noise: Tensor | None, step: Tensor | None = None) -> Latent:
        """The state."""
        return Latent(state, state)
