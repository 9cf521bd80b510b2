"""Fixtures of all tests: private folders, a tokenizer, a tiny random Llama and the same model in plain Hugging Face."""

import copy
import gc
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from transformers import PreTrainedTokenizerFast

from tests import checked

checked.install()

from stir_core.models.loading import LoadedModel, boot, load_model  # noqa: E402  # after the checks are in place
from tests.builders import make_hf, make_tokenizer  # noqa: E402

settings.register_profile("no clock", deadline=None)  # a first call may import a library
settings.load_profile("no clock")

ROOT = Path(__file__).resolve().parents[1]
KEPT = ("STIR_CACHE", "STIR_CASES_ROOT", "STIR_CHROMIUM", "STIR_DATA_ROOT", "STIR_GOLDEN_ROOT")
"""Settings of the user that tests may read; all others are removed."""
LONG = ("test_live_traces.py", "test_parity.py", "test_stores.py", "test_causal.py", "test_embedded_runs.py")
"""Test files that take longest; the order among them does not matter."""


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Hide the user's home, caches and settings. Models are converted once, into ``STIR_CACHE`` or ``build/test-models``."""
    home = tmp_path_factory.mktemp("home")
    browsers = Path.home() / ".cache" / "ms-playwright"
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("STIR_") and name not in KEPT]:
            patch.delenv(name)
        if browsers.is_dir() and "PLAYWRIGHT_BROWSERS_PATH" not in os.environ:
            patch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(browsers))
        patch.setenv("STIR_CACHE", os.environ.get("STIR_CACHE") or str(ROOT / "build" / "test-models"))
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
        patch.setenv("STIR_RUNS", str(home / "shared-runs"))  # for fixtures that several tests share
        yield home


@pytest.hookimpl(trylast=True)  # after pytest-randomly has shuffled the files
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with files that take long, so that no worker is left with one of them at the end."""
    marked = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name not in LONG, item.path not in marked))


def pytest_collection_finish() -> None:
    """Take everything imported so far out of garbage collection: Streamlit collects after every run of a page, 0.45 s with torch there."""
    gc.collect()
    gc.freeze()


NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def own_runs(own_home: Path) -> Iterator[None]:
    """Give each test its own folder of runs, which also receives edits of the embedded run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STIR_RUNS", str(own_home / "runs" / str(next(NUMBERS))))
        yield


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def llama_pair(tokenizer: PreTrainedTokenizerFast) -> tuple[LoadedModel, Any]:
    """The loaded tiny model and a plain Hugging Face model with the same weights; a test that modifies the latter must copy it."""
    hf = make_hf("llama", len(tokenizer))
    return boot("tiny/llama", copy.deepcopy(hf), tokenizer, weights_sha256="0" * 64), hf


@pytest.fixture(scope="session")
def tiny(llama_pair: tuple[LoadedModel, Any]) -> LoadedModel:
    """A 4-layer random Llama, d_model 32."""
    return llama_pair[0]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> str:
    """The tiny Llama as a local model folder."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    make_hf("llama", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def smollm2() -> LoadedModel:
    """The embedded language model, loaded once for all tests that decode with it."""
    return load_model("smollm2")
