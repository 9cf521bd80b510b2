"""What is read of a recorded answer: a model's predictions at each token, with the impulses of that answer and without any; what an
answer's latents hold; and what an action means, beside a run's steps and other directions.

These records hold scalars and a few tokens for each place, no tensors. All log-probabilities and entropies are in nats, at
temperature 1, over the whole vocabulary.
"""

from typing import Literal

from stir_core.findings import Estimate, Separation
from stir_core.records import Lens, Record

TOP = 5
"""Number of likeliest tokens to keep of each distribution."""


class Alternative(Record):
    """One candidate for a token, under both distributions."""

    token_id: int
    text: str
    logprob: float
    """Under the model that decoded the answer."""
    unsteered_logprob: float
    """Under the unsteered model after the same prefix."""


class TokenReading(Record):
    """One committed token, with its predictions after the same prefix."""

    m: int
    """The control point that its step begins at."""
    position: int
    """0-based place in the answer's ``token_ids``."""
    token_id: int
    text: str
    """The token's own text, also for special tokens; an incomplete character is U+FFFD."""
    live: bool
    """Whether an impulse acted on its distribution."""
    logprob: float
    """Of the committed token, under the model that decoded it (steered where an impulse was live)."""
    unsteered_logprob: float
    """Of the committed token, under the unsteered model after the same prefix."""
    rank: int
    """1 + the number of likelier tokens, under the model that decoded it."""
    unsteered_rank: int
    entropy: float
    unsteered_entropy: float
    kl: float
    """KL(decoding model || unsteered model) over the whole vocabulary, summed in float32; exactly 0 where no impulse was live."""
    alternatives: tuple[Alternative, ...]
    """The ``TOP`` likeliest of either distribution, likeliest first under the model that decoded it."""

    @property
    def change(self) -> float:
        """Effect of the impulses on the committed token's log-probability: steered minus unsteered."""
        return self.logprob - self.unsteered_logprob


class LatentToken(Record):
    """A token beside a latent."""

    text: str
    value: float
    """Its probability under the logit lens, or the cosine of its embedding with the latent."""


class LatentLayer(Record):
    """The residual stream at a latent's position after one block."""

    layer: int
    """0: the latent itself, as it is fed; l: after block l, counted from 1."""
    entropy: float
    """Of the next token, read through the final norm and the unembedding (the logit lens)."""
    top: tuple[LatentToken, ...]
    """The ``TOP`` likeliest tokens, likeliest first."""
    attention: float | None
    """That the position which decides the answer's number pays to this one in block l, averaged over heads; ``None`` at layer 0, and where
    the answer states no number."""


class ReadLatent(Record):
    """One latent."""

    step: int
    """The step that it stands for, counted from 1."""
    norm: float
    nearest: tuple[LatentToken, ...]
    """The ``TOP`` tokens whose embeddings have the largest cosine with it."""
    deviation: float | None
    """Root mean square of its Gaussian's standard deviations; ``None``: it is not drawn from one."""
    stop: float | None
    """Probability of stopping at it, where the stop head decides; ``None``: it does not decide here, or there is none."""
    layers: tuple[LatentLayer, ...]


class ReadStep(Record):
    """One step: what is read from its latents, beside the truth."""

    text: str | None
    """As the decoder reads it, or as it is written where steps are written; ``None``: there is no decoder, or no such step."""
    truth: str | None
    """The true step; ``None``: the problem has no such step."""
    right: bool | None
    """Whether the result that is read is the step's true value; ``None``: nothing was read."""
    strict: bool | None
    """Whether the step counts for the strict coherence; ``None``: nothing was read."""
    published: bool | None
    """Likewise for the published one."""


Held = Literal["after", "before", "operation"]
"""What of another problem the latents of a step may hold: the value after the step, the value before it, or its operation."""


class LatentChange(Record):
    """What the answer becomes when the latents of one step are replaced."""

    step: int
    how: Literal["zero", "mean", "swapped", "dropped"]
    """Zeros; the mean over other problems; the other problem's; or nothing."""
    then: Literal["later latents kept", "thinking on"]
    answer: str
    """The number that is stated; the empty text if none is."""
    probability: float
    """Of the unchanged answer's number, where the answer is forced to state one now."""
    implied: dict[Held, int]
    """The answer if what the latents hold of the other problem is followed: its value after the step, before it, or its operation; empty:
    the latents are not another problem's."""
    implied_probability: dict[Held, float]
    """Of each of these answers."""


class LatentSample(Record):
    """Answers with one latent moved: on the line to another problem's latent, or by noise. Later latents are thought anew."""

    latent: int
    """Counted from 1."""
    how: Literal["interpolation", "its own noise", "noise of problems"]
    """Noise is drawn with the standard deviations of the latent's own Gaussian, or where it has none with those that this latent has over
    other problems."""
    amount: float
    """Share of the way to the other problem's latent, or how many standard deviations."""
    draws: int
    kept: Estimate
    """Share of answers that stay."""
    answer: str
    """The most frequent one; the empty text: no number is stated."""
    step: str | None
    """What the decoder reads of the latent's step, the most frequent text; ``None``: there is no decoder."""


class LatentRun(Record):
    """One run with drawn latents."""

    latents: int
    steps: tuple[str, ...]
    """As the decoder reads them; empty where there is none."""
    answer: str
    right: bool


class LatentReading(Record):
    """Everything that is read of one question's chain of latents."""

    strategy: str
    setting: str
    question: str
    split: str | None
    """``train``: a training may have seen the problem, or an equivalent order of it; ``validation``, ``eval``, or ``None`` (it is in no
    split): none has."""
    text: str
    """What is written after the latents."""
    answer: str
    """The number that the text states; the empty text if none."""
    truth: int
    probability: float | None
    """Of the stated number; ``None``: no number is stated, or there are no latents."""
    steps: tuple[ReadStep, ...]
    latents: tuple[ReadLatent, ...]
    stop_at_end: float | None
    """Probability of stopping at the latent on which the chain ended; ``None``: it did not end by itself."""
    embedding_norms: tuple[float, float, float]
    """Least, median and largest norm of the tokens' embeddings."""
    other: str | None
    """The problem whose latents are swapped in; ``None``: there are no latents."""
    other_values: tuple[int, ...]
    """Its values after each step."""
    changes: tuple[LatentChange, ...]
    samples: tuple[LatentSample, ...] = ()
    runs: tuple[LatentRun, ...] | None
    """``None``: nothing is drawn, so every run is the same."""

    @property
    def right(self) -> bool:
        """Whether the stated number is the right one."""
        return self.answer == str(self.truth)


class ActivatingStep(Record):
    """One step of a run's rollouts: how far the state at its end lies along an action. Rollouts with the same beginning share it."""

    problem_id: str
    k: int
    """The first of the rollouts that contain it."""
    m: int
    """Number of finished steps: the state is that at the end of step m."""
    text: str
    """The step's text."""
    right: int
    """Rollouts that begin so and end right."""
    wrong: int
    projection: float
    """Of the state minus the mean state on the action's direction, in residual-stream units."""
    own: bool
    """Whether the action was mined from its problem."""


class ProjectionCounts(Record):
    """How the projections of all steps are distributed, by the outcome of their rollout."""

    edges: tuple[float, ...]
    """Ends of the bins, one more than bins; in residual-stream units."""
    right: tuple[int, ...]
    """Steps of right rollouts in each bin."""
    wrong: tuple[int, ...]


class SubspaceShare(Record):
    """Share of an action's squared norm in the span of the leading principal directions of step states."""

    k: int
    """Number of principal directions."""
    share: float
    by_chance: float
    """Expected share of a random direction: k over the width of the stream."""
    chance_high: float
    """What 95 % of random directions stay below."""
    actions: float | None
    """Median share of the run's other actions at this layer; ``None``: there are none."""


ErasureOutcome = Literal["erased", "remains", "does not separate", "cannot tell"]


class Erasure(Record):
    """How well an action tells right from wrong steps of other problems, before and after what tells them linearly is erased (LEACE)."""

    before: Separation
    """Projection on the action."""
    erased: Separation
    """What the eraser takes out, a linear probe of the other problems: where this is at chance, the eraser does not carry over."""
    after: Separation
    """Projection of the erased states on the action."""
    cosine: float | None
    """Of the action with the direction that is taken out; ``None``: there is none."""
    outcome: ErasureOutcome
    verdict: str
    """The same in one sentence."""


class Feature(Record):
    """One feature of a dictionary beside an action."""

    index: int
    """Its row in the dictionary."""
    cosine: float
    weight: float | None = None
    """In the sparse sum, for features and action of unit norm; ``None``: it is not in it."""


class Decomposition(Record):
    """An action as a sparse sum of the features of a dictionary with weights of at least 0."""

    dictionary: str
    """Name of its file."""
    tensor: str
    features: int
    """Features of the dictionary that are not zero."""
    nearest: tuple[Feature, ...]
    """By cosine, largest first."""
    chosen: tuple[Feature, ...]
    """In the order of the pursuit."""
    explained: float
    """Share of the action's squared norm that the sum explains."""
    random: float
    """Mean share that sums of as many features explain of random directions of equal norm."""
    random_most: float
    """The largest of them."""
    states: float | None
    """Mean share of differences of two states of other problems at one control point, of equal norm; ``None``: fewer than two problems."""
    states_most: float | None
    draws: int
    """Directions of each kind."""


class ForeignAction(Record):
    """An action of another run of the same model at the same layer."""

    run: str
    entry_id: str
    m: int
    problem_id: str
    cosine: float
    same_question: bool
    """Whether it was mined from the same question."""
    promoted: tuple[str, ...]
    """Tokens that it promotes most through the unembedding."""
    by_chance: float
    """Expected cosine of a direction with the nearest of as many random ones."""
    typical: float
    """Median, over this run's actions, of the cosine with the nearest action there."""


class JacobianReading(Record):
    """An action carried to the last block by the model's mean Jacobian, and read there through the final norm and the unembedding."""

    lens: Lens
    answers: int
    """Rollouts that the Jacobian was averaged over."""
    positions: int
    """Tokens of answers that it was averaged over."""
    gain: float
    """Norm at the last block over the norm of the action."""
    agreement: float | None
    """Mean cosine between what one rollout gives and the mean of the others; ``None``: there is only one."""
    logit_overlap: int
    """How many of the promoted tokens the logit lens promotes, too, among as many."""


class Activation(Record):
    """The steps of a run's own rollouts along an action."""

    source: Literal["steps", "states"]
    """``steps``: all steps of all rollouts (`stir codebook` makes them); ``states``: the control points that were mined."""
    steps: int
    """Ends of steps with a state."""
    recorded: int
    """All ends of steps in the rollouts."""
    problems: int
    deviation: float
    """Standard deviation of the projections, in residual-stream units."""
    high: tuple[ActivatingStep, ...]
    """Largest projections first."""
    low: tuple[ActivatingStep, ...]
    """Smallest first."""
    spread: ProjectionCounts
    own: Separation
    """Right and wrong rollouts of its own problem, which it was made from: not evidence."""
    others: Separation
    """Those of the other problems."""


class ActionReading(Record):
    """What an action means, as far as a run's states, a dictionary, other runs and its model show it."""

    entry_id: str
    problem_id: str
    """The problem that it was mined from."""
    layer: int
    activation: Activation
    subspace: tuple[SubspaceShare, ...]
    """Without the states of its own problem."""
    erasure: Erasure
    decomposition: Decomposition | None = None
    elsewhere: tuple[ForeignAction, ...] = ()
    jacobian: JacobianReading | None = None
