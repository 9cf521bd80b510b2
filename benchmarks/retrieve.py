"""Retrieval against the bare matrix product with top-k: ``python -m benchmarks.retrieve [--quick] [--json]``."""

import sys
from typing import Any

import numpy as np
import torch

from benchmarks.harness import checked, corrective, interleaved, machine, measured, ratio
from stir_core.config import GateConfig
from stir_core.intervene.memory import Memory

WIDTH, LAYER = 576, 17


def measure(*, quick: bool) -> dict[str, Any]:
    """Measure everything and return the figures by name."""
    sizes = (2_000,) if quick else (1_000, 10_000, 100_000)
    figures: dict[str, Any] = {}
    cost: dict[str, float] = {}
    equal, entries = True, 0
    gate = GateConfig()
    for n in sizes:
        rng = np.random.default_rng(0)
        keys = (rng.standard_normal((n, WIDTH)) + 1.2).astype(np.float32)
        memory = Memory(tuple(corrective(f"e{i}", 1, LAYER, 1.0, i) for i in range(n)), keys, keys)
        state = torch.tensor(rng.standard_normal(WIDTH) + 1.2, dtype=torch.float32)
        unit = torch.nn.functional.normalize(torch.tensor(keys), dim=-1)

        def bare(unit: torch.Tensor = unit, state: torch.Tensor = state) -> list[int]:
            return (unit @ (state / state.norm())).topk(gate.k_retrieve).indices.tolist()

        def ours(memory: Memory = memory, state: torch.Tensor = state) -> list[str]:
            return [entry.entry_id for entry in memory.retrieve(1, {LAYER: state}, gate)[0]]

        loops = range(max(1, 200_000 // n))
        times = interleaved({"ours": lambda r=loops, f=ours: [f() for _ in r], "bare": lambda r=loops, f=bare: [f() for _ in r]}, 9)
        figures[f"retrieve.n{n}.vs_matmul"] = ratio(times, "ours", "bare")
        cost[f"n = {n}"] = sorted(times["ours"])[4] / len(loops) * 1e3
        equal &= ours() == [f"e{i}" for i in bare()]
        entries += len(ours())
    figures["retrieve.same_entries"] = equal
    return {
        "machine": machine(),
        "figures": figures,
        "cost_model": {"milliseconds by library size": cost},
        **checked(equal, entries=entries),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure and print; exit code 1 if other entries are retrieved."""
    return measured("retrieve", __doc__, measure, argv, model=False)


if __name__ == "__main__":
    sys.exit(main())
