"""Sampling K answers to each problem, verified and cut into steps. Rows that finish leave the batch, waiting ones enter."""

from collections import deque
from collections.abc import Callable, Iterator

from stir_core.config import RunConfig
from stir_core.models.context import join
from stir_core.models.generation import Batch, Sampling, Strand, decode
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import read
from stir_core.records import Problem, Rollout, Verdict
from stir_core.seeding import generator_for, seed_for
from stir_core.tasks.segment import boundaries

Grade = Callable[[Problem, str], Verdict]


def sample_rollouts(
    model: LoadedModel,
    prompts: list[tuple[Problem, list[int]]],
    config: RunConfig,
    grade: Grade,
    done: frozenset[tuple[str, int]] = frozenset(),
) -> Iterator[Rollout]:
    """Sample ``config.rollouts.k`` answers to each problem, yielding each as it ends (in no fixed order).

    A rollout's tokens depend on the run's seed, its problem and its k alone, never on what decodes beside it.

    Args:
        prompts: problems with their prompt ids.
        grade: settles an answer's text.
        done: (problem id, k) that are there already.
    """
    settings = config.rollouts
    waiting = deque((problem, ids, k) for problem, ids in prompts for k in range(settings.k) if (problem.id, k) not in done)
    owners: dict[str, tuple[Problem, list[int], int]] = {}

    def fill(live: int) -> Batch | None:
        room = settings.batch_rows - live
        if not waiting or (live and room < max(1, settings.batch_rows // 4)):
            return None  # joining copies the cache: wait until several rows fit
        taken = [waiting.popleft() for _ in range(min(room, len(waiting)))]
        return _open(model, taken, config, owners)

    first = fill(0)
    if first is None:
        return
    sampling = Sampling(settings.temperature, settings.top_p)
    for strand, _, _ in decode(model, first, sampling, refill=fill):
        if strand.finish is not None:
            problem, prompt_ids, k = owners.pop(strand.name)
            yield _rollout(model, strand, problem, prompt_ids, k, config, grade)


def _open(model: LoadedModel, taken: list[tuple[Problem, list[int], int]], config: RunConfig, owners: dict) -> Batch:
    """Prefill each distinct prompt once and fork it for its rollouts."""
    distinct: dict[str, int] = {}
    for problem, _, _ in taken:
        distinct.setdefault(problem.id, len(distinct))
    prompts = {problem.id: ids for problem, ids, _ in taken}
    logits, context, _ = read(model, [prompts[id_] for id_ in distinct])
    rows = [distinct[problem.id] for problem, _, _ in taken]
    strands: list[Strand] = []
    for problem, ids, k in taken:
        name = f"{problem.id}#{k}"
        owners[name] = (problem, ids, k)
        strands.append(Strand(name, config.rollouts.max_new_tokens, generator_for(config.seed, "rollout", problem.id, k)))
    return Batch(strands, logits[rows], join([context.select(rows)]))


def _rollout(
    model: LoadedModel, strand: Strand, problem: Problem, prompt_ids: list[int], k: int, config: RunConfig, grade: Grade
) -> Rollout:
    text = model.text(strand.ids)
    verdict = grade(problem, text)
    penalty = config.rollouts.eta0 * len(strand.ids) / config.rollouts.max_new_tokens
    return Rollout(
        problem_id=problem.id,
        k=k,
        seed=seed_for(config.seed, "rollout", problem.id, k),
        prompt_ids=tuple(prompt_ids),
        token_ids=tuple(strand.ids),
        text=text,
        finish=strand.finish or "length",
        boundaries=boundaries(strand.ids, model.text, config.delimiter),
        mean_logprob=strand.mean_logprob,
        verdict=verdict,
        reward=float(verdict.correct) - penalty,
    )
