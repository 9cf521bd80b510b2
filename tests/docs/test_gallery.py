"""The gallery's page and its list of figures follow from the runs; a figure is small, whole, and asks for nothing."""

import re
from xml.etree import ElementTree

from scripts.gallery import PAGE, PAGES, PICTURES, RUNS, page, shown


def test_the_committed_gallery_is_current() -> None:
    figures = {run: shown(run) for run in RUNS}
    assert PAGE.read_text("utf-8") == page(figures), "draw it again with `python -m scripts.gallery`"
    files = sorted(PICTURES.iterdir())
    assert [file.name for file in files] == sorted(f"{run}-{figure.name}.svg" for run, own in figures.items() for figure in own)
    texts = [file.read_text("utf-8") for file in files]
    assert all(ElementTree.fromstring(text).tag.endswith("svg") for text in texts) and sum(map(len, texts)) < 2_000_000
    pictures = [PICTURES.parent / f"{stem}.png" for stem in PAGES]
    assert sum(file.stat().st_size for file in (*files, *pictures)) < 2_000_000
    assert sorted(PICTURES.parent.glob("*.png")) == sorted(pictures), "a picture that no page shows grows old unseen"
    assert [text for text in texts if re.search(r"(href|url)\W+http|<script|@import", text)] == []
