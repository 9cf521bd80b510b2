"""The published layout: there and back byte for byte, read as the published code writes it, and nothing of it ever unpickled."""

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stir_core.deploy.bundle.reading import Bundle, read_bundle
from stir_core.deploy.bundle.writing import bundle_files, save_bundle
from stir_core.deploy.export import export, export_files, make_bundle
from stir_core.deploy.targets.published import bundled, is_published, read_published, unit_keys
from stir_core.errors import DeployError
from tests.curated_run import curated_run


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(curated_run(tmp_path))


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    export(bundle, tmp_path / "published", to="published")
    return tmp_path / "published"


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "memory" / "entries.jsonl").read_text().splitlines()]


def rewritten(folder: Path, i: int, **changes: Any) -> None:
    rows = lines(folder)
    rows[i] |= changes
    (folder / "memory" / "entries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def refused(folder: Path) -> str:
    with pytest.raises(DeployError) as error:
        read_published(folder)
    said = str(error.value)
    assert "\n" not in said and len(said) < 500
    return said


def test_there_and_back_every_byte_is_the_same(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    save_bundle(tmp_path / "back", bundle_files(bundled(read_published(folder), folder, bundle)))
    back = read_bundle(tmp_path / "back")
    assert back.entries == bundle.entries
    np.testing.assert_array_equal(back.keys, bundle.keys)
    np.testing.assert_array_equal(back.actions, bundle.actions)
    again = export_files(back, "published")
    for name, data in export_files(bundle, "published").items():
        if name != "stir-export.json":  # names the bundle that it was made from
            assert again[name] == data, name
    assert back.manifest.provenance.library == "published" and "not checked" in back.manifest.notes[-1]
    assert not back.evaluation.evaluated


def test_it_is_what_the_published_reader_reads(bundle: Bundle, folder: Path) -> None:
    """Keys of norm 1 in float32, one line per row, a vector for each entry that steers and none for null ones."""
    keys = np.load(folder / "memory" / "keys.npy", allow_pickle=False)
    assert keys.dtype == np.float32 and keys.shape == bundle.keys.shape
    np.testing.assert_allclose(np.linalg.norm(keys, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(keys, bundle.keys / np.linalg.norm(bundle.keys, axis=1, keepdims=True), atol=1e-6)
    assert (folder / "memory" / "meta.txt").read_text() == "N=12 H=16\n"
    for i, row in enumerate(lines(folder)):
        entry = bundle.entries[i]
        assert (row["tool_name"], row["control_point_m"], row["layer"], row["quality"]) == (entry.id, entry.m, entry.layer, entry.quality)
        assert row["entry_type"] == ("wrong" if row["vector_path"] else "right")
        if row["vector_path"]:
            vector = torch.load(folder / row["vector_path"], weights_only=True)
            np.testing.assert_array_equal(vector.numpy(), bundle.actions[i])


def as_published(root: Path, bundle: Bundle) -> Path:
    """The same library as the published code writes it: arrays instead of tensors, its own names and paths, no keys beside."""
    (root / "memory").mkdir(parents=True)
    (root / "library" / "vectors").mkdir(parents=True)
    np.save(root / "memory" / "keys.npy", unit_keys(bundle.keys))
    rows = []
    for i, entry in enumerate(bundle.entries):
        steers = entry.kind == "corrective"
        name = f"pair_{entry.pair:05d}_L{entry.layer}_m{entry.m:02d}_delta.pt"
        if steers:
            torch.save(np.asarray(bundle.actions[i], np.float32), root / "library" / "vectors" / name)
        rows.append({
            "lib_id": i, "tool_id": i, "tool_name": f"pair_{entry.pair:05d}_{'wrong' if steers else 'right'}",
            "entry_type": "wrong" if steers else "right", "key_path": f"outputs/x/library/keys/{i}.pt",
            "vector_path": f"outputs/x/library/vectors/{name}" if steers else None, "layer": entry.layer, "control_point_m": entry.m,
            "quality": entry.quality, "reward_gap": entry.quality, "r_pos_mean": entry.reward_pos, "r_neg_mean": entry.reward_neg,
            "n_pos": 2, "n_neg": 3, "pair_id": entry.pair,
        })  # fmt: skip
    (root / "memory" / "entries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_a_library_of_the_published_code_is_read_and_says_what_it_does_not_know(bundle: Bundle, tmp_path: Path) -> None:
    found = read_published(as_published(tmp_path / "theirs", bundle))
    np.testing.assert_array_equal(found.library.actions, bundle.actions)
    np.testing.assert_allclose(found.library.keys, unit_keys(bundle.keys), atol=1e-6)
    assert [entry.kind for entry in found.library.entries] == [entry.kind for entry in bundle.entries]
    assert found.library.entries[0].id == "pair_00000_wrong"
    assert "not known" in found.notes[0] and "keys have norm 1" in found.notes[1]
    assert is_published(tmp_path / "theirs") and not is_published(tmp_path)


def test_another_model_is_refused(bundle: Bundle, folder: Path) -> None:
    found, manifest = read_published(folder), bundle.manifest
    for changes, what in (({"d_model": 8}, "vectors of width 16"), ({"n_layers": 4}, "actions of block 5")):
        like = bundle._replace(manifest=manifest.model_copy(update={"model": manifest.model.model_copy(update=changes)}))
        with pytest.raises(DeployError, match=what):
            bundled(found, folder, like)


def test_a_key_space_that_the_published_controller_does_not_know_is_refused(bundle: Bundle) -> None:
    stage3 = bundle.manifest.stage3.model_copy(update={"similarity": "centred"})
    with pytest.raises(DeployError, match="plain cosine only"):
        export_files(bundle._replace(manifest=bundle.manifest.model_copy(update={"stage3": stage3})), "published")


# ---- hostile input --------------------------------------------------------------------------------------------------------------------


class Harm:
    """Would make a folder when it is unpickled."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


def test_nothing_is_unpickled(folder: Path, tmp_path: Path) -> None:
    vector = folder / lines(folder)[0]["vector_path"]
    torch.save(Harm(tmp_path / "harmed"), vector)
    assert "is not a plain tensor" in refused(folder)
    np.save(folder / "memory" / "keys.npy", np.array([Harm(tmp_path / "harmed")]), allow_pickle=True)
    assert "objects would be pickles" in refused(folder)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("named", ["../../secret.pt", "/etc/passwd", "x.txt", "a\\..\\b.exe", ".pt", "x" * 300 + ".pt"])
def test_paths_are_never_followed(folder: Path, tmp_path: Path, named: str) -> None:
    torch.save(torch.zeros(16), tmp_path / "secret.pt")
    rewritten(folder, 0, vector_path=named)
    assert "is missing" in refused(folder) or "is not the name of a vector file" in refused(folder)


class Endless:
    """An array of 10 terabytes when it is unpickled."""

    def __reduce__(self) -> Any:
        return np.zeros(0).__reduce__()[0], (np.ndarray, (10**13,), b"b")


def test_vectors_that_are_something_else(folder: Path, tmp_path: Path) -> None:
    vector = folder / lines(folder)[0]["vector_path"]
    whole = vector.read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"0" * 1_000_000)
    for data, what in (
        (whole[:-40], "not a tensor file"),
        (b"\x80\x02c", "not a tensor file"),
        (packed.getvalue(), "is packed"),
        (b"0" * (3 << 20), "more than the"),
    ):
        vector.write_bytes(data)
        assert what in refused(folder)
    for tensor, what in (
        (torch.zeros(15), "expected 16"),
        (torch.full((16,), float("nan")), "not finite"),
        (torch.zeros(16, dtype=torch.int64), "not numbers"),
        ({"a": torch.zeros(16)}, "not numbers"),
        (torch.zeros(1).expand(10**9), "would unpack to 1,000,000,000 numbers"),
        (Endless(), "not a plain tensor"),
        (torch.zeros(16, device="meta"), "not numbers"),
        (torch.zeros(16).to_sparse(), "not numbers"),
    ):
        torch.save(tensor, vector)
        assert what in refused(folder)
    kept = torch.load(io.BytesIO(whole))
    negated = torch.complex(kept, -kept).conj().imag  # a view that torch negates when it is read
    assert negated.is_neg()
    for same in (kept.double(), negated, torch.nn.Parameter(kept)):
        torch.save(same, vector)
        assert np.array_equal(read_published(folder).library.actions[0], kept.numpy())
    vector.unlink()
    vector.symlink_to(tmp_path / "elsewhere")
    assert "links are not followed" in refused(folder)


def npy(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": shape})
    return out.getvalue()


def test_keys_that_are_something_else(folder: Path) -> None:
    place = folder / "memory" / "keys.npy"
    for data, what in (
        (npy((10**6, 10**6)), "up to"),
        (npy((100_000, 60_000)), "does not hold"),
        (npy((12, 16)) + b"\0" * 100, "cut off"),
        (npy((12, 16)) + b"\0" * (12 * 16 * 4), "norm 1"),
        (npy((12,)), "expected [n, d]"),
        (npy((12, 16), "<i4") + b"\0" * 768, "not floating-point"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "not a plain array"),
        (b"\x80\x04pickle", "not a plain array"),
    ):
        place.write_bytes(data)
        assert what in refused(folder)


def test_rows_that_are_something_else(folder: Path) -> None:
    good = (folder / "memory" / "entries.jsonl").read_text()
    for changes, what in (
        ({"tool_name": "../x"}, "tool_name"),
        ({"tool_name": lines(folder)[1]["tool_name"]}, "twice"),
        ({"layer": -1}, "layer"),
        ({"quality": float("nan")}, "quality"),
        ({"entry_type": "right"}, "contradict each other"),
        ({"key_path": lines(folder)[1]["key_path"]}, "is not the key that keys.npy holds"),
    ):
        rewritten(folder, 0, **changes)
        assert what in refused(folder)
        (folder / "memory" / "entries.jsonl").write_text(good)
    (folder / "memory" / "entries.jsonl").write_text(good + good)
    assert "24 lines, keys.npy has 12 rows" in refused(folder)
