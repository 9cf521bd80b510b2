"""Mixtures of token embeddings: one token is that token bit for bit, several equal the plain model fed with the same embedding."""

import copy
from dataclasses import replace

import pytest
import torch

from stir_core.errors import SteeringError
from stir_core.models.hooked import BridgeBackend, HookedDecoder
from stir_core.models.loading import boot
from stir_core.models.passes import Feed, forward
from stir_core.models.steering import Impulse, mixtures
from tests.builders import make_hf

IDS = [[5, 9, 40], [17, 3, 250, 60], [61]]
MIX = ([40, 7, 100], [0.5, 0.3, 0.2])


@pytest.fixture(scope="module", params=["llama", "qwen2", "gemma3"])
def pair(request, tokenizer):
    hf = make_hf(request.param, len(tokenizer))
    return boot(f"tiny/{request.param}", copy.deepcopy(hf), tokenizer, weights_sha256="0" * 64), hf


@pytest.fixture(params=["fused", "eager", "bridge"])
def model(request, pair):
    if request.param == "bridge":
        return replace(pair[0], backend=BridgeBackend(pair[0].bridge))
    return replace(pair[0], eager=request.param == "eager")


def run(model, plan=None):
    store = model.new_store()
    return forward(model, [Feed(store.open(), ids, mixture=(plan or {}).get(i), every=True) for i, ids in enumerate(IDS)]).logits


def test_a_mixture_of_one_token_is_that_token_bit_for_bit(model):
    plain = run(model)
    assert torch.equal(run(model, {0: ([40], [1.0]), 2: ([61], [1.0])}), plain)
    assert torch.equal(run(model, {1: ([60, 7, 8], [1.0, 0.0, 0.0])}), plain)
    assert torch.equal(run(model, {2: ([7, 61], [0.0, 1.0])}), plain)


def test_several_tokens_equal_the_plain_model_fed_with_their_weighted_embedding(model, pair):
    found = run(model, {0: MIX})[2]
    embedding = pair[1].get_input_embeddings()
    with torch.inference_mode():
        mixed = torch.stack([weight * embedding(torch.tensor([[token]])) for token, weight in zip(*MIX, strict=True)]).sum(dim=0)
        expected = pair[1](inputs_embeds=torch.cat([embedding(torch.tensor([IDS[0][:-1]])), mixed], dim=1)).logits[0, -1]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, run(model)[2], atol=1e-2)


def test_neighbours_and_earlier_tokens_are_bit_equal(model):
    plain, mixed = run(model), run(model, {1: MIX})
    changed = 3 + 3  # the last token of the second sequence
    assert torch.equal(mixed[[i for i in range(8) if i != changed]], plain[[i for i in range(8) if i != changed]])
    assert not torch.equal(mixed[changed], plain[changed])


def test_a_mixture_goes_with_an_impulse_in_one_pass(pair):
    vector = torch.randn(32, generator=torch.Generator().manual_seed(0))
    ways = [replace(pair[0], eager=True), replace(pair[0], backend=BridgeBackend(pair[0].bridge))]
    found = [forward(way, [Feed(way.new_store().open(), IDS[0], Impulse(1, vector), mixture=MIX)]).logits for way in ways]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("at", "mixture", "message"),
    [
        (3, MIX, "mixture at token 3 of a pass of 3"),
        (0, ([40, 300], [0.5, 0.5]), "no token 300: give tokens from 0 to 299"),
        (0, ([-1], [1.0]), "no token -1"),
        (0, ([40, 7], [0.5, 0.6]), "adding up to 1"),
        (0, ([40, 7], [1.5, -0.5]), "adding up to 1"),
        (0, ([40, 7], [1.0]), "give each a weight"),
        (0, ([], []), "a mixture of 0 tokens"),
        (0, ([40, 7], [float("nan"), 1.0]), "adding up to 1"),
    ],
)
def test_an_impossible_mixture_is_refused_before_the_pass(tiny, at, mixture, message):
    with pytest.raises(SteeringError, match=message), mixtures(tiny.backend, [(at, mixture)], tokens=3):
        pytest.fail("the pass must not start")
    row = tiny.new_store().open()
    if at == 0:
        with pytest.raises(SteeringError, match=message):
            forward(tiny, [Feed(row, [5], mixture=mixture)])
    assert no_hooks(tiny) and row.length == 0


def test_a_mixture_that_never_fired_is_an_error(tiny):
    with pytest.raises(SteeringError, match="hook_embed fired 0 times"), mixtures(tiny.backend, [(0, MIX)], tokens=1):
        pass
    assert no_hooks(tiny)


def test_an_exception_leaves_no_hook(tiny):
    with pytest.raises(KeyError), mixtures(tiny.backend, [(0, MIX)], tokens=1):
        assert not no_hooks(tiny)
        raise KeyError
    assert no_hooks(tiny)


def test_a_pass_without_mixtures_hooks_nothing(tiny, monkeypatch):
    monkeypatch.setattr(tiny.backend, "embed_point", lambda: pytest.fail("nothing is mixed"))
    forward(tiny, [Feed(tiny.new_store().open(), IDS[0])])


def test_the_hook_point_is_named_and_shows_what_embed_gives(tiny):
    assert isinstance(tiny.backend, HookedDecoder) and "hook_embed" in tiny.backend.hook_dict
    seen = []
    tiny.backend.hook_embed.add_hook(lambda tensor, hook: seen.append(tensor[0].clone()))
    try:
        forward(tiny, [Feed(tiny.new_store().open(), IDS[1])])
        assert torch.equal(seen[0], tiny.backend.embed(IDS[1])) and len(seen) == 1  # embedding tokens beside a pass fires nothing
    finally:
        tiny.backend.hook_embed.remove_hooks("fwd")


def no_hooks(model) -> bool:
    return not model.backend.embed_point().fwd_hooks and not model.bridge.embed.hook_out.fwd_hooks
