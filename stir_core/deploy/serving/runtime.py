"""Steering on the plain Hugging Face model: the workbench's own step loop, gate and retrieval, without TransformerLens.

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    steered = SteeredModel(model, AutoTokenizer.from_pretrained(folder), "bundle")
    (answer,) = steered.generate("A farmer has 12 cows and sells 5. How many are left?", max_new_tokens=200)
    print(answer.text, [decision.chosen for decision in answer.decisions])

The model that is given is not changed: what decodes is a second module tree over the same parameters. The workbench, this and the server
go through one loop (``intervene.controller``), so decisions are the same by construction; certificates measure that they are.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, overload

import torch

from stir_core.config import DecodeConfig, GateConfig, with_changes
from stir_core.deploy.bundle.reading import Bundle, read_bundle
from stir_core.errors import MismatchError, PromptError, SteeringError
from stir_core.intervene.controller import steer
from stir_core.intervene.jobs import Job, Settings
from stir_core.models.catalogue import folder_source, weights_digest
from stir_core.models.loading import LoadedModel, boot, load_model
from stir_core.models.prompting import prompt_ids
from stir_core.models.scheduler import Intake
from stir_core.records import Decision, Event, Finish, ModelIdentity, Record, Trace, TraceEvent, Variant
from stir_core.tasks.segment import segmenter

ModelCheck = Literal["exact", "shape"]
"""How well a model must fit its bundle: the very weights, tokenizer and dtype, or only its width and depth."""
Prompt = str | Sequence[Mapping[str, str]]
"""A question, or a conversation: messages with ``role`` and ``content``."""

_UNKNOWN = "0" * 64
COLDEST = 1e-6
"""Least temperature above 0: logits divided by less leave float32."""


class Costs(Record):
    """What an answer took."""

    prompt_tokens: int
    tokens: int
    """Committed: the answer itself."""
    probe_tokens: int
    """Decoded in previews."""
    reused_tokens: int
    """Of these, committed as they stood."""
    forward_tokens: int
    """Token positions run through the model, prompt included."""
    flops: float | None


@dataclass(frozen=True)
class SteeredAnswer:
    """One finished answer."""

    trace: Trace
    """Everything: evidence, decisions and log-probabilities, step by step."""

    @property
    def text(self) -> str:
        """The answer, special tokens left out."""
        return self.trace.text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The answer's tokens, the end-of-text token included when there is one."""
        return self.trace.token_ids

    @property
    def finish(self) -> Finish:
        """``"stop"``: the model ended; ``"length"``: the budget was used up."""
        return self.trace.finish

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The gate's decision before each step."""
        return tuple(step.decision for step in self.trace.steps)

    @property
    def costs(self) -> Costs:
        """What it took."""
        trace = self.trace
        return Costs(
            prompt_tokens=len(trace.prompt_ids),
            tokens=trace.tokens_used,
            probe_tokens=trace.probe_tokens,
            reused_tokens=trace.reused_tokens,
            forward_tokens=trace.forward_tokens,
            flops=trace.flops,
        )


class SteeredModel:
    """A language model with a bundle's library and gate.

    Args:
        hf_model: a Hugging Face causal language model; it is set to evaluation mode and otherwise left as it is.
        bundle: read already, or its folder.
        check: ``"shape"`` takes any model of the same width and depth; what it does then was never measured.
        weights_sha256: identity of the weights, for a model whose folder transformers does not remember.

    Raises:
        MismatchError: the model is not the one that the bundle was made with.
        DeployError: the bundle is not whole.
    """

    def __init__(
        self, hf_model: Any, tokenizer: Any, bundle: Bundle | Path | str, *, check: ModelCheck = "exact", weights_sha256: str | None = None
    ):
        found = bundle if isinstance(bundle, Bundle) else read_bundle(Path(bundle))
        name = str(getattr(hf_model.config, "_name_or_path", "") or type(hf_model).__name__)
        digest = weights_sha256 or _weights_of(name)
        if digest is None and check == "exact":
            raise MismatchError(
                f"where the weights of {name} come from is not known, so they cannot be checked: load them from a local folder, "
                'give weights_sha256=, or check="shape"'
            )
        device = next(hf_model.parameters()).device
        self._adopt(boot(name, hf_model, tokenizer, weights_sha256=digest or _UNKNOWN, device=device, backend="plain"), found, check)

    @classmethod
    def load(
        cls,
        bundle: Bundle | Path | str,
        model: str | None = None,
        *,
        device: str = "auto",
        dtype: str | None = None,
        check: ModelCheck = "exact",
    ) -> "SteeredModel":
        """The bundle on its own model, found by name; the model loads as everywhere else (folder, GGUF file, hub name).

        Raises:
            ModelError: the model cannot be found or loaded.
            MismatchError: it is not the one that the bundle was made with.
        """
        found = bundle if isinstance(bundle, Bundle) else read_bundle(Path(bundle))
        made_with = found.manifest.model
        loaded = load_model(model or made_with.name, dtype=dtype or made_with.dtype, device=device, backend="plain")
        return cls.on(loaded, found, check=check)

    @classmethod
    def on(cls, model: LoadedModel, bundle: Bundle, *, check: ModelCheck = "exact") -> "SteeredModel":
        """The bundle on a model that is loaded already.

        Raises:
            MismatchError: it is not the one that the bundle was made with.
        """
        made = cls.__new__(cls)
        made._adopt(model, bundle, check)
        return made

    def _adopt(self, model: LoadedModel, bundle: Bundle, check: ModelCheck) -> None:
        if check == "exact":
            bundle.manifest.check_model(model.identity)
        elif check == "shape":
            _check_shape(bundle.manifest.model, model.identity)
        else:
            raise MismatchError(f'check is "exact" or "shape", not {check!r}')
        segmenter(bundle.manifest.stage3.delimiter)  # one that is not registered here is said now, not at the first answer
        self.model, self.bundle = model, bundle
        self.memory = bundle.memory()

    @overload
    def generate(self, prompts: Prompt | Sequence[Prompt], *, stream: Literal[False] = False, **options: Any) -> list[SteeredAnswer]: ...
    @overload
    def generate(self, prompts: Prompt | Sequence[Prompt], *, stream: Literal[True], **options: Any) -> Iterator[Event]: ...
    def generate(self, prompts: Any, *, stream: bool = False, **options: Any) -> list[SteeredAnswer] | Iterator[Event]:
        """Answer a prompt, or many side by side; rows do not touch each other.

        Args:
            prompts: a question, a conversation, or a list of either. A question goes into the template of the bundle's task, as in the
                workbench; a conversation goes as it is.
            stream: give events as they happen (``TokenEvent``, ``StepEvent``, at last a ``TraceEvent`` a row), not answers at the end.
            max_new_tokens, temperature, top_p: instead of the bundle's own.
            strength: multiple of the bundle's strength; 0 injects nothing.
            off: decode unsteered, without retrieval and previews.
            variant: an ablation instead of the method: ``"no_probing"``, ``"random_vector"``, ``"random_choice"``, ``"no_memory"``.
            seed: of sampling and of ablations, instead of the run's.
            raw: send questions as typed, without the template.

        Raises:
            PromptError: an empty prompt, or one too long for the context.
            SteeringError: a strength below 0 or not finite, or an unknown variant.
        """
        events = self._events(_listed(prompts), **options)
        if stream:
            return events
        traces = {event.row: event.trace for event in events if isinstance(event, TraceEvent)}
        return [SteeredAnswer(traces[row]) for row in sorted(traces)]

    def _events(
        self,
        prompts: list[Prompt],
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        strength: float | int = 1.0,
        off: bool = False,
        variant: str | None = None,
        seed: int | None = None,
        raw: bool = False,
    ) -> Iterator[Event]:
        decode = self.decoding(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
        jobs = [
            self.job("prompt", self.prompt_ids(prompt, room=decode.max_new_tokens, raw=raw), strength=strength, off=off, variant=variant)
            for prompt in prompts
        ]
        return steer(self.model, jobs, self.settings(decode, seed))

    def decoding(self, *, max_new_tokens: int | None = None, temperature: float | None = None, top_p: float | None = None) -> DecodeConfig:
        """The bundle's own decoding with what is given in its place.

        Raises:
            SteeringError: a value that cannot be.
        """
        own = self.bundle.manifest.stage3.decode
        most = own.max_new_tokens if max_new_tokens is None else max_new_tokens
        heat = own.temperature if temperature is None else temperature
        mass = own.top_p if top_p is None else top_p
        if most < 1:
            raise SteeringError(f"max_new_tokens is {most}: at least 1")
        if not (math.isfinite(heat) and (heat == 0 or heat >= COLDEST)):
            raise SteeringError(f"temperature is {heat}: 0, which is greedy, or a number of at least {COLDEST:g}")
        if not 0 < mass <= 1:
            raise SteeringError(f"top_p is {mass}: above 0, at most 1")
        return with_changes(own, max_new_tokens=most, temperature=heat, top_p=mass)

    def settings(self, decode: DecodeConfig, seed: int | None = None, rows: int | None = None) -> Settings:
        """What a batch shares."""
        own = self.bundle.manifest.stage3
        return Settings(decode, own.control_points, own.delimiter, own.seed if seed is None else seed, own.compat, rows)

    def job(
        self,
        name: str,
        prompt_ids: list[int],
        *,
        strength: float | int = 1.0,
        off: bool = False,
        variant: str | None = None,
        decode: DecodeConfig | None = None,
    ) -> Job:
        """One answer to decode; see :meth:`generate`.

        Raises:
            SteeringError: a strength below 0 or not finite, or an unknown variant.
        """
        if not (math.isfinite(strength) and strength >= 0):
            raise SteeringError(f"strength is {strength}: a number of at least 0; 1 is the bundle's own, 0 injects nothing")
        if variant is not None and variant not in get_args(Variant):
            raise SteeringError(f"variant {variant!r} is not known: take one of {', '.join(get_args(Variant))}")
        own: GateConfig = self.bundle.manifest.stage3.gate
        gate = with_changes(own, k_scale=own.k_scale * strength, variant=variant or own.variant)
        return Job(name, prompt_ids, gate, None if off else self.memory, decode=decode)

    def prompt_ids(self, prompt: Prompt, *, room: int, raw: bool = False) -> list[int]:
        """Prompt ids of a question (in the task's template, unless ``raw``) or a conversation; ``room`` tokens must fit behind them.

        A conversation without a system message gets the one that the library was mined with, if there was one.

        Raises:
            PromptError: empty, too long for the context, or refused by the chat template.
        """
        task = self.bundle.manifest.stage3.task
        if isinstance(prompt, str):
            return prompt_ids(self.model, prompt, task, room=room, raw=raw)
        messages = [_message(each) for each in prompt]
        if not any(message["content"].strip() for message in messages):
            raise PromptError("the conversation is empty: write a message")
        if task.system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": task.system}, *messages]
        return self.model.fitting(self.model.tokens(self.model.dialogue_text(messages)), room=room)

    def serve(self, intake: Intake[Job], decode: DecodeConfig | None = None) -> Iterator[Event]:
        """Events of the answers that an intake hands out, for as long as it does."""
        return steer(self.model, intake, self.settings(decode or self.bundle.manifest.stage3.decode))

    @property
    def device(self) -> torch.device:
        """Where it decodes."""
        return self.model.device


def _listed(prompts: Any) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    found = list(prompts)
    if not found:
        raise PromptError("there is no prompt: give at least one")
    return [found] if all(isinstance(each, Mapping) for each in found) else found


def _message(message: Mapping[str, str]) -> dict[str, str]:
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not isinstance(content, str):
        raise PromptError(f"a message has a role and a content, both text; this one has {sorted(message)}")
    return {"role": role, "content": content}


def _weights_of(name: str) -> str | None:
    folder = Path(name)
    if not folder.is_dir() or not any(folder.glob("*.safetensors")):
        return None
    return weights_digest(folder_source(folder), folder)


def _check_shape(made_with: ModelIdentity, model: ModelIdentity) -> None:
    for field in ("d_model", "n_layers"):
        theirs, ours = getattr(made_with, field), getattr(model, field)
        if theirs != ours:
            raise MismatchError(
                f"the bundle was made with {made_with.name} ({field} {theirs}), {model.name} has {field} {ours}: its vectors do not fit"
            )
