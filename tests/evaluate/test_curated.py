"""Evaluating a curated library: what was excluded is never retrieved, what was merged is injected as its mean."""

from typing import Any

import numpy as np
import pytest

from stir_core.curation import make_edit, merged_id
from stir_core.errors import StoreError
from stir_core.evaluate.libraries import libraries_of
from stir_core.evaluate.runner import evaluate, settle
from stir_core.requests import EvaluationRequest
from stir_core.store.curation import Curation
from stir_core.store.evaluations import EvaluationFolder

BY: dict[str, Any] = {"who": "mara", "when": "2026-11-21T17:33:14Z"}
CURATED = "stir:library=curated"


def evaluated(run, model, *names, label="curated"):
    spec, problems = settle(run, model.identity, EvaluationRequest(methods=names, n=4, rows=4, label=label), command=None, environment={})
    return evaluate(run, model, spec, problems)


def retrieved_in(run, method: str, label="curated") -> set[str]:
    answers = EvaluationFolder(run, label).answers(method)
    return {seen.entry_id for answer in answers if answer.trace for step in answer.trace.steps for seen in step.evidence.retrieved}


def test_excluded_entries_are_never_retrieved(run, tiny_loaded):
    evaluated(run, tiny_loaded, "stir")
    before = retrieved_in(run, "stir")
    out = sorted(before)[::2]
    assert out, "the test proves nothing when nothing is retrieved"
    Curation.open(run).add(make_edit("exclude", out, why="a test", **BY))
    evaluated(run, tiny_loaded, CURATED)
    after = retrieved_in(run, CURATED)
    assert after and not after & set(out)
    memory = libraries_of(run)("curated")
    assert memory is not None and not {entry.id for entry in memory.entries} & set(out)


def test_a_merged_action_is_the_weighted_mean_of_its_members(run):
    groups: dict[tuple[int, int], list] = {}
    for entry in run.library().entries:
        if entry.kind == "corrective" and entry.quality > 0:
            groups.setdefault((entry.m, entry.layer), []).append(entry)
    members = next(group for group in groups.values() if len(group) > 1)
    Curation.open(run).add(make_edit("merge", [entry.id for entry in members], **BY))
    memory = libraries_of(run)("curated")
    assert memory is not None and not {entry.id for entry in members} & memory.by_id.keys()
    rows, weights = run.action_rows(), np.array([entry.quality for entry in members])
    wanted = weights @ np.array([rows[entry.action_row] for entry in members]) / weights.sum()
    name = merged_id(entry.id for entry in members)
    np.testing.assert_allclose(memory.action(name).numpy(), wanted, rtol=1e-5, atol=1e-7)


def test_answers_of_two_curated_libraries_are_not_mixed(run, tiny_loaded):
    first = run.library().entries[0].id
    report, _ = evaluated(run, tiny_loaded, CURATED)
    assert report.spec.curated is not None
    curation = Curation.open(run).add(make_edit("note", [first], "words change nothing", **BY))
    evaluated(run, tiny_loaded, CURATED)
    report, _ = evaluated(run, tiny_loaded, "static")
    assert report.spec.curated is not None, "a later method does not make the evaluation forget its library"
    curation.add(make_edit("exclude", [first], **BY))
    with pytest.raises(StoreError, match="an earlier version of the curated library"):
        evaluated(run, tiny_loaded, CURATED)
    evaluated(run, tiny_loaded, CURATED, label="curated-again")
