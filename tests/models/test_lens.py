"""The logit lens of a direction needs no bridge; the Jacobian lens is TransformerLens's, for one direction."""

from dataclasses import replace

import pytest
import torch
from transformer_lens.tools.analysis import JacobianLens

from stir_core.errors import DataError, ModelError
from stir_core.models.lens import ANSWERS, carried_by_jacobian, direction_logits, jacobian_lens
from stir_core.models.loading import LoadedModel, load_model
from stir_core.records import Rollout, Verdict

TEXTS = ("one two three four five six seven", "the sum of two and three is five", "so the answer is ten")
PROMPT = 3
"""Tokens of each text that are its prompt."""


def test_without_a_bridge_the_lens_reads_the_plain_model() -> None:
    model = load_model("organism:null")
    directions = torch.randn(3, model.d_model, generator=torch.Generator().manual_seed(0))
    with_bridge = direction_logits(model, directions)
    assert with_bridge.std() > 0.1
    torch.testing.assert_close(direction_logits(replace(model, bridge=None), directions), with_bridge, atol=1e-5, rtol=1e-5)


def rollouts_of(model: LoadedModel) -> list[Rollout]:
    verdict = Verdict(correct=True, extracted=None, gold="", method="", reason="", finished=True)
    rollouts = []
    for i, text in enumerate(TEXTS):
        ids = model.bridge.to_tokens(text)[0].tolist()
        kept: dict = {"problem_id": str(i), "k": 0, "seed": 0, "text": text, "finish": "stop", "boundaries": (), "mean_logprob": None}
        rollouts.append(Rollout(**kept, prompt_ids=ids[:PROMPT], token_ids=ids[PROMPT:], verdict=verdict, reward=1.0))
    return rollouts


def test_a_carried_direction_is_that_of_the_fitted_lens(tiny: LoadedModel) -> None:
    layer, direction = 1, torch.randn(tiny.d_model, generator=torch.Generator().manual_seed(1))
    fitted = JacobianLens.fit(
        tiny.bridge, list(TEXTS), corpus="test", source_layers=[layer], skip_first_positions=PROMPT, show_progress=False, dim_batch=32
    )
    rollouts = rollouts_of(tiny)
    carried = [carried_by_jacobian(tiny, direction, layer, list(each.prompt_ids), list(each.token_ids)) for each in rollouts]
    mean = torch.stack(carried).mean(dim=0)
    assert torch.nn.functional.cosine_similarity(mean, direction, dim=0) < 0.9  # the blocks above do something
    torch.testing.assert_close(mean, fitted.transport(direction[None], layer)[0], atol=1e-4, rtol=1e-4)

    reading = jacobian_lens(tiny, "a", direction, layer, rollouts, top=5)
    assert reading.answers == len(TEXTS)
    assert reading.positions == sum(each.n_tokens - 1 for each in rollouts)
    assert reading.gain == pytest.approx(float(mean.norm() / direction.norm()), rel=1e-4)
    best = direction_logits(tiny, mean[None])[0].topk(5).indices.tolist()
    assert [token.token_id for token in reading.lens.promoted] == best
    plain = direction_logits(tiny, direction[None])[0].topk(5).indices.tolist()
    assert reading.logit_overlap == len({*best} & {*plain})


def test_at_the_last_block_the_jacobian_is_the_identity(tiny: LoadedModel) -> None:
    direction = torch.randn(tiny.d_model, generator=torch.Generator().manual_seed(2))
    reading = jacobian_lens(tiny, "a", direction, tiny.n_layers - 1, rollouts_of(tiny) * ANSWERS, top=7)
    assert (reading.gain, reading.agreement) == (pytest.approx(1.0), pytest.approx(1.0))
    assert (reading.logit_overlap, reading.answers) == (7, ANSWERS)


def test_what_no_jacobian_lens_can_be_read_of_is_refused(tiny: LoadedModel) -> None:
    direction = torch.ones(tiny.d_model)
    with pytest.raises(DataError, match="nothing to average"):
        jacobian_lens(tiny, "a", direction, 1, [])
    with pytest.raises(ModelError, match="no Jacobian lens"):
        jacobian_lens(replace(tiny, bridge=None), "a", direction, 1, rollouts_of(tiny))
