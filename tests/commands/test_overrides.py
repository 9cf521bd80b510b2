"""Changes between two configs, and configs as TOML: both ways are exact."""

import tomllib

import pytest

from stir_core.commands.overrides import as_text, as_toml, changes_between, left_out, overridden
from stir_core.config import RunConfig, config_from
from stir_core.errors import ConfigError

NASTY = 'a "quoted" \\boxed{x}\n\ttab = [1] # no comment \x7f é 🙂 none'
CHANGED = [
    {},
    {"seed": 3, "delimiter": "\n", "compat": True},
    {"task": {"name": "gsm8k", "levels": ["a b", "c"], "system": NASTY}},
    {"task": {"system": "none"}},
    {"mining": {"layers": [1, 0.5, "3/5", -2]}},
    {"mining": {"layers": [1.0]}},
    {"mining": {"layers": None}},
    {"basis": {"epsilon": 1e-9, "keep_unreachable": True}, "gate": {"min_tool_m": 2, "beta": 1e300}},
]


@pytest.mark.parametrize("data", CHANGED)
@pytest.mark.parametrize("start", [{}, {"mining": {"layers": [1]}, "task": {"system": "x"}, "gate": {"max_tool_m": 3}}])
def test_changes_make_the_one_of_the_other(start, data):
    base, config = config_from(start), config_from(data)
    made = overridden(base, changes_between(base, config))
    assert made == config and made.model_dump_json() == config.model_dump_json()  # 1 and 1.0 are not the same layer


@pytest.mark.parametrize("data", CHANGED)
def test_toml_comes_back(data):
    config = config_from(data)
    again = overridden(config_from(tomllib.loads(as_toml(config))), left_out(config))
    assert again.model_dump_json() == config.model_dump_json()


def test_only_what_differs_is_named():
    base = RunConfig()
    assert changes_between(base, base) == [] == left_out(base)
    changed = config_from({"rollouts": {"k": 4}, "mining": {"layers": None}})
    assert changes_between(base, changed) == ["rollouts.k=4", "mining.layers=none"]
    assert as_text(["a", 1, 0.5]) == '["a", 1, 0.5]'


def test_none_is_only_for_what_can_be_left_out():
    with pytest.raises(ConfigError, match=r"config key seed = None"):
        overridden(RunConfig(), ["seed=none"])
    assert overridden(RunConfig(), ['task.system="none"']).task.system == "none"
