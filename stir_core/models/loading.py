"""Load a language model, by default with a raw TransformerBridge: weights neither folded nor centred, so vectors live in Hugging Face
coordinates. TransformerLens is imported only for a backend that needs it.
"""

import copy
import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import transformers
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from stir_core.config import DecodeConfig, ModelConfig, RolloutConfig
from stir_core.errors import LongPromptError, ModelError, PromptError, StirError, first_line
from stir_core.models.agreement import UNFIT, agreement
from stir_core.models.backends import Backend, PlainDecoder, block_list, twin
from stir_core.models.cache import GRAIN, Store
from stir_core.models.catalogue import LOG, cache_root, prepare, resolve, weights_digest
from stir_core.models.sequential import SequentialStore
from stir_core.models.sizes import Shape, shape_of
from stir_core.models.templates import check_question_is_written, known_tags, rendered, says_system, settled_args, turn_end
from stir_core.models.weights import no_room, read_tokenizer, read_weights, refuse_unfinite
from stir_core.models.workers import WorkerPool, Workers
from stir_core.records import ModelIdentity, PhaseChoice, Thinking
from stir_core.store.files import write_whole
from stir_core.tasks.segment import StepScanner
from stir_core.tasks.thinking import PartBudgets, ThinkingScanner, ThinkingTags, split_thinking
from stir_core.version import VERSION

_TAIL = 64
"""Last tokens of a prompt that are read to see whether it opens a thinking block."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

BackendName = Literal["auto", "hooked", "bridge", "plain"]
"""The way of forward passes: ``hooked``, the lean decoder with TransformerLens hook points, beside a bridge; ``bridge``, the raw bridge;
``plain``, the lean decoder without TransformerLens. ``auto`` is ``hooked`` where that agrees with the plain Hugging Face model, else
``bridge``, else the plain model with hook points, one sequence at a time."""
_WAYS = {"auto": ("hooked", "bridge", "sequential"), "plain": ("plain", "sequential"), "hooked": ("hooked",), "bridge": ("bridge",)}
"""By backend: the ways to try, in order."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for hooked forward passes. Share one per process."""

    bridge: Any
    """The raw TransformerBridge, for looking inside the model; ``None`` with the plain backend, and where TransformerLens has none."""
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
    tags: ThinkingTags | None = None
    """The tags of its thinking; ``None``: it has none."""
    hidden: frozenset[int] | None = None
    """Special tokens that text leaves out, where a tag is made of special tokens; ``None``: all special tokens."""
    plain: Any = None
    """The plain Hugging Face model over the same weights, with eager attention: the reference of :mod:`~stir_core.models.agreement`."""
    eager: bool = False
    """Attention as Hugging Face's eager kernel computes it, bit for bit, instead of fused kernels."""
    workers: Workers | None = None
    """Processes with the same model that decode in this one's place; ``None``: this one decodes."""
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    """Held during a pass, since its hooks are global state of the module tree."""

    def new_store(self, *, columns: int = GRAIN) -> Store:
        """An empty store for keys and values, with room for ``columns`` tokens per sequence before it has to grow."""
        if self.backend.packs:
            return Store(self.n_layers, columns=columns)
        return SequentialStore(self.n_layers, self.backend.config, columns=columns)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.identity.n_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.identity.d_model

    def text(self, ids: list[int] | tuple[int, ...]) -> str:
        """Decode ids to text without special tokens, except those of the thinking's tags; spaces are not cleaned up."""
        if self.hidden is not None:
            return self.prompt_text([token_id for token_id in ids if token_id not in self.hidden])
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def token_text(self, token_id: int) -> str:
        """Decode one token by itself, special or not; spaces are not cleaned up."""
        return self.prompt_text([token_id])

    def prompt_text(self, ids: list[int]) -> str:
        """Decode prompt ids with their special tokens: the text that the chat template wrote."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def opened(self, prompt_ids: Sequence[int]) -> bool:
        """Whether a prompt ends inside a thinking block."""
        return self.tags is not None and self.prompt_text(list(prompt_ids[-_TAIL:])).rstrip().endswith(self.tags.opening)

    def scanner(self, prompt_ids: Sequence[int], delimiter: str, phase: PhaseChoice | None) -> StepScanner:
        """A scanner of the steps of an answer to a prompt.

        Args:
            phase: the part whose steps are counted; ``None``: tags have no meaning.
        """
        if self.tags is None or phase is None:
            return StepScanner(self.text, delimiter)
        return StepScanner(self.text, delimiter, ThinkingScanner(self.text, self.tags, opened=self.opened(prompt_ids)), phase)

    def budgets(self, prompt_ids: Sequence[int], decode: DecodeConfig | RolloutConfig, given: Sequence[int] = ()) -> PartBudgets | None:
        """The budgets of the parts of an answer to a prompt, after its first tokens; ``None``: no part has one."""
        if decode.max_thinking_tokens is None and decode.max_final_tokens is None:
            return None
        scanner = ThinkingScanner(self.text, self.tags, opened=self.opened(prompt_ids)) if self.tags is not None else None
        end = self.tokens(self.tags.end) if self.tags is not None else []
        budgets = PartBudgets(scanner, end, thinking=decode.max_thinking_tokens, final=decode.max_final_tokens)
        for token_id in given:
            budgets.push(token_id)
        return budgets

    def thinking(self, prompt_ids: Sequence[int], ids: Sequence[int], text: str, budgets: PartBudgets | None = None) -> Thinking | None:
        """Where the thinking of an answer ends; ``None``: it has none.

        Args:
            ids: of the answer.
            text: of the answer.
            budgets: that it was decoded with; they know whether one of them closed the thinking.
        """
        if self.tags is None:
            return None
        opened = self.opened(prompt_ids)
        final = split_thinking(text, [self.tags[:2]], opened=opened).final
        if final is None:
            return Thinking(tokens=len(ids), chars=len(text), closed=False)
        if len(final) == len(text):
            return None
        scanner = ThinkingScanner(self.text, self.tags, opened=opened)
        for token_id in ids:
            scanner.push(token_id)
        forced = budgets is not None and budgets.forced
        return Thinking(tokens=scanner.closed_at, chars=len(text) - len(final), closed=True, forced=forced)

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
            LongPromptError: they do not fit.
        """
        if len(ids) + room > self.n_ctx:
            raise LongPromptError(
                f"the prompt has {len(ids)} tokens and {room} must follow, but {self.identity.name} reads {self.n_ctx}: "
                "shorten the prompt or the token budget"
            )
        return ids


def load_model(
    name: str = "smollm2",
    *,
    dtype: str = "auto",
    device: str = "auto",
    backend: BackendName = "auto",
    template_args: Mapping[str, Any] | None = None,
    think_tags: tuple[str, str] | None = None,
) -> LoadedModel:
    """Load a model by catalogue name, folder, GGUF file or hub name, raw: weights neither folded nor centred.

    Args:
        name: ``"smollm2"`` (embedded), a local folder, a local ``.gguf`` file (dequantised once into a cache), or a hub name.
        dtype: ``"float32"``, exact and reproducible, ``"bfloat16"``, ``"float16"``, ``"stored"``, the type of the model's files, or
            ``"auto"``: float32 on the CPU, stored on a GPU.
        device: ``"cpu"``, ``"cuda"``, ``"auto"``, which takes a CUDA device when there is one, or ``"all"``, which shares the blocks out
            over all CUDA devices.
        backend: the way of forward passes, see :data:`BackendName`.
        template_args: arguments of the chat template, e.g. ``{"enable_thinking": False}``; ``date`` is the day that it writes.
        think_tags: opening and closing tag of the thinking, where they are not ``<think>``, ``[THINK]`` or Harmony channels.

    Returns:
        The model with its tokenizer and identity; ``model.bridge`` is the raw TransformerBridge, for your own hooks.

    Raises:
        ModelError: unknown name, dtype, device or backend, unreadable files, an architecture that is not a causal language model, or a chat
            template that does not write the question or read one of the arguments.
    """
    for what, value, offered in (("dtype", dtype, ("auto", *DTYPES, "stored")), ("backend", backend, get_args(BackendName))):
        if value not in offered:
            raise ModelError(f'{what} "{value}" is not offered: choose {", ".join(offered)}')
    target = device_of("cuda" if device == "all" else device)
    hf_logging.disable_progress_bar()  # it draws a bar for each tensor; callers show their own progress
    source = resolve(name)
    folder = prepare(source)
    tokenizer = read_tokenizer(name, folder)
    stored = dtype == "stored" or (dtype == "auto" and target.type == "cuda")
    settled = "auto" if stored else DTYPES.get(dtype, torch.float32)
    hf_model = read_weights(name, folder, settled, device=target, shared_out=device == "all")
    return boot(
        name,
        hf_model,
        tokenizer,
        weights_sha256=weights_digest(source, folder),
        device=target,
        backend=backend,
        template_args=template_args,
        think_tags=think_tags,
        check=True,
    )


def device_of(name: str) -> torch.device:
    """The device of that name; ``"auto"`` is a CUDA device where there is one.

    Raises:
        ModelError: it is not known, or not here.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    except (RuntimeError, TypeError):
        raise ModelError(f"device {name!r} is not known: choose auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {name!r} is not here: torch finds no CUDA device on this machine, choose cpu or auto")
    return device


def model_of(config: ModelConfig, name: str | None = None, pool: WorkerPool | None = None) -> LoadedModel:
    """Load the model that a run's settings ask for.

    Args:
        name: load this name, folder or file in place of ``config.name``.
        pool: its workers load the model too, and decode in this process's place.

    Raises:
        As :func:`load_model`.
    """
    settings: dict[str, Any] = {**dict(config), "name": name or config.name}
    if pool is None:
        return load_model(**settings)
    own = dict(settings)
    if pool.device is not None:
        own |= {"device": pool.device, "dtype": "stored" if config.dtype == "auto" else config.dtype}
    model = load_model(**own)
    settings["dtype"] = model.identity.dtype  # auto would mean another on another device
    if Path(settings["name"]).exists():
        settings["name"] = str(Path(settings["name"]).resolve())  # workers have working folders of their own
    return replace(model, workers=Workers(pool, settings, model.identity.model_dump_json()))


def boot(
    name: str,
    hf_model: Any,
    tokenizer: Any,
    *,
    weights_sha256: str,
    device: torch.device | str = "cpu",
    backend: BackendName = "hooked",
    template_args: Mapping[str, Any] | None = None,
    think_tags: tuple[str, str] | None = None,
    check: bool = False,
) -> LoadedModel:
    """Wrap a loaded Hugging Face causal language model and its tokenizer; all backends share its weights.

    The bridge takes over the model's modules: do not use ``hf_model`` afterwards, except with the plain backend.

    Args:
        check: refuse weights that are not finite, and a backend that does not agree with the plain Hugging Face model; always done with
            ``auto`` and ``plain``. The result is remembered by identity.

    Raises:
        ModelError: an architecture that cannot be hooked, no backend that agrees, a device without room, or a chat template that does not
            write the question or does not read one of ``template_args``.
    """
    args = settled_args(tokenizer, name, template_args or {})
    check_question_is_written(tokenizer, name, args)
    tags = known_tags(tokenizer, think_tags)
    special = {*tokenizer.all_special_ids, *(id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special)}
    kept = special.intersection(tokenizer(tags.opening + tags.end, add_special_tokens=False)["input_ids"]) if tags else set[int]()
    hf_model.eval()
    config = hf_model.config.get_text_config()
    dtype = next(hf_model.parameters()).dtype
    try:
        if not (getattr(hf_model, "is_quantized", False) or hasattr(hf_model, "hf_device_map")):  # these were read to where they belong
            hf_model.to(device)
    except RuntimeError as error:  # torch's errors of memory and of drivers, too
        raise no_room(name, device, error) from error
    several = len({str(weight.device) for weight in hf_model.parameters()}) > 1
    if several:
        device = hf_model.get_input_embeddings().weight.device  # where tokens go in, and where logits and states come back to
    identity = ModelIdentity(
        name=name,
        weights_sha256=weights_sha256,
        tokenizer_sha256=tokenizer_digest(tokenizer),
        dtype=str(dtype).removeprefix("torch."),
        architecture=type(hf_model).__name__,
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        template_args=args,
        think_tags=think_tags,
    )
    # before the bridge puts its own modules into the tree; refuses what cannot be hooked
    dense = hf_model
    if _packed(hf_model):  # its tensors have other shapes than the products that are computed with them
        with torch.device("meta"):
            dense = type(hf_model)(copy.deepcopy(hf_model.config))
    shape = shape_of(config, [(part, tuple(weight.shape)) for part, weight in block_list(dense).named_parameters()])
    plain = twin(hf_model, "eager")
    packed = twin(hf_model) if backend != "bridge" else None
    bridge, refusal = (None, "its blocks lie on several devices") if several else (None, None)
    if not several and backend != "plain":
        bridge, refusal = _bridge(name, hf_model, tokenizer, str(device), dtype)
    made = LoadedModel(
        bridge,
        tokenizer,
        identity,
        torch.device(device),
        stop_ids=_stop_ids(hf_model, tokenizer, args) - kept,
        n_ctx=_context(config),
        backend=PlainDecoder(plain),  # until the way is known
        shape=shape,
        plain=plain,
        tags=tags,
        hidden=frozenset(special - kept) if kept else None,
    )
    return _settled(made, backend, packed, refusal, check=check or backend in ("auto", "plain"))


def _bridge(name: str, hf_model: Any, tokenizer: Any, device: str, dtype: torch.dtype) -> tuple[Any, str | None]:
    """The raw bridge, or ``None`` and the reason why TransformerLens makes none."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources.transformers import helpers

    helpers._ensure_torchvision = _never  # it runs pip
    if _packed(hf_model):
        return None, "its weights stay quantised"  # a bridge over 8-bit layers computes something else, and says nothing
    # the bridge picks its adapter by this name, and some checkpoints name a multimodal wrapper
    hf_model.config.architectures = [type(hf_model).__name__]
    try:
        return TransformerBridge.boot_transformers(name, hf_model=hf_model, tokenizer=tokenizer, device=device, dtype=dtype), None
    except (*UNFIT, ImportError) as error:
        return None, first_line(error)


def _packed(hf_model: Any) -> bool:
    """Whether weights stay quantised in memory."""
    quantizer = getattr(hf_model, "hf_quantizer", None)
    return quantizer is not None and not getattr(quantizer.quantization_config, "dequantize", False)


def _never() -> bool:
    return False


def _settled(made: LoadedModel, asked: BackendName, packed: Any, refusal: str | None, *, check: bool) -> LoadedModel:
    """The model with the first way of forward passes that agrees with the plain model."""
    note = _remembered(made, asked) if check else None
    if check and note is None:
        refuse_unfinite(made.identity.name, made.plain)
    failures: list[str] = []
    for way in (note["way"],) if note else _WAYS[asked]:
        if way == "bridge" and made.bridge is None:
            failures.append(f"TransformerLens makes no bridge ({refusal})")
            continue
        model = replace(made, backend=_backend(way, asked, made, packed))
        if note is None and check:
            try:
                found = agreement(model)
            except UNFIT as error:
                if isinstance(error, StirError) and way == _WAYS[asked][-1]:
                    raise
                failures.append(f"{way} decoding fails ({first_line(error)})")
                continue
            if not found.agrees:
                failures.append(f"{way} decoding is {found.kl:.2g} nats from plain Hugging Face attention")
                continue
            note = {"way": way, "kl": found.kl, "reference": found.reference, "failures": failures}
            _remember(made, asked, note)
        if note is not None and note["failures"] and asked == "auto":
            LOG.warning("%s: %s; %s decoding is used, one sequence at a time", made.identity.name, "; ".join(note["failures"]), way)
        return model
    remedy = "set model.backend=auto" if asked in ("hooked", "bridge") else "take another model"
    raise ModelError(f"{made.identity.name} ({made.identity.architecture}) cannot be decoded exactly: {'; '.join(failures)}; {remedy}")


def _backend(way: str, asked: BackendName, made: LoadedModel, packed: Any) -> Backend:
    if asked == "plain":
        return PlainDecoder(packed if way == "plain" else twin(made.plain, "eager"))
    from stir_core.models.hooked import BridgeBackend, HookedDecoder

    if way == "bridge":
        return BridgeBackend(made.bridge)
    return HookedDecoder(packed if way == "hooked" else twin(made.plain, "eager"))


UNKNOWN_WEIGHTS = "0" * 64
"""In place of the hash of weights that are not known."""


def _note_file(model: LoadedModel, asked: str) -> Path:
    """Where the way of a model's forward passes is remembered: by all that it depends on."""
    identity = model.identity
    facts = [identity.weights_sha256, identity.dtype, model.plain.config.to_json_string(), model.device.type, asked]
    facts += [transformers.__version__, torch.__version__, VERSION]
    return cache_root() / "agreement" / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]}.json"


def _remembered(model: LoadedModel, asked: str) -> dict[str, Any] | None:
    if model.identity.weights_sha256 == UNKNOWN_WEIGHTS:
        return None
    try:
        note = json.loads(_note_file(model, asked).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return note if isinstance(note, dict) and note.keys() >= {"way", "failures"} and note["way"] in _WAYS[asked] else None


def _remember(model: LoadedModel, asked: str, note: dict[str, Any]) -> None:
    if model.identity.weights_sha256 == UNKNOWN_WEIGHTS:
        return
    file = _note_file(model, asked)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, (json.dumps(note) + "\n").encode("utf-8"))  # several processes may load the model at once
    except OSError as error:  # the comparison was made; the next load makes it again
        LOG.warning("%s is compared with plain attention at every load, since %s cannot be written: %s", model.identity.name, file, error)


_ENDLESS = 1 << 20
"""Context of a model that names none, as recurrent ones and those with relative positions do."""


def _context(config: Any) -> int:
    """Longest sequence in tokens.

    Where the frequencies of rotary positions change with the length of a sequence (longrope), it ends before the change: keys that were
    read before it would be wrong after it.
    """
    known = vars(config) | config.to_dict()
    n = next((known[name] for name in ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx") if known.get(name)), _ENDLESS)
    ropes = known.get("rope_parameters") or {}
    for rope in (ropes, *(each for each in ropes.values() if isinstance(each, dict))):
        if rope.get("rope_type") in ("longrope", "dynamic"):
            n = min(n, rope.get("original_max_position_embeddings") or n)
    return int(n)


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
