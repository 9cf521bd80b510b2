"""The fold of edits: the resulting state, undo, and refusals before writing."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stir_core.curation import UNTOUCHED, Recorded, changes, check, fold, make_edit, merge_weights, merged_id, taken_back
from stir_core.errors import CurationError
from tests.curated_run import WHEN, curated_run

BY: dict[str, Any] = {"who": "mara", "when": WHEN}
A, B, C = "p0000c", "p0001c", "p0002c"


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    return {entry.id: entry for entry in curated_run(tmp_path_factory.mktemp("run")).entries()}


def history(*edits):
    return [Recorded(number=i, actions="", before="", edit=edit) for i, edit in enumerate(edits, start=1)]


@pytest.mark.parametrize(
    ("kind", "ids", "value", "what"),
    [
        ("tag", [A], "", "a tag of 1 to 48"),
        ("tag", [A], "a" * 49, "a tag of 1 to 48"),
        ("tag", [A], "<b>", "a tag of 1 to 48"),
        ("tag", [A], " edge", "a tag of 1 to 48"),
        ("tag", [A], "two\nlines", "a tag of 1 to 48"),
        ("rename", [A], "x" * 60, "a name of 1 to 48"),
        ("rename", [A, B], "both", "cannot share one name"),
        ("note", [A], "n" * 4001, "4001 characters, more than 4000"),
        ("note", [A], "half \ud800", "incomplete character"),
        ("star", [], None, "names no entry"),
        ("star", [A], "five", "takes no value"),
        ("merge", [A], None, "takes two entries or more"),
    ],
)
def test_an_invalid_edit_is_refused_in_one_line(kind, ids, value, what):
    with pytest.raises(CurationError, match=what) as raised:
        make_edit(kind, ids, value, **BY)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("who", "when", "what"), [("", WHEN, "set STIR_USER"), ("a\nb", WHEN, "STIR_USER"), ("m", "yesterday", "ISO 8601")]
)
def test_every_edit_has_author_and_time(who, when, what):
    with pytest.raises(CurationError, match=what):
        make_edit("star", [A], who=who, when=when)


@pytest.mark.parametrize(
    ("before", "kind", "ids", "value", "what"),
    [
        ([], "star", ["nobody"], None, "no entry 'nobody'"),
        ([], "merge", [A, "p0004c"], None, "p0000c and p0004c cannot be merged: control point m 1 and 2"),
        ([], "merge", [A, "p0003c"], None, "p0000c and p0003c cannot be merged: layer 3 and 5"),
        ([], "merge", [A, "p0000n"], None, "p0000c and p0000n cannot be merged: kind corrective and null"),
        ([], "merge", ["p0000n", "p0001n"], None, "null entries, which carry no action"),
        ([("exclude", [A], None)], "merge", [A, B], None, "p0000c is excluded: include it"),
        ([("merge", [A, B], None)], "merge", [B, C], None, "p0001c is part of x"),
        ([("merge", [A, B], None)], "merge", [merged_id([A, B]), C], None, "a merged entry: split it first"),
        ([("merge", [A, B], None)], "exclude", [A], None, "p0000c is part of x"),
        ([], "split", [A], None, "p0000c is not a merged entry"),
        ([], "rename", [A], B, "'p0001c' already names p0001c"),
        ([("rename", [B], "carry")], "rename", [A], "carry", "'carry' already names p0001c"),
    ],
)
def test_an_edit_that_does_not_apply_is_refused(entries, before, kind, ids, value, what):
    standing = fold(make_edit(*edit, **BY) for edit in before)
    with pytest.raises(CurationError, match=what):
        check(make_edit(kind, ids, value, **BY), standing, entries)


def test_a_merge_is_named_by_its_members_and_weighted_by_their_quality(entries):
    assert merged_id([A, B]) == merged_id([B, A]) != merged_id([A, C])
    edit, name = make_edit("merge", [B, A], **BY), merged_id([A, B])
    assert edit.entries == (A, B) and edit.value == name
    check(edit, fold([]), entries)
    assert merge_weights([entries[A], entries[B]]) == pytest.approx((0.2 / 0.5, 0.3 / 0.5))
    standing = fold([edit])
    assert standing.of(A).merged_into == standing.of(B).merged_into == name and standing.merges == {name: (A, B)}
    assert fold([edit, make_edit("split", [name], **BY)]).of(A) == UNTOUCHED


def test_undo_restores_the_previous_state_of_each_entry():
    """Entry A was starred before the bulk edit and had another note: undo reverts only the edit's own changes."""
    edits = [
        make_edit("star", [A], **BY),
        make_edit("note", [A], "old", **BY),
        make_edit("star", [A, B], **BY),
        make_edit("note", [A, B], "new", **BY),
    ]
    back = taken_back(3, history(*edits), **BY)
    assert [(e.kind, e.entries, e.undoes) for e in back] == [("unstar", (B,), 3)]
    back = taken_back(4, history(*edits), **BY)
    assert {(e.kind, e.entries, e.value) for e in back} == {("note", (A,), "old"), ("note", (B,), None)}
    assert changes(fold(edits[:3]), fold([*edits, *back])) == ()


def test_a_later_edit_takes_precedence():
    edits = [make_edit("note", [A, B], "one", **BY), make_edit("note", [A], "two", **BY)]
    assert [(e.entries, e.value) for e in taken_back(1, history(*edits), **BY)] == [((B,), None)]
    with pytest.raises(CurationError, match=r"nothing of edit 1 \(note\) is left"):
        taken_back(1, history(*edits, make_edit("note", [B], "three", **BY)), **BY)
    with pytest.raises(CurationError, match="it changed nothing"):
        taken_back(2, history(make_edit("star", [A], **BY), make_edit("star", [A], **BY)), **BY)


def test_a_merge_and_a_split_undo_each_other():
    edits = [make_edit("merge", [A, B], **BY)]
    name = merged_id([A, B])
    assert [(e.kind, e.entries) for e in taken_back(1, history(*edits), **BY)] == [("split", (name,))]
    edits.append(make_edit("split", [name], **BY))
    assert [(e.kind, e.entries) for e in taken_back(2, history(*edits), **BY)] == [("merge", (A, B))]
    with pytest.raises(CurationError, match="nothing of edit 1"):
        taken_back(1, history(*edits), **BY)


def test_undoing_an_exclusion_returns_the_entry_to_selection():
    edits = [make_edit("exclude", [A], **BY), make_edit("include", [B], **BY)]
    assert [taken_back(n, history(*edits), **BY)[0].kind for n in (1, 2)] == ["reselect", "reselect"]


simple = st.sampled_from(["star", "unstar", "exclude", "include", "reselect"]).map(lambda kind: (kind, None))
valued = st.tuples(st.sampled_from(["tag", "untag", "note"]), st.sampled_from(["one", "two"]))
some_edits = st.lists(st.tuples(st.one_of(simple, valued), st.sets(st.sampled_from([A, B, C]), min_size=1)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(some_edits)
def test_undoing_the_last_edit_gives_the_previous_version(drawn):
    edits = [make_edit(kind, sorted(ids), value, **BY) for (kind, value), ids in drawn]
    before, after = fold(edits[:-1]), fold(edits)
    assert fold(edits[-1:], before) == after, "folding in one go and step by step agree"
    if changes(before, after):
        again = fold([*edits, *taken_back(len(edits), history(*edits), **BY)])
        assert changes(before, again) == ()
    else:
        with pytest.raises(CurationError):
            taken_back(len(edits), history(*edits), **BY)
