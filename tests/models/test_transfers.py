"""Values cross between host and device a fixed number of times in a pass, whatever its rows and tokens: on a device that counts them."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from stir_core.config import DecodeConfig, GateConfig, with_changes
from stir_core.harvest.rollouts import sample_rollouts
from stir_core.intervene.controller import run_all
from stir_core.intervene.jobs import Job
from stir_core.intervene.memory import Memory
from stir_core.models.backends import twin
from stir_core.models.generation import Sampling, Strand
from stir_core.models.hooked import HookedDecoder
from stir_core.models.loading import LoadedModel, boot
from stir_core.models.passes import Feed, forward
from stir_core.models.scheduler import Listed, decode, schedule
from stir_core.models.transfer import to_device, to_host
from stir_core.records import Trace
from stir_core.seeding import generator_for
from tests.builders import make_hf
from tests.fake_device import DEVICE, move, transfers
from tests.harvest.test_rollouts import PROBLEMS, config, grade
from tests.intervene.test_controller import GATE, LAYER, PROMPTS, make_memory, settings
from tests.intervene.test_policies import policies, weights


def on_device(model: LoadedModel, hf: Any) -> LoadedModel:
    decoder = HookedDecoder(twin(copy.deepcopy(hf)))
    move(decoder.model)
    return replace(model, backend=decoder, device=DEVICE)


@pytest.fixture(scope="module")
def away(llama_pair) -> LoadedModel:
    """The tiny model on the device."""
    return on_device(*llama_pair)


Found = tuple[object, list[float]]
"""What must be equal on both devices, and what must be up to rounding."""


def crossings(tiny, away, work: Callable[[LoadedModel], Found]) -> tuple[int, int, int]:
    """Transfers to the host and to the device, and passes, of work whose result is the same on both devices."""
    passes: list[int] = []
    handle = away.backend.model.register_forward_hook(lambda *_: passes.append(1))
    with transfers() as counted:
        found, numbers = work(away)
    handle.remove()
    wanted, others = work(tiny)
    assert found == wanted and numbers == pytest.approx(others, abs=1e-4)
    return counted["to host"], counted["to device"], len(passes)


def decoded(sampling: Sampling, rows: int, tokens: int) -> Callable[[LoadedModel], Found]:
    def work(model: LoadedModel) -> Found:
        strands = [Strand(str(i), tokens, generator_for(0, "t", i)) for i in range(rows)]

        def one(seat, strand):
            strand.row = seat.open()
            here = yield from seat.read(strand.row, [5, 9, int(strand.name) + 3, 7])
            yield from decode([strand], here.logits, sampling)

        list(schedule(model, Listed(strands, None), one))
        return [strand.ids for strand in strands], [number for strand in strands for number in strand.logprobs]

    return work


@pytest.mark.parametrize(("sampling", "most"), [(Sampling(), 1), (Sampling(1.0, 0.5), 1), (Sampling(1.0, 1.0), 1), (Sampling(1.0, 0.9), 2)])
def test_a_pass_brings_its_tokens_to_the_host_in_one_transfer(tiny, away, sampling, most):
    """Two where a nucleus is wider than the tokens looked at first, as one of 0.9 nearly always is here."""
    for rows in (1, 6):
        for tokens in (3, 8):
            host, device, passes = crossings(tiny, away, decoded(sampling, rows, tokens))
            assert host <= most * passes and device <= (1 if sampling.temperature == 0 else 2 + (most == 2 or sampling.top_p == 1)) * passes


def test_captured_states_cross_when_an_answer_ends(tiny, away):
    """However many boundaries and layers there are."""
    for k in (1, 2):

        def work(model: LoadedModel, k: int = k) -> Found:
            found = list(sample_rollouts(model, PROBLEMS, config(k=k, temperature=0.0, max_new_tokens=20), grade, frozenset(), (1, 3)))
            assert sum(len(each.states.get(1, ())) for each in found) > k
            found.sort(key=lambda each: (each.rollout.problem_id, each.rollout.k))
            states = [number for each in found for state in each.states.values() for number in state.flatten().tolist()]
            return [(each.rollout.token_ids, each.rollout.boundaries) for each in found], states

        host, device, passes = crossings(tiny, away, work)
        assert host <= passes + len(PROBLEMS) * k and device <= passes


def steered(gate: GateConfig, memory: Memory, n: int, how: DecodeConfig, traces: list[Trace]) -> Callable[[LoadedModel], Found]:
    jobs = [Job(f"{name}{i}", [*ids, 3 + i], gate, memory, decode=how) for i in range(2) for name, ids in PROMPTS.items()][:n]

    def work(model: LoadedModel) -> Found:
        traces[:] = run_all(model, jobs, settings())
        steps = [step for trace in traces for step in trace.steps]
        return [(step.token_ids, step.decision.chosen) for step in steps], [number for step in steps for number in step.logprobs]

    return work


@pytest.mark.parametrize("preview_scale", ["unit", "committed"])
def test_so_do_retrieval_previews_and_guesses(tiny, away, preview_scale):
    """Greedily steered answers; vectors to add and where take two more transfers to the device, in the passes that have any."""
    gate, memory, traces = with_changes(GATE, preview_scale=preview_scale), make_memory(layers=(1, LAYER)), list[Trace]()
    for n in (1, 5):
        host, device, passes = crossings(tiny, away, steered(gate, memory, n, DecodeConfig(max_new_tokens=24), traces))
        assert host <= passes and device <= 3 * passes
        assert any(step.decision.chosen for trace in traces for step in trace.steps), "an action was injected"


@pytest.mark.parametrize("way", ["sampled", "learned"])
def test_sampled_answers_ask_once_more_at_a_control_point(tiny, away, way):
    """A step that is drawn at random begins after the decision; a learned gate sees how certain the next token is."""
    sampled, memory, traces = way == "sampled", make_memory(), list[Trace]()
    if not sampled:
        actions = torch.stack([memory.action(each.id) for each in memory.entries]).numpy()
        own = policies(weights("direct", -1e9, state=(0.0,) * 2))
        memory = Memory(memory.entries, memory.raw_keys.numpy(), actions, policies=own)
    gate = GATE if sampled else with_changes(GATE, policy="direct")
    how = DecodeConfig(max_new_tokens=20, temperature=1.0, top_p=0.5) if sampled else DecodeConfig(max_new_tokens=16)
    for n in (1, 5):
        host, device, passes = crossings(tiny, away, steered(gate, memory, n, how, traces))
        assert host <= (1 + sampled) * passes and device <= (3 + sampled) * passes
    assert any(step.evidence.retrieved for trace in traces for step in trace.steps)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_segments_of_one_size_are_attended_to_in_one_call(tokenizer, kind, monkeypatch):
    """Prompts and later pieces of many sizes, padded together: as each alone on the CPU, and with as many calls for 15 rows as for five."""
    hf = make_hf(kind, len(tokenizer))
    here = boot(f"tiny/{kind}", copy.deepcopy(hf), tokenizer, weights_sha256="0" * 64)
    there = on_device(here, hf)
    calls: list[int] = []
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: (calls.append(1), attend(*a, **k))[1])

    def read(model: LoadedModel, sizes: list[int]) -> list[torch.Tensor]:
        store, found = model.new_store(), []
        rows = [store.open() for _ in sizes]
        for i in range(2):
            feeds = [Feed(row, [(5 * n + 7 * j + i) % 300 for j in range(n)], every=True) for row, n in zip(rows, sizes, strict=True)]
            found.append(forward(model, feeds).logits.cpu())
        return found

    counts = []
    for times in (1, 3):
        sizes = [3, 21, 2, 20, 19] * times
        wanted, calls[:] = read(here, sizes), []
        with transfers():
            found = read(there, sizes)
        counts.append(len(calls))
        for one, two in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
    assert counts[0] == counts[1] > 0


def test_what_crosses_together_arrives_as_it_was():
    with transfers() as counted:
        numbers = [[3, 1], [], [2**40]]
        sent = to_device(numbers, DEVICE)
        others = [
            torch.tensor([True, False]),
            torch.tensor([[1.5, -2.0]]),
            torch.tensor([7.25], dtype=torch.bfloat16),
            torch.ones(()).double(),
        ]
        brought = to_host([*sent, *(each.to(DEVICE) for each in others)])
    assert [each.tolist() for each in brought[:3]] == numbers
    for each, other in zip(brought[3:], others, strict=True):
        assert each.dtype == other.dtype and torch.equal(each, other)
    assert counted["to host"] == 1 and counted["to device"] == 1 + len(others)


def test_a_device_that_counts_tells_what_waits_for_it():
    with transfers() as counted:
        there = torch.arange(6, device=DEVICE)
        assert there.device == DEVICE and not counted
        assert there[there > 3].tolist() == [4, 5] and bool(there.any()) and int(there[1]) == 1 and float(there[2]) == 2.0
        assert counted["to host"] == 5
        there[[0, 1]] += 1
        assert counted["to device"] == 2
        with pytest.raises(RuntimeError, match="on the host and on the device"):
            torch.add(there, torch.arange(6))
