"""The curated library: what is in it, in what order, with which vectors, and where they come from."""

from typing import Any

import numpy as np
import pytest

from stir_core.curation import Judgement, make_edit, merged_id
from stir_core.errors import CurationError
from stir_core.findings import Advantage, Estimate
from stir_core.store.curated import curated, curated_library, library_digest
from stir_core.store.curation import Curation
from stir_core.store.jsonl import write_records
from tests.curated_run import WHEN, curated_run
from tests.seals import rewrite

BY: dict[str, Any] = {"who": "mara", "when": WHEN}


@pytest.fixture
def run(tmp_path):
    return curated_run(tmp_path)


def done(run, *edits) -> Curation:
    return Curation.open(run).add(*(make_edit(*edit, **BY) for edit in edits))


def ids(library):
    return [entry.id for entry in library.entries]


def test_without_edits_it_is_the_control_basis(run):
    made, basis = curated_library(run, Curation.open(run)), run.library()
    assert made.entries == basis.entries
    np.testing.assert_array_equal(made.keys, basis.keys)
    np.testing.assert_array_equal(made.actions, basis.actions)
    assert library_digest(made) == library_digest(basis)


def test_words_do_not_change_the_library_and_deeds_do(run):
    before = library_digest(run.library())
    words = done(run, ("star", ["p0000c"]), ("tag", ["p0000c"], "t"), ("note", ["p0000c"], "n"), ("rename", ["p0000c"], "carry"))
    assert library_digest(curated_library(run, words)) == before
    assert library_digest(curated_library(run, done(run, ("exclude", ["p0000c"])))) != before
    assert library_digest(curated_library(run, done(run, ("reselect", ["p0000c"])))) == before


def test_excluded_entries_go_kept_ones_come_and_the_rest_stays_in_order(run):
    made = curated_library(run, done(run, ("exclude", ["p0001c", "p0002n"]), ("include", ["p0007c"])))
    basis = ids(run.library())
    assert "p0007c" not in basis
    assert ids(made) == [id_ for id_ in basis if id_ not in ("p0001c", "p0002n")] + ["p0007c"]
    everything = run.library(selected=False)
    row = ids(everything).index("p0007c")
    np.testing.assert_array_equal(made.keys[-1], everything.keys[row])
    np.testing.assert_array_equal(made.actions[-1], everything.actions[row])


def test_a_merged_entry_is_the_quality_weighted_mean_and_hides_its_members(run):
    name = merged_id(["p0001c", "p0002c"])
    standing = done(run, ("merge", ["p0002c", "p0001c"]), ("rename", [name], "both"), ("tag", [name], "sum")).state
    library, origins = curated(run, standing)
    place = ids(library).index(name)
    assert place == ids(run.library()).index("p0001c"), "it stands where its first member stood"
    assert not {"p0001c", "p0002c"} & set(ids(library))
    keys, actions = run.key_rows(), run.action_rows()
    np.testing.assert_allclose(library.actions[place], (0.3 * actions[1] + 0.4 * actions[2]) / 0.7, rtol=1e-6)
    np.testing.assert_allclose(library.keys[place], (0.3 * keys[2] + 0.4 * keys[4]) / 0.7, rtol=1e-6)
    entry = library.entries[place]
    assert (entry.m, entry.layer, entry.kind, entry.pair, entry.problem_id) == (1, 3, "corrective", 2, "arithmetic/train/2")
    assert entry.quality == pytest.approx(entry.reward_pos - entry.reward_neg) == pytest.approx((0.3**2 + 0.4**2) / 0.7)
    assert entry.action_norm == pytest.approx(np.linalg.norm(library.actions[place]))
    assert entry.key_row >= len(keys) and entry.action_row is not None and entry.action_row >= len(actions), "no file of the run has it"
    assert origins[place].members == ("p0001c", "p0002c") and origins[place].weights == pytest.approx((3 / 7, 4 / 7))
    assert (origins[place].name, origins[place].tags, origins[0].members) == ("both", ("sum",), ())


def test_a_merged_entry_can_be_excluded_and_split(run):
    name = merged_id(["p0001c", "p0002c"])
    assert name not in ids(curated_library(run, done(run, ("merge", ["p0001c", "p0002c"]), ("exclude", [name]))))
    assert ids(curated_library(run, done(run, ("split", [name])))) == ids(run.library())


def test_only_starred_or_tagged_actions_come_with_the_null_entries_of_their_pairs(run):
    name = merged_id(["p0001c", "p0002c"])
    curation = done(run, ("merge", ["p0001c", "p0002c"]), ("star", [name, "p0007c"]), ("tag", ["p0000c", "p0003n"], "t"))
    assert ids(curated_library(run, curation, "starred")) == [name, "p0001n", "p0002n"], "p0007c is starred, but not in the library"
    assert ids(curated_library(run, curation, "tag:t")) == ["p0000c", "p0000n", "p0003n"]
    with pytest.raises(CurationError, match=r"tagged so \(tag:none\); tags in use: t"):
        curated_library(run, curation, "tag:none")
    with pytest.raises(CurationError, match="say starred, tag:NAME, or ids:A,B"):
        curated_library(run, curation, "best")


def test_a_choice_is_looked_up_once_however_many_entries_there_are(run, monkeypatch):
    curation = done(run, ("star", ["p0000c", "p0003c"]))
    asked, starred = [], Judgement.starred
    monkeypatch.setattr(Judgement, "starred", lambda standing: asked.append(1) or starred(standing))
    assert len(curated_library(run, curation, "starred").entries) == 4 and asked == [1]


def test_everything_can_be_excluded(run):
    library = curated_library(run, done(run, ("exclude", ids(run.library()))))
    assert library.entries == () and library.keys.shape == library.actions.shape == (0, 16)


def test_a_basis_of_measured_values_takes_in_no_entry_without_one(run):
    picks = [pick.model_copy(update={"quality": 0.5}) for pick in run.picks()]
    rewrite(run, "basis", "picks.jsonl", picks)
    curation = done(run, ("include", ["p0007c"]))
    with pytest.raises(CurationError, match="p0007c has no measured advantage above 0"):
        curated_library(run, curation)
    nothing = Estimate(value=0.0, low=0.0, high=0.0)
    found = Advantage(
        entry_id="p0007c", value=0.25, low=0.1, high=0.4, tokens=nothing, states=4, pairs=8, won=3, lost=1, p=0.5, verdict="helps"
    )
    (run.path / "causal").mkdir()
    write_records(run.path / "causal" / "advantages.jsonl", [found])
    library = curated_library(run, curation)
    assert {entry.quality for entry in library.entries[:-1]} == {0.5} and library.entries[-1].quality == 0.25
