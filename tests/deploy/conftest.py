"""The tiny model in the workbench, a run on it, its bundle, and the runtime."""

import pytest

from stir_core.deploy.bundle.reading import Bundle, read_bundle
from stir_core.deploy.export import export
from stir_core.deploy.serving.runtime import SteeredModel
from stir_core.models.loading import LoadedModel, load_model
from stir_core.store.runs import Run
from tests.deploy.tiny_run import tiny_run


@pytest.fixture(scope="session")
def engine(tiny_folder) -> LoadedModel:
    """The workbench's own model."""
    return load_model(tiny_folder)


@pytest.fixture(scope="session")
def tiny_bundled(engine, tmp_path_factory) -> tuple[Run, Bundle]:
    root = tmp_path_factory.mktemp("bundled")
    run = tiny_run(root, engine.identity)
    export(run, root / "bundle")
    return run, read_bundle(root / "bundle")


@pytest.fixture(scope="session")
def steered(tiny_bundled, tiny_folder) -> SteeredModel:
    """Made as a user makes it: from a Hugging Face model and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return SteeredModel(AutoModelForCausalLM.from_pretrained(tiny_folder), AutoTokenizer.from_pretrained(tiny_folder), tiny_bundled[1])
