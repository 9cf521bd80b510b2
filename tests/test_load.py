"""The load benchmark fails where an answer, a row, a connection or memory is not as it should be."""

import pytest

from benchmarks.load import Load

FINE = Load(seconds=120.0, read=900, left=900, wrong=0, errors=[], before=500, most=510, after=505, rows=0, connections=0, busy=0.01)


def test_a_load_that_leaves_nothing_behind_passes() -> None:
    assert FINE.failures == []


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        ({"wrong": 1}, "1 answers are not what their prompt gets alone"),
        ({"errors": ["ReadError()"]}, "1 errors, the first one"),
        ({"after": 526}, "memory went from 500 to 526 bytes"),
        ({"rows": 1}, "1 rows and 0 connections are left over"),
        ({"connections": 2}, "0 rows and 2 connections are left over"),
        ({"busy": 0.9}, "the decode loop is busy"),
        ({"read": 0}, "no answer was read"),
        ({"left": 0}, "nobody left"),
    ],
)
def test_each_other_one_is_named(seen: dict, word: str) -> None:
    (line,) = FINE._replace(**seen).failures
    assert word in line
