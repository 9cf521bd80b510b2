"""What the server counts, for Prometheus."""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from stir_core.records import StepEvent, Trace

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Meters:
    """Counters of one server, in a registry of their own."""

    def __init__(self, load: Callable[[], tuple[int, int]]):
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self._requests = Counter("stir_requests", "Requests for an answer, by HTTP status.", ["status"], **own)
        self._ended = Counter("stir_answers", "Answers, by how they ended.", ["how"], **own)
        self._tokens = Counter("stir_tokens", "Tokens: read in prompts, committed to answers, decoded in previews.", ["kind"], **own)
        self._decisions = Counter("stir_decisions", "Decisions of the gate before a step.", ["outcome"], **own)
        self._seconds = Histogram("stir_answer_seconds", "From request to the end of the answer.", buckets=_SECONDS, **own)
        self._first = Histogram("stir_first_token_seconds", "From request to the first token.", buckets=_SECONDS, **own)
        Gauge("stir_rows_live", "Answers being decoded.", **own).set_function(lambda: load()[0])
        Gauge("stir_rows_waiting", "Answers waiting for a row.", **own).set_function(lambda: load()[1])

    def asked(self, status: int) -> None:
        """A request was answered, or refused, with this status."""
        self._requests.labels(str(status)).inc()

    def first(self, seconds: float) -> None:
        """An answer has its first token."""
        self._first.observe(seconds)

    def decided(self, event: StepEvent) -> None:
        """The gate decided."""
        self._decisions.labels("null" if event.decision.chosen is None else "injected").inc()

    def finished(self, trace: Trace, seconds: float) -> None:
        """An answer came to its end."""
        self._ended.labels(trace.finish).inc()
        self._seconds.observe(seconds)
        for kind, count in (("prompt", len(trace.prompt_ids)), ("committed", trace.tokens_used), ("probe", trace.probe_tokens)):
            self._tokens.labels(kind).inc(count)

    def cut(self, how: str) -> None:
        """An answer did not come to its end: its reader left, time ran out, or decoding failed."""
        self._ended.labels(how).inc()

    def text(self) -> bytes:
        """What Prometheus reads."""
        return generate_latest(self.registry)
