"""The process in which math-verify runs: ``python -m stir_core.tasks.grade_worker``, JSON lines in and out.

It exists to be stopped: a comparison can take forever, and math-verify's own time limits rest on signals, which do not work
outside a main thread. Requests are ``{"gold", "answer", "limit"}`` in normal form, replies ``{"same": bool}``; the first line is
``{"ready": true}`` once math-verify is imported. The process limits its own memory and, where the system has interval timers,
its own processor time: a verdict must not depend on how busy the machine is, and nothing outlives a parent that was killed.
"""

import json
import logging
import signal
import sys
from typing import Any

from stir_core.tasks.structure import same_answer

_MEMORY_BYTES = 4 << 30
_WARM_UP = (("x^2-1", "(x-1)(x+1)"), ("x^3+3x", "\\frac{x}{y}"), ("(-\\infty,2)", "[0,1)"))


def serve() -> None:
    """Answer requests from standard input until it closes."""
    replies, sys.stdout = sys.stdout, sys.stderr  # nothing that a library prints may be taken for a reply
    logging.disable(logging.CRITICAL)
    _limit_memory()
    from math_verify import LatexExtractionConfig, parse, verify  # here, because the import is what "ready" announces

    config = [LatexExtractionConfig()]

    def leaf(gold: str, answer: str) -> bool:
        sides: list[Any] = [parse(f"${side}$", config, parsing_timeout=None) for side in (gold, answer)]  # pyright: ignore[reportArgumentType]
        return all(sides) and verify(sides[0], sides[1], timeout_seconds=None)

    for sides in _WARM_UP:  # first comparisons load tables; that must not count against anyone's time
        leaf(*sides)
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        _limit_time(request["limit"])
        same = same_answer(request["gold"], request["answer"], leaf)
        _limit_time(0)
        print(json.dumps({"same": same}), file=replies, flush=True)


def _limit_time(seconds: float) -> None:
    """Let the system end this process after so many seconds of processor time; 0 takes the limit back."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not a POSIX system: the time limit has to do
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    bound = _MEMORY_BYTES if most == resource.RLIM_INFINITY else min(_MEMORY_BYTES, most)
    resource.setrlimit(resource.RLIMIT_AS, (bound, most))


if __name__ == "__main__":
    serve()
