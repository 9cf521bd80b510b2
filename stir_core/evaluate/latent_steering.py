"""STIR on latents: mine actions between right and wrong noisy runs of one problem, and see what they do on held-out problems."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from stir_core.config import (
    DecodeConfig,
    GateConfig,
    MiningConfig,
    ModelConfig,
    RolloutConfig,
    RunConfig,
    TaskConfig,
    section_from,
    with_changes,
)
from stir_core.errors import DataError
from stir_core.evaluate.latent_steps import TEXT, LatentJob, Thought, noisy_job, think, thoughts
from stir_core.evaluate.latents import held_out_chains
from stir_core.evaluate.statistics import clustered_difference, clustered_share
from stir_core.findings import Estimate, LatentOwnRow, LatentSteeringReport, LatentSteeringRow
from stir_core.harvest.rollouts import Sampled
from stir_core.intervene.jobs import NULL, Forced
from stir_core.intervene.memory import Memory
from stir_core.latent.training import TrainedReasoner, load_reasoner
from stir_core.models.loading import LoadedModel, load_model
from stir_core.records import Entry, OnProgress, Problem, Progress, Rollout, Verdict
from stir_core.requests import LatentRequest
from stir_core.seeding import generator_for, seed_for
from stir_core.store.latents import latent_folder
from stir_core.store.libraries import library_named, reestimated
from stir_core.store.runs import Run
from stir_core.tasks.modular import TASK, ModularChain, asked_chain, draw_chains

METHODS = ("vanilla", "stir", "random", "shuffled")
"""Never steered; the control basis; a random direction of the action's norm in its place; actions from shuffled labels."""


def latent_config(
    reasoner: Path | str, *, noise: float = 0.15, steps: Collection[int] = (), n: int = 50, runs: int = 16, seed: int = 0
) -> RunConfig:
    """The config of a run that is mined at latents. `stir latent harvest` makes the run of it, up to its basis.

    Args:
        reasoner: folder of a finished training, or the name of one that comes with the package.
        noise: standard deviation of the Gaussian noise on each latent, in which a problem's runs differ. It is the rollouts' temperature.
        steps: numbers of steps of the problems; none: all that the reasoner was trained on.
        n: problems of each number of steps, from the training split.
        runs: of each problem; all right ones are contrasted with all wrong ones.
        seed: of the problems and of the noise.

    Returns:
        A config for :func:`stir_core.api.harvest_run`, with ``until="basis"``.

    Raises:
        ConfigError: a number is not one, or too large.
        DataError: no finished training, one without latents, or a number that is out of range.
    """
    steps = tuple(sorted({*steps})) if isinstance(steps, list | tuple | set | frozenset | range) else steps
    section_from(LatentRequest, {"n": n, "runs": runs, "noise": noise, "steps": steps, "seed": seed})
    folder = latent_folder(reasoner)
    trained = load_reasoner(folder)
    if not trained.reasoner.most:
        raise DataError(f"{folder} holds the strategy {trained.reasoner.name}, which has no latents: give one that has")
    if n < 1 or runs < 2 or not 0 < noise < np.inf:
        raise DataError(f"{n} problems, {runs} runs, noise {noise}: give at least one problem, two runs, and noise above 0")
    task = TaskConfig(name=TASK, n_train=n, n_eval=0, levels=tuple(map(str, steps)))
    counts = step_counts(RunConfig(task=task), trained)
    points = trained.reasoner.options.per_step * counts[-1] + 1  # retrieval leaves the last one out, and the last latent is steered
    return RunConfig(
        seed=seed,
        model=ModelConfig(name=str(folder)),
        task=with_changes(task, n_train=n * len(counts)),
        rollouts=RolloutConfig(k=runs, temperature=noise, top_p=1.0, max_new_tokens=points + TEXT),
        mining=MiningConfig(control_points=points, k_pos=runs, k_neg=runs, top_pairs=1_000_000),
        decode=DecodeConfig(max_new_tokens=points + TEXT),
    )


def step_counts(config: RunConfig, trained: TrainedReasoner) -> tuple[int, ...]:
    """Numbers of steps of the problems that a run at latents mines: its task's levels; none: all that the reasoner was trained on.

    Raises:
        DataError: it was not trained on such problems.
    """
    known = {str(count): count for count in trained.chains.counts}
    if unknown := [level for level in config.task.levels if level not in known]:
        raise DataError(f"the reasoner was not trained on problems of {unknown[0]} steps: take some of {', '.join(known)}")
    return tuple(known[level] for level in config.task.levels) or trained.chains.counts


def latent_problems(model: LoadedModel, trained: TrainedReasoner, config: RunConfig) -> list[Problem]:
    """The problems that a run at latents mines, of the training split: those that are answered rightly without noise.

    A wrong run of another problem is wrong for lack of the computation, and a right one by luck.
    """
    counts = step_counts(config, trained)
    n = -(-config.task.n_train // len(counts))
    rng = generator_for(config.seed, "latent harvest", trained.chains.name)
    drawn = {count: draw_chains(trained.chains, "train", count, n, rng, without=set()) for count in counts}
    chains = [chain for each in zip(*drawn.values(), strict=True) for chain in each][: config.task.n_train]
    jobs = [noisy_job(trained, f"clean/{i}", chain, config.gate, noise=0.0, seed=0, k=0) for i, chain in enumerate(chains)]
    right = {i for i, thought in enumerate(thoughts(model, trained, jobs, config)) if thought.said == str(chains[i].answer)}
    return [
        Problem(
            id=f"{TASK}/train/{i}",
            task=TASK,
            split="train",
            question=chain.question,
            answer=str(chain.answer),
            kind="number",
            level=str(len(chain.operations)),
        )
        for i, chain in enumerate(chains)
        if i in right
    ]


def sample_latent_rollouts(
    model: LoadedModel,
    trained: TrainedReasoner,
    problems: Sequence[Problem],
    config: RunConfig,
    done: Collection[tuple[str, int]] = (),
    layers: tuple[int, ...] = (),
) -> Iterator[Sampled]:
    """Answer each problem ``rollouts.k`` times with noise on its latents; every latent is a step that ends there.

    Args:
        done: (problem id, k) of the runs that are known.
        layers: blocks whose outputs at the latents are kept.
    """
    asked = [(problem, k) for problem in problems for k in range(config.rollouts.k) if (problem.id, k) not in done]
    chains = [asked_chain(problem.question, trained.chains) for problem, _ in asked]
    noise = config.rollouts.temperature
    jobs = [
        noisy_job(trained, problem.id, chain, config.gate, noise=noise, seed=config.seed, k=k)
        for (problem, k), chain in zip(asked, chains, strict=True)
    ]
    for i, thought in think(model, trained, jobs, config, layers):
        problem, k = asked[i]
        said, latents = thought.said, len(thought.vectors)
        correct = said == problem.answer
        verdict = Verdict(
            correct=correct,
            extracted=said,
            gold=problem.answer,
            method="number, equality",
            reason="the number after #### is the answer" if correct else "it is not the answer" if said else "no number follows ####",
            finished=said is not None,
        )
        ids = (*[trained.reasoner.markers.latent] * latents, trained.reasoner.markers.end, *thought.ids)
        rollout = Rollout(
            problem_id=problem.id,
            k=k,
            seed=seed_for(config.seed, "latent run", problem.id, k),
            prompt_ids=tuple(jobs[i].job.prompt_ids),
            token_ids=ids,
            text=str(trained.words.decode(list(thought.ids), skip_special_tokens=True)),
            finish="stop",
            boundaries=tuple(range(1, latents + 1)),
            mean_logprob=thought.logprob,
            verdict=verdict,
            reward=float(correct) - config.rollouts.eta0 * len(ids) / config.rollouts.max_new_tokens,
        )
        yield Sampled(rollout, thought.states)


def evaluate_latent_steering(
    run: Run,
    *,
    n: int = 300,
    runs: int = 1,
    own: int = 0,
    seed: int = 0,
    split: str = "eval",
    library: str = "basis",
    gate: GateConfig | None = None,
    report: OnProgress = lambda progress: None,
) -> LatentSteeringReport:
    """Answer held-out problems with noise on their latents, with and without impulses, under the same noise. `stir latent steer`.

    Args:
        run: mined at latents, from :func:`latent_config`.
        n: problems of each number of steps that the run mined.
        runs: noisy runs of each problem.
        own: new noisy runs of each mined problem, in which its own actions are injected, one at a time; 0: none.
        seed: of problems and noise.
        split: of the problems, ``"eval"``, or ``"validation"`` to choose settings on.
        library: what is retrieved from: the control basis, or ``"all"`` mined entries.
        gate: in place of the run's.
        report: progress, in answers, then in latents of own actions.

    Returns:
        Accuracy, what was won and lost against vanilla, and paired differences, by method.

    Raises:
        ConfigError: a number is not one, or too large.
        DataError: the run was not mined at latents, there is nothing to steer with, or a number is out of range.
        StoreError: the run has no finished basis.
        MismatchError: the reasoner has other weights now.
    """
    section_from(LatentRequest, {"n": n, "runs": runs, "own": own, "seed": seed})
    if not isinstance(run, Run) or not run.on_latents:
        raise DataError(f"run {getattr(run, 'path', run)} was not mined at latents: make one with `stir latent harvest`")
    if runs < 1 or own < 0:
        raise DataError(f"runs is {runs} and own is {own}: give at least one run of each problem, and own runs from 0 on")
    run.folder("basis")
    chosen = library_named(run, library)
    if not chosen.entries:
        raise DataError(f"the library {library} of {run.path} is empty, so nothing would be steered: mine more problems or runs")
    config = run.config if gate is None else with_changes(run.config, gate=gate)
    model, trained = load_model(config.model.name), load_reasoner(config.model.name)
    run.check_model(model.identity, run.stages())
    counts = step_counts(config, trained)
    problems = held_out_chains(trained.chains, n, seed, split)
    chains = [chain for count in counts for chain in problems[count]]
    found: dict[str, list[Thought]] = {}
    total = len(METHODS) * len(chains) * runs
    report(Progress("latents", 0, total, "answers"))
    for name in METHODS:
        known = reestimated(run, chosen, "shuffled") if name == "shuffled" else chosen
        memory = Memory(*known, run.key_space(), run.margins()) if name != "vanilla" and known.entries else None
        method_gate = with_changes(config.gate, variant="random_vector", noise="matched") if name == "random" else config.gate
        about = {"noise": config.rollouts.temperature, "seed": seed, "memory": memory}
        jobs = [noisy_job(trained, chain.question, chain, method_gate, k=k, **about) for chain in chains for k in range(runs)]
        ended: dict[int, Thought] = {}
        for i, thought in think(model, trained, jobs, config):
            ended[i] = thought
            report(Progress("latents", len(found) * len(jobs) + len(ended), total, "answers"))
        found[name] = [ended[i] for i in range(len(jobs))]
    right = {name: _right(each, [chain for chain in chains for _ in range(runs)], runs) for name, each in found.items()}
    own_rows = _own_rows(run, config, model, trained, own, report) if own else ()
    return LatentSteeringReport(
        run=run.name,
        strategy=trained.reasoner.name,
        noise=config.rollouts.temperature,
        library=library,
        gate=config.gate,
        split=split,
        seed=seed,
        rows=tuple(_row(name, [len(chain.operations) for chain in chains], right, found[name]) for name in METHODS),
        own=own_rows,
    )


def _right(found: Sequence[Thought], chains: Sequence[ModularChain], runs: int) -> list[list[float]]:
    """Whether each answer is right, by problem."""
    flat = [float(thought.said == str(chain.answer)) for thought, chain in zip(found, chains, strict=True)]
    return [flat[i : i + runs] for i in range(0, len(flat), runs)]


def _row(name: str, counts: Sequence[int], right: dict[str, list[list[float]]], found: Sequence[Thought]) -> LatentSteeringRow:
    over, p = _difference(right[name], right["vanilla"]) if name != "vanilla" else (None, None)
    stir_over, stir_p = _difference(right["stir"], right[name]) if name != "stir" else (None, None)
    pairs = [pair for each in zip(right[name], right["vanilla"], strict=True) for pair in zip(*each, strict=True)]
    return LatentSteeringRow(
        method=name,
        problems=len(counts),
        answers=len(found),
        accuracy=clustered_share(right[name]),
        by_count={
            count: float(np.mean([each for each, own in zip(right[name], counts, strict=True) if own == count]))
            for count in sorted(set(counts))
        },
        impulses=float(np.mean([sum(decision.chosen is not None for decision in thought.decisions) for thought in found])),
        won=sum(here > there for here, there in pairs),
        lost=sum(here < there for here, there in pairs),
        over_vanilla=over,
        p=p,
        stir_over=stir_over,
        stir_p=stir_p,
        positions=float(np.mean([thought.tokens for thought in found])),
    )


def _difference(here: list[list[float]], there: list[list[float]]) -> tuple[Estimate, float | None]:
    return clustered_difference([[a - b for a, b in zip(*each, strict=True)] for each in zip(here, there, strict=True)])


def _own_rows(
    run: Run, config: RunConfig, model: LoadedModel, trained: TrainedReasoner, own: int, report: OnProgress
) -> tuple[LatentOwnRow, ...]:
    """Every mined action on new noisy runs of its own problem: what an action does that retrieval need not find."""
    chains = {problem.id: asked_chain(problem.question, trained.chains) for problem in run.problems()}
    actions, entries = run.action_rows(), [entry for entry in run.entries() if entry.action_row is not None]
    new = range(config.rollouts.k, config.rollouts.k + own)

    def answers(ids: Sequence[str], vectors: Sequence[np.ndarray | None], places: Sequence[Entry | None]) -> list[list[float]]:
        jobs: list[LatentJob] = []
        for name, vector, place in zip(ids, vectors, places, strict=True):
            forced = NULL if vector is None or place is None else Forced("own", place.layer, torch.from_numpy(vector))
            at = None if place is None else place.m
            about = {
                "noise": config.rollouts.temperature,
                "seed": config.seed,
                "force": lambda m, at=at, forced=forced: forced if m == at else NULL,
            }
            jobs += [noisy_job(trained, name, chains[name], config.gate, k=k, **about) for k in new]
        asked = [chains[name] for name in ids for _ in new]
        return _right(thoughts(model, trained, jobs, config), asked, own)

    names = sorted({entry.problem_id for entry in entries})
    vanilla = dict(zip(names, answers(names, [None] * len(names), [None] * len(names)), strict=True))
    rows: list[LatentOwnRow] = []
    places = sorted({(entry.m, entry.layer) for entry in entries})
    report(Progress("own", 0, len(places), "latents"))
    for done, (m, layer) in enumerate(places, start=1):
        here = [entry for entry in entries if (entry.m, entry.layer) == (m, layer)]
        ids, own_actions = [entry.problem_id for entry in here], [actions[entry.action_row or 0] for entry in here]
        noise = [generator_for(config.seed, "own random", entry.id).standard_normal(model.d_model) for entry in here]
        matched = [
            (each * np.linalg.norm(action) / np.linalg.norm(each)).astype(np.float32)
            for each, action in zip(noise, own_actions, strict=True)
        ]
        before = [vanilla[name] for name in ids]
        rows.append(
            LatentOwnRow(
                m=m,
                layer=layer,
                problems=len(here),
                answers=own * len(here),
                vanilla=clustered_share(before),
                own=_difference(answers(ids, own_actions, here), before)[0],
                random=_difference(answers(ids, matched, here), before)[0],
            )
        )
        report(Progress("own", done, len(places), "latents"))
    return tuple(rows)
