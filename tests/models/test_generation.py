"""The decode loop: equal to token-by-token full prefills, and a row never depends on its neighbours."""

import pytest
import torch

from stir_core.models.context import join
from stir_core.models.generation import Batch, Sampling, Strand, decode
from stir_core.models.passes import read
from stir_core.seeding import generator_for
from stir_core.tasks.segment import StepScanner

PROMPTS = [[5, 9, 40, 7, 100], [17, 3, 250, 61, 62, 63, 64, 65, 66], [200, 201], [90]]
HOT = Sampling(1.0, 0.9)


def batch_of(model, rows: list[int], budget: int = 20, scanner: bool = False) -> Batch:
    logits, context, _ = read(model, [PROMPTS[row] for row in rows])
    strands = [
        Strand(str(row), budget + row, generator_for(0, "t", row), StepScanner(model.text, "e").push if scanner else None) for row in rows
    ]
    return Batch(strands, logits, context)


def ids_of(model, rows: list[int], sampling: Sampling, **more) -> dict[str, list[int]]:
    batch = batch_of(model, rows, **more)
    for _ in decode(model, batch, sampling):
        pass
    return {strand.name: strand.ids for strand in batch.strands}


def test_greedy_equals_full_prefills_with_the_plain_model(llama_pair):
    model, hf = llama_pair
    found = ids_of(model, [0, 1, 2, 3], Sampling())
    for row, prompt in enumerate(PROMPTS):
        ids: list[int] = []
        while len(ids) < 20 + row and (not ids or ids[-1] not in model.stop_ids):
            with torch.inference_mode():
                ids.append(int(hf(torch.tensor([prompt + ids])).logits[0, -1].argmax()))
        assert found[str(row)] == ids


def test_logprobs_are_the_models_own(llama_pair):
    model, hf = llama_pair
    batch = batch_of(model, [0, 1])
    for _ in decode(model, batch, HOT):
        pass
    for strand, prompt in zip(batch.strands, PROMPTS, strict=False):
        with torch.inference_mode():
            logits = hf(torch.tensor([prompt + strand.ids])).logits[0]
        expected = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(strand.ids)[:, None])[:, 0]
        assert strand.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
        assert strand.mean_logprob == pytest.approx(float(expected.mean()), abs=1e-4)


@pytest.mark.parametrize("sampling", [Sampling(), HOT])
def test_a_rows_tokens_do_not_depend_on_its_neighbours(tiny, sampling):
    together = ids_of(tiny, [0, 1, 2, 3], sampling)
    assert together == ids_of(tiny, [3, 1, 0, 2], sampling)
    for row in range(4):
        assert ids_of(tiny, [row], sampling) == {str(row): together[str(row)]}


def test_waiting_rows_enter_and_change_nothing(tiny):
    together = ids_of(tiny, [0, 1, 2, 3], HOT)
    waiting = [[2], [3], [1]]
    made: list[Strand] = []

    def refill(live: int) -> Batch | None:
        if not waiting:
            return None
        more = batch_of(tiny, waiting.pop(0))
        made.extend(more.strands)
        return more

    first = batch_of(tiny, [0], budget=4)
    for _ in decode(tiny, first, HOT, refill=refill):
        pass
    assert first.strands[0].ids == together["0"][:4]
    assert {strand.name: strand.ids for strand in made} == {name: together[name] for name in ("1", "2", "3")}


def test_how_a_strand_ends(tiny):
    batch = batch_of(tiny, [0, 1, 2, 3], budget=30, scanner=True)
    for _ in decode(tiny, batch, HOT, keep_context=True):
        pass
    for strand, prompt in zip(batch.strands, PROMPTS, strict=True):
        if strand.finish == "delimiter":
            assert "e" in tiny.text(strand.ids) and "e" not in tiny.text(strand.ids[:-1])
        elif strand.finish == "length":
            assert len(strand.ids) == strand.budget
        else:
            assert strand.ids[-1] in tiny.stop_ids
        assert strand.context is not None and strand.context.columns == len(prompt) + len(strand.ids) - 1
    kept = join([strand.context for strand in batch.strands if strand.context is not None])
    logits = read(tiny, [[strand.ids[-1]] for strand in batch.strands], kept).logits
    for row, (strand, prompt) in enumerate(zip(batch.strands, PROMPTS, strict=True)):
        torch.testing.assert_close(logits[row], read(tiny, [prompt + strand.ids]).logits[0], atol=1e-4, rtol=1e-4)


def test_top_p_and_temperature_are_respected():
    from stir_core.models.generation import _nucleus

    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    draws = [int(_nucleus(logits, u, Sampling(1.0, 0.8))) for u in (i / 1000 for i in range(1000))]
    assert set(draws) == {0, 1}
    assert draws.count(0) / 1000 == pytest.approx(0.625, abs=2e-3)
    draws = [int(_nucleus(logits, u, Sampling(1.0, 1.0))) for u in (i / 1000 for i in range(1000))]
    assert [draws.count(token) / 1000 for token in range(4)] == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=2e-3)
    cold = [int(_nucleus(logits, u, Sampling(0.5, 1.0))) for u in (i / 1000 for i in range(1000))]
    assert cold.count(0) / 1000 == pytest.approx(0.25 / (0.25 + 0.09 + 0.0225 + 0.0025), abs=2e-3)


def test_sampling_without_a_stream_is_a_bug(tiny):
    batch = batch_of(tiny, [0])
    batch.strands[0].rng = None
    with pytest.raises(ValueError, match="has no random stream"):
        next(decode(tiny, batch, HOT))
