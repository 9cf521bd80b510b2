"""The kin of ATP-Latent: each trains what it says it trains, learns a fixed batch, and answers with the latents of its training."""

from typing import Any

import pytest
import torch
from torch.nn.functional import smooth_l1_loss

from stir_core.latent.thinking import LatentChoice, reason
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
