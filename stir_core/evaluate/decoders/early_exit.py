"""DEER, dynamic early exit: at each control point a trial answer; when the model is sure of it, it is the answer.

Differences from the published method, which was made for reasoning models: a trial is made behind every finished step rather than
before words such as "Wait", the inducer asks for the format that the prompt asks for, and the answer is the trial answer itself
(published, the model closes its thinking and writes its answer afresh). A trial answer that was cut off at ``trial_tokens`` is decoded to
its end first.
"""

import math
from collections.abc import Iterator

from stir_core.evaluate.decoders.base import Bench, Decoder, Parameters, Question
from stir_core.evaluate.decoders.inducer import Induced, answer_tokens, induce
from stir_core.evaluate.decoders.loop import Desk, Facts, Outcome, answers, number
from stir_core.findings import Answer
from stir_core.models.generation import Strand
from stir_core.models.loading import LoadedModel
from stir_core.models.scheduler import Steps, decode, next_token
from stir_core.records import AnswerKind, Finish
from stir_core.tasks.segment import StepScanner


def deer(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """Greedy decoding that ends at the first control point whose trial answer has confidence ``threshold`` or more.

    Confidence is the geometric mean of the likeliest-token probabilities over the trial answer's tokens. Trial tokens that are not
    committed are probe tokens; the inducer is committed with the answer, and no trial is made that the budget has no room for.
    """
    threshold, trial_tokens = number(parameters, "threshold"), int(number(parameters, "trial_tokens", least=1))

    def one(desk: Desk, question: Question) -> Steps[Outcome]:
        model, row = desk.model, desk.seat.open()
        strand = Strand("answer", desk.budget, ends_step=StepScanner(model.text, bench.settings.delimiter).push, row=row)
        step = trials = probed = 0
        here = yield from desk.seat.read(row, question.prompt_ids)
        while True:
            yield from decode([strand], here.logits)
            if strand.finish != "delimiter" or len(strand.ids) >= desk.budget:
                return Outcome(strand.ids, "stop" if strand.finish == "stop" else "length", probed, {"trials": trials})
            strand.finish, step = None, step + 1
            here = yield [next_token(strand)]
            read = row.length
            trial = yield from induce(desk, question, row, strand.ids, trial_tokens)
            if trial is None:
                continue
            trials += 1
            sure = confidence(model, question.form, trial.strand)
            if sure >= threshold:
                finish = yield from _complete(trial)
                facts: Facts = {"trials": trials, "exit_step": step, "confidence": sure}
                return Outcome([*strand.ids, *trial.inducer, *trial.strand.ids], finish, probed, facts)
            probed += len(trial.strand.ids)
            row.length = read  # the logits after the step are still at hand: nothing is read again

    return answers(bench, questions, one)


def confidence(model: LoadedModel, kind: AnswerKind, trial: Strand) -> float:
    """Geometric mean of the probabilities of a greedily decoded answer's tokens; 0 for one that says nothing."""
    said = answer_tokens(model, kind, trial.ids, ended=trial.finish == "delimiter")
    return math.exp(sum(trial.logprobs[i] for i in said) / len(said)) if said else 0.0


def _complete(trial: Induced) -> Steps[Finish]:
    """Decode on, where the trial answer was cut off, as far as the budget goes."""
    strand = trial.strand
    if strand.finish == "length" and len(strand.ids) < trial.room:
        strand.finish, strand.budget = None, trial.room
        here = yield [next_token(strand)]
        yield from decode([strand], here.logits)
    return "length" if strand.finish == "length" else "stop"


DEER = Decoder(
    name="deer",
    about="ends when a trial answer at a control point is confident",
    source="Yang et al. 2025, arXiv 2504.15895",
    decode=deer,
    parameters={"threshold": 0.95, "trial_tokens": 10},
)
