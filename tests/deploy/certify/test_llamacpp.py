"""llama.cpp moves logits as we do under an exported vector, and does not under another one; its weights are unpacked without loss."""

import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from stir_core.deploy.certify.llamacpp import LlamaCpp, effects, float32_copy, our_changes, quantised, read_directions
from stir_core.deploy.certify.vectors import certify_vectors
from stir_core.deploy.export import make_bundle
from stir_core.deploy.targets.gguf import MEAN, control_vectors
from stir_core.errors import DeployError
from stir_core.models.catalogue import EMBEDDED, resolve
from stir_core.store.runs import Run
from stir_core.tasks import load_problems


def write(path: Path, tensors: dict[str, np.ndarray], kind: gguf.GGMLQuantizationType | None = None) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 3)
    writer.add_uint32("general.file_type", 7)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    for name, data in tensors.items():
        packed = data if kind is None else gguf.quantize(data, kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_weights_are_unpacked_and_facts_are_kept(tmp_path):
    weights = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    packed = write(tmp_path / "packed.gguf", {"w": weights}, gguf.GGMLQuantizationType.Q8_0)
    assert quantised(packed)
    with float32_copy(packed) as unpacked:
        assert not quantised(unpacked)
        found = gguf.GGUFReader(unpacked)
        (tensor,) = found.tensors
        np.testing.assert_allclose(tensor.data, weights, atol=0.02)
        assert not np.array_equal(tensor.data, weights)  # rounded once, when it was packed
        assert {"llama.block_count": 3, "general.file_type": 0, "tokenizer.ggml.tokens": ["a", "b"]}.items() <= {
            name: field.contents() for name, field in found.fields.items()
        }.items()
    assert not unpacked.exists()


def test_directions_are_read_and_other_tensors_refused(tmp_path):
    vector = np.arange(4, dtype=np.float32)
    assert {2: vector.tolist()} == {
        k: v.tolist() for k, v in read_directions(write(tmp_path / "v", {"direction.2": vector}).read_bytes()).items()
    }
    for name in ("direction.0", "direction.x", "weights.1"):
        with pytest.raises(DeployError, match=name):
            read_directions(write(tmp_path / "v", {name: vector}).read_bytes())


def test_without_the_package_the_remedy_is_named(monkeypatch, tmp_path, tiny):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(DeployError, match=r"llama-cpp-python cannot be imported .*stir-workbench\[llamacpp\]"):
        LlamaCpp(tmp_path / "m.gguf", n_ctx=8)
    with pytest.raises(DeployError, match="cannot be imported"):  # before the model, which is another one, computes anything
        certify_vectors(make_bundle(Run.open("smollm2")), tiny, tmp_path / "m.gguf", load_problems("arithmetic", "eval", n=1))


@pytest.mark.model
@pytest.mark.slow
def test_the_embedded_library_moves_llama_cpp_as_it_moves_us(smollm2):
    pytest.importorskip("llama_cpp", reason="needs llama.cpp: pip install -c constraints.txt -e '.[llamacpp]' (a C++ compiler)")
    bundle = make_bundle(Run.open("smollm2"))
    problems = load_problems(bundle.manifest.stage3.task.name, "eval", n=2)
    source = resolve(EMBEDDED).path
    assert source is not None
    made = certify_vectors(bundle, smollm2, source, problems, actions=1)
    assert made.passed and made.target == "llamacpp" and made.injected == 4
    assert made.vectors[0].file == MEAN
    assert all(vector.correlation > 0.999 and vector.spread > 0 for vector in made.vectors)
    assert all(vector.as_it_is is not None and 0.5 < vector.as_it_is < vector.correlation for vector in made.vectors)
    # the same vector one block later is another intervention, and it shows
    ids = [smollm2.chat_ids(problems[0].question)]
    vectors = {MEAN: read_directions(control_vectors(bundle)[MEAN])}
    (layer, vector) = next(iter(vectors[MEAN].items()))
    ours = our_changes(smollm2, ids, vectors, {MEAN: 1.0})
    with LlamaCpp(source, n_ctx=512) as other:
        (moved,) = effects(other, ids, {MEAN: {layer - 8: vector}}, {MEAN: 1.0}, ours)
        assert moved.correlation < 0.9
        with pytest.raises(DeployError, match=r"direction.99"):
            other.steer({99: vector}, 1.0)
