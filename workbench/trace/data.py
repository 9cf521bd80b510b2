"""The Trace page's form: its presets and examples, and how tokens are drawn."""

from typing import Any

from stir_core.config import DecodeConfig, GateConfig
from stir_core.records import Problem

FIELDS = ("k_scale", "candidates", "probe_tokens", "variant", "persistence")
"""Gate settings that the form shows."""


def presets(gate: GateConfig) -> dict[str, dict[str, Any]]:
    """Values of the form's gate settings by the preset's name; ``gate`` is the run's own."""
    own = {field: getattr(gate, field) for field in FIELDS}
    other = "ephemeral" if gate.persistence == "persistent" else "persistent"
    return {
        "Run's own": own,
        "Strength 0": own | {"k_scale": 0.0},
        "Double strength": own | {"k_scale": 2 * gate.k_scale},
        "No probing": own | {"variant": "no_probing"},
        "Random vector": own | {"variant": "random_vector"},
        other.capitalize(): own | {"persistence": other},
    }


def preset_of(gate: GateConfig, shown: GateConfig) -> str | None:
    """Name of the preset that equals the form's values; ``None`` where there is none."""
    now = {field: getattr(shown, field) for field in FIELDS}
    return next((name for name, values in presets(gate).items() if values == now), None)


def examples(problems: dict[str, Problem], n: int = 3) -> list[str]:
    """Up to ``n`` questions of the run's task, spread evenly over its levels."""
    by_level: dict[str | None, str] = {}
    for problem in problems.values():
        by_level.setdefault(problem.level, problem.question)
    levels = min(n, len(by_level))
    first = [list(by_level.values())[i * (len(by_level) - 1) // max(1, levels - 1)] for i in range(levels)]
    return list(dict.fromkeys([*first, *by_level.values(), *(problem.question for problem in problems.values())]))[:n]


def drawing(decode: DecodeConfig, seed: int) -> str:
    """How tokens are sampled, and the seed."""
    if decode.temperature == 0:
        return f"greedy, seed {seed} (no random draws)"
    return f"temperature {decode.temperature:g}, seed {seed} (the same draws every time)"
