"""Reinforce a trained reasoner whose latents are drawn: group-relative policy gradient over latents, stops and text (ATP-Latent).

Each question is answered several times. The reward of an answer is compared with those of the other answers to the same question, and the
clipped surrogate of PPO is maximised over the density of each latent, the decision to stop or go on, and each token of the text. What is
mended in the published code is an option; :meth:`RlOptions.compat` sets all of them as published.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from stir_core.config import Section, section_from
from stir_core.errors import DataError
from stir_core.latent.coherence import published_coherence, strict_coherence
from stir_core.latent.frame import Reasoner, Size, Weight
from stir_core.latent.thinking import LatentAnswer, LatentChoice, reason
from stir_core.latent.training import CurveLine, TrainedReasoner, described, load_reasoner, refuse_unfinite_loss, save_reasoner, weights_of
from stir_core.latent.words import ANSWER, as_batch, states_answer
from stir_core.models.small import restore_checkpoint, save_checkpoint, train_in
from stir_core.records import OnProgress, Progress
from stir_core.requests import LatentRequest
from stir_core.seeding import generator_for, seed_for
from stir_core.store.latents import latent_folder
from stir_core.tasks.modular import ModularChain, draw_chains
from stir_core.tasks.solutions import SolvedProblem, SolvedProblems, read_solutions


class RlOptions(Section):
    """How a reasoner is reinforced."""

    noun: ClassVar[str] = "option"

    iterations: Size = 60
    """Rounds of answering and updating."""
    questions: Size = 32
    """Questions in a round."""
    answers: Annotated[int, Field(ge=2, le=4096)] = 8
    """Answers to each question."""
    updates: Size = 4
    """Optimiser steps in a round; each takes its share of the answers once."""
    rate: Weight = 3e-5
    """Learning rate, constant."""
    clip: Weight = 0.2
    """Ratios of new to old probability beyond 1 plus or minus this gain nothing."""
    accuracy: Weight = 1.0
    """Reward of a right answer."""
    format: Weight = 0.5
    """Reward of a text that begins with ``#### `` and goes on."""
    coherence: Weight = 0.1
    """Reward of coherence, times the coherence."""
    coherence_rule: Literal["strict", "published"] = "strict"
    """Which coherence is rewarded; both are logged."""
    coherence_if_right: bool = True
    """Reward coherence in right answers only, as published; its run with coherence alone rewards it in all."""
    baseline: Literal["leave_one_out", "group_std"] = "leave_one_out"
    """The mean reward of the other answers, or the group's mean with a division by its standard deviation (published)."""
    density: Literal["mean", "sum"] = "mean"
    """Log density of a latent: mean or sum (published) over its dimensions. A sum leaves the trust region after one step."""
    clamp: Weight = 0.0
    """Limit of the change of a log probability before the ratio; 0: none. Published: 3."""
    stop_density: bool = True
    """Count the density of the latent that an answer stopped on. Published: not, which biases the gradient."""
    frozen_table: bool = True
    """Let the decoder read with the embedding table of the start. Published: with the trained one, so that its reading drifts."""

    @classmethod
    def compat(cls) -> "RlOptions":
        """As published, but for rate and size."""
        return cls(coherence_rule="published", baseline="group_std", density="sum", clamp=3.0, stop_density=False, frozen_table=False)


class Rewarded(NamedTuple):
    """An answer that was drawn, with what it earns."""

    chain: ModularChain | SolvedProblem
    answer: LatentAnswer
    right: bool
    formatted: bool
    strict: float
    published: float
    reward: float


class LogProbs(NamedTuple):
    """Log probabilities of what was drawn, padded, with masks of what is there."""

    slots: Float[Tensor, "answers slots"]
    """Each latent's density, and with it the decision to go on where one was taken."""
    slot_mask: Bool[Tensor, "answers slots"]
    text: Float[Tensor, "answers text"]
    """The decision to stop first (0 if none was taken), then each token."""
    text_mask: Bool[Tensor, "answers text"]


def reinforce(
    start: Path | str,
    out: Path,
    *,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    data: Path | str | None = None,
    every: int = 5,
    report: OnProgress = lambda progress: None,
) -> Path:
    """Reinforce a trained reasoner, or go on with an interrupted training.

    Args:
        start: folder of a finished training whose latents are drawn.
        out: model folder, as :func:`~stir_core.latent.training.train_latent` makes it; the curve's terms are means over a round.
        options: of :class:`RlOptions`, that differ from the defaults.
        data: file of problems, for a start that was trained on one.
        every: rounds between two checkpoints; each is a line of the curve.

    Returns:
        The folder.

    Raises:
        ConfigError: an unusable option.
        DataError: the start is not finished or draws no latents, the data is missing or cannot be read, or the folder holds something else.
    """
    chosen, start = section_from(RlOptions, options or {}), latent_folder(start)
    seed = section_from(LatentRequest, {"seed": seed}).seed
    trained = load_reasoner(start)
    reasoner = trained.reasoner
    if not reasoner.most or reasoner.latent(torch.zeros(1, reasoner.lm.config.hidden_size, device=reasoner.device), None).logvar is None:
        raise DataError(f"{start} holds the strategy {reasoner.name}, whose latents have no known density: reinforce one such as atp")
    facts = {**trained.facts, "stage": "rl", "seed": seed, "start": weights_of(start), "rl": chosen.model_dump()}
    if data is not None or isinstance(trained.setting, SolvedProblems):
        problems = _asked_of(trained, start, data, chosen)
        trained, facts = trained._replace(setting=problems), {**facts, "setting": problems.name, "data": described(problems)}

    def work(checkpoint: Path) -> list[dict[str, Any]]:
        if chosen.frozen_table and hasattr(reasoner, "freeze_table"):
            reasoner.freeze_table()  # type: ignore[operator]
        curve = _rounds(trained, chosen, seed, every, checkpoint, report)
        save_reasoner(out, reasoner, trained.words)
        return [line._asdict() for line in curve]

    return train_in(out, facts, f"reinforcement of {start}, seed {seed}, with its options", work)


def _asked_of(trained: TrainedReasoner, start: Path, data: Path | str | None, options: RlOptions) -> SolvedProblems:
    if not isinstance(trained.setting, SolvedProblems):
        raise DataError(f"{start} was trained on chains, which are drawn: leave --data out")
    if data is None:
        raise DataError(f"{start} was trained on {trained.setting.name}: give a file of problems with --data")
    problems = read_solutions(Path(data), trained.setting.longest)
    if len(problems.problems) < options.questions:
        raise DataError(f"{data} has {len(problems.problems)} problems, and a round asks {options.questions}: set questions lower")
    return problems


def _rounds(trained: TrainedReasoner, options: RlOptions, seed: int, every: int, checkpoint: Path, report: OnProgress) -> list[CurveLine]:
    reasoner = trained.reasoner
    policy = [weight for name, weight in reasoner.named_parameters() if not name.startswith("decoder.")]
    optimiser = torch.optim.AdamW(policy, lr=options.rate, weight_decay=0.01)
    curve = [CurveLine(*line) for line in restore_checkpoint(checkpoint, reasoner, optimiser)]
    sums: dict[str, float] = {}
    since = curve[-1].step if curve else 0
    for done in range(since + 1, options.iterations + 1):
        drawn = rollouts(trained, options, seed, done)
        advantage = group_advantages(torch.tensor([each.reward for each in drawn]).view(-1, options.answers), options.baseline).flatten()
        advantage = advantage.to(reasoner.device)
        with torch.no_grad():
            old = log_probs(reasoner, [(each.chain, each.answer) for each in drawn], trained, options)
        seen = {
            name: float(np.mean([getattr(each, name) for each in drawn]))
            for name in ("reward", "right", "formatted", "strict", "published")
        }
        seen["latents"] = float(np.mean([len(each.answer.vectors) for each in drawn]))
        order = torch.tensor(generator_for(seed, "latent rl order", done).permutation(len(drawn)))
        clipped = []
        for part in order.chunk(options.updates):
            new = log_probs(reasoner, [(drawn[int(i)].chain, drawn[int(i)].answer) for i in part], trained, options)
            before = LogProbs(*(each[part][:, : there.shape[1]] for each, there in zip(old, new, strict=True)))
            terms = [
                surrogate(getattr(new, kind), getattr(before, kind), advantage[part], getattr(new, mask), options.clip, options.clamp)
                for kind, mask in (("slots", "slot_mask"), ("text", "text_mask"))
            ]
            refuse_unfinite_loss(done, {kind: loss.item() for kind, (loss, _) in zip(("latents", "text"), terms, strict=True)})
            optimiser.zero_grad()
            torch.stack([loss for loss, _ in terms]).sum().backward()
            torch.nn.utils.clip_grad_norm_(policy, 1.0)
            optimiser.step()
            clipped.append(float(np.mean([share for _, share in terms])))
        seen["clipped"] = float(np.mean(clipped))
        for name, value in seen.items():
            sums[name] = sums.get(name, 0.0) + value
        if done % every == 0 or done == options.iterations:
            curve.append(
                CurveLine(done, max(trained.setting.counts), {name: round(total / (done - since), 5) for name, total in sums.items()})
            )
            sums, since = {}, done
            save_checkpoint(checkpoint, reasoner, optimiser, curve)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in seen.items())
        report(Progress(f"{reasoner.name} rl", done, options.iterations, f"rounds, {shown}"))
    return curve


def rollouts(trained: TrainedReasoner, options: RlOptions, seed: int, round_: int) -> list[Rewarded]:
    """Draw ``options.answers`` answers to each question of a round, one question after the other, and reward them."""
    rng = generator_for(seed, "latent rl questions", trained.setting.name, round_)
    asked: dict[int, list[ModularChain | SolvedProblem]] = {}
    if isinstance(trained.setting, SolvedProblems):
        for i in rng.choice(len(trained.setting.problems), size=options.questions, replace=False):
            problem = trained.setting.problems[int(i)]
            asked.setdefault(len(problem.steps), []).append(problem)
    else:
        counts = sorted(int(count) for count in rng.choice(trained.setting.counts, size=options.questions))
        asked = {count: [*draw_chains(trained.setting, "train", count, counts.count(count), rng)] for count in sorted(set(counts))}
    rewarded: list[Rewarded] = []
    for count, problems in asked.items():
        chains = [chain for chain in problems for _ in range(options.answers)]
        slots = None if trained.reasoner.stops else trained.reasoner.slots(count, count)[0]
        noise, sample = (torch.Generator().manual_seed(seed_for(seed, "latent rl", what, round_, count)) for what in ("noise", "sample"))
        answers = reason(trained.reasoner, as_batch(trained.words, chains).question, LatentChoice(noise, sample, slots))
        rewarded += reward(trained, options, chains, answers)
    return rewarded


def reward(
    trained: TrainedReasoner, options: RlOptions, chains: Sequence[ModularChain | SolvedProblem], answers: Sequence[LatentAnswer]
) -> list[Rewarded]:
    """What each answer earns: ``accuracy * right + format * formatted + coherence * (the chosen coherence)``."""
    texts = trained.words.batch_decode([each.ids for each in answers], skip_special_tokens=True)
    rewarded: list[Rewarded] = []
    for chain, answer, text, steps in zip(chains, answers, texts, _decoded(trained, answers), strict=True):
        formatted = text.startswith(ANSWER) and len(text) > len(ANSWER)
        right = formatted and states_answer(chain, text.removeprefix(ANSWER))
        strict, published = strict_coherence(steps, text, chain.given, chain.modulus), published_coherence(steps, text)
        coherence = strict if options.coherence_rule == "strict" else published
        earned = options.accuracy * right + options.format * formatted
        earned += options.coherence * coherence * (right or not options.coherence_if_right)
        rewarded.append(Rewarded(chain, answer, right, formatted, strict, published, earned))
    return rewarded


def _decoded(trained: TrainedReasoner, answers: Sequence[LatentAnswer]) -> list[list[str]]:
    """The steps of each answer as the decoder reads them; none without a decoder."""
    texts: dict[int, list[str]] = {}
    for size in {len(each.vectors) for each in answers} if hasattr(trained.reasoner, "decoded") else ():
        rows = [i for i, each in enumerate(answers) if len(each.vectors) == size]
        read = trained.reasoner.decoded(torch.stack([getattr(answers[i], trained.reasoner.content) for i in rows]))  # type: ignore[operator]
        texts |= {i: trained.words.batch_decode(steps, skip_special_tokens=True) for i, steps in zip(rows, read, strict=True)}
    return [texts.get(i, []) for i in range(len(answers))]


def group_advantages(rewards: Float[Tensor, "questions answers"], baseline: str) -> Float[Tensor, "questions answers"]:
    """Each answer's reward against the others to its question: minus their mean, or in units of the group's standard deviation."""
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    n = rewards.shape[1]
    return centred * n / (n - 1) if baseline == "leave_one_out" else centred / (rewards.std(dim=1, keepdim=True) + 1e-8)


def surrogate(
    new: Float[Tensor, "answers n"],
    old: Tensor,
    advantage: Float[Tensor, "answers"],
    mask: Bool[Tensor, "answers n"],
    clip: float,
    clamp: float,
) -> tuple[Float[Tensor, ""], float]:
    """PPO's clipped surrogate as a loss, a mean over what the mask keeps; and the share of it that was clipped (Schulman et al. 2017).

    Args:
        clamp: limit of the change of a log probability; 0: none.
    """
    change = (new - old).clamp(-clamp, clamp) if clamp else new - old
    ratio, gain = change.exp(), advantage[:, None]
    kept, limited = ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain
    share = ((limited < kept) & mask).sum() / mask.sum()
    return -(torch.minimum(kept, limited) * mask).sum() / mask.sum(), float(share)


def log_probs(
    reasoner: Reasoner, drawn: Sequence[tuple[ModularChain | SolvedProblem, LatentAnswer]], trained: TrainedReasoner, options: RlOptions
) -> LogProbs:
    """Log probabilities of drawn answers under the reasoner as it is now, from one pass over all of them."""
    device = reasoner.device
    questions = [as_batch(trained.words, [chain]).question.to(device) for chain, _ in drawn]
    inputs, firsts = [], []
    for question, (_, answer) in zip(questions, drawn, strict=True):
        tail = torch.tensor([[reasoner.markers.end, *answer.ids[:-1]]], device=device)
        before = reasoner.embed(reasoner.marked(question, reasoner.markers.start))[0]
        inputs.append(torch.cat([before, answer.vectors, reasoner.embed(tail)[0]]))
        firsts.append(len(before) - 1)
    states = reasoner.read(pad_sequence(inputs, batch_first=True))  # causal, so that padding behind the end changes nothing
    slots, texts = [], []
    for row, first, (_, answer) in zip(states, firsts, drawn, strict=True):
        slots.append(_slot_log_probs(reasoner, row[first:], answer, options))
        n = len(answer.vectors)
        logits = reasoner.logits(row[None, first + n + 1 : first + n + 1 + len(answer.ids)])[0]
        stop = logits.new_zeros(1) if answer.ending is None else _stop_log_probs(reasoner, answer.ending[None])[:, 1]
        texts.append(torch.cat([stop, logits.log_softmax(-1).gather(1, torch.tensor(answer.ids, device=device)[:, None])[:, 0]]))
    masks = [
        pad_sequence([torch.ones(len(row), dtype=torch.bool, device=device) for row in rows], batch_first=True) for rows in (slots, texts)
    ]
    return LogProbs(pad_sequence(slots, batch_first=True), masks[0], pad_sequence(texts, batch_first=True), masks[1])


def _slot_log_probs(
    reasoner: Reasoner, states: Float[Tensor, "pos d_model"], answer: LatentAnswer, options: RlOptions
) -> Float[Tensor, "slots"]:
    """Of each latent, and of the one that the answer stopped on where it counts."""
    n = len(answer.vectors)
    ends = answer.ending is not None and options.stop_density
    vectors = torch.cat([answer.vectors, answer.ending[None]]) if ends and answer.ending is not None else answer.vectors
    if not len(vectors):
        return states[:0, 0]
    latent = reasoner.latent(states[: len(vectors)], None)
    assert latent.logvar is not None
    density = torch.distributions.Normal(latent.mean, (latent.logvar / 2).exp()).log_prob(vectors)
    logs = density.mean(dim=-1) if options.density == "mean" else density.sum(dim=-1)
    if n == 0 or reasoner.stop_logits(vectors[:1]) is None:
        return logs
    on = torch.zeros_like(logs)
    deciding = torch.arange(0, n, reasoner.options.per_step, device=logs.device)
    return logs + on.index_put((deciding,), _stop_log_probs(reasoner, vectors[deciding])[:, 0])


def _stop_log_probs(reasoner: Reasoner, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n 2"]:
    logits = reasoner.stop_logits(vectors)
    assert logits is not None
    return logits.log_softmax(-1)
