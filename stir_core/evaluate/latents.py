"""What a trained latent reasoner answers on held-out problems, with its controls, and what its latents hold."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast

from stir_core.config import DecodeConfig, GateConfig, section_from
from stir_core.errors import DataError
from stir_core.evaluate.decoders.base import Bench, Question
from stir_core.evaluate.decoders.registry import DECODERS
from stir_core.evaluate.statistics import clustered_mean, clustered_share, wilson
from stir_core.findings import Estimate, LatentProbe, LatentReport, LatentRow
from stir_core.intervene.jobs import Settings
from stir_core.latent.coherence import equation_of, published_coherence, strict_coherence
from stir_core.latent.frame import Latent, Reasoner
from stir_core.latent.thinking import LatentAnswer, LatentChoice, reason
from stir_core.latent.training import TrainedReasoner, load_reasoner, weights_of
from stir_core.latent.words import ANSWER, as_batch, states_answer
from stir_core.models.loading import load_model
from stir_core.records import OnProgress, Problem, Progress
from stir_core.requests import LatentRequest
from stir_core.seeding import generator_for, seed_for
from stir_core.store.latents import latent_folder
from stir_core.tasks.modular import ModularChain, ModularSetting, draw_chains
from stir_core.tasks.solutions import SolvedProblem, read_solutions

_TOGETHER = 250
"""Questions answered side by side."""
_TRAINING_FREE = ("soft_thinking", "multiplex")
"""Decoders that let a model which writes its steps think in mixtures."""
_RIDGE = 1e-3
"""Penalty of the probe, as a share of the latents' mean variance."""
_TINY = 1e-12
"""Penalty where latents do not vary at all."""


class Reasoned(NamedTuple):
    """A problem with its answer."""

    chain: ModularChain | SolvedProblem
    answer: LatentAnswer
    text: str

    @property
    def right(self) -> bool:
        """Whether the answer's number is the right one."""
        return states_answer(self.chain, self.text.rpartition(ANSWER)[2])


def evaluate_latents(
    folder: Path | str,
    *,
    n: int = 500,
    seed: int = 0,
    split: str = "eval",
    probes: bool = False,
    data: Path | str | None = None,
    report: OnProgress = lambda progress: None,
) -> LatentReport:
    """Evaluate a reasoner on ``n`` different problems of each number of steps, with its controls. `stir latent eval`.

    Args:
        folder: of a finished training, or the name of a reasoner that comes with the package.
        split: the problems' split; training has seen ``"train"`` alone.
        seed: of the problems and of what is drawn.
        probes: read every value of the chain from every latent at every layer, too.
        data: for a reasoner that was trained on a file: a file of problems, of which ``n`` in all are drawn. The split is ``"train"`` if it
            is the same file; whether other files share problems is not looked at.
        report: progress, in answers.

    Raises:
        ConfigError: a number is not one.
        DataError: the folder holds no finished reasoner, the data is missing or cannot be read, or there are not ``n`` problems.
    """
    section_from(LatentRequest, {"n": n, "seed": seed})
    folder = latent_folder(folder)
    trained = load_reasoner(folder)
    setting = trained.setting
    chains: dict[int, list[ModularChain]] = {}
    known: Mapping[int, Sequence[ModularChain | SolvedProblem]] = chains
    longer = known
    if isinstance(setting, ModularSetting):
        if data is not None:
            raise DataError(f"{folder} was trained on chains, which are drawn: leave --data out")
        chains |= held_out_chains(setting, n, seed, split)
        longer = {setting.longest: chains.pop(setting.longest)}
    else:
        split, known = _drawn_of(trained, data, n, seed)
    conditions = [
        "own",
        *(("longer",) if chains else ()),
        *(_TRAINING_FREE if chains and trained.reasoner.name == "cot" else ()),
        *(("zero", "shuffled", "none") if trained.reasoner.most else ()),
        *(("sampled",) if draws_latents(trained) else ()),
        *(("published",) if draws_latents(trained) and trained.reasoner.stops else ()),
    ]
    rows: list[LatentRow] = []
    own: list[Reasoned] = []
    total = sum(len(chains) for how in conditions for chains in (longer if how == "longer" else known).values())
    report(Progress("latents", 0, total, "answers"))
    done = 0

    def answered(n: int) -> None:
        nonlocal done
        done += n
        report(Progress("latents", done, total, "answers"))

    for how in conditions:
        began = time.perf_counter()
        given = [each.answer.vectors for each in own] if how in ("zero", "shuffled") else None
        asked = longer if how == "longer" else known
        mixed = how in _TRAINING_FREE
        if mixed:
            answers = _answer_mixed(folder, trained, asked, how, seed)
            answered(len(answers))
        else:
            answers = answer_modular(trained, asked, how, seed, given, answered=answered)
        if answers:
            rows.append(_row(how, answers, time.perf_counter() - began))
        own = answers if how == "own" else own
    fitted = _fitted(trained, chains, seed) if chains else {}
    return LatentReport(
        strategy=trained.reasoner.name,
        stage=trained.facts["stage"],
        setting=setting.name,
        seed=trained.facts["seed"],
        options=trained.facts["options"],
        weights=weights_of(folder),
        split=split,
        rows=tuple(rows),
        runs=(),
        **_stops(trained, own),
        **_decoded(trained, own),
        probed_values=_probed(trained, chains, fitted) if chains and trained.reasoner.most else None,
        probes=tuple(_probes(trained, chains, fitted)) if chains and trained.reasoner.most and probes else (),
    )


def held_out_chains(setting: ModularSetting, n: int, seed: int, split: str = "eval") -> dict[int, list[ModularChain]]:
    """``n`` different problems of each number of steps, at last of one step more than any that is trained on.

    Raises:
        DataError: ``n`` is not a number of problems, or there are not so many.
    """
    if n < 1:
        raise DataError(f"n is {n}: give at least one problem")
    rng = generator_for(seed, "latent eval", setting.name, split)
    return {count: draw_chains(setting, split, count, n, rng, without=set()) for count in (*setting.counts, setting.longest)}


def _drawn_of(
    trained: TrainedReasoner, data: Path | str | None, n: int, seed: int
) -> tuple[str, dict[int, list[ModularChain | SolvedProblem]]]:
    """Whether training has seen a file, and problems of it by number of steps."""
    if data is None:
        raise DataError(f"this reasoner was trained on {trained.setting.name}: give a file of problems with --data")
    if n < 1:
        raise DataError(f"n is {n}: give at least one problem")
    found = read_solutions(Path(data), trained.setting.longest)
    order = generator_for(seed, "latent eval", found.sha256).permutation(len(found.problems))[:n]
    known: dict[int, list[ModularChain | SolvedProblem]] = {}
    for problem in sorted((found.problems[int(i)] for i in order), key=lambda problem: len(problem.steps)):
        known.setdefault(len(problem.steps), []).append(problem)
    return "train" if found.sha256 == trained.facts["data"]["sha256"] else "eval", known


def answer_modular(
    trained: TrainedReasoner,
    problems: Mapping[int, Sequence[ModularChain | SolvedProblem]],
    how: str = "own",
    seed: int = 0,
    given: Sequence[Tensor] | None = None,
    *,
    spread: float = 0.0,
    dropout: float = 0.0,
    answered: Callable[[int], None] = lambda n: None,
) -> list[Reasoned]:
    """Answers to problems, by number of steps, in a condition of :class:`LatentRow`.

    Args:
        given: each problem's latents in the condition ``own``, in order, for ``zero`` and ``shuffled``. The latter leaves out problems
            that no other of as many steps has as many latents as.
        spread: see :class:`LatentChoice`, as for ``dropout``; of use where latents are drawn.
        answered: called with how many more are answered, for progress.
    """
    reasoner, answers, asked = trained.reasoner, [], 0
    for count, chains in problems.items():
        question = as_batch(trained.words, chains).question
        each, rest = (8, 8) if isinstance(trained.setting, ModularSetting) else (32, 16)
        most_text = each * count + rest  # all steps written, and the answer
        if given is not None:
            fed = given[asked : asked + len(chains)]
            asked += len(chains)
            alike = Counter(map(len, fed))
            kept = [i for i, vectors in enumerate(fed) if how != "shuffled" or alike[len(vectors)] > 1]  # alone it would get its own
            answered(len(chains))
            if not kept:
                continue
            chains, question = [chains[i] for i in kept], question[kept]
            found = _answer_given(trained, question, [fed[i] for i in kept], how, most_text)
        else:
            found = []
            drawn = how in ("sampled", "published")
            noise = torch.Generator().manual_seed(seed_for(seed, "latent eval noise", count, how)) if drawn else None
            slots = None if reasoner.stops else reasoner.slots(count, count)[0]
            slots = 0 if how == "none" else slots
            choice = LatentChoice(noise, slots=slots, published=how == "published", spread=spread, dropout=dropout)
            for part in question.split(_TOGETHER):
                found += reason(reasoner, part, choice, most_text=most_text)
                answered(len(part))
        texts = trained.words.batch_decode([each.ids for each in found], skip_special_tokens=True)
        answers += [Reasoned(*each) for each in zip(chains, found, texts, strict=True)]
    return answers


def draws_latents(trained: TrainedReasoner) -> bool:
    """Whether noise changes what is fed."""
    state = torch.ones(1, trained.reasoner.lm.config.hidden_size, device=trained.reasoner.device)
    with torch.no_grad():
        latent = trained.reasoner.latent if trained.reasoner.most else lambda *_: Latent(state, state)
        return not torch.equal(latent(state, state).vector, latent(state, None).vector)


def _answer_mixed(
    folder: Path, trained: TrainedReasoner, problems: Mapping[int, Sequence[ModularChain | SolvedProblem]], how: str, seed: int
) -> list[Reasoned]:
    """Answers of the plain language model through a decoder of the workbench."""
    model, decoder = load_model(str(folder)), DECODERS[how]
    chains = [chain for each in problems.values() for chain in each]
    settings = Settings(DecodeConfig(max_new_tokens=8 * max(problems) + 8), seed=seed, rows=_TOGETHER)
    named = {f"modular/{i}": chain for i, chain in enumerate(chains)}
    asked = [
        Question(
            Problem(id=name, task="modular", split="eval", question=chain.question, answer=str(chain.answer), kind="number"),
            model.chat_ids(chain.question),
        )
        for name, chain in named.items()
    ]
    empty = trained.reasoner.embed(torch.tensor([[trained.reasoner.markers.eos]]))[0, :0]
    bench = Bench(model, settings, GateConfig(), lambda library: None)
    answers = {answer.problem_id: answer for answer in decoder.decode(bench, asked, decoder.parameters)}
    reasoned = []
    for name, chain in named.items():
        ids = list(answers[name].token_ids)
        found = LatentAnswer(empty, None, ids, len(ids), answers[name].forward_tokens, empty)
        reasoned.append(Reasoned(chain, found, trained.words.batch_decode([ids], skip_special_tokens=True)[0]))
    return reasoned


def _answer_given(
    trained: TrainedReasoner, question: Int[Tensor, "batch question"], own: list[Tensor], how: str, most_text: int
) -> list[LatentAnswer]:
    """Answers with zeros in place of the latents, or with those of the next problem that has as many."""
    found: dict[int, LatentAnswer] = {}
    for size in sorted({len(vectors) for vectors in own}):
        rows = [i for i, vectors in enumerate(own) if len(vectors) == size]
        fed = torch.stack([own[i] for i in rows])
        fed = torch.zeros_like(fed) if how == "zero" else fed.roll(1, dims=0)
        answers = reason(trained.reasoner, question[rows], given=fed, most_text=most_text)
        found |= dict(zip(rows, answers, strict=True))
    return [found[i] for i in range(len(own))]


def _row(how: str, answers: list[Reasoned], seconds: float) -> LatentRow:
    right = [each.right for each in answers]
    counts = sorted({len(each.chain.steps) for each in answers})
    runs = [each.answer for each in answers]
    return LatentRow(
        how=how,
        problems=len(answers),
        accuracy=wilson(sum(right), len(right)),
        by_count={count: float(np.mean([each.right for each in answers if len(each.chain.steps) == count])) for count in counts},
        latents=float(np.mean([len(run.vectors) for run in runs])),
        tokens=float(np.mean([len(run.vectors) + len(run.ids) for run in runs])),
        passes=float(np.mean([run.passes for run in runs])),
        positions=float(np.mean([run.positions for run in runs])),
        seconds=round(seconds, 3),
    )


def _stops(trained: TrainedReasoner, answers: list[Reasoned]) -> dict[str, Estimate]:
    if not trained.reasoner.stops:
        return {}
    wanted = [trained.reasoner.options.per_step * len(each.chain.steps) for each in answers]
    exact = sum(len(each.answer.vectors) == want for each, want in zip(answers, wanted, strict=True))
    return {"exact_stop": wilson(exact, len(answers))}


def _decoded(trained: TrainedReasoner, answers: list[Reasoned]) -> dict[str, Estimate]:
    """How the decoder reads the latents; a step without latents is not right."""
    if not hasattr(trained.reasoner, "decoded"):
        return {}
    right, strict, published = [], [], []
    contents = [getattr(each.answer, trained.reasoner.content) for each in answers]
    for each, steps in zip(answers, decoded_steps(trained, contents), strict=True):
        read, truth = ([equation and equation.result for equation in map(equation_of, side)] for side in (steps, each.chain.steps))
        right.append([float(i < len(read) and read[i] == value) for i, value in enumerate(truth) if value is not None])
        strict.append([strict_coherence(steps, each.text, each.chain.given, each.chain.modulus)])
        published.append([published_coherence(steps, each.text)])
    right = [each for each in right if each]  # of a file, a step may be no equation
    coherences = {"strict_coherence": clustered_mean(strict), "published_coherence": clustered_mean(published)}
    return {"decoded_results": clustered_share(right), **coherences} if right else coherences


def decoded_steps(trained: TrainedReasoner, contents: Sequence[Float[Tensor, "_latents d_model"]]) -> list[list[str]]:
    """The text of each answer's steps, as the reasoner's decoder reads it from the latents (:attr:`Reasoner.content`)."""
    found: dict[int, list[str]] = {}
    for size in {len(content) for content in contents}:
        rows = [i for i, content in enumerate(contents) if len(content) == size]
        read = trained.reasoner.decoded(torch.stack([contents[i] for i in rows]))  # type: ignore[operator]
        found |= {i: trained.words.batch_decode(ids, skip_special_tokens=True) for i, ids in zip(rows, read, strict=True)}
    return [found[i] for i in range(len(contents))]


def _fitted(trained: TrainedReasoner, problems: Mapping[int, Sequence[ModularChain]], seed: int) -> dict[int, list[ModularChain]]:
    """As many validation problems, which probes are fitted on."""
    rng = generator_for(seed, "latent probe", trained.chains.name)
    n = max(len(chains) for chains in problems.values())
    return {count: draw_chains(trained.chains, "validation", count, n, rng, without=set()) for count in problems}


def _probed(
    trained: TrainedReasoner, problems: Mapping[int, Sequence[ModularChain]], fitted: Mapping[int, Sequence[ModularChain]]
) -> dict[int, Estimate]:
    """Share of step values that a probe reads from a step's latents."""
    (latents, values), (tested, truth) = _step_latents(trained, fitted), _step_latents(trained, problems)
    n = trained.chains.modulus
    return {step: _probe(np.stack(latents[step]), values[step], np.stack(tested[step]), truth[step], n) for step in sorted(latents)}


def _probe(x: np.ndarray, values: Sequence[int], tested: np.ndarray, truth: Sequence[int], n: int) -> Estimate:
    """Share of values, one among ``n``, that ridge regression onto one-hot values reads on other problems.

    Args:
        x: features that it is fitted on, ``[problems, features]``; ``tested`` likewise.
    """
    y = np.eye(n)[list(values)]
    centre, base = x.mean(0), y.mean(0)
    gram = (x - centre).T @ (x - centre)
    weights = np.linalg.solve(gram + (_RIDGE * np.trace(gram) / len(gram) + _TINY) * np.eye(len(gram)), (x - centre).T @ (y - base))
    said = ((tested - centre) @ weights + base).argmax(1)
    return wilson(int((said == np.array(truth)).sum()), len(said))


def _probes(
    trained: TrainedReasoner, problems: Mapping[int, Sequence[ModularChain]], fitted: Mapping[int, Sequence[ModularChain]]
) -> Iterator[LatentProbe]:
    """A probe of every value, latent and layer; every problem that has both the latent and the value counts."""
    x, tested = _layers(trained, fitted), _layers(trained, problems)
    c, most, n = trained.reasoner.options.per_step, max(problems), trained.chains.modulus
    for slot in range(c * most):
        for after in range(most + 1):
            counts = [count for count in problems if count >= max(slot // c + 1, after)]
            values, truth = ([chain.values[after] for count in counts for chain in each[count]] for each in (fitted, problems))
            for layer in range(x[most].shape[1]):
                here, there = (np.concatenate([each[count][:, layer, slot] for count in counts]) for each in (x, tested))
                accuracy = _probe(here.astype(float), values, there.astype(float), truth, n)
                yield LatentProbe(latent=slot + 1, layer=layer, after=after, problems=len(truth), accuracy=accuracy)


@torch.no_grad()
def _layers(trained: TrainedReasoner, problems: Mapping[int, Sequence[ModularChain]]) -> dict[int, np.ndarray]:
    """By number of steps, ``[problems, layers + 1, latents, d_model]``: :func:`lens_states` at the right number of latents."""
    reasoner, found = trained.reasoner, {}
    for count, chains in problems.items():
        parts = []
        for question in as_batch(trained.words, chains).question.split(_TOGETHER):
            choice = LatentChoice(slots=reasoner.options.per_step * count)
            vectors = torch.stack([each.vectors for each in reason(reasoner, question, choice, most_text=1)])
            begun = reasoner.embed(reasoner.marked(question, reasoner.markers.start))
            fed = torch.cat([begun, vectors], dim=1)
            parts.append(lens_states(reasoner, reasoner.lm.base_model(inputs_embeds=fed, use_cache=False, output_hidden_states=True)))
        found[count] = torch.cat(parts, dim=1)[:, :, begun.shape[1] :].transpose(0, 1).numpy()
    return found


def lens_states(reasoner: Reasoner, passed: BaseModelOutputWithPast) -> Float[Tensor, "layers batch pos d_model"]:
    """What is fed and the residual stream after each block, through the final norm.

    Args:
        passed: of the language model without its unembedding, with ``hidden_states``, the last of which transformers has normed already.
    """
    assert passed.hidden_states is not None and passed.last_hidden_state is not None
    return torch.stack([*(reasoner.lm.base_model.norm(each) for each in passed.hidden_states[:-1]), passed.last_hidden_state])


def _step_latents(
    trained: TrainedReasoner, problems: Mapping[int, Sequence[ModularChain]]
) -> tuple[dict[int, list[np.ndarray]], dict[int, list[int]]]:
    """By step, counted from 1: its latents in a row, and the value after it; every problem has the right number of latents."""
    latents: dict[int, list[np.ndarray]] = {}
    values: dict[int, list[int]] = {}
    c = trained.reasoner.options.per_step
    for count, chains in problems.items():
        for part in range(0, len(chains), _TOGETHER):
            asked = chains[part : part + _TOGETHER]
            found = reason(trained.reasoner, as_batch(trained.words, asked).question, LatentChoice(slots=c * count), most_text=1)
            for chain, answer in zip(asked, found, strict=True):
                content = getattr(answer, trained.reasoner.content)
                for step in range(1, count + 1):
                    latents.setdefault(step, []).append(content[c * (step - 1) : c * step].flatten().double().numpy())
                    values.setdefault(step, []).append(chain.values[step])
    return latents, values
