"""The effect of a llama.cpp control vector on the logits, in llama.cpp and in our engine: one number, their correlation.

llama.cpp computes a quantised model with activations rounded to 8 bits, which moves every logit. The effect of a control vector may be
smaller than that. So parity is judged on the same weights without that rounding (:func:`float32_copy`); the correlation of the quantised
file is measured and reported too.

Needs the package ``llama-cpp-python``, which compiles llama.cpp when it is installed.
"""

import ctypes
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from stir_core.deploy.targets.gguf import write_gguf
from stir_core.errors import DeployError
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed, forward
from stir_core.models.steering import Impulse, impulses

Directions = dict[int, Float[np.ndarray, "d_model"]]
"""The vectors that a control vector file adds at every token, by block."""

Changes = dict[str, Float[np.ndarray, "d_vocab"]]
"""Change of the logits after a prompt, by control vector file."""


class VectorEffect(NamedTuple):
    """One control vector on one prompt."""

    file: str
    prompt: int
    correlation: float
    """Pearson's, over the vocabulary, between the two changes in logits after the prompt."""
    spread: float
    """Standard deviation of our change over the vocabulary; an effect below rounding proves nothing."""


def read_directions(data: bytes) -> Directions:
    """The vectors of a control vector file, as llama.cpp reads them.

    Raises:
        DeployError: a tensor that is not a direction.
    """
    import gguf

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vector.gguf"
        file.write_bytes(data)
        directions: Directions = {}
        for tensor in gguf.GGUFReader(file).tensors:
            name, _, number = tensor.name.partition(".")
            if name != "direction" or not re.fullmatch("[1-9][0-9]{0,5}", number):
                raise DeployError(
                    f"the control vector holds a tensor {tensor.name!r}, llama.cpp reads direction.1, direction.2, … only: "
                    "export the library again with `stir export RUN --to gguf`"
                )
            directions[int(number)] = np.array(tensor.data, dtype=np.float32)
    return directions


class LlamaCpp:
    """A GGUF model in llama.cpp, for its logits. Close it, or use it in a ``with`` block."""

    def __init__(self, gguf: Path, *, n_ctx: int):
        """Load the file.

        Args:
            n_ctx: longest prompt, in tokens.

        Raises:
            DeployError: llama-cpp-python is not installed, or llama.cpp cannot read the file.
        """
        self._api = package()
        try:
            self._model = self._api.Llama(
                str(gguf), n_ctx=n_ctx, n_batch=n_ctx, n_gpu_layers=0, n_threads=torch.get_num_threads(), verbose=False
            )
        except (ValueError, AssertionError) as error:
            raise DeployError(f"llama.cpp cannot load {gguf} ({error}): give the GGUF file of the bundle's own model") from None
        self.n_layers = int(self._api.llama_model_n_layer(self._model.model))
        self.d_model = int(self._api.llama_model_n_embd(self._model.model))

    def __enter__(self) -> "LlamaCpp":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model."""
        self._model.close()

    def steer(self, directions: Directions, scale: float) -> None:
        """Add ``scale`` times these vectors at every token from now on; an empty dict adds nothing.

        Raises:
            DeployError: a vector of another width or of a block that is not there, or llama.cpp refuses.
        """
        table = np.zeros((self.n_layers, self.d_model), dtype=np.float32)  # row i is block i + 1: the format has no block 0
        for layer, vector in directions.items():
            if vector.shape != (self.d_model,) or not 1 <= layer < self.n_layers:
                raise DeployError(
                    f"direction.{layer} has shape {list(vector.shape)}, and the GGUF model has {self.n_layers} blocks of width "
                    f"{self.d_model}: give the file of the bundle's own model"
                )
            table[layer - 1] = scale * vector
        data = table.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) if directions else None
        size = table.size if directions else 0
        if self._api.llama_set_adapter_cvec(self._model.ctx, data, size, self.d_model, 1, self.n_layers):
            raise DeployError(f"llama.cpp refuses a control vector of {size:,} numbers: update llama-cpp-python, or certify another target")

    def logits(self, ids: Sequence[int]) -> Float[np.ndarray, "d_vocab"]:
        """Logits after a prompt."""
        self._model.reset()
        self._model.eval(list(ids))
        row = self._api.llama_get_logits_ith(self._model.ctx, -1)
        return np.ctypeslib.as_array(row, (self._model.n_vocab(),)).copy()


def our_logits(model: LoadedModel, ids: Sequence[int], directions: Directions, scale: float) -> Float[np.ndarray, "d_vocab"]:
    """Logits after a prompt in our engine, with the vectors added to ``blocks.N.hook_out`` at every token."""
    vectors = {layer: torch.tensor(scale * vector, device=model.device) for layer, vector in directions.items()}
    plan = [(at, Impulse(layer, vector)) for layer, vector in vectors.items() for at in range(len(ids))]
    with model.lock, impulses(model.backend, plan, tokens=len(ids), d_model=model.d_model):
        return forward(model, [Feed(model.new_store().open(), list(ids))]).logits[0].float().cpu().numpy()


def our_changes(
    model: LoadedModel, prompts: Sequence[Sequence[int]], vectors: Mapping[str, Directions], scales: Mapping[str, float]
) -> list[Changes]:
    """The change of our logits after each prompt (token ids) under each vector at its strength."""
    changes: list[Changes] = []
    for ids in prompts:
        base = our_logits(model, ids, {}, 0.0)
        changes.append({name: our_logits(model, ids, vectors[name], scale) - base for name, scale in scales.items()})
    return changes


def effects(
    other: LlamaCpp, prompts: Sequence[Sequence[int]], vectors: Mapping[str, Directions], scales: Mapping[str, float], ours: list[Changes]
) -> Iterator[VectorEffect]:
    """The changes in llama.cpp compared with ours: prompt by prompt, vector by vector."""
    for i, ids in enumerate(prompts):
        other.steer({}, 0.0)
        base = other.logits(ids)
        for name, scale in scales.items():
            other.steer(vectors[name], scale)
            theirs, own = other.logits(ids) - base, ours[i][name]
            moved = min(float(theirs.std()), float(own.std())) > 0
            yield VectorEffect(name, i, float(np.corrcoef(theirs, own)[0, 1]) if moved else 0.0, float(own.std()))


def quantised(path: Path) -> bool:
    """True when a weight of the file has fewer than 16 bits."""
    import gguf

    plain = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.BF16)
    return any(tensor.tensor_type not in plain for tensor in gguf.GGUFReader(path).tensors)


@contextmanager
def float32_copy(source: Path) -> Iterator[Path]:
    """A copy of the model with its weights unpacked to float32, so that no kernel rounds activations.

    It takes four bytes for each weight in a temporary folder, which is removed at the end of the block.

    Raises:
        DeployError: not enough room.
    """
    import gguf

    reader = gguf.GGUFReader(source)
    bytes_ = 4 * sum(int(tensor.n_elements) for tensor in reader.tensors)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if bytes_ > 0.9 * free:
        raise DeployError(
            f"{source} unpacks to {bytes_ / 1e9:.1f} GB, and {tempfile.gettempdir()} has {free / 1e9:.1f} GB left: "
            "set TMPDIR to another disk"
        )
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "float32.gguf"
        writer = gguf.GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
        for key, field in reader.fields.items():
            if key.startswith("GGUF.") or key == "general.architecture":  # the writer's own
                continue
            value = 0 if key == "general.file_type" else field.contents()  # 0: all float32
            sub = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, value, field.types[0], sub_type=sub)
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
        write_gguf(writer)
        yield target


def package() -> Any:
    """llama-cpp-python, loaded.

    Raises:
        DeployError: it cannot be imported.
    """
    try:
        import llama_cpp  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DeployError(
            f"llama-cpp-python cannot be imported ({error}): install it with `pip install 'stir-workbench[llamacpp]'`"
        ) from None
    return llama_cpp
