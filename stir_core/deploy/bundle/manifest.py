"""What a bundle says of itself: frozen records, of which ``manifest.json`` is one. Knows no file, no model and no torch."""

from typing import Literal

from pydantic import Field

from stir_core.config import (
    BasisConfig,
    DecodeConfig,
    GateConfig,
    MiningConfig,
    ModelConfig,
    RunConfig,
    TaskConfig,
    digest_of,
)
from stir_core.errors import MismatchError
from stir_core.findings import Estimate
from stir_core.keyspace import Similarity
from stir_core.records import ModelIdentity, Record
from stir_core.store.libraries import LibraryKind
from stir_core.store.runs import CHECKED

SCHEMA = 1
"""Version of the bundle's layout; a reader takes its own only."""
MANIFEST, LIBRARY, ACTIONS, EVALUATION, CARD = "manifest.json", "library.safetensors", "actions.parquet", "evaluation.json", "README.md"
PARTS = (LIBRARY, ACTIONS, EVALUATION, CARD)
"""Files that every bundle has beside its manifest."""
MAX_ENTRIES, MAX_WIDTH, MAX_LAYERS = 100_000, 65_536, 1_000


class FileFact(Record):
    """What a file of the bundle must be."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)
    """Bytes."""


class TensorFact(Record):
    """What a tensor of ``library.safetensors`` must be."""

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
    """How long keys and actions are; both are stored raw and never normalised."""

    keys: Spread
    actions: Spread
    """Of the corrective entries; null entries have none."""


class StageThree(Record):
    """All that steering needs beside the library: with it and the same model, every decision comes out the same."""

    gate: GateConfig
    decode: DecodeConfig
    delimiter: str
    """Text that ends a step."""
    control_points: int = Field(ge=1, le=10_000)
    similarity: Similarity
    """Space that keys and states are compared in; its means and maps lie in ``library.safetensors``."""
    task: TaskConfig
    """Task, prompt template and system prompt that the actions were mined with."""
    seed: int
    compat: bool


class Provenance(Record):
    """Where the library comes from."""

    run: str
    """Folder name of the run, for readers."""
    config_digest: str
    """Digest of the run's whole config."""
    inputs: dict[str, str]
    """Digests of the run's stages that the library was read from."""
    library: LibraryKind | Literal["published"]
    """``"published"``: imported from the published layout, on the word of whoever named the run or bundle that it is like."""
    only: str | None
    """``"starred"``, ``"tag:NAME"`` or ``"ids:A,B"`` where a part of the library was chosen."""
    curation_version: int
    """Edits made by then; 0 where nobody curated."""
    curation_digest: str | None
    """Digest of the history of edits; ``None`` where nobody curated, or where the library is not the curated one."""
    versions: dict[str, str]
    """Software that the run was made with, and ``writer``: the version that wrote the bundle."""


class BundleManifest(Record):
    """``manifest.json``: what the bundle is, what it was made with, and what each of its files must be."""

    format: Literal["stir-bundle"] = "stir-bundle"
    schema_version: int = SCHEMA
    base_model: str | None
    """Hub name of the language model, where it has one."""
    base_revision: str | None
    """Commit of that hub repository, where it is known."""
    model: ModelIdentity
    """Hashes of weights and tokenizer, hook name, processing, width: what a model must share to be steered."""
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
        """16 hex digits of all that steers: equal ones decide equally. Card, evaluation and certificates are not in it."""
        return digest_of(self.model, self.stage3, *(self.files[name].sha256 for name in (LIBRARY, ACTIONS)))

    def run_config(self) -> RunConfig:
        """The settings of Stage III as a run's config, for code that steers with one; how the library was mined is not in it."""
        return RunConfig(
            seed=self.stage3.seed,
            delimiter=self.stage3.delimiter,
            compat=self.stage3.compat,
            model=ModelConfig.model_validate({"name": self.model.name, "dtype": self.model.dtype}),
            task=self.stage3.task,
            mining=MiningConfig(control_points=self.stage3.control_points, layers=self.layers),
            basis=BasisConfig(similarity=self.stage3.similarity),
            gate=self.stage3.gate,
            decode=self.stage3.decode,
        )

    def check_model(self, model: ModelIdentity) -> None:
        """Refuse a model that the bundle was not made with; its name may differ.

        Raises:
            MismatchError: naming the field, both values and the remedy.
        """
        for field in CHECKED:
            theirs, ours = str(getattr(self.model, field)), str(getattr(model, field))
            if theirs != ours:
                raise MismatchError(
                    f"the bundle was made with {self.base_model or self.model.name} ({field} {theirs[:16]}), not with {model.name} "
                    f"({field} {ours[:16]}): load the model it was made with"
                )


class MeasuredMethod(Record):
    """One method of an evaluation, as the bundle tells it."""

    name: str
    accuracy: Estimate
    interval: str
    """How the interval was made."""
    difference: Estimate | None
    """Accuracy minus the baseline's, paired; ``None`` for the baseline."""
    p_holm: float | None
    tokens: Estimate | None
    """Decoded tokens a problem minus the baseline's."""


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
    """True when it measured the very library that is in the bundle (some method of it did)."""
    methods: tuple[MeasuredMethod, ...]


class EvaluationSummary(Record):
    """``evaluation.json``: what was measured, with intervals; empty where nothing was."""

    evaluated: bool
    reason: str | None = None
    """Why there is nothing, where there is nothing."""
    evaluations: tuple[MeasuredEvaluation, ...] = ()
