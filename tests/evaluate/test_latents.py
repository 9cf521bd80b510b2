"""The evaluation of latent reasoners on a tiny one: rows, controls and figures agree with counts made by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stir_core.cli import main
from stir_core.config import section_from
from stir_core.errors import ConfigError, DataError
from stir_core.evaluate.latents import answer_modular, decoded_steps, evaluate_latents
from stir_core.findings import LatentReport
from stir_core.latent.training import load_reasoner, train_latent
from stir_core.requests import LatentRequest
from stir_core.seeding import generator_for
from stir_core.tasks.modular import ModularChain, draw_chains
from tests.latent.toys import RECIPE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_latent("atp", tmp_path_factory.mktemp("latents") / "atp", recipe=RECIPE)


@pytest.fixture(scope="module")
def found(folder: Path) -> LatentReport:
    return evaluate_latents(folder, n=8)


def test_every_condition_is_a_row(found: LatentReport) -> None:
    rows = {row.how: row for row in found.rows}
    assert list(rows) == ["own", "longer", "zero", "shuffled", "none", "sampled", "published"]
    assert {how: row.problems for how, row in rows.items()} == dict.fromkeys(rows, 24) | {"longer": 8}
    assert set(rows["own"].by_count) == {2, 3, 4}
    assert set(rows["longer"].by_count) == {5}
    assert rows["none"].latents == 0
    assert rows["zero"].latents == rows["shuffled"].latents == rows["own"].latents
    assert rows["published"].passes - rows["published"].tokens - 1 == pytest.approx(10 - rows["published"].latents)
    assert rows["own"].passes == pytest.approx(1 + rows["own"].tokens)
    assert rows["own"].positions > rows["own"].passes
    assert LatentReport.model_validate_json(found.model_dump_json()) == found


def test_figures_are_counts_over_the_answers(folder: Path, found: LatentReport) -> None:
    trained = load_reasoner(folder)
    rng = generator_for(0, "latent eval", "easy", "eval")
    problems = {count: draw_chains(trained.chains, "eval", count, 8, rng, without=set()) for count in (2, 3, 4)}
    answers = answer_modular(trained, problems)
    own = found.rows[0]
    assert own.accuracy.value == np.mean([each.text.endswith(f"#### {each.chain.answer}") for each in answers])
    assert own.latents == np.mean([len(each.answer.vectors) for each in answers])
    chains = [each.chain for each in answers if isinstance(each.chain, ModularChain)]
    assert len(chains) == len(answers)
    exact = [len(each.answer.vectors) == 2 * len(chain.operations) for each, chain in zip(answers, chains, strict=True)]
    assert found.exact_stop is not None
    assert found.exact_stop.value == np.mean(exact)
    right = 0
    for chain, steps in zip(chains, decoded_steps(trained, [each.answer.vectors for each in answers]), strict=True):
        for step, value in zip(steps, chain.values[1:], strict=False):
            right += step.endswith(f"={value}>>")
    assert found.decoded_results is not None
    assert found.decoded_results.value == pytest.approx(right / (8 * 9))


def test_a_probe_reads_what_the_latents_hold(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents that are one-hot in the value of their step are read without an error, and noise at chance."""
    from stir_core.evaluate import latents as module
    from stir_core.latent.thinking import LatentAnswer

    drawn = torch.Generator().manual_seed(0)

    def planted(reasoner: object, question: torch.Tensor, choice: object, *, most_text: int) -> list[LatentAnswer]:
        answers = []
        for row in question:
            text = words.decode(row, skip_special_tokens=True)
            values = truth[f"{text}".strip()]
            vectors = torch.randn(2 * (len(values) - 1), 16, generator=drawn)
            for step, value in enumerate(values[1:]):
                if step != 1:
                    vectors[2 * step] = torch.eye(16)[value]
            answers.append(LatentAnswer(vectors, None, [], 1, 1, vectors))
        return answers

    trained = load_reasoner(folder)
    words, truth = trained.words, {}
    kept = answer_modular(trained, {2: draw_chains(trained.chains, "eval", 2, 8, generator_for(0, "kept"))}, "own")
    plain = module.draw_chains

    def remembered(*args: Any, **named: Any) -> list[ModularChain]:
        chains = plain(*args, **named)
        truth.update({chain.question: chain.values for chain in chains})
        return chains

    monkeypatch.setattr(module, "draw_chains", remembered)
    monkeypatch.setattr(module, "reason", planted)
    monkeypatch.setattr(module, "answer_modular", lambda *args, **named: kept)
    found = evaluate_latents(folder, n=150, probes=True)
    probed = found.probed_values
    read = {(probe.latent, probe.after): probe for probe in found.probes if probe.layer == 0}
    assert probed is not None and [read[latent, after].problems for latent, after in ((1, 0), (3, 1), (1, 3), (8, 1))] == [
        450,
        450,
        300,
        150,
    ]
    assert [read[latent, after].accuracy.value for latent, after in ((1, 1), (5, 3), (7, 4))] == [1, 1, 1]
    assert max(read[latent, after].accuracy.value for latent, after in ((2, 1), (3, 2), (1, 3))) < 0.25
    assert probed[1].value == probed[3].value == probed[4].value == 1
    assert probed[2].value < 0.2


def test_shuffled_and_zero_latents_are_really_fed(folder: Path) -> None:
    trained = load_reasoner(folder)
    problems = {2: draw_chains(trained.chains, "eval", 2, 6, generator_for(0, "shuffled"))}
    own = answer_modular(trained, problems)
    given = [each.answer.vectors for each in own]
    zero = answer_modular(trained, problems, "zero", given=given)
    assert all(
        not each.answer.vectors.any() and len(each.answer.vectors) == len(vectors) for each, vectors in zip(zero, given, strict=True)
    )
    shuffled = answer_modular(trained, problems, "shuffled", given=given)
    moved = [each.answer.vectors for each in shuffled]
    assert not any(torch.equal(vectors, other) for vectors, other in zip(moved, given, strict=True))
    assert sorted(float(vectors.sum()) for vectors in moved) == sorted(float(vectors.sum()) for vectors in given)
    given[1] = given[1][:1]  # no other problem has as many, and its own would be no control
    left = answer_modular(trained, problems, "shuffled", given=given)
    assert [each.chain for each in left] == [each.chain for i, each in enumerate(own) if i != 1]
    assert answer_modular(trained, {2: problems[2][:1], 3: problems[2][1:2]}, "shuffled", given=given) == []


@pytest.mark.parametrize(
    ("key", "value"), [("n", "3"), ("n", 2.5), ("n", True), ("seed", "x"), ("runs", 4097), ("steps", "3"), ("noise", np.nan)]
)
def test_what_is_no_number_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"setting {key} = "):
        section_from(LatentRequest, {key: value})
    assert section_from(LatentRequest, {"n": np.int64(3), "steps": (2, 3), "noise": 1}).steps == (2, 3)


def test_strategies_without_latents_have_no_controls(tmp_path: Path) -> None:
    found = evaluate_latents(train_latent("answer_only", tmp_path / "answer_only", recipe=RECIPE), n=4)
    assert [row.how for row in found.rows] == ["own", "longer"]
    assert (found.rows[0].latents, found.exact_stop, found.decoded_results, found.probed_values) == (0, None, None, None)


def test_the_command_line_trains_and_evaluates(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["latent", "eval", str(folder), "--n", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["strategy"] == "atp"
    assert main(["latent", "eval", str(folder), "--n", "2"]) == 0
    said = capsys.readouterr().out
    assert "stops exactly: " in said
    assert "step 4 probed: " in said and "value after 4 steps" not in said
    assert main(["latent", "eval", str(folder), "--n", "2", "--probes"]) == 0
    assert "value after 4 steps" in capsys.readouterr().out
    assert main(["latent", "read", str(folder), "7+3*5-2?", "--other", "9-4*7*9?"]) == 0
    said = capsys.readouterr().out
    assert "the other problem is 9-4*7*9?" in said and "Runs with drawn latents" in said
    assert main(["latent", "read", str(folder), "7+3*5-2?", "--runs", "1000000"]) == 2
    assert "runs = 1000000: input should be less than or equal to 4096" in capsys.readouterr().err
    assert main(["latent", "read", "sim_cot", "7+3*5-2?", "--runs", "3"]) == 2
    assert "--runs 3: the latents of sim_cot are not drawn" in capsys.readouterr().err
    assert main(["latent", "read", str(folder), "7+?"]) == 2
    assert "is no chain of operations" in capsys.readouterr().err
    assert main(["latent", "eval", str(tmp_path)]) == 2
    assert "holds no finished reasoner" in capsys.readouterr().err
    assert main(["latent", "eval", str(folder), "--n", "0"]) == 2
    assert "n is 0: give at least one problem" in capsys.readouterr().err
    assert main(["latent", "train", "atp", "--out", str(tmp_path / "a"), "--set", "kl=much"]) == 2
    assert "kl" in capsys.readouterr().err
    assert main(["latent", "train", "nothing", "--out", str(tmp_path / "a")]) == 2
    assert "unknown latent strategy 'nothing'" in capsys.readouterr().err
    with pytest.raises(DataError, match="n is -1"):
        evaluate_latents(folder, n=-1)
    made = tmp_path / "small"
    sizes = ["recipe.written=1", "recipe.stage=0", "recipe.final=1", "recipe.batch=2", "recipe.d_model=16"]
    assert main(["latent", "train", "cot", "--out", str(made), *(word for size in sizes for word in ("--set", size))]) == 0
    recipe = json.loads((made / "training.json").read_text())["recipe"]
    assert (recipe["written"], recipe["batch"], recipe["rate"]) == (1, 2, 3e-3)
    assert main(["latent", "train", "cot", "--out", str(made), "--set", "recipe.steps=1"]) == 2
    assert "unknown recipe key steps" in capsys.readouterr().err
    flags = ["--stage", "rl", "--start", str(folder), "--set", "recipe.final=1"]
    assert main(["latent", "train", "atp", "--out", str(tmp_path / "b"), *flags]) == 2
    assert "--set recipe.final is of a supervised training on chains" in capsys.readouterr().err
