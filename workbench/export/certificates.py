"""A bundle's parity certificates as a table."""

from collections.abc import Iterable
from datetime import UTC, datetime

import pandas as pd

from stir_core.deploy.certify.certificate import Certificate


def certificate_table(certificates: Iterable[tuple[Certificate, float]]) -> pd.DataFrame:
    """One row a certificate; each comes with when its file was written (seconds since 1970). What was not compared is empty."""
    return pd.DataFrame([_row(each, when) for each, when in certificates], columns=list(COLUMNS))


COLUMNS = (
    *("target", "passed", "written", "prompts", "same", "decisions", "injected"),
    *("logits", "logprob", "score", "cosine", "correlation", "against"),
)


def _row(found: Certificate, when: float) -> tuple[object, ...]:
    worst = found.worst
    return (
        found.target,
        found.passed,
        datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M"),
        len(found.prompts),
        sum(prompt.same for prompt in found.prompts),
        sum(len(prompt.decisions) for prompt in found.prompts),
        found.injected,
        worst.logits,
        worst.logprob,
        worst.score,
        worst.cosine,
        min((vector.correlation for vector in found.vectors), default=None),
        found.reference,
    )
