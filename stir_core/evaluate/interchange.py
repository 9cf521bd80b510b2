"""Interchange interventions on latents (Geiger et al. 2021): does the answer follow the value that a step's latents hold?

The latents of one step are replaced by those of another problem with equally many steps. If they hold the value after the step and the
answer is computed from it, the answer becomes what the remaining operations make of the *other* problem's value.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.errors import DataError
from stir_core.evaluate.statistics import wilson
from stir_core.findings import Estimate, InterchangeReport, InterchangeRow
from stir_core.latent.thinking import LatentChoice, reason
from stir_core.latent.training import TrainedReasoner, load_reasoner, weights_of
from stir_core.latent.words import as_batch
from stir_core.records import OnProgress, Progress
from stir_core.seeding import generator_for
from stir_core.tasks.modular import ModularChain, applied, draw_chains

HOWS = ("swapped", "swapped, then thinking on", "zero", "mean")
"""What takes the place of a step's latents: another problem's, with the later latents kept or thought anew; zeros; the problems' mean."""


class _Answered(NamedTuple):
    chains: list[ModularChain]
    vectors: Float[Tensor, "problems latents d_model"]
    answers: list[str]
    """The number that each states; the empty text if it states none."""


def interchange(folder: Path, *, n: int = 200, seed: int = 0, report: OnProgress = lambda progress: None) -> InterchangeReport:
    """Replace the latents of each step in turn.

    Args:
        n: problems for each number of steps; none that a training has seen. Each is paired with the next one.

    Raises:
        DataError: no finished reasoner, one without latents, or too few problems to pair.
    """
    if n < 2:
        raise DataError(f"n is {n}: give at least two problems, which exchange their latents")
    trained = load_reasoner(folder)
    if not trained.reasoner.most:
        raise DataError(f"{folder} holds the strategy {trained.reasoner.name}, which has no latents: give one that has")
    counts = trained.setting.counts
    rng = generator_for(seed, "latent interchange", trained.setting.name)
    rows: list[InterchangeRow] = []
    for count in counts:
        chains = draw_chains(trained.setting, "eval", count, n, rng, without=set())
        own = _answered(trained, chains, LatentChoice(slots=count * trained.reasoner.options.per_step))
        for step in range(1, count + 1):
            rows += [_row(trained, own, step, how) for how in HOWS]
        report(Progress("interchange", len(rows), sum(counts) * len(HOWS), "replacements"))
    return InterchangeReport(strategy=trained.reasoner.name, setting=trained.setting.name, weights=weights_of(folder), rows=tuple(rows))


def _answered(
    trained: TrainedReasoner,
    chains: Sequence[ModularChain],
    choice: LatentChoice,
    given: Float[Tensor, "problems latents d_model"] | None = None,
) -> _Answered:
    found = reason(trained.reasoner, as_batch(trained.words, chains).question, choice, given=given)
    texts = trained.words.batch_decode([each.ids for each in found], skip_special_tokens=True)
    return _Answered(list(chains), torch.stack([each.vectors for each in found]), [text.rpartition("#### ")[2] for text in texts])


def _row(trained: TrainedReasoner, own: _Answered, step: int, how: str) -> InterchangeRow:
    c, count = trained.reasoner.options.per_step, len(own.chains[0].operations)
    here = slice(c * (step - 1), c * step)
    fed = own.vectors.clone()
    other = {"zero": torch.zeros_like(fed), "mean": fed.mean(0, keepdim=True).expand_as(fed)}.get(how, fed.roll(-1, dims=0))
    fed[:, here] = other[:, here]
    if how == HOWS[1]:
        after = _answered(trained, own.chains, LatentChoice(slots=c * count, first=fed[:, : c * step]))
    else:
        after = _answered(trained, own.chains, LatentChoice(), given=fed)
    followed = [
        carried_on(chain, step, other.values[step]) for chain, other in zip(own.chains, own.chains[1:] + own.chains[:1], strict=True)
    ]
    # where both values lead to one answer, nothing can be told
    told = [i for i, chain in enumerate(own.chains) if followed[i] != chain.answer and own.answers[i] == str(chain.answer)]

    def share(said: Callable[[int], str]) -> Estimate | None:
        return wilson(sum(after.answers[i] == said(i) for i in told), len(told)) if told else None

    return InterchangeRow(
        count=count,
        step=step,
        how=how,
        problems=len(told),
        kept=share(lambda i: own.answers[i]),
        followed=share(lambda i: str(followed[i])) if how in HOWS[:2] else None,
    )


def carried_on(chain: ModularChain, step: int, value: int) -> int:
    """The answer of a problem if the value after ``step`` operations were another."""
    for sign, number in chain.operations[step:]:
        value = applied(value, sign, number) % chain.modulus
    return value
