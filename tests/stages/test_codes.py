"""The stages that are made on request: a codebook of a copy of the embedded organism's run, which finds what is planted in it."""

import json
import shutil

import numpy as np
import pytest

from stir_core.cli import main
from stir_core.config import ON_REQUEST, STAGES, CodesConfig, RunConfig, digest_of, with_changes
from stir_core.deploy.bundle.reading import read_bundle
from stir_core.deploy.export import TARGETS, export, export_files, make_bundle
from stir_core.errors import ConfigError, CurationError, StoreError
from stir_core.evaluate import codes as coding
from stir_core.evaluate.causal import measure
from stir_core.evaluate.libraries import libraries_of
from stir_core.findings import Advantage
from stir_core.models.loading import load_model
from stir_core.requests import CausalRequest
from stir_core.stages import pipeline
from stir_core.stages.pipeline import make_codebook
from stir_core.stages.stage import sources
from stir_core.store.causal import CausalFolder
from stir_core.store.curation import Curation
from stir_core.store.libraries import LIBRARY_KINDS, library_named, offered
from stir_core.store.runs import EMBEDDED_RUNS, Run
from stir_core.store.verify import verify_run


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("coded") / "two_habits"
    shutil.copytree(EMBEDDED_RUNS["two_habits"], folder, ignore=shutil.ignore_patterns(*ON_REQUEST))
    run = Run.open(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coding, "SIZES", (4,))
        patch.setattr(coding, "EXCHANGES", 10)
        make_codebook(run, {"size": 4})
    return run


@pytest.fixture
def coded(made, tmp_path, monkeypatch) -> Run:
    monkeypatch.setattr(coding, "SIZES", (4,))
    monkeypatch.setattr(coding, "EXCHANGES", 2)
    shutil.copytree(made.path, tmp_path / "two_habits")
    return Run.open(tmp_path / "two_habits")


def test_codes_separate_the_planted_habits_on_held_out_problems(made):
    found = made.codebook()
    (layer,) = found.layers
    told = {each.about: each for each in layer.information}
    assert found.held_out > 0 and told["habit"].read_as >= 0.6 and abs(told["habit"].shuffled) <= 0.1
    assert told["habit and kind"].ari >= 0.6 and told["habit"].information > told["habit"].null
    assert layer.flag is None and layer.fits[0].error < min(each.error for each in layer.fits[1:])
    assert all(len(code.exemplars) <= 5 and code.exemplars[0] for code in layer.codes)
    assert sum(code.members for code in layer.codes) == found.steps


def test_the_folders_are_stages_that_a_run_does_not_make(made):
    assert made.stages() == (*STAGES, *ON_REQUEST) and "codes" not in STAGES
    assert sources("codes") == ("rollouts", "steps") and {*made.manifest("codes").inputs} == {"rollouts", "steps", "advantages"}
    assert verify_run(made).found == []
    assert digest_of(RunConfig()) == digest_of(RunConfig().model_dump(mode="json", exclude={"codes"}))
    assert Run.open(made.path).config.codes == CodesConfig()  # run.json keeps what `stir run` was given


def test_codes_are_a_library_at_control_points(made):
    library, memory = library_named(made, "codes"), libraries_of(made)("codes")
    assert memory is not None and len(library.entries) == len(library.keys) == len(library.actions)
    rows, tensors = made.steps()
    assert len(made.step_codes()["codes_1"]) == len(rows) == len(tensors["layer_1"])
    for entry, key, action in zip(*library, strict=True):
        assert entry.key_norm == pytest.approx(np.linalg.norm(key), rel=1e-4) and 0 <= entry.quality <= 1
        assert np.linalg.norm(action) == pytest.approx(entry.action_norm or 0.0, rel=1e-4)
    with pytest.raises(StoreError, match="has no codebook"):
        library_named(Run.open("smollm2"), "codes")


def test_another_size_needs_redo_and_no_model(coded, monkeypatch):
    monkeypatch.setattr(pipeline, "model_of", lambda *_: pytest.fail("the states are there"))
    before = coded.digest("codes")
    assert make_codebook(coded) == coded.codebook()
    with pytest.raises(StoreError, match=r'"codes" .* made with other settings: add --redo$'):
        make_codebook(coded, {"size": 3})
    assert coded.digest("codes") == before
    assert make_codebook(coded, {"size": 3}, redo=True).size == 3 and verify_run(coded).found == []


def test_a_damaged_codebook_has_no_figures_and_is_made_again(coded):
    file = coded.path / "codes" / "codebook.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match=r"codebook\.safetensors .* make it again with `stir codebook .* --redo`"):
        make_codebook(coded)
    (damage,) = verify_run(coded).found
    assert "stir codebook" in damage.remedy and "--redo" in damage.remedy
    assert make_codebook(coded, redo=True) == coded.codebook() and verify_run(coded).found == []


def test_measured_advantages_replace_the_proxy(coded):
    rows, tensors = coded.steps()
    coded_steps = coded.step_codes()["codes_1"]
    by_layer = {1: coded_steps[[row.row for row in rows if row.m]]}
    advantages = coded.advantages()
    assert coded.codebook().quality == ("measured" if advantages else "share")
    entry = next(each for each in coded.entries() if each.kind == "corrective" and each.m == 2)
    one = Advantage.model_construct(entry_id=entry.id, value=0.25)
    library = coding.code_entries(coded, rows, {1: tensors["layer_1"]}, by_layer, {entry.id: one})
    assert library.entries and {each.m for each in library.entries} == {2} and {each.quality for each in library.entries} == {0.25}


def test_mined_actions_are_found_by_the_codes_of_their_wrong_rollouts(made):
    rows, codes = made.step_rows(), made.step_codes()["codes_1"].tolist()
    found = coding.actions_of_codes(made.entries(), 1, rows, codes)
    at = {(row.problem_id, row.k, row.m): code for row, code in zip(rows, codes, strict=True)}
    assert made.steps()[0] == rows and found
    for (m, code), names in found.items():
        slow = [e.id for e in made.entries() if e.kind == "corrective" and e.m == m for k in e.negatives if at[e.problem_id, k, m] == code]
        assert names == slow


def test_other_answers_are_coded_as_the_steps_were(made):
    (rows, tensors), codes, coder = made.steps(), made.step_codes()["codes_1"].tolist(), coding.coder_of(made)
    assert coder is not None
    starts = [row.row for row in rows if row.m == 0]
    for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
        assert coder.codes({1: tensors["layer_1"][start:end]}) == {1: codes[start + 1 : end]}


def test_a_refusal_leaves_the_run_as_it_was(coded, tmp_path):
    before = coded.codebook()
    with pytest.raises(ConfigError, match="size 1000 is too many codes"):
        make_codebook(coded, {"size": 1000}, redo=True)
    assert coded.codebook() == before  # what cannot be made takes nothing away
    shutil.rmtree(coded.path / "codes")
    with pytest.raises(ConfigError, match="size 1000 is too many codes"):
        make_codebook(coded, {"size": 1000})
    assert not coded.finished("codes") and verify_run(coded).found == []
    with pytest.raises(ConfigError):
        make_codebook(coded, {"kind": "guess"})
    with pytest.raises(StoreError, match="never written to"):
        make_codebook(Run.open("two_habits"), {"size": 4})


def test_a_damaged_codebook_is_found(coded):
    file = coded.path / "codes" / "entries.jsonl"
    file.write_bytes(file.read_bytes() + b"\n")
    assert [each.path.name for each in verify_run(coded).found] == ["entries.jsonl"]


def test_the_change_over_a_step_is_another_thing_than_the_state_after_it(coded):
    found = make_codebook(coded, {"size": 4, "encoder": "delta"}, redo=True)
    told = {each.about: each for each in found.layers[0].information}
    assert told["habit"].read_as < 0.6, "a habit that stays cancels in the difference"
    assert with_changes(coded.config, codes={"encoder": "delta"}) != coded.config


def test_a_label_with_one_value_is_left_out(coded, monkeypatch):
    real = coding.read_steps
    monkeypatch.setattr(coding, "read_steps", lambda chain, texts: [step and step._replace(habit="P") for step in real(chain, texts)])
    found = make_codebook(coded, {"size": 4}, redo=True)
    assert {"control point", "length", "correctness", "kind"} <= (told := {each.about for each in found.layers[0].information})
    assert "habit" not in told


def test_codes_are_exported_and_chosen_like_any_library(made, tmp_path):
    library = library_named(made, "codes")
    bundle = read_bundle(export(made, tmp_path / "bundle", library="codes").bundle.folder)
    assert np.array_equal(bundle.library.keys, library.keys) and np.array_equal(bundle.library.actions, library.actions)
    assert [(e.id, e.quality) for e in bundle.entries] == [(e.id, e.quality) for e in library.entries]
    assert bundle.manifest.provenance.inputs["codes"] == made.digest("codes") and bundle.manifest.provenance.library == "codes"
    assert offered(made) == LIBRARY_KINDS and offered(Run.open("smollm2")) == tuple(name for name in LIBRARY_KINDS if name != "codes")
    for target in TARGETS:
        assert export_files(bundle, target), target
    first = next(entry for entry in library.entries if entry.kind == "corrective")
    part = make_bundle(made, "codes", f"ids:{first.id}")
    assert {entry.id for entry in part.entries} == {entry.id for entry in library.entries if entry.pair == first.pair}
    with pytest.raises(CurationError, match="is not an entry of the library"):
        make_bundle(made, "codes", "ids:p0000c")
    with pytest.raises(CurationError, match="chooses within the curated library"):
        make_bundle(made, "codes", "starred")
    with pytest.raises(StoreError, match="has no codebook"):
        make_bundle(Run.open("smollm2"), "codes")


def test_codes_are_listed_and_compared(made, capsys):
    assert main(["show", str(made.path), "--library", "codes", "--json"]) == 0
    shown = [row["id"] for row in json.loads(capsys.readouterr().out)]
    assert shown == [entry.id for entry in library_named(made, "codes").entries]
    assert main(["compare", str(made.path), str(made.path), "--library", "codes", "--other-library", "codes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["entry"]: row["other"] for row in found["shared"]} == {id_: id_ for id_ in shown if id_.endswith("c")}
    assert (found["lost"], found["gained"]) == (0, 0)


def test_codes_are_not_curated(coded):
    first = library_named(coded, "codes").entries[0].id
    with pytest.raises(CurationError, match=f"{first} is made of a code of steps, and only mined entries are curated"):
        Curation.open(coded).edit("star", first)
    assert not len(Curation.open(coded))


def test_the_causal_study_of_codes_has_a_place_of_its_own(coded):
    before, model = coded.advantages(), load_model(coded.config.model.name)
    asked = CausalRequest(study="codes", n=4, states=4, rolls=2, halving=False)
    report, path = measure(coded, model, asked, command=None, environment={})
    ids = {entry.id for entry in library_named(coded, "codes").entries}
    assert path == coded.path / "causal-codes" and report.spec.basis == coded.digest("codes")
    assert report.actions and {each.entry_id for each in report.actions} <= ids
    assert coded.advantages() == before, "the study of the basis is another one"
    assert CausalFolder(coded, "codes").report() == report and verify_run(coded).found == []
    make_codebook(coded, {"size": 3}, redo=True)
    with pytest.raises(StoreError, match="was made with basis"):
        measure(coded, model, asked, command=None, environment={})
