"""The scheduler: answers that share a prefix."""

import torch

from stir_core.models.scheduler import Listed, schedule
from stir_core.models.steering import Impulse
from tests.builders import prefill

IDS = [5, 9, 40, 7, 100]


class Counted(Listed):
    """Jobs of a list; more than ten passes are too many."""

    passes = 0

    def gone(self, batch):
        self.passes += 1
        assert self.passes <= 10, "an answer waits for a prefix that is not being read"
        return ()


def test_a_prefix_goes_with_its_row_and_the_answer_that_waited_for_it_reads_it_itself(tiny):
    def closes(seat):
        row = seat.open()
        yield next(seat.read(row, IDS, past=[(3, Impulse(1, torch.ones(32)))]))  # the first of two passes
        seat.close(row)
        yield []

    def waits(seat):
        yield (yield from seat.read(seat.open(), IDS))

    (result,) = schedule(tiny, Counted([closes, waits], None), lambda seat, job: job(seat))
    torch.testing.assert_close(result.logits, prefill(tiny, [IDS])[1].logits, atol=1e-4, rtol=1e-4)
