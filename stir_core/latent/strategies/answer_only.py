"""No reasoning at all: the answer follows the question. The floor that latents have to be above."""

from stir_core.latent.frame import LatentPhase, LatentRecipe, Reasoner


class AnswerOnly(Reasoner):
    """Trained on questions with their answers, for as many steps as the others."""

    name = "answer_only"
    about = "no steps, written or latent"
    source = "baseline"

    def slots(self, count: int, replaced: int) -> tuple[int, int]:
        """None."""
        return 0, 0

    def phases(self, recipe: LatentRecipe, *, started: bool) -> list[LatentPhase]:
        """One phase; never from a model that writes its steps."""
        longest = max(self.setting.counts)
        return [LatentPhase(recipe.written + longest * recipe.stage + recipe.final, longest)]

    @property
    def most(self) -> int:
        """None."""
        return 0
