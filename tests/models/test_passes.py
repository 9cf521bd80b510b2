"""Forward passes against the plain Hugging Face model, for the three architectures that users bring."""

import copy

import pytest
import torch

from stir_core.models.context import join, left_padded
from stir_core.models.loading import boot
from stir_core.models.passes import forward, read
from tests.builders import make_hf

IDS = [[5, 9, 40, 7, 100, 22, 31], [17, 3, 250], [60, 61, 62, 63, 64]]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3"])
def test_logits_equal_the_plain_model(kind, tokenizer):
    hf = make_hf(kind, len(tokenizer))
    model = boot(f"tiny/{kind}", copy.deepcopy(hf), tokenizer, weights_sha256="0" * 64)
    hf.set_attn_implementation("eager")
    for ids in IDS:
        with torch.inference_mode():
            expected = hf(torch.tensor([ids]), logits_to_keep=1).logits[0, -1]
        assert torch.equal(read(model, [ids]).logits[0], expected)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3"])
def test_a_padded_batch_equals_its_rows(kind, tokenizer):
    model = boot(f"tiny/{kind}", make_hf(kind, len(tokenizer)), tokenizer, weights_sha256="0" * 64)
    together = read(model, IDS, capture=(1, 3))
    for row, ids in enumerate(IDS):
        alone = read(model, [ids], capture=(1, 3))
        torch.testing.assert_close(together.logits[row], alone.logits[0], atol=1e-4, rtol=1e-4)
        for layer in (1, 3):
            torch.testing.assert_close(together.states[layer][row], alone.states[layer][0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_a_ragged_continuation_equals_full_prefills(kind, tokenizer):
    """Rows of different lengths, then segments of different lengths, then a fork without the last token."""
    model = boot(f"tiny/{kind}", make_hf(kind, len(tokenizer)), tokenizer, weights_sha256="0" * 64)
    more = [[8], [90, 91, 92, 93, 94, 95, 96, 97, 98, 99, 100, 101], [33, 44]]
    context = read(model, IDS).context
    second = read(model, more, context)
    for row, (ids, tail) in enumerate(zip(IDS, more, strict=True)):
        expected = read(model, [ids + tail]).logits[0]
        torch.testing.assert_close(second.logits[row], expected, atol=1e-4, rtol=1e-4)
    rows = [second.context.row(row) for row in (1, 1, 2)]
    assert [part.columns for part in rows] == [15, 15, 7]
    fork = join(rows).without_last()
    again = forward(model, torch.tensor([[101], [7], [44]]), fork)
    torch.testing.assert_close(again.logits[0], second.logits[1], atol=1e-4, rtol=1e-4)
    expected = read(model, [IDS[1] + more[1][:-1] + [7]]).logits[0]
    torch.testing.assert_close(again.logits[1], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(again.logits[2], second.logits[2], atol=1e-4, rtol=1e-4)


def test_hidden_tokens_are_as_if_never_read(tiny):
    context = read(tiny, IDS).context.hide_last([2, 0, 4])
    logits = read(tiny, [[12, 13], [14], [15, 16, 17]], context).logits
    for row, ids in enumerate([[*IDS[0][:-2], 12, 13], [*IDS[1], 14], [*IDS[2][:-4], 15, 16, 17]]):
        torch.testing.assert_close(logits[row], read(tiny, [ids]).logits[0], atol=1e-4, rtol=1e-4)


def test_joined_contexts_keep_their_rows(tiny):
    parts = [read(tiny, [ids]).context for ids in IDS]
    joined = join(parts)
    assert joined.lengths.tolist() == [7, 3, 5]
    logits = forward(tiny, torch.tensor([[1], [2], [3]]), joined).logits
    for row, (ids, token) in enumerate(zip(IDS, (1, 2, 3), strict=True)):
        torch.testing.assert_close(logits[row], read(tiny, [[*ids, token]]).logits[0], atol=1e-4, rtol=1e-4)


def test_a_fork_leaves_its_origin_untouched(tiny):
    context = read(tiny, [IDS[0]]).context
    before = [t.clone() for t in (*context.keys, *context.values)]
    forward(tiny, torch.tensor([[1], [2], [3]]), context.select([0, 0, 0]))
    assert all(torch.equal(a, b) for a, b in zip(before, (*context.keys, *context.values), strict=True))


def test_trimming_drops_only_columns_that_nobody_owns(tiny):
    context = read(tiny, IDS).context
    short = context.select([1]).trimmed()
    assert (short.columns, context.columns) == (3, 7)
    logits = forward(tiny, torch.tensor([[2]]), short).logits[0]
    torch.testing.assert_close(logits, read(tiny, [[*IDS[1], 2]]).logits[0], atol=1e-4, rtol=1e-4)


def test_left_padding_marks_real_tokens():
    ids, real = left_padded([[1, 2, 3], [4]], pad=9)
    assert ids.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert real.tolist() == [[True, True, True], [False, False, True]]
