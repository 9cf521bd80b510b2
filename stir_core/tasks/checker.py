"""The parent's side of the checker process: start it, ask it with a time limit, stop it, start it again.

Exchanges JSON lines with :mod:`stir_core.tasks.grade_worker`. A thread reads the replies, so that waiting with a limit works on every
system and from every thread. One request at a time; requests from several threads queue.
"""

import atexit
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

from stir_core.errors import DataError

_COUNTS_PROCESSOR_TIME = hasattr(signal, "setitimer")
_WALL_FACTOR = 10
"""Wall-clock seconds that one second of processor time may take on a busy machine before the parent gives up."""
_START_LIMIT_S = 120.0
"""Importing SymPy takes about a second, on a busy machine far longer; it does not count towards a comparison."""


class Checker:
    """Compares two answers in a process of its own.

    Args:
        limit_s: seconds that one comparison may take before its process is stopped: of processor time, so that a busy machine gives the
            same verdicts; of wall-clock time where the system cannot count processor time.
    """

    def __init__(self, limit_s: float) -> None:
        if limit_s <= 0:
            raise DataError(f"grading limit {limit_s} s is not positive: give the seconds that one comparison may take, e.g. 1.5")
        self._limit_s = limit_s
        self._wait_s = limit_s * (_WALL_FACTOR if _COUNTS_PROCESSOR_TIME else 1)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._replies: queue.Queue[str | None] = queue.Queue()
        self._ready = False

    def close(self) -> None:
        """Stop the process, if there is one."""
        with self._lock:
            self._stop()
        atexit.unregister(self.close)

    def same(self, gold: str, answer: str) -> tuple[bool | None, str]:
        """Whether two expressions in normal form are equal.

        Returns:
            (equal, ""), or (``None``, why there is no result): the comparison took too long, or its process died.

        Raises:
            DataError: the process cannot be started.
        """
        with self._lock:
            process = self._start()
            self._await_ready()
            try:
                assert process.stdin is not None
                process.stdin.write(json.dumps({"gold": gold, "answer": answer, "limit": self._limit_s}) + "\n")
                process.stdin.flush()
                reply = self._replies.get(timeout=self._wait_s)
            except queue.Empty:
                stopped_at = self._wait_s
            except OSError:  # the process is gone; its exit status below says why
                stopped_at = None
            else:
                if reply is not None:
                    return json.loads(reply)["same"], ""
                by_timer = _COUNTS_PROCESSOR_TIME and process.wait() == -signal.SIGPROF
                stopped_at = self._limit_s if by_timer else None
            self._stop()
            self._start()  # warms up while the caller goes on
            return None, "comparison stopped: " + (
                "the checker process died" if stopped_at is None else f"it took more than {stopped_at:g} s"
            )

    def _start(self) -> "subprocess.Popen[str]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._stop()
        atexit.unregister(self.close)  # a restart must not register it twice
        root = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        command = [sys.executable, "-m", "stir_core.tasks.grade_worker"]
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"}
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, encoding="utf-8", env=environment)
        except OSError as error:
            raise DataError(f"the answer checker cannot be started with {command[0]!r}: {error}") from None
        atexit.register(self.close)
        self._process, self._replies, self._ready = process, queue.Queue(), False
        threading.Thread(target=_read, args=(process, self._replies), daemon=True, name="stir-grading").start()
        return process

    def _await_ready(self) -> None:
        if self._ready:
            return
        try:
            line = self._replies.get(timeout=_START_LIMIT_S)
        except queue.Empty:
            line = None
        if line is None:
            self._stop()
            raise DataError(
                "the answer checker does not start: `python -m stir_core.tasks.grade_worker` says why (is latex2sympy2_extended installed?)"
            )
        self._ready = True

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # a request that never left the buffer; the process is gone anyway
                    continue


def _read(process: "subprocess.Popen[str]", replies: "queue.Queue[str | None]") -> None:
    """Put every line into the queue, and ``None`` when the process has ended."""
    assert process.stdout is not None
    try:
        for line in process.stdout:
            replies.put(line)
    except ValueError:  # closed by the parent while reading
        pass
    replies.put(None)
