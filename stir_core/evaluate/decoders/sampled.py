"""Sampling, and self-consistency: the majority among several sampled answers.

Self-consistency's first sample is the answer of :data:`SAMPLING` at the same settings, so the two differ by the vote alone. A server may
draw the samples (``bench.engine``).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from stir_core.config import LOCAL
from stir_core.errors import ConfigError
from stir_core.evaluate.decoders.base import Bench, Decoder, Parameters, Question
from stir_core.evaluate.decoders.loop import Outcome, answer_of, answers, numeric, sampling_of
from stir_core.findings import Answer
from stir_core.models.cost import decoding_cost
from stir_core.models.generation import Sampling, Strand
from stir_core.models.scheduler import Seat, Steps, decode
from stir_core.models.served import Asked, find_served, sample_served
from stir_core.records import AnswerKind
from stir_core.seeding import generator_for
from stir_core.tasks.extract import extract
from stir_core.tasks.grading import compare_without_algebra
from stir_core.tasks.latex import normalise, plain_number
from stir_core.tasks.thinking import graded_part

Decide = Callable[[Question, list[Strand]], Outcome]
"""Makes an outcome of a question's samples."""


def sample(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """One sampled answer to each question, from its own random stream."""

    def decide(question: Question, strands: list[Strand]) -> Outcome:
        return Outcome(strands[0].ids, strands[0].finish or "length", 0, {})

    return _answers(bench, questions, 1, parameters, decide)


def vote(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """``k`` sampled answers per question; the first one that holds the answer with most votes is committed.

    Samples that state no final answer do not vote; ties go to the answer that was stated first. Where no sample states one, the first
    sample is committed with no votes. The prompt is read once for all samples.
    """
    k = int(numeric(parameters, "k", least=1))

    def decide(question: Question, strands: list[Strand]) -> Outcome:
        kind, choices = question.problem.kind, question.problem.choices
        texts = [(strand.ids, bench.model.text(strand.ids)) for strand in strands]
        finals = [graded_part(text, bench.model.thinking(question.prompt_ids, ids, text)) for ids, text in texts]
        stated = [extract(kind, final, choices) for final in finals]
        ballot = majority(kind, [answer and answer.text for answer in stated])
        winner = strands[ballot.winner]
        others = sum(len(strand.ids) for strand in strands) - len(winner.ids)
        return Outcome(winner.ids, winner.finish or "length", others, {"votes": ballot.votes, "voters": ballot.voters, "k": k})

    return _answers(bench, questions, k, parameters, decide)


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


def _answers(bench: Bench, questions: list[Question], k: int, parameters: Parameters, decide: Decide) -> Iterator[Answer]:
    sampling = sampling_of(bench, parameters)
    if bench.engine != LOCAL:
        return _served(bench, questions, k, sampling, decide)

    def one(seat: Seat, question: Question) -> Steps[Outcome]:
        return decide(question, (yield from _sampled(bench, seat, question, k, sampling)))

    return answers(bench, questions, one, width=k)


def _served(bench: Bench, questions: list[Question], k: int, sampling: Sampling, decide: Decide) -> Iterator[Answer]:
    """Answers whose samples a server draws; their costs are those of the same tokens here."""
    model, samples = bench.model, [_strands(bench, question, k) for question in questions]
    asked = [
        Asked(i, question.prompt_ids, strand)
        for i, (question, strands) in enumerate(zip(questions, samples, strict=True))
        for strand in strands
    ]
    served, rows = find_served(bench.engine, model.identity.name), bench.settings.rows or len(asked)
    for each in sample_served(model, served, asked, sampling, rows=rows):
        question, strands = questions[each.item], samples[each.item]
        if all(strand.finish is not None for strand in strands):
            cost = decoding_cost(len(question.prompt_ids), [len(strand.ids) for strand in strands])
            yield answer_of(bench, question, decide(question, strands), cost)


def _strands(bench: Bench, question: Question, k: int) -> list[Strand]:
    """``k`` samples of a question, each with a random stream of its own."""
    named = [generator_for(bench.settings.seed, "sampling", question.name, *([j] if j else [])) for j in range(k)]
    return [Strand(f"{question.name}/{j}", bench.budget, rng, parts=bench.parts(question)) for j, rng in enumerate(named)]


def _sampled(bench: Bench, seat: Seat, question: Question, k: int, sampling: Sampling) -> Steps[list[Strand]]:
    """``k`` samples, as many side by side as there are rows; the first uses the prompt's own row, the others copies of it."""
    width = bench.settings.rows or k
    trunk = seat.open()
    logits = (yield from seat.read(trunk, question.prompt_ids)).logits
    strands = _strands(bench, question, k)
    for start in range(0, k, width):
        beside = strands[start : start + width]
        for strand in beside:
            strand.row = trunk
            if strand is not strands[0]:
                strand.row = seat.open()
                seat.batch.store.copy(trunk, strand.row, len(question.prompt_ids))
        yield from decode(beside, logits.expand(len(beside), -1), sampling)
        for row in seat.rows[1:]:
            seat.close(row)
    return strands


def _check(bench: Bench, parameters: Parameters) -> None:
    """Refuse a server that is not there, and budgets that only this process keeps."""
    if bench.engine == LOCAL:
        return
    decode = bench.settings.decode
    if decode.max_thinking_tokens is not None or decode.max_final_tokens is not None:
        raise ConfigError("decode.max_thinking_tokens and max_final_tokens are kept by engine = local alone: leave one of them out")
    find_served(bench.engine, bench.model.identity.name)


SAMPLING = Decoder(
    name="sampling",
    about="one answer sampled token by token",
    source="temperature and nucleus sampling (Holtzman et al. 2019, arXiv 1904.09751)",
    decode=sample,
    parameters={"temperature": "auto", "top_p": "auto"},
    by_chance=True,
    check=_check,
)
SELF_CONSISTENCY = Decoder(
    name="self_consistency",
    about="the majority among k sampled answers",
    source="Wang et al. 2022, arXiv 2203.11171",
    decode=vote,
    parameters={"k": 5, "temperature": "auto", "top_p": "auto"},
    by_chance=True,
    check=_check,
)
