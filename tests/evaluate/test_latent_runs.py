"""Many latent runs of a problem: counts by hand, continuations of a prefix, and a scorer that finds what is planted."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from stir_core.cli import main
from stir_core.errors import DataError
from stir_core.evaluate import latent_runs as module
from stir_core.evaluate.latent_runs import LatentScorer, RunChoice, beam_search, evaluate_runs, latent_runs, prefix_labels, train_scorer
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

    def planted(trained: Any, asked: Any, choice: RunChoice, runs: int, seed: int, *_: Any) -> list[list[Reasoned]]:
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
    with pytest.raises(DataError, match=r"0 runs, noise 0\.0, dropout 0\.0, scorer on 50 problems: give at least one run"):
        evaluate_runs(folders["coconut"], RunChoice(runs=0), n=2)


def test_several_folders_are_one_table(folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Plain CoT also has the rows of the decoders that need no training."""
    both = [str(folders["cot"]), str(folders["coconut"])]
    assert main(["latent", "eval", *both, "--n", "2", "--json"]) == 0
    one, other = json.loads(capsys.readouterr().out)
    assert [row["how"] for row in one["rows"]] == ["own", "longer", "soft_thinking", "multiplex"]
    assert other["strategy"] == "coconut"
    assert all(row["positions"] > row["tokens"] > 0 for row in one["rows"])
    copied = shutil.copytree(folders["coconut"], tmp_path / "copied")
    assert main(["latent", "eval", str(copied), both[1], "--n", "2", "--runs", "2", "--noise", "1", "--scored", "2"]) == 0
    said = capsys.readouterr().out
    assert said.count("coconut") == 5 and said.count("copied") == 3  # its strategy, its folder, and two numbers of runs for each
    assert "no latents" in said
    assert "best by score" in said and "beam search" in said


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--noise", "nan"], "--noise nan: of use with --runs N alone, add it"),
        (["--noise", "-1", "--dropout", "0.5"], "--noise -1.0, --dropout 0.5: of use with --runs N alone"),
        (["--scored", "0"], "--scored 0: of use with --runs N alone"),
        (["--runs", "2", "--noise", "nan"], "noise nan"),
        (["--runs", "1000000000", "--noise", "1"], "setting runs = 1000000000: input should be less than or equal to 4096"),
        (["--runs", "2", "--noise", "1", "--scored", "-1"], "no fewer than 0 problems"),
        (["--runs", "2", "--noise", "1", "--scored", "99999999999"], "ask for fewer"),
        (["--n", "1000000000"], "1,000,000,000 different problems of 2 operations are asked for in the split eval"),
        (["{folder}/../coconut"], "is named twice: name each reasoner once"),
    ],
)
def test_what_would_be_ignored_or_never_end_is_one_line(
    words: list[str], why: str, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(folders["coconut"])
    assert main(["latent", "eval", folder, *(word.format(folder=folder) for word in words)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("stir: ") and why in last


def test_beam_search_without_chance_is_the_answer_itself(folders: dict[str, Path]) -> None:
    trained = load_reasoner(folders["coconut"])
    own = answer_modular(trained, held_out_chains(trained.chains, 3, 0))
    scorer = LatentScorer(torch.randn(4, 32))
    found = beam_search(trained, [[run] * 4 for run in own], scorer, RunChoice(runs=4), 0)
    for run, plain in zip(found, own, strict=True):
        torch.testing.assert_close(run.answer.vectors, plain.answer.vectors, atol=1e-5, rtol=0)
        assert run.chain == plain.chain and run.answer.ids == plain.answer.ids[: len(run.answer.ids)]


def test_beam_search_is_the_slow_one_over_a_planted_tree(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each chain's score is the sum over its steps of a planted number; of 4 runs 2 go on in 2 ways each."""
    trained, calls = load_reasoner(folders["coconut"]), []
    drawn = torch.Generator().manual_seed(0)
    chain = draw_chains(trained.chains, "eval", 3, 1, generator_for(0, "beam"))[0]

    def grown(run: Reasoned | None, step: int) -> Reasoned:
        vectors = torch.randn(6, 16, generator=drawn)
        if run is not None:
            vectors[: 2 * step] = run.answer.vectors[: 2 * step]
        return Reasoned(chain, LatentAnswer(vectors, None, [], 1, 1, vectors), "")

    def continued(trained: Any, runs: Any, step: int, *_: Any) -> list[Reasoned]:
        calls.append((step, [grown(run, step) for run in runs]))
        return calls[-1][1]

    def score(run: Reasoned, steps: int) -> float:
        return float(run.answer.vectors[1 : 2 * steps : 2, 0].sum())

    monkeypatch.setattr(module, "continued", continued)
    begun = [grown(None, 0) for _ in range(4)]
    scorer = LatentScorer(torch.randn(4, 32))
    scorer.forward = lambda features: features[..., 0]
    (found,) = beam_search(trained, [begun], scorer, RunChoice(runs=4), 0)
    assert [(step, len(runs)) for step, runs in calls] == [(1, 4), (2, 4)]
    for before, (step, after) in zip([begun, calls[0][1]], calls, strict=True):
        best = sorted(before, key=lambda run: -score(run, step))[:2]
        wanted = {tuple(run.answer.vectors[: 2 * step].flatten().tolist()) for run in best}
        assert {tuple(run.answer.vectors[: 2 * step].flatten().tolist()) for run in after} == wanted
    assert found is max(calls[-1][1], key=lambda run: score(run, 3))
