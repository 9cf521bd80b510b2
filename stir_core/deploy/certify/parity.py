"""The parity certificate: the same prompts through the workbench's engine and through a target, and their differences.

A certificate is one JSON file in the bundle, ``certificate-TARGET.json``. It has a hash over its own content and the digest of the bundle,
so an edited certificate, or one of another bundle, is noticed. The manifest lists its SHA-256 and size, but the manifest's digest does not
depend on it: certifying does not change a bundle. A failing certificate is written too.
"""

import os
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import zip_longest
from typing import Any, Literal, NamedTuple

import httpx
import numpy
import torch
import transformers

from stir_core.config import with_changes
from stir_core.deploy.bundle.reading import Bundle
from stir_core.deploy.certify.certificate import Certificate, CertifiedPrompt, Deployment, Tolerances, Worst, sealed
from stir_core.deploy.serving.process import serving
from stir_core.deploy.serving.runtime import SteeredModel
from stir_core.deploy.serving.service import KEY
from stir_core.errors import DeployError
from stir_core.intervene.session import Session, Steered
from stir_core.models.agreement import agreement
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed, forward
from stir_core.models.prompting import user_message
from stir_core.records import OnProgress, Problem, Progress, StepTrace, Trace
from stir_core.version import VERSION

_SECONDS = 3600.0
"""Longest time to wait for an answer of a server."""


class ParityPrompt(NamedTuple):
    """A request to a target: a rendered user message, and the system prompt."""

    message: str
    system: str | None
    max_new_tokens: int


Answering = Callable[[Sequence[ParityPrompt]], list[Steered]]
"""A target: answers prompts, vanilla and steered, in their order."""


def certify(
    bundle: Bundle,
    session: Session,
    problems: Sequence[Problem],
    target: Deployment,
    answering: Answering,
    *,
    plain: LoadedModel | None = None,
    reference: str,
    max_new_tokens: int,
    tolerances: Tolerances | None = None,
    report: OnProgress = lambda progress: None,
) -> Certificate:
    """Let both answer, and compare.

    Args:
        session: the workbench's engine, with the run's library or the bundle's.
        plain: the target's model, if its logits are accessible.
        reference: the source of ``session``, for the reader.
    """
    tolerances = tolerances or Tolerances()
    config = session.config
    decode = with_changes(config.decode, max_new_tokens=max_new_tokens, temperature=0.0)
    prompts = [ParityPrompt(user_message(problem, config.task), config.task.system, max_new_tokens) for problem in problems]
    references: list[Steered] = []
    for i, prompt in enumerate(prompts):
        references.append(session.answer(prompt.message, config.gate, decode, raw=True))  # raw: the message is rendered already
        report(Progress("workbench", i + 1, len(problems), "answers"))
    answers = answering(prompts)
    report(Progress(target, len(answers), len(problems), "answers"))
    differences = Differences(tolerances)
    rows: list[CertifiedPrompt] = []
    for problem, prompt, expected, answer in zip(problems, prompts, references, answers, strict=True):
        before = len(differences.lines)
        for name, one, two in zip(Steered._fields, expected, answer, strict=True):
            differences.traces(f"{problem.id}, {name}", one, two, target)
        if plain is not None:
            differences.logits(problem.id, session.model, plain, list(expected.steered.prompt_ids))
        rows.append(
            CertifiedPrompt(
                id=problem.id,
                question=prompt.message,
                prompt_tokens=len(expected.steered.prompt_ids),
                tokens=expected.steered.tokens_used,
                decisions=tuple(decision.chosen for decision in expected.steered.decisions),
                same=len(differences.lines) == before,
            )
        )
    found = agreement(session.model)  # else target and workbench could be wrong together: they run the same decoder
    if not found.agrees:
        differences.lines.insert(0, f"the workbench's own decoding is {found.kl:.2g} nats from {found.reference}")
    return sealed(
        bundle,
        target=target,
        passed=not differences.lines,
        first_difference=next(iter(differences.lines), None),
        reference=f"{reference} (mean KL {found.kl:.1e} nats from {found.reference})",
        device=str(session.model.device),
        max_new_tokens=max_new_tokens,
        tolerances=tolerances,
        worst=Worst.model_validate(differences.worst),
        prompts=tuple(rows),
        injected=sum(chosen is not None for row in rows for chosen in row.decisions),
        versions=software_versions(),
    )


class Differences:
    """The differences between answers: a line for each, and the largest of each kind in numbers."""

    def __init__(self, tolerances: Tolerances):
        self.tolerances = tolerances
        self.lines: list[str] = []
        self.worst: dict[str, float | None] = dict.fromkeys(Worst.model_fields)

    def traces(self, name: str, one: Trace, two: Trace, target: str) -> None:
        """Compare the answers of the workbench (``one``) and the target (``two``) to a prompt."""
        if one.prompt_ids != two.prompt_ids:
            self.lines.append(
                f"{name}: the workbench reads {len(one.prompt_ids)} prompt tokens, the {target} other ones ({len(two.prompt_ids)})"
            )
            return
        for a, b in zip_longest(one.steps, two.steps):
            if a is None or b is None:
                self.lines.append(f"{name}: the workbench has {len(one.steps)} steps, the {target} {len(two.steps)}")
                return
            if not self._step(f"{name}, control point {a.m}", a, b, target):
                return
        if (one.text, one.finish) != (two.text, two.finish):
            self.lines.append(f"{name}: the tokens are the same, but the texts or endings differ")

    def logits(self, name: str, one: LoadedModel, two: LoadedModel, ids: list[int]) -> None:
        """Compare all logits after a prompt."""
        a, b = (forward(model, [Feed(model.new_store().open(), ids)]).logits[0].cpu() for model in (one, two))
        if a.shape != b.shape:
            self.lines.append(f"{name}: the workbench has {a.shape[0]} logits after the prompt, the target {b.shape[0]}")
            return
        self._near(f"{name}: a logit after the prompt", "logits", float((a - b).abs().max()), 0.0)

    def _step(self, name: str, a: StepTrace, b: StepTrace, target: str) -> bool:
        """Compare a step; False when the following steps cannot be the same."""
        if [e.entry_id for e in a.evidence.retrieved] != [e.entry_id for e in b.evidence.retrieved]:
            self.lines.append(f"{name}: the workbench and the {target} retrieve different entries")
        for mine, yours in zip(a.evidence.retrieved, b.evidence.retrieved, strict=False):
            if mine.entry_id == yours.entry_id:
                self._near(f"{name}: the cosine of {mine.entry_id}", "cosine", mine.sim, yours.sim)
                self._near(f"{name}: the preview of {mine.entry_id}", "logprob", mine.preview_logprob, yours.preview_logprob)
        self._near(f"{name}: the null preview", "logprob", a.evidence.null_logprob, b.evidence.null_logprob)
        for mine, yours in zip(a.decision.scored, b.decision.scored, strict=False):
            self._near(f"{name}: the score of {mine.entry_id}", "score", mine.score, yours.score)
        if a.decision.chosen != b.decision.chosen:
            self.lines.append(f"{name}: the workbench chose {a.decision.chosen or 'null'}, the {target} {b.decision.chosen or 'null'}")
            return False
        self._near(f"{name}: the injected multiple", "score", a.decision.alpha, b.decision.alpha)
        for i, (mine, yours) in enumerate(zip_longest(a.token_ids, b.token_ids)):
            if mine != yours:
                self.lines.append(f"{name}: token {i + 1} is {mine} in the workbench and {yours} in the {target}")
                return False
        for mine, yours in zip(a.logprobs, b.logprobs, strict=True):
            self._near(f"{name}: a token's log-probability", "logprob", mine, yours)
        return True

    def _near(self, name: str, what: str, one: float | None, two: float | None) -> None:
        if one is None and two is None:
            return
        if one is None or two is None:
            self.lines.append(f"{name} was measured by one of the two only")
            return
        gap, known = abs(one - two), self.worst[what]
        self.worst[what] = gap if known is None else max(known, gap)
        if not gap <= getattr(self.tolerances, what):
            self.lines.append(f"{name} differs by {gap:.2e}, more than {getattr(self.tolerances, what):g}")


def software_versions() -> dict[str, str]:
    """Versions of the software that numbers depend on."""
    own = {"stir-workbench": VERSION, "torch": torch.__version__, "transformers": transformers.__version__, "numpy": numpy.__version__}
    return own | {"python": platform.python_version(), "machine": platform.machine()}


def certify_decisions(
    steered: SteeredModel,
    session: Session,
    problems: Sequence[Problem],
    target: Literal["runtime", "server"],
    *,
    reference: str,
    max_new_tokens: int | None = None,
    report: OnProgress = lambda progress: None,
) -> Certificate:
    """Certify a target that decodes by itself.

    Args:
        steered: the bundle on a model; for ``"server"`` it answers through a server in this process.
        session: the workbench's engine, with the run's library or the bundle's.
        reference: the source of ``session``, for the reader.
        max_new_tokens: budget of an answer; the bundle's own by default.
    """
    budget = steered.bundle.manifest.stage3.decode.max_new_tokens if max_new_tokens is None else max_new_tokens
    certified = partial(certify, steered.bundle, session, problems, target, reference=reference, max_new_tokens=budget, report=report)
    if target == "runtime":
        return certified(by_runtime(steered), plain=steered.model)
    with serving(steered, "certified") as url:
        return certified(by_server(url, "certified"))


def by_runtime(steered: SteeredModel) -> Answering:
    """Answers of the runtime, all prompts in one batch."""

    def answering(prompts: Sequence[ParityPrompt]) -> list[Steered]:
        options: dict[str, Any] = {"max_new_tokens": prompts[0].max_new_tokens, "temperature": 0.0, "raw": True}
        messages = [prompt.message for prompt in prompts]
        return list(map(Steered, *(steered.generate(messages, off=off, **options) for off in (True, False))))

    return answering


def by_server(url: str, model: str) -> Answering:
    """Answers of a server at ``url`` (without ``/v1``), all prompts at once."""

    def answering(prompts: Sequence[ParityPrompt]) -> list[Steered]:
        headers = {"Authorization": f"Bearer {os.environ[KEY]}"} if os.environ.get(KEY) else {}
        with httpx.Client(base_url=url, timeout=_SECONDS, headers=headers, trust_env=False) as client, ThreadPoolExecutor(8) as pool:
            jobs = [pool.submit(_posted, client, model, prompt, off) for prompt in prompts for off in (True, False)]
            traces = [job.result() for job in jobs]
        return list(map(Steered, traces[::2], traces[1::2]))

    return answering


def _posted(client: httpx.Client, model: str, prompt: ParityPrompt, off: bool) -> Trace:
    first = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
    body = {
        "model": model,
        "messages": [*first, {"role": "user", "content": prompt.message}],
        "max_tokens": prompt.max_new_tokens,
        "temperature": 0,
        "stir": {"decisions": True, "off": off},
    }
    try:
        response = client.post("/v1/chat/completions", json=body)
        if response.status_code != 200:
            raise DeployError(f"the server refused a prompt ({response.status_code}): {response.text[:200]}; see its output")
        return Trace.model_validate(response.json()["stir"]["trace"])
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise DeployError(
            f"the server at {client.base_url} did not answer as it should ({type(error).__name__}: {error}): see its output"
        ) from None
