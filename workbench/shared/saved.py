"""Saved work in words: its sections as text and tables, the command that makes it again, and one HTML file."""

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import pandas as pd

from stir_core.evaluate.rerolls import reroll_tree
from stir_core.requests import DENY, KEEP, Change
from stir_core.saved import SavedBranch, SavedContent, SavedImpulse, SavedRedecision, SavedRerolls, SavedTrace, SavedWork
from stir_core.store.runs import Run
from workbench.shared.command_lines import gate_command, impulse_command, trace_command, whatif_command
from workbench.shared.gate_replay import changes_of
from workbench.shared.html_parts import PARTS_CSS, html_file, part_html
from workbench.shared.text import one_line, visible_token
from workbench.shared.trace_comparison import ROWS, changed_settings, cost_table, equality_line, grade_of, recording_of, settings_of
from workbench.shared.trace_document import html


class SavedSection(NamedTuple):
    """A heading with the text, or the table, below it."""

    title: str
    body: str | pd.DataFrame


def sections_of(work: SavedWork, content: SavedContent) -> list[SavedSection]:
    """What was asked and what came of it, then what it was made with."""
    made_with = pd.DataFrame(_facts(work, content), columns=["", " "])
    return [*_SECTIONS[content.kind](work, content), SavedSection("Made with", made_with)]


def _trace_sections(work: SavedWork, content: SavedTrace) -> list[SavedSection]:
    recording = recording_of(work, content, work.run_digest)
    texts = ["".join(token.text for token in recording.tokens(row)) for row in range(len(ROWS))]
    answers = [SavedSection(f"{name.capitalize()} answer", text) for name, text in zip(ROWS, texts, strict=True)]
    sections = [("Question", content.question), ("Outcome", equality_line(recording)[1]), ("Verdicts and tokens", cost_table(recording))]
    return [*(SavedSection(title, body) for title, body in sections), *answers]


def _branch_sections(work: SavedWork, content: SavedBranch) -> list[SavedSection]:
    names = ["as it was", *(change_text(change) for change in content.changes)]
    traces = [content.origin, *content.traces]
    rows = [(name, grade_of(t), t.verdict and t.verdict.extracted, t.tokens_used) for name, t in zip(names, traces, strict=True)]
    return [
        SavedSection("Question", content.question),
        SavedSection("Outcome", work.outcome),
        SavedSection("Answers", pd.DataFrame(rows, columns=["decision", "verdict", "extracted", "tokens"])),
        SavedSection("Answer as it was", content.origin.text),
        SavedSection("Answer with the change" if len(traces) == 2 else "Answer with all changes", traces[-1].text),
    ]


def _reroll_sections(work: SavedWork, content: SavedRerolls) -> list[SavedSection]:
    before = content.traces[-1] if content.traces else content.origin
    rows = [(seed, grade_of(roll), roll.verdict and roll.verdict.extracted, roll.tokens_used) for seed, roll in enumerate(content.rolls)]
    return [
        SavedSection("Question", content.question),
        SavedSection("Outcome", work.outcome),
        SavedSection("Tree", reroll_table(content)),
        SavedSection("Rerolls", pd.DataFrame(rows, columns=["seed", "verdict", "extracted", "tokens"])),
        SavedSection("Answer that was continued", before.text),
        *(SavedSection(f"Reroll with seed {seed}", roll.text) for seed, roll in enumerate(content.rolls)),
    ]


def reroll_table(content: SavedRerolls) -> pd.DataFrame:
    """One row per node of the tree of rerolls: how many begin so, how many of them are right, and the steps that they share."""
    rows, depths = [], list[int]()
    for node in reroll_tree(content.rolls, content.change.m):
        depths.append(0 if node.parent is None else depths[node.parent] + 1)
        text = "".join(step.text for step in node.steps).strip()
        rows.append((depths[-1], len(node.rolls), node.right, node.wrong, " ".join(map(str, node.rolls)), one_line(text, 300)))
    return pd.DataFrame(rows, columns=["depth", "rerolls", "right", "wrong", "seeds", "steps that they share"])


def _impulse_sections(work: SavedWork, content: SavedImpulse) -> list[SavedSection]:
    one = content.response
    layers = [(e.layer, e.norm, e.cosine, e.relative, _words(e.promoted), _words(e.suppressed)) for e in one.layers]
    tokens = [(visible_token(t.text), kl, frozen) for t, kl, frozen in zip(one.tokens, one.kl, one.kl_frozen, strict=True)]
    doses = [(dose.alpha, dose.fraction, dose.kl, dose.kl_following, dose.text) for dose in one.doses]
    return [
        SavedSection("Impulse", f"{work.title}, added after block {one.layer}\n{work.outcome}"),
        SavedSection("By layer", pd.DataFrame(layers, columns=["layer", "norm", "cosine", "of residual", "promotes", "suppresses"])),
        SavedSection(
            "Next token at the control point",
            pd.DataFrame([(visible_token(s.text), s.before, s.after) for s in one.shifts], columns=["token", "before", "after"]),
        ),
        SavedSection("KL(steered ‖ unsteered) in nats", pd.DataFrame(tokens, columns=["after token", "KL", "KL, attention frozen"])),
        SavedSection("Strengths", pd.DataFrame(doses, columns=["alpha", "of residual", "KL", "KL after", "greedy continuation"])),
    ]


def _redecision_sections(work: SavedWork, content: SavedRedecision) -> list[SavedSection]:
    changed = [(key, getattr(content.own, key), value) for key, value in changes_of(content.own, content.gate).items()]
    flips = [(f.problem, f.m, f.change, f.recorded, f.now, f.why) for f in content.flips]
    return [
        SavedSection("Outcome", work.outcome),
        SavedSection("Settings", pd.DataFrame(changed, columns=["gate setting", "of the run", "tried"])),
        SavedSection(
            "First decision that turns, by answer",
            pd.DataFrame(flips, columns=["problem", "control point", "change", "recorded", "now", "why now"]),
        ),
    ]


_SECTIONS: dict[str, Any] = {
    "trace": _trace_sections,
    "what-if": _branch_sections,
    "rerolls": _reroll_sections,
    "impulse": _impulse_sections,
    "re-decision": _redecision_sections,
}


def _words(tokens: Sequence[Any]) -> str:
    return " ".join(visible_token(token.text) for token in tokens)


def _facts(work: SavedWork, content: SavedContent) -> list[tuple[str, str]]:
    rows = [("saved work", work.id), ("saved at (UTC)", work.created), ("by version", work.made_by), ("run", work.run)]
    rows += [("run digest", work.run_digest)]
    identity = work.model.model_dump(mode="json") if work.model else {}
    rows += [(f"model {name.replace('_', ' ')}", str(value)) for name, value in identity.items()]
    for part in ("gate", "decode"):
        section = getattr(content, part, None)
        rows += [(f"{part}.{name}", str(value)) for name, value in section.model_dump(mode="json").items()] if section is not None else []
    return rows


def command_of(content: SavedContent, run: Run) -> str:
    """The command that makes it again, on the run that it was made with."""
    if isinstance(content, SavedImpulse):
        one = content.response
        return impulse_command(run, one.entry_id, one.spot.name, one.alpha)
    if isinstance(content, SavedRedecision):
        return gate_command(run, changes_of(content.own, content.gate), content.answers)
    defaults = {"gate": run.config.gate.model_dump(mode="json"), "decode": run.config.decode.model_dump(mode="json")}
    changed = changed_settings(defaults, settings_of("", "", None, content.gate, content.decode))
    if isinstance(content, SavedBranch | SavedRerolls):
        prompt = content.problem.id if content.problem else content.question
        again = {"raw": content.raw, "changed": {} if content.recorded else changed, "of": content.of}
        if isinstance(content, SavedRerolls):
            return whatif_command(run, prompt, [*content.changes, content.change], rolls=len(content.rolls), **again)
        return whatif_command(run, prompt, content.changes, **again)
    return trace_command(run, content.problem or content.question, raw=content.raw, changed=changed)


def saved_html(work: SavedWork, content: SavedContent, command: str) -> str:
    """One HTML document that opens offline; texts and titles in it are text."""
    title = f"{work.run}: {work.title}"
    if isinstance(content, SavedTrace):
        return html(recording_of(work, content, work.run_digest), command, seed=content.seed, title=title)
    sections = [*sections_of(work, content), SavedSection("Made again by", command)]
    body = "\n".join(f"<h2>{escape(section.title)}</h2>\n{part_html(section.body)}" for section in sections)
    return html_file(title, body, style=PARTS_CSS)


def change_text(change: Change) -> str:
    """A change in a few words: ``"m 2: p0003c × 0.58"``."""
    what = {KEEP: "keep", DENY: "deny"}.get(change.to, change.to)
    strength = f" × {change.alpha:.3g}" if change.forces and change.alpha is not None else ""
    place = f"m {change.m}" if change.position is None else f"token {change.position + 1}"
    put = [] if change.token is None else [f"put “{visible_token(change.text)}”" if change.text else f"put id {change.token}"]
    kept = change.to == KEEP and (put or change.seed is not None)
    words = [*put, *([] if kept else [f"{what}{strength}"]), *(["then null"] if change.then == "null" else [])]
    return f"{place}: {', '.join([*words, *([] if change.seed is None else [f'seed {change.seed}'])])}"
