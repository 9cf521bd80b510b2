"""Forward passes against the plain Hugging Face model, for the three architectures that users bring and both backends."""

import copy
from dataclasses import replace

import pytest
import torch

from stir_core.models.cache import graft
from stir_core.models.hooked import BridgeBackend, HookedDecoder
from stir_core.models.loading import boot
from stir_core.models.passes import Feed, forward
from stir_core.models.steering import Impulse
from tests.builders import make_hf, prefill

LONG = [5, 9, 40, 7, 100, 22, 31] * 4  # beyond the window of the sliding-window model
IDS = [LONG, [17, 3, 250], [60, 61, 62, 63, 64], [7]]
KINDS = ["llama", "qwen2", "gemma3"]
VECTOR = torch.randn(32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tokenizer):
    """A booted model and the plain one, eager attention."""
    hf = make_hf(request.param, len(tokenizer))
    model = boot(f"tiny/{request.param}", copy.deepcopy(hf), tokenizer, weights_sha256="0" * 64)
    hf.set_attn_implementation("eager")
    return model, hf


@pytest.fixture(params=["fused", "eager", "bridge"])
def model(request, pair):
    """The same weights through each way that a pass can take."""
    if request.param == "bridge":
        return replace(pair[0], backend=BridgeBackend(pair[0].bridge))
    return replace(pair[0], eager=request.param == "eager")


def expected(pair, ids):
    with torch.inference_mode():
        return pair[1](torch.tensor([ids]), logits_to_keep=1).logits[0, -1]


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_one_sequence_equals_the_plain_model_bit_for_bit(pair):
    reference = replace(pair[0], backend=BridgeBackend(pair[0].bridge))
    for ids in IDS:
        for way in (replace(pair[0], eager=True), reference):
            assert torch.equal(prefill(way, [ids])[1].logits[0], expected(pair, ids))


def test_the_backends_agree_bit_for_bit_on_states_and_steered_logits(pair):
    lean, reference = replace(pair[0], eager=True), replace(pair[0], backend=BridgeBackend(pair[0].bridge))
    found = []
    for way in (lean, reference):
        row = way.new_store().open()
        found.append(forward(way, [Feed(row, LONG, Impulse(1, VECTOR), capture=(0, len(LONG) - 1))], (0, 1, 3)))
    assert torch.equal(found[0].logits, found[1].logits)
    for layer in (0, 1, 3):
        assert torch.equal(found[0].states[0][layer], found[1].states[0][layer])
    assert not torch.equal(found[0].logits[0], expected(pair, LONG))


def test_the_weights_are_shared(pair):
    model = pair[0]
    assert isinstance(model.backend, HookedDecoder)
    held = {parameter.data_ptr() for parameter in model.backend.model.parameters()}
    assert held == {parameter.data_ptr() for parameter in model.bridge.original_model.parameters()}
    assert "blocks.3.hook_out" in model.backend.hook_dict


def test_a_batch_of_any_lengths_equals_its_rows(pair, model):
    _, together = prefill(model, IDS, (1, 3))
    for i, ids in enumerate(IDS):
        _, alone = prefill(model, [ids], (1, 3))
        close(together.logits[i], expected(pair, ids))
        for layer in (1, 3):
            close(together.states[i][layer], alone.states[0][layer])


def test_tokens_segments_and_branches_in_one_pass(pair, model):
    """Single tokens, whole segments and branches, ragged, side by side, over several passes."""
    rows, _ = prefill(model, IDS)
    store = model.new_store(columns=8)
    first = forward(model, [Feed(rows[0], [3]), Feed(rows[1], [4, 5, 6]), Feed(rows[3], [9])])
    held = [[*LONG, 3], [17, 3, 250, 4, 5, 6], IDS[2], [7, 9]]
    for logits, ids in zip(first.logits, (held[0], held[1], held[3]), strict=True):
        close(logits, expected(pair, ids))
    branches = [store.open(rows[0], len(LONG)) for _ in range(3)] + [store.open(rows[2], 4)]
    forward(model, [Feed(branches[0], [11]), Feed(rows[1], [7]), Feed(branches[2], [12]), Feed(branches[3], [13])])
    second = forward(
        model, [Feed(branches[0], [15]), Feed(branches[1], [16]), Feed(rows[1], [8]), Feed(branches[3], [17]), Feed(rows[3], [2, 4])]
    )
    wanted = [[*LONG, 11, 15], [*LONG, 16], [*held[1], 7, 8], [*IDS[2][:4], 13, 17], [7, 9, 2, 4]]
    for logits, ids in zip(second.logits, wanted, strict=True):
        close(logits, expected(pair, ids))
    assert [row.total for row in (*rows, *branches)] == [29, 8, 5, 4, 30, 29, 29, 6]
    close(forward(model, [Feed(rows[0], [1])]).logits[0], expected(pair, [*held[0], 1]))  # branches left their trunk alone


def test_a_branch_may_grow_beyond_the_sliding_window(pair, model):
    store = model.new_store()
    trunk, ids = store.open(), [5, 9, 40]
    forward(model, [Feed(trunk, ids)])
    branch = model.new_store(columns=8).open(trunk, len(ids))
    for token in LONG[:20]:  # gemma3's window is 16
        result = forward(model, [Feed(branch, [token])])
        ids.append(token)
        close(result.logits[0], expected(pair, ids))


def test_a_grafted_branch_goes_on_as_its_trunk(pair, model):
    (row, other), _ = prefill(model, IDS[:2])
    clean = row.store.column(row, row.length - 1)
    branch = model.new_store(columns=8).open(row, len(LONG) - 1)
    for token in (90, 91):
        forward(model, [Feed(branch, [token])])
    graft(branch)
    close(forward(model, [Feed(row, [92]), Feed(other, [1])]).logits[0], expected(pair, [*LONG[:-1], 90, 91, 92]))
    row.store.put(row, len(LONG) - 1, clean)
    row.length = len(LONG)  # and back again
    close(forward(model, [Feed(row, [93])]).logits[0], expected(pair, [*LONG, 93]))


def test_a_row_cut_short_is_as_if_never_read(pair, model):
    rows, _ = prefill(model, IDS[:3])
    for row, cut in zip(rows, (2, 0, 4), strict=True):
        row.length -= cut
    found = forward(model, [Feed(row, [12, 13]) for row in rows]).logits
    for i, cut in enumerate((2, 0, 4)):
        close(found[i], expected(pair, [*IDS[i][: len(IDS[i]) - cut], 12, 13]))


def test_closing_a_row_leaves_the_others_unchanged(pair, model):
    rows, _ = prefill(model, IDS)
    store = rows[0].store
    store.close(rows[1])
    assert [row.slot for row in store.rows] == [0, 1, 2] and rows[1].slot == -1
    late = store.open()
    forward(model, [Feed(late, [44, 45, 46])])
    left = [(rows[0], IDS[0]), (rows[2], IDS[2]), (rows[3], IDS[3]), (late, [44, 45, 46])]
    found = forward(model, [Feed(row, [8]) for row, _ in left]).logits
    for logits, (_, ids) in zip(found, left, strict=True):
        close(logits, expected(pair, [*ids, 8]))
    store.close(late)
    store.shrink()
    close(forward(model, [Feed(rows[2], [9])]).logits[0], expected(pair, [*IDS[2], 8, 9]))


def test_a_copied_row_is_its_own(pair, model):
    (row, _), _ = prefill(model, IDS[:2])
    twin = row.store.open()
    row.store.copy(row, twin, row.length)
    found = forward(model, [Feed(row, [1]), Feed(twin, [2])]).logits
    close(found[0], expected(pair, [*LONG, 1]))
    close(found[1], expected(pair, [*LONG, 2]))


def test_buffers_grow_and_keep_what_they_hold(pair, model):
    (row,), _ = prefill(model, [IDS[1]])
    rng = torch.Generator().manual_seed(1)
    more = torch.randint(2, 200, (150,), generator=rng).tolist()
    forward(model, [Feed(row, more)])
    others = [row.store.open() for _ in range(5)]
    forward(model, [Feed(other, [i + 1]) for i, other in enumerate(others)])
    close(forward(model, [Feed(row, [5])]).logits[0], expected(pair, [*IDS[1], *more, 5]))


def test_only_wanted_logits_are_made(pair, model):
    store = model.new_store()
    rows = [store.open() for _ in range(3)]
    found = forward(
        model,
        [Feed(row, ids, logits=i == 1, capture=(0,) if i == 2 else ()) for i, (row, ids) in enumerate(zip(rows, IDS, strict=False))],
        (2,),
    )
    assert found.logits.shape[0] == 1 and [set(states) for states in found.states] == [set(), set(), {2}]
    close(found.logits[0], expected(pair, IDS[1]))


def test_logits_after_every_token(pair, model):
    store = model.new_store()
    rows = [store.open() for _ in range(2)]
    forward(model, [Feed(rows[0], IDS[2][:2])])
    found = forward(model, [Feed(rows[0], IDS[2][2:], every=True), Feed(rows[1], IDS[1])]).logits
    wanted = [IDS[2][:3], IDS[2][:4], IDS[2], IDS[1]]
    assert len(found) == 4
    for logits, ids in zip(found, wanted, strict=True):
        close(logits, expected(pair, ids))
