"""Gate settings worth a name, and questions to begin with: each preset says only in what it differs from the run's own settings."""

from typing import Any

from stir_core.config import DecodeConfig, GateConfig
from stir_core.records import Problem

FIELDS = ("k_scale", "candidates", "probe_tokens", "variant", "persistence")
"""Gate settings that the form shows."""


def presets(gate: GateConfig) -> dict[str, dict[str, Any]]:
    """By name, the value of each of the form's gate settings; ``gate`` are the run's own."""
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
    """Name of the preset that the form stands at, if it is one."""
    now = {field: getattr(shown, field) for field in FIELDS}
    return next((name for name, values in presets(gate).items() if values == now), None)


def examples(problems: dict[str, Problem], n: int = 3) -> list[str]:
    """Questions of the kind that the run was made with, of as many levels as there are, evenly over them."""
    by_level: dict[str | None, str] = {}
    for problem in problems.values():
        by_level.setdefault(problem.level, problem.question)
    found = list(dict.fromkeys([*by_level.values(), *(problem.question for problem in problems.values())]))
    levels = min(n, len(by_level))
    first = [list(by_level.values())[i * (len(by_level) - 1) // max(1, levels - 1)] for i in range(levels)]
    return (first + [question for question in found if question not in first])[:n]


def drawing(decode: DecodeConfig, seed: int) -> str:
    """How tokens are drawn, with the seed in any case."""
    if decode.temperature == 0:
        return f"greedy, seed {seed} (nothing is drawn at random)"
    return f"temperature {decode.temperature:g}, seed {seed} (the same draws every time)"
