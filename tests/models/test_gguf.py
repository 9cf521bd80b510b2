"""A GGUF file is dequantised tensor by tensor to what transformers makes of it as a whole."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from safetensors import SafetensorError

from stir_core.errors import ModelError, StoreError
from stir_core.models import gguf
from stir_core.models.loading import load_model
from stir_core.models.weights import read_weights

WIDTH, HEADS, INNER, WORDS = 64, 2, 96, 40


def written(file: Path, architecture: str, *, without: str = "") -> Path:
    """A small random model with two blocks, its matrices in Q8_0."""
    rng, writer = np.random.default_rng(0), GGUFWriter(file, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(2)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(WORDS)
    matrices = {"token_embd": (WORDS, WIDTH)}
    vectors = {"output_norm.weight": WIDTH}
    for block in ("blk.0.", "blk.1."):
        matrices |= {f"{block}attn_{part}": (WIDTH // HEADS if part in "kv" else WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
        matrices |= {f"{block}ffn_{part}": (INNER, WIDTH) for part in ("gate", "up")} | {f"{block}ffn_down": (WIDTH, INNER)}
        vectors |= {f"{block}{part}_norm.weight": WIDTH for part in ("attn", "ffn")}
        if architecture == "qwen2":
            vectors |= {f"{block}attn_{part}.bias": WIDTH if part == "q" else WIDTH // HEADS for part in "qkv"}
    for name, shape in matrices.items():
        if name != without:
            packed = quants.quantize(rng.standard_normal(shape).astype(np.float32), GGMLQuantizationType.Q8_0)
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=GGMLQuantizationType.Q8_0)
    for name, n in vectors.items():
        writer.add_tensor(name, rng.standard_normal(n).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_a_file_is_unpacked_bit_for_bit_as_transformers_reads_it(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "SHARD", 40_000)
    file = written(tmp_path / "small.gguf", architecture)
    assert gguf.unpack(file, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 3
    theirs, ours = (
        read_weights("theirs", tmp_path, torch.float32, gguf_file=file.name),
        read_weights("ours", tmp_path / "out", torch.float32),
    )
    known = theirs.state_dict()
    assert ours.state_dict().keys() == known.keys()
    assert all(torch.equal(weight, known[name]) for name, weight in ours.state_dict().items())
    assert known["model.layers.1.self_attn.q_proj.weight"].std() > 0.5
    settings = [model.config.to_dict() for model in (ours, theirs)]
    for each in settings:
        for key in ("_name_or_path", "architectures", "quantization_config"):
            each.pop(key, None)
    assert settings[0] == settings[1]


def test_a_file_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "small.gguf", "qwen2", without="blk.1.attn_v")
    with pytest.raises(ModelError, match=r"the tensor model.layers.1.self_attn.v_proj.weight is missing"):
        gguf.unpack(file, tmp_path / "out")


def test_an_architecture_whose_tensors_are_put_together_is_left(tmp_path: Path) -> None:
    assert not gguf.unpack(written(tmp_path / "small.gguf", "qwen2moe"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(gguf, "save_file", full)
    monkeypatch.setenv("STIR_CACHE", str(tmp_path / "cache"))
    file = written(tmp_path / "small.gguf", "llama")
    with pytest.raises(StoreError, match=r"cannot be written \(.*No space left on device.*\): free some space"):
        load_model(str(file))
    assert not [path for path in (tmp_path / "cache" / "models").rglob("*") if path.suffix != ".lock"]
