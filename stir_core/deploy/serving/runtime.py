"""Steering a plain Hugging Face model with the workbench's own step loop, gate and retrieval, without TransformerLens.

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    steered = SteeredModel(model, AutoTokenizer.from_pretrained(folder), "bundle")
    (answer,) = steered.generate("A farmer has 12 cows and sells 5. How many are left?", max_new_tokens=200)
    print(answer.text, [decision.chosen for decision in answer.decisions])

The given model is not changed: decoding goes through a second module tree over the same parameters. The workbench, this class and the
server use one step loop (``intervene.controller``), so decisions are the same by construction; certificates measure that they are.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from stir_core.config import DecodeConfig, GateConfig, with_changes
from stir_core.deploy.bundle.manifest import ModelCheck
from stir_core.deploy.bundle.reading import Bundle, read_bundle
from stir_core.errors import MismatchError, PromptError, SteeringError
from stir_core.intervene.controller import steer
from stir_core.intervene.jobs import Job, Settings
from stir_core.models.catalogue import folder_source, weights_digest
from stir_core.models.loading import UNKNOWN_WEIGHTS, LoadedModel, boot, load_model
from stir_core.models.prompting import prompt_ids
from stir_core.models.scheduler import Intake
from stir_core.records import Event, ModelIdentity, Trace, TraceEvent
from stir_core.tasks.segment import segmenter
from stir_core.tasks.thinking import ThinkingStream

Prompt = str | Sequence[Mapping[str, str]]
"""A question, or a conversation: messages with ``role`` and ``content``."""

COLDEST = 1e-6
"""Minimum temperature above 0: logits divided by a smaller number overflow float32."""


class SteeredModel:
    """A language model with a bundle's library and gate.

    Args:
        hf_model: a Hugging Face causal language model; it is set to evaluation mode and otherwise left as it is.
        bundle: a bundle, or its folder.
        check: ``"shape"`` accepts any model of the same width and depth; the effect on another model was never measured.
        weights_sha256: identity of the weights, for a model that was not loaded from a local folder.

    Raises:
        MismatchError: the model is not the one that the bundle was made with.
        DeployError: the bundle is not whole.
    """

    def __init__(
        self, hf_model: Any, tokenizer: Any, bundle: Bundle | Path | str, *, check: ModelCheck = "exact", weights_sha256: str | None = None
    ):
        bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
        name = str(getattr(hf_model.config, "_name_or_path", "") or type(hf_model).__name__)
        digest = weights_sha256 or _weights_of(name)
        if digest is None and check == "exact":
            raise MismatchError(
                f"the folder of {name} is not known, so its weights cannot be checked: load them from a local folder, "
                'give weights_sha256=, or check="shape"'
            )
        device = next(hf_model.parameters()).device
        more = _prompting(bundle.manifest.model)
        booted = boot(name, hf_model, tokenizer, weights_sha256=digest or UNKNOWN_WEIGHTS, device=device, backend="plain", **more)
        self._adopt(booted, bundle, check)

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
        """The bundle on its own model, or on the same model from another place (folder, GGUF file or hub name).

        Raises:
            ModelError: the model cannot be found or loaded.
            MismatchError: the bundle was made with another model.
        """
        bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
        made_with = bundle.manifest.model
        more = _prompting(made_with)
        loaded = load_model(model or made_with.name, dtype=dtype or made_with.dtype, device=device, backend="plain", **more)
        return cls.on(loaded, bundle, check=check)

    @classmethod
    def on(cls, model: LoadedModel, bundle: Bundle, *, check: ModelCheck = "exact") -> "SteeredModel":
        """The bundle on a loaded model.

        Raises:
            MismatchError: the bundle was made with another model.
        """
        steered = cls.__new__(cls)
        steered._adopt(model, bundle, check)
        return steered

    def _adopt(self, model: LoadedModel, bundle: Bundle, check: ModelCheck) -> None:
        bundle.manifest.check_model(model.identity, check)
        segmenter(bundle.manifest.stage3.delimiter)  # refuse an unregistered segmenter now, not at the first answer
        self.model, self.bundle = model, bundle
        self.memory = bundle.memory()

    @overload
    def generate(self, prompts: Prompt | Sequence[Prompt], *, stream: Literal[False] = False, **options: Any) -> list[Trace]: ...
    @overload
    def generate(self, prompts: Prompt | Sequence[Prompt], *, stream: Literal[True], **options: Any) -> Iterator[Event]: ...
    def generate(
        self, prompts: Any, *, stream: bool = False, seed: int | None = None, raw: bool = False, **options: Any
    ) -> list[Trace] | Iterator[Event]:
        """Answer one prompt, or many side by side; an answer does not depend on the others.

        Args:
            prompts: a question, a conversation, or a list of either. A question is put into the template of the bundle's task, as in the
                workbench; a conversation is sent as it is.
            stream: yield events as they happen (``TokenEvent``, ``StepEvent``, and one final ``TraceEvent`` for each prompt).
            seed: of sampling and of ablations, instead of the run's.
            raw: send questions as typed, without the template.
            options: ``max_new_tokens``, ``max_thinking_tokens``, ``max_final_tokens``, ``temperature``, ``top_p`` instead of the bundle's
                own; ``strength``, a multiple of the bundle's strength (0 injects nothing); ``off``, to decode unsteered, without retrieval
                and previews; ``variant``, an ablation instead of the method (``"no_probing"``, ``"random_vector"``, ``"random_choice"``,
                ``"no_memory"``).

        Returns:
            One trace for each prompt, in order, with its text, tokens, decisions, evidence and costs; or the events, if ``stream``.

        Raises:
            PromptError: an empty prompt, or one too long for the context.
            SteeringError: a strength or temperature out of range.
            ConfigError: another option out of range.
        """
        how = {name: options.pop(name) for name in ("strength", "off", "variant") if name in options}
        decode = self.decoding(**options)
        settings = Settings.of(self.bundle.config if seed is None else with_changes(self.bundle.config, seed=seed), decode)
        ids = [self.prompt_ids(prompt, room=decode.max_new_tokens, raw=raw) for prompt in _listed(prompts)]
        events = steer(self.model, [self.job("prompt", each, **how) for each in ids], settings)
        if stream:
            return events
        traces = {event.row: event.trace for event in events if isinstance(event, TraceEvent)}
        return [traces[row] for row in sorted(traces)]

    def decoding(self, *, temperature: float | None = None, **given: float | int | None) -> DecodeConfig:
        """The bundle's own decoding with other values; ``None`` keeps its own.

        Raises:
            SteeringError: a temperature that is neither 0 nor at least :data:`COLDEST`.
            ConfigError: another value out of range.
        """
        if temperature is not None and not (math.isfinite(temperature) and (temperature == 0 or temperature >= COLDEST)):
            raise SteeringError(f"temperature is {temperature}: give 0, which is greedy, or a number of at least {COLDEST:g}")
        changed = {key: value for key, value in {"temperature": temperature, **given}.items() if value is not None}
        return with_changes(self.bundle.manifest.stage3.decode, **changed)

    def job(
        self,
        name: str,
        prompt_ids: list[int],
        *,
        strength: float | int = 1.0,
        off: bool = False,
        variant: str | None = None,
        decode: DecodeConfig | None = None,
        likeliest: int = 0,
    ) -> Job:
        """One answer to decode, with as many likeliest tokens in each token's event; see :meth:`generate`.

        Raises:
            SteeringError: a strength below 0 or not finite.
            ConfigError: an unknown variant.
        """
        if not (math.isfinite(strength) and strength >= 0):
            raise SteeringError(f"strength is {strength}: give a number of at least 0; 1 is the bundle's own, 0 injects nothing")
        own: GateConfig = self.bundle.manifest.stage3.gate
        gate = with_changes(own, k_scale=own.k_scale * strength, variant=variant or own.variant)
        return Job(name, prompt_ids, gate, None if off else self.memory, decode=decode, likeliest=likeliest)

    def prompt_ids(self, prompt: Prompt, *, room: int, raw: bool = False, template_args: Mapping[str, Any] | None = None) -> list[int]:
        """Prompt ids of a question (in the task's template, unless ``raw``) or a conversation; ``room`` more tokens must fit after them.

        A conversation without a system message gets the one that the library was mined with, if there is one.

        Args:
            template_args: arguments of the chat template for a conversation, in addition to those that the bundle was made with.

        Raises:
            PromptError: empty, too long for the context, or refused by the chat template.
            ModelError: the chat template does not read one of the arguments.
        """
        task = self.bundle.manifest.stage3.task
        if isinstance(prompt, str):
            return prompt_ids(self.model, prompt, task, room=room, raw=raw)
        messages = [_message(each) for each in prompt]
        if not any(message["content"].strip() for message in messages):
            raise PromptError("the conversation is empty: write a message")
        if task.system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": task.system}, *messages]
        return self.model.fitting(self.model.tokens(self.model.dialogue_text(messages, template_args)), room=room)

    def parts(self, prompt_ids: Sequence[int]) -> ThinkingStream | None:
        """What splits a streamed answer to a prompt into thinking and final part; ``None``: the model does not think."""
        return ThinkingStream(self.model.tags, opened=self.model.opened(prompt_ids)) if self.model.tags is not None else None

    def serve(self, intake: Intake[Job]) -> Iterator[Event]:
        """Events of the jobs that an intake supplies, until it ends. Every job has its own decode settings."""
        return steer(self.model, intake, Settings.of(self.bundle.config))


def _prompting(model: ModelIdentity) -> dict[str, Any]:
    return {"template_args": model.template_args, "think_tags": model.think_tags}


def _listed(prompts: Any) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    prompts = list(prompts)
    if not prompts:
        raise PromptError("there is no prompt: give at least one")
    return [prompts] if all(isinstance(each, Mapping) for each in prompts) else prompts


def _message(message: Mapping[str, str]) -> dict[str, str]:
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not isinstance(content, str):
        raise PromptError(f"a message with {sorted(message)} cannot be read: give it a role and a content, both text")
    return {"role": role, "content": content}


def _weights_of(name: str) -> str | None:
    folder = Path(name)
    if not folder.is_dir() or not any(folder.glob("*.safetensors")):
        return None
    return weights_digest(folder_source(folder), folder)
