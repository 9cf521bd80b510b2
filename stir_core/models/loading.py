"""Loading a language model, by default as a raw TransformerBridge: weights neither folded nor centred, so vectors live in Hugging Face
coordinates. TransformerLens is imported when a backend that needs it is asked for, and not before.

A GGUF file is dequantised once into a safetensors cache (parsing it takes 10-20 s; the cached copy loads in about 2 s).
Nothing here changes an activation: see ``steering``.
"""

import hashlib
import json
import os
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jinja2.exceptions import TemplateError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from stir_core.config import ModelConfig
from stir_core.errors import ModelError, PromptError, first_line
from stir_core.models.backends import Backend, PlainDecoder, block_list, twin
from stir_core.models.cache import Store
from stir_core.models.catalogue import ModelSource, converted, converted_folder, file_digest, resolve, weights_digest
from stir_core.models.sizes import Shape
from stir_core.records import ModelIdentity

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

BackendName = Literal["hooked", "bridge", "plain"]
"""What forward passes go through: the lean decoder with TransformerLens hook points (with a bridge beside it), the raw bridge, or the lean
decoder alone, without TransformerLens."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for hooked forward passes. Share one per process."""

    bridge: Any
    """The raw TransformerBridge, for looking inside; ``None`` for the plain backend."""
    tokenizer: PreTrainedTokenizerBase
    identity: ModelIdentity
    device: torch.device
    stop_ids: frozenset[int]
    """End-of-text tokens."""
    n_ctx: int
    """Longest sequence, prompt and answer together, in tokens."""
    backend: Backend
    """What forward passes go through."""
    shape: Shape
    """What the FLOPs of a pass depend on."""
    eager: bool = False
    """Attention as Hugging Face's eager kernel computes it, bit for bit, instead of fused kernels."""
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    """Held for a whole pass with its hooks, which are global state of the module tree."""

    def new_store(self) -> Store:
        """An empty store for the keys and values of sequences."""
        return Store(self.n_layers)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.identity.n_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.identity.d_model

    def text(self, ids: list[int] | tuple[int, ...]) -> str:
        """Decode ids to text, special tokens left out, spaces as they are."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def token_text(self, token_id: int) -> str:
        """Decode one token alone, special tokens and spaces as they are."""
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

    def dialogue_text(self, messages: list[dict[str, str]]) -> str:
        """A conversation (``role`` and ``content`` each) as the model's chat template writes it, ready for the next answer.

        Raises:
            PromptError: the template refuses these roles in this order.
        """
        if not self.tokenizer.chat_template:
            texts = [message["content"] for message in messages if message["content"]]
            return (getattr(self.tokenizer, "bos_token", None) or "") + "\n\n".join(texts)
        try:
            return self._render(messages)
        except TemplateError as error:  # the template's own refusal: Gemma-style models know no system role
            if len(messages) > 1 and messages[0]["role"] == "system" and messages[1]["role"] == "user":
                joined = f"{messages[0]['content']}\n\n{messages[1]['content']}"
                return self.dialogue_text([{"role": "user", "content": joined}, *messages[2:]])
            raise PromptError(f"the model's chat template refuses this conversation: {first_line(error, 300)}") from None

    def chat_ids(self, question: str, system: str | None = None, *, room: int = 1) -> list[int]:
        """Prompt ids; the chat template's own BOS is the only one.

        Args:
            room: tokens that must still fit behind the prompt.

        Raises:
            PromptError: an empty question, or a prompt that leaves less than ``room`` tokens of the context.
        """
        if not question.strip():
            raise PromptError("the prompt is empty: write a question")
        return self.fitting(self.tokens(self.chat_text(question, system)), room=room)

    def fitting(self, ids: list[int], *, room: int) -> list[int]:
        """The prompt ids, when ``room`` tokens still fit behind them.

        Raises:
            PromptError: they do not.
        """
        if len(ids) + room > self.n_ctx:
            raise PromptError(
                f"the prompt has {len(ids)} tokens and {room} must follow, but {self.identity.name} reads {self.n_ctx}: "
                "shorten the prompt or the token budget"
            )
        return ids

    def _render(self, messages: list[dict[str, str]]) -> str:
        return str(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def load_model(name: str = "smollm2", *, dtype: str = "float32", device: str = "auto", backend: BackendName = "hooked") -> LoadedModel:
    """Load a model by catalogue name, folder, GGUF file or hub name, raw: weights neither folded nor centred.

    Args:
        name: ``"smollm2"`` (embedded), a local folder, a local ``.gguf`` file (dequantised once into a cache), or a hub name.
        dtype: ``"float32"``, exact and reproducible, or ``"bfloat16"``.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``, which takes a CUDA device when there is one.
        backend: what forward passes go through; ``"plain"`` leaves TransformerLens out, and has no ``bridge`` to look inside.

    Returns:
        The model with its tokenizer and identity; ``model.bridge`` is the raw TransformerBridge, for hooks of one's own.

    Raises:
        ModelError: unknown name, unreadable files, or an architecture that is not a causal language model.
    """
    if dtype not in DTYPES:
        raise ModelError(f'dtype "{dtype}" is not offered: choose {" or ".join(DTYPES)}')
    hf_logging.disable_progress_bar()  # one bar a tensor on stderr; our callers show their own progress
    source = resolve(name)
    folder = prepare(source)
    target = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        hf_model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype], use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{name} cannot be loaded from {folder}: {first_line(error, 300)}") from error
    return boot(name, hf_model, tokenizer, weights_sha256=weights_digest(source, folder), device=target, backend=backend)


def model_of(config: ModelConfig, name: str | None = None) -> LoadedModel:
    """Load the model that a run's settings ask for.

    Args:
        name: another place where it lies; everything else is as the settings say.

    Raises:
        As :func:`load_model`.
    """
    return load_model(name or config.name, dtype=config.dtype, device=config.device, backend=config.backend)


def boot(
    name: str,
    hf_model: Any,
    tokenizer: Any,
    *,
    weights_sha256: str,
    device: torch.device | str = "cpu",
    backend: BackendName = "hooked",
) -> LoadedModel:
    """Wrap a loaded Hugging Face causal language model and its tokenizer. The model's modules are taken over, save by the plain backend.

    Args:
        backend: what forward passes go through; all share the weights.
    """
    hf_model.eval()
    config = hf_model.config.get_text_config()
    dtype = next(hf_model.parameters()).dtype
    hf_model.to(device)
    shape = _shape(hf_model)
    bridge: Any = None
    if backend == "plain":
        decoder: Backend = PlainDecoder(twin(hf_model))
    else:
        from stir_core.models.hooked import BridgeBackend, HookedDecoder, bridge_of

        # some checkpoints name a multimodal wrapper here; the bridge picks its adapter by this name
        hf_model.config.architectures = [type(hf_model).__name__]
        lean = twin(hf_model) if backend == "hooked" else None  # before the bridge puts its own modules into the tree
        bridge = bridge_of(name, hf_model, tokenizer, str(device), dtype)
        decoder = BridgeBackend(bridge) if lean is None else HookedDecoder(lean)
    identity = ModelIdentity(
        name=name,
        weights_sha256=weights_sha256,
        tokenizer_sha256=tokenizer_digest(tokenizer),
        dtype=str(dtype).removeprefix("torch."),
        architecture=type(hf_model).__name__,
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
    )
    return LoadedModel(
        bridge,
        tokenizer,
        identity,
        torch.device(device),
        stop_ids=_stop_ids(hf_model, tokenizer),
        n_ctx=config.max_position_embeddings,
        backend=decoder,
        shape=shape,
    )


def prepare(source: ModelSource) -> Path:
    """A folder with config, tokenizer and safetensors weights for the source; converts or downloads once.

    Raises:
        ModelError: the file is not a readable GGUF, or the hub cannot be reached.
    """
    if (folder := converted(source)) is not None:
        return folder
    if source.kind == "gguf" and source.path is not None:
        return _convert(source.path, converted_folder(file_digest(source.path)))
    return _download(source.name)


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 over vocabulary, merges, special tokens and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    body = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(f"{body}\x1f{tokenizer.chat_template or ''}".encode()).hexdigest()


def _convert(file: Path, folder: Path) -> Path:
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
        raise ModelError(f"{file} cannot be read as a GGUF model: {first_line(error, 300)}") from error
    # the dequantised weights are plain float32; only these marks keep save_pretrained from writing them
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    part.mkdir(parents=True, exist_ok=True)
    try:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        (part / "source.json").write_text(json.dumps({"source": str(file), "sha256": file_digest(file)}) + "\n")
        if not folder.is_dir():  # another process may have been faster
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(
            f'hub model "{name}" cannot be fetched ({type(error).__name__}): check the name and the network, '
            "or give a local folder or .gguf file"
        ) from error


def _shape(hf_model: Any) -> Shape:
    config = hf_model.config.get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    matrices = sum(weight.numel() for weight in block_list(hf_model).parameters() if weight.ndim == 2)
    return Shape(matrices, config.hidden_size * config.vocab_size, config.num_hidden_layers * config.num_attention_heads * head)


def _stop_ids(hf_model: Any, tokenizer: Any) -> frozenset[int]:
    found: set[int] = set()
    for holder in (getattr(hf_model, "generation_config", None), tokenizer):
        ids = getattr(holder, "eos_token_id", None)
        found |= set(ids if isinstance(ids, list | tuple) else [] if ids is None else [ids])
    return frozenset(found)
