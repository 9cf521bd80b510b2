"""The settings of measurements and of the server, each declared once, here, with its help.

The command line derives its flags from these sections (``commands/flags.py``), the Python API its keywords, and the pages their commands.
The specs on disk (``findings.EvaluationSpec``, ``CausalSpec``, ``PolicySpec``) extend them with the values that were settled at the start.
"""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from stir_core.config import LOCAL, Engine, Section
from stir_core.records import Arm, null_word

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]


class MeasurementRequest(Section):
    """Base of the requests."""

    noun: ClassVar[str] = "setting"

    rows: Count = 16
    """Answers or continuations decoded side by side; in float32 results do not depend on it."""


class EvaluationRequest(MeasurementRequest):
    """Which methods are compared, and on which problems: ``stir eval``, :func:`stir_core.evaluate_methods`."""

    methods: tuple[str, ...] = ("stir",)
    """Methods to compare, e.g. stir "stir:k_scale=0.5" deer; `stir methods` lists them."""
    task: str | None = None
    """Task to evaluate on; none is the run's own."""
    split: str = "eval"
    """Split that the problems come from: eval, validation, or one of the data set's own."""
    n: Count | None = None
    """Problems; none takes all of the split."""
    levels: tuple[str, ...] | None = None
    """Difficulty levels to draw from; none takes the run's own."""
    seeds: Count = 1
    """Repetitions of methods that sample."""
    baseline: str = "vanilla"
    """Method that the others are compared with."""
    max_new_tokens: Count | None = None
    """Budget of committed tokens; none is the run's own."""
    engine: Annotated[Engine, Field(exclude_if=lambda engine: engine == LOCAL)] = LOCAL
    """What samples for sampling and self_consistency: local, or the URL of a server with the same model, as rollouts.engine."""
    template: str | None = None
    """Prompt template; none is the run's own, or on a task whose answers are of another kind that task's."""
    label: str | None = None
    """Name of the evaluation on disk; none is TASK-SPLIT."""
    fresh: Annotated[bool, Field(exclude=True)] = False
    """Delete the evaluation with this label first."""
    allow_leak: Annotated[bool, Field(exclude=True)] = False
    """Evaluate even if evaluation problems were mined; the report is marked."""

    @property
    def sampled(self) -> bool:
        """Whether one of the methods takes its samples from the engine."""
        return any(name.partition(":")[0] in ("sampling", "self_consistency") for name in self.methods)


CausalStudyName = Literal["gate", "codes", "own"]


class CausalRequest(MeasurementRequest):
    """How a run's actions are measured: ``stir causal``, :func:`stir_core.measure_causal`."""

    study: CausalStudyName = "gate"
    """What is asked. gate: do the gate's actions help held-out answers? codes: the same of the library of codes, after stir codebook. own:
    does a problem's own action help its own rollouts where they are undecided? It tells whether an impulse can help at all."""
    split: str = "validation"
    """Split whose problems give the states; with validation, eval stays unseen. The study own takes mined problems instead."""
    n: Count = 24
    """Problems that give states: held-out ones that are decoded, or for the study own mined ones."""
    states: Count | None = None
    """Maximum number of states; none takes all."""
    rolls: Count = 8
    """Continuations of each arm that is not dropped."""
    halving: bool = True
    """Drop the worse half of the candidates at each state after every round; without dropping there is no bias from it. The study own
    drops none."""
    budget_tokens: Count | None = None
    """Size of the study: no further state is taken after this many tokens decoded in continuations, those of earlier calls included."""
    strength: Annotated[float, Field(ge=0)] | None = None
    """The gate's k_scale; none is the run's own."""
    layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """The study own also injects the own action of each of these harvested layers, and noise of its norm, there. A finished study can be
    asked for more."""
    max_new_tokens: Count | None = None
    """Budget of an answer; none is the run's own."""
    fresh: Annotated[bool, Field(exclude=True)] = False
    """Delete this study on disk first."""


class PolicyRequest(MeasurementRequest):
    """How a run's learned gates are fitted and judged: ``stir policy``, :func:`stir_core.policy`."""

    n: Count = 200
    """Problems whose answers are logged: of the split that was mined, behind the mined ones, never held-out ones."""
    further: Count = 100
    """Problems behind these, for the on-policy run."""
    rollouts: Count = 2
    """Rollouts of a problem, each with one control point at which the decision is drawn."""
    eps: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Probability that the drawn decision is uniform over null and the candidates; else it is the gate's."""
    rolls: Count = 4
    """Continuations of a drawn decision, and of null in its state; one where decoding is greedy."""
    temperature: Annotated[float, Field(ge=0)] | None = None
    """Sampling temperature of answers and continuations; none is that of the run's held-out answers."""
    risk: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Share of wrong answers that the probe may leave alone as sure, and one-sided level at which any gate must gain over null to act."""
    max_new_tokens: Count | None = None
    """Budget of an answer; none is the run's own."""
    fresh: Annotated[bool, Field(exclude=True)] = False
    """Delete this study on disk first."""


class CurriculumRequest(MeasurementRequest):
    """How the share of latently handled steps is raised: ``stir curriculum``, :func:`stir_core.curriculum`."""

    how: Literal["impulse", "skip"] = "impulse"
    """impulse: a handled step is steered and written. skip: only the delimiter is written in its place, and the impulse stays in the
    cache."""
    split: str = "validation"
    """Split whose problems decide; with validation, eval stays unseen."""
    n: Count = 200
    """Problems. A share that changes no answer holds at a margin of 2 points with about 140; with fewer only one that gains can hold."""
    step: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Rise of the share at first; halved at a refusal."""
    margin: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Fall of accuracy that is allowed."""
    label: str | None = None
    """Name of the evaluation on disk that holds the answers; none is curriculum-HOW."""


class CriticalRequest(MeasurementRequest):
    """How an answer is continued from places within it: ``stir critical``."""

    at: Literal["tokens", "steps"] = "tokens"
    """tokens: from every k-th token of a wrong answer, to see where it was lost. steps: from every end of a step of any answer, to see how
    much each step changes which answers follow."""
    of: Literal["vanilla", "steered"] = "steered"
    """Which of the two recorded answers."""
    every: Count = 8
    """Tokens between two points, where these are tokens."""
    rolls: Count = 8
    """Continuations from each point."""


class LatentTraining(Section):
    """How a model of the catalogue learns to think in latents: ``stir latent train FILE.toml``. Defaults are those of ATP-Latent's SFT."""

    noun: ClassVar[str] = "key"

    strategy: str = "atp"
    """A file of stir_core/latent/strategies."""
    model: str = "smollm2"
    """Catalogue name, local folder, local GGUF file or hub name."""
    data: str
    """File of problems with their steps, one a line: JSON with question, steps and answer, GSM8K's own, or iCoT's text."""
    seed: int = 0
    """Seed of the strategy's own parts, of the order of the problems and of noise."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a CUDA device when there is one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Numeric type of passes in SFT; weights and optimiser are float32 in any case."""
    longest: Annotated[int, Field(ge=1, le=64)] = 10
    """Steps of a problem at most; further ones are joined to its last."""
    written: Annotated[int, Field(ge=0)] = 0
    """Epochs with every step written."""
    stage: Annotated[int, Field(ge=0)] = 2
    """Epochs with the first s steps latent, for s = 1, 2, ... up to longest."""
    final: Count = 5
    """Epochs with no step written."""
    batch: Count = 32
    """Problems in a training step."""
    rate: Annotated[float, Field(gt=0)] = 1e-4
    """Learning rate of AdamW, constant."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Of AdamW."""
    clip: Annotated[float, Field(ge=0)] = 0.0
    """Largest norm of the gradient; 0: any."""
    checkpoint: Count = 1000
    """Training steps between two checkpoints; each is a line of the loss curve."""
    options: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it)
    """Options of the strategy that differ from its defaults."""
    rl: dict[str, Any] = {}  # noqa: RUF012
    """Options of reinforcement that differ from its defaults."""


class LatentRequest(Section):
    """Numbers of the measurements of latent reasoners; what each measurement asks of them beside that it says itself."""

    noun: ClassVar[str] = "setting"

    n: int = 1
    """Problems."""
    steps: tuple[int, ...] = ()
    """Numbers of steps of the problems."""
    runs: Annotated[int, Field(le=4096)] = 1
    """Runs of a problem."""
    own: Annotated[int, Field(le=4096)] = 0
    """Runs of a problem with its own actions."""
    noise: float = 0.0
    """Deviation of noise on each latent."""
    seed: int = 0


def duration(text: str) -> float:
    """Seconds of a duration, e.g. ``"2h"``, ``"1h30m"``, ``"90s"``.

    Raises:
        ValueError: it is none, or 0.
    """
    found = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text, re.ASCII)
    if found and any(len(n or "") > 9 for n in found.groups()):
        raise ValueError("that is too long: a number of days, hours, minutes or seconds has at most 9 digits")
    seconds = sum(int(n or 0) * unit for n, unit in zip(found.groups(), (86400, 3600, 60, 1), strict=True)) if found else 0
    if not seconds:
        raise ValueError("give a duration such as 2h, 1h30m or 90s")
    return float(seconds)


class CallBudget(Section):
    """What one call of a long command may use before it stops; the same command then continues. In float32 results do not depend on
    it."""

    noun: ClassVar[str] = "setting"

    max_time: Annotated[str, AfterValidator(lambda text: duration(text) and text)] | None = None
    """Stop this call after this time, e.g. 2h, 1h30m or 90s, when the next result is finished; the same command continues."""
    max_tokens: Count | None = None
    """Stop this call after this many tokens of finished results; the same command continues."""


class ExecutorRequest(Section):
    """Where a long command decodes: ``stir run``, ``eval``, ``causal``, ``sweep`` and ``calibrate``. In float32 results do not
    depend on it."""

    noun: ClassVar[str] = "setting"

    executor: Literal["local", "ray"] = "local"
    """Where answers are decoded. local: in this process. ray: by workers on the GPUs or machines of a Ray cluster, each with the model."""
    address: str | None = None
    """Address of the Ray cluster, e.g. auto, or ray-head:6379; none takes the one on this machine, or starts one here."""
    workers: Count | None = None
    """Workers on the cluster; none takes one for each GPU, or without GPUs one for each machine."""


class Limits(Section):
    """What a server accepts: ``stir serve``, :func:`stir_core.serving`."""

    noun: ClassVar[str] = "setting"

    rows: Count = 8
    """Answers decoded side by side."""
    queue: Annotated[int, Field(ge=0)] = 32
    """Answers that may wait; more are refused with 429."""
    timeout: Seconds = 600.0
    """Seconds that an answer may take, including the time it waits."""
    max_body: Count = 1 << 20
    """Maximum size in bytes of a request."""
    max_new_tokens: Count = 4096
    """Maximum number of tokens of an answer."""
    connections: Count = 512
    """Connections that may be open; more are refused with 503."""
    grace: Seconds = 20.0
    """Seconds that running answers have to end at SIGTERM or Ctrl-C."""


ANSWERING = {
    "strength": "gate.k_scale",
    "persistence": "gate.persistence",
    "variant": "gate.variant",
    "candidates": "gate.candidates",
    "probe_tokens": "gate.probe_tokens",
    "max_new_tokens": "decode.max_new_tokens",
}
"""Settings of ``stir trace`` and ``stir whatif``, with the config keys that they change."""


def flag_of(name: str) -> str:
    """The command-line flag of a setting."""
    return f"--{name.replace('_', '-')}"


def flags_of(request: MeasurementRequest) -> list[str]:
    """The command-line flags of every setting that differs from its default."""
    words: list[str] = []
    for name, field in type(request).model_fields.items():
        value, flag = getattr(request, name), flag_of(name)
        if value == field.default:
            continue
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{name}")
        else:
            words += [flag, *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return words


KEEP, DENY = "keep", "null"


class Change(Section):
    """One decision or token of a recorded answer, changed or kept, and how it goes on from there."""

    noun: ClassVar[str] = "change field"

    m: Annotated[int, Field(ge=0)]
    """Control point whose decision is changed: the number of steps before it."""
    to: Arm = KEEP
    """``"keep"``, ``"null"`` or the id of a corrective entry of this control point."""
    alpha: float | None = None
    """Multiple of the action vector to inject; ``None``: the gate's own, as measured when the answer was recorded."""
    then: Annotated[Literal["gate", "null"], BeforeValidator(null_word)] = "gate"
    """After the change: the gate decides, or every later step stays unsteered."""
    position: Annotated[int, Field(ge=0)] | None = None
    """Index of the token, in the step after ``m``, from which on the answer is decoded again; ``None``: from the control point."""
    token: Annotated[int, Field(ge=0)] | None = None
    """Id of the token that is put at ``position``; ``None``: the model decodes it."""
    text: str | None = None
    """Text of that token, where it is known: only to be shown."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """Sample from there on as the run's rollouts are sampled, from random streams of this name; ``None``: as the answer was decoded."""

    @property
    def forces(self) -> bool:
        """True when an action is named."""
        return self.to not in (KEEP, DENY)
