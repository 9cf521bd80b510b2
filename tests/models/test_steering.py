"""Interventions prove that they ran, touch only their own row and position, and leave nothing behind."""

import threading

import pytest
import torch

from stir_core.errors import SteeringError
from stir_core.models.passes import forward, read
from stir_core.models.steering import Impulse, impulses

IDS = torch.tensor([[5, 9, 40], [17, 3, 250], [60, 61, 62]])
VECTOR = torch.randn(32, generator=torch.Generator().manual_seed(0))


def test_an_impulse_is_added_once_at_the_last_token(tiny):
    plain = forward(tiny, IDS, capture=(1, 2), every_state=True)
    steered = forward(tiny, IDS, plan=[Impulse(1, 1, VECTOR)], capture=(1, 2), every_state=True)
    difference = steered.states[1] - plain.states[1]
    torch.testing.assert_close(difference[1, -1], VECTOR, atol=1e-5, rtol=1e-5)
    difference[1, -1] = 0
    assert torch.equal(difference, torch.zeros_like(difference))
    assert not torch.equal(steered.logits[1], plain.logits[1])


def test_neighbours_and_earlier_tokens_are_bit_equal(tiny):
    plain, steered = forward(tiny, IDS), forward(tiny, IDS, plan=[Impulse(1, 1, VECTOR)])
    assert torch.equal(steered.logits[[0, 2]], plain.logits[[0, 2]])
    for a, b in zip(plain.context.keys, steered.context.keys, strict=True):
        assert torch.equal(a[[0, 2]], b[[0, 2]]) and torch.equal(a[1, :, :-1], b[1, :, :-1])


def test_a_zero_vector_leaves_the_logits_bit_equal(tiny):
    assert torch.equal(forward(tiny, IDS, plan=[Impulse(0, 2, torch.zeros(32))]).logits, forward(tiny, IDS).logits)


def test_two_impulses_on_one_row_add_up(tiny):
    twice = forward(tiny, IDS, plan=[Impulse(0, 1, VECTOR), Impulse(2, 3, VECTOR), Impulse(1, 1, 2 * VECTOR)])
    for row, (layer, scale) in enumerate([(1, 1.0), (1, 2.0), (3, 1.0)]):
        alone = forward(tiny, IDS, plan=[Impulse(row, layer, scale * VECTOR)])
        assert torch.equal(twice.logits[row], alone.logits[row])


@pytest.mark.parametrize(
    ("impulse", "message"),
    [
        (Impulse(0, 4, VECTOR), r"no hook blocks\.4\.hook_out: the model has blocks 0 to 3"),
        (Impulse(0, -1, VECTOR), r"no hook blocks\.-1\.hook_out"),
        (Impulse(3, 1, VECTOR), "impulse for row 3 of a batch of 3"),
        (Impulse(0, 1, VECTOR[:5]), r"impulse of shape \[5\] on a residual stream of width 32"),
    ],
)
def test_an_impossible_impulse_is_refused_before_the_pass(tiny, impulse, message):
    with pytest.raises(SteeringError, match=message), impulses(tiny.bridge, [impulse], rows=3, d_model=32):
        pytest.fail("the pass must not start")
    assert no_hooks(tiny)


def test_an_impulse_that_never_fired_is_an_error(tiny):
    with (
        pytest.raises(SteeringError, match=r"blocks\.1\.hook_out fired 0 times"),
        impulses(tiny.bridge, [Impulse(0, 1, VECTOR)], rows=1, d_model=32),
    ):
        pass
    assert no_hooks(tiny)


def test_an_exception_leaves_no_hook(tiny):
    with pytest.raises(KeyError), impulses(tiny.bridge, [Impulse(0, 1, VECTOR)], rows=1, d_model=32):
        raise KeyError
    assert no_hooks(tiny)


def test_a_users_own_hook_stays(tiny):
    seen = []
    point = tiny.bridge.blocks[1].hook_out
    handle = point.add_hook(lambda stream, hook: seen.append(stream.shape))
    try:
        forward(tiny, IDS, plan=[Impulse(0, 1, VECTOR)], capture=(1,))
        assert len(point.fwd_hooks) == 1 and len(seen) == 1
    finally:
        point.remove_hooks("fwd")
    assert handle is not None and no_hooks(tiny)


def test_threads_never_see_each_others_impulses(tiny):
    expected = {scale: forward(tiny, IDS, plan=[Impulse(0, 1, scale * VECTOR)]).logits for scale in (0.0, 1.0, 2.0)}
    wrong: list[float] = []

    def work(scale: float) -> None:
        for _ in range(15):
            if not torch.equal(forward(tiny, IDS, plan=[Impulse(0, 1, scale * VECTOR)]).logits, expected[scale]):
                wrong.append(scale)

    threads = [threading.Thread(target=work, args=(scale,)) for scale in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_capture_sees_the_state_after_the_impulse(tiny):
    plain = read(tiny, [[5, 9, 40]], capture=(2,))
    steered = forward(tiny, torch.tensor([[5, 9, 40]]), plan=[Impulse(0, 2, VECTOR)], capture=(2,))
    torch.testing.assert_close(steered.states[2] - plain.states[2], VECTOR[None], atol=1e-5, rtol=1e-5)


def no_hooks(model) -> bool:
    return all(not block.hook_out.fwd_hooks for block in model.bridge.blocks)
