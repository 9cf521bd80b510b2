"""How many threads a process of ours computes with: said once by its entry point, never by loading a model."""

import os
import sys


def settle_threads() -> None:
    """Half the cores for torch, unless the user says otherwise (``OMP_NUM_THREADS``, ``STIR_THREADS``).

    This is for a process that is ours (the command line, the workbench's server, a benchmark), and for those that it starts. A program
    that uses the library keeps the threads that it has. Best called before torch is imported.

    OpenMP threads wait for each other: on a two-core machine with other busy processes (load 4 to 5) two threads decoded 9 tokens/s
    and, a minute later, one decoded 67; idle, two gave 85 and one 75 (32 rows, float32, the embedded model).
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    asked = os.environ.get("STIR_THREADS", "")
    threads = int(asked) if asked.isdigit() and int(asked) > 0 else max(1, (os.cpu_count() or 2) // 2)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by torch when it is imported
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)
