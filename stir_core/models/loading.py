"""Load a language model, by default with a raw TransformerBridge: weights neither folded nor centred, so vectors live in Hugging Face
coordinates. TransformerLens is imported only for a backend that needs it.
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from stir_core.config import ModelConfig
from stir_core.errors import ModelError, PromptError, first_line
from stir_core.models.backends import Backend, PlainDecoder, block_list, twin
from stir_core.models.cache import GRAIN, Store
from stir_core.models.catalogue import prepare, resolve, weights_digest
from stir_core.models.sizes import Shape
from stir_core.models.templates import check_question_is_written, rendered, says_system, settled_args, turn_end
from stir_core.records import ModelIdentity

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

BackendName = Literal["hooked", "bridge", "plain"]
"""The way of forward passes: ``hooked``, the lean decoder with TransformerLens hook points, beside a bridge; ``bridge``, the raw bridge;
``plain``, the lean decoder without TransformerLens."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for hooked forward passes. Share one per process."""

    bridge: Any
    """The raw TransformerBridge, for looking inside the model; ``None`` with the plain backend."""
    tokenizer: PreTrainedTokenizerBase
    identity: ModelIdentity
    device: torch.device
    stop_ids: frozenset[int]
    """End-of-text tokens."""
    n_ctx: int
    """Longest sequence, prompt and answer together, in tokens."""
    backend: Backend
    """The model as forward passes use it."""
    shape: Shape
    """The sizes that the FLOPs of a pass depend on."""
    eager: bool = False
    """Attention as Hugging Face's eager kernel computes it, bit for bit, instead of fused kernels."""
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    """Held during a pass, since its hooks are global state of the module tree."""

    def new_store(self, *, columns: int = GRAIN) -> Store:
        """An empty store for keys and values, with room for ``columns`` tokens per sequence before it has to grow."""
        return Store(self.n_layers, columns=columns)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.identity.n_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.identity.d_model

    def text(self, ids: list[int] | tuple[int, ...]) -> str:
        """Decode ids to text without special tokens; spaces are not cleaned up."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def token_text(self, token_id: int) -> str:
        """Decode one token by itself, special or not; spaces are not cleaned up."""
        return self.prompt_text([token_id])

    def prompt_text(self, ids: list[int]) -> str:
        """Decode prompt ids with their special tokens: the text that the chat template wrote."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def tokens(self, text: str) -> list[int]:
        """Token ids of plain text; no special token is added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def chat_text(self, question: str, system: str | None = None) -> str:
        """The prompt as text: chat template with its generation prompt, or the bare question for a base model."""
        first = [] if system is None else [{"role": "system", "content": system}]
        return self.dialogue_text([*first, {"role": "user", "content": question}])

    def dialogue_text(self, messages: list[dict[str, str]], args: Mapping[str, Any] | None = None) -> str:
        """A conversation (``role`` and ``content`` each) as the model's chat template writes it, ready for the next answer.

        A system text goes into the user's turn where the template does not write it.

        Args:
            args: template arguments in addition to the model's own.

        Raises:
            PromptError: the template refuses these roles in this order, or this system text.
            ModelError: the template does not read one of the arguments.
        """
        if not self.tokenizer.chat_template:
            texts = [message["content"] for message in messages if message["content"]]
            return (getattr(self.tokenizer, "bos_token", None) or "") + "\n\n".join(texts)
        own = self.identity.template_args
        settled = settled_args(self.tokenizer, self.identity.name, {**own, **args}) if args else own
        if messages[0]["role"] == "system" and not says_system(self.tokenizer, settled):
            if len(messages) == 1 or messages[1]["role"] != "user":
                raise PromptError("the model's chat template writes no system text: put it into the user's message")
            joined = f"{messages[0]['content']}\n\n{messages[1]['content']}"
            messages = [{"role": "user", "content": joined}, *messages[2:]]
        return rendered(self.tokenizer, messages, settled)

    def chat_ids(self, question: str, system: str | None = None, *, room: int = 1) -> list[int]:
        """Prompt ids; the chat template's own BOS is the only one.

        Args:
            room: tokens that must still fit after the prompt.

        Raises:
            PromptError: an empty question, words that the model does not know, or a prompt that leaves fewer than ``room`` tokens of the
                context.
        """
        if not question.strip():
            raise PromptError("the prompt is empty: write a question")
        ids = self.tokens(self.chat_text(question, system))
        unknown = self.tokenizer.unk_token_id
        if unknown in ids and unknown not in (
            self.tokenizer.bos_token_id,
            *self.stop_ids,
        ):  # elsewhere one token has several of these roles
            words = f"{system or ''} {question}".split()
            strange = [word for word in dict.fromkeys(words) if unknown in self.tokens(word) and unknown in self.tokens(f" {word}")]
            named = ", ".join(map(repr, strange[:5])) or "a part of the prompt"
            raise PromptError(f"{self.identity.name} does not know {named}: ask in its language")
        return self.fitting(ids, room=room)

    def fitting(self, ids: list[int], *, room: int) -> list[int]:
        """The prompt ids, if ``room`` tokens still fit after them.

        Raises:
            PromptError: they do not fit.
        """
        if len(ids) + room > self.n_ctx:
            raise PromptError(
                f"the prompt has {len(ids)} tokens and {room} must follow, but {self.identity.name} reads {self.n_ctx}: "
                "shorten the prompt or the token budget"
            )
        return ids


def load_model(
    name: str = "smollm2",
    *,
    dtype: str = "float32",
    device: str = "auto",
    backend: BackendName = "hooked",
    template_args: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Load a model by catalogue name, folder, GGUF file or hub name, raw: weights neither folded nor centred.

    Args:
        name: ``"smollm2"`` (embedded), a local folder, a local ``.gguf`` file (dequantised once into a cache), or a hub name.
        dtype: ``"float32"``, exact and reproducible, or ``"bfloat16"``.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``, which takes a CUDA device when there is one.
        backend: the way of forward passes, see :data:`BackendName`.
        template_args: arguments of the chat template, e.g. ``{"enable_thinking": False}``; ``date`` is the day that it writes.

    Returns:
        The model with its tokenizer and identity; ``model.bridge`` is the raw TransformerBridge, for your own hooks.

    Raises:
        ModelError: unknown name, dtype, device or backend, unreadable files, an architecture that is not a causal language model, or a chat
            template that does not write the question or read one of the arguments.
    """
    for what, value, offered in (("dtype", dtype, tuple(DTYPES)), ("backend", backend, get_args(BackendName))):
        if value not in offered:
            raise ModelError(f'{what} "{value}" is not offered: choose {" or ".join(offered)}')
    try:
        target = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    except (RuntimeError, TypeError):
        raise ModelError(f"device {device!r} is not known: choose auto, cpu or cuda") from None
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {device!r} is not here: torch finds no CUDA device on this machine, choose cpu or auto")
    hf_logging.disable_progress_bar()  # it draws a bar for each tensor; callers show their own progress
    source = resolve(name)
    folder = prepare(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        hf_model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype], use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{name} cannot be loaded from {folder}: {first_line(error, 300)}") from error
    digest = weights_digest(source, folder)
    return boot(name, hf_model, tokenizer, weights_sha256=digest, device=target, backend=backend, template_args=template_args)


def model_of(config: ModelConfig, name: str | None = None) -> LoadedModel:
    """Load the model that a run's settings ask for.

    Args:
        name: load this name, folder or file in place of ``config.name``.

    Raises:
        As :func:`load_model`.
    """
    args = config.template_args
    return load_model(name or config.name, dtype=config.dtype, device=config.device, backend=config.backend, template_args=args)


def boot(
    name: str,
    hf_model: Any,
    tokenizer: Any,
    *,
    weights_sha256: str,
    device: torch.device | str = "cpu",
    backend: BackendName = "hooked",
    template_args: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Wrap a loaded Hugging Face causal language model and its tokenizer; all backends share its weights.

    The bridge takes over the model's modules: do not use ``hf_model`` afterwards, except with the plain backend.

    Raises:
        ModelError: a chat template that does not write the question, or does not read one of ``template_args``.
    """
    args = settled_args(tokenizer, name, template_args or {})
    check_question_is_written(tokenizer, name, args)
    hf_model.eval()
    config = hf_model.config.get_text_config()
    dtype = next(hf_model.parameters()).dtype
    hf_model.to(device)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    matrices = sum(weight.numel() for weight in block_list(hf_model).parameters() if weight.ndim == 2)
    shape = Shape(matrices, config.hidden_size * config.vocab_size, config.num_hidden_layers * config.num_attention_heads * head)
    bridge: Any = None
    if backend == "plain":
        decoder: Backend = PlainDecoder(twin(hf_model))
    else:
        from transformer_lens.model_bridge import TransformerBridge

        from stir_core.models.hooked import BridgeBackend, HookedDecoder

        # the bridge picks its adapter by this name, and some checkpoints name a multimodal wrapper
        hf_model.config.architectures = [type(hf_model).__name__]
        lean = twin(hf_model) if backend == "hooked" else None  # before the bridge puts its own modules into the tree
        bridge = TransformerBridge.boot_transformers(name, hf_model=hf_model, tokenizer=tokenizer, device=str(device), dtype=dtype)
        decoder = BridgeBackend(bridge) if lean is None else HookedDecoder(lean)
    identity = ModelIdentity(
        name=name,
        weights_sha256=weights_sha256,
        tokenizer_sha256=tokenizer_digest(tokenizer),
        dtype=str(dtype).removeprefix("torch."),
        architecture=type(hf_model).__name__,
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        template_args=args,
    )
    return LoadedModel(
        bridge,
        tokenizer,
        identity,
        torch.device(device),
        stop_ids=_stop_ids(hf_model, tokenizer, args),
        n_ctx=config.max_position_embeddings,
        backend=decoder,
        shape=shape,
    )


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 over vocabulary, merges, special tokens and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    body = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(f"{body}\x1f{tokenizer.chat_template or ''}".encode()).hexdigest()


def _stop_ids(hf_model: Any, tokenizer: Any, args: Mapping[str, Any]) -> frozenset[int]:
    """End of text, of the tokenizer and of the generation config, and the token that ends an answer in the chat template."""
    ending = turn_end(tokenizer, args)
    stop_ids = set[int]() if ending is None else {ending}
    for holder in (getattr(hf_model, "generation_config", None), tokenizer):
        ids = getattr(holder, "eos_token_id", None)
        if isinstance(ids, list | tuple):
            stop_ids.update(ids)
        elif ids is not None:
            stop_ids.add(ids)
    return frozenset(stop_ids)
