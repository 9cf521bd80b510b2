"""The parts that strategies add to a language model: heads of latents, and a small decoder that reads them."""

import copy
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding, linear
from transformers import PreTrainedModel

LOGVAR_START = -4.0
"""Bias of the log variance: with 0 the noise is as large as the latents from the first step, and training runs away."""


class LatentHead(nn.Module):
    """The Gaussian of the next latent from the state before it (ATP-Latent: ``LatentPolicy``)."""

    def __init__(self, d_model: int):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(d_model, d_model), nn.GELU(), nn.Linear(d_model, d_model), nn.LayerNorm(d_model))
        self.mean = nn.Linear(d_model, d_model)
        self.logvar = nn.Linear(d_model, d_model)
        nn.init.normal_(self.logvar.weight, std=0.02)
        nn.init.constant_(self.logvar.bias, LOGVAR_START)

    def forward(self, state: Float[Tensor, "... d_model"]) -> tuple[Float[Tensor, "... d_model"], Float[Tensor, "... d_model"]]:
        """Mean and log variance."""
        hidden = self.body(state)
        return self.mean(hidden), self.logvar(hidden)


class StopHead(nn.Module):
    """Logits of going on and of stopping, from a latent (ATP-Latent: ``STOPPolicy``)."""

    def __init__(self, d_model: int):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(d_model, d_model), nn.GELU(), nn.Linear(d_model, 2))

    def forward(self, vector: Float[Tensor, "... d_model"]) -> Float[Tensor, "... 2"]:
        """Two logits; the second is that of stopping."""
        return self.body(vector)


class StepDecoder(nn.Module):
    """Writes a reasoning step from its latents alone: it sees neither the question nor other steps (SIM-CoT, ATP-Latent).

    Blocks of the language model's own kind. Its embedding table, for input and output, is the language model's, passed with each call.

    Args:
        layers: how many blocks, with random weights; 0: a copy of all of the language model, with an output table of its own (published).
    """

    def __init__(self, lm: PreTrainedModel, layers: int = 1):
        super().__init__()
        total = lm.config.num_hidden_layers
        facts = {
            key: value[:layers] if isinstance(value, list) and len(value) == total else value for key, value in lm.config.to_dict().items()
        }
        config = type(lm.config).from_dict({**facts, "num_hidden_layers": layers})
        config._attn_implementation = lm.config._attn_implementation
        self.body: Any = type(lm.base_model)(config) if layers else copy.deepcopy(lm.base_model)
        self.body.set_input_embeddings(nn.Identity())  # it is given embeddings, and has no table of its own
        self.output = None if layers else nn.Parameter(cast(nn.Linear, lm.get_output_embeddings()).weight.detach().clone())

    def forward(
        self, prefix: Float[Tensor, "n prefix d_model"], table: Float[Tensor, "d_vocab d_model"], ids: Int[Tensor, "n pos"]
    ) -> Float[Tensor, "n pos+1 d_vocab"]:
        """Logits of the first token after the prefix and after each of ``ids``."""
        vectors = torch.cat([prefix, embedding(ids.clamp_min(0), table)], dim=1)
        states = self.body(inputs_embeds=vectors, use_cache=False).last_hidden_state
        return linear(states[:, prefix.shape[1] - 1 :], table if self.output is None else self.output)

    def loss(self, prefix: Tensor, table: Tensor, ids: Int[Tensor, "n pos"]) -> Float[Tensor, "n pos"]:
        """Cross-entropy of each token of the steps, in nats; 0 for padding, which is on the right."""
        logits = self(prefix, table, ids[:, :-1])
        return cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view(ids.shape)

    @torch.no_grad()
    def write(self, prefix: Float[Tensor, "n prefix d_model"], table: Tensor, *, eos: int, most: int = 16) -> list[list[int]]:
        """The likeliest text of each prefix, token by token, without its end-of-text token; at most ``most`` tokens."""
        ids = torch.empty((len(prefix), 0), dtype=torch.long, device=prefix.device)
        for _ in range(most):
            ids = torch.cat([ids, self(prefix, table, ids)[:, -1].argmax(-1, keepdim=True)], dim=1)
            if bool((ids == eos).any(dim=1).all()):
                break
        return [row[: row.index(eos)] if eos in row else row for row in ids.tolist()]
