"""A codebook of a run's steps and the library of entries that its codes make; made on request, from the steps stage, without a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stir_core.config import RunConfig
from stir_core.records import OnProgress, Progress
from stir_core.stages.stage import Made, Stage
from stir_core.store.jsonl import write_record, write_records
from stir_core.store.runs import Run
from stir_core.store.tensors import write_tensors

if TYPE_CHECKING:
    from stir_core.models.loading import LoadedModel


def make_codes(run: Run, model: "LoadedModel | None", part: Path, report: OnProgress) -> Made:
    """Write report.json, entries.jsonl, actions.safetensors (``keys``, ``actions``; raw) and codebook.safetensors.

    The last holds for each layer ``codes_17: [n]``, the code of every row of the steps stage (-1 where no step ends: ``m = 0``), the mean
    whitened member of each code ``means_17: [codes, r]``, and the whitening without its centres, ``axes_17`` and ``scales_17``.
    """
    from stir_core.evaluate.codes import code_entries, codebook_report, fit_codes

    settings, advantages = run.config.codes, run.advantages()
    rows, tensors = run.steps()
    report(Progress("codes", 0, 1, "codebooks", kept=False))
    found = fit_codes(run, settings, rows, tensors)
    states = {layer: tensors[f"layer_{layer}"] for layer in found}
    library = code_entries(run, rows, states, {layer: each.codes for layer, each in found.items()}, advantages)
    kept: dict[str, np.ndarray] = {}
    for layer, each in found.items():
        every = np.full(len(rows), -1)
        every[[row.row for row in rows if row.m]] = each.codes
        kept |= {f"codes_{layer}": every, f"means_{layer}": each.means}
        kept |= {f"axes_{layer}": each.whitening.axes, f"scales_{layer}": each.whitening.scales}
    write_tensors(part / "codebook.safetensors", kept)
    write_records(part / "entries.jsonl", list(library.entries))
    write_tensors(part / "actions.safetensors", {"keys": library.keys, "actions": library.actions})
    record = codebook_report(run, settings, rows, found, library)
    write_record(part / "report.json", record)
    report(Progress("codes", 1, 1, "codebooks"))
    digest = run.advantages_digest()
    counts = {"codes": sum(len(each.report.codes) for each in found.values()), "steps": record.steps, "entries": len(library.entries)}
    return Made(counts, layers=tuple(found), notes=record.notes, inputs={} if digest is None else {"advantages": digest})


def _settings(config: RunConfig) -> dict[str, Any]:
    return {"codes": config.codes.model_dump(mode="json"), "control_points": config.mining.control_points}


STAGE = Stage("codes", reads=("rollouts", "steps"), settings=_settings, make=make_codes)
