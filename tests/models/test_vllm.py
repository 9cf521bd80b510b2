"""Rollouts of a real vLLM, left out by default.

``python -m scripts.vllm_check FOLDER --set-up`` makes the environment, and ``STIR_VLLM=FOLDER make test ARGS="-m vllm"`` runs this.
"""

import os
from pathlib import Path

import pytest

from scripts.vllm_check import compare, vllm_serving
from stir_core.models.generation import Sampling
from stir_core.models.served import unlikely_share

FOLDER = os.environ.get("STIR_VLLM")


@pytest.mark.vllm
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not FOLDER, reason="STIR_VLLM names no environment with vLLM")
def test_greedy_tokens_are_the_local_ones_and_sampled_ones_could_be(smollm2, tmp_path):
    assert FOLDER is not None
    with vllm_serving(Path(FOLDER)) as url:
        found = compare(url, smollm2, tmp_path, n=4, k=2, tokens=48)
    there, here = found.greedy.rollouts(), found.here.rollouts()
    assert len(there) == len(here) == 4
    same = sum(a == b for one, other in zip(there, here, strict=True) for a, b in zip(one.token_ids, other.token_ids, strict=False))
    assert same > 0.9 * sum(len(rollout.token_ids) for rollout in here), "float32 on both sides: they part at near-ties only"
    drawn = [(rollout.prompt_ids, rollout.token_ids) for rollout in found.sampled.rollouts()]
    assert len({ids for _, ids in drawn}) > 4
    assert unlikely_share(smollm2, drawn, Sampling(0.7, 0.95)) < 0.01
