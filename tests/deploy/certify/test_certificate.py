"""Certificates pass where nothing differs, fail where anything does, and say what; one that was edited is noticed."""

import json

import pytest

import stir_core as stir
from stir_core.deploy.bundle.reading import read_bundle
from stir_core.deploy.certify import parity
from stir_core.deploy.certify.certificate import Deployment, put, read_certificate
from stir_core.deploy.certify.parity import by_runtime, by_server, certify
from stir_core.deploy.export import export
from stir_core.deploy.serving.process import serving
from stir_core.deploy.serving.runtime import SteeredModel
from stir_core.errors import DeployError
from stir_core.intervene.session import open_session
from stir_core.records import Problem
from tests.deploy.tiny_run import QUESTIONS, tiny_run

PROBLEMS = [Problem(id=f"q{i}", task="arithmetic", split="free", question=q, answer="1", kind="number") for i, q in enumerate(QUESTIONS)]


@pytest.fixture
def session(tiny_bundled, engine):
    return open_session(tiny_bundled[0], engine)


def made(session, steered, target: Deployment = "runtime", answering=None, **more):
    more = {"reference": "run", "max_new_tokens": 32, "plain": steered.model} | more
    return certify(steered.bundle, session, PROBLEMS, target, answering or by_runtime(steered), **more)


def test_the_runtime_passes(session, steered):
    found = made(session, steered)
    assert found.passed and found.first_difference is None and found.injected > 0
    assert len(found.prompts) == 5 and all(prompt.same for prompt in found.prompts)
    assert max(gap for gap in found.worst.model_dump().values()) < 1e-3
    assert found.sha256 == found.digest and found.bundle == steered.bundle.manifest.digest
    assert "nats from Hugging Face, eager attention" in found.reference


def test_a_target_that_is_wrong_together_with_the_workbench_fails(session, steered, monkeypatch):
    wrong = parity.agreement(session.model)._replace(agrees=False, kl=0.5)
    monkeypatch.setattr(parity, "agreement", lambda model: wrong)
    found = made(session, steered)
    assert not found.passed and all(prompt.same for prompt in found.prompts)
    assert found.first_difference == "the workbench's own decoding is 0.5 nats from Hugging Face, eager attention, full passes"


@pytest.mark.parametrize("target", ["runtime", "server"])
def test_the_public_call_puts_the_certificate_into_the_bundle(tiny_bundled, session, steered, tmp_path, target):
    bundle = read_bundle(stir.export_library(tiny_bundled[0], tmp_path / "bundle"))
    own = SteeredModel.on(steered.model, bundle)
    found = stir.certify_bundle(own, session, PROBLEMS[:2], target=target, max_new_tokens=12)
    assert found.passed and found.injected > 0 and [prompt.id for prompt in found.prompts] == ["q0", "q1"]
    assert read_certificate(read_bundle(bundle.folder), target) == found
    assert (found.worst.logits is None) == (target == "server")


def test_steps_that_a_function_ends_need_that_function(steered):
    manifest = steered.bundle.manifest
    named = manifest.model_copy(update={"stage3": manifest.stage3.model_copy(update={"delimiter": "segmenter:verse"})})
    with pytest.raises(stir.StirError, match="segmenter:verse says, which is not registered here"):
        SteeredModel.on(steered.model, steered.bundle._replace(manifest=named))


def test_the_server_passes(session, steered):
    with serving(steered, "m") as url:
        found = made(session, steered, "server", by_server(url, "m"), plain=None)
    assert found.passed and found.worst.logits is None and found.worst.logprob is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scale": 1.3}, "differs by|token|by one of the two only"),
        ({"beta": 1.0}, "differs by|chose"),
        ({"probe_tokens": 2}, "differs|chose|token"),
    ],
)
def test_another_vector_or_gate_fails_and_is_named(session, steered, engine, tmp_path, change, said):
    import re

    export(tiny_run(tmp_path, engine.identity, **change), tmp_path / "bundle")
    found = made(session, SteeredModel.on(steered.model, read_bundle(tmp_path / "bundle")))
    assert not found.passed and found.first_difference is not None
    assert re.search(said, found.first_difference) and found.first_difference.startswith("q")
    assert not all(prompt.same for prompt in found.prompts)


def test_another_tokenizer_or_model_fails(session, steered, tokenizer, llama_pair):
    import copy

    from tests.builders import make_hf

    other = copy.deepcopy(tokenizer)
    other.chat_template = other.chat_template.replace("assistant", "model")
    found = made(session, SteeredModel(llama_pair[1], other, steered.bundle, check="shape"))
    assert not found.passed and "prompt tokens" in (found.first_difference or "")
    hf = make_hf("llama", len(tokenizer))
    hf.model.layers[3].mlp.down_proj.weight.data *= 1.05
    assert not made(session, SteeredModel(hf, tokenizer, steered.bundle, check="shape")).passed


def test_it_goes_into_the_bundle_and_an_edited_one_is_refused(session, steered, engine, tmp_path):
    export(tiny_run(tmp_path, engine.identity), tmp_path / "bundle")
    whole = SteeredModel.on(steered.model, read_bundle(tmp_path / "bundle"))
    found = made(session, whole)
    file = put(tmp_path / "bundle", found)
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.manifest.digest == found.bundle and read_certificate(bundle, "runtime") == found
    with pytest.raises(DeployError, match="certificate-server"):
        read_certificate(bundle, "server")
    facts = json.loads(file.read_text())
    file.write_text(json.dumps(facts | {"passed": True, "injected": 999}))
    with pytest.raises(DeployError, match="was changed after it was made"):
        read_certificate(bundle, "runtime")
    with pytest.raises(DeployError, match=r"SHA-256|bytes"):
        read_bundle(tmp_path / "bundle")
