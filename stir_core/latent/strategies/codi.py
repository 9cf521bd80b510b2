"""CODI: one language model writes its steps as teacher and thinks in latents as student; their states before the answer are compared."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss

from stir_core.latent.frame import PADDING, Latent, LatentOptions, LatentPhase, LatentRecipe, Unrolled, Weight, masking, packed
from stir_core.latent.strategies.coconut import Coconut, CoconutOptions


class CodiOptions(CoconutOptions):
    """Options of CODI."""

    teacher: Weight = 1.0
    """Weight of the teacher's loss."""
    gamma: Weight = 1.0
    """Weight of the distance of the states. Published: 1 for GPT-2, 20 for Llama-1B."""
    last_step: bool = False
    """Show the teacher the last step, too. As published it is left out, since the teacher would copy its result."""


class Codi(Coconut):
    """A latent is the last state through an MLP. No step is written from the first student's training step on."""

    name = "codi"
    about = "a student whose state before the answer is drawn to that of a teacher that writes"
    source = "Shen et al. 2025, arXiv 2502.21074"
    options_type: ClassVar[type[LatentOptions]] = CodiOptions
    options: CodiOptions

    def __init__(self, lm, markers, setting, options) -> None:
        super().__init__(lm, markers, setting, options)
        d = lm.config.hidden_size
        self.head = nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.Linear(d, d), nn.LayerNorm(d))

    def latent(self, state: Float[Tensor, "batch d_model"], noise: Tensor | None, step: Tensor | None = None) -> Latent:
        """The state through the MLP."""
        vector = self.scale * self.head(state)
        return Latent(vector, vector)

    def phases(self, recipe: LatentRecipe, *, started: bool) -> list[LatentPhase]:
        """All steps at once."""
        return self.at_once(recipe, started)

    def losses(self, seen: Unrolled) -> dict[str, Float[Tensor, ""]]:
        """The student's answer, the teacher's steps and answer, and how far their states before the answer's number are apart."""
        terms = super().losses(seen)
        if seen.active:
            question, steps, answer = seen.batch
            there = seen.batch.there
            if not self.options.last_step:
                last = there.sum(1, keepdim=True) - 1
                steps = steps.masked_fill((torch.arange(steps.shape[1], device=last.device) == last)[:, :, None], PADDING)
            text = packed(torch.cat([steps.flatten(1), answer], dim=1))
            written = torch.cat([question, text[:, :-1]], dim=1)
            taught = self.layers(self.embed(written), written != PADDING)
            logits = self.logits(taught[-1][:, question.shape[1] - 1 :])
            terms["teacher"] = self.options.teacher * cross_entropy(logits.flatten(0, 1), text.flatten(), ignore_index=PADDING)
            ended = torch.cat([seen.text.new_full((len(text), 1), self.markers.end), seen.text[:, :-1]], dim=1)
            asked = self.marked(question, self.markers.start)
            visible = torch.cat([asked != PADDING, seen.stands, ended != PADDING], dim=1)
            learned = self.layers(torch.cat([self.embed(asked), seen.vectors, self.embed(ended)], dim=1), visible)
            # behind what stands before the answer's number; the last token is not fed
            before = self.markers.stated - 1 - (answer != PADDING).sum(1)
            rows = torch.arange(len(text), device=before.device)
            at = [
                first + (ids != PADDING).sum(1) + before
                for first, ids in ((asked.shape[1] + len(seen.latents) + 1, seen.text), (question.shape[1], text))
            ]
            pairs = [(student[rows, at[0]], teacher[rows, at[1]].detach()) for student, teacher in zip(learned, taught, strict=True)]
            distance = torch.stack([smooth_l1_loss(student, teacher) / teacher.std() for student, teacher in pairs]).mean()
            terms["distance"] = self.options.gamma * distance
        return terms

    def layers(
        self, vectors: Float[Tensor, "batch pos d_model"], visible: Bool[Tensor, "batch pos"]
    ) -> list[Float[Tensor, "batch pos d_model"]]:
        """The output of every block; the last after the final norm."""
        told = masking(visible, vectors.shape[1])
        return list(self.lm.base_model(inputs_embeds=vectors, use_cache=False, output_hidden_states=True, **told).hidden_states[1:])
