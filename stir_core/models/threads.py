"""Set the number of threads that a process computes with: once, by its entry point, never by loading a model."""

import os
import re
import sys


def settle_threads() -> None:
    """Give torch half the cores, unless ``OMP_NUM_THREADS`` or ``STIR_THREADS`` sets a number.

    For our own processes (the command line, the workbench's server, a benchmark) and those that they start; a program that uses the library
    keeps its threads. Best called before torch is imported.

    Half, because OpenMP threads wait for each other: on a two-core machine with other busy processes (load 4 to 5) two threads decoded 9
    tokens/s and one 67; on the idle machine two decoded 85 and one 75 (32 rows, float32, the embedded model).
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    asked = os.environ.get("STIR_THREADS", "")
    threads = int(asked) if re.fullmatch("[1-9][0-9]{0,4}", asked) else max(1, (os.cpu_count() or 2) // 2)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by torch when it is imported
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)
