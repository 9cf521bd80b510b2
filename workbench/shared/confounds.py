"""An action's controls in words: the meaning of each number. What they point at is decided in ``stir_core.evaluate.confounds``."""

from collections.abc import Callable
from typing import NamedTuple

from stir_core.evaluate.confounds import LABELS_P, LENGTH_COSINE, MATCHED_COSINE, PASSING_P
from stir_core.records import Control


class ControlFigure(NamedTuple):
    """One control, ready to be shown."""

    name: str
    value: str
    """``"–"`` where it was not measured or does not apply."""
    help: str


def control_figures(control: Control) -> list[ControlFigure]:
    """All controls in reading order: length, labels, re-rolls, robustness."""
    return [ControlFigure(name, show(control), text) for name, (show, text) in _READINGS.items()]


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
