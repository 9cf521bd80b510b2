"""Many latent runs of a problem: counts by hand, continuations of a prefix, and a scorer that finds what is planted."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stir_core.cli import main
from stir_core.errors import DataError
from stir_core.evaluate import latent_runs as module
from stir_core.evaluate.latent_runs import RunChoice, evaluate_runs, latent_runs, prefix_labels, train_scorer
from stir_core.evaluate.latents import Reasoned, answer_modular, held_out_chains
from stir_core.latent.thinking import LatentAnswer, LatentChoice, reason
from stir_core.latent.training import load_reasoner, train_latent
from stir_core.seeding import generator_for
from stir_core.tasks.modular import draw_chains
from tests.latent.toys import RECIPE, noise, problems, toy

NOISY = RunChoice(runs=3, noise=2.0, scored=0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: train_latent(name, folder / name, recipe=RECIPE) for name in ("coconut", "cot")}


def test_coverage_and_vote_are_counts_over_the_runs(folders: dict[str, Path]) -> None:
    trained = load_reasoner(folders["coconut"])
    known = held_out_chains(trained.chains, 12, 0)
    longest = known.pop(trained.setting.longest)
    assert len(longest) == 12
    runs = latent_runs(trained, known, NOISY, 3, 0)
    rows = evaluate_runs(folders["coconut"], NOISY, n=12)
    assert [(row.runs, row.problems, row.best) for row in rows] == [(1, 36, None), (2, 36, None), (3, 36, None)]
    assert len({run.text for each in runs for run in each}) > 1
    for row in rows:
        covered = [any(run.text.endswith(f"#### {run.chain.answer}") for run in each[: row.runs]) for each in runs]
        assert row.coverage.value == sum(covered) / 36
        assert row.vote.value <= row.coverage.value
    assert rows[0].vote == rows[0].coverage


def test_noise_and_dropout_act_on_latents_alone(folders: dict[str, Path]) -> None:
    reasoner, question = toy("coconut"), problems(3).question
    plain = reason(reasoner, question, LatentChoice(slots=4))
    dropped = reason(reasoner, question, LatentChoice(noise(), slots=4, dropout=0.3))
    spread = reason(reasoner, question, LatentChoice(noise(), slots=4, spread=0.5))
    assert torch.equal(dropped[0].vectors[0], plain[0].vectors[0])  # made from the question's pass
    assert not torch.allclose(dropped[0].vectors[1], plain[0].vectors[1])
    shift = torch.stack([each.vectors[0] - other.vectors[0] for each, other in zip(spread, plain, strict=True)])
    assert shift.std().item() == pytest.approx(0.5, rel=0.4)
    after = reason(reasoner, question, LatentChoice(slots=4))
    assert torch.equal(after[0].vectors, plain[0].vectors)  # the hooks are gone


def test_a_prefix_is_continued_as_it_went_on() -> None:
    reasoner, question = toy("coconut"), problems(3).question
    whole = reason(reasoner, question, LatentChoice(slots=6))
    begun = torch.stack([each.vectors[:2] for each in whole])
    rest = reason(reasoner, question, LatentChoice(slots=6, first=begun))
    for one, other in zip(whole, rest, strict=True):
        torch.testing.assert_close(one.vectors, other.vectors, atol=1e-6, rtol=0)
        torch.testing.assert_close(one.states, other.states, atol=1e-6, rtol=0)
        assert one.ids == other.ids
    held = [reason(reasoner, question, LatentChoice(noise(seed), slots=6, first=begun, spread=0.5, dropout=0.2)) for seed in (0, 1)]
    assert all(torch.equal(each[0].vectors[:2], begun[0]) for each in held)  # what is given has no noise
    assert not torch.allclose(held[0][0].vectors[2:], held[1][0].vectors[2:])


def test_labels_without_chance_are_whether_the_run_is_right(folders: dict[str, Path]) -> None:
    trained = load_reasoner(folders["coconut"])
    chains = draw_chains(trained.chains, "validation", 3, 30, generator_for(0, "labels"))
    runs = answer_modular(trained, {3: chains})
    labels = prefix_labels(trained, runs, RunChoice(continuations=2), 0)
    assert labels == [[float(run.right)] * 3 for run in runs]


def test_a_scorer_finds_the_right_runs_by_what_is_planted(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Right runs have larger first components; the scorer, trained on validation problems, ranks held-out runs by them."""

    def planted(trained: Any, asked: Any, choice: RunChoice, runs: int, seed: int) -> list[list[Reasoned]]:
        drawn = torch.Generator().manual_seed(seed % 2**31)
        found = []
        for count, chains in asked.items():
            for i, chain in enumerate(chains):
                found.append([])
                for run in range(runs):
                    right = run == i % runs
                    vectors = torch.randn(2 * count, 16, generator=drawn)
                    vectors[:, 0] += 4.0 * right
                    text = f"#### {chain.answer if right else (chain.answer + 1 + run) % 11}"
                    found[-1].append(Reasoned(chain, LatentAnswer(vectors, None, [], 1, 1, vectors), text))
        return found

    monkeypatch.setattr(module, "latent_runs", planted)
    monkeypatch.setattr(module, "prefix_labels", lambda trained, runs, *_: [[float(run.right)] * len(run.chain.operations) for run in runs])
    rows = evaluate_runs(folders["coconut"], RunChoice(runs=4, noise=1.0, scored=12), n=12)
    assert [row.coverage.value for row in rows] == [0.25, 0.5, 1.0]
    assert rows[-1].vote.value == 0.25  # all answers of a problem differ
    assert rows[-1].best is not None
    assert rows[-1].best.value > 0.9
    monkeypatch.setattr(module, "latent_runs", lambda *args: [[each[0]] * 2 for each in planted(*args)])
    assert train_scorer(load_reasoner(folders["coconut"]), RunChoice(scored=4), 0) is None  # no problem has both


def test_runs_that_cannot_differ_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(DataError, match="the latents of coconut are not drawn, so its runs are alike: give --noise or --dropout"):
        evaluate_runs(folders["coconut"], RunChoice(), n=2)
    with pytest.raises(DataError, match="holds the strategy cot, which has no latents"):
        evaluate_runs(folders["cot"], NOISY, n=2)
    with pytest.raises(DataError, match=r"0 runs, noise 0\.0, dropout 0\.0: give at least one run"):
        evaluate_runs(folders["coconut"], RunChoice(runs=0), n=2)


def test_several_folders_are_one_table(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Plain CoT also has the rows of the decoders that need no training."""
    assert main(["latent", "eval", str(folders["cot"]), str(folders["cot"]), "--n", "2", "--json"]) == 0
    one, other = json.loads(capsys.readouterr().out)
    assert [row["how"] for row in one["rows"]] == ["own", "longer", "soft_thinking", "multiplex"]
    assert [row["accuracy"] for row in one["rows"]] == [row["accuracy"] for row in other["rows"]]
    assert all(row["positions"] > row["tokens"] > 0 for row in one["rows"])
    assert main(["latent", "eval", str(folders["coconut"]), str(folders["coconut"]), "--n", "2", "--runs", "2", "--noise", "1"]) == 0
    said = capsys.readouterr().out
    assert said.count("coconut") == 8  # folder and strategy of two trainings, and two numbers of runs for each
    assert "no latents" in said
    assert "best by score" in said
