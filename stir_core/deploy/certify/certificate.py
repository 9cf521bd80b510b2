"""The records of a certificate, and writing and reading it in its bundle. Needs no model and no torch."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError

from stir_core.deploy.bundle.reading import Bundle
from stir_core.deploy.bundle.untrusted import read_plain
from stir_core.deploy.bundle.writing import attach
from stir_core.errors import DeployError
from stir_core.records import ModelIdentity, Record

Deployment = Literal["runtime", "server", "llamacpp"]
"""The deployments that a bundle can be certified for."""
MAX_CERTIFICATE = 4 << 20


class Tolerances(Record):
    """Largest differences of numbers that pass; choices, tokens and texts must be equal."""

    logits: float = 1e-3
    """Largest difference of a logit after a prompt, for targets that show logits (a server does not)."""
    logprob: float = 1e-3
    """Of a committed or previewed token, in nats."""
    score: float = 1e-3
    """Of a candidate's score, and of the injected multiple."""
    cosine: float = 1e-4
    correlation: float = 0.98
    """Minimum correlation, over the vocabulary, between the changes in logits that a control vector makes here and in llama.cpp."""


class Worst(Record):
    """Largest differences that were measured; ``None``: nothing could be compared."""

    logits: float | None = None
    logprob: float | None = None
    score: float | None = None
    cosine: float | None = None


class CertifiedPrompt(Record):
    """How target and runtime compared on one prompt."""

    id: str
    question: str
    prompt_tokens: int
    tokens: int
    decisions: tuple[str | None, ...]
    """The workbench's decision before each step: an entry id, or ``None`` for null."""
    same: bool


class CertifiedVector(Record):
    """One control vector file, over all prompts."""

    file: str
    scale: float
    """Multiple of the vector that was added at every token."""
    correlation: float
    """Minimum over the prompts, with the model's weights in float32."""
    spread: float
    """Minimum standard deviation of the change over the vocabulary, in logits."""
    as_it_is: float | None
    """Minimum correlation with the quantised weights as llama.cpp computes them; ``None``: the file is not quantised."""


class Certificate(Record):
    """A comparison of a target with the workbench, and its outcome."""

    format: Literal["stir-certificate"] = "stir-certificate"
    schema_version: int = 1
    target: Deployment
    passed: bool
    first_difference: str | None
    bundle: str
    """Digest of the bundle (``BundleManifest.digest``)."""
    reference: str
    """The reference of the comparison: the run, or the bundle itself in the workbench's engine."""
    model: ModelIdentity
    device: str
    max_new_tokens: int
    tolerances: Tolerances
    worst: Worst
    prompts: tuple[CertifiedPrompt, ...]
    injected: int
    """Steps that were steered, or prompts times control vectors: with 0, little was compared."""
    vectors: tuple[CertifiedVector, ...] = ()
    """Control vectors, for a target that takes nothing else."""
    versions: dict[str, str]
    sha256: str = ""
    """Over all of the above."""

    @property
    def digest(self) -> str:
        """The value that ``sha256`` must have."""
        body = self.model_dump(mode="json", exclude={"sha256"})
        return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sealed(bundle: Bundle, **facts: Any) -> Certificate:
    """A certificate of a bundle, with its hash."""
    certificate = Certificate(bundle=bundle.manifest.digest, model=bundle.manifest.model, **facts)
    return certificate.replaced(sha256=certificate.digest)


def put(folder: Path, certificate: Certificate) -> Path:
    """Write a certificate into its bundle, and return its file.

    Raises:
        DeployError: the bundle is not whole.
    """
    name = f"certificate-{certificate.target}.json"
    attach(folder, name, (certificate.model_dump_json(indent=2) + "\n").encode())
    return folder / name


def read_certificate(bundle: Bundle, target: Deployment) -> Certificate:
    """The bundle's certificate for a target.

    Raises:
        DeployError: missing, changed, or of another bundle.
    """
    file = bundle.folder / f"certificate-{target}.json"
    again = f"certify again with `stir certify {bundle.folder} --target {target}`"
    if file.name not in bundle.manifest.files:
        raise DeployError(f"{file} is not named in the manifest: {again}")
    try:
        certificate = Certificate.model_validate_json(read_plain(file, MAX_CERTIFICATE))
    except ValidationError as error:
        raise DeployError(f"{file} is not a certificate ({error.errors()[0]['msg']}): {again}") from None
    if certificate.sha256 != certificate.digest:
        raise DeployError(f"{file} was changed after it was made (its own hash differs): {again}")
    if (certificate.bundle, certificate.target) != (bundle.manifest.digest, target):
        raise DeployError(f"{file} belongs to bundle {certificate.bundle} and target {certificate.target}: {again}")
    return certificate


def certified_targets(bundle: Bundle) -> tuple[Deployment, ...]:
    """The targets that the bundle has a certificate for; :func:`read_certificate` checks it."""
    return tuple(target for target in get_args(Deployment) if f"certificate-{target}.json" in bundle.manifest.files)
