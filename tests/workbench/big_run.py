"""A whole run of any size, written through the store API in a second or two: 5,000 entries of width 576 unless told otherwise.

Its numbers are drawn, its structure is real: problems, rollouts with boundaries, entries of two layers, controls, lenses, picks by the
core's own selection, and held-out traces decided by the core's own gate.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from fake_run import IDENTITY, answer, fake_control, fake_trace, problems, tokens_of, verdict

from stir_core.basis.geometry import MIN_UMAP
from stir_core.basis.selection import select
from stir_core.config import RunConfig, config_from
from stir_core.records import Entry, EntryKind, Lens, Manifest, Pick, Problem, Record, Rollout, StateRow, TokenWeight
from stir_core.stages.stage import stage_digest
from stir_core.store.jsonl import write_records
from stir_core.store.runs import Library, Run
from stir_core.store.tensors import write_tensors

LAYERS, POINTS, ROLLOUTS = (12, 18), 8, 4
_WORDS = (" so", " total", " equals", "\n\n", " left", " over", " check", " therefore", "=", " remain")


def big_config(n: int, budget: int) -> RunConfig:
    """Published numbers, save for the budget."""
    return config_from(
        {
            "seed": 7,
            "task": {"name": "arithmetic", "n_train": _n_problems(n), "n_eval": 6},
            "rollouts": {"k": ROLLOUTS, "max_new_tokens": 160},
            "mining": {"control_points": POINTS, "top_pairs": max(1, n // 2), "layers": list(LAYERS)},
            "basis": {"budget": budget, "min_per_control_point": 8},
            "decode": {"max_new_tokens": 160},
        }
    )


def make_big_run(root: Path, n: int = 5000, *, width: int = 576, budget: int = 256, name: str = "big") -> Run:
    """Write a run of ``n`` entries (an even number: pairs of a corrective and a null one) with every stage finished."""
    run = Run.at(root / name, big_config(n, budget), {"versions": {"python": "3.11"}, "device": "cpu"})
    run.save()
    mined = problems("train", _n_problems(n))
    rollouts = [_rollout(problem, i, k) for i, problem in enumerate(mined) for k in range(ROLLOUTS)]
    _seal(run, "rollouts", width, {"rollouts": len(rollouts)}, {"problems.jsonl": mined, "rollouts.jsonl": rollouts})
    rng = np.random.default_rng(3)
    rows = [StateRow(row=m, problem_id=mined[0].id, source="rollout", k=0, m=m + 1, position=9 + m) for m in range(POINTS)]
    states = {f"layer_{layer}": rng.standard_normal((POINTS, width), dtype=np.float32) for layer in LAYERS}
    _seal(run, "states", width, {"states": len(rows)}, {"rows.jsonl": rows}, {"states.safetensors": states})
    entries, keys, actions = _mined(mined, rollouts, n, width, rng)
    pairs = len(actions)
    tensors = {"actions.safetensors": {"keys": keys, "actions": actions}}
    tensors["controls.safetensors"] = {
        what: rng.standard_normal((pairs, width), dtype=np.float32) for what in ("length_matched", "shuffled")
    }
    records = {"entries.jsonl": entries, "lens.jsonl": _lenses(pairs, rng), "controls.jsonl": [fake_control(pair) for pair in range(pairs)]}
    _seal(run, "actions", width, {"pairs": pairs, "entries": len(entries)}, records, tensors)
    found = select(entries, keys, run.config.basis, seed=run.config.seed)
    picks = [Pick(rank=rank, entry_id=entries[i].id, forced=forced, gain=gain) for rank, (i, forced, gain) in enumerate(found)]
    _seal(run, "basis", width, {"picked": len(picks)}, {"picks.jsonl": picks}, {"map.safetensors": _maps(keys, rng)})
    _steered(run, _Held(run.config, entries, keys, picks), width)
    return run


def _n_problems(n: int) -> int:
    return -(-max(1, n // 2) // POINTS)


def _seal(
    run: Run,
    stage: str,
    width: int,
    counts: dict[str, int],
    records: dict[str, Any],
    tensors: dict[str, dict[str, np.ndarray]] | None = None,
) -> None:
    def describe() -> Manifest:
        return Manifest(
            stage=stage,
            model=IDENTITY.model_copy(update={"d_model": width}),
            layers=LAYERS,
            config_digest=stage_digest(run.config, stage),
            inputs={before: run.digest(before) for before in run.stages()},
            counts=counts,
        )

    with run.writing(stage, describe) as folder:
        for file, rows in records.items():
            write_records(folder / file, cast("Iterable[Record]", rows))
        for file, arrays in (tensors or {}).items():
            write_tensors(folder / file, arrays)


def _rollout(problem: Problem, i: int, k: int) -> Rollout:
    right = (i + k) % 2 == 0
    text = "\n\n".join(f"Step {step} of {POINTS + k % 2}: keep {step} of {i + k}." for step in range(1, POINTS + k % 2))
    text += "\n\n" + answer(problem, right=right, long=False)
    pieces, ids = tokens_of(text)
    return Rollout(
        problem_id=problem.id,
        k=k,
        seed=10 * i + k,
        prompt_ids=(1, 2, 3),
        token_ids=ids,
        text=text,
        finish="stop",
        boundaries=tuple(place for place, piece in enumerate(pieces, start=1) if "\n\n" in piece),
        mean_logprob=-0.3 - 0.01 * k,
        verdict=verdict(problem, right),
        reward=float(right) - 0.01 * len(ids) / 160 - 0.05 * ((7 * i + k) % 5),
    )


def _mined(
    mined: list[Problem], rollouts: list[Rollout], n: int, width: int, rng: np.random.Generator
) -> tuple[list[Entry], np.ndarray, np.ndarray]:
    """Entries with keys that share a large common part, a part of their control point and one of their problem."""
    pairs = max(1, n // 2)
    reward = {(rollout.problem_id, rollout.k): rollout.reward for rollout in rollouts}
    common = 3 * rng.standard_normal(width)
    by_point, by_problem = 2 * rng.standard_normal((POINTS + 1, width)), rng.standard_normal((len(mined), width))
    places = [(pair // POINTS, 1 + pair % POINTS) for pair in range(pairs)]
    shared = common + by_point[[m for _, m in places]] + by_problem[[i for i, _ in places]]
    negative = shared + 0.7 * rng.standard_normal((pairs, width))
    actions = 0.8 * rng.standard_normal((pairs, width)) + 0.3 * by_point[[m for _, m in places]]
    keys = np.stack([negative, negative + actions], axis=1).reshape(2 * pairs, width)
    entries: list[Entry] = []
    kinds: tuple[EntryKind, ...] = ("corrective", "null")
    for pair, (i, m) in enumerate(places):
        right, wrong = [k for k in range(ROLLOUTS) if (i + k) % 2 == 0], [k for k in range(ROLLOUTS) if (i + k) % 2]
        right = right[: 1 + m % 2]
        plus, minus = (float(np.mean([reward[mined[i].id, k] for k in side])) for side in (right, wrong))
        for kind in kinds:
            corrective = kind == "corrective"
            entries.append(
                Entry(
                    id=f"p{pair:04d}{kind[0]}",
                    kind=kind,
                    pair=pair,
                    problem_id=mined[i].id,
                    m=m,
                    layer=LAYERS[i % 2],
                    quality=plus - minus,
                    reward_pos=plus,
                    reward_neg=minus,
                    positives=tuple(right),
                    negatives=tuple(wrong),
                    key_row=len(entries),
                    action_row=pair if corrective else None,
                    key_norm=float(np.linalg.norm(keys[len(entries)])),
                    action_norm=float(np.linalg.norm(actions[pair])) if corrective else None,
                    reachable=m < POINTS,
                )
            )
    return entries, keys.astype(np.float32), actions.astype(np.float32)


def _lenses(pairs: int, rng: np.random.Generator) -> list[Lens]:
    up = [TokenWeight(token_id=400 + j, text=word, logit=float(rng.uniform(0.5, 3))) for j, word in enumerate(_WORDS)]
    down = tuple(TokenWeight(token_id=900 + j, text=f" w{j}", logit=-float(rng.uniform(0.5, 3))) for j in range(10))
    turns = [tuple(up[turn:] + up[:turn]) for turn in range(len(up))]
    return [Lens(entry_id=f"p{pair:04d}c", promoted=turns[pair % len(up)], suppressed=down) for pair in range(pairs)]


def _maps(keys: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The principal components, and beside them a made-up other map."""
    units = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    centred = units - units.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    pca = centred @ axes[:, -2:][:, ::-1]
    swirl = pca @ np.array([[0.6, -0.8], [0.8, 0.6]]) + 0.05 * rng.standard_normal(pca.shape)
    maps = {"pca": pca} | ({"umap": swirl} if len(keys) >= MIN_UMAP else {})
    return {name: flat.astype(np.float32) for name, flat in maps.items()}


class _Held(NamedTuple):
    """What the trace builder asks a run for, without reading it from disk for every step."""

    config: RunConfig
    mined: list[Entry]
    keys: np.ndarray
    picks: list[Pick]

    def entries(self) -> list[Entry]:
        return self.mined

    def key_rows(self) -> np.ndarray:
        return self.keys

    def library(self) -> Library:
        by_id = {entry.id: entry for entry in self.mined}
        chosen = tuple(by_id[pick.entry_id] for pick in self.picks)
        keys = self.keys[[entry.key_row for entry in chosen]]
        return Library(chosen, keys, np.zeros_like(keys))


def _steered(run: Run, held: _Held, width: int) -> None:
    held_out = problems("eval", 6)
    traces = {"vanilla": [], "steered": []}
    for i, problem in enumerate(held_out):
        for kind in traces:
            right = i % 3 != 2 if kind == "steered" else i % 3 == 0
            text = answer(problem, right=right, long=True)
            traces[kind].append(fake_trace(cast(Run, held), problem, text, right, steered=kind == "steered", seed=i))
    files = {"problems.jsonl": held_out} | {f"{kind}.jsonl": rows for kind, rows in traces.items()}
    _seal(run, "steered", width, {"problems": len(held_out)}, files)
