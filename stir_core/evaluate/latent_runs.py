"""Many latent runs of each problem: coverage, vote, a small model that scores latents, beam search (Parallel TTS, arXiv 2510.07745)."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import inf, isqrt
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from stir_core.config import section_from
from stir_core.errors import DataError
from stir_core.evaluate.latents import Reasoned, answer_modular, draws_latents, held_out_chains
from stir_core.evaluate.statistics import wilson
from stir_core.findings import LatentRunsRow
from stir_core.latent.thinking import LatentChoice, reason
from stir_core.latent.training import TrainedReasoner, load_reasoner
from stir_core.latent.words import as_batch
from stir_core.records import OnProgress, Progress
from stir_core.requests import LatentRequest
from stir_core.seeding import generator_for, seed_for
from stir_core.tasks.modular import ModularChain, draw_chains

_STEPS, _RATE, _WIDTH = 200, 3e-3, 32
"""Training of the scorer: steps over all its data, Adam, and its width."""
_MOST_SAMPLES = 8
"""Runs of a problem that the scorer is trained on, as published."""


class RunChoice(NamedTuple):
    """How runs differ, and what the scorer is trained on."""

    runs: int = 8
    """Runs of each problem."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise on each fed latent. Published: 0.6 for Coconut, 1.4 for CODI."""
    dropout: float = 0.0
    """Dropout in the latents' passes. Published: 0.2."""
    scored: int = 50
    """Validation problems of each number of steps that the scorer is trained on; 0: no scorer."""
    continuations: int = 4
    """Continuations of each prefix of latents, whose share of right answers is its label. Published: 64."""


class LatentScorer(nn.Module):
    """A score of every prefix of an answer's latents, from what is fed and the states before it."""

    def __init__(self, features: Float[Tensor, "n features"]):
        super().__init__()
        self.centre: Tensor
        self.scale: Tensor
        self.register_buffer("centre", features.mean(0))
        self.register_buffer("scale", features.std(0) + 1e-6)
        self.body = nn.GRU(features.shape[1], _WIDTH, batch_first=True)
        self.score = nn.Linear(_WIDTH, 1)

    def forward(self, features: Float[Tensor, "n slots features"]) -> Float[Tensor, "n slots"]:
        """Scores, slot by slot."""
        return self.score(self.body((features - self.centre) / self.scale)[0])[..., 0]


def evaluate_runs(
    folder: Path, choice: RunChoice, *, n: int = 500, seed: int = 0, report: OnProgress = lambda progress: None
) -> tuple[LatentRunsRow, ...]:
    """Coverage, vote, the best run by score and beam search against the number of runs (1, 2, 4, ...).

    The problems are those of ``evaluate_latents``. Progress is in answers of the runs; the scorer and beam search follow.

    Raises:
        ConfigError: a number is not one, or too large.
        DataError: the folder holds no reasoner with latents, the runs cannot differ, or a number is out of range.
    """
    section_from(LatentRequest, {"n": n, "runs": choice.runs, "seed": seed})
    if choice.runs < 1 or choice.scored < 0 or not 0 <= choice.dropout < 1 or not 0 <= choice.noise < inf:
        given = f"{choice.runs} runs, noise {choice.noise}, dropout {choice.dropout}, scorer on {choice.scored} problems"
        raise DataError(f"{given}: give at least one run, dropout below 1, finite noise from 0 on, and no fewer than 0 problems")
    trained = load_reasoner(folder)
    if not trained.reasoner.most:
        raise DataError(f"{folder} holds the strategy {trained.reasoner.name}, which has no latents: nothing differs between its runs")
    if not (choice.noise or choice.dropout or draws_latents(trained)):
        raise DataError(f"the latents of {trained.reasoner.name} are not drawn, so its runs are alike: give --noise or --dropout")
    known = {count: chains for count, chains in held_out_chains(trained.chains, n, seed).items() if count in trained.chains.counts}
    _scorer_problems(trained, choice, seed)  # refused before anything is answered, if there are too few
    total, done = choice.runs * sum(map(len, known.values())), 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        report(Progress("runs", done, total, "answers"))

    count(0)
    answered = latent_runs(trained, known, choice, choice.runs, seed, count)
    scorer = train_scorer(trained, choice, seed) if choice.scored else None
    scores = None if scorer is None else [_scores(scorer, each, trained.reasoner.options.per_step) for each in answered]
    rows = []
    for runs in sorted({choice.runs, *(2**i for i in range(choice.runs.bit_length()) if 2**i <= choice.runs)}):
        first = [each[:runs] for each in answered]
        voted = [Counter(run.text.rpartition("#### ")[2] for run in each).most_common(1)[0][0] for each in first]
        right = sum(vote == str(each[0].chain.answer) for vote, each in zip(voted, first, strict=True))
        best = beam = None
        if scores is not None and scorer is not None:
            best = sum(each[int(score[:runs].argmax())].right for each, score in zip(first, scores, strict=True))
            beam = sum(run.right for run in beam_search(trained, first, scorer, choice, seed))
        rows.append(
            LatentRunsRow(
                runs=runs,
                noise=choice.noise,
                dropout=choice.dropout,
                problems=len(first),
                coverage=wilson(sum(any(run.right for run in each) for each in first), len(first)),
                vote=wilson(right, len(first)),
                best=None if best is None else wilson(best, len(first)),
                beam=None if beam is None else wilson(beam, len(first)),
            )
        )
    return tuple(rows)


def beam_search(
    trained: TrainedReasoner, begun: Sequence[Sequence[Reasoned]], scorer: LatentScorer, choice: RunChoice, seed: int
) -> list[Reasoned]:
    """The best answer to each problem, thought step by step: of all chains the best by score go on, in several ways each.

    The score is the sum over the steps so far. Of N runs at most the square root are kept (of 16, 4 in 4 ways each), so that there are N
    chains at each step, as many latent passes as N runs take.

    Args:
        begun: by problem, its N runs, in whose first steps the search begins.
    """
    runs, c = len(begun[0]), trained.reasoner.options.per_step
    if runs == 1:
        return [each[0] for each in begun]
    beam = max(width for width in range(1, isqrt(runs) + 1) if runs % width == 0)
    kept = [list(each) for each in begun]
    for step in range(1, trained.reasoner.most // c + 1):
        sums = [_scores(scorer, each, c, step).argsort(descending=True, stable=True)[:beam] for each in kept]
        kept = [[each[int(i)] for i in order] for each, order in zip(kept, sums, strict=True)]
        going = [(i, run) for i, each in enumerate(kept) for run in each if len(run.answer.vectors) > c * step]
        kept = [[run for run in each if len(run.answer.vectors) <= c * step] for each in kept]
        for count in sorted({len(run.chain.steps) for _, run in going}):
            rows = [pair for pair in going if len(pair[1].chain.steps) == count for _ in range(runs // beam)]
            noise = torch.Generator().manual_seed(seed_for(seed, "latent beam", runs, count, step))
            for (i, _), run in zip(rows, continued(trained, [run for _, run in rows], step, choice, noise), strict=True):
                kept[i].append(run)
        if not going:
            break
    return [each[0] for each in kept]


def latent_runs(
    trained: TrainedReasoner,
    problems: Mapping[int, Sequence[ModularChain]],
    choice: RunChoice,
    runs: int,
    seed: int,
    answered: Callable[[int], None] = lambda n: None,
) -> list[list[Reasoned]]:
    """Drawn answers to each problem; ``answered`` as in :func:`answer_modular`."""
    repeated = {count: [chain for chain in chains for _ in range(runs)] for count, chains in problems.items()}
    flat = answer_modular(trained, repeated, "sampled", seed, spread=choice.noise, dropout=choice.dropout, answered=answered)
    return [flat[i : i + runs] for i in range(0, len(flat), runs)]


def train_scorer(trained: TrainedReasoner, choice: RunChoice, seed: int) -> LatentScorer | None:
    """A scorer of latents, trained on validation problems; ``None``: no problem has both right and wrong runs.

    At the end of each step, the softmax of the scores over a problem's runs is drawn to the shares of right continuations from there.
    """
    chains = _scorer_problems(trained, choice, seed)
    samples = latent_runs(trained, chains, choice, min(choice.runs, _MOST_SAMPLES), seed_for(seed, "latent scorer"))
    mixed = [each for each in samples if len({run.right for run in each}) == 2]
    if not mixed:
        return None
    labels = prefix_labels(trained, [run for each in mixed for run in each], choice, seed)
    size, c = len(mixed[0]), trained.reasoner.options.per_step
    features = pad_sequence([_features(run) for each in mixed for run in each], batch_first=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "latent scorer weights"))
        scorer = LatentScorer(torch.cat([_features(run) for each in mixed for run in each]))
    optimiser = torch.optim.Adam(scorer.parameters(), lr=_RATE)
    wanted = pad_sequence([torch.tensor(each) for each in labels], batch_first=True, padding_value=-1.0)
    wanted = wanted.unflatten(0, (-1, size))
    there = wanted >= 0
    shares = wanted.clamp_min(0) / wanted.clamp_min(0).sum(1, keepdim=True).clamp_min(1e-9)
    for _ in range(_STEPS):
        ends = scorer(features)[:, c - 1 :: c][:, : wanted.shape[2]].unflatten(0, (-1, size))
        logs = ends.masked_fill(~there, -1e9).log_softmax(1)
        optimiser.zero_grad()
        (-(shares * logs).sum() / len(mixed)).backward()
        optimiser.step()
    return scorer.eval()


def _scorer_problems(trained: TrainedReasoner, choice: RunChoice, seed: int) -> dict[int, list[ModularChain]]:
    rng, setting = generator_for(seed, "latent scorer", trained.chains.name), trained.chains
    return {count: draw_chains(setting, "validation", count, choice.scored, rng, without=set()) for count in setting.counts}


def prefix_labels(trained: TrainedReasoner, runs: Sequence[Reasoned], choice: RunChoice, seed: int) -> list[list[float]]:
    """For each run and the end of each of its steps: the share of right answers among continuations from there, with drawn latents.

    At the last step it is whether the run itself is right.
    """
    c = trained.reasoner.options.per_step
    labels = [[float(run.right)] * (len(run.answer.vectors) // c) for run in runs]
    kinds = sorted({(len(run.chain.steps), step) for run, label in zip(runs, labels, strict=True) for step in range(1, len(label))})
    for count, step in kinds:
        rows = [i for i, run in enumerate(runs) if len(run.chain.steps) == count and len(labels[i]) > step]
        repeated = [i for i in rows for _ in range(choice.continuations)]
        noise = torch.Generator().manual_seed(seed_for(seed, "latent scorer continuations", count, step))
        found = [run.right for run in continued(trained, [runs[i] for i in repeated], step, choice, noise)]
        for k, i in enumerate(rows):
            labels[i][step - 1] = sum(found[k * choice.continuations : (k + 1) * choice.continuations]) / choice.continuations
    return labels


def continued(trained: TrainedReasoner, runs: Sequence[Reasoned], step: int, choice: RunChoice, noise: torch.Generator) -> list[Reasoned]:
    """Each run's problem, thought on from the end of one of its steps with drawn latents; all have equally many steps."""
    reasoner, found, count = trained.reasoner, [], len(runs[0].chain.steps)
    slots = None if reasoner.stops else reasoner.slots(count, count)[0]
    drawn = LatentChoice(noise, slots=slots, spread=choice.noise, dropout=choice.dropout)
    for part in range(0, len(runs), 250):
        asked = runs[part : part + 250]
        first = torch.stack([run.answer.vectors[: reasoner.options.per_step * step] for run in asked])
        answers = reason(reasoner, as_batch(trained.words, [run.chain for run in asked]).question, drawn._replace(first=first))
        texts = trained.words.batch_decode([each.ids for each in answers], skip_special_tokens=True)
        found += [Reasoned(run.chain, *each) for run, each in zip(asked, zip(answers, texts, strict=True), strict=True)]
    return found


def _features(run: Reasoned) -> Float[Tensor, "slots features"]:
    return torch.cat([run.answer.vectors, run.answer.states], dim=-1)


@torch.no_grad()
def _scores(scorer: LatentScorer, runs: Sequence[Reasoned], per_step: int, steps: int | None = None) -> Float[Tensor, "runs"]:
    """Sum over the ends of an answer's steps, as published; with ``steps``, of its first ones."""
    features = pad_sequence([_features(run) for run in runs], batch_first=True)
    if not features.shape[1]:
        return torch.zeros(len(runs))  # all have stopped before their first latent
    ends = scorer(features)[:, per_step - 1 :: per_step][:, :steps]
    own = torch.tensor([len(run.answer.vectors) // per_step for run in runs])
    return ends.masked_fill(torch.arange(ends.shape[1]) >= own[:, None], 0.0).sum(1)
