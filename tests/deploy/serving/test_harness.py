"""lm-evaluation-harness against the server, in an environment of its own: ``STIR_LM_EVAL`` is its ``lm_eval`` program."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from stir_core.deploy.serving.process import serving
from stir_core.requests import Limits
from tests.deploy.tiny_run import QUESTIONS

LM_EVAL = os.environ.get("STIR_LM_EVAL")
NAME = "tiny-steered"
STOP = "e"
TOKENS = 24


@pytest.fixture
def task(tmp_path: Path) -> Path:
    rows = [{"question": QUESTIONS[i % len(QUESTIONS)], "answer": str(i)} for i in range(10)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "tiny",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": [STOP], "max_gen_toks": TOKENS},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "tiny.yaml").write_text(json.dumps(task))  # JSON is YAML
    return tmp_path


@pytest.mark.skipif(LM_EVAL is None, reason="STIR_LM_EVAL names no lm_eval program")
@pytest.mark.parametrize("off", [False, True])
def test_the_harness_gets_each_answer_as_it_is_alone(steered: Any, task: Path, off: bool) -> None:
    unsteered = ["--gen_kwargs", json.dumps({"stir": {"off": True}})] if off else []
    with serving(steered, NAME, Limits(rows=4, queue=64)) as url:
        arguments = ["--model", "local-chat-completions", "--tasks", "tiny", "--include_path", str(task), "--apply_chat_template"]
        arguments += ["--model_args", f"model={NAME},base_url={url}/v1/chat/completions,num_concurrent=4,max_retries=1"]
        arguments += ["--log_samples", "--output_path", str(task / "out"), *unsteered]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(task / "cache"), "PYTHONPATH": ""}
        ran = subprocess.run([str(LM_EVAL), *arguments], env=environment, capture_output=True, text=True, timeout=250)
    assert ran.returncode == 0, ran.stderr[-2000:]
    (samples,) = (task / "out").rglob("samples_*.jsonl")
    told = {row["doc"]["question"]: row["resps"][0][0] for row in map(json.loads, samples.read_text().splitlines())}
    assert set(told) == set(QUESTIONS)
    for question, text in told.items():
        whole = steered.generate([[{"role": "user", "content": question}]], max_new_tokens=TOKENS, off=off)[0].text
        assert text == whole.split(STOP)[0]
