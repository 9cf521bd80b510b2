"""Stage I, last part: mine an action from every pair (mean right state minus mean wrong state), and measure the controls for confounds."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stir_core.config import RunConfig
from stir_core.records import Continuation, OnProgress, Progress
from stir_core.stages.stage import Made, Stage
from stir_core.stages.states import planned_pairs, steps_in
from stir_core.store.jsonl import append_records, read_appended, write_records
from stir_core.store.runs import Run
from stir_core.store.tensors import write_tensors
from stir_core.tasks import Grader

if TYPE_CHECKING:
    from stir_core.harvest.stability import Prefix
    from stir_core.models.loading import LoadedModel

EMPTY = "no problem has both a right and a wrong rollout at a control point: there is nothing to steer with; mine more or other problems"


def make_actions(run: Run, model: "LoadedModel", part: Path, report: OnProgress) -> Made:
    """Write entries.jsonl, actions.safetensors (``keys``, ``actions``; raw), lens.jsonl, and the controls of every action."""
    import torch

    from stir_core.harvest.actions import mine
    from stir_core.harvest.controls import measure_controls
    from stir_core.harvest.stability import plan_prefixes, shares
    from stir_core.harvest.states import plan_readings
    from stir_core.models.lens import lens_of
    from stir_core.models.prompting import prompt_ids

    config, problems, rollouts = run.config, run.problems(), run.rollouts()
    layers = run.manifest("states").layers
    pairs = run.pairs()
    if pairs is None:
        pairs = planned_pairs(run, model, problems, rollouts, len(layers))
    rows, states = run.states()
    mined = mine(pairs, rows, states, config.mining)
    corrective = [entry.id for entry in mined.entries if entry.kind == "corrective"]
    lenses = lens_of(model, corrective, torch.from_numpy(mined.actions)) if corrective else []
    notes = (f"{len(mined.skipped)} pairs left out, e.g. {mined.skipped[0]}",) if mined.skipped else ()
    rolled: list[Continuation] = []
    tokens = 0
    if config.mining.stability_rolls:
        prompts = {problem.id: prompt_ids(model, problem, config.task) for problem in problems}
        readings = plan_readings(model, problems, rollouts, pairs, config, prompts)
        prefixes = plan_prefixes(mined.entries, readings, {problem.id: problem for problem in problems}, prompts)
        rolled, tokens = _rolled_again(model, config, prefixes, part, report)
    stability = shares(mined.entries, rolled)
    controls = measure_controls(
        mined.entries, mined.actions, rollouts, rows, states, config, steps=steps_in(rollouts, config), stability=stability
    )
    write_records(part / "entries.jsonl", mined.entries)
    write_records(part / "lens.jsonl", lenses)
    write_tensors(part / "actions.safetensors", {"keys": mined.keys, "actions": mined.actions})
    write_records(part / "controls.jsonl", controls.records)
    write_tensors(part / "controls.safetensors", {"length_matched": controls.length_matched, "shuffled": controls.shuffled})
    report(Progress("actions", len(mined.actions), len(mined.actions), "actions"))
    counts = {
        "entries": len(mined.entries),
        "actions": len(mined.actions),
        "problems": len({entry.problem_id for entry in mined.entries}),
        "unreachable": sum(not entry.reachable for entry in mined.entries),
    }
    return Made(counts, tokens, layers, notes if mined.entries else (*notes, EMPTY))


def _rolled_again(
    model: "LoadedModel", config: RunConfig, prefixes: "list[Prefix]", part: Path, report: OnProgress
) -> tuple[list[Continuation], int]:
    """Sample continuations of every mined prefix, appended as they end; also returns the number of tokens that this process sampled."""
    from stir_core.harvest.stability import continuations, prefix_key_of

    file = part / "continuations.jsonl"
    known = read_appended(file, Continuation)
    done = frozenset((prefix_key_of(each), each.roll) for each in known)
    total, tokens = len(prefixes) * config.mining.stability_rolls, 0
    report(Progress("actions", len(known), total, "continuations"))
    with Grader() as grader:
        for each in continuations(model, prefixes, config, grader.judge, done):
            append_records(file, [each])
            known.append(each)
            tokens += each.n_tokens
            report(Progress("actions", len(known), total, "continuations", tokens))
    order = {prefix.key: i for i, prefix in enumerate(prefixes)}
    known.sort(key=lambda each: (order[prefix_key_of(each)], each.roll))  # the order of arrival depends on the batch
    write_records(file, known)
    return known, tokens


def _settings(config: RunConfig) -> dict[str, Any]:
    rolls = config.mining.stability_rolls
    return {"stability_rolls": rolls} if rolls else {}  # the default is left out, so that digests of older runs stay valid


STAGE = Stage("actions", reads=("rollouts", "states"), settings=_settings, make=make_actions)
