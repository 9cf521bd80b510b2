"""docs/explanation/kv-semantics.md: a persistent impulse changes later states above its layer, but not at its layer."""

import numpy as np
import pytest
import torch

from stir_core.config import DecodeConfig, GateConfig
from stir_core.intervene.controller import run_all
from stir_core.intervene.jobs import Forced, Job, Settings
from stir_core.intervene.memory import Memory
from stir_core.tasks.segment import boundaries
from tests.builders import make_entry

PROMPT, DELIMITER, LAYER = [5, 9, 40, 7, 100], "e", 2


@pytest.mark.parametrize(("impulse_layer", "changed"), [(LAYER, False), (LAYER - 1, True)])
def test_cosines_of_the_same_text_change_only_above_the_impulse(tiny, impulse_layer: int, changed: bool) -> None:
    rng = np.random.default_rng(0)
    entries = tuple(make_entry(f"m2i{i}", 2, LAYER) for i in range(6))
    memory = Memory(entries, rng.standard_normal((6, tiny.d_model)), rng.standard_normal((6, tiny.d_model)))
    settings = Settings(DecodeConfig(max_new_tokens=24), 4, DELIMITER)
    (vanilla,) = run_all(tiny, [Job("vanilla", PROMPT, GateConfig())], settings)
    given = vanilla.token_ids[: boundaries(vanilla.token_ids, tiny.text, DELIMITER)[1]]
    impulse = Forced("earlier", impulse_layer, torch.tensor(3 * rng.standard_normal(tiny.d_model), dtype=torch.float32))

    def cosines(persistence: str) -> tuple[np.ndarray, float | None]:
        gate = GateConfig.model_validate({"persistence": persistence, "candidates": 1, "previews": "all"})
        (trace,) = run_all(tiny, [Job("it", PROMPT, gate, memory, given=given, past=lambda m: impulse if m == 1 else None)], settings)
        evidence = trace.steps[0].evidence
        assert evidence.m == 2
        return np.array([entry.sim for entry in sorted(evidence.retrieved, key=lambda entry: entry.entry_id)]), evidence.null_logprob

    (ephemeral, before), (persistent, after) = cosines("ephemeral"), cosines("persistent")
    assert before is not None and after is not None and abs(before - after) > 1e-3  # the impulse is in the cache: it changes the preview
    assert (float(np.abs(ephemeral - persistent).max()) > 1e-3) is changed
    assert changed or np.allclose(ephemeral, persistent, atol=1e-6)
