"""Looks at the built documentation: nothing is asked for from elsewhere, and every link of our own leads somewhere.

    python -m scripts.check_site [SITE]      (``make docs`` does it after the build)

A page's scripts, styles, fonts and pictures must lie in the site; every link inside it must name a file that is there and an anchor that
this file has. The relative links of README.md and CONTRIBUTING.md are followed in the repository. Links to other sites are not
followed: nothing here uses a network.
"""

import re
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]

LOADS = {
    ("script", "src"),
    ("img", "src"),
    ("img", "srcset"),
    ("source", "src"),
    ("source", "srcset"),
    ("iframe", "src"),
    ("embed", "src"),
    ("object", "data"),
    ("video", "src"),
    ("video", "poster"),
    ("audio", "src"),
    ("track", "src"),
    ("image", "href"),
    ("use", "href"),
    ("use", "xlink:href"),
    ("image", "xlink:href"),
}
"""(element, attribute) that a browser fetches by itself."""

LOADED_LINKS = {"stylesheet", "icon", "preload", "prefetch", "modulepreload", "preconnect", "dns-prefetch", "manifest", "shortcut"}
"""Values of ``<link rel>`` that make it ask for something; canonical, next and the like do not."""

UNFINISHED = {'class="arithmatex"': "holds an equation that was not set", "<!-- record:": "asks for a record that was not filled in"}
"""What the build leaves behind when one of its steps did not happen."""

CSS_URL = re.compile(r"""url\(\s*(['"]?)([^'")]+)\1\s*\)|@import\s+(['"])([^'"]+)\3""")
MARKDOWN_LINK = re.compile(r"\]\(([^()\s]+)\)")


class Reference(NamedTuple):
    """One address that a page names."""

    line: int
    target: str
    loaded: bool
    """Fetched when the page is shown, rather than when somebody follows it."""


class Reader(HTMLParser):
    """What one page names and which places of it can be named."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.references: list[Reference] = []
        self.anchors: set[str] = set()
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take the addresses and names of one element."""
        found = {name: value or "" for name, value in attrs}
        self._inside = tag
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        line = self.getpos()[0]
        for name, value in found.items():
            if (tag, name) in LOADS:
                parts = [part.split()[0] for part in value.split(",") if part.split()] if name == "srcset" else [value]
                self.references += [Reference(line, part, loaded=True) for part in parts]
        if tag == "link" and LOADED_LINKS & set(found.get("rel", "").split()):
            self.references.append(Reference(line, found.get("href", ""), loaded=True))
        if tag in ("a", "area") and "href" in found:
            self.references.append(Reference(line, found["href"], loaded=False))
        self.references += [Reference(line, target, loaded=True) for target in css_targets(found.get("style", ""))]

    def handle_data(self, data: str) -> None:
        """Take the addresses of a style written into the page."""
        if self._inside == "style":
            self.references += [Reference(self.getpos()[0], target, loaded=True) for target in css_targets(data)]

    def handle_endtag(self, tag: str) -> None:
        """An element has ended."""
        self._inside = ""


def css_targets(css: str) -> list[str]:
    """Addresses that a style sheet fetches."""
    return [found[2] or found[4] for found in CSS_URL.finditer(css)]


def is_elsewhere(target: str) -> bool:
    """True for an address on another machine; data and addresses inside the page are none."""
    parts = urlsplit(target)
    return bool(parts.netloc) or parts.scheme in ("http", "https", "ws", "wss", "ftp")


def problems(site: Path) -> Iterator[str]:
    """What is wrong with a built site, one line each, by file and line."""
    site = site.resolve()
    for page in sorted(site.rglob("*.html")):
        shown = page.relative_to(site).as_posix()
        for reference in read(page).references:
            why = wrong(reference, page, site)
            if why:
                yield f"{shown}:{reference.line} {why}"
        yield from (f"{shown} {what}" for mark, what in UNFINISHED.items() if mark in page.read_text("utf-8"))
    for sheet in sorted(site.rglob("*.css")):
        for target in css_targets(sheet.read_text("utf-8")):
            why = wrong(Reference(0, target, loaded=True), sheet, site)
            if why:
                yield f"{sheet.relative_to(site).as_posix()} {why}"


@cache
def read(page: Path) -> Reader:
    """One page, read once."""
    reader = Reader()
    reader.feed(page.read_text("utf-8"))
    reader.close()
    return reader


def wrong(reference: Reference, page: Path, site: Path) -> str | None:
    """What is wrong with one address, or None."""
    target = reference.target
    parts = urlsplit(target)
    if is_elsewhere(target):
        return f"asks {target} for something" if reference.loaded else None
    if parts.scheme:  # data:, mailto:
        return None
    if page.name == "404.html" and parts.path.startswith("/"):  # shown for any address, so its own are absolute
        parts = parts._replace(path=parts.path.lstrip("/"))
    elif parts.path.startswith("/"):
        return f"{target} is absolute: it breaks where the site is not at the root"
    place = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    place = place / "index.html" if place.is_dir() else place
    if not place.is_relative_to(site) or not place.is_file():
        return f"{target} is not there"
    if parts.fragment and place.suffix == ".html" and unquote(parts.fragment) not in read(place).anchors | {"__top"}:
        return f"{target} has no such place"
    return None


def repository_problems(names: tuple[str, ...] = ("README.md", "CONTRIBUTING.md")) -> Iterator[str]:
    """Relative links of files that are read in the repository itself, and that lead nowhere."""
    for name in names:
        path = ROOT / name
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        fenced = False
        for number, line in enumerate(lines, start=1):
            fenced ^= line.lstrip().startswith("```")
            for target in () if fenced else MARKDOWN_LINK.findall(line):
                place, _, anchor = target.partition("#")
                if is_elsewhere(target) or urlsplit(target).scheme:
                    continue
                file = (path.parent / place) if place else path
                if not file.exists():
                    yield f"{name}:{number} {target} is not there"
                elif anchor and file.suffix == ".md" and anchor not in headings(file.read_text("utf-8")):
                    yield f"{name}:{number} {target} has no such heading"


def headings(markdown: str) -> set[str]:
    """Anchors of a Markdown file's headings, as code hosts make them."""
    titles = re.findall(r"^#+\s+(.*?)\s*$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-") for title in titles}


def main(argv: list[str]) -> int:
    """Check a site; 1 when something is wrong with it."""
    site = Path(argv[0] if argv else "site")
    pages = len(list(site.rglob("*.html")))
    if not pages:
        print(f"error: {site} holds no page: run make docs", file=sys.stderr)
        return 2
    found = [*problems(site), *repository_problems()]
    for line in found:
        print(line, file=sys.stderr)
    print(f"{pages} pages, {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
