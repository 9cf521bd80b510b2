"""The parity certificate: the same prompts through the workbench's engine and through a target, and whether anything differs.

A certificate is one JSON file in the bundle, ``certificate-TARGET.json``. It carries a hash over all of itself, and the digest of what
steers in the bundle, so one that was edited, or that belongs to another bundle, is noticed. The manifest lists it among the files, with
SHA-256 and size, but it is not in the manifest's digest: certifying does not change what a bundle is. A failing one is written too.
"""

import os
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import Any, Literal, NamedTuple

import httpx
import numpy
import torch
import transformers

from stir_core.config import DecodeConfig, with_changes
from stir_core.deploy.bundle.reading import Bundle
from stir_core.deploy.certify.certificate import Certificate, CertifiedPrompt, Deployment, Tolerances, Worst
from stir_core.deploy.serving.process import serving
from stir_core.deploy.serving.runtime import SteeredModel
from stir_core.deploy.serving.service import KEY
from stir_core.errors import DeployError
from stir_core.intervene.session import STEERED, VANILLA, Session
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed, forward
from stir_core.models.prompting import user_message
from stir_core.records import OnProgress, Problem, Progress, StepTrace, Trace, TraceEvent
from stir_core.version import VERSION

_SECONDS = 3600.0
"""Longest that an answer of a server is waited for."""


class AnswerPair(NamedTuple):
    """The two answers that one prompt is given."""

    vanilla: Trace
    steered: Trace


class ParityPrompt(NamedTuple):
    """What a target is asked for: a rendered user message, and the system prompt."""

    message: str
    system: str | None
    max_new_tokens: int


Answering = Callable[[Sequence[ParityPrompt]], list[AnswerPair]]
"""A target: asks -> answers, in their order."""


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
    """Ask both and compare.

    Args:
        session: the workbench's engine, with the run's library or the bundle's.
        plain: the target's model, where its logits can be seen.
        reference: what ``session`` was made from, for the reader.
    """
    tolerances = tolerances or Tolerances()
    decode = with_changes(session.config.decode, max_new_tokens=max_new_tokens, temperature=0.0)
    asks = [_ask(session, problem, max_new_tokens) for problem in problems]
    theirs: list[AnswerPair] = []
    for i, ask in enumerate(asks):
        theirs.append(_reference(session, ask, decode))
        report(Progress("workbench", i + 1, len(problems), "answers"))
    ours = answering(asks)
    report(Progress(target, len(ours), len(problems), "answers"))
    found = Differences(tolerances)
    rows: list[CertifiedPrompt] = []
    for problem, ask, want, have in zip(problems, asks, theirs, ours, strict=True):
        before = len(found.lines)
        for name, one, two in (("vanilla", want.vanilla, have.vanilla), ("steered", want.steered, have.steered)):
            found.traces(f"{problem.id}, {name}", one, two, target)
        if plain is not None:
            found.logits(problem.id, session.model, plain, list(want.steered.prompt_ids))
        chosen = tuple(step.decision.chosen for step in want.steered.steps)
        rows.append(
            CertifiedPrompt(
                id=problem.id,
                question=ask.message,
                prompt_tokens=len(want.steered.prompt_ids),
                tokens=want.steered.tokens_used,
                decisions=chosen,
                same=len(found.lines) == before,
            )
        )
    made = Certificate(
        target=target,
        passed=not found.lines,
        first_difference=found.lines[0] if found.lines else None,
        bundle=bundle.manifest.digest,
        reference=reference,
        model=bundle.manifest.model,
        device=str(session.model.device),
        max_new_tokens=max_new_tokens,
        tolerances=tolerances,
        worst=Worst.model_validate(found.worst),
        prompts=tuple(rows),
        injected=sum(chosen is not None for row in rows for chosen in row.decisions),
        versions=software_versions(),
    )
    return made.replaced(sha256=made.digest)


class Differences:
    """Collects what differs between two answers, the first in words, the largest in numbers."""

    def __init__(self, tolerances: Tolerances):
        self.tolerances = tolerances
        self.lines: list[str] = []
        self.worst: dict[str, float | None] = dict.fromkeys(Worst.model_fields)

    def traces(self, name: str, one: Trace, two: Trace, target: str) -> None:
        """Compare what the workbench (``one``) and the target (``two``) made of a prompt."""
        if one.prompt_ids != two.prompt_ids:
            self._say(f"{name}: the workbench reads {len(one.prompt_ids)} prompt tokens, the {target} other ones ({len(two.prompt_ids)})")
            return
        for a, b in zip_longest(one.steps, two.steps):
            if a is None or b is None:
                self._say(f"{name}: the workbench has {len(one.steps)} steps, the {target} {len(two.steps)}")
                return
            if not self._step(f"{name}, control point {a.m}", a, b, target):
                return
        if (one.text, one.finish) != (two.text, two.finish):
            self._say(f"{name}: the tokens are the same, but the texts or endings differ")

    def logits(self, name: str, one: LoadedModel, two: LoadedModel, ids: list[int]) -> None:
        """Compare all logits behind a prompt."""
        a, b = (forward(model, [Feed(model.new_store().open(), ids)]).logits[0].cpu() for model in (one, two))
        if a.shape != b.shape:
            self._say(f"{name}: the workbench has {a.shape[0]} logits behind the prompt, the target {b.shape[0]}")
            return
        self._near(f"{name}: a logit behind the prompt", "logits", float((a - b).abs().max()), 0.0)

    def _step(self, name: str, a: StepTrace, b: StepTrace, target: str) -> bool:
        """Compare a step; False when what follows cannot be the same."""
        pairs = list(zip(a.evidence.retrieved, b.evidence.retrieved, strict=False))
        if [e.entry_id for e in a.evidence.retrieved] != [e.entry_id for e in b.evidence.retrieved]:
            self._say(f"{name}: the workbench and the {target} retrieve different entries")
        for mine, yours in pairs:
            if mine.entry_id == yours.entry_id:
                self._near(f"{name}: the cosine of {mine.entry_id}", "cosine", mine.sim, yours.sim)
                self._near(f"{name}: the preview of {mine.entry_id}", "logprob", mine.preview_logprob, yours.preview_logprob)
        self._near(f"{name}: the null preview", "logprob", a.evidence.null_logprob, b.evidence.null_logprob)
        for mine, yours in zip(a.decision.scored, b.decision.scored, strict=False):
            self._near(f"{name}: the score of {mine.entry_id}", "score", mine.score, yours.score)
        if a.decision.chosen != b.decision.chosen:
            self._say(f"{name}: the workbench chose {a.decision.chosen or 'null'}, the {target} {b.decision.chosen or 'null'}")
            return False
        self._near(f"{name}: the injected multiple", "score", a.decision.alpha, b.decision.alpha)
        for i, (mine, yours) in enumerate(zip_longest(a.token_ids, b.token_ids)):
            if mine != yours:
                self._say(f"{name}: token {i + 1} is {mine} in the workbench and {yours} in the {target}")
                return False
        for mine, yours in zip(a.logprobs, b.logprobs, strict=True):
            self._near(f"{name}: a token's log-probability", "logprob", mine, yours)
        return True

    def _near(self, name: str, what: str, one: float | None, two: float | None) -> None:
        if one is None and two is None:
            return
        if one is None or two is None:
            self._say(f"{name} was measured in one of the two only")
            return
        gap, known = abs(one - two), self.worst[what]
        self.worst[what] = gap if known is None else max(known, gap)
        if not gap <= getattr(self.tolerances, what):
            self._say(f"{name} differs by {gap:.2e}, more than {getattr(self.tolerances, what):g}")

    def _say(self, line: str) -> None:
        self.lines.append(line)


def software_versions() -> dict[str, str]:
    """Software that numbers depend on."""
    own = {"stir-workbench": VERSION, "torch": torch.__version__, "transformers": transformers.__version__, "numpy": numpy.__version__}
    return own | {"python": platform.python_version(), "machine": platform.machine()}


def _ask(session: Session, problem: Problem, max_new_tokens: int) -> ParityPrompt:
    return ParityPrompt(user_message(problem, session.config.task), session.config.task.system, max_new_tokens)


def _reference(session: Session, ask: ParityPrompt, decode: DecodeConfig) -> AnswerPair:
    events = session.compare(ask.message, session.config.gate, decode, raw=True)  # rendered already
    traces = {event.row: event.trace for event in events if isinstance(event, TraceEvent)}
    return AnswerPair(traces[VANILLA], traces[STEERED])


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
    """Certify one of the two that decode by themselves.

    Args:
        steered: the bundle on a model; for ``"server"`` it is asked through a server of this process.
        session: the workbench's engine, with the run's library or the bundle's.
        reference: what ``session`` was made from, for the reader.
        max_new_tokens: budget of an answer; the bundle's own where not given.
    """
    budget = steered.bundle.manifest.stage3.decode.max_new_tokens if max_new_tokens is None else max_new_tokens

    def by(answering: Answering, plain: LoadedModel | None) -> Certificate:
        facts: dict[str, Any] = {"reference": reference, "max_new_tokens": budget, "report": report}
        return certify(steered.bundle, session, problems, target, answering, plain=plain, **facts)

    if target == "runtime":
        return by(by_runtime(steered), steered.model)
    with serving(steered, "certified") as url:
        return by(by_server(url, "certified"), None)


def by_runtime(steered: SteeredModel) -> Answering:
    """Answers of the runtime, all prompts in one batch."""

    def answering(asks: Sequence[ParityPrompt]) -> list[AnswerPair]:
        options: dict[str, Any] = {"max_new_tokens": asks[0].max_new_tokens, "temperature": 0.0, "raw": True}
        messages = [ask.message for ask in asks]
        plain, moved = (steered.generate(messages, off=off, **options) for off in (True, False))
        return [AnswerPair(one.trace, two.trace) for one, two in zip(plain, moved, strict=True)]

    return answering


def by_server(url: str, model: str) -> Answering:
    """Answers of a server at ``url`` (without ``/v1``), all prompts at once."""

    def answering(asks: Sequence[ParityPrompt]) -> list[AnswerPair]:
        headers = {"Authorization": f"Bearer {os.environ[KEY]}"} if os.environ.get(KEY) else {}
        with httpx.Client(base_url=url, timeout=_SECONDS, headers=headers, trust_env=False) as client, ThreadPoolExecutor(8) as pool:
            jobs = [pool.submit(_posted, client, model, ask, off) for ask in asks for off in (True, False)]
            traces = [job.result() for job in jobs]
        return [AnswerPair(one, two) for one, two in zip(traces[::2], traces[1::2], strict=True)]

    return answering


def _posted(client: httpx.Client, model: str, ask: ParityPrompt, off: bool) -> Trace:
    first = [] if ask.system is None else [{"role": "system", "content": ask.system}]
    body = {
        "model": model,
        "messages": [*first, {"role": "user", "content": ask.message}],
        "max_tokens": ask.max_new_tokens,
        "temperature": 0,
        "stir": {"decisions": True, "off": off},
    }
    try:
        response = client.post("/v1/chat/completions", json=body)
        if response.status_code != 200:
            raise DeployError(f"the server refused a prompt ({response.status_code}): {response.text[:200]}")
        return Trace.model_validate(response.json()["stir"]["trace"])
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise DeployError(f"the server at {client.base_url} did not answer as it should ({type(error).__name__}: {error})") from None
