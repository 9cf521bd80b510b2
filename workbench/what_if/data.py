"""What-if trees: a recorded answer and its branches, each decoded with one decision changed; comparisons of two answers, and tables.

Works on traces that are decoded already. A forest belongs to one browser tab. It is bounded, and a line reports each branch that it drops.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal, NamedTuple

import pandas as pd

from stir_core.config import GateConfig
from stir_core.evaluate.degeneration import repeated
from stir_core.intervene.changes import own_alpha, was_forced
from stir_core.records import Entry, StepTrace, Trace
from stir_core.requests import DENY, KEEP, Change
from stir_core.saved import SavedBranch
from workbench.shared.branching import BranchOrigin, parting
from workbench.shared.saved import change_text
from workbench.shared.text import Segment, plural, segment, text_segments
from workbench.shared.trace_comparison import grade_of

LIMIT = 64
"""Maximum number of branches that a tab holds, over all origins. A branch takes about 8 kB per new step with 8 retrieved entries."""
LOOPS = 0.5
"""An answer counts as degenerate when at least this share of its token triples occurred earlier in it."""


@dataclass(frozen=True)
class Node:
    """One answer of a tree: its origin, or a branch of another node."""

    number: int
    """0 for the origin; branches are numbered in the order in which they ended."""
    parent: int | None
    change: Change | None
    trace: Trace


@dataclass
class Tree:
    """An origin and its branches by number."""

    origin: BranchOrigin
    nodes: dict[int, Node]
    counted: int = 0
    """Branches added so far, dropped ones included, so that no number is used twice."""

    def children(self, number: int) -> list[Node]:
        """Branches of a node, oldest first."""
        return [node for node in self.nodes.values() if node.parent == number]

    def path(self, number: int) -> list[Node]:
        """From the origin to the node."""
        node = self.nodes[number]
        return [node] if node.parent is None else [*self.path(node.parent), node]


@dataclass
class Forest:
    """The trees of one browser tab, by origin."""

    trees: dict[str, Tree] = field(default_factory=dict)
    order: list[tuple[str, int]] = field(default_factory=list)
    """Every branch, oldest first."""

    def tree(self, origin: BranchOrigin) -> Tree:
        """The tree of an origin; a new one if there is none yet."""
        return self.trees.setdefault(origin.key, Tree(origin, {0: Node(0, None, None, origin.trace)}))

    def add(self, tree: Tree, parent: int, change: Change, trace: Trace) -> tuple[Node, str | None]:
        """Add a finished branch. It replaces a branch of the same node with the same change.

        Returns:
            The node, and a line about the leaf that was dropped to stay within :data:`LIMIT`, if one was.
        """
        twin = next((node for node in tree.children(parent) if node.change == change), None)
        if twin is not None:
            tree.nodes[twin.number] = Node(twin.number, parent, change, trace)
            return tree.nodes[twin.number], None
        tree.counted += 1
        node = tree.nodes[tree.counted] = Node(tree.counted, parent, change, trace)
        self.order.append((tree.origin.key, node.number))
        return node, self._thin(keep=(tree.origin.key, node.number)) if len(self.order) > LIMIT else None

    def merge(self, tree: Tree, content: SavedBranch) -> str | None:
        """Add a saved branch of this tree and whatever of its path is missing; a branch with the same changes is replaced.

        Returns:
            As the second value of :meth:`add`.
        """
        node, note = tree.nodes[0], None
        for place, (change, trace) in enumerate(zip(content.changes, content.traces, strict=True), start=1):
            known = node_at(tree, content.changes[:place])
            if known is None or place == len(content.changes):
                node, note = self.add(tree, node.number, change, trace)
            else:
                node = known
        return note

    def _thin(self, keep: tuple[str, int]) -> str | None:
        for key, number in self.order:
            tree = self.trees[key]
            if (key, number) != keep and not tree.children(number):
                self.order.remove((key, number))
                gone = tree.nodes.pop(number)
                if len(tree.nodes) == 1 and key != keep[0]:
                    del self.trees[key]
                return f"A tab holds {LIMIT} branches: the oldest leaf was dropped ({tree.origin.name}, {label(gone)})."
        return None


def path_to(tree: Tree, number: int) -> list[tuple[Change, Trace]]:
    """The changes from the origin to a node, each with the answer after it."""
    return [(node.change, node.trace) for node in tree.path(number) if node.change is not None]


def node_at(tree: Tree, changes: Sequence[Change]) -> Node | None:
    """The node that these changes lead to, one after the other; ``None`` where it is not in the tree."""
    node: Node | None = tree.nodes[0]
    for change in changes:
        node = next((child for child in tree.children(node.number) if child.change == change), None) if node is not None else None
    return node


def changes_nothing(change: Change, trace: Trace) -> bool:
    """Whether the answer must come out as it was: its own decision, its own token, and its own way to draw."""
    same = change.token is None or (change.position is not None and trace.token_ids[change.position] == change.token)
    return change.to == KEEP and change.then == "gate" and change.seed is None and same


def label(node: Node) -> str:
    """A node's number and change."""
    return "#0 recorded" if node.change is None else f"#{node.number} {change_text(node.change)}"


TREE_COLUMNS = [
    *("branch", "of", "change", "verdict", "extracted", "tokens"),
    *("differs_at", "m", "repeats", "degenerated", "commits", "ran"),
]


def tree_table(tree: Tree) -> pd.DataFrame:
    """One row per node, parents before children."""
    rows = []
    for node in nodes_in_order(tree):
        trace = node.trace
        apart = parting(trace, tree.nodes[node.parent].trace) if node.parent is not None else None
        rows.append(
            (
                node.number,
                node.parent,
                "recorded" if node.change is None else change_text(node.change),
                grade_of(trace),
                trace.verdict.extracted if trace.verdict else None,
                trace.tokens_used,
                apart.position + 1 if apart else None,
                apart.m if apart else None,
                repeated(trace.token_ids),
                repeated(trace.token_ids) >= LOOPS,
                sum(step.decision.chosen is not None for step in trace.steps),
                trace.forward_tokens,
            )
        )
    return pd.DataFrame(rows, columns=TREE_COLUMNS).astype({name: "Int64" for name in ("of", "differs_at", "m")})


def nodes_in_order(tree: Tree, number: int = 0) -> list[Node]:
    """Depth first, oldest branch first."""
    return [tree.nodes[number], *(node for child in tree.children(number) for node in nodes_in_order(tree, child.number))]


def counterfactuals(tree: Tree, number: int, m: int) -> pd.DataFrame:
    """Outcomes of a node and of its branches that change the decision at control point ``m``, one row each; the node comes first."""
    step = next(step for step in tree.nodes[number].trace.steps if step.m == m)
    names = {number: f"as it stands: {_decision(step)}"}
    for child in tree.children(number):
        if child.change is not None and child.change.m == m:
            names[child.number] = change_text(child.change).partition(": ")[2]
    table = tree_table(tree)
    table["at this step"] = [names.get(branch) for branch in table["branch"]]
    return table.dropna(subset=["at this step"]).reindex(columns=["at this step", *TREE_COLUMNS[3:10], "branch"])


def tree_lines(tree: Tree) -> pd.DataFrame:
    """One row per step of every node, on the node's own lane; steps before the change are drawn on the parent's lane only."""
    rows: list[tuple[object, ...]] = []
    lanes: dict[int, int] = {}
    for lane, node in enumerate(nodes_in_order(tree)):  # parents come before their branches
        lanes[node.number] = lane
        begin = node.change.m if node.change is not None else 0
        place = (node.number, lane, lanes[node.parent] if node.parent is not None else lane, begin, node.trace.steps[-1].m)
        answer = (label(node), grade_of(node.trace), node.trace.tokens_used)
        steps = [step for step in node.trace.steps if step.m >= begin]
        rows += [(*place, *answer, step.m, _decision(step), step.decision.chosen is not None) for step in steps]
    columns = ["branch", "lane", "from", "begin", "last", "name", "verdict", "tokens", "m", "decision", "committed"]
    return pd.DataFrame(rows, columns=columns)


def _decision(step: StepTrace) -> str:
    chosen = f"{step.decision.chosen} × {step.decision.alpha:.2f}" if step.decision.chosen else "null"
    return f"{chosen} (forced)" if was_forced(step) else chosen


class OfferedAction(NamedTuple):
    """An action that can be injected at a control point."""

    entry_id: str
    own: float | None
    """Multiple that the gate would inject; ``None`` if it measured none above 0."""
    text: str
    """Its line in the menu."""


def candidates(step: StepTrace, entries: Sequence[Entry], gate: GateConfig) -> tuple[list[OfferedAction], list[OfferedAction]]:
    """Corrective entries of the step's control point: those retrieved there, best score first, and the rest of the library."""
    scored = {each.entry_id: each for each in step.decision.scored}
    scores = {entry_id: each.score for entry_id, each in scored.items()}
    seen = {entry.entry_id: entry for entry in step.evidence.retrieved if entry.kind == "corrective"}
    ranked = sorted(seen.values(), key=lambda e: (e.entry_id not in scores, -(scores.get(e.entry_id) or 0.0), -e.value))
    first = []
    for entry in ranked:
        score = scores.get(entry.entry_id)
        stopped = scored[entry.entry_id].stopped if entry.entry_id in scored else None
        preview = f"score {score:.3f}" if score is not None else stopped or "not previewed"
        mark = " · chosen" if entry.entry_id == step.decision.chosen else ""
        own = own_alpha(step, entry.entry_id, gate)
        first.append(OfferedAction(entry.entry_id, own, f"{entry.entry_id} · cosine {entry.sim:.3f} · {preview}{mark}"))
    here = [entry for entry in entries if entry.m == step.evidence.m and entry.kind == "corrective" and entry.id not in seen]
    return first, [OfferedAction(entry.id, None, f"{entry.id} · not retrieved · quality {entry.quality:.3f}") for entry in here]


def all_changes(step: StepTrace, gate: GateConfig, alpha: float, then: Literal["gate", "null"], *, same: bool) -> list[Change]:
    """Denying, and forcing each retrieved candidate.

    Args:
        alpha: multiple for candidates without a strength of the gate's own; with ``same`` for all of them.
    """
    m = step.evidence.m
    retrieved, _ = candidates(step, (), gate)
    forced = [Change(m=m, to=c.entry_id, alpha=alpha if same or c.own is None else c.own, then=then) for c in retrieved]
    return [Change(m=m, to=DENY, then=then), *forced]


def tree_json(tree: Tree, command_of: Callable[[int], str]) -> dict[str, Any]:
    """The whole tree as JSON: settings, changes, commands and answers. ``command_of`` gives the command that makes a node."""
    origin = tree.origin
    return {
        "origin": origin.name,
        "question": origin.question,
        "gate": origin.gate.model_dump(mode="json"),
        "decode": origin.decode.model_dump(mode="json"),
        "nodes": [
            {
                "branch": node.number,
                "of": node.parent,
                "change": node.change.model_dump(mode="json") if node.change else None,
                "command": command_of(node.number),
                "trace": node.trace.model_dump(mode="json"),
            }
            for node in nodes_in_order(tree)
        ],
    }


FIRST = "⟦first difference⟧"


class Cell(NamedTuple):
    """One step of one answer."""

    head: str
    segments: list[Segment]


class PairRow(NamedTuple):
    """The same step of two answers; ``None`` where an answer had ended."""

    m: int
    same: bool
    """Equal ids and the same impulse."""
    cells: tuple[Cell | None, Cell | None]


def aligned(one: Trace, other: Trace) -> list[PairRow]:
    """Both answers step by step."""
    apart = parting(one, other)
    rows = []
    for place in range(max(len(one.steps), len(other.steps))):
        steps = [trace.steps[place] if place < len(trace.steps) else None for trace in (one, other)]
        a, b = steps
        same = a is not None and b is not None and a.token_ids == b.token_ids and _impulse(a) == _impulse(b)
        shared = None
        if apart is not None and apart.m == place:
            pairs = zip(a.text if a else "", b.text if b else "", strict=False)
            shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        cells = tuple(_cell(step, shared) if step is not None else None for step in steps)
        rows.append(PairRow(place, same, (cells[0], cells[1])))
    return rows


def whole(trace: Trace, m: int) -> list[Segment]:
    """The answer with its control points numbered; text before control point ``m`` is muted, and ``m`` itself is marked."""
    pieces: list[Segment] = []
    for step in trace.steps:
        here = step.m == m
        name = f"⟦{'control point ' if here else ''}{step.m} · {_decision(step)}⟧ "
        pieces.append(segment(name, "mark" if here else "past"))
        body = text_segments(step.text, "steered" if step.decision.chosen else "plain")
        pieces += [segment(piece["text"], "past") for piece in body] if step.m < m else body
        pieces.append(segment("\n"))
    return pieces


def _cell(step: StepTrace, shared: int | None) -> Cell:
    role = "steered" if step.decision.chosen else "plain"
    head = f"control point {step.m} · {plural(len(step.token_ids), 'token')} · {_decision(step)}"
    if shared is None:
        return Cell(head, text_segments(step.text, role))
    return Cell(head, [segment(step.text[:shared], "past"), segment(FIRST, "mark"), *text_segments(step.text[shared:], role)])


def _impulse(step: StepTrace) -> tuple[str | None, float]:
    return step.decision.chosen, round(step.decision.alpha, 5)
