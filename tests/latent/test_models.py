"""A model of the catalogue that is trained on a file of problems: SmolLM2 itself, and all of the way with a small model of its tokens."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stir_core.cli import main
from stir_core.errors import ConfigError, DataError, ModelError
from stir_core.evaluate.interchange import interchange
from stir_core.evaluate.latents import evaluate_latents
from stir_core.latent.base import check_frame, marked_model
from stir_core.latent.registry import strategy
from stir_core.latent.rl import reinforce
from stir_core.latent.training import HEADS, load_reasoner, train_latent_model, weights_of
from stir_core.latent.words import as_batch, markers_of
from stir_core.models.catalogue import prepare, resolve
from stir_core.models.loading import load_model
from stir_core.models.weights import read_tokenizer
from stir_core.records import Progress
from stir_core.tasks.solutions import SolvedProblem, read_solutions
from tests.latent.test_training import Stop

ROWS = [
    {"question": "Ann has 3 pens and buys 4. How many?", "steps": ["3+4=7"], "answer": "7"},
    {"question": "A box of 12 eggs loses 2, and half of the rest. How many are left in it?", "steps": ["12-2=10", "10/2=5"], "answer": "5"},
    {"question": "6 cars have 4 wheels each, and 2 are lost?", "answer": "There are 6*4=<<6*4=24>>24 wheels.\n24-2=<<24-2=22>>22\n#### 22"},
    {"question": "Nothing is said?", "answer": "It is known.\n#### 1,000"},
]
SIZES: dict[str, Any] = {"longest": 2, "stage": 1, "final": 2, "batch": 2, "checkpoint": 2, "rate": 1e-3}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("problems") / "pens.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a model of random weights that has SmolLM2's tokens."""
    words, folder = read_tokenizer("smollm2", prepare(resolve("smollm2"))), tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    lm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=128,
            eos_token_id=words.eos_token_id,
        )
    )
    lm.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def trained(small: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_latent_model(tmp_path_factory.mktemp("trained") / "atp", model=small, data=str(data), **SIZES)


@pytest.mark.model
def test_smollm2_learns_two_problems_with_a_latent_step(data: Path) -> None:
    lm, words = marked_model("smollm2")
    made, copied = list(markers_of(words)[:3]), words("<<", add_special_tokens=False)["input_ids"]
    table = lm.get_input_embeddings().weight.detach()
    assert len(set(made)) == 3
    assert torch.equal(table[made], table[copied].mean(0).expand(3, -1))
    kind = strategy("sim_cot")
    reasoner = kind(lm, markers_of(words), read_solutions(data, 2), kind.options_type()).train()
    check_frame("smollm2", reasoner, words)
    batch = as_batch(words, read_solutions(data, 2).problems[:2])
    optimiser, texts = torch.optim.AdamW(reasoner.parameters(), lr=1e-4), []
    for _ in range(2):
        terms = reasoner.losses(reasoner.unroll(batch, 1, None))
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()
        texts.append(terms["text"].item())
    assert texts[1] < texts[0]
    assert all(weight.grad is not None and weight.grad.isfinite().all() and weight.grad.any() for weight in reasoner.parameters())


def test_a_file_is_read_in_each_of_its_forms(data: Path, tmp_path: Path) -> None:
    found = read_solutions(data, 2)
    assert [problem.steps for problem in found.problems] == [
        ("<<3+4=7>>",),
        ("<<12-2=10>>", "<<10/2=5>>"),
        ("<<6*4=24>>", "<<24-2=22>>"),
    ]
    assert (found.left_out, found.problems[2].answer, found.problems[1].given) == (1, "22", (12, 2))
    assert read_solutions(data, 1).problems[2].steps == ("<<6*4=24>>\n<<24-2=22>>",)
    (tmp_path / "icot.txt").write_text("How many?||<<1+ 2=3>> <<3*2=6>> #### 6\n")
    assert read_solutions(tmp_path / "icot.txt", 9).problems == (SolvedProblem("How many?", ("<<1+2=3>>", "<<3*2=6>>"), "6"),)
    bad = {
        "[1]": "is no problem",
        '{"question": "a"}': "is no problem",
        "a||<<1=1>> #### some": "has the answer 'some', which is no number",
    }
    for line, why in (bad | {" ||<<1=1>> #### 1": "has no question", "a||#### 1": "has no problem with an equation"}).items():
        (tmp_path / "bad.txt").write_text(f"{line}\n")
        with pytest.raises(DataError, match=why):
            read_solutions(tmp_path / "bad.txt", 2)
    with pytest.raises(DataError, match="cannot be read"):
        read_solutions(tmp_path / "none.txt", 2)


def test_an_interrupted_training_of_a_model_gives_the_same_weights(trained: Path, small: str, data: Path, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.done == 5:
            raise Stop

    again = tmp_path / "again"
    with pytest.raises(Stop):
        train_latent_model(again, model=small, data=str(data), report=stop, **SIZES)
    steps: list[int] = []
    train_latent_model(again, model=small, data=str(data), report=lambda progress: steps.append(progress.done), **SIZES)
    assert steps == [5, 6, 7, 8]  # three problems in batches of two: two steps an epoch; stages of one epoch, and two at last
    for file in ("model.safetensors", HEADS, "training.jsonl", "training.json"):
        assert (again / file).read_bytes() == (trained / file).read_bytes(), file
    curve = [json.loads(line) for line in (again / "training.jsonl").read_text().splitlines()]
    assert [line["replaced"] for line in curve] == [1, 2, 2, 2]
    facts = json.loads((again / "training.json").read_text())
    assert facts["data"] == {"name": "pens.jsonl", "sha256": read_solutions(data, 2).sha256, "longest": 2, "problems": 3, "left_out": 1}
    assert (facts["model"]["name"], len(facts["model"]["weights"]), facts["recipe"]["batch"]) == (small, 64, 2)


def test_a_trained_model_is_a_model_and_is_evaluated(trained: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = load_reasoner(trained)
    problem = read_solutions(data, 2).problems[0]
    assert load_model(str(trained)).chat_ids(problem.question) == as_batch(held.words, [problem]).question[0].tolist()
    found = evaluate_latents(trained, data=data)
    assert (found.setting, found.split, found.weights, found.probed_values) == ("pens.jsonl", "train", weights_of(trained), None)
    assert [row.how for row in found.rows] == ["own", "zero", "shuffled", "none", "sampled", "published"]
    assert all(row.problems == 3 and set(row.by_count) == {1, 2} for row in found.rows if row.how != "shuffled")
    assert {row.how: set(row.by_count) for row in found.rows}["shuffled"] == {2}  # the problem of one step has no other to take from
    assert found.decoded_results is not None
    assert main(["latent", "eval", str(trained), "--data", str(data), "--n", "2"]) == 0
    assert "published" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"was trained on pens\.jsonl: give a file of problems with --data"):
        evaluate_latents(trained)
    with pytest.raises(DataError, match="not on chains whose every value is known"):
        interchange(trained)
    with pytest.raises(DataError, match="was trained on chains, which are drawn: leave --data out"):
        evaluate_latents("sim_cot", data=data)


def test_a_right_answer_is_one_that_the_grader_takes(trained: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = load_reasoner(trained)
    monkeypatch.setattr(type(held.words), "batch_decode", lambda self, ids, **_: ["#### 5.0"] * len(ids))
    row = evaluate_latents(trained, data=data).rows[0]
    assert row.by_count == {1: 0.0, 2: 0.5}


def test_a_trained_model_is_reinforced(trained: Path, data: Path, tmp_path: Path) -> None:
    sizes = {"iterations": 1, "questions": 3, "answers": 2, "updates": 2}
    out = reinforce(trained, tmp_path / "rl", options=sizes, data=data)
    assert weights_of(out) != weights_of(trained)
    facts = json.loads((out / "training.json").read_text())
    assert (facts["stage"], facts["setting"], facts["data"]["problems"]) == ("rl", "pens.jsonl", 3)
    with pytest.raises(DataError, match="give a file of problems with --data"):
        reinforce(trained, tmp_path / "a", options=sizes)
    with pytest.raises(DataError, match="has 3 problems, and a round asks 32: set questions lower"):
        reinforce(trained, tmp_path / "a", data=data)


def test_an_experiment_file_is_a_training(small: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'strategy = "coconut"\ndata = "{data}"\nlongest = 2\nfinal = 2\n[options]\nper_step = 3\n')
    changes = ["--model", small, "--set", "stage=0", "--set", "batch=3", "--set", "options.per_step=1", "--set", "dtype=bfloat16"]
    assert main(["latent", "train", str(file), "--out", str(tmp_path / "out"), *changes]) == 0
    held = load_reasoner(tmp_path / "out")
    assert (held.reasoner.name, held.reasoner.options.per_step, held.facts["recipe"]["batch"]) == ("coconut", 1, 3)
    assert next(held.reasoner.parameters()).dtype == torch.float32
    started = ["latent", "train", "sim_cot", "--data", str(data), "--model", small, "--start", str(tmp_path / "out")]
    capsys.readouterr()
    for words, why in (
        (["latent", "train", "coconut", "--model", small], "needs problems to be trained on: give their file with --data"),
        (["latent", "train", str(file), "--setting", "easy"], "--setting easy is for chains"),
        (["latent", "train", str(file), "--set", "rats.x=1"], "rats is not a section"),
        (["latent", "train", str(file), "--set", "stages=1"], "unknown key stages: did you mean"),
        *(
            (["latent", "train", name, "--data", str(data)], f"{name} relies on steps of equally many tokens, which only chains have")
            for name in ("soft_tokens", "short_cot")
        ),
        ([*started[:5], "--model", "organism:null", *started[7:]], "was not trained from organism:null"),
    ):
        assert main([*words, "--out", str(tmp_path / "refused")]) == 2
        assert why in capsys.readouterr().err


def test_what_the_frame_cannot_read_is_refused(small: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"needs [0-9]+ tokens, and .* reads 128: leave it out"):
        long = tmp_path / "long.jsonl"
        long.write_text(json.dumps(ROWS[0] | {"question": "many " * 140}) + "\n")
        train_latent_model(tmp_path / "a", model=small, data=str(long), **SIZES)
    with pytest.raises(ConfigError, match="this training has no step"):
        train_latent_model(tmp_path / "b", strategy="cot", model=small, data=str(data), **SIZES)
    lm, words = marked_model(small)
    reasoner = strategy("coconut")(lm, markers_of(words), read_solutions(data, 2), strategy("coconut").options_type())
    check_frame("small", reasoner, words)
    lm.forward = lambda input_ids: SimpleNamespace(logits=2 * lm.lm_head(lm.model(input_ids).last_hidden_state))
    with pytest.raises(ModelError, match="nats from itself: take another model"):
        check_frame("small", reasoner, words)
