"""A small but whole run folder, written through the store API: 8 problems x 4 rollouts, 24 entries, width 32.

The gate's numbers follow the algorithm's own formulas from the stored keys, so a page that shows them can be checked by hand.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from stir_core.config import GateConfig, RunConfig, config_from
from stir_core.intervene.gate import decide
from stir_core.records import (
    Control,
    Entry,
    EntryKind,
    Lens,
    Manifest,
    ModelIdentity,
    Pick,
    Problem,
    Reason,
    Record,
    Retrieved,
    Rollout,
    StateRow,
    StepEvidence,
    StepTrace,
    TokenWeight,
    Trace,
    Verdict,
)
from stir_core.stages.stage import stage_digest
from stir_core.store.jsonl import write_records
from stir_core.store.runs import Run
from stir_core.store.tensors import write_tensors

WIDTH, LAYER, POINTS = 32, 18, 4
NASTY = "<script>window.hacked = 1</script> ![pixel](http://tracker.invalid/x.png) $x_1$ **bold** <img src=x onerror=alert(1)>"
"""Model text that must be shown as it is."""
IDENTITY = ModelIdentity(
    name="smollm2",
    weights_sha256="a3" * 32,
    tokenizer_sha256="5c" * 32,
    dtype="float32",
    architecture="LlamaForCausalLM",
    n_layers=30,
    d_model=WIDTH,
)
PEOPLE = ("Mara", "Tom", "Ines", "Ravi", "Lena", "Omar", "Yuki", "Ada")


def fake_config() -> RunConfig:
    """Small numbers; the strength is that of the run `smollm2`."""
    return config_from(
        {
            "seed": 7,
            "task": {"name": "arithmetic", "n_train": 8, "n_eval": 6},
            "rollouts": {"k": 4, "max_new_tokens": 160},
            "mining": {"control_points": POINTS, "top_pairs": 12},
            "basis": {"budget": 16, "min_per_control_point": 2},
            "gate": {"k_retrieve": 6, "candidates": 3, "k_scale": 0.5},
            "decode": {"max_new_tokens": 160},
        }
    )


def make_fake_run(root: Path, name: str = "fake", upto: str = "steered", *, nasty: bool = True) -> Run:
    """Write a run with every stage up to ``upto``."""
    config = fake_config()
    run = Run.at(root / name, config, {"versions": {"python": "3.11"}, "device": "cpu"})
    run.save()
    stages = ("rollouts", "states", "actions", "basis", "steered")
    for stage in stages[: stages.index(upto) + 1]:
        _WRITERS[stage](run, nasty)
    return run


def _seal(run: Run, stage: str, counts: dict[str, int], records: dict[str, Iterable[Record]], tensors: dict[str, dict], notes=()) -> None:
    def describe() -> Manifest:
        before = {s: run.digest(s) for s in run.stages()}
        digest = stage_digest(run.config, stage)
        return Manifest(
            stage=stage, model=IDENTITY, layers=(LAYER,), config_digest=digest, inputs=before, counts=counts, notes=tuple(notes)
        )

    with run.writing(stage, describe) as folder:
        for file, rows in records.items():
            write_records(folder / file, rows)
        for file, arrays in tensors.items():
            write_tensors(folder / file, arrays)


def problems(split: str, n: int) -> list[Problem]:
    """Two-step word problems with their answers."""
    found = []
    for i in range(n):
        a, b, c = 12 + 3 * i, 5 + i, 2 + i % 3
        who = PEOPLE[i % len(PEOPLE)]
        text = f"{who} has {a} apples and buys {b} more. Then {who} shares them equally between {c} baskets. How many apples are left over?"
        found.append(
            Problem(
                id=f"arithmetic/{split}/{i}",
                task="arithmetic",
                split=split,
                question=text,
                answer=str((a + b) % c),
                kind="number",
                level="two-step",
            )
        )
    return found


def answer(problem: Problem, *, right: bool, long: bool) -> str:
    """An answer of several steps, one paragraph each."""
    numbers = [int(word.strip(".,?")) for word in problem.question.split() if word.strip(".,?").isdigit()]
    a, b, c = numbers
    total = a + b if right else a + b + 1
    parts = [f"Start with {a} apples and add {b}.", f"{a} + {b} = {total}, so there are {total} apples."]
    if long:
        parts.append(f"Let me check that again: {total} is the sum, and it is to be shared between {c} baskets.")
    parts += [f"{total} divided by {c} leaves {total % c}.", f"The answer is {problem.answer if right else int(problem.answer) + 1}."]
    return "\n\n".join(parts)


def tokens_of(text: str) -> tuple[list[str], tuple[int, ...]]:
    """Word-like tokens that join to the text (a delimiter is one token), and made-up ids for them."""
    pieces: list[str] = []
    for part in text.split(" "):
        head = (" " if pieces else "") + part
        while "\n\n" in head:
            before, head = head.split("\n\n", 1)
            pieces += [before, "\n\n"] if before else ["\n\n"]
        if head:
            pieces.append(head)
    return pieces, tuple(sum(map(ord, piece)) % 4900 + 17 for piece in pieces)


def verdict(problem: Problem, right: bool) -> Verdict:
    """A verdict."""
    found = problem.answer if right else str(int(problem.answer) + 1)
    reason = f"{found} equals {problem.answer}" if right else f"{found} is not {problem.answer}"
    return Verdict(correct=right, extracted=found, gold=problem.answer, method="last number, equality", reason=reason, finished=True)


def _rollouts(run: Run, nasty: bool) -> None:
    mined = problems("train", 8)
    found = []
    for i, problem in enumerate(mined):
        for k in range(4):
            right = (i + k) % 2 == 0
            text = answer(problem, right=right, long=k >= 2)
            if nasty and i == 0 and k == 0:
                text = text.replace("Start with", NASTY + " Start with")
            pieces, ids = tokens_of(text)
            ends = tuple(n for n, piece in enumerate(pieces, start=1) if "\n\n" in piece)
            reward = float(right) - 0.01 * len(ids) / 160
            found.append(
                Rollout(
                    problem_id=problem.id,
                    k=k,
                    seed=1000 + 10 * i + k,
                    prompt_ids=(1, 2, 3),
                    token_ids=ids,
                    text=text,
                    finish="stop",
                    boundaries=ends,
                    mean_logprob=-0.31 - 0.02 * k,
                    verdict=verdict(problem, right),
                    reward=reward,
                )
            )
    _seal(run, "rollouts", {"problems": 8, "rollouts": 32}, {"problems.jsonl": mined, "rollouts.jsonl": found}, {})


def _states(run: Run, nasty: bool) -> None:
    rows = [
        StateRow(row=0, problem_id=r.problem_id, source="rollout", k=r.k, m=m, position=2 + end)
        for r in run.rollouts()
        for m, end in enumerate(r.boundaries, start=1)
    ]
    rows = [row.model_copy(update={"row": i}) for i, row in enumerate(rows)]
    values = np.random.default_rng(3).normal(size=(len(rows), WIDTH)).astype(np.float32)
    _seal(run, "states", {"states": len(rows)}, {"rows.jsonl": rows}, {"states.safetensors": {"layer_18": values}})


def _actions(run: Run, nasty: bool) -> None:
    rng = np.random.default_rng(11)
    common, by_point = rng.normal(size=WIDTH) * 3, rng.normal(size=(POINTS + 1, WIDTH)) * 2
    entries, keys, actions, lenses = [], [], [], []
    rollouts = {(r.problem_id, r.k): r for r in run.rollouts()}
    for pair in range(12):
        m, i = 1 + pair % POINTS, pair % 8
        problem_id = f"arithmetic/train/{i}"
        valid = [k for k in range(4) if len(rollouts[problem_id, k].boundaries) >= m]
        right = [k for k in valid if (i + k) % 2 == 0]
        wrong = [k for k in valid if (i + k) % 2 == 1]
        plus = np.mean([rollouts[problem_id, k].reward for k in right])
        minus = np.mean([rollouts[problem_id, k].reward for k in wrong])
        negative = common + by_point[m] + rng.normal(size=WIDTH)
        action = rng.normal(size=WIDTH) + 0.4 * by_point[m]
        branches: tuple[tuple[EntryKind, np.ndarray], ...] = (("corrective", negative), ("null", negative + action))
        for kind, key in branches:
            corrective = kind == "corrective"
            entries.append(
                Entry(
                    id=f"p{pair:04d}{kind[0]}",
                    kind=kind,
                    pair=pair,
                    problem_id=problem_id,
                    m=m,
                    layer=LAYER,
                    quality=float(plus - minus),
                    reward_pos=float(plus),
                    reward_neg=float(minus),
                    positives=tuple(right),
                    negatives=tuple(wrong),
                    key_row=len(keys),
                    action_row=len(actions) if corrective else None,
                    key_norm=float(np.linalg.norm(key)),
                    action_norm=float(np.linalg.norm(action)) if corrective else None,
                    reachable=m < POINTS,
                )
            )
            keys.append(key)
        actions.append(action)
        words = [" so", " total", " equals", "\n\n", " left", " over", " check", " therefore", "=", " remain"]
        lifts = np.sort(np.abs(rng.normal(size=10)))[::-1]
        up = tuple(TokenWeight(token_id=400 + j + 10 * pair, text=words[(j + pair) % 10], logit=float(lifts[j])) for j in range(10))
        down = tuple(TokenWeight(token_id=900 + j + 10 * pair, text=f" w{j}", logit=-float(lifts[j]) * 0.8) for j in range(10))
        lenses.append(Lens(entry_id=f"p{pair:04d}c", promoted=up, suppressed=down))
    tensors = {"actions.safetensors": {"keys": np.array(keys, np.float32), "actions": np.array(actions, np.float32)}}
    tensors["controls.safetensors"] = {name: rng.normal(size=(12, WIDTH)).astype(np.float32) for name in ("length_matched", "shuffled")}
    records = {"entries.jsonl": entries, "lens.jsonl": lenses, "controls.jsonl": [fake_control(pair) for pair in range(12)]}
    _seal(run, "actions", {"pairs": 12, "entries": 24}, records, tensors)


def fake_control(pair: int) -> Control:
    """Of every three pairs one passes, one is mostly length and its labels do not matter, and one was hardly measurable."""
    kind = pair % 3
    return Control(
        entry_id=f"p{pair:04d}c",
        length_cosine=(0.1, -0.7, None)[kind],
        length_matched_cosine=(0.9, 0.6, None)[kind],
        length_gap=10.0 + pair,
        length_gap_matched=(1.5, 4.0, None)[kind],
        shuffled_cosine=(-0.2, 0.3, None)[kind],
        permutation_p=(0.05, 0.4, 1.0)[kind],
        permutation_floor=(0.05, 0.05, 1.0)[kind],
        stability_pos=(0.75, 0.5, None)[kind],
        stability_neg=(0.25, 0.5, None)[kind],
        leave_one_out=(0.8, 0.7, None)[kind],
        others_cosine=(0.4, 0.1, None)[kind],
    )


def _basis(run: Run, nasty: bool) -> None:
    entries = run.entries()
    reachable = [entry for entry in entries if entry.reachable]
    picks = [Pick(rank=r, entry_id=e.id, forced=r < 6, gain=None if r < 6 else 1.2 * 0.9**r) for r, e in enumerate(reachable[:14])]
    keys = run.key_rows()
    centred = keys - keys.mean(axis=0)
    pca = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    swirl = pca @ np.array([[0.6, -0.8], [0.8, 0.6]]) + np.random.default_rng(5).normal(size=pca.shape) * 0.3
    maps = {"pca": pca.astype(np.float32), "umap": swirl.astype(np.float32)}
    note = "a note for the reader: 6 unreachable entries at m = 4 were left out of the budget"
    _seal(run, "basis", {"picked": len(picks)}, {"picks.jsonl": picks}, {"map.safetensors": maps}, [note])


def step_evidence(run: Run, m: int, state: np.ndarray, rng: np.random.Generator, gate: GateConfig) -> StepEvidence:
    """Retrieval and made-up previews by the algorithm's formulas, on the run's own keys."""
    if m == 0:
        return StepEvidence(m=0, position=40, not_retrieved=Reason(kind="start"))
    library = run.library()
    here = [i for i, entry in enumerate(library.entries) if entry.m == m]
    if not here:
        return StepEvidence(m=m, position=40 + 20 * m, not_retrieved=Reason(kind="too_few_entries", value=0, limit=1))
    keys = library.keys[here]
    sims = keys @ state / (np.linalg.norm(keys, axis=1) * np.linalg.norm(state))
    near = [(library.entries[here[j]], float(sims[j])) for j in np.argsort(-sims)[: gate.k_retrieve]]
    values = {entry.id: sim * entry.quality for entry, sim in near}
    best = sorted((e.id for e, _ in near if e.kind == "corrective"), key=lambda i: -values[i])[: gate.candidates]
    p_null = -0.8 - 0.1 * m
    previews = {id_: p_null + float(rng.normal()) * 0.6 for id_ in best}
    retrieved = tuple(
        Retrieved(
            entry_id=e.id,
            kind=e.kind,
            layer=e.layer,
            sim=sim,
            quality=e.quality,
            value=values[e.id],
            preview_logprob=previews.get(e.id),
            preview_scale=1.0 if e.id in previews else None,
        )
        for e, sim in near
    )
    return StepEvidence(m=m, position=40 + 20 * m, retrieved=retrieved, n_entries=len(here), null_logprob=p_null)


def fake_trace(
    run: Run, problem: Problem, text: str, right: bool | None, *, steered: bool, seed: int, gate: GateConfig | None = None
) -> Trace:
    """A whole trace over the steps of ``text``, decided by the core's own (pure) gate."""
    gate = gate or run.config.gate
    rng = np.random.default_rng(seed)
    library_keys = run.key_rows()
    entries = run.entries()
    steps, ids = [], []
    parts = [part for part in text.split("\n\n") if part]
    for number, part in enumerate(parts, start=1):
        m = number - 1
        body = part + ("\n\n" if number < len(parts) else "")
        _, step_ids = tokens_of(body)
        at = [e.key_row for e in entries if e.m == m]
        noise = rng.normal(size=library_keys.shape[1])
        state = library_keys[at[seed % len(at)]] + noise if at else noise
        vanilla = StepEvidence(m=m, position=40, not_retrieved=Reason(kind="no_library"))
        evidence = step_evidence(run, m, state, rng, gate) if steered else vanilla
        decision = decide(evidence, gate)
        probe = 4 * (1 + len(decision.scored)) if decision.scored else 0
        logs = tuple(-float(abs(x)) * 0.6 for x in rng.normal(size=len(step_ids)))
        steps.append(
            StepTrace(step=number, evidence=evidence, decision=decision, token_ids=step_ids, text=body, logprobs=logs, probe_tokens=probe)
        )
        ids += step_ids
    probes = sum(step.probe_tokens for step in steps)
    return Trace(
        id=problem.id,
        variant="stir" if steered else "no_memory",
        prompt_ids=(1, 2, 3),
        steps=tuple(steps),
        token_ids=tuple(ids),
        text=text,
        finish="stop",
        tokens_used=len(ids),
        probe_tokens=probes,
        forward_tokens=3 + 2 * len(ids) + probes,
        seconds=1.25,
        verdict=verdict(problem, right) if right is not None else None,
    )


def _steered(run: Run, nasty: bool) -> None:
    held_out = problems("eval", 6)
    vanilla, steered = [], []
    for i, problem in enumerate(held_out):
        plain_right, steered_right = i % 3 == 0, i % 3 != 2
        text = answer(problem, right=steered_right, long=i % 2 == 0)
        if nasty and i == 0:
            text = text.replace("Start with", NASTY + " Start with")
        vanilla.append(fake_trace(run, problem, answer(problem, right=plain_right, long=True), plain_right, steered=False, seed=i))
        steered.append(fake_trace(run, problem, text, steered_right, steered=True, seed=i))
    files = {"problems.jsonl": held_out, "vanilla.jsonl": vanilla, "steered.jsonl": steered}
    _seal(run, "steered", {"problems": 6}, files, {})


_WRITERS = {"rollouts": _rollouts, "states": _states, "actions": _actions, "basis": _basis, "steered": _steered}
