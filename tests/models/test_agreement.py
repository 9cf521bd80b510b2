"""The self-check of the kernels: within tolerance where they agree, not where something is off."""

import json
from dataclasses import replace

import pytest
import torch

from stir_core.cli import main
from stir_core.errors import ModelError
from stir_core.models import agreement as agreement_module
from stir_core.models import loading
from stir_core.models.agreement import agreement
from stir_core.models.attention import Packed, Reach
from stir_core.models.hooked import HookedDecoder
from stir_core.models.loading import boot, load_model
from stir_core.models.products import Norm, Product
from tests.builders import make_hf
from tests.models.architectures import ARCHITECTURES, tiny

ATTEND = Packed.attend


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decoding_agrees_with_plain_hugging_face(kind, dtype, tokenizer):
    model = boot(f"tiny/{kind}", make_hf(kind, len(tokenizer)).to(dtype), tokenizer, weights_sha256="0" * 64)
    found = agreement(model, exact=True)
    assert found.agrees and found.positions >= 90
    assert (found.largest_logprob_difference < 1e-4) is (dtype == torch.float32)


def test_a_wrong_kernel_is_found(tokenizer):
    model = boot("tiny/llama", make_hf("llama", len(tokenizer)), tokenizer, weights_sha256="0" * 64)
    assert isinstance(model.backend, HookedDecoder)
    norm = next(module for module in model.backend.modules() if isinstance(module, Norm))
    norm.epsilon = 10.0
    assert not agreement(model).agrees
    assert agreement(replace(model, eager=True)).agrees, "the plain modules are untouched"


def forgetful(self, layer, query, terms):
    """Attention that ignores windows, chunks and sinks."""
    return ATTEND(self, layer, query, terms._replace(reach=Reach(), sinks=None))


@pytest.mark.parametrize(
    ("name", "size"), [("mistral", "sliding_window"), ("llama 4", "attention_chunk_size"), ("gpt-oss", "sliding_window")]
)
def test_a_window_longer_than_the_text_is_shortened_so_that_it_shows(name, size, tokenizer, monkeypatch):
    kind, wanted = ARCHITECTURES[name]
    monkeypatch.setitem(ARCHITECTURES, name, (kind, wanted | {size: 4096}))
    model = boot("tiny", tiny(name, len(tokenizer)), tokenizer, weights_sha256="0" * 64, backend="plain")
    assert model.backend.packs and agreement(model).agrees
    monkeypatch.setattr(Packed, "attend", forgetful)
    assert not agreement(model).agrees
    assert model.plain.config.to_dict()[size] == 4096


def test_where_hooked_disagrees_auto_takes_the_bridge_and_says_so(tokenizer, monkeypatch, caplog):
    monkeypatch.setattr(Packed, "attend", forgetful)
    model = boot("tiny/oss", tiny("gpt-oss", len(tokenizer)), tokenizer, weights_sha256="0" * 64, backend="auto")
    assert model.backend.name == "bridge" and agreement(model).agrees
    (note,) = [record.getMessage() for record in caplog.records if record.name == "stir_core"]
    assert note.startswith("tiny/oss: hooked decoding is ") and note.endswith("; bridge decoding is used, one sequence at a time")
    with pytest.raises(ModelError, match=r"cannot be decoded exactly: hooked decoding is .* nats from .*; set model\.backend=auto"):
        boot("tiny/oss", tiny("gpt-oss", len(tokenizer)), tokenizer, weights_sha256="0" * 64, check=True)


def test_the_comparison_is_made_once_for_each_identity(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("STIR_CACHE", str(tmp_path))
    load_model(tiny_folder)
    (kept,) = (tmp_path / "agreement").iterdir()
    note = json.loads(kept.read_text())
    assert note["way"] == "hooked" and note["kl"] < 1e-6 and "Hugging Face" in note["reference"]
    monkeypatch.setattr(loading, "agreement", lambda model: pytest.fail("it was compared before"))
    assert load_model(tiny_folder).backend.packs
    with pytest.raises(pytest.fail.Exception, match="compared before"):
        load_model(tiny_folder, dtype="bfloat16")


def test_a_cache_that_cannot_be_written_costs_a_comparison_and_no_load(tiny_folder, tmp_path, monkeypatch, caplog):
    (tmp_path / "agreement").write_text("")  # where the folder would be
    monkeypatch.setenv("STIR_CACHE", str(tmp_path))
    assert load_model(tiny_folder).backend.packs
    assert "is compared with plain attention at every load" in caplog.text


def test_models_check_answers_with_its_exit_code(tiny_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("STIR_CACHE", str(tmp_path))
    assert main(["models", "--check", tiny_folder, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["agrees"] is True and found["kl"] < 1e-6 and found["reference"] == "Hugging Face, eager attention, full passes"
    monkeypatch.setattr(agreement_module, "TOLERANCE", {"float32": (-1.0, 1.0)})
    assert main(["models", "--check", tiny_folder, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["agrees"] is False


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


def test_products_of_other_shapes_are_the_plain_ones():
    """Experts give ``[tokens, k]`` and multi-head latent attention ``[1, heads, tokens, k]``."""
    linear = torch.nn.Linear(24, 16)
    for shape in ((1, 24), (3, 24), (1, 2, 5, 24), (2, 3, 24)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            assert torch.equal(Product(linear)(x), linear(x))
