"""Run folders: one that cannot be written is refused in one line."""

from pathlib import Path

import pytest

from stir_core.config import RunConfig
from stir_core.errors import StoreError
from stir_core.store.runs import Run


def test_a_run_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match=r"cannot be written .*choose another --out"):
        Run.at(tmp_path / "file", RunConfig(), {}).save()
    assert (tmp_path / "file").read_text() == "mine"
