"""The public API on the tiny model: each call does what the stage behind it does, from a harvested run to a bundle's own runtime."""

import inspect

import numpy as np
import pytest

import stir_core as stir
from stir_core.errors import DataError, DeployError, MismatchError, StoreError
from stir_core.models.prompting import user_message
from stir_core.records import Trace, TraceEvent
from stir_core.responses import Spot
from tests.deploy.tiny_run import tiny_run

PROMPT = "the sum of two and three"


@pytest.fixture(scope="module")
def often(tiny_loaded, tmp_path_factory):
    """A run whose library steers often."""
    return tiny_run(tmp_path_factory.mktemp("often"), tiny_loaded.identity)


@pytest.fixture(scope="module")
def session(often, tiny_loaded):
    return stir.open_session(often, tiny_loaded)


def test_a_harvest_is_taken_up_again_and_its_answers_come_out_of_a_session(run, tiny_loaded):
    before = run.digest("basis")
    seen = []
    done = stir.harvest_run(run.config, run.path, model=tiny_loaded, report=seen.append)
    assert done.finished("steered")
    assert done.digest("basis") == before
    assert {progress.stage for progress in seen} == {"steered"}
    (problem, *_), (recorded, *_) = done.problems("steered"), done.traces()
    answer = stir.steer(stir.open_session(done.path, tiny_loaded), problem)
    assert told(answer.steered) == told(recorded)
    assert told(answer.vanilla) == told(done.traces("vanilla")[0])


def test_strength_zero_is_vanilla_and_events_are_the_traces(session):
    gate = stir.with_changes(session.config.gate, k_scale=0.0)
    vanilla, steered = stir.steer(session, PROMPT, gate)
    assert steered.token_ids == vanilla.token_ids
    answer = stir.steer(session, PROMPT)
    events = [event.trace for event in session.compare(PROMPT) if isinstance(event, TraceEvent) and event.row == 1]
    assert [told(trace) for trace in events] == [told(answer.steered)]
    assert any(step.decision.chosen for step in answer.steered.steps)


def test_a_change_that_keeps_gives_the_recorded_answer_and_denying_all_gives_vanilla(session):
    vanilla, steered = stir.steer(session, PROMPT)
    first = next(step.evidence.m for step in steered.steps if step.decision.chosen)
    kept, denied = stir.what_if(session, steered, [stir.Change(m=first), stir.Change(m=first, to="null", then="null")])
    assert kept.token_ids == steered.token_ids
    assert denied.token_ids == vanilla.token_ids
    assert stir.what_if(session, steered, stir.Change(m=first))[0].token_ids == kept.token_ids


def test_readings_are_of_every_token_and_vanilla_diverges_nowhere(session):
    vanilla, steered = stir.steer(session, PROMPT)
    read = stir.read_tokens(session, steered)
    assert tuple(reading.token_id for reading in read) == steered.token_ids
    recorded = [logprob for step in steered.steps for logprob in step.logprobs]
    assert np.allclose(stir.to_frame(read)["logprob"], recorded, atol=1e-4)
    assert {reading.kl for reading in stir.read_tokens(session, vanilla)} == {0.0}


def test_another_library_steers_in_the_place_of_the_basis(often, tiny_loaded):
    zero = stir.open_session(often, tiny_loaded, library=stir.open_library(often, "zero"))
    answer = stir.steer(zero, PROMPT)
    assert any(step.decision.chosen for step in answer.steered.steps)
    assert answer.steered.token_ids == answer.vanilla.token_ids
    few = stir.open_library(often, stir.select_basis(often, budget=3, min_per_control_point=0))
    chosen = stir.open_session(often, tiny_loaded, library=few)
    assert chosen.memory is not None
    assert chosen.memory.entries == few.entries


def test_an_impulse_is_measured_where_it_was_mined_and_the_lens_is_the_runs_own(run, tiny_loaded):
    entry = next(entry for entry in run.entries() if entry.kind == "corrective")
    found = stir.measure_impulse(run, tiny_loaded, entry.id, doses=[2.0])
    assert found.spot.problem_id == entry.problem_id
    assert [dose.alpha for dose in found.doses] == [0.0, 1.0, 2.0]
    assert found.kl[0] == pytest.approx(next(dose.kl for dose in found.doses if dose.alpha == found.alpha), rel=1e-3)
    again = stir.measure_impulse(run, tiny_loaded, entry.id, at=Spot.model_validate(found.spot.model_dump()), alpha=2.0, doses=[])
    assert again.kl[0] > found.kl[0] > 0
    (lens,) = stir.logit_lens(tiny_loaded, run.action_rows()[[entry.action_row]], names=[entry.id])
    assert lens == run.lenses()[entry.id]
    with pytest.raises(DataError, match="null entry"):
        stir.measure_impulse(run, tiny_loaded, entry.id.replace("c", "n"))
    with pytest.raises(DataError, match=r"this model reads \[n, 32\]"):
        stir.logit_lens(tiny_loaded, np.zeros((1, 31)))
    with pytest.raises(DataError, match="2 names for 1 directions"):
        stir.logit_lens(tiny_loaded, np.zeros((1, 32)), names=["a", "b"])
    for vectors, top, said in (
        (np.zeros((1, 32)), 10**6, "top is 1000000: give a whole number of tokens from 1 to"),
        (np.zeros((1, 32)), 0, "top is 0"),
        (np.full((1, 32), np.nan), 5, "direction 0 is not finite"),
        ("mean", 5, "not an array of numbers"),
    ):
        with pytest.raises(DataError, match=said):
            inspect.unwrap(stir.logit_lens)(tiny_loaded, vectors, top=top)  # unwrapped: the tests' type checker would refuse first


def test_an_evaluation_is_paired_kept_and_told(run, tiny_loaded):
    report = stir.evaluate_methods(run, tiny_loaded, ["stir", "stir:library=zero"], n=3, max_new_tokens=12, label="mine")
    vanilla, steered, zero = report.methods
    assert (vanilla.answers, steered.answers, zero.answers) == (3, 3, 3)
    assert zero.versus is not None
    assert (zero.versus.won, zero.versus.lost, zero.versus.tied) == ((), (), 3)
    assert (run.work / "evaluation" / "mine" / "report.json").is_file()
    assert stir.report_text(report).startswith("# mine: arithmetic eval")


def test_a_causal_study_is_measured_and_told(run, tiny_loaded):
    report = stir.measure_causal(run, tiny_loaded, n=2, states=2, rolls=2, max_new_tokens=16)
    assert report.states == 2
    assert report.spec.rolls == 2
    assert stir.report_text(report).startswith("#")
    assert (run.work / "causal" / "report.json").is_file()


def test_an_exported_bundle_answers_as_the_run_does(often, tiny_loaded, tmp_path):
    folder = stir.export_library(often, tmp_path / "bundle", library="basis")
    bundle = stir.read_bundle(folder)
    assert stir.to_frame(bundle)["entry"].tolist() == [entry.id for entry in often.library().entries]
    (answer,) = stir.SteeredModel.on(tiny_loaded, bundle).generate(PROMPT)
    own = stir.steer(stir.open_session(often, tiny_loaded), PROMPT).steered
    assert told(answer) == told(own)
    assert told(stir.steer(stir.open_session(folder, tiny_loaded), PROMPT).steered) == told(own)
    assert (stir.export_library(folder, tmp_path / "gguf", to="gguf") / "stir-export.json").is_file()
    with pytest.raises(DeployError, match="is a bundle already"):
        stir.export_library(bundle, tmp_path / "again")
    with pytest.raises(DataError, match="steers with its own library"):
        stir.open_session(bundle, tiny_loaded, library=bundle.library)


def test_what_does_not_fit_is_refused(run, tiny, tmp_path):
    with pytest.raises(MismatchError, match="weights_sha256"):
        stir.open_session(run, tiny)
    with pytest.raises(StoreError, match="no run at"):
        stir.open_session(tmp_path / "nowhere")


def test_an_argument_of_another_type_is_refused_in_one_line(session):
    trace = stir.steer(session, PROMPT).steered
    # unwrapped: the tests' type checker would refuse first
    steer, what_if, read_tokens, message = map(inspect.unwrap, (stir.steer, stir.what_if, stir.read_tokens, user_message))
    for call, said in (
        (lambda: message(None, session.config.task), "None is not a prompt: give a question"),
        (lambda: steer(session, PROMPT, {"k_scale": 1.0}), "is not a GateConfig"),
        (lambda: what_if(session, trace, "null"), "'null' is not a Change: make it with"),
        (lambda: what_if(session, (trace, trace), stir.Change(m=0)), "is not a Trace"),
        (lambda: read_tokens(session, None), "None is not a Trace"),
    ):
        with pytest.raises(stir.StirError, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)


def told(trace: Trace) -> tuple:
    """Tokens and decisions; other rows in the batch may move the last bits of a log-probability."""
    decided = [(step.evidence.m, step.decision.chosen, pytest.approx(step.decision.alpha, abs=1e-4)) for step in trace.steps]
    return trace.variant, trace.token_ids, decided
