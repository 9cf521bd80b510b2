"""``compat`` mode against outputs of the published code, if STIR_GOLDEN_ROOT names them (CI does)."""

import os
from pathlib import Path

import pytest

from benchmarks import parity

pytestmark = pytest.mark.skipif("STIR_GOLDEN_ROOT" not in os.environ, reason="STIR_GOLDEN_ROOT is not set (CI sets it)")


@pytest.fixture(scope="module")
def root() -> Path:
    return Path(os.environ["STIR_GOLDEN_ROOT"])


def test_selection(root):
    assert parity.selection(root)["equal"]


@pytest.mark.model
def test_the_published_rollouts_give_the_published_library(root, smollm2):
    report = parity.harvest(root / parity.CASE, smollm2)
    assert report["same_pairs"] and report["entries"] == 26, report
    assert report["equal"], report


@pytest.mark.model
@pytest.mark.slow
def test_decisions_texts_and_scores(root, smollm2):
    report = parity.traces(root / parity.CASE, smollm2)
    assert report["decisions_equal"] == report["decisions"] > 0 and report["texts_equal"] == report["texts"] == 4, report
    assert report["text"] and report["greedy_text"] and report["tokens"] and report["probe_tokens"], report
    assert report["max_score_difference"] < parity.TOLERANCE
    assert report["only_needed_previews"], report
