"""The commands that make or reproduce what a page shows. The only place in the workbench that knows the command line's spelling."""

import shlex
from collections.abc import Mapping
from typing import Any

from stir_core.store.runs import DEMO, Run

FIRST_RUN = "stir run configs/demo.toml --out runs/demo"
"""What a newcomer with an empty store should type."""


def name_of(run: Run) -> str:
    """How a command names this run: ``demo`` for the embedded one, its folder otherwise."""
    return "demo" if run.path == DEMO else str(run.path)


def run_command(run: Run, until: str | None = None) -> str:
    """Makes (or resumes) the run, up to a stage."""
    made_by = run.facts.get("command")
    if isinstance(made_by, str) and until is None:
        return made_by
    config = str(run.facts.get("config_file") or "CONFIG.toml")
    parts = ["stir", "run", config, "--out", str(run.path)]
    return shlex.join(parts + (["--until", until] if until else []))


def eval_command(run: Run) -> str:
    """Compares the run's actions with doing nothing, with one fixed vector and with noise."""
    return shlex.join(["stir", "eval", name_of(run), "--methods", "vanilla", "stir", "static", "noise"])


def causal_command(run: Run) -> str:
    """Measures the run's actions one by one."""
    return shlex.join(["stir", "causal", name_of(run)])


def critical_command(run: Run, problem_id: str, of: str, *, every: int | None = None, rolls: int | None = None) -> str:
    """Measures where a wrong held-out answer was lost."""
    flags = [part for flag, value in (("--every", every), ("--rolls", rolls)) if value for part in (flag, str(value))]
    return shlex.join(["stir", "critical", name_of(run), problem_id, "--of", of, *flags])


_FLAGS = {
    "gate.k_scale": "--strength",
    "gate.variant": "--variant",
    "gate.persistence": "--persistence",
    "gate.candidates": "--candidates",
    "gate.probe_tokens": "--probe-tokens",
    "decode.max_new_tokens": "--max-new-tokens",
}


def trace_command(run: Run, prompt: str, *, raw: bool = False, changed: Mapping[str, Any] | None = None) -> str:
    """Reproduces a comparison: the prompt (or a held-out problem's id), and every setting that differs from the run's own."""
    flags = [part for key, value in (changed or {}).items() for part in (_FLAGS[key], str(value))]
    return shlex.join(["stir", "trace", name_of(run), prompt, *(["--raw"] if raw else []), *flags])
