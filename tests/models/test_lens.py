"""The logit lens of a direction needs no bridge."""

from dataclasses import replace

import torch

from stir_core.models.lens import direction_logits
from stir_core.models.loading import load_model


def test_without_a_bridge_the_lens_reads_the_plain_model() -> None:
    model = load_model("organism:null")
    directions = torch.randn(3, model.d_model, generator=torch.Generator().manual_seed(0))
    with_bridge = direction_logits(model, directions)
    assert with_bridge.std() > 0.1
    torch.testing.assert_close(direction_logits(replace(model, bridge=None), directions), with_bridge, atol=1e-5, rtol=1e-5)
