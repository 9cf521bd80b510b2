"""The cost of believing a file only after a check: ``python -m benchmarks.hashing [--json]``.

A synthetic run of 10,000 rollouts and 40,000 entries of width 576 (with ``--quick`` 400 and 1,600) is verified, read whole, and opened on
two pages, each with and without the SHA-256 of its files, in turn. Every time is a first one: what was hashed or read before is forgotten,
but the files are in the operating system's cache, so that a slow disk, which would be read anyway, does not hide the hashing.
"""

import functools
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import interleaved, machine, measured, ratio

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("harvest", "actions")


@contextmanager
def unchecked() -> Iterator[None]:
    """Read files without their SHA-256."""
    from stir_core.store import runs, seals

    checks = runs.check_file, seals.check_file
    runs.check_file = seals.check_file = lambda path, digest, remedy: path
    try:
        yield
    finally:
        runs.check_file, seals.check_file = checks


def measure(*, quick: bool) -> dict[str, Any]:
    """Measure everything and return the figures by name."""
    sys.path[:0] = [str(ROOT / "tests" / "workbench")]
    from big_run import make_big_run  # pyright: ignore[reportMissingImports]

    from stir_core.store.files import file_sha256
    from stir_core.store.runs import Run
    from stir_core.store.verify import verify_run

    rounds = 1 if quick else 3
    with tempfile.TemporaryDirectory() as folder:
        made = make_big_run(Path(folder) / "runs", n=1600 if quick else 40_000)
        files = [file for file in made.path.rglob("*") if file.is_file()]

        def read() -> None:
            run = Run.open(made.path)
            _ = run.problems(), run.rollouts(), run.states(), run.entries(), run.key_rows(), run.action_rows(), run.picks()
            _ = run.controls(), run.lenses(), run.map_coordinates(), run.traces("vanilla"), run.traces("steered")

        times = interleaved(_both("read", read) | {"verify": lambda: verify_run(Run.open(made.path))}, rounds)
        times |= interleaved({"hash": lambda: [file_sha256(file) for file in files]}, rounds)
        figures = {
            "hashing.files_mb": sum(file.stat().st_size for file in files) / 1e6,
            "hashing.rollouts": len(made.rollouts()),
            "hashing.hash_all_s": _median(times["hash"]),
            "hashing.verify_s": _median(times["verify"]),
            "hashing.hash_all_over_verify": ratio(times, "hash", "verify"),
            "hashing.read_all_s": _median(times["read checked"]),
            "hashing.read_all_checked_over_unchecked": ratio(times, "read checked", "read unchecked"),
        }
        for page in PAGES:
            open_ = functools.partial(_open, page, made.path)
            times = interleaved(_both(page, open_), rounds)
            figures |= {
                f"hashing.{page}_page_s": _median(times[f"{page} checked"]),
                f"hashing.{page}_page_checked_over_unchecked": ratio(times, f"{page} checked", f"{page} unchecked"),
            }
        found = verify_run(Run.open(made.path))[1]
    return {"machine": machine(), "figures": figures, "equal": not found}


def _both(name: str, work: Callable[[], Any]) -> dict[str, Callable[[], Any]]:
    """The work as a first one, with its checks and without."""

    def first() -> float:
        from stir_core.store import seals

        seals._sha256.cache_clear()
        return work()

    def without() -> None:
        with unchecked():
            first()

    return {f"{name} checked": first, f"{name} unchecked": without}


def _median(times: list[float]) -> dict[str, float]:
    return {"median": sorted(times)[len(times) // 2], "min": min(times), "max": max(times)}


def _open(page: str, run: Path) -> None:
    """Open a page on a run in a new session, without what earlier sessions have read."""
    import os

    import streamlit as st
    from streamlit import config
    from streamlit.testing.v1 import AppTest

    os.environ["STIR_RUNS"] = str(run.parent)
    config.set_option("server.address", "127.0.0.1")
    st.cache_data.clear()
    st.cache_resource.clear()
    app = AppTest.from_file(str(ROOT / "workbench" / "app.py"), default_timeout=600)
    app.query_params["run"] = run.name
    app.switch_page(f"../pages/{page}.py")
    app.run()
    if app.exception or app.error:
        raise RuntimeError(f"page {page}: {[each.value for each in (*app.exception, *app.error)]}")


def main(argv: list[str] | None = None) -> int:
    """Measure and print; exit code 1 if the run is not what was written."""
    return measured("hashing", __doc__, measure, argv, model=False)


if __name__ == "__main__":
    sys.exit(main())
