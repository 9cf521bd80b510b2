"""A library before it is written: what is shown is what is written, an archive repeats, what a target cannot hold is said."""

import io
import zipfile
from pathlib import Path

import pytest

from stir_core.curation import make_edit
from stir_core.deploy.bundle.card import card_text
from stir_core.deploy.bundle.reading import Bundle, read_bundle
from stir_core.deploy.export import TARGETS, archive, export, export_files, make_bundle, targets_for
from stir_core.errors import CurationError, DeployError
from stir_core.store.curation import Curation
from stir_core.store.runs import Run
from tests.curated_run import WHEN, curated_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return curated_run(tmp_path)


def in_folder(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_is_shown_is_what_is_written_and_what_the_archive_holds(run: Run, tmp_path: Path) -> None:
    made = make_bundle(run)
    assert [of.name for of in targets_for(made)] == list(TARGETS)
    for target, of in zip(TARGETS, targets_for(made), strict=True):
        files = export_files(made, target)
        assert of.refusal is None and of.title and of.kept and of.lost
        assert export(made, tmp_path / target, to=target).files == files == in_folder(tmp_path / target)
        data = archive(f"it-{target}", files)
        assert data == archive(f"it-{target}", dict(reversed(files.items())))
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            assert {name: packed.read(name) for name in packed.namelist()} == {f"it-{target}/{name}": files[name] for name in files}
            packed.extractall(tmp_path / "unpacked")
    export(run, tmp_path / "as the command writes it")
    assert in_folder(tmp_path / "as the command writes it") == export_files(made, "bundle")
    assert read_bundle(tmp_path / "unpacked" / "it-bundle").manifest == made.manifest


def test_what_a_target_cannot_hold_is_said_before_and_the_others_still_can(run: Run) -> None:
    bundle = make_bundle(run)
    first = bundle.library._replace(entries=tuple(entry.model_copy(update={"layer": 0}) for entry in bundle.entries))
    centred = bundle.manifest.model_copy(update={"stage3": bundle.manifest.stage3.model_copy(update={"similarity": "centred"})})
    cases: tuple[tuple[Bundle, str, str], ...] = (
        (bundle._replace(library=first), "gguf", "block 0"),
        (bundle._replace(manifest=centred), "published", "cosine"),
    )
    for changed, refused, word in cases:
        said = {target.name: target.refusal for target in targets_for(changed)}
        assert word in (said.pop(refused) or "") and not any(said.values())
        with pytest.raises(DeployError, match=word):
            export_files(changed, refused)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../x", "a b", "a\\b", "a//b", ".hidden", "ü"])
def test_an_archive_takes_plain_paths_only(name: str) -> None:
    with pytest.raises(DeployError, match="cannot be a path"):
        archive("it", {name: b""})


def test_entries_chosen_by_id_come_with_their_null_entries(run: Run) -> None:
    Curation.open(run).add(make_edit("exclude", ["p0002c"], who="a", when=WHEN))
    made = make_bundle(run, only="ids:p0003c,p0001c")
    assert {entry.id for entry in made.entries} == {"p0001c", "p0001n", "p0003c", "p0003n"}
    assert made.manifest.provenance.only == "ids:p0003c,p0001c" and "only ids:p0003c,p0001c" in card_text(made.manifest, made.evaluation)
    for only, word in (("ids:p0001c,p0002c", "'p0002c' is not an entry"), ("ids:", "chooses no entries"), ("p0001c", "chooses no entries")):
        with pytest.raises(CurationError, match=word):
            make_bundle(run, only=only)
    many = make_bundle(curated_run(run.path.parent, "many", pairs=10, picked=20), only="ids:" + ",".join(f"p{i:04d}c" for i in range(8)))
    assert "only 8 entries by id" in export_files(many, "bundle")["README.md"].decode()


def test_what_is_no_choice_is_refused_in_one_line(run: Run, tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="'zero' cannot be exported: take one of curated, basis, all"):
        export(run, tmp_path / "it", library="zero")
    made = make_bundle(run)
    with pytest.raises(DeployError, match="is a bundle already"):
        export(made, tmp_path / "it", library="basis")
    with pytest.raises(DeployError, match="cannot be written as 'onnx'"):
        export(made, tmp_path / "it", to="onnx")
    assert not (tmp_path / "it").exists()


def test_a_made_bundle_is_the_one_that_is_read(run: Run, tmp_path: Path) -> None:
    made, read = make_bundle(run), export(run, tmp_path / "it").bundle
    assert (read.manifest, read.entries, read.origins, read.evaluation) == (made.manifest, made.entries, made.origins, made.evaluation)
    assert (read.keys.tobytes(), read.actions.tobytes()) == (made.keys.tobytes(), made.actions.tobytes())
