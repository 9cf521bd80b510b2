"""The self-check of the kernels: within tolerance where they agree, not where something is off."""

from dataclasses import replace

import pytest
import torch

from stir_core.models.agreement import agreement
from stir_core.models.hooked import HookedDecoder
from stir_core.models.loading import boot
from stir_core.models.products import Norm, Product
from tests.builders import make_hf


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decoding_agrees_with_float32(kind, dtype, tokenizer):
    model = boot(f"tiny/{kind}", make_hf(kind, len(tokenizer)).to(dtype), tokenizer, weights_sha256="0" * 64)
    found = agreement(model)
    assert found.within and found.positions >= 10
    assert (found.largest_logprob_difference < 1e-4) is (dtype == torch.float32)


def test_a_wrong_kernel_is_found(tokenizer):
    model = boot("tiny/llama", make_hf("llama", len(tokenizer)), tokenizer, weights_sha256="0" * 64)
    assert isinstance(model.backend, HookedDecoder)
    norm = next(module for module in model.backend.modules() if isinstance(module, Norm))
    norm.epsilon = 10.0
    assert not agreement(model).within
    assert agreement(replace(model, eager=True)).within, "the plain modules are untouched"


def test_replaced_products_and_norms_compute_the_same(tokenizer):
    hf = make_hf("qwen2", len(tokenizer))  # its projections have biases
    model = boot("tiny/qwen2", hf, tokenizer, weights_sha256="0" * 64)
    assert isinstance(model.backend, HookedDecoder)
    products = [module for module in model.backend.modules() if isinstance(module, Product)]
    assert any(product.bias is not None for product in products) and len(products) == 4 * 7 + 1
    for product in products:
        for rows in (1, 2, 3, 5, 8, 9, 40):
            x = torch.randn(1, rows, product.weight.shape[1], generator=torch.Generator().manual_seed(rows))
            expected = torch.nn.functional.linear(x, product.weight, product.bias)
            with torch.inference_mode():
                torch.testing.assert_close(product(x), expected, atol=1e-5, rtol=1e-5)
                assert product(x).is_contiguous()
