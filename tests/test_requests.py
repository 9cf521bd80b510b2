"""Requests: declared once, refused in one line, and equal from the command line, from Python and on disk."""

import argparse
import shlex
from typing import Any

import numpy as np
import pytest

import stir_core as stir
from stir_core.cli import main
from stir_core.commands.flags import add_answering, add_fields, answering, asked
from stir_core.config import GateConfig, RunConfig
from stir_core.errors import ConfigError
from stir_core.findings import CausalSpec, EvaluationSpec
from stir_core.requests import CausalRequest, CriticalRequest, EvaluationRequest, Limits, flags_of
from stir_core.store.causal import CausalFolder
from stir_core.store.evaluations import evaluations

REQUESTS = (EvaluationRequest, CausalRequest, CriticalRequest)
FULL = {
    EvaluationRequest: {"methods": ("stir", "deer"), "n": 3, "levels": ("a b", "c"), "seeds": 2, "label": "x", "fresh": True, "rows": 4},
    CausalRequest: {"study": "own", "n": 3, "states": 2, "halving": False, "strength": 0.25, "budget_tokens": 900, "layers": (1, 2)},
    CriticalRequest: {"of": "vanilla", "every": 4, "rolls": 2},
}


def parsed(kind, words: list[str]):
    parser = argparse.ArgumentParser()
    add_fields(parser, kind)
    return asked(parser.parse_args(words), kind)


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("full", [False, True])
def test_a_request_round_trips_through_its_flags(kind, full):
    assert {name for name, field in kind.model_fields.items() if isinstance(field.default, tuple)} <= set(FULL[kind])  # every list
    request = kind(**FULL[kind]) if full else kind()
    words = flags_of(request)
    assert parsed(kind, words) == request and bool(words) == full
    assert shlex.split(shlex.join(words)) == words


@pytest.mark.parametrize("kind", REQUESTS)
def test_every_setting_has_its_help(kind):
    assert all(field.description and field.description.endswith(".") for field in kind.model_fields.values())


@pytest.mark.parametrize("command", ["eval", "causal", "critical", "sweep", "trace", "whatif", "run", "estimate"])
def test_every_command_has_a_usage_line(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0 and "--" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("eval smollm2 --n 0", "--n 0: input should be greater than or equal to 1"),
        ("eval smollm2 --rows=-3", "--rows -3: input should be"),
        ("causal smollm2 --strength nan", "--strength nan: input should be a finite number"),
        ("causal smollm2 --strength=-1", "--strength -1.0: input should be"),
        ("causal smollm2 --max-new-tokens 0", "--max-new-tokens 0: input should be"),
        ("critical smollm2 --every 0", "--every 0: input should be"),
        ("sweep none.toml --rows 0", "--rows 0: input should be"),
        ("sweep none.toml --test=-1", "--test -1: input should be"),
        ("trace smollm2 hi --strength inf", "--strength inf: input should be a finite number"),
        ("trace smollm2 hi --max-new-tokens 0", "--max-new-tokens 0: input should be"),
        ("whatif smollm2 hi --at 1 --strength=-1", "--strength -1.0: input should be"),
        ("whatif smollm2 hi --at=-1", "--at -1: input should be greater than or equal to 0"),
        ("whatif smollm2 hi --at 1 --force p1c --alpha nan", "--alpha nan: input should be a finite number"),
    ],
)
def test_invalid_values_are_refused_in_one_line(words, said, capsys):
    assert main(words.split()) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"stir: {said}") and line.count("\n") == 1


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (EvaluationRequest, {"max_new_tokens": True}, "setting max_new_tokens = True: input should be a valid integer"),
        (EvaluationRequest, {"max_new_tokens": "5"}, "setting max_new_tokens = '5': input should be a valid integer"),
        (EvaluationRequest, {"methods": "stir"}, "setting methods = 'stir': give a list, e.g. ['stir']"),
        (CausalRequest, {"strength": float("nan")}, "setting strength = nan: input should be a finite number"),
        (CausalRequest, {"halving": 1}, "setting halving = 1: input should be a valid boolean"),
        (Limits, {"rowz": 1}, "unknown setting rowz: did you mean rows?"),
        (GateConfig, {"k_scale": "0.5"}, "config key k_scale = '0.5': input should be a valid number"),
        (GateConfig, {"k_scale": True}, "config key k_scale = True: input should be a valid number"),
        (GateConfig, {"min_tool_m": 3, "max_tool_m": 2}, "min_tool_m 3 is above max_tool_m 2"),
        (RunConfig, {"gate": {"candidates": 0}}, "config key gate.candidates = 0: input should be"),
        (RunConfig, {"mining": {"layers": [True]}}, "config key mining.layers.0 = True: input should be"),
        (stir.Change, {"m": "4"}, "change field m = '4': input should be a valid integer"),
        (stir.Change, {"m": 1, "alpha": float("inf")}, "change field alpha = inf: input should be a finite number"),
        (stir.Change, {}, "change field m is missing"),
        (stir.Problem, {"id": "a"}, "problem field task is missing"),
    ],
)
def test_construction_refuses_in_one_line(kind, values, said):
    with pytest.raises(stir.StirError) as caught:
        kind(**values)
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


def test_whole_numbers_lists_and_numpy_numbers_are_taken():
    numbers: Any = {"k_scale": 2, "candidates": np.int64(3), "rho": np.float32(0.5)}
    assert GateConfig(**numbers) == GateConfig(k_scale=2.0, candidates=3, rho=0.5)
    lists: Any = {"methods": ["stir"], "levels": ["a"]}
    assert EvaluationRequest(**lists) == EvaluationRequest(methods=("stir",), levels=("a",))


@pytest.mark.parametrize("measure", [stir.measure_causal, stir.evaluate_methods])
def test_python_refuses_the_same_before_it_uses_the_model(measure):
    run = stir.open_run("smollm2")
    with pytest.raises(ConfigError, match="unknown setting rowz: did you mean rows"):
        measure(run, None, rowz=3)
    with pytest.raises(ConfigError, match="setting max_new_tokens = 0: input should be"):
        measure(run, None, max_new_tokens=0)


def test_specs_on_disk_are_resolved_requests():
    run = stir.open_run("smollm2")
    for spec in (CausalFolder(run).spec(), *(folder.spec() for folder in evaluations(run))):
        again = type(spec).model_validate_json(spec.model_dump_json())
        assert again == spec and "fresh" not in spec.model_dump()
    for spec, kind in ((EvaluationSpec, EvaluationRequest), (CausalSpec, CausalRequest)):
        assert kind.model_fields.keys() <= spec.model_fields.keys()


def test_omitted_decode_settings_return_the_config_itself():
    parser, config = argparse.ArgumentParser(), RunConfig()
    add_answering(parser)
    assert answering(parser.parse_args([]), config) is config
    changed = answering(parser.parse_args(["--strength", "0.5", "--variant", "no_probing", "--max-new-tokens", "9"]), config)
    assert (changed.gate.k_scale, changed.gate.variant, changed.decode.max_new_tokens) == (0.5, "no_probing", 9)
