"""Quantised checkpoints: refused in one line without their package, and with it the model that their numbers say."""

import hashlib
import json
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from stir_core.errors import ModelError
from stir_core.models import weights
from stir_core.models.loading import LoadedModel, load_model
from stir_core.models.passes import Feed, forward
from stir_core.models.sizes import sizes_of
from stir_core.models.small import small_llama
from stir_core.models.steering import Impulse
from tests.latent.toys import WORDS

IDS = [3, 5, 7, 9]


def small() -> Any:
    torch.manual_seed(0)
    return small_llama(WORDS, d_model=64, layers=2, heads=2)


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    WORDS.save_pretrained(folder)
    return folder


def last_logits(model: LoadedModel, impulse: Impulse | None = None) -> torch.Tensor:
    return forward(model, [Feed(model.new_store().open(), IDS, impulse)]).logits[0]


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("compressed-tensors", "install the package compressed-tensors, or take the unquantised model"),
        ("bitsandbytes", "install the package bitsandbytes"),
        ("gptq", "install the package gptqmodel"),
        ("awq", "install the package gptqmodel"),
        ("quip", r"quantised weights \(quip\), which are not read"),
    ],
)
def test_without_its_package_a_quantised_model_is_refused(method: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    file = saved(small(), tmp_path / "model") / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": {"quant_method": method}}))
    with pytest.raises(ModelError, match=why):
        load_model(str(tmp_path / "model"), backend="plain")


GROUP, LATER = 32, {"gptq": range(8), "awq": (0, 2, 4, 6, 1, 3, 5, 7)}
"""Weights that share a scale, and the order in which eight four-bit numbers lie in one of 32 bits."""


def packed(method: str, folder: Path) -> Any:
    """Write a checkpoint of this layout, and return the model of the weights that its numbers stand for."""
    model, tensors = small(), dict[str, torch.Tensor]()

    def joined(numbers: torch.Tensor, order: Any) -> torch.Tensor:
        """Eight neighbours of the last dimension in one number."""
        parts = numbers.long().unflatten(-1, (-1, 8))[..., list(order)] << 4 * torch.arange(8)
        return parts.sum(-1).to(torch.uint32).view(torch.int32).contiguous()

    for name, weight in model.state_dict().items():
        if not name.endswith("proj.weight"):
            tensors |= {} if name == "lm_head.weight" else {name: weight.clone()}
            continue
        grouped = weight.unflatten(1, (-1, GROUP))
        scales = (grouped.abs().amax(-1) / 7).half()
        numbers = (grouped / scales[..., None].float()).round().clamp(-8, 7)
        weight.copy_((numbers * scales[..., None].float()).flatten(1))
        entries = (numbers + 8).flatten(1).T  # [in, out]
        zeros = torch.full_like(scales.T, 7 if method == "gptq" else 8)  # GPTQ's first layout stores one less
        along = joined(entries.T, LATER[method]).T.contiguous() if method == "gptq" else joined(entries, LATER[method])
        own = {"qweight": along, "qzeros": joined(zeros, LATER[method]), "scales": scales.T.contiguous()}
        own |= {"g_idx": (torch.arange(len(entries)) // GROUP).int()} if method == "gptq" else {}
        tensors |= {f"{name.removesuffix('weight')}{part}": tensor for part, tensor in own.items()}
    saved(model, folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    how = {"gptq": {"desc_act": False, "sym": True, "checkpoint_format": "gptq"}, "awq": {"zero_point": True, "version": "gemm"}}
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": GROUP} | how[method]
    (folder / "config.json").write_text(json.dumps(config))
    return model


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_packed_numbers_are_counted_as_the_weights_that_they_stand_for(method: str, tmp_path: Path) -> None:
    plain = saved(packed(method, tmp_path / "packed"), tmp_path / "plain")
    found, known = sizes_of(str(tmp_path / "packed")), sizes_of(str(plain))
    assert found is not None and known is not None
    assert found._replace(packed=0, packed_bytes=0) == known
    with safe_open(plain / "model.safetensors", "pt") as file:
        assert found.packed == sum(prod(file.get_slice(name).get_shape()) for name in file.keys() if name.endswith("proj.weight"))  # noqa: SIM118
    left = 4 * (found.parameters - found.packed)
    header = 16_000
    assert 0 < (tmp_path / "packed" / "model.safetensors").stat().st_size - found.packed_bytes - left < header
    assert found.packed / 2 < found.packed_bytes < found.packed


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_packed_model_computes_with_what_its_numbers_stand_for(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gptqmodel", reason="the package gptqmodel is not installed")
    monkeypatch.setenv("CXX", "/bin/false")  # its kernel in plain torch: another is compiled for minutes
    plain = load_model(str(saved(packed(method, tmp_path / "packed"), tmp_path / "plain")))
    model = load_model(str(tmp_path / "packed"))
    assert (model.bridge, model.identity.dtype, model.shape) == (None, "float32", plain.shape)
    torch.testing.assert_close(last_logits(model), last_logits(plain), atol=1e-4, rtol=0)
    assert torch.equal(last_logits(model, Impulse(0, torch.zeros(64, dtype=torch.float64))), last_logits(model))
    assert (last_logits(model, Impulse(0, torch.ones(64, dtype=torch.float64))) - last_logits(model)).abs().max() > 1e-2


def compressed(folder: Path) -> dict[str, torch.Tensor]:
    """A model in groups of 32 four-bit numbers; returns the weights that these stand for."""
    from compressed_tensors.compressors import ModelCompressor  # pyright: ignore[reportMissingImports]
    from compressed_tensors.quantization import (  # pyright: ignore[reportMissingImports]
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
    )

    model, meant = small(), {}
    args = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=32)
    groups = {"all": QuantizationScheme(targets=["Linear"], weights=args)}
    config = QuantizationConfig(config_groups=groups, ignore=["lm_head"], format="pack-quantized", quantization_status="frozen")
    apply_quantization_config(model, config)
    for name, part in model.named_modules():
        if hasattr(part, "weight_scale"):
            grouped = part.weight.data.unflatten(1, (-1, 32))
            part.weight_scale.data = grouped.abs().amax(-1) / 7
            meant[f"{name}.weight"] = ((grouped / part.weight_scale[..., None]).round() * part.weight_scale[..., None]).flatten(1)
    packer = ModelCompressor.from_pretrained_model(model)
    packer.compress_model(model)
    saved(model, folder)
    packer.update_config(folder)
    return {name: weight.detach() for name, weight in meant.items()}


def test_a_compressed_model_computes_with_what_its_numbers_stand_for(tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors", reason="the package compressed-tensors is not installed")
    meant = compressed(tmp_path / "packed")
    model = load_model(str(tmp_path / "packed"))
    plain = load_model(str(saved(small(), tmp_path / "plain")))
    held = dict(model.plain.named_parameters())
    assert len(meant) == 14
    for name, weight in meant.items():
        torch.testing.assert_close(held[name], weight, atol=1e-6, rtol=0)
    assert (last_logits(model) - last_logits(plain)).abs().max() > 1e-3
    assert (model.shape, model.identity.dtype, model.bridge is not None) == (plain.shape, "float32", True)
    assert sizes_of(str(tmp_path / "packed")) == sizes_of(str(tmp_path / "plain"))
    file = tmp_path / "packed" / "model.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert model.identity.weights_sha256 == hashlib.sha256(f"{file.name} {digest}".encode()).hexdigest()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_model_whose_weights_stay_quantised_is_steered_in_the_type_it_computes_in(bits: int, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="the package bitsandbytes is not installed")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    plain = saved(small(), tmp_path / "plain")
    how = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8, bnb_4bit_compute_dtype=torch.float32)
    saved(AutoModelForCausalLM.from_pretrained(plain, quantization_config=how, dtype=torch.float32, device_map="cpu"), tmp_path / "packed")
    model, known = load_model(str(tmp_path / "packed")), load_model(str(plain))
    assert (model.bridge, model.identity.dtype, model.shape) == (None, "float32", known.shape)
    assert model.identity.weights_sha256 != known.identity.weights_sha256
    found = sizes_of(str(tmp_path / "packed"))
    assert found is not None and found._replace(packed=0, packed_bytes=0) == sizes_of(str(plain)) and found.packed
    before = last_logits(model)
    assert 1e-4 < (before - last_logits(known)).abs().max() < 0.5
    assert torch.equal(last_logits(model, Impulse(0, torch.zeros(64, dtype=torch.float64))), before)
    assert (last_logits(model, Impulse(0, torch.ones(64, dtype=torch.float64))) - before).abs().max() > 1e-2
