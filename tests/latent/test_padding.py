"""Padding: a batch of problems of different sizes is each problem alone, and without padding nothing has changed."""

from typing import Any

import pytest
import torch
from torch.nn.functional import pad
from transformers import DynamicCache

from stir_core.latent.frame import PADDING, LatentBatch, packed
from stir_core.latent.registry import strategy, strategy_names
from stir_core.latent.thinking import LatentChoice, reason
from tests.latent.toys import noise, problems, toy

NAMES = [name for name in strategy_names() if not strategy(name).chains_only]
FORMS: list[tuple[str, dict[str, Any]]] = [*((name, {}) for name in NAMES), ("atp", {"surplus": "all", "stop_on": "every"})]


def side_by_side(batches: list[LatentBatch]) -> LatentBatch:
    """Problems of several sizes as one batch."""
    widest = [max(batch[part].shape[-1] for batch in batches) for part in range(3)]
    most = max(batch.steps.shape[1] for batch in batches)
    return LatentBatch(
        torch.cat([pad(batch.question, (widest[0] - batch.question.shape[1], 0), value=PADDING) for batch in batches]),
        torch.cat(
            [pad(batch.steps, (0, widest[1] - batch.steps.shape[2], 0, most - batch.steps.shape[1]), value=PADDING) for batch in batches]
        ),
        torch.cat([pad(batch.answer, (0, widest[2] - batch.answer.shape[1]), value=PADDING) for batch in batches]),
    )


def begun(name: str, options: dict[str, Any]) -> Any:
    """A reasoner whose codebook, if it has one, has been made."""
    reasoner = toy(name, **options)
    if name == "token_assorted":
        reasoner.quantised(reasoner.ended(problems(3, 30).steps.flatten(0, 1)), noise=1)
    return reasoner


def uneven() -> tuple[LatentBatch, list[LatentBatch]]:
    """Four problems with two and three steps, in turn; one of the steps is longer; and each of them alone."""
    rows = [problems(2, 1, seed=0), problems(3, 1, seed=1), problems(2, 1, seed=2), problems(3, 1, seed=3)]
    longer = rows[1].steps[:, :, [0, 1, 1, *range(2, rows[1].steps.shape[2])]]
    rows[1] = rows[1]._replace(steps=longer)
    rows[3] = rows[3]._replace(answer=rows[3].answer[:, [0, 1, 1, 2]])
    return side_by_side(rows), rows


@pytest.mark.parametrize(("name", "options"), FORMS)
@pytest.mark.parametrize("replaced", [0, 2, 3])
def test_a_problem_in_a_batch_is_read_as_alone(name: str, options: dict[str, Any], replaced: int) -> None:
    reasoner, replaced = begun(name, options), 0 if name == "cot" else replaced
    reasoner.requires_grad_(False)  # a codebook in training changes with each batch
    together, rows = uneven()
    seen = reasoner.unroll(together, replaced, None)
    terms, sums = reasoner.losses(seen), dict.fromkeys(["text", "decoder", "kl", "stop"], (0.0, 0.0))
    for row, batch in enumerate(rows):
        alone = reasoner.unroll(batch, replaced, None)
        slots, text = len(alone.latents), alone.text.shape[1]
        assert seen.text[row, :text].tolist() == alone.text[0].tolist()
        assert (seen.text[row, text:] == PADDING).all()
        torch.testing.assert_close(seen.logits[row, :text], alone.logits[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(seen.states[row, :slots], alone.states[0], atol=1e-5, rtol=0)
        assert seen.own[row].tolist() == [slot < slots for slot in range(len(seen.latents))]
        assert seen.stands[row].sum() == alone.active
        if slots:
            torch.testing.assert_close(seen.vectors[row, :slots], alone.vectors[0], atol=1e-5, rtol=0)
        deciding = slots / 2 if options else (slots + 1) // 2
        surplus = (slots - alone.active) // 2 if options else 0
        weights = {"text": text, "decoder": alone.replaced + surplus, "kl": slots, "stop": deciding}
        found = reasoner.losses(alone)
        assert found.keys() == terms.keys()
        for term, (total, weight) in sums.items():
            if term in terms:
                sums[term] = total + weights[term] * found[term].item(), weight + weights[term]
    for term, (total, weight) in sums.items():
        if term in terms:
            assert terms[term].item() == pytest.approx(total / weight, abs=1e-5), term


@pytest.mark.parametrize(("name", "options"), FORMS)
def test_padding_changes_no_loss_and_no_gradient(name: str, options: dict[str, Any]) -> None:
    """Every term, of a batch that no problem needs padded: there it can be compared."""
    batch = problems(3)
    padded = LatentBatch(
        pad(batch.question, (2, 0), value=PADDING), pad(batch.steps, (0, 3, 0, 2), value=PADDING), pad(batch.answer, (0, 1), value=PADDING)
    )
    for replaced in (0,) if name == "cot" else (0, 2, 5):
        gradients = []
        for each in (batch, padded):
            reasoner = begun(name, options)
            terms = reasoner.losses(reasoner.unroll(each, replaced, None))
            torch.stack(list(terms.values())).sum().backward()
            gradients.append({part: weight.grad for part, weight in reasoner.named_parameters() if weight.grad is not None})
            gradients[-1] |= {f"loss {term}": value.detach() for term, value in terms.items()}
        assert gradients[0].keys() == gradients[1].keys()
        for part, gradient in gradients[0].items():
            assert gradient.isfinite().all()
            torch.testing.assert_close(gradients[1][part], gradient, atol=2e-5, rtol=1e-4, msg=part)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_left_padding_makes_no_row_of_nan(attention: str) -> None:
    reasoner = toy("coconut").float()
    reasoner.lm.set_attn_implementation(attention)
    batch = problems(2)
    padded = batch._replace(question=pad(batch.question, (5, 0), value=PADDING))
    seen = reasoner.unroll(padded, 1, None)
    reasoner.losses(seen)["text"].backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in reasoner.parameters())
    torch.testing.assert_close(seen.logits, reasoner.unroll(batch, 1, None).logits, atol=1e-5, rtol=0)


def test_without_padding_a_batch_is_read_without_a_mask_bit_for_bit() -> None:
    """Against the frame as it was before there was padding, written out; surplus latents are cut from the cache."""
    reasoner, batch = toy("atp", surplus="all").float(), problems(2)
    lm, draws = reasoner.lm, noise()
    cache = DynamicCache()

    def read(vectors: torch.Tensor) -> torch.Tensor:
        first = cache.get_seq_length()
        positions = torch.arange(first, first + vectors.shape[1])[None]
        return lm.model(inputs_embeds=vectors, position_ids=positions, past_key_values=cache, use_cache=True).last_hidden_state

    states = [read(reasoner.embed(reasoner.marked(batch.question, reasoner.markers.start)))[:, -1]]
    for slot in range(6):
        vector = reasoner.latent(states[-1], torch.randn(states[-1].shape, generator=draws)).vector
        if slot < 5:
            states.append(read(vector[:, None])[:, -1])
        if slot == 4:
            cache.crop(-1)
    fed = torch.cat([batch.answer.new_full((4, 1), reasoner.markers.end), batch.answer[:, :-1]], dim=1)
    seen = reasoner.unroll(batch, 3, noise())
    assert torch.equal(seen.states, torch.stack(states, dim=1))
    assert torch.equal(seen.logits, lm.lm_head(read(reasoner.embed(fed))))


def test_answers_of_a_batch_are_those_of_each_question_alone() -> None:
    for name, choice in (("atp", LatentChoice()), ("coconut", LatentChoice(slots=4)), ("cot", LatentChoice())):
        reasoner = toy(name, seed=3)
        together, rows = uneven()
        given = {"own": None} if name == "cot" else {"own": None, "given": torch.ones(4, 3, 16, dtype=torch.float64)}
        for vectors in given.values():
            found = reason(reasoner, together.question, choice, given=vectors)
            for i, (answer, batch) in enumerate(zip(found, rows, strict=True)):
                (alone,) = reason(reasoner, batch.question, choice, given=None if vectors is None else vectors[i : i + 1])
                assert (answer.ids, answer.passes, answer.positions) == (alone.ids, alone.passes, alone.positions)
                torch.testing.assert_close(answer.vectors, alone.vectors, atol=1e-5, rtol=0)
                torch.testing.assert_close(answer.states, alone.states, atol=1e-5, rtol=0)


def test_rows_are_packed_to_the_left() -> None:
    rows = torch.tensor([[PADDING, 3, PADDING, 4, PADDING], [1, PADDING, 2, PADDING, PADDING]])
    assert packed(rows).tolist() == [[3, 4], [1, 2]]
    whole = torch.tensor([[5, 6], [7, 8]])
    assert torch.equal(packed(whole), whole)
