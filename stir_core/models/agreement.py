"""Measure on a fixed text whether the kernels that a model decodes with agree with float32.

The text is read as decoding reads it (a segment, single tokens, a branch). Every next-token distribution is compared with that of one full
float32 pass through the raw bridge or, for other dtypes, through a float32 copy of the model.
"""

import copy
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from stir_core.models.hooked import BridgeBackend, HookedDecoder
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed, forward

TEXT = "Tom has 5 pens and buys 3 more. Then he gives 2 pens to each of his two friends.\n\nSo he has 5 + 3 - 4 = 4 pens left."
TOLERANCE = {"float32": (1e-4, 1.0), "bfloat16": (0.05, 0.9)}
"""By dtype: largest mean KL divergence in nats, and smallest share of positions whose likeliest token is the same."""


class Agreement(NamedTuple):
    """How far decoding is from the float32 reference on the fixed text."""

    positions: int
    mean_kl: float
    """Mean KL divergence from the reference, in nats."""
    largest_logprob_difference: float
    """Of the reference's likeliest token, in nats."""
    same_token: float
    """Share of positions whose likeliest token is the reference's."""
    within: bool
    """Whether the divergence and the share lie within :data:`TOLERANCE`."""


def agreement(model: LoadedModel) -> Agreement:
    """Compare the model's decoding with float32. Needs memory for a float32 copy when the model is not float32."""
    ids = model.tokens(TEXT)[:64]
    # all early positions, where a single wrong token shows, then every fourth: each costs a prefill
    kept = [i for i in range(3, len(ids)) if i < 12 or i % 4 == 0]
    ours = torch.stack([_decoded(model, ids[: i + 1]) for i in kept]).log_softmax(-1)
    theirs = _reference(model, [ids[: i + 1] for i in kept]).log_softmax(-1)
    best = theirs.argmax(-1)
    gap = (ours - theirs).gather(1, best[:, None]).abs().max()
    kl = float((theirs.exp() * (theirs - ours)).sum(-1).mean())
    same = float((ours.argmax(-1) == best).float().mean())
    most, least = TOLERANCE[model.identity.dtype]
    return Agreement(len(kept), max(kl, 0.0), float(gap), same, kl <= most and same >= least)


def _decoded(model: LoadedModel, ids: list[int]) -> Tensor:
    """Next logits by way of a segment, a single token and a branch."""
    row = model.new_store().open()
    forward(model, [Feed(row, ids[:-2])])
    forward(model, [Feed(row, [ids[-2]])])
    branch = model.new_store(columns=8).open(row, row.length)
    return forward(model, [Feed(branch, [ids[-1]])]).logits[0].cpu()


def _reference(model: LoadedModel, sequences: list[list[int]]) -> Tensor:
    if model.identity.dtype == "float32":
        reference = replace(model, backend=BridgeBackend(model.bridge))
    elif isinstance(model.backend, HookedDecoder):
        reference = replace(model, backend=copy.deepcopy(model.backend).float(), eager=True)
    else:
        raise TypeError("a bridge that is not float32 has no float32 reference here: load the model with the hooked backend")
    rows = [reference.new_store().open() for _ in sequences]
    return torch.stack([forward(reference, [Feed(row, ids)]).logits[0].cpu() for row, ids in zip(rows, sequences, strict=True)])
