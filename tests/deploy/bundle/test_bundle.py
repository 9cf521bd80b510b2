"""The bundle: what is read is what the run holds, equal runs give equal bytes, and what somebody tampered with is refused in one line."""

import io
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy as st

from stir_core.config import config_from
from stir_core.curation import make_edit
from stir_core.deploy.bundle.manifest import BundleManifest
from stir_core.deploy.bundle.reading import is_bundle, read_bundle, read_manifest
from stir_core.deploy.bundle.table import table_rows, table_schema
from stir_core.deploy.bundle.writing import attach, fact_of, manifest_bytes
from stir_core.deploy.export import export
from stir_core.errors import CurationError, DeployError, MismatchError
from stir_core.store.curation import Curation
from stir_core.store.runs import Run
from tests.curated_run import IDENTITY, WHEN, curated_run

BY: dict[str, Any] = {"who": "mara", "when": WHEN}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return curated_run(tmp_path)


@pytest.fixture
def folder(run: Run, tmp_path: Path) -> Path:
    export(run, tmp_path / "bundle")
    return tmp_path / "bundle"


def refused(folder: Path) -> str:
    with pytest.raises(DeployError) as error:
        read_bundle(folder)
    said = str(error.value)
    assert "\n" not in said and len(said) < 400
    return said


def replaced(folder: Path, name: str, data: bytes) -> None:
    """Put other bytes in place of a file, and the manifest right about them: only the content can give it away."""
    manifest = read_manifest(folder)
    (folder / name).write_bytes(data)
    (folder / "manifest.json").write_bytes(manifest_bytes(manifest.model_copy(update={"files": {**manifest.files, name: fact_of(data)}})))


def told(folder: Path, **changes: Any) -> None:
    """Change top-level facts of the manifest, without any check."""
    facts = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(facts | changes))


def test_what_is_read_is_what_the_run_holds(run: Run, folder: Path) -> None:
    bundle, library = read_bundle(folder), run.library()
    np.testing.assert_array_equal(bundle.keys, library.keys)
    np.testing.assert_array_equal(bundle.actions, library.actions)
    apart = {"key_row", "action_row"}
    assert [entry.model_dump(exclude=apart) for entry in bundle.entries] == [entry.model_dump(exclude=apart) for entry in library.entries]
    assert bundle.manifest.stage3.gate == run.config.gate and bundle.config.decode == run.config.decode
    assert bundle.manifest.layers == (3, 5) and bundle.manifest.n_actions == 6
    norms = np.linalg.norm(library.actions[[entry.kind == "corrective" for entry in library.entries]], axis=1)
    assert bundle.manifest.norms.actions.mean == pytest.approx(norms.mean()) and bundle.manifest.norms.actions.n == 6
    assert not bundle.evaluation.evaluated and "stir eval" in str(bundle.evaluation.reason)
    assert "Not evaluated" in (folder / "README.md").read_text()


def test_the_same_run_gives_the_same_bytes_and_another_library_another_digest(run: Run, folder: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "again")
    for name in ("manifest.json", *read_manifest(folder).files):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name
    assert export(run, tmp_path / "all", library="all").bundle.manifest.digest != read_manifest(folder).digest


@pytest.mark.parametrize("kind", ["centred", "point_centred", "whitened"])
def test_retrieval_is_the_runs_own_in_every_key_space(run: Run, tmp_path: Path, kind: str) -> None:
    facts = {**run.facts, "config": config_from({"seed": 7, "basis": {"similarity": kind}}).model_dump(mode="json")}
    run = Run(run.path, facts)
    export(run, tmp_path / "spaced")
    bundle, state = read_bundle(tmp_path / "spaced"), np.random.default_rng(1).normal(size=(3, 16))
    places = sorted({(entry.m, entry.layer) for entry in bundle.entries})
    assert len({layer for _, layer in places}) > 1
    for place in places:
        np.testing.assert_array_equal(bundle.space.apply(place, state), run.key_space().apply(place, state))
    assert max(np.abs(bundle.space.apply(place, state) - state).max() for place in places) > 0.01


def test_only_starred_actions_come_with_their_names_notes_and_null_entries(run: Run, tmp_path: Path) -> None:
    Curation.open(run).add(make_edit("star", ["p0001c"], None, **BY), make_edit("rename", ["p0001c"], "carry", **BY))
    export(run, tmp_path / "starred", only="starred")
    bundle = read_bundle(tmp_path / "starred")
    manifest = bundle.manifest
    assert [entry.id for entry in bundle.entries] == ["p0001c", "p0001n"]
    assert (bundle.origins[0].name, bundle.origins[0].starred) == ("carry", True)
    assert (manifest.provenance.only, manifest.provenance.curation_version) == ("starred", 2)
    np.testing.assert_array_equal(bundle.actions[0], run.action_rows()[1])


def test_a_selection_without_an_action_is_refused(run: Run, tmp_path: Path) -> None:
    Curation.open(run).add(make_edit("tag", ["p0001n"], "only-null", **BY))
    with pytest.raises(DeployError, match="holds no action"):
        export(run, tmp_path / "b", only="tag:only-null")
    with pytest.raises(CurationError, match="tagged so"):
        export(run, tmp_path / "b", only="tag:none")
    with pytest.raises(CurationError, match="within the curated library"):
        export(run, tmp_path / "b", library="all", only="starred")
    assert not (tmp_path / "b").exists()


def test_nothing_but_a_bundle_is_written_over(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    for place in (tmp_path / "mine", run.path):
        with pytest.raises(DeployError, match="nothing there is overwritten"):
            export(run, place)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"
    export(run, folder, library="all")
    assert read_bundle(folder).manifest.provenance.library == "all" and not list(folder.parent.glob(".*"))


@pytest.mark.parametrize("name", ["thesis.txt", ".git/config", "notes/thesis.txt"])
def test_a_bundle_with_a_file_of_the_user_in_it_is_not_replaced(run: Run, folder: Path, name: str) -> None:
    mine = folder / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("years")
    with pytest.raises(DeployError, match=f"holds '{name}', which is not a bundle's"):
        export(run, folder, library="all")
    assert mine.read_text() == "years"


def test_folders_beside_it_are_left_alone_and_an_empty_current_folder_is_a_place(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b.part").mkdir()
    (tmp_path / "b.part" / "thesis.txt").write_text("years")
    export(run, tmp_path / "b")
    assert (tmp_path / "b.part" / "thesis.txt").read_text() == "years"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export(run, Path("."))
    assert read_bundle(tmp_path / "here").manifest.digest == read_bundle(tmp_path / "b").manifest.digest


def test_no_folder_of_this_machine_is_told(run: Run, tmp_path: Path) -> None:
    local = curated_run(tmp_path, "local", model=IDENTITY.model_copy(update={"name": "/home/mara/secret/tiny"}))
    export(local, tmp_path / "b")
    text = (tmp_path / "b" / "manifest.json").read_text() + (tmp_path / "b" / "README.md").read_text()
    assert "mara" not in text and str(tmp_path) not in text
    assert read_manifest(tmp_path / "b").model.name == "tiny" and read_manifest(tmp_path / "b").base_model is None


def test_another_model_is_refused_by_hash(folder: Path) -> None:
    manifest = read_manifest(folder)
    manifest.check_model(IDENTITY.model_copy(update={"name": "elsewhere/tiny"}))
    with pytest.raises(MismatchError, match="weights_sha256 a3a3a3"):
        manifest.check_model(IDENTITY.model_copy(update={"weights_sha256": "00" * 32}))


def test_a_certificate_is_attached_and_leaves_the_digest_alone(folder: Path) -> None:
    before = read_bundle(folder).manifest.digest
    attach(folder, "certificate-runtime.json", b'{"passed": true}\n')
    attach(folder, "certificate-runtime.json", b'{"passed": false}\n')
    assert read_bundle(folder).manifest.digest == before
    assert (folder / "certificate-runtime.json").read_bytes() == b'{"passed": false}\n'
    with pytest.raises(DeployError, match="not a certificate's name"):
        attach(folder, "../certificate-x.json", b"{}")


# ---- hostile input --------------------------------------------------------------------------------------------------------------------


def test_a_name_that_leads_out_of_the_folder(folder: Path) -> None:
    files = json.loads((folder / "manifest.json").read_text())["files"]
    for name in ("../../etc/passwd", "/etc/passwd", "..\\x", "a/b", ".bashrc", "x\ny", "evil.pkl"):
        told(folder, files={**files, name: files["README.md"]})
        assert "no bundle has a file" in refused(folder)


def test_files_that_are_not_named(folder: Path) -> None:
    (folder / "extra.txt").write_text("hello")
    assert "extra.txt is not named in the manifest" in refused(folder)
    (folder / "extra.txt").rename(folder / "model.pkl")
    assert "may hold a pickle" in refused(folder)
    (folder / "model.pkl").unlink()
    (folder / "sub").mkdir()
    assert "sub is not named" in refused(folder)
    (folder / "sub").rmdir()
    (folder / ".gitattributes").write_text("* text\n")
    read_bundle(folder)


def test_a_file_that_is_a_link_a_folder_a_pipe_or_gone(folder: Path, tmp_path: Path) -> None:
    place = folder / "library.safetensors"
    place.rename(tmp_path / "elsewhere")
    assert "library.safetensors is missing" in refused(folder)
    place.symlink_to(tmp_path / "elsewhere")
    assert "symbolic link" in refused(folder)
    place.unlink()
    place.mkdir()
    assert "library.safetensors is not a" in refused(folder)
    place.rmdir()
    os.mkfifo(place)
    assert "not a plain file" in refused(folder)


def test_bytes_that_were_changed_or_cut_off(folder: Path) -> None:
    for name in read_manifest(folder).files:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert f"{name} is not the file that its manifest names" in refused(folder)
        (folder / name).write_bytes(whole[: len(whole) // 2])
        assert "cut off or changed" in refused(folder)
        (folder / name).write_bytes(whole)
    read_bundle(folder)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (struct.pack("<Q", 10 << 30) + b"{}", "10,737,418,240 bytes"),
        (b"\x80\x04\x95pickled", "a pickle"),
        (b"PK\x03\x04" + b"0" * 60, "an archive"),
        (struct.pack("<Q", 4) + b"nope", "not JSON"),
        (struct.pack("<Q", 2) + b"[]", "not a mapping"),
        (struct.pack("<Q", 2) + b"{}", "missing"),
        (b"", "not a safetensors file"),
        (struct.pack("<Q", 400_000) + b"[" * 400_000, "not JSON"),
    ],
)
def test_a_library_that_is_something_else(folder: Path, data: bytes, what: str) -> None:
    replaced(folder, "library.safetensors", data)
    assert what in refused(folder)


def test_tensors_of_another_kind_shape_or_value(folder: Path) -> None:
    rows = st.load((folder / "library.safetensors").read_bytes())
    keys, actions = rows["keys"], rows["actions"]
    for tensors, what in (
        ({"keys": keys.astype(np.float64), "actions": actions}, "keys"),
        ({"keys": keys[:-1], "actions": actions}, "keys"),
        ({"keys": keys[:, :-1], "actions": actions}, "keys"),
        ({"keys": keys, "actions": actions, "extra": keys}, "extra"),
        ({"keys": keys}, "actions"),
        ({"keys": np.where(keys == keys[0, 0], np.float32(np.nan), keys), "actions": actions}, "not finite"),
        ({"keys": keys, "actions": np.where(actions > 1, np.float32(np.inf), actions)}, "not finite"),
        ({"keys": keys, "actions": actions * 2}, "another norm"),
        ({"keys": keys[::-1], "actions": actions}, "another norm"),
    ):
        replaced(folder, "library.safetensors", st.save({name: np.ascontiguousarray(each) for name, each in tensors.items()}))
        assert what in refused(folder)


def test_entries_that_contradict_their_tensors_or_each_other(folder: Path) -> None:
    good = pq.read_table(folder / "actions.parquet")
    rows = good.to_pylist()
    for change, what in (
        ({"id": rows[1]["id"]}, "twice"),
        ({"id": "../../x"}, "not a name"),
        ({"layer": 4}, "layer 4"),
        ({"m": 9}, "control point 9"),
        ({"m": 0}, "control point 0"),
        ({"quality": float("nan")}, "not finite"),
        ({"key_row": 5}, "other rows"),
        ({"kind": "null", "action_row": None, "action_norm": None}, "another norm"),
        ({"kind": "both"}, "is not an entry (kind"),
    ):
        table = pa.Table.from_pylist([rows[0] | change, *rows[1:]], schema=good.schema)
        pq.write_table(table, folder / "changed")
        data = (folder / "changed").read_bytes()
        (folder / "changed").unlink()
        replaced(folder, "actions.parquet", data)
        assert what in refused(folder)


def test_tables_of_other_columns_or_counts(folder: Path, tmp_path: Path) -> None:
    good = pq.read_table(folder / "actions.parquet")
    for table, what in ((good.slice(1), "11 rows"), (good.drop(["note"]), "note"), (good.append_column("evil", good["id"]), "evil")):
        pq.write_table(table, tmp_path / "t")
        replaced(folder, "actions.parquet", (tmp_path / "t").read_bytes())
        assert what in refused(folder)
    replaced(folder, "actions.parquet", b"PAR1" + b"\0" * 40)
    assert "not a whole Parquet file" in refused(folder)


def test_a_table_that_would_unpack_to_gigabytes_is_refused_before_it_does(tmp_path: Path) -> None:
    n, note = 500, "x" * (4 << 20)
    plain = {pa.string(): "a", pa.bool_(): True}
    columns = {
        field.name: pa.array([[] if pa.types.is_list(field.type) else plain.get(field.type, 1)] * n, field.type) for field in table_schema()
    }
    columns["note"] = pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int32()), pa.array([note]))
    columns["tags"] = pa.array([["b"]] * n, pa.list_(pa.string()))
    for column, value in (("note", None), ("tags", [note])):
        table = {**columns, "note": columns["note"] if column == "note" else pa.array(["a"] * n)}
        if value is not None:
            table[column] = pa.ListArray.from_arrays(pa.array(range(n + 1), pa.int32()), columns["note"])
        out = io.BytesIO()
        pq.write_table(pa.table(table), out, compression="zstd", store_schema=False, dictionary_pagesize_limit=1 << 30)
        assert len(out.getvalue()) < 10_000
        with pytest.raises(DeployError, match=r"would unpack to 2,00. MB"):
            table_rows(tmp_path / "actions.parquet", out.getvalue(), n)
    out = io.BytesIO()
    pq.write_table(
        pa.table({**columns, "note": pa.array(["a"] * n)}), out, use_dictionary=False, column_encoding={"note": "DELTA_BYTE_ARRAY"}
    )
    with pytest.raises(DeployError, match="encoding DELTA_BYTE_ARRAY"):
        table_rows(tmp_path / "actions.parquet", out.getvalue(), n)


def test_manifests_that_cannot_be(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "manifest.json").read_bytes()
    model = json.loads(whole)["model"]
    for changes, what in (
        ({"schema_version": 2}, "schema version 2, this program reads version 1: update stir-workbench"),
        ({"schema_version": 0}, "export the run again"),
        ({"format": "pt"}, "name a folder that `stir export` made"),
        ({"n_entries": 10**12}, "n_entries"),
        ({"n_entries": 3}, "contradicts itself"),
        ({"n_actions": 13}, "contradicts itself"),
        ({"layers": [3, 7]}, "6 blocks"),
        ({"layers": []}, "6 blocks"),
        ({"model": {**model, "d_model": 10**9}}, "d_model 1000000000 is out of range"),
        ({"model": {**model, "hook": "blocks.{layer}.attn"}}, "cannot be steered"),
        ({"model": {**model, "processing": "folded"}}, "model.processing"),
        ({"surprise": 1}, "surprise"),
    ):
        (folder / "manifest.json").write_bytes(whole)
        told(folder, **changes)
        assert what in refused(folder)
    for data in (b"{", b"[" * 100_000, b"\xff\xfe", whole + b" " * (5 << 20)):
        (folder / "manifest.json").write_bytes(data)
        assert "manifest.json" in refused(folder)
    (archive := tmp_path / "lib.zip").write_bytes(b"PK")
    with pytest.raises(DeployError, match=r"lib\.zip is a file, not a bundle's folder: unpack it first"):
        read_bundle(archive)
    with pytest.raises(DeployError, match="there is no bundle"):
        read_bundle(folder / "nowhere")
    assert is_bundle(folder)


def test_a_manifest_survives_its_own_reading(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert BundleManifest.model_validate_json(manifest_bytes(manifest)) == manifest
