"""Sampling, and self-consistency: the majority among several sampled answers.

Self-consistency's first sample is the answer of :data:`SAMPLING` at the same settings, so the two differ by the vote alone.
"""

from collections.abc import Iterator
from typing import NamedTuple

from stir_core.evaluate.decoders.base import Bench, Decoder, Parameters, Question
from stir_core.evaluate.decoders.loop import Outcome, answers, numeric, sampling_of
from stir_core.findings import Answer
from stir_core.models.generation import Sampling, Strand
from stir_core.models.scheduler import Seat, Steps, decode
from stir_core.records import AnswerKind
from stir_core.seeding import generator_for
from stir_core.tasks.extract import extract
from stir_core.tasks.grading import compare_without_algebra
from stir_core.tasks.latex import normalise, plain_number
from stir_core.tasks.thinking import graded_part


def sample(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """One sampled answer to each question, from its own random stream."""
    sampling = sampling_of(bench, parameters)

    def one(seat: Seat, question: Question) -> Steps[Outcome]:
        (strand,) = yield from _sampled(bench, seat, question, 1, sampling)
        return Outcome(strand.ids, strand.finish or "length", 0, {})

    return answers(bench, questions, one)


def vote(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """``k`` sampled answers per question; the first one that holds the answer with most votes is committed.

    Samples that state no final answer do not vote; ties go to the answer that was stated first. Where no sample states one, the first
    sample is committed with no votes. The prompt is read once for all samples.
    """
    sampling, k = sampling_of(bench, parameters), int(numeric(parameters, "k", least=1))

    def one(seat: Seat, question: Question) -> Steps[Outcome]:
        strands = yield from _sampled(bench, seat, question, k, sampling)
        kind, choices = question.problem.kind, question.problem.choices
        texts = [(strand.ids, bench.model.text(strand.ids)) for strand in strands]
        finals = [graded_part(text, bench.model.thinking(question.prompt_ids, ids, text)) for ids, text in texts]
        stated = [extract(kind, final, choices) for final in finals]
        ballot = majority(kind, [answer and answer.text for answer in stated])
        winner = strands[ballot.winner]
        others = sum(len(strand.ids) for strand in strands) - len(winner.ids)
        return Outcome(winner.ids, winner.finish or "length", others, {"votes": ballot.votes, "voters": ballot.voters, "k": k})

    return answers(bench, questions, one, width=k)


class Ballot(NamedTuple):
    """Result of a vote."""

    winner: int
    """Index of the first sample with the winning answer."""
    votes: int
    voters: int
    """Samples that stated an answer."""


def majority(kind: AnswerKind, stated: list[str | None]) -> Ballot:
    """Count the votes of samples' answers; ``None`` does not vote, ties go to the earliest.

    Answers are counted together when they are the same without algebra: equal in normal form, or equal as exact numbers.
    """
    votes: dict[str, list[int]] = {}
    for i, answer in enumerate(stated):
        if answer is not None:
            known = next((other for other in votes if same_vote(kind, other, answer)), answer)
            votes.setdefault(known, []).append(i)
    best = max(votes.values(), key=len, default=[])
    return Ballot(best[0] if best else 0, len(best), sum(map(len, votes.values())))


def same_vote(kind: AnswerKind, one: str, other: str) -> bool:
    """Whether two stated answers of a kind count as one."""
    if kind == "math":
        compared = compare_without_algebra(one, other)
        return compared is not None and compared[0]
    normal = normalise(one), normalise(other)
    if kind != "number":
        return normal[0].casefold() == normal[1].casefold()
    values = plain_number(normal[0]), plain_number(normal[1])
    return values[0] == values[1] if None not in values else normal[0] == normal[1]


def _sampled(bench: Bench, seat: Seat, question: Question, k: int, sampling: Sampling) -> Steps[list[Strand]]:
    """``k`` samples, as many side by side as there are rows; the first uses the prompt's own row, the others copies of it."""
    seed, width = bench.settings.seed, bench.settings.rows or k
    trunk = seat.open()
    logits = (yield from seat.read(trunk, question.prompt_ids)).logits
    strands: list[Strand] = []
    for start in range(0, k, width):
        beside = range(start, min(k, start + width))
        for j in beside:
            row = trunk
            if j:
                row = seat.open()
                seat.batch.store.copy(trunk, row, len(question.prompt_ids))
            rng = generator_for(seed, "sampling", question.name, *([j] if j else []))
            strands.append(Strand(str(j), bench.budget, rng, parts=bench.parts(question), row=row))
        yield from decode(strands[start:], logits.expand(len(beside), -1), sampling)
        for row in seat.rows[1:]:
            seat.close(row)
    return strands


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
