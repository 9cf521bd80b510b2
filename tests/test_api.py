"""The public interface: its names, their documentation, and the cost of importing them."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stir_core as stir
from stir_core.config import GateConfig
from stir_core.errors import ConfigError
from tests.workbench.fake_run import make_fake_run

NAMES = """
CausalStudy Certificate Change Curation ExportTarget LoadedModel Problem Run RunConfig SavedFolder Session Steered SteeredModel StepEvent
StirError TaskSpec TokenEvent Trace TraceEvent calibrate certify_bundle codebook coherence curriculum degenerates_at
evaluate_latent_steering evaluate_latents evaluate_methods export_library export_targets harvest_run interchange latent_config load_model
load_problems load_reasoner logit_lens measure_causal measure_impulse model_folder open_library open_run open_session policy probe
read_action read_bundle read_causal read_latents read_tokens redecide register_segmenter register_selector register_task report_text
select_basis serving split_steps steer strength_for to_frame train_latent train_latent_model what_if with_changes
"""
STABLE = NAMES.split()
"""Names that users depend on: new names are added here, and none is removed or renamed."""
FUNCTIONS = [name for name in STABLE if name[0].islower()]
CLASSES = [name for name in STABLE if name[0].isupper()]
PAPER = {"harvest_run", "select_basis", "redecide", "logit_lens", "read_action"}
"""Functions that implement published methods and must cite them."""


def test_the_names_are_the_stable_ones() -> None:
    assert sorted(stir.__all__) == sorted(STABLE)
    assert set(STABLE) <= set(dir(stir))
    for name in STABLE:
        assert getattr(stir, name).__name__ == name


def test_no_public_name_is_also_a_module() -> None:
    """Importing ``stir_core.harvest.states`` binds ``harvest`` in the package and would replace a function of that name."""
    assert {module.name for module in pkgutil.iter_modules(stir.__path__)} & set(STABLE) == set()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'harvest_rum'"):
        _ = stir.harvest_rum  # pyright: ignore[reportAttributeAccessIssue]
    assert importlib.import_module("stir_core.basis").__name__ == "stir_core.basis"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_typed_and_documents_returns_and_errors(name: str) -> None:
    function = inspect.unwrap(getattr(stir, name))
    signature, doc = inspect.signature(function), inspect.getdoc(function) or ""
    assert signature.return_annotation is not inspect.Signature.empty
    assert [p.name for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty] == []
    first, _, rest = doc.partition("\n")
    assert first.rstrip().endswith((".", "`."))
    assert "Raises:" in rest or "Raises nothing" in doc
    mentioned = [p for p in signature.parameters if p not in ("session", "run", "model", "report", "source", "raw", "seed")]
    assert [p for p in mentioned if p not in doc] == []
    assert name not in PAPER or any(mark in doc for mark in ("arXiv", "et al."))


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_documents_its_public_members(name: str) -> None:
    cls = getattr(stir, name)
    assert inspect.getdoc(cls)
    own = {key: value for key, value in vars(cls).items() if not key.startswith("_") and key not in ("model_config", "model_post_init")}
    asked: dict[str, Any] = {key: inspect.unwrap(_function(value)) for key, value in own.items() if _function(value)}
    assert [key for key, function in asked.items() if not inspect.getdoc(function)] == []
    assert [key for key, function in asked.items() if "return" not in function.__annotations__] == []


def test_opening_a_run_loads_no_model_library() -> None:
    code = (
        "import sys, time; import stir_core as stir\n"
        "heavy = ('torch', 'transformers', 'transformer' + '_lens', 'pandas', 'numpy', 'scipy', 'pydantic')\n"
        "assert not [name for name in heavy if name in sys.modules]\n"
        "run = stir.open_run('smollm2'); frame = stir.to_frame(run); basis = stir.select_basis(run, budget=40)\n"
        "again = stir.redecide(run.traces()[0], run.config.gate, stir.with_changes(run.config.gate, rho=0.0))\n"
        "assert len(frame) == len(run.entries()) and len(stir.open_library(run, basis).entries) == len(basis.picks) == 40 and again\n"
        "assert not [name for name in ('torch', 'transformers', 'streamlit', 'umap', 'workbench') if name in sys.modules]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_frame_holds_the_raw_vectors_in_the_order_of_the_entries(tmp_path) -> None:
    run = make_fake_run(tmp_path)
    frame = stir.to_frame(run)
    assert frame["entry"].tolist() == [entry.id for entry in run.entries()]
    keys, actions = run.key_rows(), run.action_rows()
    for row, entry in zip(frame.to_dict("records"), run.entries(), strict=True):
        assert np.array_equal(row["key"], keys[entry.key_row])
        if entry.action_row is None:
            assert row["action"] is None
        else:
            assert np.array_equal(row["action"], actions[entry.action_row])
    picked = dict(zip(frame["entry"], frame["rank"], strict=True))
    assert [picked[pick.entry_id] for pick in run.picks()] == [pick.rank for pick in run.picks()]
    assert frame["in_basis"].tolist() == [entry.id in {pick.entry_id for pick in run.picks()} for entry in run.entries()]
    assert stir.to_frame(run.library())["entry"].tolist() == [pick.entry_id for pick in run.picks()]
    assert stir.to_frame(run.picks())["rank"].tolist() == [pick.rank for pick in run.picks()]


def test_the_runs_own_settings_select_its_own_basis() -> None:
    run = stir.open_run("smollm2")
    ours, theirs = run.picks(), stir.select_basis(run).picks
    # the last digit of a gain is that of the machine's own matrix products
    assert [pick.replaced(gain=0.0) for pick in theirs] == [pick.replaced(gain=0.0) for pick in ours]
    assert [pick.gain for pick in theirs] == pytest.approx([pick.gain for pick in ours], abs=1e-9)
    own, chosen = stir.open_library(run), stir.open_library(run, stir.select_basis(run))
    assert own.entries == chosen.entries
    assert np.array_equal(own.keys, chosen.keys)
    assert np.array_equal(own.actions, chosen.actions)
    with pytest.raises(stir.StirError, match=r"did you mean basis\.budget"):
        stir.select_basis(run, budgget=3)
    with pytest.raises(stir.StirError, match="take one of basis, all"):
        stir.open_library(run, "best")


def test_a_causal_study_is_read_with_its_continuations(tmp_path) -> None:
    report, rolls = stir.read_causal(stir.open_run("smollm2"))
    assert (len(rolls), sum(roll.decoded for roll in rolls)) == (report.rolls, report.tokens)
    frame = stir.to_frame(rolls).pivot(index=["problem_id", "m", "rep"], columns="arm", values="correct").astype(float)
    noise = next(effect for effect in report.effects if effect.arm == "random direction")
    gaps = (frame["random"] - frame["null"]).dropna().tolist()
    assert sum(gaps) / len(gaps) == pytest.approx(noise.advantage.value)
    with pytest.raises(stir.StirError, match="have not been measured yet: `stir causal"):
        stir.read_causal(make_fake_run(tmp_path))


def test_redeciding_with_the_same_gate_gives_the_recorded_decisions() -> None:
    run = stir.open_run("smollm2")
    for trace in run.traces():
        again = stir.redecide(trace, run.config.gate, run.config.gate, seed=run.config.seed)
        assert [step.decision for step in again] == [step.decision for step in trace.steps]
    closed = stir.with_changes(run.config.gate, tau_null=1e9)
    assert all(step.decision and step.decision.chosen is None for step in stir.redecide(run.traces()[0], run.config.gate, closed))


def test_changes_are_validated_and_keep_other_settings() -> None:
    config = stir.RunConfig(seed=3, gate=GateConfig(rho=0.7))
    changed = stir.with_changes(config, gate={"beta": 5.0})
    assert changed == config.model_copy(update={"gate": GateConfig(rho=0.7, beta=5.0)})
    assert stir.with_changes(config.gate, beta=5.0) == changed.gate
    assert config.gate.beta == 2.0
    for wrong, said in (
        ({"roh": 1}, "unknown config key gate.roh: did you mean gate.rho?"),
        ({"candidates": 0}, "config key gate.candidates = 0"),
    ):
        with pytest.raises(ConfigError, match=said):
            stir.with_changes(config, gate=wrong)


def test_an_unknown_stage_is_refused_before_anything_is_made(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no stage 'bases': take one of rollouts, states, actions, basis, steered"):
        stir.harvest_run(stir.RunConfig(), tmp_path / "run", until="bases")
    assert not (tmp_path / "run").exists()


@pytest.mark.model
@pytest.mark.notebooks
@pytest.mark.timeout(900)
def test_the_readmes_example_runs(tmp_path) -> None:
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text("utf-8")
    example = re.search(r"## In Python\n.*?```python\n(.*?)```", readme, re.DOTALL)
    assert example is not None
    assert len(example[1].splitlines()) <= 15
    told = subprocess.run([sys.executable, "-c", example[1]], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert re.search(r"^2 .*cannot win: at most", told.stdout, re.MULTILINE)
    assert (tmp_path / "kl.html").stat().st_size > 10_000


WRONG = {
    "stir.open_run(None)": "StoreError: None is not the place of a run: give",
    "stir.open_session(None)": "StoreError: None is not the place of a run: give",
    "stir.read_bundle(None)": "DeployError: None is not the place of a bundle: give",
    "stir.to_frame('smollm2')": "DataError: 'smollm2' is not a Run: open one with stir.open_run",
    "stir.to_frame([1])": "DataError: 1 is not a record: give",
    "stir.select_basis('smollm2')": "DataError: 'smollm2' is not a Run",
    "stir.probe('smollm2')": "DataError: 'smollm2' is not a Run",
    "stir.codebook('smollm2')": "DataError: 'smollm2' is not a Run",
    "stir.calibrate(['nonesuch'])": 'ModelError: unknown model "organism:nonesuch"',
    "stir.read_causal('smollm2')": "DataError: 'smollm2' is not a Run",
    "stir.measure_causal(run, None)": "DataError: None is not a LoadedModel: load one with stir.load_model",
    "stir.evaluate_methods(run, None, 'stir')": "ConfigError: setting methods = 'stir': give a list, e.g. ['stir']",
    "stir.report_text(None)": "DataError: None is not a CausalReport",
    "stir.harvest_run(None, 'out')": "DataError: None is not a RunConfig",
    "stir.steer(run, 'hi')": "DataError: <stir_core.store.runs.Run object",
    "stir.with_changes(run, seed=1)": "ConfigError: <stir_core.store.runs.Run object",
    "stir.load_problems(None, 'mine')": "DataError: unknown task None",
    "stir.load_problems('arithmetic', 'mine', n='3')": "DataError: '3' is not a number of problems",
    "stir.load_model(None)": "ModelError: None is not the name of a model",
    "stir.load_model(backend='zz')": 'ModelError: backend "zz" is not offered: choose',
    "stir.load_model(device='tpu')": "ModelError: device 'tpu' is not known: choose auto, cpu or cuda",
}
"""Calls with an argument of another type, and how each is refused."""


def test_an_argument_of_another_type_is_refused_in_one_line() -> None:
    """In another process, since the type checker of the tests would refuse them first."""
    code = (
        "import sys; import stir_core as stir; run = stir.open_run('smollm2')\n"
        "for call in sys.argv[1:]:\n"
        "    try: eval(call)\n"
        "    except stir.StirError as error: print(f'{type(error).__name__}: {error}')\n"
    )
    told = subprocess.run([sys.executable, "-c", code, *WRONG], check=True, capture_output=True, text=True).stdout.splitlines()
    assert [(line, said) for line, said in zip(told, WRONG.values(), strict=True) if not line.startswith(said)] == []


def _function(value: Any) -> Any:
    """The function of a method or property; ``None`` for a field."""
    if isinstance(value, property):
        return value.fget
    value = getattr(value, "__func__", value)
    return value if inspect.isfunction(value) else None


def test_targets_list_what_they_keep_and_refuse_libraries(tmp_path) -> None:
    targets = {target.name: target for target in stir.export_targets("smollm2")}
    assert list(targets)[:2] == ["bundle", "published"] and {"easysteer", "gguf"} <= set(targets)
    assert all(target.kept and target.lost for target in targets.values())
    for name, target in targets.items():
        if target.refusal is None:
            assert stir.export_library("smollm2", tmp_path / name, to=name).is_dir()
    assert stir.export_targets(tmp_path / "bundle") == list(targets.values())


def test_a_library_without_entries_is_a_frame_without_rows() -> None:
    library = stir.open_library(stir.open_run("smollm2"), "all")
    empty = type(library)((), library.keys[:0], library.actions[:0])
    assert list(stir.to_frame(empty).columns) == list(stir.to_frame(library).columns)
    assert len(stir.to_frame(empty)) == 0
