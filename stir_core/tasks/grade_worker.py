"""The process that compares expressions: ``python -m stir_core.tasks.grade_worker``, JSON lines in and out.

A separate process can be stopped: SymPy may never end a comparison, and SIGALRM only works in a main thread. Requests are
``{"gold", "answer", "limit"}`` in normal form, replies ``{"same": bool}``; the first line is ``{"ready": true}`` once SymPy is imported.
The process limits its own memory and, where the system has interval timers, its own processor time, so that verdicts do not depend on how
busy the machine is, and it ends when its parent is killed.
"""

import json
import logging
import signal
import sys

from stir_core.tasks.structure import same_answer

_MEMORY_BYTES = 4 << 30
_WARM_UP = (("x^2-1", "(x-1)(x+1)"), ("x^3+3x", "\\frac{x}{y}"), ("y=\\sqrt{2}", "y=\\sin(x)"))


def serve() -> None:
    """Answer requests from standard input until it closes."""
    replies, sys.stdout = sys.stdout, sys.stderr  # so that a library's prints are not taken for replies
    logging.disable(logging.CRITICAL)
    _limit_memory()
    from stir_core.tasks.algebra import same_expression  # here: "ready" is sent once this import is done

    for sides in _WARM_UP:  # the first comparisons load tables, which must not count towards a request's time
        same_expression(*sides)
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        _limit_time(request["limit"])
        same = same_answer(request["gold"], request["answer"], same_expression)
        _limit_time(0)
        print(json.dumps({"same": same}), file=replies, flush=True)


def _limit_time(seconds: float) -> None:
    """Let the system end this process after so many seconds of processor time; 0 removes the limit."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not a POSIX system: there is only the time limit
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    bound = _MEMORY_BYTES if most == resource.RLIM_INFINITY else min(_MEMORY_BYTES, most)
    resource.setrlimit(resource.RLIMIT_AS, (bound, most))


if __name__ == "__main__":
    serve()
