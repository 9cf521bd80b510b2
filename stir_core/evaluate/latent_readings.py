"""Look into one question's chain of latents: what each latent holds, and what the answer becomes when some are replaced.

Nothing here is an average over problems: for figures with intervals see :func:`stir_core.evaluate.latents.evaluate_latents` and
:func:`stir_core.evaluate.interchange.interchange`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from stir_core.config import section_from
from stir_core.errors import DataError
from stir_core.evaluate.interchange import other_answers
from stir_core.evaluate.latents import decoded_steps, draws_latents, lens_states
from stir_core.evaluate.statistics import wilson
from stir_core.latent.coherence import equation_of, published_hits, strict_hits
from stir_core.latent.thinking import LatentAnswer, LatentChoice, reason
from stir_core.latent.training import TrainedReasoner
from stir_core.latent.words import STEP_END, as_batch
from stir_core.readings import TOP, LatentChange, LatentLayer, LatentReading, LatentRun, LatentSample, LatentToken, ReadLatent, ReadStep
from stir_core.requests import LatentRequest
from stir_core.seeding import generator_for, seed_for
from stir_core.tasks.modular import ModularChain, asked_chain, draw_chains

_OTHERS = 64
"""Problems that the mean of a step's latents, and a latent's standard deviations, are taken over."""
_LINE = 10
"""Parts of the line between two latents."""
_SIGMAS, _DRAWS = (1.0, 2.0, 4.0), 16
"""How many standard deviations of noise a latent gets, and how often."""
_STATES = "#### "
"""The token after which an answer states its number."""


class _Thought(NamedTuple):
    """One question with its own answer."""

    trained: TrainedReasoner
    chain: ModularChain
    question: Int[Tensor, "1 question"]
    answer: LatentAnswer
    text: str

    @property
    def width(self) -> int:
        """Latents for each step."""
        return self.trained.reasoner.options.per_step


def read_latents(trained: TrainedReasoner, question: str, *, other: str | None = None, runs: int = 8, seed: int = 0) -> LatentReading:
    """Everything that can be read of one question's latents.

    The language model attends without a fused kernel from then on, since that alone says where it attended.

    Args:
        trained: from :func:`~stir_core.latent.training.load_reasoner`.
        question: such as ``7+3*5-2?``.
        other: a problem with as many operations, whose latents are swapped in; ``None``: one is drawn for which what the latents
            of a step may hold implies different answers, if 50 draws find one.
        runs: answers with drawn latents.
        seed: of what is drawn.

    Raises:
        ConfigError: a number is not one, or too large.
        DataError: one of the texts is no problem of the reasoner's setting, the other has another number of operations, or no reasoner is
            given.
    """
    if not isinstance(trained, TrainedReasoner):
        raise DataError(f"{trained!r:.80} is not a trained reasoner: load one with stir.load_reasoner")
    section_from(LatentRequest, {"runs": runs, "seed": seed})
    if runs < 1:
        raise DataError(f"runs is {runs}: give at least one run with drawn latents")
    chain = asked_chain(question, trained.chains)
    count = len(chain.operations)
    partner = _drawn_partner(trained, chain, seed) if other is None else asked_chain(other, trained.chains)
    if len(partner.operations) != count:
        raise DataError(f"{partner.question} has {len(partner.operations)} operations, {chain.question} has {count}: give one with as many")
    trained.reasoner.lm.set_attn_implementation("eager")
    thought = _thought(trained, chain)
    reasoner, vectors = trained.reasoner, thought.answer.vectors
    table = reasoner.lm.get_input_embeddings().weight.detach()
    norms = table.norm(dim=1)
    number = _number(thought.text)
    swapped = bool(len(vectors))
    others = _others(thought, partner, seed) if swapped else vectors
    ending = thought.answer.ending
    return LatentReading(
        strategy=reasoner.name,
        setting=trained.chains.name,
        question=chain.question,
        split=chain.split_in(trained.chains),
        text=thought.text,
        answer=number,
        truth=chain.answer,
        probability=_share(trained, _probabilities(thought, vectors[None])[0], number) if swapped and number else None,
        steps=_steps(thought),
        latents=tuple(_latents(thought)) if swapped else (),
        stop_at_end=None if ending is None else _stop(thought, ending),
        embedding_norms=(norms.min().item(), norms.median().item(), norms.max().item()),
        other=partner.question if swapped else None,
        other_values=partner.values[1:] if swapped else (),
        changes=tuple(_changes(thought, partner, others)) if swapped else (),
        samples=tuple(_samples(thought, others, seed)) if swapped else (),
        runs=_runs(thought, runs, seed) if draws_latents(trained) else None,
    )


def _thought(trained: TrainedReasoner, chain: ModularChain) -> _Thought:
    question = as_batch(trained.words, [chain]).question
    answer = _answered(trained, question, _choice(trained, chain), chain)[0]
    return _Thought(trained, chain, question, answer, _texts(trained, [answer])[0])


def _choice(trained: TrainedReasoner, chain: ModularChain) -> LatentChoice:
    """Its own number of latents; without a stop head the right one."""
    count = len(chain.operations)
    return LatentChoice(slots=None if trained.reasoner.stops else trained.reasoner.slots(count, count)[0])


def _answered(
    trained: TrainedReasoner, question: Tensor, choice: LatentChoice, chain: ModularChain, given: Tensor | None = None
) -> list[LatentAnswer]:
    return reason(trained.reasoner, question, choice, given=given, most_text=8 * len(chain.operations) + 8)


def _texts(trained: TrainedReasoner, answers: Sequence[LatentAnswer]) -> list[str]:
    return trained.words.batch_decode([each.ids for each in answers], skip_special_tokens=True)


def _number(text: str) -> str:
    _, found, number = text.rpartition(_STATES)
    return number.strip() if found else ""


def _drawn_partner(trained: TrainedReasoner, chain: ModularChain, seed: int) -> ModularChain:
    count = len(chain.operations)
    drawn = draw_chains(trained.chains, "eval", count, 50, generator_for(seed, "latent partner", chain.question))
    return max(drawn, key=lambda other: sum(len({chain.answer, *other_answers(chain, other, s)}) for s in range(1, count + 1)))


def _others(thought: _Thought, partner: ModularChain, seed: int) -> Float[Tensor, "problems latents d_model"]:
    """As many latents of other problems; the first are the partner's."""
    trained, count = thought.trained, len(thought.chain.operations)
    rng = generator_for(seed, "latent mean", trained.chains.name, count)
    drawn = draw_chains(trained.chains, "validation", count, _OTHERS, rng, without=set())
    asked = as_batch(trained.words, [partner, *drawn]).question
    fixed = LatentChoice(slots=len(thought.answer.vectors))
    return torch.stack([each.vectors for each in _answered(trained, asked, fixed, thought.chain)])


def _steps(thought: _Thought) -> tuple[ReadStep, ...]:
    """What is read of each step; steps that are written are read as they stand."""
    trained, chain = thought.trained, thought.chain
    given: list[int | Fraction] = [chain.first, *(number for _, number in chain.operations)]
    if len(thought.answer.vectors):
        (read,) = _decoded(trained, [thought.answer])
    else:
        read = [part for part in thought.text.rpartition(_STATES)[0].split(STEP_END) if part]
    strict = strict_hits(read, thought.text, given, chain.modulus)
    published = published_hits(read, thought.text)
    steps = []
    for i in range(max(len(read), len(chain.steps), len(thought.answer.vectors) // thought.width)):
        text = read[i] if i < len(read) else None
        truth = chain.steps[i] if i < len(chain.steps) else None
        equation = None if text is None else equation_of(text)
        right = None if text is None else truth is not None and equation is not None and equation.result == chain.values[i + 1]
        counts = (None, None) if text is None else (strict[i], published[i])
        steps.append(ReadStep(text=text, truth=truth, right=right, strict=counts[0], published=counts[1]))
    return tuple(steps)


def _decoded(trained: TrainedReasoner, answers: Sequence[LatentAnswer], part: slice = slice(None)) -> list[list[str]]:
    """The text of the steps that the latents ``part`` stand for."""
    if not hasattr(trained.reasoner, "decoded"):
        return [[] for _ in answers]
    return decoded_steps(trained, [getattr(answer, trained.reasoner.content)[part] for answer in answers])


@torch.no_grad()
def _stop(thought: _Thought, vector: Float[Tensor, "d_model"]) -> float | None:
    logits = thought.trained.reasoner.stop_logits(vector[None])
    return None if logits is None else logits.softmax(-1)[0, 1].item()


@torch.no_grad()
def _latents(thought: _Thought) -> Iterator[ReadLatent]:
    """Each latent, from one more pass over the whole answer."""
    reasoner, words, answer = thought.trained.reasoner, thought.trained.words, thought.answer
    fed = torch.tensor([[reasoner.markers.end, *answer.ids]])
    begun = reasoner.marked(thought.question, reasoner.markers.start)
    vectors = torch.cat([reasoner.embed(begun), answer.vectors[None], reasoner.embed(fed)], dim=1)
    passed = reasoner.lm.base_model(inputs_embeds=vectors, use_cache=False, output_hidden_states=True, output_attentions=True)
    lens = reasoner.logits(lens_states(reasoner, passed)[:, 0]).log_softmax(-1)
    asks = words.convert_tokens_to_ids(_STATES)
    decides = begun.shape[1] + len(answer.vectors) + max((i for i, token in enumerate(fed[0].tolist()) if token == asks), default=-1)
    attention = [None, *(each[0, :, decides].mean(0) for each in passed.attentions)] if asks in answer.ids else [None] * len(lens)
    table = normalize(reasoner.lm.get_input_embeddings().weight[: len(words)], dim=-1)
    for slot, vector in enumerate(answer.vectors):
        at = begun.shape[1] + slot
        nearest = (table @ normalize(vector, dim=-1)).topk(TOP)
        logvar = reasoner.latent(answer.states[slot][None], None).logvar
        yield ReadLatent(
            step=slot // thought.width + 1,
            norm=vector.norm().item(),
            nearest=_tokens(thought, nearest.values, nearest.indices),
            deviation=None if logvar is None else logvar.exp().mean().sqrt().item(),
            stop=_stop(thought, vector) if slot % thought.width == 0 else None,
            layers=tuple(
                LatentLayer(
                    layer=layer,
                    entropy=-(logs[at].exp() * logs[at]).sum().item(),
                    top=_tokens(thought, *logs[at].exp().topk(TOP)),
                    attention=None if (paid := attention[layer]) is None else paid[at].item(),
                )
                for layer, logs in enumerate(lens)
            ),
        )


def _tokens(thought: _Thought, values: Float[Tensor, "n"], ids: Int[Tensor, "n"]) -> tuple[LatentToken, ...]:
    texts = thought.trained.words.batch_decode([[token] for token in ids.tolist()])
    return tuple(LatentToken(text=text, value=value) for text, value in zip(texts, values.tolist(), strict=True))


@torch.no_grad()
def _probabilities(thought: _Thought, vectors: Float[Tensor, "n latents d_model"]) -> Float[Tensor, "n d_vocab"]:
    """For each row of latents, the probability of each token where the answer is forced to state its number after them."""
    reasoner = thought.trained.reasoner
    begun = reasoner.embed(reasoner.marked(thought.question, reasoner.markers.start)).expand(len(vectors), -1, -1)
    ids = torch.tensor([[reasoner.markers.end, thought.trained.words.convert_tokens_to_ids(_STATES)]])
    states = reasoner.read(torch.cat([begun, vectors, reasoner.embed(ids).expand(len(vectors), -1, -1)], dim=1))
    return reasoner.logits(states[:, -1]).softmax(-1)


def _changes(thought: _Thought, partner: ModularChain, others: Float[Tensor, "problems latents d_model"]) -> Iterator[LatentChange]:
    """Every replacement of the latents of every step, by step."""
    trained, chain, own, c = thought.trained, thought.chain, thought.answer.vectors, thought.width
    fixed = LatentChoice(slots=len(own))
    replacements = {"zero": torch.zeros_like(own), "mean": others[1:].mean(0), "swapped": others[0]}
    steps = range(1, len(own) // c + 1)
    fed = own.expand(len(steps), len(replacements), -1, -1).clone()
    for step in steps:
        here = slice(c * (step - 1), c * step)
        fed[step - 1, :, here] = torch.stack(list(replacements.values()))[:, here]
    dropped = torch.stack([torch.cat([own[: c * (step - 1)], own[c * step :]]) for step in steps])
    kept = [(step, how, "later latents kept") for step in steps for how in replacements]
    groups = [
        (kept, _answered(trained, _times(thought, len(kept)), LatentChoice(), chain, fed.flatten(0, 1))),
        *(
            (
                [(step, how, "thinking on") for how in replacements],
                _answered(trained, _times(thought, len(replacements)), fixed._replace(first=fed[step - 1, :, : c * step]), chain),
            )
            for step in steps
        ),
        (
            [(step, "dropped", "later latents kept") for step in steps],
            _answered(trained, _times(thought, len(steps)), LatentChoice(), chain, dropped),
        ),
    ]
    found = [change for what, answers in groups for change in _changed(thought, partner, what, answers)]
    yield from sorted(found, key=lambda change: change.step)


def _changed(
    thought: _Thought, partner: ModularChain, what: Sequence[tuple[int, str, str]], answers: Sequence[LatentAnswer]
) -> Iterator[LatentChange]:
    trained, chain = thought.trained, thought.chain
    stated = _number(thought.text) or str(chain.answer)
    shares = _probabilities(thought, torch.stack([each.vectors for each in answers]))
    for (step, how, then), text, share in zip(what, _texts(trained, answers), shares, strict=True):
        told = how == "swapped" and step < len(partner.values)
        implied = other_answers(chain, partner, step)._asdict() if told else {}
        yield LatentChange(
            step=step,
            how=how,  # type: ignore[arg-type]
            then=then,  # type: ignore[arg-type]
            answer=_number(text),
            probability=_share(trained, share, stated),
            implied=implied,  # type: ignore[arg-type]
            implied_probability={held: _share(trained, share, str(number)) for held, number in implied.items()},  # type: ignore[arg-type]
        )


def _samples(thought: _Thought, others: Float[Tensor, "problems latents d_model"], seed: int) -> Iterator[LatentSample]:
    """Each latent on the line to the other problem's, and with noise; latent by latent."""
    trained, own, states = thought.trained, thought.answer.vectors, thought.answer.states
    line = torch.linspace(0, 1, _LINE + 1)
    sigmas = torch.tensor(_SIGMAS).repeat_interleave(_DRAWS)
    noise = torch.Generator().manual_seed(seed_for(seed, "latent samples", thought.chain.question))
    for slot, vector in enumerate(own):
        logvar = trained.reasoner.latent(states[slot][None], None).logvar
        sigma = others[1:, slot].std(0) if logvar is None else (logvar[0] / 2).exp()
        drawn = torch.randn((len(sigmas), *vector.shape), generator=noise).to(vector)
        on_line = torch.lerp(vector, others[0, slot], line[:, None].to(vector))
        moved = torch.cat([on_line, vector + sigmas[:, None].to(vector) * sigma * drawn])
        first = torch.cat([own[:slot].expand(len(moved), -1, -1), moved[:, None]], dim=1)
        answers = _answered(trained, _times(thought, len(moved)), LatentChoice(slots=len(own), first=first), thought.chain)
        numbers = [_number(text) for text in _texts(trained, answers)]
        begins = slot - slot % thought.width
        steps = _decoded(trained, answers, slice(begins, begins + thought.width))
        kinds = [("interpolation", share) for share in line.tolist()]
        kinds += [("noise of problems" if logvar is None else "its own noise", amount) for amount in sigmas.tolist()]
        for how, amount in dict.fromkeys(kinds):
            rows = [i for i, kind in enumerate(kinds) if kind == (how, amount)]
            texts = Counter(step for i in rows for step in steps[i])
            yield LatentSample(
                latent=slot + 1,
                how=how,  # type: ignore[arg-type]
                amount=round(amount, 3),
                draws=len(rows),
                kept=wilson(sum(numbers[i] == _number(thought.text) for i in rows), len(rows)),
                answer=Counter(numbers[i] for i in rows).most_common(1)[0][0],
                step=texts.most_common(1)[0][0] if texts else None,
            )


def _share(trained: TrainedReasoner, shares: Float[Tensor, "d_vocab"], number: str) -> float:
    return shares[trained.words.convert_tokens_to_ids(number)].item()


def _times(thought: _Thought, n: int) -> Int[Tensor, "n question"]:
    return thought.question.expand(n, -1)


def _runs(thought: _Thought, runs: int, seed: int) -> tuple[LatentRun, ...]:
    """Answers with drawn latents; the likeliest text."""
    trained, chain = thought.trained, thought.chain
    noise = torch.Generator().manual_seed(seed_for(seed, "latent runs", chain.question))
    choice = _choice(trained, chain)._replace(noise=noise)
    answers = _answered(trained, _times(thought, runs), choice, chain)
    return tuple(
        LatentRun(
            latents=len(answer.vectors),
            steps=tuple(steps),
            answer=(number := _number(text)),
            right=number == str(chain.answer),
        )
        for answer, text, steps in zip(answers, _texts(trained, answers), _decoded(trained, answers), strict=True)
    )
