"""The committed drawing of Stage III equals the output of its script, and its page shows it."""

from xml.etree import ElementTree

from scripts.algorithm_figure import DRAWING, drawn


def test_the_committed_drawing_is_current() -> None:
    assert DRAWING.read_text("utf-8") == drawn(), "draw it again with `python -m scripts.algorithm_figure`"
    assert ElementTree.fromstring(drawn()).get("viewBox")
    page = DRAWING.parents[2] / "explanation" / "algorithm.md"
    assert "(../img/drawings/algorithm.svg)" in page.read_text("utf-8")
