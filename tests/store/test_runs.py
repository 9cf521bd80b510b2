"""Run folders: one that cannot be written is refused in one line."""

from pathlib import Path

import pytest

from stir_core.config import RunConfig
from stir_core.errors import StoreError
from stir_core.store.runs import Run


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema_version": 3, "config": {}}', "has schema version 3, this program reads 1 and 2: update"),
        ("{}", "it has no 'config'"),
        ('{"config": {"gate": {"k_scale": "1"}}}', "config key gate.k_scale = '1'"),
    ],
)
def test_a_run_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(StoreError) as caught:
        Run.open(tmp_path)
    assert said in str(caught.value) and str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match=r"cannot be written .*choose another --out"):
        Run.at(tmp_path / "file", RunConfig(), {}).save()
    assert (tmp_path / "file").read_text() == "mine"
