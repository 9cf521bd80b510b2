"""Decoding: equal to token-by-token full prefills, and a row never depends on its neighbours."""

import numpy as np
import pytest
import torch

from stir_core.models.generation import Sampling, Strand, TextStream, begin_draw, draw, nucleus, score
from stir_core.models.scheduler import Listed, decode, next_token, schedule
from stir_core.seeding import generator_for
from stir_core.tasks.segment import StepScanner
from tests.builders import prefill

PROMPTS = [[5, 9, 40, 7, 100], [17, 3, 250, 61, 62, 63, 64, 65, 66], [200, 201], [90]]
HOT = Sampling(1.0, 0.9)


after: dict[str, torch.Tensor] = {}
"""Logits after the last token of each strand that was decoded last."""


def decoded(model, prompts, sampling, *, budget: int = 20, scanner: bool = False) -> list[Strand]:
    """Strands named by their place in PROMPTS, decoded side by side."""
    strands = [
        Strand(str(i), budget + i, generator_for(0, "t", i), StepScanner(model.text, "e").push if scanner else None) for i in prompts
    ]

    def one(seat, strand):
        strand.row = seat.open()
        here = yield from seat.read(strand.row, PROMPTS[int(strand.name) % len(PROMPTS)])
        yield from decode([strand], here.logits, sampling)
        # after the end too, the row holds everything but the last token
        assert strand.row.total == len(PROMPTS[int(strand.name) % len(PROMPTS)]) + len(strand.ids) - 1
        after[strand.name] = (yield [next_token(strand)]).logits[0].clone()

    for _ in schedule(model, Listed(strands, None), one):
        pass
    return strands


def test_greedy_equals_full_prefills_with_the_plain_model(llama_pair):
    model, hf = llama_pair
    for row, strand in enumerate(decoded(model, [0, 1, 2, 3], Sampling())):
        ids: list[int] = []
        while len(ids) < 20 + row and (not ids or ids[-1] not in model.stop_ids):
            with torch.inference_mode():
                ids.append(int(hf(torch.tensor([PROMPTS[row] + ids])).logits[0, -1].argmax()))
        assert strand.ids == ids


def test_logprobs_are_the_models_own(llama_pair):
    model, hf = llama_pair
    for strand, prompt in zip(decoded(model, [0, 1], HOT), PROMPTS, strict=False):
        with torch.inference_mode():
            logits = hf(torch.tensor([prompt + strand.ids])).logits[0]
        logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(strand.ids)[:, None])[:, 0]
        assert strand.logprobs == pytest.approx(logprobs.tolist(), abs=1e-4)
        assert strand.mean_logprob == pytest.approx(float(logprobs.mean()), abs=1e-4)


@pytest.mark.parametrize("sampling", [Sampling(), HOT])
def test_a_batch_of_32_equals_32_batches_of_one(tiny, sampling):
    together = decoded(tiny, list(range(32)), sampling)
    mixed = decoded(tiny, list(reversed(range(32))), sampling)
    for i, strand in enumerate(together):
        (alone,) = decoded(tiny, [i], sampling)
        assert strand.ids == alone.ids == mixed[31 - i].ids


def test_how_a_strand_ends(tiny):
    strands = decoded(tiny, [0, 1, 2, 3], HOT, budget=30, scanner=True)
    for strand in strands:
        if strand.finish == "delimiter":
            assert "e" in tiny.text(strand.ids) and "e" not in tiny.text(strand.ids[:-1])
        elif strand.finish == "length":
            assert len(strand.ids) == strand.budget
        else:
            assert strand.ids[-1] in tiny.stop_ids
    for strand, prompt in zip(strands, PROMPTS, strict=True):
        torch.testing.assert_close(after[strand.name], prefill(tiny, [prompt + strand.ids])[1].logits[0], atol=1e-4, rtol=1e-4)


def test_scores_are_the_plain_models_log_probabilities(llama_pair):
    model, hf = llama_pair
    pairs = [(PROMPTS[0], [7, 8, 9]), (PROMPTS[3], [11]), (PROMPTS[1], [1, 2, 3, 4, 5, 6])]
    for batch_tokens in (1, 12, 2048):
        for (prompt, answer), found in zip(pairs, score(model, pairs, batch_tokens=batch_tokens), strict=True):
            with torch.inference_mode():
                logits = hf(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            expected = logits[len(prompt) - 1 : -1].gather(1, torch.tensor(answer)[:, None])[:, 0]
            assert found == pytest.approx(expected.tolist(), abs=1e-4)


def test_decoded_log_probabilities_are_scored_the_same(tiny):
    strands = decoded(tiny, [0, 1, 2], HOT)
    for strand, found in zip(strands, score(tiny, [(PROMPTS[i], s.ids) for i, s in enumerate(strands)]), strict=True):
        assert found == pytest.approx(strand.logprobs, abs=1e-4)


def draws(logits, sampling, n=1000) -> list[int]:
    return nucleus(logits.expand(n, -1), [i / n for i in range(n)], sampling).tolist()


def test_top_p_and_temperature_are_respected():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    found = draws(logits, Sampling(1.0, 0.79))
    assert set(found) == {0, 1}
    assert found.count(0) / 1000 == pytest.approx(0.625, abs=2e-3)
    found = draws(logits, Sampling(1.0, 1.0))
    assert [found.count(token) / 1000 for token in range(4)] == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=2e-3)
    found = draws(logits, Sampling(0.5, 1.0))
    assert found.count(0) / 1000 == pytest.approx(0.25 / (0.25 + 0.09 + 0.0225 + 0.0025), abs=2e-3)


def test_a_nucleus_wider_than_the_likeliest_tokens_is_whole():
    """A flat distribution over 300 tokens: 80 % of the mass needs 240 of them, and each is drawn as often as it should be."""
    found = draws(torch.zeros(300), Sampling(1.0, 0.7999), 2400)
    assert len(set(found)) == 240 and {found.count(token) for token in set(found)} <= {9, 10, 11}


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, 0.9)])
def test_logits_looked_at_in_blocks_give_the_bits_of_all_at_once(monkeypatch, sampling):
    logits = torch.randn(11, 3000, generator=torch.Generator().manual_seed(0)) * 5

    def tensors():
        return begin_draw([Strand(str(i), 5, np.random.default_rng(i)) for i in range(11)], logits, sampling).tensors

    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    blocks = tensors()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 11)
    assert all(torch.equal(ours, whole) for ours, whole in zip(blocks, tensors(), strict=True)) and len(set(blocks[0].tolist())) > 5


def test_sampling_without_a_stream_is_a_bug(tiny):
    with pytest.raises(ValueError, match="has no random stream"):
        draw(tiny, [Strand("a", 5)], torch.zeros(1, 300), HOT)


@pytest.mark.model
def test_a_text_stream_tells_the_text_piece_by_piece(smollm2):
    """Characters of several tokens, blanks, special tokens: the pieces joined are the text; few tokens are decoded each time."""
    text = "Wait: 3 × 4 = 12 😀👩‍🔬, naïve?  \n\nSo\tthe  answer — 漢字 — is <|im_end|> \\boxed{12}." * 3
    ids, longest = smollm2.tokens(text), 0

    def decode(part):
        nonlocal longest
        longest = max(longest, len(part))
        return smollm2.text(part)

    stream = TextStream(decode)
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) == smollm2.text(ids) and sum(map(bool, pieces)) > len(ids) / 2
    assert "\ufffd" not in "".join(pieces) and longest < 24 < len(ids)
