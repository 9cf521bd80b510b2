"""The step loop of Stage III: at each control point retrieve, preview, decide, commit one impulse, and read the step again unsteered.

:func:`answer` is the algorithm, one answer from its prompt to its trace, in the paper's order and terms. Many answers go through it side by
side (a single prompt is a batch of one): one may preview while another commits and a third reads, all in the same pass
(``models.scheduler``). Each has its own gate; a vanilla answer has no library.

Invariants at every control point (the tests compare with one full prefill for each token):

- ``row`` holds keys and values of ``read``: the prompt and all committed tokens. Under ``ephemeral`` they are those of the unsteered model
  reading the text: a step is decoded with its impulse and then read again without it (*unsteered*), which also gives the state and
  the logits at the next control point. Under ``persistent`` the steered keys and values of a step stay.
- An impulse is added at the last token of the prefix, by reading that token again. Only its column of keys and values changes, in the
  layers above the impulse; ``ephemeral`` saves the unsteered column and restores it after the step.
- A preview is a branch that reads the row up to that last token in place, so a fork copies nothing. Under greedy decoding a preview
  that is committed unchanged (null, or any with ``preview_scale = "committed"``) is appended to the row and continued: nothing is
  decoded twice. A sampled step draws from its own stream, so that choosing a preview does not bias it.
- The preview of an action that is committed at another strength is a good guess of the step under greedy decoding: one pass reads it with
  the committed impulse, and the tokens that the model draws there itself are the step's, as far as they agree.
- A preview is decoded as long as its candidate can still win. With ``gate.previews = "all"`` the rest follows afterwards, in passes of
  its own; decisions, tokens and everything that was seen before are the same, bit for bit, for an answer that is decoded alone.
"""

from collections.abc import Generator, Iterator, Sequence
from math import log

from torch import Tensor

from stir_core.intervene.gate import contenders, decide, needs_all, null_value, preview_scale, shortlist, steerable
from stir_core.intervene.jobs import NULL, Forced, Job, Settings
from stir_core.intervene.memory import action_of, check_gate
from stir_core.intervene.travel import received_batch, received_job, sent_batch, sent_job
from stir_core.models.cache import CacheRow, graft, shared_length
from stir_core.models.cost import flops
from stir_core.models.generation import Sampling, Strand, TextStream, greedy_tokens
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed, Pass
from stir_core.models.scheduler import Draws, Fetch, Intake, Listed, Seat, Steps, next_token, schedule
from stir_core.models.steering import Impulse
from stir_core.models.workers import Parcel, Workers
from stir_core.records import Decision, Event, Phase, Reason, Retrieved, StepEvent, StepEvidence, StepTrace, TokenEvent, Trace, TraceEvent
from stir_core.seeding import generator_for
from stir_core.tasks.segment import StepScanner
from stir_core.tasks.thinking import PartBudgets, in_phase


def steer(model: LoadedModel, jobs: list[Job] | Intake[Job], settings: Settings) -> Generator[Event, None, None]:
    """Decode every job step by step, side by side, yielding each decision, token and finished trace as it happens.

    Source: arXiv 2602.04925, Stage III. In float32 a job's events do not depend on its neighbours. Closing the iterator drops all answers.

    Args:
        jobs: a list, or an intake whose jobs may join while others are decoded; new ones begin between two passes. Where the model has
            workers, a list of jobs that can travel is decoded by them, and only finished traces are told.
    """
    if model.workers is not None and isinstance(jobs, list) and all(job.past is None and job.overrule is None for job in jobs):
        return _steered_by(model.workers, jobs, settings)
    intake = jobs if isinstance(jobs, Intake) else Listed(jobs, settings.rows)
    return schedule(model, intake, lambda seat, job: answer(seat, job, settings))


def run_all(model: LoadedModel, jobs: list[Job], settings: Settings) -> list[Trace]:
    """The finished traces of :func:`steer`, in the jobs' order."""
    traces = {event.row: event.trace for event in steer(model, jobs, settings) if isinstance(event, TraceEvent)}
    return [traces[row] for row in range(len(jobs))]


def _steered_by(workers: Workers, jobs: list[Job], settings: Settings) -> Generator[Event, None, None]:
    memories = list({id(job.memory): job.memory for job in jobs if job.memory is not None}.values())
    common = sent_batch(memories, settings)
    items = (sent_job(job, number, memories, settings.control_points) for number, job in enumerate(jobs))
    for row, result in workers.share(steer_shard, common, items, settings.rows or len(jobs)):
        yield TraceEvent(row=row, trace=Trace.model_validate_json(result.plain))


def steer_shard(model: LoadedModel, common: Parcel, shard: Parcel) -> Iterator[tuple[int, Parcel]]:
    """A worker's part of :func:`steer`: the trace of each job."""
    memories, settings = received_batch(common)
    jobs = [received_job(plain, number, shard.arrays, memories) for number, plain in shard.plain]
    for event in steer(model, jobs, settings):
        if isinstance(event, TraceEvent):
            yield shard.plain[event.row][0], Parcel(event.trace.model_dump_json())


def answer(seat: Seat, job: Job, settings: Settings) -> Steps[None]:
    """One answer from its prompt to its trace, as a generator for the scheduler; see the head of this file."""
    model, gate, decoding = seat.model, job.gate, job.decode or settings.decode
    check_gate(gate, job.memory)
    sampling = Sampling(decoding.temperature, decoding.top_p)
    seat.layers = job.memory.layers if job.memory is not None else ()
    capture = job.memory is not None
    ids, steps = list(job.given), list[StepTrace]()
    texts = [model.text(ids)] if ids else []
    ends = [0, *_scanner(model, job, settings).boundaries(ids)[: settings.control_points]]
    m, tail = len(ends) - 1, ids[ends[-1] :]  # tail: given tokens of an unfinished step, whose rest is decoded unsteered
    scanner = _scanner(model, job, settings)  # at the control point
    scanner.boundaries(ids[: ends[-1]])
    parts = model.budgets(job.prompt_ids, decoding, ids)  # after all committed tokens

    row, read = seat.open(), _prefix(model, job, ids, texts, settings)
    here = yield from seat.read(row, read, capture=capture, past=_past(job, ends, tail), share=_share(job, settings))
    while True:
        phase = scanner.thinking.phase if scanner.thinking is not None else None
        forced = NULL if tail else None
        if job.force is not None and not tail:
            forced = job.force(m) if in_phase(phase, job.within) else NULL
        # retrieve
        place, first = yield from _brought(job, settings, m, here, forced, phase, sampling)
        evidence = evidence_at(job, settings, m, len(read) - 1, place, forced, phase, inside=bool(tail))
        # preview
        candidates = () if forced is not None or gate.variant == "no_probing" else shortlist(evidence.retrieved, gate)
        previews: list[Strand] = []
        needed = False
        if candidates:
            previewing = _preview(seat, job, settings, scanner, parts, evidence, candidates, row, read[-1], here.logits, sampling, first)
            evidence, previews, needed = yield from previewing
        probed = sum(len(preview.ids) for preview in previews)
        # decide
        decision = decision_at(job, settings, evidence, forced)
        # commit
        impulse = impulse_of(job, evidence, decision, forced, settings.seed)
        ephemeral = impulse is not None and gate.persistence == "ephemeral"
        unsteered = seat.batch.store.column(row, row.length - 1) if ephemeral else None
        budget = decoding.max_new_tokens - len(ids)
        strand = _preview_to_keep(candidates, previews, decision, job) if needed and sampling.temperature == 0 else None
        if strand is not None:
            _go_on_with(seat, strand, row, budget, skip=0 if impulse is not None else 1)
        else:
            last = m == settings.control_points  # after it the rest of the answer is one strand
            strand = _strand(job, settings, None if last else scanner, parts, m, budget, f"step{m + 1}", tail=tail)
            strand.row, strand.forced = row, () if steps else job.begin
            if job.skip and impulse is not None:
                strand.forced = model.tokens(settings.delimiter)
        for preview in previews:
            if preview is not strand and preview.row is not None:
                seat.close(preview.row)
        # decode the step
        reused = len(strand.ids) if previews else 0
        counts = {"step": m + 1, "evidence": evidence, "decision": decision, "probe_tokens": probed, "reused_tokens": reused}
        yield StepEvent(row=seat.number, **counts)
        again: Feed | None = None
        if strand.finish is None and reused:
            again = next_token(strand)
        elif impulse is not None and not reused:
            row.length -= 1  # the last token of the prefix is read again, with the impulse
            guess = guess_of_step(candidates, previews, decision, strand) if sampling.temperature == 0 and model.backend.packs else []
            again = Feed(row, [read[-1], *guess], impulse, every=True, first=True)
        missed = yield from _step(seat, strand, m + 1, again, here, sampling, first)
        text, logprobs = model.text(strand.ids), tuple(strand.logprobs)
        steps.append(StepTrace(**counts, token_ids=tuple(strand.ids), text=text, logprobs=logprobs, missed_tokens=missed))
        scanner.boundaries([*tail, *strand.ids])
        parts = strand.parts
        ids += strand.ids
        texts.append(text)
        if strand.finish != "delimiter" or len(ids) >= decoding.max_new_tokens:
            break
        # read again unsteered
        if unsteered is not None:
            seat.batch.store.put(row, len(read) - 1, unsteered)
        else:
            read = read + strand.ids[:-1]  # nothing to undo, under null or ``persistent``: only the step's last token is not read yet
        wanted = _prefix(model, job, ids, texts, settings)
        row.length = min(shared_length(read, wanted), len(wanted) - 1)  # at least one token is read, for its logits and states
        here = yield [Feed(row, wanted[row.length :], capture=(len(wanted) - row.length - 1,) if capture else ())]
        read, m, tail = wanted, m + 1, []
    text = "".join(texts) if settings.compat else model.text(ids)
    trace = Trace(
        id=job.id,
        variant=gate.variant if job.memory is not None else "no_memory" if job.force is None else "forced",
        prompt_ids=tuple(job.prompt_ids),
        steps=tuple(steps),
        token_ids=tuple(ids),
        text=text,
        finish="stop" if strand.finish == "stop" else "length",
        tokens_used=len(ids),
        probe_tokens=sum(step.probe_tokens for step in steps),
        reused_tokens=sum(step.reused_tokens for step in steps),
        forward_tokens=seat.cost.tokens,
        flops=flops(model.shape, seat.cost),
        given=len(job.given),
        thinking=model.thinking(job.prompt_ids, ids, text, parts),
    )
    yield TraceEvent(row=seat.number, trace=trace)


def _scanner(model: LoadedModel, job: Job, settings: Settings) -> StepScanner:
    return model.scanner(job.prompt_ids, settings.delimiter, None if settings.compat else settings.phase)


# -- the prefix --------------------------------------------------------------------------------------------------------------------------


def _prefix(model: LoadedModel, job: Job, ids: list[int], texts: list[str], settings: Settings) -> list[int]:
    """Prompt and committed tokens; under ``compat`` their text tokenised again, step by step joined, as the published code does."""
    if settings.compat and texts:
        return model.tokens(model.prompt_text(job.prompt_ids) + "".join(texts))
    return [*job.prompt_ids, *ids]


def _past(job: Job, ends: list[int], tail: list[int]) -> list[tuple[int, Impulse]]:
    """Impulses to read the given tokens with: (number of tokens up to the control point, impulse).

    The decision at the last control point is still to be made, unless its step has begun.
    """
    impulses: list[tuple[int, Impulse]] = []
    if job.past is not None and job.gate.persistence == "persistent":
        for m, end in enumerate(ends if tail else ends[:-1]):
            decision = job.past(m)
            if decision is not None and decision.impulse is not None:
                impulses.append((len(job.prompt_ids) + end, decision.impulse))
    return impulses


def _share(job: Job, settings: Settings) -> tuple[object, ...] | None:
    """Answers with equal prefixes and an equal value here have equal keys and values; ``None``, never shared, under ``compat``."""
    return None if settings.compat else (job.past, job.past is not None and job.gate.persistence)


# -- retrieve ----------------------------------------------------------------------------------------------------------------------------


def _brought(
    job: Job, settings: Settings, m: int, here: Pass, forced: Forced | None, phase: Phase | None, sampling: Sampling
) -> Steps[tuple[Pass, tuple[int, float] | None]]:
    """What is retrieved by, on the host, and with it the next token under null, where that is greedy."""
    if forced is not None or job.memory is None or steerable(m, job.gate, settings.control_points, phase) is not None:
        return here, None
    greedy = sampling.temperature == 0 and not job.likeliest
    first = greedy_tokens(here.logits) if greedy else ()
    logits = () if job.memory.policies is None else (here.logits,)  # learned gates see how certain the next token is
    host = iter((yield Fetch([*here.states[-1].values(), *logits, *first])))
    states = {layer: next(host) for layer in here.states[-1]}
    place = Pass(next(host) if logits else here.logits, [states])
    return place, (int(next(host)), float(next(host))) if greedy else None


def evidence_at(
    job: Job, settings: Settings, m: int, position: int, here: Pass, forced: Forced | None, phase: Phase | None, *, inside: bool
) -> StepEvidence:
    """The evidence before any preview; nothing is retrieved if the decision is forced or the gate may not steer."""
    if forced is not None:
        return StepEvidence(m=m, position=position, phase=phase, not_retrieved=Reason(kind="inside_step" if inside else "forced"))
    reason = steerable(m, job.gate, settings.control_points, phase)
    if job.memory is None:
        return StepEvidence(m=m, position=position, phase=phase, not_retrieved=reason or Reason(kind="no_library"))
    retrieved: tuple[Retrieved, ...] = ()
    features: tuple[float, ...] | None = None
    if reason is None:
        states = {layer: state[-1] for layer, state in here.states[-1].items()}
        retrieved, reason = job.memory.retrieve(m, states, job.gate, phase)
        features = job.memory.features(m, states, here.logits[-1]) if retrieved else None
    n = job.memory.count(m, phase)
    recall = job.memory.recall(m) if retrieved and job.gate.search == "approximate" else None
    place = {"m": m, "position": position, "phase": phase, "recall": recall}
    return StepEvidence(**place, retrieved=retrieved, n_entries=n, not_retrieved=reason, features=features)


# -- preview -----------------------------------------------------------------------------------------------------------------------------


def _preview(
    seat: Seat,
    job: Job,
    settings: Settings,
    scanner: StepScanner,
    parts: PartBudgets | None,
    evidence: StepEvidence,
    candidates: tuple[Retrieved, ...],
    row: CacheRow,
    last: int,
    logits: Tensor,
    sampling: Sampling,
    known: tuple[int, float] | None,
) -> Steps[tuple[StepEvidence, list[Strand], bool]]:
    """Decode the first tokens under null and under candidates on branches that fork before the prefix's last token.

    First as far as the decision needs it: null's preview, beside it the best candidate if it is above null by value alone, then all that
    may yet win (:func:`stir_core.intervene.gate.contenders`), side by side. With ``gate.previews = "all"``, and under a gate that sees
    every preview, the others follow, so that what is needed is decoded in the same passes and has the same bits.

    Args:
        last: the last token of the prefix, which each candidate's branch reads with its impulse.
        logits: unsteered logits after it, ``[1, d_vocab]``, for null's first draw; ``known`` is this draw where the host has it.

    Returns:
        The evidence with what was seen; the previews, null first, then the candidates in order; and whether any was needed.
    """
    gate, before = job.gate, row.length - 1
    null, *others = (_strand(job, settings, scanner, parts, evidence.m, gate.probe_tokens, "preview") for _ in range(len(candidates) + 1))
    of = dict(zip((entry.entry_id for entry in candidates), others, strict=True))
    # a greedy token is at least as likely as one of all tokens drawn at random; a token that a budget forces may be less so
    floor = -log(logits.shape[1]) - 1e-3 if sampling.temperature == 0 and parts is None else None

    def seen(entry: Retrieved) -> Retrieved:
        return _seen(entry, of[entry.entry_id], job) if entry.entry_id in of else entry

    def told() -> StepEvidence:
        whole = null.finish is not None
        return evidence.replaced(
            retrieved=tuple(map(seen, evidence.retrieved)),
            null_logprob=null.mean_logprob if whole else None,
            null_at_least=None if whole else floor,
            null_preview_ids=tuple(null.ids),
        )

    def on(entries: Sequence[Retrieved], *, with_null: bool) -> Steps[None]:
        """One more token of each."""
        if with_null and not null.ids:
            null.row = seat.branch(row, before)
            null.row.store.put(null.row, 0, seat.batch.store.column(row, before))
            null.row.length = 1
            yield Draws([null], logits, sampling, known)
        going = [null] if with_null and null.finish is None else []
        feeds = [next_token(strand) for strand in going]
        for entry in entries:
            strand = of[entry.entry_id]
            going.append(strand)
            if strand.row is not None:
                feeds.append(next_token(strand))
                continue
            strand.row = seat.branch(row, before)
            impulse = Impulse(entry.layer, preview_scale(entry, gate) * _action(job, entry.entry_id, settings.seed))
            feeds.append(Feed(strand.row, [last], impulse))
        if feeds:
            yield Draws(going, (yield feeds).logits, sampling)

    needed = False
    if needs_all(gate) is None and job.overrule is None:
        score_null = gate.beta * null_value(evidence.retrieved)
        while open_ := contenders(told(), gate):
            needed = True
            begun = [entry for entry in open_ if of[entry.entry_id].ids]
            if null.finish is None:
                first = [entry for entry in open_ if gate.beta * entry.value > score_null]
                yield from on((begun or first)[:1], with_null=True)
            else:
                yield from on(begun if len(begun) == 1 else open_, with_null=False)
        while needed and null.finish is None:  # it is the step's own beginning, unless it is sampled or an action wins
            yield from on((), with_null=True)
        if gate.previews == "needed":
            return told(), [null, *others], needed
    while null.finish is None or any(strand.finish is None for strand in others):
        yield from on([entry for entry in candidates if of[entry.entry_id].finish is None], with_null=True)
    return told(), [null, *others], needed or needs_all(gate) is not None or job.overrule is not None


def _seen(entry: Retrieved, preview: Strand, job: Job) -> Retrieved:
    """A candidate with its preview so far."""
    measured: dict[str, object] = {"preview_ids": tuple(preview.ids)}
    if preview.ids:
        measured["preview_scale"] = preview_scale(entry, job.gate)
    if preview.finish is not None:
        return entry.replaced(**measured, preview_logprob=preview.mean_logprob)
    return entry.replaced(**measured, preview_at_most=preview.mean_at_most)


# -- decide and commit -------------------------------------------------------------------------------------------------------------------


def decision_at(job: Job, settings: Settings, evidence: StepEvidence, forced: Forced | None) -> Decision:
    """The gate's decision, overruled if the job says so, or the forced one."""
    if forced is not None:
        return _forced_decision(evidence, forced)
    policies = job.memory.policies if job.memory is not None else None
    decision = decide(evidence, job.gate, seed=settings.seed, name=job.id, policies=policies)
    return decision if job.overrule is None or evidence.not_retrieved is not None else job.overrule(evidence, decision)


def _forced_decision(evidence: StepEvidence, forced: Forced) -> Decision:
    alpha = forced.alpha if forced.label is not None else 0.0
    assert evidence.not_retrieved is not None  # a forced step retrieves nothing
    return Decision(chosen=forced.label if alpha else None, alpha=alpha, score_null=None, reason=evidence.not_retrieved)


def impulse_of(job: Job, evidence: StepEvidence, decision: Decision, forced: Forced | None, seed: int) -> Impulse | None:
    """``alpha`` times the chosen action, or times the forced vector; ``None`` for null."""
    if forced is not None:
        return forced.impulse
    if decision.chosen is None:
        return None
    entry = next(entry for entry in evidence.retrieved if entry.entry_id == decision.chosen)
    return Impulse(entry.layer, decision.alpha * _action(job, entry.entry_id, seed))


def _step(
    seat: Seat, strand: Strand, number: int, again: Feed | None, here: Pass, sampling: Sampling, first: tuple[int, float] | None
) -> Steps[int]:
    """Decode a step to its end, yielding each token, first those of a preview that was kept. Returns how many guessed tokens were not its.

    Args:
        again: read before the first draw; without it, the first draw is from ``here``. Tokens after its first are a guess of the step's
            own: as long as they are drawn, they need not be read again.
        first: the draw from ``here``, where it is known.
    """
    stream = TextStream(seat.model.text)

    def told(i: int) -> TokenEvent:
        token_id, alternatives = strand.ids[i], strand.alternatives[i] if strand.likeliest else ()
        place = {"row": seat.number, "step": number, "token_id": token_id, "text": stream.push(token_id)}
        return TokenEvent(**place, logprob=strand.logprobs[i], alternatives=alternatives)

    for i in range(len(strand.ids)):
        yield told(i)
    guess, at, missed = [] if again is None else again.ids[1:], 0, 0
    known = [first] if again is None else [None]
    if again is not None:
        here = yield [again]
        if guess and not strand.likeliest:
            ids, logprobs = yield Fetch(greedy_tokens(here.logits))
            known = list(zip(ids.tolist(), logprobs.tolist(), strict=True))
    while strand.finish is None:
        yield Draws([strand], here.logits[at : at + 1], sampling, known[at] if at < len(known) else None)
        yield told(-1)
        if at < len(guess) and strand.finish is None and strand.ids[-1] == guess[at]:
            at += 1
            continue
        assert strand.row is not None
        missed += len(guess) - at
        strand.row.length -= len(guess) - at  # what was guessed beyond is not the step's
        guess, at, known = [], 0, []
        if strand.finish is None:
            here = yield [next_token(strand)]
    return missed


def _preview_to_keep(candidates: tuple[Retrieved, ...], previews: list[Strand], decision: Decision, job: Job) -> Strand | None:
    """The preview that equals the beginning of the greedily decoded step, if there is one."""
    if not previews or (job.skip and decision.chosen is not None):
        return None
    if decision.chosen is None:
        return previews[0]
    entry, preview = next(pair for pair in zip(candidates, previews[1:], strict=True) if pair[0].entry_id == decision.chosen)
    return preview if preview.finish is not None and preview_scale(entry, job.gate) == decision.alpha else None


def guess_of_step(candidates: tuple[Retrieved, ...], previews: list[Strand], decision: Decision, step: Strand) -> list[int]:
    """The chosen candidate's preview as a guess of the greedily decoded step, whose impulse is the same but for its strength."""
    if not previews or step.forced:
        return []
    preview = next(preview for entry, preview in zip(candidates, previews[1:], strict=True) if entry.entry_id == decision.chosen)
    whole = preview.ids if preview.finish == "length" else preview.ids[:-1]  # nothing of the step follows its end
    return whole[: step.budget - 1]


def _go_on_with(seat: Seat, preview: Strand, row: CacheRow, budget: int, *, skip: int) -> None:
    """Append a preview to the answer's row, as the beginning of the step. ``skip`` is 1 for null, whose first column is the row's own."""
    branch, prefix = preview.row, row.length
    assert branch is not None
    graft(branch, skip=skip)
    seat.close(branch)
    preview.row, preview.budget = row, budget
    if len(preview.ids) >= budget:
        whole = len(preview.ids) == budget
        del preview.ids[budget:], preview.logprobs[budget:], preview.alternatives[budget:]
        row.length = min(row.length, prefix + budget - 1)
        preview.finish = preview.finish if whole and preview.finish is not None else "length"
    elif preview.finish == "length" and not (preview.parts is not None and preview.parts.left == 0):
        preview.finish = None


def _strand(
    job: Job,
    settings: Settings,
    scanner: StepScanner | None,
    parts: PartBudgets | None,
    m: int,
    budget: int,
    stream: str,
    *,
    tail: Sequence[int] = (),
) -> Strand:
    """A strand of the step after control point ``m``, which draws from the random stream named ``stream``.

    All previews draw from streams of one name, so that they differ by their impulse only.

    Args:
        scanner: at the control point; it is copied. ``None``: no delimiter ends the strand.
        parts: budgets at the control point, with the tail; they are copied.
        tail: given tokens of this step: a delimiter may begin in them.
    """
    decoding = job.decode or settings.decode
    rng = generator_for(settings.seed, stream, job.id, m) if decoding.temperature > 0 else None
    scanner = scanner.copy() if scanner is not None else None
    if scanner is not None:
        scanner.boundaries(tail)
    ends_step, parts = scanner.push if scanner is not None else None, parts.copy() if parts is not None else None
    return Strand(f"{job.id}/{stream}", budget, rng, ends_step, parts, likeliest=job.likeliest)


def _action(job: Job, entry_id: str, seed: int) -> Tensor:
    assert job.memory is not None  # candidates come from a memory
    return action_of(job.memory, job.gate, entry_id, seed)
