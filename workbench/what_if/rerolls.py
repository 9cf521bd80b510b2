"""Rerolls of an answer as tables: the nodes of their tree, and one row per reroll."""

import pandas as pd

from stir_core.evaluate.rerolls import RollNode, reroll_tree
from stir_core.evaluate.statistics import wilson
from stir_core.records import Trace
from stir_core.saved import SavedRerolls
from workbench.shared.branching import parting
from workbench.shared.intervals import with_interval
from workbench.shared.saved import change_text
from workbench.shared.text import one_line
from workbench.shared.trace_comparison import grade_of

RIGHT, WRONG, BOTH, UNGRADED = "all right", "all wrong", "some right", "not graded"


def rerolled(content: SavedRerolls) -> Trace:
    """The answer that the rerolls continue."""
    return content.traces[-1] if content.traces else content.origin


def rerolls_sentence(content: SavedRerolls) -> str:
    """How many came out right, with the interval, and what the answer itself is."""
    n, tree = len(content.rolls), reroll_tree(content.rolls, content.change.m)
    where, _, what = change_text(content.change).partition(": ")
    where = where.replace("m ", "control point ")
    place = f"{n} continuations sampled from {where}{f' ({what})' if what != 'keep' else ''}"
    if not tree[0].right + tree[0].wrong:
        return f"{place}; a free prompt is not graded."
    share = with_interval(wilson(tree[0].right, n), ".0%")
    return f"{place}: {tree[0].right} of {n} right, {share}. The answer itself is {grade_of(rerolled(content))}."


def node_lines(content: SavedRerolls) -> pd.DataFrame:
    """One row per node of the tree: its lane, the control points of its steps, its counts, and where its parent ends.

    A leaf has a lane of its own; a node lies in the middle of its children.
    """
    nodes = reroll_tree(content.rolls, content.change.m)
    children: dict[int | None, list[int]] = {}
    for number, node in enumerate(nodes):
        children.setdefault(node.parent, []).append(number)
    lanes, leaves = dict[int, float](), [number for number in range(len(nodes)) if number not in children]
    for number in reversed(range(len(nodes))):
        own = [lanes[child] for child in children.get(number, ())]
        lanes[number] = (own[0] + own[-1]) / 2 if own else float(leaves.index(number))
    ends: dict[int, float] = {}
    rows = []
    for number, node in enumerate(nodes):
        before = ends.get(node.parent, content.change.m - 1.0) if node.parent is not None else content.change.m - 1.0
        begin = float(node.steps[0].m) if node.steps else before + (0.0 if node.parent is None else 0.6)
        ends[number] = float(node.steps[-1].m) if node.steps else begin
        left = (before, lanes[node.parent]) if node.parent is not None else (begin, lanes[number])
        text = one_line("".join(step.text for step in node.steps), 200)
        counts = (len(node.rolls), _kind(node), f"{node.right}/{len(node.rolls)}" if _kind(node) != UNGRADED else str(len(node.rolls)))
        final = _final(content.rolls[node.rolls[0]]) if number not in children else ""
        rows.append((number, lanes[number], begin, ends[number], *left, *counts, " ".join(map(str, node.rolls)), text, final))
    columns = ["node", "lane", "begin", "end", "from", "from lane", "rerolls", "kind", "count", "seeds", "steps", "final"]
    return pd.DataFrame(rows, columns=columns)


def _kind(node: RollNode) -> str:
    if not node.right + node.wrong:
        return UNGRADED
    return BOTH if node.right and node.wrong else RIGHT if node.right else WRONG


def _final(roll: Trace) -> str:
    if roll.verdict is not None and roll.verdict.extracted:
        return f"→ {one_line(roll.verdict.extracted, 16)}"
    return f"→ no answer ({roll.finish})"


def roll_table(content: SavedRerolls) -> pd.DataFrame:
    """One row per reroll, by its seed."""
    rows = []
    for seed, roll in enumerate(content.rolls):
        apart = parting(roll, rerolled(content))
        impulses = sum(step.decision.chosen is not None for step in roll.steps)
        extracted = roll.verdict.extracted if roll.verdict else None
        rows.append((seed, grade_of(roll), extracted, roll.tokens_used, apart.position + 1 if apart else None, impulses))
    columns = ["seed", "verdict", "extracted", "tokens", "differs_at", "commits"]
    return pd.DataFrame(rows, columns=columns).astype({"differs_at": "Int64"})
