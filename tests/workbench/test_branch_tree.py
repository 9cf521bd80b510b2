"""Trees of branches: where answers differ, dropped branches, the menu of actions, and the alignment of two answers."""

import json
import sys

import pytest
from fake_run import make_fake_run

from stir_core.records import StepTrace, Trace
from stir_core.requests import DENY, Change
from stir_core.store.runs import Run
from workbench.shared.branching import BranchOrigin, parting, parting_line
from workbench.shared.command_lines import whatif_command
from workbench.what_if import data as pairs
from workbench.what_if.charts import branch_tree
from workbench.what_if.data import Forest


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_fake_run(tmp_path_factory.mktemp("tree"))


@pytest.fixture
def trace(run: Run) -> Trace:
    return next(trace for trace in run.traces("steered") if len(trace.steps) >= 4)


def origin(run: Run, trace: Trace) -> BranchOrigin:
    return BranchOrigin("d", trace.id, trace, run.config.gate, run.config.decode, None, "how many?")


def other_from(trace: Trace, place: int, *, text: str | None = None, ids: tuple[int, ...] | None = None) -> Trace:
    """The trace with one step's tokens or text replaced."""
    step = trace.steps[place]
    new: StepTrace = step.model_copy(update={"token_ids": ids or step.token_ids, "text": step.text if text is None else text})
    steps = (*trace.steps[:place], new, *trace.steps[place + 1 :])
    return trace.model_copy(update={"steps": steps, "token_ids": tuple(token for step in steps for token in step.token_ids)})


def test_answers_part_where_their_ids_do(trace: Trace) -> None:
    assert parting(trace, trace) is None
    before = sum(len(step.token_ids) for step in trace.steps[:2])
    ids = trace.steps[2].token_ids
    changed = other_from(trace, 2, ids=(ids[0], -1, *ids[2:]))
    assert parting(trace, changed) == (before + 1, 2)
    shorter = trace.model_copy(update={"steps": trace.steps[:2], "token_ids": trace.token_ids[:before]})
    assert parting(shorter, trace) == parting(trace, shorter) == (before, 2)
    assert parting_line(trace, changed, "#0") == (False, f"differs from #0 from token {before + 2} on (after control point 2)")


def test_equal_changes_share_a_node_and_numbers_are_never_given_twice(run: Run, trace: Trace) -> None:
    forest = Forest()
    tree = forest.tree(origin(run, trace))
    assert forest.tree(origin(run, trace)) is tree
    first, _ = forest.add(tree, 0, Change(m=1), trace)
    again, _ = forest.add(tree, 0, Change(m=1), trace)
    below, _ = forest.add(tree, first.number, Change(m=1), trace)
    assert (first.number, again.number, below.number) == (1, 1, 2)
    assert [node.number for node in tree.path(2)] == [0, 1, 2]


def test_over_the_limit_the_oldest_leaf_goes_and_is_named(run: Run, trace: Trace) -> None:
    forest = Forest()
    tree = forest.tree(origin(run, trace))
    forest.add(tree, 0, Change(m=1), trace)
    forest.add(tree, 1, Change(m=2), trace)  # so the oldest node is no leaf, and its branch is dropped first
    notes = [forest.add(tree, 0, Change(m=1, to="p0000c", alpha=n / 100), trace)[1] for n in range(pairs.LIMIT - 1)]
    assert [note for note in notes if note] == [notes[-1]] and "#2 m 2: keep" in str(notes[-1])
    assert len(forest.order) == pairs.LIMIT == len(tree.nodes) - 1
    other = forest.tree(BranchOrigin("e", "another", trace, run.config.gate, run.config.decode, None, "?"))
    _, note = forest.add(other, 0, Change(m=1), trace)
    assert "#1 m 1: keep" in str(note) and 1 in other.nodes


def test_a_node_is_small(run: Run, trace: Trace) -> None:
    """The bound stated at LIMIT, for new steps with 8 retrieved entries each; sizes are summed object by object."""
    copied = Trace.model_validate_json(trace.model_dump_json())
    assert _bytes(copied, set()) / len(copied.steps) < 16_000


def _bytes(thing: object, seen: set[int]) -> int:
    if id(thing) in seen:
        return 0
    seen.add(id(thing))
    inside = getattr(thing, "__dict__", None)
    parts = [*inside.keys(), *inside.values()] if inside else list(thing) if isinstance(thing, tuple | list) else []
    return sys.getsizeof(thing) + (sys.getsizeof(inside) if inside else 0) + sum(_bytes(part, seen) for part in parts)


def test_the_table_and_the_one_step_table_count_what_is_there(run: Run, trace: Trace) -> None:
    forest = Forest()
    tree = forest.tree(origin(run, trace))
    loop = other_from(trace, 2, ids=(5,) * 400)
    forest.add(tree, 0, Change(m=2), trace)
    forest.add(tree, 0, Change(m=2, to=DENY), loop)
    forest.add(tree, 0, Change(m=1, to=DENY), trace)
    table = pairs.tree_table(tree)
    assert table["degenerated"].tolist() == [False, False, True, False]
    assert table["of"].isna().tolist() == [True, False, False, False]
    step = pairs.counterfactuals(tree, 0, 2)
    assert step["branch"].tolist() == [0, 1, 2] and step["at this step"].tolist()[1:] == ["keep", "deny"]
    lines = pairs.tree_lines(tree)
    assert sorted(lines[lines["branch"] == 2]["m"]) == [s.m for s in trace.steps[2:]]
    assert len(lines[lines["branch"] == 0]) == len(trace.steps)
    drawn = branch_tree(lines).to_dict()
    assert len(drawn["layer"]) == 4 and any(param["name"] == "branch" for param in drawn["params"])


def test_the_menu_offers_what_was_retrieved_first_and_then_the_rest_of_that_control_point(run: Run, trace: Trace) -> None:
    step = next(step for step in trace.steps if step.decision.scored)
    library = run.library().entries
    seen, others = pairs.candidates(step, library, run.config.gate)
    scored = {scored.entry_id: scored.score for scored in step.decision.scored}
    listed = [scored[c.entry_id] or 0.0 for c in seen if c.entry_id in scored]
    assert listed == sorted(listed, reverse=True)
    by_id = {entry.id: entry for entry in library}
    every = [candidate.entry_id for candidate in [*seen, *others]]
    assert len(set(every)) == len(every)
    assert set(every) == {e.id for e in library if e.m == step.evidence.m and e.kind == "corrective"}
    assert all(by_id[name].kind == "corrective" for name in every)
    for candidate in seen:
        score = scored.get(candidate.entry_id)
        assert candidate.own == (pytest.approx(run.config.gate.k_scale * score) if score and score > 0 else None)
    changes = pairs.all_changes(step, run.config.gate, 0.9, "gate", same=False)
    assert [change.alpha for change in changes[1:]] == [0.9 if c.own is None else c.own for c in seen]
    assert {change.alpha for change in pairs.all_changes(step, run.config.gate, 0.9, "gate", same=True)[1:]} == {0.9}


def test_two_answers_are_aligned_by_step_and_lose_no_text(trace: Trace) -> None:
    text = trace.steps[2].text
    changed = other_from(trace, 2, ids=(-1, *trace.steps[2].token_ids[1:]), text=text[:4] + "@" + text[5:])
    rows = pairs.aligned(trace, changed)
    assert [row.same for row in rows] == [place != 2 for place in range(len(trace.steps))]
    left, right = rows[2].cells
    assert left is not None and right is not None
    for cell, whole in ((left, text), (right, changed.steps[2].text)):
        shown = [piece["text"] for piece in cell.segments]
        assert shown[:2] == [text[:4], pairs.FIRST]
        assert "".join(shown).replace("↵", "\n").replace(pairs.FIRST, "") == whole
    cut = trace.model_copy(update={"steps": trace.steps[:2], "token_ids": trace.token_ids[:3]})
    assert pairs.aligned(trace, cut)[-1].cells[1] is None


def test_the_command_says_every_change_in_order_and_the_download_holds_the_tree(run: Run, trace: Trace) -> None:
    changes = [Change(m=2, to="p0001c", alpha=0.1 + 0.2), Change(m=3, to=DENY, then="null")]
    words = whatif_command(run, trace.id, changes).split()
    assert words[:2] == ["stir", "whatif"]
    assert words[4:] == ["--at", "2", "--force", "p0001c", "--alpha", repr(0.1 + 0.2), "--at", "3", "--deny", "--then", "null"]
    forest = Forest()
    tree = forest.tree(origin(run, trace))
    forest.add(tree, 0, changes[0], trace)
    saved = json.loads(json.dumps(pairs.tree_json(tree, lambda number: f"command {number}")))
    assert [node["of"] for node in saved["nodes"]] == [None, 0]
    assert Trace.model_validate(saved["nodes"][1]["trace"]) == trace and saved["nodes"][1]["command"] == "command 1"
