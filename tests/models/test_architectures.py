"""Every architecture through the step loop: its tokens are those of full passes on the plain model, or it is refused in one line.

An answer retrieves, previews, decides and commits as in a run. Each of its steps is then read by the plain Hugging Face model in one full
pass, with the recorded impulse at the block's output: the likeliest token and its log-probability at each position must be the recorded
ones. The table in docs/reference/models.md is :data:`OUTCOMES`.
"""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from stir_core.config import DecodeConfig, GateConfig
from stir_core.errors import ModelError, SteeringError
from stir_core.intervene.controller import run_all
from stir_core.intervene.jobs import Job, Settings
from stir_core.intervene.memory import Memory
from stir_core.models.backends import block_list
from stir_core.models.loading import boot
from stir_core.models.sizes import sizes_of
from stir_core.tasks.segment import SEGMENTERS, register_segmenter
from tests.builders import make_entry
from tests.models.architectures import ARCHITECTURES, tiny

LAYER, M = 1, 3
GATE = GateConfig(k_retrieve=4, candidates=2, probe_tokens=3, k_scale=0.7, tau_null=-10.0)
PROMPTS = {"long": [(7 * i + 3) % 290 for i in range(24)], "short": [5, 9, 40], "other": [17, 3, 250, 61, 62, 63, 64, 65, 66]}
ONE_AT_A_TIME = {"qwen3 next", "qwen3.5", "qwen3.5 moe", "gpt-neo", "falcon", "falcon old", "bloom", "mpt", "lfm2", "falcon-h1"}
ONE_AT_A_TIME |= {"mamba 2", "granite hybrid"}
REFUSED = {
    "gemma 3n": "do not output one residual stream",
    "mamba": "cannot be decoded exactly",
    "jamba": "cannot be decoded exactly",
    "bert": "no list of 4 blocks",
}
OUTCOMES = {
    name: "refused" if name in REFUSED else "exact, one sequence at a time" if name in ONE_AT_A_TIME else "exact, packed"
    for name in ARCHITECTURES
}
IN_CI = (
    "llama",
    "mistral",
    "qwen2 window",
    "qwen3 moe",
    "qwen3.5",
    "gemma 2",
    "gemma 3",
    "gemma 3n",
    "phi 3 longrope",
    "olmo 2",
    "gpt-neox",
)
IN_CI += ("granite", "cohere 2", "gpt-2", "gpt-j", "falcon", "gpt-oss", "llama 4", "deepseek v3", "lfm2", "bert", "bloom")
CASES = [pytest.param(name, marks=() if name in IN_CI else pytest.mark.slow) for name in ARCHITECTURES]


@pytest.fixture(scope="module")
def steps():
    """Steps of a few tokens, whatever a random model writes."""
    yield register_segmenter("few-characters", lambda text: len(text) >= 4)
    del SEGMENTERS["segmenter:few-characters"]


def memory(scale: float = 1.0) -> Memory:
    rng = np.random.default_rng(0)
    entries = [make_entry(f"m{m}i{i}", m, LAYER, 1.0 - 0.01 * i) for m in range(1, M + 1) for i in range(6)]
    keys, actions = (rng.standard_normal((len(entries), 32)).astype(np.float32) for _ in range(2))
    return Memory(tuple(entries), keys, scale * 2 * actions)


@pytest.mark.parametrize("name", CASES)
def test_steered_tokens_are_those_of_full_passes_on_the_plain_model(name, steps, tokenizer):
    hf = tiny(name, len(tokenizer))
    if name in REFUSED:
        with pytest.raises((ModelError, SteeringError), match=REFUSED[name]) as caught:
            boot(name, hf, tokenizer, weights_sha256="0" * 64, backend="auto")
        assert "\n" not in str(caught.value)
        return
    plain = copy.deepcopy(hf)
    model = boot(name, hf, tokenizer, weights_sha256="0" * 64, backend="auto")
    assert model.backend.packs is (name not in ONE_AT_A_TIME)
    settings = Settings(DecodeConfig(max_new_tokens=14), M, steps)
    injected = 0
    for persistence in ("ephemeral", "persistent"):
        gate = GATE.model_copy(update={"persistence": persistence})
        jobs = [Job(each, ids, gate, memory()) for each, ids in PROMPTS.items()]
        traces = run_all(model, jobs, settings)
        for job, trace in zip(jobs, traces, strict=True):
            injected += follow(plain, job, trace, persistent=persistence == "persistent")
        (alone,) = run_all(model, jobs[1:2], settings)
        assert alone.token_ids == traces[1].token_ids
        for one, two in zip(alone.steps, traces[1].steps, strict=True):
            assert one.logprobs == pytest.approx(two.logprobs, abs=2e-3) and one.decision.chosen == two.decision.chosen
    assert injected >= 3, "the comparison proves nothing when nothing is steered"
    vanilla, none = run_all(model, [Job("v", PROMPTS["long"], GATE), Job("z", PROMPTS["long"], GATE, memory(0.0))], settings)
    assert none.token_ids == vanilla.token_ids and none.probe_tokens


@pytest.mark.parametrize("name", ["llama", "gpt-2", "qwen3 moe", "mixtral", "gpt-oss", "deepseek v3"])
def test_sizes_are_the_same_from_files_and_in_memory(name, tokenizer, tmp_path):
    hf = tiny(name, len(tokenizer))
    hf.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = sizes_of(str(tmp_path))
    model = boot(name, hf, tokenizer, weights_sha256="0" * 64, backend="bridge")
    assert found is not None
    assert (found.shape, found.n_layers, found.d_model, found.n_ctx) == (model.shape, model.n_layers, model.d_model, model.n_ctx)
    if name == "qwen3 moe":  # 2 of 4 experts, three matrices of 32 x 32 each, beside attention and router
        assert found.shape.block_parameters == 4 * (2 * 3 * 32 * 32 + 2 * 32 * 32 + 2 * 32 * 16 + 4 * 32)


def test_the_table_in_the_docs_is_what_is_tested():
    lines = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "models.md").read_text("utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ") and "`" in line]
    assert [(name, kind.strip("`")) for name, kind, _ in rows] == [(name, kind) for name, (kind, _) in ARCHITECTURES.items()]
    assert all(outcome.startswith(OUTCOMES[name]) for name, _, outcome in rows)


def follow(plain, job, trace, *, persistent: bool) -> int:
    """Read a trace's steps with full passes of the plain model; returns how many were steered."""
    ids, kept, injected = list(job.prompt_ids), [], 0
    for step in trace.steps:
        impulses, at = list(kept), len(ids) - 1
        tried = [entry for entry in step.evidence.retrieved if entry.preview_ids]
        for entry in tried[:1]:
            vector = entry.preview_scale * job.memory.action(entry.entry_id)
            check(plain, ids, entry.preview_ids, [*kept, (at, vector)], mean=entry.preview_logprob)
        if step.decision.chosen is not None:
            impulses.append((at, step.decision.alpha * job.memory.action(step.decision.chosen)))
            injected += 1
        check(plain, ids, step.token_ids, impulses, logprobs=step.logprobs)
        ids += step.token_ids
        kept = impulses if persistent else []
    return injected


def check(plain, ids, answer, impulses, *, logprobs=None, mean=None) -> None:
    def kick(module, args, output):
        stream = output if isinstance(output, torch.Tensor) else output[0]
        for position, vector in impulses:
            stream[:, position] += vector

    handle = block_list(plain)[LAYER].register_forward_hook(kick)
    with torch.inference_mode():
        found = plain(torch.tensor([[*ids, *answer[:-1]]]), use_cache=False).logits[0, len(ids) - 1 :].log_softmax(-1)
    handle.remove()
    chosen = found.gather(1, torch.tensor(answer)[:, None])[:, 0]
    assert (chosen >= found.amax(-1) - 2e-3).all(), "another token is likelier"
    if logprobs is not None:
        assert list(logprobs) == pytest.approx(chosen.tolist(), abs=2e-3)
    if mean is not None:
        assert mean == pytest.approx(float(chosen.mean()), abs=2e-3)
