"""How a text degenerates: repeated n-grams and compressibility. Pure numbers over tokens and text."""

import zlib
from collections.abc import Sequence


def repeated(ids: Sequence[int], n: int = 3) -> float:
    """Share of token n-grams that stood before in the same answer; 0 for an answer shorter than n."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def compressed(text: str) -> float:
    """zlib size over plain size: low means repetitive; 1 for an empty text."""
    raw = text.encode()
    return len(zlib.compress(raw, 9)) / len(raw) if raw else 1.0
