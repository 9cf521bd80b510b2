"""The step loop against a naive oracle: one full prefill per token, on the plain Hugging Face model, with its own few lines of STIR."""

from collections.abc import Generator

import numpy as np
import pytest
import torch

from stir_core.config import DecodeConfig, GateConfig, with_changes
from stir_core.intervene.controller import run_all, steer
from stir_core.intervene.jobs import Job, Settings
from stir_core.intervene.memory import Memory, action_of
from stir_core.records import StepEvent, TokenEvent, Trace, TraceEvent
from tests.builders import make_entry

D, LAYER, M = 32, 2, 4
DELIMITER = "e"  # frequent in what the tiny model writes
PROMPTS = {"a": [5, 9, 40, 7, 100], "b": [17, 3, 250, 61, 62, 63, 64, 65, 66], "c": [200, 201]}
GATE = GateConfig(k_retrieve=6, candidates=3, probe_tokens=3, k_scale=0.7)


def make_memory(scale: float = 1.0, seed: int = 0, layers: tuple[int, ...] = (LAYER,)) -> Memory:
    rng = np.random.default_rng(seed)
    entries, keys, actions = [], [], []
    for m in range(1, M + 1):
        for i in range(8):
            kind = "null" if i % 4 == 3 else "corrective"
            entries.append(make_entry(f"m{m}i{i}{kind[0]}", m, layers[i % len(layers)], 1.0 - 0.01 * i, kind))
            keys.append(rng.standard_normal(D))
            actions.append(scale * 3 * rng.standard_normal(D) if kind == "corrective" else np.zeros(D))
    return Memory(tuple(entries), np.array(keys, np.float32), np.array(actions, np.float32))


def settings(max_new_tokens: int = 40, **changes) -> Settings:
    return Settings(DecodeConfig(max_new_tokens=max_new_tokens), M, DELIMITER)._replace(**changes)


class Oracle:
    """Full prefills on the plain model: slow, obvious, and sharing no code with the decode loop."""

    def __init__(self, hf, text, stop_ids):
        self.hf, self.text, self.stop_ids = hf, text, stop_ids

    def logits(self, ids, impulses):
        """Last logits and the layer output at the last position; impulses are (position, vector)."""
        seen = {}

        def hook(module, args, output):
            stream = output[0] if isinstance(output, tuple) else output
            for position, vector in impulses:
                stream[:, position] += vector
            seen["state"] = stream[0, -1].clone()
            return output

        handle = self.hf.model.layers[LAYER].register_forward_hook(hook)
        with torch.inference_mode():
            logits = self.hf(torch.tensor([ids])).logits[0, -1]
        handle.remove()
        return logits, seen["state"]

    def decode(self, ids, impulses, budget, to_delimiter):
        out, logprobs = [], []
        while len(out) < budget:
            logits, _ = self.logits([*ids, *out], impulses)
            token = int(logits.argmax())
            out.append(token)
            logprobs.append(float(logits.log_softmax(-1)[token]))
            if token in self.stop_ids:
                return out, logprobs, "stop"
            if to_delimiter and DELIMITER in self.text(out):
                return out, logprobs, "delimiter"
        return out, logprobs, "length"

    def answer(self, prompt, memory, gate, max_new_tokens, skip=()):
        ids, done, decisions, kept, m = list(prompt), [], [], [], 0
        while True:
            impulses = list(kept)
            chosen = None
            if 1 <= m <= M - 1:
                _, state = self.logits(ids, impulses)
                rows = [(torch.cosine_similarity(state, memory_key, dim=0).item(), entry) for entry, memory_key in self.at(memory, m)]
                rows = sorted(rows, key=lambda row: -row[0])[: gate.k_retrieve]
                null = max([0.0, *(s * e.quality for s, e in rows if e.kind == "null")])
                best = sorted(((s * e.quality, e) for s, e in rows if e.kind == "corrective"), key=lambda row: -row[0])[: gate.candidates]
                _, base, _ = self.decode(ids, impulses, gate.probe_tokens, True)
                scored = []
                for value, entry in best:
                    spike = [*impulses, (len(ids) - 1, memory.action(entry.id))]
                    _, steered, _ = self.decode(ids, spike, gate.probe_tokens, True)
                    scored.append((gate.beta * value + gate.rho * (np.mean(steered) - np.mean(base)), entry))
                if scored:
                    score, entry = max(scored, key=lambda row: row[0])
                    if score > gate.beta * null and score >= gate.tau_null:
                        chosen = entry.id
                        impulses.append((len(ids) - 1, gate.k_scale * score * memory.action(entry.id)))
            if skip and len(impulses) > len(kept):
                out, finish = list(skip), "delimiter"
            else:
                out, _, finish = self.decode(ids, impulses, max_new_tokens - len(done), m < M)
            decisions.append(chosen)
            ids, done = [*ids, *out], [*done, *out]
            if gate.persistence == "persistent":
                kept = impulses
            m += 1
            if finish != "delimiter" or len(done) >= max_new_tokens:
                return done, decisions

    @staticmethod
    def at(memory, m):
        unit = {entry.id: row for entry, row in zip(memory.entries, memory.raw_keys, strict=True)}
        return [(entry, unit[entry.id]) for entry in memory.entries if entry.m == m]


@pytest.fixture(scope="module")
def oracle(llama_pair):
    model, hf = llama_pair
    return Oracle(hf, model.text, model.stop_ids)


@pytest.mark.parametrize("persistence", ["ephemeral", "persistent"])
def test_tokens_and_decisions_equal_one_full_prefill_a_token(tiny, oracle, persistence):
    gate = GATE.model_copy(update={"persistence": persistence})
    memory = make_memory()
    traces = run_all(tiny, [Job(name, ids, gate, memory) for name, ids in PROMPTS.items()], settings())
    committed = 0
    for trace, prompt in zip(traces, PROMPTS.values(), strict=True):
        ids, decisions = oracle.answer(prompt, memory, gate, 40)
        assert list(trace.token_ids) == ids
        assert [step.decision.chosen for step in trace.steps] == decisions
        committed += sum(chosen is not None for chosen in decisions)
    assert committed >= 2, "the comparison proves nothing when nothing is steered"


def test_persistent_and_ephemeral_differ(tiny):
    memory = make_memory()
    gates = [GATE, GATE.model_copy(update={"persistence": "persistent"})]
    a, b = ([t.token_ids for t in run_all(tiny, [Job(n, i, g, memory) for n, i in PROMPTS.items()], settings())] for g in gates)
    assert a != b


def test_a_batch_equals_its_rows(tiny):
    memory, other = make_memory(), make_memory(seed=5, layers=(1, 3))
    jobs = [
        Job("a", PROMPTS["a"], GATE, memory),
        Job("b", PROMPTS["b"], GATE, other),
        Job("c", PROMPTS["c"], GATE),
        Job("d", PROMPTS["c"], GATE, memory),
    ]
    together = run_all(tiny, jobs, settings())
    for job, trace in zip(jobs, together, strict=True):
        (alone,) = run_all(tiny, [job], settings())
        assert_same(trace, alone)


def assert_same(a: Trace, b: Trace, *, cost: bool = True) -> None:
    assert a.token_ids == b.token_ids
    assert (a.tokens_used, a.probe_tokens, a.finish) == (b.tokens_used, b.probe_tokens, b.finish)
    assert a.forward_tokens == b.forward_tokens or not cost
    for one, two in zip(a.steps, b.steps, strict=True):
        assert one.decision.chosen == two.decision.chosen
        assert one.decision.alpha == pytest.approx(two.decision.alpha, abs=1e-5)
        assert one.logprobs == pytest.approx(two.logprobs, abs=1e-4)


@pytest.mark.parametrize("how", ["strength", "zero vectors", "no memory"])
def test_injecting_nothing_equals_vanilla(tiny, how):
    gate = GATE.model_copy(update={"k_scale": 0.0} if how == "strength" else {"variant": "no_memory"} if how == "no memory" else {})
    memory = make_memory(scale=0.0 if how == "zero vectors" else 1.0)
    for name, ids in PROMPTS.items():
        vanilla, steered = run_all(tiny, [Job(name, ids, GATE), Job(name, ids, gate, memory)], settings())
        assert vanilla.token_ids == steered.token_ids
        assert [s.logprobs for s in vanilla.steps] == [pytest.approx(s.logprobs, abs=1e-4) for s in steered.steps]


def test_the_first_step_and_the_rest_are_never_steered(tiny):
    traces = run_all(tiny, [Job(n, i, GATE, make_memory()) for n, i in PROMPTS.items()], settings(max_new_tokens=80))
    assert any(len(trace.steps) == M + 1 for trace in traces)
    for trace in traces:
        for step in trace.steps:
            if step.evidence.m in (0, M):
                assert step.decision.chosen is None and not step.evidence.retrieved
                assert step.evidence.not_retrieved


def test_accounting(tiny):
    for trace in run_all(tiny, [Job(n, i, GATE, make_memory()) for n, i in PROMPTS.items()], settings()):
        assert trace.tokens_used == len(trace.token_ids) == sum(len(step.token_ids) for step in trace.steps) <= 40
        assert trace.probe_tokens == sum(step.probe_tokens for step in trace.steps)
        for step in trace.steps:
            previews = [entry.preview_ids for entry in step.evidence.retrieved if entry.preview_ids]
            assert step.probe_tokens == sum(map(len, previews)) + len(step.evidence.null_preview_ids)
            assert len(previews) <= GATE.candidates and all(1 <= len(ids) <= GATE.probe_tokens for ids in previews)
        assert trace.total_tokens == trace.tokens_used + trace.probe_tokens
        assert trace.forward_tokens == len(trace.prompt_ids) + sum(fed(step, step is trace.steps[-1]) for step in trace.steps)


def fed(step, last: bool) -> int:
    """Token positions that a step runs: previews, the step itself, and the unsteered pass over it or its last token."""
    n, null = len(step.token_ids), max(0, len(step.evidence.null_preview_ids) - 1)  # null has its first logits already
    previews = step.probe_tokens - len(step.evidence.null_preview_ids) + null
    if step.decision.chosen is None:
        return previews + max(0, n - null - (1 if last else 0))
    return previews + n + step.missed_tokens + (0 if last else n)


@pytest.mark.parametrize("budget", [8, 11, 12, 13, 40])
def test_a_guess_of_the_step_changes_nothing_but_the_passes(tiny, monkeypatch, budget):
    """The chosen preview as a guess: whatever of it is right, the tokens and their log-probabilities are those of one pass a token."""
    jobs = [Job(n, i, with_changes(GATE, k_scale=scale), make_memory()) for n, i in PROMPTS.items() for scale in (0.3, 0.7, 3.0)]
    guessing = run_all(tiny, jobs, settings(budget))
    monkeypatch.setattr("stir_core.intervene.controller.guess_of_step", lambda *arguments: [])
    singly = run_all(tiny, jobs, settings(budget))
    for one, two in zip(guessing, singly, strict=True):
        assert_same(one, two, cost=False)
        assert all(step.missed_tokens == 0 for step in two.steps)
    steered = [step for trace in guessing for step in trace.steps if step.decision.chosen]
    guessed = [next(e.preview_ids for e in step.evidence.retrieved if e.entry_id == step.decision.chosen) for step in steered]
    agree = [step.token_ids[: len(guess)] == guess for step, guess in zip(steered, guessed, strict=True)]
    assert any(agree) and not all(agree) and any(step.missed_tokens for step in steered)


@pytest.mark.parametrize("max_new_tokens", [10, 11, 12, 13, 40])
@pytest.mark.parametrize("change", [{"tau_null": 1.0}, {"preview_scale": "committed"}], ids=["null", "committed"])
def test_a_preview_that_goes_on_changes_nothing(tiny, monkeypatch, change, max_new_tokens):
    """Reusing the kept preview equals decoding the step afresh, budgets that end inside a preview included."""
    gate = GATE.model_copy(update=change)
    jobs = [Job(n, i, gate, make_memory()) for n, i in PROMPTS.items()]
    reusing = run_all(tiny, jobs, settings(max_new_tokens))
    monkeypatch.setattr("stir_core.intervene.controller._preview_to_keep", lambda *arguments: None)
    afresh = run_all(tiny, jobs, settings(max_new_tokens))
    assert sum(trace.reused_tokens for trace in reusing) > 0 == sum(trace.reused_tokens for trace in afresh)
    for one, two in zip(reusing, afresh, strict=True):
        assert (one.token_ids, one.finish, one.probe_tokens) == (two.token_ids, two.finish, two.probe_tokens)
        assert [step.decision.chosen for step in one.steps] == [step.decision.chosen for step in two.steps]
        assert [step.logprobs for step in one.steps] == [pytest.approx(step.logprobs, abs=1e-4) for step in two.steps]
        assert one.forward_tokens < two.forward_tokens or one.reused_tokens <= 1


def test_waiting_answers_enter_and_change_nothing(tiny):
    jobs = [Job(f"{n}{seed}", i, GATE, make_memory(seed=seed)) for n, i in PROMPTS.items() for seed in (0, 1)]
    together, few = run_all(tiny, jobs, settings()), run_all(tiny, jobs, settings(rows=2))
    for one, two in zip(together, few, strict=True):
        assert_same(one, two)


def test_answers_do_not_wait_for_each_others_steps(tiny):
    """While one answer is inside a long step, another ends several."""
    jobs = [Job(name, ids, GATE, make_memory()) for name, ids in PROMPTS.items()]
    events = [e for e in steer(tiny, jobs, settings(max_new_tokens=60)) if isinstance(e, StepEvent | TokenEvent)]
    open_at = {(e.row, e.step): i for i, e in enumerate(events) if isinstance(e, StepEvent)}
    overtaken = [
        (row, step)
        for (row, step), start in open_at.items()
        if (row, step + 1) in open_at
        and any(
            other != row
            and start < i < open_at[row, step + 1]
            and (other, s + 1) in open_at
            and open_at[other, s + 1] < open_at[row, step + 1]
            for (other, s), i in open_at.items()
        )
    ]
    assert overtaken


@pytest.mark.parametrize("backend", ["bridge"])
def test_the_reference_backend_decides_the_same(llama_pair, tokenizer, backend):
    from stir_core.models.loading import boot
    from tests.builders import make_hf

    reference = boot("tiny/llama", make_hf("llama", len(tokenizer)), tokenizer, weights_sha256="0" * 64, backend=backend)
    jobs = [Job(name, ids, GATE, make_memory()) for name, ids in PROMPTS.items()]
    for one, two in zip(run_all(llama_pair[0], jobs, settings()), run_all(reference, jobs, settings()), strict=True):
        assert_same(one, two, cost=False)  # which reads no guesses


def test_events_hold_the_whole_trace(tiny):
    jobs = [Job(name, ids, GATE, make_memory()) for name, ids in PROMPTS.items()]
    events = list(steer(tiny, jobs, settings()))
    for event in events:
        if isinstance(event, TraceEvent):
            tokens = [e for e in events if isinstance(e, TokenEvent) and e.row == event.row]
            steps = [e for e in events if isinstance(e, StepEvent) and e.row == event.row]
            assert [e.token_id for e in tokens] == list(event.trace.token_ids)
            assert [e.decision for e in steps] == [step.decision for step in event.trace.steps]


def test_closing_early_leaves_no_hook_and_no_lock(tiny):
    events = steer(tiny, [Job("a", PROMPTS["a"], GATE, make_memory())], settings())
    for event in events:
        if isinstance(event, StepEvent) and event.decision.chosen:
            break
    next(events)
    assert isinstance(events, Generator)
    events.close()
    assert all(not block.hook_out.fwd_hooks for block in tiny.bridge.blocks)
    assert tiny.lock.acquire(blocking=False)
    tiny.lock.release()


def test_sampling_depends_on_names_not_on_neighbours(tiny):
    hot = Settings(DecodeConfig(max_new_tokens=40, temperature=1.0), M, DELIMITER, seed=3)
    jobs = [Job(name, ids, GATE, make_memory()) for name, ids in PROMPTS.items()]
    together = run_all(tiny, jobs, hot)
    for job, trace in zip(reversed(jobs), reversed(together), strict=True):
        assert run_all(tiny, [job], hot)[0].token_ids == trace.token_ids
    assert run_all(tiny, jobs, hot._replace(seed=4))[0].token_ids != together[0].token_ids


@pytest.mark.parametrize("variant", ["no_probing", "random_choice", "random_vector"])
def test_variants(tiny, variant):
    gate = GATE.model_copy(update={"variant": variant})
    traces = run_all(tiny, [Job(n, i, gate, make_memory()) for n, i in PROMPTS.items()], settings())
    steps = [step for trace in traces for step in trace.steps if step.evidence.retrieved]
    assert any(step.decision.chosen for step in steps)
    if variant == "no_probing":
        assert all(trace.probe_tokens == 0 for trace in traces)
        assert all(row.score == pytest.approx(gate.beta * row.value) for step in steps for row in step.decision.scored)
    else:
        assert all(trace.probe_tokens > 0 for trace in traces if any(step.evidence.retrieved for step in trace.steps))


def test_matched_noise_has_the_actions_own_norm(tiny):
    memory = make_memory()
    entry = next(entry for entry in memory.entries if entry.kind == "corrective")
    for noise in ("unit", "matched"):
        gate = GATE.model_copy(update={"variant": "random_vector", "noise": noise})
        drawn = action_of(memory, gate, entry.id, 0)
        assert torch.equal(drawn, action_of(make_memory(), gate, entry.id, 0))
        true = memory.action(entry.id)
        assert abs(float(torch.cosine_similarity(drawn, true, dim=0))) < 0.6
        if noise == "matched":
            assert float(drawn.norm()) == pytest.approx(float(true.norm()), rel=1e-5)


def test_committed_previews_use_the_committed_strength(tiny):
    gate = GATE.model_copy(update={"preview_scale": "committed", "k_scale": 0.3})
    traces = run_all(tiny, [Job(n, i, gate, make_memory()) for n, i in PROMPTS.items()], settings())
    chosen = [
        (s, next(e for e in s.evidence.retrieved if e.entry_id == s.decision.chosen)) for t in traces for s in t.steps if s.decision.chosen
    ]
    assert chosen
    for step, entry in chosen:
        assert entry.preview_scale == pytest.approx(step.decision.alpha) == pytest.approx(0.3 * gate.beta * entry.value)
        n = min(len(entry.preview_ids), len(step.token_ids))
        assert step.token_ids[:n] == entry.preview_ids[:n]


def test_a_skipped_step_is_the_delimiter_read_with_its_impulse(tiny, oracle):
    gate, memory = GATE.model_copy(update={"persistence": "persistent"}), make_memory()
    traces = run_all(tiny, [Job(name, ids, gate, memory, skip=True) for name, ids in PROMPTS.items()], settings())
    skipped = 0
    for trace, prompt in zip(traces, PROMPTS.values(), strict=True):
        ids, decisions = oracle.answer(prompt, memory, gate, 40, skip=tiny.tokens(DELIMITER))
        assert list(trace.token_ids) == ids
        assert [step.decision.chosen for step in trace.steps] == decisions
        steered = [step for step in trace.steps if step.decision.chosen]
        assert all(step.text == DELIMITER for step in steered)
        skipped += len(steered)
    assert skipped >= 2


def test_a_decision_may_be_overruled_where_entries_were_retrieved(tiny):
    asked = []

    def never(evidence, decision):
        asked.append((evidence.m, decision.chosen))
        return decision.replaced(chosen=None, alpha=0.0)

    (vanilla,) = run_all(tiny, [Job("a", PROMPTS["a"], GATE)], settings())
    (trace,) = run_all(tiny, [Job("a", PROMPTS["a"], GATE, make_memory(), overrule=never)], settings())
    assert trace.token_ids == vanilla.token_ids
    assert any(chosen for _, chosen in asked) and 0 not in dict(asked)
