"""Retrieval against the bare matrix product with top-k: ``python -m benchmarks.retrieve [--quick] [--json]``.

``--large N`` measures one library of N keys at one control point instead: held in memory, left in its file, and with an approximate index
if usearch is installed. All entries of the library lie at that control point, the worst case: a run's are spread over several.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import checked, corrective, interleaved, machine, measured, parser, ratio, show
from stir_core.config import GateConfig
from stir_core.intervene import memory as retrieval
from stir_core.intervene.memory import Memory
from stir_core.store.tensors import MappedRows, write_tensors

WIDTH, LAYER = 576, 17
QUERIES = 50
FACTORS = 64
"""Independent directions that most of a key's variance lies in, since residual states are far from isotropic."""


def structured(n: int, seed: int, mixing: np.ndarray) -> np.ndarray:
    """Keys with a common mean, :data:`FACTORS` strong directions, and noise in all."""
    rng = np.random.default_rng(seed)
    keys = rng.standard_normal((n, FACTORS), dtype=np.float32) @ mixing
    keys += 0.5 * rng.standard_normal((n, WIDTH), dtype=np.float32)
    keys += 1.2
    return keys


class Observed(MappedRows):
    """Remembers the most rows that were read at once, and this process's largest private memory at any read."""

    most, private = 0, 0.0

    def __getitem__(self, which: Any) -> np.ndarray:
        found = super().__getitem__(which)
        self.most, self.private = max(self.most, len(found)), max(self.private, private_mb())
        return found


def private_mb() -> float:
    """Memory of this process in MB that is no page of a file."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return float(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def large(n: int, folder: Path, *, index: bool) -> dict[str, Any]:
    """One library of ``n`` keys three ways, in processor seconds of one thread."""
    mixing = np.random.default_rng(9).standard_normal((FACTORS, WIDTH)).astype(np.float32) * (1.5 / FACTORS**0.5)
    file = folder / "actions.safetensors"
    write_tensors(file, {"keys": structured(n, 0, mixing)})
    entries = tuple(corrective(f"e{i}", 1, LAYER, 1.0, i) for i in range(n))
    states = [torch.from_numpy(row) for row in structured(QUERIES, 1, mixing)]
    before = private_mb()
    keys = Observed(file, "keys", range(n), columns=WIDTH)
    memory, gate = Memory(entries, keys, keys), GateConfig()

    def found(memory: Memory, gate: GateConfig) -> tuple[list[Any], float]:
        memory.retrieve(1, {LAYER: states[0]}, gate)
        start = time.process_time()
        return [memory.retrieve(1, {LAYER: state}, gate)[0] for state in states], (time.process_time() - start) / QUERIES * 1e3

    of_file, from_file = found(memory, gate)
    figures = {
        "file.milliseconds": from_file,
        "file.block_mb": keys.most * WIDTH * 4 / 1e6,
        "file.private_mb_above_entries": keys.private - before,
        "keys_mb": n * WIDTH * 4 / 1e6,
    }
    whole = keys[:]
    held = Memory(entries, whole, whole[:1])  # actions are not asked for
    del whole
    of_memory, in_memory = found(held, gate)
    figures |= {"memory.milliseconds": in_memory, "same_bits": of_file == of_memory}
    if index:
        retrieval.INDEX_FROM = 1
        start = time.process_time()
        held.retrieve(1, {LAYER: states[0]}, (near := GateConfig(search="approximate")))
        build = time.process_time() - start
        of_index, by_index = found(held, near)
        shared = [len({e.entry_id for e in one} & {e.entry_id for e in two}) for one, two in zip(of_memory, of_index, strict=True)]
        figures |= {
            "index.build_seconds": build,
            "index.milliseconds": by_index,
            "index.recall_of_states": sum(shared) / (QUERIES * gate.k_retrieve),
            "index.recall_stated": held.recall(1),
            "index.pays_after_retrievals": build * 1e3 / (in_memory - by_index) if in_memory > by_index else None,
        }
    return {f"retrieve.large{n}.{name}": value for name, value in figures.items()}


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
    options = parser("retrieve", __doc__, model=False)
    options.add_argument("--large", type=int, metavar="N", help="keys of one library")
    options.add_argument("--index", action="store_true", help="with --large: an approximate index, too (minutes)")
    arguments = options.parse_args(argv)
    if not arguments.large:
        return measured("retrieve", __doc__, measure, argv, model=False)
    with tempfile.TemporaryDirectory() as folder:
        figures = large(arguments.large, Path(folder), index=arguments.index)
    equal = checked(figures[f"retrieve.large{arguments.large}.same_bits"], retrievals=QUERIES)
    show({"machine": machine(), "figures": figures, **equal}, arguments.json)
    return 0 if equal["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
