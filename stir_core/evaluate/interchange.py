"""Interchange interventions on latents (Geiger et al. 2021): what do a step's latents hold that the answer is computed from?

The latents of one step are replaced by those of another problem with equally many steps. If the answer is computed from a value that they
hold, it becomes what the problem makes of the *other* problem's value. Three things may be held: the value after the step, the value before
it, or its operation.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from stir_core.config import section_from
from stir_core.errors import DataError
from stir_core.evaluate.statistics import wilson
from stir_core.findings import Estimate, InterchangeReport, InterchangeRow
from stir_core.latent.thinking import LatentChoice, reason
from stir_core.latent.training import TrainedReasoner, load_reasoner, weights_of
from stir_core.latent.words import as_batch
from stir_core.records import OnProgress, Progress
from stir_core.requests import LatentRequest
from stir_core.seeding import generator_for
from stir_core.store.latents import latent_folder
from stir_core.tasks.modular import ModularChain, applied, draw_chains

SWAPS = ("swapped", "swapped, then thinking on")
"""Another problem's latents take a step's place; the later latents are kept, or thought anew."""
HOWS = (*SWAPS, "zero", "mean")
"""What takes the place of a step's latents; zeros and the problems' mean replace all of them, a swap also one alone."""


class Counterfactuals(NamedTuple):
    """What the answer is if one thing that a step's latents may hold is another problem's."""

    after: int
    """The value after the step."""
    before: int
    """The value before the step; the problem's own operation is applied to it."""
    operation: int
    """The operation and its number, applied to the problem's own value."""


class _Answered(NamedTuple):
    chains: list[ModularChain]
    vectors: Float[Tensor, "problems latents d_model"]
    answers: list[str]
    """The number that each states; the empty text if it states none."""


def interchange(folder: Path | str, *, n: int = 200, seed: int = 0, report: OnProgress = lambda progress: None) -> InterchangeReport:
    """Replace the latents of each step in turn, and see what the answers follow. `stir latent interchange`.

    Args:
        folder: of a finished training, or the name of a reasoner that comes with the package.
        n: problems for each number of steps; none that a training has seen. Each is paired with the next one.

    Raises:
        ConfigError: a number is not one.
        DataError: no finished reasoner, one without latents, or too few problems to pair.
    """
    section_from(LatentRequest, {"n": n, "seed": seed})
    if n < 2:
        raise DataError(f"n is {n}: give at least two problems, which exchange their latents")
    folder = latent_folder(folder)
    trained = load_reasoner(folder)
    if not trained.reasoner.most:
        raise DataError(f"{folder} holds the strategy {trained.reasoner.name}, which has no latents: give one that has")
    setting = trained.chains
    counts = setting.counts
    rng = generator_for(seed, "latent interchange", setting.name)
    rows: list[InterchangeRow] = []
    report(Progress("interchange", 0, len(counts), "numbers of steps"))
    for count in counts:
        chains = draw_chains(setting, "eval", count, n, rng, without=set())
        own = _answered(trained, chains, LatentChoice(slots=count * trained.reasoner.options.per_step))
        for step in range(1, count + 1):
            rows += [_row(trained, own, step, None, how) for how in HOWS]
            rows += [_row(trained, own, step, latent, SWAPS[1]) for latent in range(1, trained.reasoner.options.per_step + 1)]
        report(Progress("interchange", count - counts[0] + 1, len(counts), "numbers of steps"))
    return InterchangeReport(strategy=trained.reasoner.name, setting=setting.name, weights=weights_of(folder), rows=tuple(rows))


def _answered(
    trained: TrainedReasoner,
    chains: Sequence[ModularChain],
    choice: LatentChoice,
    given: Float[Tensor, "problems latents d_model"] | None = None,
) -> _Answered:
    found = reason(trained.reasoner, as_batch(trained.words, chains).question, choice, given=given)
    texts = trained.words.batch_decode([each.ids for each in found], skip_special_tokens=True)
    return _Answered(list(chains), torch.stack([each.vectors for each in found]), [text.rpartition("#### ")[2] for text in texts])


def _row(trained: TrainedReasoner, own: _Answered, step: int, latent: int | None, how: str) -> InterchangeRow:
    c, count = trained.reasoner.options.per_step, len(own.chains[0].operations)
    here = slice(c * (step - 1), c * step) if latent is None else slice(c * (step - 1) + latent - 1, c * (step - 1) + latent)
    fed = own.vectors.clone()
    other = {"zero": torch.zeros_like(fed), "mean": fed.mean(0, keepdim=True).expand_as(fed)}.get(how, fed.roll(-1, dims=0))
    fed[:, here] = other[:, here]
    if how == SWAPS[1]:
        after = _answered(trained, own.chains, LatentChoice(slots=c * count, first=fed[:, : here.stop]))
    else:
        after = _answered(trained, own.chains, LatentChoice(), given=fed)
    read = [other_answers(chain, other, step) for chain, other in zip(own.chains, own.chains[1:] + own.chains[:1], strict=True)]
    # where two readings lead to one answer, nothing can be told; nor where the answer was wrong before
    told = [
        i
        for i, chain in enumerate(own.chains)
        if own.answers[i] == str(chain.answer) and len({chain.answer, *read[i]}) == 1 + len(Counterfactuals._fields)
    ]

    def share(said: Callable[[int], str]) -> Estimate | None:
        return wilson(sum(after.answers[i] == said(i) for i in told), len(told)) if told else None

    swapped = {name: share(lambda i, name=name: str(getattr(read[i], name))) for name in Counterfactuals._fields} if how in SWAPS else {}
    return InterchangeRow(
        count=count, step=step, latent=latent, how=how, problems=len(told), kept=share(lambda i: own.answers[i]), **swapped
    )


def other_answers(chain: ModularChain, other: ModularChain, step: int) -> Counterfactuals:
    """The answers to a problem if its latents of a step said what those of another problem say."""
    sign, number = other.operations[step - 1]
    return Counterfactuals(
        after=carried_on(chain, step, other.values[step]),
        before=carried_on(chain, step - 1, other.values[step - 1]),
        operation=carried_on(chain, step, applied(chain.values[step - 1], sign, number) % chain.modulus),
    )


def carried_on(chain: ModularChain, step: int, value: int) -> int:
    """The answer of a problem if the value after ``step`` operations were another."""
    for sign, number in chain.operations[step:]:
        value = applied(value, sign, number) % chain.modulus
    return value
