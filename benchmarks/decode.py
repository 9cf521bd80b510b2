"""Plain decoding against Hugging Face ``generate`` and ``bridge.generate``: ``python -m benchmarks.decode [--dtype ...] [--json]``.

All implementations decode one prompt greedily to the same number of tokens.
The Hugging Face peer runs with the faster of its two attention kernels.
"""

import sys
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.harness import checked, interleaved, machine, measured, ratio, read_bandwidth
from stir_core.models.catalogue import prepare, resolve
from stir_core.models.generation import Strand
from stir_core.models.loading import DTYPES, LoadedModel, load_model
from stir_core.models.scheduler import Listed, Seat, Steps, decode, schedule

QUESTION = "Tom has 5 apples, buys 3 more and gives 2 to each of his 2 friends. How many are left? Explain every step before you answer."


def ours(model: LoadedModel, ids: list[int], rows: int, tokens: int) -> list[list[int]]:
    """Several answers to one prompt, which is read once for all of them."""
    strands = [Strand(str(i), tokens) for i in range(rows)]

    def answer(seat: Seat, strand: Strand) -> Steps[None]:
        strand.row = seat.open()
        here = yield from seat.read(strand.row, ids)
        yield from decode([strand], here.logits)

    for _ in schedule(model, Listed(strands, None), answer):
        pass  # these answers have nothing to tell
    return [strand.ids for strand in strands]


def hugging_face(hf: Any, ids: list[int], rows: int, tokens: int) -> list[list[int]]:
    """``generate`` on the plain model."""
    with torch.inference_mode():
        out = hf.generate(
            torch.tensor([ids] * rows), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0, eos_token_id=None
        )
    return out[:, len(ids) :].tolist()


def bridge_generate(model: LoadedModel, ids: list[int], tokens: int) -> None:
    """TransformerLens's own generate, one sequence."""
    with torch.inference_mode(), model.lock:
        model.bridge.generate(
            torch.tensor([ids]), max_new_tokens=tokens, do_sample=False, stop_at_eos=False, verbose=False, return_type="tokens"
        )


def plain_peers(name: str, dtype: str) -> dict[str, Any]:
    """The plain Hugging Face model, once with each attention kernel (the weights are shared)."""
    folder = prepare(resolve(name))
    peers = {}
    for kernel in ("sdpa", "eager"):
        peers[kernel] = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype], attn_implementation=kernel).eval()
        peers[kernel].generation_config.eos_token_id = None
    return peers


def measure(name: str, dtype: str, *, quick: bool) -> dict[str, Any]:
    """Measure decoding in one numeric type, against Hugging Face and the bridge."""
    bandwidth = read_bandwidth()
    model = replace(load_model(name, dtype=dtype), stop_ids=frozenset())
    peers = plain_peers(name, dtype)
    ids = model.chat_ids(QUESTION)
    weights = sum({p.data_ptr(): p.numel() * p.element_size() for p in model.bridge.parameters()}.values())
    tokens, rounds = (8, 2) if quick else (32, 5)
    figures: dict[str, Any] = {}
    rate: dict[str, float] = {}
    for rows in (1, 4) if quick else (1, 8, 16, 32):
        ways: dict[str, Any] = {"ours": lambda rows=rows: ours(model, ids, rows, tokens)}
        ways |= {kernel: lambda rows=rows, hf=hf: hugging_face(hf, ids, rows, tokens) for kernel, hf in peers.items()}
        if rows == 1:
            ways["bridge"] = lambda: bridge_generate(model, ids, tokens)
        times = interleaved(ways, rounds)
        faster = min(peers, key=lambda kernel, times=times: sorted(times[kernel])[len(times[kernel]) // 2])
        figures[f"decode.batch{rows}.vs_hf"] = ratio(times, faster, "ours")
        figures[f"decode.batch{rows}.hf_attention"] = faster
        rate[f"batch {rows}"] = rows * tokens / sorted(times["ours"])[rounds // 2]
        if rows == 1:
            figures["decode.batch1.vs_bridge_generate"] = ratio(times, "bridge", "ours")
            figures["decode.batch1.bandwidth_fraction"] = weights * rate["batch 1"] / bandwidth
            figures["read_bandwidth_gb_s"] = bandwidth / 1e9
    decoded = ours(model, ids, 1, tokens)
    same = decoded == hugging_face(peers["eager"], ids, 1, tokens)
    figures["decode.tokens_equal"] = same
    return {
        "dtype": dtype,
        "machine": machine(),
        "figures": figures,
        "cost_model": {"tokens per second by batch": rate},
        **checked(same or dtype != "float32", tokens=sum(map(len, decoded))),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure and print; exit code 1 when the tokens differ from Hugging Face's in float32."""
    return measured("decode", __doc__, measure, argv)


if __name__ == "__main__":
    sys.exit(main())
