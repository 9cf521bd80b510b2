"""The comparison decoders against their definitions, written again in a few lines over full prefills of the plain Hugging Face model."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from stir_core.config import DecodeConfig, GateConfig
from stir_core.errors import ConfigError
from stir_core.evaluate.decoders import sampled
from stir_core.evaluate.decoders.base import Bench, Question
from stir_core.evaluate.decoders.early_exit import DEER
from stir_core.evaluate.decoders.inducer import answer_ends, answer_tokens, inducer_ids
from stir_core.evaluate.decoders.loop import answers
from stir_core.evaluate.decoders.mixtures import MULTIPLEX, SOFT_THINKING, concept
from stir_core.evaluate.decoders.sampled import SAMPLING, SELF_CONSISTENCY, majority, same_vote
from stir_core.evaluate.decoders.step_sampling import STEP_SAMPLING
from stir_core.intervene.controller import run_all
from stir_core.intervene.jobs import Job, Settings
from stir_core.models.passes import Feed, forward
from stir_core.records import AnswerKind, Problem
from stir_core.seeding import generator_for
from stir_core.tasks import asks_for_box
from stir_core.tasks.extract import Stated

DELIMITER = "e"  # frequent in what the tiny model writes
PROMPTS = {"a": [5, 9, 40, 7, 100], "b": [17, 3, 250, 61, 62, 63, 64, 65, 66], "c": [200, 201], "d": [30, 31, 32, 33]}
HOT = {"temperature": 1.0, "top_p": 0.9}
SOFT = {"temperature": 0.8, "top_k": 5, "top_p": 0.9, "cold_stop": False}
CALM = 8
"""Tokens of mixtures that a random model reads before rounding shows: each about doubles it, and the mixture depends on it smoothly."""
TRIED = [
    (SAMPLING, HOT),
    (SELF_CONSISTENCY, {**HOT, "k": 3}),
    (SOFT_THINKING, {**SOFT, "cold_stop": True, "entropy": 99.0, "patience": 4}),
    (MULTIPLEX, HOT),
    (DEER, {"threshold": 0.085, "trial_tokens": 4}),
    (STEP_SAMPLING, {**HOT, "n": 3}),
]


def bench_of(model, max_new_tokens=30, **changes) -> Bench:
    settings = Settings(DecodeConfig(max_new_tokens=max_new_tokens), 4, DELIMITER)._replace(**changes)
    return Bench(model, settings, GateConfig(), lambda name: None)


def questions(kind: AnswerKind = "number", names="abcd", seed=0) -> list[Question]:
    def problem(name):
        return Problem(id=name, task="t", split="s", question="?", answer="A" if kind == "choice" else "1", kind=kind)

    return [Question(problem(name), PROMPTS[name], seed) for name in names]


def decoded(decoder, bench, asked, **parameters):
    """Answers by problem, in the questions' order."""
    found = {answer.problem_id: answer for answer in decoder.decode(bench, asked, {**decoder.parameters, **parameters})}
    assert len(found) == len(asked)
    return [found[question.problem.id] for question in asked]


class Oracle:
    """Full prefills on the plain model, by embeddings; mixtures, sampling and stopping in NumPy."""

    def __init__(self, hf, model):
        self.hf, self.model = hf, model
        self.table = hf.get_input_embeddings().weight.detach()

    def logits(self, ids, thoughts=()):
        """Last logits, float64; thoughts are vectors behind the ids."""
        embedded = torch.cat([self.table[list(ids)], *[vector[None] for vector in thoughts]])[None]
        with torch.inference_mode():
            return self.hf(inputs_embeds=embedded).logits[0, -1].double().numpy()

    def greedy(self, ids, budget, ends=lambda ids: False, thoughts=()):
        """Plain tokens behind ids and thoughts, with their probabilities, until an end."""
        out, probabilities = [], []
        vectors = list(thoughts)
        while len(out) < budget:
            p = softmax(self.logits(ids, vectors))
            out.append(int(p.argmax()))
            probabilities.append(p.max())
            vectors.append(self.table[out[-1]])
            if out[-1] in self.model.stop_ids or ends(out):
                break
        return out, probabilities

    def soft(self, ids, budget, temperature, top_k, top_p):
        """Recorded tokens, what was read for them, and the entropies."""
        out, thoughts, entropies = [], [], []
        while len(out) < budget:
            p = softmax(self.logits(ids, thoughts) / temperature)
            entropies.append(float(-(p * np.log(p)).sum()))
            out.append(int(p.argmax()))
            if out[-1] in self.model.stop_ids:
                break
            best = np.argsort(-p)[:top_k]
            share = p[best] / p[best].sum()
            keep = 1 + int((share.cumsum() < top_p).sum())
            share = share[:keep] / share[:keep].sum()
            thoughts.append(sum(float(w) * self.table[int(t)] for w, t in zip(share, best[:keep], strict=True)))
        return out, thoughts, entropies

    def multiplexed(self, ids, budget, k, rng, temperature, top_p):
        """Recorded tokens and how many positions were mixed; with k = 1, sampling."""
        out, thoughts, mixed = [], [], 0
        while len(out) < budget:
            logits = self.logits(ids, thoughts)
            picks = [pick(softmax(logits / temperature), rng.random(), top_p) for _ in range(k)]
            out.append(max(set(picks), key=lambda token: logits[token]))
            if out[-1] in self.model.stop_ids:
                break
            mixed += len(set(picks)) > 1 and len(out) < budget
            thoughts.append(torch.stack([self.table[token] for token in picks]).mean(dim=0))
        return out, mixed


def softmax(logits):
    p = np.exp(logits - logits.max())
    return p / p.sum()


def pick(p, u, top_p):
    """Inverse CDF over the nucleus."""
    order = np.argsort(-p)
    inside = order[: 1 + int((p[order].cumsum() < top_p).sum())]
    return int(inside[int((p[inside].cumsum() < u * p[inside].sum()).sum())])


@pytest.fixture(scope="module")
def oracle(llama_pair):
    return Oracle(llama_pair[1], llama_pair[0])


def vanilla(model, asked, **changes):
    jobs = [Job(question.problem.id, question.prompt_ids, GateConfig()) for question in asked]
    return run_all(model, jobs, bench_of(model, **changes).settings)


# -- mixtures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1e-4])
@pytest.mark.parametrize("decoder", [SOFT_THINKING, MULTIPLEX, SAMPLING])
def test_at_temperature_zero_everything_is_greedy_token_for_token(tiny, decoder, temperature):
    more = {"cold_stop": False} if decoder is SOFT_THINKING else {}
    for answer, trace in zip(
        decoded(decoder, bench_of(tiny), questions(), temperature=temperature, **more), vanilla(tiny, questions()), strict=True
    ):
        assert (answer.token_ids, answer.finish, answer.text) == (trace.token_ids, trace.finish, trace.text)
        assert answer.forward_tokens == trace.forward_tokens and answer.probe_tokens == 0


def test_soft_thinking_equals_full_prefills_of_mixed_embeddings(tiny, oracle):
    differing = 0
    for answer, trace in zip(decoded(SOFT_THINKING, bench_of(tiny, CALM), questions(), **SOFT), vanilla(tiny, questions()), strict=True):
        ids, _, _ = oracle.soft(PROMPTS[answer.problem_id], CALM, 0.8, 5, 0.9)
        assert list(answer.token_ids) == ids
        assert int(answer.facts["mixed_tokens"]) >= CALM - 2 and answer.facts["cold_stop"] == 0
        differing += answer.token_ids != trace.token_ids[:CALM]
    assert differing >= 3, "the comparison proves nothing when mixtures change nothing"


def test_the_concept_token_is_cut_by_hand():
    logits = torch.tensor([0.5, 0.3, 0.12, 0.05, 0.03]).log()
    weights, tokens, entropy = concept(logits, 1.0, 3, 0.8)  # of 0.5, 0.3, 0.12 the first two reach 0.8 * 0.92
    assert tokens.tolist() == [0, 1] and weights.tolist() == pytest.approx([0.625, 0.375])
    assert entropy == pytest.approx(-sum(p * math.log(p) for p in (0.5, 0.3, 0.12, 0.05, 0.03)))
    assert concept(logits, 0.5, 5, 1.0)[0].tolist() == pytest.approx([p**2 / 0.3578 for p in (0.5, 0.3, 0.12, 0.05, 0.03)])
    assert concept(logits, 1.0, 5, 0.0)[1].tolist() == [0]
    assert concept(logits, 0.0, 5, 1.0)[1].tolist() == [0] and concept(logits, 0.0, 5, 1.0)[2] == 0


@pytest.mark.parametrize(("patience", "quantile"), [(1, 0.3), (2, 0.6), (3, 0.8)])
def test_cold_stop_fires_exactly_when_the_definition_says(tiny, oracle, patience, quantile):
    fired = []
    for question in questions(names="abc"):
        ids, thoughts, entropies = oracle.soft(question.prompt_ids, CALM, 0.8, 5, 0.9)
        limit = float(np.quantile(entropies, quantile))
        calm = [entropy < limit for entropy in entropies]
        at = next((i + 1 for i in range(len(calm)) if i + 1 >= patience and all(calm[i + 1 - patience : i + 1])), None)
        (answer,) = decoded(
            SOFT_THINKING, bench_of(tiny, 40), [question], **{**SOFT, "cold_stop": True, "entropy": limit, "patience": patience}
        )
        assert at is not None and ids[at - 1] not in tiny.stop_ids
        fired.append(at)
        inducer = inducer_ids(tiny, "number", ids[:at])
        behind = [*thoughts[:at], *oracle.table[inducer]]
        rest, _ = oracle.greedy(question.prompt_ids, 40 - at - len(inducer), lambda out: "\n" in tiny.text(out).lstrip(), behind)
        assert answer.facts["thinking_tokens"] == at and answer.facts["cold_stop"] == 1
        assert list(answer.token_ids) == [*ids[:at], *inducer, *rest]
    assert len(set(fired)) > 1


def test_cold_stop_without_room_for_an_answer_ends_for_length(tiny):
    (answer,) = decoded(SOFT_THINKING, bench_of(tiny, 6), questions(names="a"), **{**SOFT, "cold_stop": True, "entropy": 99, "patience": 2})
    assert (answer.tokens_used, answer.finish, answer.facts["cold_stop"]) == (2, "length", 1)


@pytest.mark.parametrize("k", [2, 3])
def test_multiplex_equals_full_prefills_of_averaged_embeddings(tiny, oracle, k):
    for answer in decoded(MULTIPLEX, bench_of(tiny), questions(), k=k, **HOT):
        rng = generator_for(0, "multiplex", answer.problem_id)
        ids, mixed = oracle.multiplexed(PROMPTS[answer.problem_id], 30, k, rng, 1.0, 0.9)
        assert list(answer.token_ids) == ids and answer.facts["mixed_tokens"] == mixed


def test_multiplex_of_one_token_is_sampling_from_its_stream(tiny, monkeypatch):
    monkeypatch.setattr(sampled, "generator_for", lambda seed, stream, *name: generator_for(seed, "multiplex", *name))
    pairs = zip(
        decoded(MULTIPLEX, bench_of(tiny), questions(), k=1, **HOT), decoded(SAMPLING, bench_of(tiny), questions(), **HOT), strict=True
    )
    assert all(one.token_ids == other.token_ids and one.flops == other.flops for one, other in pairs)


# -- early exit ----------------------------------------------------------------------------------------------------------


def test_deer_that_is_never_sure_is_greedy_token_for_token(tiny):
    for answer, trace in zip(
        decoded(DEER, bench_of(tiny, 60), questions(), threshold=1.5), vanilla(tiny, questions(), max_new_tokens=60), strict=True
    ):
        assert (answer.token_ids, answer.finish) == (trace.token_ids, trace.finish)
        assert answer.probe_tokens >= int(answer.facts["trials"]) >= 1 and "confidence" not in answer.facts


@pytest.mark.parametrize("kind", ["number", "math"])
@pytest.mark.parametrize("threshold", [0.0, 0.085])
def test_deer_exits_where_and_as_the_definition_says(tiny, oracle, kind, threshold):
    exits = []
    for answer in decoded(DEER, bench_of(tiny, 60), questions(kind), threshold=threshold, trial_tokens=4):
        ids, facts, probed = self_made_deer(tiny, oracle, PROMPTS[answer.problem_id], kind, threshold, 4, 60)
        assert list(answer.token_ids) == ids and answer.probe_tokens == probed
        assert answer.facts == {key: pytest.approx(value, abs=1e-4) for key, value in facts.items()}
        assert answer.tokens_used <= 60
        exits.append(facts.get("exit_step"))
    assert exits == [1] * 4 if threshold == 0 else len(set(exits)) > 1


def self_made_deer(model, oracle, prompt, kind, threshold, most, budget):
    done, step, trials, probed = [], 0, 0, 0
    inducer_text = "The final answer is \\boxed{" if kind == "math" else "####"
    over = (lambda out: "}" in model.text(out)) if kind == "math" else (lambda out: "\n" in model.text(out).lstrip())
    while True:
        out, _ = oracle.greedy([*prompt, *done], budget - len(done), lambda out: DELIMITER in model.text(out))
        done += out
        if len(done) >= budget or out[-1] in model.stop_ids:
            return done, {"trials": trials}, probed
        step += 1
        inducer = model.tokens(("" if model.text(done).endswith("\n") else "\n\n") + inducer_text)
        room = budget - len(done) - len(inducer)
        if room < 1:
            continue
        trial, p = oracle.greedy([*prompt, *done, *inducer], min(most, room), over)
        trials += 1
        texts = [model.text([token]) for token in trial]
        if over(trial):
            texts[-1] = texts[-1].split("}" if kind == "math" else "\n")[0]
        said = [math.log(value) for value, text in zip(p, texts, strict=True) if text.strip()]
        sure = math.exp(sum(said) / len(said)) if said else 0.0
        if sure >= threshold:
            whole = trial if over(trial) or trial[-1] in model.stop_ids else oracle.greedy([*prompt, *done, *inducer], room, over)[0]
            return [*done, *inducer, *whole], {"trials": trials, "exit_step": step, "confidence": sure}, probed
        probed += len(trial)


def test_a_row_cut_back_behind_a_trial_gives_the_same_logits(tiny):
    store = tiny.new_store()
    rows = [store.open(), store.open()]
    forward(tiny, [Feed(row, PROMPTS["a"]) for row in rows])
    forward(tiny, [Feed(rows[0], [7, 8, 9])])
    forward(tiny, [Feed(rows[0], [10])])
    rows[0].length -= 4
    found = forward(tiny, [Feed(row, [77]) for row in rows]).logits
    assert torch.equal(found[0], found[1])


def test_where_an_answer_ends_and_what_of_it_counts(tiny):
    def fed(kind, text):
        ends = answer_ends(tiny, kind)
        return [ends(token) for token in tiny.tokens(text)].index(True) if "!" not in text else None

    assert fed("number", " 42\nso") == len(tiny.tokens(" 42\n")) - 1
    assert fed("number", "\n42\nso") == len(tiny.tokens("\n42\n")) - 1  # the answer may stand in the next line
    assert fed("math", "\\frac{1}{2}} so }") == len(tiny.tokens("\\frac{1}{2}}")) - 1
    ids = tiny.tokens(" 42\n")
    assert [tiny.text([ids[i]]).strip() for i in answer_tokens(tiny, "number", ids, ended=True)] == ["4", "2"]
    assert answer_tokens(tiny, "math", tiny.tokens("4}"), ended=True) == [0]


def test_an_answer_is_asked_for_in_the_form_that_its_prompt_asks_for(tiny):
    def inducer(template):
        (question,) = [item._replace(boxed=asks_for_box(template)) for item in questions(names="a")]
        assert question.problem.kind == "number"
        (answer,) = decoded(DEER, bench_of(tiny, 160), [question], threshold=0.0, trial_tokens=1)
        assert answer.facts["exit_step"] == 1  # threshold 0: the first trial answer is taken
        return answer.text

    boxed, hashed = inducer("boxed"), inducer("hash")
    assert "\\boxed{" in boxed and "####" not in boxed
    assert "####" in hashed and "\\boxed{" not in hashed
    assert inducer("auto") == hashed


# -- sampling and voting -------------------------------------------------------------------------------------------------


def test_sampling_equals_inverse_cdf_draws_from_full_prefills(tiny, oracle):
    for seed in (0, 1):
        for answer, question in zip(decoded(SAMPLING, bench_of(tiny), questions(seed=seed), **HOT), questions(seed=seed), strict=True):
            rng = generator_for(0, "sampling", question.name)
            assert list(answer.token_ids) == oracle.multiplexed(question.prompt_ids, 30, 1, rng, 1.0, 0.9)[0]
            assert answer.seed == seed


def test_the_evaluations_own_sampling_is_taken_where_none_is_given(tiny):
    one = decoded(SAMPLING, bench_of(tiny), questions())
    assert one == decoded(SAMPLING, bench_of(tiny), questions(), temperature=0.7, top_p="0.95")
    assert one != decoded(SAMPLING, bench_of(tiny), questions(), temperature=1.2)


def test_self_consistency_of_one_sample_is_that_sample(tiny):
    pairs = zip(
        decoded(SELF_CONSISTENCY, bench_of(tiny), questions(), k=1, **HOT),
        decoded(SAMPLING, bench_of(tiny), questions(), **HOT),
        strict=True,
    )
    for vote, sample in pairs:
        assert vote.model_copy(update={"facts": {}}) == sample
        assert vote.facts["k"] == 1


def test_self_consistency_commits_the_first_sample_of_the_majority(tiny, oracle, monkeypatch):
    monkeypatch.setattr(sampled, "extract", lambda kind, text, _: Stated(str(len(text) % 2), "boxed") if len(text) % 5 else None)
    winners = set()
    for answer in decoded(SELF_CONSISTENCY, bench_of(tiny, 12), questions(), k=5, **HOT):
        streams = [generator_for(0, "sampling", answer.problem_id, *([j] if j else [])) for j in range(5)]
        samples = [oracle.multiplexed(PROMPTS[answer.problem_id], 12, 1, rng, 1.0, 0.9)[0] for rng in streams]
        texts = [tiny.text(ids) for ids in samples]
        votes = [str(len(text) % 2) if len(text) % 5 else None for text in texts]
        count = Counter(vote for vote in votes if vote is not None)
        best = next(vote for vote in votes if vote is not None and count[vote] == max(count.values()))
        winner = votes.index(best)
        winners.add(winner)
        assert list(answer.token_ids) == samples[winner]
        assert answer.facts == {"votes": count[best], "voters": sum(count.values()), "k": 5}
        assert answer.probe_tokens == sum(map(len, samples)) - len(samples[winner])
        prompt = len(PROMPTS[answer.problem_id])
        assert answer.forward_tokens == prompt + sum(len(ids) - 1 for ids in samples) and answer.prompt_tokens == prompt
    assert len(winners) > 1


@pytest.mark.parametrize(
    ("kind", "found", "winner", "votes"),
    [
        ("number", ["12", "7", "12.0", "1,200", "7", "$12"], 0, 3),
        ("number", ["7", "12", "12", "7"], 0, 2),  # a tie goes to the earliest
        ("number", [None, "3", None, "4", "4"], 3, 2),
        ("number", [None, None], 0, 0),
        ("number", ["50%", "0.5", "0.5"], 1, 2),  # as in grading, a number is what is written
        ("math", ["x+1", "\\frac{1}{2}", "\\dfrac12", "0.5"], 1, 3),
        ("math", ["1+x", "x+1"], 0, 1),  # equal by algebra alone
        ("choice", ["B", "a", "A"], 1, 2),
        ("yesno", ["yes", "no", "no"], 1, 2),
    ],
)
def test_votes_are_counted_by_hand(kind, found, winner, votes):
    ballot = majority(kind, found)
    assert (ballot.winner, ballot.votes, ballot.voters) == (winner, votes, sum(one is not None for one in found))


def test_what_counts_as_one_answer():
    assert same_vote("number", "1,000", "1000") and same_vote("number", "-0.50", "-1/2")
    assert not same_vote("number", "12", "21") and not same_vote("number", "abc", "12")
    assert same_vote("math", "\\text{Monday}", "monday") and not same_vote("math", "5", "3")


# -- step sampling -------------------------------------------------------------------------------------------------------


def test_step_sampling_commits_the_likeliest_of_the_sampled_steps(tiny, oracle):
    chosen = set()
    for answer, question in zip(decoded(STEP_SAMPLING, bench_of(tiny), questions(), n=3, **HOT), questions(), strict=True):
        ids, probed, m, finish = [], 0, 0, None
        while finish is None:
            steps = []
            for j in range(3):
                rng = generator_for(0, "step sampling", question.name, m, j)
                steps.append(sampled_step(oracle, question.prompt_ids + ids, 30 - len(ids), rng, ends=m < 4))
            best = max(range(3), key=lambda j: np.mean(steps[j][1]))
            chosen.add(best)
            ids += steps[best][0]
            probed += sum(len(step[0]) for step in steps) - len(steps[best][0])
            m += 1
            if ids[-1] in tiny.stop_ids or len(ids) >= 30 or not ends_step(tiny, steps[best][0]) or m > 4:
                finish = "stop" if ids[-1] in tiny.stop_ids else "length"
        assert (list(answer.token_ids), answer.probe_tokens, answer.finish) == (ids, probed, finish)
        assert answer.facts == {"steps": m, "n": 3}
    assert len(chosen) > 1


def sampled_step(oracle, ids, budget, rng, *, ends):
    """Tokens of one step and their log-probabilities at temperature 1."""
    out, logprobs = [], []
    while len(out) < budget:
        p = softmax(oracle.logits([*ids, *out]))
        out.append(pick(p, rng.random(), HOT["top_p"]))
        logprobs.append(math.log(p[out[-1]]))
        if out[-1] in oracle.model.stop_ids or (ends and ends_step(oracle.model, out)):
            break
    return out, logprobs


def ends_step(model, ids):
    return DELIMITER in model.text(ids)


# -- all of them ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decoder", "parameters"), TRIED, ids=lambda value: getattr(value, "name", ""))
def test_a_batch_equals_its_rows(tiny, decoder, parameters):
    alone, together, all_at_once = (decoded(decoder, bench_of(tiny, rows=rows), questions(), **parameters) for rows in (1, 4, None))
    for answer, *others in zip(alone, together, all_at_once, strict=True):
        for other in others:
            assert answer.facts == {key: pytest.approx(value, abs=1e-4) for key, value in other.facts.items()}
            assert answer.model_copy(update={"facts": {}}) == other.model_copy(update={"facts": {}})
        assert answer.seconds is answer.verdict is None and answer.method == ""


@pytest.mark.parametrize(("decoder", "parameters"), TRIED, ids=lambda value: getattr(value, "name", ""))
@pytest.mark.parametrize("rows", [1, 4])
def test_costs_are_those_that_an_independent_counter_sees(tiny, monkeypatch, decoder, parameters, rows):
    counted = {"tokens": 0, "attended": 0, "logits": 0, "widest": 0}

    def counting(model, feeds, layers):
        for feed in feeds:
            counted["tokens"] += len(feed.ids)
            counted["attended"] += sum(feed.row.total + j + 1 for j in range(len(feed.ids)))
        counted["widest"] = max(counted["widest"], len(feeds))
        result = forward(model, feeds, layers)
        counted["logits"] += len(result.logits)
        return result

    monkeypatch.setattr("stir_core.models.scheduler.forward", counting)
    found = decoded(decoder, bench_of(tiny, rows=rows), questions(), **parameters)
    assert counted["widest"] <= rows
    assert sum(answer.forward_tokens for answer in found) == counted["tokens"]
    weights = 4 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32)
    vocabulary = len(tiny.tokenizer)
    expected = 2 * weights * counted["tokens"] + 4 * (4 * 32) * counted["attended"] + 2 * 32 * vocabulary * counted["logits"]
    assert sum(answer.flops for answer in found) == expected


def test_flops_of_two_tokens_by_hand(tiny):
    (answer,) = decoded(SAMPLING, bench_of(tiny, 2), [questions(names="c")[0]], temperature=0)
    # 3 positions through 36,864 weights, 1 + 2 + 3 positions attended to in 4 layers of width 32, 2 rows of logits over 300 tokens
    assert (answer.forward_tokens, answer.flops) == (3, 2 * 36_864 * 3 + 4 * 128 * 6 + 2 * 9_600 * 2)


@pytest.mark.parametrize(("decoder", "parameters"), TRIED, ids=lambda value: getattr(value, "name", ""))
@pytest.mark.parametrize("budget", [1, 2, 7, 8, 9])
def test_the_budget_is_kept(tiny, decoder, parameters, budget):
    for answer in decoded(decoder, bench_of(tiny, budget), questions(), **parameters):
        assert 1 <= answer.tokens_used == len(answer.token_ids) <= budget
        assert answer.tokens_used == budget or answer.finish == "stop" or answer.facts.get("cold_stop") == 1


@pytest.mark.parametrize(("decoder", "parameters"), TRIED, ids=lambda value: getattr(value, "name", ""))
def test_rows_are_given_back(tiny, monkeypatch, decoder, parameters):
    stores = []
    made = type(tiny).new_store
    monkeypatch.setattr(type(tiny), "new_store", lambda model, **more: stores.append(made(model, **more)) or stores[-1])
    decoded(decoder, bench_of(tiny, rows=2), questions(), **parameters)
    assert stores and all(store.rows == [] for store in stores)


@pytest.mark.parametrize(
    ("decoder", "given", "message"),
    [
        (SAMPLING, {"temperature": "hot"}, "temperature = 'hot' is not a number"),
        (SAMPLING, {"top_p": 1.5}, "top_p = 1.5 is out of range: take 0 to 1"),
        (SELF_CONSISTENCY, {"k": 0}, "k = 0 is out of range: take 1 or more"),
        (SOFT_THINKING, {"top_k": 0}, "top_k = 0"),
        (DEER, {"trial_tokens": 0}, "trial_tokens = 0"),
        (STEP_SAMPLING, {"n": 0}, "n = 0 is out of range: take 1 or more"),
    ],
)
def test_an_impossible_parameter_is_refused_before_anything_is_decoded(tiny, decoder, given, message):
    with pytest.raises(ConfigError, match=message):
        decoder.decode(bench_of(tiny), questions(), {**decoder.parameters, **given})


def test_no_questions_no_answers(tiny):
    assert list(answers(bench_of(tiny), [], lambda seat, question: pytest.fail("there is none"))) == []
