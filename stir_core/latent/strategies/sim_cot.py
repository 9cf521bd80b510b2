"""SIM-CoT: Coconut with a decoder that must write each step from its latents. The decoder is not used to answer."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from stir_core.latent.frame import PADDING, LatentOptions, Unrolled, Weight
from stir_core.latent.heads import StepDecoder
from stir_core.latent.strategies.coconut import Coconut, CoconutOptions


class SimCotOptions(CoconutOptions):
    """Options of strategies with a step decoder."""

    decoder: Weight = 0.3
    """Weight of the decoder's loss."""
    decoder_loss: Literal["token", "step"] = "step"
    """Mean over tokens, or over steps of the sum over a step's tokens (published)."""
    decoder_layers: Annotated[int, Field(ge=0)] = 1
    """Blocks of the decoder, with random weights at the start; 0: a copy of all of the language model (published)."""


class SimCot(Coconut):
    """Coconut with a step decoder."""

    name = "sim_cot"
    about = "Coconut with a decoder that reads the steps"
    source = "Wei et al. 2025, arXiv 2509.20317"
    options_type: ClassVar[type[LatentOptions]] = SimCotOptions
    options: SimCotOptions
    own_table: Tensor | None
    """The decoder's own embedding table; ``None``: the language model's."""

    def __init__(self, lm, markers, setting, options) -> None:
        super().__init__(lm, markers, setting, options)
        self.decoder = StepDecoder(lm, self.options.decoder_layers)
        self.register_buffer("own_table", None)

    @property
    def table(self) -> Float[Tensor, "d_vocab d_model"]:
        """The embedding table that the decoder reads and writes with."""
        return self.lm.get_input_embeddings().weight if self.own_table is None else self.own_table

    def freeze_table(self) -> None:
        """Let the decoder keep the present embedding table while the language model is trained on."""
        self.own_table = self.table.detach().clone()

    def losses(self, seen: Unrolled) -> dict[str, Float[Tensor, ""]]:
        """Text, and the steps as the decoder writes them."""
        terms = super().losses(seen)
        if seen.active:
            read = list(self.readings(seen))
            nats = [self.decoder.loss(prefix, self.table, ids) for prefix, ids in read]
            n = sum(int((ids != PADDING).sum()) if self.options.decoder_loss == "token" else len(ids) for _, ids in read)
            terms["decoder"] = self.options.decoder * torch.stack([each.sum() for each in nats]).sum() / n
        return terms

    def readings(self, seen: Unrolled) -> Iterator[tuple[Float[Tensor, "groups per_step d_model"], Int[Tensor, "groups pos"]]]:
        """Latents of each replaced step, and the text that the decoder must write: the step without its delimiter, then the end."""
        steps, there = seen.batch.steps[:, : seen.replaced], seen.there
        content = getattr(seen, self.content)[:, : seen.active]
        yield self.grouped(content)[there.flatten()], self.ended(steps[there])

    def grouped(self, vectors: Float[Tensor, "batch slots d_model"]) -> Float[Tensor, "groups per_step d_model"]:
        """Latents by the step that they stand for, problem by problem."""
        return vectors.unflatten(1, (-1, self.options.per_step)).flatten(0, 1)

    def decoded(self, vectors: Float[Tensor, "batch slots d_model"]) -> list[list[list[int]]]:
        """The token ids of each step as the decoder reads it, by problem and step."""
        steps = vectors.shape[1] // self.options.per_step
        if not steps:
            return [[] for _ in vectors]
        flat = self.decoder.write(self.grouped(vectors[:, : steps * self.options.per_step]), self.table, eos=self.markers.eos)
        return [flat[i : i + steps] for i in range(0, len(flat), steps)]
