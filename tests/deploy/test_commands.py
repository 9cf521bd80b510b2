"""``stir export``, ``import``, ``trace`` and ``certify`` with bundles: what they say, and how they exit."""

import json
import shutil
from pathlib import Path

import pytest

from stir_core.cli import main
from stir_core.deploy.bundle.reading import read_bundle
from tests.deploy.tiny_run import QUESTIONS, tiny_run


def refused(capsys, *words: object) -> str:
    """The one line of a command that must exit with 2."""
    assert main([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("stir: ") and captured.err.count("\n") == 1
    return captured.err


def told(capsys, *words: object) -> str:
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


@pytest.fixture
def run(tiny_bundled) -> Path:
    return tiny_bundled[0].path


@pytest.fixture
def folder(tiny_bundled, tmp_path) -> Path:
    return shutil.copytree(tiny_bundled[1].folder, tmp_path / "copy")


def test_a_bundle_is_traced_as_its_run_is(capsys, run, folder, tiny_folder):
    words = [QUESTIONS[0], "--model", tiny_folder, "--json"]
    assert json.loads(told(capsys, "trace", folder, *words)) == json.loads(told(capsys, "trace", run, *words))


@pytest.mark.parametrize(
    ("target", "mark"), [("bundle", "stir-bundle"), ("gguf", "llama.cpp"), ("easysteer", "EasySteer"), ("published", "published layout")]
)
def test_every_target_is_written_and_says_what_it_is(capsys, run, tmp_path, target, mark):
    words = ["export", run, "--to", target, "--out", tmp_path / "out"]
    facts = json.loads(told(capsys, *words, "--json"))
    assert mark in (facts["manifest"]["format"] if target == "bundle" else facts["target"])
    lines = told(capsys, *words)  # its own older export is replaced
    assert "24 actions" in lines and (read_bundle(tmp_path / "out") if target == "bundle" else "lost: " in lines)


def test_a_bundle_is_exported_on_and_checked(capsys, folder, tmp_path):
    assert "24 actions" in told(capsys, "export", folder, "--to", "gguf", "--out", tmp_path / "gguf")
    assert "copy: bundle " in told(capsys, "import", folder)
    assert json.loads(told(capsys, "import", folder, "--json"))["manifest"]["n_actions"] == 24
    assert "a bundle already" in refused(capsys, "export", folder, "--to", "bundle", "--out", tmp_path / "b")
    assert "--like and --out apply to that layout only" in refused(capsys, "import", folder, "--out", tmp_path / "b")


def test_the_published_layout_comes_back_as_a_bundle(capsys, run, folder, tmp_path):
    told(capsys, "export", run, "--to", "published", "--out", tmp_path / "memory")
    assert "published layout, whole" in told(capsys, "import", tmp_path / "memory")
    assert "add --like" in refused(capsys, "import", tmp_path / "memory", "--out", tmp_path / "back")
    told(capsys, "import", tmp_path / "memory", "--like", folder, "--out", tmp_path / "back")
    back, own = read_bundle(tmp_path / "back"), read_bundle(folder)
    assert (back.keys.tobytes(), back.actions.tobytes()) == (own.keys.tobytes(), own.actions.tobytes())


def test_refused_exports_leave_nothing(capsys, run, tmp_path):
    out = tmp_path / "out"
    assert "tagged so" in refused(capsys, "export", run, "--out", out, "--only", "tag:nobody")
    assert "starred" in refused(capsys, "export", run, "--out", out, "--only", "starred")
    assert "no run at" in refused(capsys, "export", tmp_path / "none", "--out", out)
    assert not out.exists()
    (out / "mine").mkdir(parents=True)
    for target in ("bundle", "gguf", "published"):
        assert "nothing there is overwritten" in refused(capsys, "export", run, "--to", target, "--out", out)
    assert [path.name for path in out.iterdir()] == ["mine"]
    with pytest.raises(SystemExit) as error:
        main(["export", str(run), "--to", "onnx", "--out", str(out)])
    assert error.value.code == 2 and "invalid choice: 'onnx'" in capsys.readouterr().err


def test_block_0_cannot_be_a_control_vector(capsys, engine, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.deploy.tiny_run.LAYERS", (0, 2))
    run = tiny_run(tmp_path, engine.identity)
    said = refused(capsys, "export", run.path, "--to", "gguf", "--out", tmp_path / "gguf")
    assert "block 0" in said and not (tmp_path / "gguf").exists()
    told(capsys, "export", run.path, "--to", "easysteer", "--out", tmp_path / "specs")


@pytest.mark.parametrize("command", [["import"], ["push"], ["certify", "--target", "runtime"], ["serve"], ["trace"]])
def test_a_folder_that_is_no_bundle_or_not_whole(capsys, folder, tmp_path, command):
    """Every command that takes a bundle reads it before it does anything else."""
    more = {"push": ["mara/lib"], "trace": ["hi"]}.get(command[0], [])
    wanted = "no run at" if command == ["trace"] else "manifest.json is missing"
    assert wanted in refused(capsys, command[0], tmp_path, *more, *command[1:])
    library = folder / "library.safetensors"
    library.write_bytes(library.read_bytes()[:-4])
    assert "library.safetensors" in refused(capsys, command[0], folder, *more, *command[1:])
    library.unlink()
    library.symlink_to("/etc/passwd")
    assert "symbolic link" in refused(capsys, command[0], folder, *more, *command[1:])


def test_a_bundle_is_not_a_run_and_a_run_is_not_a_bundle(capsys, run, folder):
    for words in (["status", folder], ["eval", folder], ["whatif", folder, "hi", "--at", "1"]):
        assert "is a bundle, not a run: open it with" in refused(capsys, *words)
    assert "is a run, not a bundle: make one with `stir export" in refused(capsys, "serve", run)
    assert "--max-new-tokens 0: input should be" in refused(capsys, "certify", folder, "--target", "runtime", "--max-new-tokens", "0")


def test_certify_passes_for_its_own_run_and_fails_for_another(capsys, run, folder, engine, tiny_folder, tmp_path):
    words = ["certify", folder, "--target", "runtime", "--model", tiny_folder, "--n", "2", "--max-new-tokens", "24"]
    assert "PASSED" in told(capsys, *words, "--run", run)
    assert "certificate-runtime.json" in read_bundle(folder).manifest.files
    other = tiny_run(tmp_path, engine.identity, "other", scale=1.5)
    assert main([str(word) for word in [*words, "--run", other.path]]) == 1
    lines = capsys.readouterr().out
    assert "FAILED" in lines and "first difference: " in lines
    assert not json.loads((folder / "certificate-runtime.json").read_text())["passed"], "a failing one is put in too"
    assert "--n is 0" in refused(capsys, "certify", folder, "--target", "runtime", "--n", "0")
    assert "was made with" in refused(capsys, *words[:4], "--model", other_model(tiny_folder, tmp_path))


@pytest.mark.parametrize(
    ("target", "option", "value"), [("llamacpp", "--max-new-tokens", "8"), ("runtime", "--gguf", "m.gguf"), ("server", "--actions", "2")]
)
def test_certify_refuses_what_its_target_does_not_read(capsys, folder, target, option, value):
    assert f"{option} is {value}, which --target {target} does not use" in refused(
        capsys, "certify", folder, "--target", target, option, value
    )
    assert "--actions is -1" in refused(capsys, "certify", folder, "--target", "llamacpp", "--actions", "-1")


def other_model(tiny_folder: str, tmp_path: Path) -> str:
    """The same model with one weight changed."""
    import safetensors.torch as st

    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    weights = st.load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 2
    st.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)
