"""Training: every strategy is seeded and resumable; and a trained reasoner is a model like any other."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stir_core.config import Section, section_from, with_changes
from stir_core.errors import ConfigError, DataError, StoreError
from stir_core.latent.frame import LatentRecipe
from stir_core.latent.registry import strategy, strategy_names
from stir_core.latent.rl import RlOptions
from stir_core.latent.thinking import LatentChoice, reason
from stir_core.latent.training import HEADS, load_reasoner, train_latent, weights_of
from stir_core.latent.words import as_batch
from stir_core.models.loading import load_model
from stir_core.models.passes import Feed, forward
from stir_core.models.steering import Impulse
from stir_core.records import Progress
from stir_core.seeding import generator_for
from stir_core.tasks.modular import MODULAR, ModularSetting, draw_chains
from tests.latent.toys import RECIPE


class Stop(Exception):
    """Raised in the middle of a training."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("latent")
    return {name: train_latent(name, folder / name, recipe=RECIPE) for name in strategy_names()}


@pytest.mark.parametrize("name", strategy_names())
def test_an_interrupted_training_gives_the_same_weights(name: str, trained: dict[str, Path], tmp_path: Path) -> None:
    end = 2 if name == "cot" else 8
    at = end - 1  # the checkpoint is from the step before it

    def stop(progress: Progress) -> None:
        assert progress.total == end
        if progress.done == at:
            raise Stop

    again = tmp_path / "again"
    with pytest.raises(Stop):
        train_latent(name, again, recipe=RECIPE, report=stop)
    with pytest.raises(DataError, match="holds no finished reasoner: make or finish it"):
        load_reasoner(again)
    steps: list[int] = []
    train_latent(name, again, recipe=RECIPE, report=lambda progress: steps.append(progress.done))
    assert steps == list(range(at - at % 2 + 1, end + 1))
    for file in ("model.safetensors", HEADS, "training.jsonl", "training.json"):
        assert (again / file).read_bytes() == (trained[name] / file).read_bytes(), file
    assert not (again / "checkpoint.safetensors").exists()
    curve = [json.loads(line) for line in (again / "training.jsonl").read_text().splitlines()]
    assert [line["step"] for line in curve] == list(range(2, end + 1, 2))
    assert all(line["terms"]["text"] > 0 for line in curve)


def test_the_curriculum_replaces_one_step_after_another(trained: dict[str, Path]) -> None:
    curve = [json.loads(line) for line in (trained["atp"] / "training.jsonl").read_text().splitlines()]
    assert [line["replaced"] for line in curve] == [0, 2, 4, 4]
    assert curve[0]["terms"].keys() == {"text"}
    assert curve[-1]["terms"].keys() == {"text", "decoder", "kl", "stop"}


def test_a_start_that_has_latents_goes_on_with_them(trained: dict[str, Path], tmp_path: Path) -> None:
    """ATP-Latent's mean is the state plus what its head says, at first nothing: it begins as SIM-CoT, and has its decoder."""
    begun = train_latent("atp", tmp_path / "atp", start=trained["sim_cot"], recipe=with_changes(RECIPE, latent_rate=0.0))
    curve = [json.loads(line) for line in (begun / "training.jsonl").read_text().splitlines()]
    assert [(line["step"], line["replaced"]) for line in curve] == [(2, 4)]  # the last phase alone
    ours, theirs = load_reasoner(begun), load_reasoner(trained["sim_cot"])
    for name, weight in theirs.reasoner.named_parameters():
        assert torch.equal(ours.reasoner.get_parameter(name), weight)
    question = as_batch(ours.words, draw_chains(ours.chains, "eval", 3, 4, generator_for(0, "begun"))).question
    found = [reason(each.reasoner, question, LatentChoice(slots=6)) for each in (ours, theirs)]
    assert all(torch.equal(a.vectors, b.vectors) and a.ids == b.ids for a, b in zip(*found, strict=True))


def test_strategies_share_the_start_and_another_seed_does_not(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = train_latent("cot", tmp_path / "other", seed=1, recipe=RECIPE)
    assert weights_of(other) != weights_of(trained["cot"])
    started = train_latent(
        "coconut", tmp_path / "started", start=trained["cot"], recipe=with_changes(RECIPE, stage=0, final=1, latent_rate=0.0)
    )
    for name, weight in load_reasoner(trained["cot"]).reasoner.lm.named_parameters():
        assert torch.equal(load_reasoner(started).reasoner.lm.get_parameter(name), weight)
    assert json.loads((started / "training.json").read_text())["start"] == weights_of(trained["cot"])
    longer = train_latent("coconut", tmp_path / "hard", setting="hard", start=trained["cot"], recipe=with_changes(RECIPE, stage=0, final=1))
    assert load_reasoner(longer).setting.name == "hard"
    monkeypatch.setitem(MODULAR, "large", ModularSetting("large", 23, (2, 3), reordered=False))
    with pytest.raises(DataError, match="was trained on the setting easy, whose numbers are not those of large: start anew"):
        train_latent("coconut", tmp_path / "large", setting="large", start=trained["cot"], recipe=RECIPE)


def test_what_cannot_be_trained_is_refused(trained: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is there already and is not this training"):
        train_latent("coconut", trained["cot"], recipe=RECIPE)
    with pytest.raises(ConfigError, match="unknown latent strategy"):
        train_latent("nothing", tmp_path / "a")
    with pytest.raises(ConfigError, match="unknown option kl"):
        train_latent("coconut", tmp_path / "a", options={"kl": 0.1})
    with pytest.raises(ConfigError, match="per_step"):  # a trigger without a seed holds nothing
        train_latent("colt", tmp_path / "a", options={"per_step": 1})
    with pytest.raises(ConfigError, match="option dims = 999 is more than the"):
        train_latent("marcos", tmp_path / "dims", options={"dims": 999}, recipe=RECIPE)
    with pytest.raises(DataError, match=r"the loss is not finite at step \d+ \(decoder inf\): lower the rate or the weight"):
        train_latent("sim_cot", tmp_path / "inf", options={"decoder": 1e300}, start=trained["cot"], recipe=RECIPE)
    with pytest.raises(ConfigError, match="unknown recipe key steps"):
        train_latent("cot", tmp_path / "a", recipe={"steps": 1})
    with pytest.raises(DataError, match="unknown setting 'medium'"):
        train_latent("coconut", tmp_path / "a", setting="medium")
    with pytest.raises(StoreError, match="none is no folder, nor a reasoner that comes with the package: take one of atp, cot, sim_cot"):
        train_latent("coconut", tmp_path / "a", start=tmp_path / "none")
    with pytest.raises(DataError, match=r"model\.safetensors is missing: give the folder of a finished"):
        train_latent("coconut", tmp_path / "a", start=tmp_path)
    assert not (tmp_path / "a").exists()


def test_damaged_parts_are_named(trained: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in trained["atp"].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / HEADS).write_bytes((trained["coconut"] / HEADS).read_bytes())
    with pytest.raises(DataError, match=r"heads\.safetensors does not fit the strategy atp \([a-z_.0-9]+\): train it again"):
        load_reasoner(copy)
    (copy / HEADS).write_bytes(b"no")
    with pytest.raises(DataError, match="holds no reasoner that can be read"):
        load_reasoner(copy)
    whole = load_file(trained["atp"] / HEADS)
    save_file(whole | {"head.mean.bias": torch.full_like(whole["head.mean.bias"], torch.nan)}, copy / HEADS)
    with pytest.raises(DataError, match="holds no reasoner that can be read"):
        load_reasoner(copy)
    save_file(whole, copy / HEADS)
    weights = load_file(trained["atp"] / "model.safetensors")
    save_file({name: weight for name, weight in weights.items() if "layers.1.mlp" not in name}, copy / "model.safetensors")
    with pytest.raises(DataError, match=r"do not fit: model\.layers\.1\.mlp"):  # never filled with random weights
        load_reasoner(copy)
    (copy / "config.json").unlink()
    with pytest.raises(DataError, match=r"config\.json is missing"):
        load_reasoner(copy)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tokenizer.json", "null"),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "null"),
        ("config.json", "null"),
        ("training.json", "null"),
        ("training.json", '{"strategy": "atp", "stage": "sft", "setting": "easy", "seed": 0, "options": null}'),
        ("training.json", '{"strategy": "atp", "stage": "sft", "setting": "medium", "seed": 0, "options": {}}'),
        ("training.json", '{"strategy": "atp", "stage": "rl", "setting": "easy", "seed": 0, "options": {}}'),
        ("training.json", '{"strategy": "atp", "stage": "sft", "setting": "easy", "seed": "x", "options": {}}'),
        ("tokenizer_config.json", "{}"),
        ("training.jsonl", ""),
        ("training.jsonl", "{"),
    ],
)
def test_a_damaged_description_is_one_line(trained: dict[str, Path], tmp_path: Path, file: str, text: str) -> None:
    copy = shutil.copytree(trained["atp"], tmp_path / "copy")
    assert load_reasoner(copy).setting.name == "easy"
    (copy / file).write_text(text)
    with pytest.raises(DataError, match="holds no reasoner that can be read"):
        load_reasoner(copy)


def test_names_of_any_length_are_looked_up_and_a_shipped_name_goes_before_a_folder(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match="nor a reasoner that comes with the package") as refused:
        load_reasoner("a" * 5000)
    assert len(str(refused.value)) < 300
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained["answer_only"], tmp_path / "cot")
    assert load_reasoner("cot").reasoner.name == "cot"
    assert load_reasoner("./cot").reasoner.name == load_reasoner(Path("cot")).reasoner.name == "answer_only"


BAD = [(LatentRecipe, name, value) for name in LatentRecipe.model_fields for value in (-1, math.nan)]
BAD += [(LatentRecipe, name, 0) for name in ("d_model", "layers", "heads", "final", "batch", "checkpoint")]
BAD += [
    (kind, name, -1)
    for kind in (*(strategy(name).options_type for name in strategy_names()), RlOptions)
    for name, field in kind.model_fields.items()
    if isinstance(field.default, int | float) and not isinstance(field.default, bool)
]


@pytest.mark.parametrize(("kind", "key", "value"), BAD)
def test_numbers_that_no_training_can_take_are_refused(kind: type[Section], key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        section_from(kind, {key: value})


def test_heads_share_the_width() -> None:
    with pytest.raises(ConfigError, match="15 is no multiple of twice 4 heads"):
        section_from(LatentRecipe, {"d_model": 15})


def test_a_step_has_at_least_one_latent(tmp_path: Path) -> None:
    for name in ("atp", "colt", "marcos", "soft_tokens"):
        with pytest.raises(ConfigError, match="per_step"):
            train_latent(name, tmp_path / name, options={"per_step": 0})


def test_latents_are_fed_at_hook_embed_of_a_loaded_model(trained: dict[str, Path]) -> None:
    """The workbench's one forward pass reads latents, with captures and impulses at them."""
    reasoner, words, _, _ = load_reasoner(trained["atp"])
    model = load_model(str(trained["atp"]))
    (chain,) = draw_chains(MODULAR["easy"], "eval", 3, 1, generator_for(0, "hooks"))
    batch = as_batch(words, [chain])
    assert model.chat_ids(chain.question) == batch.question[0].tolist()
    (answer,) = reason(reasoner, batch.question, LatentChoice(slots=6))

    def logits(impulse: Impulse | None = None) -> tuple[torch.Tensor, list[torch.Tensor]]:
        row = model.new_store().open()
        feeds = [Feed(row, [*batch.question[0].tolist(), reasoner.markers.start], logits=False)]
        feeds += [
            Feed(row, [reasoner.markers.latent], mixture=vector, impulse=impulse if i == 2 else None, capture=(0,))
            for i, vector in enumerate(answer.vectors)
        ]
        seen = [forward(model, [feed], (model.n_layers - 1,)) for feed in feeds]
        return forward(model, [Feed(row, [reasoner.markers.end])]).logits[0], [each.states[0][model.n_layers - 1][0] for each in seen[1:]]

    here, states = logits()
    seen = reasoner.unroll(batch, 3, None)
    torch.testing.assert_close(here, seen.logits[0, 0], atol=1e-4, rtol=0)
    norm = reasoner.lm.base_model.norm
    torch.testing.assert_close(norm(torch.stack(states)), seen.states[0, 1:7], atol=1e-4, rtol=0)
    steered, moved = logits(Impulse(0, torch.ones(model.d_model)))
    assert torch.equal(moved[1], states[1])
    assert not torch.allclose(moved[2], states[2], atol=1e-3)
    assert not torch.allclose(steered, here, atol=1e-4)
