"""A library as a table: its entries, their controls, and their measured advantages."""

from collections.abc import Mapping, Sequence

from stir_core.findings import Advantage
from stir_core.records import Control, Entry, Lens

HEADS = [
    "entry",
    "kind",
    "rank",
    "m",
    "layer",
    "quality",
    "|action|",
    "|key|",
    "length",
    "p",
    "stable",
    "advantage [95 %]",
    "problem",
    "promotes",
]


def library_table(
    entries: Sequence[Entry],
    ranks: Mapping[str, int],
    lenses: Mapping[str, Lens],
    controls: Mapping[str, Control],
    advantages: Mapping[str, Advantage],
) -> tuple[list[str], list[list[str]]]:
    """Heads and rows; "-" means not measured.

    ``length`` is the cosine with the length direction, ``p`` the permutation p-value over labels, ``stable`` the share of right
    continuations from the positives' prefixes and from the negatives'.
    """
    rows: list[list[str]] = []
    for entry in entries:
        control, advantage, lens = controls.get(entry.id), advantages.get(entry.id), lenses.get(entry.id)
        stable = "-"
        if control is not None and control.stability_pos is not None and control.stability_neg is not None:
            stable = f"{control.stability_pos:.2f}/{control.stability_neg:.2f}"
        measured = f"{advantage:+.2f}" if advantage is not None else "-"
        rows.append(
            [
                entry.id,
                entry.kind,
                str(ranks.get(entry.id, "-")),
                str(entry.m),
                str(entry.layer),
                f"{entry.quality:.4f}",
                f"{entry.action_norm:.1f}" if entry.action_norm is not None else "-",
                f"{entry.key_norm:.1f}",
                _number(control.length_cosine if control is not None else None, "+.2f"),
                _number(control.permutation_p if control is not None else None, ".2f"),
                stable,
                measured,
                entry.problem_id,
                " ".join(repr(token.text) for token in lens.promoted[:4]) if lens else "",
            ]
        )
    return HEADS, rows


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
