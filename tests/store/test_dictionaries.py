"""Dictionaries in safetensors files: names, orientation, numeric types, and refusals in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stir_core.errors import DataError, StirError, StoreError
from stir_core.store.dictionaries import dictionaries_in, read_dictionary

ROWS = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
UNIT = (ROWS / ROWS.norm(dim=1, keepdim=True)).numpy()


@pytest.mark.parametrize(
    ("tensors", "asked", "name"),
    [
        ({"W_dec": ROWS, "W_enc": ROWS.T.contiguous()}, None, "W_dec"),
        ({"decoder.weight": ROWS.T.contiguous(), "encoder.weight": ROWS}, None, "decoder.weight"),
        ({"mine": ROWS, "W_dec": ROWS + 1}, "mine", "mine"),
        ({"W_dec": 5 * ROWS.double()}, None, "W_dec"),
    ],
)
def test_a_decoder_is_found_and_turned(tmp_path: Path, tensors: dict, asked: str | None, name: str) -> None:
    save_file(tensors, tmp_path / "d.safetensors")
    found, rows = read_dictionary(tmp_path / "d.safetensors", columns=6, layer=3, tensor=asked)
    assert (found, rows.dtype) == (name, np.float32)
    np.testing.assert_allclose(rows, UNIT, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({"W_dec": ROWS.to(dtype)}, tmp_path / "d.safetensors")
    same = ROWS.to(dtype).float()
    np.testing.assert_allclose(
        read_dictionary(tmp_path / "d.safetensors", columns=6, layer=0)[1], same / same.norm(dim=1, keepdim=True), atol=1e-6
    )


def test_a_square_tensor_is_turned_only_as_a_linear_layer_and_zeros_stay(tmp_path: Path) -> None:
    square = ROWS[:6].clone()
    square[2] = 0
    save_file({"W_dec": square, "decoder.weight": square.clone()}, tmp_path / "d.safetensors")
    own, turned = (read_dictionary(tmp_path / "d.safetensors", columns=6, layer=0, tensor=name)[1] for name in ("W_dec", "decoder.weight"))
    assert not own[2].any()
    assert np.isfinite(own).all()
    np.testing.assert_allclose(turned, (square.T / square.T.norm(dim=1, keepdim=True)).numpy(), atol=1e-6)


def test_what_is_no_dictionary_of_the_stream_is_refused(tmp_path: Path) -> None:
    def refused(**asked: Any) -> str:
        with pytest.raises(StirError) as error:
            read_dictionary(tmp_path / asked.pop("file", "d.safetensors"), **dict[str, Any](columns=6, layer=3) | asked)
        assert isinstance(error.value, StoreError | DataError)
        assert "\n" not in str(error.value)
        return str(error.value)

    odd = {"ids": torch.arange(12).reshape(2, 6), "none": torch.zeros(0, 6), "zeros": torch.zeros(3, 6), "huge": ROWS * 1e25}
    save_file({"W_dec": ROWS, "other": torch.full((4, 6), torch.nan)} | odd, tmp_path / "d.safetensors")
    assert "expected floats [features, 7]" in refused(columns=7)
    assert 'no tensor "absent", only W_dec' in refused(tensor="absent")
    assert "not finite" in refused(tensor="other")
    assert "I64 [2, 6]" in refused(tensor="ids")
    assert "[0, 6] and holds no direction" in refused(tensor="none") and "[3, 6] and holds no direction" in refused(tensor="zeros")
    assert "above 1e19" in refused(tensor="huge")
    assert "does not exist" in refused(file="absent.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    assert "not a whole safetensors file" in refused(file="broken.safetensors")
    (tmp_path / "cfg.json").write_text('{"hook_name": "blocks.5.hook_resid_post"}')
    assert "says layer 5, the action was mined at layer 3" in refused()
    assert len(read_dictionary(tmp_path / "d.safetensors", columns=6, layer=5)[1]) == len(ROWS)
    (tmp_path / "cfg.json").write_text('{"hook_layer": 5, "hook_name": "blocks.5.hook_resid_pre"}')
    assert "the input of layer 5, which is the output of layer 4, the action was mined at layer 5" in refused(layer=5)
    assert len(read_dictionary(tmp_path / "d.safetensors", columns=6, layer=4)[1]) == len(ROWS)


def test_a_folder_offers_its_dictionaries_of_this_width(tmp_path: Path) -> None:
    (tmp_path / "layer_3").mkdir()
    for name, tensors in (("layer_3/sae", {"W_dec": ROWS}), ("other", {"W_dec": ROWS[:, :5].clone()}), ("model", {"lm_head.weight": ROWS})):
        save_file(tensors, tmp_path / f"{name}.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    assert dictionaries_in(tmp_path, 6) == [tmp_path / "layer_3" / "sae.safetensors"]
    assert dictionaries_in(tmp_path / "absent", 6) == []
