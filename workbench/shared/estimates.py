"""Numbers with their intervals, as text and as words. Refuses to read an interval that holds 0 as "none"."""

from stir_core.findings import Advantage, Estimate


def interval(estimate: Estimate | Advantage, form: str, times: float = 1.0) -> str:
    """``"[low, high]"``."""
    return f"[{form.format(times * estimate.low)}, {form.format(times * estimate.high)}]".replace("-", "−")


def with_interval(estimate: Estimate | Advantage, form: str, times: float = 1.0) -> str:
    """``"value [low, high]"``."""
    return form.format(times * estimate.value).replace("-", "−") + " " + interval(estimate, form, times)


def verdict_of(estimate: Estimate | Advantage) -> str:
    """What an interval says about the sign: ``"helps"``, ``"harms"`` or ``"no effect seen"``."""
    return "helps" if estimate.low > 0 else "harms" if estimate.high < 0 else "no effect seen"
