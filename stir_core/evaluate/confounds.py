"""What an action's controls point at, and when an action passes. The only place of the thresholds.

Flags are reading aids, not tests: an action that passes may still do nothing, and a flagged one may still help. An action passes only with
evidence for it: what could not be tested, and what lies between the thresholds, is "cannot tell".
"""

from typing import Literal

from stir_core.records import Control

LENGTH_COSINE = 0.5
"""A quarter of the action's squared norm then lies along brevity; unrelated directions of a residual stream stay below about 0.1."""
MATCHED_COSINE = 0.5
"""With lengths matched, three quarters of the re-estimate's squared norm are then orthogonal to the action."""
LABELS_P = 0.2
"""More than one relabelling in five then gives as long an action. Not stricter: with eight rollouts a real effect may have p near 0.05."""
PASSING_P = 0.05
"""Labels count as mattering only up to this p."""

ControlVerdict = Literal["passes", "flagged", "cannot tell"]
VERDICTS: tuple[ControlVerdict, ...] = ("passes", "flagged", "cannot tell")

MOSTLY_LENGTH = "mostly length"
LABELS_DO_NOT_MATTER = "labels do not matter"


def flags(control: Control) -> tuple[str, ...]:
    """The confounds that the controls point at, in words; empty when none is."""
    flagged: list[str] = []
    along, matched = control.length_cosine, control.length_matched_cosine
    if (along is not None and abs(along) >= LENGTH_COSINE) or (matched is not None and matched < MATCHED_COSINE):
        flagged.append(MOSTLY_LENGTH)
    if _labels_testable(control) and control.permutation_p is not None and control.permutation_p > LABELS_P:
        flagged.append(LABELS_DO_NOT_MATTER)
    return tuple(flagged)


def verdict(control: Control | None) -> ControlVerdict:
    """``"flagged"``; ``"passes"`` where length was tested, labels matter and re-rolls (if made) agree; else ``"cannot tell"``."""
    if control is None:
        return "cannot tell"
    if flags(control):
        return "flagged"
    labels_matter = control.permutation_p is not None and control.permutation_p <= PASSING_P
    rolls = control.stability_pos, control.stability_neg
    repeats = rolls[0] is None or rolls[1] is None or rolls[0] > rolls[1]
    return "passes" if _length_tested(control) and labels_matter and repeats else "cannot tell"


def _length_tested(control: Control) -> bool:
    """True with a length direction of other problems, or where matching at least halved the gap in length."""
    gap, matched = control.length_gap, control.length_gap_matched
    return control.length_cosine is not None or (gap is not None and matched is not None and abs(matched) <= abs(gap) / 2)


def _labels_testable(control: Control) -> bool:
    """False where the smallest possible p exceeds the threshold: a large p then has no meaning."""
    return control.permutation_floor is not None and control.permutation_floor <= LABELS_P
