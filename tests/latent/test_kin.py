"""The kin of ATP-Latent: each trains what it says it trains, learns a fixed batch, and answers with the latents of its training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import Normal
from torch.nn.functional import smooth_l1_loss

from stir_core.errors import ConfigError
from stir_core.latent.rl import reinforce
from stir_core.latent.thinking import LatentChoice, reason
from stir_core.latent.training import load_reasoner, train_latent
from tests.latent.toys import RECIPE, WORDS, noise, problems, toy

KIN = ("codi", "colt", "latent_sft", "marcos", "soft_tokens", "token_assorted")
KNOWN = ("colt", "latent_sft", "soft_tokens", "token_assorted")
"""Latents that training knows beforehand."""


def losses(reasoner: Any, replaced: int = 3) -> dict[str, torch.Tensor]:
    return reasoner.losses(reasoner.unroll(problems(3), replaced, noise()))


@pytest.mark.parametrize("name", KIN)
def test_each_phase_trains_what_it_says_and_learns_a_fixed_batch(name: str) -> None:
    reasoner = toy(name, **({"assorted": False} if name == "token_assorted" else {})).float()
    for phase in [phase for phase in reasoner.phases(RECIPE, started=True) if phase.steps]:
        trained = {each: weight.requires_grad_(each.startswith(phase.only)) for each, weight in reasoner.named_parameters()}
        trained = {each: weight for each, weight in trained.items() if weight.requires_grad}
        optimiser = torch.optim.AdamW(trained.values(), lr=3e-3)
        totals = []
        for _ in range(12):
            total = torch.stack(list(losses(reasoner, phase.replaced).values())).sum()
            optimiser.zero_grad()
            total.backward()
            totals.append(total.item())
            optimiser.step()
        assert [each for each, weight in trained.items() if weight.grad is None or not weight.grad.any()] == [], phase
        assert totals[-1] < totals[0] - 0.05, phase


@pytest.mark.parametrize("name", KIN)
def test_answers_follow_from_the_latents_of_training(name: str) -> None:
    reasoner = toy(name)
    seen = reasoner.unroll(problems(3), 3, None)
    answers = reason(reasoner, problems(3).question, given=seen.vectors, most_text=2)
    assert [each.ids[0] for each in answers] == seen.logits[:, 0].argmax(-1).tolist()
    torch.testing.assert_close(torch.stack([each.states for each in answers]), seen.states, atol=1e-6, rtol=0)
    own = reason(reasoner, problems(3).question, LatentChoice(slots=seen.active), most_text=2)
    followed = reasoner.latent(torch.stack([each.states for each in own]).flatten(0, 1), None).vector
    torch.testing.assert_close(torch.stack([each.vectors for each in own]).flatten(0, 1), followed, atol=1e-6, rtol=0)
    if name == "codi":  # the others are given what training knows of the steps
        torch.testing.assert_close(torch.stack([each.vectors for each in own]), seen.vectors, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_beforehand_is_read_as_slot_by_slot(name: str) -> None:
    reasoner = toy(name)
    seen = reasoner.unroll(problems(3), 2, None)
    known = iter([each.vector for each in seen.latents])
    slowly = toy(name)
    slowly.given = lambda *_: None
    slowly.latent = lambda state, *_: seen.latents[0]._replace(vector=next(known))
    again = slowly.unroll(problems(3), 2, None)
    torch.testing.assert_close(again.states, seen.states, atol=1e-6, rtol=0)
    torch.testing.assert_close(again.logits, seen.logits, atol=1e-6, rtol=0)


def test_codi_compares_the_states_before_the_answer_at_every_layer() -> None:
    reasoner, batch = toy("codi", gamma=2.0), problems(3)
    seen = reasoner.unroll(batch, 3, None)
    terms = reasoner.losses(seen)
    text = torch.cat([batch.steps[:, :2].flatten(1), batch.answer], dim=1)
    taught = reasoner.lm(input_ids=torch.cat([batch.question, text], dim=1), labels=None, output_hidden_states=True)
    logits = taught.logits[:, batch.question.shape[1] - 1 : -1]
    assert terms["teacher"].item() == pytest.approx(-logits.log_softmax(-1).gather(-1, text[..., None]).mean().item())
    begun = reasoner.embed(reasoner.marked(batch.question, reasoner.markers.start))
    behind = reasoner.embed(torch.cat([torch.full((4, 1), reasoner.markers.end), batch.answer[:, :1]], dim=1))
    inputs = torch.cat([begun, seen.vectors, behind], dim=1)
    student = reasoner.lm(inputs_embeds=inputs, output_hidden_states=True)
    assert torch.equal(student.logits[:, -1].argmax(-1), seen.logits[:, 1].argmax(-1))  # the number follows
    assert WORDS.decode(text[0, -3:-2]) == "#### "
    pairs = [(a[:, -1], b[:, -3]) for a, b in zip(student.hidden_states[1:], taught.hidden_states[1:], strict=True)]
    expected = sum(smooth_l1_loss(a, b).item() / b.std().item() for a, b in pairs) / len(pairs)
    assert terms["distance"].item() == pytest.approx(2 * expected)


def test_the_teacher_of_codi_is_not_drawn_to_the_student() -> None:
    reasoner = toy("codi")
    reasoner.head.requires_grad_(False)
    losses(reasoner)["distance"].backward()
    table = reasoner.lm.get_input_embeddings().weight.grad
    steps = set(problems(3).steps.flatten().tolist()) - set(problems(3).question.flatten().tolist())
    assert steps
    assert not table[sorted(steps)].any()  # tokens that the teacher alone reads
    assert table[reasoner.markers.start].any()
    last = toy("codi", last_step=True)
    assert losses(last)["teacher"].item() != losses(toy("codi"))["teacher"].item()


def test_a_mixture_of_latent_sft_is_the_softmax_of_the_likeliest_tokens() -> None:
    reasoner, batch = toy("latent_sft", top=3), problems(3)
    seen = reasoner.unroll(batch, 2, None)
    weights = torch.stack([each.target for each in seen.latents], dim=1)
    assert seen.active == 4
    assert ((weights > 0).sum(-1) == 3).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 4, dtype=torch.float64))
    torch.testing.assert_close(seen.vectors, weights @ reasoner.lm.get_input_embeddings().weight)
    model = reasoner.logits(seen.states).log_softmax(-1)
    kl = (weights * (weights.clamp_min(1e-300).log() - model)).sum(-1).mean()
    assert losses(reasoner, 2)["kl"].item() == pytest.approx(kl.item())
    other = reasoner.unroll(batch, 2, noise()).vectors
    assert torch.equal(other, seen.vectors)
    assert not torch.equal(toy("latent_sft", top=3, gumbel=1.0).unroll(batch, 2, noise()).vectors, seen.vectors)


def test_stored_mixtures_stay_while_the_language_model_is_trained() -> None:
    reasoner = toy("latent_sft")
    before = [each.target for each in reasoner.unroll(problems(3), 3, None).latents]
    with torch.no_grad():
        for weight in reasoner.lm.parameters():
            weight += 0.1
    after = [each.target for each in reasoner.unroll(problems(3), 3, None).latents]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_token_assorted_replaces_a_random_number_of_first_steps_only_where_it_draws() -> None:
    reasoner, batch = toy("token_assorted"), problems(3)
    reasoner.compressor.requires_grad_(False)  # the phase of the language model
    drawn = [reasoner.unroll(batch, 3, noise(seed)) for seed in range(40)]
    assert {seen.replaced for seen in drawn} == {0, 1, 2, 3}
    assert all(seen.active == 2 * seen.replaced and seen.text.shape[1] == 8 * (3 - seen.replaced) + 3 for seen in drawn)
    assert {toy("token_assorted", assorted=False).unroll(batch, 3, noise(seed)).replaced for seed in range(4)} == {3}
    assert reasoner.unroll(batch, 2, None).replaced == 2


def test_codes_of_token_assorted_are_words_of_its_own() -> None:
    reasoner = toy("token_assorted", codes=8)
    seen = reasoner.unroll(problems(3), 3, None)
    codes = torch.stack([each.target for each in seen.latents], dim=1).argmax(-1)
    assert torch.equal(seen.vectors, reasoner.words[codes])
    logs = (seen.states @ reasoner.words.T).log_softmax(-1)
    terms = reasoner.losses(seen)
    assert terms["codes"].item() == pytest.approx(-logs.gather(-1, codes[..., None]).mean().item())
    read = reasoner.decoded(seen.vectors)
    assert [len(steps) for steps in read] == [3] * 4
    same = codes.unflatten(1, (3, 2)).flatten(0, 1).tolist()
    texts = [step for steps in read for step in steps]
    assert all((texts[i] == texts[j]) >= (same[i] == same[j]) for i in range(12) for j in range(12))  # equal codes, equal text


def test_marcos_recognises_the_step_in_training_and_draws_in_use() -> None:
    reasoner, batch = toy("marcos"), problems(3)
    seen = reasoner.unroll(batch, 3, noise())
    r = reasoner.recognise(batch.steps.flatten(0, 1)).unflatten(0, (4, 3))
    torch.testing.assert_close(seen.vectors, reasoner.scale * (seen.states + reasoner.random(r)), atol=1e-6, rtol=0)
    assert (r >= 0).all()
    mean, logvar = reasoner.head(seen.states[:, 0]).chunk(2, dim=-1)
    drawn = torch.randn(4, 16, generator=noise(), dtype=torch.float64)
    expected = reasoner.scale * (seen.states[:, 0] + reasoner.random(mean + (logvar / 2).exp() * drawn[:, :8]))
    torch.testing.assert_close(reasoner.latent(seen.states[:, 0], drawn).vector, expected)


def test_the_loss_of_marcos_head_is_a_gaussians_unless_it_is_as_published() -> None:
    r, mean, logvar = (torch.randn(50, generator=noise(seed), dtype=torch.float64) for seed in range(3))
    plain = -Normal(mean, (logvar / 2).exp()).log_prob(r) - Normal(0.0, 1.0).log_prob(torch.zeros(())).neg()
    torch.testing.assert_close(toy("marcos").nll(r, mean, logvar), plain, atol=1e-6, rtol=0)
    published = toy("marcos", nll="published").nll(r, mean, logvar)
    torch.testing.assert_close(published - logvar / 2, (r - mean) ** 2 / (4 * logvar.exp() ** 2))


def test_the_last_phase_of_marcos_is_its_heads_alone() -> None:
    phases = toy("marcos").phases(RECIPE, started=True)
    assert [(phase.steps, phase.only[-1]) for phase in phases][-2:] == [(1, "random."), (1, "head.")]
    reasoner = toy("marcos")
    for name, weight in reasoner.named_parameters():
        weight.requires_grad_(name.startswith(phases[-1].only))
    torch.stack(list(losses(reasoner).values())).sum().backward()
    assert {name.partition(".")[0] for name, weight in reasoner.named_parameters() if weight.grad is not None} == {"head"}


def test_colt_unpacks_a_step_from_the_states_at_its_seeds() -> None:
    reasoner, batch = toy("colt"), problems(3)
    seen = reasoner.unroll(batch, 2, None)
    assert seen.active == 6
    assert torch.equal(seen.vectors[0], reasoner.words.repeat(2, 1))  # the same for every step
    ((prefix, ids),) = reasoner.readings(seen)
    assert torch.equal(prefix[:2], torch.stack([seen.states[0, 1:3], seen.states[0, 4:6]]))
    assert WORDS.batch_decode(ids)[0].startswith("<<")
    terms = losses(reasoner, 2)
    logs = (seen.states @ reasoner.words.T).log_softmax(-1)
    assert terms["seeds"].item() == pytest.approx(-sum(logs[:, slot, slot % 3].mean().item() for slot in range(6)) / 6)
    assert terms["decoder"].item() == pytest.approx(0.3 * reasoner.decoder.loss(prefix, reasoner.table, ids).sum(1).mean().item())


def test_a_soft_token_is_the_mixture_of_all_tokens_and_its_noise_has_a_density() -> None:
    state = torch.randn(3, 16, generator=noise(), dtype=torch.float64)
    drawn = torch.randn(3, 16, generator=noise(1), dtype=torch.float64)
    reasoner = toy("soft_tokens", tau=0.7, sigma=0.2)
    table = reasoner.lm.get_input_embeddings().weight
    latent = reasoner.latent(state, drawn)
    torch.testing.assert_close(latent.mean, (state @ table.T / 0.7).softmax(-1) @ table)
    sigma = 0.2 * table.square().mean().sqrt()
    torch.testing.assert_close((latent.logvar / 2).exp(), sigma.expand(3, 16))
    torch.testing.assert_close(latent.vector - latent.mean, sigma * drawn)
    fuzzy = toy("soft_tokens", tau=1e-4).latent(state, None).vector
    torch.testing.assert_close(fuzzy, table[(state @ table.T).argmax(-1)], atol=1e-4, rtol=0)
    with pytest.raises(ConfigError, match="per_step is 2, but a step has 8 tokens: soft tokens need per_step=8"):
        toy("soft_tokens", per_step=2).unroll(problems(3), 3, None)


def test_soft_tokens_are_reinforced_with_as_many_as_the_steps_need(tmp_path: Path) -> None:
    start = train_latent("soft_tokens", tmp_path / "start", recipe=RECIPE)
    options = {"iterations": 1, "questions": 3, "answers": 2, "updates": 1, "density": "sum", "rate": 1e-2}
    out = reinforce(start, tmp_path / "rl", options=options)
    line = (out / "training.jsonl").read_text()
    assert '"clipped": 0.0' in line  # one update is on policy
    assert any(f'"latents": {total / 3 * 8:.5f}'.rstrip("0") in line.replace("}", ",") for total in range(6, 13))
    assert load_reasoner(out).reasoner.name == "soft_tokens"


def test_short_cot_writes_the_results_alone() -> None:
    batch = problems(3)
    seen = toy("short_cot").unroll(batch, 0, None)
    text = WORDS.decode(seen.text[0])
    results = [step.partition("=")[2].partition(">>")[0] for step in WORDS.batch_decode(batch.steps[0])]
    assert text == "".join(f"{result}\n\n" for result in results) + WORDS.batch_decode(batch.answer)[0]
