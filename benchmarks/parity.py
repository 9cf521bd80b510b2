"""Our ``compat`` mode against the outputs of the published code: ``python -m benchmarks.parity GOLDEN_DIR [--json]``.

Compares selection order, the harvested library, retrieval values, gate decisions, strengths, token counts and texts. Exit code 0 when all
that must be equal is equal and every score lies within 1e-3, else 1.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from stir_core.basis.selection import greedy_map, unit_rows
from stir_core.config import DecodeConfig, GateConfig, MiningConfig, RolloutConfig, RunConfig
from stir_core.harvest.actions import Mined, mine
from stir_core.harvest.pairs import plan_pairs
from stir_core.harvest.states import capture_states, finished_steps, plan_readings
from stir_core.intervene.controller import run_all
from stir_core.intervene.jobs import Job, Settings
from stir_core.intervene.memory import Memory
from stir_core.models.loading import LoadedModel, load_model
from stir_core.models.threads import settle_threads
from stir_core.records import Entry, Problem, Rollout, StateRow, Trace, Verdict
from stir_core.store.tensors import read_tensors

SYSTEM = "You are a helpful assistant. Follow the user's instructions carefully."
TEMPLATE = (
    "Solve the following problem step by step.\nYou should show intermediate steps.\n"
    "Return the final numeric answer on the last line in the format:\n"
    "#### <answer>\n\nProblem:\n{Body}\n{Question}\n"
)
TOLERANCE = 1e-3
CASE = "smollm2_easy"


def selection(root: Path) -> dict[str, Any]:
    """Greedy picks, in order, for every published case."""
    rows = {}
    for case in json.loads((root / "dpp.json").read_text()):
        tensors = read_tensors(root / case["file"], ("keys", "quality"))
        picks = greedy_map(unit_rows(tensors["keys"]), tensors["quality"], case["budget"], diversity=case["lam"], epsilon=case["eps"])
        rows[case["file"]] = [pick.index for pick in picks] == case["picks"]
    return {"equal": bool(rows) and all(rows.values()), "cases": rows}


def harvest(case: Path, model: LoadedModel) -> dict[str, Any]:
    """Mine the published rollouts: pairs, qualities, keys and actions must be the same."""
    entries = lines(case / "entries.jsonl")
    tensors = read_tensors(case / "library.safetensors", ("keys", "vectors"))
    mined = mined_from(case, model)
    ours = {(entry.problem_id, entry.m, entry.kind): entry for entry in mined.entries}
    theirs = {(entry["problem"], entry["m"], entry["kind"]): (row, entry) for row, entry in enumerate(entries)}
    worst = {"quality": 0.0, "key": 0.0, "action": 0.0}
    for name in ours.keys() & theirs.keys():
        entry, (row, published) = ours[name], theirs[name]
        worst["quality"] = max(worst["quality"], abs(entry.quality - published["quality"]))
        worst["key"] = max(worst["key"], float(np.abs(mined.keys[entry.key_row] - tensors["keys"][row]).max()))
        if entry.action_row is not None:
            worst["action"] = max(
                worst["action"], float(np.abs(mined.actions[entry.action_row] - tensors["vectors"][published["vector"]]).max())
            )
    same = ours.keys() == theirs.keys() and len(ours) > 0
    return {
        "equal": same and all(value <= TOLERANCE for value in worst.values()),
        "same_pairs": same,
        "entries": len(theirs),
        "largest_difference": worst,
    }


def mined_from(case: Path, model: LoadedModel) -> Mined:
    """Stage I in ``compat`` on the published rollouts."""
    problems = [
        Problem(id=str(i), task="golden", split="train", question=TEMPLATE.format(**row), answer=row["Answer"], kind="number")
        for i, row in enumerate(lines(case / "train_problems.jsonl"))
    ]
    config = RunConfig(compat=True, rollouts=RolloutConfig(max_new_tokens=120), mining=MiningConfig(control_points=8))
    prompts = {problem.id: model.chat_ids(problem.question, SYSTEM) for problem in problems}
    rollouts = [rollout_from(row, model, prompts[row["example_id"]]) for row in lines(case / "rollouts.jsonl")]
    steps = {(r.problem_id, r.k): finished_steps(model, list(r.token_ids), r.text, config) for r in rollouts}
    pairs = plan_pairs(problems, rollouts, config.mining, steps=steps)
    readings = plan_readings(model, problems, rollouts, pairs, config, prompts)
    rows: list[StateRow] = []
    states: list[np.ndarray] = []
    for reading, by_layer in capture_states(model, readings, (17,)):
        for i, (m, position) in enumerate(zip(reading.ms, reading.positions, strict=True)):
            rows.append(StateRow(row=len(rows), problem_id=reading.problem_id, source="rollout", k=reading.k, m=m, position=position))
            states.append(by_layer[17][i].numpy())
    return mine(pairs, rows, {17: np.array(states)}, config.mining)


def rollout_from(row: dict[str, Any], model: LoadedModel, prompt_ids: list[int]) -> Rollout:
    """A published rollout as a record, with its own reward and verdict, since the published checker makes errors."""
    verdict = Verdict(
        correct=row["correct"], extracted=row["pred"], gold=row["gold"], method="published", reason="published", finished=True
    )
    ids = tuple(model.tokens(row["text"]))
    return Rollout(
        problem_id=row["example_id"], k=row["k"], seed=0, prompt_ids=tuple(prompt_ids), token_ids=ids, text=row["text"], finish="length",
        boundaries=(), mean_logprob=None, verdict=verdict, reward=row["reward"],
    )  # fmt: skip


def golden_memory(case: Path) -> Memory:
    """The published library."""
    rows = lines(case / "entries.jsonl")
    tensors = read_tensors(case / "library.safetensors", ("keys", "vectors"))
    entries = tuple(
        Entry(
            id=row["name"],
            kind=row["kind"],
            pair=row["pair"],
            problem_id=row["problem"],
            m=row["m"],
            layer=row["layer"],
            quality=row["quality"],
            reward_pos=row["reward_pos"],
            reward_neg=row["reward_neg"],
            positives=(),
            negatives=(),
            key_row=i,
            action_row=row["vector"] if row["vector"] >= 0 else None,
            key_norm=float(np.linalg.norm(tensors["keys"][i])),
            action_norm=None,
            reachable=True,
        )
        for i, row in enumerate(rows)
    )
    nothing = np.zeros(tensors["vectors"].shape[1], np.float32)
    return Memory(
        entries, tensors["keys"], np.array([tensors["vectors"][row["vector"]] if row["vector"] >= 0 else nothing for row in rows])
    )


def traces(case: Path, model: LoadedModel) -> dict[str, Any]:
    """Greedy and steered decoding of the held-out problems."""
    memory = golden_memory(case)
    published = lines(case / "traces.jsonl")
    prompts = [model.chat_ids(TEMPLATE.format(**row["problem"]), SYSTEM) for row in published]
    decode = DecodeConfig(max_new_tokens=120)
    gate = GateConfig(previews="all")  # as published: the tokens of the previews are compared, too
    steered = run_all(model, [Job(str(i), ids, gate, memory) for i, ids in enumerate(prompts)], Settings(decode, compat=True))
    lean = run_all(model, [Job(str(i), ids, GateConfig(), memory) for i, ids in enumerate(prompts)], Settings(decode, compat=True))
    greedy = run_all(model, [Job(str(i), ids, GateConfig()) for i, ids in enumerate(prompts)], Settings(decode))
    rows = [compare(row, plain, ours) for row, plain, ours in zip(published, greedy, steered, strict=True)]
    keys = ("greedy_text", "text", "tokens", "probe_tokens")
    summary: dict[str, Any] = {key: all(row[key] for row in rows) for key in keys}
    counts = {
        "decisions": sum(row["decisions"] for row in rows),
        "decisions_equal": sum(row["decisions_equal"] for row in rows),
        "texts": len(rows),
        "texts_equal": sum(row["text"] for row in rows),
        "max_score_difference": max(row["max_score_difference"] for row in rows),
    }
    pairs = list(zip(steered, lean, strict=True))
    summary["only_needed_previews"] = all(
        one.token_ids == two.token_ids and [s.decision.chosen for s in one.steps] == [s.decision.chosen for s in two.steps]
        for one, two in pairs
    ) and all(two.probe_tokens < one.probe_tokens for one, two in pairs if one.probe_tokens)
    same = all(summary.values()) and counts["decisions"] == counts["decisions_equal"] > 0
    return {"equal": same and counts["max_score_difference"] <= TOLERANCE, **counts, **summary}


def compare(published: dict[str, Any], greedy: Trace, ours: Trace) -> dict[str, Any]:
    """The comparison of one problem: equalities, and the largest difference of scores."""
    theirs = published["stir"]
    names = [step["chosen"] for step in theirs["steps"]]
    worst = 0.0
    for step, row in zip(ours.steps, theirs["steps"], strict=False):
        scored = {each.entry_id: each.score or 0.0 for each in step.decision.scored}
        worst = max([worst, *(abs(scored.get(each["name"], np.inf) - each["score"]) for each in row["candidates"][1:])])
    return {
        "greedy_text": greedy.text == published["greedy"]["text"],
        "text": ours.text == theirs["text"],
        "decisions": max(len(names), len(ours.steps)),
        "decisions_equal": sum(a == b for a, b in zip([step.decision.chosen or "null" for step in ours.steps], names, strict=False)),
        "tokens": [len(step.token_ids) for step in ours.steps] == [step["spent_commit"] for step in theirs["steps"]],
        "probe_tokens": ours.probe_tokens == theirs["probe_tokens"],
        "max_score_difference": worst,
    }


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main(argv: list[str] | None = None) -> int:
    """Compare everything; print a table or JSON."""
    settle_threads()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description=__doc__)
    parser.add_argument("golden", type=Path, help="folder with library.safetensors, entries.jsonl and traces.jsonl, or the one above it")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    model = load_model(arguments.model)
    case = arguments.golden if (arguments.golden / "traces.jsonl").is_file() else arguments.golden / CASE
    if not (case / "traces.jsonl").is_file():
        parser.error(f"no traces.jsonl in {arguments.golden} or its {CASE}: give the folder of the published outputs")
    report = {"traces": traces(case, model)}
    if (case / "rollouts.jsonl").is_file():
        report["harvest"] = harvest(case, model)
    root = next((folder for folder in (case, case.parent) if (folder / "dpp.json").is_file()), None)
    if root is not None:
        report["selection"] = selection(root)
    equal = all(part["equal"] for part in report.values())
    counts = ("decisions", "decisions_equal", "texts", "texts_equal", "max_score_difference")
    if arguments.json:
        print(json.dumps({"equal": equal, **{key: report["traces"][key] for key in counts}, **report}, indent=2))
    else:
        for name, part in report.items():
            print(f"{name:10} {'equal' if part['equal'] else 'DIFFERENT'}  {part}")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
