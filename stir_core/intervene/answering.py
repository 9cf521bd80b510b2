"""One answer on its way through Stage III, step by step: what it feeds to the next forward pass, and what it makes of the result.

``controller.steer`` drives it. The phases: ``recall`` reads given tokens with the impulses that were left in the cache, ``read`` runs the
clean prefix up to a control point, ``preview`` decodes the candidates' first tokens on branches, ``commit`` decodes the step.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from stir_core.config import DecodeConfig
from stir_core.intervene.gate import decide, preview_scale, shortlist, steerable
from stir_core.intervene.jobs import NULL, Forced, Job, Settings
from stir_core.intervene.memory import action_of
from stir_core.models.cache import Column, Row, Store, graft
from stir_core.models.cost import Cost, cost_of, flops
from stir_core.models.generation import Sampling, Strand
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed
from stir_core.models.steering import Impulse
from stir_core.records import Decision, Event, Finish, Reason, Retrieved, StepEvent, StepEvidence, StepTrace, TokenEvent, Trace, TraceEvent
from stir_core.seeding import generator_for
from stir_core.tasks.segment import StepScanner, boundaries


class Batch(NamedTuple):
    """What the answers of a batch share."""

    model: LoadedModel
    settings: Settings
    store: Store
    """One row an answer."""
    branches: Store
    """The previews' rows, which read their answer's row as their trunk."""


@dataclass(eq=False)
class LiveAnswer:
    """One answer on its way: what is committed, what the model has read of it, and what it is doing."""

    job: Job
    number: int
    """Which answer of the batch: the ``row`` of its events."""
    batch: Batch
    phase: Literal["recall", "read", "preview", "commit"] = "read"

    # -- the answer so far ---------------------------------------------------------------------------------------------
    ids: list[int] = field(default_factory=list)
    """Committed ids, the given ones included."""
    texts: list[str] = field(default_factory=list)
    """Their text step by step: ``compat`` tokenises these texts joined, which decoding all ids at once need not give."""
    steps: list[StepTrace] = field(default_factory=list)
    finish: Finish | None = None
    probe_tokens: int = 0
    reused_tokens: int = 0
    cost: Cost = field(default_factory=Cost)
    """As if it had been decoded alone: a prefix that it takes from a neighbour is charged to both."""

    # -- what the model has read of it -----------------------------------------------------------------------------------
    row: Row = None  # type: ignore[assignment]  # opened by begin
    read_ids: list[int] = field(default_factory=list)
    """The ids whose keys and values ``row`` holds outside a step; unsteered under ``ephemeral``."""
    segment: list[int] = field(default_factory=list)
    """What is to be read before the next step."""
    logits: Tensor | None = None
    """After the last id read, ``[d_vocab]``, before this step's impulse."""
    states: dict[int, Tensor] = field(default_factory=dict)
    """Residual stream there, ``[d_model]``, by layer of the library."""
    start: list[int] = field(default_factory=list)
    """Prompt and given tokens: what it reads first. All but the last stay unsteered in its row."""
    twin: "LiveAnswer | None" = None
    """A neighbour that is reading the same prefix, to be taken over from it when it has."""
    recalls: list[tuple[int, Impulse]] = field(default_factory=list)
    """Given tokens still to be read with an earlier impulse at the last of them: how many, and the impulse."""
    tail: list[int] = field(default_factory=list)
    """Given tokens behind the last finished step: where there are any, the answer begins inside a step."""

    # -- the step that is under way --------------------------------------------------------------------------------------
    step: int = 1
    """1-based; it begins at control point ``step - 1``."""
    forced: Forced | None = None
    """What is decided for the gate here; ``None``: the gate decides."""
    evidence: StepEvidence = field(default_factory=lambda: StepEvidence(m=0, position=0))
    candidates: tuple[Retrieved, ...] = ()
    previews: list[Strand] = field(default_factory=list)
    """Null first, then the candidates in their order."""
    decision: Decision = field(default_factory=lambda: Decision(chosen=None, alpha=0.0, score_null=None, reason=Reason(kind="forced")))
    impulse: Impulse | None = None
    """Decided and not yet injected: the next token fed carries it."""
    clean: Column | None = None
    """Keys and values of the last prefix token without the impulse, put back after the step (``ephemeral``)."""
    strand: Strand = field(default_factory=lambda: Strand("", 1))
    """The tokens that are being committed."""
    undrawn: dict[Strand, Tensor] = field(default_factory=dict)
    """Strands with the logits that their next token is drawn from."""
    probed: int = 0
    """This step's probe tokens, and of these the reused ones."""
    reused: int = 0
    shown: str = ""
    """Text of this step that its token events have given already."""

    @property
    def decode(self) -> DecodeConfig:
        """Budget and temperature: the job's own, or the batch's."""
        return self.job.decode or self.batch.settings.decode

    @property
    def sampling(self) -> Sampling:
        """How its tokens are drawn."""
        return Sampling(self.decode.temperature, self.decode.top_p)

    def leave(self, others: list["LiveAnswer"]) -> None:
        """Give back what it holds, before its end; a neighbour that waits to take its prefix over reads for itself."""
        self._close_previews()
        self.batch.store.close(self.row)
        for other in others:
            if other.twin is self:
                other.twin, other.cost = None, Cost()

    # -- the phases, each ending where the next begins -----------------------------------------------------------------

    def begin(self, neighbours: list["LiveAnswer"]) -> None:
        """Open a row, and read the prompt first; a prefix that a neighbour has read, or is about to, is taken from there."""
        settings, given = self.batch.settings, self.job.given
        self.row = self.batch.store.open()
        if given:
            ends = boundaries(given, self.batch.model.text, settings.delimiter)[: settings.control_points]
            self.ids, self.texts = list(given), [self.batch.model.text(given)]
            self.tail = list(given[ends[-1] if ends else 0 :])
            self.step = len(ends) + 1
        self._read_on()
        self.start = self.segment
        self._plan_recalls([0, *ends] if given else [])
        alike = next((other for other in neighbours if other.start == self.start and _same_past(other.job, self.job)), None)
        if alike is not None and len(self.start) > 1:
            self.cost += cost_of([Feed(self.row, self.start[:-1], logits=False)])
            self.twin = alike
            self.copy_twin()

    def copy_twin(self) -> None:
        """Take the prefix over once the neighbour has read it; the last token, which an impulse may change there, is still to be read."""
        assert self.twin is not None
        shared = len(self.start) - 1
        if self.twin.row.length < shared:
            return
        self.phase, self.recalls = "read", []
        self.batch.store.copy(self.twin.row, self.row, shared)
        self.read_ids, self.segment, self.twin = self.start[:shared], self.start[shared:], None

    def feeds(self) -> list[Feed]:
        """What the next forward pass runs for this answer; nothing while it waits for a neighbour."""
        if self.twin is not None:
            return []
        if self.phase == "recall" and not self.recalls:
            self.phase = "read"
        if self.phase == "recall":
            count, impulse = self.recalls[0]
            found = [Feed(self.row, self.segment[:count], impulse, logits=False)]
        elif self.phase == "read":
            found = [Feed(self.row, self.segment, capture=(len(self.segment) - 1,) if self.job.memory else ())]
        elif self.phase == "preview":
            found = [self._preview_feed(i, strand) for i, strand in enumerate(self.previews) if strand.finish is None]
        elif self.impulse is not None:
            found = [Feed(self.row, [self.read_ids[-1]], self.impulse)]
        else:
            found = [Feed(self.row, [self.strand.ids[-1]])]
        self.cost += cost_of(found)
        return found

    def take(self, logits: list[Tensor], states: list[dict[int, Tensor]]) -> None:
        """Take in what the pass gave: the logits of the feeds that asked for them, and the captured states of every feed."""
        if self.phase == "recall":
            count, _ = self.recalls.pop(0)
            self.read_ids, self.segment = [*self.read_ids, *self.segment[:count]], self.segment[count:]
        elif self.phase == "read":
            (self.logits,) = logits
            self.states = {layer: state[0] for layer, state in states[0].items()}
        elif self.phase == "preview":
            going = [strand for strand in self.previews if strand.finish is None]
            self.undrawn.update(zip(going, logits, strict=True))
        else:
            self.impulse = None
            self.undrawn[self.strand] = logits[0]

    def arrive(self) -> Iterator[Event]:
        """At a control point: retrieve; then preview, or decide at once."""
        self.read_ids = [*self.read_ids, *self.segment]
        self._retrieve()
        if self.candidates and self.forced is None:
            self._open_previews()
            return
        yield from self._decide()

    def drawn(self) -> Iterator[Event]:
        """Go on: every strand that was undrawn has its next token."""
        if self.phase == "preview":
            if all(strand.finish is not None for strand in self.previews):
                self._record_previews()
                yield from self._decide()
            return
        yield self._token_event(len(self.strand.ids))
        if self.strand.finish is not None:
            yield from self._close_step()

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read_on(self) -> None:
        """Find what has to be read before the next step; the row keeps what it shares with it."""
        wanted = self._wanted()
        shared, limit = 0, min(len(self.read_ids), len(wanted) - 1)
        while shared < limit and self.read_ids[shared] == wanted[shared]:
            shared += 1
        self.read_ids, self.segment = wanted[:shared], wanted[shared:]
        self.row.length = shared
        self.phase = "read"

    def _plan_recalls(self, ends: list[int]) -> None:
        """Cut what is read first at the control points (tokens before each) where an impulse was left in the cache."""
        past, gate = self.job.past, self.job.gate
        if past is None or gate.persistence != "persistent":
            return
        read = 0
        for m, end in enumerate(ends if self.tail else ends[:-1]):  # the last one is decided now, unless its step had begun
            left = past(m)
            if left is not None and left.label is not None and left.alpha:
                assert left.vector is not None  # a label comes with a vector
                position = len(self.job.prompt_ids) + end
                self.recalls.append((position - read, Impulse(left.layer, left.alpha * left.vector)))
                read = position
        self.phase = "recall" if self.recalls else "read"

    def _wanted(self) -> list[int]:
        """The whole prefix of the next step, prompt first; under ``compat`` its text tokenised again, as the published code does."""
        if self.batch.settings.compat and self.texts:
            model = self.batch.model
            return model.tokens(model.prompt_text(self.job.prompt_ids) + "".join(self.texts))
        return [*self.job.prompt_ids, *self.ids]

    def _retrieve(self) -> None:
        """The evidence before any preview, and whom to preview: nobody where something is forced or the gate may not steer."""
        gate, m = self.job.gate, self.step - 1
        retrieved: tuple[Retrieved, ...] = ()
        self.forced = NULL if self.tail else self.job.force(m) if self.job.force is not None else None
        if self.forced is not None:
            reason = Reason(kind="inside_step" if self.tail else "forced")
            self.evidence = StepEvidence(m=m, position=len(self.read_ids) - 1, not_retrieved=reason)
            self.candidates, self.probed, self.reused = (), 0, 0
            return
        reason = steerable(m, gate, self.batch.settings.control_points) or (Reason(kind="no_library") if self.job.memory is None else None)
        if reason is None and self.job.memory is not None:
            retrieved, reason = self.job.memory.retrieve(m, self.states, gate)
        n = self.job.memory.count(m) if self.job.memory is not None else 0
        self.evidence = StepEvidence(m=m, position=len(self.read_ids) - 1, retrieved=retrieved, n_entries=n, not_retrieved=reason)
        self.candidates = () if gate.variant == "no_probing" else shortlist(retrieved, gate)
        self.probed = self.reused = 0

    # -- previewing ----------------------------------------------------------------------------------------------------

    def _open_previews(self) -> None:
        """One branch a candidate behind all but the last token, and one for null, which has its first logits already."""
        self.phase = "preview"
        store, before = self.batch.branches, self.row.length - 1
        for name in ["null", *(entry.entry_id for entry in self.candidates)]:
            strand = self._strand("preview", self.job.gate.probe_tokens, name)
            strand.row = store.open(self.row, before)
            self.previews.append(strand)
        null = self.previews[0]
        assert null.row is not None and self.logits is not None
        store.put(null.row, 0, self.batch.store.column(self.row, before))
        null.row.length = 1
        self.undrawn[null] = self.logits

    def _preview_feed(self, i: int, strand: Strand) -> Feed:
        """The last prefix token with the candidate's impulse, then the branch's own tokens; ``i`` counts from null, which is 0."""
        assert strand.row is not None
        if strand.ids:
            return Feed(strand.row, [strand.ids[-1]])
        entry = self.candidates[i - 1]
        vector = preview_scale(entry, self.job.gate) * _action(self.job, entry.entry_id, self.batch.settings.seed)
        return Feed(strand.row, [self.read_ids[-1]], Impulse(entry.layer, vector))

    def _record_previews(self) -> None:
        """Write into the evidence what the previews, all of which have ended, measured."""
        null, *others = self.previews
        measured = {
            entry.entry_id: entry.replaced(
                preview_logprob=strand.mean_logprob, preview_ids=tuple(strand.ids), preview_scale=preview_scale(entry, self.job.gate)
            )
            for entry, strand in zip(self.candidates, others, strict=True)
        }
        self.evidence = self.evidence.replaced(
            retrieved=tuple(measured.get(entry.entry_id, entry) for entry in self.evidence.retrieved),
            null_logprob=null.mean_logprob,
            null_preview_ids=tuple(null.ids),
        )
        self.probed = sum(len(strand.ids) for strand in self.previews)

    def _preview_to_keep(self) -> Strand | None:
        """The preview that is itself the beginning of the committed step, if there is one."""
        if not self.previews or self.decode.temperature > 0:
            return None  # sampled steps draw from their own stream, so that choosing a preview does not bias them
        if self.decision.chosen is None:
            return self.previews[0]
        if self.job.gate.preview_scale == "committed":
            return next(s for s, entry in zip(self.previews[1:], self.candidates, strict=True) if entry.entry_id == self.decision.chosen)
        return None

    def _close_previews(self) -> None:
        """Give the branches back; one that was grafted lives in the answer's own row."""
        for strand in reversed(self.previews):
            if strand.row is not None and strand.row is not self.row:
                self.batch.branches.close(strand.row)
        self.previews.clear()

    # -- committing ----------------------------------------------------------------------------------------------------

    def _decide(self) -> Iterator[Event]:
        """Let the gate decide, or take what is forced; then begin the step, by going on with a preview where that is the same."""
        settings = self.batch.settings
        if self.forced is None:
            self.decision = decide(self.evidence, self.job.gate, seed=settings.seed, name=self.job.id)
        else:
            label, alpha = self.forced.label, self.forced.alpha if self.forced.label is not None else 0.0
            assert self.evidence.not_retrieved is not None  # what is forced is decided without looking
            self.decision = Decision(chosen=label if alpha else None, alpha=alpha, score_null=None, reason=self.evidence.not_retrieved)
        self.phase, self.shown = "commit", ""
        budget = self.decode.max_new_tokens - len(self.ids)
        kept = self._preview_to_keep()
        steered = self.decision.chosen is not None
        if steered and self.job.gate.persistence == "ephemeral":
            self.clean = self.batch.store.column(self.row, self.row.length - 1)
        if kept is not None:
            self._go_on_with(kept, budget)
        else:
            self.strand = self._strand(f"step{self.step}", budget, str(self.number), to_delimiter=self.step <= settings.control_points)
            self.strand.row = self.row
            if steered:
                self.row.length -= 1  # the last prefix token runs again, with the impulse
                self.impulse = _impulse(self)
            elif self.logits is not None:
                self.undrawn[self.strand] = self.logits
        self._close_previews()
        yield StepEvent(
            row=self.number,
            step=self.step,
            evidence=self.evidence,
            decision=self.decision,
            probe_tokens=self.probed,
            reused_tokens=self.reused,
        )
        for count in range(1, len(self.strand.ids) + 1):
            yield self._token_event(count)
        if self.strand.finish is not None:
            yield from self._close_step()

    def _go_on_with(self, preview: Strand, budget: int) -> None:
        """Take a preview over as the beginning of the step."""
        branch = preview.row
        assert branch is not None
        graft(branch, skip=0 if self.decision.chosen is not None else 1)  # null's first column is the trunk's own
        self.batch.branches.close(branch)
        self.strand, preview.row, preview.budget = preview, self.row, budget
        whole = len(preview.ids) <= budget
        if len(preview.ids) >= budget:
            del preview.ids[budget:], preview.logprobs[budget:]
            self.row.length = min(self.row.length, len(self.read_ids) + budget - 1)
            preview.finish = preview.finish if whole and preview.finish is not None else "length"
        elif preview.finish == "length":
            preview.finish = None
        self.reused = len(preview.ids)

    def _close_step(self) -> Iterator[Event]:
        """Take over the committed strand; go on reading, or end."""
        strand, model = self.strand, self.batch.model
        text = model.text(strand.ids)
        self.steps.append(
            StepTrace(
                step=self.step,
                evidence=self.evidence,
                decision=self.decision,
                token_ids=tuple(strand.ids),
                text=text,
                logprobs=tuple(strand.logprobs),
                probe_tokens=self.probed,
                reused_tokens=self.reused,
            )
        )
        self.ids += strand.ids
        self.tail = []
        self.texts.append(text)
        self.probe_tokens += self.probed
        self.reused_tokens += self.reused
        if strand.finish == "delimiter" and len(self.ids) < self.decode.max_new_tokens:
            if self.clean is not None:
                self.batch.store.put(self.row, len(self.read_ids) - 1, self.clean)
                self.clean = None
            else:  # the step's own context is the one to go on from: nothing has to be run again
                self.read_ids = [*self.read_ids, *strand.ids[:-1]]
            self.step += 1
            self._read_on()
            return
        self.finish = "stop" if strand.finish == "stop" else "length"
        self.batch.store.close(self.row)
        yield TraceEvent(row=self.number, trace=self._trace())

    def _trace(self) -> Trace:
        model, settings = self.batch.model, self.batch.settings
        return Trace(
            id=self.job.id,
            variant=self.job.gate.variant if self.job.memory is not None else "no_memory",
            prompt_ids=tuple(self.job.prompt_ids),
            steps=tuple(self.steps),
            token_ids=tuple(self.ids),
            text="".join(self.texts) if settings.compat else model.text(self.ids),
            finish=self.finish or "length",
            tokens_used=len(self.ids),
            probe_tokens=self.probe_tokens,
            reused_tokens=self.reused_tokens,
            forward_tokens=self.cost.tokens,
            flops=flops(model.shape, self.cost),
            given=len(self.job.given),
        )

    def _token_event(self, count: int) -> TokenEvent:
        """The ``count``-th token of the step with the text that it adds."""
        strand = self.strand
        text = self.batch.model.text(strand.ids[:count])
        whole = not text.endswith("\ufffd")  # half a character: wait for the rest of its bytes
        new = text[len(self.shown) :] if whole else ""
        self.shown = text if whole else self.shown
        return TokenEvent(row=self.number, step=self.step, token_id=strand.ids[count - 1], text=new, logprob=strand.logprobs[count - 1])

    def _strand(self, stream: str, budget: int, branch: str, *, to_delimiter: bool = True) -> Strand:
        # all branches of a preview draw from the same stream, so that they differ by their impulse alone
        settings, model = self.batch.settings, self.batch.model
        rng = generator_for(settings.seed, stream, self.job.id, self.evidence.m) if self.decode.temperature > 0 else None
        scanner = StepScanner(model.text, settings.delimiter) if to_delimiter else None
        if scanner is not None:
            for token in self.tail:  # a delimiter may have begun in what is given
                scanner.push(token)
        return Strand(f"{self.job.id}/{stream}/{branch}", budget, rng, scanner.push if scanner else None)


def _impulse(answer: LiveAnswer) -> Impulse:
    """What the decision injects: ``alpha`` times the chosen action, or times the forced vector."""
    chosen = answer.decision.chosen
    if answer.forced is not None:
        assert answer.forced.vector is not None  # a label comes with a vector
        return Impulse(answer.forced.layer, answer.decision.alpha * answer.forced.vector)
    entry = next(entry for entry in answer.evidence.retrieved if entry.entry_id == chosen)
    return Impulse(entry.layer, answer.decision.alpha * _action(answer.job, entry.entry_id, answer.batch.settings.seed))


def _same_past(one: Job, other: Job) -> bool:
    """True when equal given tokens leave equal keys and values behind."""
    return one.past is other.past and (one.past is None or one.gate.persistence == other.gate.persistence)


def _action(job: Job, entry_id: str, seed: int) -> Tensor:
    assert job.memory is not None  # candidates only come from a memory
    return action_of(job.memory, job.gate, entry_id, seed)
