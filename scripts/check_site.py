"""Checks the built documentation: pages load nothing from other hosts, and every file that they load exists.

    python -m scripts.check_site [SITE]      (``make docs`` does it after the build)

mkdocs itself checks links and anchors during the build (``validation`` in mkdocs.yml, warnings as errors), also those of README.md and
CONTRIBUTING.md, which are pages of the site. This script uses no network.
"""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

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
"""Text that remains in a page if a step of the build was skipped."""

CSS_URL = re.compile(r"""url\(\s*(['"]?)([^'")]+)\1\s*\)|@import\s+(['"])([^'"]+)\3""")


class Reader(HTMLParser):
    """The addresses that a browser fetches for one page, each with its line."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.loaded: list[tuple[int, str]] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take the addresses of one element."""
        named = {name: value or "" for name, value in attrs}
        self._inside = tag
        targets = css_targets(named.get("style", ""))
        for name, value in named.items():
            if (tag, name) in LOADS:
                targets += [part.split()[0] for part in value.split(",") if part.split()] if name == "srcset" else [value]
        if tag == "link" and LOADED_LINKS & set(named.get("rel", "").split()):
            targets.append(named.get("href", ""))
        self.loaded += [(self.getpos()[0], target) for target in targets]

    def handle_data(self, data: str) -> None:
        """Take the addresses of a style written into the page."""
        if self._inside == "style":
            self.loaded += [(self.getpos()[0], target) for target in css_targets(data)]

    def handle_endtag(self, tag: str) -> None:
        """An element has ended."""
        self._inside = ""


def css_targets(css: str) -> list[str]:
    """Addresses that a style sheet fetches."""
    return [match[2] or match[4] for match in CSS_URL.finditer(css)]


def problems(site: Path) -> Iterator[str]:
    """The problems of a built site, one line each, by file and line."""
    site = site.resolve()
    for page in sorted(site.rglob("*.html")):
        shown, text, reader = page.relative_to(site).as_posix(), page.read_text("utf-8"), Reader()
        reader.feed(text)
        reader.close()
        yield from (f"{shown}:{line} {why}" for line, target in reader.loaded if (why := wrong(target, page, site)))
        yield from (f"{shown} {what}" for mark, what in UNFINISHED.items() if mark in text)
    for sheet in sorted(site.rglob("*.css")):
        targets = css_targets(sheet.read_text("utf-8"))
        yield from (f"{sheet.relative_to(site).as_posix()} {why}" for target in targets if (why := wrong(target, sheet, site)))


def wrong(target: str, page: Path, site: Path) -> str | None:
    """The problem of an address that a page loads, or None."""
    parts = urlsplit(target)
    if parts.netloc or parts.scheme in ("http", "https", "ws", "wss", "ftp"):
        return f"asks {target} for something"
    if parts.scheme or not parts.path:  # data:, or a place in the page itself
        return None
    if page.name == "404.html" and parts.path.startswith("/"):  # shown for any address, so its own are absolute
        parts = parts._replace(path=parts.path.lstrip("/"))
    elif parts.path.startswith("/"):
        return f"{target} is absolute: it breaks where the site is not at the root"
    place = (page.parent / unquote(parts.path)).resolve()
    return None if place.is_relative_to(site) and place.is_file() else f"{target} is not there"


def main(argv: list[str]) -> int:
    """Check a site; exit code 1 if it has problems."""
    site = Path(argv[0] if argv else "site")
    pages = len(list(site.rglob("*.html")))
    if not pages:
        print(f"error: {site} holds no page: run make docs", file=sys.stderr)
        return 2
    found = list(problems(site))
    for line in found:
        print(line, file=sys.stderr)
    print(f"{pages} pages, {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
