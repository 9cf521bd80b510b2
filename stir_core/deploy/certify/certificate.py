"""What a certificate says, and reading it back from its bundle: needs no model and no torch."""

import hashlib
import json
from pathlib import Path
from typing import Literal, get_args

from pydantic import ValidationError

from stir_core.deploy.bundle.reading import Bundle
from stir_core.deploy.bundle.untrusted import read_plain
from stir_core.deploy.bundle.writing import attach
from stir_core.errors import DeployError
from stir_core.records import ModelIdentity, Record

Deployment = Literal["runtime", "server", "llamacpp"]
"""What a bundle is deployed with, and certified for."""
MAX_CERTIFICATE = 4 << 20


class Tolerances(Record):
    """How far numbers may be apart; choices, tokens and texts may not be."""

    logits: float = 1e-3
    """Largest difference of a logit behind a prompt; the target must let them be seen (a server does not)."""
    logprob: float = 1e-3
    """Of a committed or previewed token, in nats."""
    score: float = 1e-3
    """Of a candidate's score, and of the injected multiple."""
    cosine: float = 1e-4
    correlation: float = 0.98
    """Least correlation, over the vocabulary, of the changes in logits that a control vector makes here and in llama.cpp."""


class Worst(Record):
    """Largest differences that were seen; ``None`` where nothing could be compared."""

    logits: float | None = None
    logprob: float | None = None
    score: float | None = None
    cosine: float | None = None


class CertifiedPrompt(Record):
    """One prompt."""

    id: str
    question: str
    prompt_tokens: int
    tokens: int
    decisions: tuple[str | None, ...]
    """What the workbench's gate chose before each step."""
    same: bool


class CertifiedVector(Record):
    """One control vector file, behind all prompts."""

    file: str
    scale: float
    """Multiple of the vector that was added at every token."""
    correlation: float
    """Least over the prompts, with the file's weights in float32."""
    spread: float
    """Least standard deviation of the change over the vocabulary, in logits."""
    as_it_is: float | None
    """Least correlation with the quantised weights as llama.cpp computes them; ``None`` where the file is not quantised."""


class Certificate(Record):
    """What was compared, with what, and what came out."""

    format: Literal["stir-certificate"] = "stir-certificate"
    schema_version: int = 1
    target: Deployment
    passed: bool
    first_difference: str | None
    bundle: str
    """Digest of all that steers in the bundle."""
    reference: str
    """What the target was compared with: the run, or the bundle itself in the workbench's engine."""
    model: ModelIdentity
    device: str
    max_new_tokens: int
    tolerances: Tolerances
    worst: Worst
    prompts: tuple[CertifiedPrompt, ...]
    injected: int
    """Steps that were steered, or prompts times control vectors: with none, little was compared."""
    vectors: tuple[CertifiedVector, ...] = ()
    """Control vectors, where the target takes no more than these."""
    versions: dict[str, str]
    sha256: str = ""
    """Over all of the above."""

    @property
    def digest(self) -> str:
        """What ``sha256`` must be."""
        body = self.model_dump(mode="json", exclude={"sha256"})
        return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def put(folder: Path, certificate: Certificate) -> Path:
    """Put a certificate into its bundle.

    Raises:
        DeployError: the bundle is not whole.
    """
    name = f"certificate-{certificate.target}.json"
    attach(folder, name, (certificate.model_dump_json(indent=2) + "\n").encode())
    return folder / name


def read_certificate(bundle: Bundle, target: Deployment) -> Certificate:
    """The bundle's certificate for a target.

    Raises:
        DeployError: there is none, it was changed, or it is another bundle's.
    """
    file = bundle.folder / f"certificate-{target}.json"
    again = f"certify again with `stir certify {bundle.folder} --target {target}`"
    try:
        found = Certificate.model_validate_json(read_plain(file, MAX_CERTIFICATE))
    except ValidationError as error:
        raise DeployError(f"{file} is not a certificate ({error.errors()[0]['msg']}): {again}") from None
    if found.sha256 != found.digest:
        raise DeployError(f"{file} was changed after it was made (its own hash differs): {again}")
    if (found.bundle, found.target) != (bundle.manifest.digest, target):
        raise DeployError(f"{file} belongs to bundle {found.bundle} and target {found.target}: {again}")
    return found


def certified_targets(bundle: Bundle) -> tuple[Deployment, ...]:
    """Targets that the bundle holds a certificate for; whether it is whole is for :func:`read_certificate` to say."""
    return tuple(target for target in get_args(Deployment) if f"certificate-{target}.json" in bundle.manifest.files)
