"""The drawing of the import rules matches the rules' floors and rooms, and the pages on disk."""

import re
from xml.etree import ElementTree

import pytest

from scripts import house
from tests.test_house import FLOORS, ROOT

SVG = "{http://www.w3.org/2000/svg}"
AGAIN = "draw it again with `python -m scripts.house`"


@pytest.fixture(scope="module")
def drawing() -> ElementTree.Element:
    return ElementTree.fromstring(house.DRAWING.read_text("utf-8"))


def test_the_committed_drawing_is_current() -> None:
    assert list(house.mismatches()) == []
    assert house.DRAWING.read_text("utf-8") == house.drawn(), AGAIN


def test_rooms_stand_on_their_floors(drawing: ElementTree.Element) -> None:
    seen: dict[int, tuple[str, ...]] = {}
    for floor in drawing.iter(f"{SVG}g"):
        if "data-floor" in floor.attrib:
            seen[int(floor.attrib["data-floor"])] = tuple(room.attrib["data-room"] for room in floor if "data-room" in room.attrib)
    assert seen == dict(enumerate(FLOORS))


def test_higher_floors_are_drawn_higher_and_nothing_overlaps(drawing: ElementTree.Element) -> None:
    boxes = []
    for room in drawing.iter(f"{SVG}g"):
        if {"data-room", "data-pages", "data-beside"} & set(room.attrib):
            rect = room.find(f"{SVG}rect")
            assert rect is not None
            x, y, wide, tall = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
            boxes.append((x, y, x + wide, y + tall))
            low = max(float(line.attrib["y"]) for line in room.iter(f"{SVG}text"))
            assert low < y + tall, f"the words of {room.attrib} hang out of their room"
    for i, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[i + 1 :]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
    tops = [min(float(rect.attrib["y"]) for rect in floor.iter(f"{SVG}rect")) for floor in drawing.iter() if "data-floor" in floor.attrib]
    assert tops == sorted(tops) and len(set(tops)) == len(FLOORS)  # the highest floor comes first in the file


def test_pages_and_the_workbench_are_drawn(drawing: ElementTree.Element) -> None:
    (pages,) = [each.attrib["data-pages"].split() for each in drawing.iter() if "data-pages" in each.attrib]
    assert set(pages) == {path.stem for path in (ROOT / "pages").glob("*.py") if path.stem != "__init__"}
    beside = {each.attrib["data-beside"] for each in drawing.iter() if "data-beside" in each.attrib}
    rooms = {path.parent.name for path in (ROOT / "workbench").glob("*/*.py")}
    assert rooms == set(pages) | {"shared"}
    parts = {path.stem for path in (ROOT / "workbench").rglob("*.py")}
    assert "shared" in beside and beside - {"shared"} <= parts


def test_a_moved_room_changes_the_drawing() -> None:
    moved = house.house((("errors",), ("store", "basis")), ("home",))
    assert 'data-floor="1"' in moved and moved != house.drawn()
    assert house.floors("FLOORS = (('a',), ('b', 'c'))") == (("a",), ("b", "c"))


def test_the_table_of_floors_in_the_page_agrees() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| (ground|\d+) \| (.*?) \| [^|]* \|$", text, re.MULTILINE)
    told = {0 if level == "ground" else int(level): cell for level, cell in rows}
    for height, rooms in enumerate(FLOORS[:-1]):  # __main__ is one line over cli
        first = {name for name in re.findall(r"`([a-z_]+)`", told[height]) if any(name in level for level in FLOORS)}
        assert set(rooms) <= first, f"floor {height} of the table"
        assert first <= {room for level in FLOORS[: height + 1] for room in level}, f"floor {height} of the table names a higher room"
