"""Step sampling: at each control point several next steps of the unsteered model, of which one is committed.

It looks ahead as the gate's previews do, and changes no activation: what steering has to beat at equal cost. The evaluation prints the
forward tokens of every method, so ``n`` can be chosen to make them alike.
"""

from collections.abc import Iterator

from torch import Tensor

from stir_core.config import with_changes
from stir_core.errors import ConfigError
from stir_core.evaluate.decoders.base import Bench, Decoder, Parameters, Question
from stir_core.evaluate.decoders.loop import Outcome, answers, numeric, sampling_of
from stir_core.findings import Answer
from stir_core.intervene.memory import Memory, check_gate
from stir_core.models.cache import graft
from stir_core.models.generation import Strand
from stir_core.models.scheduler import Seat, Steps, decode, next_token
from stir_core.seeding import generator_for


def step_sampling(bench: Bench, questions: list[Question], parameters: Parameters) -> Iterator[Answer]:
    """Sample ``n`` next steps from the committed text, commit the best of them, and go on from its end.

    The best has the highest mean log-probability. With ``choose=probe`` it has the highest log-odds of a right answer, as the run's probe
    reads them in the state at the step's end (`stir policy`); where one of the samples ends the answer, there is no such state, and
    log-probability chooses. Ties go to the first. What was sampled and not committed are probe tokens. After the last control point the
    rest of the answer is one step more. Each sample has its own random stream, named by step.
    """
    sampling, n = sampling_of(bench, parameters), int(numeric(parameters, "n", least=1))
    beside, memory = bench.settings.rows or n, _probed(bench, parameters)

    def one(seat: Seat, question: Question) -> Steps[Outcome]:
        seat.layers = memory.layers if memory is not None else ()
        row, scanner = seat.open(), bench.model.scanner(question.prompt_ids, bench.settings.delimiter, bench.settings.phase)
        ids, parts, probed, m = list[int](), bench.parts(question), 0, 0
        logits = (yield from seat.read(row, question.prompt_ids)).logits
        while True:
            steps: list[Strand] = []
            for j in range(n):
                rng = generator_for(bench.settings.seed, "step sampling", question.name, m, j)
                ends_step = scanner.copy().push if m < bench.settings.control_points else None
                budgets = parts.copy() if parts is not None else None
                branch = seat.branch(row, row.length)
                steps.append(Strand(f"{m}.{j}", bench.budget - len(ids), rng, ends_step, budgets, row=branch))
            for start in range(0, n, beside):
                part = steps[start : start + beside]
                yield from decode(part, logits.expand(len(part), -1), sampling)
            score, ends = {step: step.mean_logprob or 0.0 for step in steps}, dict[Strand, Tensor]()
            if memory is not None and all(step.finish == "delimiter" for step in steps):
                for start in range(0, n, beside):
                    part = steps[start : start + beside]
                    read = yield [next_token(step)._replace(capture=(0,)) for step in part]
                    for step, after, states in zip(part, read.logits, read.states, strict=True):
                        score[step], ends[step] = _log_odds(memory, m + 1, states, after), after
            best = max(steps, key=lambda step: score[step])
            assert best.row is not None
            graft(best.row)
            for step in steps:
                if step.row is not None:
                    seat.close(step.row)
            ids += best.ids
            probed += sum(len(step.ids) for step in steps) - len(best.ids)
            scanner.boundaries(best.ids)
            parts, m = best.parts, m + 1
            if best.finish != "delimiter" or len(ids) >= bench.budget:
                return Outcome(ids, "stop" if best.finish == "stop" else "length", probed, {"steps": m, "n": n})
            best.row = row
            logits = ends[best][None] if best in ends else (yield [next_token(best)]).logits

    return answers(bench, questions, one, width=n)


def _probed(bench: Bench, parameters: Parameters) -> Memory | None:
    """The control basis with the run's probe; ``None`` where log-probability chooses.

    Raises:
        ConfigError: neither of the two.
        StoreError: the run has no learned gates.
    """
    if parameters["choose"] not in ("logprob", "probe"):
        raise ConfigError(f"choose = {parameters['choose']!r} is unknown: take logprob or probe")
    if parameters["choose"] == "logprob":
        return None
    memory = bench.libraries("basis")
    check_gate(with_changes(bench.gate, policy="probe"), memory)
    return memory


def _log_odds(memory: Memory, m: int, states: dict[int, Tensor], logits: Tensor) -> float:
    """The probe's log-odds of a right answer at control point ``m``."""
    features = memory.features(m, {layer: state[-1] for layer, state in states.items()}, logits)
    assert memory.policies is not None and features is not None  # checked before anything is decoded
    return memory.policies.log_odds(features)


STEP_SAMPLING = Decoder(
    name="step_sampling",
    about="the best of n sampled next steps",
    source="greedy search over sampled steps (Ma et al. 2023, arXiv 2310.10080, choose by a reward model of steps)",
    decode=step_sampling,
    parameters={"n": 4, "choose": "logprob", "temperature": "auto", "top_p": "auto"},
    by_chance=True,
    check=_probed,
)
