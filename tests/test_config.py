"""Configs: validation with helpful messages, and digests that cover exactly the settings of a stage."""

import os
import tomllib
from pathlib import Path

import pytest

from stir_core.config import GateConfig, RunConfig, config_from, digest_of, resolve_layers, section_from
from stir_core.errors import ConfigError
from stir_core.evaluate.sweep import SweepConfig, changed, grid_points
from stir_core.latent.registry import strategy
from stir_core.latent.rl import RlOptions
from stir_core.requests import LatentTraining
from stir_core.store.configs import read_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"gate": {"kscale": 1}}, "unknown config key gate.kscale: did you mean gate.k_scale?"),
        ({"gates": {}}, "unknown config key gates: did you mean gate?"),
        ({"basis": {"zzz": 1}}, "unknown config key basis.zzz: known keys here: selector, budget"),
        ({"gate": {"k_scale": -1}}, "config key gate.k_scale = -1: input should be greater than or equal to 0"),
        ({"basis": {"selector": "best"}}, "config key basis.selector = 'best'"),
        ({"delimiter": ""}, "config key delimiter = ''"),
        ({"gate": {"k_scale": float("nan")}}, "config key gate.k_scale = nan: input should be a finite number"),
        ({"gate": {"beta": float("inf")}}, "config key gate.beta = inf: input should be a finite number"),
    ],
)
def test_a_bad_key_or_value_is_one_clear_line(data, message):
    with pytest.raises(ConfigError) as caught:
        config_from(data)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("specs", "layers"),
    [
        ((0.6,), (17,)),
        ((-1,), (29,)),
        ((3, -1, 0.0), (0, 3, 29)),
        (("3/5",), (17,)),
        (("1/2", 0.5), (14,)),
        (("12",), (12,)),
        ((1.0,), (29,)),
        (None, tuple(range(20, 30))),
    ],
)
def test_layers_of_a_thirty_block_model(specs, layers):
    assert resolve_layers(specs, 30) == layers


@pytest.mark.parametrize("spec", [30, -31, 1.5, "x", "1/0", "a/b"])
def test_a_layer_outside_the_model(spec):
    with pytest.raises(ConfigError, match="layer"):
        resolve_layers((spec,), 30)


def test_no_layers_at_all():
    with pytest.raises(ConfigError, match=r"mining\.layers is empty"):
        resolve_layers((), 30)


def test_every_field_has_a_help_string():
    for section in [
        RunConfig,
        *(type(getattr(RunConfig(), name)) for name in ("model", "task", "rollouts", "mining", "basis", "gate", "decode")),
    ]:
        for name, field in section.model_fields.items():
            assert field.description or hasattr(field.annotation, "model_fields"), f"{section.__name__}.{name}"


SHIPPED = sorted(file for folder in (".", "protocol", "kit") for file in (ROOT / "configs" / folder).glob("*.toml"))
SWEEPS = [file for file in SHIPPED if file.stem.startswith("sweep")]
TRAININGS = [file for file in SHIPPED if file.stem.startswith("latent")]
OTHERS = ("results", "protocol", "kit-small", "kit-30min", "kit-24h")


@pytest.mark.parametrize(
    "file", [file for file in SHIPPED if file not in (*SWEEPS, *TRAININGS) and file.stem not in OTHERS], ids=lambda file: file.stem
)
def test_every_shipped_config_is_valid(file):
    read_config(file)


@pytest.mark.parametrize("file", TRAININGS, ids=lambda file: file.stem)
def test_every_shipped_latent_training_is_valid(file):
    training = read_config(file, LatentTraining)
    section_from(strategy(training.strategy).options_type, training.options)
    section_from(RlOptions, training.rl)


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_shipped_sweep_is_valid(file):
    sweep = SweepConfig.model_validate(tomllib.loads(file.read_text()))
    base = read_config(file.parent / sweep.base)
    assert len({changed(base, point).model_dump_json() for point in grid_points(sweep)}) == len(grid_points(sweep)) > 1


def test_a_config_survives_json():
    config = RunConfig.model_validate({"mining": {"layers": [0.6, -1, "3/5"]}, "task": {"levels": ["a"]}})
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_files_that_are_not_configs(tmp_path):
    with pytest.raises(ConfigError, match="no config file at"):
        read_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        read_config(tmp_path / "bad.toml")
    (tmp_path / "empty.toml").write_text("# nothing is set\n")
    assert read_config(tmp_path / "empty.toml") == RunConfig()
    with pytest.raises(ConfigError, match="is no file and sets nothing: name a config"):
        read_config(Path(os.devnull))
    (tmp_path / "typo.toml").write_text("[gate]\nkscale = 1\n")
    with pytest.raises(ConfigError, match=r"typo\.toml: unknown config key gate\.kscale: did you mean"):
        read_config(tmp_path / "typo.toml")


def test_later_keys_leave_digests_of_older_runs_valid():
    older = RunConfig().model_dump(mode="json")
    for section, key in (("mining", "equal_numbers"), ("gate", "rule")):
        del older[section][key]
    assert digest_of(older) == digest_of(RunConfig())
    assert digest_of(RunConfig(gate=GateConfig(rule="calibrated"))) != digest_of(RunConfig())
    assert digest_of({"gate": [{"rule": "score", "beta": 1}]}) == digest_of({"gate": [{"beta": 1}]})
