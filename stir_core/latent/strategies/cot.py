"""Plain chain of thought: every step is written. The start of the latent strategies, and what they are compared with."""

from stir_core.latent.frame import LatentPhase, LatentRecipe, Reasoner


class Cot(Reasoner):
    """Trained on written steps. It has only the steps of the common start, after which it is usually right."""

    name = "cot"
    about = "every step is written"
    source = "Wei et al. 2022, arXiv 2201.11903"

    def phases(self, recipe: LatentRecipe, *, started: bool) -> list[LatentPhase]:
        """One phase."""
        return [LatentPhase(recipe.written, 0)]

    @property
    def most(self) -> int:
        """None."""
        return 0
