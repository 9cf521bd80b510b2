"""Hooks for mkdocs: pages made from the code, pages from outside docs/, the navigation, and equations without a script.

mkdocs.yml names this file. Everything happens during the build, and the site loads nothing from other hosts. mkdocs and the library for
equations are imported when they are needed, so that the other functions can be tested without them.
"""

import html
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts import notebook_pages, reference

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig  # pyright: ignore[reportMissingImports]
    from mkdocs.structure.files import Files  # pyright: ignore[reportMissingImports]
    from mkdocs.structure.pages import Page  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).resolve().parents[1]

OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/RESULTS.md": "benchmarks/results.md",
    "benchmarks/serve.md": "benchmarks/serve.md",
    "notebooks/README.md": "notebooks/index.md",
}
"""Files of the repository -> pages of the site; those that are not there are left out."""

NAVIGATION: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Home", ("index.md",)),
    ("Tutorial", ("tutorial.md", "tour.md")),
    ("How-to", ("howto/index.md", "howto/*.md", "scale.md")),
    ("Notebooks", ("notebooks/index.md", "notebooks/*.md")),
    (
        "Explanation",
        ("explanation/index.md", "explanation/algorithm.md", "explanation/*.md", "evaluation.md", "calibration.md", "latent.md"),
    ),
    ("Results", ("results.md", "gallery.md", "usability.md", "protocol.md", "benchmarks/results.md", "benchmarks/*.md")),
    (
        "Reference",
        (
            "reference/index.md",
            "reference/api.md",
            "reference/cli.md",
            "reference/config.md",
            "reference/methods.md",
            "reference/formats.md",
            "reference/*.md",
            "deployment.md",
            "reliability.md",
            "glossary.md",
        ),
    ),
    ("Contributing", ("contributing.md", "architecture.md", "contributing/task.md", "contributing/*.md")),
    ("About", ("cite.md", "changelog.md", "*.md")),
)
"""Sections in order, each with its pages; a star takes all pages of a folder that are not placed yet, by name."""

TITLES = {"benchmarks/results.md": "The cost of the engine"}
"""Names in the navigation for pages whose own title says too little there."""

FENCE = re.compile(r"^\s*(```+|~~~+)")
LINK = re.compile(r"(!?)\[((?:[^\]\[]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
ROLE = re.compile(r":(?:func|class|meth|mod|data|attr|exc):(<code>)~?")
EQUATION = re.compile(r'<(span|div) class="arithmatex">(?:\\\((.*?)\\\)|\\\[(.*?)\\\])</\1>', re.DOTALL)
BAR = re.compile(r'<mo(?: stretchy="false")?>(?:\||&#x0007C;|&#x2223;)</mo>')
FUNCTION = re.compile(r"(</m(?:i|n|sub|sup|subsup|frac)>)(<mi>(?:log|exp|det|cos|max|min|mean)</mi>)")
DRAWING = re.compile(r'<img alt="([^"]*)" src="[^"]*?(drawings/[\w-]+\.svg)"\s*/?>')


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the generated pages and the pages from outside docs/, then make the navigation."""
    from mkdocs.structure.files import File  # pyright: ignore[reportMissingImports]

    for uri, make in reference.PAGES.items():
        files.append(File.generated(config, uri, content=make()))
    for source, uri in OUTSIDE.items():
        if (ROOT / source).exists() and files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, content=(ROOT / source).read_text("utf-8")))
    for notebook in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=notebook_pages.page_of(notebook)))
    pages = [file.src_uri for file in files.documentation_pages() if file.inclusion.is_included()]
    config.nav = navigation(pages)
    return files


def navigation(pages: list[str]) -> list[Any]:
    """The navigation in mkdocs' form, without empty sections."""
    placed: set[str] = set()
    found: list[Any] = []
    for title, patterns in NAVIGATION:
        members: list[str] = []
        for pattern in patterns:
            named = {name for _, others in NAVIGATION for name in others} - {pattern}
            fitting = sorted(page for page in pages if fits(page, pattern) and ("*" not in pattern or page not in named))
            members += [page for page in fitting if page not in placed]
            placed.update(fitting)
        if members:
            named_members = [{TITLES[page]: page} if page in TITLES else page for page in members]
            found.append({title: named_members[0] if len(members) == 1 else named_members})
    return found


def fits(page: str, pattern: str) -> bool:
    """True when a page is the named one, or lies directly in the folder of a pattern with a star."""
    return page == pattern or ("*" in pattern and posixpath.dirname(page) == posixpath.dirname(pattern))


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Change links that are relative to the repository into links of the site."""
    uri = page.file.src_uri
    if uri == "index.md":  # a section of one page needs no list of its pages
        page.meta["hide"] = ["navigation"]
    return with_links(reference.with_records(markdown), source_of(uri), uri)


def with_links(markdown: str, source: str, uri: str) -> str:
    """The Markdown of a repository file with the links of the page ``uri``; code is unchanged."""
    return "\n".join(outside_fences(markdown.split("\n"), lambda line: LINK.sub(lambda link: resolved(link, source, uri), line)))


def source_of(uri: str) -> str:
    """The repository file of a page, to which its relative links refer."""
    if (ROOT / "docs" / uri).exists():
        return f"docs/{uri}"
    notebook = Path(uri).with_suffix(".ipynb").as_posix()
    return next((name for name, target in OUTSIDE.items() if target == uri), notebook if (ROOT / notebook).exists() else f"docs/{uri}")


def outside_fences(lines: list[str], change: Any) -> list[str]:
    """Lines of Markdown, changed outside of fenced code."""
    fence, found = "", []
    for line in lines:
        mark = FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            fence = ""
        found.append(line if fence or mark else change(line))
    return found


def resolved(link: re.Match[str], source: str, uri: str) -> str:
    """One link of a repository file as a link of its page; a link to a file that is not a page becomes plain text."""
    picture, text, target = link.groups()
    place, hash_, anchor = target.partition("#")
    if not place or re.match(r"[a-z]+:", place):
        return link[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), place))
    made = OUTSIDE.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
    if path.startswith("notebooks/") and path.endswith((".py", ".ipynb")) and path != source:
        made = str(Path(path).with_suffix(".md").as_posix())
    if made is None:
        return text if not picture and (ROOT / path).exists() else link[0]
    return f"{picture}[{text}]({posixpath.relpath(made, posixpath.dirname(uri) or '.')}{hash_}{anchor})"


def on_page_content(content: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Write equations as MathML, drawings inline (so that they follow the page's colours), and names in docstrings without roles."""
    content = EQUATION.sub(lambda found: equation(html.unescape(found[2] or found[3]), block=found[1] == "div"), content)
    content = DRAWING.sub(lambda found: drawing(found[1], ROOT / "docs" / "img" / found[2]), content)
    return ROLE.sub(r"\1", content)


def on_post_build(config: "MkDocsConfig") -> None:
    """Write the search index as a script too, for pages that are opened from a folder."""
    index = Path(config.site_dir) / "search" / "search_index.json"
    index.with_suffix(".js").write_text(f"var __index = {index.read_text('utf-8')}", encoding="utf-8")


def equation(latex: str, *, block: bool) -> str:
    """One equation as MathML, with the usual space around bars and function names."""
    from latex2mathml.converter import convert  # pyright: ignore[reportMissingImports]

    found = convert(latex.strip(), display="block" if block else "inline")
    found = BAR.sub('<mo stretchy="false" lspace="0" rspace="0">|</mo>', found)
    return FUNCTION.sub(r'\1<mspace width="0.17em"/>\2', found)


def drawing(alt: str, path: Path) -> str:
    """The elements of a drawing, with its title for screen readers."""
    svg = re.sub(r"^<\?xml.*?\?>\s*", "", path.read_text("utf-8"))
    return svg.replace("<svg ", f'<svg role="img" aria-label="{alt}" ', 1)
