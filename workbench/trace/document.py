"""A comparison as one plain document, words and numbers only: what the Trace page draws and what its HTML file holds.

Every string of a model is left as it was written; whoever draws it sets it as text.
"""

from typing import Any

import numpy as np
import pandas as pd

from stir_core.config import GateConfig
from stir_core.readings import TokenReading
from workbench.shared.gate_evidence import CANDIDATE_COLUMNS, candidate_table, funnel
from workbench.shared.text_segments import drawn_tokens
from workbench.shared.trace_comparison import STEERED, VANILLA, Recording, StepRow, first_divergence
from workbench.shared.visible_text import one_line, visible_token

FULL = 0.95
"""Share of the non-zero magnitudes that a scale holds: a few extreme tokens must not wash out all others. The legend says so."""

QUANTITIES = (
    ("surprise", "surprise", False, "−log-probability of the token under the model that decoded it"),
    ("entropy", "entropy", False, "of the distribution that the token was chosen from"),
    ("kl", "KL", False, "KL(steered ‖ vanilla) over the whole vocabulary, behind the same prefix; 0 where no impulse was live"),
    ("change", "change", True, "log-probability of the token, steered minus vanilla, behind the same prefix"),
)
"""Key, label, whether it is signed, and what it is. All in nats."""


def document(recording: Recording, gate: GateConfig) -> dict[str, Any]:
    """Both answers step by step and token by token, the gate's decisions, and the scales that colours are read by; ready for JSON."""
    ids = recording.ids(VANILLA), recording.ids(STEERED)
    apart = first_divergence(*ids)
    if apart is not None and not recording.complete and apart == min(map(len, ids)):
        apart = None  # one answer is merely ahead
    firsts = [0, 0]
    steps = []
    for m in range(recording.last_m + 1):
        rows = [recording.steps[row].get(m) for row in (VANILLA, STEERED)]
        same = rows[0] is not None and rows[1] is not None and [t.id for t in rows[0].tokens] == [t.id for t in rows[1].tokens]
        drawn = []
        for row, step in enumerate(rows):
            drawn.append(_drawn_step(recording, row, m, step, firsts[row], same))
            firsts[row] += len(step.tokens) if step else 0
        steps.append({"m": m, "rows": drawn, "gate": _gate(rows[STEERED], gate)})
    tokens = [token for step in steps for row in step["rows"] for token in row["tokens"]]
    return {
        "digest": recording.digest,
        "steps": steps,
        "divergence": None if apart is None else {"at": apart},
        "aligned": min(map(len, ids)) if apart is None else apart + 1,
        "steered_anywhere": any(token["live"] for token in tokens),
        "quantities": [_scale(tokens, *quantity) for quantity in QUANTITIES],
    }


def step_head(row: StepRow) -> str:
    """One line over a step: its control point, its tokens, and what it was steered by."""
    mark = f" · steered by {row.decision.chosen} × {row.decision.alpha:.2f}" if row.decision is not None and row.steered else ""
    return f"m {row.m} · {len(row.tokens)} tokens{mark}"


def _drawn_step(recording: Recording, number: int, m: int, row: StepRow | None, first: int, same: bool) -> dict[str, Any]:
    if row is None:
        return {"head": f"m {m} · the answer had ended" if recording.complete else f"m {m} · not decoded", "tokens": []}
    head = step_head(row) + (" · same ids as vanilla" if same and number == STEERED else "")
    readings = {reading.position: reading for reading in recording.readings[number]}
    tokens = []
    for place, (token, text) in enumerate(zip(row.tokens, drawn_tokens(row), strict=True)):
        reading = readings.get(first + place)
        name = token.text or (reading.text if reading else "")
        tokens.append(
            {
                "row": number,
                "at": first + place,
                "m": m,
                "id": token.id,
                "text": text or name or "◌",
                "made": not text,
                "name": visible_token(name),
                "live": reading.live if reading else row.steered,
                "logprob": token.logprob,
                "reading": _reading(reading) if reading else None,
                "values": _values(token.logprob, reading),
            }
        )
    return {"head": head, "tokens": tokens}


def _values(logprob: float, reading: TokenReading | None) -> dict[str, float | None]:
    surprise = max(0.0, -logprob)
    if reading is None:
        return {"surprise": surprise, "entropy": None, "kl": None, "change": None}
    return {"surprise": surprise, "entropy": reading.entropy, "kl": reading.kl, "change": reading.change}


def _reading(reading: TokenReading) -> dict[str, Any]:
    numbers = reading.model_dump(include={"logprob", "unsteered_logprob", "rank", "unsteered_rank", "entropy", "unsteered_entropy", "kl"})
    near = [[other.token_id, visible_token(other.text), other.logprob, other.unsteered_logprob] for other in reading.alternatives]
    return numbers | {"near": near}


def _scale(tokens: list[dict[str, Any]], key: str, label: str, signed: bool, about: str) -> dict[str, Any]:
    """Where a quantity's colour is strongest: ``end``; ``None`` where it was not measured or is 0 everywhere."""
    found = [abs(token["values"][key]) for token in tokens if token["values"][key]]
    end = float(np.quantile(found, FULL)) if found else None
    top = max(found, default=0.0)
    return {"key": key, "label": label, "signed": signed, "about": about, "unit": "nats", "end": end, "top": top}


def _gate(row: StepRow | None, gate: GateConfig) -> dict[str, Any] | None:
    if row is None or row.evidence is None or row.decision is None:
        return None
    evidence, decision = row.evidence, row.decision
    sieve, why = funnel(evidence, decision), str(decision.reason)
    measured = "not measured" if decision.score_null is None else f"{decision.score_null:.3f}"
    preview = "not measured" if evidence.null_logprob is None else f"{evidence.null_logprob:.3f} nats a token"
    formula = f"score = {gate.beta:g} A + {gate.rho:g} gain; null score {measured}; unsteered preview {preview}; strength {gate.k_scale:g}"
    return {
        "summary": f"gate at control point {row.m}: {one_line(why, 140)}",
        "funnel": f"library at m = {evidence.m}: {sieve.library} → retrieved {sieve.retrieved} → candidates {sieve.candidates} "
        f"→ committed {sieve.committed}",
        "reason": why,
        "columns": CANDIDATE_COLUMNS,
        "rows": words_of(candidate_table(evidence, decision)),
        "note": formula if evidence.retrieved else "",
    }


def words_of(table: pd.DataFrame) -> list[list[str]]:
    """A table's cells as words: three decimals, and a dash for what was not measured."""
    return [[_word(cell) for cell in row] for row in table.itertuples(index=False, name=None)]


def _word(cell: object) -> str:
    if cell is None or (isinstance(cell, float) and np.isnan(cell)):
        return "—"
    if isinstance(cell, bool | np.bool_):
        return "yes" if cell else "no"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def reading_line(recording: Recording) -> str:
    """What reading the answers again cost, against decoding them."""
    n = sum(map(len, recording.readings))
    if not n:
        return "not read again"
    part = f" ({recording.reading_seconds / recording.seconds:.0%} of decoding)" if recording.seconds else ""
    return f"{recording.reading_seconds:.1f} s to read {n} tokens again{part}"
