"""Answering: the latents of training, rows that do not depend on each other, and passes that are really saved."""

from typing import Any

import pytest
import torch

from stir_core.latent.thinking import LatentChoice, reason
from tests.latent.toys import noise, problems, toy


def stopping(reasoner: Any, at: dict[int, int]) -> Any:
    """The reasoner with a stop head that stops row ``i`` at slot ``at[i]``; rows are told apart by their first latent."""
    first: dict[int, torch.Tensor] = {}

    def hook(module: torch.nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        (vectors,) = args
        said = torch.zeros_like(output)
        if not first:
            first.update(dict(enumerate(vectors)))
            stopping.slot = 0  # type: ignore[attr-defined]
        live = [row for row in at if at[row] >= stopping.slot]  # type: ignore[attr-defined]
        rows = live if len(vectors) == len(live) else list(at)
        for i, row in enumerate(rows):
            said[i, 1] = 1.0 if at[row] == stopping.slot else -1.0  # type: ignore[attr-defined]
        stopping.slot += 2  # type: ignore[attr-defined]
        return said

    reasoner.stopper.register_forward_hook(hook)
    return reasoner


def test_latents_are_those_of_training() -> None:
    for name in ("coconut", "atp"):
        reasoner, batch = toy(name), problems(3)
        answers = reason(reasoner, batch.question, LatentChoice(slots=6))
        trained = reasoner.unroll(batch, 3, None)
        torch.testing.assert_close(torch.stack([each.vectors for each in answers]), trained.vectors[:, :6], atol=1e-12, rtol=0)
        assert [each.ids[0] for each in answers] == trained.logits[:, 0].argmax(-1).tolist()


def test_an_answer_does_not_depend_on_the_others_of_its_batch() -> None:
    at = {0: 4, 1: 0, 2: 2, 3: 8}
    together = reason(stopping(toy("atp"), at), problems(3).question)
    assert [len(each.vectors) for each in together] == [4, 0, 2, 8]  # the last has no room for more
    assert [each.ending is None for each in together] == [False, False, False, True]
    for row, answer in enumerate(together):
        (alone,) = reason(toy("atp"), problems(3).question[row : row + 1], LatentChoice(slots=len(answer.vectors)))
        torch.testing.assert_close(alone.vectors, answer.vectors, atol=1e-12, rtol=0)
        assert alone.ids == answer.ids


@pytest.mark.parametrize("published", [False, True])
def test_stopping_saves_passes_unless_it_is_as_published(published: bool) -> None:
    at = dict.fromkeys(range(4), 2)
    reasoner = stopping(toy("atp"), at)
    passes: list[int] = []
    reasoner.lm.base_model.register_forward_hook(lambda module, args, output: passes.append(1))
    answers = reason(reasoner, problems(3).question, LatentChoice(published=published))
    assert {len(each.vectors) for each in answers} == {2}
    longest = max(len(each.ids) for each in answers)
    assert len(passes) == max(each.passes for each in answers) == 1 + (reasoner.most if published else 2) + longest
    assert all(
        each.positions == problems(3).question.shape[1] + 1 + (reasoner.most if published else 2) + len(each.ids) for each in answers
    )


def test_given_latents_take_the_place_of_its_own() -> None:
    reasoner, batch = toy("atp"), problems(2)
    own = reason(reasoner, batch.question, LatentChoice(slots=4))
    same = reason(reasoner, batch.question, given=torch.stack([each.vectors for each in own]))
    assert [each.ids for each in same] == [each.ids for each in own]
    zero = reason(reasoner, batch.question, given=torch.zeros(4, 4, 16, dtype=torch.float64))
    parts = [reasoner.embed(reasoner.marked(batch.question, reasoner.markers.start)), torch.zeros(4, 4, 16, dtype=torch.float64)]
    parts.append(reasoner.embed(torch.full((4, 1), reasoner.markers.end)))
    first = reasoner.logits(reasoner.read(torch.cat(parts, dim=1)))[:, -1].argmax(-1)
    assert [each.ids[0] for each in zero] == first.tolist()


def test_draws_are_named_by_their_source() -> None:
    reasoner, batch = toy("atp"), problems(2)
    drawn = [reason(reasoner, batch.question, LatentChoice(noise=noise(seed), sample=noise(seed), slots=4)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0][0].vectors, drawn[1][0].vectors)
    assert not torch.equal(drawn[0][0].vectors, drawn[2][0].vectors)
    assert [each.ids for each in drawn[0]] != [each.ids for each in drawn[2]]


@pytest.mark.parametrize("name", ["cot", "answer_only"])
def test_without_latents_the_text_follows_the_question(name: str) -> None:
    reasoner, batch = toy(name), problems(2)
    answers = reason(reasoner, batch.question, most_text=5)
    plain = reasoner.lm.generate(batch.question, max_new_tokens=5, do_sample=False, attention_mask=torch.ones_like(batch.question))
    for answer, row in zip(answers, plain[:, batch.question.shape[1] :].tolist(), strict=True):
        assert answer.ids == row[: len(answer.ids)]
        assert (len(answer.vectors), answer.passes) == (0, len(answer.ids))
