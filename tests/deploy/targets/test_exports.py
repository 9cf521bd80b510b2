"""What other software is given: control vectors that read back block by block, and steering specs in the shape that EasySteer publishes."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import gguf
import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field

from stir_core.deploy.bundle.reading import Bundle
from stir_core.deploy.export import export, export_files, make_bundle
from stir_core.deploy.targets import file_names
from stir_core.deploy.targets.gguf import mean_actions
from stir_core.errors import DeployError
from stir_core.records import Entry
from stir_core.store.runs import Run
from tests.curated_run import curated_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return curated_run(tmp_path)


@pytest.fixture
def bundle(run: Run) -> Bundle:
    return make_bundle(run)


def fields(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def directions(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}


def test_each_action_is_a_control_vector_of_its_own_block(bundle: Bundle, run: Run, tmp_path: Path) -> None:
    export(bundle, tmp_path / "gguf", to="gguf")
    index = json.loads((tmp_path / "gguf" / "stir-export.json").read_text())
    assert len(index["actions"]) == bundle.manifest.n_actions
    raw = {entry.id: run.action_rows()[entry.action_row] for entry in run.entries() if entry.action_row is not None}
    layers = {entry.id: entry.layer for entry in run.entries()}
    for action in index["actions"]:
        file = tmp_path / "gguf" / action["file"]
        (name,) = found = directions(file)
        assert name == f"direction.{layers[action['entry']]}" and found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], raw[action["entry"]])
        facts = fields(file)
        assert facts["general.architecture"] == "controlvector" and facts["controlvector.layer_count"] == 1
        assert facts["controlvector.model_hint"] == "llama" and facts["stir.entry"] == action["entry"]
        quality = {entry.id: entry.quality for entry in run.entries()}[action["entry"]]
        assert (
            action["scale"] == pytest.approx(run.config.gate.k_scale * run.config.gate.beta * quality) == pytest.approx(facts["stir.scale"])
        )


def test_the_mean_has_each_layers_mean(bundle: Bundle, tmp_path: Path) -> None:
    export(bundle, tmp_path / "gguf", to="gguf")
    found = directions(tmp_path / "gguf" / "mean.gguf")
    assert set(found) == {"direction.3", "direction.5"}
    own = [i for i, entry in enumerate(bundle.entries) if entry.kind == "corrective" and entry.layer == 3]
    np.testing.assert_allclose(found["direction.3"], bundle.actions[own].mean(axis=0), rtol=1e-6)


def test_equal_bundles_give_equal_files(bundle: Bundle) -> None:
    assert export_files(bundle, "gguf") == export_files(bundle, "gguf")


def moved(bundle: Bundle, layer: int) -> Bundle:
    entries: tuple[Entry, ...] = tuple(entry.model_copy(update={"layer": layer}) for entry in bundle.entries)
    return bundle._replace(library=bundle.library._replace(entries=entries))


def test_block_0_is_refused_by_llama_cpp_and_not_by_easysteer(bundle: Bundle) -> None:
    with pytest.raises(DeployError, match=r"acts on the output of block 0, .*cannot express"):
        export_files(moved(bundle, 0), "gguf")
    assert export_files(moved(bundle, 1), "gguf")
    assert export_files(moved(bundle, 0), "easysteer")


class Tensor(BaseModel):
    model_config = ConfigDict(extra="forbid")
    shape: list[int]
    data: str


class Wire(BaseModel):
    """A payload as EasySteer 0.29.0 documents it: all five keys, nothing else."""

    model_config = ConfigDict(extra="forbid")
    version: Literal[1]
    kind: Literal["direction"]
    tensors: dict[str, Tensor]
    extra: dict[str, Any]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Apply(BaseModel):
    """The where-clause of 0.29.0; ``phases`` is gone."""

    model_config = ConfigDict(extra="forbid")
    prompt: Literal["all"] | None = None
    generation: Literal["all"] | None = None
    prompt_positions: list[int] | None = None


class Vector(BaseModel):
    model_config = ConfigDict(extra="forbid")
    data: Wire
    algorithm: Literal["direct"]
    scale: float
    layers: Annotated[list[int], Field(min_length=1)]
    normalize: bool
    apply: Apply
    name: str


class Spec(BaseModel):
    model_config = ConfigDict(extra="forbid")
    vectors: Annotated[list[Vector], Field(min_length=1)]
    conflict: Literal["priority", "sequential", "error"]


def test_steering_specs_have_the_published_shape_and_the_actions_numbers(bundle: Bundle) -> None:
    files = export_files(bundle, "easysteer")
    index = json.loads(files["stir-export.json"])
    assert "0.29.0" in index["schema"]
    rows = {entry.id: (entry, bundle.actions[i]) for i, entry in enumerate(bundle.entries)}
    for action in index["actions"]:
        (vector,) = Spec.model_validate_json(files[action["file"]]).vectors
        entry, row = rows[vector.name]
        assert vector.layers == [entry.layer] and vector.apply.prompt_positions == [-1] and vector.apply.generation is None
        gate = bundle.manifest.stage3.gate
        assert vector.scale == pytest.approx(gate.k_scale * gate.beta * entry.quality)
        (name,) = vector.data.tensors
        assert name == f"layer.{entry.layer}"
        np.testing.assert_array_equal(np.frombuffer(base64.b64decode(vector.data.tensors[name].data), "<f4"), row)
    (mean,) = Spec.model_validate_json(files["mean.json"]).vectors
    assert (mean.apply.prompt, mean.apply.generation, mean.layers) == ("all", "all", [3, 5])


def test_a_payloads_digest_is_the_one_that_the_engine_computes(bundle: Bundle) -> None:
    """Kind and version, then name, shape and bytes of each tensor in order of their names."""
    wire = Spec.model_validate_json(export_files(bundle, "easysteer")["mean.json"]).vectors[0].data
    means = mean_actions(bundle)
    whole = b"direction:1" + b"".join(f"layer.{layer}(16,)".encode() + means[layer].tobytes() for layer in (3, 5))
    assert wire.sha256 == hashlib.sha256(whole).hexdigest()


def test_file_names_are_plain_and_all_different() -> None:
    names = file_names(("a:b", "a+b", "../x", "p0001c"))
    assert list(names.values()) == ["a_b", "a_b-2", "___x", "p0001c"]


def test_an_export_replaces_an_export_and_nothing_else(bundle: Bundle, tmp_path: Path) -> None:
    export(bundle, tmp_path / "out", to="gguf")
    export(bundle, tmp_path / "out", to="easysteer")
    assert not (tmp_path / "out" / "mean.gguf").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(DeployError, match="nothing there is overwritten"):
        export(bundle, tmp_path / "mine", to="gguf")
    for target in ("gguf", "easysteer", "published"):
        folder = tmp_path / target
        export(bundle, folder, to=target)
        export(bundle, folder, to=target)
        (folder / "library").mkdir(exist_ok=True)
        (folder / "library" / "mine.pt").write_text("years")
        with pytest.raises(DeployError, match=r"holds 'library/mine.pt', which is not an export's"):
            export(bundle, folder, to=target)
        assert (folder / "library" / "mine.pt").read_text() == "years"


@pytest.mark.parametrize("index", ["", "[1]", '{"files": 3}', '{"files": [{}]}', "[" * 100_000])
def test_an_export_whose_index_is_damaged_is_kept(bundle: Bundle, tmp_path: Path, index: str) -> None:
    export(bundle, tmp_path / "out", to="gguf")
    (tmp_path / "out" / "stir-export.json").write_text(index)
    with pytest.raises(DeployError, match="which is not an export's"):
        export(bundle, tmp_path / "out", to="gguf")
    assert (tmp_path / "out" / "mean.gguf").is_file()
