"""Interventions prove that they ran, touch only their own row and position, and leave nothing behind."""

import threading

import pytest
import torch

from stir_core.errors import SteeringError
from stir_core.models.passes import Feed, forward
from stir_core.models.steering import Impulse, captured, impulses

IDS = [[5, 9, 40], [17, 3, 250], [60, 61, 62]]
VECTOR = torch.randn(32, generator=torch.Generator().manual_seed(0))


def steered_by(model, plan: dict[int, Impulse], layers: tuple[int, ...] = ()):
    """One pass over the three sequences, impulses at the last tokens of some; gives the rows and the pass, all states."""
    store = model.new_store()
    rows = [store.open() for _ in IDS]
    feeds = [Feed(row, ids, plan.get(i), capture=(0, 1, 2)) for i, (row, ids) in enumerate(zip(rows, IDS, strict=True))]
    return rows, forward(model, feeds, layers)


def test_an_impulse_is_added_once_at_the_last_token(tiny):
    _, plain = steered_by(tiny, {}, (1, 2))
    _, steered = steered_by(tiny, {1: Impulse(1, VECTOR)}, (1, 2))
    difference = torch.stack([a[1] - b[1] for a, b in zip(steered.states, plain.states, strict=True)])
    torch.testing.assert_close(difference[1, -1], VECTOR, atol=1e-5, rtol=1e-5)
    difference[1, -1] = 0
    assert torch.equal(difference, torch.zeros_like(difference))
    assert not torch.equal(steered.logits[1], plain.logits[1])


def test_neighbours_and_earlier_tokens_are_bit_equal(tiny):
    (a, plain), (b, steered) = steered_by(tiny, {}), steered_by(tiny, {1: Impulse(1, VECTOR)})
    assert torch.equal(steered.logits[[0, 2]], plain.logits[[0, 2]])
    for layer in range(tiny.n_layers):
        for one, two in ((a[0].store.keys(layer), b[0].store.keys(layer)), (a[0].store.values(layer), b[0].store.values(layer))):
            assert torch.equal(one[[0, 2]], two[[0, 2]]) and torch.equal(one[1, :, :2], two[1, :, :2])
    assert not torch.equal(a[0].store.keys(3)[1, :, 2], b[0].store.keys(3)[1, :, 2])


def test_a_zero_vector_leaves_the_logits_bit_equal(tiny):
    assert torch.equal(steered_by(tiny, {0: Impulse(2, torch.zeros(32))})[1].logits, steered_by(tiny, {})[1].logits)


def test_impulses_of_different_rows_and_layers_in_one_pass(tiny):
    plan = {0: Impulse(1, VECTOR), 1: Impulse(1, 2 * VECTOR), 2: Impulse(3, VECTOR)}
    together = steered_by(tiny, plan)[1]
    for i, impulse in plan.items():
        assert torch.equal(together.logits[i], steered_by(tiny, {i: impulse})[1].logits[i])


@pytest.mark.parametrize(
    ("at", "impulse", "message"),
    [
        (0, Impulse(4, VECTOR), r"no hook blocks\.4\.hook_out: give a block from 0 to 3"),
        (0, Impulse(-1, VECTOR), r"no hook blocks\.-1\.hook_out"),
        (3, Impulse(1, VECTOR), "impulse at token 3 of a pass of 3"),
        (0, Impulse(1, VECTOR[:5]), r"impulse of shape \[5\] on a residual stream of width 32"),
    ],
)
def test_an_impossible_impulse_is_refused_before_the_pass(tiny, at, impulse, message):
    with pytest.raises(SteeringError, match=message), impulses(tiny.backend, [(at, impulse)], tokens=3, d_model=32):
        pytest.fail("the pass must not start")
    assert no_hooks(tiny)


def test_an_impulse_that_never_fired_is_an_error(tiny):
    with (
        pytest.raises(SteeringError, match=r"blocks\.1\.hook_out fired 0 times"),
        impulses(tiny.backend, [(0, Impulse(1, VECTOR))], tokens=1, d_model=32),
    ):
        pass
    assert no_hooks(tiny)


def test_a_capture_that_never_fired_is_an_error(tiny):
    with pytest.raises(SteeringError, match=r"the capture at blocks\.2\.hook_out fired 0 times"), captured(tiny.backend, (2,), [0]):
        pass
    assert no_hooks(tiny)


def test_an_exception_leaves_no_hook_and_no_token(tiny):
    with pytest.raises(KeyError), impulses(tiny.backend, [(0, Impulse(1, VECTOR))], tokens=1, d_model=32):
        raise KeyError
    row = tiny.new_store().open()
    with pytest.raises(SteeringError):
        forward(tiny, [Feed(row, [5, 9], Impulse(9, VECTOR))])
    assert no_hooks(tiny) and row.length == 0


def test_a_users_own_hook_stays(tiny):
    seen = []
    point = tiny.backend.hook_point(1)
    handle = point.add_hook(lambda stream, hook: seen.append(stream.shape))
    try:
        steered_by(tiny, {0: Impulse(1, VECTOR)}, (1,))
        assert len(point.fwd_hooks) == 1 and len(seen) == 1
    finally:
        point.remove_hooks("fwd")
    assert handle is not None and no_hooks(tiny)


def test_threads_never_see_each_others_impulses(tiny):
    expected = {scale: steered_by(tiny, {0: Impulse(1, scale * VECTOR)})[1].logits for scale in (0.0, 1.0, 2.0)}
    wrong: list[float] = []

    def work(scale: float) -> None:
        for _ in range(15):
            if not torch.equal(steered_by(tiny, {0: Impulse(1, scale * VECTOR)})[1].logits, expected[scale]):
                wrong.append(scale)

    threads = [threading.Thread(target=work, args=(scale,)) for scale in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_capture_sees_the_state_after_the_impulse(tiny):
    plain, steered = steered_by(tiny, {}, (2,))[1], steered_by(tiny, {0: Impulse(2, VECTOR)}, (2,))[1]
    torch.testing.assert_close(steered.states[0][2][-1] - plain.states[0][2][-1], VECTOR, atol=1e-5, rtol=1e-5)


def no_hooks(model) -> bool:
    points = [*(block.hook_out for block in model.bridge.blocks), *(block.hook_out for block in model.backend.blocks)]
    return all(not point.fwd_hooks for point in points)
