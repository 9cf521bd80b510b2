"""Reinforcement: rewards, the loss against a plain computation of it, and a short seeded training."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from stir_core.cli import main
from stir_core.errors import DataError
from stir_core.latent.rl import (
    Rewarded,
    RlOptions,
    group_advantages,
    log_probs,
    reinforce,
    reward,
    rollouts,
    surrogate,
)
from stir_core.latent.thinking import LatentAnswer
from stir_core.latent.training import HEADS, TrainedReasoner, load_reasoner, train_latent, weights_of
from stir_core.latent.words import as_batch
from stir_core.records import Progress
from stir_core.tasks.modular import ModularChain
from tests.latent.test_training import Stop
from tests.latent.toys import RECIPE, TINY, WORDS, noise, toy

SMALL: dict[str, Any] = {"questions": 3, "answers": 4, "updates": 2}


def drawn(seed: int = 0, **options: Any) -> tuple[TrainedReasoner, RlOptions, list[Rewarded]]:
    """Answers of an untrained reasoner, whose stop head is biased so that chains of all lengths occur."""
    trained = TrainedReasoner(toy("atp", seed=seed), WORDS, TINY, {})
    chosen = RlOptions(**SMALL, **options)
    return trained, chosen, rollouts(trained, chosen, seed, 1)


def plain_log_prob(trained: TrainedReasoner, each: Rewarded, options: RlOptions) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Of every latent and of the text, each from a pass of its own over what stands before it."""
    reasoner: Any = trained.reasoner
    answer = each.answer
    question = reasoner.embed(reasoner.marked(as_batch(WORDS, [each.chain]).question, reasoner.markers.start))[0]

    def state(latents: int, text: list[int] | None = None) -> torch.Tensor:
        parts = [question, answer.vectors[:latents]]
        if text is not None:
            parts.append(reasoner.embed(torch.tensor([[reasoner.markers.end, *text]]))[0])
        return reasoner.lm.base_model(inputs_embeds=torch.cat(parts)[None]).last_hidden_state[0, -1]

    def density(vector: torch.Tensor, latents: int) -> torch.Tensor:
        before = state(latents)
        mean, logvar = reasoner.head(before)
        mean, sigma = reasoner.scale * (before + mean), reasoner.scale * (logvar / 2).exp()
        by_dimension = -0.5 * torch.tensor(2 * torch.pi).log() - sigma.log() - ((vector - mean) / sigma) ** 2 / 2
        return by_dimension.mean() if options.density == "mean" else by_dimension.sum()

    slots = []
    for slot, vector in enumerate(answer.vectors):
        slots.append(density(vector, slot))
        if slot % 2 == 0:
            slots[-1] = slots[-1] + reasoner.stopper(vector).log_softmax(-1)[0]
    text = [torch.zeros(())]
    if answer.ending is not None:
        text = [reasoner.stopper(answer.ending).log_softmax(-1)[1]]
        if options.stop_density:
            slots.append(density(answer.ending, len(answer.vectors)))
    for i, token in enumerate(answer.ids):
        text.append((state(len(answer.vectors), answer.ids[:i]) @ reasoner.lm.get_input_embeddings().weight.T).log_softmax(-1)[token])
    return slots, text


@pytest.mark.parametrize("options", [RlOptions(**SMALL), RlOptions.compat()])
def test_the_loss_is_that_of_a_plain_computation(options: RlOptions) -> None:
    trained, _, old = drawn()
    other = TrainedReasoner(toy("atp"), WORDS, TINY, {})
    with torch.no_grad():
        for weight in other.reasoner.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=noise(3), dtype=torch.float64)
    assert len({len(each.answer.vectors) for each in old}) > 1
    gain = torch.linspace(-1, 1, len(old), dtype=torch.float64)
    pairs = [(each.chain, each.answer) for each in old]
    new, before = (log_probs(which.reasoner, pairs, which, options) for which in (other, trained))
    losses = [
        surrogate(new.slots, before.slots.detach(), gain, new.slot_mask, options.clip, options.clamp)[0],
        surrogate(new.text, before.text.detach(), gain, new.text_mask, options.clip, options.clamp)[0],
    ]
    for kind, loss in enumerate(losses):
        terms = []
        for advantage, each in zip(gain, old, strict=True):
            for now, then in zip(plain_log_prob(other, each, options)[kind], plain_log_prob(trained, each, options)[kind], strict=True):
                change = now - then
                if options.clamp:
                    change = torch.clamp(change, -options.clamp, options.clamp)
                ratio = torch.exp(change)
                terms.append(-torch.min(ratio * advantage, torch.clamp(ratio, 0.8, 1.2) * advantage))
        assert loss.item() == pytest.approx(torch.stack(terms).mean().item(), abs=1e-5)


def test_the_gradient_at_the_old_policy_is_that_of_reinforce() -> None:
    trained, options, old = drawn()
    gain = torch.linspace(-1, 1, len(old), dtype=torch.float64)
    pairs = [(each.chain, each.answer) for each in old]
    new = log_probs(trained.reasoner, pairs, trained, options)
    loss, share = surrogate(new.slots, new.slots.detach(), gain, new.slot_mask, options.clip, options.clamp)
    mean = (new.slots * gain[:, None] * new.slot_mask).sum() / new.slot_mask.sum()
    head: Any = trained.reasoner.head
    weights = [head.mean.weight, head.logvar.bias]
    for one, other in zip(torch.autograd.grad(-loss, weights, retain_graph=True), torch.autograd.grad(mean, weights), strict=True):
        assert one.abs().max() > 1e-6
        torch.testing.assert_close(one, other)
    assert share == 0


def test_the_surrogate_is_clipped_on_the_side_that_gains() -> None:
    new = torch.tensor([[0.5], [0.5], [-0.5], [-0.5]])
    gain = torch.tensor([1.0, -1.0, 1.0, -1.0])
    loss, share = surrogate(new, torch.zeros(4, 1), gain, torch.ones(4, 1, dtype=torch.bool), 0.2, 0.0)
    expected = -(1.2 - torch.tensor(0.5).exp() + torch.tensor(-0.5).exp() - 0.8) / 4
    assert loss.item() == pytest.approx(expected.item())
    assert share == 0.5


def test_advantages() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    out = group_advantages(rewards, "leave_one_out")
    assert out[0].tolist() == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3])
    assert not out[1].any()
    scaled = group_advantages(rewards, "group_std")
    assert scaled[0].tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-6)  # sample standard deviation 0.5
    blown = group_advantages(torch.tensor([[1.5, 1.5, 1.55, 1.55]]), "group_std")
    assert blown.abs().max() > 0.8  # a tenth of coherence, at the scale of a right answer


def test_rewards() -> None:
    reasoner = toy("atp")
    trained = TrainedReasoner(reasoner, WORDS, TINY, {})
    chain = ModularChain(11, 7, (("+", 3), ("*", 5)))  # 10, then 6
    texts = ["#### 6</s>", "#### 7</s>", "#### ", "6"]
    answers = [
        LatentAnswer(torch.zeros(0, 16), None, WORDS(text, add_special_tokens=False)["input_ids"], 1, 1, torch.zeros(0, 16))
        for text in texts
    ]
    earned = reward(trained, RlOptions(), [chain] * 4, answers)
    assert [(each.right, each.formatted, each.reward) for each in earned] == [
        (True, True, 1.5),
        (False, True, 0.5),
        (False, False, 0.0),
        (False, False, 0.0),
    ]
    published = reward(trained, RlOptions.compat(), [chain] * 4, answers)
    assert [each.reward for each in published] == pytest.approx([1.6, 0.5, 0.0, 0.0])  # no step at all is coherent, as published
    alone = RlOptions(accuracy=0.0, coherence=1.0, coherence_if_right=False, coherence_rule="published")
    assert [each.reward for each in reward(trained, alone, [chain] * 4, answers)] == [1.5, 1.5, 1.0, 1.0]


def test_strict_coherence_is_rewarded_for_what_the_decoder_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    reasoner = toy("atp")
    steps = [[WORDS(step, add_special_tokens=False)["input_ids"] for step in ("<<7+3=10>>", "<<10*5=7>>")]]
    monkeypatch.setattr(reasoner, "decoded", lambda vectors: steps)
    answer = LatentAnswer(torch.zeros(4, 16), None, WORDS("#### 6", add_special_tokens=False)["input_ids"], 1, 1, torch.zeros(4, 16))
    chain = ModularChain(11, 7, (("+", 3), ("*", 5)))
    (earned,) = reward(TrainedReasoner(reasoner, WORDS, TINY, {}), RlOptions(), [chain], [answer])
    assert (earned.strict, earned.published, earned.reward) == (0.5, 0.5, pytest.approx(1.55))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_latent("atp", tmp_path_factory.mktemp("rl") / "atp", recipe=RECIPE)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_training_is_seeded_and_resumable(start: Path, tmp_path: Path, frozen: bool) -> None:
    options = {**SMALL, "iterations": 4, "frozen_table": frozen, "rate": 1e-3}

    def stop(progress: Progress) -> None:
        if progress.done == 3:
            raise Stop

    whole = reinforce(start, tmp_path / "whole", options=options, every=2)
    with pytest.raises(Stop):
        reinforce(start, tmp_path / "again", options=options, every=2, report=stop)
    rounds: list[int] = []
    again = reinforce(start, tmp_path / "again", options=options, every=2, report=lambda progress: rounds.append(progress.done))
    assert rounds == [3, 4]
    for file in ("model.safetensors", HEADS, "training.jsonl"):
        assert (again / file).read_bytes() == (whole / file).read_bytes()
    curve = [json.loads(line) for line in (whole / "training.jsonl").read_text().splitlines()]
    assert [line["step"] for line in curve] == [2, 4]
    assert curve[0]["terms"].keys() == {"reward", "right", "formatted", "strict", "published", "latents", "clipped"}
    before, after = load_reasoner(start), load_reasoner(whole)
    one_decoder, other_decoder, own_table = (
        getattr(each.reasoner, name) for each, name in ((before, "decoder"), (after, "decoder"), (after, "table"))
    )
    assert (after.facts["stage"], after.facts["start"]) == ("rl", weights_of(start))
    assert weights_of(whole) != weights_of(start)
    table = before.reasoner.lm.get_input_embeddings().weight
    assert torch.equal(own_table, table) == frozen
    assert not torch.equal(after.reasoner.lm.get_input_embeddings().weight, table)
    for (name, one), (_, other) in zip(one_decoder.named_parameters(), other_decoder.named_parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.slow
def test_reinforcement_raises_a_reward_that_it_can_reach(start: Path, tmp_path: Path) -> None:
    """Paid for its format alone, an almost untrained reasoner learns to write it."""
    options = {"questions": 8, "answers": 8, "updates": 2, "iterations": 15, "rate": 1e-2, "accuracy": 0.0, "coherence": 0.0}
    out = reinforce(start, tmp_path / "format", options=options, every=5)
    rewards = [json.loads(line)["terms"]["formatted"] for line in (out / "training.jsonl").read_text().splitlines()]
    assert rewards[-1] > rewards[0] + 0.15
    assert all(one >= 0 for one, _ in pairwise(rewards))


def test_what_cannot_be_reinforced_is_refused(start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coconut = train_latent("coconut", tmp_path / "coconut", recipe=RECIPE)
    with pytest.raises(DataError, match="holds the strategy coconut, whose latents have no known density"):
        reinforce(coconut, tmp_path / "a")
    assert main(["latent", "train", "atp", "--stage", "rl", "--out", str(tmp_path / "a")]) == 2
    assert "give its folder with --start" in capsys.readouterr().err
    assert main(["latent", "train", "coconut", "--stage", "rl", "--start", str(start), "--out", str(tmp_path / "a")]) == 2
    assert "holds atp on the setting easy: name what it holds" in capsys.readouterr().err
    assert main(["latent", "train", "atp", "--stage", "rl", "--start", str(start), "--out", str(tmp_path / "a"), "--set", "clipp=1"]) == 2
    assert "unknown option clipp: did you mean clip?" in capsys.readouterr().err
