"""JSON lines survive a torn end, and refuse everything else."""

import pytest

from stir_core.errors import StoreError
from stir_core.records import Pick
from stir_core.store import jsonl
from stir_core.store.jsonl import KeyedRecords, append_records, read_appended, read_records, write_records

PICKS = [Pick(rank=i, entry_id=f"e{i}", forced=False, gain=0.5) for i in range(3)]


def test_round_trip(tmp_path):
    write_records(tmp_path / "a", PICKS)
    append_records(tmp_path / "a", PICKS[:1])
    assert read_records(tmp_path / "a", Pick) == [*PICKS, PICKS[0]]


def test_a_torn_line_is_left_out_of_what_was_appended_and_cut_before_appending(tmp_path):
    file = tmp_path / "a"
    write_records(file, PICKS)
    file.write_bytes(file.read_bytes()[:-5])
    assert read_appended(file, Pick) == PICKS[:2]
    with pytest.raises(StoreError, match="line 3 is not a Pick"):
        read_records(file, Pick)
    append_records(file, PICKS[2:])
    assert read_records(file, Pick) == PICKS


def test_records_by_key_are_those_of_the_file_and_few_are_held(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "KEPT", 2)
    names = ["a", 'quote " and \\\\ stroke', "ü\u2028x", "d"]
    picks = [Pick(rank=i, entry_id=name, forced=False, gain=None) for i, name in enumerate(names)]
    write_records(tmp_path / "a", picks)
    by_name, by_both = (KeyedRecords(tmp_path / "a", Pick, *fields) for fields in (["entry_id"], ["rank", "entry_id"]))
    for _ in range(2):
        assert [by_name[name] for name in names] == picks == list(by_both.values())
    assert list(by_both) == list(enumerate(names)) and "a" in by_name and "b" not in by_name and by_name.get("b") is None


def test_a_bad_record_is_named_when_it_is_asked_for(tmp_path):
    (tmp_path / "a").write_text(PICKS[0].model_dump_json() + '\n{"rank": "x", "entry_id": "bad"}\n', encoding="utf-8")
    records = KeyedRecords(tmp_path / "a", Pick, "entry_id")
    assert records["e0"] == PICKS[0]
    with pytest.raises(StoreError, match="line 2 is not a Pick"):
        records["bad"]
    (tmp_path / "a").write_text("{}\n", encoding="utf-8")
    with pytest.raises(StoreError, match="line 1 has no entry_id"):
        KeyedRecords(tmp_path / "a", Pick, "entry_id")
    with pytest.raises(StoreError, match="does not exist"):
        KeyedRecords(tmp_path / "none", Pick, "entry_id")


@pytest.mark.parametrize("line", ['{"rank": 1}', "not json", '{"rank": 1, "entry_id": "a", "forced": false, "gain": 1, "more": 2}'])
def test_a_bad_line_is_named(tmp_path, line):
    (tmp_path / "a").write_text(PICKS[0].model_dump_json() + "\n" + line + "\n")
    with pytest.raises(StoreError, match="line 2 is not a Pick"):
        read_appended(tmp_path / "a", Pick)


def test_a_missing_or_binary_file(tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        read_records(tmp_path / "none", Pick)
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StoreError, match="not UTF-8"):
        read_records(tmp_path / "b", Pick)


def test_a_line_torn_inside_a_character_is_left_out(tmp_path):
    file = tmp_path / "a"
    append_records(file, [*PICKS[:1], Pick(rank=9, entry_id="é", forced=False, gain=0.5)])
    data = file.read_bytes()
    file.write_bytes(data[: data.index("é".encode()) + 1])
    assert read_appended(file, Pick) == PICKS[:1]
