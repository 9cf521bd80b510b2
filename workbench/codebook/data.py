"""A codebook of steps as cards, tables and sentences; without a model."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from stir_core.evaluate.codes import actions_of_codes
from stir_core.findings import Advantage, Code, CodebookReport, Estimate, LayerCodes
from stir_core.records import Lens, Rollout, StepState
from stir_core.store.causal import CausalFolder
from workbench.shared.codes import code_colour
from workbench.shared.facts import RunFacts
from workbench.shared.intervals import interval, proportion, with_interval
from workbench.shared.text import one_line, visible_token

FLAGS = {"position": "position only", "length": "length only"}
ORDERS = {
    "number": lambda code: code.code,
    "most used": lambda code: -code.members,
    "most often right": lambda code: -code.right,
    "flagged first": lambda code: -len(code.flags),
}
"""Orders of the grid."""
UNMEASURED = "not measured"


class Book(NamedTuple):
    """A run's codebook at one layer, with everything that the page joins to it."""

    report: CodebookReport
    layer: LayerCodes
    rows: list[StepState]
    """Every step."""
    codes: list[int]
    """The code of each."""
    effects: dict[int, list[Advantage]]
    """Measured advantages by code."""
    own: bool
    """True: of the code's own vectors (the study ``codes``); False: of the mined actions of which a wrong rollout has the code where the
    action was mined."""
    directions: Float[np.ndarray, "codes d_model"]
    """Mean member of each code minus the centre, in the residual stream; all codes, also those without a member."""

    @property
    def by_number(self) -> dict[int, Code]:
        """The codes that have a member."""
        return {code.code: code for code in self.layer.codes}


def book_of(facts: RunFacts, report: CodebookReport, layer: int) -> Book:
    """The codebook of one of the report's layers.

    Raises:
        StoreError: the steps that were coded are missing, or have another number than the codes.
    """
    arrays = facts.step_codes
    coded = [(row, int(code)) for row, code in zip(facts.step_rows, arrays[f"codes_{layer}"], strict=True) if row.m]
    rows, codes = [row for row, _ in coded], [code for _, code in coded]
    own = _own_effects(facts, layer)
    effects = _mined_effects(facts, layer, rows, codes) if own is None else own
    directions = (arrays[f"means_{layer}"] * arrays[f"scales_{layer}"]) @ arrays[f"axes_{layer}"].T
    found = next(each for each in report.layers if each.layer == layer)
    return Book(report, found, rows, codes, effects, own is not None, directions)


def _own_effects(facts: RunFacts, layer: int) -> dict[int, list[Advantage]] | None:
    """Of the entries that the codes make; ``None`` without a study of this codebook. Read anew each time."""
    folder = CausalFolder(facts.run, "codes")
    if not folder.reported or (study := folder.report()).spec.basis != facts.run.digest("codes"):
        return None
    found: dict[int, list[Advantage]] = {}
    for each in study.actions:
        place, _, code = each.entry_id[1:-1].split(".")  # as ``evaluate.codes`` names them: c17.2.5c
        if int(place) == layer:
            found.setdefault(int(code), []).append(each)
    return found


def _mined_effects(facts: RunFacts, layer: int, rows: list[StepState], codes: list[int]) -> dict[int, list[Advantage]]:
    advantages = facts.advantages
    if not advantages:
        return {}
    names: dict[int, list[str]] = {}
    for (_, code), ids in actions_of_codes((facts.entries[name] for name in advantages), layer, rows, codes).items():
        names.setdefault(code, []).extend(ids)
    return {code: [advantages[name] for name in dict.fromkeys(ids)] for code, ids in names.items()}


def head_line(report: CodebookReport) -> str:
    """What was coded, in one line."""
    what = {"state": "states after a step", "delta": "changes over a step", "window": "last states of a step"}[report.encoder]
    return (
        f"{report.steps} steps of {report.problems} problems, {report.held_out} of them held out: nothing was fitted on these · "
        f"{what} · {report.kind}, {report.size} codes asked for"
    )


def stability_line(layer: LayerCodes) -> str:
    """How far other fits agree, and what merging leaves."""
    return (
        f"Adjusted Rand index {layer.seeds:.2f} between two seeds, {layer.halves:.2f} between halves of the problems. "
        f"Merging the pairs that cost least leaves {layer.merged} codes with error {layer.merged_error:.3f}."
    )


def effect_line(effects: Sequence[Advantage]) -> str:
    """The measured effects of a code's actions in a few words."""
    if not effects:
        return UNMEASURED
    values = [each.value for each in effects]
    spread = f" (single actions {min(values):+.2f} to {max(values):+.2f})".replace("-", "−") if len(values) > 1 else ""
    pairs = sum(each.pairs for each in effects)
    mean = f"{np.mean(values):+.2f}".replace("-", "−")
    return f"{mean}{spread}, n = {len(values)} action{'' if len(values) == 1 else 's'}, {pairs} pairs"


def cards(book: Book, lenses: Mapping[int, Lens], order: str, chosen: int | None) -> list[dict[str, Any]]:
    """One card for each code, ready for JSON."""
    at_point = Counter(row.m for row in book.rows)
    points = sorted(at_point)
    found = []
    for code in sorted(book.layer.codes, key=ORDERS[order]):
        lens = lenses.get(code.code)
        found.append(
            {
                "code": code.code,
                "colour": code_colour(code.code),
                "chosen": code.code == chosen,
                "used": f"{code.members} steps · {code.members / len(book.rows):.0%}",
                "right": f"{code.right:.0%} in right answers · {code.tokens:g} tokens",
                "texts": [one_line(text, 90) for text in code.exemplars[:3]],
                "points": [[m, code.points.get(str(m), 0), at_point[m]] for m in points],
                "promotes": [visible_token(token.text) for token in lens.promoted[:5]] if lens else [],
                "flags": [FLAGS[flag] for flag in code.flags],
                "effect": effect_line(book.effects.get(code.code, [])),
            }
        )
    return found


def use_table(book: Book, code: Code) -> pd.DataFrame:
    """One row per control point: how many of its steps have the code."""
    rows = []
    for m, n in sorted(Counter(row.m for row in book.rows).items()):
        share = proportion(code.points.get(str(m), 0), n)
        rows.append((m, share.k, n, share.rate, share.low, share.high))
    return pd.DataFrame(rows, columns=["m", "steps", "of", "share", "low", "high"])


def effect_table(effects: Sequence[Advantage]) -> pd.DataFrame:
    """One row per measured action of a code, best first."""
    rows = [
        (each.entry_id, each.value, with_interval(each, "+.3f"), each.verdict, each.problems, each.pairs)
        for each in sorted(effects, key=lambda each: -each.value)
    ]
    return pd.DataFrame(rows, columns=["entry", "advantage", "advantage 95 %", "verdict", "problems", "pairs"])


def fit_table(layer: LayerCodes) -> pd.DataFrame:
    """One row per way to describe the steps: the codebook first, then what it is compared with at equal size."""
    rows = [(fit.method, fit.size, fit.error, _interval(fit.estimate), fit.perplexity, fit.dead) for fit in layer.fits]
    return pd.DataFrame(rows, columns=["method", "codes", "error", "95 %", "perplexity", "dead"])


def _interval(estimate: Estimate | None) -> str | None:
    return None if estimate is None else interval(estimate, ".3f")


def error_table(layer: LayerCodes) -> pd.DataFrame:
    """Tidy: the curves over K (``curve``), and the fits at the codebook's own size, which are single points."""
    named = [(fit.method, fit, True) for fit in layer.rate]
    named += [(f"{fit.method} (this codebook)" if i == 0 else fit.method, fit, False) for i, fit in enumerate(layer.fits)]
    rows = [(name, fit.size, fit.error, *(fit.estimate or Estimate(value=fit.error)).bounds, curve) for name, fit, curve in named]
    return pd.DataFrame(rows, columns=["method", "codes", "error", "low", "high", "curve"])


LEAST_TOLD = 0.1
"""Adjusted mutual information below which a label is hardly told, although by chance it would be less."""


def information_table(layer: LayerCodes) -> pd.DataFrame:
    """One row per label of the steps, the best told first."""
    found = sorted(layer.information, key=lambda each: -each.information)
    names = ("about", "steps", "problems", "information", "null", "ari", "read_as", "shuffled")
    rows = []
    for each in found:
        shown = _interval(each.estimates.get("information"))
        verdict = "not told" if each.information <= each.null else "told" if each.information >= LEAST_TOLD else "hardly"
        rows.append((*(getattr(each, name) for name in names), shown, verdict))
    return pd.DataFrame(rows, columns=[*names, "95 %", "verdict"])


class CodedAnswer(NamedTuple):
    """A rollout with the codes of its steps."""

    rollout: Rollout
    rows: list[StepState]
    codes: list[int]

    @property
    def tail(self) -> str:
        """Text behind the last finished step; empty where the steps' texts do not add up to the answer's beginning."""
        steps = "".join(row.text for row in self.rows)
        return self.rollout.text[len(steps) :] if self.rollout.text.startswith(steps) else ""


def coded_answers(facts: RunFacts, book: Book) -> dict[str, CodedAnswer]:
    """Every rollout with a finished step, by ``problem#k``."""
    found: dict[str, CodedAnswer] = {}
    for row, code in zip(book.rows, book.codes, strict=True):
        answer = found.setdefault(f"{row.problem_id}#{row.k}", CodedAnswer(facts.rollouts[row.problem_id, row.k], [], []))
        answer.rows.append(row)
        answer.codes.append(code)
    return found


def sequence_table(answers: Mapping[str, CodedAnswer], problem_id: str) -> pd.DataFrame:
    """One row per step of every rollout of a problem."""
    rows = [
        (name, f"{answer.rollout.k} {'right' if answer.rollout.verdict.correct else 'wrong'}", row.m, str(code), one_line(row.text, 80))
        for name, answer in answers.items()
        if answer.rollout.problem_id == problem_id
        for row, code in zip(answer.rows, answer.codes, strict=True)
    ]
    return pd.DataFrame(rows, columns=["answer", "rollout", "m", "code", "text"])
