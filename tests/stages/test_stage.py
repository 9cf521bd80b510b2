"""Stages as they are declared: what each depends on, what it is made from, and that asking costs nothing."""

import subprocess
import sys

import pytest

from stir_core.config import STAGES, RunConfig, config_from
from stir_core.stages.stage import check_fresh, declared, sources, stage_digest
from stir_core.store.runs import Run


@pytest.mark.parametrize(
    ("data", "first_changed"),
    [
        ({"seed": 1}, "rollouts"),
        ({"rollouts": {"k": 4}}, "rollouts"),
        ({"mining": {"k_pos": 1}}, "states"),
        ({"compat": True}, "states"),
        ({"mining": {"stability_rolls": 2}}, "actions"),
        ({"basis": {"budget": 9}}, "basis"),
        ({"gate": {"k_scale": 0.5}}, "steered"),
        ({"task": {"n_eval": 3}}, "steered"),
        ({"rollouts": {"batch_rows": 4}}, None),
        ({"decode": {"batch_problems": 2}}, None),
        ({"model": {"device": "cpu"}}, None),
    ],
)
def test_a_stage_depends_on_its_own_settings_and_those_before_it(data, first_changed):
    base, changed = RunConfig(), config_from(data)
    differs = [stage_digest(base, stage) != stage_digest(changed, stage) for stage in STAGES]
    assert differs == [first_changed is not None and STAGES.index(stage) >= STAGES.index(first_changed) for stage in STAGES]


@pytest.mark.parametrize("stage", STAGES)
def test_the_embedded_run_was_made_by_the_stages_as_they_are_declared(stage):
    run = Run.open("smollm2")
    check_fresh(run, stage)
    assert tuple(run.manifest(stage).inputs) == sources(stage) == tuple(STAGES[: STAGES.index(stage)])
    assert declared(stage).name == stage


def test_asking_about_stages_loads_no_torch():
    code = "import sys; from stir_core.stages.stage import check_fresh; from stir_core.store.runs import Run; "
    code += "[check_fresh(Run.open('smollm2'), stage) for stage in Run.open('smollm2').stages()]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
