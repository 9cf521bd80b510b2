"""The committed drawing of the ladder is what its script draws of the calibration's results, and follows them."""

import copy
import json
from xml.etree import ElementTree

from scripts.ladder_figure import ARMS, DRAWING, RUNGS, SOURCE, drawn

RESULTS = json.loads(SOURCE.read_text(encoding="utf-8"))["rungs"]


def test_the_committed_drawing_is_current() -> None:
    assert DRAWING.read_text("utf-8") == drawn(RESULTS), "draw it again with `python -m scripts.ladder_figure`"
    assert "docs/img/drawings/ladder.svg" in (DRAWING.parents[3] / "README.md").read_text("utf-8")


def test_every_arm_is_drawn_at_its_accuracy() -> None:
    marks = [float(mark.get("cx", "")) for mark in ElementTree.fromstring(drawn(RESULTS)).iter("{http://www.w3.org/2000/svg}circle")]
    assert len(marks) == len(RUNGS) * len(ARMS)
    changed = copy.deepcopy(RESULTS)
    changed["null"]["stir"]["right"] = changed["null"]["vanilla"]["right"]
    vanilla, stir = (2 * len(ARMS) + list(ARMS).index(arm) for arm in ("vanilla", "stir"))
    again = [float(mark.get("cx", "")) for mark in ElementTree.fromstring(drawn(changed)).iter("{http://www.w3.org/2000/svg}circle")]
    assert marks[stir] < marks[vanilla] == again[vanilla] == again[stir]
