"""A naive implementation of STIR as the oracle: one full prefill for every state, every preview and every committed step.

It runs on the plain Hugging Face model and shares no code with the decode loop, whose decisions and tokens must be the same.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stir_core.config import GateConfig
from stir_core.intervene.memory import Memory

Spike = tuple[int, Tensor] | None
"""Layer and vector, added at the last prefix token."""


@dataclass
class NaiveAnswer:
    """The tokens and decisions of the naive scheme."""

    ids: list[int] = field(default_factory=list)
    chosen: list[str | None] = field(default_factory=list)
    alphas: list[float] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


def prefill(hf: Any, ids: list[int], spike: Spike, watch: int) -> tuple[Tensor, Tensor, Any]:
    """One pass over all tokens: logits after the last token, the state of layer ``watch`` there, and the cache."""
    seen: dict[str, Tensor] = {}
    handles = []

    def steer(module: Any, args: Any, output: Any) -> Any:
        stream = output[0] if isinstance(output, tuple) else output
        stream[:, -1] += spike[1] if spike is not None else 0
        return output

    def keep(module: Any, args: Any, output: Any) -> None:
        seen["state"] = (output[0] if isinstance(output, tuple) else output)[0, -1].clone()

    if spike is not None:
        handles.append(hf.model.layers[spike[0]].register_forward_hook(steer))
    handles.append(hf.model.layers[watch].register_forward_hook(keep))
    try:
        out = hf(torch.tensor([ids]), use_cache=True, logits_to_keep=1)
    finally:
        for handle in handles:
            handle.remove()
    return out.logits[0, -1].float(), seen["state"].float(), out.past_key_values


def decode(
    hf: Any, ids: list[int], spike: Spike, budget: int, ends: Callable[[list[int]], bool], watch: int
) -> tuple[list[int], list[float]]:
    """A full prefill, then greedy tokens from its cache."""
    logits, _, cache = prefill(hf, ids, spike, watch)
    out: list[int] = []
    logprobs: list[float] = []
    while True:
        token = int(logits.argmax())
        out.append(token)
        logprobs.append(float(logits[token] - logits.logsumexp(-1)))
        if len(out) >= budget or ends(out):
            return out, logprobs
        logits = hf(torch.tensor([[token]]), past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1].float()


@torch.inference_mode()
def answer(
    hf: Any,
    prompt: list[int],
    memory: Memory,
    gate: GateConfig,
    *,
    layer: int,
    control_points: int,
    budget: int,
    ends: Callable[[list[int]], bool],
) -> NaiveAnswer:
    """One greedy, steered answer; ``ends`` decides where steps end. Source: arXiv 2602.04925, Stage III; ephemeral, previews at scale 1."""
    found = NaiveAnswer()
    m = 0
    while len(found.ids) < budget:
        prefix = [*prompt, *found.ids]
        spike: Spike = None
        chosen, alpha = None, 0.0
        if 1 <= m <= control_points - 1:
            _, state, _ = prefill(hf, prefix, None, layer)
            retrieved, _ = memory.retrieve(m, {layer: state}, gate)
            null = max([0.0, *(entry.value for entry in retrieved if entry.kind == "null")])
            corrective = sorted((e for e in retrieved if e.kind == "corrective"), key=lambda e: (-e.value, -e.sim))[: gate.candidates]
            _, base = decode(hf, prefix, None, gate.probe_tokens, ends, layer)
            scored = []
            for entry in corrective:
                _, probe = decode(hf, prefix, (layer, memory.action(entry.entry_id)), gate.probe_tokens, ends, layer)
                scored.append((gate.beta * entry.value + gate.rho * (sum(probe) / len(probe) - sum(base) / len(base)), entry))
            if scored:
                score, best = max(scored, key=lambda row: row[0])
                if score > gate.beta * null and score >= gate.tau_null and gate.k_scale * score > 0:
                    chosen, alpha = best.entry_id, gate.k_scale * score
                    spike = (layer, alpha * memory.action(best.entry_id))
        out, logprobs = decode(hf, prefix, spike, budget - len(found.ids), ends, layer)
        found.ids += out
        found.logprobs += logprobs
        found.chosen.append(chosen)
        found.alphas.append(alpha)
        m += 1
        if not ends(out):
            break
    return found
