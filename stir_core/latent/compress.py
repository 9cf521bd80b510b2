"""Read the text of a step into a few vectors: what recognition networks and compressors of steps have in common."""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding
from transformers import PreTrainedModel

from stir_core.latent.frame import PADDING, masking
from stir_core.latent.heads import StepDecoder


class StepEncoder(nn.Module):
    """One block of the language model's own kind reads a step, then learned queries; their states are what it says.

    Its own embedding table, a copy of the language model's at the start, lets what it says stay while the language model is trained on.
    """

    def __init__(self, lm: PreTrainedModel, queries: int):
        super().__init__()
        self.table = nn.Parameter(cast(nn.Embedding, lm.get_input_embeddings()).weight.detach().clone())
        self.queries = nn.Parameter(torch.randn(queries, lm.config.hidden_size) * self.table.detach().std())
        self.body = StepDecoder(lm).body

    def forward(self, steps: Int[Tensor, "n step"]) -> Float[Tensor, "n queries d_model"]:
        """The states of the queries."""
        vectors = torch.cat([embedding(steps.clamp_min(0), self.table), self.queries.expand(len(steps), -1, -1)], dim=1)
        visible = torch.cat([steps != PADDING, steps.new_ones(len(steps), len(self.queries), dtype=torch.bool)], dim=1)
        return self.body(inputs_embeds=vectors, use_cache=False, **masking(visible, vectors.shape[1])).last_hidden_state[
            :, steps.shape[1] :
        ]


class StepCompressor(nn.Module):
    """An encoder with a decoder that must write the step again from what the encoder says, or what is made of it."""

    def __init__(self, lm: PreTrainedModel, queries: int):
        super().__init__()
        self.encoder = StepEncoder(lm, queries)
        self.decoder = StepDecoder(lm)

    @property
    def trained(self) -> bool:
        """Whether the present phase trains it."""
        return self.encoder.table.requires_grad

    def loss(self, prefix: Float[Tensor, "n queries d_model"], steps: Int[Tensor, "n step"]) -> Float[Tensor, ""]:
        """Cross-entropy of the steps as the decoder writes them, in nats, a mean over tokens."""
        return self.decoder.loss(prefix, self.encoder.table, steps)[steps != PADDING].mean()

    def write(self, prefix: Float[Tensor, "batch slots d_model"], *, eos: int) -> list[list[list[int]]]:
        """The likeliest text of each step, by problem and step; what is left over at the end of the slots is not read."""
        steps = prefix.shape[1] // len(self.encoder.queries)
        if not steps:
            return [[] for _ in prefix]
        groups = prefix[:, : steps * len(self.encoder.queries)].unflatten(1, (steps, -1)).flatten(0, 1)
        flat = self.decoder.write(groups, self.encoder.table, eos=eos)
        return [flat[i : i + steps] for i in range(0, len(flat), steps)]
