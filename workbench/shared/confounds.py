"""Reads an action's controls: the confounds they point at, and the meaning of each number. The only place of the thresholds.

Flags are reading aids, not tests: an action that passes may still do nothing, and a flagged one may still help. An action passes only with
evidence for it: what could not be tested, and what lies between the thresholds, is "cannot tell".
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

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


class ControlFigure(NamedTuple):
    """One control, ready to be shown."""

    name: str
    value: str
    """``"–"`` where it was not measured or does not apply."""
    help: str


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


def control_figures(control: Control) -> list[ControlFigure]:
    """All controls in reading order: length, labels, re-rolls, robustness."""
    return [ControlFigure(name, show(control), text) for name, (show, text) in _READINGS.items()]


def _length_tested(control: Control) -> bool:
    """True with a length direction of other problems, or where matching at least halved the gap in length."""
    gap, matched = control.length_gap, control.length_gap_matched
    return control.length_cosine is not None or (gap is not None and matched is not None and abs(matched) <= abs(gap) / 2)


def _labels_testable(control: Control) -> bool:
    """False where the smallest possible p exceeds the threshold: a large p then has no meaning."""
    return control.permutation_floor is not None and control.permutation_floor <= LABELS_P


def _number(field: str, form: str = "{:.2f}") -> Callable[[Control], str]:
    return lambda control: "–" if (value := getattr(control, field)) is None else form.format(value)


def _pair(first: str, second: str, form: str, between: str) -> Callable[[Control], str]:
    return lambda control: f"{_number(first, form)(control)}{between}{_number(second, form)(control)}"


HELP = {
    "length cos": (
        "Cosine with the length direction: mean state of the shorter minus the longer half of the correct rollouts, averaged over the "
        f"other problems at this control point and layer. From ±{LENGTH_COSINE} on: mostly length."
    ),
    "matched cos": (
        "Cosine with the action re-estimated from right and wrong rollouts of nearly equal length. "
        f"Below {MATCHED_COSINE}: mostly length. Read it beside the gap: where matching cannot close it, it says little."
    ),
    "length gap": "Mean tokens of the wrong answers minus mean tokens of the right ones.",
    "gap matched": "The length gap after matching.",
    "perm. p": (
        "Share of relabellings of the same rollouts (then the same choice of short right and long wrong ones) whose action is at least "
        "as long. Null hypothesis: labels are exchangeable among these rollouts. Relabellings that choose the same rollouts tie, so "
        f"without an effect most p are above 0.5. Above {LABELS_P}: labels do not matter; an action passes up to {PASSING_P}."
    ),
    "shuffled cos": "Cosine with the action of one shuffle of the labels within the problem: the result of mining without labels.",
    "stable+": "Share of right answers when decoding again from the prefixes of the right answers.",
    "stable-": "Share of right answers when decoding again from the prefixes of the wrong answers: if it equals the other, the "
    "prefix had not decided the outcome yet.",
    "leave-one-out": "Smallest cosine with the action re-estimated without one of its rollouts: low where one rollout dominates.",
    "others cos": "Cosine with the mean action of the other problems at this control point and layer.",
}
"""Tooltip of each control's column and of its figure on the card."""

_READINGS: dict[str, tuple[Callable[[Control], str], str]] = {
    "Length cosine": (_number("length_cosine", "{:+.2f}"), HELP["length cos"]),
    "Length-matched cosine": (_number("length_matched_cosine", "{:+.2f}"), HELP["matched cos"]),
    "Length gap → matched": (
        _pair("length_gap", "length_gap_matched", "{:+.0f}", " → "),
        HELP["length gap"] + " After the arrow: after matching.",
    ),
    "Permutation p (floor)": (
        lambda control: f"{_number('permutation_p', '{:.3f}')(control)} ({_number('permutation_floor', '{:.3f}')(control)})",
        HELP["perm. p"] + " In brackets: the smallest p that these rollouts can give.",
    ),
    "Shuffled cosine": (_number("shuffled_cosine", "{:+.2f}"), HELP["shuffled cos"]),
    "Re-rolled right: + / −": (
        _pair("stability_pos", "stability_neg", "{:.0%}", " / "),
        "Share of right answers when decoding again from the prefixes of the right (+) and of the wrong (−) answers, at the rollouts' "
        "temperature. Nearly equal: the prefix had not decided the outcome yet.",
    ),
    "Leave-one-out cosine": (_number("leave_one_out", "{:+.2f}"), HELP["leave-one-out"]),
    "Cosine with others": (_number("others_cosine", "{:+.2f}"), HELP["others cos"]),
}
