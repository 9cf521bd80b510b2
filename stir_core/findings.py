"""The frozen records of evaluations: answers of methods, comparisons, continuations, and reports.

Like the records of ``records``, they are strict, immutable, and one line of JSON each. ``None`` means "not measured".
"""

# pyright: reportGeneralTypeIssues=false
# (fields that are optional in a request are required in a spec: there they have no default)

from math import nan
from typing import Annotated, Final, Literal

from pydantic import Field

from stir_core.config import GateConfig
from stir_core.records import Arm, Finish, MarginThreshold, ModelIdentity, Record, Thinking, Trace, Verdict
from stir_core.requests import CausalRequest, EvaluationRequest, PolicyRequest


class Answer(Record):
    """One problem answered by one method, graded, with its costs."""

    method: str
    """Name with its parameters, e.g. ``"self_consistency:k=5"``."""
    problem_id: str
    seed: int
    """Number of the repetition; a deterministic method has 0 only."""
    token_ids: tuple[int, ...]
    """The committed answer."""
    text: str
    finish: Finish
    tokens_used: int
    """Committed tokens."""
    probe_tokens: int
    """Tokens decoded beside the answer: previews, trial answers, discarded votes."""
    reused_tokens: int = 0
    """Tokens that are included in both counts, but were decoded once."""
    prompt_tokens: int
    """Tokens of the prompt, counted each time that it was read."""
    forward_tokens: int
    """Token positions run through the model, including all of the above."""
    flops: float
    """Floating-point operations of those passes, by formula."""
    seconds: float | None = None
    """Share of the batch's wall-clock time; the shares of a method add up to its time."""
    verdict: Verdict | None = None
    trace: Trace | None = None
    """Steps and decisions, for methods that go step by step."""
    facts: dict[str, float | int | str] = Field(default_factory=dict)
    """The method's own measurements, e.g. the confidence at which it stopped."""
    thinking: Annotated[Thinking | None, Field(exclude_if=lambda thinking: thinking is None)] = None

    @property
    def decoded(self) -> int:
        """Tokens decoded for this answer: committed and probe, reused ones counted once."""
        return self.tokens_used + self.probe_tokens - self.reused_tokens


EffectVerdict = Literal["helps", "harms", "no effect seen", "cannot tell"]
"""What a measured effect shows, as ``evaluate.statistics.verdict_of`` decides."""
NO_INTERVAL: Final = "too few problems for an interval"


def p_text(p: float | None) -> str:
    """A p-value with three digits; ``"-"`` where there was no test."""
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


class Estimate(Record):
    """A number with its 95 % confidence interval; both ends are ``None`` where there is none."""

    value: float
    low: float | None = None
    high: float | None = None
    missing: Literal["too few problems for an interval", "no interval: all equal"] | None = None
    """Why there is no interval."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Both ends as numbers, for charts and comparisons: NaN where there is no interval, so that every comparison is false."""
        return nan if self.low is None else self.low, nan if self.high is None else self.high

    def interval(self, form: str, times: int = 1) -> str:
        """``"[0.25, 0.75]"`` for ``.2f``, or why there is none."""
        if self.low is None or self.high is None:
            return self.missing or NO_INTERVAL
        return f"[{times * self.low:{form}}, {times * self.high:{form}}]"

    def __format__(self, form: str) -> str:
        """``"0.50 [0.25, 0.75]"`` for ``.2f``, ``"50.0 % [25.0, 75.0]"`` for ``.1%``, ``"0.50 (too few problems ...)"``.

        A signed percentage is a difference of percentages: ``"+5.0 points [-2.5, +12.5]"`` for ``+.1%``.
        """
        times, unit = (1, "") if not form.endswith("%") else (100, " points" if form.startswith("+") else " %")
        form = form.replace("%", "f")
        interval = self.interval(form, times)
        return f"{times * self.value:{form}}{unit} {interval if self.low is not None else f'({interval})'}"


class Leak(Record):
    """An evaluation problem that was also mined, exactly or nearly."""

    problem_id: str
    mined_id: str
    similarity: float
    """1 for a word-for-word copy, else the Jaccard similarity of word 3-grams."""
    exact: bool


class EvaluationSpec(Record, EvaluationRequest):
    """The settings of an evaluation: the request with all values settled before the first token, and its run, library and model."""

    label: str
    task: str
    levels: tuple[str, ...] = ()
    n: int
    max_new_tokens: int
    template: str
    system: str | None = None
    gate: dict[str, float | int | str | None]
    """The run's own gate, which the method ``stir`` without parameters uses."""
    run: str
    config_digest: str
    """Digest of the run's config."""
    basis: str
    """Digest of the run's control basis."""
    advantages: str | None = None
    """SHA-256 of the measured advantages that ``library=measured`` is made from; ``None``: no method uses them."""
    curated: str | None = None
    """Digest of the library ``library=curated``; ``None``: no method uses it."""
    policies: Annotated[str | None, Field(exclude_if=lambda digest: digest is None)] = None
    """SHA-256 of the weights of the learned gates; ``None``: no method uses them."""
    codes: Annotated[str | None, Field(exclude_if=lambda codes: codes is None)] = None
    """Digest of the codebook that ``library=codes`` is made from; ``None``: no method uses it."""
    model: ModelIdentity
    seed: int
    leaks: tuple[Leak, ...] = ()
    same_words: int = 0
    """Problems that differ from a mined one in numbers only."""
    left_out: tuple[str, ...] = ()
    """Problems that no method answers, since their prompt leaves no room in the model's context: one line each."""
    command: str | None = None
    environment: dict[str, str] = Field(default_factory=dict)


class Comparison(Record):
    """A method against the baseline, on the same problems."""

    against: str
    won: tuple[str, ...]
    """Problems that the method answered right and the baseline wrong (with several seeds: right more often)."""
    lost: tuple[str, ...]
    tied: int
    difference: Estimate
    """Accuracy minus the baseline's; score interval (``evaluate.statistics.clustered_difference``)."""
    p: float
    """Two-sided, by ``test``."""
    test: str
    p_holm: float
    """Holm-corrected over the methods of the report."""
    tokens: Estimate
    """Decoded tokens per answer (committed and probe, reused ones once) minus the baseline's; t interval over problems."""
    committed: Estimate
    """Committed tokens minus the baseline's."""
    untouched: int | None = None
    """Answers of `stir` without an impulse; ``None`` for other methods, where answers are repeated or the baseline is another one than
    vanilla, and in reports from before it was kept."""
    rounded: int | None = None
    """Of these, answers whose text is not the baseline's. In float32 there are none; in shorter types rounding depends on what shares a
    pass."""
    rounded_won: int | None = None
    """Of these, answers that are right where the baseline's are not: none of the method's doing."""
    rounded_lost: int | None = None
    """Of these, answers that are wrong where the baseline's are right."""


class Advantage(Estimate):
    """Measured causal value of one action: right answers with it minus without it, from the same states and with the same seeds.

    ``value`` is the difference of the shares of right answers, in [-1, 1].
    """

    entry_id: str
    tokens: Estimate
    """Tokens of the answer with the action minus without."""
    states: int
    """Control points of held-out answers at which it was tried."""
    problems: int | None = None
    """Problems of these answers; ``None`` in studies from before intervals took problems as clusters, likewise below."""
    pairs: int
    """Pairs of continuations, one with and one without it."""
    won: int
    """Pairs that were right only with the action; ``lost``: only without it."""
    lost: int
    p: float | None
    """As in :class:`ArmEffect`."""
    p_holm: float | None = None
    """Holm-corrected over the actions of the study."""
    verdict: EffectVerdict
    """By ``p_holm``."""


class Roll(Record):
    """One continuation from a logged state, under one arm."""

    problem_id: str
    m: int
    k: int | None = None
    """Rollout whose beginning is the state; ``None``: a held-out answer of the study ``gate``."""
    arm: Arm
    """``"null"``, ``"random"`` (noise as long as the chosen action's impulse, else the first candidate's), or an entry id. In the study
    ``own`` an arm of ``evaluate.own``, with noise as long as the own action's impulse."""
    alpha: float
    """Multiple of the arm's vector that was injected; 0 for ``"null"``."""
    rep: int
    """Continuations with equal ``rep`` use the same random stream in every arm."""
    correct: bool
    finished: bool
    tokens: int
    """Tokens of the whole answer, including those before the state."""
    decoded: int
    """Tokens decoded for this continuation."""

    @property
    def state(self) -> tuple[str, int, int | None]:
        """Problem, control point and rollout: what names a state."""
        return self.problem_id, self.m, self.k


class CausalSpec(Record, CausalRequest):
    """The settings of a causal study: the request with all values settled before the first continuation, and its run and model."""

    task: str
    levels: tuple[str, ...] = ()
    temperature: float
    top_p: float
    max_new_tokens: int
    gate: dict[str, float | int | str | None]
    run: str
    basis: str
    """Digest of the control basis, or in the study ``codes`` of the codebook."""
    model: ModelIdentity
    seed: int
    command: str | None = None
    environment: dict[str, str] = Field(default_factory=dict)

    @property
    def library(self) -> Literal["basis", "codes"]:
        """The library whose actions are tried."""
        return "codes" if self.study == "codes" else "basis"


class ArmEffect(Record):
    """One arm against another, over all states that have both."""

    arm: str
    against: Arm
    advantage: Estimate
    """Share of right answers minus the other's; score interval with problems as clusters."""
    tokens: Estimate
    """Tokens of the answer minus the other's; t interval over problems."""
    states: int
    problems: int | None = None
    """``None`` in studies from before intervals took problems as clusters."""
    pairs: int
    won: int
    lost: int
    p: float | None
    """Score test over pairs with problems as clusters, not corrected; ``None``: too few problems."""
    p_holm: float | None = None
    """Corrected (Holm) over the arms that are compared with ``"null"``, in the study ``own``; ``None`` elsewhere."""
    accuracy: Estimate | None = None
    """Share of right answers under the arm, and under the other one, over these pairs; Wilson's interval with problems as clusters.
    ``None`` in studies from before they were kept."""
    accuracy_against: Estimate | None = None


OwnOutcome = Literal["works", "retrieval at fault", "mining at fault", "mechanism empty", "cannot tell"]
"""What the study ``own`` shows, as ``evaluate.effects.own_verdict`` decides."""


class Predictor(Record):
    """How well a quantity of the gate ranks the candidates by their measured effect."""

    name: str
    points: int
    """(state, candidate) pairs."""
    spearman: float | None
    """Rank correlation with the measured advantage; ``None``: not defined."""
    low: float | None
    high: float | None
    """Ends of its 95 % interval (jackknife over problems); ``None``: too few problems."""
    auc: float | None
    """Area under the ROC curve for "advantage above 0" against "below 0"; ``None``: one of the two classes is empty."""
    positives: int
    negatives: int
    """Points with an advantage above 0, and below."""

    @property
    def correlation(self) -> Estimate | None:
        """The rank correlation with its interval; ``None``: not defined."""
        return None if self.spearman is None else Estimate(value=self.spearman, low=self.low, high=self.high)


class Bin(Record):
    """Candidates of similar predicted margin, and their measured effect."""

    low: float
    high: float
    """Smallest and largest margin in it."""
    points: int
    predicted: float
    """Mean margin."""
    measured: Estimate
    """Mean advantage."""


class CausalPoint(Record):
    """One candidate at one state."""

    problem_id: str
    m: int
    entry_id: str
    chosen: bool
    margin: float
    """Score minus null's score."""
    value: float
    """Retrieval value ``A``, preview gain (nats per token) and cosine: see ``records.Scored`` and ``records.Retrieved``."""
    gain: float | None
    sim: float
    advantage: float
    """Mean over its pairs: right with it minus right without, and likewise the answer's tokens."""
    tokens: float
    pairs: int


class CausalReport(Record):
    """The results of a causal study."""

    spec: CausalSpec
    states: int
    planned: int
    """States that would be measured without the budget's limit."""
    rolls: int
    tokens: int
    """Decoded in all continuations."""
    effects: tuple[ArmEffect, ...]
    actions: tuple[Advantage, ...]
    predictors: tuple[Predictor, ...]
    calibration: tuple[Bin, ...]
    points: tuple[CausalPoint, ...]
    screened: int | None = None
    """States whose vanilla re-rolls were counted; ``planned`` are those where they were mixed. ``None`` in the study ``gate``, likewise
    below."""
    detectable: float | None = None
    """Smallest difference from ``"null"`` that these states would show with 80 % power, computed before any arm is decoded
    (``evaluate.statistics.detectable_difference``); ``None`` also below eight problems."""
    layer: int | None = None
    """Where every impulse of the study ``own`` is injected; ``None`` in the others, whose actions lie at several layers, and in studies
    from before it was kept."""
    outcome: OwnOutcome | None = None
    verdict: str | None = None


class PolicySpec(Record, PolicyRequest):
    """The settings of learned gates: the request with all values settled before the first answer, and its run and model."""

    task: str
    levels: tuple[str, ...] = ()
    temperature: float
    top_p: float
    max_new_tokens: int
    eta0: float
    """Reward: share of right answers - eta0 * tokens / max_new_tokens."""
    layer: int
    """Layer whose states the gates see."""
    gate: dict[str, float | int | str | None]
    run: str
    basis: str
    model: ModelIdentity
    seed: int
    command: str | None = None
    environment: dict[str, str] = Field(default_factory=dict)


class LoggedDecision(Record):
    """One drawn decision of a rollout; the evidence is in the answer (``traces.jsonl``), what came of it in ``rolls.jsonl``."""

    problem_id: str
    rollout: int
    m: int
    """The one control point at which the decision is drawn; at the others the gate decides."""
    propensities: dict[str, float]
    """Probability of ``"null"`` and of each candidate that could be injected."""
    arm: Arm
    """What was drawn."""
    chosen: Arm
    """What the gate would have chosen."""
    explored: bool
    """Whether it was drawn uniformly."""

    @property
    def propensity(self) -> float:
        """Probability of what was drawn."""
        return self.propensities[self.arm]


class CoveragePoint(Record):
    """What a probe leaves alone from some log-odds on."""

    coverage: float
    """Share of the states."""
    risk: Estimate
    """Share of these that end wrong."""
    log_odds: float


class PolicyTruth(Record):
    """A gate on an organism, judged by the habit that the writer is in, at the control points of answers to further problems."""

    auc: float | None
    """Area under the ROC curve of its score for "the writer is in the wrong habit"; ``None``: no habit decides."""
    wrong: int
    """Points in the wrong habit; ``right``: others."""
    fired_wrong: int
    """Commits among them."""
    right: int
    fired_right: int

    @property
    def null_share(self) -> float | None:
        """Share of null where nothing is needed."""
        return 1 - self.fired_right / self.right if self.right else None


class PolicyFigures(Record):
    """One gate, estimated from logged decisions, and run."""

    name: str
    """``"value"``, ``"null"`` (never acts), a learned gate, or one learned from shuffled outcomes, e.g. ``"direct, shuffled"``."""
    acts: float
    """Share of the logged decisions at which it injects something (out of fold)."""
    threshold: float | None
    """Of its score; ``None``: it abstains everywhere, or has none."""
    effective: float
    """Effective sample size of the estimates."""
    ips: Estimate | None
    """Mean reward where the gate makes one decision of an answer and the published gate the others; ``None``: the effective sample size is
    too small; likewise below."""
    snips: Estimate | None
    dr: Estimate | None
    over_null: Estimate
    """Doubly robust advantage over null."""
    over_value: Estimate
    """The same minus that of the published gate."""
    verdict: str
    on_policy: Estimate | None = None
    """Mean reward when it was run on further problems; ``None``: it was not, likewise below."""
    right: Estimate | None = None
    """Share of right answers there."""
    contained: bool | None = None
    """Whether the doubly robust interval contains the mean reward of the run."""
    difference: Estimate | None = None
    """Doubly robust estimate minus the run, with the errors of both."""
    truth: PolicyTruth | None = None
    """``None``: the run is not of an organism, or the gate was learned from shuffled outcomes."""


class PolicyReport(Record):
    """The learned gates of a run."""

    spec: PolicySpec
    problems: int
    decisions: int
    """Drawn decisions with all their continuations."""
    planned: int
    further: int
    """Problems of the on-policy run."""
    rolls: int
    tokens: int
    """Decoded in all continuations."""
    right: float
    """Share of right answers under null, over the drawn decisions."""
    gates: tuple[PolicyFigures, ...]
    calibration: tuple[Bin, ...]
    """Predicted against measured advantage of drawn actions, out of fold."""
    brier: float | None
    """Brier score of "the advantage is above 0", out of fold; ``None``: nearly all advantages are on one side."""
    brier_share: float | None
    """The same for the share alone, without any prediction."""
    coverage: tuple[CoveragePoint, ...]
    """What the probe leaves alone, and the risk of it, out of fold."""
    verdict: str


class CriticalRoll(Record):
    """One continuation of an answer, from one of its tokens."""

    position: int
    """Number of the answer's tokens before the continuation."""
    rep: int
    correct: bool
    finished: bool
    tokens: int
    """Tokens decoded for it."""
    answer: str | None = None
    """What was graded; empty: nothing was found to grade. ``None`` in files made before it was kept."""


class StepImportance(Record):
    """How much a step changes which answers follow: those of continuations from its end against those from its start."""

    step: int
    """Number of the step, from 1."""
    start: int
    end: int
    """Tokens of the answer before it, and up to its end."""
    text: str
    kl: float
    """Divergence of the answers after the step from those before it, in nats, with half a continuation added to each answer."""
    p: float
    """Share of random divisions of the same continuations whose divergence is as large."""
    p_holm: float
    """Corrected for the steps of the answer."""
    before: dict[str, int]
    after: dict[str, int]
    """Continuations by the answer that they end in, the most frequent first; empty text: none."""


class CriticalPoint(Record):
    """How often continuing from one token comes out right."""

    position: int
    rolls: int
    right: int
    rate: Estimate
    """Wilson 95 %."""


class CriticalTrace(Record):
    """Continuations from places within an answer: where a wrong one was lost, or what each step decided."""

    problem_id: str
    of: str
    """``"vanilla"`` or ``"steered"``."""
    every: int
    """Tokens between two points; 0: the points are ends of steps."""
    token_ids: tuple[int, ...]
    points: tuple[CriticalPoint, ...]
    lost_at: int | None
    """Position after the largest fall of the rate; ``None``: it never falls."""
    fall: float
    control_points: tuple[int, ...]
    """Positions at which a step ends."""
    steered_at: tuple[int, ...]
    """The control points at which an action was committed."""
    pieces: tuple[str, ...] = ()
    """Text of the tokens from each point to the next; empty in files made before it was stored."""
    steps: Annotated[tuple[StepImportance, ...], Field(exclude_if=lambda steps: not steps)] = ()
    """Every step but the last, which holds the answer, where the points are ends of steps."""


class MethodReport(Record):
    """One method of an evaluation: its accuracy and its costs."""

    name: str
    about: str
    source: str
    answers: int
    right: int
    accuracy: Estimate
    interval: str
    """How the interval was made."""
    unfinished: int
    """Answers that stated no final answer."""
    committed: float
    """Mean tokens per answer; likewise below."""
    probe: float
    reused: float = 0.0
    """Included in both of the above, decoded once."""
    prompt: float
    forward: float
    flops: float
    seconds: float | None
    repeated_2: float
    """Mean share of token 2-grams (below: 3-grams) that occur earlier in the same answer."""
    repeated_3: float
    zlib_ratio: float
    """Mean compressed size over plain size: low is repetitive."""
    commits: float | None = None
    """Mean impulses per answer; ``None`` for methods without impulses."""
    versus: Comparison | None = None

    @property
    def total(self) -> float:
        """Mean decoded tokens: committed and probe, reused ones counted once."""
        return self.committed + self.probe - self.reused


class EvaluationReport(Record):
    """The results of an evaluation."""

    spec: EvaluationSpec
    complete: bool
    problems: int
    """Number of problems that every method has answered; all figures are over these."""
    methods: tuple[MethodReport, ...]


class CurriculumRow(Record):
    """Accuracy and cost where one share of the steps is handled latently."""

    method: str
    order: str | None
    """Which steps go first; ``None``: none is handled."""
    share: float
    """Share of the steps that was asked for, of those that the gate may steer."""
    handled: float
    """Share that was handled."""
    accuracy: Estimate
    difference: Estimate | None
    """Paired change of accuracy against share 0."""
    least: float | None
    """One-sided 95 % lower bound of the difference."""
    holds: bool
    """Whether that bound is above minus the margin."""
    committed: float
    """Mean tokens of an answer."""
    decoded: float
    """With those of previews."""
    forward: float
    """Token positions run, prompts and unsteered passes included."""


class CurriculumReport(Record):
    """How large a share of the steps can be handled latently: ``stir curriculum``."""

    run: str
    how: str
    margin: float
    problems: int
    reached: float
    """The largest share that held, in order of predicted advantage."""
    rows: tuple[CurriculumRow, ...]
    verdict: str
    """What it shows."""


class Separation(Record):
    """How well one read-out tells right from wrong rollouts of the same problem at the same control point."""

    readout: str
    layer: int | None
    """``None``: it reads no layer (the text sampled again)."""
    m: int | None = None
    """Control point; ``None``: all of them."""
    states: int
    """States with a score."""
    problems: int
    """Problems with at least one pair."""
    pairs: int
    """Pairs of a right and a wrong rollout of one problem at one control point."""
    auc: float | None = None
    """Share of these pairs that it orders rightly, ties counted half; 0.5 is chance, ``None``: no pair."""
    low: float | None = None
    high: float | None = None
    """Ends of its 95 % interval (problems as clusters); ``None``: too few problems, or every pair is a tie; likewise below."""
    p: float | None = None
    """One-sided, of the hypothesis that the AUC is at most 0.5."""
    p_holm: float | None = None
    """Holm-corrected over the pooled read-outs and layers; ``None`` for a single control point."""


class KeySupport(Record):
    """Rollouts averaged behind the keys of a layer, and what that does to their cosines."""

    layer: int
    keys: int
    corrective: float
    """Median number of rollouts behind a corrective key; likewise a null key."""
    null: float
    spearman: float | None
    """Rank correlation of it with a key's mean cosine to other problems' states at its control point; ``None``: no key differs."""


ProbeOutcome = Literal["shared direction", "retrieval only", "not in the keys", "none seen", "cannot tell"]
"""What ``stir probe`` finds, as ``evaluate.probe.conclude`` decides."""


class ProbeReport(Record):
    """Whether the recorded states of a run tell right from wrong by something that problems share."""

    run: str
    states: int
    """States at problems and control points with both right and wrong rollouts; likewise below."""
    problems: int
    mined: int
    """All mined problems. Most of the others were always answered right or always wrong: of those, nothing is said."""
    right: float
    """Share of right rollouts among them."""
    pooled: tuple[Separation, ...]
    """Each read-out at each layer over all control points: what the verdict rests on."""
    cells: tuple[Separation, ...]
    """The same at single control points; not corrected for their number."""
    text: Separation | None
    """Share of right continuations of the same prefix; ``None``: not measured (``mining.stability_rolls``)."""
    support: tuple[KeySupport, ...]
    outcome: ProbeOutcome
    verdict: str


class CoherenceScore(Record):
    """How well a score that needs no label tells right answers from wrong ones."""

    score: str
    mean_right: float
    mean_wrong: float
    pooled: Estimate
    """AUC over all pairs of a right and a wrong answer, of whichever problems; telling easy problems from hard ones counts, too."""
    within: Separation
    """AUC over pairs of answers to the same problem."""


class CoherenceReport(Record):
    """The coherence of the equations that answers write, as a score of the answers."""

    run: str
    problems: int
    rollouts: int
    """Answers that state a result."""
    unfinished: int
    """Answers that state none; they are left out."""
    right: float
    """Share of right ones among those that state a result."""
    with_equations: float
    """Share of answers with at least one equation; the others are 1 by the published rule and 0 by the strict one."""
    equations: int
    true: Estimate | None
    """Share of equations that are true; ``None``: no answer has any."""
    scores: tuple[CoherenceScore, ...]


class GateCounts(Record):
    """Commits of a gate on an organism at one control point, by the habit that the writer is in, and what the steered steps became."""

    m: int
    wrong: int
    """Answers whose writer is in the wrong habit there."""
    fired_wrong: int
    """Commits among them."""
    mended: int
    """Commits among these after which the step was right."""
    right: int
    """Answers whose writer is not in the wrong habit; all of them where no habit decides."""
    fired_right: int
    harmed: int
    """Commits among these after which the step was wrong."""


class ActionAgreement(Record):
    """Mined actions of one layer and control point against the planted direction."""

    layer: int
    m: int
    behind: int
    """Rollouts averaged behind the key."""
    actions: int
    cosine: float
    """Median cosine with the planted correction of the problem's kind."""


class PickCount(Record):
    """Corrective entries of a control basis by what they are for, and by what their action does."""

    kind: Literal["add", "sub"]
    """Kind of the mined problem."""
    towards: Literal["P", "Q"]
    """Habit that the action points to, by the sign of its projection on the planted direction."""
    picks: int


class ControlCounts(Record):
    """What the confound controls say about an organism's mined actions."""

    actions: int
    passes: int
    cannot_tell: int
    length: int
    """Flagged as mostly length."""
    labels: int
    """Flagged because the labels do not matter; an action may have both flags."""
    tone_cosine: float
    """Median absolute cosine with the planted direction of tone (which is length and nothing else)."""


class EstimatorCheck(Record):
    """Repeated small causal studies of one action on an organism, judged by the effect that all the other studies show together."""

    action: str
    """``"planted"`` (the correction of the problem's kind), ``"opposite"``, ``"tone"``, or ``"random direction"``."""
    effect: float
    """Share of right answers with the action minus without, over all studies: what each interval has to cover."""
    studies: int
    problems: int
    """Of each study; no problem is in two."""
    rolls: int
    """Continuations of an arm at each state."""
    covered: int
    """Studies whose 95 % interval holds the effect that the other studies show."""
    seen: int
    """Studies that tell the effect from 0."""
    first: int
    """Studies that rank this action first."""


class RungMethod(Record):
    """One method's answers to the held-out problems of a rung."""

    method: str
    """Its name with its parameters, as `stir eval` takes it."""
    right: int
    of: int
    accuracy: Estimate
    """Wilson 95 %."""
    won: int
    """Problems that it got right and vanilla did not; ``lost``: the reverse."""
    lost: int
    difference: Estimate | None
    """Accuracy minus vanilla's, score interval; ``None`` for vanilla, likewise ``p``."""
    p: float | None
    """Exact McNemar."""
    tokens: float
    """Mean committed tokens."""


class RungReport(Record):
    """An organism's runs, judged by what is planted."""

    rung: str
    planted: str
    """What is planted, in words."""
    sound: str
    """What a sound method does, in words."""
    weights_sha256: str
    vanilla: RungMethod
    stir: RungMethod
    """The published settings."""
    default: RungMethod
    """The gate that abstains, with the settings that go with it."""
    static: RungMethod
    noise: RungMethod
    """Directions drawn at random in place of the actions, as long as they are."""
    shuffled: RungMethod
    """Actions estimated again under shuffled labels, with the true keys."""
    oracle: RungMethod
    gate: tuple[GateCounts, ...]
    """Of the published settings."""
    default_gate: tuple[GateCounts, ...]
    gate_auc: float | None
    """Area under the ROC curve of the published gate's margin for "the writer is in the wrong habit"; ``None`` where no habit decides."""
    gate_bins: tuple[Bin, ...]
    """Share of writers in the wrong habit by the published gate's margin; empty where no habit decides."""
    planted_cosine: float | None
    """Median cosine of the mined actions with the planted correction of their problem's kind."""
    agreement: tuple[ActionAgreement, ...]
    """The same by layer, control point and number of rollouts."""
    picks: tuple[PickCount, ...]
    """Of the published basis; empty where no habit decides."""
    retrieval_auc: float | None
    """:attr:`retrieval`'s AUC."""
    retrieval: Separation | None
    """How well the key margin, by the keys of other problems, tells rollouts in the wrong habit from ones in the right one."""
    controls: ControlCounts
    estimator: tuple[EstimatorCheck, ...]
    margins: tuple[MarginThreshold, ...]
    """What the key margins were worth to the gate that abstains, on all mined pairs."""


class Mark(Record):
    """One expectation of an instrument on a rung, and what was seen."""

    rung: str
    instrument: str
    expected: str
    seen: str
    passed: bool
    why: str = ""
    """Why this is expected and no more, where that is not plain."""


class CalibrationReport(Record):
    """Instruments judged on organisms. Organisms are calibration objects: nothing here is evidence that STIR helps a real model."""

    problems: int
    """Held-out problems that every method answered on each rung."""
    quick: bool
    """Whether it was made with the smaller harvest."""
    version: str
    rungs: dict[str, RungReport]
    causal_coverage: float | None
    """Share of the causal intervals of all studies on these organisms that hold the known effect; ``None``: no study."""
    simulated_coverage: float
    """The same for simulated studies with a known effect, many more of them; no model is involved."""
    passed: tuple[Mark, ...]
    failed: tuple[Mark, ...]

    @property
    def marks(self) -> tuple[Mark, ...]:
        """All of them, in the order of the rungs."""
        order = list(self.rungs)
        return tuple(sorted((*self.passed, *self.failed), key=lambda mark: order.index(mark.rung) if mark.rung in order else len(order)))

    @property
    def verdict(self) -> str:
        """How many marks passed, and which failed."""
        if not self.failed:
            return f"All {len(self.marks)} marks passed."
        failed = ", ".join(f"{mark.instrument} on {mark.rung}" for mark in self.failed)
        return f"{len(self.failed)} of {len(self.marks)} marks failed: {failed}."


class CodeFit(Record):
    """How well one way to describe steps in few numbers does on held-out problems."""

    method: str
    """E.g. ``"vq"``, ``"kmeans"``, ``"pca"`` (one component for each bit of a code), ``"random vectors"``."""
    size: int
    """Number of codes; for ``"pca"``, of the codes that it is compared with."""
    error: float
    """Squared error on held-out steps as a share of their variance, in whitened components."""
    perplexity: float | None
    """Codes used, weighted by their use; ``None``: it has no codes. Likewise ``dead``."""
    dead: int | None
    """Codes that no train step has."""
    estimate: Estimate | None = None
    """The error with its interval over held-out problems; ``None`` in codebooks from before intervals."""


class CodeInformation(Record):
    """What the codes of held-out steps tell about something known of each step."""

    about: str
    """``"control point"``, ``"length"``, ``"correctness"``, ``"habit"``, ``"kind"``, ``"habit and kind"`` or ``"operator"``."""
    steps: int
    information: float
    """Adjusted mutual information: 0 by chance, 1 when each tells the other."""
    null: float
    """Its 95th percentile when whole problems exchange their codes (for the control point: when the steps of each answer do)."""
    ari: float
    """Adjusted Rand index; far below 1 for clean codes that split a label."""
    read_as: float
    """Adjusted Rand index when each code is read as the commonest label of its train steps."""
    shuffled: float
    """The same with the codes of all steps shuffled."""
    problems: int | None = None
    """Held-out problems of these steps; ``None`` in codebooks from before they were counted."""
    estimates: dict[str, Estimate] = Field(default_factory=dict)
    """``"information"``, ``"ari"`` and ``"read_as"`` with intervals over these problems; empty likewise."""


class Code(Record):
    """One code of a codebook."""

    code: int
    merged: int
    """The code that it becomes when similar codes are merged."""
    members: int
    """Train and held-out steps."""
    points: dict[str, int]
    """Members by control point."""
    right: float
    """Share of members in answers that are right."""
    tokens: float
    """Median length of its steps."""
    exemplars: tuple[str, ...]
    """Texts of the five members nearest to the mean member."""
    flags: tuple[Literal["position", "length"], ...]
    """What alone would explain the code."""


class LayerCodes(Record):
    """The codebook of one layer, and what it is worth."""

    layer: int
    fits: tuple[CodeFit, ...]
    """The codebook first, then what it is compared with, at equal size."""
    rate: tuple[CodeFit, ...]
    """Error over the number of codes, for the codebook's kind and for k-means."""
    seeds: float
    """Adjusted Rand index between the held-out codes of two seeds."""
    halves: float
    """The same between codebooks of two halves of the train problems."""
    information: tuple[CodeInformation, ...]
    flag: str | None
    """Why the codebook as a whole tells little but position or length; ``None``: it does not."""
    codes: tuple[Code, ...]
    merged: int
    """Number of codes after merging."""
    merged_error: float
    entries: int
    """Corrective entries of the library that the codes make."""


class CodebookReport(Record):
    """A codebook of a run's steps: what it keeps, how stable it is, and what its codes go with (`stir codebook`)."""

    run: str
    kind: str
    size: int
    """Codes asked for."""
    encoder: str
    steps: int
    problems: int
    held_out: int
    """Problems that nothing was fitted on."""
    quality: Literal["measured", "share"]
    """Quality of the entries: measured advantages, or the share of wrong answers among a code's members (a proxy: it is not causal)."""
    layers: tuple[LayerCodes, ...]
    notes: tuple[str, ...]


class LatentRow(Record):
    """Answers of a latent reasoner in one condition."""

    how: str
    """``own``: latents at their means, stopping by itself or, without a stop head, at the right number; ``sampled``: drawn; ``zero``,
    ``shuffled``: as many latents as in ``own``, all zero or those of another problem; ``none``: no latent at all;
    ``published``: drawn, every slot's pass run;
    ``longer``: as ``own``, on problems with one step more than any that was trained on; ``soft_thinking``, ``multiplex``: a model that
    writes its steps feeds mixtures of tokens, without training for it."""
    problems: int
    accuracy: Estimate
    by_count: dict[int, float]
    """Accuracy by number of steps."""
    latents: float
    """Mean per answer."""
    tokens: float
    """Latents and text tokens, mean per answer."""
    passes: float
    """Forward passes one after the other, mean per answer."""
    positions: float
    """Positions run, mean per answer."""
    seconds: float
    """Wall-clock time of all answers."""


class LatentRunsRow(Record):
    """Several latent runs of each problem: what the first ``runs`` of them come to."""

    runs: int
    noise: float
    """Standard deviation of the noise on each fed latent, beside its own."""
    dropout: float
    problems: int
    coverage: Estimate
    """Share of problems that at least one run gets right."""
    vote: Estimate
    """Share of problems that the most frequent answer gets right; ties go to the earliest."""
    best: Estimate | None = None
    """Share of problems that the run with the highest score gets right; ``None``: no scorer was trained."""
    beam: Estimate | None = None
    """Share of problems that beam search gets right, with as many chains at each step as there are runs; ``None`` likewise."""


class LatentProbe(Record):
    """How often a linear probe reads a value of the chain from one latent at one layer, on other problems than it was fitted on."""

    latent: int
    """Counted from 1."""
    layer: int
    """0: the latent itself, as it is fed; l: the residual stream at its position after block l, counted from 1. Through the final norm."""
    after: int
    """Which value: that after so many steps; 0: the number that the problem begins with."""
    problems: int
    accuracy: Estimate


class LatentReport(Record):
    """What a trained latent reasoner answers, and what its latents hold: ``stir latent eval``."""

    strategy: str
    stage: str
    setting: str
    seed: int
    options: dict[str, float | int | str | bool]
    weights: str
    """SHA-256 of the language model."""
    split: str
    rows: tuple[LatentRow, ...]
    exact_stop: Estimate | None = None
    """Share of answers that stop by themselves after the right number of latents; ``None``: no stop head."""
    decoded_results: Estimate | None = None
    """Share of steps whose decoded result is the step's true value; ``None``: no decoder."""
    strict_coherence: Estimate | None = None
    """Mean over answers."""
    published_coherence: Estimate | None = None
    """Mean over answers."""
    runs: tuple[LatentRunsRow, ...] = ()
    """Several runs of each problem, where they were asked for."""
    probed_values: dict[int, Estimate] | None = None
    """By step: share of values that a linear probe reads from the step's latents, on other problems than it was fitted on; ``None``: no
    latents."""
    probes: tuple[LatentProbe, ...] = ()
    """Every value read from every latent at every layer, where that was asked for."""


class LatentCalibration(Record):
    """Latent reasoners judged on chains whose every step is known: ``stir latent calibrate``."""

    n: int
    """Problems for each number of steps."""
    reports: dict[str, LatentReport]
    """By folder."""
    marks: tuple[Mark, ...]
    """``rung`` is the folder."""

    @property
    def failed(self) -> tuple[Mark, ...]:
        """Marks that were missed."""
        return tuple(mark for mark in self.marks if not mark.passed)


class InterchangeRow(Record):
    """What answers become when the latents of one step are replaced."""

    count: int
    """Steps of the problems."""
    step: int
    latent: int | None
    """Which of the step's latents, from 1; ``None``: all of them."""
    how: str
    """What takes their place: ``swapped`` (another problem's latents; the later ones kept), ``swapped, then thinking on``, ``zero`` or
    ``mean``."""
    problems: int
    """Problems answered rightly before, on which the answers below all differ."""
    kept: Estimate | None
    """Share whose answer stays; ``None``: no such problem, likewise below."""
    after: Estimate | None = None
    """Share whose answer follows the other problem's value after the step; ``None`` also without a swap, likewise below."""
    before: Estimate | None = None
    """Share whose answer follows the other problem's value before the step."""
    operation: Estimate | None = None
    """Share whose answer follows the other problem's operation."""


class InterchangeReport(Record):
    """Whether answers follow the values that latents hold (interchange interventions, Geiger et al. 2021)."""

    strategy: str
    setting: str
    weights: str
    """SHA-256 of the language model."""
    rows: tuple[InterchangeRow, ...]


class LatentSteeringRow(Record):
    """Noisy answers of a latent reasoner under one method."""

    method: str
    """``vanilla``, ``stir``, ``random`` (a direction of the action's norm in its place) or ``shuffled`` (actions from shuffled labels)."""
    problems: int
    answers: int
    accuracy: Estimate
    by_count: dict[int, float]
    """Accuracy by number of steps."""
    impulses: float
    """Mean per answer."""
    won: int
    """Answers that are right, and wrong in ``vanilla`` under the same noise."""
    lost: int
    over_vanilla: Estimate | None
    """Accuracy minus that of ``vanilla``, paired; ``None`` for ``vanilla``."""
    p: float | None
    """Of no difference from ``vanilla``."""
    stir_over: Estimate | None
    """Accuracy of ``stir`` minus this one, paired; ``None`` for ``stir``."""
    stir_p: float | None
    """Of no difference from ``stir``."""
    positions: float
    """Positions run, previews included, mean per answer."""


class LatentOwnRow(Record):
    """Mined actions of one latent and layer on new noisy runs of their own problems, once each, at strength 1."""

    m: int
    layer: int
    problems: int
    answers: int
    vanilla: Estimate
    """Accuracy without an impulse."""
    own: Estimate
    """Accuracy with the action minus that without, paired under the same noise."""
    random: Estimate
    """The same with a random direction of the action's norm."""


class LatentSteeringReport(Record):
    """STIR on latents against its controls on common random numbers: ``stir latent steer``."""

    run: str
    strategy: str
    noise: float
    """Standard deviation of the noise on each latent."""
    library: str
    """What was retrieved from: the control basis, or all mined entries."""
    gate: GateConfig
    split: str
    seed: int
    rows: tuple[LatentSteeringRow, ...]
    own: tuple[LatentOwnRow, ...] = ()
    """By latent and layer, where it was asked for."""
