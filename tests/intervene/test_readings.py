"""Answers read again, against what was recorded at decoding and full passes of the unsteered model with hooks of its own."""

from dataclasses import replace

import pytest
import torch

from stir_core.errors import DataError
from stir_core.intervene.controller import run_all
from stir_core.intervene.jobs import Job
from stir_core.intervene.readings import RecordedAnswer, impulses_of, reread
from stir_core.models import passes
from stir_core.models.hooked import BridgeBackend
from stir_core.readings import TOP
from tests.intervene.test_controller import GATE, PROMPTS, make_memory, settings

BOTH = ["ephemeral", "persistent"]


def decoded(tiny, persistence="ephemeral", *, steered=True, prompt="a", layers=(2,), **changes):
    """An answer and what to read it again with; steered more than once where it is steered at all."""
    gate = GATE.model_copy(update={"persistence": persistence})
    memory = make_memory(layers=layers) if steered else None
    (trace,) = run_all(tiny, [Job(prompt, PROMPTS[prompt], gate, memory)], settings(**changes))
    fired = [step for step in trace.steps if step.decision.chosen]
    assert len(fired) >= (1 if changes else 2) or not steered, "the comparison proves nothing when nothing is steered"
    return RecordedAnswer(trace, impulses_of(trace, gate, memory), gate.persistence, changes.get("compat", False))


def read(tiny, answer, **more):
    return [reading for _, reading in reread(tiny, [answer], **more)]


@pytest.mark.parametrize("persistence", BOTH)
@pytest.mark.parametrize("changes", [{}, {"compat": True}])
def test_recorded_log_probabilities_are_read_again(tiny, persistence, changes):
    answer = decoded(tiny, persistence, **changes)
    readings = read(tiny, answer)
    assert [reading.token_id for reading in readings] == list(answer.trace.token_ids)
    assert [reading.position for reading in readings] == list(range(len(answer.trace.token_ids)))
    recorded = [logprob for step in answer.trace.steps for logprob in step.logprobs]
    assert [reading.logprob for reading in readings] == pytest.approx(recorded, abs=1e-4)
    assert all(reading.rank == 1 for reading in readings)  # greedy
    steps = [step.m for step in answer.trace.steps for _ in step.token_ids]
    assert [reading.m for reading in readings] == steps
    first = min(answer.impulses)
    live = [step >= first for step in steps] if persistence == "persistent" else [step in answer.impulses for step in steps]
    assert [reading.live for reading in readings] == live


def distributions(hf, answer, layer, at):
    """Log-probabilities at one place of the answer, steered and plain, by one full pass each."""
    trace = answer.trace
    ends = {}
    end = len(trace.prompt_ids)
    for step in trace.steps:
        ends[step.m] = end - 1  # its control point: the last token of its prefix
        end += len(step.token_ids)
    number = next(s for s in reversed(ends) if ends[s] < len(trace.prompt_ids) + at)
    active = [s for s in answer.impulses if s == number or (answer.persistence == "persistent" and s < number)]
    ids = [*trace.prompt_ids, *trace.token_ids[:at]]

    def hook(module, args, output):
        stream = output[0] if isinstance(output, tuple) else output
        for s in active:
            stream[:, ends[s]] += answer.impulses[s].vector
        return output

    found = []
    for spiked in (True, False):
        handle = hf.model.layers[layer].register_forward_hook(hook) if spiked else None
        with torch.inference_mode():
            found.append(hf(torch.tensor([ids])).logits[0, -1].log_softmax(-1))
        if handle is not None:
            handle.remove()
    return found


@pytest.mark.parametrize("persistence", BOTH)
@pytest.mark.parametrize("chunk", [3, 64])
def test_every_number_equals_a_full_pass(tiny, llama_pair, persistence, chunk):
    answer = decoded(tiny, persistence)
    readings = read(tiny, answer, chunk=chunk)
    moved = 0
    for reading in readings:
        steered, plain = distributions(llama_pair[1], answer, 2, reading.position)
        kl = torch.nn.functional.kl_div(plain, steered, log_target=True, reduction="sum").item()
        assert reading.kl == pytest.approx(kl, abs=1e-4) and reading.kl >= 0
        assert reading.live or reading.kl == 0
        assert reading.unsteered_logprob == pytest.approx(plain[reading.token_id].item(), abs=1e-4)
        assert reading.entropy == pytest.approx(torch.distributions.Categorical(logits=steered).entropy().item(), abs=1e-4)
        assert reading.unsteered_entropy == pytest.approx(torch.distributions.Categorical(logits=plain).entropy().item(), abs=1e-4)
        assert reading.unsteered_rank == 1 + int((plain > plain[reading.token_id]).sum())
        for log, name in ((steered, "logprob"), (plain, "unsteered_logprob")):
            known = {other.token_id: getattr(other, name) for other in reading.alternatives}
            for value, token in zip(*(part.tolist() for part in log.topk(TOP)), strict=True):
                assert known[token] == pytest.approx(value, abs=1e-4)
        own = [other.logprob for other in reading.alternatives]
        assert own == sorted(own, reverse=True) and TOP <= len(own) <= 2 * TOP
        moved += reading.kl > 0.01
    assert moved >= 3, "the comparison proves nothing when nothing is moved"


def test_an_unsteered_answer_diverges_nowhere(tiny):
    readings = read(tiny, decoded(tiny, steered=False))
    assert readings and all(r.kl == 0 and not r.live and r.change == 0 and r.entropy == r.unsteered_entropy for r in readings)


def test_answers_side_by_side_read_as_alone_in_few_passes(tiny, monkeypatch):
    steered, vanilla = decoded(tiny), decoded(tiny, steered=False)
    alone = [read(tiny, answer) for answer in (vanilla, steered)]
    passed = []
    forward = passes.forward
    monkeypatch.setattr("stir_core.intervene.readings.forward", lambda model, feeds: passed.append(feeds) or forward(model, feeds))
    together = list(reread(tiny, [vanilla, steered]))
    for number, readings in enumerate(alone):
        own = [reading for row, reading in together if row == number]
        assert [r.logprob for r in own] == pytest.approx([r.logprob for r in readings], abs=1e-4)
        assert [r.kl for r in own] == pytest.approx([r.kl for r in readings], abs=1e-4)
    fed = sum(len(feed.ids) for feeds in passed for feed in feeds)
    tokens = [len(answer.trace.token_ids) for answer in (vanilla, steered)]
    again = sum(len(step.token_ids) for step in steered.trace.steps if step.m in steered.impulses)
    assert fed <= len(PROMPTS["a"]) + sum(tokens) + again  # the prompt once, each token once, those of steered steps twice
    assert len(passed) < sum(tokens) / 2
    # up to where the answers part, the plain reading of the steered one is the vanilla answer's own
    pairs = list(zip(*(answer.trace.token_ids for answer in (vanilla, steered)), strict=False))
    parted = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs) - 1)
    rows = [[reading for row, reading in together if row == number] for number in (0, 1)]
    for i in range(parted + 1):
        assert rows[0][i].entropy == pytest.approx(rows[1][i].unsteered_entropy, abs=1e-4)


def test_given_tokens_are_a_prefix_and_not_read(tiny):
    whole = decoded(tiny).trace
    given = tuple(token for step in whole.steps[:2] for token in step.token_ids)
    memory = make_memory()
    (rest,) = run_all(tiny, [Job("a", PROMPTS["a"], GATE, memory, given)], settings())
    readings = read(tiny, RecordedAnswer(rest, impulses_of(rest, GATE, memory)))
    assert [r.position for r in readings] == list(range(len(given), len(rest.token_ids)))
    recorded = [logprob for step in rest.steps for logprob in step.logprobs]
    assert [r.logprob for r in readings] == pytest.approx(recorded, abs=1e-4)


def test_the_reference_backend_reads_the_same(tiny):
    answer = decoded(tiny, layers=(1, 3))
    other = replace(tiny, backend=BridgeBackend(tiny.bridge))
    for one, two in zip(read(tiny, answer), read(other, answer), strict=True):
        assert one.kl == pytest.approx(two.kl, abs=1e-3) and one.logprob == pytest.approx(two.logprob, abs=1e-3)


def test_closing_early_leaves_the_model_free(tiny):
    readings = reread(tiny, [decoded(tiny)])
    next(readings)
    readings.close()
    assert tiny.lock.acquire(blocking=False)
    tiny.lock.release()


def test_an_entry_of_another_library_is_refused(tiny):
    trace = decoded(tiny).trace
    with pytest.raises(DataError, match='was steered by "m'):
        impulses_of(trace, GATE, None)
