"""DEER, dynamic early exit: decode a trial answer at each control point, and end with the first that the model is confident of.

As in the published method, a model that thinks then closes its thinking and writes its answer anew, and has no trials behind its thinking.
Differences: a trial follows every finished step, not words such as "Wait"; and the inducer asks for the format that the prompt asks for.
Where the answer has no thinking, it is the trial answer itself, decoded to its end if it was cut off at ``trial_tokens``.
"""

import math
from collections.abc import Iterator

from stir_core.evaluate.decoders.base import Bench, Decoder, Parameters, Question
from stir_core.evaluate.decoders.inducer import Induced, answer_behind, answer_tokens, induce
from stir_core.evaluate.decoders.loop import Facts, Outcome, answers, numeric
from stir_core.findings import Answer
from stir_core.models.generation import Strand
from stir_core.models.loading import LoadedModel
from stir_core.models.scheduler import Seat, Steps, decode, next_token
from stir_core.records import AnswerKind, Finish


def deer(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """Greedy decoding that ends at the first control point whose trial answer has confidence ``threshold`` or more.

    Confidence is the geometric mean of the likeliest-token probabilities over the trial answer's tokens. Trial tokens that are not
    committed are probe tokens; the inducer is committed with a trial answer, and there is no trial when the budget has no room for one.
    """
    threshold, trial_tokens = numeric(parameters, "threshold"), int(numeric(parameters, "trial_tokens", least=1))

    def one(seat: Seat, question: Question) -> Steps[Outcome]:
        model, row = bench.model, seat.open()
        scanner = model.scanner(question.prompt_ids, bench.settings.delimiter, "both")
        strand = Strand("answer", bench.budget, ends_step=scanner.push, parts=bench.parts(question), row=row)
        step = trials = probed = 0
        facts: Facts
        here = yield from seat.read(row, question.prompt_ids)
        while True:
            yield from decode([strand], here.logits)
            if strand.finish != "delimiter" or len(strand.ids) >= bench.budget:
                return Outcome(strand.ids, "stop" if strand.finish == "stop" else "length", probed, {"trials": trials})
            strand.finish, step = None, step + 1
            here = yield [next_token(strand)]
            phase = scanner.thinking.phase if scanner.thinking is not None else None
            if phase == "final":
                continue
            read = row.length
            trial = yield from induce(bench, question, row, strand.ids, trial_tokens)
            if trial is None:
                continue
            trials += 1
            certainty = confidence(model, question.form, trial.strand)
            if certainty >= threshold and phase == "thinking":
                row.length = read
                rest = yield from answer_behind(bench, question, row, strand.ids)
                facts = {"trials": trials, "exit_step": step, "confidence": certainty}
                return Outcome([*strand.ids, *rest.ids], rest.finish, probed + len(trial.strand.ids), facts)
            if certainty >= threshold:
                finish = yield from _complete(trial)
                facts = {"trials": trials, "exit_step": step, "confidence": certainty}
                return Outcome([*strand.ids, *trial.inducer, *trial.strand.ids], finish, probed, facts)
            probed += len(trial.strand.ids)
            row.length = read  # forget the trial; `here` still has the logits after the step, so nothing is read again

    return answers(bench, questions, one)


def confidence(model: LoadedModel, kind: AnswerKind, trial: Strand) -> float:
    """Geometric mean of the probabilities of a greedily decoded answer's tokens with text; 0 where there are none."""
    positions = answer_tokens(model, kind, trial.ids, ended=trial.finish == "delimiter")
    return math.exp(sum(trial.logprobs[i] for i in positions) / len(positions)) if positions else 0.0


def _complete(trial: Induced) -> Steps[Finish]:
    """Decode a trial answer that was cut off to its end, or to the end of the budget."""
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
