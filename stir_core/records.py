"""The frozen records that the stages exchange. They hold no tensors: those are in safetensors files beside them.

Every record is strict (unknown fields are refused) and round-trips through one line of JSON. ``None`` always means
"not measured" or "does not apply"; it never stands for a number.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from stir_core.errors import DataError, StirError

AnswerKind = Literal["math", "number", "choice", "yesno"]
EntryKind = Literal["corrective", "null"]
Finish = Literal["stop", "length", "delimiter"]
"""Why decoding ended: an end-of-text token, the token budget, or the step delimiter."""

Variant = Literal["stir", "no_memory", "no_probing", "random_vector", "random_choice"]
"""The method or an ablation of it; the paper's ablation ``"no_memory"`` decodes as vanilla does."""
# The word "no_memory" stays, although it is called vanilla elsewhere: digests of settings contain it, and runs are found by their digests.


PolicyName = Literal["value", "probe", "direct", "ips", "awr"]
"""Who decides at a step: the published gate by value, or a gate that was learned from logged decisions."""


def null_word(word: Any) -> Any:
    """``"null"`` for ``"nothing"``, the word of schema 1 for no impulse."""
    return "null" if word == "nothing" else word


Arm = Annotated[str, BeforeValidator(null_word)]
"""The injected vector: an entry's id, or a word such as ``"null"`` for no impulse."""

Phase = Literal["thinking", "final"]
"""The part of an answer that a control point lies in: before the tag that ends the thinking, or after it."""
PhaseChoice = Literal["thinking", "final", "both"]

RecordT = TypeVar("RecordT", bound=BaseModel)


class Record(BaseModel):
    """Base of all records: immutable, strict, one line of JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def replaced(self: RecordT, **values: Any) -> RecordT:
        """A copy with other values, which are not validated again. Settings are changed by ``with_changes``, which validates.

        Raises:
            TypeError: the record has no such field.
        """
        if unknown := values.keys() - type(self).model_fields.keys():
            raise TypeError(f"{type(self).__name__} has no field {', '.join(sorted(unknown))}")
        return self.model_copy(update=values)


class Checked(BaseModel):
    """Base of the objects that users construct: an unusable key or value is a :class:`StirError` of one line."""

    noun: ClassVar[str]
    """The word for one of its fields in a refusal."""
    refusal: ClassVar[type[StirError]]

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise self.refusal(refusal_line(error.errors()[0], type(self))) from None

    # pydantic calls an __init__ without this mark for nested objects too, whose errors would then lose the path to them
    __init__.__pydantic_base_init__ = True  # pyright: ignore[reportFunctionMemberAccess]


def refusal_line(first: Any, root: type[Checked], flags: Mapping[str, str] | None = None) -> str:
    """One of pydantic's errors in one line, with the key and the remedy.

    Args:
        flags: by key, the flag of the command line that set its value: it is named instead of the key.
    """
    ends = next((i + 1 for i, part in enumerate(first["loc"]) if isinstance(part, int)), None)
    if first["type"] in ("missing", "extra_forbidden"):  # of a section in a list; else after an index comes a type, not a key
        ends = None
    *place, last = map(str, first["loc"][:ends] or [""])
    path = ".".join([*place, last])
    if first["type"] == "extra_forbidden":
        known = _keys_at(place, root)
        close = difflib.get_close_matches(last, known, n=1)
        hint = f"did you mean {'.'.join([*place, close[0]])}?" if close else f"known {root.noun.split()[-1]}s here: {', '.join(known)}"
        return f"unknown {root.noun} {path}: {hint}"
    if first["type"] == "missing":
        return f"{root.noun} {path} is missing: give it a value"
    said, value = first["msg"].removeprefix("Value error, "), first["input"]
    message = said[0].lower() + said[1:]
    if first["type"] == "tuple_type":
        message = f"give a list, e.g. [{value!r}]"
    if isinstance(value, Mapping | BaseModel) or not path or first["type"] == "secret":
        # a rule about several keys, which the message names, or a value that nobody should see
        return f"{root.noun} {path}: {message}" if path else message
    flag = (flags or {}).get(path)
    return f"{f'{root.noun} {path} =' if flag is None else flag} {value!r:.200}: {message}"


def _keys_at(path: list[str], root: type[BaseModel]) -> list[str]:
    section = root
    for part in path:
        if part.isdecimal():  # an index: the section below is that of the list
            continue
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
        annotation = get_args(annotation)[0] if get_origin(annotation) is tuple else annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        section = annotation
    return list(section.model_fields)


class Progress(NamedTuple):
    """The progress of one kind of work."""

    stage: str
    """Name of the work, e.g. ``"rollouts"`` or ``"eval"``."""
    done: int
    total: int
    unit: str
    """Name of the counted items, e.g. ``"answers"``."""
    tokens: int = 0
    """Tokens decoded so far."""
    kept: bool = True
    """Whether everything that is done is on the disk, so that the command may end here and continue later."""


OnProgress = Callable[[Progress], None]
"""Callback that every long command calls during its work."""


class Problem(Checked, Record):
    """One question with its gold answer."""

    noun: ClassVar[str] = "problem field"
    refusal: ClassVar[type[StirError]] = DataError

    id: str
    """Unique within the task, stable across machines, e.g. ``"gsm8k/test/17"``."""
    task: str
    split: str
    question: str
    answer: str
    """The gold answer in the form for grading: LaTeX, a number, a letter, or yes / no."""
    kind: AnswerKind
    choices: tuple[str, ...] = ()
    """For ``kind="choice"``: the texts of A, B, C, ... in order."""
    solution: str | None = None
    """The data set's worked solution, if it has one (needed by ``pos_source = "gold"``)."""
    level: str | None = None
    """The data set's label of difficulty or subject, for tables."""


class Verdict(Record):
    """A grader's result for one answer."""

    correct: bool
    extracted: str | None
    """The final answer as text; ``None``: the text states none."""
    gold: str
    method: str
    """How it was extracted and compared, e.g. ``"boxed, algebra"`` or ``"letter, equality"``."""
    reason: str
    """One line for a reader: why the answer is right, wrong or missing."""
    finished: bool
    """False when no final answer was stated (cut off, or unfinished)."""


class Thinking(Record):
    """Where the thinking of an answer ends."""

    tokens: int
    """Its generated tokens, with the closing tag; all of the answer if it was not closed."""
    chars: int
    """Its characters at the beginning of the answer's text, with the tags."""
    closed: bool
    forced: bool = Field(default=False, exclude_if=lambda forced: not forced)
    """Whether the closing tag was written because the thinking's budget was spent."""


_IF_ANY: Any = Field(exclude_if=lambda value: value is None)
"""For fields that older files do not have: absent where there is nothing to say."""


class Rollout(Record):
    """One sampled answer to one problem, with its step boundaries as token positions."""

    problem_id: str
    k: int
    """Which of the K rollouts of the problem."""
    seed: int
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """Generated ids, including the end-of-text token if there is one."""
    text: str
    finish: Finish
    boundaries: tuple[int, ...]
    """``boundaries[m - 1]`` = number of generated tokens after which ``m`` steps are finished."""
    mean_logprob: float | None
    """Mean log-probability of the generated tokens under the model (temperature 1), in nats."""
    verdict: Verdict
    reward: float
    thinking: Annotated[Thinking | None, _IF_ANY] = None
    """``None``: the answer has no thinking part; likewise in other records."""

    @property
    def n_tokens(self) -> int:
        """Number of generated tokens."""
        return len(self.token_ids)

    def phase(self, m: int) -> Phase | None:
        """The part that control point ``m`` lies in."""
        if self.thinking is None:
            return None
        return "thinking" if self.boundaries[m - 1] <= self.thinking.tokens else "final"


class Pair(Record):
    """Right and wrong rollouts of one problem to contrast at one control point; chosen before states are read."""

    problem_id: str
    m: int
    """Control point."""
    positives: tuple[int, ...]
    """Rollout numbers; empty when the positive is the gold solution."""
    negatives: tuple[int, ...]
    reward_pos: float
    reward_neg: float
    gold: bool = False
    """Whether the data set's worked solution is the positive."""
    phase: Annotated[Phase | None, _IF_ANY] = None
    """The part of the answers that the control point lies in."""

    @property
    def quality(self) -> float:
        """Reward gap ``mean R+ - mean R-``."""
        return self.reward_pos - self.reward_neg


class StateRow(Record):
    """The origin of a row of ``states.safetensors``: the residual stream at one control point of one rollout."""

    row: int
    problem_id: str
    source: Literal["rollout", "gold"]
    k: int
    """Rollout number; 0 for a gold solution."""
    m: int
    position: int
    """Token position (0-based, prompt included) of the last token of the prefix."""


class StepState(Record):
    """The origin of a row of ``steps/steps.safetensors``: the state at the end of one step of one rollout (``m = 0``: of the prompt)."""

    row: int
    problem_id: str
    k: int
    """Rollout number."""
    m: int
    """Number of finished steps: the row is the state at the end of step m, which began at the row before."""
    n_tokens: int
    """Tokens of the step."""
    text: str
    """Its text; empty for the prompt."""


class Entry(Record):
    """One library entry: a key and, for a corrective entry, the latent action that it retrieves."""

    id: str
    """E.g. ``"p0007c"``: pair 7, corrective. Stable within a run."""
    kind: EntryKind
    pair: int
    """Number of the mined pair; its corrective and its null entry share it."""
    problem_id: str
    m: int
    """Control point: number of finished steps."""
    layer: int
    """0-based block whose output (``blocks.{layer}.hook_out``) is the space of key and action."""
    quality: float
    """Reward gap between the positives and the negatives."""
    reward_pos: float
    reward_neg: float
    positives: tuple[int, ...]
    """Rollout numbers k of the positives; empty when they come from the gold solution."""
    negatives: tuple[int, ...]
    pos_source: Literal["rollout", "gold"] = "rollout"
    key_row: int
    """Row of ``keys`` in ``actions.safetensors``."""
    action_row: int | None
    """Row of ``actions`` in ``actions.safetensors``; ``None`` for a null entry."""
    key_norm: float
    """Euclidean, in residual-stream units; likewise for the action."""
    action_norm: float | None
    reachable: bool
    """False at m = M: retrieval uses control points 1..M-1 only."""
    phase: Annotated[Phase | None, _IF_ANY] = None
    """The part of the answers that it was mined in, and is retrieved in; ``None``: in any."""


class Continuation(Record):
    """One answer sampled again from a mined prefix, to see whether its outcome repeats."""

    problem_id: str
    source: Literal["rollout", "gold"]
    k: int
    """Rollout that the prefix is the beginning of; 0 for a gold solution."""
    m: int
    """Control point where the prefix ends."""
    roll: int
    """Which continuation of this prefix, from 0."""
    n_tokens: int
    """Tokens sampled after the prefix; 0 when the prefix had used up the budget."""
    finish: Finish
    text: str
    """The whole answer, including the prefix."""
    verdict: Verdict


class Control(Record):
    """Controls for the confounds of an action's mining (``v``: the action, right minus wrong)."""

    entry_id: str
    length_cosine: float | None
    """Cosine of ``v`` with the length direction (shorter minus longer correct rollouts) of the *other* problems at its (m, layer)."""
    length_matched_cosine: float | None
    """Cosine of ``v`` with itself re-estimated from right and wrong rollouts matched in length; ``None``: its row is zero."""
    length_gap: float | None
    """Mean tokens of the negatives minus mean tokens of the positives."""
    length_gap_matched: float | None
    """The same after matching."""
    shuffled_cosine: float | None
    """Cosine of ``v`` with itself re-estimated under shuffled labels (1: the shuffle drew the true labels); ``None``: its row is zero."""
    permutation_p: float | None
    """Share of labellings of the same rollouts, including the true one, whose action is at least as long as ``v``. Null hypothesis:
    labels are exchangeable among the rollouts that reach the control point. Labellings that choose the same rollouts tie, so without an
    effect p is above 0.5 more often than not."""
    permutation_floor: float | None
    """Smallest p that these rollouts can give; with few rollouts it is large."""
    stability_pos: float | None
    """Share of right answers among continuations sampled from the positives' prefixes."""
    stability_neg: float | None
    """Share of right answers among continuations sampled from the negatives' prefixes."""
    leave_one_out: float | None
    """Smallest cosine of ``v`` with itself re-estimated without one of its rollouts; ``None``: one positive and one negative."""
    others_cosine: float | None
    """Cosine of ``v`` with the mean action of the other problems at its (m, layer)."""


class Pick(Record):
    """One entry of the control basis, in the order it was picked."""

    rank: int
    entry_id: str
    forced: bool
    """True when it was picked to satisfy ``min_per_control_point``, not by gain."""
    gain: float | None
    """Marginal gain of the objective when picked; ``None`` for a selector without gains."""
    quality: float | None = None
    """Measured quality that selection and retrieval use for it; ``None``: the mined quality."""


class MarginThreshold(Record):
    """What the key margin of one control point and layer was worth on mined problems, each judged by the keys of the others.

    The margin of a state is its mean cosine with the nearest corrective keys minus that with the nearest null keys.
    """

    m: int
    layer: int
    states: int
    problems: int
    """Problems with right and wrong rollouts there."""
    auc: float | None
    """Share of pairs of a right and a wrong rollout of one problem in which the wrong one has the larger margin, with its 95 % interval."""
    low: float | None
    high: float | None
    p_holm: float | None = None
    """One-sided p of an AUC of at most 0.5, corrected (Holm) for the number of places."""
    nearest: int = 1
    """Keys of each kind whose cosines a margin averages."""
    threshold: float | None
    """Margin above which a gate with ``rule = "calibrated"`` steers; ``None``: it abstains, since chance is not excluded."""


class PolicyWeights(Record):
    """A learned gate: a linear score of features (``policies.Policies``), and the threshold at which it acts."""

    policy: PolicyName
    basis: str
    """Digest of the control basis that it was fitted with."""
    layer: int
    bias: float
    state: tuple[float, ...]
    """Weights of the state's features."""
    candidate: tuple[float, ...] = ()
    """Weights of a candidate's features; empty for the probe, which sees the state only."""
    threshold: float | None
    """The probe abstains where its log-odds of a right answer reach it; the others act where a candidate's score is above it.
    ``None``: it abstains everywhere, since no gain over null was seen on mined problems."""

    def score(self, features: Sequence[float], candidate: Sequence[float] = ()) -> float:
        """The score of a state (of the probe: log-odds of a right answer), or of a candidate there."""
        seen = zip((*self.state, *self.candidate), (*features, *candidate), strict=True)
        return self.bias + sum(weight * value for weight, value in seen)


class Retrieved(Record):
    """One entry that was retrieved for a step, with its value and its preview, if it was previewed."""

    entry_id: str
    kind: EntryKind
    layer: int
    sim: float
    """Cosine between the state and the entry's key."""
    quality: float
    value: float
    """``A = sim * quality``."""
    preview_logprob: float | None = None
    """Mean log-probability of the preview tokens under the steered model; ``None`` when not previewed to its end."""
    preview_at_most: Annotated[float | None, _IF_ANY] = None
    """The largest mean log-probability that a candidate's preview could still have when it was stopped, or never begun, since the candidate
    could not win; ``None`` for all other entries."""
    preview_ids: tuple[int, ...] = ()
    preview_scale: float | None = None
    """Multiple of the action that was injected in the preview."""


ReasonKind = Literal[
    "vanilla",
    "start",
    "before_window",
    "after_window",
    "in_thinking",
    "in_final",
    "no_library",
    "too_few_entries",
    "below_min_sim",
    "abstains",
    "below_margin",
    "nothing_retrieved",
    "forced",
    "inside_step",
    "no_corrective",
    "not_previewed",
    "not_above_null",
    "cannot_win",
    "below_tau_null",
    "no_strength",
    "above_null",
    "policy_abstains",
    "ends_right",
    "policy_below",
    "policy_above",
    "handled",
    "left_explicit",
]

_WORDS: dict[ReasonKind, str] = {
    "vanilla": "vanilla: always null",
    "start": "control point 0 is never steered",
    "before_window": "control point {value:g} lies before {limit:g}, the first that may be steered",
    "after_window": "control point {value:g} lies after {limit:g}, the last that may be steered",
    "in_thinking": "inside the thinking: gate.phase is final",
    "in_final": "behind the thinking: gate.phase is thinking",
    "no_library": "no library",
    "too_few_entries": "{value:g} entries at this control point, min_entries is {limit:g}",
    "below_min_sim": "best cosine {value:.3f} < min_sim {limit:g}",
    "abstains": "abstains: no key margin told right from wrong here on mined problems",
    "below_margin": "key margin {value:.3f} not above {limit:.3f}",
    "nothing_retrieved": "nothing retrieved",
    "forced": "forced",
    "inside_step": "inside a step",
    "no_corrective": "no corrective entry among the retrieved",
    "not_previewed": "no candidate's preview was measured",
    "not_above_null": "best {entry_id} {value:.3f} <= null {limit:.3f}",
    "cannot_win": "{entry_id} cannot win: at most {value:.3f} against {limit:.3f}",
    "below_tau_null": "best {entry_id} {value:.3f} < tau_null {limit:g}",
    "no_strength": "{entry_id} won at {value:.3f}, but its strength is not above 0: nothing to inject",
    "above_null": "{entry_id} {value:.3f} > null {limit:.3f}",
    "policy_abstains": "the learned gate abstains everywhere: no gain over null was seen on mined problems",
    "ends_right": "the probe expects a right answer: log-odds {value:.2f}, at least {limit:.2f}",
    "policy_below": "the learned gate scores {entry_id} {value:.3f}, not above {limit:.3f}",
    "handled": "handled latently by {entry_id}: rank {value:.3f}",
    "left_explicit": "left explicit: {entry_id} ranks {value:.3f}, too low for this share",
    "policy_above": "the learned gate scores {entry_id} {value:.3f} > {limit:.3f}",
}

_SENTENCES: dict[ReasonKind, str] = {
    "vanilla": "variant no_memory: always null",
    "start": "control point 0 is never steered",
    "before_window": r"control point (?P<value>\d+) lies outside (?P<limit>\d+)\.\.\d+",
    "after_window": r"control point (?P<value>\d+) lies outside \d+\.\.(?P<limit>\d+)",
    "no_library": "no library",
    "too_few_entries": r"(?P<value>\d+) entries at control point \d+, min_entries is (?P<limit>\d+)",
    "below_min_sim": r"best cosine (?P<value>\S+) < min_sim (?P<limit>\S+)",
    "nothing_retrieved": "nothing retrieved",
    "forced": "forced",
    "inside_step": "inside a step",
    "no_corrective": "no corrective entry among the retrieved",
    "not_previewed": "no candidate's preview was measured",
    "not_above_null": r"best (?P<entry_id>.+) (?P<value>\S+) <= null (?P<limit>\S+)",
    "below_tau_null": r"best (?P<entry_id>.+) (?P<value>\S+) < tau_null (?P<limit>\S+)",
    "no_strength": r"strength is \S+: (?P<entry_id>.+) won at (?P<value>\S+), nothing to inject",
    "above_null": r"(?P<entry_id>.+) (?P<value>\S+) > null (?P<limit>\S+)",
}
"""The sentences by which schema 1 stored reasons. Never changed, since runs on disk contain them."""


class Reason(Record):
    """Why the gate injected an action at a step or chose null: the deciding rule, and the numbers that it compared.

    ``str(reason)`` is the only wording: the same text on the command line, in pages, exports and documents.
    """

    kind: ReasonKind
    entry_id: str | None = None
    """The candidate of the rule; ``None``: the rule concerns no single candidate."""
    value: float | None = None
    """The compared number: the candidate's score, the best cosine, the number of entries, or the control point."""
    limit: float | None = None
    """Its limit: the score of null or of the best candidate, or a setting of the gate."""

    def __str__(self) -> str:
        return _WORDS[self.kind].format(entry_id=self.entry_id, value=self.value, limit=self.limit)

    @model_validator(mode="before")
    @classmethod
    def _of_sentence(cls, data: Any) -> Any:
        """Read the sentences of schema 1."""
        if not isinstance(data, str):
            return data
        for kind, pattern in _SENTENCES.items():
            if read := re.fullmatch(pattern, data):
                numbers = read.groupdict()
                if kind != "before_window" or int(numbers["value"]) < int(numbers["limit"]):
                    return {"kind": kind, **numbers}
        raise ValueError(f"{data!r} is not a reason that schema 1 knew")

    @model_validator(mode="after")
    def _with_its_numbers(self) -> "Reason":
        missing = [name for name in ("entry_id", "value", "limit") if "{" + name in _WORDS[self.kind] and getattr(self, name) is None]
        if missing:
            raise ValueError(f"a reason of kind {self.kind} needs {', '.join(missing)}")
        return self


class StepEvidence(Record):
    """The measurements before one step: enough to decide again with other gate parameters, without a model."""

    m: int
    """Control point: the next step is number m + 1."""
    position: int
    """Token position (prompt included) of the control point, at which an impulse is injected."""
    phase: Annotated[Phase | None, _IF_ANY] = None
    """The part of the answer that it lies in; ``None``: the answer had not begun to think."""
    retrieved: tuple[Retrieved, ...] = ()
    n_entries: int = 0
    """Library entries at this control point."""
    recall: Annotated[float | None, _IF_ANY] = None
    """Share of the true nearest entries that the index finds which searched here (see ``intervene.nearest``); ``None``: exact search."""
    null_logprob: float | None = None
    null_at_least: Annotated[float | None, _IF_ANY] = None
    """The smallest mean log-probability that null's preview could have; ``None``: not known, or not needed, since there is a preview."""
    null_preview_ids: tuple[int, ...] = ()
    not_retrieved: Reason | None = None
    """Why nothing was retrieved; ``None``: entries were retrieved."""
    features: Annotated[tuple[float, ...] | None, _IF_ANY] = None
    """What learned gates see of the state (``policies.Policies.features``); ``None``: the run had none, or nothing was retrieved."""


class Scored(Record):
    """One candidate's score in a decision."""

    entry_id: str
    value: float
    """``A = sim * quality``."""
    gain: float | None
    """``P_i - P_null`` in nats per token; ``None`` when not measured."""
    score: float | None
    """``None`` when the candidate could not be scored (its preview was not measured)."""
    at_most: Annotated[float | None, _IF_ANY] = None
    """The largest score that it could still have, if its preview was not decoded to its end because it could not win."""
    against: Annotated[float | None, _IF_ANY] = None
    """What that does not win against: null's score, ``tau_null``, or the best candidate's score."""
    policy_score: Annotated[float | None, _IF_ANY] = None
    """The learned gate's score: predicted advantage over null (``direct``), or logit against null (``ips``, ``awr``)."""

    @property
    def stopped(self) -> str | None:
        """Why its preview was not decoded to its end, e.g. ``cannot win: at most 0.412 against 0.523``; ``None``: it was."""
        if self.at_most is None or self.against is None:
            return None
        return f"cannot win: at most {self.at_most:.3f} against {self.against:.3f}"


class Decision(Record):
    """The gate's decision at one step, and the reason."""

    chosen: str | None
    """Entry id of the committed action; ``None`` when null won."""
    alpha: float
    """Multiple of the action that was injected; 0 when null won."""
    score_null: float | None
    scored: tuple[Scored, ...] = ()
    """Candidates in preview order (best value first)."""
    reason: Reason
    """Its text is e.g. ``p0003c 1.944 > null 1.871`` or ``best p0003c 0.412 <= null 0.523``."""

    @field_validator("reason", mode="before")
    @classmethod
    def _exact(cls, data: Any, info: Any) -> Any:
        """The sentences of schema 1 give scores to three digits; the scores beside them are exact."""
        if not isinstance(data, str):
            return data
        read = Reason.model_validate(data)
        score = next((scored.score for scored in info.data.get("scored", ()) if scored.entry_id == read.entry_id), None)
        if score is None:
            return read
        against_null = read.kind in ("above_null", "not_above_null")
        return read.replaced(value=score, limit=info.data.get("score_null") if against_null else read.limit)


class StepTrace(Record):
    """One decoded step: the evidence before it, the decision, and the tokens that followed."""

    step: int
    """1-based; the step before control point ``step``."""
    evidence: StepEvidence
    decision: Decision
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...]
    """Log-probability of each committed token under the model that decoded it (steered where an impulse was live)."""
    probe_tokens: int
    reused_tokens: int = 0
    """Preview tokens that became the step's first tokens without being decoded again; included in both counts."""
    missed_tokens: int = Field(default=0, exclude_if=lambda missed: not missed)
    """Tokens of the chosen preview that were read with the step's impulse as a guess of the step, and are not the step's own."""

    @property
    def m(self) -> int:
        """The control point at which it begins: the number of steps before it."""
        return self.evidence.m


class Trace(Record):
    """One answer decoded step by step, steered or not."""

    id: str
    """Problem id, or ``"prompt"`` for a free prompt."""
    variant: Variant | Literal["forced"]
    """The gate's; without a library ``"no_memory"`` (vanilla), or ``"forced"`` if the impulses were prescribed, such as a fixed vector."""
    prompt_ids: tuple[int, ...]
    steps: tuple[StepTrace, ...]
    token_ids: tuple[int, ...]
    """All committed ids: the concatenation of the steps'."""
    text: str
    finish: Finish
    tokens_used: int
    """Committed tokens, which ``max_new_tokens`` bounds."""
    probe_tokens: int
    """Tokens decoded in previews."""
    reused_tokens: int = 0
    """Probe tokens that were committed unchanged; they are included in both counts."""
    forward_tokens: int
    """Token positions run through the model for this answer, including prompt, previews and unsteered passes."""
    flops: float | None = None
    """Floating-point operations of those passes, by formula (see ``models.cost``)."""
    given: int = 0
    """Tokens that were given as the beginning of the answer; they are counted as committed."""
    seconds: float | None = None
    verdict: Verdict | None = None
    thinking: Annotated[Thinking | None, _IF_ANY] = None

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The gate's decision before each step."""
        return tuple(step.decision for step in self.steps)

    @property
    def step_ends(self) -> tuple[int, ...]:
        """Number of tokens up to the end of each step but the last: the control points of the answer."""
        return tuple(accumulate(len(step.token_ids) for step in self.steps[:-1]))

    @property
    def total_tokens(self) -> int:
        """Committed plus probe tokens."""
        return self.tokens_used + self.probe_tokens


class ModelIdentity(Record):
    """The model that an artefact was made with. Artefacts cannot be used with a model that differs in a checked field."""

    name: str
    """The name that it was loaded by; never checked, since one model has many names."""
    weights_sha256: str
    """Of the GGUF file, or over the safetensors files (``models.catalogue.weights_digest``)."""
    tokenizer_sha256: str
    """Over vocabulary, merges, special tokens and chat template."""
    processing: Literal["raw"] = "raw"
    """Always raw: weights are neither folded nor centred, so vectors are in Hugging Face coordinates."""
    dtype: str
    """Its numeric type, e.g. ``"float32"``."""
    architecture: str
    """Class of the Hugging Face model."""
    n_layers: int
    d_model: int
    hook: str = "blocks.{layer}.hook_out"
    template_args: Annotated[dict[str, Any], Field(exclude_if=lambda args: not args)] = {}
    """Arguments of the chat template, with the date that it writes; empty: it got none and writes no date."""
    think_tags: Annotated[tuple[str, str] | None, _IF_ANY] = None
    """Opening and closing tag of the thinking that were set; ``None``: those of the template and the tokenizer, if any."""


class Manifest(Record):
    """The contents of a stage folder, its inputs, and its model."""

    schema_version: Literal[1, 2] = 2
    """1: reasons were sentences."""
    stage: str
    model: ModelIdentity
    layers: tuple[int, ...] = ()
    config_digest: str
    """Digest of the part of the config that this stage and those before it depend on."""
    inputs: dict[str, str] = {}
    """Digests of the stages that it was made from, by stage."""
    files: dict[str, str] = {}
    """SHA-256 of every file in the folder, by name."""
    counts: dict[str, int] = {}
    notes: tuple[str, ...] = ()
    """Warnings for the reader, e.g. that a selection is empty."""


class TokenWeight(Record):
    """A vocabulary token, and the change that a direction makes to its logit."""

    token_id: int
    text: str
    logit: float


class Lens(Record):
    """The tokens that an action promotes and suppresses through the final norm's gain and the unembedding."""

    entry_id: str
    promoted: tuple[TokenWeight, ...]
    suppressed: tuple[TokenWeight, ...]


class TokenEvent(Record):
    """While decoding: one committed token of one row."""

    row: int
    """Number of the answer among those decoded together; for all events."""
    step: int
    token_id: int
    text: str
    """Text that this token adds (empty while a character is incomplete)."""
    logprob: float
    """Under the model that decoded it, temperature 1, in nats."""
    alternatives: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens in its place with their log-probabilities, likeliest first, as many as the job asks for."""

    @property
    def m(self) -> int:
        """The control point at which its step begins."""
        return self.step - 1


class StepEvent(Record):
    """While decoding: a step is about to start; its evidence and the gate's decision are known."""

    row: int
    step: int
    evidence: StepEvidence
    decision: Decision
    probe_tokens: int
    reused_tokens: int = 0

    @property
    def m(self) -> int:
        """The control point at which the step begins."""
        return self.evidence.m


class TraceEvent(Record):
    """While decoding: a row has ended; its whole trace."""

    row: int
    trace: Trace


Event = TokenEvent | StepEvent | TraceEvent


def finished_traces(events: Iterable[Event]) -> Iterator[tuple[int, Trace]]:
    """Row and trace of each answer, as it ends; other events are dropped."""
    return ((event.row, event.trace) for event in events if isinstance(event, TraceEvent))
