"""Intervals as error bars."""

from collections.abc import Iterable
from typing import Any


def reach(values: Iterable[float], lows: Iterable[float], highs: Iterable[float], **style: Any) -> dict[str, Any]:
    """Error bars from ``low`` to ``high`` around each value, for plotly's ``error_x`` and ``error_y``."""
    values, lows, highs = list(values), list(lows), list(highs)
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for high, value in zip(highs, values, strict=True)],
        "arrayminus": [value - low for low, value in zip(lows, values, strict=True)],
        **style,
    }
