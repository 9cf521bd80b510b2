"""A fault of the disk while a page reads: one line where the page's contents would be, and no traceback."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_run import make_fake_run
from streamlit.testing.v1 import AppTest

from stir_core.store.runs import Run

READ_NO_STAGE = ("calibration", "causal", "codebook", "evaluate", "harvest", "latents", "saved")
"""Pages that read nothing of this run's stages: it has no studies and no codebook."""
PAGES = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "pages").glob("*.py"))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
@pytest.mark.parametrize("stem", PAGES)
def test_a_file_that_cannot_be_read_is_one_line(
    open_page: Callable[..., AppTest], store: Path, monkeypatch: pytest.MonkeyPatch, stem: str, number: int
) -> None:
    make_fake_run(store)

    def broken(self: Run, stage: str, name: str) -> Path:
        raise OSError(number, os.strerror(number), str(self.path / stage / name))

    monkeypatch.setattr(Run, "file", broken)
    app = open_page(stem)
    assert not app.exception
    lines = [each.value for each in app.error]
    assert len(lines) == (stem not in READ_NO_STAGE), lines
    assert all("cannot be read or written" in line and "\n" not in line for line in lines)
