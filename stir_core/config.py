"""The configuration of a run: frozen and strict. The docstring of a field is also its help on the command line and its tooltip.

Defaults are the published ones (arXiv 2602.04925) wherever the paper gives one. This module uses no clock and no user files: a config is a
value, and its digest is a function of it. ``store.configs`` reads files.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from urllib.parse import urlsplit

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from stir_core.errors import ConfigError, StirError
from stir_core.keyspace import Similarity
from stir_core.records import Checked, PhaseChoice, PolicyName, Variant, refusal_line


def _modules(folder: str) -> list[str]:
    """Names of the modules in a folder of this package, without importing them."""
    return sorted(path.stem for path in (Path(__file__).parent / folder).glob("[a-z]*.py"))


SELECTORS: dict[str, Callable[..., Any] | None] = dict.fromkeys(("dpp", "top", "random", *_modules("basis/selectors")))
"""The selectors that a config may name. ``basis.selection`` adds their functions; a file in ``basis/selectors`` or
``basis.selection.register_selector`` adds another."""

LayerSpec = int | float | str
"""An absolute index, a negative index, a ratio in [0, 1] (written with a point) or a fraction such as ``"3/5"``."""


MAX_NUMBER = 2**53 - 1
"""Largest whole number in a config: every reader of JSON keeps it exactly, and forms can show it."""


class Section(Checked):
    """Base of all sections: immutable, strict (neither ``True`` nor ``"5"`` is a number), with finite numbers and no unknown keys.

    :func:`with_changes` makes a changed copy.
    """

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )
    noun: ClassVar[str] = "config key"
    refusal: ClassVar[type[StirError]] = ConfigError

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        """A list as a tuple, and a number of numpy as Python's: strict fields would refuse both."""
        if isinstance(value, list):
            return tuple(value)
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise PydanticCustomError("number", "give a whole number of at most {most}", {"most": MAX_NUMBER})
        return value


SectionT = TypeVar("SectionT", bound=Section)


def _plain_args(args: dict[str, Any]) -> dict[str, Any]:
    for key, value in args.items():
        if not key.isidentifier():
            raise PydanticCustomError("template_args", "{key} is not a name that a template can read", {"key": key[:40]})
        if not isinstance(value, bool | int | float | str):
            about = {"key": key, "value": str(value)[:40]}
            raise PydanticCustomError("template_args", "{key} = {value} is neither a text in quotes, a number, true nor false", about)
    return args


def _two_tags(tags: tuple[str, str]) -> tuple[str, str]:
    if not (all(tag.strip() for tag in tags) and tags[0] != tags[1]):
        raise PydanticCustomError("think_tags", "give two different texts, the opening and the closing tag")
    return tags


class ModelConfig(Section):
    """Which language model."""

    name: str = "smollm2"
    """Catalogue name, local folder, local GGUF file or hub name."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Numeric type of the model; auto is float32, exact and reproducible, on the CPU, and the type of the model's files on a GPU."""
    device: Literal["auto", "cpu", "cuda", "all"] = "auto"
    """Device of the model; auto takes a CUDA device when there is one, all shares its blocks out over all CUDA devices."""
    backend: Literal["auto", "hooked", "bridge"] = "auto"
    """Implementation of forward passes: the lean decoder, or the raw bridge (slow, one sequence per pass); auto takes what agrees."""
    template_args: Annotated[dict[str, Any], AfterValidator(_plain_args)] = {}  # noqa: RUF012 (pydantic copies it)
    """Arguments of the chat template, e.g. {enable_thinking = false}; date is the day that a template writes, always the same."""
    think_tags: Annotated[tuple[str, str], AfterValidator(_two_tags)] | None = None
    """Opening and closing tag of the thinking; none takes the usual ones, if the template or the tokenizer has them."""


class TaskConfig(Section):
    """Which problems are mined, and which are held out."""

    name: str = "arithmetic"
    """Task name; `stir tasks` lists them."""
    n_train: Annotated[int, Field(ge=1)] = 100
    """Problems that rollouts are sampled for."""
    n_eval: Annotated[int, Field(ge=0)] = 24
    """Held-out problems that the last stage answers, vanilla and steered."""
    held_out: Literal["eval", "validation"] = "eval"
    """Split of the held-out problems: validation for choosing settings, eval for reporting."""
    levels: tuple[str, ...] = ()
    """Difficulty levels to draw from; empty takes all."""
    template: str = "auto"
    """Prompt template; auto takes the one for the task's answer kind."""
    system: str | None = None
    """System prompt before the question; none keeps the chat template's default."""


LOCAL = "local"


def _engine(value: str) -> str:
    try:
        parts = urlsplit(value)
        usable = value == LOCAL or (value.isprintable() and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0)
    except ValueError:
        raise PydanticCustomError("engine", "that is no URL: give one, e.g. http://127.0.0.1:8000/v1") from None
    if "@" in parts.netloc or parts.query:
        remedy = "a URL with a key or a query is not kept in a config: set STIR_ENGINE_KEY in the environment, and give the URL alone"
        raise PydanticCustomError("secret", remedy)
    if not usable:
        raise PydanticCustomError("engine", 'give "local", or the URL of a server, e.g. http://127.0.0.1:8000/v1')
    return value


Engine = Annotated[str, AfterValidator(_engine)]
"""``"local"``, or the URL of an OpenAI-compatible server with ``#NAME`` of the model where it serves several."""


class RolloutConfig(Section):
    """Stage I: how answers are sampled."""

    engine: Engine = LOCAL
    """What samples: local, or the URL of an OpenAI-compatible server with the same model, e.g. http://127.0.0.1:8000/v1; add #NAME of
    the model where it serves several."""

    k: Annotated[int, Field(ge=1)] = 8
    """Rollouts per problem (published K)."""
    temperature: Annotated[float, Field(ge=0)] = 0.7
    """Sampling temperature; 0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Nucleus sampling: the probability mass to sample from."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 512
    """Token budget of one rollout, also T_max of the reward's length penalty (published 16384)."""
    max_thinking_tokens: Annotated[int, Field(ge=0)] | None = None
    """Budget of the thinking: when it is spent, the tag that ends the thinking is written, and the final part follows; none is no limit."""
    max_final_tokens: Annotated[int, Field(ge=1)] | None = None
    """Budget of the final part, or of an answer without thinking; none is no limit but max_new_tokens."""
    eta0: Annotated[float, Field(ge=0)] = 0.01
    """Length penalty: reward = correct - eta0 * tokens / max_new_tokens."""
    batch_rows: Annotated[int, Field(ge=1)] = 32
    """Sequences decoded side by side, or requests to a server at one time; in float32 results do not depend on it."""
    cache_tokens: Annotated[int, Field(ge=1)] = 65536
    """Maximum number of tokens in the key-value cache; if more are needed, the youngest half of the batch waits."""

    @model_validator(mode="after")
    def _parts_are_local(self) -> "RolloutConfig":
        if self.engine != LOCAL and (self.max_thinking_tokens is not None or self.max_final_tokens is not None):
            message = 'max_thinking_tokens and max_final_tokens are kept by engine = "local" alone: leave them out for {engine}'
            raise PydanticCustomError("engine", message, {"engine": self.engine})
        return self


class MiningConfig(Section):
    """Stage I: which pairs become latent actions."""

    control_points: Annotated[int, Field(ge=1)] = 8
    """Number of control points mined (published M)."""
    phase: PhaseChoice = "thinking"
    """Part of a thinking model's answers that is mined; with final, control points are counted from the end of the thinking."""
    layers: tuple[LayerSpec, ...] | None = (0.6,)
    """Layers whose outputs are harvested: index, negative index, ratio in [0, 1] or fraction "a/b"; none takes the top third."""
    k_pos: Annotated[int, Field(ge=1)] = 2
    """Correct rollouts of highest reward averaged into the positive state."""
    k_neg: Annotated[int, Field(ge=1)] = 3
    """Incorrect rollouts of lowest reward averaged into the negative state."""
    equal_numbers: bool = False
    """Average equally many rollouts behind both keys of a pair, the smaller number: an average of more is closer to every state."""
    min_correct_rollouts: Annotated[int, Field(ge=1)] = 1
    """A control point with fewer correct rollouts is skipped."""
    min_incorrect_rollouts: Annotated[int, Field(ge=1)] = 1
    """A control point with fewer incorrect rollouts is skipped."""
    top_pairs: Annotated[int, Field(ge=1)] = 128
    """Pairs of all control points and layers kept, best quality first (published C); each makes a corrective and a null entry."""
    pos_source: Literal["rollout", "gold", "rollout_or_gold"] = "rollout"
    """Source of positives: correct rollouts, worked solution, or solution where no rollout is correct (published: rollout_or_gold)."""
    mining: Literal["reward", "random"] = "reward"
    """Choice of positives and negatives: by reward, or at random among the valid rollouts (ablation)."""
    stability_rolls: Annotated[int, Field(ge=0)] = 0
    """Continuations sampled again from each mined prefix, to see whether its outcome repeats; 0: not measured."""


def _known_selector(name: str) -> str:
    if name not in SELECTORS:
        raise PydanticCustomError("selector", "there is no such selector: take one of {names}", {"names": ", ".join(SELECTORS)})
    return name


class BasisConfig(Section):
    """Stage II: the sparse control basis."""

    selector: Annotated[
        str, AfterValidator(_known_selector), Field(json_schema_extra=lambda schema: schema.update(enum=list(SELECTORS)))
    ] = "dpp"
    """Quality-weighted determinantal point process, best quality, or a seeded random choice."""
    budget: Annotated[int, Field(ge=1)] = 256
    """Maximum number of entries kept (published B)."""
    diversity: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the log-determinant against quality (published lambda)."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-4
    """Ridge on the kernel's diagonal."""
    min_per_control_point: Annotated[int, Field(ge=0)] = 8
    """Entries forced in at every control point, best quality first."""
    similarity: Similarity = "cosine"
    """Space in which selection and retrieval compare keys and states: as they are (published), centred per layer or per control point and
    layer, or whitened."""
    quality: Literal["mined", "measured"] = "mined"
    """Quality of an action: the rollouts' reward gap, or the measured causal advantage (`stir causal`), if above 0."""
    keep_unreachable: bool = False
    """Keep entries at the last control point, which are never retrieved (the published code keeps them)."""


class GateConfig(Section):
    """Stage III: retrieve, preview, commit."""

    variant: Variant = "stir"
    """The method, or an ablation of it."""
    rule: Literal["score", "calibrated"] = "score"
    """Commit by score against null (published), or only where the key margin told right from wrong on mined problems; else abstain."""
    policy: PolicyName = "value"
    """Decide by value (published), or by a gate that `stir policy` learned: probe, direct, ips or awr."""
    k_retrieve: Annotated[int, Field(ge=1)] = 8
    """Nearest entries retrieved at each control point, over all layers by raw cosine (published: one layer)."""
    search: Annotated[Literal["exact", "approximate"], Field(exclude_if=lambda value: value == "exact")] = "exact"
    """Compare a state with every entry of its control point, or with those that an index finds where there are very many (needs usearch);
    the trace then states the index's recall."""
    candidates: Annotated[int, Field(ge=1)] = 4
    """Corrective entries previewed (published L)."""
    probe_tokens: Annotated[int, Field(ge=1)] = 4
    """Tokens decoded in a preview."""
    previews: Literal["needed", "all"] = "needed"
    """Decode a preview only as long as its candidate can still win, or all to their end, to decide again with other weights later; both
    decide the same."""
    beta: float = 2.0
    """Weight of the retrieval value A in the score."""
    rho: float = 0.1
    """Weight of the preview's gain in mean log-probability."""
    k_scale: Annotated[float, Field(ge=0)] = 1.0
    """Strength: the injected multiple is k_scale * score; 0 equals vanilla decoding."""
    tau_null: float = 0.0
    """A score below this is never committed."""
    min_sim: float = 0.0
    """Nothing is retrieved when the best cosine is below this."""
    min_entries: Annotated[int, Field(ge=1)] = 1
    """Nothing is retrieved at a control point with fewer entries."""
    min_tool_m: Annotated[int, Field(ge=1)] | None = None
    """First control point that may be steered; none is 1."""
    max_tool_m: Annotated[int, Field(ge=1)] | None = None
    """Last control point that may be steered; none is M - 1."""
    phase: PhaseChoice = "thinking"
    """Part of a thinking model's answer that may be steered."""
    preview_scale: Literal["unit", "committed"] = "unit"
    """Preview at scale 1 as published, or at k_scale * beta * A, which is then also the committed scale."""
    persistence: Literal["ephemeral", "persistent"] = "ephemeral"
    """Whether an impulse's keys and values last for its own step (published) or stay in the cache."""
    noise: Literal["unit", "matched"] = "unit"
    """For random_vector: unit-variance noise (published) or noise of the action's own norm."""

    @model_validator(mode="after")
    def _window_is_not_empty(self) -> "GateConfig":
        if self.min_tool_m is not None and self.max_tool_m is not None and self.min_tool_m > self.max_tool_m:
            bounds = {"low": self.min_tool_m, "high": self.max_tool_m}
            raise PydanticCustomError("window", "min_tool_m {low} is above max_tool_m {high}: no control point could be steered", bounds)
        return self


class DecodeConfig(Section):
    """How held-out answers are decoded."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 512
    """Budget of committed tokens (published 16384); probe tokens are counted separately."""
    max_thinking_tokens: Annotated[int, Field(ge=0)] | None = None
    """Budget of the thinking: when it is spent, the tag that ends the thinking is written, and the final part follows; none is no limit."""
    max_final_tokens: Annotated[int, Field(ge=1)] | None = None
    """Budget of the final part, or of an answer without thinking; none is no limit but max_new_tokens."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Sampling temperature; 0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling: the probability mass to sample from."""
    batch_problems: Annotated[int, Field(ge=1)] = 8
    """Problems decoded side by side; in float32 results do not depend on it."""


class CodesConfig(Section):
    """The codebook of steps, which `stir codebook` makes."""

    kind: Literal["vq", "rvq", "fsq", "kmeans"] = "kmeans"
    """Vector quantiser, residual quantiser of two levels, finite scalar quantiser, or k-means."""
    size: Annotated[int, Field(ge=2, le=1024)] = 32
    """Number of codes K; of the first level for rvq, and at most this many for fsq."""
    encoder: Literal["state", "delta", "window"] = "state"
    """What is coded of a step: the state at its end, the state's change over it, or its last 16 states."""


class RunConfig(Section):
    """One reproducible experiment: all settings that its results depend on."""

    seed: int = 0
    """Seed of the run; every random choice derives from it by name."""
    delimiter: Annotated[str, Field(min_length=1)] = "\n\n"
    """Text that ends a reasoning step, or "segmenter:NAME" for a function given to register_segmenter."""
    compat: bool = False
    """Reproduce the published code's quirks: text tokenised again at every boundary, selection not conditioned on forced picks."""
    model: ModelConfig = ModelConfig()
    task: TaskConfig = TaskConfig()
    rollouts: RolloutConfig = RolloutConfig()
    mining: MiningConfig = MiningConfig()
    basis: BasisConfig = BasisConfig()
    gate: GateConfig = GateConfig()
    decode: DecodeConfig = DecodeConfig()
    codes: CodesConfig = CodesConfig()

    @model_validator(mode="after")
    def _mined_where_steered(self) -> "RunConfig":
        if {self.mining.phase, self.gate.phase} == {"thinking", "final"}:
            phases = {"mined": self.mining.phase, "steered": self.gate.phase}
            message = 'mining.phase is "{mined}" and gate.phase is "{steered}", so nothing is steered: set both alike, or one to "both"'
            raise PydanticCustomError("phase", message, phases)
        return self


def config_from(data: dict[str, Any]) -> RunConfig:
    """Validate a plain mapping (from TOML or JSON); for a misspelt key the error suggests the right one.

    Raises:
        ConfigError: one line that names the key or value and the remedy.
    """
    return section_from(RunConfig, data)


def section_from(section: type[SectionT], data: Mapping[str, Any], flags: Mapping[str, str] | None = None) -> SectionT:
    """Validate a plain mapping as a section.

    Args:
        flags: by key, the flag of the command line that set its value, for the message.

    Raises:
        ConfigError: one line that names the key (or its flag) or value and the remedy.
    """
    try:
        return section.model_validate(data)
    except ValidationError as error:
        raise section.refusal(refusal_line(error.errors()[0], section, flags)) from None


def with_changes(config: SectionT, **values: Any) -> SectionT:
    """A copy of a config, or of one of its sections, with other values, checked by the config's own rules.

        with_changes(run.config.gate, rho=0.0)                 # a GateConfig
        with_changes(run.config, seed=1, gate={"rho": 0.0})    # a RunConfig; the gate's other keys stay

    Args:
        values: new values by key; for a section, a mapping of the changed keys, or a whole section.

    Raises:
        ConfigError: one line that names the key or value and the remedy.
    """
    if not isinstance(config, Section):
        raise ConfigError(f"{config!r:.80} is not a config: give a run's config, or one of its sections")
    return section_from(type(config), _merged(config, values))


def _merged(config: Section, values: Mapping[str, Any]) -> dict[str, Any]:
    data = {key: getattr(config, key) for key in type(config).model_fields}
    for key, value in values.items():
        own = data.get(key)
        data[key] = _merged(own, value) if isinstance(value, Mapping) and isinstance(own, Section) else value
    return data


def refusals(data: dict[str, Any]) -> dict[str, list[str]]:
    """A line for every unusable key or value of a mapping, by section (``""``: keys outside all sections); empty if all are usable."""
    try:
        RunConfig.model_validate(data)
    except ValidationError as error:
        lines: dict[str, list[str]] = {}
        for each in error.errors():
            first = str(each["loc"][0])
            section = first if isinstance(getattr(RunConfig(), first, None), Section) else ""
            lines.setdefault(section, []).append(refusal_line(each, RunConfig))
        return lines
    return {}


DIGESTED_AS = {"backend": {"auto": "hooked"}}
"""Values that stand for an older one in a digest: ``auto`` takes what ``hooked`` was, or something that agrees with the model itself."""
LATER: dict[str, Any] = {
    "engine": LOCAL,
    "equal_numbers": False,
    "rule": "score",
    "policy": "value",
    "previews": "needed",
    "template_args": {},
    "think_tags": None,
    "phase": "thinking",
    "max_thinking_tokens": None,
    "max_final_tokens": None,
    "codes": CodesConfig().model_dump(mode="json"),
    "decoder_layers": 1,
}
"""Keys that configs and options have had since a later version, with the value that all older runs had."""


def digest_of(*parts: Any) -> str:
    """SHA-256 (first 16 hex digits) of JSON-able values or pydantic models, independent of key order.

    Keys of :data:`LATER` at their value of old are left out, so that digests of older runs stay valid.
    """
    plain = _without_later([part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts])
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def _without_later(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_without_later(each) for each in value]
    if isinstance(value, dict):
        kept = {key: _without_later(each) for key, each in value.items() if key not in LATER or each != LATER[key]}
        return kept | {key: olds.get(kept[key], kept[key]) for key, olds in DIGESTED_AS.items() if isinstance(kept.get(key), str)}
    return value


ON_REQUEST = ("steps", "codes")
"""Stages that `stir run` does not make: `stir codebook` does. They read the rollouts, and no stage of a run reads them."""
STAGES = ["rollouts", "states", "actions", "basis", "steered"]
STAGES += [name for name in _modules("stages") if name not in (*STAGES, *ON_REQUEST, "pipeline", "stage")]
"""The stages of a run, in order; ``stages/<name>.py`` defines each. A new file there, or ``stages.stage.register_stage``, adds another at
the end."""


def resolve_layers(specs: tuple[LayerSpec, ...] | None, n_layers: int) -> tuple[int, ...]:
    """Absolute, sorted, distinct block indices for layer specs.

    A ratio ``r`` (a float, or a fraction "a/b") resolves to ``round(r * (n_layers - 1))``; ``None`` is the top third.

    Raises:
        ConfigError: a layer is outside the model, or not a layer spec.
    """
    if specs is None:
        return tuple(range(n_layers - max(1, n_layers // 3), n_layers))
    if not specs:
        raise ConfigError("mining.layers is empty: name at least one layer, or leave it out for the top third")
    return tuple(sorted({_resolve_layer(spec, n_layers) for spec in specs}))


def _resolve_layer(spec: LayerSpec, n_layers: int) -> int:
    if isinstance(spec, str):
        numerator, _, denominator = spec.partition("/")
        try:
            spec = float(numerator) / float(denominator) if denominator else float(spec) if "." in spec else int(spec)
        except (ValueError, ZeroDivisionError):
            raise ConfigError(f'layer "{spec}" is not a layer: give an index, a ratio such as 0.6 or a fraction such as "3/5"') from None
    if isinstance(spec, float):
        if not 0 <= spec <= 1:
            raise ConfigError(f"layer ratio {spec} is outside [0, 1]: write a whole number for an index")
        return round(spec * (n_layers - 1))
    if not -n_layers <= spec < n_layers:
        raise ConfigError(f"layer {spec} is not in this model: it has blocks 0 to {n_layers - 1}")
    return spec % n_layers
