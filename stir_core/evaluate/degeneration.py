"""Signs of degenerate text: repeated n-grams and compressibility. Pure functions of tokens and text."""

import zlib
from collections.abc import Sequence


def repeated(ids: Sequence[int], n: int = 3) -> float:
    """Share of token n-grams that occurred before in the same answer; 0 for an answer shorter than n."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def compressed(text: str) -> float:
    """Size under zlib over plain size: low is repetitive; 1 for an empty text."""
    raw = text.encode()
    return len(zlib.compress(raw, 9)) / len(raw) if raw else 1.0
