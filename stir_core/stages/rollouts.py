"""Stage I, first part: sample K answers to each problem and grade them. Appended as they end, so a resumed run samples the rest."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stir_core.config import LOCAL, RunConfig, resolve_layers
from stir_core.errors import ConfigError
from stir_core.records import OnProgress, Problem, Progress, Rollout
from stir_core.stages.stage import Made, Stage, take_up
from stir_core.store.captured import Captured
from stir_core.store.jsonl import append_records, read_appended, write_records
from stir_core.store.runs import Run
from stir_core.tasks import Grader
from stir_core.tasks.registry import check_task, mined_problems

if TYPE_CHECKING:
    from stir_core.harvest.rollouts import Grade, Sampled
    from stir_core.models.loading import LoadedModel

UNLIKELY = 0.05
"""A server whose tokens the model here would not have drawn more often than this is suspected of other weights."""
_Sampler = tuple[list[Problem], tuple[str, ...], "Callable[[Grade, frozenset[tuple[str, int]]], Iterator[Sampled]]"]
"""Problems, notes, and what samples their rollouts, but for those that are done."""


def make_rollouts(run: Run, model: "LoadedModel", part: Path, report: OnProgress) -> Made:
    """Write problems.jsonl and rollouts.jsonl; states at control points are captured meanwhile, for the next stage."""
    config = run.config
    layers = () if config.compat else resolve_layers(config.mining.layers, model.n_layers)
    problems, notes, sample = (_latent_sampler if run.on_latents else _sampler)(model, config, layers)
    write_records(part / "problems.jsonl", problems)
    file = part / "rollouts.jsonl"
    done = {(rollout.problem_id, rollout.k) for rollout in read_appended(file, Rollout)}
    captured = Captured(take_up(run, "states", model.identity), layers, model.d_model)
    total, finished, tokens = len(problems) * config.rollouts.k, len(done), 0
    report(Progress("rollouts", finished, total, "rollouts"))
    with Grader() as grader:
        try:
            for rollout, states in sample(grader.judge, frozenset(done)):
                append_records(file, [rollout])
                captured.add(rollout, states)
                finished, tokens = finished + 1, tokens + rollout.n_tokens
                report(Progress("rollouts", finished, total, "rollouts", tokens))
        finally:
            captured.flush()
    order = {problem.id: i for i, problem in enumerate(problems)}
    known = read_appended(file, Rollout)  # not held until now, so that memory does not grow with their number
    known.sort(key=lambda rollout: (order[rollout.problem_id], rollout.k))  # the order of arrival depends on the batch
    write_records(file, known)
    counts = {
        "problems": len(problems),
        "rollouts": len(known),
        "correct": sum(rollout.verdict.correct for rollout in known),
        "unfinished": sum(not rollout.verdict.finished for rollout in known),
        "tokens": sum(rollout.n_tokens for rollout in known),
    }
    return Made(counts, tokens, notes=notes if config.rollouts.engine == LOCAL else (*notes, _likeness(model, config, known)))


def _likeness(model: "LoadedModel", config: RunConfig, known: list[Rollout]) -> str:
    """Whether a server's rollouts look drawn from the model here, by the first tokens of a few of them."""
    from stir_core.models.generation import Sampling
    from stir_core.models.served import unlikely_share

    heads = [(rollout.prompt_ids, rollout.token_ids[:64]) for rollout in known[:: -(-len(known) // 16)]]
    n = sum(len(ids) for _, ids in heads)
    share = unlikely_share(model, heads, Sampling(config.rollouts.temperature, config.rollouts.top_p))
    verdict = "so other weights may be served" if share > UNLIKELY else "as expected of the same weights"
    drawn = f"of {n} tokens the model here would not have drawn {share:.1%}"
    return f"sampled by {config.rollouts.engine}: {drawn}, {verdict}" + (" (top_p = 1: no test)" if config.rollouts.top_p == 1 else "")


def _sampler(model: "LoadedModel", config: RunConfig, layers: tuple[int, ...]) -> _Sampler:
    from stir_core.harvest.rollouts import sample_rollouts
    from stir_core.models.prompting import fitting_prompts

    prompts, notes = fitting_prompts(model, mined_problems(config), config.task, room=config.rollouts.max_new_tokens)
    return [problem for problem, _ in prompts], notes, lambda judge, done: sample_rollouts(model, prompts, config, judge, done, layers)


def _latent_sampler(model: "LoadedModel", config: RunConfig, layers: tuple[int, ...]) -> _Sampler:
    from stir_core.evaluate.latent_steering import latent_problems, sample_latent_rollouts
    from stir_core.latent.training import load_reasoner

    trained = load_reasoner(config.model.name)
    problems, wanted = latent_problems(model, trained, config), config.task.n_train
    notes = () if len(problems) == wanted else (f"left out: {wanted - len(problems)} of {wanted} problems, wrong even without noise",)
    return problems, notes, lambda judge, done: sample_latent_rollouts(model, trained, problems, config, done, layers)


def _check(run: Run) -> None:
    if run.on_latents:
        if run.config.rollouts.engine != LOCAL:
            raise ConfigError(
                f"rollouts.engine is {run.config.rollouts.engine}: a server draws no latents, take local for a run at latents"
            )
        return
    check_task(run.config)
    mined_problems(run.config)


def _settings(config: RunConfig) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "delimiter": config.delimiter,
        "model": config.model.model_dump(mode="json", exclude={"device", "backend"}),
        "task": config.task.model_dump(mode="json", exclude={"n_eval", "held_out"}),
        "rollouts": config.rollouts.model_dump(mode="json", exclude={"engine", "batch_rows", "cache_tokens"}),
        **({} if config.rollouts.engine == LOCAL else {"engine": "served"}),  # which server does not matter: its address may change
        **({"steps_of": "final"} if config.mining.phase == "final" else {}),  # the other choices have the same control points
    }


STAGE = Stage("rollouts", reads=(), settings=_settings, make=make_rollouts, check=_check)
