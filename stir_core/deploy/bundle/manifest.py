"""The records of a bundle's JSON files, ``manifest.json`` among them. Knows no file, no model and no torch."""

from typing import Annotated, Literal

from pydantic import Field

from stir_core.config import DecodeConfig, GateConfig, TaskConfig, digest_of
from stir_core.errors import MismatchError
from stir_core.findings import Estimate
from stir_core.keyspace import Place, Similarity
from stir_core.records import MarginThreshold, ModelIdentity, PhaseChoice, Record
from stir_core.store.libraries import LibraryKind
from stir_core.store.runs import check_identity

SCHEMA = 1
"""Version of the bundle's layout; other versions are refused."""
MANIFEST, LIBRARY, ACTIONS, EVALUATION, CARD = "manifest.json", "library.safetensors", "actions.parquet", "evaluation.json", "README.md"
PARTS = (LIBRARY, ACTIONS, EVALUATION, CARD)
"""The files that every bundle has beside its manifest."""
ModelCheck = Literal["exact", "shape"]
"""How well a model must fit its bundle: the same weights, tokenizer and dtype, or only the same width and depth."""
MAX_ENTRIES, MAX_WIDTH, MAX_LAYERS = 100_000, 65_536, 1_000


class FileFact(Record):
    """The hash and size that a file of the bundle must have."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)
    """Bytes."""


class TensorFact(Record):
    """The dtype and shape that a tensor of ``library.safetensors`` must have."""

    dtype: Literal["F32", "F64"]
    shape: tuple[int, ...]


class Spread(Record):
    """Euclidean norms of the rows of a tensor."""

    n: int
    mean: float
    sd: float
    low: float
    high: float


class Norms(Record):
    """Norms of keys and actions; both are stored raw and never normalised."""

    keys: Spread
    actions: Spread
    """Of the corrective entries; null entries have none."""


class StageThree(Record):
    """The settings that steering needs beside the library: with them and the same model, every decision is the same."""

    gate: GateConfig
    decode: DecodeConfig
    delimiter: str
    """Text that ends a step."""
    control_points: int = Field(ge=1, le=10_000)
    phase: PhaseChoice = "thinking"
    """Part of a thinking model's answers that was mined."""
    similarity: Similarity
    """Space that keys and states are compared in; its means and maps lie in ``library.safetensors``."""
    margins: Annotated[tuple[MarginThreshold, ...], Field(exclude_if=lambda margins: not margins)] = ()
    """What the run's key margins were worth, for a gate that abstains (``gate.rule = "calibrated"``)."""
    task: TaskConfig
    """Task, prompt template and system prompt that the actions were mined with."""
    seed: int
    compat: bool


def tensor_name(kind: Literal["mean", "map"], place: Place) -> str:
    """Name of a key space's tensor in ``library.safetensors``: ``mean.17``, or ``mean.2.17`` where it is of control point 2 alone."""
    m, layer = place
    return f"{kind}.{m}.{layer}" if m else f"{kind}.{layer}"


class Provenance(Record):
    """Where the library comes from."""

    run: str
    """Folder name of the run, for readers."""
    config_digest: str
    """Digest of the run's whole config."""
    inputs: dict[str, str]
    """Digests of the run's stages that the library was read from."""
    library: LibraryKind | Literal["published"]
    """``"published"``: imported from the published layout, with the model and settings of a run or bundle that the importer named."""
    only: str | None
    """``"starred"``, ``"tag:NAME"`` or ``"ids:A,B"``: the part of the library that was chosen; ``None``: all of it."""
    curation_version: int
    """Number of edits in the curated library; 0 for other libraries."""
    curation_digest: str | None
    """Digest of the history of edits; ``None`` without edits, and for other libraries."""
    versions: dict[str, str]
    """Software that the run was made with, and ``writer``: the software that wrote the bundle."""


class BundleManifest(Record):
    """``manifest.json``: the bundle's model, settings and origin, and the hash of each of its files."""

    format: Literal["stir-bundle"] = "stir-bundle"
    schema_version: int = SCHEMA
    base_model: str | None
    """Hub name of the language model, if it has one."""
    base_revision: str | None
    """Commit of that hub repository, if it is known."""
    model: ModelIdentity
    """Hashes of weights and tokenizer, hook name, processing and width, which a steered model must share."""
    layers: tuple[int, ...]
    """0-based blocks at whose outputs keys are compared and actions injected."""
    n_entries: int = Field(ge=1, le=MAX_ENTRIES)
    n_actions: int = Field(ge=1, le=MAX_ENTRIES)
    """Corrective entries."""
    norms: Norms
    stage3: StageThree
    provenance: Provenance
    tensors: dict[str, TensorFact]
    """Of ``library.safetensors``, by name."""
    files: dict[str, FileFact]
    """Every file but the manifest, by name."""
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """16 hex digits over model, settings and library: bundles with equal digests decide equally."""
        return digest_of(self.model, self.stage3, *(self.files[name].sha256 for name in (LIBRARY, ACTIONS)))

    def check_model(self, model: ModelIdentity, check: ModelCheck = "exact") -> None:
        """Refuse a model that the bundle was not made with; its name may differ.

        Raises:
            MismatchError: naming the field, both values and the remedy.
        """
        made_with = self.model.replaced(name=self.base_model or self.model.name)
        if check == "exact":
            check_identity("the bundle", made_with, model, "load the model it was made with")
        elif check == "shape":
            check_identity("the bundle", made_with, model, "its vectors do not fit", ("d_model", "n_layers"))
        else:
            raise MismatchError(f'check={check!r} is unknown: take "exact" or "shape"')


class MeasuredMethod(Record):
    """One method of an evaluation, in short."""

    name: str
    accuracy: Estimate
    interval: str
    """How the interval was made."""
    difference: Estimate | None
    """Accuracy minus the baseline's, paired; ``None`` for the baseline."""
    p_holm: float | None
    tokens: Estimate | None
    """Decoded tokens per problem minus the baseline's."""


class MeasuredEvaluation(Record):
    """One finished evaluation of the run."""

    label: str
    task: str
    split: str
    problems: int
    baseline: str
    leaks: int
    """Evaluation problems that were mined too."""
    same_library: bool
    """True when one of its methods used the library that is in the bundle."""
    methods: tuple[MeasuredMethod, ...]


class EvaluationSummary(Record):
    """``evaluation.json``: the finished evaluations of the run, with intervals."""

    evaluated: bool
    reason: str | None = None
    """Why there is no evaluation; ``None`` if there is one."""
    evaluations: tuple[MeasuredEvaluation, ...] = ()
