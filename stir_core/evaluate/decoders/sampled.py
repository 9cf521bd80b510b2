"""Sampling, and self-consistency over several samples: the majority among sampled answers.

Self-consistency's first sample is the answer of :data:`SAMPLING` at the same settings, so the two differ by the vote alone.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch import Tensor

from stir_core.evaluate.decoders.base import Bench, Decoder, Parameters, Question
from stir_core.evaluate.decoders.loop import Desk, Outcome, Steps, answers, decode_on, number, sampling_of, side_by_side
from stir_core.findings import Answer
from stir_core.models.cache import Row
from stir_core.models.generation import Sampling, Strand
from stir_core.models.passes import Feed
from stir_core.records import AnswerKind
from stir_core.seeding import generator_for
from stir_core.tasks.extract import extract
from stir_core.tasks.grading import settle
from stir_core.tasks.latex import normalise, plain_number


def sample(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """One sampled answer a question, from its own stream."""
    sampling = sampling_of(bench, parameters)

    def one(desk: Desk, question: Question) -> Steps[Outcome]:
        trunk = desk.store.open()
        (logits,) = yield [Feed(trunk, question.prompt_ids)]
        strand = yield from _sampled(desk, question, 0, trunk, logits, sampling)
        desk.store.close(trunk)
        return Outcome(strand.ids, strand.finish or "length", 0, {})

    return answers(bench, questions, one)


def vote(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """``k`` sampled answers a question; the first one that holds the answer with most votes is committed.

    Samples that state no final answer do not vote; ties go to the answer that was stated first. Where no sample states one, the first
    sample is committed with no votes. The prompt is read once for all samples.
    """
    sampling, k = sampling_of(bench, parameters), int(number(parameters, "k", least=1))

    def one(desk: Desk, question: Question) -> Steps[Outcome]:
        trunk = desk.store.open()
        (logits,) = yield [Feed(trunk, question.prompt_ids)]
        strands: list[Strand] = []
        yield from side_by_side((_sampled(desk, question, j, trunk, logits, sampling) for j in range(k)), desk.rows, strands.append)
        desk.store.close(trunk)
        strands.sort(key=lambda strand: int(strand.name))
        texts = [desk.model.text(strand.ids) for strand in strands]
        ballot = majority(question.problem.kind, [stated(question, text) for text in texts])
        kept = strands[ballot.winner]
        others = sum(len(strand.ids) for strand in strands) - len(kept.ids)
        return Outcome(kept.ids, kept.finish or "length", others, {"votes": ballot.votes, "voters": ballot.voters, "k": k})

    return answers(bench, questions, one, width=k)


class Ballot(NamedTuple):
    """How a vote went."""

    winner: int
    """The first sample that holds the winning answer."""
    votes: int
    voters: int
    """Samples that stated an answer."""


def stated(question: Question, text: str) -> str | None:
    """The final answer that a text states, or ``None``."""
    found = extract(question.problem.kind, text, question.problem.choices)
    return found.text if found is not None else None


def majority(kind: AnswerKind, found: list[str | None]) -> Ballot:
    """Count the votes of samples' answers; ``None`` does not vote, ties go to the earliest.

    Answers are counted together when they are the same without algebra: equal in normal form, or equal as exact numbers.
    """
    parties: list[list[int]] = []
    for i, answer in enumerate(found):
        if answer is None:
            continue
        own = next((party for party in parties if same_answer(kind, found[party[0]] or "", answer)), None)
        if own is None:
            parties.append([i])
        else:
            own.append(i)
    best = max(parties, key=len, default=[])
    return Ballot(best[0] if best else 0, len(best), sum(map(len, parties)))


def same_answer(kind: AnswerKind, one: str, other: str) -> bool:
    """Whether two stated answers of a kind count as one."""
    if kind == "math":
        settled = settle(one, other)
        return settled is not None and settled[0]
    normal = normalise(one), normalise(other)
    if kind != "number":
        return normal[0].casefold() == normal[1].casefold()
    values = plain_number(normal[0]), plain_number(normal[1])
    return values[0] == values[1] if None not in values else normal[0] == normal[1]


def _sampled(desk: Desk, question: Question, j: int, trunk: Row, logits: Tensor, sampling: Sampling) -> Steps[Strand]:
    """Sample number ``j``: the first one goes on in the prompt's own row, the others behind a copy of it."""
    row = trunk
    if j > 0:
        row = desk.store.open()
        desk.store.copy(trunk, row, len(question.prompt_ids))
    strand = Strand(str(j), desk.budget, _stream(desk, question, j), row=row)
    yield from decode_on(desk.model, strand, logits, sampling)
    if j > 0:
        desk.store.close(row)
    return strand


def _stream(desk: Desk, question: Question, j: int) -> np.random.Generator:
    return generator_for(desk.bench.settings.seed, "sampling", question.name, *([j] if j else []))


SAMPLING = Decoder(
    name="sampling",
    about="one answer sampled token by token",
    source="temperature and nucleus sampling (Holtzman et al. 2019, arXiv 1904.09751)",
    decode=sample,
    parameters={"temperature": "auto", "top_p": "auto"},
    by_chance=True,
)
SELF_CONSISTENCY = Decoder(
    name="self_consistency",
    about="the majority among k sampled answers",
    source="Wang et al. 2022, arXiv 2203.11171",
    decode=vote,
    parameters={"k": 5, "temperature": "auto", "top_p": "auto"},
    by_chance=True,
)
