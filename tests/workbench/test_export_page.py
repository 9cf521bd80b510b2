"""The Export page: it writes what it shows, refuses only the targets that cannot hold the library, and keeps the choice in the link."""

import ast
import hashlib
import io
import json
import shutil
import zipfile

import fake_run as fakes  # pyright: ignore[reportMissingImports]
import pytest
from fake_evaluation import make_fake_causal, make_fake_evaluation  # pyright: ignore[reportMissingImports]
from fake_run import NASTY, make_fake_run  # pyright: ignore[reportMissingImports]
from page_reading import clean, leaves, texts  # pyright: ignore[reportMissingImports]

from stir_core.curation import make_edit
from stir_core.deploy.certify.certificate import Certificate, CertifiedVector, Tolerances, Worst, put
from stir_core.deploy.export import export, export_files, make_bundle
from stir_core.store.curation import Curation
from stir_core.store.runs import EMBEDDED_RUNS, Run
from workbench.export import data as plan
from workbench.export import view_prepared as shipping
from workbench.export.data import certificate_table, snippets
from workbench.shared.facts import RunFacts

WHEN = "2026-11-21T17:33:14Z"
EVERY = "bundle,published,easysteer,gguf"


@pytest.fixture
def run(store) -> Run:
    made = make_fake_run(store)
    Curation.open(made).add(
        make_edit("star", ["p0001c", "p0002c"], who="a", when=WHEN),
        make_edit("note", ["p0001c"], NASTY, who="a", when=WHEN),
        make_edit("rename", ["p0002c"], "drops the carry", who="a", when=WHEN),
    )
    return made


def said(run: Run, library: str = "curated", only: str | None = None) -> dict[str, bool]:
    bundle = make_bundle(run, library, only)
    return {caution.text: caution.grave for caution in plan.cautions(bundle, RunFacts(run), Curation.open(run))}


def exported(app) -> list[str]:
    table = app.dataframe[0].value
    return list(table["entry"][table["exported"]])


def test_codes_of_steps_are_exported_from_the_page_too(store, open_page):
    coded = Run.open(shutil.copytree(EMBEDDED_RUNS["two_habits"], store / "coded"))
    app = clean(open_page("export", run="coded", library="codes", targets=EVERY))
    wanted = [entry for entry in coded.codes_library().entries if entry.kind == "corrective"]
    assert exported(app) == [entry.id for entry in wanted]
    assert app.dataframe[0].value["quality"].tolist() == pytest.approx([entry.quality for entry in wanted])
    assert all("--library codes" in code.value for code in app.code if code.value.startswith("stir export "))
    assert RunFacts(coded).advantages and "No causal study measured the effect of single actions." in said(coded, "codes")


def test_what_is_written_is_what_the_command_writes(run, store, open_page, tmp_path):
    app = clean(open_page("export", only="starred", targets=EVERY))
    assert exported(app) == ["p0001c", "p0002c"] and "2 of 7 actions are exported, 4 entries" in texts(app)
    commands = [code.value for code in app.code if code.value.startswith("stir export ")]
    assert len(commands) == 4 and all(command.endswith("--only starred") for command in commands)
    app.button(key="export_write_bundle").click().run()
    folder = store / "exports" / "fake-curated-starred-bundle"
    assert str(folder) in commands[0] and str(folder) in clean(app).success[0].value.replace("\\", "")
    export(run, tmp_path / "by command", only="starred")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        file.name: file.read_bytes() for file in (tmp_path / "by command").iterdir()
    }
    app.session_state["export_files_bundle"] = True
    shown = next(frame.value for frame in app.run().dataframe if "sha256" in frame.value)
    assert {row["file"]: (row["bytes"], row["sha256"]) for row in shown.to_dict("records")} == {
        file.name: (file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()) for file in folder.iterdir()
    }
    (folder / "mine.txt").write_text("kept")
    app.button(key="export_write_bundle").click().run()
    assert not app.exception and "which is not a bundle's" in app.error[0].value.replace("\\", "")
    (folder / "mine.txt").unlink()
    app.button(key="export_write_bundle").click().run()
    assert not app.exception and not app.error, "a bundle alone is replaced"


def test_a_folder_that_is_no_export_is_never_overwritten(run, store, open_page):
    folder = store / "exports" / "fake-curated-bundle"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("kept")
    app = open_page("export")
    app.button(key="export_write_bundle").click().run()
    assert not app.exception and "holds other files" in app.error[0].value and (folder / "mine.txt").read_text() == "kept"
    name = next(field for field in app.text_input if field.label == "Name")
    name.set_value("../../etc").run()
    assert len(app.error) == 1 and "is not a folder name" in app.error[0].value and not app.exception
    assert not any("../" in code.value for code in app.code)


def test_block_0_is_refused_for_llama_cpp_and_for_nothing_else(store, open_page, monkeypatch):
    monkeypatch.setattr(fakes, "LAYER", 0)
    make_fake_run(store, "zero")
    app = clean(open_page("export", targets=EVERY))
    assert [tab.label for tab in app.tabs] == ["Bundle", "Published layout", "EasySteer / vLLM", "llama.cpp (refused)"]
    assert "output of block 0, which a llama.cpp control vector cannot express" in app.warning[-1].value.replace("\\", "")
    downloads = [element.proto.label for element in leaves(app.main) if element.type == "download_button"]
    assert len(downloads) == 3 and not any("--to gguf" in code.value for code in app.code)


def test_links_hold_library_actions_and_targets(run, open_page):
    app = clean(open_page("export", library="basis", targets="gguf"))
    assert "--library basis" in app.code[1].value and "--to gguf" in app.code[1].value and len(exported(app)) == 7
    assert "Only the curated library can be narrowed" in texts(app)
    app = clean(open_page("export", only="ids:p0004c,p0002c", targets="easysteer"))
    assert exported(app) == ["p0002c", "p0004c"] and app.code[1].value.endswith("--only ids:p0004c,p0002c")
    assert app.selectbox(key="only").value == "ids:p0004c,p0002c" and app.session_state["targets"] == ["easysteer"]
    table = next(element for element in app.main.dataframe if "exported" in element.value)
    assert app.session_state[table.proto.id.split("-")[-1]]["selection"]["rows"] == [3, 2]  # ticked again without a click
    app = clean(open_page("export", targets="none"))
    assert len(exported(app)) == 7 and "No target is chosen" in texts(app)
    for absent in ("tag:no such", "ids:p9999c,p0002c"):
        app = open_page("export", only=absent)
        assert app.selectbox(key="only").value is None and not app.dataframe
        assert [f'"{absent}"' in error.value.replace("\\", "") for error in app.error] == [True]


def test_a_choice_of_nothing_is_one_line(store, open_page):
    make_fake_run(store)
    app = open_page("export", only="starred")
    assert not app.exception and len(app.error) == 1 and "no entry of the library is starred" in app.error[0].value
    assert app.selectbox(key="only").select("all").run().error == []


def test_text_of_others_is_text(run, open_page):
    app = clean(open_page("export", only="starred", targets=EVERY))
    notes = {row["entry"]: row.get("note") for row in app.dataframe[0].value.to_dict("records")}
    assert str(notes["p0001c"]).startswith(NASTY[:60])
    for element in leaves(app.main):
        if element.type in ("markdown", "caption", "alert"):
            assert not getattr(element.proto, "allow_html", False) and "<script" not in str(getattr(element.proto, "body", ""))


def certificate(bundle, **changed) -> Certificate:
    facts = {"target": "runtime", "passed": True, "first_difference": None, "bundle": bundle.manifest.digest, "reference": "run fake"}
    facts |= {"model": bundle.manifest.model, "device": "cpu", "max_new_tokens": 8, "tolerances": Tolerances(), "prompts": ()}
    made = Certificate.model_validate({**facts, "worst": Worst(logits=2e-6), "injected": 3, "versions": {}, **changed})
    return made.model_copy(update={"sha256": made.digest})


def test_certificates_of_a_written_bundle_are_shown_and_edited_ones_refused(run, store, open_page):
    folder = store / "exports" / "fake-curated-bundle"
    bundle = export(run, folder).bundle
    put(folder, certificate(bundle))
    app = clean(open_page("export"))
    table = next(frame.value for frame in app.dataframe if "injected" in frame.value)
    assert (table["target"][0], table["passed"][0], table["injected"][0], table["logits"][0]) == ("runtime", True, 3, 2e-6)
    assert table["score"].isna().tolist() == [True] and "without the certificates" in texts(app)
    commands = next(code.value for code in app.code if code.value.startswith("stir certify "))
    assert "--target runtime" not in commands and "--target server" in commands
    put(folder, certificate(bundle, passed=False, first_difference="p 1: token 3 is 4").model_copy(update={"sha256": "0" * 64}))
    app = clean(open_page("export"))
    assert "was changed after it was made" in texts(app) and not any("injected" in frame.value for frame in app.dataframe)
    Curation.open(run).add(make_edit("exclude", ["p0005c"], who="a", when=WHEN))
    assert "is another one" in texts(clean(open_page("export"))), "the bundle from before the exclusion is still there"


def test_a_table_of_certificates_says_what_was_not_compared(run, tmp_path):
    bundle = make_bundle(run)
    table = certificate_table([(certificate(bundle), 0.0), (certificate(bundle, target="server", passed=False, worst=Worst()), 86400.0)])
    assert list(table["written"]) == ["1970-01-01 00:00", "1970-01-02 00:00"] and table["logits"].isna().tolist() == [False, True]
    compared = tuple(CertifiedVector(file=f"{r}.gguf", scale=1, correlation=r, spread=1, as_it_is=None) for r in (0.999, 0.991))
    assert certificate_table([(certificate(bundle, vectors=compared), 0.0)])["correlation"].tolist() == [0.991]
    assert table["correlation"].isna().tolist() == [True, True]


def test_an_archive_is_made_of_what_was_shown_even_when_the_run_is_gone(run):
    facts = RunFacts(run)
    made = shipping.prepared(facts, Curation.open(run), "curated", "starred")
    call = shipping.archiver(made, "bundle", run.path / "it")
    shutil.rmtree(run.path)
    with zipfile.ZipFile(io.BytesIO(call())) as packed:
        assert {name: packed.read(name) for name in packed.namelist()} == {
            f"it/{name}": data for name, data in export_files(made, "bundle").items()
        }


def test_cautions_are_those_of_this_library(run):
    found = said(run)
    assert (
        any(text.startswith("No measured effect: ") for text in found)
        and found["No causal study measured the effect of single actions."] is False
    )
    assert found["2 actions flagged by the controls, mostly length: p0001c, p0004c."] is True
    assert any(text.startswith("Made with a quantised copy") for text in found)
    only = said(run, only="ids:p0000c")
    assert not any("mostly length" in text for text in only)
    assert "3 edits of the Curate page are not in it: the basis library is as it was made." in said(run, "basis")
    assert said(run, "all")["6 entries at the last control point, where nothing is ever retrieved."] is False
    report = make_fake_causal(run)
    verdicts = {found.entry_id: found.verdict for found in report.actions}
    (run.work / "causal" / "advantages.jsonl").write_text("".join(found.model_dump_json() + "\n" for found in report.actions))
    make_fake_evaluation(run)
    measured = " ".join(said(run, "all"))
    for word, text in (("harms", "measured to harm"), ("no effect seen", "measured without an effect")):
        hit = [id_ for id_, verdict in verdicts.items() if verdict == word]
        assert (text in measured) == bool(hit), (word, hit)
    assert "No measured effect" not in measured
    assert "The effect of this very library was not measured" in " ".join(said(run, only="starred"))


def test_a_stale_basis_is_told(run):
    assert not any("other settings" in text for text in said(run))
    facts = json.loads((run.path / "run.json").read_text())
    facts["config"]["basis"]["budget"] += 1
    (run.path / "run.json").write_text(json.dumps(facts))
    grave = [text for text, is_grave in said(Run.open(run.path)).items() if "was made with other settings" in text and is_grave]
    assert len(grave) == 1 and grave[0].startswith('Stage "basis"')


@pytest.mark.parametrize(
    ("run_name", "only", "name"),
    [
        ("smollm2", None, "smollm2-curated"),
        ("a b/c", "tag:x y.z", "a-b-c-curated-x-y-z"),
        ("é$(rm)", "ids:a,b", "rm-curated-picked"),
        ("", "starred", "curated-starred"),
    ],
)
def test_names_are_plain_whatever_the_run_and_the_tag_are_called(run_name, only, name):
    assert plan.default_name(run_name, "curated", only) == name and plan.refused_name(name) is None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-rf", "a b", "x" * 61, "ü"])
def test_other_names_are_refused(name):
    assert "is not a folder name" in (plan.refused_name(name) or "")


def test_ticked_rows_are_a_choice_and_no_row_is_all_of_them():
    assert plan.choice_of([]) == plan.ALL and plan.ids_of(plan.choice_of(["a", "b"])) == ("a", "b")
    assert plan.ids_of("tag:a,b") == plan.ids_of("ids:") == ()


def test_snippets_are_whole_programs_with_the_folder_in_them(run, tmp_path):
    bundle, folder = make_bundle(run), tmp_path / "it's here"
    for target in EVERY.split(","):
        found = snippets(target, bundle, folder)
        for snippet in found:
            if snippet.language == "python":
                ast.parse(snippet.text)
        assert any("it's here" in snippet.text or "it'\"'\"'s here" in snippet.text for snippet in found)
    (llama,) = snippets("gguf", bundle, folder)
    assert "--control-vector-scaled" in llama.text and "mean.gguf" in llama.text
